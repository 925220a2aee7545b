//! Making a new database of what damage left of the old one.
//!
//! Whatever is damaged, the way out is the same: every table and every journal is read without the library, block by
//! block and batch by batch, and what is whole goes into a new database. Records prove themselves (see
//! `layout`), so it does not matter in which file they stand, or whether the file is described anywhere. What is then missing
//! between the beginning of a topic and its durable mark was taken by the damage, and is entered in the ledger with the
//! names of the records, which the index and the sequences around them tell.
//!
//! ```text
//! db.new      being made; removed when found
//! db.ready    whole: takes the place of db
//! damaged/    the files of the old database in which damage was found, of the last repair only
//! ```
//!
//! The old database is not touched until the new one is durable, so a repair may be cut short at any point.

mod journal;
mod names;
mod table;
mod window;

use std::collections::HashMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use fjall::{OwnedWriteBatch, PersistMode};
use prost::Message;

pub(super) use self::journal::survey;
pub(super) use self::table::{is_damaged, salvage as read_table};
pub(super) use self::window::is_unreadable;

use self::journal::{Item, Trust};
use self::names::Names;
use super::PerTopic;
use super::damage::{self, Lost};
use super::directory::{self, Directory, OpenError};
use super::documents;
use super::layout::{self, Floor};
use super::mark::Marked;
use super::options::Options;
use super::ranges::RangeSet;
use super::role::Role;
use super::storage::{Failure, Storage};
use crate::topic::Topic;

/// Written at once.
const BATCH_BYTES: usize = 1024 * 1024;

/// Where the storage library keeps the tables of a keyspace.
pub(super) fn keyspace_dir(database: &Path, number: u64) -> PathBuf {
    database.join("keyspaces").join(number.to_string())
}

/// Which keyspace is which. Without a mark they have the numbers that a new database gives.
pub(super) fn roles(marked: Option<&Marked>) -> HashMap<u64, Role> {
    match marked.filter(|marked| marked.keyspaces.len() == Role::COUNT) {
        Some(marked) => marked.keyspaces.iter().copied().zip(Role::all()).collect(),
        None => Role::all().map(|role| (role.usual_number(), role)).collect(),
    }
}

/// The files of a directory, sorted; none when it is not there.
pub(super) fn files(dir: &Path) -> io::Result<Vec<PathBuf>> {
    let entries = match fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    let mut files = Vec::new();
    for entry in entries {
        let entry = entry?;
        if entry.file_type()?.is_file() {
            files.push(entry.path());
        }
    }
    files.sort();
    Ok(files)
}

/// The journals of a database with their numbers, oldest first; those cut off a journal come after all.
pub(super) fn journals(database: &Path) -> io::Result<Vec<(u64, PathBuf)>> {
    let numbered = files(database)?.into_iter().filter_map(|path| {
        let name = path.file_name()?.to_str()?;
        Some((name.strip_suffix(".jnl")?.parse().ok()?, path))
    });
    let mut journals: Vec<(u64, PathBuf)> = numbered.collect();
    journals.sort();
    Ok(journals)
}

/// Replaces the database in `directory` by a new one that holds what can be read of it.
pub(super) fn rebuild(
    directory: &Directory,
    options: &Options,
    marked: Option<&Marked>,
) -> Result<(), OpenError> {
    let failed = |failure: Failure| OpenError::Storage {
        dir: directory.path().to_owned(),
        source: failure.into(),
    };
    let unusable = |error: io::Error| failed(Failure::new(error));
    let old = directory.database();
    let new = directory.path().join(directory::NEW);
    remove_dir(&new).map_err(unusable)?;

    let target = Storage::open(&new, directory, options)?;
    let mut rebuild = Rebuild::new(&target, marked);
    let sources = Sources::find(directory, &old, marked).map_err(unusable)?;
    let outcome = rebuild.run(&sources).map_err(failed)?;
    target.database.persist(PersistMode::SyncAll).map_err(|error| failed(error.into()))?;
    drop(target);

    let place = || -> io::Result<()> {
        directory::sync_directory(&new)?;
        set_aside(directory, &outcome.damaged)?;
        fs::rename(&new, directory.path().join(directory::READY))?;
        directory::sync_directory(directory.path())?;
        directory.settle()
    };
    place().map_err(unusable)?;
    tracing::warn!(
        dir = %directory.path().display(),
        records = outcome.records,
        lost = outcome.lost,
        damaged_files = outcome.damaged.len(),
        "the embedded bus was damaged and has been rebuilt from what could be read"
    );
    Ok(())
}

pub(super) fn remove_dir(dir: &Path) -> io::Result<()> {
    match fs::remove_dir_all(dir) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        Ok(()) | Err(_) => Ok(()),
    }
}

/// Keeps the damaged files for people to look at, in place of those of an earlier repair.
fn set_aside(directory: &Directory, damaged: &[PathBuf]) -> io::Result<()> {
    if damaged.is_empty() {
        return Ok(());
    }
    let aside = directory.path().join(directory::DAMAGED);
    remove_dir(&aside)?;
    fs::create_dir(&aside)?;
    for path in damaged {
        let inside = path.strip_prefix(directory.path()).unwrap_or(path);
        let name = inside.to_string_lossy().replace(['/', '\\'], "-");
        // Linked, not moved: until the new database stands, the old one is the only one. Without links (FAT) there is
        // nothing to look at later, and nothing else is lost.
        if let Err(error) = fs::hard_link(path, aside.join(name)) {
            tracing::warn!(file = %path.display(), %error, "a damaged file cannot be set aside");
        }
    }
    Ok(())
}

/// Everything that may hold something of the old database.
#[derive(Debug)]
struct Sources {
    /// Tables by role, small keyspaces first, each role's in the order of their first keys.
    tables: Vec<(Option<Role>, PathBuf)>,
    journals: Vec<PathBuf>,
    roles: HashMap<u64, Role>,
}

impl Sources {
    fn find(directory: &Directory, database: &Path, marked: Option<&Marked>) -> io::Result<Self> {
        let roles = roles(marked);
        let mut tables = Vec::new();
        let keyspaces = match fs::read_dir(database.join("keyspaces")) {
            Ok(entries) => entries.collect::<Result<Vec<_>, _>>()?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
            Err(error) => return Err(error),
        };
        for keyspace in keyspaces {
            let number = keyspace.file_name().to_str().and_then(|name| name.parse::<u64>().ok());
            let role = number.and_then(|number| roles.get(&number).copied());
            for path in files(&keyspace.path().join("tables"))? {
                let mut first = None;
                read_table(&path, |item| {
                    first = Some(item.key);
                    Ok(false)
                })?;
                // Those of unknown keyspaces come last: they can only hold what proves itself.
                tables.push((role.is_none(), role, first, path));
            }
        }
        tables.sort();
        let tables = tables.into_iter().map(|(_, role, _, path)| (role, path)).collect();
        let mut journals: Vec<PathBuf> =
            journals(database)?.into_iter().map(|(_, path)| path).collect();
        journals.extend(directory.torn()?);
        Ok(Self { tables, journals, roles })
    }
}

#[derive(Debug, Default)]
struct Outcome {
    records: u64,
    lost: u64,
    damaged: Vec<PathBuf>,
}

struct Rebuild<'a> {
    target: &'a Storage,
    marked: Option<&'a Marked>,
    batch: OwnedWriteBatch,
    batch_bytes: usize,
    /// Offsets whose record was found.
    found: PerTopic<RangeSet>,
    /// The newest version seen of each key of the small keyspaces.
    newest: HashMap<(Role, Vec<u8>), u64>,
}

impl<'a> Rebuild<'a> {
    fn new(target: &'a Storage, marked: Option<&'a Marked>) -> Self {
        Self {
            target,
            marked,
            batch: target.unsynced_batch(),
            batch_bytes: 0,
            found: PerTopic::from_fn(|_| RangeSet::default()),
            newest: HashMap::new(),
        }
    }

    fn run(&mut self, sources: &Sources) -> Result<Outcome, Failure> {
        let mut outcome = Outcome::default();
        for (role, path) in &sources.tables {
            let damaged = read_table(path, |item| {
                self.take(item, *role, Trust::Whole).map_err(io::Error::other)?;
                Ok(true)
            });
            if damaged.map_err(Failure::new)? {
                outcome.damaged.push(path.clone());
            }
        }
        for path in &sources.journals {
            let damaged = journal::salvage(path, |item, trust| {
                let role = sources.roles.get(&item.keyspace).copied();
                self.take(item, role, trust).map_err(io::Error::other)
            });
            if damaged.map_err(Failure::new)? {
                outcome.damaged.push(path.clone());
            }
        }
        self.commit()?;
        documents::restore(self.target, self.marked.map_or(0, |marked| marked.revision))?;

        let mut lost = Vec::new();
        let mut floors = HashMap::new();
        for topic in Topic::ALL {
            let floor = self.settle_floor(topic)?;
            let kept = floor.first..floor.next;
            let known = damage::known(self.target, topic)?;
            let missing = self.found.get(topic).missing(kept).without(&known);
            let missing_count = missing.count();
            outcome.records += self.found.get(topic).count();
            outcome.lost += missing_count;
            floors.insert(topic, floor.first);
            if 0 < missing_count {
                let names = self.name(topic, &missing, sources)?;
                let unnamed = missing_count.saturating_sub(names.certain_count());
                lost.push(Lost::new(topic, missing, names.into_records(), unnamed));
            }
        }
        damage::record(self.target, lost, |topic| floors.get(&topic).copied().unwrap_or(1))?;
        Ok(outcome)
    }

    /// Takes over what was found, if it can be believed. `role` is what its place says.
    fn take(&mut self, item: Item, role: Option<Role>, trust: Trust) -> Result<bool, Failure> {
        if let Some((topic, offset)) = record_place(&item, role, trust) {
            if !self.found.get(topic).contains(offset) {
                self.found.get_mut(topic).insert(offset..offset + 1);
                let value = item.value.unwrap_or_default();
                self.put_record(topic, offset, value)?;
            }
            return Ok(true);
        }
        let Some(role @ (Role::State | Role::Documents | Role::History)) = role else {
            return Ok(false);
        };
        if trust != Trust::Whole || !is_key_of(role, &item.key) {
            return Ok(false);
        }
        let seen = self.newest.get(&(role, item.key.clone()));
        if seen.is_none_or(|seen| *seen <= item.seqno) {
            self.newest.insert((role, item.key.clone()), item.seqno);
            let keyspace = self.target.keyspace(role);
            self.batch_bytes += item.key.len() + item.value.as_ref().map_or(0, Vec::len);
            match item.value {
                Some(value) => self.batch.insert(keyspace, item.key, value),
                None => self.batch.remove(keyspace, item.key),
            }
            self.commit_if_full()?;
        }
        Ok(true)
    }

    fn put_record(&mut self, topic: Topic, offset: u64, value: Vec<u8>) -> Result<(), Failure> {
        let store = self.target.topics.get(topic);
        // A record that proves itself and does not decode is of a version to come: it is kept, and not indexed.
        if let Ok(entry) = layout::read_entry(topic, offset, &value) {
            let (key, identity) = layout::index_entry_of(&entry);
            self.batch_bytes += key.len() + identity.len();
            self.batch.insert(&store.index, key, identity);
        }
        self.batch_bytes += value.len();
        self.batch.insert(&store.log, layout::log_key(offset), value);
        self.commit_if_full()
    }

    fn commit_if_full(&mut self) -> Result<(), Failure> {
        if self.batch_bytes < BATCH_BYTES {
            return Ok(());
        }
        self.commit()
    }

    fn commit(&mut self) -> Result<(), Failure> {
        let batch = std::mem::replace(&mut self.batch, self.target.unsynced_batch());
        self.batch_bytes = 0;
        self.target.wait_for_room()?;
        batch.commit()?;
        self.target.seal_full_buffers()
    }

    /// Where the topic begins and where new records go: as the old floor and the mark say, and beyond what was found.
    fn settle_floor(&self, topic: Topic) -> Result<Floor, Failure> {
        let old = self.target.floor(topic)?;
        let found = self.found.get(topic);
        let mut floor = old.clone().unwrap_or_else(|| Floor {
            // Retention has never moved it. Should the floor be lost with the mark, this names too much.
            first: 1,
            ..Floor::default()
        });
        if let Some(marked) = self.marked {
            let first = marked.first(topic);
            floor.first = if old.is_some() { floor.first.max(first) } else { first };
            floor.next = floor.next.max(marked.next(topic));
        }
        floor.next = floor.next.max(floor.first).max(found.last().map_or(1, |range| range.end));
        let kept = floor.first..floor.next;
        if old.is_none_or(|old| old.first != floor.first)
            && let (_, Some(header)) =
                self.target.topics.get(topic).partition_point(kept, |_| false)?
        {
            floor.position = header.position;
        }
        self.target.set_floor(topic, &floor)?;
        Ok(floor)
    }

    /// Finds out which records are missing: from the index, which may have survived the log, and from the gaps that
    /// they left in the sequences of their boots.
    fn name(&self, topic: Topic, missing: &RangeSet, sources: &Sources) -> Result<Names, Failure> {
        let mut names = Names::default();
        if topic != Topic::MonitoringData {
            return Ok(names);
        }
        let mut see = |item: &Item| {
            if let Ok(offset) = layout::offset_of(&item.key)
                && missing.contains(offset)
                && let Some(value) = &item.value
                && let Some((agent, identity)) = layout::read_identity(topic, &item.key, value)
            {
                names.add(offset, &agent, &identity);
            }
        };
        for (_, path) in &sources.tables {
            let read = read_table(path, |item| {
                see(&item);
                Ok(true)
            });
            read.map_err(Failure::new)?;
        }
        for path in &sources.journals {
            let read = journal::salvage(path, |item, _| {
                see(&item);
                // In doubtful bytes the next item may begin within what looks like this one.
                Ok(false)
            });
            read.map_err(Failure::new)?;
        }
        if names.certain_count() < missing.count() {
            names.infer(self.target.topics.get(topic), topic, missing)?;
        }
        Ok(names)
    }
}

/// Which record an item is. One with a check proves it; an older one must be where it belongs, in a whole batch or block.
fn record_place(item: &Item, role: Option<Role>, trust: Trust) -> Option<(Topic, u64)> {
    let offset = u64::from_be_bytes(item.key.as_slice().try_into().ok()?);
    let value = item.value.as_deref()?;
    let here = match role {
        Some(Role::Log(topic)) => Some(topic),
        _ => None,
    };
    let proven = here
        .into_iter()
        .chain(Topic::ALL)
        .find(|topic| layout::is_whole(*topic, offset, value) == Some(true));
    let believed = here.filter(|topic| {
        trust == Trust::Whole
            && layout::is_whole(*topic, offset, value).is_none()
            && layout::read_entry(*topic, offset, value).is_ok()
    });
    proven.or(believed).map(|topic| (topic, offset))
}

/// Whether a key has the form of those that `role` holds.
pub(super) fn is_key_of(role: Role, key: &[u8]) -> bool {
    match role {
        Role::State => {
            damage::is_key(key)
                || key == documents::REVISION_KEY.as_bytes()
                || Topic::ALL.iter().any(|topic| key == topic.name().as_bytes())
        }
        Role::Documents => documents::is_document_key(key),
        Role::History => documents::is_history_key(key),
        Role::Log(_) => key.len() == size_of::<u64>(),
        Role::Index(_) => layout::is_index_key(key),
    }
}

/// Whether a floor that was read is one.
pub(super) fn read_floor(value: &[u8]) -> Result<Floor, Failure> {
    Floor::decode(value).map_err(|_| layout::Malformed.into())
}
