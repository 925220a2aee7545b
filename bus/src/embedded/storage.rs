//! The storage library, as the bus uses it: which keyspaces there are, how they are tuned, and what can go
//! wrong.
//!
//! A topic has two keyspaces. Its log holds the records by offset; as keys only rise, the library moves whole
//! tables down its levels without rewriting them. Its index holds (agent, offset) without a value. Neither
//! ever sees a deletion: retention drops whole tables of a log, and a compaction filter leaves out the index
//! entries of records that are gone.

use std::error::Error;
use std::fmt;
use std::io;
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use fjall::compaction::Leveled;
use fjall::compaction::filter::{
    CompactionFilter, CompactionFilterResult, Context, Factory, ItemAccessor, Verdict,
};
use fjall::config::{BlockSizePolicy, CompressionPolicy, FilterPolicy, PinningPolicy};
use fjall::{
    AbstractTree, CompressionType, Keyspace, KeyspaceCreateOptions, LsmError, OwnedWriteBatch,
    PersistMode, UserValue,
};
use prost::Message;

use super::PerTopic;
use super::directory::{Directory, OpenError};
use super::layout::{self, Floor, Header, Malformed};
use super::options::Options;
use super::role::Role;
use super::salvage;
use crate::topic::Topic;

/// Files that the library keeps open. Those of a whole default retention are some three hundred.
const OPEN_FILES_MAX: usize = 128;

/// The least that the library takes. It writes ahead into files of 64 MiB, so two or three of them exist.
const JOURNALS_BYTES_MAX: u64 = 64 * 1024 * 1024;

/// Blocks of a log are read in order; larger ones compress better and need a smaller index.
const LOG_BLOCK_BYTES: u32 = 16 * 1024;

/// Tables of an index are rewritten as records come; small ones keep each rewrite short.
const INDEX_TABLE_BYTES: u64 = 8 * 1024 * 1024;

/// How long a commit waits for the library's background work before it gives up.
const ROOM_WAIT_MAX: Duration = Duration::from_secs(10);

/// How long writing out what the journals held may take: a few dozen MiB.
const SEALED_WAIT_MAX: Duration = Duration::from_secs(60);

/// Why the storage did not do what it was asked. Many callers get the same one.
#[derive(Clone, Debug)]
pub(super) struct Failure {
    source: Arc<dyn Error + Send + Sync>,
    is_damage: bool,
}

impl Failure {
    pub(super) fn new(source: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        Self { source: Arc::from(source.into()), is_damage: false }
    }

    /// What is stored is not what was written.
    pub(super) fn damage(source: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        Self { is_damage: true, ..Self::new(source) }
    }

    pub(super) const fn is_damage(&self) -> bool {
        self.is_damage
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.source, f)
    }
}

impl Error for Failure {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        self.source.source()
    }
}

impl From<fjall::Error> for Failure {
    fn from(error: fjall::Error) -> Self {
        let is_damage = is_damage(&error);
        Self { is_damage, ..Self::new(error) }
    }
}

impl From<Malformed> for Failure {
    fn from(error: Malformed) -> Self {
        Self::damage(error)
    }
}

/// Whether an error of the library means that its files are damaged: missing, cut short, unreadable or contradicting
/// themselves.
fn is_damage(error: &fjall::Error) -> bool {
    match error {
        fjall::Error::Io(error) | fjall::Error::Storage(LsmError::Io(error)) => {
            matches!(
                error.kind(),
                io::ErrorKind::NotFound
                    | io::ErrorKind::UnexpectedEof
                    | io::ErrorKind::InvalidData
                    | io::ErrorKind::AlreadyExists
            ) || salvage::is_unreadable(error)
        }
        fjall::Error::Locked | fjall::Error::Poisoned | fjall::Error::InvalidVersion(_) => false,
        _ => true,
    }
}

/// The extent of a topic.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Extent {
    /// The oldest offset kept; `next` when there is none. `first <= next`.
    pub(super) first: u64,
    /// The offset of the next record.
    pub(super) next: u64,
    /// Bytes before `first` since the topic exists. `first_position <= next_position`.
    pub(super) first_position: u64,
    /// Bytes before `next`.
    pub(super) next_position: u64,
    /// The newest time given to a record: no later record gets less.
    pub(super) stored_ms: i64,
    /// Likewise, of the time that the bus has lived.
    pub(super) lived_ms: u64,
}

impl Extent {
    /// Of a topic that never had a record. Offsets begin with 1, so that 0 is free to mean "none".
    const NEW: Self = Self {
        first: 1,
        next: 1,
        first_position: 0,
        next_position: 0,
        stored_ms: i64::MIN,
        lived_ms: 0,
    };

    pub(super) fn bytes(&self) -> u64 {
        self.next_position - self.first_position
    }
}

/// An open database of the storage library.
pub(super) struct Storage {
    pub(super) database: fjall::Database,
    pub(super) topics: PerTopic<TopicStore>,
    /// Topic name to [`Floor`], and the revision of the documents.
    pub(super) state: Keyspace,
    pub(super) documents: Keyspace,
    pub(super) history: Keyspace,
    write_buffers_bytes: u64,
    small_buffer_bytes: u64,
}

pub(super) struct TopicStore {
    topic: Topic,
    pub(super) log: Keyspace,
    pub(super) index: Keyspace,
    log_buffer_bytes: u64,
    index_buffer_bytes: u64,
    /// Nothing below it is read any more. Always below the newest record's offset, which stays on disk so
    /// that each keyspace keeps a table: the library measures by a keyspace's newest table whether a journal
    /// is still needed.
    reclaim_below: Arc<AtomicU64>,
}

impl Storage {
    /// Opens the database at `path`, or makes one there.
    pub(super) fn open(
        path: &Path,
        directory: &Directory,
        options: &Options,
    ) -> Result<Self, OpenError> {
        // On damaged files the library asserts here and there.
        match catch_unwind(AssertUnwindSafe(|| Self::open_keyspaces(path, options))) {
            Ok(Ok(storage)) => Ok(storage),
            Ok(Err(error)) => Err(open_error(directory, error)),
            Err(_) => Err(OpenError::Damaged {
                dir: directory.path().to_owned(),
                source: "the storage library panicked on it".into(),
            }),
        }
    }

    fn open_keyspaces(path: &Path, options: &Options) -> Result<Self, fjall::Error> {
        let reclaim_below = PerTopic::from_fn(|_| Arc::new(AtomicU64::new(0)));
        let filters = PerTopic::from_fn(|topic| ReclaimFilter {
            name: format!("{topic}.reclaim"),
            reclaim_below: Arc::clone(reclaim_below.get(topic)),
        });
        let database = fjall::Database::builder(path)
            .cache_size(options.cache_bytes())
            .max_cached_files(Some(OPEN_FILES_MAX))
            .max_journaling_size(JOURNALS_BYTES_MAX)
            // A second worker would spin while the first compacts.
            .worker_threads(1)
            .with_compaction_filter_factories(Arc::new(move |keyspace| {
                let topic = keyspace.strip_suffix(".index")?;
                let topic = Topic::ALL.into_iter().find(|known| known.name() == topic)?;
                Some(Arc::new(filters.get(topic).clone()))
            }))
            .open()?;

        let topics = PerTopic::try_from_fn(|topic| {
            Ok::<_, fjall::Error>(TopicStore {
                topic,
                log: database.keyspace(&Role::Log(topic).name(), log_options)?,
                index: database.keyspace(&Role::Index(topic).name(), index_options)?,
                log_buffer_bytes: options.log_buffer_bytes(topic),
                index_buffer_bytes: options.index_buffer_bytes(topic),
                reclaim_below: Arc::clone(reclaim_below.get(topic)),
            })
        })?;
        let storage = Self {
            topics,
            state: database.keyspace(&Role::State.name(), KeyspaceCreateOptions::default)?,
            documents: database
                .keyspace(&Role::Documents.name(), KeyspaceCreateOptions::default)?,
            history: database.keyspace(&Role::History.name(), KeyspaceCreateOptions::default)?,
            write_buffers_bytes: options.write_buffers_bytes(),
            small_buffer_bytes: options.small_buffer_bytes(),
            database,
        };
        // New keyspaces must not vanish with a power loss after the first record is acknowledged.
        storage.database.persist(PersistMode::SyncAll)?;
        Ok(storage)
    }

    /// Starts a batch that is durable when its commit returns.
    pub(super) fn batch(&self, capacity: usize) -> OwnedWriteBatch {
        OwnedWriteBatch::with_capacity(self.database.clone(), capacity)
            .durability(Some(PersistMode::SyncData))
    }

    /// Starts a batch that becomes durable with a later one, or with `persist`.
    pub(super) fn unsynced_batch(&self) -> OwnedWriteBatch {
        OwnedWriteBatch::with_capacity(self.database.clone(), 0)
    }

    pub(super) fn keyspace(&self, role: Role) -> &Keyspace {
        match role {
            Role::State => &self.state,
            Role::Documents => &self.documents,
            Role::History => &self.history,
            Role::Log(topic) => &self.topics.get(topic).log,
            Role::Index(topic) => &self.topics.get(topic).index,
        }
    }

    /// The library's numbers of all keyspaces, in the order of [`Role::all`].
    pub(super) fn keyspace_numbers(&self) -> Vec<u64> {
        Role::all().map(|role| self.keyspace(role).id()).collect()
    }

    /// Waits until a commit would not run into the library's own brakes, which have no end when its worker is
    /// gone.
    pub(super) fn wait_for_room(&self) -> Result<(), Failure> {
        let deadline = Instant::now() + ROOM_WAIT_MAX;
        loop {
            // Fails when an earlier write or the worker failed.
            self.database.persist(PersistMode::Buffer)?;
            let waiting = self.database.write_buffer_size() > self.write_buffers_bytes
                || self.keyspaces().any(|(keyspace, _)| {
                    keyspace.sealed_memtable_count() >= 2 || keyspace.tree.l0_run_count() >= 12
                });
            if !waiting {
                return Ok(());
            }
            if deadline <= Instant::now() {
                return Err(Failure::new("the disk does not keep up"));
            }
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    /// Seals the write buffers that have reached their share. To be called after each commit: when the library
    /// does it on its own, it is later and asks its worker once for every commit until then.
    pub(super) fn seal_full_buffers(&self) -> Result<(), Failure> {
        for (keyspace, buffer_bytes) in self.keyspaces() {
            if buffer_bytes <= keyspace.tree.active_memtable().size() {
                keyspace.rotate_memtable()?;
            }
        }
        Ok(())
    }

    /// Waits until the buffers of the journals before the newest are in tables.
    pub(super) fn wait_for_sealed(&self) -> Result<(), Failure> {
        let deadline = Instant::now() + SEALED_WAIT_MAX;
        while self.keyspaces().any(|(keyspace, _)| 0 < keyspace.sealed_memtable_count()) {
            // Fails when the worker failed.
            self.database.persist(PersistMode::Buffer)?;
            if deadline <= Instant::now() {
                return Err(Failure::new("the disk does not keep up"));
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        Ok(())
    }

    /// Writes all buffers out to tables, and waits for it.
    pub(super) fn write_out(&self) -> Result<(), Failure> {
        for (keyspace, _) in self.keyspaces() {
            keyspace.rotate_memtable_and_wait()?;
        }
        Ok(())
    }

    fn keyspaces(&self) -> impl Iterator<Item = (&Keyspace, u64)> {
        let small = [&self.state, &self.documents, &self.history];
        let of_topics = self.topics.iter().flat_map(|store| {
            [(&store.log, store.log_buffer_bytes), (&store.index, store.index_buffer_bytes)]
        });
        small.into_iter().map(|keyspace| (keyspace, self.small_buffer_bytes)).chain(of_topics)
    }

    /// Reads where a topic begins and ends.
    pub(super) fn extent(&self, topic: Topic) -> Result<Extent, Failure> {
        let mut extent = Extent::NEW;
        if let Some(floor) = self.floor(topic)? {
            extent = Extent {
                first: floor.first,
                next: floor.next.max(floor.first),
                first_position: floor.position,
                next_position: floor.position,
                stored_ms: floor.stored_ms,
                lived_ms: floor.lived_ms,
            };
        }
        let store = self.topics.get(topic);
        if let Some((offset, value)) = store.newest()? {
            // Below the floor stands only what retention has not cleared away yet.
            if extent.first <= offset {
                let header = layout::read_header(&value)?;
                extent.next = extent.next.max(offset.checked_add(1).ok_or(Malformed)?);
                extent.next_position = layout::end_position(&value)?.max(extent.first_position);
                extent.stored_ms = extent.stored_ms.max(header.stored_ms);
                extent.lived_ms = extent.lived_ms.max(header.lived_ms);
            }
        }
        store.allow_reclaim(&extent)?;
        Ok(extent)
    }

    /// Below what a topic was removed; none when nothing was.
    pub(super) fn floor(&self, topic: Topic) -> Result<Option<Floor>, Failure> {
        self.state.get(topic.name())?.map(|bytes| salvage::read_floor(&bytes)).transpose()
    }

    /// Raises the floor of a topic, durably.
    pub(super) fn set_floor(&self, topic: Topic, floor: &Floor) -> Result<(), Failure> {
        let mut batch = self.batch(1);
        batch.insert(&self.state, topic.name(), floor.encode_to_vec());
        Ok(batch.commit()?)
    }
}

impl fmt::Debug for Storage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Storage")
    }
}

impl TopicStore {
    /// The newest record, wherever the topic begins.
    fn newest(&self) -> Result<Option<(u64, UserValue)>, Failure> {
        let Some(last) = self.log.last_key_value() else {
            return Ok(None);
        };
        let (key, value) = last.into_inner()?;
        let offset = layout::offset_of(&key)?;
        if key.len() != size_of::<u64>()
            || layout::is_whole(self.topic, offset, &value) == Some(false)
        {
            return Err(Malformed.into());
        }
        Ok(Some((offset, value)))
    }

    /// The first record in `offsets`.
    fn first_in(&self, offsets: Range<u64>) -> Result<Option<(u64, UserValue)>, Failure> {
        let Some(first) = self.log.range(log_range(offsets)).next() else {
            return Ok(None);
        };
        let (key, value) = first.into_inner()?;
        Ok(Some((layout::offset_of(&key)?, value)))
    }

    /// The first offset in `offsets` whose record is not `before`, or the end; with the header found there.
    ///
    /// All records that are `before` stand in front of all that are not. Takes the logarithm of the range in
    /// reads.
    pub(super) fn partition_point(
        &self,
        offsets: Range<u64>,
        before: impl Fn(&Header) -> bool,
    ) -> Result<(u64, Option<Header>), Failure> {
        let (mut low, mut high, mut found) = (offsets.start, offsets.end, None);
        while low < high {
            let middle = low + (high - low) / 2;
            // A record that is missing, which only damage can cause, counts like the one after it.
            let Some((offset, value)) = self.first_in(middle..high)? else {
                high = middle;
                continue;
            };
            let header = layout::read_header(&value)?;
            if before(&header) {
                low = offset + 1;
            } else {
                high = middle;
                found = Some(header);
            }
        }
        Ok((low, found))
    }

    /// Lets go of the disk space below the start of `extent`, as far as it fills whole tables.
    pub(super) fn reclaim(&self, extent: &Extent) -> Result<(), Failure> {
        let below = self.allow_reclaim(extent)?;
        let dropped = layout::log_key(0)..layout::log_key(below);
        Ok(self.log.tree.drop_range(dropped).map_err(fjall::Error::from)?)
    }

    /// Rewrites the index without the entries of records that are gone.
    pub(super) fn compact_index(&self) -> Result<(), Failure> {
        self.index.tree.major_compact(INDEX_TABLE_BYTES, 0).map_err(fjall::Error::from)?;
        Ok(())
    }

    fn allow_reclaim(&self, extent: &Extent) -> Result<u64, Failure> {
        let newest = self.newest()?.map_or(0, |(offset, _)| offset);
        let below = extent.first.min(newest);
        Ok(self.reclaim_below.fetch_max(below, Ordering::Relaxed).max(below))
    }
}

impl fmt::Debug for TopicStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TopicStore").field("topic", &self.topic).finish_non_exhaustive()
    }
}

/// The keys of a range of a log.
pub(super) fn log_range(offsets: Range<u64>) -> Range<[u8; 8]> {
    layout::log_key(offsets.start)..layout::log_key(offsets.end)
}

fn log_options() -> KeyspaceCreateOptions {
    KeyspaceCreateOptions::default()
        .data_block_size_policy(BlockSizePolicy::all(LOG_BLOCK_BYTES))
        // Tables go from the first level to the last as they are, so the first level's form is all there is.
        .data_block_compression_policy(CompressionPolicy::all(CompressionType::Lz4))
        // Only ranges are read, which filters do not help.
        .filter_policy(FilterPolicy::disabled())
        // What is pinned is not under the cap of the cache.
        .index_block_pinning_policy(PinningPolicy::all(false))
        .filter_block_pinning_policy(PinningPolicy::all(false))
}

fn index_options() -> KeyspaceCreateOptions {
    let compaction = Leveled::default().with_table_target_size(INDEX_TABLE_BYTES);
    log_options().compaction_strategy(Arc::new(compaction))
}

fn open_error(directory: &Directory, error: fjall::Error) -> OpenError {
    let dir = directory.path().to_owned();
    match error {
        fjall::Error::Locked => OpenError::InUse { dir },
        fjall::Error::InvalidVersion(found) => OpenError::NewerFormat {
            dir,
            found: format!("{found:?} of the storage library"),
            supported: 3,
        },
        error if is_damage(&error) => OpenError::Damaged { dir, source: error.into() },
        error => OpenError::Storage { dir, source: error.into() },
    }
}

/// Leaves the index entries of removed records out of what a compaction writes.
#[derive(Clone)]
struct ReclaimFilter {
    name: String,
    reclaim_below: Arc<AtomicU64>,
}

impl Factory for ReclaimFilter {
    fn name(&self) -> &str {
        &self.name
    }

    fn make_filter(&self, _context: &Context) -> Box<dyn CompactionFilter> {
        Box::new(ReclaimBelow(self.reclaim_below.load(Ordering::Relaxed)))
    }
}

struct ReclaimBelow(u64);

impl CompactionFilter for ReclaimBelow {
    fn filter_item(
        &mut self,
        item: ItemAccessor<'_>,
        _context: &Context,
    ) -> CompactionFilterResult {
        Ok(match layout::offset_of(item.key()) {
            // Index keys are written once, which is what `Destroy` asks for.
            Ok(offset) if offset < self.0 => Verdict::Destroy,
            Ok(_) | Err(Malformed) => Verdict::Keep,
        })
    }
}
