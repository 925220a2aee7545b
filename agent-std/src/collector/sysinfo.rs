//! The portable collector, on the sysinfo crate.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::path::Path;
use std::time::Instant;

use agent_core::metric::{Metric, MetricSet, Values, memory_percent};
use sysinfo::{
    DiskRefreshKind, Disks, MINIMUM_CPU_UPDATE_INTERVAL, MemoryRefreshKind, Networks, System,
};

use crate::collector::Collector;
use crate::collector::rate::RateMeter;

/// Keeps sysinfo's objects and refreshes only those whose metrics are wanted.
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

    fn memory(&mut self, values: &mut Values) {
        self.system.refresh_memory_specifics(MemoryRefreshKind::nothing().with_ram());
        let total = self.system.total_memory();
        let used = total.saturating_sub(self.system.available_memory());
        let (Ok(used), Ok(total)) = (i64::try_from(used), i64::try_from(total)) else { return };
        if let Some(hundredths) = memory_percent(used, total) {
            values.set(Metric::MemoryPercent, hundredths);
            values.set(Metric::MemoryUsed, used);
            values.set(Metric::MemoryTotal, total);
        }
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
}

fn name_of(name: &OsStr) -> String {
    name.to_string_lossy().into_owned()
}

fn set(values: &mut Values, metric: Metric, count: Option<i64>) {
    if let Some(count) = count {
        values.set(metric, count);
    }
}

impl Collector for SysinfoCollector {
    fn collect(&mut self, wanted: MetricSet) -> Values {
        let mut values = Values::EMPTY;
        let wants = |metric| wanted.contains(metric);
        if wants(Metric::CpuPercent) {
            let percent = self.cpu_percent();
            set(&mut values, Metric::CpuPercent, percent);
        } else {
            self.cpu_read_at = None;
            self.cpu_percent = None;
        }
        if wants(Metric::MemoryPercent) || wants(Metric::MemoryUsed) || wants(Metric::MemoryTotal) {
            self.memory(&mut values);
        }
        if wants(Metric::DiskRead) || wants(Metric::DiskWrite) {
            let now = Instant::now();
            let (read, written) = self.disk_counters();
            set(&mut values, Metric::DiskRead, self.disk_read.measure(now, read));
            set(&mut values, Metric::DiskWrite, self.disk_write.measure(now, written));
        } else {
            self.disk_read.reset();
            self.disk_write.reset();
        }
        if wants(Metric::NetIn) || wants(Metric::NetOut) {
            let now = Instant::now();
            let (received, sent) = self.net_counters();
            set(&mut values, Metric::NetIn, self.net_in.measure(now, received));
            set(&mut values, Metric::NetOut, self.net_out.measure(now, sent));
        } else {
            self.net_in.reset();
            self.net_out.reset();
        }
        // A group is read as a whole; what was switched off in it is left out.
        for metric in values.present().iter() {
            if !wanted.contains(metric) {
                values.clear(metric);
            }
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
        for metric in Metric::ALL.into_iter().filter(|metric| metric.is_rate()) {
            assert_eq!(first.get(metric), None, "{metric}");
        }
        assert_eq!(first.get(Metric::CpuPercent), None);
        // The kernel's counters move in ticks of 10 ms, and sysinfo wants 200 ms between two.
        std::thread::sleep(MINIMUM_CPU_UPDATE_INTERVAL);
        let second = collector.collect(MetricSet::ALL);
        assert_eq!(second.present(), MetricSet::ALL);
        let cpu = second.get(Metric::CpuPercent).unwrap();
        assert!((0..=10_000).contains(&cpu), "{cpu}");
    }

    #[test]
    fn only_what_is_wanted_is_measured() {
        let mut collector = SysinfoCollector::new().unwrap();
        let wanted = MetricSet::from_iter([Metric::MemoryPercent]);
        assert_eq!(collector.collect(wanted).present(), wanted);
    }
}
