//! Filter: drops snapshots that nobody would miss.

use crate::config::{self, Comparison, Condition, Joint, Settings};
use crate::metric::{Metric, MetricSet, Values};
use crate::plugin::{DropReason, Plugin, Verdict};
use crate::record::{Alert, Sample};

/// Drops the snapshots of an idle host unless they are wanted, those below a floor, and those that do not meet the
/// condition.
///
/// Idle: CPU below 10 %, and disk and network rates each below 1 MB/s, of those that the sample has; a sample that has
/// none of them is not idle. A floor spares a sample that lacks its metric. A comparison with an absent metric is false.
#[derive(Clone, Debug)]
pub struct Filter {
    settings: config::Filter,
}

/// CPU of an idle host is below this: 10 %.
const IDLE_CPU: i64 = 1_000;
/// A rate of an idle host is below this: 1 MB/s.
const IDLE_RATE: i64 = 1_048_576;
/// The rates of an idle host that are looked at.
const IDLE_RATES: [Metric; 4] =
    [Metric::DiskRead, Metric::DiskWrite, Metric::NetIn, Metric::NetOut];

impl Filter {
    /// A plugin with the settings for it.
    pub fn new(settings: &Settings) -> Self {
        Self { settings: settings.filter.clone() }
    }

    fn reason_to_drop(&self, values: &Values) -> Option<DropReason> {
        let config::Filter { send_idle, min_cpu, min_memory, condition } = &self.settings;
        let below = |metric, floor: i64| values.get(metric).is_some_and(|count| count < floor);
        if !send_idle && is_idle(values) {
            Some(DropReason::Idle)
        } else if below(Metric::CpuPercent, *min_cpu) {
            Some(DropReason::MinCpu)
        } else if below(Metric::MemoryPercent, *min_memory) {
            Some(DropReason::MinMemory)
        } else {
            (!condition.is_met_by(values)).then_some(DropReason::Condition)
        }
    }
}

fn is_idle(values: &Values) -> bool {
    let rates = MetricSet::from_iter(IDLE_RATES);
    let looked_at = values.present().intersection(rates);
    let cpu = values.get(Metric::CpuPercent);
    let quiet = |metric| values.get(metric).is_some_and(|count| count < IDLE_RATE);
    (cpu.is_some() || !looked_at.is_empty())
        && cpu.is_none_or(|count| count < IDLE_CPU)
        && looked_at.iter().all(quiet)
}

impl Condition {
    /// Whether `values` meet it; one without terms is always met.
    fn is_met_by(&self, values: &Values) -> bool {
        // `and` binds closer: the terms between two `or` must hold together.
        let mut any = self.terms().is_empty();
        let mut all = true;
        for (index, term) in self.terms().iter().enumerate() {
            if index > 0 && term.joint == Joint::Or {
                any |= all;
                all = true;
            }
            all &= values
                .get(term.metric)
                .is_some_and(|count| term.comparison.holds(count, term.count));
        }
        any || all
    }
}

impl Comparison {
    const fn holds(self, left: i64, right: i64) -> bool {
        match self {
            Self::Less => left < right,
            Self::LessOrEqual => left <= right,
            Self::Greater => left > right,
            Self::GreaterOrEqual => left >= right,
            Self::Equal => left == right,
            Self::NotEqual => left != right,
        }
    }
}

impl Plugin for Filter {
    fn process(&mut self, sample: &mut Sample, _: &mut dyn FnMut(Alert)) -> Verdict {
        match self.reason_to_drop(&sample.snapshot.values) {
            Some(reason) => Verdict::Drop(reason),
            None => Verdict::Forward,
        }
    }

    /// It has no state.
    fn reconfigure(&mut self, settings: &Settings, _: &mut dyn FnMut(Alert)) {
        *self = Self::new(settings);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Term;
    use crate::record::Snapshot;
    use crate::time::Instant;

    fn check(filter: &config::Filter, values: &[(Metric, i64)], expected: Option<DropReason>) {
        let values = values.iter().copied().collect::<Values>();
        let mut sample =
            Sample::from(Snapshot { taken_at: Instant::from_ms(0), wall_ms: 0, values });
        let settings = Settings { filter: filter.clone(), ..Settings::default() };
        let verdict = Filter::new(&settings).process(&mut sample, &mut |_| ());
        assert_eq!(verdict, expected.map_or(Verdict::Forward, Verdict::Drop), "{values:?}");
    }

    #[test]
    fn an_idle_host_is_dropped_unless_it_is_to_be_sent() {
        let send_idle = config::Filter::default();
        let drop_idle = config::Filter { send_idle: false, ..send_idle.clone() };
        let idle = [(Metric::CpuPercent, 999), (Metric::DiskRead, IDLE_RATE - 1)];
        check(&send_idle, &idle, None);
        check(&drop_idle, &idle, Some(DropReason::Idle));
        check(&drop_idle, &[(Metric::CpuPercent, 1000)], None);
        let busy_disk = [(Metric::CpuPercent, 0), (Metric::DiskWrite, IDLE_RATE)];
        check(&drop_idle, &busy_disk, None);
        check(&drop_idle, &[(Metric::MemoryPercent, 0)], None);
        check(&drop_idle, &[(Metric::AgentCpu, 0)], None);
    }

    #[test]
    fn a_floor_drops_what_is_below_it_and_spares_what_is_absent() {
        let floors =
            config::Filter { min_cpu: 2000, min_memory: 3000, ..config::Filter::default() };
        check(&floors, &[(Metric::CpuPercent, 2000)], None);
        check(&floors, &[(Metric::CpuPercent, 1999)], Some(DropReason::MinCpu));
        let little_memory = [(Metric::CpuPercent, 2000), (Metric::MemoryPercent, 2999)];
        check(&floors, &little_memory, Some(DropReason::MinMemory));
        check(&floors, &[], None);
    }

    fn term(joint: Joint, metric: Metric, comparison: Comparison, count: i64) -> Term {
        Term { joint, metric, comparison, count }
    }

    #[test]
    fn and_binds_closer_than_or() {
        // cpu > 20 and net_in < 5 or memory = 7
        let condition = Condition::new(&[
            term(Joint::And, Metric::CpuPercent, Comparison::Greater, 20),
            term(Joint::And, Metric::NetIn, Comparison::Less, 5),
            term(Joint::Or, Metric::MemoryUsed, Comparison::Equal, 7),
        ]);
        let filter = config::Filter { condition: condition.unwrap(), ..config::Filter::default() };
        let check = |cpu, net_in, memory, met: bool| {
            let values =
                [(Metric::CpuPercent, cpu), (Metric::NetIn, net_in), (Metric::MemoryUsed, memory)];
            check(&filter, &values, (!met).then_some(DropReason::Condition));
        };
        check(21, 4, 0, true);
        check(20, 4, 0, false);
        check(21, 5, 0, false);
        check(0, 9, 7, true);
        check(0, 9, 8, false);
    }

    #[test]
    fn a_comparison_with_an_absent_metric_is_false() {
        for comparison in Comparison::ALL {
            let terms = [term(Joint::And, Metric::NetIn, comparison, 0)];
            let condition = Condition::new(&terms).unwrap();
            let filter = config::Filter { condition, ..config::Filter::default() };
            check(&filter, &[(Metric::CpuPercent, 5)], Some(DropReason::Condition));
        }
    }
}
