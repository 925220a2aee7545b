//! What the collector hands in and what the chain hands out.

use crate::metric::Values;
use crate::time::Instant;

/// What the collector measured at one moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Snapshot {
    /// When, on the monotonic clock.
    pub taken_at: Instant,
    /// When, on the wall clock: Unix milliseconds. The clock may have been wrong; order follows `taken_at`.
    pub wall_ms: i64,
    /// What was measured.
    pub values: Values,
}

/// A snapshot on its way through the chain, with what plugins wrote on it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sample {
    /// The snapshot; of a window, the last one's times and the averages of all.
    pub snapshot: Snapshot,
    /// Set by aggregation.
    pub window: Option<Window>,
    /// Set by threshold_alert: the metrics that are above their limits, with the limits.
    pub alerts: Values,
    /// Set by deduplication: snapshots suppressed since the sample before.
    pub repeats: u32,
}

impl From<Snapshot> for Sample {
    fn from(snapshot: Snapshot) -> Self {
        Self { snapshot, window: None, alerts: Values::EMPTY, repeats: 0 }
    }
}

/// How a window of snapshots spread around its averages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Window {
    /// Snapshots in it, at least 1.
    pub count: u16,
    /// When the first of them was taken; the last one's time is the sample's own.
    pub first_taken_at: Instant,
    /// The least value of each metric that the window has.
    pub min: Values,
    /// The greatest value of each metric that the window has.
    pub max: Values,
    /// Whether it was closed before it was full.
    pub completeness: Completeness,
}

/// Whether a window holds all the snapshots it was meant to hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Completeness {
    /// It does.
    Full,
    /// A stop, a configuration change or a shutdown cut it short.
    Partial,
}
