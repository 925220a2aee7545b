//! What a link does to what passes it, as it is switched while it runs.

use std::num::NonZeroU32;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Which way bytes go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::chaos) enum Direction {
    /// From the client to the server.
    Up,
    /// From the server to the client.
    Down,
}

impl Direction {
    pub(in crate::chaos) const ALL: [Self; 2] = [Self::Up, Self::Down];

    pub(super) const fn index(self) -> usize {
        match self {
            Self::Up => 0,
            Self::Down => 1,
        }
    }
}

/// How one direction of a link is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(in crate::chaos) struct Weather {
    /// Every byte is at least so late.
    pub(in crate::chaos) delay: Duration,
    /// And up to so much later; bytes never overtake each other.
    pub(in crate::chaos) jitter: Duration,
    /// None: as fast as the host.
    pub(in crate::chaos) bytes_per_second: Option<NonZeroU32>,
    pub(in crate::chaos) passage: Passage,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(in crate::chaos) enum Passage {
    #[default]
    Open,
    /// Nothing passes, ends of connections included, and nobody is told. What was sent meanwhile comes when it opens again, as what TCP
    /// sends again would; behind a full queue the sender is not read from any more.
    Held,
}

/// What a link has done so far.
#[derive(Debug, Default)]
pub(super) struct Counters {
    pub(super) connections: AtomicU64,
    pub(super) refused: AtomicU64,
    pub(super) passed_bytes: AtomicU64,
    pub(super) delayed_bytes: AtomicU64,
    pub(super) held_bytes: AtomicU64,
    pub(super) swallowed_bytes: AtomicU64,
    pub(super) flipped_bits: AtomicU64,
    pub(super) cuts: AtomicU64,
    pub(super) cuts_in_flight: AtomicU64,
}

impl Counters {
    pub(super) fn tally(&self) -> Tally {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Tally {
            connections: read(&self.connections),
            refused: read(&self.refused),
            passed_bytes: read(&self.passed_bytes),
            delayed_bytes: read(&self.delayed_bytes),
            held_bytes: read(&self.held_bytes),
            swallowed_bytes: read(&self.swallowed_bytes),
            flipped_bits: read(&self.flipped_bits),
            cuts: read(&self.cuts),
            cuts_in_flight: read(&self.cuts_in_flight),
        }
    }
}

/// What links have done, counted at one moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub(in crate::chaos) struct Tally {
    /// Those that reached the server.
    pub(in crate::chaos) connections: u64,
    /// Those closed at once: the server was not there, or there were too many.
    pub(in crate::chaos) refused: u64,
    pub(in crate::chaos) passed_bytes: u64,
    /// Of them, those that had to wait for a delay or a limit of speed.
    pub(in crate::chaos) delayed_bytes: u64,
    /// Those that came while their direction was held.
    pub(in crate::chaos) held_bytes: u64,
    /// Those of connections that the link had forgotten.
    pub(in crate::chaos) swallowed_bytes: u64,
    pub(in crate::chaos) flipped_bits: u64,
    /// Connections that were cut.
    pub(in crate::chaos) cuts: u64,
    /// Of them, those with bytes under way.
    pub(in crate::chaos) cuts_in_flight: u64,
}

impl Tally {
    fn combined(self, other: Self, combine: impl Fn(u64, u64) -> u64) -> Self {
        Self {
            connections: combine(self.connections, other.connections),
            refused: combine(self.refused, other.refused),
            passed_bytes: combine(self.passed_bytes, other.passed_bytes),
            delayed_bytes: combine(self.delayed_bytes, other.delayed_bytes),
            held_bytes: combine(self.held_bytes, other.held_bytes),
            swallowed_bytes: combine(self.swallowed_bytes, other.swallowed_bytes),
            flipped_bits: combine(self.flipped_bits, other.flipped_bits),
            cuts: combine(self.cuts, other.cuts),
            cuts_in_flight: combine(self.cuts_in_flight, other.cuts_in_flight),
        }
    }

    pub(in crate::chaos) fn plus(self, other: Self) -> Self {
        self.combined(other, u64::saturating_add)
    }

    /// What was done since `earlier`.
    pub(in crate::chaos) fn since(self, earlier: Self) -> Self {
        self.combined(earlier, u64::saturating_sub)
    }
}
