//! The collector: the sysinfo crate, and beside it what is better asked of the kernel itself.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::path::Path;
use std::time::Instant;

use agent_core::metric::{Metric, MetricSet, MetricSwitch, Values, percent_of};
use sysinfo::{
    DiskRefreshKind, Disks, MINIMUM_CPU_UPDATE_INTERVAL, MemoryRefreshKind, Networks, System,
};

use crate::collector::Collector;
use crate::collector::kernel;
use crate::collector::rate::{CpuMeter, RateMeter};
use crate::collector::sensors::Sensors;

/// Keeps sysinfo's objects and the list of sensors, and refreshes only those whose metrics are wanted.
#[derive(Debug)]
pub(crate) struct SysinfoCollector {
    system: System,
    disks: Disks,
    networks: Networks,
    cpu_read_at: Option<Instant>,
    cpu_percent: Option<i64>,
    disk_read: RateMeter,
    disk_write: RateMeter,
    net_in: RateMeter,
    net_out: RateMeter,
    interfaces: Interfaces,
    sensors: Sensors,
    own_cpu: CpuMeter,
}

impl SysinfoCollector {
    /// # Errors
    ///
    /// When sysinfo does not know this system.
    pub(crate) fn new() -> Result<Self, sysinfo::Error> {
        Ok(Self {
            system: System::new()?,
            disks: Disks::new()?,
            networks: Networks::new()?,
            cpu_read_at: None,
            cpu_percent: None,
            disk_read: RateMeter::default(),
            disk_write: RateMeter::default(),
            net_in: RateMeter::default(),
            net_out: RateMeter::default(),
            interfaces: Interfaces::default(),
            sensors: Sensors::new(),
            own_cpu: CpuMeter::default(),
        })
    }

    /// The busy share since the last reading. The first reading has none.
    fn cpu_percent(&mut self) -> Option<i64> {
        let now = Instant::now();
        let Some(read_at) = self.cpu_read_at else {
            self.system.refresh_cpu_usage();
            self.cpu_read_at = Some(now);
            return None;
        };
        // sysinfo ignores a refresh that comes sooner; the last value stands until then.
        if MINIMUM_CPU_UPDATE_INTERVAL <= now - read_at {
            self.system.refresh_cpu_usage();
            self.cpu_read_at = Some(now);
            let percent = f64::from(self.system.global_cpu_usage()).clamp(0.0, 100.0);
            self.cpu_percent = proto::convert::count_from_units(Metric::CpuPercent, percent).ok();
        }
        self.cpu_percent
    }

    /// Physical memory and swap space, which are in one file.
    fn memory(&mut self, values: &mut Values) {
        let kind = MemoryRefreshKind::nothing().with_ram().with_swap();
        self.system.refresh_memory_specifics(kind);
        let total = self.system.total_memory();
        // sysinfo does not say when it could not read; but no host is without memory.
        if total == 0 {
            return;
        }
        let used = total.saturating_sub(self.system.available_memory());
        if let (Ok(used), Ok(total)) = (i64::try_from(used), i64::try_from(total)) {
            let metrics = [Metric::MemoryPercent, Metric::MemoryUsed, Metric::MemoryTotal];
            set_share(values, metrics, used, total);
        }
        // A host without swap space has 0 bytes of it; that is known and not absent.
        set(values, Metric::SwapUsed, i64::try_from(self.system.used_swap()).ok());
        set(values, Metric::SwapTotal, i64::try_from(self.system.total_swap()).ok());
    }

    /// Bytes read and written since boot, by block device. A device that is mounted twice counts once.
    fn disk_counters(&mut self) -> (HashMap<String, u64>, HashMap<String, u64>) {
        self.disks.refresh_specifics(true, DiskRefreshKind::nothing().with_io_usage());
        let usage = |disk: &sysinfo::Disk| (name_of(disk.name()), disk.usage());
        let pairs = self.disks.iter().map(usage);
        pairs
            .map(|(name, usage)| {
                ((name.clone(), usage.total_read_bytes), (name, usage.total_written_bytes))
            })
            .unzip()
    }

    /// Bytes received and sent since boot, by network interface that carries traffic of its own.
    fn net_counters(&mut self) -> (HashMap<String, u64>, HashMap<String, u64>) {
        self.networks.refresh(true);
        let names = self.networks.keys().map(|name| name_of(name));
        self.interfaces.refresh(names.collect());
        self.networks
            .iter()
            .map(|(name, data)| (name_of(name), data))
            .filter(|(name, _)| self.interfaces.counts(name))
            .map(|(name, data)| {
                ((name.clone(), data.total_received()), (name, data.total_transmitted()))
            })
            .unzip()
    }

    /// What this process itself costs.
    fn own_cost(&mut self, values: &mut Values) {
        set(values, Metric::AgentMemory, kernel::own_memory());
        let now = Instant::now();
        let share = kernel::own_cpu_time().and_then(|time| self.own_cpu.measure(now, time));
        set(values, Metric::AgentCpu, share);
    }
}

fn name_of(name: &OsStr) -> String {
    name.to_string_lossy().into_owned()
}

fn set(values: &mut Values, metric: Metric, count: Option<i64>) {
    if let Some(count) = count {
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

fn load(values: &mut Values) {
    let Ok(load) = System::load_average() else { return };
    let averages =
        [(Metric::Load1, load.one), (Metric::Load5, load.five), (Metric::Load15, load.fifteen)];
    for (metric, average) in averages {
        // The kernel prints two decimals, so the nearest count is exact.
        set(values, metric, proto::convert::count_from_units(metric, average).ok());
    }
}

fn disk_usage(values: &mut Values) {
    let Some(space) = kernel::root_space() else { return };
    let metrics = [Metric::DiskPercent, Metric::DiskUsed, Metric::DiskTotal];
    set_share(values, metrics, space.used, space.total);
}

impl Collector for SysinfoCollector {
    fn collect(&mut self, wanted: MetricSet) -> Values {
        let mut values = Values::EMPTY;
        let wants = |switch: MetricSwitch| !switch.metrics().intersection(wanted).is_empty();
        if wants(MetricSwitch::Cpu) {
            let percent = self.cpu_percent();
            set(&mut values, Metric::CpuPercent, percent);
        } else {
            self.cpu_read_at = None;
            self.cpu_percent = None;
        }
        if wants(MetricSwitch::Memory) || wants(MetricSwitch::Swap) {
            self.memory(&mut values);
        }
        if wants(MetricSwitch::DiskRead) || wants(MetricSwitch::DiskWrite) {
            let now = Instant::now();
            let (read, written) = self.disk_counters();
            set(&mut values, Metric::DiskRead, self.disk_read.measure(now, read));
            set(&mut values, Metric::DiskWrite, self.disk_write.measure(now, written));
        } else {
            self.disk_read.reset();
            self.disk_write.reset();
        }
        if wants(MetricSwitch::NetIn) || wants(MetricSwitch::NetOut) {
            let now = Instant::now();
            let (received, sent) = self.net_counters();
            set(&mut values, Metric::NetIn, self.net_in.measure(now, received));
            set(&mut values, Metric::NetOut, self.net_out.measure(now, sent));
        } else {
            self.net_in.reset();
            self.net_out.reset();
        }
        if wants(MetricSwitch::Load) {
            load(&mut values);
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

/// Which network interfaces count.
///
/// Bridges, tunnels, VLANs and container links carry bytes that a hardware interface carries too, so where there
/// is hardware only it counts. Where there is none, as in a container, every interface but loopback counts.
#[derive(Debug, Default)]
struct Interfaces {
    // Sorted; the kinds are looked up again only when this list changes.
    names: Vec<String>,
    counting: Vec<String>,
}

impl Interfaces {
    fn refresh(&mut self, mut names: Vec<String>) {
        names.sort_unstable();
        if names == self.names {
            return;
        }
        self.counting = counting(&names, |name| {
            // The kernel links an interface to its device only if it has one.
            !name.contains('/') && Path::new("/sys/class/net").join(name).join("device").exists()
        });
        self.names = names;
    }

    fn counts(&self, name: &str) -> bool {
        self.counting.iter().any(|counting| counting == name)
    }
}

fn counting(names: &[String], is_hardware: impl Fn(&str) -> bool) -> Vec<String> {
    let hardware = names.iter().filter(|name| is_hardware(name)).cloned().collect::<Vec<_>>();
    if !hardware.is_empty() {
        return hardware;
    }
    let is_loopback = |name: &str| name == "lo" || name.starts_with("lo0");
    names.iter().filter(|name| !is_loopback(name)).cloned().collect()
}

#[cfg(test)]
mod tests {
    use agent_core::metric::MetricKind;

    use super::*;

    fn check_counting(names: &[&str], hardware: &[&str], expected: &[&str]) {
        let names = names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
        assert_eq!(counting(&names, |name| hardware.contains(&name)), expected);
    }

    #[test]
    fn loopback_and_virtual_interfaces_do_not_count_twice() {
        check_counting(&["lo", "eth0", "docker0", "veth12"], &["eth0"], &["eth0"]);
        check_counting(&["eth0", "wlan0", "wg0"], &["eth0", "wlan0"], &["eth0", "wlan0"]);
        check_counting(&["lo", "eth0"], &[], &["eth0"]);
        check_counting(&["lo"], &[], &[]);
    }

    #[test]
    fn the_first_snapshot_has_no_rates_and_later_ones_have() {
        let mut collector = SysinfoCollector::new().unwrap();
        let first = collector.collect(MetricSet::ALL);
        assert!(first.present().contains(Metric::MemoryTotal));
        for metric in Metric::ALL.into_iter().filter(|metric| metric.kind() == MetricKind::Rate) {
            assert_eq!(first.get(metric), None, "{metric}");
        }
        assert_eq!(first.get(Metric::CpuPercent), None);
        // The kernel's counters move in ticks of 10 ms, and sysinfo wants 200 ms between two.
        std::thread::sleep(MINIMUM_CPU_UPDATE_INTERVAL);
        let second = collector.collect(MetricSet::ALL);
        // Not every host has a sensor; and how full the ring is only the core knows.
        let mut expected = MetricSet::ALL;
        expected.remove(Metric::AgentBuffer);
        expected.remove(Metric::Temperature);
        assert_eq!(expected.difference(second.present()), MetricSet::EMPTY);
        assert_eq!(second.get(Metric::AgentBuffer), None);
        for metric in [Metric::CpuPercent, Metric::MemoryPercent, Metric::DiskPercent] {
            let percent = second.get(metric).unwrap();
            assert!((0..=10_000).contains(&percent), "{metric}: {percent}");
        }
    }

    #[test]
    fn only_what_is_wanted_is_measured() {
        let mut collector = SysinfoCollector::new().unwrap();
        let gauges = Metric::ALL.into_iter().filter(|metric| metric.kind() == MetricKind::Gauge);
        for metric in gauges {
            let wanted = MetricSet::from_iter([metric]);
            let present = collector.collect(wanted).present();
            match metric {
                // They need a second measurement, a sensor, the core.
                Metric::CpuPercent | Metric::Temperature | Metric::AgentBuffer => {
                    assert!(present.difference(wanted).is_empty(), "{present:?}");
                }
                _ => assert_eq!(present, wanted),
            }
        }
        assert_eq!(collector.collect(MetricSet::EMPTY), Values::EMPTY);
    }

    #[test]
    fn a_share_of_a_core_starts_afresh_when_it_was_not_wanted() {
        let mut collector = SysinfoCollector::new().unwrap();
        let wanted = MetricSwitch::Agent.metrics();
        assert_eq!(collector.collect(wanted).get(Metric::AgentCpu), None);
        assert!(collector.collect(wanted).get(Metric::AgentCpu).is_some());
        collector.collect(MetricSet::FIXED);
        assert_eq!(collector.collect(wanted).get(Metric::AgentCpu), None);
    }

    #[test]
    fn load_averages_are_those_of_proc() {
        let of_proc = || {
            let text = std::fs::read_to_string("/proc/loadavg").unwrap();
            let averages = text.split(' ').take(3).map(|average| {
                let (units, hundredths) = average.split_once('.').unwrap();
                Some(units.parse::<i64>().unwrap() * 100 + hundredths.parse::<i64>().unwrap())
            });
            averages.collect::<Vec<_>>()
        };
        let measured = || {
            let mut values = Values::EMPTY;
            load(&mut values);
            [Metric::Load1, Metric::Load5, Metric::Load15].map(|metric| values.get(metric)).to_vec()
        };
        // They change every 5 s, so of several tries one falls between two changes.
        let agrees = || {
            let before = of_proc();
            measured() == before
        };
        assert!((0..1000).any(|_| agrees()), "{:?} is not {:?}", measured(), of_proc());
    }

    #[test]
    fn swap_space_is_that_of_proc_and_0_where_there_is_none() {
        let of_proc = |key: &str| {
            let text = std::fs::read_to_string("/proc/meminfo").unwrap();
            let line = text.lines().find_map(|line| line.strip_prefix(key)).unwrap();
            line.trim_end_matches("kB").trim().parse::<i64>().unwrap() * 1024
        };
        let values = SysinfoCollector::new().unwrap().collect(MetricSwitch::Swap.metrics());
        let total = of_proc("SwapTotal:");
        assert_eq!(values.get(Metric::SwapTotal), Some(total));
        let used = values.get(Metric::SwapUsed).unwrap();
        assert!((0..=total).contains(&used), "{used} of {total}");
    }

    #[test]
    fn a_share_has_a_total() {
        let mut values = Values::EMPTY;
        let metrics = [Metric::DiskPercent, Metric::DiskUsed, Metric::DiskTotal];
        set_share(&mut values, metrics, 0, 0);
        assert_eq!(values, Values::EMPTY);
        set_share(&mut values, metrics, 1, 3);
        assert_eq!(metrics.map(|metric| values.get(metric)), [Some(3_333), Some(1), Some(3)]);
    }
}
