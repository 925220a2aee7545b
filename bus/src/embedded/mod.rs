//! The embedded bus: durable topics and documents in one directory, with nothing to install.
//!
//! [`Database::open`] takes the directory; [`Database::bus`] and [`Database::documents`] are its two sides.
//!
//! One thread writes (`writer`): it takes what is queued, stores it as one batch, syncs once, and then answers
//! the publishers and moves the heads that readers wait on. Readers (`reader`) fetch bounded chunks on tokio's
//! blocking threads, for a read may wait for the disk. A second thread enforces retention (`retention`). The
//! bytes are described in `layout`, the storage library is tuned in `storage`; why it is the one it is says
//! `docs/decisions/0001-embedded-storage.md`.
//!
//! Damage is survived: what the library would trust is checked before it opens (`check`), a durable mark of our own tells
//! a torn tail from damage (`mark`), and what damage leaves is brought into a new database (`salvage`), the rest being
//! announced (`damage`).
//!
//! What is not here: replication, and more than one process per directory.

mod check;
mod damage;
mod directory;
mod documents;
mod layout;
mod mark;
mod opening;
mod options;
mod ranges;
mod reader;
mod retention;
mod role;
mod salvage;
mod shared;
mod storage;
mod writer;

#[cfg(test)]
mod tests;

use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::{Arc, Weak, mpsc as sync_mpsc};

use async_trait::async_trait;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, broadcast, mpsc, oneshot, watch};

pub use directory::OpenError;
pub use documents::EmbeddedDocuments;
pub use options::{Clock, Options, Retention};

use self::check::Scope;
use self::directory::Directory;
use self::layout::Draft;
use self::opening::{Journal, Opened};
use self::reader::Reader;
use self::shared::{Head, Lifetime, ReadError, Shared, Slot};
use self::storage::{Failure, Storage};
use self::writer::{Append, Health, Request, Writer};
use crate::contract::{
    Bus, BusError, Damage, Offset, Partition, PublishError, Selection, Start, Subscription,
    Watermarks,
};
use crate::record::Record;
use crate::topic::Topic;

/// All records are in one order.
const PARTITION: Partition = Partition(0);

/// Requests that wait for the writer. Their bytes are bounded apart, by [`Options::queue_bytes`]; senders wait
/// when either is full.
const QUEUE_REQUESTS: usize = 1024;

/// Keys of changed documents that a watch may be behind before it has to read them all again.
const CHANGED_KEYS: usize = 256;

/// One of something for each topic.
#[derive(Clone, Debug)]
struct PerTopic<T>([T; Topic::ALL.len()]);

impl<T> PerTopic<T> {
    fn from_fn(make: impl FnMut(Topic) -> T) -> Self {
        Self(Topic::ALL.map(make))
    }

    fn try_from_fn<E>(make: impl FnMut(Topic) -> Result<T, E>) -> Result<Self, E> {
        let all: Vec<T> = Topic::ALL.into_iter().map(make).collect::<Result<_, E>>()?;
        let all = all.try_into();
        Ok(Self(all.unwrap_or_else(|_| unreachable!("one was made for each topic"))))
    }

    fn get(&self, topic: Topic) -> &T {
        &self.0[topic as usize]
    }

    fn get_mut(&mut self, topic: Topic) -> &mut T {
        &mut self.0[topic as usize]
    }

    fn iter(&self) -> impl Iterator<Item = &T> {
        self.0.iter()
    }
}

const _: () = {
    let mut index = 0;
    while index < Topic::ALL.len() {
        assert!(Topic::ALL[index] as usize == index, "topics index arrays");
        index += 1;
    }
};

/// An open embedded database.
///
/// Its threads live until [`Bus::close`] is called on its bus, or until it and everything made from it but
/// subscriptions is dropped; `close` also waits for their end. Both ways keep all that was acknowledged.
pub struct Database {
    inner: Arc<Inner>,
}

impl Database {
    /// Opens the database in `dir`, or makes a new one there. Blocks while the journals are read: at most a few
    /// seconds.
    ///
    /// When it is damaged, it is rebuilt from all that can be read, which takes about a minute and as much disk again
    /// for each GiB; what is lost is told by [`Bus::damage`].
    ///
    /// # Errors
    ///
    /// When the directory cannot be used, is used by another process, was written by a newer version or by
    /// something else, or the disk refuses. See [`OpenError`].
    ///
    /// # Panics
    ///
    /// When the system can start no more threads.
    pub fn open(dir: &Path, options: Options) -> Result<Self, OpenError> {
        let directory = Directory::claim(dir)?;
        let Opened { storage, mark, extents } =
            opening::open(&directory, &options, Scope::Quick, Journal::Newest)?;
        let newest_lived_ms = extents.iter().map(|extent| extent.lived_ms).max().unwrap_or(0);
        let newest_stored_ms = extents.iter().map(|extent| extent.stored_ms).max();
        let lifetime =
            Lifetime::begin(&options.clock, newest_lived_ms, newest_stored_ms.unwrap_or(i64::MIN));
        let heads = PerTopic::from_fn(|topic| {
            watch::Sender::new(Head { extent: *extents.get(topic), closed: false })
        });

        let queue_bytes = options.queue_bytes;
        let slot = Slot::new(storage);
        let (changed_keys, _) = broadcast::channel(CHANGED_KEYS);
        let (requests, queue) = mpsc::channel(QUEUE_REQUESTS);
        let shared = Arc::new(Shared {
            options,
            heads,
            slot,
            lifetime,
            requests: requests.downgrade(),
            changed_keys,
        });
        // One kick that waits is as good as many.
        let (retention_kick, kicks) = sync_mpsc::sync_channel(1);
        let retention = spawn("bus-retention", {
            let shared = Arc::clone(&shared);
            move || retention::run(&shared, &kicks)
        });
        let writer = Writer {
            shared: Arc::clone(&shared),
            queue,
            retention_kick,
            retention,
            directory,
            mark,
            health: Health::Well,
            reopened_at: None,
        };
        // Nobody joins it: a drop must not wait for a disk. `close` waits for what it says last.
        drop(spawn("bus-writer", move || writer.run()));

        Ok(Self {
            inner: Arc::new(Inner {
                shared,
                requests,
                queue_bytes,
                queue_space: Arc::new(Semaphore::new(queue_bytes as usize)),
            }),
        })
    }

    /// The topics.
    pub fn bus(&self) -> Arc<EmbeddedBus> {
        Arc::new(EmbeddedBus { inner: Arc::clone(&self.inner) })
    }

    /// Writes all buffers out to tables: for tests and tools that look at the files. Blocks.
    ///
    /// # Errors
    ///
    /// When the disk refuses, or the database is closed.
    #[doc(hidden)]
    pub fn write_out(&self) -> Result<(), BusError> {
        let storage = self.inner.shared.slot.storage()?;
        Ok(storage.write_out().map_err(ReadError::from)?)
    }

    /// The documents.
    pub fn documents(&self) -> Arc<EmbeddedDocuments> {
        Arc::new(EmbeddedDocuments { inner: Arc::clone(&self.inner) })
    }
}

fn spawn(name: &str, body: impl FnOnce() + Send + 'static) -> std::thread::JoinHandle<()> {
    std::thread::Builder::new()
        .name(name.to_owned())
        .spawn(body)
        .expect("the system can start a thread")
}

impl fmt::Debug for Database {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Database")
    }
}

/// What the handles of a database share.
struct Inner {
    shared: Arc<Shared>,
    requests: mpsc::Sender<Request>,
    queue_bytes: u32,
    /// A permit for each byte that may still be queued. Closed when the bus is.
    queue_space: Arc<Semaphore>,
}

impl Inner {
    /// Waits for room in the queue; none when the database is closed. What is larger than the whole queue gets
    /// it alone.
    async fn queue_share(&self, bytes: usize) -> Option<OwnedSemaphorePermit> {
        let share = u32::try_from(bytes).unwrap_or(u32::MAX).min(self.queue_bytes);
        let space = Arc::clone(&self.queue_space);
        space.acquire_many_owned(share).await.ok()
    }

    async fn read<T: Send + 'static>(
        &self,
        work: impl Fn(&Storage) -> Result<T, ReadError> + Send + Sync + 'static,
    ) -> Result<T, ReadError> {
        read(&self.shared, work).await
    }

    async fn close(&self) {
        self.queue_space.close();
        // When the queue is closed already, the writer is on its way out.
        self.requests.send(Request::Close).await.ok();
        for topic in Topic::ALL {
            let mut head = self.shared.heads.get(topic).subscribe();
            head.wait_for(|head| head.closed).await.expect("the sender is in our own hands");
        }
    }
}

/// Runs `work` on the storage, on a thread that may block. When it meets damage, the storage is repaired and it runs
/// once more.
async fn read<T: Send + 'static>(
    shared: &Arc<Shared>,
    work: impl Fn(&Storage) -> Result<T, ReadError> + Send + Sync + 'static,
) -> Result<T, ReadError> {
    let work = Arc::new(work);
    let attempt = || {
        let (shared, work) = (Arc::clone(shared), Arc::clone(&work));
        tokio::task::spawn_blocking(move || {
            let storage = shared.slot.storage().map_err(|error| (None, error))?;
            // The library asserts some of what damage can break.
            let result = catch_unwind(AssertUnwindSafe(|| work(&storage))).unwrap_or_else(|_| {
                Err(Failure::damage("the storage library panicked on a read").into())
            });
            result.map_err(|error| (Some(Arc::downgrade(&storage)), error))
        })
    };
    let result = attempt().await;
    let result = result.unwrap_or_else(|error| Err((None, Failure::new(error).into())));
    match result {
        Err((Some(storage), ReadError::Failed(failure))) if failure.is_damage() => {
            repair(shared, storage, &failure).await?;
            let again = attempt().await;
            again.unwrap_or_else(|error| Err((None, Failure::new(error).into())))
        }
        result => result,
    }
    .map_err(|(_, error)| error)
}

/// Has the writer repair the storage in which `failure` was met, unless another one is in its place already.
async fn repair(
    shared: &Shared,
    storage: Weak<Storage>,
    failure: &Failure,
) -> Result<(), ReadError> {
    let requests = shared.requests.upgrade().ok_or(ReadError::Closed)?;
    let (reply, answer) = oneshot::channel();
    let request = Request::Repair { storage, failure: failure.clone(), reply };
    requests.send(request).await.map_err(|_| ReadError::Closed)?;
    answer.await.map_err(|_| ReadError::Closed)?.map_err(ReadError::Failed)
}

/// A [`Bus`] in a directory of this machine.
pub struct EmbeddedBus {
    inner: Arc<Inner>,
}

#[async_trait]
impl Bus for EmbeddedBus {
    async fn publish(&self, records: Vec<Record>) -> Result<(), PublishError> {
        let max = self.inner.shared.options.record_bytes_max;
        let mut drafts = Vec::with_capacity(records.len());
        let mut queued_bytes = 0_usize;
        for Record { key, payload } in records {
            let bytes = layout::encoded_bytes(&payload);
            if max < bytes {
                return Err(PublishError::TooLarge { key, bytes, max });
            }
            queued_bytes += bytes;
            drafts.push(Draft::new(key, &payload));
        }

        let permit = self.inner.queue_share(queued_bytes).await.ok_or(PublishError::Closed)?;
        if drafts.is_empty() {
            return Ok(());
        }
        let (reply, answer) = oneshot::channel();
        let append = Append { drafts, reply, permit };
        self.inner
            .requests
            .send(Request::Append(append))
            .await
            .map_err(|_| PublishError::Closed)?;
        match answer.await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(failure)) => Err(PublishError::Unavailable(Box::new(failure))),
            // The writer is gone, and with it the queue.
            Err(_) => Err(PublishError::Closed),
        }
    }

    async fn subscribe(
        &self,
        topic: Topic,
        start: Start,
        selection: Selection,
    ) -> Result<Box<dyn Subscription>, BusError> {
        let shared = Arc::clone(&self.inner.shared);
        let reader = Reader::open(shared, topic, start, selection).await?;
        Ok(Box::new(reader))
    }

    async fn watermarks(&self, topic: Topic) -> Result<Vec<Watermarks>, BusError> {
        let Head { extent, closed } = *self.inner.shared.heads.get(topic).borrow();
        if closed {
            return Err(BusError::Closed);
        }
        Ok(vec![Watermarks {
            partition: PARTITION,
            first: Offset(extent.first),
            next: Offset(extent.next),
            bytes: Some(extent.bytes()),
        }])
    }

    fn kind(&self) -> &'static str {
        "embedded"
    }

    fn is_shared(&self) -> bool {
        false
    }

    fn finds_by_key(&self) -> bool {
        true
    }

    async fn damage(&self) -> Result<Vec<Damage>, BusError> {
        Ok(self.inner.read(|storage| Ok(damage::untold(storage)?)).await?)
    }

    async fn damage_told(&self, number: u64) -> Result<(), BusError> {
        Ok(self.inner.read(move |storage| Ok(damage::mark_told(storage, number)?)).await?)
    }

    async fn alive(&self) -> Result<(), BusError> {
        let (reply, answer) = oneshot::channel();
        let asked = self.inner.requests.send(Request::Answer(reply)).await;
        asked.map_err(|_| BusError::Closed)?;
        answer.await.map_err(|_| BusError::Closed)
    }

    async fn close(&self) -> Result<(), BusError> {
        self.inner.close().await;
        Ok(())
    }
}

impl fmt::Debug for EmbeddedBus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("EmbeddedBus")
    }
}
