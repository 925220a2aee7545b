//! Conversions between the wire's forms and the types of `agent-core`.

use agent_core::id::BootId;
use agent_core::metric::{Metric, MetricSet, Values};

use crate::{Boot, SystemMetrics};

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
    fn field(&self, metric: Metric) -> f64 {
        match metric {
            Metric::CpuPercent => self.cpu_percent,
            Metric::MemoryPercent => self.memory_percent,
            Metric::MemoryUsed => self.memory_used_mb,
            Metric::MemoryTotal => self.memory_total_mb,
            Metric::DiskRead => self.disk_read_mb,
            Metric::DiskWrite => self.disk_write_mb,
            Metric::NetIn => self.net_in_mb,
            Metric::NetOut => self.net_out_mb,
        }
    }

    fn field_mut(&mut self, metric: Metric) -> &mut f64 {
        match metric {
            Metric::CpuPercent => &mut self.cpu_percent,
            Metric::MemoryPercent => &mut self.memory_percent,
            Metric::MemoryUsed => &mut self.memory_used_mb,
            Metric::MemoryTotal => &mut self.memory_total_mb,
            Metric::DiskRead => &mut self.disk_read_mb,
            Metric::DiskWrite => &mut self.disk_write_mb,
            Metric::NetIn => &mut self.net_in_mb,
            Metric::NetOut => &mut self.net_out_mb,
        }
    }
}

impl From<&Values> for SystemMetrics {
    fn from(values: &Values) -> Self {
        let mut metrics = Self { present: values.present().bits(), ..Self::default() };
        for (metric, count) in values.iter() {
            *metrics.field_mut(metric) = units_from_count(metric, count);
        }
        metrics
    }
}

impl TryFrom<&SystemMetrics> for Values {
    type Error = ValueError;

    fn try_from(metrics: &SystemMetrics) -> Result<Self, ValueError> {
        let present = match metrics.present {
            0 => MetricSet::ALL,
            bits => MetricSet::from_bits_truncate(bits),
        };
        present
            .iter()
            .map(|metric| Ok((metric, count_from_units(metric, metrics.field(metric))?)))
            .collect()
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
pub fn alerts_metadata(values: &Values, limits: &Values) -> Vec<(&'static str, String)> {
    let describe = |(metric, limit): (Metric, i64)| {
        let value = units_from_count(metric, values.get(metric).unwrap_or(limit));
        format!("{metric} {value:.2} > {:.2}", units_from_count(metric, limit))
    };
    let alerts = limits.iter().map(describe).collect::<Vec<_>>();
    if alerts.is_empty() {
        return Vec::new();
    }
    vec![("alerts", alerts.join(", ")), ("alert_count", alerts.len().to_string())]
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn some_values() -> impl Strategy<Value = Values> {
        let pair = (0..8_u32, -(1_i64 << 50)..(1_i64 << 50));
        prop::collection::vec(pair, 0..8).prop_map(|pairs| {
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
        assert_eq!(values.present(), MetricSet::ALL);
        assert_eq!(values.get(Metric::CpuPercent), Some(1250));
    }

    #[test]
    fn what_is_no_number_is_refused() {
        for value in [f64::NAN, f64::INFINITY, f64::NEG_INFINITY, 1e300, -1e300] {
            let metrics = SystemMetrics { net_in_mb: value, ..SystemMetrics::default() };
            assert_eq!(Values::try_from(&metrics).unwrap_err().metric, Metric::NetIn);
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
        let limits = Values::from_iter([(Metric::CpuPercent, 8000)]);
        let expected = vec![
            ("alerts", "cpu_percent 91.20 > 80.00".to_owned()),
            ("alert_count", "1".to_owned()),
        ];
        assert_eq!(alerts_metadata(&values, &limits), expected);
        assert_eq!(alerts_metadata(&values, &Values::EMPTY), vec![]);
    }
}
