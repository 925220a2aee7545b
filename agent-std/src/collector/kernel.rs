//! What the Linux kernel is asked directly, because sysinfo asks for far more to answer it, or answers too coarsely.

use std::fs;
use std::io::Read as _;
use std::str;
use std::time::Duration;

use rustix::fs::{StatVfs, statvfs};
use rustix::param::page_size;
use rustix::time::{ClockId, clock_gettime};

/// The space of a file system in bytes, as `df` counts it for ordinary users.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Space {
    /// What is taken.
    pub(super) used: i64,
    /// What is taken and what ordinary users may still take. A reserve for root is not part of it, so that a file
    /// system that refuses their writes is 100 % full.
    pub(super) total: i64,
}

impl Space {
    fn from_blocks(stat: &StatVfs) -> Option<Self> {
        let used = stat.f_blocks.saturating_sub(stat.f_bfree);
        let total = used.saturating_add(stat.f_bavail);
        let bytes = |blocks: u64| i64::try_from(blocks.checked_mul(stat.f_frsize)?).ok();
        Some(Self { used: bytes(used)?, total: bytes(total)? })
    }
}

/// The space of the root file system.
///
/// sysinfo would ask every mounted file system, and one on a dead server does not answer. This asks "/" alone.
pub(super) fn root_space() -> Option<Space> {
    Space::from_blocks(&statvfs("/").ok()?)
}

/// Milliseconds since the host started, suspended time included. sysinfo has whole seconds.
pub(super) fn uptime_ms() -> Option<i64> {
    let uptime = Duration::try_from(clock_gettime(ClockId::Boottime)).ok()?;
    i64::try_from(uptime.as_millis()).ok()
}

/// Bytes of this process in physical memory.
///
/// The same file as sysinfo's, which reads three others and keeps a description of the process to get there.
pub(super) fn own_memory() -> Option<i64> {
    // Seven numbers of at most twenty digits.
    let mut text = [0; 160];
    let length = fs::File::open("/proc/self/statm").ok()?.read(&mut text).ok()?;
    resident_bytes(str::from_utf8(text.get(..length)?).ok()?, page_size())
}

/// The second number of `statm` is the count of resident pages (proc_pid_statm(5)).
fn resident_bytes(statm: &str, page_bytes: usize) -> Option<i64> {
    let pages = statm.split_ascii_whitespace().nth(1)?.parse::<i64>().ok()?;
    pages.checked_mul(i64::try_from(page_bytes).ok()?)
}

/// Time that all threads of this process have spent on a processor.
///
/// In nanoseconds; what sysinfo reads counts in ticks of 10 ms, a whole percent of an interval of a second.
pub(super) fn own_cpu_time() -> Option<Duration> {
    Duration::try_from(clock_gettime(ClockId::ProcessCPUTime)).ok()
}

#[cfg(test)]
mod tests {
    use rustix::fs::StatVfsMountFlags;

    use super::*;

    fn number(text: &str) -> i64 {
        text.parse().unwrap()
    }

    /// Checks that `ours` lies between two readings of `truth`, which goes on changing. One try of many must hold:
    /// between the readings of a single one anything may have happened.
    fn check_between(truth: impl Fn() -> i64, ours: impl Fn() -> i64, slack: i64) {
        let mut seen = Vec::new();
        for _ in 0..1000 {
            let (before, value, after) = (truth(), ours(), truth());
            if (before.min(after) - slack..=before.max(after) + slack).contains(&value) {
                return;
            }
            seen.push((before, value, after));
        }
        panic!("never between two readings: {seen:?}");
    }

    #[test]
    fn uptime_is_that_of_proc() {
        let of_proc = || {
            let text = fs::read_to_string("/proc/uptime").unwrap();
            let (seconds, hundredths) = text.split(' ').next().unwrap().split_once('.').unwrap();
            number(seconds) * 1000 + number(hundredths) * 10
        };
        check_between(of_proc, || uptime_ms().unwrap(), 10);
    }

    #[test]
    fn own_memory_is_that_of_proc() {
        let of_proc = || {
            let text = fs::read_to_string("/proc/self/statm").unwrap();
            let pages = number(text.split(' ').nth(1).unwrap());
            pages * i64::try_from(page_size()).unwrap()
        };
        check_between(of_proc, || own_memory().unwrap(), 0);
        let memory = own_memory().unwrap();
        // Less than the pages of the program itself, or more than a host has, would be another unit.
        assert!((1 << 18..1 << 40).contains(&memory), "{memory}");
    }

    #[test]
    fn resident_pages_are_the_second_number() {
        assert_eq!(resident_bytes("765 406 379 5 0 123 0\n", 4096), Some(406 * 4096));
        assert_eq!(resident_bytes("765", 4096), None);
        assert_eq!(resident_bytes("765 none", 4096), None);
        assert_eq!(resident_bytes("1 9223372036854775807", 4096), None);
    }

    #[test]
    fn the_root_file_system_is_that_of_df() {
        let used = || {
            let stat = statvfs("/").unwrap();
            i64::try_from((stat.f_blocks - stat.f_bfree) * stat.f_frsize).unwrap()
        };
        check_between(used, || root_space().unwrap().used, 0);
        let space = root_space().unwrap();
        let size = statvfs("/").unwrap();
        assert!(space.used <= space.total, "{space:?}");
        assert!(space.total <= i64::try_from(size.f_blocks * size.f_frsize).unwrap(), "{space:?}");
    }

    /// The space of a file system of `blocks`, of which `free` are free and `available` so for ordinary users.
    fn check_space(
        (blocks, free, available): (u64, u64, u64),
        block_bytes: u64,
        expected: Option<(i64, i64)>,
    ) {
        let stat = StatVfs {
            f_bsize: 1 << 20, // The preferred size of a transfer; nothing is counted in it.
            f_frsize: block_bytes,
            f_blocks: blocks,
            f_bfree: free,
            f_bavail: available,
            f_files: 0,
            f_ffree: 0,
            f_favail: 0,
            f_fsid: 0,
            f_flag: StatVfsMountFlags::empty(),
            f_namemax: 255,
        };
        let space = Space::from_blocks(&stat).map(|space| (space.used, space.total));
        assert_eq!(space, expected);
    }

    #[test]
    fn space_is_counted_for_ordinary_users() {
        check_space((100, 40, 35), 4096, Some((60 * 4096, 95 * 4096)));
        check_space((100, 5, 0), 4096, Some((95 * 4096, 95 * 4096)));
        check_space((100, 0, 0), 512, Some((100 * 512, 100 * 512)));
        check_space((0, 0, 0), 4096, Some((0, 0)));
        check_space((u64::MAX, 0, 0), 4096, None);
    }

    #[test]
    fn own_time_on_a_processor_grows_with_work() {
        let start = own_cpu_time().unwrap();
        // Ends for sure: each turn costs time.
        while own_cpu_time().unwrap() < start + Duration::from_millis(5) {}
    }
}
