//! One file of frames, as the open spool knows it.

use super::Lane;
use super::runs::Runs;
use super::state::Known;
use super::survey::segment_name;

/// A segment that has something that waits.
#[derive(Clone, Debug)]
pub(super) struct Segment {
    pub(super) number: u64,
    pub(super) lane: Lane,
    /// On the disk, what came of writes that failed included.
    pub(super) bytes: u64,
    /// Where the last durable frame ends: `delivered_to <= read_to <= end <= bytes`.
    pub(super) end: u64,
    /// Where the next frame to hand out begins.
    pub(super) read_to: u64,
    /// Where the first frame begins that was not delivered.
    pub(super) delivered_to: u64,
    /// No frame is added any more: a write to it failed, or something in it is damaged.
    pub(super) is_sealed: bool,
    pub(super) newest_clock_ms: u64,
    pub(super) oldest_wall_ms: i64,
    /// Sequences that were not delivered and can be read.
    pub(super) waiting: Runs,
}

impl Segment {
    pub(super) fn name(&self) -> String {
        segment_name(self.lane, self.number)
    }

    pub(super) fn known(&self) -> Known {
        Known {
            number: self.number,
            lane: self.lane,
            is_sealed: self.is_sealed,
            end: self.end,
            delivered_to: self.delivered_to,
            newest_clock_ms: self.newest_clock_ms,
            oldest_wall_ms: self.oldest_wall_ms,
            waiting: self.waiting.clone(),
        }
    }
}
