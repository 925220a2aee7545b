//! Drops the repeats of at-least-once delivery, in bounded memory.

use std::collections::HashMap;
use std::mem;

use agent_core::id::{BootId, Sequence};
use bus::audit::intervals::Intervals;

/// Intervals of sequences that are remembered of one boot. A boot whose records come in order is one interval, what its
/// spool brings beside the live records is another, and each loss parts one in two. Beyond so many, the two lowest become
/// one, and what still comes between them is left out and counted as late: 2 KiB of a boot at most.
const BOOT_INTERVALS_MAX: usize = 128;

/// Boots that one generation remembers. Two generations of so many boots without losses, at about 200 bytes, are 13 MB; at
/// worst, with 128 intervals each, 150 MB.
const GENERATION_BOOTS: usize = 32_768;

/// What to do with a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Judgement {
    /// Not seen before: show it.
    Fresh,
    /// Seen before.
    Repeat,
    /// Among so many gaps that nobody knows. Treated as a repeat, and counted.
    Late,
}

/// Remembers which records were seen, by agent, boot and sequence, however late they come.
///
/// Boots not heard of for the longest time are forgotten first: after at least [`GENERATION_BOOTS`] others.
#[derive(Debug, Default)]
pub(crate) struct Dedup {
    // An entry is in at most one of the two: looking it up moves it to `young`.
    young: HashMap<Key, Intervals>,
    old: HashMap<Key, Intervals>,
    late_count: u64,
}

type Key = (String, BootId);

impl Dedup {
    /// Judges a record and remembers it.
    pub(crate) fn judge(&mut self, agent_id: &str, boot: BootId, sequence: Sequence) -> Judgement {
        let key = (agent_id.to_owned(), boot);
        let judgement = match self.young.get_mut(&key) {
            Some(seen) => judge(seen, sequence),
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
        let mut seen = self.old.remove(&key).unwrap_or_else(|| Intervals::new(BOOT_INTERVALS_MAX));
        let judgement = judge(&mut seen, sequence);
        self.young.insert(key, seen);
        judgement
    }
}

fn judge(seen: &mut Intervals, sequence: Sequence) -> Judgement {
    let number = sequence.number();
    if seen.insert(number) {
        Judgement::Fresh
    } else if number <= seen.blurred_to() {
        Judgement::Late
    } else {
        Judgement::Repeat
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
        check(&mut dedup, u64::MAX, Judgement::Fresh);
        check(&mut dedup, u64::MAX, Judgement::Repeat);
        assert_eq!(dedup.late_count(), 0);
    }

    #[test]
    fn what_a_spool_brings_is_fresh_however_far_behind() {
        let mut dedup = Dedup::default();
        // An outage of a day at a record a second; then live records and both orders of replay, each sent twice.
        let (outage, day) = (1_000, 86_400);
        (1..outage).for_each(|number| check(&mut dedup, number, Judgement::Fresh));
        let live = outage + day;
        let oldest_first = outage..outage + 5_000;
        let newest_first = (live - 5_000..live).rev();
        for (step, number) in oldest_first.chain(newest_first).enumerate() {
            check(&mut dedup, number, Judgement::Fresh);
            check(&mut dedup, number, Judgement::Repeat);
            check(&mut dedup, live + step as u64, Judgement::Fresh);
        }
        assert_eq!(dedup.late_count(), 0);
    }

    #[test]
    fn among_too_many_gaps_the_lowest_are_late() {
        let mut dedup = Dedup::default();
        let lossy = (0..=BOOT_INTERVALS_MAX as u64).map(|step| 10 + 2 * step);
        lossy.for_each(|number| check(&mut dedup, number, Judgement::Fresh));
        check(&mut dedup, 11, Judgement::Late);
        check(&mut dedup, 10, Judgement::Late);
        check(&mut dedup, 12, Judgement::Repeat);
        check(&mut dedup, 13, Judgement::Fresh);
        check(&mut dedup, 9, Judgement::Fresh);
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
        fn agrees_with_a_set(
            live in prop::collection::vec((0_u64..6, 0_u64..9), 1..300),
            spooled in prop::collection::vec(0_u64..400, 0..60),
        ) {
            let mut dedup = Dedup::default();
            let mut model = HashSet::new();
            let mut high = 1_000;
            let mut spooled = spooled.into_iter();
            for (step, back) in live {
                high += step;
                let live = high.saturating_sub(back / 2);
                for number in [Some(live), spooled.next().map(|number| number + 1)].into_iter().flatten() {
                    let fresh = model.insert(number);
                    let expected = if fresh { Judgement::Fresh } else { Judgement::Repeat };
                    let sequence = Sequence::new(number).unwrap();
                    let judgement = dedup.judge("a", BOOT, sequence);
                    prop_assert!(judgement == expected || (judgement == Judgement::Late && 128 < model.len()));
                }
            }
        }
    }
}
