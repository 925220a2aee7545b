//! Aggregation: tumbling windows of snapshots, forwarded as their averages.

use crate::config::{Settings, WindowEnd};
use crate::metric::{Metric, Values};
use crate::plugin::{Plugin, Verdict};
use crate::record::{Alert, Completeness, Marks, Sample, Snapshot, Window};
use crate::time::Instant;

/// Collects the snapshots of a window, then forwards one sample with the average of each metric and, beside it, minimum,
/// maximum, last value and count.
///
/// A window ends with its last snapshot when it is measured in snapshots. When it is measured in time, it ends with the
/// first snapshot that lies behind it, which opens the next one; windows then stand on a raster that begins half an
/// interval before the first snapshot, so that snapshots which come a little early or late fall into the same window as
/// without that. A window in which nothing was measured is left out.
///
/// An average is over the snapshots in which the metric was present, rounded to the nearest count, halves away
/// from zero. Sums are kept in 128 bits, so no value can wrap them. Times are those of the last snapshot. Alerts
/// that stood at any of the snapshots stay marked on the window.
#[derive(Clone, Debug)]
pub struct Aggregation {
    end: WindowEnd,
    half_interval_ms: u64,
    open: Option<OpenWindow>,
}

#[derive(Clone, Debug)]
struct OpenWindow {
    // On the raster, half an interval behind its start. The window's snapshots may be earlier by as much.
    starts_at: Instant,
    first_taken_at: Instant,
    last: Snapshot,
    count: u32,
    repeats: u32,
    marks: Marks,
    sums: [i128; Metric::COUNT],
    min: Values,
    max: Values,
    last_values: Values,
    counts: Values,
}

impl OpenWindow {
    const fn new(starts_at: Instant, first: &Snapshot) -> Self {
        Self {
            starts_at,
            first_taken_at: first.taken_at,
            last: *first,
            count: 0,
            repeats: 0,
            marks: Marks::NONE,
            sums: [0; Metric::COUNT],
            min: Values::EMPTY,
            max: Values::EMPTY,
            last_values: Values::EMPTY,
            counts: Values::EMPTY,
        }
    }

    fn add(&mut self, sample: &Sample) {
        self.last = sample.snapshot;
        self.count = self.count.saturating_add(1);
        self.repeats = self.repeats.saturating_add(sample.repeats);
        for (metric, limit, direction) in sample.marks.iter() {
            self.marks.set(metric, limit, direction);
        }
        for (metric, value) in sample.snapshot.values.iter() {
            self.sums[metric.index()] += i128::from(value);
            self.min.set(metric, self.min.get(metric).map_or(value, |min| min.min(value)));
            self.max.set(metric, self.max.get(metric).map_or(value, |max| max.max(value)));
            self.last_values.set(metric, value);
            self.counts.set(metric, self.counts.get(metric).unwrap_or(0) + 1);
        }
    }

    fn close(self, completeness: Completeness) -> Sample {
        let averages = self.counts.iter().map(|(metric, count)| {
            (metric, rounded_average(self.sums[metric.index()], i128::from(count)))
        });
        let snapshot = Snapshot { values: averages.collect(), ..self.last };
        let window = Window {
            count: self.count,
            first_taken_at: self.first_taken_at,
            completeness,
            min: self.min,
            max: self.max,
            last: self.last_values,
            counts: self.counts,
        };
        Sample { snapshot, window: Some(window), marks: self.marks, repeats: self.repeats }
    }
}

fn half_interval_ms(settings: &Settings) -> u64 {
    // An interval is at most a day.
    u64::try_from(settings.interval.as_millis()).unwrap_or(u64::MAX) / 2
}

/// The average of `count` values that add up to `sum`, halves rounded away from zero. `count` is at least 1.
fn rounded_average(sum: i128, count: i128) -> i64 {
    let half = if sum < 0 { -count } else { count };
    // An average lies between the least and the greatest value, which both are i64.
    i64::try_from((2 * sum + half) / (2 * count)).unwrap_or(i64::MAX)
}

impl Aggregation {
    /// A plugin without an open window.
    pub fn new(settings: &Settings) -> Self {
        Self { end: settings.window, half_interval_ms: half_interval_ms(settings), open: None }
    }

    fn process_counted(&mut self, sample: &mut Sample, size: u16) -> Verdict {
        let open = self.open.take();
        let mut window =
            open.unwrap_or_else(|| OpenWindow::new(sample.snapshot.taken_at, &sample.snapshot));
        window.add(sample);
        if window.count < u32::from(size) {
            self.open = Some(window);
            return Verdict::Hold;
        }
        let merged = u64::from(window.count) - 1;
        *sample = window.close(Completeness::Full);
        Verdict::ForwardMerged { merged }
    }

    fn process_timed(&mut self, sample: &mut Sample, length_ms: u64) -> Verdict {
        let now = sample.snapshot.taken_at;
        let Some(window) = &mut self.open else {
            self.open(now, sample);
            return Verdict::Hold;
        };
        let since_start_ms = now.as_ms().saturating_add(self.half_interval_ms);
        let elapsed_ms = since_start_ms.saturating_sub(window.starts_at.as_ms());
        if elapsed_ms < length_ms {
            window.add(sample);
            return Verdict::Hold;
        }
        let raster_ms = elapsed_ms - elapsed_ms % length_ms;
        let starts_at = Instant::from_ms(window.starts_at.as_ms().saturating_add(raster_ms));
        let Some(ended) = self.open.take() else { return Verdict::Hold };
        self.open(starts_at, sample);
        // The sample that came is held now, and what goes on stands for those of the window.
        let merged = u64::from(ended.count) - 1;
        *sample = ended.close(Completeness::Full);
        Verdict::ForwardMerged { merged }
    }

    fn open(&mut self, starts_at: Instant, first: &Sample) {
        let mut window = OpenWindow::new(starts_at, &first.snapshot);
        window.add(first);
        self.open = Some(window);
    }
}

impl Plugin for Aggregation {
    fn process(&mut self, sample: &mut Sample, _: &mut dyn FnMut(Alert)) -> Verdict {
        match self.end {
            WindowEnd::Snapshots(size) => self.process_counted(sample, size),
            WindowEnd::Duration(length) => {
                let length_ms = u64::try_from(length.as_millis()).unwrap_or(u64::MAX).max(1);
                self.process_timed(sample, length_ms)
            }
        }
    }

    fn flush(&mut self) -> Option<Sample> {
        Some(self.open.take()?.close(Completeness::Partial))
    }

    fn held(&self) -> u64 {
        self.open.as_ref().map_or(0, |window| u64::from(window.count))
    }

    /// The chain has flushed the open window as a partial one before.
    fn reconfigure(&mut self, settings: &Settings, _: &mut dyn FnMut(Alert)) {
        *self = Self::new(settings);
    }
}

#[cfg(test)]
mod tests {
    use core::time::Duration;

    use super::*;

    fn sample(at_ms: u64, pairs: &[(Metric, i64)]) -> Sample {
        let values = pairs.iter().copied().collect();
        Sample::from(Snapshot { taken_at: Instant::from_ms(at_ms), wall_ms: 1, values })
    }

    fn plugin(window: WindowEnd) -> Aggregation {
        let interval = Duration::from_millis(20);
        Aggregation::new(&Settings { window, interval, ..Settings::default() })
    }

    #[test]
    fn a_full_window_is_forwarded_as_its_averages() {
        let mut plugin = plugin(WindowEnd::Snapshots(3));
        assert_eq!(
            plugin.process(&mut sample(10, &[(Metric::NetIn, 1)]), &mut |_| ()),
            Verdict::Hold
        );
        assert_eq!(
            plugin.process(&mut sample(20, &[(Metric::NetIn, 2)]), &mut |_| ()),
            Verdict::Hold
        );
        assert_eq!(plugin.held(), 2);
        let mut last = sample(30, &[(Metric::NetIn, 5), (Metric::NetOut, 9)]);
        assert_eq!(plugin.process(&mut last, &mut |_| ()), Verdict::ForwardMerged { merged: 2 });
        assert_eq!(plugin.held(), 0);
        assert_eq!(last.snapshot.taken_at, Instant::from_ms(30));
        assert_eq!(last.snapshot.values.get(Metric::NetIn), Some(3));
        assert_eq!(last.snapshot.values.get(Metric::NetOut), Some(9));
        let window = last.window.unwrap();
        assert_eq!((window.count, window.completeness), (3, Completeness::Full));
        assert_eq!(window.first_taken_at, Instant::from_ms(10));
        assert_eq!(window.min.get(Metric::NetIn), Some(1));
        assert_eq!(window.max.get(Metric::NetIn), Some(5));
        assert_eq!(window.last.get(Metric::NetIn), Some(5));
        assert_eq!(window.counts.get(Metric::NetIn), Some(3));
        assert_eq!(window.counts.get(Metric::NetOut), Some(1));
    }

    #[test]
    fn a_window_cut_short_comes_out_as_partial() {
        let mut plugin = plugin(WindowEnd::Snapshots(3));
        assert_eq!(plugin.flush(), None);
        assert_eq!(
            plugin.process(&mut sample(10, &[(Metric::NetIn, 4)]), &mut |_| ()),
            Verdict::Hold
        );
        let cut = plugin.flush().unwrap();
        assert_eq!(cut.window.unwrap().completeness, Completeness::Partial);
        assert_eq!(cut.snapshot.values.get(Metric::NetIn), Some(4));
        assert_eq!((plugin.held(), plugin.flush()), (0, None));
    }

    #[test]
    fn a_window_of_time_ends_with_the_first_snapshot_behind_it() {
        let mut plugin = plugin(WindowEnd::Duration(Duration::from_millis(100)));
        let mut closed = std::vec::Vec::new();
        for at_ms in [10, 50, 99, 100, 111, 470, 520] {
            let mut sample = sample(at_ms, &[(Metric::NetIn, i64::try_from(at_ms).unwrap())]);
            match plugin.process(&mut sample, &mut |_| ()) {
                Verdict::Hold => {}
                Verdict::ForwardMerged { merged } => {
                    let window = sample.window.unwrap();
                    assert_eq!(window.completeness, Completeness::Full);
                    assert_eq!(u64::from(window.count), merged + 1);
                    let times = (window.first_taken_at, sample.snapshot.taken_at);
                    closed.push((times.0.as_ms(), times.1.as_ms(), at_ms));
                }
                other => panic!("{other:?}"),
            }
        }
        // The raster is 0, 100, 200, ...; nothing fell into 200 to 400.
        assert_eq!(closed, [(10, 99, 100), (100, 111, 470), (470, 470, 520)]);
        assert_eq!(plugin.held(), 1);
        assert_eq!(plugin.flush().unwrap().window.unwrap().completeness, Completeness::Partial);
    }

    #[test]
    fn snapshots_that_come_early_or_late_make_windows_of_one_size() {
        let window = WindowEnd::Duration(Duration::from_secs(3));
        let interval = Duration::from_secs(1);
        let mut plugin = Aggregation::new(&Settings { window, interval, ..Settings::default() });
        let jitter = [3, 0, 5, 0, 0, 1, 2, 7, 0, 0, 4, 1];
        for (number, jitter_ms) in (0_u64..).zip(jitter) {
            let mut sample = sample(1000 * number + jitter_ms, &[(Metric::NetIn, 1)]);
            if plugin.process(&mut sample, &mut |_| ()) != Verdict::Hold {
                assert_eq!(sample.window.unwrap().count, 3, "{number}");
            }
        }
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
