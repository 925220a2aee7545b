//! The monotonic clock that the core's times are taken from.

use std::time::{Duration, Instant};

use agent_core::time;

/// Milliseconds since the process started. Copies show the same time.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Clock {
    origin: Instant,
}

impl Clock {
    /// A clock that starts now.
    pub(crate) fn start() -> Self {
        Self { origin: Instant::now() }
    }

    pub(crate) fn now(&self) -> time::Instant {
        let since = self.origin.elapsed().as_millis();
        time::Instant::from_ms(u64::try_from(since).unwrap_or(u64::MAX))
    }

    /// How long it takes until this shows `at`; nothing once it does.
    pub(crate) fn time_until(&self, at: time::Instant) -> Duration {
        Duration::from_millis(at.as_ms()).saturating_sub(self.origin.elapsed())
    }
}
