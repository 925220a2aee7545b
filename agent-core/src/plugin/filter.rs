//! Filter: drops snapshots of an idle host, or below a floor.

use crate::config;
use crate::metric::Metric;
use crate::plugin::{Plugin, Verdict};
use crate::record::Sample;

/// Below this CPU load a host can be idle: 10 %.
const IDLE_CPU: i64 = 1000;
/// Below this rate, on every disk and network metric, a host can be idle: 1 MB/s.
const IDLE_RATE: i64 = Metric::DiskRead.counts_per_unit();

/// Drops a sample when the host is idle (CPU below 10 % and all four rates below 1 MB/s) unless `send_idle`; and
/// when CPU or memory is below its floor.
///
/// An absent metric speaks neither for idle nor against it; a sample with none of the five is not idle. A floor
/// applies only to a metric that is present.
#[derive(Clone, Debug)]
pub struct Filter {
    settings: config::Filter,
}

impl Filter {
    /// A plugin with these settings.
    pub const fn new(settings: config::Filter) -> Self {
        Self { settings }
    }

    /// Its settings.
    pub const fn settings(&self) -> &config::Filter {
        &self.settings
    }
}

fn is_idle(sample: &Sample) -> bool {
    let mut signs = sample.snapshot.values.iter().filter_map(|(metric, count)| match metric {
        Metric::CpuPercent => Some(count < IDLE_CPU),
        metric if metric.is_rate() => Some(count < IDLE_RATE),
        _ => None,
    });
    signs.next().is_some_and(|first| first && signs.all(|sign| sign))
}

impl Plugin for Filter {
    fn process(&mut self, sample: &mut Sample) -> Verdict {
        let below =
            |metric, floor| sample.snapshot.values.get(metric).is_some_and(|count| count < floor);
        let dropped = (!self.settings.send_idle && is_idle(sample))
            || below(Metric::CpuPercent, self.settings.min_cpu)
            || below(Metric::MemoryPercent, self.settings.min_memory);
        if dropped { Verdict::Drop } else { Verdict::Forward }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metric::Values;
    use crate::record::Snapshot;
    use crate::time::Instant;

    const SEND_IDLE: config::Filter = config::Filter { send_idle: true, min_cpu: 0, min_memory: 0 };

    fn check(settings: config::Filter, values: &[(Metric, i64)], expected: Verdict) {
        let values = values.iter().copied().collect::<Values>();
        let mut sample =
            Sample::from(Snapshot { taken_at: Instant::from_ms(0), wall_ms: 0, values });
        assert_eq!(Filter::new(settings).process(&mut sample), expected, "{values:?}");
    }

    #[test]
    fn an_idle_host_is_dropped_unless_it_is_to_be_sent() {
        let drop_idle = config::Filter { send_idle: false, ..SEND_IDLE };
        let idle = [(Metric::CpuPercent, 999), (Metric::DiskRead, IDLE_RATE - 1)];
        check(SEND_IDLE, &idle, Verdict::Forward);
        check(drop_idle, &idle, Verdict::Drop);
        check(drop_idle, &[(Metric::CpuPercent, 1000)], Verdict::Forward);
        let busy_disk = [(Metric::CpuPercent, 0), (Metric::DiskWrite, IDLE_RATE)];
        check(drop_idle, &busy_disk, Verdict::Forward);
        check(drop_idle, &[(Metric::MemoryPercent, 0)], Verdict::Forward);
    }

    #[test]
    fn a_floor_drops_what_is_below_it_and_spares_what_is_absent() {
        let floors = config::Filter { min_cpu: 2000, min_memory: 3000, ..SEND_IDLE };
        check(floors, &[(Metric::CpuPercent, 2000)], Verdict::Forward);
        check(floors, &[(Metric::CpuPercent, 1999)], Verdict::Drop);
        check(floors, &[(Metric::CpuPercent, 2000), (Metric::MemoryPercent, 2999)], Verdict::Drop);
        check(floors, &[], Verdict::Forward);
    }
}
