//! Rates from counters: the change of a sum of device counters over the time that really passed.

use std::time::{Duration, Instant};

/// Bytes that a device has taken in and given out since it was made: read and written, or received and sent.
pub(super) type Counts = [u64; 2];

/// Bytes per second, 1 TB/s, beyond which no rate is believed: the memory of the fastest hosts, through which all passes, does
/// not get that far, and the fastest network interfaces do a tenth of it. What seems more is a counter gone mad, such as one
/// that a driver sets to -1 while its device is reset.
const RATE_MAX: u128 = 1_000_000_000_000;

/// Turns the running byte counters of devices into bytes per second.
///
/// Only devices seen at both ends of an interval count, so one that is plugged in does not add all it ever
/// counted. A counter that falls was reset; it counts as no change. One that jumps by more than can be leaves no rate that time.
/// While the devices stay the same, nothing is allocated.
#[derive(Debug, Default)]
pub(super) struct RateMeter {
    /// When the devices were read; none when they never were, or not to the end.
    read_at: Option<Instant>,
    devices: Vec<Device>,
}

#[derive(Debug)]
struct Device {
    name: Box<[u8]>,
    counts: Counts,
    /// Since the reading before; 0 of a device that is new.
    change: Counts,
    is_seen: bool,
}

impl RateMeter {
    /// Begins to take the counters as they stand at `now`. A reading that is dropped before its end leaves no rate to it,
    /// nor to the next.
    pub(super) fn begin(&mut self, now: Instant) -> Reading<'_> {
        for device in &mut self.devices {
            device.is_seen = false;
        }
        let last_at = self.read_at.take();
        Reading { meter: self, now, last_at, next_index: 0 }
    }

    /// Forgets the last reading, because nobody looked for a while.
    pub(super) fn reset(&mut self) {
        self.read_at = None;
    }
}

/// Counters that are being read.
#[derive(Debug)]
pub(super) struct Reading<'a> {
    meter: &'a mut RateMeter,
    now: Instant,
    last_at: Option<Instant>,
    /// Devices nearly always come in the order of the last reading, so the search for each begins behind the one before.
    ///
    /// next_index <= meter.devices.len()
    next_index: usize,
}

impl<'a> Reading<'a> {
    /// Takes the counters of a device. One that comes twice in a reading counts once.
    pub(super) fn add(&mut self, name: &[u8], counts: Counts) {
        let devices = &mut self.meter.devices;
        let mut order = (self.next_index..devices.len()).chain(0..self.next_index);
        let found = order.find(|index| *devices[*index].name == *name);
        let Some(index) = found else {
            devices.push(Device { name: name.into(), counts, change: [0; 2], is_seen: true });
            return;
        };
        self.next_index = index + 1;
        let device = &mut devices[index];
        if !device.is_seen {
            device.change = [0, 1].map(|way| counts[way].saturating_sub(device.counts[way]));
            device.counts = counts;
            device.is_seen = true;
        }
    }

    /// All devices were read.
    pub(super) fn end(self) -> Changes<'a> {
        let Self { meter, now, last_at, .. } = self;
        meter.devices.retain(|device| device.is_seen);
        meter.read_at = Some(now);
        let passed = last_at.map(|last_at| now.saturating_duration_since(last_at));
        Changes { devices: &meter.devices, passed }
    }
}

/// What changed from one reading to the next.
#[derive(Debug)]
pub(super) struct Changes<'a> {
    devices: &'a [Device],
    passed: Option<Duration>,
}

impl<'a> Changes<'a> {
    /// The devices, in the same order as long as none comes or goes.
    pub(super) fn names(&self) -> impl Iterator<Item = &'a [u8]> + Clone + use<'a> {
        self.devices.iter().map(|device| &*device.name)
    }

    /// Bytes per second of those devices together of which `counting` says so, in their order. No rate comes of the first
    /// reading, nor of two at one instant, nor of what no host can do.
    pub(super) fn rates(&self, counting: impl IntoIterator<Item = bool>) -> Option<[i64; 2]> {
        let nanos = self.passed.map(|passed| passed.as_nanos()).filter(|nanos| *nanos != 0)?;
        let counted = self.devices.iter().zip(counting).filter(|(_, counts)| *counts);
        let sum = counted.fold([0_u64; 2], |sum, (device, _)| {
            [0, 1].map(|way| sum[way].saturating_add(device.change[way]))
        });
        let [taken_in, given_out] = sum
            .map(|change| u128::from(change) * 1_000_000_000 / nanos)
            .map(|per_second| i64::try_from(per_second).ok().filter(|_| per_second <= RATE_MAX));
        Some([taken_in?, given_out?])
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
    use std::iter;

    use super::*;

    fn read<'a>(meter: &'a mut RateMeter, now: Instant, counters: &[(&str, u64)]) -> Changes<'a> {
        let mut reading = meter.begin(now);
        for (device, count) in counters {
            // What goes out is told apart from what comes in by standing still.
            reading.add(device.as_bytes(), [*count, 7]);
        }
        reading.end()
    }

    fn rate(meter: &mut RateMeter, now: Instant, counters: &[(&str, u64)]) -> Option<i64> {
        let rates = read(meter, now, counters).rates(iter::repeat(true));
        rates.map(|[taken_in, given_out]| {
            assert_eq!(given_out, 0);
            taken_in
        })
    }

    /// The rate between two readings `ms` apart.
    fn check(ms: u64, before: &[(&str, u64)], after: &[(&str, u64)], expected: Option<i64>) {
        let mut meter = RateMeter::default();
        let start = Instant::now();
        assert_eq!(rate(&mut meter, start, before), None, "the first reading has no rate");
        let end = start + Duration::from_millis(ms);
        assert_eq!(rate(&mut meter, end, after), expected, "{before:?} {after:?}");
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
        check(1000, &[("a", 1), ("b", 1)], &[("new", 9), ("b", 2), ("a", 4)], Some(4));
        check(1000, &[], &[], Some(0));
    }

    #[test]
    fn a_device_that_comes_twice_counts_once() {
        check(1000, &[("a", 1), ("a", 1)], &[("a", 4), ("a", 9)], Some(3));
    }

    #[test]
    fn a_device_that_came_back_starts_afresh() {
        let mut meter = RateMeter::default();
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        assert_eq!(rate(&mut meter, at(0), &[("a", 1), ("b", 1)]), None);
        assert_eq!(rate(&mut meter, at(1), &[("b", 2)]), Some(1));
        assert_eq!(rate(&mut meter, at(2), &[("a", 90), ("b", 4)]), Some(2));
        assert_eq!(rate(&mut meter, at(3), &[("a", 95), ("b", 4)]), Some(5));
    }

    #[test]
    fn only_what_counts_is_summed() {
        let mut meter = RateMeter::default();
        let start = Instant::now();
        read(&mut meter, start, &[("a", 0), ("b", 0)]);
        let changes = read(&mut meter, start + Duration::from_secs(1), &[("b", 30), ("a", 4)]);
        assert_eq!(changes.names().collect::<Vec<_>>(), [b"a", b"b"]);
        assert_eq!(changes.rates([true, false]), Some([4, 0]));
        assert_eq!(changes.rates([false, true]), Some([30, 0]));
    }

    #[test]
    fn a_reading_that_broke_off_leaves_no_rate() {
        let mut meter = RateMeter::default();
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        assert_eq!(rate(&mut meter, at(0), &[("a", 0), ("b", 0)]), None);
        meter.begin(at(1)).add(b"a", [10, 7]);
        assert_eq!(rate(&mut meter, at(2), &[("a", 20), ("b", 20)]), None);
        assert_eq!(rate(&mut meter, at(3), &[("a", 21), ("b", 21)]), Some(2));
    }

    #[test]
    fn a_counter_that_falls_was_reset() {
        check(1000, &[("a", 1000), ("b", 0)], &[("a", 10), ("b", 5)], Some(5));
    }

    #[test]
    fn a_counter_that_jumps_beyond_all_leaves_no_rate_that_time() {
        check(1000, &[("a", 7)], &[("a", u64::MAX)], None);
        check(1000, &[("a", 0)], &[("a", 1_000_000_000_000)], Some(1_000_000_000_000));
        check(1000, &[("a", 0)], &[("a", 1_000_000_000_001)], None);
        // It is the rate that counts: so much in a longer time may be.
        check(2000, &[("a", 0)], &[("a", 1_000_000_000_001)], Some(500_000_000_000));
        check(1000, &[("a", 0), ("b", 0)], &[("a", 1 << 63), ("b", 1 << 63)], None);
        let mut meter = RateMeter::default();
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        assert_eq!(rate(&mut meter, at(0), &[("a", 7)]), None);
        assert_eq!(rate(&mut meter, at(1), &[("a", u64::MAX)]), None);
        assert_eq!(rate(&mut meter, at(2), &[("a", 9)]), Some(0), "it came back");
        assert_eq!(rate(&mut meter, at(3), &[("a", 12)]), Some(3));
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
