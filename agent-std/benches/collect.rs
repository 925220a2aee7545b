//! What one measurement of the host costs with each collector: each switch alone, the eight fixed metrics, and the
//! `standard` profile.
//!
//!     cargo bench -p agent-std --bench collect
//!
//! Sets and collectors are measured in turn, so that whatever else the host does falls on all of them, and the middle one
//! of many times on a processor counts. Criterion would measure one after the other, and the ratio is what matters here.
#![forbid(unsafe_code)]
#![expect(clippy::print_stdout, reason = "a benchmark prints what it found")]

use std::thread;
use std::time::Duration;

use agent_core::metric::{MetricSet, MetricSwitch};
use rustix::time::{ClockId, clock_gettime};

use crate::collector::Collector;

/// The collector is private to the agent, so it is compiled in here, without the thread around it.
#[path = "../src/collector"]
#[cfg_attr(
    test,
    expect(dead_code, unused_imports, reason = "its tests run with those of the agent")
)]
mod collector {
    use agent_core::metric::{MetricSet, Values};

    mod host;
    mod interfaces;
    mod kernel;
    mod procfs;
    mod rate;
    mod sensors;
    mod sysinfo;

    pub(crate) trait Collector: Send {
        fn collect(&mut self, wanted: MetricSet) -> Values;
    }

    pub(crate) fn proc() -> Box<dyn Collector> {
        Box::new(host::HostCollector::new(procfs::Procfs::new()))
    }

    pub(crate) fn sysinfo() -> anyhow::Result<Box<dyn Collector>> {
        sysinfo::open()
    }
}

const ROUNDS: usize = 101;

/// The share of the processors is not read anew before this has passed. An agent's measurements are apart as well.
const PAUSE: Duration = ::sysinfo::MINIMUM_CPU_UPDATE_INTERVAL;

struct Subject {
    name: &'static str,
    wanted: MetricSet,
    proc: Meter,
    sysinfo: Meter,
}

impl Subject {
    fn new(name: &'static str, wanted: MetricSet) -> anyhow::Result<Self> {
        let (proc, sysinfo) = (collector::proc(), collector::sysinfo()?);
        Ok(Self { name, wanted, proc: Meter::new(proc), sysinfo: Meter::new(sysinfo) })
    }
}

struct Meter {
    collector: Box<dyn Collector>,
    costs: Vec<Duration>,
}

impl Meter {
    fn new(collector: Box<dyn Collector>) -> Self {
        Self { collector, costs: Vec::with_capacity(ROUNDS) }
    }

    fn measure(&mut self, wanted: MetricSet) {
        let start = processor_time();
        std::hint::black_box(self.collector.collect(std::hint::black_box(wanted)));
        self.costs.push(processor_time().saturating_sub(start));
    }

    /// In microseconds.
    fn median(&mut self) -> f64 {
        self.costs.sort_unstable();
        self.costs[self.costs.len() / 2].as_secs_f64() * 1e6
    }
}

/// Time that this thread has spent on a processor.
fn processor_time() -> Duration {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    Duration::try_from(time).unwrap_or_default()
}

fn main() -> anyhow::Result<()> {
    let mut subjects = MetricSwitch::SINGLE
        .into_iter()
        .map(|switch| Subject::new(switch.name(), switch.metrics()))
        .chain([
            Subject::new("the eight", MetricSet::FIXED),
            Subject::new("standard", MetricSwitch::Standard.metrics()),
        ])
        .collect::<Result<Vec<_>, _>>()?;
    for round in 0..ROUNDS {
        thread::sleep(PAUSE);
        for subject in &mut subjects {
            let mut meters = [&mut subject.proc, &mut subject.sysinfo];
            // Whichever is first finds the processor's caches cold.
            meters.rotate_left(round % 2);
            for meter in meters {
                meter.measure(subject.wanted);
            }
        }
    }
    println!("{:<12} {:>10} {:>12} {:>10}", "switch", "proc (us)", "sysinfo (us)", "of sysinfo");
    for subject in &mut subjects {
        let (proc, sysinfo) = (subject.proc.median(), subject.sysinfo.median());
        println!("{:<12} {proc:>10.1} {sysinfo:>12.1} {:>9.2}x", subject.name, proc / sysinfo);
    }
    Ok(())
}
