//! Finds where the newest records begin, for `Start::Last`: a walk back through all partitions at once.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use rdkafka::config::FromClientConfigAndContext;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::{KafkaError, KafkaResult, RDKafkaErrorCode};
use rdkafka::{Offset as KafkaOffset, TopicPartitionList};

use super::client::Log;
use super::feed::raw;
use super::form::Raw;
use super::lookup::kafka_partition;
use super::merge::Extent;
use super::options::Options;

/// Offsets of a partition that are read in one go, at first; four times as many with each go, up to the greatest.
const WINDOW_MIN: u64 = 64;
/// Bounds the memory: a record that was found takes 16 bytes.
const WINDOW_MAX: u64 = 65_536;

/// The offset in each partition from which on there are together `count` records that `matches` takes, the newest ones,
/// or all if there are fewer.
///
/// Newest by time, where time does not fall within a partition. Where it does, a record counts as old as the oldest
/// after it, so that each partition contributes its last ones, without holes.
///
/// Blocks. Ends early when `cancelled`.
pub(super) fn starts(
    options: &Options,
    topic: &str,
    extents: &[Extent],
    count: u64,
    matches: impl Fn(&Raw<'_>) -> bool,
    cancelled: &AtomicBool,
) -> KafkaResult<Vec<u64>> {
    let total = extents.iter().map(|extent| extent.next - extent.first).sum();
    if count == 0 {
        return Ok(extents.iter().map(|extent| extent.next).collect());
    }
    if count >= total {
        return Ok(extents.iter().map(|extent| extent.first).collect());
    }

    let config = options.reader(u32::try_from(extents.len()).unwrap_or(u32::MAX));
    let consumer = BaseConsumer::from_config_and_context(&config, Log::default())?;
    let mut scout = Scout { consumer, topic, patience: options.request_timeout };
    let mut walks: Vec<Walk> = extents.iter().map(|extent| Walk::new(*extent)).collect();
    let mut left = count;
    while 0 < left {
        if walks.iter().any(Walk::needs_window) {
            scout.read(&mut walks, &matches, cancelled)?;
            continue;
        }
        let newest = walks.iter_mut().filter(|walk| !walk.found.is_empty());
        let Some(walk) = newest.max_by_key(|walk| walk.found.last().map(|found| found.0)) else {
            break;
        };
        walk.take();
        left -= 1;
    }
    Ok(walks.iter().map(|walk| walk.start).collect())
}

/// How far the walk has come in one partition.
#[derive(Debug)]
struct Walk {
    extent: Extent,
    /// All from here on was read.
    read_from: u64,
    window: u64,
    /// Time and offset of matching records that were read and not taken, in offset order.
    found: Vec<(i64, u64)>,
    /// The offset of the last one taken.
    start: u64,
}

impl Walk {
    const fn new(extent: Extent) -> Self {
        let (read_from, start) = (extent.next, extent.next);
        Self { extent, read_from, window: WINDOW_MIN, found: Vec::new(), start }
    }

    const fn needs_window(&self) -> bool {
        self.found.is_empty() && self.extent.first < self.read_from
    }

    /// Takes over what matches in the window before `read_from`.
    fn handle_window(&mut self, from: u64, found: Vec<(i64, u64)>) {
        self.read_from = from;
        self.window = (self.window * 4).min(WINDOW_MAX);
        self.found = found;
        let mut least = i64::MAX;
        for (time, _) in self.found.iter_mut().rev() {
            least = least.min(*time);
            *time = least;
        }
    }

    fn take(&mut self) {
        if let Some((_, offset)) = self.found.pop() {
            self.start = offset;
        }
    }
}

/// The offset to read at was removed in between.
const OFFSET_GONE: Option<RDKafkaErrorCode> = Some(RDKafkaErrorCode::AutoOffsetReset);

/// Reads windows.
struct Scout<'a> {
    consumer: BaseConsumer<Log>,
    topic: &'a str,
    /// How long to wait for a message.
    patience: Duration,
}

impl Scout<'_> {
    /// Reads the window of each walk that needs one.
    fn read(
        &mut self,
        walks: &mut [Walk],
        matches: &impl Fn(&Raw<'_>) -> bool,
        cancelled: &AtomicBool,
    ) -> KafkaResult<()> {
        /// So often it is looked whether anybody still waits for the answer.
        const POLL: Duration = Duration::from_millis(100);

        let mut windows: Vec<Window<'_>> =
            walks.iter_mut().filter(|walk| walk.needs_window()).map(Window::new).collect();
        let mut assignment = TopicPartitionList::with_capacity(windows.len());
        for window in &windows {
            let partition = kafka_partition(window.walk.extent.partition);
            let from = KafkaOffset::Offset(i64::try_from(window.from).unwrap_or(i64::MAX));
            assignment.add_partition_offset(self.topic, partition, from)?;
        }
        self.consumer.assign(&assignment)?;

        let mut heard_at = Instant::now();
        while windows.iter().any(|window| !window.complete) {
            if cancelled.load(Ordering::Relaxed) {
                return Err(KafkaError::Canceled);
            }
            match self.consumer.poll(POLL) {
                None if self.patience < heard_at.elapsed() => {
                    return Err(KafkaError::NoMessageReceived);
                }
                None => continue,
                Some(Ok(message)) => {
                    let raw = raw(&message);
                    let partition = raw.partition;
                    let window = windows.iter_mut().find(|w| w.walk.extent.partition == partition);
                    window.into_iter().for_each(|window| window.handle(&raw, matches));
                }
                Some(Err(KafkaError::PartitionEOF(partition))) => {
                    let ended = windows
                        .iter_mut()
                        .find(|w| kafka_partition(w.walk.extent.partition) == partition);
                    ended.into_iter().for_each(|window| window.complete = true);
                }
                // Trouble with a broker is waited for, as long as there is patience.
                Some(Err(error)) if error.rdkafka_error_code() == OFFSET_GONE => return Err(error),
                Some(Err(_)) => continue,
            }
            heard_at = Instant::now();
        }
        windows.into_iter().for_each(Window::finish);
        Ok(())
    }
}

struct Window<'a> {
    walk: &'a mut Walk,
    from: u64,
    found: Vec<(i64, u64)>,
    complete: bool,
}

impl<'a> Window<'a> {
    fn new(walk: &'a mut Walk) -> Self {
        let from = walk.read_from.saturating_sub(walk.window).max(walk.extent.first);
        Self { walk, from, found: Vec::new(), complete: false }
    }

    fn handle(&mut self, raw: &Raw<'_>, matches: &impl Fn(&Raw<'_>) -> bool) {
        let offset = raw.offset.0;
        if self.complete || offset < self.from {
            return;
        }
        if offset < self.walk.read_from && matches(raw) {
            self.found.push((raw.stored_ms, offset));
        }
        self.complete = self.walk.read_from <= offset + 1;
    }

    fn finish(self) {
        self.walk.handle_window(self.from, self.found);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::contract::Partition;

    #[test]
    fn a_clock_that_steps_back_makes_no_holes() {
        let extent = Extent { partition: Partition(0), first: 0, next: 4 };
        let mut walk = Walk::new(extent);
        walk.handle_window(0, vec![(10, 0), (90, 1), (30, 2), (40, 3)]);
        assert_eq!(walk.found, [(10, 0), (30, 1), (30, 2), (40, 3)]);
        walk.take();
        walk.take();
        assert_eq!(walk.start, 2);
        assert!(!walk.needs_window());
    }
}
