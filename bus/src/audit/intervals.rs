//! A set of sequences as intervals, in bounded memory.

use std::ops::RangeInclusive;

/// A set of numbers from 1 up, kept as at most so many intervals.
///
/// Sequences mostly come in order, so a boot is one interval, with a gap for each record that was lost or is still to
/// come. When there would be one interval more than the bound, the two lowest become one: the gap between them is filled,
/// and up to [`blurred_to`](Self::blurred_to) nobody can tell any more what was inserted and what was not.
///
/// Memory: 16 bytes for each interval. Time: constant at the end, logarithmic plus a move of what is above elsewhere.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Intervals {
    // Invariant: each is `first <= last`, and the next begins at `last + 2` or later.
    intervals: Vec<(u64, u64)>,
    intervals_max: usize,
    blurred_to: u64,
}

impl Intervals {
    /// An empty set of at most `intervals_max` intervals.
    ///
    /// # Panics
    ///
    /// When `intervals_max` is 0.
    pub const fn new(intervals_max: usize) -> Self {
        assert!(0 < intervals_max, "a set needs an interval");
        Self { intervals: Vec::new(), intervals_max, blurred_to: 0 }
    }

    /// Whether `number` was inserted; not to be relied on up to [`blurred_to`](Self::blurred_to).
    pub fn contains(&self, number: u64) -> bool {
        let index = self.intervals.partition_point(|(_, last)| *last < number);
        self.intervals.get(index).is_some_and(|(first, _)| *first <= number)
    }

    /// Inserts one number. Answers whether it was not there.
    pub fn insert(&mut self, number: u64) -> bool {
        if self.contains(number) {
            return false;
        }
        self.insert_range(number..=number);
        true
    }

    /// Inserts all numbers of `range`; an empty one changes nothing.
    pub fn insert_range(&mut self, range: RangeInclusive<u64>) {
        let (mut first, mut last) = range.into_inner();
        if last < first {
            return;
        }
        // Those that touch the range, or stand right beside it, become one with it.
        let begin = self.intervals.partition_point(|(_, end)| end.saturating_add(1) < first);
        let end = self.intervals.partition_point(|(start, _)| *start <= last.saturating_add(1));
        if let Some((lowest, _)) = self.intervals.get(begin).filter(|_| begin < end) {
            first = first.min(*lowest);
        }
        if let Some((_, highest)) = self.intervals.get(..end).and_then(<[_]>::last)
            && begin < end
        {
            last = last.max(*highest);
        }
        self.intervals.splice(begin..end, [(first, last)]);
        self.narrow();
    }

    fn narrow(&mut self) {
        while self.intervals_max < self.intervals.len() {
            let (first, _) = self.intervals.remove(0);
            // The bound is at least 1, so one is left.
            if let Some(lowest) = self.intervals.first_mut() {
                self.blurred_to = self.blurred_to.max(lowest.0.saturating_sub(1));
                lowest.0 = first;
            }
        }
    }

    /// Up to here gaps were filled because there were too many; 0: nowhere.
    pub const fn blurred_to(&self) -> u64 {
        self.blurred_to
    }

    /// The highest number; none when the set is empty.
    pub fn highest(&self) -> Option<u64> {
        self.intervals.last().map(|(_, last)| *last)
    }

    /// The lowest number; none when the set is empty.
    pub fn lowest(&self) -> Option<u64> {
        self.intervals.first().map(|(first, _)| *first)
    }

    /// How many numbers there are.
    pub fn count(&self) -> u64 {
        count(self.iter())
    }

    /// How many numbers there are within `range`.
    pub fn count_within(&self, range: RangeInclusive<u64>) -> u64 {
        let (first, last) = range.into_inner();
        let within = self.iter().map(|part| (*part.start()).max(first)..=(*part.end()).min(last));
        count(within)
    }

    /// The intervals, from the lowest.
    pub fn iter(&self) -> impl Iterator<Item = RangeInclusive<u64>> + '_ {
        self.intervals.iter().map(|(first, last)| *first..=*last)
    }

    /// The parts of `range` that are not in the set, from the lowest.
    pub fn gaps_within(&self, range: RangeInclusive<u64>) -> Vec<RangeInclusive<u64>> {
        let (mut next, last) = range.into_inner();
        let mut gaps = Vec::new();
        let begin = self.intervals.partition_point(|(_, end)| *end < next);
        for (start, end) in self.intervals.iter().skip(begin) {
            if last < *start {
                break;
            }
            if next < *start {
                gaps.push(next..=start - 1);
            }
            let Some(after) = end.checked_add(1) else {
                return gaps;
            };
            next = after;
        }
        if next <= last {
            gaps.push(next..=last);
        }
        gaps
    }

    /// Inserts all numbers of `other`.
    pub fn insert_all(&mut self, other: &Self) {
        other.iter().for_each(|part| self.insert_range(part));
        self.blurred_to = self.blurred_to.max(other.blurred_to);
    }
}

/// How many numbers are in ranges that do not overlap.
pub fn count(ranges: impl IntoIterator<Item = RangeInclusive<u64>>) -> u64 {
    let length = |range: RangeInclusive<u64>| match range.end().checked_sub(*range.start()) {
        Some(span) => span.saturating_add(1),
        None => 0,
    };
    ranges.into_iter().map(length).fold(0, u64::saturating_add)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    fn set(ranges: &[(u64, u64)], intervals_max: usize) -> Intervals {
        let mut set = Intervals::new(intervals_max);
        ranges.iter().for_each(|(first, last)| set.insert_range(*first..=*last));
        set
    }

    fn parts(set: &Intervals) -> Vec<(u64, u64)> {
        set.iter().map(RangeInclusive::into_inner).collect()
    }

    #[test]
    fn neighbours_become_one() {
        assert_eq!(parts(&set(&[(1, 2), (5, 6), (3, 4)], 8)), [(1, 6)]);
        assert_eq!(parts(&set(&[(1, 2), (4, 6)], 8)), [(1, 2), (4, 6)]);
        assert_eq!(parts(&set(&[(5, 6), (10, 12), (1, 20)], 8)), [(1, 20)]);
        #[expect(clippy::reversed_empty_ranges, reason = "it is the case under test")]
        let empty = 3..=2;
        let mut none = Intervals::new(8);
        none.insert_range(empty);
        assert_eq!((parts(&none), none.lowest(), none.highest()), (vec![], None, None));
        let ends = set(&[(u64::MAX, u64::MAX), (0, 0)], 8);
        assert_eq!(parts(&ends), [(0, 0), (u64::MAX, u64::MAX)]);
        assert_eq!(ends.gaps_within(0..=u64::MAX), [1..=u64::MAX - 1]);
    }

    #[test]
    fn beyond_the_bound_the_two_lowest_become_one() {
        let mut set = set(&[(1, 1), (5, 5), (9, 9)], 3);
        assert_eq!(set.blurred_to(), 0);
        assert!(set.insert(13));
        assert_eq!(parts(&set), [(1, 5), (9, 9), (13, 13)]);
        assert_eq!(set.blurred_to(), 4);
        assert!(set.insert(3 + 14));
        assert_eq!((parts(&set), set.blurred_to()), (vec![(1, 9), (13, 13), (17, 17)], 8));
    }

    proptest! {
        #[test]
        fn agrees_with_a_set_of_numbers(
            ranges in prop::collection::vec((0_u64..120, 0_u64..9), 0..60),
            window in (0_u64..140, 0_u64..140),
        ) {
            let mut set = Intervals::new(1000);
            let mut model = BTreeSet::new();
            for (first, length) in ranges {
                if length == 0 {
                    prop_assert_eq!(set.insert(first), model.insert(first));
                } else {
                    set.insert_range(first..=first + length);
                    model.extend(first..=first + length);
                }
            }
            prop_assert_eq!(set.iter().flatten().collect::<BTreeSet<_>>(), model.clone());
            prop_assert_eq!(set.count(), model.len() as u64);
            let held = |(first, last): (u64, u64)| model.iter().filter(|number| (first..=last).contains(number)).count();
            prop_assert_eq!(set.count_within(window.0..=window.1), held(window) as u64);
            let gaps: Vec<u64> = set.gaps_within(window.0..=window.1).into_iter().flatten().collect();
            let expected: Vec<u64> =
                (window.0..=window.1).filter(|number| !model.contains(number)).collect();
            prop_assert_eq!(gaps, expected);
            prop_assert!(set.intervals.windows(2).all(|pair| pair[0].1 + 1 < pair[1].0));
        }

        #[test]
        fn the_bound_holds_and_nothing_above_the_blur_is_wrong(
            numbers in prop::collection::vec(0_u64..300, 0..200),
            bound in 1_usize..6,
        ) {
            let mut set = Intervals::new(bound);
            let mut model = BTreeSet::new();
            for number in numbers {
                set.insert(number);
                model.insert(number);
                prop_assert!(set.intervals.len() <= bound);
            }
            for number in 0..300 {
                let known = model.contains(&number);
                prop_assert!(!known || set.contains(number));
                prop_assert!(number <= set.blurred_to() || set.contains(number) == known);
            }
        }
    }
}
