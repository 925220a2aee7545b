//! Deduplication: a snapshot that says what the last one sent said is dropped.

use crate::config;
use crate::metric::Values;
use crate::plugin::{Plugin, Verdict};
use crate::record::{Sample, Snapshot};

/// Drops a snapshot when every metric is within its tolerance of the last snapshot forwarded, the same metrics
/// are present, and that last one is younger than the longest silence.
///
/// Comparing with the last one forwarded, not with the last one seen, keeps a slow drift visible. The next
/// sample carries how many were dropped before it, so a reader can rebuild the series.
#[derive(Clone, Debug)]
pub struct Deduplication {
    settings: config::Deduplication,
    last_forwarded: Option<Snapshot>,
    repeats: u32,
}

impl Deduplication {
    /// A plugin that has seen nothing.
    pub const fn new(settings: config::Deduplication) -> Self {
        Self { settings, last_forwarded: None, repeats: 0 }
    }

    /// Its settings.
    pub const fn settings(&self) -> &config::Deduplication {
        &self.settings
    }

    fn is_repeat(&self, snapshot: &Snapshot) -> bool {
        self.last_forwarded.is_some_and(|last| {
            snapshot.taken_at - last.taken_at < self.settings.max_silence
                && within(&last.values, &snapshot.values, &self.settings.tolerance)
        })
    }
}

/// Whether both have the same metrics, each within its tolerance of the other.
fn within(a: &Values, b: &Values, tolerance: &Values) -> bool {
    a.present() == b.present()
        && a.iter().zip(b.iter()).all(|((metric, a), (_, b))| {
            // A tolerance is never negative, so its magnitude is itself.
            a.abs_diff(b) <= tolerance.get(metric).unwrap_or(0).unsigned_abs()
        })
}

impl Plugin for Deduplication {
    fn process(&mut self, sample: &mut Sample) -> Verdict {
        if self.is_repeat(&sample.snapshot) {
            self.repeats = self.repeats.saturating_add(1);
            return Verdict::Drop;
        }
        sample.repeats = sample.repeats.saturating_add(self.repeats);
        self.repeats = 0;
        self.last_forwarded = Some(sample.snapshot);
        Verdict::Forward
    }
}

#[cfg(test)]
mod tests {
    use core::time::Duration;

    use super::*;
    use crate::metric::Metric;
    use crate::time::Instant;

    fn sample(at_s: u64, cpu: i64) -> Sample {
        Sample::from(Snapshot {
            taken_at: Instant::from_ms(at_s * 1000),
            wall_ms: 0,
            values: Values::from_iter([(Metric::CpuPercent, cpu), (Metric::MemoryPercent, 5)]),
        })
    }

    fn plugin(tolerance: i64) -> Deduplication {
        Deduplication::new(config::Deduplication {
            tolerance: Values::from_iter([(Metric::CpuPercent, tolerance)]),
            max_silence: Duration::from_secs(100),
        })
    }

    #[test]
    fn drops_equal_snapshots_and_counts_them_on_the_next() {
        let mut plugin = plugin(0);
        assert_eq!(plugin.process(&mut sample(0, 7)), Verdict::Forward);
        assert_eq!(plugin.process(&mut sample(1, 7)), Verdict::Drop);
        assert_eq!(plugin.process(&mut sample(2, 7)), Verdict::Drop);
        let mut changed = sample(3, 8);
        assert_eq!(plugin.process(&mut changed), Verdict::Forward);
        assert_eq!(changed.repeats, 2);
    }

    #[test]
    fn a_drift_within_the_tolerance_per_step_still_shows() {
        let mut plugin = plugin(2);
        let forwarded = |plugin: &mut Deduplication, at, cpu| {
            plugin.process(&mut sample(at, cpu)) == Verdict::Forward
        };
        assert!(forwarded(&mut plugin, 0, 10));
        assert!(!forwarded(&mut plugin, 1, 12));
        assert!(forwarded(&mut plugin, 2, 13));
    }

    #[test]
    fn the_longest_silence_is_kept() {
        let mut plugin = plugin(0);
        assert_eq!(plugin.process(&mut sample(0, 7)), Verdict::Forward);
        assert_eq!(plugin.process(&mut sample(99, 7)), Verdict::Drop);
        assert_eq!(plugin.process(&mut sample(100, 7)), Verdict::Forward);
    }

    #[test]
    fn a_metric_that_comes_or_goes_is_a_change() {
        let mut plugin = plugin(1000);
        assert_eq!(plugin.process(&mut sample(0, 0)), Verdict::Forward);
        let mut without = sample(1, 0);
        without.snapshot.values.clear(Metric::CpuPercent);
        assert_eq!(plugin.process(&mut without), Verdict::Forward);
    }

    #[test]
    fn the_ends_of_i64_do_not_wrap() {
        let mut plugin = plugin(i64::MAX);
        assert_eq!(plugin.process(&mut sample(0, i64::MIN)), Verdict::Forward);
        assert_eq!(plugin.process(&mut sample(1, i64::MAX)), Verdict::Forward);
    }
}
