//! Physical memory and swap space, from `/proc/meminfo`.

use std::ops::ControlFlow;

use crate::collector::host::Memory;
use crate::collector::procfs::text::{number, words};

/// The lines that were seen, in bytes.
#[derive(Debug, Default)]
pub(super) struct MemoryLines {
    total: Option<u64>,
    free: Option<u64>,
    available: Option<u64>,
    buffers: Option<u64>,
    cached: Option<u64>,
    shared: u64,
    reclaimable: u64,
    swap_total: Option<u64>,
    swap_free: Option<u64>,
}

impl MemoryLines {
    /// Takes the next line; breaks when no more are needed.
    pub(super) fn take(&mut self, line: &[u8]) -> ControlFlow<()> {
        let mut words = words(line);
        let (Some(key), Some(kib)) = (words.next(), words.next().and_then(number)) else {
            return ControlFlow::Continue(());
        };
        // The kernel says kB and means KiB.
        let bytes = kib.saturating_mul(1024);
        match key {
            b"MemTotal:" => self.total = Some(bytes),
            b"MemFree:" => self.free = Some(bytes),
            b"MemAvailable:" => self.available = Some(bytes),
            b"Buffers:" => self.buffers = Some(bytes),
            b"Cached:" => self.cached = Some(bytes),
            b"Shmem:" => self.shared = bytes,
            b"SReclaimable:" => self.reclaimable = bytes,
            b"SwapTotal:" => self.swap_total = Some(bytes),
            b"SwapFree:" => self.swap_free = Some(bytes),
            _ => {}
        }
        let needed = [self.total, self.available, self.swap_total, self.swap_free];
        if needed.iter().all(Option::is_some) {
            return ControlFlow::Break(());
        }
        ControlFlow::Continue(())
    }

    /// What the lines say; none when that is nothing.
    pub(super) fn memory(&self) -> Option<Memory> {
        // Linux before 3.14 does not say it. The others that are in the sum have come later than these three, and are little.
        let estimate = || {
            let unused = [self.buffers?, self.cached?, self.reclaimable];
            let unused = unused.into_iter().fold(self.free?, u64::saturating_add);
            Some(unused.saturating_sub(self.shared))
        };
        let memory = Memory {
            // No host is without memory.
            total: self.total.filter(|total| *total != 0),
            available: self.available.or_else(estimate),
            swap_total: self.swap_total,
            swap_free: self.swap_free,
        };
        (memory.total.is_some() || memory.swap_total.is_some()).then_some(memory)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str, expected: impl Into<Option<[Option<u64>; 4]>>) {
        let mut lines = MemoryLines::default();
        for line in text.lines() {
            if lines.take(line.as_bytes()).is_break() {
                break;
            }
        }
        let memory = lines.memory();
        let parts = memory.map(|it| [it.total, it.available, it.swap_total, it.swap_free]);
        assert_eq!(parts, expected.into(), "{text}");
    }

    #[test]
    fn memory_is_in_kib() {
        let text = "MemTotal: 100 kB\nMemFree: 10 kB\nMemAvailable:   60 kB\nBuffers: 1 kB\n\
                    SwapCached: 5 kB\nSwapTotal: 9 kB\nSwapFree: 8 kB\nMemTotal: 7 kB";
        check(text, [100 << 10, 60 << 10, 9 << 10, 8 << 10].map(Some));
    }

    #[test]
    fn what_is_available_is_estimated_on_old_kernels() {
        let text = "MemTotal: 100 kB\nMemFree: 10 kB\nBuffers: 1 kB\nCached: 20 kB\n\
                    SwapTotal: 0 kB\nSwapFree: 0 kB\nShmem: 4 kB\nSReclaimable: 3 kB";
        check(text, [100 << 10, 30 << 10, 0, 0].map(Some));
    }

    #[test]
    fn what_no_line_says_is_not_made_up() {
        check("", None);
        check("MemTotal: 0 kB", None);
        check("MemTotal: kB\nMemAvailable: 5 kB", None);
        let total = [Some(8 << 10), None, None, None];
        check("MemTotal: 8 kB", total);
        check("MemTotal: 8 kB\nMemFree: 4 kB", total);
        check("MemTotal: 8 kB\nBuffers: 1 kB\nCached: 1 kB\nShmem: 1 kB", total);
        let text = "MemTotal: 8 kB\nMemFree: 4 kB\nBuffers: 1 kB\nCached: 1 kB";
        check(text, [Some(8 << 10), Some(6 << 10), None, None]);
        check("SwapTotal: 8 kB", [None, None, Some(8 << 10), None]);
        check(&format!("MemTotal: {} kB", u64::MAX), [Some(u64::MAX), None, None, None]);
    }
}
