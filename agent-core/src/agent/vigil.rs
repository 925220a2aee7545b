//! Whether the process ran all the while, so that time that went by proves something.
//!
//! A process that stands still (stopped, swapped out, on a host that sleeps) finds on waking that long waits are over. What its
//! other threads would have noticed meanwhile, such as a peer that is gone, they are only about to notice.

use core::time::Duration;

use crate::limits::{VIGIL_GAP_MAX, VIGIL_STEP};
use crate::time::Instant;

/// Somebody who looks at the clock often enough to know.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Vigil {
    looked_at: Instant,
}

impl Vigil {
    /// Begins at `now`.
    pub const fn new(now: Instant) -> Self {
        Self { looked_at: now }
    }

    /// Looks at the clock. Answers whether the process may have stood still since the last time, for longer than
    /// does not matter.
    pub fn look(&mut self, now: Instant) -> bool {
        let gap: Duration = now - self.looked_at;
        self.looked_at = now;
        VIGIL_GAP_MAX < gap
    }

    /// When to look again.
    pub fn deadline(&self) -> Instant {
        self.looked_at + VIGIL_STEP
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_gap_is_noticed_once() {
        let mut vigil = Vigil::new(Instant::from_ms(1000));
        assert_eq!(vigil.deadline(), Instant::from_ms(4000));
        assert!(!vigil.look(Instant::from_ms(5000)));
        assert!(vigil.look(Instant::from_ms(9001)));
        assert!(!vigil.look(Instant::from_ms(9002)));
        assert_eq!(vigil.deadline(), Instant::from_ms(12_002));
    }
}
