//! The thread that lets go of what is too old or too much.
//!
//! It searches the new beginning of a topic, makes it durable, tells the readers, and only then removes
//! anything. So a crash at any point leaves records that nobody reads, never a beginning that is not there.

use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError};

use tokio::sync::oneshot;

use super::PerTopic;
use super::layout::Floor;
use super::shared::Shared;
use super::storage::{Extent, Failure, Storage, TopicStore};
use super::writer::Request;
use crate::topic::Topic;

/// An index is rewritten when as many of its entries may be dead as are alive, and at least so many.
const DEAD_ENTRIES_MIN: u64 = 65_536;

/// Looks after all topics, until the sender of `kicks` is gone.
pub(super) fn run(shared: &Shared, kicks: &Receiver<()>) {
    let mut dead_entries = PerTopic::from_fn(|_| 0);
    loop {
        match kicks.recv_timeout(shared.options.retention_interval) {
            Ok(()) | Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => return,
        }
        // While the storage is being opened again there is nothing to do.
        let Some(storage) = shared.slot.storage_now() else {
            continue;
        };
        for topic in Topic::ALL {
            if let Err(failure) = enforce(shared, &storage, topic, dead_entries.get_mut(topic)) {
                tracing::warn!(%failure, %topic, "retention of the embedded bus failed");
                if failure.is_damage()
                    && let Some(requests) = shared.requests.upgrade()
                {
                    let storage = Arc::downgrade(&storage);
                    // Nobody waits for it, and a full queue is tried again at the next look.
                    let (reply, _) = oneshot::channel();
                    requests.try_send(Request::Repair { storage, failure, reply }).ok();
                    break;
                }
            }
        }
    }
}

fn enforce(
    shared: &Shared,
    storage: &Arc<Storage>,
    topic: Topic,
    dead_entries: &mut u64,
) -> Result<(), Failure> {
    let head = shared.heads.get(topic);
    let extent = head.borrow().extent;
    let store = storage.topics.get(topic);
    let Some(floor) = new_floor(shared, store, topic, &extent)? else {
        return Ok(());
    };
    storage.set_floor(topic, &floor)?;
    let mut kept = extent;
    head.send_modify(|head| {
        head.extent.first = floor.first;
        head.extent.first_position = floor.position;
        kept = head.extent;
    });
    tracing::debug!(%topic, first = floor.first, "retention moved the beginning of a topic");

    store.reclaim(&kept)?;
    *dead_entries += floor.first - extent.first;
    if DEAD_ENTRIES_MIN.max(kept.next - kept.first) <= *dead_entries {
        store.compact_index()?;
        *dead_entries = 0;
    }
    Ok(())
}

/// Where the topic should begin; none when it need not change.
fn new_floor(
    shared: &Shared,
    store: &TopicStore,
    topic: Topic,
    extent: &Extent,
) -> Result<Option<Floor>, Failure> {
    let limits = shared.options.retention(topic);
    let age_ms = u64::try_from(limits.age.as_millis()).unwrap_or(u64::MAX);
    let oldest_ms = shared.lived_ms().saturating_sub(age_ms);
    let oldest_position = extent.next_position.saturating_sub(limits.bytes);

    let (first, header) = store.partition_point(extent.first..extent.next, |header| {
        header.lived_ms < oldest_ms || header.position < oldest_position
    })?;
    Ok((extent.first < first).then(|| Floor {
        first,
        position: header.map_or(extent.next_position, |header| header.position),
        stored_ms: extent.stored_ms,
        lived_ms: extent.lived_ms,
        next: extent.next,
    }))
}
