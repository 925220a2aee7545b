//! From records of the wire to samples that can be shown.

use agent_core::id::{BootId, Sequence};
use agent_core::metric::{Metric, MetricSet, Values};
use agent_core::record::Direction;
use proto::convert::{CountsError, values_from_counts};
use proto::{Alert, MetricsRecord, Record, Window};

/// A record that was checked, with the metrics that were asked for.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Sample {
    // Invariant: `record.record` is there, and each of its lists has one count per bit of `present`.
    record: MetricsRecord,
    values: Values,
}

/// What names a record for ever. A plain client's record has no name, and is never a repeat.
pub(crate) fn identity(record: &MetricsRecord) -> Option<(BootId, Sequence)> {
    let sequence = record.record.as_ref()?.sequence;
    Some((record.boot?.into(), Sequence::new(sequence)?))
}

impl Sample {
    /// Checks a record and leaves in it the metrics `wanted`, everywhere.
    pub(crate) fn decode(
        mut record: MetricsRecord,
        wanted: MetricSet,
    ) -> Result<Self, CountsError> {
        let body = record.record.get_or_insert_default();
        let values = pick(body.present, &mut body.values, wanted)?;
        if let Some(window) = &mut body.window {
            pick(body.present, &mut window.min, wanted)?;
            pick(body.present, &mut window.max, wanted)?;
            // A writer of an earlier version has no last values, and without counts each metric was always present.
            if !window.last.is_empty() {
                pick(body.present, &mut window.last, wanted)?;
            }
            if !window.counts.is_empty() {
                let mut counts = window.counts.iter().copied().map(i64::from).collect();
                pick(body.present, &mut counts, wanted)?;
                window.counts = counts.into_iter().flat_map(u32::try_from).collect();
            }
        }
        body.present = values.present().bits();
        body.alerts.retain(|alert| {
            Metric::from_id(alert.metric).is_some_and(|metric| wanted.contains(metric))
        });
        Ok(Self { record, values })
    }

    pub(crate) const fn record(&self) -> &MetricsRecord {
        &self.record
    }

    pub(crate) fn agent_id(&self) -> &str {
        &self.record.agent_id
    }

    pub(crate) const fn values(&self) -> &Values {
        &self.values
    }

    /// Unix milliseconds by the agent's clock.
    pub(crate) fn timestamp_ms(&self) -> i64 {
        self.body().map_or(0, |body| body.timestamp_ms)
    }

    pub(crate) fn identity(&self) -> Option<(BootId, Sequence)> {
        identity(&self.record)
    }

    /// Metrics beyond their limit.
    pub(crate) fn marks(&self) -> impl Iterator<Item = Mark> {
        let alerts = self.body().map_or(&[][..], |body| &body.alerts);
        alerts.iter().filter_map(Mark::of)
    }

    pub(crate) fn window(&self) -> Option<&Window> {
        self.body()?.window.as_ref()
    }

    /// Snapshots suppressed as repeats before this one.
    pub(crate) fn repeats(&self) -> u32 {
        self.body().map_or(0, |body| body.repeats)
    }

    const fn body(&self) -> Option<&Record> {
        self.record.record.as_ref()
    }
}

/// An alert that stands at a sample.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Mark {
    pub(crate) metric: Metric,
    /// A count of the metric's resolution.
    pub(crate) limit: i64,
    pub(crate) direction: Direction,
}

impl Mark {
    fn of(alert: &Alert) -> Option<Self> {
        let metric = Metric::from_id(alert.metric)?;
        Some(Self { metric, limit: alert.limit, direction: direction(alert.below) })
    }
}

/// On which side of its limit a value is wrong.
pub(crate) const fn direction(below: bool) -> Direction {
    if below { Direction::Below } else { Direction::Above }
}

/// Leaves in `counts` those of the metrics `wanted`, and gives them as values.
fn pick(present: u64, counts: &mut Vec<i64>, wanted: MetricSet) -> Result<Values, CountsError> {
    let all = values_from_counts(present, counts)?;
    let picked: Values = all.iter().filter(|(metric, _)| wanted.contains(*metric)).collect();
    *counts = picked.iter().map(|(_, count)| count).collect();
    Ok(picked)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record() -> MetricsRecord {
        MetricsRecord {
            agent_id: "a".into(),
            record: Some(Record {
                // cpu_percent, disk_read_mb, and one of a version to come
                present: 1 | 1 << 4 | 1 << 40,
                values: vec![10, 20, 30],
                window: Some(Window {
                    count: 2,
                    min: vec![1, 2, 3],
                    max: vec![4, 5, 6],
                    last: vec![3, 3, 3],
                    counts: vec![1, 2, 1],
                    ..Window::default()
                }),
                alerts: [0, 4, 40]
                    .map(|metric| Alert { metric, limit: 1, below: metric == 4 })
                    .to_vec(),
                ..Record::default()
            }),
            ..MetricsRecord::default()
        }
    }

    #[test]
    fn only_what_is_wanted_stays_everywhere() {
        let wanted = [Metric::DiskRead, Metric::NetIn].into_iter().collect();
        let sample = Sample::decode(record(), wanted).unwrap();
        let values: Vec<_> = sample.values().iter().collect();
        assert_eq!(values, [(Metric::DiskRead, 20)]);
        let window = sample.window().unwrap();
        assert_eq!(
            (&window.min[..], &window.max[..], &window.last[..]),
            (&[2][..], &[5][..], &[3][..])
        );
        assert_eq!(window.counts, [2]);
        let marks: Vec<_> = sample.marks().collect();
        let floor = Mark { metric: Metric::DiskRead, limit: 1, direction: Direction::Below };
        assert_eq!(marks, [floor]);
    }

    #[test]
    fn a_window_of_an_earlier_version_has_neither_last_values_nor_counts() {
        let mut record = record();
        let window = record.record.as_mut().unwrap().window.as_mut().unwrap();
        window.last.clear();
        window.counts.clear();
        let sample = Sample::decode(record, MetricSet::ALL).unwrap();
        let window = sample.window().unwrap();
        assert_eq!((window.last.len(), window.counts.len()), (0, 0));
    }

    #[test]
    fn lists_that_do_not_fit_are_refused() {
        let mut short_values = record();
        short_values.record.as_mut().unwrap().values.pop();
        assert!(Sample::decode(short_values, MetricSet::ALL).is_err());

        let mut long_window = record();
        let body = long_window.record.as_mut().unwrap();
        body.window.as_mut().unwrap().max.push(7);
        assert!(Sample::decode(long_window, MetricSet::ALL).is_err());

        let mut short_counts = record();
        let body = short_counts.record.as_mut().unwrap();
        body.window.as_mut().unwrap().counts.pop();
        assert!(Sample::decode(short_counts, MetricSet::ALL).is_err());
    }

    #[test]
    fn a_name_needs_a_boot_and_a_sequence() {
        let mut record = record();
        assert_eq!(identity(&record), None);
        record.boot = Some(proto::Boot::default());
        assert_eq!(identity(&record), None);
        record.record.as_mut().unwrap().sequence = 1;
        assert!(identity(&record).is_some());
    }
}
