//! The ring: a fixed number of items in sequence order; when it is full the oldest gives way.

use heapless::Deque;

use crate::id::Sequence;

/// Items with consecutive sequences, at most `N` of them.
///
/// The item at sequence `s` stands `s - first` places behind the oldest. Policy when full: the oldest item is
/// overwritten and handed to the caller, who counts it.
#[derive(Clone, Debug)]
pub struct Ring<T, const N: usize> {
    items: Deque<T, N>,
    // The sequence of the oldest item; of the next one when there is none.
    first: Sequence,
}

impl<T, const N: usize> Ring<T, N> {
    /// An empty ring whose first item will get [`Sequence::FIRST`].
    pub const fn new() -> Self {
        const { assert!(N > 0, "a ring holds at least one item") };
        Self { items: Deque::new(), first: Sequence::FIRST }
    }

    /// How many items it holds.
    pub fn len(&self) -> u64 {
        self.items.len() as u64
    }

    /// Whether it holds none.
    pub fn is_empty(&self) -> bool {
        self.items.is_empty()
    }

    /// The sequence of the oldest item; of the next one when there is none.
    pub const fn first(&self) -> Sequence {
        self.first
    }

    /// The sequence that the next item will get.
    pub fn end(&self) -> Sequence {
        advance(self.first, self.len())
    }

    /// Appends `item`. Returns the sequence and item that had to give way, if one had.
    pub fn push(&mut self, item: T) -> Option<(Sequence, T)> {
        let evicted = if self.items.is_full() { self.items.pop_front() } else { None };
        let evicted = evicted.map(|item| {
            let sequence = self.first;
            self.first = sequence.next();
            (sequence, item)
        });
        // There is room: either there was, or the oldest has just left.
        self.items.push_back(item).ok();
        evicted
    }

    /// Removes all items up to and including `through`. Returns how many.
    pub fn release(&mut self, through: Sequence) -> u64 {
        let count = self.first.count_until(through.next()).min(self.len());
        for _ in 0..count {
            self.items.pop_front();
        }
        self.first = advance(self.first, count);
        if self.items.is_empty() {
            // Starting over at the first slot keeps the memory that is touched as small as the backlog.
            self.items.clear();
        }
        count
    }

    /// The items from `from` (inclusive) to `to` (exclusive), as far as they are held, with their sequences.
    pub fn range(
        &self,
        from: Sequence,
        to: Sequence,
    ) -> impl Iterator<Item = (Sequence, &T)> + Clone {
        let (front, back) = self.items.as_slices();
        let skip = self.first.count_until(from);
        let take = from.max(self.first).count_until(to);
        let sequences = (self.first.number()..).filter_map(Sequence::new);
        sequences
            .zip(front.iter().chain(back))
            .skip(usize::try_from(skip).unwrap_or(usize::MAX))
            .take(usize::try_from(take).unwrap_or(usize::MAX))
    }
}

impl<T, const N: usize> Default for Ring<T, N> {
    fn default() -> Self {
        Self::new()
    }
}

fn advance(sequence: Sequence, count: u64) -> Sequence {
    Sequence::new(sequence.number().saturating_add(count)).unwrap_or(Sequence::FIRST)
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;

    use proptest::prelude::*;

    use super::*;

    fn sequence(number: u64) -> Sequence {
        Sequence::new(number).unwrap()
    }

    #[test]
    fn the_oldest_gives_way() {
        let mut ring = Ring::<char, 2>::new();
        assert_eq!(ring.push('a'), None);
        assert_eq!(ring.push('b'), None);
        assert_eq!(ring.push('c'), Some((sequence(1), 'a')));
        assert_eq!((ring.first(), ring.end(), ring.len()), (sequence(2), sequence(4), 2));
    }

    #[test]
    fn ranges_are_cut_to_what_is_held() {
        let mut ring = Ring::<u64, 4>::new();
        for n in 1..=6 {
            ring.push(n);
        }
        let range = |from, to| {
            let items = ring.range(sequence(from), sequence(to));
            items.map(|(s, item)| (s.number(), *item)).collect::<std::vec::Vec<_>>()
        };
        assert_eq!(range(1, 4), [(3, 3)]);
        assert_eq!(range(4, 6), [(4, 4), (5, 5)]);
        assert_eq!(range(6, 100), [(6, 6)]);
        assert_eq!(range(7, 9), []);
        assert_eq!(range(5, 5), []);
    }

    #[derive(Clone, Debug)]
    enum Operation {
        Push(u32),
        Release(u64),
    }

    fn operations() -> impl Strategy<Value = std::vec::Vec<Operation>> {
        let one = prop_oneof![
            3 => any::<u32>().prop_map(Operation::Push),
            1 => (0..200u64).prop_map(Operation::Release),
        ];
        prop::collection::vec(one, 0..200)
    }

    proptest! {
        #[test]
        fn behaves_as_a_deque_of_pairs(operations in operations()) {
            const N: usize = 7;
            let mut ring = Ring::<u32, N>::new();
            let mut model = VecDeque::new();
            let mut next = 1;
            for operation in operations {
                match operation {
                    Operation::Push(item) => {
                        let expected = if model.len() == N { model.pop_front() } else { None };
                        model.push_back((next, item));
                        next += 1;
                        let evicted = ring.push(item).map(|(s, item)| (s.number(), item));
                        prop_assert_eq!(evicted, expected);
                    }
                    Operation::Release(through) => {
                        let Some(through) = Sequence::new(through) else { continue };
                        let before = model.len();
                        model.retain(|(s, _)| through.number() < *s);
                        prop_assert_eq!(ring.release(through), (before - model.len()) as u64);
                    }
                }
                let all = ring.range(Sequence::FIRST, ring.end());
                let all = all.map(|(s, item)| (s.number(), *item)).collect::<VecDeque<_>>();
                prop_assert_eq!(&all, &model);
                prop_assert_eq!(ring.end().number(), next);
            }
        }
    }
}
