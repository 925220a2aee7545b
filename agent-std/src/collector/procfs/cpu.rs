//! The share of the processors that is busy, from the first line of `/proc/stat`.

use std::time::{Duration, Instant};

use agent_core::metric::percent_of;

use crate::collector::procfs::text::{number, words};

/// Ticks of 10 ms that all processors together have spent since boot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct CpuTimes {
    /// For programs, for programs of low priority, in the kernel, for other hosts on this machine, for guests of this
    /// host.
    busy: [u64; 5],
    /// Those, and what was idle.
    total: u64,
}

impl CpuTimes {
    /// Reads the line `cpu  USER NICE SYSTEM IDLE IOWAIT IRQ SOFTIRQ STEAL GUEST GUEST_NICE` (proc_stat(5)). Old kernels
    /// have fewer numbers; what they do not count is 0. None of any other line.
    pub(super) fn parse(line: &[u8]) -> Option<Self> {
        let mut words = words(line);
        if words.next()? != b"cpu" {
            return None;
        }
        let mut times = [0_u64; 10];
        let mut count = 0;
        for (time, word) in times.iter_mut().zip(words) {
            *time = number(word)?;
            count += 1;
        }
        if count < 4 {
            return None;
        }
        let [user, nice, system, idle, iowait, irq, softirq, steal, guest, guest_nice] = times;
        let busy = [
            // The kernel counts guests here as well.
            user.saturating_sub(guest),
            nice.saturating_sub(guest_nice),
            sum([system, irq, softirq]),
            steal,
            sum([guest, guest_nice]),
        ];
        Some(Self { busy, total: sum(busy.into_iter().chain([idle, iowait])) })
    }

    /// The busy share from `earlier` to this, in hundredths of a percent; none when no time has passed, or time has gone
    /// back.
    fn share_since(&self, earlier: &Self) -> Option<i64> {
        let passed = self.total.checked_sub(earlier.total)?;
        // Single counters may go back a little (proc_stat(5) on iowait).
        let changes =
            self.busy.iter().zip(earlier.busy).map(|(now, then)| now.saturating_sub(then));
        let busy = sum(changes).min(passed);
        percent_of(i64::try_from(busy).ok()?, i64::try_from(passed).ok()?)
    }
}

fn sum(times: impl IntoIterator<Item = u64>) -> u64 {
    times.into_iter().fold(0, u64::saturating_add)
}

/// Too few ticks would pass in less. sysinfo waits as long.
const INTERVAL_MIN: Duration = Duration::from_millis(200);

/// The share from one reading to the next.
#[derive(Debug, Default)]
pub(super) struct CpuShare {
    last: Option<(Instant, CpuTimes)>,
    /// In hundredths of a percent.
    share: Option<i64>,
}

impl CpuShare {
    /// The busy share since the last reading, as [`Source::cpu_percent`](crate::collector::host::Source::cpu_percent)
    /// says. `read` is not called when that was too short ago.
    pub(super) fn measure(
        &mut self,
        now: Instant,
        read: impl FnOnce() -> Option<CpuTimes>,
    ) -> Option<i64> {
        if let Some((last_at, _)) = self.last
            && now.saturating_duration_since(last_at) < INTERVAL_MIN
        {
            return self.share;
        }
        let times = read();
        let last = std::mem::replace(&mut self.last, times.map(|times| (now, times)));
        self.share = times.zip(last).and_then(|(times, (_, earlier))| times.share_since(&earlier));
        self.share
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_told_apart() {
        let times = CpuTimes::parse(b"cpu  100 20 30 400 50 6 7 8 90 10").unwrap();
        assert_eq!(times, CpuTimes { busy: [10, 10, 43, 8, 100], total: 171 + 450 });
        let old = CpuTimes::parse(b"cpu 100 20 30 400").unwrap();
        assert_eq!(old, CpuTimes { busy: [100, 20, 30, 0, 0], total: 550 });
    }

    #[test]
    fn other_lines_are_none() {
        let lines =
            ["", "cpu", "cpu0 1 2 3 4 5 6 7 8 9 10", "cpu 1 2 3", "cpu 1 2 3 x", "intr 1 2 3 4"];
        for line in lines {
            assert_eq!(CpuTimes::parse(line.as_bytes()), None, "{line}");
        }
        let too_high = format!("cpu {0}0 {0} {0} {0}", u64::MAX);
        assert_eq!(CpuTimes::parse(too_high.as_bytes()), None);
    }

    fn check(before: &str, after: &str, expected: Option<i64>) {
        let parse = |line: &str| CpuTimes::parse(line.as_bytes()).unwrap();
        assert_eq!(parse(after).share_since(&parse(before)), expected, "{before} {after}");
    }

    #[test]
    fn the_share_is_of_what_passed() {
        check("cpu 0 0 0 0", "cpu 1 0 0 3", Some(2_500));
        check("cpu 10 10 10 10 10 10 10 10", "cpu 11 11 11 11 11 11 11 11", Some(7_500));
        check("cpu 5 0 0 5", "cpu 5 0 0 8", Some(0));
        check("cpu 5 0 0 5", "cpu 9 0 0 5", Some(10_000));
        check("cpu 0 0 0 0", "cpu 1 0 0 2", Some(3_333));
        // A guest counts once.
        check("cpu 0 0 0 0 0 0 0 0 0 0", "cpu 5 0 0 5 0 0 0 0 5 0", Some(5_000));
    }

    #[test]
    fn counters_that_go_back_make_no_share_beyond_all() {
        check("cpu 5 0 0 5", "cpu 5 0 0 5", None);
        check("cpu 5 0 0 5", "cpu 4 0 0 5", None);
        check("cpu 5 0 0 5 9", "cpu 8 0 0 5 8", Some(10_000));
        check("cpu 5 5 0 5", "cpu 4 7 0 8", Some(5_000));
        let most = format!("cpu {0} {0} {0} {0} {0} {0} {0} {0}", u64::MAX);
        check("cpu 0 0 0 0", &most, None);
        check(&most, &most, None);
    }

    #[test]
    fn a_share_stands_until_ticks_have_passed() {
        let start = Instant::now();
        let mut share = CpuShare::default();
        let mut check = |ms, line: Option<&str>, expected| {
            let read = || CpuTimes::parse(line?.as_bytes());
            assert_eq!(share.measure(start + Duration::from_millis(ms), read), expected, "{ms}");
        };
        check(0, Some("cpu 0 0 0 0"), None);
        check(199, Some("cpu 1 0 0 0"), None);
        check(200, Some("cpu 1 0 0 3"), Some(2_500));
        check(300, Some("cpu 9 0 0 3"), Some(2_500));
        check(400, Some("cpu 3 0 0 5"), Some(5_000));
        check(600, None, None);
        check(800, Some("cpu 9 0 0 5"), None);
        check(1000, Some("cpu 9 0 0 9"), Some(0));
    }
}
