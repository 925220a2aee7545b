//! Numbers that a seed decides.

use std::ops::RangeInclusive;
use std::time::Duration;

/// A stream of numbers; the same seed gives the same stream, on every machine.
///
/// SplitMix64 (Steele, Lea, Flood: "Fast splittable pseudorandom number generators", 2014): good enough to choose faults with, and of
/// no use for secrets.
#[derive(Clone, Debug)]
pub(super) struct Random {
    state: u64,
}

impl Random {
    pub(super) const fn new(seed: u64) -> Self {
        Self { state: seed }
    }

    /// Another stream, which goes on by itself.
    pub(super) fn split(&mut self) -> Self {
        Self::new(self.next())
    }

    pub(super) const fn next(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = self.state;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ (mixed >> 31)
    }

    /// One of 0 to `count` - 1.
    ///
    /// # Panics
    ///
    /// When there is none.
    pub(super) fn below(&mut self, count: usize) -> usize {
        assert!(0 < count, "one of nothing");
        // The bias of a remainder is of no account for counts as small as these.
        usize::try_from(self.next() % count as u64).unwrap_or(0)
    }

    /// One of `choices`, which are some.
    pub(super) fn choose<'a, T>(&mut self, choices: &'a [T]) -> &'a T {
        &choices[self.below(choices.len())]
    }

    /// Any time between the two, in milliseconds.
    pub(super) fn between(&mut self, range: RangeInclusive<Duration>) -> Duration {
        let width = range.end().saturating_sub(*range.start()).as_millis();
        let width = u64::try_from(width).unwrap_or(u64::MAX - 1);
        *range.start() + Duration::from_millis(self.next() % (width + 1))
    }

    pub(super) fn shuffle<T>(&mut self, items: &mut [T]) {
        for last in (1..items.len()).rev() {
            items.swap(last, self.below(last + 1));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_stream_is_that_of_the_paper() {
        let mut random = Random::new(1_234_567);
        // From the reference implementation in C.
        assert_eq!(random.next(), 6_457_827_717_110_365_317);
        assert_eq!(random.next(), 3_203_168_211_198_807_973);
    }

    #[test]
    fn a_time_is_between_its_bounds() {
        let mut random = Random::new(1);
        let range = Duration::from_millis(3)..=Duration::from_millis(5);
        let times: Vec<Duration> = (0..100).map(|_| random.between(range.clone())).collect();
        assert!(times.iter().all(|time| range.contains(time)));
        assert!(times.contains(range.start()) && times.contains(range.end()));
    }

    #[test]
    fn what_is_shuffled_is_all_there() {
        let mut items: Vec<usize> = (0..20).collect();
        Random::new(7).shuffle(&mut items);
        assert_ne!(items, (0..20).collect::<Vec<_>>());
        items.sort_unstable();
        assert_eq!(items, (0..20).collect::<Vec<_>>());
    }
}
