//! Looking at a database before the storage library does.
//!
//! The library trusts its files: it cuts a journal at the first bytes it cannot read, it deletes tables that its list of
//! tables does not name and keyspaces whose name it cannot find, and it checks neither list against its checksum. So
//! what it is about to trust is checked here, and what it would misread never reaches it.

use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::io;
use std::path::Path;

use xxhash_rust::xxh3::xxh3_128;

use super::PerTopic;
use super::directory::Directory;
use super::layout;
use super::mark::Marked;
use super::ranges::RangeSet;
use super::role::Role;
use super::salvage;
use super::storage::{Failure, Storage};
use crate::topic::Topic;

/// In the database of the storage library: its format, which ours says too.
const VERSION_FILE: &str = "version";
const VERSION: &[u8] = b"FJL\x03";

/// The keyspace in which the library keeps the names of the others.
const NAMES: u64 = 0;

/// How closely a database is looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Scope {
    /// All journals, all lists of tables, and the first block of each table. Takes a fraction of a second.
    Quick,
    /// Every block of every table too.
    Thorough,
}

/// What a database looks like from outside.
#[derive(Debug)]
pub(super) enum Verdict {
    /// The library may open it. Records that must be in its tables, because the journals go on after them.
    Sound(Seams),
    /// It must be rebuilt; why, for people.
    Damaged(String),
}

/// Offsets after which the journals go on, by topic.
pub(super) type Seams = PerTopic<Vec<u64>>;

/// Looks at the database in `directory`, and cuts off what a crash left at the ends of its journals. What is cut off is
/// kept aside until it is known that nothing durable was in it.
pub(super) fn inspect(
    directory: &Directory,
    marked: Option<&Marked>,
    scope: Scope,
) -> io::Result<Verdict> {
    let database = directory.database();
    let was_made = marked.is_some();
    if !database.try_exists()? {
        return Ok(match marked {
            Some(marked) if !marked.is_new() => Verdict::Damaged("its files are gone".to_owned()),
            _ => Verdict::Sound(no_seams()),
        });
    }
    match read(&database.join(VERSION_FILE))?.as_deref() {
        Some(VERSION) => {}
        // The library says itself what it thinks of another version, unless the mark says that it cannot be.
        Some(_) if !was_made => {}
        Some(_) => return Ok(Verdict::Damaged("its version is not readable".to_owned())),
        None => return Ok(Verdict::Damaged("it has no version".to_owned())),
    }
    // The library opens this file and does not make it.
    fs::File::options().create(true).truncate(false).write(true).open(database.join("lock"))?;

    if let Some(marked) = marked
        && let Some(damage) = check_keyspaces(&database, marked, scope)?
    {
        return Ok(Verdict::Damaged(damage));
    }
    check_journals(directory, &database, marked)
}

fn no_seams() -> Seams {
    PerTopic::from_fn(|_| Vec::new())
}

/// What a small file holds; none when it is missing or cannot be read.
fn read(path: &Path) -> io::Result<Option<Vec<u8>>> {
    match fs::read(path) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) if salvage::is_unreadable(&error) => Ok(None),
        Err(error) => Err(error),
    }
}

fn check_keyspaces(database: &Path, marked: &Marked, scope: Scope) -> io::Result<Option<String>> {
    let roles = salvage::roles(Some(marked));
    for number in roles.keys().copied().chain([NAMES]) {
        let dir = salvage::keyspace_dir(database, number);
        if !is_list_whole(&dir)? {
            return Ok(Some(format!("the list of tables of keyspace {number} is damaged")));
        }
    }
    if !are_names_whole(database, &roles)? {
        return Ok(Some("the names of its keyspaces are damaged".to_owned()));
    }
    for (number, role) in &roles {
        for path in salvage::files(&salvage::keyspace_dir(database, *number).join("tables"))? {
            if !belongs(&path, *role)? || scope == Scope::Thorough && salvage::is_damaged(&path)? {
                return Ok(Some(format!("a table is damaged: {}", path.display())));
            }
        }
    }
    Ok(None)
}

/// Whether the list of tables of a keyspace is there and as its checksum says. The file `current` names the list that
/// counts, `v` and a number, and gives its checksum.
fn is_list_whole(keyspace: &Path) -> io::Result<bool> {
    let Some(current) = read(&keyspace.join("current"))? else {
        return Ok(false);
    };
    let Some((number, rest)) = current.split_first_chunk::<8>() else {
        return Ok(false);
    };
    let list = read(&keyspace.join(format!("v{}", u64::from_le_bytes(*number))))?;
    Ok(list.is_some_and(|list| rest.starts_with(&xxh3_128(&list).to_le_bytes())))
}

/// Whether the library will find the name of each of our keyspaces: it deletes those without one.
fn are_names_whole(database: &Path, roles: &HashMap<u64, Role>) -> io::Result<bool> {
    let mut names = BTreeMap::new();
    for path in salvage::files(&salvage::keyspace_dir(database, NAMES).join("tables"))? {
        let damaged = salvage::read_table(&path, |item| {
            if let (Some((b'n', number)), Some(name)) = (item.key.split_first(), item.value)
                && let Ok(number) = number.try_into()
            {
                names.insert(u64::from_be_bytes(number), name);
            }
            Ok(true)
        })?;
        if damaged {
            return Ok(false);
        }
    }
    Ok(roles.iter().all(|(number, role)| {
        names.get(number).is_some_and(|name| *name == role.name().into_bytes())
    }))
}

/// Whether a table holds what its keyspace holds, by its first entry.
fn belongs(table: &Path, role: Role) -> io::Result<bool> {
    let mut belongs = false;
    salvage::read_table(table, |item| {
        belongs = salvage::is_key_of(role, &item.key);
        if let (true, Role::Log(topic), Some(value)) = (belongs, role, &item.value)
            && let Ok(offset) = layout::offset_of(&item.key)
        {
            belongs = layout::is_whole(topic, offset, value) != Some(false);
        }
        Ok(false)
    })?;
    Ok(belongs)
}

fn check_journals(
    directory: &Directory,
    database: &Path,
    marked: Option<&Marked>,
) -> io::Result<Verdict> {
    let roles = salvage::roles(marked);
    let journals = salvage::journals(database)?;
    if journals.windows(2).any(|pair| pair[0].0 + 1 != pair[1].0) {
        return Ok(Verdict::Damaged("a journal is missing".to_owned()));
    }
    if journals.is_empty() && marked.is_some() {
        // The library always has one. Without any it would number its writes from 0 again, and hide them behind older ones.
        return Ok(Verdict::Damaged("its journals are gone".to_owned()));
    }
    let mut last: PerTopic<Option<u64>> = PerTopic::from_fn(|_| None);
    let mut seams = no_seams();
    let mut strange_key = false;
    for (number, path) in journals {
        let survey = salvage::survey(&path, |keyspace, key| {
            let Some(role) = roles.get(&keyspace) else {
                return;
            };
            strange_key |= !salvage::is_key_of(*role, key);
            if let (Role::Log(topic), Ok(offset)) = (*role, layout::offset_of(key)) {
                let before = last.get_mut(topic);
                if before.is_none_or(|before| before.saturating_add(1) != offset) {
                    seams.get_mut(topic).push(offset);
                }
                *before = Some(offset);
            }
        })?;
        if survey.is_interrupted {
            return Ok(Verdict::Damaged(format!("journal {number} is damaged")));
        }
        if survey.has_tail() {
            directory.cut_tail(number, &path, survey.whole_bytes, survey.used_bytes)?;
        }
    }
    if strange_key {
        return Ok(Verdict::Damaged("a journal holds keys of another keyspace".to_owned()));
    }
    Ok(Verdict::Sound(seams))
}

/// Whether an open database has what its mark and its journals say; why not, for people.
pub(super) fn verify(
    storage: &Storage,
    marked: Option<&Marked>,
    seams: &Seams,
) -> Result<Option<String>, Failure> {
    for topic in Topic::ALL {
        let extent = storage.extent(topic)?;
        if let Some(marked) = marked {
            if extent.next < marked.next(topic) {
                return Ok(Some(format!(
                    "{topic} was durable up to {}, and ends at {}",
                    marked.next(topic),
                    extent.next
                )));
            }
            if extent.first < marked.first(topic) && extent.first != extent.next {
                return Ok(Some(format!("the beginning of {topic} is not where it was")));
            }
        }
        let mut known: Option<RangeSet> = None;
        for seam in seams.get(topic) {
            let Some(before) = seam.checked_sub(1).filter(|before| extent.first <= *before) else {
                continue;
            };
            if storage.topics.get(topic).log.get(layout::log_key(before))?.is_some() {
                continue;
            }
            if known.is_none() {
                known = Some(super::damage::known(storage, topic)?);
            }
            if known.as_ref().is_none_or(|known| !known.contains(before)) {
                return Ok(Some(format!("record {before} of {topic} is missing")));
            }
        }
    }
    let revision = super::documents::last_revision(storage)?;
    let marked = marked.map_or(0, |marked| marked.revision);
    if revision < marked {
        return Ok(Some(format!("documents had revision {marked}, and have {revision}")));
    }
    Ok(None)
}
