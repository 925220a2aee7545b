//! A disk in memory that fails as real ones do, for tests and for the simulation. The same calls and seeds give the same
//! bytes.

use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use agent_core::random::SplitMix64;

use super::Disk;

/// Bytes that a disk writes as one piece, when it does.
const SECTOR_BYTES: usize = 512;

/// What becomes of writes that were not synced when the power goes. Each file's are cut into sectors first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unsynced {
    /// None of them is there.
    Lost,
    /// All of them are.
    Kept,
    /// The earliest are there, up to a random point.
    Prefix,
    /// Each sector and each change of the directory is there or not, at random.
    Subset,
    /// As `Subset`, and a sector may be there up to a random byte.
    Torn,
}

impl Unsynced {
    /// All of them.
    pub const ALL: [Self; 5] = [Self::Lost, Self::Kept, Self::Prefix, Self::Subset, Self::Torn];
}

/// An error that the system reports.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// EIO: the device failed.
    Device,
    /// ENOSPC: there is no room.
    NoSpace,
}

impl Fault {
    fn error(self) -> io::Error {
        // The numbers of Linux, which all systems share.
        io::Error::from_raw_os_error(match self {
            Self::Device => 5,
            Self::NoSpace => 28,
        })
    }
}

/// The disk. Clones are the same disk, so a test keeps one and hands another to the spool.
#[derive(Clone, Debug, Default)]
pub struct SimDisk(Arc<Mutex<Inner>>);

#[derive(Clone, Debug, Default)]
struct Inner {
    files: Vec<Content>,
    /// File by name, as programs see it.
    names: BTreeMap<String, usize>,
    durable_names: BTreeMap<String, usize>,
    /// Changes of names since the directory was synced; none in place of a file is its removal.
    renamed: Vec<(String, Option<usize>)>,
    capacity_bytes: Option<u64>,
    operations: u64,
    changes: u64,
    written_bytes: u64,
    crash_at: Option<u64>,
    is_down: bool,
    fail_at: Option<(u64, Fault)>,
    all_writes_fail: Option<Fault>,
}

#[derive(Clone, Debug, Default)]
struct Content {
    seen: Vec<u8>,
    durable: Vec<u8>,
    unsynced: Vec<Write>,
    /// Of a sync that failed: they may be there after a crash, and no later sync makes sure of it.
    forsaken: Vec<Write>,
}

#[derive(Clone, Debug)]
struct Write {
    offset: usize,
    bytes: Vec<u8>,
}

impl Write {
    fn apply(&self, content: &mut Vec<u8>) {
        let end = self.offset + self.bytes.len();
        if content.len() < end {
            content.resize(end, 0);
        }
        content[self.offset..end].copy_from_slice(&self.bytes);
    }

    fn sectors(&self) -> impl Iterator<Item = Self> + '_ {
        let first = SECTOR_BYTES - self.offset % SECTOR_BYTES;
        let (head, rest) = self.bytes.split_at(first.min(self.bytes.len()));
        let head = Self { offset: self.offset, bytes: head.to_vec() };
        let rest = rest.chunks(SECTOR_BYTES).enumerate().map(move |(index, bytes)| Self {
            offset: self.offset + first + index * SECTOR_BYTES,
            bytes: bytes.to_vec(),
        });
        std::iter::once(head).chain(rest)
    }
}

impl SimDisk {
    /// An empty disk without faults.
    pub fn new() -> Self {
        Self::default()
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        // A test that panicked elsewhere leaves the disk as it was.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Operations so far, reading ones included.
    pub fn operations(&self) -> u64 {
        self.inner().operations
    }

    /// Operations so far that change something or sync.
    pub fn changes(&self) -> u64 {
        self.inner().changes
    }

    /// Bytes written so far.
    pub fn written_bytes(&self) -> u64 {
        self.inner().written_bytes
    }

    /// Bytes of all files.
    pub fn bytes(&self) -> u64 {
        self.inner().bytes()
    }

    /// From now on there is room for so many bytes; none: for any number.
    pub fn set_capacity(&self, bytes: Option<u64>) {
        self.inner().capacity_bytes = bytes;
    }

    /// The power goes in the middle of the change with this number, see [`changes`](Self::changes), from 0. It and all
    /// later operations are errors until [`restart`](Self::restart).
    pub fn crash_at(&self, change: u64) {
        self.inner().crash_at = Some(change);
    }

    /// Whether the power is gone.
    pub fn is_down(&self) -> bool {
        self.inner().is_down
    }

    /// The operation with this number, see [`operations`](Self::operations), from 0, fails.
    pub fn fail_at(&self, operation: u64, fault: Fault) {
        self.inner().fail_at = Some((operation, fault));
    }

    /// Every write, sync, creation and removal fails until this is called with none.
    pub fn fail_changes(&self, fault: Option<Fault>) {
        self.inner().all_writes_fail = fault;
    }

    /// The power goes, if it has not yet, and comes back: what was synced is there, and of the rest what `unsynced` says.
    /// Faults that were asked for are over.
    pub fn restart(&self, unsynced: Unsynced, seed: u64) {
        let mut inner = self.inner();
        let mut random = SplitMix64::new(seed);
        let Inner { files, durable_names, renamed, .. } = &mut *inner;
        for (name, file) in survivors(std::mem::take(renamed), unsynced, &mut random) {
            match file {
                Some(file) => durable_names.insert(name, file),
                None => durable_names.remove(&name),
            };
        }
        for file in files {
            let forsaken = std::mem::take(&mut file.forsaken);
            let writes = forsaken.iter().chain(&file.unsynced);
            let sectors = writes.flat_map(Write::sectors).collect();
            for mut write in survivors(sectors, unsynced, &mut random) {
                if unsynced == Unsynced::Torn && random.up_to(1) == 0 {
                    let length = u64::try_from(write.bytes.len()).unwrap_or(u64::MAX);
                    write.bytes.truncate(usize::try_from(random.up_to(length)).unwrap_or(0));
                }
                write.apply(&mut file.durable);
            }
            file.unsynced.clear();
            file.seen.clone_from(&file.durable);
        }
        inner.names = inner.durable_names.clone();
        inner.is_down = false;
        inner.crash_at = None;
        inner.fail_at = None;
        inner.all_writes_fail = None;
    }

    /// Another disk that is as this one is now, with what is not synced and the faults that are to come.
    pub fn fork(&self) -> Self {
        Self(Arc::new(Mutex::new(self.inner().clone())))
    }

    /// The power is back without having been gone: what was written is there, synced or not. So it is for a process that
    /// follows one that was killed.
    pub fn revive(&self) {
        let mut inner = self.inner();
        inner.is_down = false;
        inner.crash_at = None;
    }

    /// All files, durable or not.
    pub fn files(&self) -> Vec<(String, Vec<u8>)> {
        let inner = self.inner();
        let files = inner.names.iter();
        files.map(|(name, file)| (name.clone(), inner.files[*file].seen.clone())).collect()
    }

    /// Puts a file there, durable, in place of one of this name: how a test damages the disk.
    pub fn put(&self, name: &str, bytes: Vec<u8>) {
        let mut inner = self.inner();
        let file = inner.files.len();
        inner.files.push(Content { seen: bytes.clone(), durable: bytes, ..Content::default() });
        inner.names.insert(name.to_owned(), file);
        inner.durable_names.insert(name.to_owned(), file);
    }

    /// Takes a file away for good: how a test damages the disk.
    pub fn take(&self, name: &str) -> Option<Vec<u8>> {
        let mut inner = self.inner();
        inner.durable_names.remove(name);
        let file = inner.names.remove(name)?;
        Some(inner.files[file].seen.clone())
    }
}

/// Which of `pending`, earliest first, are there after a crash.
fn survivors<T>(pending: Vec<T>, unsynced: Unsynced, random: &mut SplitMix64) -> Vec<T> {
    let count = u64::try_from(pending.len()).unwrap_or(u64::MAX);
    let kept = match unsynced {
        Unsynced::Lost => 0,
        Unsynced::Kept => count,
        Unsynced::Prefix => random.up_to(count),
        Unsynced::Subset | Unsynced::Torn => {
            return pending.into_iter().filter(|_| random.up_to(1) == 0).collect();
        }
    };
    pending.into_iter().take(usize::try_from(kept).unwrap_or(usize::MAX)).collect()
}

/// What an operation does when it is its turn.
enum Turn {
    /// It is done.
    Done,
    /// It is begun, and this is what becomes of it.
    Broken(io::Error),
}

impl Inner {
    fn bytes(&self) -> u64 {
        let lengths = self.names.values().map(|file| self.files[*file].seen.len());
        lengths.map(|length| u64::try_from(length).unwrap_or(u64::MAX)).sum()
    }

    fn file(&self, name: &str) -> io::Result<usize> {
        self.names.get(name).copied().ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    fn read_turn(&mut self) -> io::Result<()> {
        let operation = self.operations;
        self.operations += 1;
        if self.is_down {
            return Err(power_is_gone());
        }
        match self.fail_at {
            Some((at, fault)) if at == operation => Err(fault.error()),
            _ => Ok(()),
        }
    }

    fn change_turn(&mut self) -> io::Result<Turn> {
        let change = self.changes;
        self.changes += 1;
        if let Err(error) = self.read_turn() {
            return if self.is_down { Err(error) } else { Ok(Turn::Broken(error)) };
        }
        if self.crash_at == Some(change) {
            self.is_down = true;
            return Ok(Turn::Broken(power_is_gone()));
        }
        match self.all_writes_fail {
            Some(fault) => Ok(Turn::Broken(fault.error())),
            None => Ok(Turn::Done),
        }
    }
}

fn power_is_gone() -> io::Error {
    io::Error::other("the power is gone")
}

impl Disk for SimDisk {
    fn list(&mut self) -> io::Result<Vec<(String, u64)>> {
        let mut inner = self.inner();
        inner.read_turn()?;
        let length = |file: &usize| u64::try_from(inner.files[*file].seen.len());
        let files = inner.names.iter();
        files.map(|(name, file)| Ok((name.clone(), length(file).unwrap_or(u64::MAX)))).collect()
    }

    fn read(&mut self, name: &str, offset: u64, buffer: &mut [u8]) -> io::Result<usize> {
        let mut inner = self.inner();
        inner.read_turn()?;
        let file = inner.file(name)?;
        let offset = usize::try_from(offset).unwrap_or(usize::MAX);
        let rest = inner.files[file].seen.get(offset..).unwrap_or_default();
        let count = rest.len().min(buffer.len());
        buffer[..count].copy_from_slice(&rest[..count]);
        Ok(count)
    }

    fn create(&mut self, name: &str) -> io::Result<()> {
        let mut inner = self.inner();
        let turn = inner.change_turn()?;
        if let Turn::Broken(error) = turn
            && !inner.is_down
        {
            return Err(error);
        }
        if inner.names.contains_key(name) {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        let file = inner.files.len();
        inner.files.push(Content::default());
        inner.names.insert(name.to_owned(), file);
        inner.renamed.push((name.to_owned(), Some(file)));
        if inner.is_down { Err(power_is_gone()) } else { Ok(()) }
    }

    fn write_at(&mut self, name: &str, offset: u64, bytes: &[u8]) -> io::Result<()> {
        let mut inner = self.inner();
        let turn = inner.change_turn()?;
        let file = inner.file(name)?;
        let offset = usize::try_from(offset).map_err(|_| io::ErrorKind::InvalidInput)?;
        let length = inner.files[file].seen.len();
        let (written, result) = match turn {
            // With the power gone each part of it may be there; a device that fails has done a half.
            Turn::Broken(error) if inner.is_down => (bytes.len(), Err(error)),
            Turn::Broken(error) => (bytes.len() / 2, Err(error)),
            Turn::Done => {
                let used = inner.bytes();
                let left = inner.capacity_bytes.map_or(u64::MAX, |all| all.saturating_sub(used));
                let left = usize::try_from(left).unwrap_or(usize::MAX);
                let room = left.saturating_add(length.saturating_sub(offset));
                if bytes.len() <= room {
                    (bytes.len(), Ok(()))
                } else {
                    (room, Err(Fault::NoSpace.error()))
                }
            }
        };
        let write = Write { offset, bytes: bytes[..written].to_vec() };
        inner.written_bytes += u64::try_from(written).unwrap_or(u64::MAX);
        let content = &mut inner.files[file];
        write.apply(&mut content.seen);
        content.unsynced.push(write);
        result
    }

    fn sync(&mut self, name: &str) -> io::Result<()> {
        let mut inner = self.inner();
        let turn = inner.change_turn()?;
        let file = inner.file(name)?;
        let is_down = inner.is_down;
        let content = &mut inner.files[file];
        match turn {
            Turn::Done => {
                for write in std::mem::take(&mut content.unsynced) {
                    write.apply(&mut content.durable);
                }
                Ok(())
            }
            Turn::Broken(error) => {
                if !is_down {
                    let unsynced = std::mem::take(&mut content.unsynced);
                    content.forsaken.extend(unsynced);
                }
                Err(error)
            }
        }
    }

    fn sync_directory(&mut self) -> io::Result<()> {
        let mut inner = self.inner();
        match inner.change_turn()? {
            Turn::Done => {
                inner.durable_names = inner.names.clone();
                inner.renamed.clear();
                Ok(())
            }
            Turn::Broken(error) => Err(error),
        }
    }

    fn remove(&mut self, name: &str) -> io::Result<()> {
        let mut inner = self.inner();
        let turn = inner.change_turn()?;
        if let Turn::Broken(error) = turn
            && !inner.is_down
        {
            return Err(error);
        }
        inner.names.remove(name).ok_or(io::ErrorKind::NotFound)?;
        inner.renamed.push((name.to_owned(), None));
        if inner.is_down { Err(power_is_gone()) } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn content(disk: &SimDisk) -> Vec<(String, Vec<u8>)> {
        disk.files()
    }

    #[test]
    fn what_is_synced_is_there_and_the_rest_is_up_to_the_crash() {
        for unsynced in Unsynced::ALL {
            let mut disk = SimDisk::new();
            disk.create("a").unwrap();
            disk.write_at("a", 0, b"one").unwrap();
            disk.sync("a").unwrap();
            disk.sync_directory().unwrap();
            disk.write_at("a", 3, b"two").unwrap();
            disk.create("b").unwrap();
            disk.crash_at(disk.changes());
            assert!(disk.sync("a").is_err());
            assert!(disk.list().is_err());
            disk.restart(unsynced, 7);
            let files = content(&disk);
            assert!(files[0].1.starts_with(b"one"), "{unsynced:?}");
            match unsynced {
                Unsynced::Lost => assert_eq!(files, [("a".to_owned(), b"one".to_vec())]),
                Unsynced::Kept => assert_eq!((files.len(), files[0].1.len()), (2, 6)),
                Unsynced::Prefix | Unsynced::Subset | Unsynced::Torn => {}
            }
        }
    }

    #[test]
    fn a_sync_after_one_that_failed_makes_nothing_sure() {
        let mut disk = SimDisk::new();
        disk.create("a").unwrap();
        disk.sync_directory().unwrap();
        disk.write_at("a", 0, b"one").unwrap();
        disk.fail_at(disk.operations(), Fault::Device);
        assert!(disk.sync("a").is_err());
        disk.sync("a").unwrap();
        disk.restart(Unsynced::Lost, 0);
        assert_eq!(content(&disk), [("a".to_owned(), vec![])]);
    }

    #[test]
    fn a_full_disk_takes_what_fits() {
        let mut disk = SimDisk::new();
        disk.create("a").unwrap();
        disk.set_capacity(Some(4));
        disk.write_at("a", 0, b"one").unwrap();
        assert!(disk.write_at("a", 3, b"two").is_err());
        assert_eq!(content(&disk)[0].1, b"onet");
        disk.write_at("a", 0, b"four").unwrap();
    }
}
