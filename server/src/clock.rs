//! The one place where the server reads the time.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use agent_core::time::Instant;

/// A moment on both clocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Now {
    /// For everything that waits: never falls, origin is the start of the server.
    pub(crate) monotonic: Instant,
    /// For people and records: Unix milliseconds, may jump.
    pub(crate) unix_ms: i64,
}

impl Now {
    /// The wall clock in whole seconds, as the fixed fields of the wire want it.
    pub(crate) const fn unix_seconds(self) -> i64 {
        self.unix_ms.div_euclid(1000)
    }
}

/// Reads both clocks.
#[derive(Clone, Debug)]
pub(crate) struct Clock {
    origin: std::time::Instant,
}

impl Clock {
    pub(crate) fn new() -> Self {
        Self { origin: std::time::Instant::now() }
    }

    pub(crate) fn now(&self) -> Now {
        let elapsed_ms = u64::try_from(self.origin.elapsed().as_millis()).unwrap_or(u64::MAX);
        Now { monotonic: Instant::from_ms(elapsed_ms), unix_ms: unix_ms(SystemTime::now()) }
    }

    /// Returns at `deadline` or up to a timer tick later; never when there is none.
    pub(crate) async fn sleep_until(&self, deadline: Option<Instant>) {
        match deadline {
            Some(deadline) => {
                let at = self.origin + Duration::from_millis(deadline.as_ms());
                tokio::time::sleep_until(at.into()).await;
            }
            None => std::future::pending().await,
        }
    }
}

/// Unix milliseconds; negative before 1970.
fn unix_ms(time: SystemTime) -> i64 {
    let ms = |span: Duration| i64::try_from(span.as_millis()).unwrap_or(i64::MAX);
    match time.duration_since(UNIX_EPOCH) {
        Ok(since) => ms(since),
        Err(before) => -ms(before.duration()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wall_clock_counts_from_1970() {
        assert_eq!(unix_ms(UNIX_EPOCH + Duration::from_millis(1500)), 1500);
        assert_eq!(unix_ms(UNIX_EPOCH - Duration::from_millis(1500)), -1500);
    }

    #[test]
    fn seconds_round_towards_the_past() {
        let at = |unix_ms| Now { monotonic: Instant::from_ms(0), unix_ms };
        assert_eq!(at(1999).unix_seconds(), 1);
        assert_eq!(at(-1).unix_seconds(), -1);
    }
}
