//! The sampler: when to take the next snapshot.

use core::time::Duration;

use crate::time::Instant;

#[derive(Clone, Debug)]
pub(crate) struct Sampler {
    due_at: Instant,
    progress: Progress,
    late: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Progress {
    Idle,
    Collecting,
}

impl Sampler {
    pub(crate) const fn new(due_at: Instant) -> Self {
        Self { due_at, progress: Progress::Idle, late: 0 }
    }

    /// Takes the next snapshot at `due_at`, then at the interval from there.
    pub(crate) const fn restart(&mut self, due_at: Instant) {
        self.due_at = due_at;
    }

    /// The interval is `new` from now on. The next snapshot is due as if it had been so since the last one, at once when
    /// that is past: changes that follow each other faster than snapshots do not put off the next one again and again.
    pub(crate) fn change_interval(&mut self, now: Instant, old: Duration, new: Duration) {
        let old_ms = u64::try_from(old.as_millis()).unwrap_or(u64::MAX);
        let last = Instant::from_ms(self.due_at.as_ms().saturating_sub(old_ms));
        self.due_at = (last + new).max(now);
    }

    /// The snapshot that was asked for has come, or has failed.
    pub(crate) const fn handle_done(&mut self) {
        self.progress = Progress::Idle;
    }

    /// Whether to take a snapshot now. Ticks keep to a fixed raster; those that were missed, because the shell woke
    /// late or the collector was busy, are counted and not made up for.
    pub(crate) fn poll_due(&mut self, now: Instant, interval: Duration) -> bool {
        if now < self.due_at {
            return false;
        }
        let interval_ms = u64::try_from(interval.as_millis()).unwrap_or(u64::MAX).max(1);
        let overdue_ms = now.as_ms() - self.due_at.as_ms();
        let missed = overdue_ms / interval_ms;
        let next_ms = missed.saturating_add(1).saturating_mul(interval_ms);
        self.due_at = Instant::from_ms(self.due_at.as_ms().saturating_add(next_ms));
        self.late = self.late.saturating_add(missed);
        if self.progress == Progress::Collecting {
            self.late = self.late.saturating_add(1);
            return false;
        }
        self.progress = Progress::Collecting;
        true
    }

    /// When the next snapshot is due. Waking late makes the snapshot late by as much.
    pub(crate) const fn deadline(&self) -> Instant {
        self.due_at
    }

    pub(crate) const fn late(&self) -> u64 {
        self.late
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const INTERVAL: Duration = Duration::from_secs(1);

    #[test]
    fn ticks_keep_to_their_raster() {
        let mut sampler = Sampler::new(Instant::from_ms(0));
        assert!(sampler.poll_due(Instant::from_ms(0), INTERVAL));
        sampler.handle_done();
        assert!(!sampler.poll_due(Instant::from_ms(999), INTERVAL));
        assert!(sampler.poll_due(Instant::from_ms(1030), INTERVAL));
        assert_eq!(sampler.deadline(), Instant::from_ms(2000));
        assert_eq!(sampler.late(), 0);
    }

    #[test]
    fn missed_ticks_are_counted_and_not_made_up_for() {
        let mut sampler = Sampler::new(Instant::from_ms(0));
        assert!(sampler.poll_due(Instant::from_ms(3500), INTERVAL));
        assert_eq!((sampler.late(), sampler.deadline()), (3, Instant::from_ms(4000)));
        assert!(!sampler.poll_due(Instant::from_ms(4000), INTERVAL));
        assert_eq!((sampler.late(), sampler.deadline()), (4, Instant::from_ms(5000)));
        sampler.handle_done();
        assert!(sampler.poll_due(Instant::from_ms(5000), INTERVAL));
    }

    #[test]
    fn changes_of_the_interval_do_not_put_off_a_snapshot_for_ever() {
        let (short, long) = (Duration::from_secs(30), Duration::from_secs(60));
        let mut sampler = Sampler::new(Instant::from_ms(0));
        assert!(sampler.poll_due(Instant::from_ms(0), long));
        sampler.handle_done();
        let mut intervals = [long, short].into_iter().cycle();
        let mut interval = long;
        let due = (1..=6).map(|turn| Instant::from_ms(turn * 10_000)).find(|now| {
            let old = interval;
            interval = intervals.next().unwrap();
            sampler.change_interval(*now, old, interval);
            sampler.poll_due(*now, interval)
        });
        assert_eq!(due, Some(Instant::from_ms(40_000)), "the first beyond the shorter one");
        assert_eq!(sampler.late(), 0);
    }
}
