//! What the spool says of records that will never come, and for how long it says it.

use agent_core::id::{BootId, Sequence};

use super::{Lane, LossReason};

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
