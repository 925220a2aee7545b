//! Deduplication: a snapshot that says what the last one sent said is dropped.

use crate::config::{self, Settings, Tolerance};
use crate::metric::Values;
use crate::plugin::{DropReason, Plugin, Verdict};
use crate::record::{Alert, Sample, Window};
use crate::time::Instant;

/// Drops a sample when the same metrics are present as in the last one forwarded, every value is within its tolerance
/// of the value there, and that one is younger than the longest silence. Of a window, its least, greatest and last
/// values must be within the tolerance as well, and as many snapshots must be in it.
///
/// Comparing with the last one forwarded, not with the last one seen, keeps a slow drift visible. The next
/// sample carries how many were dropped before it, so a reader can rebuild the series: exactly without a tolerance, else
/// within it. A sample on which the alerts differ from those of the last one is never a repeat.
#[derive(Clone, Debug)]
pub struct Deduplication {
    settings: config::Deduplication,
    last_forwarded: Option<Sample>,
    repeats: u32,
}

impl Deduplication {
    /// A plugin that has seen nothing.
    pub const fn new(settings: &Settings) -> Self {
        Self { settings: settings.deduplication, last_forwarded: None, repeats: 0 }
    }

    fn is_repeat(&self, sample: &Sample) -> bool {
        self.last_forwarded.as_ref().is_some_and(|last| {
            let age = taken_at(sample) - taken_at(last);
            age < self.settings.max_silence
                && sample.marks == last.marks
                && self.is_within(&last.snapshot.values, &sample.snapshot.values)
                && self.is_window_within(last.window.as_ref(), sample.window.as_ref())
        })
    }

    fn is_window_within(&self, last: Option<&Window>, window: Option<&Window>) -> bool {
        match (last, window) {
            (None, None) => true,
            (Some(last), Some(window)) => {
                last.count == window.count
                    && last.completeness == window.completeness
                    && last.counts == window.counts
                    && self.is_within(&last.min, &window.min)
                    && self.is_within(&last.max, &window.max)
                    && self.is_within(&last.last, &window.last)
            }
            (None, Some(_)) | (Some(_), None) => false,
        }
    }

    /// Whether both have the same metrics, each of `values` within its tolerance of that of `last`.
    fn is_within(&self, last: &Values, values: &Values) -> bool {
        last.present() == values.present()
            && last.iter().zip(values.iter()).all(|((metric, last), (_, value))| {
                self.settings.tolerance.of(metric).allows(last, value)
            })
    }
}

const fn taken_at(sample: &Sample) -> Instant {
    sample.snapshot.taken_at
}

impl Tolerance {
    /// Whether `value` is near enough to `last`.
    fn allows(self, last: i64, value: i64) -> bool {
        let change = last.abs_diff(value);
        match self {
            // It is never negative, so its magnitude is itself.
            Self::Absolute(counts) => change <= counts.unsigned_abs(),
            // Both products are below 2^78.
            Self::Relative { hundredths } => {
                u128::from(change) * 10_000
                    <= u128::from(last.unsigned_abs()) * u128::from(hundredths)
            }
        }
    }
}

impl Plugin for Deduplication {
    fn process(&mut self, sample: &mut Sample, _: &mut dyn FnMut(Alert)) -> Verdict {
        if self.is_repeat(sample) {
            self.repeats = self.repeats.saturating_add(1);
            return Verdict::Drop(DropReason::Unchanged);
        }
        sample.repeats = sample.repeats.saturating_add(self.repeats);
        self.repeats = 0;
        self.last_forwarded = Some(sample.clone());
        Verdict::Forward
    }

    /// What was forwarded last is still what the reader has: the next sample is compared with it, in the new way.
    fn reconfigure(&mut self, settings: &Settings, _: &mut dyn FnMut(Alert)) {
        self.settings = settings.deduplication;
    }
}

#[cfg(test)]
mod tests {
    use core::time::Duration;

    use super::*;
    use crate::config::Tolerances;
    use crate::metric::Metric;
    use crate::record::{Completeness, Direction, Snapshot};

    fn sample(at_s: u64, cpu: i64) -> Sample {
        Sample::from(Snapshot {
            taken_at: Instant::from_ms(at_s * 1000),
            wall_ms: 0,
            values: Values::from_iter([(Metric::CpuPercent, cpu)]),
        })
    }

    fn plugin(tolerance: Tolerance) -> Deduplication {
        let mut tolerances = Tolerances::EXACT;
        tolerances.set(Metric::CpuPercent, tolerance);
        let deduplication =
            config::Deduplication { tolerance: tolerances, max_silence: Duration::from_secs(60) };
        Deduplication::new(&Settings { deduplication, ..Settings::default() })
    }

    /// Hands in one sample a second. Answers which go on.
    fn run(plugin: &mut Deduplication, samples: &mut [Sample]) -> std::vec::Vec<bool> {
        let forwarded = |sample| plugin.process(sample, &mut |_| ()) == Verdict::Forward;
        samples.iter_mut().map(forwarded).collect()
    }

    #[test]
    fn repeats_are_dropped_and_counted_on_the_next_one() {
        let mut samples = [sample(0, 5), sample(1, 5), sample(2, 5), sample(3, 6)];
        let mut plugin = plugin(Tolerance::EXACT);
        assert_eq!(run(&mut plugin, &mut samples), [true, false, false, true]);
        assert_eq!(samples[3].repeats, 2);
    }

    #[test]
    fn drift_is_measured_from_what_was_sent() {
        let mut samples = [sample(0, 100), sample(1, 101), sample(2, 102), sample(3, 103)];
        let mut plugin = plugin(Tolerance::Absolute(2));
        assert_eq!(run(&mut plugin, &mut samples), [true, false, false, true]);
    }

    #[test]
    fn a_relative_tolerance_grows_with_what_was_sent() {
        let mut samples = [sample(0, 1000), sample(1, 1050), sample(2, 949), sample(3, 0)];
        let mut relative = plugin(Tolerance::Relative { hundredths: 500 });
        assert_eq!(run(&mut relative, &mut samples), [true, false, true, true]);
        let mut ends = [sample(0, i64::MIN), sample(1, i64::MAX), sample(2, 0)];
        let mut double = plugin(Tolerance::Relative { hundredths: 20_000 });
        assert_eq!(run(&mut double, &mut ends), [true, false, false]);
    }

    #[test]
    fn silence_ends_after_its_longest_time() {
        let mut samples = [sample(0, 5), sample(59, 5), sample(60, 5), sample(61, 5)];
        let mut plugin = plugin(Tolerance::EXACT);
        assert_eq!(run(&mut plugin, &mut samples), [true, false, true, false]);
        assert_eq!(samples[2].repeats, 1);
    }

    #[test]
    fn an_alert_that_comes_or_goes_is_news() {
        let mut samples = [sample(0, 5), sample(1, 5), sample(2, 5)];
        samples[1].marks.set(Metric::CpuPercent, 4, Direction::Above);
        let mut plugin = plugin(Tolerance::Absolute(100));
        assert_eq!(run(&mut plugin, &mut samples), [true, true, true]);
    }

    #[test]
    fn a_window_repeats_only_with_its_bounds() {
        let window = |at_s, max| {
            let bound = |count| Values::from_iter([(Metric::CpuPercent, count)]);
            let mut sample = sample(at_s, 5);
            sample.window = Some(Window {
                count: 2,
                first_taken_at: Instant::from_ms(at_s * 1000),
                completeness: Completeness::Full,
                min: bound(1),
                max: bound(max),
                last: bound(2),
                counts: bound(2),
            });
            sample
        };
        let mut samples = [window(0, 9), window(1, 9), window(2, 10), sample(3, 5)];
        let mut plugin = plugin(Tolerance::EXACT);
        assert_eq!(run(&mut plugin, &mut samples), [true, false, true, true]);
    }

    #[test]
    fn a_new_tolerance_is_measured_from_what_was_sent() {
        let mut plugin = plugin(Tolerance::EXACT);
        let mut samples = [sample(0, 100), sample(1, 100)];
        run(&mut plugin, &mut samples);
        let mut settings = Settings::default();
        settings.deduplication.tolerance.set(Metric::CpuPercent, Tolerance::Absolute(5));
        plugin.reconfigure(&settings, &mut |_| ());
        let mut samples = [sample(2, 105), sample(3, 106)];
        assert_eq!(run(&mut plugin, &mut samples), [false, true]);
        assert_eq!(samples[1].repeats, 2);
    }
}
