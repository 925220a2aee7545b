//! The one thread that writes: it makes groups of what is queued, makes each group durable at once, and only
//! then answers the publishers and moves the heads that readers wait on.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc::SyncSender;
use std::sync::{Arc, Weak};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use tokio::sync::{OwnedSemaphorePermit, mpsc, oneshot};

use super::PerTopic;
use super::check::Scope;
use super::directory::{Directory, OpenError};
use super::documents::{self, Change};
use super::layout::{self, Draft, Header};
use super::mark::MarkFile;
use super::opening::{self, Journal, Opened};
use super::options::Options;
use super::shared::Shared;
use super::storage::{Extent, Failure, Storage};
use crate::documents::{Document, DocumentError, Revision};
use crate::topic::Topic;

/// A group is closed when it has this size. Larger ones gain nothing: the sync is a small part already.
const GROUP_BYTES_MAX: u64 = 1024 * 1024;

/// After a failure, the storage is opened again at most this often.
const RETRY_INTERVAL: Duration = Duration::from_millis(250);

/// So much space must be free before it is: enough to write out a few buffers.
const PROBE_BYTES: usize = 4 * 1024 * 1024;

/// A failure so soon after the storage was opened again is likely to have the same cause.
const FAILED_AGAIN: Duration = Duration::from_secs(60);

/// How long the readers of a storage may take to finish their chunk.
const RELEASE_WAIT_MAX: Duration = Duration::from_secs(10);

/// What can be asked of the writer.
#[derive(Debug)]
pub(super) enum Request {
    Append(Append),
    Change(Change, oneshot::Sender<Result<Document, DocumentError>>),
    /// A read met damage in this storage: rebuild it, unless that was done already.
    Repair {
        storage: Weak<Storage>,
        failure: Failure,
        reply: oneshot::Sender<Result<(), Failure>>,
    },
    /// Show that the writer is alive.
    Answer(oneshot::Sender<()>),
    /// Finish what is queued, then end.
    Close,
}

/// Records to be stored together.
#[derive(Debug)]
pub(super) struct Append {
    pub(super) drafts: Vec<Draft>,
    pub(super) reply: oneshot::Sender<Result<(), Failure>>,
    /// Their share of the queue, given back when they are answered.
    pub(super) permit: OwnedSemaphorePermit,
}

#[derive(Debug)]
pub(super) struct Writer {
    pub(super) shared: Arc<Shared>,
    pub(super) queue: mpsc::Receiver<Request>,
    /// Wakes the retention thread early. It ends when this is dropped.
    pub(super) retention_kick: SyncSender<()>,
    pub(super) retention: JoinHandle<()>,
    pub(super) directory: Directory,
    pub(super) mark: MarkFile,
    pub(super) health: Health,
    /// When the storage was last opened again after a failure.
    pub(super) reopened_at: Option<Instant>,
}

#[derive(Debug)]
pub(super) enum Health {
    Well,
    /// The storage refuses to write since this failure.
    Failed {
        failure: Failure,
        retry_at: Instant,
        /// The storage that failed, while somebody still reads from it.
        retired: Option<Arc<Storage>>,
    },
}

impl Writer {
    /// Works until it is told to close, or nobody is left who could ask for something.
    pub(super) fn run(mut self) {
        if catch_unwind(AssertUnwindSafe(|| self.serve())).is_err() {
            tracing::error!("the writer of the embedded bus panicked; the bus closes");
        }
        self.shut_down();
    }

    fn serve(&mut self) {
        let mut deferred = None;
        while let Some(request) = deferred.take().or_else(|| self.queue.blocking_recv()) {
            match request {
                Request::Append(append) => deferred = self.append_group(append),
                Request::Change(change, reply) => {
                    let result = self.change(&change);
                    // A caller that went away needs no answer.
                    reply.send(result).ok();
                }
                Request::Repair { storage, failure, reply } => {
                    // A reader that went away needs no answer.
                    reply.send(self.repair(&storage, failure)).ok();
                }
                // Whoever asked may have gone.
                Request::Answer(reply) => drop(reply.send(())),
                // What came before this is still served: the queue ends when it is empty.
                Request::Close => self.queue.close(),
            }
        }
    }

    /// Stores `first` and what else is queued. Returns a request that was taken from the queue and is none to
    /// append.
    fn append_group(&mut self, first: Append) -> Option<Request> {
        let mut bytes = group_bytes(&first);
        let mut group = vec![first];
        let mut deferred = None;
        while bytes < GROUP_BYTES_MAX && deferred.is_none() {
            match self.queue.try_recv() {
                Ok(Request::Append(append)) => {
                    bytes += group_bytes(&append);
                    group.push(append);
                }
                Ok(other) => deferred = Some(other),
                Err(_) => break,
            }
        }

        let drafts =
            group.iter_mut().flat_map(|append| std::mem::take(&mut append.drafts)).collect();
        let result = self.append(drafts);
        for append in group {
            // A publisher that was cancelled needs no answer.
            append.reply.send(result.clone()).ok();
            drop(append.permit);
        }
        deferred
    }

    fn append(&mut self, drafts: Vec<Draft>) -> Result<(), Failure> {
        let storage = self.storage()?;
        let mut extents = PerTopic::from_fn(|topic| self.shared.heads.get(topic).borrow().extent);
        let now_ms = self.shared.options.clock.unix_ms();
        let lived_ms = self.shared.lived_ms();

        let stored = self.checked(|| {
            storage.wait_for_room()?;
            let mut batch = storage.batch(2 * drafts.len());
            for draft in drafts {
                let store = storage.topics.get(draft.topic);
                let extent = extents.get_mut(draft.topic);
                let offset = extent.next;
                extent.stored_ms = extent.stored_ms.max(now_ms);
                extent.lived_ms = extent.lived_ms.max(lived_ms);
                let header = Header {
                    stored_ms: extent.stored_ms,
                    position: extent.next_position,
                    lived_ms: extent.lived_ms,
                };
                extent.next += 1;
                extent.next_position += draft.cost_bytes();
                let (key, identity) = draft.index_entry(offset);
                batch.insert(&store.index, key, identity);
                batch.insert(&store.log, layout::log_key(offset), draft.into_value(offset, header));
            }
            Ok(batch.commit()?)
        });
        if let Err(failure) = stored {
            self.fail(&failure);
            return Err(failure);
        }

        for topic in Topic::ALL {
            self.announce(topic, extents.get(topic));
        }
        self.after_commit(&storage, None);
        Ok(())
    }

    fn change(&mut self, change: &Change) -> Result<Document, DocumentError> {
        let storage = self.storage()?;
        let now_ms = self.shared.options.clock.unix_ms();
        let applied = self.checked(|| {
            storage.wait_for_room()?;
            documents::apply(&storage, change, now_ms)
        });
        match applied {
            Ok(outcome) => {
                let revision = outcome.as_ref().ok().map(|document| document.revision);
                self.after_commit(&storage, revision);
                let document = outcome?;
                // Nobody may be watching.
                self.shared.changed_keys.send(document.key.clone()).ok();
                Ok(document)
            }
            Err(failure) => {
                self.fail(&failure);
                Err(failure.into())
            }
        }
    }

    /// Runs `work`, unless a test wants a failure.
    fn checked<T>(&self, work: impl FnOnce() -> Result<T, Failure>) -> Result<T, Failure> {
        #[cfg(test)]
        if self.shared.options.fault.load(std::sync::atomic::Ordering::SeqCst) {
            return Err(Failure::new("a fault was asked for"));
        }
        work()
    }

    fn announce(&self, topic: Topic, written: &Extent) {
        let mut over_bytes = false;
        self.shared.heads.get(topic).send_if_modified(|head| {
            if head.extent.next == written.next {
                return false;
            }
            // The beginning is not ours: retention may have moved it since we looked.
            head.extent = Extent {
                first: head.extent.first,
                first_position: head.extent.first_position,
                ..*written
            };
            let kept = self.shared.options.retention(topic).bytes;
            over_bytes = kept.saturating_add(kept / 16) < head.extent.bytes();
            true
        });
        if over_bytes {
            // Full means that it is awake, and a thread that ended has logged why.
            self.retention_kick.try_send(()).ok();
        }
    }

    /// Housekeeping that the publishers' answers do not depend on.
    fn after_commit(&mut self, storage: &Storage, revision: Option<Revision>) {
        let ends = PerTopic::from_fn(|topic| {
            let extent = self.shared.heads.get(topic).borrow().extent;
            (extent.first, extent.next)
        });
        if let Err(error) = self.mark.advance(&ends, revision) {
            // It is behind then, which only means that some damage would not be noticed.
            tracing::warn!(%error, "the durable mark of the embedded bus cannot be written");
        }
        if let Err(failure) = storage.seal_full_buffers() {
            self.fail(&failure);
        }
    }

    fn fail(&mut self, failure: &Failure) {
        tracing::warn!(%failure, "the embedded bus cannot store");
        self.health =
            Health::Failed { failure: failure.clone(), retry_at: Instant::now(), retired: None };
    }

    /// The storage. After a failure it is opened anew: the library refuses all writes then, since it cannot
    /// know what reached the disk, and reading its journal again is how to find out.
    fn storage(&mut self) -> Result<Arc<Storage>, Failure> {
        match std::mem::replace(&mut self.health, Health::Well) {
            Health::Well => {}
            Health::Failed { failure, retry_at, retired } if Instant::now() < retry_at => {
                self.health = Health::Failed { failure: failure.clone(), retry_at, retired };
                return Err(failure);
            }
            Health::Failed { failure, retry_at: _, mut retired } => {
                if let Err(failure) = self.reopen(failure, &mut retired) {
                    self.health = Health::Failed {
                        failure: failure.clone(),
                        retry_at: Instant::now() + RETRY_INTERVAL,
                        retired,
                    };
                    return Err(failure);
                }
                tracing::info!("the embedded bus can store again");
                self.reopened_at = Some(Instant::now());
            }
        }
        self.shared.slot.storage_now().ok_or_else(|| Failure::new("the storage is not open"))
    }

    fn reopen(
        &mut self,
        failure: Failure,
        retired: &mut Option<Arc<Storage>>,
    ) -> Result<(), Failure> {
        // While there is no space, the old storage stays where it is: it can still be read.
        self.directory.probe_space(PROBE_BYTES).map_err(Failure::new)?;
        // The library's worker does not say why it died. When opening again did not help, damage that it met in a table is
        // likely, and would be met again.
        let failed_again = self.reopened_at.is_some_and(|at| at.elapsed() < FAILED_AGAIN);
        let scope = if failed_again { Scope::Thorough } else { Scope::Quick };
        self.replace(failure, retired, |directory, options| {
            opening::open(directory, options, scope, Journal::Fresh)
        })
    }

    /// Rebuilds the storage if it is still the one in which damage was met.
    fn repair(&mut self, met_in: &Weak<Storage>, failure: Failure) -> Result<(), Failure> {
        let current = self.shared.slot.storage_now();
        if current.is_none_or(|current| !Weak::ptr_eq(met_in, &Arc::downgrade(&current))) {
            // Another one is there, or will be when this one has recovered.
            return Ok(());
        }
        tracing::error!(%failure, "a read of the embedded bus met damage; rebuilding it from what can be read");
        let mut retired = None;
        let repaired = self.replace(failure, &mut retired, opening::rebuild);
        self.health = match &repaired {
            Ok(()) => Health::Well,
            Err(failure) => Health::Failed {
                failure: failure.clone(),
                retry_at: Instant::now() + RETRY_INTERVAL,
                retired,
            },
        };
        repaired
    }

    /// Takes the storage away from its users and gives them the one that `open` makes in its place.
    fn replace(
        &mut self,
        failure: Failure,
        retired: &mut Option<Arc<Storage>>,
        open: impl FnOnce(&Directory, &Options) -> Result<Opened, OpenError>,
    ) -> Result<(), Failure> {
        if let Some(storage) = self.shared.slot.fail(failure) {
            *retired = Some(storage);
        }
        if let Some(storage) = retired.take() {
            release(storage).map_err(|storage| {
                *retired = Some(storage);
                Failure::new("readers do not let go of the failed storage")
            })?;
        }
        self.mark.sync().map_err(Failure::new)?;
        let Opened { storage, mark, extents } =
            open(&self.directory, &self.shared.options).map_err(Failure::new)?;
        self.mark = mark;
        for topic in Topic::ALL {
            let found = extents.get(topic);
            self.shared.heads.get(topic).send_modify(|head| {
                // Records that could not be acknowledged may have been stored. Of those announced, damage may have taken
                // some: their offsets are not given again.
                head.extent.next = head.extent.next.max(found.next);
                head.extent.next_position = head.extent.next_position.max(found.next_position);
                head.extent.stored_ms = head.extent.stored_ms.max(found.stored_ms);
                head.extent.lived_ms = head.extent.lived_ms.max(found.lived_ms);
            });
        }
        self.shared.slot.open(storage);
        Ok(())
    }

    fn shut_down(mut self) {
        drop(self.retention_kick);
        if self.retention.join().is_err() {
            tracing::error!("the retention thread of the embedded bus panicked");
        }
        if let Some(storage) = self.shared.slot.close() {
            if let Err(error) = storage.database.persist(fjall::PersistMode::SyncAll) {
                // Whatever was acknowledged is on disk already.
                tracing::warn!(%error, "the embedded bus did not close cleanly");
            }
            if let Err(error) = self.mark.sync() {
                tracing::warn!(%error, "the durable mark of the embedded bus cannot be written");
            }
            if release(storage).is_err() {
                tracing::warn!("a reader still holds the storage of the closed embedded bus");
            }
        }
        drop(self.health);
        drop(self.directory);
        for topic in Topic::ALL {
            self.shared.heads.get(topic).send_modify(|head| head.closed = true);
        }
    }
}

fn group_bytes(append: &Append) -> u64 {
    append.drafts.iter().map(Draft::cost_bytes).sum()
}

/// Closes a storage when its readers are done with it; gives it back when that takes too long.
fn release(mut storage: Arc<Storage>) -> Result<(), Arc<Storage>> {
    let deadline = Instant::now() + RELEASE_WAIT_MAX;
    loop {
        match Arc::try_unwrap(storage) {
            Ok(storage) => {
                drop(storage);
                return Ok(());
            }
            Err(shared) if deadline <= Instant::now() => return Err(shared),
            Err(shared) => storage = shared,
        }
        std::thread::sleep(Duration::from_millis(1));
    }
}
