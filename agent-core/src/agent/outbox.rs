//! The outbox: records between the chain and their acknowledgement, and the account of those that were lost.

use crate::id::Sequence;
use crate::ledger::{LossReason, Lost};
use crate::limits::{BATCH_RECORDS_MAX, IN_FLIGHT_RECORDS_MAX};
use crate::ring::{Range, Ring, Stored};

/// Records to put on the stream in one message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Batch {
    /// The first record.
    pub first: Sequence,
    /// The one after the last record; equal to `first` when the batch only declares a loss.
    pub end: Sequence,
    /// The loss to declare with it: records before `first`.
    pub loss: Option<Loss>,
}

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

/// A range of evicted records that the peer has not confirmed to know of.
//
// Invariant: last + 1 == ring.first. Evictions only ever extend it at the end, acknowledgements only ever
// shorten it at the front, so there is never more than one range.
#[derive(Clone, Copy, Debug)]
struct Evicted {
    first: Sequence,
    last: Sequence,
    never_sent: u64,
    // The last sequence of the range that the current stream has declared as lost.
    declared: Option<Sequence>,
    // The same of any stream: declared <= ever_declared. An acknowledgement of these may mean just the declaration.
    ever_declared: Option<Sequence>,
}

/// `BYTES` is how many bytes of records it holds at most.
#[derive(Clone, Debug)]
pub(crate) struct Outbox<T, const BYTES: usize> {
    ring: Ring<T, BYTES>,
    // ring.first <= next_unsent <= ring.end: where the current stream goes on.
    next_unsent: Sequence,
    // next_unsent <= sent_end: the first record that no stream has carried.
    sent_end: Sequence,
    evicted: Option<Evicted>,
    delivered: u64,
    lost: Lost,
    refused_acknowledgements: u64,
}

impl<T: Stored, const BYTES: usize> Outbox<T, BYTES> {
    pub(crate) const fn new() -> Self {
        Self {
            ring: Ring::new(),
            next_unsent: Sequence::FIRST,
            sent_end: Sequence::FIRST,
            evicted: None,
            delivered: 0,
            lost: Lost::NONE,
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
        let evicted = self.evicted.get_or_insert(Evicted {
            first,
            last: first,
            never_sent: 0,
            declared: None,
            ever_declared: None,
        });
        // The one before the first that is still held.
        evicted.last = Sequence::new(end.number() - 1).unwrap_or(first);
        evicted.never_sent += count - sent;
        self.next_unsent = self.next_unsent.max(end);
        self.sent_end = self.sent_end.max(self.next_unsent);
        debug_assert_eq!(evicted.last.next(), self.ring.first());
    }

    /// A new stream: everything unacknowledged is sent again, oldest first, the loss before it.
    pub(crate) fn rewind(&mut self) {
        self.next_unsent = self.ring.first();
        if let Some(evicted) = &mut self.evicted {
            evicted.declared = None;
        }
    }

    /// The next batch to send, at most `records_max` records, which then counts as sent.
    pub(crate) fn poll_batch(&mut self, records_max: u64) -> Option<Batch> {
        let in_flight = self.ring.first().count_until(self.next_unsent);
        let room = IN_FLIGHT_RECORDS_MAX.saturating_sub(in_flight);
        let unsent = self.next_unsent.count_until(self.ring.end());
        let count = unsent.min(room).min(records_max.clamp(1, BATCH_RECORDS_MAX));
        let loss = self.undeclared_loss();
        if count == 0 && loss.is_none() {
            return None;
        }
        let first = self.next_unsent;
        let end = Sequence::new(first.number().saturating_add(count)).unwrap_or(first);
        self.next_unsent = end;
        self.sent_end = self.sent_end.max(end);
        if let Some(evicted) = &mut self.evicted {
            evicted.declared = Some(evicted.last);
            evicted.ever_declared = Some(evicted.last);
        }
        Some(Batch { first, end, loss })
    }

    /// As [`Outbox::poll_batch`], one record and no loss, for a peer that knows only the plain form.
    pub(crate) fn poll_plain(&mut self) -> Option<Batch> {
        let first = self.next_unsent;
        if self.ring.end() <= first {
            return None;
        }
        self.next_unsent = first.next();
        self.sent_end = self.sent_end.max(self.next_unsent);
        Some(Batch { first, end: self.next_unsent, loss: None })
    }

    fn undeclared_loss(&self) -> Option<Loss> {
        let evicted = self.evicted.filter(|evicted| evicted.declared != Some(evicted.last))?;
        let count = evicted.first.count_until(evicted.last.next());
        Some(Loss {
            first: evicted.first,
            last: evicted.last,
            reason: LossReason::Overwritten,
            never_sent: evicted.never_sent,
            unacknowledged: count.saturating_sub(evicted.never_sent),
        })
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
        let Some(evicted) = &mut self.evicted else {
            return;
        };
        if through < evicted.first {
            return;
        }
        // What was acknowledged without having been declared lost was sent before it was evicted, and arrived.
        let last = through.min(evicted.last);
        let arrived_from =
            evicted.ever_declared.map_or(evicted.first, Sequence::next).max(evicted.first);
        let arrived = arrived_from.count_until(last.next());
        self.lost.take_back(LossReason::Overwritten, arrived);
        self.delivered += arrived;
        if evicted.last <= through {
            self.evicted = None;
        } else {
            evicted.first = through.next();
            let left = evicted.first.count_until(evicted.last.next());
            evicted.never_sent = evicted.never_sent.min(left);
        }
    }

    /// The plain peer has taken everything up to `through`; there is no more to know. A loss cannot be told to it,
    /// the ledger alone keeps it.
    pub(crate) fn release_unconfirmed(&mut self, through: Sequence) {
        self.delivered += self.ring.release(through);
        self.next_unsent = self.next_unsent.max(self.ring.first());
        self.evicted = None;
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
        let Some(last) = Sequence::new(self.ring.end().number() - 1) else {
            return 0;
        };
        let count = self.ring.release(last);
        self.lost.add(LossReason::Shutdown, count);
        self.next_unsent = self.ring.first();
        self.sent_end = self.sent_end.max(self.next_unsent);
        self.evicted = None;
        count
    }

    pub(crate) fn range(&self, batch: &Batch) -> Range<'_, T, BYTES> {
        self.ring.range(batch.first, batch.end)
    }

    /// How much of its ring is in use, in hundredths of a percent.
    pub(crate) fn fill(&self) -> i64 {
        let share = self.ring.used_bytes() * 10_000 / BYTES;
        i64::try_from(share).unwrap_or(i64::MAX)
    }

    pub(crate) const fn held(&self) -> u64 {
        self.ring.len()
    }

    /// Everything up to here is durable, or its loss is; none when nothing is.
    pub(crate) fn accounted(&self) -> Option<Sequence> {
        let open = self.evicted.map_or_else(|| self.ring.first(), |evicted| evicted.first);
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
        let Outbox { delivered, lost, .. } = outbox;
        assert_eq!(outbox.recorded(), delivered + lost.total() + outbox.held());
    }

    #[test]
    fn what_is_not_acknowledged_is_sent_again_on_a_new_stream() {
        let mut outbox = Outbox::new();
        push(&mut outbox, 3);
        let batch = outbox.poll_batch(2).unwrap();
        assert_eq!((batch.first, batch.end), (sequence(1), sequence(3)));
        outbox.acknowledge(sequence(1));
        outbox.rewind();
        let batch = outbox.poll_batch(64).unwrap();
        assert_eq!((batch.first, batch.end, batch.loss), (sequence(2), sequence(4), None));
        assert_eq!(outbox.poll_batch(64), None);
        assert_eq!(outbox.accounted(), Some(sequence(1)));
        check_books(&outbox);
    }

    #[test]
    fn no_more_is_in_flight_than_the_window() {
        let mut outbox = Outbox::new();
        push(&mut outbox, RING);
        let mut sent = 0;
        while let Some(batch) = outbox.poll_batch(BATCH_RECORDS_MAX) {
            sent += batch.first.count_until(batch.end);
        }
        assert_eq!(sent, IN_FLIGHT_RECORDS_MAX);
        outbox.acknowledge(sequence(10));
        assert_eq!(outbox.poll_batch(64).map(|b| b.first.count_until(b.end)), Some(10));
    }

    #[test]
    fn an_overwritten_record_is_declared_before_the_next() {
        let mut outbox = Outbox::new();
        push(&mut outbox, RING + 5);
        let batch = outbox.poll_batch(64).unwrap();
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
        assert_eq!(outbox.poll_batch(64).unwrap().loss, None);
        check_books(&outbox);
    }

    #[test]
    fn what_was_overwritten_after_it_was_sent_and_then_acknowledged_was_delivered() {
        let mut outbox = Outbox::new();
        push(&mut outbox, RING);
        outbox.poll_batch(64).unwrap();
        push(&mut outbox, 10);
        assert_eq!(outbox.lost().total(), 10);
        outbox.acknowledge(sequence(64));
        assert_eq!((outbox.lost().total(), outbox.delivered()), (0, 64));
        assert_eq!(outbox.poll_batch(64).unwrap().loss, None);
        check_books(&outbox);
    }

    #[test]
    fn what_was_overwritten_after_it_was_sent_and_not_acknowledged_is_declared_as_uncertain() {
        let mut outbox = Outbox::new();
        push(&mut outbox, RING);
        outbox.poll_batch(64).unwrap();
        push(&mut outbox, 70);
        outbox.rewind();
        let loss = outbox.poll_batch(64).unwrap().loss.unwrap();
        assert_eq!((loss.first, loss.last), (sequence(1), sequence(70)));
        assert_eq!((loss.never_sent, loss.unacknowledged), (6, 64));
        check_books(&outbox);
    }

    #[test]
    fn what_an_earlier_stream_declared_lost_stays_lost_when_the_next_acknowledges_it() {
        let mut outbox = Outbox::new();
        push(&mut outbox, RING + 5);
        assert_eq!(outbox.poll_batch(64).unwrap().loss.unwrap().last, sequence(5));
        // The server made the declaration and the batch durable, and says so when the agent is back.
        outbox.rewind();
        outbox.acknowledge(sequence(69));
        assert_eq!((outbox.lost().total(), outbox.delivered()), (5, 64));
        check_books(&outbox);
    }

    #[test]
    fn a_ring_smaller_than_a_batch_keeps_the_same_books() {
        let mut outbox = super::Outbox::<Record, { 4 * RECORD_BYTES }>::new();
        for _ in 0..10 {
            outbox.push(&true);
        }
        let batch = outbox.poll_batch(64).unwrap();
        assert_eq!((batch.first, batch.end), (sequence(7), sequence(11)));
        outbox.push(&true);
        outbox.acknowledge(sequence(10));
        assert_eq!((outbox.delivered(), outbox.lost().total(), outbox.held()), (4, 6, 1));
    }

    #[test]
    fn an_acknowledgement_of_what_was_never_sent_is_refused() {
        let mut outbox = Outbox::new();
        push(&mut outbox, 3);
        outbox.poll_batch(2).unwrap();
        outbox.acknowledge(sequence(3));
        assert_eq!((outbox.delivered(), outbox.refused_acknowledgements()), (0, 1));
        check_books(&outbox);
    }

    #[test]
    fn what_a_shutdown_abandons_is_counted() {
        let mut outbox = Outbox::new();
        push(&mut outbox, 3);
        outbox.poll_batch(2).unwrap();
        outbox.acknowledge(sequence(1));
        assert_eq!(outbox.abandon(), 2);
        assert_eq!(outbox.lost().by(LossReason::Shutdown), 2);
        check_books(&outbox);
    }
}
