//! The server of picket: agent streams, command routing, configuration, and the operator's rpcs.
//!
//! Rooms, in the order in which data meets them: `net` lets connections in; `rpc` reads requests; `ingest` holds the agent streams;
//! `registry` remembers agents; `command` routes commands; `config` keeps layers and pushes them;
//! `query` reads metrics back. The rules of streams, ids and commands are sans-IO and take the time as a
//! parameter. Storage is behind [`bus::Bus`] and [`bus::DocumentStore`].
#![forbid(unsafe_code)]

pub mod cli;
pub mod refusal;
pub mod serve;
pub mod service;
pub mod signals;

#[cfg(feature = "simulation")]
#[doc(hidden)]
pub mod simulated;

mod net;
mod rpc;

mod command;
mod config;
mod ingest;
mod query;
mod registry;

mod budget;
mod clock;
mod counters;
mod damage;
mod feed;
mod ids;
mod levels;
mod limits;
mod rejection;
mod shared;
mod shutdown;
mod storage;
mod troubles;
