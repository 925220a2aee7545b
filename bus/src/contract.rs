//! The contract that every bus keeps.

use std::collections::BTreeSet;
use std::fmt;

use agent_core::id::AgentId;
use async_trait::async_trait;

use crate::record::{Payload, Record};
use crate::topic::Topic;

/// The place of a record within a topic. Offsets rise; they need not be consecutive.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Offset(pub u64);

impl Offset {
    /// The one after this.
    #[must_use]
    pub const fn next(self) -> Self {
        Self(self.0.saturating_add(1))
    }
}

impl fmt::Display for Offset {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

/// A record as it stands on the bus.
#[derive(Clone, Debug, PartialEq)]
pub struct Entry {
    /// Where it stands in its topic.
    pub offset: Offset,
    /// When the bus took it: Unix milliseconds, never falling within a topic, even when the clock steps back.
    pub stored_ms: i64,
    /// Whom it concerns.
    pub key: AgentId,
    /// What it says.
    pub payload: Payload,
}

/// Where a subscription begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Start {
    /// At this offset, or at the oldest one kept if that is newer (then a [`Delivery::Skipped`] comes first).
    Offset(Offset),
    /// At the first record whose `stored_ms` is at least this (Unix milliseconds).
    Time(i64),
    /// So many matching records before the end; fewer if there are fewer.
    Last(u64),
    /// After the newest record: only what is published from now on.
    Tail,
}

/// Which records of a topic a subscription delivers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Selection {
    /// All of them.
    #[default]
    All,
    /// Those with one of these keys.
    Keys(BTreeSet<AgentId>),
}

impl Selection {
    /// Whether it takes `key`.
    pub fn contains(&self, key: &AgentId) -> bool {
        match self {
            Self::All => true,
            Self::Keys(keys) => keys.contains(key),
        }
    }
}

/// What a subscription yields.
#[derive(Clone, Debug, PartialEq)]
pub enum Delivery {
    /// At least one record, in rising offset order, each above all delivered before.
    Entries(Vec<Entry>),
    /// Every record that was durable when the subscription was made has been delivered. Comes exactly once,
    /// also when there was none.
    CaughtUp,
    /// Retention removed records before this reader came to them, or damage made them unreadable. Never silent.
    /// Also a reader that selects keys is told of offsets of other keys.
    Skipped {
        /// First offset that is gone.
        first: Offset,
        /// Last offset that is gone.
        last: Offset,
    },
}

/// The extent of a topic.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Watermarks {
    /// The oldest offset kept; equal to `next` when the topic is empty.
    pub first: Offset,
    /// The offset that the next record will get, or more.
    pub next: Offset,
    /// Bytes of the records kept, approximate; less on disk where the bus compresses.
    pub bytes: u64,
}

/// Why a publish failed. In every case none, some or all of the records may be stored; the caller publishes
/// again, and readers drop the repeats.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PublishError {
    /// The bus cannot store now; trying again later makes sense.
    #[error("the bus cannot store now")]
    Unavailable(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// A record is larger than the bus can take; trying again does not help.
    #[error("record for {key} has {bytes} bytes, at most {max} fit")]
    TooLarge {
        /// Whose record.
        key: AgentId,
        /// Its encoded size.
        bytes: usize,
        /// The limit.
        max: usize,
    },
    /// The bus was closed.
    #[error("the bus is closed")]
    Closed,
}

/// Why a read failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BusError {
    /// The storage or broker failed; calling again, or a new subscription, may work.
    #[error("the bus cannot be read now")]
    Unavailable(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// The bus was closed.
    #[error("the bus is closed")]
    Closed,
}

/// A durable, ordered, multi-topic log of typed records.
///
/// What every implementation promises, and the contract suite in `tests/it/contract.rs` checks:
///
/// - **Durable.** When `publish` answers `Ok`, the records survive a kill of the process and a loss of power.
/// - **Ordered per key.** Records with one key, published by one caller one after the other, are delivered in
///   that order. Within one `publish` the order is that of the vector.
/// - **Visible after durable.** A subscription never delivers a record that could still be lost.
/// - **At least once.** A record is delivered to each subscription that covers it, unless retention removed it
///   first; then the subscription says which offsets are gone.
/// - **Bounded.** A bus keeps a bounded number of unpublished records in memory; `publish` waits while that
///   bound is reached. A slow subscription never holds back publishers or other readers.
/// - **Closed means closed.** After `close`, publishes and subscriptions answer `Closed`.
#[async_trait]
pub trait Bus: fmt::Debug + Send + Sync + 'static {
    /// Appends `records`, each to the topic of its payload. Returns when all of them are durable.
    ///
    /// Safe to cancel: the records may or may not be stored then.
    async fn publish(&self, records: Vec<Record>) -> Result<(), PublishError>;

    /// Opens a reader on `topic`.
    async fn subscribe(
        &self,
        topic: Topic,
        start: Start,
        selection: Selection,
    ) -> Result<Box<dyn Subscription>, BusError>;

    /// The extent of `topic`.
    async fn watermarks(&self, topic: Topic) -> Result<Watermarks, BusError>;

    /// Makes what was accepted durable and lets go of the storage. Idempotent.
    async fn close(&self) -> Result<(), BusError>;
}

/// A cursor over one topic. Dropping it frees all it holds.
#[async_trait]
pub trait Subscription: Send {
    /// The next delivery; waits at the end of the topic until something is published. Safe to cancel: nothing
    /// is skipped.
    async fn next(&mut self) -> Result<Delivery, BusError>;
}
