//! The sampler: when to take the next snapshot.
//!
//! Snapshots keep to a raster of the interval. It begins with the first one, which is taken at once. An agent that has a
//! [`Place`] in the interval moves the raster to it with the second snapshot, which comes half an interval to one and a half
//! after the first, and again when the interval changes; from there on the cadence is exact.

use core::time::Duration;

use crate::id::AgentId;
use crate::random::SplitMix64;
use crate::time::Instant;

/// Which part of the interval an agent takes its snapshots in, so that agents that were started at one moment (by a power
/// cut that ended, a START to a whole fleet) do not all fire at another one again and again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// From the beginning of the interval, in 2^-32 of it.
    share: u32,
}

impl Place {
    /// The place of the agent `id`: always the same one, and spread evenly over any fleet.
    pub fn of(id: &AgentId) -> Self {
        // FNV-1a tells names apart, the generator mixes them: names of a fleet differ by a digit or two.
        let hash = id.as_str().bytes().fold(0xcbf2_9ce4_8422_2325, |hash: u64, byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
        });
        let [.., a, b, c, d] = SplitMix64::new(hash).next_u64().to_be_bytes();
        Self { share: u32::from_be_bytes([a, b, c, d]) }
    }

    /// How far into an interval of `interval_ms` it is: less than the interval.
    const fn offset_ms(self, interval_ms: u64) -> u64 {
        // Intervals have at most 2^27 ms.
        interval_ms.saturating_mul(self.share as u64) >> 32
    }
}

#[derive(Clone, Debug)]
pub(crate) struct Sampler {
    due_at: Instant,
    progress: Progress,
    late: u64,
    /// None: the raster stays where the first snapshot has put it.
    place: Option<Place>,
    /// None until the first snapshot since the start has been asked for.
    started: Option<Started>,
}

/// The raster since the last start.
#[derive(Clone, Copy, Debug)]
struct Started {
    /// When the first snapshot was asked for: places are counted from there.
    origin: Instant,
    /// The last point of the raster at which one was due.
    last: Instant,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Progress {
    Idle,
    Collecting,
}

impl Sampler {
    pub(crate) const fn new(due_at: Instant) -> Self {
        Self { due_at, progress: Progress::Idle, late: 0, place: None, started: None }
    }

    /// Gives the agent a place in the interval. It holds from the next start on, at the beginning from the first one.
    pub(crate) const fn take_place(&mut self, place: Place) {
        self.place = Some(place);
    }

    /// Takes the next snapshot at `due_at`, then at the interval from there, or at its place in it.
    pub(crate) const fn restart(&mut self, due_at: Instant) {
        self.due_at = due_at;
        self.started = None;
    }

    /// The interval is `interval` from now on. The next snapshot is due as if it had been so since the last one, at once
    /// when that is past: changes that follow each other faster than snapshots do not put off the next one again and again.
    /// The first one is due when it was.
    pub(crate) fn change_interval(&mut self, now: Instant, interval: Duration) {
        if let Some(started) = self.started {
            self.due_at = self.after(started, milliseconds(interval)).max(now);
        }
    }

    /// When the snapshot after the last one is due.
    fn after(&self, Started { origin, last }: Started, interval_ms: u64) -> Instant {
        let Some(place) = self.place else {
            return Instant::from_ms(last.as_ms().saturating_add(interval_ms));
        };
        // The first point of the raster that is no less than half an interval away.
        let first_ms = origin.as_ms().saturating_add(place.offset_ms(interval_ms));
        let soonest_ms = last.as_ms().saturating_add(interval_ms / 2);
        let steps = soonest_ms.saturating_sub(first_ms).div_ceil(interval_ms);
        Instant::from_ms(first_ms.saturating_add(steps.saturating_mul(interval_ms)))
    }

    /// The snapshot that was asked for has come, or has failed.
    pub(crate) const fn handle_done(&mut self) {
        self.progress = Progress::Idle;
    }

    /// Whether to take a snapshot now. Ticks keep to a fixed raster; those that were missed, because the shell woke
    /// late or the collector was busy, are counted and not made up for.
    pub(crate) fn poll_due(&mut self, now: Instant, interval: Duration) -> bool {
        if now < self.due_at {
            return false;
        }
        let interval_ms = milliseconds(interval);
        let overdue_ms = now.as_ms() - self.due_at.as_ms();
        let missed = overdue_ms / interval_ms;
        let missed_ms = missed.saturating_mul(interval_ms);
        let last = Instant::from_ms(self.due_at.as_ms().saturating_add(missed_ms));
        let origin = self.started.map_or(last, |started| started.origin);
        let started = Started { origin, last };
        self.started = Some(started);
        self.due_at = self.after(started, interval_ms);
        self.late = self.late.saturating_add(missed);
        if self.progress == Progress::Collecting {
            self.late = self.late.saturating_add(1);
            return false;
        }
        self.progress = Progress::Collecting;
        true
    }

    /// When the next snapshot is due. Waking late makes the snapshot late by as much.
    pub(crate) const fn deadline(&self) -> Instant {
        self.due_at
    }

    pub(crate) const fn late(&self) -> u64 {
        self.late
    }
}

fn milliseconds(interval: Duration) -> u64 {
    u64::try_from(interval.as_millis()).unwrap_or(u64::MAX).max(1)
}

#[cfg(test)]
mod tests {
    use std::format;

    use super::*;

    const INTERVAL: Duration = Duration::from_secs(1);

    #[test]
    fn ticks_keep_to_their_raster() {
        let mut sampler = Sampler::new(Instant::from_ms(0));
        assert!(sampler.poll_due(Instant::from_ms(0), INTERVAL));
        sampler.handle_done();
        assert!(!sampler.poll_due(Instant::from_ms(999), INTERVAL));
        assert!(sampler.poll_due(Instant::from_ms(1030), INTERVAL));
        assert_eq!(sampler.deadline(), Instant::from_ms(2000));
        assert_eq!(sampler.late(), 0);
    }

    #[test]
    fn missed_ticks_are_counted_and_not_made_up_for() {
        let mut sampler = Sampler::new(Instant::from_ms(0));
        assert!(sampler.poll_due(Instant::from_ms(3500), INTERVAL));
        assert_eq!((sampler.late(), sampler.deadline()), (3, Instant::from_ms(4000)));
        assert!(!sampler.poll_due(Instant::from_ms(4000), INTERVAL));
        assert_eq!((sampler.late(), sampler.deadline()), (4, Instant::from_ms(5000)));
        sampler.handle_done();
        assert!(sampler.poll_due(Instant::from_ms(5000), INTERVAL));
    }

    #[test]
    fn changes_of_the_interval_do_not_put_off_a_snapshot_for_ever() {
        let (short, long) = (Duration::from_secs(30), Duration::from_secs(60));
        let mut sampler = Sampler::new(Instant::from_ms(0));
        assert!(sampler.poll_due(Instant::from_ms(0), long));
        sampler.handle_done();
        let mut intervals = [long, short].into_iter().cycle();
        let mut interval = long;
        let due = (1..=6).map(|turn| Instant::from_ms(turn * 10_000)).find(|now| {
            interval = intervals.next().unwrap();
            sampler.change_interval(*now, interval);
            sampler.poll_due(*now, interval)
        });
        assert_eq!(due, Some(Instant::from_ms(40_000)), "the first beyond the shorter one");
        assert_eq!(sampler.late(), 0);
    }

    /// When the next `count` snapshots are taken by a shell that is always in time.
    fn taken(sampler: &mut Sampler, interval: Duration, count: usize) -> std::vec::Vec<u64> {
        let mut take = || {
            let now = sampler.deadline();
            assert!(sampler.poll_due(now, interval));
            sampler.handle_done();
            now.as_ms()
        };
        (0..count).map(|_| take()).collect()
    }

    fn started_at(ms: u64, place: Place) -> Sampler {
        let mut sampler = Sampler::new(Instant::from_ms(ms));
        sampler.take_place(place);
        sampler
    }

    #[test]
    fn the_first_snapshot_is_taken_at_once_and_the_others_at_the_place() {
        let check = |share, expected: [u64; 4]| {
            let mut sampler = started_at(7_000, Place { share });
            assert_eq!(taken(&mut sampler, INTERVAL, 4), expected);
            assert_eq!(sampler.late(), 0);
        };
        check(0, [7_000, 8_000, 9_000, 10_000]);
        check(1 << 30, [7_000, 8_250, 9_250, 10_250]);
        check(1 << 31, [7_000, 7_500, 8_500, 9_500]);
        check(u32::MAX, [7_000, 7_999, 8_999, 9_999]);
    }

    #[test]
    fn agents_that_start_together_keep_apart_also_when_their_interval_changes() {
        let mut counts = [0_u32; 10];
        let long = Duration::from_secs(60);
        for number in 0..1_000 {
            let id = format!("edge-{number:04}").parse().unwrap();
            let mut sampler = started_at(0, Place::of(&id));
            let first = taken(&mut sampler, INTERVAL, 3);
            assert!((500..1_500).contains(&first[1]) && first[2] == first[1] + 1_000, "{first:?}");
            // Told to all of them at one moment, as a push to a fleet is.
            let now = Instant::from_ms(2_600);
            sampler.change_interval(now, long);
            let next = taken(&mut sampler, long, 3);
            assert!((30_000..=90_000).contains(&(next[0] - first[2])), "{first:?} {next:?}");
            assert_eq!([next[1] - next[0], next[2] - next[1]], [60_000; 2]);
            counts[usize::try_from(next[2] % 60_000 / 6_000).unwrap()] += 1;
        }
        // 100 in each tenth; four standard deviations of a fair spread are 38.
        assert!(counts.iter().all(|count| (62..=138).contains(count)), "{counts:?}");
    }

    #[test]
    fn the_place_is_that_of_the_name() {
        let place = |id: &str| Place::of(&id.parse().unwrap());
        assert_eq!(place("edge-01"), place("edge-01"));
        assert_ne!(place("edge-01"), place("edge-02"));
        // It must not move with a new version of the program: a fleet is updated host by host.
        assert_eq!(place("edge-01").share, 2_616_904_669);
    }

    #[test]
    fn a_start_takes_the_place_anew() {
        let mut sampler = started_at(0, Place { share: 1 << 31 });
        assert_eq!(taken(&mut sampler, INTERVAL, 2), [0, 500]);
        sampler.restart(Instant::from_ms(700));
        assert_eq!(taken(&mut sampler, INTERVAL, 3), [700, 1_200, 2_200]);
    }

    #[test]
    fn the_first_snapshot_does_not_wait_for_an_interval_that_was_kept() {
        for place in [None, Some(Place { share: 1 << 31 })] {
            let mut sampler = Sampler::new(Instant::from_ms(0));
            sampler.place = place;
            sampler.change_interval(Instant::from_ms(0), Duration::from_secs(3600));
            assert_eq!(sampler.deadline(), Instant::from_ms(0));
        }
    }

    #[test]
    fn a_place_survives_points_that_were_missed() {
        let mut sampler = started_at(0, Place { share: 1 << 31 });
        assert_eq!(taken(&mut sampler, INTERVAL, 2), [0, 500]);
        assert!(sampler.poll_due(Instant::from_ms(4_700), INTERVAL));
        assert_eq!((sampler.late(), sampler.deadline()), (3, Instant::from_ms(5_500)));
    }
}
