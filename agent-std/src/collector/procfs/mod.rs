//! The kernel's own files in `/proc` as a source: the one of Linux.
//!
//! They are opened once and stay open: six descriptors. Each is read from its beginning at each measurement, through one
//! buffer of a page; files that are longer are read in pieces, so that no device is left out for want of room. Nothing is
//! allocated while devices and mounts stay the same, but once a minute, when the mount table is looked at anew.
//!
//! What each answer means is the same as from `sysinfo`, and a test has them side by side. Where sources are missing they
//! differ: this one leaves out what it cannot read, and logs that once, where sysinfo says 0.

mod cpu;
mod disks;
mod file;
mod load;
mod memory;
mod network;
mod text;

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::time::Instant;

use self::cpu::{CpuShare, CpuTimes};
use self::disks::Disks;
use self::file::{BUFFER_BYTES, Buffer, ProcFile};
use self::memory::MemoryLines;
use crate::collector::host::{Each, Memory, Source};

/// The open files.
#[derive(Debug)]
pub(super) struct Procfs {
    buffer: Box<Buffer>,
    stat: ProcFile,
    memory: ProcFile,
    load: ProcFile,
    network: ProcFile,
    disks: Disks,
    cpu: CpuShare,
}

impl Procfs {
    /// This host. What cannot be read now is tried again at each measurement.
    pub(super) fn new() -> Self {
        Self::below(Path::new("/proc"), "/dev".into())
    }

    fn below(proc_dir: &Path, dev_dir: PathBuf) -> Self {
        let file = |name: &str| ProcFile::new(proc_dir.join(name));
        Self {
            buffer: Box::new([0; BUFFER_BYTES]),
            stat: file("stat"),
            memory: file("meminfo"),
            load: file("loadavg"),
            network: ProcFile::with_short_lines(proc_dir.join("net/dev")),
            disks: Disks::new(proc_dir, dev_dir),
            cpu: CpuShare::default(),
        }
    }
}

/// What the first line of `file` is.
fn first_line<T>(
    file: &mut ProcFile,
    buffer: &mut Buffer,
    parse: impl Fn(&[u8]) -> Option<T>,
) -> Option<T> {
    let mut parsed = None;
    file.read_lines(buffer, |line| {
        parsed = parse(line);
        ControlFlow::Break(())
    })?;
    file.understood(parsed)
}

impl Source for Procfs {
    fn cpu_percent(&mut self, now: Instant) -> Option<i64> {
        // Only the first line is about all processors; behind it is one of each, and more.
        self.cpu.measure(now, || first_line(&mut self.stat, &mut self.buffer, CpuTimes::parse))
    }

    fn forget_cpu(&mut self) {
        self.cpu = CpuShare::default();
    }

    fn memory(&mut self) -> Option<Memory> {
        let mut lines = MemoryLines::default();
        self.memory.read_lines(&mut *self.buffer, |line| lines.take(line))?;
        self.memory.understood(lines.memory())
    }

    fn load(&mut self) -> Option<[i64; 3]> {
        first_line(&mut self.load, &mut self.buffer, load::parse)
    }

    fn disk_counters(&mut self, now: Instant, each: Each<'_>) -> Option<()> {
        self.disks.read(now, &mut self.buffer, each)
    }

    fn net_counters(&mut self, each: Each<'_>) -> Option<()> {
        // Each host has loopback.
        let mut any = None;
        self.network.read_lines(&mut *self.buffer, |line| {
            if let Some((name, counts)) = network::parse(line) {
                each(name, counts);
                any = Some(());
            }
            ControlFlow::Continue(())
        })?;
        self.network.understood(any)
    }
}

#[cfg(test)]
mod odd_hosts;
#[cfg(test)]
mod tests;
