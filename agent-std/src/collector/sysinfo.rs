//! The sysinfo crate as a source: for systems other than Linux, and to compare with.

use std::time::Instant;

use agent_core::metric::Metric;
use anyhow::Context as _;
use sysinfo::{
    DiskRefreshKind, Disks, MINIMUM_CPU_UPDATE_INTERVAL, MemoryRefreshKind, Networks, System,
};

use crate::collector::Collector;
use crate::collector::host::{Each, HostCollector, Memory, Source};

/// A collector that has it as its source.
///
/// # Errors
///
/// When sysinfo does not know this system.
pub(super) fn open() -> anyhow::Result<Box<dyn Collector>> {
    let source = Sysinfo::new().context("sysinfo does not know this system")?;
    Ok(Box::new(HostCollector::new(source)))
}

/// Keeps sysinfo's objects, and refreshes only those that are asked for.
#[derive(Debug)]
pub(super) struct Sysinfo {
    system: System,
    disks: Disks,
    networks: Networks,
    cpu_read_at: Option<Instant>,
    cpu_percent: Option<i64>,
}

impl Sysinfo {
    /// # Errors
    ///
    /// When sysinfo does not know this system.
    pub(super) fn new() -> Result<Self, sysinfo::Error> {
        Ok(Self {
            system: System::new()?,
            disks: Disks::new()?,
            networks: Networks::new()?,
            cpu_read_at: None,
            cpu_percent: None,
        })
    }
}

impl Source for Sysinfo {
    fn cpu_percent(&mut self, now: Instant) -> Option<i64> {
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

    fn forget_cpu(&mut self) {
        self.cpu_read_at = None;
        self.cpu_percent = None;
    }

    fn memory(&mut self) -> Option<Memory> {
        let kind = MemoryRefreshKind::nothing().with_ram().with_swap();
        self.system.refresh_memory_specifics(kind);
        let total = self.system.total_memory();
        // sysinfo does not say when it could not read; but no host is without memory.
        (total != 0).then(|| Memory {
            total: Some(total),
            available: Some(self.system.available_memory()),
            swap_total: Some(self.system.total_swap()),
            swap_free: Some(self.system.free_swap()),
        })
    }

    fn load(&mut self) -> Option<[i64; 3]> {
        let load = System::load_average().ok()?;
        // The kernel prints two decimals, so the nearest count is exact.
        let count = |average| proto::convert::count_from_units(Metric::Load1, average).ok();
        Some([count(load.one)?, count(load.five)?, count(load.fifteen)?])
    }

    fn disk_counters(&mut self, _: Instant, each: Each<'_>) -> Option<()> {
        self.disks.refresh_specifics(true, DiskRefreshKind::nothing().with_io_usage());
        for disk in &self.disks {
            let usage = disk.usage();
            let counts = [usage.total_read_bytes, usage.total_written_bytes];
            each(disk.name().as_encoded_bytes(), counts);
        }
        Some(())
    }

    fn net_counters(&mut self, each: Each<'_>) -> Option<()> {
        self.networks.refresh(true);
        for (name, data) in &self.networks {
            each(name.as_encoded_bytes(), [data.total_received(), data.total_transmitted()]);
        }
        Some(())
    }
}
