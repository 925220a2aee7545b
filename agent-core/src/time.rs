//! Monotonic time, passed in by the shell.

use core::ops::{Add, Sub};
use core::time::Duration;

/// A point on the shell's monotonic clock: milliseconds since an origin of its choice, usually process start.
///
/// It never falls. It says nothing about the date; records carry a wall-clock time of their own.
#[derive(
    Clone,
    Copy,
    Debug,
    Default,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    serde::Serialize,
    serde::Deserialize,
)]
pub struct Instant {
    ms: u64,
}

impl Instant {
    /// The point `ms` milliseconds after the origin.
    pub const fn from_ms(ms: u64) -> Self {
        Self { ms }
    }

    /// Milliseconds since the origin.
    pub const fn as_ms(self) -> u64 {
        self.ms
    }

    /// The time from `earlier` to this; zero if `earlier` is later.
    pub const fn saturating_since(self, earlier: Self) -> Duration {
        Duration::from_millis(self.ms.saturating_sub(earlier.ms))
    }
}

impl Add<Duration> for Instant {
    type Output = Self;

    /// Saturates at the end of time, 584 million years after the origin.
    fn add(self, duration: Duration) -> Self {
        let ms = u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
        Self { ms: self.ms.saturating_add(ms) }
    }
}

impl Sub for Instant {
    type Output = Duration;

    fn sub(self, earlier: Self) -> Duration {
        self.saturating_since(earlier)
    }
}
