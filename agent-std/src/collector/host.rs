//! One measurement of a host: what is asked of a [`Source`], and what is the same whichever it is.

use std::iter;
use std::time::Instant;

use agent_core::metric::{Metric, MetricSet, MetricSwitch, Values, percent_of};

use crate::collector::Collector;
use crate::collector::interfaces::Interfaces;
use crate::collector::kernel;
use crate::collector::rate::{Counts, CpuMeter, RateMeter};
use crate::collector::sensors::Sensors;

/// A way to ask a host for what its kernel counts. All of them mean the same by each answer; none is an answer too, of
/// what this host does not have or cannot tell now.
pub(super) trait Source: Send {
    /// The busy share of all processors since the last reading, in hundredths of a percent: 0 to 10,000. The first
    /// reading has none. Of one that follows the last within 200 ms, the last value stands: the kernel counts in ticks
    /// of 10 ms.
    fn cpu_percent(&mut self, now: Instant) -> Option<i64>;

    /// Forgets the last reading, because nobody looked for a while.
    fn forget_cpu(&mut self);

    /// Physical memory and swap space.
    fn memory(&mut self) -> Option<Memory>;

    /// The load averages of 1, 5 and 15 minutes, in hundredths.
    fn load(&mut self) -> Option<[i64; 3]>;

    /// Tells `each` of the block devices of mounted file systems, with the bytes read and written since boot.
    fn disk_counters(&mut self, now: Instant, each: Each<'_>) -> Option<()>;

    /// Tells `each` of the network interfaces, with the bytes received and sent since they were made.
    fn net_counters(&mut self, each: Each<'_>) -> Option<()>;
}

/// Takes the name of a device and its counters.
pub(super) type Each<'a> = &'a mut dyn FnMut(&[u8], Counts);

/// The memory of a host in bytes. What it does not tell is none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Memory {
    pub(super) total: Option<u64>,
    /// What programs may have without swapping.
    pub(super) available: Option<u64>,
    /// 0 where there is no swap space; that is known and not absent.
    pub(super) swap_total: Option<u64>,
    pub(super) swap_free: Option<u64>,
}

/// The collector of a host. It asks only for what is wanted.
#[derive(Debug)]
pub(super) struct HostCollector<S> {
    source: S,
    disks: RateMeter,
    network: RateMeter,
    interfaces: Interfaces,
    sensors: Sensors,
    own_cpu: CpuMeter,
}

impl<S: Source> HostCollector<S> {
    pub(super) fn new(source: S) -> Self {
        Self {
            source,
            disks: RateMeter::default(),
            network: RateMeter::default(),
            interfaces: Interfaces::new("/sys/class/net".into()),
            sensors: Sensors::new(),
            own_cpu: CpuMeter::default(),
        }
    }

    /// With the interfaces and sensors that `class_dir` describes, as `/sys/class` does.
    #[cfg(test)]
    pub(super) fn below(source: S, class_dir: &std::path::Path) -> Self {
        Self {
            interfaces: Interfaces::new(class_dir.join("net")),
            sensors: Sensors::below(class_dir.to_owned()),
            ..Self::new(source)
        }
    }

    fn memory(&mut self, values: &mut Values) {
        let Some(memory) = self.source.memory() else { return };
        let used = |total: Option<u64>, free: Option<u64>| {
            i64::try_from(total?.saturating_sub(free?)).ok()
        };
        let count = |bytes: Option<u64>| i64::try_from(bytes?).ok();
        let total = count(memory.total);
        set(values, Metric::MemoryTotal, total);
        if let (Some(used), Some(total)) = (used(memory.total, memory.available), total) {
            let metrics = [Metric::MemoryPercent, Metric::MemoryUsed, Metric::MemoryTotal];
            set_share(values, metrics, used, total);
        }
        set(values, Metric::SwapTotal, count(memory.swap_total));
        set(values, Metric::SwapUsed, used(memory.swap_total, memory.swap_free));
    }

    /// Bytes read and written in a second.
    fn disk_rates(&mut self) -> Option<[i64; 2]> {
        let now = Instant::now();
        let mut reading = self.disks.begin(now);
        self.source.disk_counters(now, &mut |name, counts| reading.add(name, counts))?;
        reading.end().rates(iter::repeat(true))
    }

    /// Bytes received and sent in a second.
    fn net_rates(&mut self) -> Option<[i64; 2]> {
        let mut reading = self.network.begin(Instant::now());
        self.source.net_counters(&mut |name, counts| reading.add(name, counts))?;
        let changes = reading.end();
        changes.rates(self.interfaces.counting(changes.names()))
    }

    /// What this process itself costs.
    fn own_cost(&mut self, values: &mut Values) {
        set(values, Metric::AgentMemory, kernel::own_memory());
        let now = Instant::now();
        let share = kernel::own_cpu_time().and_then(|time| self.own_cpu.measure(now, time));
        set(values, Metric::AgentCpu, share);
    }
}

fn set(values: &mut Values, metric: Metric, count: Option<i64>) {
    if let Some(count) = count {
        values.set(metric, count);
    }
}

fn set_all<const N: usize>(values: &mut Values, metrics: [Metric; N], counts: Option<[i64; N]>) {
    for (metric, count) in iter::zip(metrics, counts.into_iter().flatten()) {
        values.set(metric, count);
    }
}

/// Sets `used`, `total` and the share that the one has in the other.
fn set_share(
    values: &mut Values,
    [percent, used, total]: [Metric; 3],
    used_bytes: i64,
    total_bytes: i64,
) {
    if let Some(hundredths) = percent_of(used_bytes, total_bytes) {
        values.set(percent, hundredths);
        values.set(used, used_bytes);
        values.set(total, total_bytes);
    }
}

fn disk_usage(values: &mut Values) {
    let Some(space) = kernel::root_space() else { return };
    let metrics = [Metric::DiskPercent, Metric::DiskUsed, Metric::DiskTotal];
    set_share(values, metrics, space.used, space.total);
}

impl<S: Source> Collector for HostCollector<S> {
    fn collect(&mut self, wanted: MetricSet) -> Values {
        let mut values = Values::EMPTY;
        let wants = |switch: MetricSwitch| !switch.metrics().intersection(wanted).is_empty();
        if wants(MetricSwitch::Cpu) {
            set(&mut values, Metric::CpuPercent, self.source.cpu_percent(Instant::now()));
        } else {
            self.source.forget_cpu();
        }
        if wants(MetricSwitch::Memory) || wants(MetricSwitch::Swap) {
            self.memory(&mut values);
        }
        if wants(MetricSwitch::DiskRead) || wants(MetricSwitch::DiskWrite) {
            set_all(&mut values, [Metric::DiskRead, Metric::DiskWrite], self.disk_rates());
        } else {
            self.disks.reset();
        }
        if wants(MetricSwitch::NetIn) || wants(MetricSwitch::NetOut) {
            set_all(&mut values, [Metric::NetIn, Metric::NetOut], self.net_rates());
        } else {
            self.network.reset();
        }
        if wants(MetricSwitch::Load) {
            let metrics = [Metric::Load1, Metric::Load5, Metric::Load15];
            set_all(&mut values, metrics, self.source.load());
        }
        if wants(MetricSwitch::DiskUsage) {
            disk_usage(&mut values);
        }
        if wants(MetricSwitch::Temperature) {
            set(&mut values, Metric::Temperature, self.sensors.hottest(Instant::now()));
        }
        if wants(MetricSwitch::Uptime) {
            set(&mut values, Metric::Uptime, kernel::uptime_ms());
        }
        // Last, so that the share has the cost of this measurement in it.
        if wants(MetricSwitch::Agent) {
            self.own_cost(&mut values);
        } else {
            self.own_cpu.reset();
        }
        // A group is read as a whole; what was switched off in it is left out.
        for metric in values.present().difference(wanted).iter() {
            values.clear(metric);
        }
        values
    }
}

#[cfg(test)]
mod tests;
