//! How many bytes an agent may have on its stream without an acknowledgement.
//!
//! Sans-IO. Each stream gets a fair share of what is free of the server's budget, less while the bus is slow. An agent
//! that may send nothing more keeps its records, so what does not fit here waits there, where it is counted.

use std::cmp::Ordering;
use std::sync::atomic::{self, AtomicU64};
use std::time::Duration;

use agent_core::time::Instant;

use crate::limits::{CREDIT_BYTES_MAX, CREDIT_BYTES_MIN, SINK_DOWN, SINK_QUICK, SINK_SLOW};

/// What decides on a share.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Load {
    /// Of the budget.
    pub(crate) free_bytes: u64,
    /// Streams that share it, at least one.
    pub(crate) streams: u64,
    /// How long the bus takes to store.
    pub(crate) sink: Duration,
}

impl Load {
    /// The share of one stream: a power of two, so that it changes seldom.
    pub(crate) fn share(self) -> u64 {
        let fair = self.free_bytes / self.streams.max(1);
        let fair = match self.sink {
            sink if sink < SINK_QUICK => fair,
            sink if sink < SINK_SLOW => fair.min(CREDIT_BYTES_MAX) / 4,
            _ => 0,
        };
        let bounded = fair.clamp(CREDIT_BYTES_MIN, CREDIT_BYTES_MAX);
        1 << bounded.ilog2()
    }
}

/// How long another share must have been due before it is told: one that swings is not worth a message each time.
const LASTING: Duration = Duration::from_secs(5);

/// How many times smaller a share is that is told without waiting.
const PLUNGE: u64 = 4;

/// What one stream was told.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Grant {
    told: u64,
    /// Which way the share has gone since it was told, and from when on.
    differs: Option<(Ordering, Instant)>,
}

impl Grant {
    /// The Welcome said so many bytes.
    pub(crate) const fn new(told: u64) -> Self {
        Self { told, differs: None }
    }

    /// The stream's share is `share` now. Answers what to tell the agent: a much smaller one at once, another one when it
    /// has been due for a while.
    pub(crate) fn update(&mut self, now: Instant, share: u64) -> Option<u64> {
        let way = share.cmp(&self.told);
        let since = match self.differs {
            Some((before, since)) if before == way => since,
            _ => now,
        };
        self.differs = (way != Ordering::Equal).then_some((way, since));
        let is_due = share.saturating_mul(PLUNGE) <= self.told || LASTING <= now - since;
        if way == Ordering::Equal || !is_due {
            return None;
        }
        *self = Self::new(share);
        Some(share)
    }
}

/// How long the bus takes to store, over all streams: half of what it was and half of the latest.
#[derive(Debug, Default)]
pub(crate) struct Sink {
    latency_ms: AtomicU64,
}

impl Sink {
    /// The bus has stored, and took so long.
    pub(crate) fn stored(&self, took: Duration) {
        let took_ms = u64::try_from(took.min(SINK_DOWN).as_millis()).unwrap_or(u64::MAX);
        // Two at once may lose one of both: it is an estimate.
        let before = self.latency_ms.load(atomic::Ordering::Relaxed);
        self.latency_ms.store(u64::midpoint(before, took_ms), atomic::Ordering::Relaxed);
    }

    /// The bus could not store: it counts as very slow until it has stored a few times.
    pub(crate) fn failed(&self) {
        let down_ms = u64::try_from(SINK_DOWN.as_millis()).unwrap_or(u64::MAX);
        self.latency_ms.store(down_ms, atomic::Ordering::Relaxed);
    }

    pub(crate) fn latency(&self) -> Duration {
        Duration::from_millis(self.latency_ms.load(atomic::Ordering::Relaxed))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    fn check(free_bytes: u64, streams: u64, sink_ms: u64, expected: u64) {
        let load = Load { free_bytes, streams, sink: Duration::from_millis(sink_ms) };
        assert_eq!(load.share(), expected, "{load:?}");
    }

    #[test]
    fn a_share_is_fair_and_bounded() {
        check(64 * MIB, 1, 0, CREDIT_BYTES_MAX);
        check(64 * MIB, 0, 0, CREDIT_BYTES_MAX);
        check(64 * MIB, 1024, 0, 64 * 1024);
        check(64 * MIB, 1500, 0, 32 * 1024);
        check(64 * MIB, 1_000_000, 0, CREDIT_BYTES_MIN);
        check(0, 1, 0, CREDIT_BYTES_MIN);
    }

    #[test]
    fn a_slow_bus_makes_shares_small() {
        check(64 * MIB, 1, 499, CREDIT_BYTES_MAX);
        check(64 * MIB, 1, 500, CREDIT_BYTES_MAX / 4);
        check(64 * MIB, 1, 2000, CREDIT_BYTES_MIN);
    }

    #[test]
    fn shares_never_add_up_to_more_than_is_free_until_all_have_the_least() {
        for streams in 1..2000 {
            let free_bytes = streams * CREDIT_BYTES_MIN * 3;
            let share = Load { free_bytes, streams, sink: Duration::ZERO }.share();
            assert!(share * streams <= free_bytes, "{streams} streams");
        }
    }

    fn at(seconds: u64) -> Instant {
        Instant::from_ms(0) + Duration::from_secs(seconds)
    }

    #[test]
    fn much_less_is_told_at_once_and_another_share_once_it_lasts() {
        let mut grant = Grant::new(64);
        assert_eq!(grant.update(at(0), 64), None);
        assert_eq!(grant.update(at(1), 16), Some(16));
        assert_eq!(grant.update(at(1), 16), None);
        assert_eq!(grant.update(at(2), 64), None);
        assert_eq!(grant.update(at(6), 16), None, "it was for a moment only");
        assert_eq!(grant.update(at(7), 64), None);
        assert_eq!(grant.update(at(8), 8), None, "the other way");
        assert_eq!(grant.update(at(12), 32), None);
        assert_eq!(grant.update(at(16), 64), None);
        assert_eq!(grant.update(at(17), 32), Some(32));
        assert_eq!(grant.update(at(18), 16), None);
        assert_eq!(grant.update(at(23), 16), Some(16));
    }

    #[test]
    fn a_bus_that_failed_is_trusted_again_after_it_has_stored_a_few_times() {
        let sink = Sink::default();
        sink.failed();
        let mut stores = 0;
        while SINK_QUICK <= sink.latency() {
            sink.stored(Duration::from_millis(1));
            stores += 1;
        }
        assert!((5..10).contains(&stores), "{stores}");
    }
}
