//! Sets of offsets, kept as ranges: what was found of a topic, and what is missing.

use std::collections::BTreeMap;
use std::ops::Range;

/// A set of numbers that mostly stand side by side. It takes memory for each gap, not for each number.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct RangeSet {
    /// Start to end (exclusive). No two ranges touch.
    ranges: BTreeMap<u64, u64>,
}

impl RangeSet {
    pub(super) fn contains(&self, number: u64) -> bool {
        self.ranges.range(..=number).next_back().is_some_and(|(_, end)| number < *end)
    }

    pub(super) fn insert(&mut self, range: Range<u64>) {
        if range.is_empty() {
            return;
        }
        let Range { mut start, mut end } = range;
        if let Some((&before, &before_end)) = self.ranges.range(..=start).next_back()
            && start <= before_end
        {
            start = before;
            end = end.max(before_end);
        }
        while let Some((&next, &next_end)) = self.ranges.range(start..=end).next() {
            end = end.max(next_end);
            self.ranges.remove(&next);
        }
        self.ranges.insert(start, end);
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = Range<u64>> + '_ {
        self.ranges.iter().map(|(start, end)| *start..*end)
    }

    pub(super) fn last(&self) -> Option<Range<u64>> {
        self.ranges.last_key_value().map(|(start, end)| *start..*end)
    }

    /// Joins ranges across the smallest number of others until there are at most `count`: the set only grows.
    pub(super) fn coarsen(&mut self, count: usize) {
        while count.max(1) < self.ranges.len() {
            let gaps = self.iter().zip(self.iter().skip(1));
            let Some((_, joined)) = gaps
                .map(|(before, after)| (after.start - before.end, before.start..after.end))
                .min_by_key(|(gap, _)| *gap)
            else {
                return;
            };
            self.insert(joined);
        }
    }

    /// What is in this set and not in `other`.
    pub(super) fn without(&self, other: &Self) -> Self {
        let mut rest = Self::default();
        for range in self.iter() {
            other.missing(range).iter().for_each(|part| rest.insert(part));
        }
        rest
    }

    /// How many numbers there are.
    pub(super) fn count(&self) -> u64 {
        self.iter().map(|range| range.end - range.start).sum()
    }

    /// What of `range` is not in the set.
    pub(super) fn missing(&self, range: Range<u64>) -> Self {
        let mut missing = Self::default();
        let mut next = range.start;
        let reaching = self.ranges.range(..range.start).next_back().map(|(_, end)| *end);
        let inside = self.ranges.range(range.start..range.end.max(range.start));
        let inside = inside.map(|(start, end)| (*start, *end));
        for (start, end) in reaching.map(|end| (range.start, end)).into_iter().chain(inside) {
            missing.insert(next..start.min(range.end));
            next = next.max(end);
        }
        missing.insert(next..range.end.max(next));
        missing
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(ranges: &[(u64, u64)]) -> RangeSet {
        let mut set = RangeSet::default();
        ranges.iter().for_each(|(start, end)| set.insert(*start..*end));
        set
    }

    #[test]
    fn ranges_join_where_they_touch() {
        assert_eq!(set(&[(1, 3), (5, 7), (3, 5)]), set(&[(1, 7)]));
        assert_eq!(set(&[(5, 7), (1, 9)]), set(&[(1, 9)]));
        assert_eq!(set(&[(1, 9), (5, 7)]), set(&[(1, 9)]));
        assert_eq!(set(&[(1, 3), (5, 7), (9, 11), (2, 10)]), set(&[(1, 11)]));
        assert_eq!(set(&[(3, 3)]), RangeSet::default());
    }

    #[test]
    fn it_agrees_with_a_plain_set() {
        // Every set of numbers below 8, built up in two orders.
        for bits in 0..256_u64 {
            let wanted: Vec<u64> = (0..8).filter(|n| bits & (1 << n) != 0).collect();
            let mut rising = RangeSet::default();
            wanted.iter().for_each(|n| rising.insert(*n..*n + 1));
            let mut falling = RangeSet::default();
            wanted.iter().rev().for_each(|n| falling.insert(*n..*n + 1));
            assert_eq!(rising, falling);
            assert_eq!(rising.iter().flatten().collect::<Vec<_>>(), wanted);
            for start in 0..8 {
                assert_eq!(rising.contains(start), wanted.contains(&start));
                for end in start..9 {
                    let missing: Vec<u64> = rising.missing(start..end).iter().flatten().collect();
                    let expected: Vec<u64> = (start..end).filter(|n| !wanted.contains(n)).collect();
                    assert_eq!(missing, expected, "{wanted:?} {start}..{end}");
                }
            }
        }
    }

    #[test]
    fn coarsening_joins_the_nearest() {
        let mut ranges = set(&[(1, 2), (10, 11), (12, 13), (30, 31)]);
        ranges.coarsen(3);
        assert_eq!(ranges, set(&[(1, 2), (10, 13), (30, 31)]));
        ranges.coarsen(0);
        assert_eq!(ranges, set(&[(1, 31)]));
    }
}
