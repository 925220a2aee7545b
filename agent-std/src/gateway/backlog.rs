//! The records of one boot of a device between the link and their acknowledgement, and the account of the missing
//! ones; its alerts likewise, in a backlog of their own. No I/O.
//!
//! The core's outbox does the same for what an agent sends itself. It gives out the numbers, so it has no holes; here
//! the device has given them out, and what the link swallowed is as much a part of the sequence as what it carried.

use std::collections::VecDeque;

use agent_core::agent::Loss;
use agent_core::id::Sequence;
use agent_core::ledger::{LossReason, Lost};
use agent_core::limits::IN_FLIGHT_RECORDS_MAX;
use agent_core::record::Alert;
use agent_core::time::Instant;

/// Ranges of missing entries before the oldest one that is held. Beyond, the two oldest become one.
const LEADING_GAPS_MAX: usize = 8;

/// What a device numbers, in the form in which a backlog holds it.
pub(crate) trait Held {
    /// The form in which it goes on a stream.
    type Content;

    /// What it says.
    fn content(&self) -> Self::Content;

    /// When, on the device's monotonic clock.
    fn taken_at(&self) -> Instant;
}

impl Held for Alert {
    type Content = Self;

    fn content(&self) -> Self {
        *self
    }

    fn taken_at(&self) -> Instant {
        self.taken_at
    }
}

/// Entries to put on a stream in one message, and what is missing between and before them.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Batch<C> {
    pub(crate) losses: Vec<Loss>,
    pub(crate) entries: Vec<(Sequence, C)>,
}

/// What became of every number of a backlog, as far as the gateway can know. Always: recorded = delivered + lost + held.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Books {
    /// Numbers that the device is known to have given out.
    pub(crate) recorded: u64,
    /// Acknowledged as durable, or handed to a peer that does not acknowledge.
    pub(crate) delivered: u64,
    /// Those that will never arrive.
    pub(crate) lost: Lost,
    /// Those that wait.
    pub(crate) held: u64,
}

/// What was made of an entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Admission {
    /// It is held.
    Taken,
    /// Its number is accounted for already.
    Repeated,
}

/// How an entry is known to have left for good.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Release {
    /// The server has acknowledged it, or its loss.
    Acknowledged,
    /// A plain server has had it for long enough. A loss cannot be told to it.
    HandedOver,
}

#[derive(Clone, Debug)]
enum Item<T> {
    Entry(Sequence, T),
    Gap(Gap),
}

/// Entries that will never come.
#[derive(Clone, Copy, Debug)]
struct Gap {
    first: Sequence,
    last: Sequence,
    reason: LossReason,
    // never_sent <= the numbers of the range.
    never_sent: u64,
    // Whether a stream has carried the loss.
    declared: bool,
}

impl Gap {
    const fn count(&self) -> u64 {
        self.first.count_until(self.last.next())
    }

    fn loss(&self) -> Loss {
        Loss {
            first: self.first,
            last: self.last,
            reason: self.reason,
            never_sent: self.never_sent,
            unacknowledged: self.count() - self.never_sent,
        }
    }
}

impl<T> Item<T> {
    const fn first(&self) -> Sequence {
        match self {
            Self::Entry(sequence, _) => *sequence,
            Self::Gap(gap) => gap.first,
        }
    }

    const fn last(&self) -> Sequence {
        match self {
            Self::Entry(sequence, _) => *sequence,
            Self::Gap(gap) => gap.last,
        }
    }
}

/// See the module's documentation. What it may hold at most is for its owner to say, with [`Backlog::evict`].
#[derive(Clone, Debug)]
pub(crate) struct Backlog<T> {
    // They follow each other without a hole up to `next`; what stands before them is accounted for.
    items: VecDeque<Item<T>>,
    // The entries among the items.
    held: u64,
    // The first sequence that has not been heard of.
    next: Sequence,
    // Where the current stream goes on: next_unsent <= sent_end <= next.
    next_unsent: Sequence,
    // The first sequence that no stream has carried, nor its loss.
    sent_end: Sequence,
    delivered: u64,
    lost: Lost,
}

impl<T: Held> Backlog<T> {
    pub(crate) const fn new() -> Self {
        Self {
            items: VecDeque::new(),
            held: 0,
            next: Sequence::FIRST,
            next_unsent: Sequence::FIRST,
            sent_end: Sequence::FIRST,
            delivered: 0,
            lost: Lost::NONE,
        }
    }

    /// Takes in what the device sent with this number. What is missing before it was lost on the link.
    pub(crate) fn push(&mut self, sequence: Sequence, held: T) -> Admission {
        if sequence < self.next {
            return Admission::Repeated;
        }
        let missing = self.next.count_until(sequence);
        if 0 < missing {
            self.lost.add(LossReason::Link, missing);
            self.items.push_back(Item::Gap(Gap {
                first: self.next,
                last: before(sequence),
                reason: LossReason::Link,
                never_sent: missing,
                declared: false,
            }));
        }
        self.items.push_back(Item::Entry(sequence, held));
        self.held += 1;
        self.next = sequence.next();
        Admission::Taken
    }

    /// Gives up the oldest entry, for want of room. Answers whether there was one.
    pub(crate) fn evict(&mut self) -> bool {
        let is_entry = |item: &Item<T>| matches!(item, Item::Entry(..));
        // The gaps before it are few, see below.
        let Some(index) = self.items.iter().position(is_entry) else { return false };
        let sequence = self.items[index].first();
        self.held -= 1;
        self.lost.add(LossReason::Overwritten, 1);
        self.items[index] = Item::Gap(Gap {
            first: sequence,
            last: sequence,
            reason: LossReason::Overwritten,
            never_sent: u64::from(self.sent_end <= sequence),
            declared: false,
        });
        let is_sent = |gap: &Gap| gap.last < self.next_unsent;
        if let Some(before) = index.checked_sub(1)
            && let (Item::Gap(earlier), Item::Gap(gap)) = (&self.items[before], &self.items[index])
            && (earlier.reason, earlier.declared) == (gap.reason, gap.declared)
            && is_sent(earlier) == is_sent(gap)
        {
            self.join(before);
        }
        while self.items.iter().take_while(|item| !is_entry(item)).count() > LEADING_GAPS_MAX {
            self.join(0);
        }
        true
    }

    /// Makes one gap of the two at `index` and behind it. Entries of different fates count as overwritten.
    fn join(&mut self, index: usize) {
        let Some(&Item::Gap(later)) = self.items.get(index + 1) else { return };
        let Some(Item::Gap(gap)) = self.items.get_mut(index) else { return };
        let reason = if gap.reason == later.reason { gap.reason } else { LossReason::Overwritten };
        for part in [&*gap, &later] {
            self.lost.take_back(part.reason, part.count());
            self.lost.add(reason, part.count());
        }
        gap.last = later.last;
        gap.reason = reason;
        gap.never_sent += later.never_sent;
        gap.declared &= later.declared;
        self.items.remove(index + 1);
    }

    /// A new stream: everything unacknowledged is sent again, oldest first.
    pub(crate) fn rewind(&mut self) {
        self.next_unsent = self.items.front().map_or(self.next, Item::first);
    }

    /// The next batch to send, of at most `parts_max` entries and losses, which then counts as sent.
    pub(crate) fn poll_batch(&mut self, parts_max: u64) -> Option<Batch<T::Content>> {
        let start = self.items.partition_point(|item| item.last() < self.next_unsent);
        let in_flight = u64::try_from(start).unwrap_or(u64::MAX);
        let room = IN_FLIGHT_RECORDS_MAX.saturating_sub(in_flight).min(parts_max);
        let room = usize::try_from(room).unwrap_or(usize::MAX);
        let mut batch = Batch { losses: Vec::new(), entries: Vec::new() };
        for item in self.items.range_mut(start..).take(room) {
            match item {
                Item::Entry(sequence, held) => batch.entries.push((*sequence, held.content())),
                Item::Gap(gap) => {
                    gap.declared = true;
                    batch.losses.push(gap.loss());
                }
            }
            self.next_unsent = item.last().next();
        }
        self.sent_end = self.sent_end.max(self.next_unsent);
        let is_empty = batch.losses.is_empty() && batch.entries.is_empty();
        (!is_empty).then_some(batch)
    }

    /// The next entry for a peer that takes one at a time and no losses, which then counts as sent.
    pub(crate) fn poll_plain(&mut self) -> Option<(Sequence, T::Content)> {
        let start = self.items.partition_point(|item| item.last() < self.next_unsent);
        let (sequence, held) = self.items.range(start..).find_map(|item| match item {
            Item::Entry(sequence, held) => Some((*sequence, held)),
            Item::Gap(_) => None,
        })?;
        self.next_unsent = sequence.next();
        self.sent_end = self.sent_end.max(self.next_unsent);
        Some((sequence, held.content()))
    }

    /// What the server knows of this boot at the start of a stream. It may be more than was heard here: another run
    /// of the gateway came before.
    pub(crate) fn resume(&mut self, through: Sequence) {
        self.release(through.next(), Release::Acknowledged);
        if self.next <= through {
            self.delivered += self.next.count_until(through.next());
            self.next = through.next();
        }
        self.next_unsent = self.next_unsent.max(through.next());
        self.sent_end = self.sent_end.max(self.next_unsent);
    }

    /// The server has made everything up to `through` durable, or its loss. One that acknowledges what was never sent
    /// is not believed.
    pub(crate) fn acknowledge(&mut self, through: Sequence) {
        if through < self.sent_end {
            self.release(through.next(), Release::Acknowledged);
        }
    }

    /// A plain server has had everything up to `through` for long enough.
    pub(crate) fn release_handed_over(&mut self, through: Sequence) {
        self.release(through.next(), Release::HandedOver);
    }

    /// Everything that the transport took counts as delivered.
    pub(crate) fn release_all_handed_over(&mut self) {
        self.release(self.next_unsent, Release::HandedOver);
    }

    /// Lets go of everything before `end`.
    fn release(&mut self, end: Sequence, release: Release) {
        while let Some(item) = self.items.front_mut()
            && item.first() < end
        {
            match item {
                Item::Entry(..) => {
                    self.held -= 1;
                    self.delivered += 1;
                }
                Item::Gap(gap) => {
                    let gap_end = gap.last.next().min(end);
                    // Acknowledged without having been declared: it arrived before it was evicted, or over another run
                    // of the gateway.
                    if release == Release::Acknowledged && !gap.declared {
                        let count = gap.first.count_until(gap_end);
                        self.lost.take_back(gap.reason, count);
                        self.delivered += count;
                    }
                    if end <= gap.last {
                        gap.first = end;
                        gap.never_sent = gap.never_sent.min(gap.count());
                        break;
                    }
                }
            }
            self.items.pop_front();
        }
        self.next_unsent = self.next_unsent.max(self.items.front().map_or(self.next, Item::first));
    }

    /// Gives up what is still held. It counts as lost.
    pub(crate) fn abandon(&mut self) {
        let count = std::mem::take(&mut self.held);
        self.lost.add(LossReason::Shutdown, count);
        self.items.clear();
        self.next_unsent = self.next;
    }

    /// Entries held.
    /// Everything up to here is accounted for at a server; none when nothing is.
    pub(crate) fn accounted(&self) -> Option<Sequence> {
        let open = self.items.front().map_or(self.next, Item::first);
        Sequence::new(open.number() - 1)
    }

    pub(crate) const fn held(&self) -> u64 {
        self.held
    }

    /// Whether the server has accounted for all that was heard.
    pub(crate) fn is_settled(&self) -> bool {
        self.items.is_empty()
    }

    /// Whether the transport took every entry that is held.
    pub(crate) fn is_handed_over(&self) -> bool {
        self.held == 0 || self.next <= self.next_unsent
    }

    pub(crate) const fn books(&self) -> Books {
        let recorded = Sequence::FIRST.count_until(self.next);
        Books { recorded, delivered: self.delivered, lost: self.lost, held: self.held }
    }
}

/// The sequence before `sequence`, which is not the first one; else the first.
fn before(sequence: Sequence) -> Sequence {
    Sequence::new(sequence.number() - 1).unwrap_or(Sequence::FIRST)
}

#[cfg(test)]
pub(super) mod tests {
    use std::time::Duration;

    use agent_core::metric::Metric;
    use agent_core::record::{Direction, Severity, Transition};
    use proptest::prelude::*;

    use agent_core::limits::BATCH_RECORDS_MAX;
    use agent_core::record::Sample;

    use super::super::record::Record;
    use super::super::record::tests::record;
    use super::*;

    /// Alert `number`, raised so many seconds after the device's start.
    pub(in crate::gateway) fn alert(number: u64) -> Alert {
        let value = i64::try_from(number).unwrap();
        Alert {
            metric: Metric::CpuPercent,
            transition: Transition::Raised,
            severity: Severity::Warning,
            direction: Direction::Above,
            limit: 8000,
            value: 8000 + value,
            taken_at: Instant::from_ms(number * 1000),
            wall_ms: 1_700_000_000_000 + value * 1000,
            lasted: Duration::from_secs(3),
        }
    }

    fn sequence(number: u64) -> Sequence {
        Sequence::new(number).unwrap()
    }

    /// A backlog as its tests see it: of records, in batches of the usual size.
    impl Backlog<Record> {
        fn hear(&mut self, number: u64) -> Admission {
            self.push(sequence(number), record(number))
        }

        fn next_batch(&mut self) -> Option<Batch<Sample>> {
            self.poll_batch(BATCH_RECORDS_MAX)
        }

        fn balances(&self) -> bool {
            let Books { recorded, delivered, lost, held } = self.books();
            recorded == delivered + lost.total() + held
        }
    }

    fn backlog(numbers: impl IntoIterator<Item = u64>) -> Backlog<Record> {
        let mut backlog = Backlog::new();
        for number in numbers {
            assert_eq!(backlog.hear(number), Admission::Taken);
        }
        backlog
    }

    fn numbers(batch: &Batch<Sample>) -> Vec<u64> {
        batch.entries.iter().map(|(sequence, _)| sequence.number()).collect()
    }

    fn losses(batch: &Batch<Sample>) -> Vec<(u64, u64, LossReason)> {
        let ranges = batch.losses.iter();
        ranges.map(|loss| (loss.first.number(), loss.last.number(), loss.reason)).collect()
    }

    #[test]
    fn what_the_link_swallowed_is_declared_beside_what_it_carried() {
        let mut backlog = backlog([4, 5, 9]);
        let batch = backlog.next_batch().unwrap();
        assert_eq!(numbers(&batch), [4, 5, 9]);
        assert_eq!(losses(&batch), [(1, 3, LossReason::Link), (6, 8, LossReason::Link)]);
        assert_eq!((batch.losses[0].never_sent, batch.losses[0].unacknowledged), (3, 0));
        backlog.acknowledge(sequence(9));
        let books = backlog.books();
        assert_eq!((books.delivered, books.lost.by(LossReason::Link)), (3, 6));
        assert!(backlog.is_settled() && backlog.balances());
    }

    #[test]
    fn a_number_that_was_heard_is_a_repeat() {
        let mut backlog = backlog([4]);
        for number in [1, 3, 4] {
            assert_eq!(backlog.hear(number), Admission::Repeated);
        }
        assert_eq!(backlog.hear(5), Admission::Taken);
    }

    #[test]
    fn an_evicted_record_is_declared_before_the_next() {
        let mut backlog = backlog(3..=6);
        assert!(backlog.evict() && backlog.evict());
        let batch = backlog.next_batch().unwrap();
        assert_eq!(losses(&batch), [(1, 2, LossReason::Link), (3, 4, LossReason::Overwritten)]);
        assert_eq!(numbers(&batch), [5, 6]);
        assert!(backlog.evict() && backlog.evict() && !backlog.evict());
        assert!(backlog.balances());
    }

    #[test]
    fn what_was_evicted_after_it_was_sent_and_then_acknowledged_was_delivered() {
        let mut backlog = backlog(1..=4);
        backlog.next_batch().unwrap();
        assert!(backlog.evict() && backlog.evict());
        assert_eq!(backlog.next_batch(), None, "the stream has carried it");
        backlog.acknowledge(sequence(3));
        let books = backlog.books();
        assert_eq!((books.delivered, books.lost.total(), books.held), (3, 0, 1));
    }

    #[test]
    fn what_was_evicted_after_it_was_sent_is_declared_on_the_next_stream() {
        let mut backlog = backlog(1..=4);
        backlog.next_batch().unwrap();
        assert!(backlog.evict());
        backlog.rewind();
        let batch = backlog.next_batch().unwrap();
        assert_eq!(losses(&batch), [(1, 1, LossReason::Overwritten)]);
        assert_eq!((batch.losses[0].never_sent, batch.losses[0].unacknowledged), (0, 1));
        backlog.acknowledge(sequence(4));
        assert_eq!(backlog.books().lost.by(LossReason::Overwritten), 1);
        assert!(backlog.balances());
    }

    #[test]
    fn what_an_earlier_gateway_delivered_is_no_gap() {
        let mut backlog = backlog(501..=502);
        backlog.rewind();
        backlog.resume(sequence(480));
        let batch = backlog.next_batch().unwrap();
        assert_eq!(losses(&batch), [(481, 500, LossReason::Link)]);
        let books = backlog.books();
        assert_eq!((books.delivered, books.lost.total()), (480, 20));
        assert!(backlog.balances());
    }

    #[test]
    fn a_server_that_knows_more_than_was_heard_is_believed_at_the_start_of_a_stream_only() {
        let mut backlog = Backlog::<Record>::new();
        backlog.acknowledge(sequence(9));
        assert_eq!(backlog.books().delivered, 0);
        backlog.resume(sequence(9));
        assert_eq!(backlog.hear(9), Admission::Repeated);
        assert_eq!(backlog.hear(10), Admission::Taken);
        assert_eq!(numbers(&backlog.next_batch().unwrap()), [10]);
        assert_eq!(backlog.books().delivered, 9);
    }

    #[test]
    fn a_plain_server_gets_the_records_one_by_one_and_no_losses() {
        let mut backlog = backlog([2, 4]);
        assert_eq!(backlog.poll_plain().map(|(s, _)| s), Some(sequence(2)));
        assert!(!backlog.is_handed_over());
        assert_eq!(backlog.poll_plain().map(|(s, _)| s), Some(sequence(4)));
        assert_eq!(backlog.poll_plain(), None);
        assert!(backlog.is_handed_over());
        backlog.release_handed_over(sequence(2));
        let books = backlog.books();
        assert_eq!((books.delivered, books.lost.by(LossReason::Link), books.held), (1, 2, 1));
        backlog.release_all_handed_over();
        assert!(backlog.is_settled() && backlog.balances());
    }

    #[test]
    fn batches_and_what_is_in_flight_are_bounded() {
        let mut backlog = backlog((1..=1000).map(|n| 2 * n));
        let mut sent = 0;
        while let Some(batch) = backlog.next_batch() {
            assert!(batch.entries.len() + batch.losses.len() <= 64);
            sent += batch.entries.len() + batch.losses.len();
        }
        assert_eq!(sent, 256);
    }

    #[test]
    fn gaps_before_the_oldest_record_do_not_pile_up() {
        let mut backlog = backlog((1..=200).map(|n| 2 * n));
        for _ in 0..190 {
            assert!(backlog.evict());
            let leading = backlog.items.iter().take_while(|item| matches!(item, Item::Gap(_)));
            assert!(leading.count() <= LEADING_GAPS_MAX);
            assert!(backlog.balances());
        }
        let batch = backlog.next_batch().unwrap();
        let lost = batch.losses.iter().map(|loss| loss.first.count_until(loss.last.next()));
        assert_eq!(lost.sum::<u64>() + 10, 400);
    }

    #[derive(Clone, Debug)]
    enum Operation {
        Push { skip: u64 },
        Evict,
        Send,
        Plain,
        Acknowledge { behind: u64 },
        HandedOver,
        NewStream { behind: u64 },
    }

    fn operations() -> impl Strategy<Value = Vec<Operation>> {
        let one = prop_oneof![
            8 => prop_oneof![4 => Just(0), 1 => 0..5_u64].prop_map(|skip| Operation::Push { skip }),
            3 => Just(Operation::Evict),
            4 => Just(Operation::Send),
            1 => Just(Operation::Plain),
            2 => (0..30_u64).prop_map(|behind| Operation::Acknowledge { behind }),
            1 => Just(Operation::HandedOver),
            1 => (0..40_u64).prop_map(|behind| Operation::NewStream { behind }),
        ];
        prop::collection::vec(one, 0..300)
    }

    proptest! {
        /// A server that takes what picket-server takes hears of every sequence, in order, and the books balance.
        #[test]
        fn every_sequence_is_accounted_for(operations in operations()) {
            let mut backlog = Backlog::<Record>::new();
            let mut number = 0;
            // The highest sequence accounted for on the current stream.
            let mut received = 0;
            for operation in operations {
                match operation {
                    Operation::Push { skip } => {
                        number += 1 + skip;
                        prop_assert_eq!(backlog.hear(number), Admission::Taken);
                    }
                    Operation::Evict => {
                        backlog.evict();
                    }
                    Operation::Send => {
                        let Some(batch) = backlog.next_batch() else { continue };
                        let records = batch.entries.iter().map(|(s, _)| (s.number(), s.number()));
                        let losses = batch.losses.iter();
                        let losses = losses.map(|loss| (loss.first.number(), loss.last.number()));
                        let mut parts = records.chain(losses).collect::<Vec<_>>();
                        parts.sort_unstable();
                        for (first, last) in parts {
                            prop_assert!(first <= received + 1, "{first} after {received}");
                            received = received.max(last);
                        }
                    }
                    Operation::Plain => {
                        if let Some((sequence, _)) = backlog.poll_plain() {
                            received = sequence.number();
                        }
                    }
                    Operation::Acknowledge { behind } => {
                        if let Some(through) = Sequence::new(received.saturating_sub(behind)) {
                            backlog.acknowledge(through);
                        }
                    }
                    Operation::HandedOver => backlog.release_all_handed_over(),
                    Operation::NewStream { behind } => {
                        backlog.rewind();
                        let known = Sequence::new(received.saturating_sub(behind));
                        if let Some(through) = known {
                            backlog.resume(through);
                        }
                        received = backlog.next_unsent.number() - 1;
                    }
                }
                let books = backlog.books();
                prop_assert!(backlog.balances(), "{books:?}");
                prop_assert_eq!(books.recorded, number);
                let records = backlog.items.iter().filter(|item| matches!(item, Item::Entry(..)));
                prop_assert_eq!(records.count() as u64, backlog.held());
                let mut expected = backlog.items.front().map_or(backlog.next, Item::first);
                for item in &backlog.items {
                    prop_assert_eq!(item.first(), expected);
                    expected = item.last().next();
                }
                prop_assert_eq!(expected, backlog.next);
            }
            backlog.rewind();
            while let Some(batch) = backlog.next_batch() {
                let last = batch.entries.iter().map(|(s, _)| *s).max();
                let lost = batch.losses.iter().map(|loss| loss.last).max();
                backlog.acknowledge(last.max(lost).unwrap());
            }
            prop_assert!(backlog.is_settled());
        }
    }
}
