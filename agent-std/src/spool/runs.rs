//! Sets of sequences, as ranges.

use std::collections::BTreeSet;

use agent_core::id::{BootId, Sequence};

use super::Lane;

/// Consecutive sequences of one boot in one lane, both ends inclusive: `first <= last`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Run {
    /// Records or alerts, which are numbered apart.
    pub lane: Lane,
    /// Whose.
    pub boot: BootId,
    /// The first.
    pub first: Sequence,
    /// The last.
    pub last: Sequence,
}

impl Run {
    /// How many they are.
    pub const fn count(&self) -> u64 {
        self.first.count_until(self.last).saturating_add(1)
    }

    pub(super) fn is_of_same_boot(&self, other: &Self) -> bool {
        (self.lane, self.boot) == (other.lane, other.boot)
    }

    fn overlaps(&self, other: &Self) -> bool {
        self.is_of_same_boot(other) && self.first <= other.last && other.first <= self.last
    }

    /// Whether the two are one range together.
    pub(super) fn touches(&self, other: &Self) -> bool {
        self.is_of_same_boot(other)
            && self.first <= other.last.next()
            && other.first <= self.last.next()
    }
}

/// A set of sequences: ranges in the order of their arrival, none of which touches another.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Runs(Vec<Run>);

impl Runs {
    pub(super) fn iter(&self) -> impl Iterator<Item = &Run> {
        self.0.iter()
    }

    pub(super) const fn len(&self) -> usize {
        self.0.len()
    }

    pub(super) const fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// How many sequences of `lane` are in it.
    pub(super) fn count(&self, lane: Lane) -> u64 {
        self.0.iter().filter(|run| run.lane == lane).map(Run::count).sum()
    }

    pub(super) fn overlaps(&self, run: &Run) -> bool {
        self.0.iter().any(|own| own.overlaps(run))
    }

    /// Whether adding `run` makes none of its ranges more.
    pub(super) fn extends(&self, run: &Run) -> bool {
        self.0.iter().any(|own| own.touches(run))
    }

    pub(super) fn add(&mut self, mut run: Run) {
        // The usual case is the last one growing.
        let mut place = self.0.len();
        while let Some(index) = self.0.iter().rposition(|own| own.touches(&run)) {
            let own = self.0.remove(index);
            run.first = run.first.min(own.first);
            run.last = run.last.max(own.last);
            place = index;
        }
        self.0.insert(place.min(self.0.len()), run);
    }

    pub(super) fn remove(&mut self, run: &Run) {
        if !self.overlaps(run) {
            return;
        }
        let mut rest = Vec::with_capacity(self.0.len() + 1);
        for own in self.0.drain(..) {
            if !own.overlaps(run) {
                rest.push(own);
                continue;
            }
            if own.first < run.first
                && let Some(last) = Sequence::new(run.first.number() - 1)
            {
                rest.push(Run { last, ..own });
            }
            if run.last < own.last {
                rest.push(Run { first: run.last.next(), ..own });
            }
        }
        self.0 = rest;
    }

    /// What is in this and not in `other`.
    pub(super) fn without(mut self, other: &Self) -> Self {
        for run in &other.0 {
            self.remove(run);
        }
        self
    }

    /// At most `max` ranges that have all of this in them; what is between the nearest is in them too. When more than
    /// `max` boots are in it, the last of them are left out.
    pub(super) fn at_most(&self, max: usize) -> Self {
        if self.0.len() <= max {
            return self.clone();
        }
        let mut sorted = self.0.clone();
        sorted.sort_by_key(|run| (run.lane, run.boot.counter, run.boot.nonce, run.first));
        let gaps = sorted.windows(2).enumerate().filter_map(|(index, pair)| match pair {
            [one, next] if one.is_of_same_boot(next) => {
                Some((one.last.count_until(next.first), index + 1))
            }
            _ => None,
        });
        let mut gaps = gaps.collect::<Vec<_>>();
        // Only the widest gaps stay.
        gaps.sort_unstable_by(|one, other| other.cmp(one));
        let boots = sorted.len() - gaps.len();
        let kept = gaps.into_iter().take(max.saturating_sub(boots)).map(|(_, index)| index);
        let kept = kept.collect::<BTreeSet<_>>();
        let mut runs = Vec::<Run>::with_capacity(max);
        for (index, run) in sorted.into_iter().enumerate() {
            match runs.last_mut() {
                Some(last) if last.is_of_same_boot(&run) && !kept.contains(&index) => {
                    last.last = run.last;
                }
                _ => runs.push(run),
            }
        }
        runs.truncate(max);
        Self(runs)
    }
}

impl From<Run> for Runs {
    fn from(run: Run) -> Self {
        Self(vec![run])
    }
}

impl Extend<Run> for Runs {
    fn extend<T: IntoIterator<Item = Run>>(&mut self, runs: T) {
        for run in runs {
            self.add(run);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn run(boot: u64, first: u64, last: u64) -> Run {
        Run {
            lane: Lane::Records,
            boot: BootId { counter: boot, nonce: 0 },
            first: Sequence::new(first).unwrap(),
            last: Sequence::new(last).unwrap(),
        }
    }

    fn members(runs: &Runs) -> BTreeSet<(u64, u64)> {
        let of_run = |run: &Run| {
            let boot = run.boot.counter;
            (run.first.number()..=run.last.number()).map(move |sequence| (boot, sequence))
        };
        runs.iter().flat_map(of_run).collect()
    }

    proptest! {
        #[test]
        fn it_is_a_set(ops in prop::collection::vec((any::<bool>(), 0..3_u64, 1..40_u64, 0..9_u64), 0..40)) {
            let (mut runs, mut model) = (Runs::default(), BTreeSet::new());
            for (adds, boot, first, more) in ops {
                let range = run(boot, first, first + more);
                let each = (first..=first + more).map(|sequence| (boot, sequence));
                if adds {
                    runs.add(range);
                    model.extend(each);
                } else {
                    runs.remove(&range);
                    each.for_each(|one| { model.remove(&one); });
                }
                prop_assert_eq!(&members(&runs), &model);
                let count = runs.count(Lane::Records);
                prop_assert_eq!(count, u64::try_from(model.len()).unwrap());
                let fewer = runs.at_most(3);
                prop_assert!(fewer.len() <= 3 && members(&fewer).is_superset(&model));
            }
        }
    }

    #[test]
    fn lanes_and_the_ends_of_numbers_are_apart() {
        let mut runs = Runs::default();
        runs.add(run(1, u64::MAX, u64::MAX));
        runs.add(run(1, 1, 1));
        runs.add(Run { lane: Lane::Alerts, ..run(1, 2, 2) });
        assert_eq!(runs.len(), 3);
        runs.remove(&run(1, 1, u64::MAX));
        assert_eq!((runs.count(Lane::Records), runs.count(Lane::Alerts)), (0, 1));
    }
}
