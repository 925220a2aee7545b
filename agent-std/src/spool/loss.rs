//! What the spool says of records that will never come, and for how long it says it.

use agent_core::id::{BootId, Sequence};

use super::Lane;

/// Why records of a lane will never come. The numbers are those of the wire, and of the files.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum LossReason {
    /// The ring was full, and the oldest gave way.
    Overwritten = 1,
    /// Still held when the drain time of a shutdown was over.
    Shutdown = 2,
    /// Missing on the link between a device and its gateway.
    Link = 3,
    /// The process ended without a word; an upper bound.
    Crash = 4,
    /// The spool had no room, and its oldest segment gave way.
    SpoolFull = 5,
    /// Older than the spool keeps records.
    SpoolExpired = 6,
    /// The spool could not read them back.
    SpoolDamaged = 7,
}

impl LossReason {
    /// All of them.
    pub const ALL: [Self; 7] = [
        Self::Overwritten,
        Self::Shutdown,
        Self::Link,
        Self::Crash,
        Self::SpoolFull,
        Self::SpoolExpired,
        Self::SpoolDamaged,
    ];

    /// Its number on the wire and in the files.
    pub const fn code(self) -> u8 {
        self as u8
    }

    /// The reason with this number.
    pub fn from_code(code: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|reason| reason.code() == code)
    }

    /// The name in counters and in JSON.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Overwritten => "overwritten",
            Self::Shutdown => "shutdown",
            Self::Link => "link",
            Self::Crash => "crash",
            Self::SpoolFull => "spool_full",
            Self::SpoolExpired => "spool_expired",
            Self::SpoolDamaged => "spool_damaged",
        }
    }
}

/// Records of one boot and lane that will never come. Some within the range may have come all the same: what is lost is
/// what was declared without what was delivered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Loss {
    /// Records or alerts, which are numbered apart.
    pub lane: Lane,
    /// Whose they are.
    pub boot: BootId,
    /// The first that is lost.
    pub first: Sequence,
    /// The last that is lost; not before `first`.
    pub last: Sequence,
    /// Why.
    pub reason: LossReason,
    /// Of these, how many were never put on a stream, as far as the process knew that declared them.
    pub never_sent: u64,
    /// And how many were put on one without an acknowledgement: they may have arrived.
    pub unacknowledged: u64,
}
