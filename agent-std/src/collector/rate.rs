//! Rates from counters: the change of a sum of device counters over the time that really passed.

use std::collections::HashMap;
use std::time::{Duration, Instant};

/// Turns the running byte counters of devices into bytes per second.
///
/// Only devices seen at both ends of an interval count, so one that is plugged in does not add all it ever
/// counted. A counter that falls was reset; it counts as no change.
#[derive(Debug, Default)]
pub(super) struct RateMeter {
    last: Option<Reading>,
}

#[derive(Debug)]
struct Reading {
    at: Instant,
    counters: HashMap<String, u64>,
}

impl RateMeter {
    /// Takes the counters as they stand at `now`. No rate comes of the first reading, nor of two at one instant.
    pub(super) fn measure(&mut self, now: Instant, counters: HashMap<String, u64>) -> Option<i64> {
        let last = self.last.replace(Reading { at: now, counters })?;
        let counters = &self.last.as_ref()?.counters;
        let change = counters
            .iter()
            .filter_map(|(device, count)| Some(count.saturating_sub(*last.counters.get(device)?)))
            .fold(0_u64, u64::saturating_add);
        let nanos = now.saturating_duration_since(last.at).as_nanos();
        let per_second = (u128::from(change) * 1_000_000_000).checked_div(nanos)?;
        Some(i64::try_from(per_second).unwrap_or(i64::MAX))
    }

    /// Forgets the last reading, because nobody looked for a while.
    pub(super) fn reset(&mut self) {
        self.last = None;
    }
}

/// Turns the running processor time of a process into its share of one core.
#[derive(Debug, Default)]
pub(super) struct CpuMeter {
    last: Option<(Instant, Duration)>,
}

impl CpuMeter {
    /// Takes the processor time as it stands at `now`. Answers the share since the last reading in hundredths of a
    /// percent, rounded to the nearest; several threads can make it more than 10,000. As with [`RateMeter`], none comes
    /// of the first reading, nor of two at one instant.
    pub(super) fn measure(&mut self, now: Instant, cpu_time: Duration) -> Option<i64> {
        let (last_at, last_cpu_time) = self.last.replace((now, cpu_time))?;
        let passed = now.saturating_duration_since(last_at).as_nanos();
        let worked = cpu_time.saturating_sub(last_cpu_time).as_nanos();
        i64::try_from((worked * 10_000 + passed / 2).checked_div(passed)?).ok()
    }

    /// Forgets the last reading, because nobody looked for a while.
    pub(super) fn reset(&mut self) {
        self.last = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counters(pairs: &[(&str, u64)]) -> HashMap<String, u64> {
        pairs.iter().map(|(device, count)| ((*device).to_owned(), *count)).collect()
    }

    /// The rate between two readings `ms` apart.
    fn check(ms: u64, before: &[(&str, u64)], after: &[(&str, u64)], expected: Option<i64>) {
        let mut meter = RateMeter::default();
        let start = Instant::now();
        assert_eq!(meter.measure(start, counters(before)), None, "the first reading has no rate");
        let end = start + Duration::from_millis(ms);
        assert_eq!(meter.measure(end, counters(after)), expected, "{before:?} {after:?}");
    }

    #[test]
    fn a_rate_is_over_the_time_that_passed() {
        check(1000, &[("sda", 100)], &[("sda", 400)], Some(300));
        check(500, &[("sda", 100)], &[("sda", 400)], Some(600));
        check(2000, &[("sda", 100)], &[("sda", 400)], Some(150));
        check(0, &[("sda", 100)], &[("sda", 400)], None);
    }

    #[test]
    fn devices_add_up_and_come_and_go_without_a_jump() {
        check(1000, &[("a", 1), ("b", 2)], &[("a", 4), ("b", 7)], Some(8));
        check(1000, &[("a", 1)], &[("a", 2), ("new", 1_000_000)], Some(1));
        check(1000, &[("a", 1), ("gone", 9)], &[("a", 2)], Some(1));
        check(1000, &[], &[], Some(0));
    }

    #[test]
    fn a_counter_that_falls_was_reset() {
        check(1000, &[("a", 1000), ("b", 0)], &[("a", 10), ("b", 5)], Some(5));
        check(1, &[("a", 0)], &[("a", u64::MAX)], Some(i64::MAX));
    }

    /// The share of a core that `worked_us` in `passed_us` make.
    fn check_share(passed_us: u64, worked_us: u64, expected: Option<i64>) {
        let mut meter = CpuMeter::default();
        let (start, before) = (Instant::now(), Duration::from_secs(9));
        assert_eq!(meter.measure(start, before), None, "the first reading has no share");
        let end = start + Duration::from_micros(passed_us);
        let share = meter.measure(end, before + Duration::from_micros(worked_us));
        assert_eq!(share, expected, "{worked_us} of {passed_us} us");
    }

    #[test]
    fn a_share_is_of_one_core() {
        check_share(1_000_000, 10_000, Some(100));
        check_share(5_000_000, 10_000, Some(20));
        check_share(1_000_000, 2_000_000, Some(20_000));
        check_share(1_000_000, 0, Some(0));
        check_share(1_000_000, 49, Some(0));
        check_share(1_000_000, 50, Some(1));
        check_share(0, 10, None);
    }

    #[test]
    fn a_share_starts_afresh_after_a_reset() {
        let mut meter = CpuMeter::default();
        let start = Instant::now();
        assert_eq!(meter.measure(start, Duration::ZERO), None);
        meter.reset();
        assert_eq!(meter.measure(start + Duration::from_secs(1), Duration::from_secs(1)), None);
    }
}
