//! Finds the offsets at which a subscription begins.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use super::form::Raw;
use super::last;
use super::merge::Extent;
use super::survey::Scope;
use super::{Shared, aside, unavailable};
use crate::contract::{BusError, Partition, Start};

/// What each partition of the scope holds, and where in it to begin.
pub(super) async fn find_starts(
    shared: &Arc<Shared>,
    scope: &Arc<Scope>,
    start: Start,
) -> Result<Vec<(Extent, u64)>, BusError> {
    let cancelled = CancelOnDrop::default();
    let work = {
        let (shared, scope) = (Arc::clone(shared), Arc::clone(scope));
        let cancelled = Arc::clone(&cancelled.0);
        move || find(&shared, &scope, &start, &cancelled)
    };
    aside(work).await.map_err(unavailable)?
}

/// Tells work that may take long that nobody waits for it any more.
#[derive(Debug, Default)]
struct CancelOnDrop(Arc<AtomicBool>);

impl Drop for CancelOnDrop {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

fn find(
    shared: &Shared,
    scope: &Scope,
    start: &Start,
    cancelled: &AtomicBool,
) -> Result<Vec<(Extent, u64)>, BusError> {
    let extents = scope.extents(shared).map_err(unavailable)?;
    let topic = scope.topic_name.as_str();
    let starts: Vec<u64> = match start {
        Start::Oldest => extents.iter().map(|extent| extent.first).collect(),
        Start::Tail => extents.iter().map(|extent| extent.next).collect(),
        // A partition that the cursor does not know is read from its first offset ever.
        Start::At(cursor) => extents
            .iter()
            .map(|extent| cursor.next_in(extent.partition).map_or(0, |next| next.0))
            .collect(),
        Start::Time(unix_ms) => {
            let partitions: Vec<Partition> = extents.iter().map(|e| e.partition).collect();
            let found = shared.lookup.offsets_at(topic, &partitions, *unix_ms);
            let found = found.map_err(unavailable)?.into_iter().zip(&extents);
            // What came after the extents were asked for is not history, and is not left out either.
            found.map(|(offset, e)| offset.map_or(e.next, |at| at.clamp(e.first, e.next))).collect()
        }
        Start::Last(count) => {
            let bytes_max = shared.options.record_bytes_max;
            let matches = |raw: &Raw<'_>| matches!(scope.read(raw, bytes_max), Some(Ok(_)));
            last::starts(&shared.options, topic, &extents, *count, matches, cancelled)
                .map_err(unavailable)?
        }
    };
    Ok(extents.into_iter().zip(starts).collect())
}
