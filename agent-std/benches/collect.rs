//! What one measurement of the host costs: each switch alone, the eight fixed metrics, and the `standard` profile.
//!
//!     cargo bench -p agent-std --bench collect
//!
//! The sets are measured in turn, so that whatever else the host does falls on all of them, and the middle one of many
//! times on a processor counts. Criterion would measure one after the other, and the ratio is what matters here.
#![forbid(unsafe_code)]
#![expect(clippy::print_stdout, reason = "a benchmark prints what it found")]

use std::thread;
use std::time::Duration;

use agent_core::metric::{MetricSet, MetricSwitch};
use rustix::time::{ClockId, clock_gettime};

use crate::collector::{Collector as _, SysinfoCollector};

/// The collector is private to the agent, so it is compiled in here, without the thread around it.
#[path = "../src/collector"]
#[cfg_attr(
    test,
    expect(dead_code, unused_imports, reason = "its tests run with those of the agent")
)]
mod collector {
    use agent_core::metric::{MetricSet, Values};

    mod kernel;
    mod rate;
    mod sensors;
    mod sysinfo;

    pub(crate) use self::sysinfo::SysinfoCollector;

    pub(crate) trait Collector: Send {
        fn collect(&mut self, wanted: MetricSet) -> Values;
    }
}

const ROUNDS: usize = 101;

/// The share of the processors is not read anew before this has passed. An agent's measurements are apart as well.
const PAUSE: Duration = ::sysinfo::MINIMUM_CPU_UPDATE_INTERVAL;

struct Subject {
    name: &'static str,
    wanted: MetricSet,
    collector: SysinfoCollector,
    costs: Vec<Duration>,
}

impl Subject {
    fn new(name: &'static str, wanted: MetricSet) -> Result<Self, ::sysinfo::Error> {
        let collector = SysinfoCollector::new()?;
        Ok(Self { name, wanted, collector, costs: Vec::with_capacity(ROUNDS) })
    }

    fn measure(&mut self) {
        let start = processor_time();
        std::hint::black_box(self.collector.collect(std::hint::black_box(self.wanted)));
        self.costs.push(processor_time().saturating_sub(start));
    }

    fn median(&mut self) -> Duration {
        self.costs.sort_unstable();
        self.costs[self.costs.len() / 2]
    }
}

/// Time that this thread has spent on a processor.
fn processor_time() -> Duration {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    Duration::try_from(time).unwrap_or_default()
}

fn main() -> Result<(), ::sysinfo::Error> {
    let mut subjects = MetricSwitch::SINGLE
        .into_iter()
        .map(|switch| Subject::new(switch.name(), switch.metrics()))
        .chain([
            Subject::new("the eight", MetricSet::FIXED),
            Subject::new("standard", MetricSwitch::Standard.metrics()),
        ])
        .collect::<Result<Vec<_>, _>>()?;
    for _ in 0..ROUNDS {
        thread::sleep(PAUSE);
        for subject in &mut subjects {
            subject.measure();
        }
    }
    let base = MetricSet::FIXED;
    let base = subjects.iter_mut().find(|subject| subject.wanted == base).map(Subject::median);
    let base = base.unwrap_or_default().as_secs_f64();
    println!("{:<12} {:>10} {:>14}", "switch", "us of CPU", "of the eight");
    for subject in &mut subjects {
        let median = subject.median().as_secs_f64();
        println!("{:<12} {:>10.1} {:>13.2}x", subject.name, median * 1e6, median / base);
    }
    Ok(())
}
