//! Configuration of agents: layers, their validation, and who must hear of a change.
//!
//! Two layers count for an agent: `_default`, and its own above it. Both are documents of a
//! [`bus::DocumentStore`], which counts changes, so that the newest revision among the layers, deletions
//! included, names what they make together and only rises.
//!
//! Others may change the documents too, where the store is etcd. `follow` hears of it, `table` decides what holds, and
//! `push` tells the agents that are here.

mod follow;
mod layers;
mod push;
mod store;
mod table;

pub(crate) use layers::{Effective, Layer, LayerKey};
pub(crate) use push::{announce, report_elsewhere, report_of};
pub(crate) use store::{ConfigError, ConfigStore, Sight};
pub(crate) use table::Problem;
