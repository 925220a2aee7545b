//! Conversions between the wire's forms and the types of `agent-core`.

use agent_core::id::{BootId, Sequence};
use agent_core::metric::{Metric, MetricSet, Values};
use agent_core::record::{Alert, Completeness, Direction, Marks, Sample, Severity, Transition};

use crate::{AlertRecord, AlertSeverity, AlertTransition, Boot, Record, SystemMetrics};

impl From<BootId> for Boot {
    fn from(boot: BootId) -> Self {
        Self { counter: boot.counter, nonce: boot.nonce }
    }
}

impl From<Boot> for BootId {
    fn from(boot: Boot) -> Self {
        Self { counter: boot.counter, nonce: boot.nonce }
    }
}

/// A value of a fixed gRPC or JSON form that no metric can have.
#[derive(Clone, Copy, Debug, PartialEq, thiserror::Error)]
#[error("{metric} is {value}, which is not a finite number in range")]
pub struct ValueError {
    /// Which metric.
    pub metric: Metric,
    /// What was given.
    pub value: f64,
}

/// Below this magnitude (2^50 counts, of bytes a PiB) a count survives the way through units and back, which rounds
/// twice. No host has more.
const COUNT_MAX: f64 = 1_125_899_906_842_624.0;

/// The count that stands nearest to `value` units of `metric`.
///
/// # Errors
///
/// When `value` is not finite or beyond 2^50 counts.
pub fn count_from_units(metric: Metric, value: f64) -> Result<i64, ValueError> {
    #[expect(clippy::cast_precision_loss, reason = "a resolution is far below 2^53")]
    let count = (value * metric.counts_per_unit() as f64).round();
    if !count.is_finite() || count.abs() >= COUNT_MAX {
        return Err(ValueError { metric, value });
    }
    #[expect(clippy::cast_possible_truncation, reason = "checked against 2^50 above")]
    let count = count as i64;
    Ok(count)
}

/// `count` in units of `metric`. Exact below 2^53 counts, rounded to the nearest double above.
pub fn units_from_count(metric: Metric, count: i64) -> f64 {
    #[expect(clippy::cast_precision_loss, reason = "documented: rounded above 2^53 counts")]
    let units = count as f64 / metric.counts_per_unit() as f64;
    units
}

impl SystemMetrics {
    /// The field of one of the eight fixed metrics; none for any other, which goes into `more`.
    const fn field(&self, metric: Metric) -> Option<f64> {
        Some(match metric {
            Metric::CpuPercent => self.cpu_percent,
            Metric::MemoryPercent => self.memory_percent,
            Metric::MemoryUsed => self.memory_used_mb,
            Metric::MemoryTotal => self.memory_total_mb,
            Metric::DiskRead => self.disk_read_mb,
            Metric::DiskWrite => self.disk_write_mb,
            Metric::NetIn => self.net_in_mb,
            Metric::NetOut => self.net_out_mb,
            _ => return None,
        })
    }

    const fn field_mut(&mut self, metric: Metric) -> Option<&mut f64> {
        Some(match metric {
            Metric::CpuPercent => &mut self.cpu_percent,
            Metric::MemoryPercent => &mut self.memory_percent,
            Metric::MemoryUsed => &mut self.memory_used_mb,
            Metric::MemoryTotal => &mut self.memory_total_mb,
            Metric::DiskRead => &mut self.disk_read_mb,
            Metric::DiskWrite => &mut self.disk_write_mb,
            Metric::NetIn => &mut self.net_in_mb,
            Metric::NetOut => &mut self.net_out_mb,
            _ => return None,
        })
    }
}

impl From<&Values> for SystemMetrics {
    fn from(values: &Values) -> Self {
        let mut metrics = Self { present: values.present().bits(), ..Self::default() };
        for (metric, count) in values.iter() {
            match metrics.field_mut(metric) {
                Some(field) => *field = units_from_count(metric, count),
                None => metrics.more.push(count),
            }
        }
        metrics
    }
}

/// Why a [`SystemMetrics`] makes no values.
#[derive(Clone, Copy, Debug, PartialEq, thiserror::Error)]
pub enum SystemMetricsError {
    /// One of the eight doubles.
    #[error(transparent)]
    Value(#[from] ValueError),
    /// The counts beyond them.
    #[error("metrics beyond the eight: {0}")]
    Counts(#[from] CountsError),
}

impl TryFrom<&SystemMetrics> for Values {
    type Error = SystemMetricsError;

    fn try_from(metrics: &SystemMetrics) -> Result<Self, SystemMetricsError> {
        let present = match metrics.present {
            0 => MetricSet::FIXED.bits(),
            bits => bits,
        };
        // Bits of metrics that this version does not know have counts as well.
        let mut values = values_from_counts(present & !MetricSet::FIXED.bits(), &metrics.more)?;
        for metric in MetricSet::from_bits_truncate(present).iter() {
            if let Some(units) = metrics.field(metric) {
                values.set(metric, count_from_units(metric, units)?);
            }
        }
        Ok(values)
    }
}

/// A list of counts that does not fit its bit set.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{counts} values for {present} metrics")]
pub struct CountsError {
    /// How many counts there are.
    pub counts: usize,
    /// How many metrics the bit set has.
    pub present: u32,
}

/// Reads `counts`, one per set bit of `present` in rising order. Metrics that this version does not know are
/// left out.
///
/// # Errors
///
/// When there are more or fewer counts than set bits.
pub fn values_from_counts(present: u64, counts: &[i64]) -> Result<Values, CountsError> {
    if usize::try_from(present.count_ones()) != Ok(counts.len()) {
        return Err(CountsError { counts: counts.len(), present: present.count_ones() });
    }
    let ids = (0..u64::BITS).filter(|id| present & (1 << id) != 0);
    Ok(ids.zip(counts).filter_map(|(id, count)| Some((Metric::from_id(id)?, *count))).collect())
}

/// The metadata that mirrors alerts, as the existing system's threshold plugin writes it: `alerts`, such as
/// `cpu_percent 91.20 > 80.00, net_in_mb 60.00 > 50.00`, and `alert_count`. Nothing when there are none.
///
/// An alert that stands because of its hysteresis may have a value that is within the limit.
pub fn alerts_metadata(values: &Values, marks: &Marks) -> Vec<(&'static str, String)> {
    let describe = |(metric, limit, direction): (Metric, i64, Direction)| {
        let value = units_from_count(metric, values.get(metric).unwrap_or(limit));
        let sign = match direction {
            Direction::Above => '>',
            Direction::Below => '<',
        };
        format!("{metric} {value:.2} {sign} {:.2}", units_from_count(metric, limit))
    };
    let alerts = marks.iter().map(describe).collect::<Vec<_>>();
    if alerts.is_empty() {
        return Vec::new();
    }
    vec![("alerts", alerts.join(", ")), ("alert_count", alerts.len().to_string())]
}

impl From<Transition> for AlertTransition {
    fn from(transition: Transition) -> Self {
        match transition {
            Transition::Raised => Self::Raised,
            Transition::Cleared => Self::Cleared,
            Transition::Withdrawn => Self::Withdrawn,
        }
    }
}

impl From<Severity> for AlertSeverity {
    fn from(severity: Severity) -> Self {
        match severity {
            Severity::Info => Self::Info,
            Severity::Warning => Self::Warning,
            Severity::Critical => Self::Critical,
        }
    }
}

/// The wire's form of an alert that has this sequence.
pub fn alert_record(sequence: Sequence, alert: &Alert) -> AlertRecord {
    AlertRecord {
        sequence: sequence.number(),
        timestamp_ms: alert.wall_ms,
        metric: u32::from(alert.metric.id()),
        transition: AlertTransition::from(alert.transition).into(),
        severity: AlertSeverity::from(alert.severity).into(),
        below: alert.direction == Direction::Below,
        limit: alert.limit,
        value: alert.value,
        lasted_ms: u64::try_from(alert.lasted.as_millis()).unwrap_or(u64::MAX),
        uptime_ms: alert.taken_at.as_ms(),
    }
}

/// The wire's form of a sample that has this sequence.
pub fn record(sequence: Sequence, sample: &Sample) -> Record {
    let counts = |values: &Values| values.iter().map(|(_, count)| count).collect();
    let snapshot = &sample.snapshot;
    let window = sample.window.map(|window| {
        let whole = window.counts.iter().all(|(_, count)| count == i64::from(window.count));
        let present = window.counts.iter().map(|(_, count)| u32::try_from(count).unwrap_or(0));
        let duration = snapshot.taken_at - window.first_taken_at;
        crate::Window {
            count: window.count,
            duration_ms: u64::try_from(duration.as_millis()).unwrap_or(u64::MAX),
            min: counts(&window.min),
            max: counts(&window.max),
            partial: window.completeness == Completeness::Partial,
            last: counts(&window.last),
            counts: if whole { Vec::new() } else { present.collect() },
        }
    });
    let alerts = sample.marks.iter().map(|(metric, limit, direction)| crate::Alert {
        metric: u32::from(metric.id()),
        limit,
        below: direction == Direction::Below,
    });
    Record {
        sequence: sequence.number(),
        timestamp_ms: snapshot.wall_ms,
        present: snapshot.values.present().bits(),
        values: counts(&snapshot.values),
        window,
        alerts: alerts.collect(),
        repeats: sample.repeats,
        uptime_ms: snapshot.taken_at.as_ms(),
    }
}

#[cfg(test)]
mod tests {
    use agent_core::record::Snapshot;
    use agent_core::time::Instant;
    use proptest::prelude::*;

    use super::*;

    fn some_values() -> impl Strategy<Value = Values> {
        let pair = (0..21_u32, -(1_i64 << 50)..(1_i64 << 50));
        prop::collection::vec(pair, 0..21).prop_map(|pairs| {
            pairs
                .into_iter()
                .filter_map(|(id, count)| Some((Metric::from_id(id)?, count)))
                .collect()
        })
    }

    proptest! {
        #[test]
        fn doubles_carry_counts_exactly(values in some_values()) {
            prop_assume!(!values.present().is_empty());
            let metrics = SystemMetrics::from(&values);
            prop_assert_eq!(Values::try_from(&metrics), Ok(values));
        }

        #[test]
        fn counts_read_back_by_their_bits(values in some_values()) {
            let counts = values.iter().map(|(_, count)| count).collect::<Vec<_>>();
            prop_assert_eq!(values_from_counts(values.present().bits(), &counts), Ok(values));
        }
    }

    #[test]
    fn a_writer_without_the_present_field_measured_all_eight() {
        let metrics = SystemMetrics { cpu_percent: 12.5, ..SystemMetrics::default() };
        let values = Values::try_from(&metrics).unwrap();
        assert_eq!(values.present(), MetricSet::FIXED);
        assert_eq!(values.get(Metric::CpuPercent), Some(1250));
    }

    #[test]
    fn what_is_no_number_is_refused() {
        for value in [f64::NAN, f64::INFINITY, f64::NEG_INFINITY, 1e300, -1e300] {
            let metrics = SystemMetrics { net_in_mb: value, ..SystemMetrics::default() };
            let error = Values::try_from(&metrics).unwrap_err();
            assert!(matches!(
                error,
                SystemMetricsError::Value(ValueError { metric: Metric::NetIn, .. })
            ));
        }
    }

    #[test]
    fn metrics_of_a_later_version_are_left_out() {
        let values = values_from_counts(1 | 1 << 40, &[5, 6]).unwrap();
        assert_eq!(values, Values::from_iter([(Metric::CpuPercent, 5)]));
        assert!(values_from_counts(3, &[1]).is_err());
    }

    #[test]
    fn alerts_are_mirrored_as_text() {
        let values = Values::from_iter([(Metric::CpuPercent, 9120)]);
        let mut marks = Marks::NONE;
        marks.set(Metric::CpuPercent, 8000, Direction::Above);
        marks.set(Metric::Temperature, 5000, Direction::Below);
        let text = "cpu_percent 91.20 > 80.00, temperature_celsius 5.00 < 5.00";
        let expected = vec![("alerts", text.to_owned()), ("alert_count", "2".to_owned())];
        assert_eq!(alerts_metadata(&values, &marks), expected);
        assert_eq!(alerts_metadata(&values, &Marks::NONE), vec![]);
    }

    #[test]
    fn a_record_carries_one_count_per_present_metric() {
        let values = Values::from_iter([(Metric::NetOut, 7), (Metric::CpuPercent, 12)]);
        let taken_at = Instant::from_ms(5);
        let mut sample = Sample::from(Snapshot { taken_at, wall_ms: 1_000, values });
        sample.marks.set(Metric::CpuPercent, 10, Direction::Below);
        let record = record(Sequence::FIRST, &sample);
        assert_eq!((record.present, record.values), (0b1000_0001, vec![12, 7]));
        assert_eq!(record.alerts, [crate::Alert { metric: 0, limit: 10, below: true }]);
        assert_eq!((record.sequence, record.timestamp_ms, record.uptime_ms), (1, 1_000, 5));
    }
}
