//! The spool: records on the agent's disk for outages that are longer than its ring.

mod disk;
mod loss;

use std::time::Duration;

use agent_core::id::{BootId, Sequence};
use agent_core::record::{Alert, Sample};
use agent_core::time::Instant;

pub use agent_core::agent::Lane;
pub use agent_core::ledger::LossReason;
pub use disk::{Disk, StdDisk};
pub use loss::Loss;

/// Which of the records that wait are sent first.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Order {
    /// As they were taken.
    #[default]
    OldestFirst,
    /// The newest segment first, and in it the oldest record first.
    NewestFirst,
}

/// What an operator decides.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Options {
    /// Bytes on the disk at most, all files counted.
    pub bytes_max: u64,
    /// How long a record is kept; none: until there is no room.
    pub age_max: Option<Duration>,
    /// Bytes of one file, about.
    pub segment_bytes: u64,
    /// What is sent first.
    pub order: Order,
}

/// Now, on both clocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Moment {
    /// On the monotonic clock of this process.
    pub uptime: Instant,
    /// Unix milliseconds.
    pub wall_ms: i64,
}

/// What was handed out, for [`Spool::delivered`]. Rises.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Token(u64);

/// Something to send.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Item {
    /// Its name.
    pub token: Token,
    /// Whose it is.
    pub boot: BootId,
    /// What it is.
    pub content: Content,
}

/// What is to be sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Content {
    /// Samples with consecutive sequences, 1 to 64.
    Records {
        /// The sequence of the first.
        first: Sequence,
        /// Them.
        rows: Vec<Sample>,
        /// The same as one packed block, which says `first` as well: `RecordBatch.packed` as it is.
        block: Vec<u8>,
    },
    /// Alerts with consecutive sequences, 1 to 32.
    Alerts {
        /// The sequence of the first.
        first: Sequence,
        /// Them.
        rows: Vec<Alert>,
    },
    /// What will never come, all of one lane.
    Losses {
        /// Of what.
        lane: Lane,
        /// 1 to 64 ranges.
        ranges: Vec<Loss>,
    },
}

/// Sequences of one boot that wait, both ends inclusive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Waiting {
    /// Records or alerts.
    pub lane: Lane,
    /// Whose.
    pub boot: BootId,
    /// The first.
    pub first: Sequence,
    /// The last.
    pub last: Sequence,
}

/// What was found when the spool was opened.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// Declared as SPOOL_DAMAGED because of what was found now.
    pub damaged: Vec<Loss>,
    /// For people: what was not as it must be.
    pub troubles: Vec<String>,
}

/// Figures of now.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// On the disk.
    pub bytes: u64,
    /// What was allowed.
    pub bytes_max: u64,
    /// Records that wait.
    pub records: u64,
    /// Alerts that wait.
    pub alerts: u64,
    /// Losses that wait to be told.
    pub losses: u64,
    /// Written by this process, all files.
    pub written_bytes: u64,
    /// Unix milliseconds of the oldest record or alert that waits.
    pub oldest_ms: Option<i64>,
    /// Why nothing can be written; none: it can.
    pub problem: Option<String>,
}

/// Why something was not stored.
#[derive(Debug, thiserror::Error)]
pub enum SpoolError {
    /// The disk refused.
    #[error("cannot write the spool")]
    Io(#[from] std::io::Error),
    /// One call brings more than a lane takes at once.
    #[error("{bytes} bytes at once, at most {max} are allowed")]
    TooLarge {
        /// What was asked for.
        bytes: u64,
        /// What is allowed.
        max: u64,
    },
    /// There is no room, and none can be made.
    #[error("the spool is full")]
    Full,
    /// The table of losses has no room for another.
    #[error("the spool holds as many losses as it can")]
    LossesFull,
}

/// The store.
#[derive(Debug)]
pub struct Spool<D> {
    _disk: D,
}

impl<D: Disk> Spool<D> {
    /// Opens the spool on `disk`. It always opens.
    pub fn open(_disk: D, _options: Options, _now: Moment) -> (Self, Report) {
        todo!()
    }

    /// Stores `rows`, consecutive from `first` on: at most 256 of them. After `Ok` they survive a loss of power.
    ///
    /// # Errors
    ///
    /// [`SpoolError`]; nothing of `rows` counts as stored then.
    pub fn append_records(
        &mut self,
        _boot: BootId,
        _first: Sequence,
        _rows: &[Sample],
        _now: Moment,
    ) -> Result<(), SpoolError> {
        todo!()
    }

    /// As [`Self::append_records`].
    ///
    /// # Errors
    ///
    /// As there.
    pub fn append_alerts(
        &mut self,
        _boot: BootId,
        _first: Sequence,
        _rows: &[Alert],
        _now: Moment,
    ) -> Result<(), SpoolError> {
        todo!()
    }

    /// Keeps `losses` until the server has them.
    ///
    /// # Errors
    ///
    /// [`SpoolError`]; none of them is kept then.
    pub fn declare(&mut self, _losses: &[Loss]) -> Result<(), SpoolError> {
        todo!()
    }

    /// Gives up what is too old.
    ///
    /// # Errors
    ///
    /// [`SpoolError`]; nothing is given up then.
    pub fn expire(&mut self, _now: Moment) -> Result<(), SpoolError> {
        todo!()
    }

    /// The next item to send: alerts, then losses, then records. None: nothing waits, or enough is out.
    #[expect(
        clippy::should_implement_trait,
        reason = "it is none: what it answers depends on the other calls"
    )]
    pub fn next(&mut self) -> Option<Item> {
        todo!()
    }

    /// Everything handed out up to and including `token` is durable at the server.
    pub fn delivered(&mut self, _token: Token) {
        todo!()
    }

    /// A new stream: everything that was not delivered comes again.
    pub fn rewind(&mut self) {
        todo!()
    }

    /// Writes what was put off. A spool that is dropped without this loses nothing, but repeats more.
    pub fn close(&mut self) {
        todo!()
    }

    /// Figures of now.
    pub fn counts(&self) -> Counts {
        todo!()
    }

    /// What waits, exactly: ranges in no particular order.
    pub fn waiting(&self) -> Vec<Waiting> {
        todo!()
    }

    /// Losses that were declared and are not delivered.
    pub fn losses(&self) -> Vec<Loss> {
        todo!()
    }
}
