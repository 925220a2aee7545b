//! What the spool says of records that will never come, and for how long it says it.

use agent_core::id::{BootId, Sequence};

use super::runs::Run;
use super::{Lane, LossReason};

/// The number of `reason` on the wire and in the files, which must never change.
pub(super) const fn code(reason: LossReason) -> u8 {
    match reason {
        LossReason::Overwritten => 1,
        LossReason::Shutdown => 2,
        LossReason::Link => 3,
        LossReason::Crash => 4,
        LossReason::SpoolFull => 5,
        LossReason::SpoolExpired => 6,
        LossReason::SpoolDamaged => 7,
    }
}

/// The reason with this number.
pub(super) fn from_code(number: u8) -> Option<LossReason> {
    LossReason::ALL.into_iter().find(|reason| code(*reason) == number)
}

/// Records of one boot and lane that will never come. Some within the range may have come all the same: what is lost is
/// what was declared without what was delivered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Loss {
    /// Records or alerts, which are numbered apart.
    pub lane: Lane,
    /// Whose they are.
    pub boot: BootId,
    /// The first that is lost.
    pub first: Sequence,
    /// The last that is lost; not before `first`.
    pub last: Sequence,
    /// Why.
    pub reason: LossReason,
    /// Of these, how many were never put on a stream, as far as the process knew that declared them.
    pub never_sent: u64,
    /// And how many were put on one without an acknowledgement: they may have arrived.
    pub unacknowledged: u64,
}

impl Loss {
    /// What is lost, as a range.
    pub const fn run(&self) -> Run {
        Run { lane: self.lane, boot: self.boot, first: self.first, last: self.last }
    }

    /// Of `run`, of which `out` were handed out and came to nothing.
    pub(super) fn of(run: Run, reason: LossReason, out: u64) -> Self {
        let Run { lane, boot, first, last } = run;
        let unacknowledged = out.min(run.count());
        let never_sent = run.count() - unacknowledged;
        Self { lane, boot, first, last, reason, never_sent, unacknowledged }
    }

    fn is_like(&self, other: &Self) -> bool {
        self.run().is_of_same_boot(&other.run()) && self.reason == other.reason
    }

    /// Takes what `other` says into this.
    fn absorb(&mut self, other: &Self) {
        self.first = self.first.min(other.first);
        self.last = self.last.max(other.last);
        let most = self.run().count();
        self.unacknowledged = self.unacknowledged.saturating_add(other.unacknowledged).min(most);
        let never_sent = self.never_sent.saturating_add(other.never_sent);
        self.never_sent = never_sent.min(most - self.unacknowledged);
    }
}

/// The losses that the server does not have yet.
///
/// Neighbours of one boot, lane and reason become one. When the table is full, the two nearest of one boot and lane do, and
/// what is between them is declared with them: what was declared and delivered all the same is not lost. When no two
/// are of one boot and lane, another is refused.
#[derive(Clone, Debug)]
pub(super) struct Losses {
    entries: Vec<Entry>,
    max: usize,
    next_id: u64,
}

#[derive(Clone, Copy, Debug)]
struct Entry {
    loss: Loss,
    /// Of this content: one that changes gets another.
    id: u64,
    is_out: bool,
}

/// The table has no room for another.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct LossesFull;

impl Losses {
    pub(super) const fn new(max: usize) -> Self {
        Self { entries: Vec::new(), max, next_id: 0 }
    }

    pub(super) fn iter(&self) -> impl ExactSizeIterator<Item = &Loss> {
        self.entries.iter().map(|entry| &entry.loss)
    }

    /// Adds `loss`.
    ///
    /// # Errors
    ///
    /// [`LossesFull`]; nothing has changed then.
    pub(super) fn add(&mut self, mut loss: Loss) -> Result<(), LossesFull> {
        let is_known = |known: &Loss| {
            known.is_like(&loss) && known.first <= loss.first && loss.last <= known.last
        };
        if self.iter().any(is_known) {
            return Ok(());
        }
        while let Some(index) = self.touching(&loss) {
            loss.absorb(&self.entries.swap_remove(index).loss);
        }
        if self.max <= self.entries.len() && !self.join_two() {
            // The last resort: what is lost is said as a part of another loss of its boot.
            let beside = |known: &Loss| known.run().is_of_same_boot(&loss.run());
            let index = self.iter().position(beside).ok_or(LossesFull)?;
            let Entry { loss: mut known, .. } = self.entries.swap_remove(index);
            known.absorb(&loss);
            loss = known;
        }
        self.entries.push(Entry { loss, id: self.next_id, is_out: false });
        self.next_id += 1;
        Ok(())
    }

    /// One that makes a single range with `loss`.
    fn touching(&self, loss: &Loss) -> Option<usize> {
        self.iter().position(|known| known.is_like(loss) && known.run().touches(&loss.run()))
    }

    /// Makes one of the two nearest of one boot and lane.
    fn join_two(&mut self) -> bool {
        self.entries.sort_by_key(|Entry { loss, .. }| {
            (loss.lane, loss.boot.counter, loss.boot.nonce, loss.first)
        });
        let gap = |pair: &[Entry]| match pair {
            [one, next] if one.loss.run().is_of_same_boot(&next.loss.run()) => {
                Some(one.loss.last.count_until(next.loss.first))
            }
            _ => None,
        };
        let gaps = self.entries.windows(2).map(gap).enumerate();
        let nearest = gaps.filter_map(|(index, gap)| Some((gap?, index))).min();
        let Some((_, index)) = nearest else { return false };
        let next = self.entries.remove(index + 1);
        let one = &mut self.entries[index];
        one.loss.absorb(&next.loss);
        (one.id, one.is_out) = (self.next_id, false);
        self.next_id += 1;
        true
    }

    /// Up to `max` of one boot and lane that are not out; they are from now on. With them their ids.
    pub(super) fn take_out(&mut self, max: usize) -> Option<(Vec<Loss>, Vec<u64>)> {
        let first = self.entries.iter().find(|entry| !entry.is_out)?.loss.run();
        let of_first = self
            .entries
            .iter_mut()
            .filter(|entry| !entry.is_out && entry.loss.run().is_of_same_boot(&first));
        let taken = of_first.take(max).map(|entry| {
            entry.is_out = true;
            (entry.loss, entry.id)
        });
        Some(taken.unzip())
    }

    /// All that are out are so no more.
    pub(super) fn rewind(&mut self) {
        for entry in &mut self.entries {
            entry.is_out = false;
        }
    }

    /// The server has these; one that has changed since stays.
    pub(super) fn remove(&mut self, ids: &[u64]) {
        self.entries.retain(|entry| !ids.contains(&entry.id));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn loss(boot: u64, first: u64, last: u64, reason: LossReason) -> Loss {
        let run = Run {
            lane: Lane::Records,
            boot: BootId { counter: boot, nonce: 0 },
            first: Sequence::new(first).unwrap(),
            last: Sequence::new(last).unwrap(),
        };
        Loss::of(run, reason, 1)
    }

    fn check(losses: &Losses, expected: &[(u64, u64, u64)]) {
        let mut ranges = losses
            .iter()
            .map(|loss| (loss.boot.counter, loss.first.number(), loss.last.number()))
            .collect::<Vec<_>>();
        ranges.sort_unstable();
        assert_eq!(ranges, expected);
        for loss in losses.iter() {
            assert!(loss.never_sent + loss.unacknowledged <= loss.run().count());
        }
    }

    #[test]
    fn neighbours_of_one_reason_become_one() {
        let mut losses = Losses::new(8);
        for (first, last) in [(1, 4), (9, 12), (5, 8), (2, 3), (20, 20)] {
            losses.add(loss(1, first, last, LossReason::SpoolFull)).unwrap();
        }
        losses.add(loss(1, 13, 13, LossReason::Crash)).unwrap();
        losses.add(loss(2, 13, 13, LossReason::SpoolFull)).unwrap();
        check(&losses, &[(1, 1, 12), (1, 13, 13), (1, 20, 20), (2, 13, 13)]);
        let whole = losses.iter().find(|loss| loss.last.number() == 12).unwrap();
        assert_eq!((whole.never_sent, whole.unacknowledged), (9, 3));
    }

    #[test]
    fn a_full_table_declares_more_rather_than_nothing() {
        let mut losses = Losses::new(3);
        for first in [1, 10, 13, 30] {
            losses.add(loss(1, first, first, LossReason::Crash)).unwrap();
        }
        check(&losses, &[(1, 1, 1), (1, 10, 13), (1, 30, 30)]);
        losses.add(loss(2, 1, 1, LossReason::Crash)).unwrap();
        losses.add(loss(3, 1, 1, LossReason::Crash)).unwrap();
        check(&losses, &[(1, 1, 30), (2, 1, 1), (3, 1, 1)]);
        losses.add(loss(3, 7, 7, LossReason::Crash)).unwrap();
        check(&losses, &[(1, 1, 30), (2, 1, 1), (3, 1, 7)]);
        assert_eq!(losses.add(loss(4, 1, 1, LossReason::Crash)), Err(LossesFull));
        check(&losses, &[(1, 1, 30), (2, 1, 1), (3, 1, 7)]);
    }

    #[test]
    fn what_changed_while_it_was_out_stays() {
        let mut losses = Losses::new(8);
        losses.add(loss(1, 1, 1, LossReason::Crash)).unwrap();
        losses.add(loss(1, 5, 5, LossReason::Crash)).unwrap();
        let (out, ids) = losses.take_out(64).unwrap();
        assert_eq!(out.len(), 2);
        assert_eq!(losses.take_out(64), None);
        losses.add(loss(1, 2, 2, LossReason::Crash)).unwrap();
        losses.remove(&ids);
        check(&losses, &[(1, 1, 2)]);
        assert!(losses.take_out(64).is_some());
        losses.rewind();
        assert!(losses.take_out(64).is_some());
    }

    #[test]
    fn reasons_keep_their_numbers() {
        for reason in LossReason::ALL {
            assert_eq!(from_code(code(reason)), Some(reason));
            let on_the_wire = proto::LossReason::try_from(i32::from(code(reason))).unwrap();
            let name = on_the_wire.as_str_name().to_lowercase();
            assert_eq!(name.strip_prefix("loss_reason_"), Some(reason.name()));
        }
        assert_eq!(from_code(0), None);
    }
}
