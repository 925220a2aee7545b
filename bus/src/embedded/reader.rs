//! Reading a topic: where to begin, one bounded chunk after the other, and waiting for more.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};
use std::ops::Range;
use std::sync::Arc;

use async_trait::async_trait;
use fjall::Iter;
use tokio::sync::watch;

use super::layout;
use super::read;
use super::shared::{Head, Shared};
use super::storage::{Extent, Failure, Storage, TopicStore, log_range};
use crate::contract::{BusError, Cursor, Delivery, Entry, Offset, Selection, Start, Subscription};
use crate::embedded::PARTITION;
use crate::topic::Topic;

/// A chunk ends when it has delivered so many entries, ...
const CHUNK_ENTRIES_MAX: usize = 256;

/// ... or looked at so many bytes of records, wanted or not.
const CHUNK_BYTES_MAX: usize = 256 * 1024;

/// Looking up one key costs about as much as passing over so many records. So a range that has fewer of them
/// per selected key is passed over, which is how a reader at the end of a topic sees the little that is new,
/// and a longer one is merged from the index.
const RECORDS_PER_LOOKUP: u64 = 16;

/// A reader of one topic.
#[derive(Debug)]
pub(super) struct Reader {
    shared: Arc<Shared>,
    topic: Topic,
    selection: Arc<Selection>,
    head: watch::Receiver<Head>,
    /// Everything below has been delivered or was not wanted.
    position: u64,
    /// Where the topic ended when this reader was made, until it has said that it came there.
    caught_up_at: Option<u64>,
    /// What was read already.
    pending: VecDeque<Delivery>,
}

impl Reader {
    pub(super) async fn open(
        shared: Arc<Shared>,
        topic: Topic,
        start: Start,
        selection: Selection,
    ) -> Result<Self, BusError> {
        let mut head = shared.heads.get(topic).subscribe();
        let Head { extent, closed } = *head.borrow_and_update();
        if closed {
            return Err(BusError::Closed);
        }
        let selection = Arc::new(selection);
        let position = read(&shared, {
            let selection = Arc::clone(&selection);
            move |storage| Ok(find_start(storage.topics.get(topic), &extent, &start, &selection)?)
        })
        .await?;
        Ok(Self {
            shared,
            topic,
            selection,
            head,
            position,
            caught_up_at: Some(extent.next),
            pending: VecDeque::new(),
        })
    }

    /// Takes over what was read. `first` is where the topic begins after the reading.
    fn accept(&mut self, chunk: Chunk, first: u64) {
        if self.position < first {
            // Retention came in between: what is below may have been read in part.
            self.pending.push_back(skipped(self.position..first));
        }
        for delivery in chunk.deliveries {
            match delivery {
                Delivery::Entries(mut entries) => {
                    entries.retain(|entry| first <= entry.offset.0);
                    if !entries.is_empty() {
                        self.pending.push_back(Delivery::Entries(entries));
                    }
                }
                Delivery::Skipped { last, .. } if last.0 < first => {}
                delivery @ (Delivery::Skipped { .. } | Delivery::CaughtUp) => {
                    self.pending.push_back(delivery);
                }
            }
        }
        self.position = chunk.end.max(first);
    }
}

#[async_trait]
impl Subscription for Reader {
    async fn next(&mut self) -> Result<Delivery, BusError> {
        loop {
            if let Some(delivery) = self.pending.pop_front() {
                return Ok(delivery);
            }
            let Head { extent, closed } = *self.head.borrow_and_update();
            if closed {
                return Err(BusError::Closed);
            }
            if self.position < extent.first {
                let gone = self.position..extent.first;
                self.position = extent.first;
                return Ok(skipped(gone));
            }
            if self.caught_up_at.is_some_and(|end| end <= self.position) {
                self.caught_up_at = None;
                return Ok(Delivery::CaughtUp);
            }
            let end = self.caught_up_at.unwrap_or(extent.next);
            if end <= self.position {
                self.head.changed().await.map_err(|_| BusError::Closed)?;
                continue;
            }

            let chunk = read(&self.shared, {
                let (topic, selection) = (self.topic, Arc::clone(&self.selection));
                let offsets = self.position..end;
                move |storage| Ok(read_chunk(storage, topic, &selection, offsets.clone())?)
            })
            .await?;
            // Nothing waits from here on, so a cancelled call has taken nothing over.
            let first = self.head.borrow().extent.first;
            self.accept(chunk, first);
        }
    }

    fn cursor(&self) -> Cursor {
        // What was read and not delivered yet is to be read again.
        let undelivered = self.pending.iter().find_map(|delivery| match delivery {
            Delivery::Entries(entries) => entries.first().map(|entry| entry.offset),
            Delivery::Skipped { first, .. } => Some(*first),
            Delivery::CaughtUp => None,
        });
        Cursor::from_iter([(PARTITION, undelivered.unwrap_or(Offset(self.position)))])
    }
}

fn skipped(offsets: Range<u64>) -> Delivery {
    let (first, last) = (Offset(offsets.start), Offset(offsets.end - 1));
    Delivery::Skipped { partition: PARTITION, first, last }
}

fn find_start(
    store: &TopicStore,
    extent: &Extent,
    start: &Start,
    selection: &Selection,
) -> Result<u64, Failure> {
    let kept = extent.first..extent.next;
    match (start, selection) {
        (Start::Oldest, _) => Ok(kept.start),
        // There never was an offset 0, so it is not skipped either.
        (Start::At(cursor), _) => Ok(cursor.next_in(PARTITION).map_or(1, |next| next.0.max(1))),
        (Start::Tail, _) => Ok(kept.end),
        (Start::Time(unix_ms), _) => {
            let earlier = |header: &layout::Header| header.stored_ms < *unix_ms;
            Ok(store.partition_point(kept, earlier)?.0)
        }
        (Start::Last(count), Selection::All) => Ok(kept.end.saturating_sub(*count).max(kept.start)),
        (Start::Last(count), Selection::Keys(_)) => {
            let mut newest = IndexMerge::newest_first(store, selection, kept.clone())?;
            let mut position = kept.end;
            for _ in 0..*count {
                match newest.next()? {
                    Some(Reverse(offset)) => position = offset,
                    None => break,
                }
            }
            Ok(position)
        }
    }
}

/// What one visit to the storage found.
#[derive(Debug)]
struct Chunk {
    /// Entries, and what is missing between them.
    deliveries: Vec<Delivery>,
    /// Where the next chunk begins.
    end: u64,
}

/// Collects a chunk in rising offset order.
#[derive(Debug)]
struct ChunkBuilder {
    deliveries: Vec<Delivery>,
    entries: Vec<Entry>,
    entry_count: usize,
    bytes: usize,
}

impl ChunkBuilder {
    const fn new() -> Self {
        Self { deliveries: Vec::new(), entries: Vec::new(), entry_count: 0, bytes: 0 }
    }

    fn is_full(&self) -> bool {
        CHUNK_ENTRIES_MAX <= self.entry_count || CHUNK_BYTES_MAX <= self.bytes
    }

    fn push(&mut self, topic: Topic, selection: &Selection, offset: u64, value: &[u8]) {
        self.bytes += value.len();
        match layout::read_entry(topic, offset, value) {
            Ok(entry) if selection.contains(&entry.key) => {
                self.entry_count += 1;
                self.entries.push(entry);
            }
            Ok(_) => {}
            Err(error) => {
                tracing::error!(%topic, offset, %error, "a record cannot be read");
                self.push_missing(offset..offset + 1);
            }
        }
    }

    fn push_missing(&mut self, offsets: Range<u64>) {
        if offsets.is_empty() {
            return;
        }
        self.flush();
        self.deliveries.push(skipped(offsets));
    }

    fn flush(&mut self) {
        if !self.entries.is_empty() {
            let entries = std::mem::take(&mut self.entries);
            self.deliveries.push(Delivery::Entries(entries));
        }
    }

    fn finish(mut self, end: u64) -> Chunk {
        self.flush();
        Chunk { deliveries: self.deliveries, end }
    }
}

fn read_chunk(
    storage: &Storage,
    topic: Topic,
    selection: &Selection,
    offsets: Range<u64>,
) -> Result<Chunk, Failure> {
    let store = storage.topics.get(topic);
    match selection {
        Selection::Keys(keys) if keys.is_empty() => Ok(ChunkBuilder::new().finish(offsets.end)),
        Selection::Keys(keys)
            if RECORDS_PER_LOOKUP.saturating_mul(keys.len() as u64)
                < offsets.end - offsets.start =>
        {
            read_index(store, topic, selection, offsets)
        }
        Selection::Keys(_) | Selection::All => read_log(store, topic, selection, offsets),
    }
}

/// Reads on in the log, and leaves out what is not selected.
fn read_log(
    store: &TopicStore,
    topic: Topic,
    selection: &Selection,
    offsets: Range<u64>,
) -> Result<Chunk, Failure> {
    let mut chunk = ChunkBuilder::new();
    let mut expected = offsets.start;
    for record in store.log.range(log_range(offsets.clone())) {
        if chunk.is_full() {
            return Ok(chunk.finish(expected));
        }
        let (key, value) = record.into_inner()?;
        let offset = layout::offset_of(&key)?;
        // Offsets are consecutive: what is not there was removed, or lost to damage.
        chunk.push_missing(expected..offset);
        chunk.push(topic, selection, offset, &value);
        expected = offset + 1;
    }
    chunk.push_missing(expected..offsets.end);
    Ok(chunk.finish(offsets.end))
}

/// Reads the records that the index names.
fn read_index(
    store: &TopicStore,
    topic: Topic,
    selection: &Selection,
    offsets: Range<u64>,
) -> Result<Chunk, Failure> {
    let mut chunk = ChunkBuilder::new();
    let mut named = IndexMerge::oldest_first(store, selection, offsets.clone())?;
    let mut end = offsets.start;
    while let Some(offset) = named.next()? {
        if chunk.is_full() {
            return Ok(chunk.finish(end));
        }
        match store.log.get(layout::log_key(offset))? {
            Some(value) => chunk.push(topic, selection, offset, &value),
            None => chunk.push_missing(offset..offset + 1),
        }
        end = offset + 1;
    }
    Ok(chunk.finish(offsets.end))
}

/// The offsets of several keys, merged from the range of each in the index.
///
/// `O` is the order in which they come: `u64` for the oldest first, `Reverse<u64>` for the newest.
struct IndexMerge<O> {
    ranges: Vec<IndexRange<O>>,
    /// The next offset of each range that has one; the greatest stands on top.
    heads: BinaryHeap<(Reverse<O>, usize)>,
}

type IndexRange<O> = Box<dyn Iterator<Item = Result<O, Failure>>>;

impl IndexMerge<u64> {
    fn oldest_first(
        store: &TopicStore,
        selection: &Selection,
        offsets: Range<u64>,
    ) -> Result<Self, Failure> {
        Self::new(index_ranges(store, selection, offsets).map(|range| {
            let offsets = range.map(|entry| Ok(layout::offset_of(&entry.key()?)?));
            Box::new(offsets) as IndexRange<u64>
        }))
    }
}

impl IndexMerge<Reverse<u64>> {
    fn newest_first(
        store: &TopicStore,
        selection: &Selection,
        offsets: Range<u64>,
    ) -> Result<Self, Failure> {
        Self::new(index_ranges(store, selection, offsets).map(|range| {
            let offsets = range.rev().map(|entry| Ok(Reverse(layout::offset_of(&entry.key()?)?)));
            Box::new(offsets) as IndexRange<Reverse<u64>>
        }))
    }
}

impl<O: Ord> IndexMerge<O> {
    fn new(ranges: impl Iterator<Item = IndexRange<O>>) -> Result<Self, Failure> {
        let mut merge = Self { ranges: ranges.collect(), heads: BinaryHeap::new() };
        for index in 0..merge.ranges.len() {
            merge.advance(index)?;
        }
        Ok(merge)
    }

    fn next(&mut self) -> Result<Option<O>, Failure> {
        let Some((Reverse(offset), index)) = self.heads.pop() else {
            return Ok(None);
        };
        self.advance(index)?;
        Ok(Some(offset))
    }

    fn advance(&mut self, index: usize) -> Result<(), Failure> {
        if let Some(offset) = self.ranges[index].next().transpose()? {
            self.heads.push((Reverse(offset), index));
        }
        Ok(())
    }
}

fn index_ranges(
    store: &TopicStore,
    selection: &Selection,
    offsets: Range<u64>,
) -> impl Iterator<Item = Iter> {
    let keys = match selection {
        Selection::All => None,
        Selection::Keys(keys) => Some(keys),
    };
    keys.into_iter().flatten().map(move |key| {
        let start = layout::index_key(key, offsets.start);
        store.index.range(start..layout::index_key(key, offsets.end))
    })
}
