//! A set of sequences as ranges.

use std::collections::BTreeMap;

/// Ranges that neither overlap nor touch, by their first number.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Intervals(BTreeMap<u64, u64>);

impl Intervals {
    /// Adds `first` to `last`, both included.
    pub(crate) fn insert(&mut self, first: u64, last: u64) {
        if last < first {
            return;
        }
        let (mut first, mut last) = (first, last);
        let before = self.0.range(..=first).next_back();
        if let Some((&start, &end)) = before
            && first <= end.saturating_add(1)
        {
            if last <= end {
                return;
            }
            first = start;
        }
        while let Some((&start, &end)) = self.0.range(first..=last.saturating_add(1)).next() {
            last = last.max(end);
            self.0.remove(&start);
        }
        self.0.insert(first, last);
    }

    /// Whether it has every number from 1 to `last`.
    pub(crate) fn covers_to(&self, last: u64) -> bool {
        last == 0 || self.0.get(&1).is_some_and(|end| last <= *end)
    }

    pub(crate) fn contains(&self, number: u64) -> bool {
        self.0.range(..=number).next_back().is_some_and(|(_, end)| number <= *end)
    }

    /// The first number from 1 on that it has not.
    pub(crate) fn first_gap(&self) -> u64 {
        self.0.get(&1).map_or(1, |end| end.saturating_add(1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_join_where_they_touch() {
        let mut set = Intervals::default();
        for (first, last) in [(5, 7), (1, 2), (9, 9), (3, 3), (8, 8), (20, 30), (22, 25), (10, 21)]
        {
            set.insert(first, last);
        }
        assert_eq!(set.first_gap(), 4);
        assert!(!set.contains(4));
        set.insert(4, 4);
        assert!(set.covers_to(30));
        assert!(!set.covers_to(31));
        assert_eq!(set.0.len(), 1);
    }
}
