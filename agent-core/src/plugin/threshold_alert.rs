//! Threshold alert: marks metrics above their limits. It drops nothing.

use crate::metric::Values;
use crate::plugin::{Plugin, Verdict};
use crate::record::Sample;

/// Writes an alert on a sample for each metric whose value is above its limit. A metric without a limit, or
/// absent from the sample, raises none.
#[derive(Clone, Debug)]
pub struct ThresholdAlert {
    limits: Values,
}

impl ThresholdAlert {
    /// A plugin with these limits.
    pub const fn new(limits: Values) -> Self {
        Self { limits }
    }

    /// Its limits.
    pub const fn limits(&self) -> &Values {
        &self.limits
    }
}

impl Plugin for ThresholdAlert {
    fn process(&mut self, sample: &mut Sample) -> Verdict {
        let values = &sample.snapshot.values;
        sample.alerts = self
            .limits
            .iter()
            .filter(|(metric, limit)| values.get(*metric).is_some_and(|count| *limit < count))
            .collect();
        Verdict::Forward
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metric::Metric;
    use crate::record::Snapshot;
    use crate::time::Instant;

    #[test]
    fn marks_what_is_above_and_only_that() {
        let mut plugin = ThresholdAlert::new(Values::from_iter([
            (Metric::CpuPercent, 8000),
            (Metric::MemoryPercent, 8500),
            (Metric::NetIn, 10),
        ]));
        let values = Values::from_iter([(Metric::CpuPercent, 8001), (Metric::MemoryPercent, 8500)]);
        let mut sample =
            Sample::from(Snapshot { taken_at: Instant::from_ms(0), wall_ms: 0, values });
        assert_eq!(plugin.process(&mut sample), Verdict::Forward);
        assert_eq!(sample.alerts, Values::from_iter([(Metric::CpuPercent, 8000)]));
    }
}
