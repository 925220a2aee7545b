//! The spool: records on the agent's disk, for outages that are longer than its ring.
//!
//! It knows records, alerts, what was lost of them, and a [`Disk`]; no clock, no network, no agent. Its owner appends what the
//! ring cannot hold, and sends what [`Spool::next`] hands out when the link is up.
//!
//! **Files.** Each lane has segments, files of frames (see `frame`) that only grow; a frame is up to 64 records of one
//! boot. Two copies of a state (see `state`) say which segments there are, how far each was delivered, and what was lost.
//! Segments whose number the state has not reached yet are as good as those it lists, so an append touches one file only.
//!
//! **Promises.** What was appended with `Ok` is handed out until it is delivered, or is a declared loss, whatever happens to
//! power, disk and files; with one reservation. Frames that were appended after the state was last written (at the
//! start of each segment, as deliveries go on, on [`Spool::close`]) and are then cut off from the file at its end by
//! something other than a loss of power look like a write that was never finished, and are not declared.
//!
//! **Order of things.** A loss is durable before the segment it is of is unlinked, and so is the cursor that has passed
//! it. A file that refused a write or a sync gets no other: sync is never tried again in the hope of success.
//!
//! **Room.** `bytes_max` holds for all files together. An eighth is for alerts alone, up to an eighth (at most 128 KiB) for
//! the state, the rest for records, so that neither lane can push the other out. When a lane is full, its oldest segment
//! gives way.
//!
//! **Age** is counted on a clock of the spool's own, which goes on only while a process has it open. The wall clock has no
//! part in it, so a step of it deletes nothing, and neither does a host that was switched off for a year.

mod directory;
mod disk;
mod frame;
pub(crate) mod inspect;
mod loss;
mod order;
mod reading;
mod replay;
mod runs;
mod segment;
pub mod sim;
mod state;
mod store;
mod survey;

#[cfg(test)]
mod tests;

use std::time::Duration;

use agent_core::id::{BootId, Sequence};
use agent_core::record::{Alert, Sample};

pub use agent_core::agent::Lane;
pub use agent_core::ledger::LossReason;
pub use directory::{StdDisk, StdDiskError};
pub use disk::Disk;
pub use loss::Loss;
pub use order::Order;
pub use runs::Run;
pub use store::Spool;

/// The directory of the spool within the agent's state directory.
pub const DIRECTORY_NAME: &str = "spool";

/// The least and the most that [`Options::bytes_max`] can be; others are taken as the nearest of them.
pub const BYTES_MAX_RANGE: std::ops::RangeInclusive<u64> = 64 * 1024..=512 * 1024 * 1024;

/// What an operator decides.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Options {
    /// Bytes on the disk at most, all files counted; within [`BYTES_MAX_RANGE`].
    pub bytes_max: u64,
    /// How long a record is kept, counted while the spool is open; none: until there is no room.
    pub age_max: Option<Duration>,
    /// Bytes of one segment, about. Taken as the nearest that makes at least 4 of a lane and not too many to list.
    pub segment_bytes: u64,
    /// What is sent first.
    pub order: Order,
}

impl Default for Options {
    /// 64 MiB, which is some weeks of standard metrics every 5 s; a week; 1 MiB; oldest first.
    fn default() -> Self {
        Self {
            bytes_max: 64 * 1024 * 1024,
            age_max: Some(Duration::from_secs(7 * 86_400)),
            segment_bytes: 1024 * 1024,
            order: Order::OldestFirst,
        }
    }
}

/// The name of an item that was handed out. Tokens rise over the life of a [`Spool`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Token(u64);

/// Something to send.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Item {
    /// What [`Spool::delivered`] takes.
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
    /// What will never come.
    Losses {
        /// Of what.
        lane: Lane,
        /// 1 to 64, all of this boot and lane.
        ranges: Vec<Loss>,
    },
}

/// What was found when the spool was opened.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// What is declared as SPOOL_DAMAGED because of what was found now.
    pub damaged: Vec<Loss>,
    /// For people: what was not as it must be.
    pub troubles: Vec<String>,
}

/// Figures of now.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// On the disk, all files.
    pub bytes: u64,
    /// How many these may become.
    pub bytes_max: u64,
    /// Records that wait.
    pub records: u64,
    /// Alerts that wait.
    pub alerts: u64,
    /// Ranges of losses that wait to be told.
    pub losses: u64,
    /// Written since this was opened, all files, failed writes included.
    pub written_bytes: u64,
    /// Unix milliseconds of the oldest record or alert that waits, as its own clock had them; none: nothing waits. It may
    /// lag behind by one frame.
    pub oldest_ms: Option<i64>,
    /// Why the disk could not be used the last time; none: it could.
    pub problem: Option<String>,
}

/// Why something was not stored.
#[derive(Debug, thiserror::Error)]
pub enum SpoolError {
    /// The disk refused.
    #[error("cannot write the spool")]
    Io(#[from] std::io::Error),
    /// The spool could not be read when it was opened, so nothing is written over it.
    #[error("the spool is out of service: {0}")]
    OutOfService(String),
    /// One call brings more than a lane takes at once.
    #[error("{bytes} bytes at once, at most {max} are allowed")]
    TooLarge {
        /// What was asked for.
        bytes: u64,
        /// What is allowed: half of the lane's room.
        max: u64,
    },
    /// There is no room, and none can be made now.
    #[error("the spool is full")]
    Full,
    /// The table of losses has no room for another, so neither can a segment give way.
    #[error("the spool holds as many losses as it can")]
    LossesFull,
}
