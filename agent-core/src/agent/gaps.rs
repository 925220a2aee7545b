//! The gaps: sequences before the ring whose records left it without an acknowledgement, and what became of them.

use crate::id::Sequence;
use crate::ledger::LossReason;
use crate::limits::GAPS_MAX;

/// A range of records that will never come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Loss {
    /// First record lost.
    pub first: Sequence,
    /// Last record lost.
    pub last: Sequence,
    /// Why.
    pub reason: LossReason,
    /// How many of them were never put on a stream.
    pub never_sent: u64,
    /// How many were, without an acknowledgement: they may have arrived.
    pub unacknowledged: u64,
}

/// A range of records that the spool will bring.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Deferred {
    /// First record.
    pub first: Sequence,
    /// Last record.
    pub last: Sequence,
}

/// What the peer must hear of before the records behind it: at most one gap of each kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Declaration {
    pub(crate) loss: Option<Loss>,
    pub(crate) deferred: Option<Deferred>,
    /// Whether more gaps have to be declared before any record.
    pub(crate) is_partial: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    Lost { reason: LossReason, never_sent: u64 },
    Deferred,
}

#[derive(Clone, Copy, Debug)]
struct Gap {
    first: Sequence,
    last: Sequence,
    fate: Fate,
}

impl Gap {
    fn len(&self) -> u64 {
        self.first.count_until(self.last.next())
    }

    fn loss(&self) -> Option<Loss> {
        let Fate::Lost { reason, never_sent } = self.fate else { return None };
        let Self { first, last, .. } = *self;
        let unacknowledged = self.len().saturating_sub(never_sent);
        Some(Loss { first, last, reason, never_sent, unacknowledged })
    }

    fn deferred(&self) -> Option<Deferred> {
        let Self { first, last, fate } = *self;
        (fate == Fate::Deferred).then_some(Deferred { first, last })
    }
}

/// The gaps that the peer has not confirmed to know of, in order.
//
// Invariant: each gap begins behind the one before it, and the last one ends before the ring's first record. Gaps
// only ever grow at the end, and acknowledgements only ever shorten them at the front.
#[derive(Clone, Debug)]
pub(crate) struct Gaps {
    list: heapless::Vec<Gap, GAPS_MAX>,
    // The last sequence of the gaps that the current stream has declared.
    declared: Option<Sequence>,
    // The same of any stream: declared <= ever_declared. An acknowledgement of these may mean just the declaration.
    ever_declared: Option<Sequence>,
}

impl Gaps {
    pub(crate) const fn new() -> Self {
        Self { list: heapless::Vec::new(), declared: None, ever_declared: None }
    }

    /// The first sequence in a gap.
    pub(crate) fn first(&self) -> Option<Sequence> {
        self.list.first().map(|gap| gap.first)
    }

    /// The losses that the peer has not confirmed to know of.
    pub(crate) fn losses(&self) -> impl Iterator<Item = Loss> {
        self.list.iter().filter_map(Gap::loss)
    }

    /// The records from `first` to `last` left the ring and are lost; `never_sent` of them were on no stream.
    pub(crate) fn lose(
        &mut self,
        first: Sequence,
        last: Sequence,
        reason: LossReason,
        never_sent: u64,
    ) {
        match self.list.last_mut() {
            Some(Gap {
                last: end, fate: Fate::Lost { reason: before, never_sent: count }, ..
            }) if *before == reason => {
                *end = last;
                *count += never_sent;
            }
            _ => self.push(Gap { first, last, fate: Fate::Lost { reason, never_sent } }),
        }
    }

    /// Whether another range may be deferred. Not when so many gaps are open that a loss might find no room.
    pub(crate) fn can_defer(&self) -> bool {
        let extends = self.list.last().is_some_and(|gap| gap.fate == Fate::Deferred);
        extends || self.list.len() + 2 < GAPS_MAX
    }

    /// The records from `first` to `last` left the ring for the spool.
    pub(crate) fn defer(&mut self, first: Sequence, last: Sequence) {
        match self.list.last_mut() {
            Some(gap) if gap.fate == Fate::Deferred => gap.last = last,
            _ => self.push(Gap { first, last, fate: Fate::Deferred }),
        }
    }

    fn push(&mut self, gap: Gap) {
        let Err(gap) = self.list.push(gap) else { return };
        // Deferrals stop two gaps before the end, so those at the end are losses for different reasons.
        if let Some(end) = self.list.last_mut() {
            let never_sent = match gap.fate {
                Fate::Lost { never_sent, .. } => never_sent,
                Fate::Deferred => 0,
            };
            end.last = gap.last;
            if let Fate::Lost { never_sent: count, .. } = &mut end.fate {
                *count += never_sent;
            }
        }
    }

    /// A new stream: everything is declared again.
    pub(crate) const fn rewind(&mut self) {
        self.declared = None;
    }

    /// What must be declared next; then it counts as declared. A gap that has grown since is declared whole again.
    pub(crate) fn poll_declaration(&mut self) -> Option<Declaration> {
        let declared = self.declared;
        let mut open = self.list.iter().filter(|gap| declared.is_none_or(|end| end < gap.last));
        let first = open.next()?;
        let second = open.clone().next().filter(|second| is_loss(second) != is_loss(first));
        let count = 1 + usize::from(second.is_some());
        let both = [Some(first), second];
        let declaration = Declaration {
            loss: both.into_iter().flatten().find_map(Gap::loss),
            deferred: both.into_iter().flatten().find_map(Gap::deferred),
            is_partial: open.count() + 1 > count,
        };
        let end = second.unwrap_or(first).last;
        self.declared = Some(end);
        self.ever_declared = self.ever_declared.max(Some(end));
        Some(declaration)
    }

    /// The peer knows of everything up to `through`. Answers the records counted as lost that it must have: `f` is
    /// told how many, by reason.
    //
    // What was acknowledged without having been declared was sent before it left the ring, and arrived.
    pub(crate) fn acknowledge(
        &mut self,
        through: Sequence,
        mut arrived: impl FnMut(LossReason, u64),
    ) {
        let undeclared = self.ever_declared.map(Sequence::next);
        for gap in &mut self.list {
            if through < gap.first {
                break;
            }
            let last = through.min(gap.last);
            if let Fate::Lost { reason, never_sent } = &mut gap.fate {
                let from = undeclared.map_or(gap.first, |next| next.max(gap.first));
                arrived(*reason, from.count_until(last.next()));
                *never_sent = (*never_sent).min(last.next().count_until(gap.last.next()));
            }
            gap.first = last.next();
        }
        self.list.retain(|gap| gap.first <= gap.last);
    }

    /// The peer will never hear of them.
    pub(crate) fn forget(&mut self) {
        self.list.clear();
    }
}

fn is_loss(gap: &Gap) -> bool {
    matches!(gap.fate, Fate::Lost { .. })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sequence(number: u64) -> Sequence {
        Sequence::new(number).unwrap()
    }

    fn lose(gaps: &mut Gaps, first: u64, last: u64) {
        gaps.lose(sequence(first), sequence(last), LossReason::Overwritten, last - first + 1);
    }

    fn defer(gaps: &mut Gaps, first: u64, last: u64) {
        assert!(gaps.can_defer());
        gaps.defer(sequence(first), sequence(last));
    }

    /// First and last of a gap.
    type Ends = Option<(u64, u64)>;

    /// The loss and the deferral.
    fn ranges(declaration: &Declaration) -> (Ends, Ends) {
        let loss = declaration.loss.map(|loss| (loss.first.number(), loss.last.number()));
        let deferred = declaration.deferred.map(|gap| (gap.first.number(), gap.last.number()));
        (loss, deferred)
    }

    #[test]
    fn gaps_of_one_kind_grow_and_each_is_declared_once_a_stream() {
        let mut gaps = Gaps::new();
        lose(&mut gaps, 1, 3);
        lose(&mut gaps, 4, 5);
        defer(&mut gaps, 6, 9);
        for _ in 0..2 {
            let declaration = gaps.poll_declaration().unwrap();
            assert_eq!(ranges(&declaration), (Some((1, 5)), Some((6, 9))));
            assert!(!declaration.is_partial);
            assert_eq!(gaps.poll_declaration(), None);
            gaps.rewind();
        }
    }

    #[test]
    fn a_gap_that_has_grown_is_declared_again() {
        let mut gaps = Gaps::new();
        defer(&mut gaps, 1, 4);
        gaps.poll_declaration().unwrap();
        defer(&mut gaps, 5, 6);
        assert_eq!(ranges(&gaps.poll_declaration().unwrap()), (None, Some((1, 6))));
    }

    #[test]
    fn many_gaps_are_declared_in_order_before_any_record() {
        let mut gaps = Gaps::new();
        for pair in 0..2 {
            lose(&mut gaps, 4 * pair + 1, 4 * pair + 2);
            defer(&mut gaps, 4 * pair + 3, 4 * pair + 4);
        }
        let first = gaps.poll_declaration().unwrap();
        assert_eq!((ranges(&first), first.is_partial), ((Some((1, 2)), Some((3, 4))), true));
        let second = gaps.poll_declaration().unwrap();
        assert_eq!((ranges(&second), second.is_partial), ((Some((5, 6)), Some((7, 8))), false));
    }

    #[test]
    fn deferrals_stop_before_losses_have_no_room() {
        let mut gaps = Gaps::new();
        let mut next = 1;
        while gaps.can_defer() {
            lose(&mut gaps, next, next);
            if !gaps.can_defer() {
                break;
            }
            defer(&mut gaps, next + 1, next + 1);
            next += 2;
        }
        gaps.lose(sequence(100), sequence(110), LossReason::Overwritten, 11);
        gaps.lose(sequence(111), sequence(120), LossReason::Shutdown, 10);
        let total: u64 = gaps.losses().map(|loss| loss.never_sent).sum();
        assert!(gaps.losses().any(|loss| loss.reason == LossReason::Shutdown));
        assert!(21 <= total, "{total}");
    }

    #[test]
    fn what_is_acknowledged_and_was_not_declared_has_arrived() {
        let mut gaps = Gaps::new();
        gaps.lose(sequence(1), sequence(10), LossReason::Overwritten, 2);
        let mut arrived = 0;
        gaps.acknowledge(sequence(4), |_, count| arrived += count);
        assert_eq!((arrived, gaps.first()), (4, Some(sequence(5))));
        gaps.poll_declaration().unwrap();
        gaps.acknowledge(sequence(10), |_, count| arrived += count);
        assert_eq!((arrived, gaps.first()), (4, None));
    }
}
