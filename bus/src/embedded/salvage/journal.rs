//! The journals of the storage library: telling a torn tail from damage, and reading what damage left.
//!
//! A journal is a row of batches, and zeros up to its preallocated size. A batch is
//!
//! ```text
//! 1  item count u32  seqno u64                                                     begin
//! 2  type u8  compression u8  keyspace u64  key length u16  value length u32
//!    stored length u32  key  stored value                                          item, many times
//! 4  keyspace u64                                                                  or: keyspace cleared
//! 3  checksum of the items u64  "FJL" 3                                            end
//! ```
//!
//! all little endian, the checksum being the XXH3 (64 bits) of the items as they stand there. The library cuts a journal
//! off at the first byte that it cannot read, so it must never see one that has bad bytes in the middle.

use std::io;
use std::path::Path;

use xxhash_rust::xxh3::Xxh3;

use super::window::Window;

const BEGIN: u8 = 1;
const ITEM: u8 = 2;
const END: u8 = 3;
const CLEAR: u8 = 4;

const BEGIN_BYTES: usize = 13;
const ITEM_HEADER_BYTES: usize = 21;
const CLEAR_BYTES: usize = 9;
const END_BYTES: usize = 13;
const END_MAGIC: &[u8] = b"FJL\x03";

/// More than any value of ours has: a larger one is no value.
const VALUE_BYTES_MAX: usize = 16 * 1024 * 1024;

/// Something written under a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::embedded) struct Item {
    /// The library's number; 0 when it was read from a table, whose place says it.
    pub(in crate::embedded) keyspace: u64,
    pub(in crate::embedded) seqno: u64,
    pub(in crate::embedded) key: Vec<u8>,
    /// None: the key was removed.
    pub(in crate::embedded) value: Option<Vec<u8>>,
}

/// What a journal is made of.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(in crate::embedded) struct Survey {
    /// Where the last whole batch ends before the first bytes that are none.
    pub(in crate::embedded) whole_bytes: u64,
    /// Where the last byte that is not zero ends.
    pub(in crate::embedded) used_bytes: u64,
    /// Whether whole batches come after bytes that are none: nothing but damage makes that.
    pub(in crate::embedded) is_interrupted: bool,
}

impl Survey {
    /// Whether something follows the last whole batch that is none.
    pub(in crate::embedded) fn has_tail(&self) -> bool {
        self.whole_bytes < self.used_bytes
    }
}

/// Reads the keys of all batches up to the first bytes that are none, and looks at what comes then.
pub(in crate::embedded) fn survey(
    path: &Path,
    mut visit: impl FnMut(u64, &[u8]),
) -> io::Result<Survey> {
    let mut window = Window::open(path)?;
    let mut survey = Survey::default();
    let mut keys = Vec::new();
    while let Some(bytes) = skip_batch(&mut window, &mut keys)? {
        survey.whole_bytes += bytes;
        keys.drain(..).for_each(|(keyspace, key)| visit(keyspace, &key));
    }
    survey.used_bytes = survey.whole_bytes;

    // The window stands somewhere in what is no batch.
    let mut window = Window::open(path)?;
    seek(&mut window, survey.whole_bytes)?;
    let mut is_first = true;
    loop {
        let chunk = window.peek(BEGIN_BYTES + 1)?;
        let Some(&byte) = chunk.first() else {
            return Ok(survey);
        };
        if byte == 0 {
            skip_zeros(&mut window)?;
            is_first = false;
            continue;
        }
        let may_begin = byte == BEGIN && !is_first && matches!(chunk.last(), Some(&(ITEM | CLEAR)));
        survey.used_bytes = window.position() + 1;
        is_first = false;
        if may_begin && read_batch(&mut window)?.is_some() {
            survey.is_interrupted = true;
            return Ok(survey);
        }
        window.skip(1);
    }
}

/// Passes over zeros, of which a preallocated journal has millions.
fn skip_zeros(window: &mut Window) -> io::Result<()> {
    const ZEROS: [u8; 4096] = [0; 4096];
    loop {
        let chunk = window.peek(ZEROS.len())?;
        if chunk != &ZEROS[..chunk.len()] || chunk.is_empty() {
            let zeros = chunk.iter().take_while(|byte| **byte == 0).count();
            window.skip(zeros);
            return Ok(());
        }
        let zeros = chunk.len();
        window.skip(zeros);
    }
}

fn seek(window: &mut Window, position: u64) -> io::Result<()> {
    while window.position() < position {
        let step = usize::try_from(position - window.position()).unwrap_or(usize::MAX).min(65_536);
        if window.peek(step)?.is_empty() {
            return Ok(());
        }
        window.skip(step);
    }
    Ok(())
}

/// Passes over a whole batch: its length, and its keys. None, with the window anywhere, when there is no whole one.
fn skip_batch(window: &mut Window, keys: &mut Vec<(u64, Vec<u8>)>) -> io::Result<Option<u64>> {
    keys.clear();
    let begin = window.position();
    let Some((count, _)) = read_begin(window)? else {
        return Ok(None);
    };
    window.skip(BEGIN_BYTES);
    let mut hash = Xxh3::new();
    for _ in 0..count {
        let Some(part) = peek_part(window)? else {
            return Ok(None);
        };
        let bytes = window.peek(part.bytes)?;
        if bytes.len() < part.bytes {
            return Ok(None);
        }
        hash.update(bytes);
        if part.is_item {
            keys.push((part.keyspace, bytes[ITEM_HEADER_BYTES..][..part.key_bytes].to_vec()));
        }
        window.skip(part.bytes);
    }
    if !is_end(window.peek(END_BYTES)?, hash.digest()) {
        return Ok(None);
    }
    window.skip(END_BYTES);
    Ok(Some(window.position() - begin))
}

/// The items of the whole batch that begins here, and its length. The window does not move.
fn read_batch(window: &mut Window) -> io::Result<Option<(Vec<Item>, usize)>> {
    let Some((count, seqno)) = read_begin(window)? else {
        return Ok(None);
    };
    let mut length = BEGIN_BYTES;
    let mut hash = Xxh3::new();
    let mut items = Vec::new();
    for _ in 0..count {
        let Some(part) = peek_part_at(window, length)? else {
            return Ok(None);
        };
        let bytes = window.peek(length + part.bytes)?;
        let Some(bytes) = bytes.get(length..length + part.bytes) else {
            return Ok(None);
        };
        hash.update(bytes);
        if part.is_item {
            let Some(item) = read_item(bytes, &part, seqno) else {
                return Ok(None);
            };
            items.push(item);
        }
        length += part.bytes;
    }
    let end = window.peek(length + END_BYTES)?.get(length..).unwrap_or_default();
    Ok(is_end(end, hash.digest()).then_some((items, length + END_BYTES)))
}

fn read_begin(window: &mut Window) -> io::Result<Option<(u32, u64)>> {
    let bytes = window.peek(BEGIN_BYTES)?;
    if bytes.len() < BEGIN_BYTES || bytes[0] != BEGIN {
        return Ok(None);
    }
    Ok(number(bytes, 1).map(u32::from_le_bytes).zip(number(bytes, 5).map(u64::from_le_bytes)))
}

fn is_end(bytes: &[u8], checksum: u64) -> bool {
    END_BYTES <= bytes.len()
        && bytes[0] == END
        && number(bytes, 1).map(u64::from_le_bytes) == Some(checksum)
        && bytes[9..END_BYTES] == *END_MAGIC
}

fn number<const N: usize>(bytes: &[u8], at: usize) -> Option<[u8; N]> {
    bytes.get(at..)?.first_chunk().copied()
}

/// An item or the clearing of a keyspace, as its header describes it.
#[derive(Clone, Copy, Debug)]
struct Part {
    is_item: bool,
    keyspace: u64,
    key_bytes: usize,
    /// With the header.
    bytes: usize,
}

fn peek_part(window: &mut Window) -> io::Result<Option<Part>> {
    peek_part_at(window, 0)
}

fn peek_part_at(window: &mut Window, at: usize) -> io::Result<Option<Part>> {
    let bytes = window.peek(at + ITEM_HEADER_BYTES)?;
    Ok(bytes.get(at..).and_then(parse_part))
}

fn parse_part(bytes: &[u8]) -> Option<Part> {
    match *bytes.first()? {
        CLEAR => {
            let keyspace = number(bytes, 1).map(u64::from_le_bytes)?;
            Some(Part { is_item: false, keyspace, key_bytes: 0, bytes: CLEAR_BYTES })
        }
        ITEM => {
            let [kind, compression] = number(bytes, 1)?;
            let keyspace = number(bytes, 3).map(u64::from_le_bytes)?;
            let key_bytes = usize::from(number(bytes, 11).map(u16::from_le_bytes)?);
            let value_bytes = usize::try_from(number(bytes, 13).map(u32::from_le_bytes)?).ok()?;
            let stored_bytes = usize::try_from(number(bytes, 17).map(u32::from_le_bytes)?).ok()?;
            let is_known = kind <= 2
                && compression <= 1
                && value_bytes <= VALUE_BYTES_MAX
                && stored_bytes <= VALUE_BYTES_MAX
                && (compression == 1 || value_bytes == stored_bytes);
            let bytes = ITEM_HEADER_BYTES + key_bytes + stored_bytes;
            is_known.then_some(Part { is_item: true, keyspace, key_bytes, bytes })
        }
        _ => None,
    }
}

fn read_item(bytes: &[u8], part: &Part, seqno: u64) -> Option<Item> {
    let [kind, compression] = number(bytes, 1)?;
    let (key, stored) = bytes.get(ITEM_HEADER_BYTES..)?.split_at_checked(part.key_bytes)?;
    let value = match (kind, compression) {
        (0, 0) => Some(stored.to_vec()),
        (0, _) => {
            let bytes = usize::try_from(number(bytes, 13).map(u32::from_le_bytes)?).ok()?;
            let value = lz4_flex::block::decompress(stored, bytes).ok()?;
            Some(value).filter(|value| value.len() == bytes)
        }
        _ => return Some(Item { keyspace: part.keyspace, seqno, key: key.to_vec(), value: None }),
    };
    Some(Item { keyspace: part.keyspace, seqno, key: key.to_vec(), value: Some(value?) })
}

/// How an item was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::embedded) enum Trust {
    /// In a whole batch.
    Whole,
    /// Alone in damaged bytes: it must prove by itself that it is whole.
    Doubtful,
}

/// Reads all that can be read of a journal, in order. `visit` says whether it believes the item. Returns whether
/// there were bytes that are no batch.
pub(in crate::embedded) fn salvage(
    path: &Path,
    mut visit: impl FnMut(Item, Trust) -> io::Result<bool>,
) -> io::Result<bool> {
    let mut window = Window::open(path)?;
    let mut is_damaged = false;
    loop {
        let Some(&byte) = window.peek(1)?.first() else {
            return Ok(is_damaged || window.is_unreadable());
        };
        if byte == 0 {
            skip_zeros(&mut window)?;
            continue;
        }
        if byte == BEGIN
            && let Some((items, length)) = read_batch(&mut window)?
        {
            for item in items {
                visit(item, Trust::Whole)?;
            }
            window.skip(length);
            continue;
        }
        if byte == ITEM
            && let Some(part) = peek_part(&mut window)?
        {
            let bytes = window.peek(part.bytes)?;
            // The batch's number is not known here, and what proves itself is written once only.
            let item = (bytes.len() == part.bytes).then(|| read_item(bytes, &part, 0)).flatten();
            if let Some(item) = item
                && visit(item, Trust::Doubtful)?
            {
                is_damaged = true;
                window.skip(part.bytes);
                continue;
            }
        }
        is_damaged = true;
        window.skip(1);
    }
}
