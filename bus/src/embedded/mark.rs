//! The durable mark: how far each topic was stored durably, kept apart from the storage library.
//!
//! What a crash leaves at the end of a journal looks like damage, and damage there looks like a crash. The mark tells
//! them apart: it never names a record that was not durable, so a record that it names and that is not there was taken
//! by damage. Its offset is not given again.
//!
//! ```text
//! 0        4              12         12+n                      4096 ...
//! +--------+--------------+----------+-------------------------+---------------
//! | n      | XXH3 of them | n bytes  |                         | the other slot
//! +--------+--------------+----------+-------------------------+---------------
//!   u32 LE   u64 LE         protobuf
//! ```
//!
//! It is written after each commit and made durable once a second. Of the two slots only one is written until it is
//! durable, so the other one is always whole. After a loss of power the mark may be behind by a second, and then misses
//! damage that befell just that second's records: both must happen at once.

use std::fs::{self, File};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::Path;
use std::time::{Duration, Instant};

use prost::Message;
use xxhash_rust::xxh3::xxh3_64;

use super::PerTopic;
use super::directory::{FORMAT_VERSION, sync_directory};
use crate::topic::Topic;

const FILE: &str = "MARK";
const DRAFT: &str = "MARK.new";

/// Apart by a page, so that no sector and no page holds both.
const SLOT_BYTES: usize = 4096;
const HEADER_BYTES: usize = 12;

/// A sync costs a write of the flash or a turn of the disk: one a second is few beside those of the records.
const SYNC_INTERVAL: Duration = Duration::from_secs(1);

/// What the mark says.
#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct Marked {
    /// Rises with each write.
    #[prost(uint64, tag = "1")]
    generation: u64,
    /// By topic, in their order: the oldest offset kept.
    #[prost(uint64, repeated, tag = "2")]
    first: Vec<u64>,
    /// By topic: every offset below was durable.
    #[prost(uint64, repeated, tag = "3")]
    next: Vec<u64>,
    /// The library's numbers of our keyspaces, in the order of `Role::all`.
    #[prost(uint64, repeated, tag = "4")]
    pub(super) keyspaces: Vec<u64>,
    /// The revision of the documents that was durable.
    #[prost(uint64, tag = "5")]
    pub(super) revision: u64,
    /// The format of the directory, as the file `FORMAT` says it too.
    #[prost(uint32, tag = "6")]
    pub(super) format: u32,
}

impl Marked {
    pub(super) fn new(keyspaces: Vec<u64>) -> Self {
        let ones = vec![1; Topic::ALL.len()];
        Self {
            generation: 0,
            first: ones.clone(),
            next: ones,
            keyspaces,
            revision: 0,
            format: FORMAT_VERSION,
        }
    }

    /// The oldest offset of `topic`; 1 when it does not say.
    pub(super) fn first(&self, topic: Topic) -> u64 {
        self.first.get(topic as usize).copied().unwrap_or(1)
    }

    /// The offset before which all of `topic` was durable.
    pub(super) fn next(&self, topic: Topic) -> u64 {
        self.next.get(topic as usize).copied().unwrap_or(1)
    }

    /// Whether nothing was ever stored.
    pub(super) fn is_new(&self) -> bool {
        Topic::ALL.into_iter().all(|topic| self.next(topic) <= 1)
    }
}

/// The file of the mark. Its owner is the writer thread.
#[derive(Debug)]
pub(super) struct MarkFile {
    file: File,
    marked: Marked,
    /// The slot being written. The other is durable.
    slot: usize,
    /// Since when there is something that is not durable.
    dirty_since: Option<Instant>,
}

/// What was found of a mark.
#[derive(Debug)]
pub(super) enum Found {
    /// There is none.
    None,
    /// There is a file without a whole slot.
    Damaged,
    Marked(Marked),
}

/// Reads the mark in `dir`.
pub(super) fn read(dir: &Path) -> io::Result<Found> {
    let mut bytes = Vec::new();
    match File::open(dir.join(FILE)) {
        Ok(file) => {
            let read = file.take(2 * SLOT_BYTES as u64).read_to_end(&mut bytes);
            match read {
                Ok(_) => {}
                Err(error) if super::salvage::is_unreadable(&error) => return Ok(Found::Damaged),
                Err(error) => return Err(error),
            }
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Found::None),
        Err(error) => return Err(error),
    }
    let slots = bytes.chunks(SLOT_BYTES).filter_map(decode);
    Ok(slots.max_by_key(|marked| marked.generation).map_or(Found::Damaged, Found::Marked))
}

impl MarkFile {
    /// Puts a mark in `dir`, in place of any that is there.
    pub(super) fn create(dir: &Path, marked: Marked) -> io::Result<Self> {
        let draft = dir.join(DRAFT);
        let mut file =
            File::options().read(true).write(true).create(true).truncate(true).open(&draft)?;
        // Zeros that take their space now: later writes must not fail for the lack of it.
        file.write_all(&[0; 2 * SLOT_BYTES])?;
        let mut mark = Self { file, marked, slot: 0, dirty_since: None };
        mark.write()?;
        mark.file.sync_all()?;
        fs::rename(&draft, dir.join(FILE))?;
        sync_directory(dir)?;
        mark.slot = 1;
        Ok(mark)
    }

    /// Notes how far the topics are durable, as (first, next), and the documents if they changed.
    pub(super) fn advance(
        &mut self,
        extents: &PerTopic<(u64, u64)>,
        revision: Option<u64>,
    ) -> io::Result<()> {
        self.marked.revision = self.marked.revision.max(revision.unwrap_or(0));
        for topic in Topic::ALL {
            let (first, next) = *extents.get(topic);
            self.marked.first[topic as usize] = first.max(self.marked.first(topic));
            self.marked.next[topic as usize] = next.max(self.marked.next(topic));
        }
        self.write()?;
        let dirty_since = *self.dirty_since.get_or_insert_with(Instant::now);
        if SYNC_INTERVAL <= dirty_since.elapsed() {
            self.sync()?;
        }
        Ok(())
    }

    /// Makes it durable.
    pub(super) fn sync(&mut self) -> io::Result<()> {
        if self.dirty_since.is_some() {
            self.file.sync_data()?;
            self.dirty_since = None;
            self.slot = 1 - self.slot;
        }
        Ok(())
    }

    fn write(&mut self) -> io::Result<()> {
        self.marked.generation += 1;
        let bytes = encode(&self.marked);
        self.file.seek(SeekFrom::Start((self.slot * SLOT_BYTES) as u64))?;
        self.file.write_all(&bytes)
    }
}

fn encode(marked: &Marked) -> Vec<u8> {
    let body = marked.encode_to_vec();
    let length = u32::try_from(body.len()).expect("a mark has a few dozen numbers");
    let mut bytes = Vec::with_capacity(HEADER_BYTES + body.len());
    bytes.extend_from_slice(&length.to_le_bytes());
    bytes.extend_from_slice(&xxh3_64(&body).to_le_bytes());
    bytes.extend_from_slice(&body);
    bytes
}

fn decode(slot: &[u8]) -> Option<Marked> {
    let (header, rest) = slot.split_at_checked(HEADER_BYTES)?;
    let (length, check) = header.split_first_chunk::<4>()?;
    let body = rest.get(..u32::from_le_bytes(*length) as usize)?;
    let is_whole = !body.is_empty() && xxh3_64(body).to_le_bytes() == *check;
    is_whole.then(|| Marked::decode(body).ok()).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn extents(next: u64) -> PerTopic<(u64, u64)> {
        PerTopic::from_fn(|_| (1, next))
    }

    fn found_next(dir: &Path) -> Option<u64> {
        match read(dir).unwrap() {
            Found::Marked(marked) => Some(marked.next(Topic::Commands)),
            Found::None | Found::Damaged => None,
        }
    }

    #[test]
    fn the_newest_whole_slot_counts() {
        let dir = tempfile::tempdir().unwrap();
        assert!(matches!(read(dir.path()).unwrap(), Found::None));
        let mut mark = MarkFile::create(dir.path(), Marked::new(vec![1, 2])).unwrap();
        assert_eq!(found_next(dir.path()), Some(1));
        for next in 2..20 {
            mark.advance(&extents(next), None).unwrap();
            assert_eq!(found_next(dir.path()), Some(next));
            if next % 3 == 0 {
                mark.sync().unwrap();
            }
        }
        // It never falls, whatever it is told.
        mark.advance(&extents(3), None).unwrap();
        assert_eq!(found_next(dir.path()), Some(19));
    }

    #[test]
    fn a_write_that_is_not_durable_leaves_the_durable_slot_alone() {
        let dir = tempfile::tempdir().unwrap();
        let mut mark = MarkFile::create(dir.path(), Marked::new(vec![])).unwrap();
        mark.advance(&extents(5), None).unwrap();
        mark.sync().unwrap();
        for next in 6..9 {
            mark.advance(&extents(next), None).unwrap();
        }
        let path = dir.path().join(FILE);
        let whole = fs::read(&path).unwrap();
        for slot in 0..2 {
            // A torn write of any length and any content.
            let mut torn = whole.clone();
            torn[slot * SLOT_BYTES..][..SLOT_BYTES].fill(0xff);
            fs::write(&path, &torn).unwrap();
            let expected = if mark.slot == slot { 5 } else { 8 };
            assert_eq!(found_next(dir.path()), Some(expected));
        }
    }

    #[test]
    fn no_bit_may_change() {
        let dir = tempfile::tempdir().unwrap();
        MarkFile::create(dir.path(), Marked::new(vec![1, 2, 3])).unwrap();
        let path = dir.path().join(FILE);
        let whole = fs::read(&path).unwrap();
        for bit in 0..8 * 64 {
            let mut bad = whole.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            fs::write(&path, &bad).unwrap();
            match read(dir.path()).unwrap() {
                Found::Damaged => {}
                // Behind what is stored nothing matters.
                Found::Marked(marked) => assert_eq!(marked.keyspaces, [1, 2, 3]),
                Found::None => panic!("the file is there"),
            }
        }
        fs::write(&path, "").unwrap();
        assert!(matches!(read(dir.path()).unwrap(), Found::Damaged));
    }
}
