//! Aggregation: tumbling windows of snapshots, forwarded as their averages.

use crate::metric::{Metric, Values};
use crate::plugin::{Plugin, Verdict};
use crate::record::{Completeness, Sample, Snapshot, Window};
use crate::time::Instant;

/// Collects a fixed number of snapshots, then forwards one sample with the average of each metric and, beside
/// it, minimum, maximum and count.
///
/// An average is over the snapshots in which the metric was present, rounded to the nearest count, halves away
/// from zero. Sums are kept in 128 bits, so no value can wrap them. Times are those of the last snapshot. Alerts
/// that a stage before raised on any of the snapshots stay on the window, one per metric.
#[derive(Clone, Debug)]
pub struct Aggregation {
    window_size: u16,
    open: Option<OpenWindow>,
}

#[derive(Clone, Debug)]
struct OpenWindow {
    first_taken_at: Instant,
    last: Snapshot,
    count: u16,
    repeats: u32,
    alerts: Values,
    sums: [i128; Metric::COUNT],
    counts: [u16; Metric::COUNT],
    min: Values,
    max: Values,
}

impl OpenWindow {
    fn new(first: &Snapshot) -> Self {
        Self {
            first_taken_at: first.taken_at,
            last: *first,
            count: 0,
            repeats: 0,
            alerts: Values::EMPTY,
            sums: [0; Metric::COUNT],
            counts: [0; Metric::COUNT],
            min: Values::EMPTY,
            max: Values::EMPTY,
        }
    }

    fn add(&mut self, sample: &Sample) {
        self.last = sample.snapshot;
        self.count = self.count.saturating_add(1);
        self.repeats = self.repeats.saturating_add(sample.repeats);
        for (metric, limit) in sample.alerts.iter() {
            self.alerts.set(metric, limit);
        }
        for (metric, count) in sample.snapshot.values.iter() {
            self.sums[metric.index()] += i128::from(count);
            self.counts[metric.index()] += 1;
            self.min.set(metric, self.min.get(metric).map_or(count, |min| min.min(count)));
            self.max.set(metric, self.max.get(metric).map_or(count, |max| max.max(count)));
        }
    }

    fn close(self, completeness: Completeness) -> Sample {
        let averages = self.min.present().iter().map(|metric| {
            let index = metric.index();
            (metric, rounded_average(self.sums[index], self.counts[index]))
        });
        let snapshot = Snapshot { values: averages.collect(), ..self.last };
        let window = Window {
            count: self.count,
            first_taken_at: self.first_taken_at,
            min: self.min,
            max: self.max,
            completeness,
        };
        Sample { snapshot, window: Some(window), alerts: self.alerts, repeats: self.repeats }
    }
}

/// The average of `count` values that add up to `sum`, halves rounded away from zero.
fn rounded_average(sum: i128, count: u16) -> i64 {
    let count = i128::from(count.max(1));
    let half = if sum < 0 { -count } else { count };
    // An average lies between the least and the greatest value, which both are i64.
    i64::try_from((2 * sum + half) / (2 * count)).unwrap_or(i64::MAX)
}

impl Aggregation {
    /// A plugin with an empty window of `window_size` snapshots.
    pub const fn new(window_size: u16) -> Self {
        Self { window_size, open: None }
    }

    /// Snapshots in a full window.
    pub const fn window_size(&self) -> u16 {
        self.window_size
    }
}

impl Plugin for Aggregation {
    fn process(&mut self, sample: &mut Sample) -> Verdict {
        let mut window = self.open.take().unwrap_or_else(|| OpenWindow::new(&sample.snapshot));
        window.add(sample);
        if window.count < self.window_size {
            self.open = Some(window);
            return Verdict::Hold;
        }
        let merged = u64::from(window.count) - 1;
        *sample = window.close(Completeness::Full);
        Verdict::ForwardMerged { merged }
    }

    fn flush(&mut self) -> Option<Sample> {
        Some(self.open.take()?.close(Completeness::Partial))
    }

    fn held(&self) -> u64 {
        self.open.as_ref().map_or(0, |window| u64::from(window.count))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(at_ms: u64, pairs: &[(Metric, i64)]) -> Sample {
        let values = pairs.iter().copied().collect();
        Sample::from(Snapshot { taken_at: Instant::from_ms(at_ms), wall_ms: 1, values })
    }

    #[test]
    fn a_full_window_is_forwarded_as_its_averages() {
        let mut plugin = Aggregation::new(3);
        assert_eq!(plugin.process(&mut sample(10, &[(Metric::NetIn, 1)])), Verdict::Hold);
        assert_eq!(plugin.process(&mut sample(20, &[(Metric::NetIn, 2)])), Verdict::Hold);
        assert_eq!(plugin.held(), 2);
        let mut last = sample(30, &[(Metric::NetIn, 5), (Metric::NetOut, 9)]);
        assert_eq!(plugin.process(&mut last), Verdict::ForwardMerged { merged: 2 });
        assert_eq!(plugin.held(), 0);
        assert_eq!(last.snapshot.taken_at, Instant::from_ms(30));
        assert_eq!(last.snapshot.values.get(Metric::NetIn), Some(3));
        assert_eq!(last.snapshot.values.get(Metric::NetOut), Some(9));
        let window = last.window.unwrap();
        assert_eq!((window.count, window.completeness), (3, Completeness::Full));
        assert_eq!(window.first_taken_at, Instant::from_ms(10));
        assert_eq!(window.min.get(Metric::NetIn), Some(1));
        assert_eq!(window.max.get(Metric::NetIn), Some(5));
    }

    #[test]
    fn a_window_cut_short_comes_out_as_partial() {
        let mut plugin = Aggregation::new(3);
        assert_eq!(plugin.flush(), None);
        assert_eq!(plugin.process(&mut sample(10, &[(Metric::NetIn, 4)])), Verdict::Hold);
        let cut = plugin.flush().unwrap();
        assert_eq!(cut.window.unwrap().completeness, Completeness::Partial);
        assert_eq!(cut.snapshot.values.get(Metric::NetIn), Some(4));
        assert_eq!((plugin.held(), plugin.flush()), (0, None));
    }

    #[test]
    fn averages_round_halves_away_from_zero_and_never_wrap() {
        assert_eq!(rounded_average(3, 2), 2);
        assert_eq!(rounded_average(-3, 2), -2);
        assert_eq!(rounded_average(4, 3), 1);
        assert_eq!(rounded_average(5, 3), 2);
        assert_eq!(rounded_average(i128::from(i64::MAX) * 3600, 3600), i64::MAX);
        assert_eq!(rounded_average(i128::from(i64::MIN) * 3600, 3600), i64::MIN);
    }
}
