//! The tables of the storage library, read block by block: what damage left of them, and whether there is any.
//!
//! A table is a row of blocks, its data first and its description last, and then a table of contents. A byte with the
//! version of the table stands before the description. A block is
//!
//! ```text
//! "LSM" 3  kind u8  checksum u128  length u32  plain length u32  checksum of these u32  bytes
//! ```
//!
//! little endian, both checksums XXH3 (128 bits; of the latter the lower 32). A data block, which LZ4 may have compressed, is a
//! row of entries and a trailer that ends with their count. An entry is
//!
//! ```text
//! type u8  seqno  key length  key                          value length  value      every so many entries
//! type u8  seqno  bytes shared with that key  rest length  rest  value length  value      the others
//! ```
//!
//! with numbers as varints and without the value where a key was removed. Because blocks carry their own checksums, each is
//! as good alone as within its table.

use std::io;
use std::path::Path;

use xxhash_rust::xxh3::xxh3_128;

use super::journal::Item;
use super::window::Window;

const MAGIC: &[u8] = b"LSM\x03";
const HEADER_BYTES: usize = 33;

/// The version of a table.
const VERSION: u8 = 3;

const DATA: u8 = 0;
const META: u8 = 3;

/// More than any block of ours has, which hold one record at least.
const BLOCK_BYTES_MAX: usize = 16 * 1024 * 1024;

/// Of a data block, from the restart interval to the count.
const TRAILER_BYTES: usize = 31;

/// Comes after the last entry.
const ENTRIES_END: u8 = 255;

/// Reads all whole data blocks, in order. `visit` says whether to go on. Returns whether the table is damaged: it
/// has other bytes than whole blocks before its description, or no description.
pub(in crate::embedded) fn salvage(
    path: &Path,
    mut visit: impl FnMut(Item) -> io::Result<bool>,
) -> io::Result<bool> {
    let mut window = Window::open(path)?;
    let mut is_damaged = false;
    let mut stray: Option<u8> = None;
    loop {
        let Some(&byte) = window.peek(1)?.first() else {
            // The description did not come.
            return Ok(true);
        };
        let Some(Block { kind, data, length }) = read_block(&mut window)? else {
            is_damaged |= stray.replace(byte).is_some();
            window.skip(1);
            continue;
        };
        is_damaged |= stray.take() != (kind == META).then_some(VERSION);
        match (kind, data.and_then(|data| parse_entries(&data))) {
            (META, _) => return Ok(is_damaged || window.is_unreadable()),
            (DATA, Some(items)) => {
                for item in items {
                    if !visit(item)? {
                        return Ok(is_damaged);
                    }
                }
            }
            (DATA, None) => is_damaged = true,
            _ => {}
        }
        window.skip(length);
    }
}

/// Whether any block of the table is damaged.
pub(in crate::embedded) fn is_damaged(path: &Path) -> io::Result<bool> {
    salvage(path, |_| Ok(true))
}

/// A whole block.
#[derive(Debug)]
struct Block {
    kind: u8,
    /// What it holds, when that is data.
    data: Option<Vec<u8>>,
    /// Bytes in the table.
    length: usize,
}

/// The whole block that begins here.
fn read_block(window: &mut Window) -> io::Result<Option<Block>> {
    let Some(header) = window.peek(HEADER_BYTES)?.first_chunk::<HEADER_BYTES>().copied() else {
        return Ok(None);
    };
    let word = |at: usize| u32::from_le_bytes([0, 1, 2, 3].map(|byte| header[at + byte]));
    let (described, header_check) = header.split_at(HEADER_BYTES - 4);
    if !header.starts_with(MAGIC) || xxh3_128(described).to_le_bytes()[..4] != *header_check {
        return Ok(None);
    }
    let mut check = [0; 16];
    check.copy_from_slice(&header[5..21]);
    let (stored_bytes, plain_bytes) = (word(21) as usize, word(25) as usize);
    if BLOCK_BYTES_MAX < stored_bytes.max(plain_bytes) {
        return Ok(None);
    }
    let length = HEADER_BYTES + stored_bytes;
    let stored = window.peek(length)?.get(HEADER_BYTES..).unwrap_or_default();
    if stored.len() != stored_bytes || xxh3_128(stored).to_le_bytes() != check {
        return Ok(None);
    }
    let kind = header[4];
    let data = (kind == DATA).then(|| {
        // The header does not say whether it is compressed, and what does not compress may come out as long.
        let plain = lz4_flex::block::decompress(stored, plain_bytes).unwrap_or_default();
        if plain.len() == plain_bytes && item_count(&plain).is_some() {
            plain
        } else {
            stored.to_vec()
        }
    });
    Ok(Some(Block { kind, data, length }))
}

fn item_count(data: &[u8]) -> Option<usize> {
    data.len().checked_sub(TRAILER_BYTES)?;
    data.last_chunk().map(|bytes| u32::from_le_bytes(*bytes) as usize)
}

/// The entries of a data block; none when it is not one.
fn parse_entries(data: &[u8]) -> Option<Vec<Item>> {
    let count = item_count(data)?;
    let (entries, trailer) = data.split_at(data.len() - TRAILER_BYTES);
    let interval = usize::from(*trailer.first()?).max(1);
    let mut reader = Reader(entries);
    let mut items = Vec::new();
    let mut base = Vec::new();
    for index in 0..count {
        let kind = reader.byte()?;
        let seqno = reader.varint()?;
        let key = if index % interval == 0 {
            let length = reader.length()?;
            base = reader.take(length)?.to_vec();
            base.clone()
        } else {
            let shared = reader.length()?;
            let rest = reader.length()?;
            let mut key = base.get(..shared)?.to_vec();
            key.extend_from_slice(reader.take(rest)?);
            key
        };
        let value = match kind {
            0 => {
                let length = reader.length()?;
                Some(reader.take(length)?.to_vec())
            }
            1 | 2 => None,
            _ => return None,
        };
        items.push(Item { keyspace: 0, seqno, key, value });
    }
    (reader.byte()? == ENTRIES_END).then_some(items)
}

struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn byte(&mut self) -> Option<u8> {
        let (byte, rest) = self.0.split_first()?;
        self.0 = rest;
        Some(*byte)
    }

    fn take(&mut self, bytes: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(bytes)?;
        self.0 = rest;
        Some(taken)
    }

    fn length(&mut self) -> Option<usize> {
        usize::try_from(self.varint()?).ok()
    }

    /// Seven bits to a byte, the lowest first.
    fn varint(&mut self) -> Option<u64> {
        let mut number = 0_u64;
        for shift in (0..u64::BITS).step_by(7) {
            let byte = self.byte()?;
            number |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Some(number);
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::fs;

    use fjall::{CompressionType, KeyspaceCreateOptions, config::CompressionPolicy};

    use super::*;
    use crate::embedded::salvage::{files, keyspace_dir};

    /// The tables of a keyspace of `entries`, as the library writes them.
    fn tables(
        dir: &Path,
        compression: CompressionType,
    ) -> (Vec<std::path::PathBuf>, Vec<std::path::PathBuf>) {
        let database = fjall::Database::builder(dir).open().unwrap();
        let keyspace = database
            .keyspace("x", || {
                KeyspaceCreateOptions::default()
                    .data_block_compression_policy(CompressionPolicy::all(compression))
            })
            .unwrap();
        for (key, value) in entries() {
            keyspace.insert(key, value).unwrap();
        }
        keyspace.remove(b"removed".as_slice()).unwrap();
        keyspace.rotate_memtable_and_wait().unwrap();
        let tables = |number| files(&keyspace_dir(dir, number).join("tables")).unwrap();
        (tables(1), tables(0))
    }

    fn entries() -> BTreeMap<Vec<u8>, Vec<u8>> {
        (0..500_u32).map(|n| (format!("key {n}").into_bytes(), vec![7; n as usize])).collect()
    }

    fn read(path: &Path) -> (BTreeMap<Vec<u8>, Option<Vec<u8>>>, bool) {
        let mut found = BTreeMap::new();
        let damaged = salvage(path, |item| {
            found.insert(item.key, item.value);
            Ok(true)
        });
        (found, damaged.unwrap())
    }

    #[test]
    fn tables_are_read_as_the_library_writes_them() {
        for compression in [CompressionType::None, CompressionType::Lz4] {
            let dir = tempfile::tempdir().unwrap();
            let (tables, names) = tables(dir.path(), compression);
            let [table] = &tables[..] else {
                panic!("{tables:?}");
            };
            let (mut found, damaged) = read(table);
            assert!(!damaged);
            assert_eq!(found.remove(b"removed".as_slice()), Some(None));
            let expected = entries().into_iter().map(|(key, value)| (key, Some(value)));
            assert_eq!(found, expected.collect());
            // The library's own keyspace, which it writes in another way.
            assert!(!names.is_empty());
            for table in names {
                let (found, damaged) = read(&table);
                assert!(!damaged, "{found:?}");
                assert!(!found.is_empty());
            }
        }
    }

    #[test]
    fn a_damaged_block_costs_itself_only() {
        let dir = tempfile::tempdir().unwrap();
        let (tables, _) = tables(dir.path(), CompressionType::None);
        let whole = fs::read(&tables[0]).unwrap();
        let all = read(&tables[0]).0.len();
        for at in (0..whole.len() * 3 / 4).step_by(701) {
            let mut bad = whole.clone();
            bad[at] ^= 1;
            fs::write(&tables[0], &bad).unwrap();
            let (found, damaged) = read(&tables[0]);
            assert!(damaged, "{at}");
            assert!(all - 200 < found.len(), "{at}: {}", found.len());
        }
    }
}
