//! The ring: a fixed number of bytes that holds records in sequence order; when it is full the oldest give way.

use core::fmt;
use core::marker::PhantomData;

use heapless::Vec;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::id::Sequence;
use crate::limits::RECORD_BYTES_MAX;

/// What a ring can hold.
pub trait Stored: Serialize + DeserializeOwned {
    /// No value of the type takes more bytes in the postcard form. At most [`RECORD_BYTES_MAX`].
    const ENCODED_BYTES_MAX: usize;
}

/// Where a ring keeps its bytes: a list that begins empty and never becomes longer than the ring is.
///
/// What it takes of the host's memory should grow with it, as far as the host lets it.
pub trait Memory: AsRef<[u8]> + AsMut<[u8]> {
    /// An empty list that can take `bytes` bytes.
    fn with_room(bytes: usize) -> Self;

    /// Adds `bytes` at the end. Never more than there is room for.
    fn extend(&mut self, bytes: &[u8]);
}

/// Memory within the ring itself, without an allocator.
pub type Inline<const BYTES: usize> = Vec<u8, BYTES>;

impl<const BYTES: usize> Memory for Inline<BYTES> {
    fn with_room(bytes: usize) -> Self {
        debug_assert!(bytes <= BYTES);
        Self::new()
    }

    fn extend(&mut self, bytes: &[u8]) {
        self.extend_from_slice(bytes).expect("a ring has room for any record");
    }
}

/// Bytes that stand before each record: its length, little-endian.
const PREFIX_BYTES: usize = 2;

/// Records with consecutive sequences, as many as go into `BYTES` bytes.
///
/// They are kept in the postcard form: a snapshot of six metrics takes about 45 bytes, a tenth of its size in memory.
/// Policy when full: the oldest records give way to a new one, and the caller is told how many, to count them.
///
/// `M` is where they are: within the ring, if nothing else is said.
#[derive(Clone)]
pub struct Ring<T, const BYTES: usize, M = Inline<BYTES>> {
    // No longer than the most that has been used: memory is touched only where records have been.
    bytes: M,
    // head < BYTES: where the oldest record begins. A record may go on at the first byte behind the last.
    head: usize,
    // used <= BYTES
    used: usize,
    // The sequence of the oldest record; of the next one when there is none.
    first: Sequence,
    count: u64,
    records: PhantomData<T>,
}

impl<T: Stored, const BYTES: usize> Ring<T, BYTES> {
    /// An empty ring whose first record will get [`Sequence::FIRST`].
    pub fn new() -> Self {
        Self::with_memory()
    }
}

impl<T: Stored, const BYTES: usize, M: Memory> Ring<T, BYTES, M> {
    /// An empty ring whose first record will get [`Sequence::FIRST`], in memory of the kind `M`.
    pub fn with_memory() -> Self {
        const {
            assert!(T::ENCODED_BYTES_MAX <= RECORD_BYTES_MAX);
            assert!(PREFIX_BYTES + T::ENCODED_BYTES_MAX <= BYTES, "a ring has room for any record");
            assert!(RECORD_BYTES_MAX <= u16::MAX as usize);
        }
        let bytes = M::with_room(BYTES);
        Self { bytes, head: 0, used: 0, first: Sequence::FIRST, count: 0, records: PhantomData }
    }

    /// How many records it holds.
    pub const fn len(&self) -> u64 {
        self.count
    }

    /// Whether it holds none.
    pub const fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// How many of its bytes are in use.
    pub const fn used_bytes(&self) -> usize {
        self.used
    }

    /// The sequence of the oldest record; of the next one when there is none.
    pub const fn first(&self) -> Sequence {
        self.first
    }

    /// The sequence that the next record will get.
    pub fn end(&self) -> Sequence {
        advance(self.first, self.count)
    }

    /// Appends `record`. Answers how many of the oldest had to give way: those from what was [`Ring::first`] on.
    ///
    /// # Panics
    ///
    /// When `record` takes more bytes than [`Stored::ENCODED_BYTES_MAX`] says.
    pub fn push(&mut self, record: &T) -> u64 {
        let mut scratch = [0; RECORD_BYTES_MAX];
        let encoded = postcard::to_slice(record, &mut scratch)
            .expect("no record is longer than its type says");
        let length = u16::try_from(encoded.len()).expect("RECORD_BYTES_MAX fits");
        let mut evicted = 0;
        while BYTES - self.used < PREFIX_BYTES + encoded.len() {
            self.pop();
            evicted += 1;
        }
        let tail = self.head + self.used;
        self.write(tail, &length.to_le_bytes());
        self.write(tail + PREFIX_BYTES, encoded);
        self.used += PREFIX_BYTES + encoded.len();
        self.count += 1;
        evicted
    }

    /// Removes all records up to and including `through`. Answers how many.
    pub fn release(&mut self, through: Sequence) -> u64 {
        let count = self.first.count_until(through.next()).min(self.count);
        for _ in 0..count {
            self.pop();
        }
        count
    }

    /// The records from `from` (inclusive) to `to` (exclusive), as far as they are held, with their sequences.
    pub fn range(&self, from: Sequence, to: Sequence) -> Range<'_, T, BYTES, M> {
        let skip = self.first.count_until(from).min(self.count);
        let mut at = self.head;
        for _ in 0..skip {
            at = self.behind(at);
        }
        let next = advance(self.first, skip);
        Range { ring: self, at, next, left: next.count_until(to).min(self.count - skip) }
    }

    /// How many of the first `records` records take no more than `bytes_max` bytes together, and how many bytes those take.
    pub fn bytes_of_first(&self, records: u64, bytes_max: usize) -> (u64, usize) {
        let mut bytes = 0;
        for count in 0..records.min(self.count) {
            let next = self.behind(self.head + bytes) - self.head;
            if bytes_max < next {
                return (count, bytes);
            }
            bytes = next;
        }
        (records.min(self.count), bytes)
    }

    fn pop(&mut self) {
        let behind = self.behind(self.head);
        self.used -= behind - self.head;
        self.head = behind % BYTES;
        self.first = self.first.next();
        self.count -= 1;
        if self.count == 0 {
            // Starting over at the first byte keeps the memory that is touched as small as the backlog.
            self.head = 0;
        }
    }

    /// Where the record behind the one at `at` begins, counted on beyond the last byte.
    fn behind(&self, at: usize) -> usize {
        at + PREFIX_BYTES + self.record_bytes(at)
    }

    fn record_bytes(&self, at: usize) -> usize {
        let bytes = self.bytes.as_ref();
        usize::from(u16::from_le_bytes([bytes[at % BYTES], bytes[(at + 1) % BYTES]]))
    }

    fn write(&mut self, at: usize, source: &[u8]) {
        let at = at % BYTES;
        let (front, back) = source.split_at(source.len().min(BYTES - at));
        self.put(at, front);
        self.put(0, back);
    }

    /// `at` is at most the most that has been used, and `source` ends within the ring.
    fn put(&mut self, at: usize, source: &[u8]) {
        let used = self.bytes.as_mut();
        let (over, beyond) = source.split_at(source.len().min(used.len() - at));
        used[at..at + over.len()].copy_from_slice(over);
        self.bytes.extend(beyond);
    }

    fn read(&self, at: usize) -> T {
        let start = (at + PREFIX_BYTES) % BYTES;
        let length = self.record_bytes(at);
        let bytes = self.bytes.as_ref();
        let record = match bytes.get(start..start + length) {
            Some(whole) => postcard::from_bytes(whole),
            None => {
                let mut scratch = [0; RECORD_BYTES_MAX];
                let (front, back) = scratch[..length].split_at_mut(BYTES - start);
                front.copy_from_slice(&bytes[start..]);
                back.copy_from_slice(&bytes[..back.len()]);
                postcard::from_bytes(&scratch[..length])
            }
        };
        record.expect("what was written can be read")
    }
}

impl<T: Stored, const BYTES: usize> Default for Ring<T, BYTES> {
    fn default() -> Self {
        Self::new()
    }
}

impl<T, const BYTES: usize, M> fmt::Debug for Ring<T, BYTES, M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Ring")
            .field("first", &self.first)
            .field("count", &self.count)
            .field("used", &self.used)
            .finish_non_exhaustive()
    }
}

/// Some records of a ring with their sequences, decoded as they are asked for.
#[derive(Debug)]
pub struct Range<'r, T, const BYTES: usize, M = Inline<BYTES>> {
    ring: &'r Ring<T, BYTES, M>,
    at: usize,
    next: Sequence,
    left: u64,
}

impl<T, const BYTES: usize, M> Clone for Range<'_, T, BYTES, M> {
    fn clone(&self) -> Self {
        Self { ring: self.ring, at: self.at, next: self.next, left: self.left }
    }
}

impl<T: Stored, const BYTES: usize, M: Memory> Iterator for Range<'_, T, BYTES, M> {
    type Item = (Sequence, T);

    fn next(&mut self) -> Option<Self::Item> {
        self.left = self.left.checked_sub(1)?;
        let item = (self.next, self.ring.read(self.at));
        self.at = self.ring.behind(self.at) % BYTES;
        self.next = self.next.next();
        Some(item)
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        let left = usize::try_from(self.left).unwrap_or(usize::MAX);
        (left, Some(left))
    }
}

fn advance(sequence: Sequence, count: u64) -> Sequence {
    Sequence::new(sequence.number().saturating_add(count)).unwrap_or(Sequence::FIRST)
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;
    use std::vec::Vec;

    use proptest::prelude::*;

    use super::*;

    fn sequence(number: u64) -> Sequence {
        Sequence::new(number).unwrap()
    }

    /// A record of 1 to 10 bytes.
    type Number = u64;

    impl Stored for Number {
        const ENCODED_BYTES_MAX: usize = 10;
    }

    /// A number that takes `length` bytes beyond its first.
    fn number(length: u32) -> Number {
        if length == 0 { 0 } else { 1 << (7 * length) }
    }

    fn length(number: Number) -> usize {
        postcard::to_slice(&number, &mut [0; 10]).unwrap().len() - 1
    }

    #[test]
    fn the_oldest_give_way() {
        let mut ring = Ring::<Number, 16>::new();
        assert_eq!(ring.push(&number(3)), 0);
        assert_eq!(ring.push(&number(4)), 0);
        assert_eq!((ring.used_bytes(), ring.len()), (6 + 7, 2));
        assert_eq!(ring.push(&number(9)), 2);
        assert_eq!((ring.first(), ring.end(), ring.len()), (sequence(3), sequence(4), 1));
    }

    #[test]
    fn ranges_are_cut_to_what_is_held() {
        let mut ring = Ring::<Number, 20>::new();
        for length in 1..=6 {
            ring.push(&number(length));
        }
        let range = |from, to| {
            let records = ring.range(sequence(from), sequence(to));
            records.map(|(s, record)| (s.number(), length(record))).collect::<Vec<_>>()
        };
        assert_eq!(range(1, 6), [(5, 5)]);
        assert_eq!(range(5, 100), [(5, 5), (6, 6)]);
        assert_eq!(range(7, 9), []);
        assert_eq!(range(5, 5), []);
    }

    #[derive(Clone, Debug)]
    enum Operation {
        Push(u32),
        Release(u64),
    }

    fn operations() -> impl Strategy<Value = Vec<Operation>> {
        let one = prop_oneof![
            3 => (0..=9_u32).prop_map(Operation::Push),
            1 => (0..200u64).prop_map(Operation::Release),
        ];
        prop::collection::vec(one, 0..200)
    }

    proptest! {
        #[test]
        fn behaves_as_a_deque(operations in operations()) {
            const BYTES: usize = 43;
            let mut ring = Ring::<Number, BYTES>::new();
            let mut model = VecDeque::<(u64, Number)>::new();
            let mut next = 1;
            let used = |model: &VecDeque<(u64, Number)>| {
                model.iter().map(|(_, record)| PREFIX_BYTES + 1 + length(*record)).sum::<usize>()
            };
            for operation in operations {
                match operation {
                    Operation::Push(bytes) => {
                        model.push_back((next, number(bytes)));
                        next += 1;
                        let before = model.len();
                        while used(&model) > BYTES {
                            model.pop_front();
                        }
                        prop_assert_eq!(ring.push(&number(bytes)), (before - model.len()) as u64);
                    }
                    Operation::Release(through) => {
                        let Some(through) = Sequence::new(through) else { continue };
                        let before = model.len();
                        model.retain(|(s, _)| through.number() < *s);
                        prop_assert_eq!(ring.release(through), (before - model.len()) as u64);
                    }
                }
                let all = ring.range(Sequence::FIRST, ring.end());
                let all = all.map(|(s, record)| (s.number(), record)).collect::<VecDeque<_>>();
                prop_assert_eq!(&all, &model);
                prop_assert_eq!((ring.end().number(), ring.used_bytes()), (next, used(&model)));
            }
        }
    }
}
