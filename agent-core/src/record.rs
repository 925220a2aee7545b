//! What the collector hands in and what the chain hands out.

use core::time::Duration;

use serde::{Deserialize, Serialize};

use crate::metric::{Metric, MetricSet, Values};
use crate::ring::Stored;
use crate::time::Instant;

/// What the collector measured at one moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Snapshot {
    /// When, on the monotonic clock.
    pub taken_at: Instant,
    /// When, on the wall clock: Unix milliseconds. The clock may have been wrong; order follows `taken_at`.
    pub wall_ms: i64,
    /// What was measured.
    pub values: Values,
}

/// A snapshot on its way through the chain, with what plugins wrote on it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sample {
    /// The snapshot; of a window, the last one's times and the averages of all.
    pub snapshot: Snapshot,
    /// Set by aggregation.
    pub window: Option<Window>,
    /// Set by threshold_alert: the metrics for which an alert stands.
    pub marks: Marks,
    /// Set by deduplication: snapshots suppressed since the sample before.
    pub repeats: u32,
}

impl From<Snapshot> for Sample {
    fn from(snapshot: Snapshot) -> Self {
        Self { snapshot, window: None, marks: Marks::NONE, repeats: 0 }
    }
}

impl Stored for Sample {
    // Times and run: 10 + 10 + 5 bytes. Five sets of values, whose bits take at most 10 and a count at most 10, the set
    // of bits beside the marks 10, and a window 1 + 3 + 10 + 1 beside its values and its own counts.
    const ENCODED_BYTES_MAX: usize = 50 + 6 * (10 + 10 * Metric::COUNT);
}

/// How a window of snapshots spread around its averages.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Window {
    /// Snapshots in it, at least 1.
    pub count: u32,
    /// When the first of them was taken; the last one's time is the sample's own.
    pub first_taken_at: Instant,
    /// Whether it was closed before it was full.
    pub completeness: Completeness,
    /// The least value of each metric that the window has.
    pub min: Values,
    /// The greatest value of each metric that the window has.
    pub max: Values,
    /// The last value of each metric that the window has.
    pub last: Values,
    /// In how many of its snapshots each of its metrics was present, 1 to `count`.
    pub counts: Values,
}

/// Whether a window holds all the snapshots it was meant to hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Completeness {
    /// It does.
    Full,
    /// A stop, a configuration change or a shutdown cut it short.
    Partial,
}

/// The alerts that stand at a sample, as the sample carries them for readers that look at samples alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Marks {
    /// The limit of each metric that has an alert.
    pub limits: Values,
    /// Which of these limits are floors: the alert is for being below.
    pub below: MetricSet,
}

impl Marks {
    /// No alert.
    pub const NONE: Self = Self { limits: Values::EMPTY, below: MetricSet::EMPTY };

    /// Whether there is no alert.
    pub const fn is_empty(&self) -> bool {
        self.limits.present().is_empty()
    }

    /// Adds an alert of `metric`, in place of one that it has.
    pub fn set(&mut self, metric: Metric, limit: i64, direction: Direction) {
        self.limits.set(metric, limit);
        match direction {
            Direction::Above => self.below.remove(metric),
            Direction::Below => self.below.insert(metric),
        }
    }

    /// Its metrics with limit and direction, in the order of their ids.
    pub fn iter(&self) -> impl Iterator<Item = (Metric, i64, Direction)> + '_ {
        self.limits.iter().map(|(metric, limit)| {
            let below = self.below.contains(metric);
            (metric, limit, if below { Direction::Below } else { Direction::Above })
        })
    }
}

/// On which side of a limit a value is wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Direction {
    /// Above it.
    Above,
    /// Below it.
    Below,
}

/// How bad an alert is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Severity {
    /// Worth knowing.
    Info,
    /// Somebody should look.
    Warning,
    /// Somebody must act.
    Critical,
}

impl Severity {
    /// All of them, the mildest first.
    pub const ALL: [Self; 3] = [Self::Info, Self::Warning, Self::Critical];

    /// The name in configuration and JSON.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Info => "info",
            Self::Warning => "warning",
            Self::Critical => "critical",
        }
    }
}

/// An alert began or ended: a record of its own, beside the samples and numbered apart from them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Alert {
    /// Of what.
    pub metric: Metric,
    /// Whether it began or ended.
    pub transition: Transition,
    /// As its rule says.
    pub severity: Severity,
    /// As its rule says.
    pub direction: Direction,
    /// As its rule says: a count of the metric.
    pub limit: i64,
    /// The value that made the difference: a count of the metric.
    pub value: i64,
    /// When, on the monotonic clock.
    pub taken_at: Instant,
    /// When, on the wall clock: Unix milliseconds.
    pub wall_ms: i64,
    /// How long the value had been wrong when it was raised; how long the alert stood when it ended.
    pub lasted: Duration,
}

impl Stored for Alert {
    // Five enums of one byte; limit, value and times of at most 10 each, the duration 10 + 5.
    const ENCODED_BYTES_MAX: usize = 5 + 4 * 10 + 15;
}

/// What happened to an alert.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Transition {
    /// The value was on the wrong side of the limit for as long as the rule says.
    Raised,
    /// The value came back by as much as the rule says.
    Cleared,
    /// The rule was removed or changed, or the metric is no longer collected: nobody can say when it would have ended.
    Withdrawn,
}

impl Transition {
    /// The name in JSON.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Raised => "raised",
            Self::Cleared => "cleared",
            Self::Withdrawn => "withdrawn",
        }
    }
}
