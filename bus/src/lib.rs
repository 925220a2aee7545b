//! The bus: where servers put what agents say, and where everyone reads it.
//!
//! This crate knows topics, keys, offsets and record forms. It does not know gRPC, sessions or what a record
//! means for an agent. [`Bus`] is the contract; [`embedded`] keeps it on one machine with nothing to install,
//! `kafka` (a cargo feature) on an Apache Kafka that several servers share.
//! [`audit`] checks what is on it against the books of the agents.
//! [`DocumentStore`] is the contract for documents; [`embedded`] keeps them too, and `etcd` (a feature) for many servers.
#![forbid(unsafe_code)]
#![warn(missing_docs)]

pub mod audit;
mod contract;
mod documents;
pub mod embedded;
#[cfg(feature = "etcd")]
pub mod etcd;
pub mod json;
#[cfg(feature = "kafka")]
pub mod kafka;
pub mod query;
mod record;
mod topic;

pub use contract::{
    Bus, BusError, Cursor, Damage, Delivery, Entry, LostRecords, Offset, Partition, PublishError,
    Rejected, Selection, Start, Subscription, Watermarks,
};
pub use documents::{
    Document, DocumentError, DocumentEvent, DocumentStore, DocumentWatch, Revision,
};
pub use record::{Payload, Record};
pub use topic::Topic;
