//! The rules of reading several partitions as one: in what order, what is history, what is missing.
//!
//! The shell feeds in what the partitions bring and takes deliveries out. A partition has at most one entry here that
//! is not in the batch; the rest waits in its queue. So history comes out in rising `stored_ms` across partitions
//! as far as it rises within each, and memory does not depend on how uneven they are.

use std::collections::VecDeque;
use std::ops::Range;

use crate::contract::{Cursor, Delivery, Entry, Offset, Partition};

/// Entries in one delivery.
const BATCH_ENTRIES_MAX: usize = 512;
/// Bytes of values in one delivery, exceeded by at most one record.
const BATCH_BYTES_MAX: usize = 1024 * 1024;

/// What a partition holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Extent {
    pub(super) partition: Partition,
    /// The oldest offset kept.
    pub(super) first: u64,
    /// The offset after the newest.
    pub(super) next: u64,
}

#[derive(Debug)]
struct Lane {
    partition: Partition,
    /// The offset to take in next. Everything before was taken in, or announced as skipped.
    position: u64,
    /// Offsets below were there when the subscription was made.
    history_end: u64,
    /// Nothing more was in the partition at some time after the subscription was made.
    ended: bool,
    /// Records from `position` on were damaged: whatever the next offset is, those before it are lost.
    damaged: bool,
    /// Taken in, and not yet in the batch.
    head: Option<(Entry, usize)>,
}

impl Lane {
    /// The head, if it belongs to history.
    fn history_head(&self) -> Option<&Entry> {
        let (entry, _) = self.head.as_ref()?;
        (entry.offset.0 < self.history_end).then_some(entry)
    }

    /// Whether all its history is in the batch or delivered.
    fn is_caught_up(&self) -> bool {
        match self.head {
            Some(_) => self.history_head().is_none(),
            None => self.ended || self.history_end <= self.position,
        }
    }
}

/// A lane's number, from 0, in the order of [`Merge::positions`].
pub(super) type LaneIndex = usize;

#[derive(Debug)]
pub(super) struct Merge {
    lanes: Vec<Lane>,
    /// Whether `CaughtUp` is still to come.
    in_history: bool,
    batch: Vec<Entry>,
    batch_bytes: usize,
    ready: VecDeque<Delivery>,
}

impl Merge {
    /// Reads each partition from the offset beside it. What is within the extents is history.
    pub(super) fn new(starts: impl IntoIterator<Item = (Extent, u64)>) -> Self {
        let mut merge = Self {
            lanes: Vec::new(),
            in_history: true,
            batch: Vec::new(),
            batch_bytes: 0,
            ready: VecDeque::new(),
        };
        for (extent, position) in starts {
            let index = merge.add_lane(extent.partition, position, extent.next);
            merge.fit(index, extent);
        }
        merge.settle();
        merge
    }

    /// Takes over what the partitions hold now, before they are fed from the positions anew. New partitions are
    /// read from their beginning.
    pub(super) fn survey(&mut self, extents: &[Extent]) {
        for extent in extents {
            let known = self.lanes.iter().position(|lane| lane.partition == extent.partition);
            // It was not there when the subscription was made, so it has no history.
            let index = known.unwrap_or_else(|| self.add_lane(extent.partition, 0, 0));
            self.lanes[index].ended = false;
            self.fit(index, *extent);
        }
        self.settle();
    }

    /// The partitions, and from where each is to be fed.
    pub(super) fn positions(&self) -> impl ExactSizeIterator<Item = (Partition, u64)> + '_ {
        self.lanes.iter().map(|lane| (lane.partition, lane.position))
    }

    /// Where another reader goes on after what was taken out.
    pub(super) fn cursor(&self) -> Cursor {
        let taken_in = |lane: &Lane| match &lane.head {
            Some((entry, _)) => entry.offset,
            None => Offset(lane.position),
        };
        let mut cursor: Cursor =
            self.lanes.iter().map(|lane| (lane.partition, taken_in(lane))).collect();
        let mut reach_back = |partition, offset| {
            if cursor.next_in(partition).is_some_and(|next| offset < next) {
                cursor.set(partition, offset);
            }
        };
        for entry in &self.batch {
            reach_back(entry.partition, entry.offset);
        }
        for delivery in &self.ready {
            match delivery {
                Delivery::Entries(entries) => {
                    for entry in entries {
                        reach_back(entry.partition, entry.offset);
                    }
                }
                Delivery::Skipped { partition, first, .. } => reach_back(*partition, *first),
                Delivery::CaughtUp => {}
            }
        }
        cursor
    }

    /// Whether the lane is to be fed now.
    pub(super) fn wants(&self, index: LaneIndex) -> bool {
        let lane = &self.lanes[index];
        !self.is_full() && lane.head.is_none() && !(self.in_history && lane.is_caught_up())
    }

    /// What stands at `offset` of the lane: an entry of so many bytes, or nothing for this reader. Offsets may be
    /// left out: not every offset has a record. One that was there already is not taken again.
    pub(super) fn handle_record(
        &mut self,
        index: LaneIndex,
        offset: u64,
        entry: Option<(Entry, usize)>,
    ) {
        let lane = &mut self.lanes[index];
        debug_assert!(lane.head.is_none(), "only a lane that wants is fed");
        if offset < lane.position {
            return;
        }
        let gone = lane.position..offset;
        lane.position = offset + 1;
        lane.head = entry;
        if std::mem::take(&mut lane.damaged) && !gone.is_empty() {
            let partition = lane.partition;
            self.push_skipped(partition, gone);
        }
        self.settle();
    }

    /// The lane's next records cannot be read, and are passed over.
    pub(super) fn handle_damage(&mut self, index: LaneIndex) {
        self.lanes[index].damaged = true;
    }

    /// There is nothing more in the lane now.
    pub(super) fn handle_end(&mut self, index: LaneIndex) {
        self.lanes[index].ended = true;
        self.settle();
    }

    /// A delivery that should not wait for more.
    pub(super) fn poll(&mut self) -> Option<Delivery> {
        if self.ready.is_empty() && self.is_full() {
            self.flush();
        }
        let delivery = self.ready.pop_front();
        if delivery.is_some() {
            // There may be room again for what had to wait.
            self.settle();
        }
        delivery
    }

    /// A delivery of whatever there is: nothing comes at the moment.
    pub(super) fn poll_idle(&mut self) -> Option<Delivery> {
        if self.ready.is_empty() {
            self.flush();
        }
        self.poll()
    }

    fn add_lane(&mut self, partition: Partition, position: u64, history_end: u64) -> LaneIndex {
        self.lanes.push(Lane {
            partition,
            position,
            history_end,
            ended: false,
            damaged: false,
            head: None,
        });
        self.lanes.len() - 1
    }

    /// Moves the lane to where there are records, and says what is missing.
    fn fit(&mut self, index: LaneIndex, extent: Extent) {
        let lane = &mut self.lanes[index];
        let gone = if lane.position < extent.first {
            lane.position..extent.first
        } else if extent.next < lane.position {
            // The partition was cut off or made anew: what was there is lost, and what is there is not known.
            extent.next..lane.position
        } else {
            return;
        };
        lane.position = extent.first;
        lane.history_end = lane.history_end.min(extent.next);
        let partition = lane.partition;
        // What was taken in before stands before the gap.
        if let Some(head) = lane.head.take() {
            self.push(head);
        }
        self.push_skipped(partition, gone);
    }

    fn push_skipped(&mut self, partition: Partition, gone: Range<u64>) {
        self.flush();
        let (first, last) = (Offset(gone.start), Offset(gone.end - 1));
        self.ready.push_back(Delivery::Skipped { partition, first, last });
    }

    /// Moves heads to the batch as far as the order is clear.
    fn settle(&mut self) {
        while self.in_history && !self.is_full() {
            let mut waiting = self.lanes.iter().filter(|lane| !lane.is_caught_up());
            if waiting.clone().any(|lane| lane.head.is_none()) {
                return;
            }
            if waiting.next().is_none() {
                self.in_history = false;
                self.flush();
                self.ready.push_back(Delivery::CaughtUp);
                break;
            }
            self.push_oldest(|lane| lane.history_head());
        }
        while !self.in_history && !self.is_full() {
            if !self.push_oldest(|lane| lane.head.as_ref().map(|(entry, _)| entry)) {
                return;
            }
        }
    }

    /// Moves the oldest of the heads that `head` gives to the batch; false when there is none.
    fn push_oldest(&mut self, head: impl Fn(&Lane) -> Option<&Entry>) -> bool {
        let heads = self.lanes.iter().enumerate();
        let heads = heads.filter_map(|(index, lane)| Some((head(lane)?.stored_ms, index)));
        let Some((_, index)) = heads.min() else {
            return false;
        };
        let head = self.lanes[index].head.take();
        head.into_iter().for_each(|head| self.push(head));
        true
    }

    fn push(&mut self, (entry, bytes): (Entry, usize)) {
        self.batch.push(entry);
        self.batch_bytes += bytes;
    }

    fn is_full(&self) -> bool {
        BATCH_ENTRIES_MAX <= self.batch.len() || BATCH_BYTES_MAX <= self.batch_bytes
    }

    fn flush(&mut self) {
        self.batch_bytes = 0;
        if !self.batch.is_empty() {
            self.ready.push_back(Delivery::Entries(std::mem::take(&mut self.batch)));
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use proto::Command;

    use super::*;
    use crate::record::Payload;

    fn extent(partition: u32, first: u64, next: u64) -> Extent {
        Extent { partition: Partition(partition), first, next }
    }

    fn entry(partition: u32, offset: u64, stored_ms: i64) -> Entry {
        Entry {
            partition: Partition(partition),
            offset: Offset(offset),
            stored_ms,
            key: "a".parse().unwrap(),
            payload: Payload::Command(Command::default()),
        }
    }

    fn feed(merge: &mut Merge, lane: LaneIndex, offset: u64, stored_ms: i64) {
        assert!(merge.wants(lane), "lane {lane} at {offset}");
        let partition = merge.lanes[lane].partition.0;
        merge.handle_record(lane, offset, Some((entry(partition, offset, stored_ms), 1)));
    }

    /// A delivery in short: `partition:offset` of entries, `|` for `CaughtUp`, `partition:first-last` for skipped.
    fn text(delivery: Delivery) -> String {
        match delivery {
            Delivery::Entries(entries) => {
                let entries = entries.iter().map(|e| format!("{}:{}", e.partition, e.offset));
                entries.collect::<Vec<_>>().join(" ")
            }
            Delivery::CaughtUp => "|".to_owned(),
            Delivery::Skipped { partition, first, last } => format!("{partition}:{first}-{last}"),
        }
    }

    fn drain(merge: &mut Merge) -> Vec<String> {
        std::iter::from_fn(|| merge.poll_idle()).map(text).collect()
    }

    #[test]
    fn history_comes_in_the_order_of_time() {
        let mut merge = Merge::new([(extent(0, 0, 2), 0), (extent(1, 0, 2), 0)]);
        feed(&mut merge, 0, 0, 10);
        assert_eq!(drain(&mut merge), [""; 0], "the other may have an older one");
        assert!(!merge.wants(0));
        assert_eq!(merge.cursor(), Cursor::from_iter([0, 1].map(|p| (Partition(p), Offset(0)))));
        feed(&mut merge, 1, 0, 5);
        feed(&mut merge, 1, 1, 15);
        feed(&mut merge, 0, 1, 20);
        assert_eq!(merge.cursor(), Cursor::from_iter([0, 1].map(|p| (Partition(p), Offset(0)))));
        assert_eq!(drain(&mut merge), ["1:0 0:0 1:1 0:1", "|"]);
        assert_eq!(merge.cursor(), Cursor::from_iter([0, 1].map(|p| (Partition(p), Offset(2)))));
    }

    #[test]
    fn what_comes_after_the_subscription_comes_after_the_mark() {
        let mut merge = Merge::new([(extent(0, 0, 2), 0), (extent(1, 0, 1), 0)]);
        feed(&mut merge, 0, 0, 1);
        feed(&mut merge, 1, 0, 3);
        assert!(!merge.wants(1), "its history is complete");
        // Offset 1 has no record, so that the next one is not of history.
        feed(&mut merge, 0, 2, 2);
        assert_eq!(drain(&mut merge), ["0:0 1:0", "|", "0:2"]);
    }

    #[test]
    fn nothing_to_read_is_caught_up_at_once() {
        let mut merge = Merge::new([(extent(0, 5, 5), 5), (extent(1, 0, 9), 9)]);
        assert_eq!(drain(&mut merge), ["|"]);
        assert_eq!(drain(&mut Merge::new([])), ["|"]);
    }

    #[test]
    fn offsets_without_a_record_are_no_gap() {
        let mut merge = Merge::new([(extent(0, 0, 10), 0)]);
        feed(&mut merge, 0, 3, 1);
        merge.handle_record(0, 7, None);
        // The last offsets are marks of a transaction, say: no record will ever come for them.
        merge.handle_end(0);
        assert_eq!(drain(&mut merge), ["0:3", "|"]);
        feed(&mut merge, 0, 12, 2);
        assert_eq!(drain(&mut merge), ["0:12"]);
    }

    #[test]
    fn what_retention_removed_is_said() {
        let mut merge = Merge::new([(extent(0, 5, 9), 2)]);
        feed(&mut merge, 0, 5, 1);
        merge.survey(&[extent(0, 20, 25)]);
        assert_eq!(merge.positions().collect::<Vec<_>>(), [(Partition(0), 20)]);
        assert_eq!(drain(&mut merge), ["0:2-4", "0:5", "0:6-19", "|"]);
        feed(&mut merge, 0, 20, 1);
        assert_eq!(drain(&mut merge), ["0:20"]);
    }

    #[test]
    fn what_damage_took_is_said() {
        let mut merge = Merge::new([(extent(0, 0, 9), 0)]);
        feed(&mut merge, 0, 0, 1);
        merge.handle_damage(0);
        feed(&mut merge, 0, 4, 1);
        feed(&mut merge, 0, 6, 1);
        assert_eq!(drain(&mut merge), ["0:0", "0:1-3", "0:4 0:6"]);
    }

    #[test]
    fn a_partition_that_was_cut_off_is_read_from_its_beginning() {
        let mut merge = Merge::new([(extent(0, 0, 3), 8)]);
        assert_eq!(merge.positions().collect::<Vec<_>>(), [(Partition(0), 0)]);
        feed(&mut merge, 0, 0, 1);
        assert_eq!(drain(&mut merge), ["0:3-7", "0:0"]);
        merge.survey(&[extent(0, 0, 0)]);
        assert_eq!(drain(&mut merge), ["0:0-0", "|"]);
    }

    #[test]
    fn a_new_partition_is_read_from_its_beginning_and_is_no_history() {
        let mut merge = Merge::new([(extent(0, 0, 1), 0)]);
        merge.survey(&[extent(0, 0, 1), extent(1, 0, 4)]);
        feed(&mut merge, 0, 0, 1);
        assert_eq!(drain(&mut merge), ["0:0", "|"]);
        feed(&mut merge, 1, 0, 1);
        assert_eq!(drain(&mut merge), ["1:0"]);
    }

    #[test]
    fn a_repeat_is_not_taken_again() {
        let mut merge = Merge::new([(extent(0, 0, 9), 3)]);
        merge.handle_record(0, 2, Some((entry(0, 2, 1), 1)));
        assert_eq!(drain(&mut merge), [""; 0]);
        assert_eq!(merge.positions().collect::<Vec<_>>(), [(Partition(0), 3)]);
    }

    #[test]
    fn deliveries_are_bounded() {
        let count = 3 * BATCH_ENTRIES_MAX as u64;
        let mut merge = Merge::new([(extent(0, 0, count), 0)]);
        let mut sizes = Vec::new();
        for offset in 0..count {
            feed(&mut merge, 0, offset, 1);
            if let Some(Delivery::Entries(entries)) = merge.poll() {
                sizes.push(entries.len());
            }
        }
        assert_eq!(sizes, [BATCH_ENTRIES_MAX; 3]);

        let mut merge = Merge::new([(extent(0, 0, 2), 0)]);
        merge.handle_record(0, 0, Some((entry(0, 0, 1), BATCH_BYTES_MAX)));
        assert!(!merge.wants(0));
        assert!(matches!(merge.poll(), Some(Delivery::Entries(_))));
        assert!(merge.wants(0));
    }

    proptest! {
        /// Whatever the partitions bring and in whatever turns: all comes, in order, history first, `CaughtUp` once.
        #[test]
        fn everything_comes_once_and_in_order(
            times in prop::collection::vec(prop::collection::vec(0..50_i64, 0..30), 1..5),
            cut in 0..30_usize,
            turns in prop::collection::vec((0..5_usize, any::<bool>()), 0..200),
        ) {
            let times: Vec<Vec<i64>> = times.into_iter().map(|mut t| { t.sort_unstable(); t }).collect();
            let ends: Vec<u64> = times.iter().map(|t| t.len().min(cut) as u64).collect();
            let starts = (0_u32..).zip(&ends).map(|(p, end)| (extent(p, 0, *end), 0));
            let mut merge = Merge::new(starts);
            let mut out = Vec::new();
            let order = turns.into_iter().chain((0..2000).map(|n| (n % 5, true)));
            for (lane, idle) in order {
                if lane < times.len() && merge.wants(lane) {
                    let offset = merge.lanes[lane].position;
                    match times[lane].get(usize::try_from(offset).unwrap()) {
                        Some(time) => feed(&mut merge, lane, offset, *time),
                        None => merge.handle_end(lane),
                    }
                }
                out.extend(if idle { merge.poll_idle() } else { merge.poll() });
            }
            out.extend(std::iter::from_fn(|| merge.poll_idle()));

            let marks = out.iter().filter(|d| **d == Delivery::CaughtUp).count();
            prop_assert_eq!(marks, 1);
            let mut next = vec![0; times.len()];
            let (mut history, mut last_ms) = (true, i64::MIN);
            for delivery in out {
                let Delivery::Entries(entries) = delivery else {
                    history = false;
                    continue;
                };
                for entry in entries {
                    let lane = entry.partition.0 as usize;
                    prop_assert_eq!(entry.offset.0, next[lane]);
                    next[lane] += 1;
                    prop_assert_eq!(history, entry.offset.0 < ends[lane]);
                    prop_assert!(!history || last_ms <= entry.stored_ms);
                    last_ms = entry.stored_ms;
                }
            }
            let all: Vec<u64> = times.iter().map(|t| t.len() as u64).collect();
            prop_assert_eq!(next, all);
        }
    }
}
