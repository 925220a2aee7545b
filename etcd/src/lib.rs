//! The configuration documents of picket in etcd.
//!
//! One key holds one document: `/monitor/config/AGENT-ID`, and `/monitor/config/_default` below all of them
//! ([`Key`]). [`Watch`] tells of every change, from whomever, and survives what etcd and the way to it do: absence at
//! the start, restarts, compaction, silence, lost and repeated and reordered events, members that lag behind, denied
//! credentials. [`Store`] reads and writes. Neither knows what a document says.
//!
//! An agent watches its own two keys, a server the whole folder; it is one implementation.
#![forbid(unsafe_code)]
#![warn(missing_docs)]

mod connection;
mod document;
mod failure;
mod key;
mod options;
mod rules;
mod store;
mod watch;

pub use document::{Revision, TEXT_BYTES_MAX, TextError};
pub use failure::Failure;
pub use key::{FOLDER, Key};
pub use options::{Credentials, Endpoints, EndpointsError, Options, Timing};
pub use rules::Event;
pub use store::{Store, StoreError, Version};
pub use watch::{Selection, Watch};
