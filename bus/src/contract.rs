//! The contract that every bus keeps.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use agent_core::id::AgentId;
use async_trait::async_trait;
use proto::Boot;

use crate::record::{Payload, Record};
use crate::topic::Topic;

/// A part of a topic with an order of its own. All records with one key are in one partition, as long as the
/// number of partitions is not changed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Partition(pub u32);

impl fmt::Display for Partition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

/// The place of a record within its partition. Offsets rise; they need not be consecutive.
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
    /// Which part of its topic it is in.
    pub partition: Partition,
    /// Where it stands there.
    pub offset: Offset,
    /// When the bus took it: Unix milliseconds. The embedded bus never lets it fall, even when the clock steps
    /// back; a broker says what its clock says.
    pub stored_ms: i64,
    /// Whom it concerns.
    pub key: AgentId,
    /// What it says.
    pub payload: Payload,
}

/// How far a reader has come in each partition of a topic.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Cursor(BTreeMap<Partition, Offset>);

impl Cursor {
    /// The next offset to read in `partition`; none when nothing of it was read.
    pub fn next_in(&self, partition: Partition) -> Option<Offset> {
        self.0.get(&partition).copied()
    }

    /// Everything before `next` in `partition` has been read.
    pub fn set(&mut self, partition: Partition, next: Offset) {
        self.0.insert(partition, next);
    }

    /// `entry` has been read, and so everything before it in its partition.
    pub fn advance(&mut self, entry: &Entry) {
        self.set(entry.partition, entry.offset.next());
    }

    /// The next offset to read, by partition.
    pub fn iter(&self) -> impl Iterator<Item = (Partition, Offset)> + '_ {
        self.0.iter().map(|(partition, next)| (*partition, *next))
    }
}

impl FromIterator<(Partition, Offset)> for Cursor {
    fn from_iter<I: IntoIterator<Item = (Partition, Offset)>>(positions: I) -> Self {
        Self(positions.into_iter().collect())
    }
}

/// Where a subscription begins.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Start {
    /// At the oldest record kept.
    Oldest,
    /// Where an earlier one has ended. In a partition whose offset is no longer kept it begins at the oldest one
    /// that is, and a [`Delivery::Skipped`] comes first; so it does in a partition that the cursor does not know.
    At(Cursor),
    /// At the first record whose `stored_ms` is at least this (Unix milliseconds).
    Time(i64),
    /// So many matching records before the end, the newest by `stored_ms` when there are several partitions; fewer
    /// if there are fewer.
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
    /// At least one record. Within a partition in rising offset order, each above all delivered before (but see
    /// [`Skipped`](Self::Skipped) for a partition that was cut off).
    ///
    /// Across partitions: until [`CaughtUp`](Self::CaughtUp) in rising `stored_ms`, as far as it rises within each
    /// partition; after it, as they come.
    Entries(Vec<Entry>),
    /// Every record that was durable when the subscription was made has been delivered. Comes exactly once,
    /// also when there was none.
    CaughtUp,
    /// Retention removed records before this reader came to them, or damage made them unreadable. Never silent.
    /// Also a reader that selects keys is told of offsets of other keys. Offsets that never had a record, as a
    /// broker may leave out, are not skipped.
    ///
    /// Where a partition ends before the offset to be read, because the broker lost its end or the topic was made
    /// anew, what is skipped reaches up to that offset, and reading starts over at the oldest record kept.
    Skipped {
        /// In which partition.
        partition: Partition,
        /// First offset that is gone.
        first: Offset,
        /// Last offset that is gone.
        last: Offset,
    },
}

/// The extent of a partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Watermarks {
    /// Of which partition.
    pub partition: Partition,
    /// The oldest offset kept; equal to `next` when the partition is empty.
    pub first: Offset,
    /// The offset that the next record will get, or more.
    pub next: Offset,
    /// Bytes of the records kept, approximate; less on disk where the bus compresses. None where it is not known.
    pub bytes: Option<u64>,
}

/// How many records of a topic were skipped for a reason. One counts for each subscription that came across it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rejected {
    /// Where.
    pub topic: Topic,
    /// Why, as a name for counters.
    pub reason: &'static str,
    /// How often.
    pub count: u64,
}

/// Records that were durable, and that damage to what is stored took away.
#[derive(Clone, Debug, PartialEq)]
pub struct Damage {
    /// To be given to [`Bus::damage_told`]. Rises.
    pub number: u64,
    /// In which topic.
    pub topic: Topic,
    /// In which partition.
    pub partition: Partition,
    /// First and last offset of each range that is gone; rising. Readers get [`Delivery::Skipped`] for them.
    pub offsets: Vec<(Offset, Offset)>,
    /// Which records they were, as far as it is known. It may name some that are still there.
    pub records: Vec<LostRecords>,
    /// How many of the offsets had a record that is not known for certain. `records` names them too as far as their loss
    /// left a gap in the sequences of a boot.
    pub unnamed: u64,
}

/// Metrics records of one boot of an agent.
#[derive(Clone, Debug, PartialEq)]
pub struct LostRecords {
    /// Whose.
    pub agent: AgentId,
    /// Which start of the agent.
    pub boot: Boot,
    /// First sequence that is gone.
    pub first: u64,
    /// Last sequence that is gone.
    pub last: u64,
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
    /// A record contradicts itself, so that it has no form on this bus; trying again does not help.
    #[error("record for {key} is malformed")]
    Malformed {
        /// Whose record.
        key: AgentId,
        /// What is wrong with it.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
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

    /// The extent of each partition of `topic`, in rising order; at least one.
    async fn watermarks(&self, topic: Topic) -> Result<Vec<Watermarks>, BusError>;

    /// What it is called in status reports.
    fn kind(&self) -> &'static str;

    /// Whether several servers use it at once.
    fn is_shared(&self) -> bool;

    /// Whether the records of one agent are found without reading those of all others. Where not, nothing may
    /// look them up as often as agents connect.
    fn finds_by_key(&self) -> bool;

    /// Records that were skipped because they are none of ours: on a bus where others may publish. By topic and reason,
    /// since it was opened; only what is not 0.
    fn rejected(&self) -> Vec<Rejected> {
        Vec::new()
    }

    /// What damage took that was not yet [told](Self::damage_told), oldest first. Empty on a bus that leaves damage to its
    /// broker.
    async fn damage(&self) -> Result<Vec<Damage>, BusError> {
        Ok(Vec::new())
    }

    /// Notes durably that all damage up to `number` was made known, so that [`damage`](Self::damage) does not name it again.
    async fn damage_told(&self, _number: u64) -> Result<(), BusError> {
        Ok(())
    }

    /// Answers once whoever stores records has come to this, after all that was asked of it before: a sign that it does not
    /// hang. It does not say that it can store. A bus that leaves storing to a library answers at once.
    async fn alive(&self) -> Result<(), BusError> {
        Ok(())
    }

    /// Makes what was accepted durable and lets go of the storage. Idempotent.
    async fn close(&self) -> Result<(), BusError>;
}

/// A cursor over one topic. Dropping it frees all it holds.
#[async_trait]
pub trait Subscription: Send {
    /// The next delivery; waits at the end of the topic until something is published. Safe to cancel: nothing
    /// is skipped.
    async fn next(&mut self) -> Result<Delivery, BusError>;

    /// Where another subscription goes on after all that this one has delivered: names every partition that it
    /// reads, those included that had nothing so far.
    fn cursor(&self) -> Cursor;
}
