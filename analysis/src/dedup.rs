//! Drops the repeats of at-least-once delivery, in bounded memory.

use std::collections::HashMap;
use std::mem;

use agent_core::id::{BootId, Sequence};

/// Sequences below the highest one seen that a repeat is still told from a newcomer. An agent sends at most
/// 256 records ahead of an acknowledgement, so a resend stays well within.
const WINDOW: u64 = 1024;

/// Boots that one generation remembers. Two generations of so many boots at about 300 bytes are 20 MB.
const GENERATION_BOOTS: usize = 32_768;

/// What to do with a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Judgement {
    /// Not seen before: show it.
    Fresh,
    /// Seen before.
    Repeat,
    /// Too far behind the newest of its boot to know. Treated as a repeat, and counted.
    Late,
}

/// Remembers which records were seen, by agent, boot and sequence.
///
/// Boots not heard of for the longest time are forgotten first: after at least [`GENERATION_BOOTS`] others.
#[derive(Debug, Default)]
pub(crate) struct Dedup {
    // An entry is in at most one of the two: looking it up moves it to `young`.
    young: HashMap<Key, Seen>,
    old: HashMap<Key, Seen>,
    late_count: u64,
}

type Key = (String, BootId);

impl Dedup {
    /// Judges a record and remembers it.
    pub(crate) fn judge(&mut self, agent_id: &str, boot: BootId, sequence: Sequence) -> Judgement {
        let key = (agent_id.to_owned(), boot);
        let judgement = match self.young.get_mut(&key) {
            Some(seen) => seen.judge(sequence),
            None => self.judge_elsewhere(key, sequence),
        };
        if judgement == Judgement::Late {
            self.late_count = self.late_count.saturating_add(1);
        }
        judgement
    }

    /// Records left out because they came too late to be told from repeats.
    pub(crate) const fn late_count(&self) -> u64 {
        self.late_count
    }

    fn judge_elsewhere(&mut self, key: Key, sequence: Sequence) -> Judgement {
        if self.young.len() >= GENERATION_BOOTS {
            self.old = mem::take(&mut self.young);
        }
        let (seen, judgement) = match self.old.remove(&key) {
            Some(mut seen) => {
                let judgement = seen.judge(sequence);
                (seen, judgement)
            }
            None => (Seen::starting_at(sequence), Judgement::Fresh),
        };
        self.young.insert(key, seen);
        judgement
    }
}

/// The sequences seen of one boot: the highest, and a bit for each of the `WINDOW` up to it.
#[derive(Clone, Debug)]
struct Seen {
    high: u64,
    // The bit for sequence s is bit s mod WINDOW; it counts for high - WINDOW < s <= high only.
    bits: [u64; (WINDOW / 64) as usize],
}

impl Seen {
    fn starting_at(sequence: Sequence) -> Self {
        let mut seen = Self { high: sequence.number(), bits: [0; (WINDOW / 64) as usize] };
        seen.insert(sequence.number());
        seen
    }

    fn judge(&mut self, sequence: Sequence) -> Judgement {
        let number = sequence.number();
        if number > self.high {
            self.advance(number);
        } else if self.high - number >= WINDOW {
            return Judgement::Late;
        }
        if self.insert(number) { Judgement::Fresh } else { Judgement::Repeat }
    }

    fn advance(&mut self, high: u64) {
        if high - self.high >= WINDOW {
            self.bits.fill(0);
        } else {
            for number in self.high + 1..=high {
                let (word, bit) = Self::place(number);
                self.bits[word] &= !bit;
            }
        }
        self.high = high;
    }

    /// Whether the bit was clear.
    fn insert(&mut self, number: u64) -> bool {
        debug_assert!(number <= self.high);
        debug_assert!(self.high - number < WINDOW);
        let (word, bit) = Self::place(number);
        let clear = self.bits[word] & bit == 0;
        self.bits[word] |= bit;
        clear
    }

    const fn place(number: u64) -> (usize, u64) {
        let slot = number % WINDOW;
        let word = (slot / 64) as usize;
        (word, 1 << (slot % 64))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use proptest::prelude::*;

    use super::*;

    const BOOT: BootId = BootId { counter: 1, nonce: 2 };

    fn check(dedup: &mut Dedup, sequence: u64, expected: Judgement) {
        let sequence = Sequence::new(sequence).unwrap();
        assert_eq!(dedup.judge("a", BOOT, sequence), expected, "{sequence:?}");
    }

    #[test]
    fn a_repeat_is_told_from_a_newcomer() {
        let mut dedup = Dedup::default();
        check(&mut dedup, 5, Judgement::Fresh);
        check(&mut dedup, 5, Judgement::Repeat);
        check(&mut dedup, 7, Judgement::Fresh);
        check(&mut dedup, 6, Judgement::Fresh);
        check(&mut dedup, 6, Judgement::Repeat);
        check(&mut dedup, 1, Judgement::Fresh);
        assert_eq!(dedup.late_count(), 0);
    }

    #[test]
    fn the_window_has_exact_edges() {
        let mut dedup = Dedup::default();
        check(&mut dedup, 2000, Judgement::Fresh);
        check(&mut dedup, 2000 - WINDOW, Judgement::Late);
        check(&mut dedup, 2000 - WINDOW + 1, Judgement::Fresh);
        check(&mut dedup, 2000 - WINDOW + 1, Judgement::Repeat);
        check(&mut dedup, u64::MAX, Judgement::Fresh);
        check(&mut dedup, u64::MAX, Judgement::Repeat);
        check(&mut dedup, 2001, Judgement::Late);
        assert_eq!(dedup.late_count(), 2);
    }

    #[test]
    fn agents_and_boots_are_apart() {
        let mut dedup = Dedup::default();
        let other_boot = BootId { counter: 2, nonce: 2 };
        assert_eq!(dedup.judge("a", BOOT, Sequence::FIRST), Judgement::Fresh, "first");
        assert_eq!(dedup.judge("b", BOOT, Sequence::FIRST), Judgement::Fresh, "other agent");
        assert_eq!(dedup.judge("a", other_boot, Sequence::FIRST), Judgement::Fresh, "other boot");
    }

    #[test]
    fn memory_is_bounded_and_whoever_keeps_talking_is_kept() {
        let mut dedup = Dedup::default();
        check(&mut dedup, 1, Judgement::Fresh);
        for counter in 0..3 * GENERATION_BOOTS as u64 {
            let boot = BootId { counter, nonce: 0 };
            dedup.judge("b", boot, Sequence::FIRST);
            if counter % 1000 == 0 {
                check(&mut dedup, 1, Judgement::Repeat);
            }
        }
        assert!(dedup.young.len() <= GENERATION_BOOTS);
        assert!(dedup.old.len() <= GENERATION_BOOTS);
    }

    proptest! {
        #[test]
        fn agrees_with_a_set_within_the_window(
            jumps in prop::collection::vec((0_u64..3000, 0_u64..1200), 1..400)
        ) {
            let mut dedup = Dedup::default();
            let mut model = HashSet::new();
            let mut high = 0;
            let mut base = 1;
            for (step, back) in jumps {
                // Mostly small steps, at times a jump over the whole window.
                base += if step > 2900 { step } else { step % 4 };
                let number = base.saturating_sub(if back > 600 { back } else { back % 8 }).max(1);
                high = high.max(number);
                let expected = if high - number >= WINDOW {
                    Judgement::Late
                } else if model.insert(number) {
                    Judgement::Fresh
                } else {
                    Judgement::Repeat
                };
                let sequence = Sequence::new(number).unwrap();
                prop_assert_eq!(dedup.judge("a", BOOT, sequence), expected);
            }
        }
    }
}
