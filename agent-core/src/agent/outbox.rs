//! The outbox: records between the chain and their acknowledgement, and the account of those that were lost.

use super::gaps::{Deferred, Gaps, Loss};
use crate::id::Sequence;
use crate::ledger::{LossReason, Lost};
use crate::limits::{BATCH_RECORDS_MAX, IN_FLIGHT_RECORDS_MAX};
use crate::ring::{Inline, Memory, Range, Ring, Stored};

/// Records to put on the stream in one message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Batch {
    /// The first record.
    pub first: Sequence,
    /// The one after the last record; equal to `first` when the batch only declares.
    pub end: Sequence,
    /// The loss to declare with it: records before `first`.
    pub loss: Option<Loss>,
    /// Those before `first` that the spool will bring.
    pub deferred: Option<Deferred>,
}

/// `BYTES` is how many bytes of records it holds at most.
#[derive(Clone, Debug)]
pub(crate) struct Outbox<T, const BYTES: usize, M = Inline<BYTES>> {
    ring: Ring<T, BYTES, M>,
    // ring.first <= next_unsent <= ring.end: where the current stream goes on.
    next_unsent: Sequence,
    // next_unsent <= sent_end: the first record that no stream has carried.
    sent_end: Sequence,
    gaps: Gaps,
    delivered: u64,
    lost: Lost,
    spooled: u64,
    refused_acknowledgements: u64,
}

impl<T: Stored, const BYTES: usize, M: Memory> Outbox<T, BYTES, M> {
    pub(crate) fn new() -> Self {
        Self {
            ring: Ring::with_memory(),
            next_unsent: Sequence::FIRST,
            sent_end: Sequence::FIRST,
            gaps: Gaps::new(),
            delivered: 0,
            lost: Lost::NONE,
            spooled: 0,
            refused_acknowledgements: 0,
        }
    }

    /// Gives `record` the next sequence. When the ring is full the oldest records are lost.
    pub(crate) fn push(&mut self, record: &T) {
        let first = self.ring.first();
        let count = self.ring.push(record);
        if count == 0 {
            return;
        }
        self.lost.add(LossReason::Overwritten, count);
        let end = self.ring.first();
        let sent = first.count_until(self.sent_end).min(count);
        // The one before the first that is still held.
        let last = Sequence::new(end.number() - 1).unwrap_or(first);
        self.gaps.lose(first, last, LossReason::Overwritten, count - sent);
        self.skip_to_held();
    }

    /// Whether [`Outbox::defer`] would take anything.
    pub(crate) fn can_defer(&self) -> bool {
        self.gaps.can_defer()
    }

    /// The records up to `through` are in the spool, which will bring them. Answers how many of them were held.
    pub(crate) fn defer(&mut self, through: Sequence) -> u64 {
        let first = self.ring.first();
        if through < first || self.ring.end() <= through || !self.gaps.can_defer() {
            return 0;
        }
        let count = self.ring.release(through);
        self.gaps.defer(first, through);
        self.spooled += count;
        self.skip_to_held();
        count
    }

    /// The spool has brought `count` records of this boot.
    pub(crate) fn spool_delivered(&mut self, count: u64) {
        let count = count.min(self.spooled);
        self.spooled -= count;
        self.delivered += count;
    }

    /// The spool has lost `count` records of this boot.
    pub(crate) fn spool_lost(&mut self, reason: LossReason, count: u64) {
        let count = count.min(self.spooled);
        self.spooled -= count;
        self.lost.add(reason, count);
    }

    /// Sends nothing that is not held any more.
    fn skip_to_held(&mut self) {
        self.next_unsent = self.next_unsent.max(self.ring.first());
        self.sent_end = self.sent_end.max(self.next_unsent);
    }

    /// A new stream: everything unacknowledged is sent again, oldest first, the loss before it.
    pub(crate) fn rewind(&mut self) {
        self.next_unsent = self.ring.first();
        self.gaps.rewind();
    }

    /// The next batch to send, which then counts as sent: at most `records_max` records, and no more than `credit`
    /// bytes of the ring on their way, but for one record that may always be.
    pub(crate) fn poll_batch(&mut self, records_max: u64, credit: usize) -> Option<Batch> {
        let in_flight = self.ring.first().count_until(self.next_unsent);
        let room = IN_FLIGHT_RECORDS_MAX.saturating_sub(in_flight);
        let unsent = self.next_unsent.count_until(self.ring.end());
        let count = unsent.min(room).min(records_max.clamp(1, BATCH_RECORDS_MAX));
        let count = if count == 0 { 0 } else { self.affordable(in_flight, count, credit) };
        let declaration = self.gaps.poll_declaration();
        if count == 0 && declaration.is_none() {
            return None;
        }
        // A jump is explained before what comes behind it.
        let count = if declaration.is_some_and(|d| d.is_partial) { 0 } else { count };
        let first = self.next_unsent;
        let end = Sequence::new(first.number().saturating_add(count)).unwrap_or(first);
        self.next_unsent = end;
        self.sent_end = self.sent_end.max(end);
        let loss = declaration.and_then(|declaration| declaration.loss);
        let deferred = declaration.and_then(|declaration| declaration.deferred);
        Some(Batch { first, end, loss, deferred })
    }

    /// How many of the next `count` records `credit` allows, when `in_flight` are on their way.
    fn affordable(&self, in_flight: u64, count: u64, credit: usize) -> u64 {
        if credit == usize::MAX {
            return count;
        }
        let (through, _) = self.ring.bytes_of_first(in_flight + count, credit);
        let affordable = through.saturating_sub(in_flight);
        if in_flight == 0 { affordable.max(1) } else { affordable }
    }

    /// As [`Outbox::poll_batch`], one record and no loss, for a peer that knows only the plain form.
    pub(crate) fn poll_plain(&mut self) -> Option<Batch> {
        let first = self.next_unsent;
        if self.ring.end() <= first {
            return None;
        }
        self.next_unsent = first.next();
        self.sent_end = self.sent_end.max(self.next_unsent);
        Some(Batch { first, end: self.next_unsent, loss: None, deferred: None })
    }

    /// The peer has made everything up to `through` durable, or its loss. A peer that acknowledges what was never
    /// sent is not believed.
    pub(crate) fn acknowledge(&mut self, through: Sequence) {
        if self.sent_end <= through {
            self.refused_acknowledgements = self.refused_acknowledgements.saturating_add(1);
            return;
        }
        self.delivered += self.ring.release(through);
        self.next_unsent = self.next_unsent.max(self.ring.first());
        let (lost, delivered) = (&mut self.lost, &mut self.delivered);
        self.gaps.acknowledge(through, |reason, arrived| {
            lost.take_back(reason, arrived);
            *delivered += arrived;
        });
    }

    /// The plain peer has taken everything up to `through`; there is no more to know. A loss cannot be told to it,
    /// the ledger alone keeps it.
    pub(crate) fn release_unconfirmed(&mut self, through: Sequence) {
        self.delivered += self.ring.release(through);
        self.next_unsent = self.next_unsent.max(self.ring.first());
        self.gaps.forget();
    }

    /// Whether the transport took everything that is held.
    pub(crate) fn is_handed_over(&self) -> bool {
        self.ring.end() <= self.next_unsent
    }

    /// Counts everything that the transport took as delivered.
    pub(crate) fn release_handed_over(&mut self) {
        if let Some(through) = Sequence::new(self.next_unsent.number() - 1) {
            self.release_unconfirmed(through);
        }
    }

    /// Gives up what is still held. Returns how many records that were.
    pub(crate) fn abandon(&mut self) -> u64 {
        let first = self.ring.first();
        let Some(last) = Sequence::new(self.ring.end().number() - 1).filter(|_| self.held() > 0)
        else {
            return 0;
        };
        let sent = first.count_until(self.sent_end);
        let count = self.ring.release(last);
        self.lost.add(LossReason::Shutdown, count);
        self.gaps.lose(first, last, LossReason::Shutdown, count.saturating_sub(sent));
        self.skip_to_held();
        count
    }

    /// The losses that the peer has not confirmed to know of.
    pub(crate) fn unsettled(&self) -> impl Iterator<Item = Loss> {
        self.gaps.losses()
    }

    /// All records that are held, in sequence order.
    pub(crate) fn all(&self) -> Range<'_, T, BYTES, M> {
        self.ring.range(self.ring.first(), self.ring.end())
    }

    pub(crate) fn range(&self, batch: &Batch) -> Range<'_, T, BYTES, M> {
        self.ring.range(batch.first, batch.end)
    }

    /// How much of its ring is in use, in hundredths of a percent.
    pub(crate) fn fill(&self) -> i64 {
        let share = self.ring.used_bytes() * 10_000 / BYTES;
        i64::try_from(share).unwrap_or(i64::MAX)
    }

    pub(crate) const fn used_bytes(&self) -> usize {
        self.ring.used_bytes()
    }

    pub(crate) const fn held(&self) -> u64 {
        self.ring.len()
    }

    /// Everything up to here is durable, or its loss is; none when nothing is.
    pub(crate) fn accounted(&self) -> Option<Sequence> {
        let open = self.gaps.first().unwrap_or_else(|| self.ring.first());
        Sequence::new(open.number() - 1)
    }

    pub(crate) fn recorded(&self) -> u64 {
        self.ring.end().number() - Sequence::FIRST.number()
    }

    pub(crate) const fn delivered(&self) -> u64 {
        self.delivered
    }

    pub(crate) const fn lost(&self) -> Lost {
        self.lost
    }

    pub(crate) const fn spooled(&self) -> u64 {
        self.spooled
    }

    pub(crate) const fn refused_acknowledgements(&self) -> u64 {
        self.refused_acknowledgements
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Records that the ring of the tests has room for.
    const RING: u64 = 2048;

    type Outbox = super::Outbox<Record, { 2048 * RECORD_BYTES }>;

    /// With room for few.
    type Few = super::Outbox<Record, { 4 * RECORD_BYTES }>;

    /// Bytes of a record in the ring, its length included.
    const RECORD_BYTES: usize = 3;

    type Record = bool;

    impl Stored for bool {
        const ENCODED_BYTES_MAX: usize = 1;
    }

    fn sequence(number: u64) -> Sequence {
        Sequence::new(number).unwrap()
    }

    fn push(outbox: &mut Outbox, count: u64) {
        for _ in 0..count {
            outbox.push(&true);
        }
    }

    fn check_books(outbox: &Outbox) {
        let Outbox { delivered, lost, spooled, .. } = outbox;
        assert_eq!(outbox.recorded(), delivered + lost.total() + outbox.held() + spooled);
    }

    #[test]
    fn what_is_not_acknowledged_is_sent_again_on_a_new_stream() {
        let mut outbox = Outbox::new();
        push(&mut outbox, 3);
        let batch = outbox.poll_batch(2, usize::MAX).unwrap();
        assert_eq!((batch.first, batch.end), (sequence(1), sequence(3)));
        outbox.acknowledge(sequence(1));
        outbox.rewind();
        let batch = outbox.poll_batch(64, usize::MAX).unwrap();
        assert_eq!((batch.first, batch.end, batch.loss), (sequence(2), sequence(4), None));
        assert_eq!(outbox.poll_batch(64, usize::MAX), None);
        assert_eq!(outbox.accounted(), Some(sequence(1)));
        check_books(&outbox);
    }

    #[test]
    fn no_more_is_in_flight_than_the_window() {
        let mut outbox = Outbox::new();
        push(&mut outbox, RING);
        let mut sent = 0;
        while let Some(batch) = outbox.poll_batch(BATCH_RECORDS_MAX, usize::MAX) {
            sent += batch.first.count_until(batch.end);
        }
        assert_eq!(sent, IN_FLIGHT_RECORDS_MAX);
        outbox.acknowledge(sequence(10));
        assert_eq!(outbox.poll_batch(64, usize::MAX).map(|b| b.first.count_until(b.end)), Some(10));
    }

    #[test]
    fn an_overwritten_record_is_declared_before_the_next() {
        let mut outbox = Outbox::new();
        push(&mut outbox, RING + 5);
        let batch = outbox.poll_batch(64, usize::MAX).unwrap();
        let loss = batch.loss.unwrap();
        assert_eq!((loss.first, loss.last), (sequence(1), sequence(5)));
        assert_eq!((loss.never_sent, loss.unacknowledged), (5, 0));
        assert_eq!(batch.first, sequence(6));
        assert_eq!(outbox.accounted(), None, "the loss is not acknowledged");
        outbox.acknowledge(sequence(69));
        assert_eq!(outbox.accounted(), Some(sequence(69)));
        assert_eq!(outbox.lost().by(LossReason::Overwritten), 5);
        assert_eq!(outbox.delivered(), 64);
        outbox.rewind();
        assert_eq!(outbox.poll_batch(64, usize::MAX).unwrap().loss, None);
        check_books(&outbox);
    }

    #[test]
    fn what_was_overwritten_after_it_was_sent_and_then_acknowledged_was_delivered() {
        let mut outbox = Outbox::new();
        push(&mut outbox, RING);
        outbox.poll_batch(64, usize::MAX).unwrap();
        push(&mut outbox, 10);
        assert_eq!(outbox.lost().total(), 10);
        outbox.acknowledge(sequence(64));
        assert_eq!((outbox.lost().total(), outbox.delivered()), (0, 64));
        assert_eq!(outbox.poll_batch(64, usize::MAX).unwrap().loss, None);
        check_books(&outbox);
    }

    #[test]
    fn what_was_overwritten_after_it_was_sent_and_not_acknowledged_is_declared_as_uncertain() {
        let mut outbox = Outbox::new();
        push(&mut outbox, RING);
        outbox.poll_batch(64, usize::MAX).unwrap();
        push(&mut outbox, 70);
        outbox.rewind();
        let loss = outbox.poll_batch(64, usize::MAX).unwrap().loss.unwrap();
        assert_eq!((loss.first, loss.last), (sequence(1), sequence(70)));
        assert_eq!((loss.never_sent, loss.unacknowledged), (6, 64));
        check_books(&outbox);
    }

    #[test]
    fn what_an_earlier_stream_declared_lost_stays_lost_when_the_next_acknowledges_it() {
        let mut outbox = Outbox::new();
        push(&mut outbox, RING + 5);
        assert_eq!(outbox.poll_batch(64, usize::MAX).unwrap().loss.unwrap().last, sequence(5));
        // The server made the declaration and the batch durable, and says so when the agent is back.
        outbox.rewind();
        outbox.acknowledge(sequence(69));
        assert_eq!((outbox.lost().total(), outbox.delivered()), (5, 64));
        check_books(&outbox);
    }

    #[test]
    fn a_ring_smaller_than_a_batch_keeps_the_same_books() {
        let mut outbox = Few::new();
        for _ in 0..10 {
            outbox.push(&true);
        }
        let batch = outbox.poll_batch(64, usize::MAX).unwrap();
        assert_eq!((batch.first, batch.end), (sequence(7), sequence(11)));
        outbox.push(&true);
        outbox.acknowledge(sequence(10));
        assert_eq!((outbox.delivered(), outbox.lost().total(), outbox.held()), (4, 6, 1));
    }

    #[test]
    fn an_acknowledgement_of_what_was_never_sent_is_refused() {
        let mut outbox = Outbox::new();
        push(&mut outbox, 3);
        outbox.poll_batch(2, usize::MAX).unwrap();
        outbox.acknowledge(sequence(3));
        assert_eq!((outbox.delivered(), outbox.refused_acknowledgements()), (0, 1));
        check_books(&outbox);
    }

    #[test]
    fn what_a_shutdown_abandons_is_counted() {
        let mut outbox = Outbox::new();
        push(&mut outbox, 3);
        outbox.poll_batch(2, usize::MAX).unwrap();
        outbox.acknowledge(sequence(1));
        assert_eq!(outbox.abandon(), 2);
        let unsettled: std::vec::Vec<_> = outbox.unsettled().collect();
        assert_eq!(unsettled.len(), 1);
        assert_eq!((unsettled[0].first, unsettled[0].last), (sequence(2), sequence(3)));
        assert_eq!((unsettled[0].never_sent, unsettled[0].unacknowledged), (1, 1));
        assert_eq!(outbox.lost().by(LossReason::Shutdown), 2);
        check_books(&outbox);
    }

    #[test]
    fn what_is_deferred_is_announced_before_the_next_and_counted_until_the_spool_brings_it() {
        let mut outbox = Outbox::new();
        push(&mut outbox, 10);
        outbox.poll_batch(2, usize::MAX).unwrap();
        assert_eq!(outbox.defer(sequence(6)), 6);
        assert_eq!((outbox.held(), outbox.spooled()), (4, 6));
        check_books(&outbox);
        let batch = outbox.poll_batch(64, usize::MAX).unwrap();
        let deferred = batch.deferred.unwrap();
        assert_eq!((deferred.first, deferred.last), (sequence(1), sequence(6)));
        assert_eq!((batch.loss, batch.first, batch.end), (None, sequence(7), sequence(11)));
        outbox.acknowledge(sequence(10));
        assert_eq!((outbox.delivered(), outbox.accounted()), (4, Some(sequence(10))));
        outbox.spool_delivered(4);
        outbox.spool_lost(LossReason::SpoolFull, 2);
        assert_eq!((outbox.delivered(), outbox.spooled()), (8, 0));
        check_books(&outbox);
        // What is not held cannot be deferred.
        assert_eq!((outbox.defer(sequence(3)), outbox.defer(sequence(11))), (0, 0));
    }

    #[test]
    fn no_more_bytes_are_in_flight_than_the_credit_but_for_one_record() {
        let mut outbox = Outbox::new();
        push(&mut outbox, 20);
        let count = |batch: Option<Batch>| batch.map(|b| b.first.count_until(b.end));
        assert_eq!(count(outbox.poll_batch(64, 0)), Some(1), "nothing stands still for ever");
        assert_eq!(count(outbox.poll_batch(64, 0)), None);
        assert_eq!(count(outbox.poll_batch(64, 4 * RECORD_BYTES)), Some(3));
        assert_eq!(count(outbox.poll_batch(64, 4 * RECORD_BYTES)), None);
        outbox.acknowledge(sequence(2));
        assert_eq!(count(outbox.poll_batch(64, 4 * RECORD_BYTES)), Some(2));
        outbox.rewind();
        assert_eq!(count(outbox.poll_batch(64, usize::MAX)), Some(18));
    }
}
