//! The bytes that the embedded bus keeps: keys, record values, index values and the floor of a topic.
//!
//! A record value is a fixed header and then the payload as protobuf:
//!
//! ```text
//! 0        1            9            17   18           26       30                30+n
//! +--------+------------+------------+----+------------+--------+-----------------+------------------+
//! | 2      | stored_ms  | position   | n  | lived_ms   | check  | key, n bytes    | payload, protobuf|
//! +--------+------------+------------+----+------------+--------+-----------------+------------------+
//!   version  i64 BE       u64 BE            u64 BE       u32 BE
//! ```
//!
//! The header is not protobuf because the searches by time, age and size look at it alone, some twenty times per
//! search; it lies at fixed places, and the payload behind it is not touched. `position` counts the bytes that
//! the topic took before this record since it exists, so that the size of any part of a topic is the
//! difference of two headers. `lived_ms` counts the time that the bus has lived, which no clock can step. None of
//! the three ever falls from one record to the next.
//!
//! `check` covers all other bytes of the value, the topic and the offset (the lower half of their XXH3, 64 bits). So a
//! record proves by itself that it is whole and stands where it belongs, whatever became of the file around it.
//! Version 1 had neither `lived_ms` nor `check`: its key begins at 18. It is read, and not written any more.
//!
//! The value of an index entry names the record: the boot that made it and its sequence. It has a check likewise, over
//! the key and the rest of the value, and is empty where records have no sequence:
//!
//! ```text
//! 0               8             16            24       28
//! +---------------+-------------+-------------+--------+
//! | boot counter  | boot nonce  | sequence    | check  |
//! +---------------+-------------+-------------+--------+
//!   u64 BE          u64 BE        u64 BE        u32 BE
//! ```

use std::ops::Range;

use agent_core::id::AgentId;
use prost::Message;
use proto::{Boot, Command, CommandResponse, MetricsRecord, StatusRecord};
use xxhash_rust::xxh3::Xxh3;

use crate::contract::{Entry, Offset};
use crate::embedded::PARTITION;
use crate::record::Payload;
use crate::topic::Topic;

const VERSION: u8 = 2;
const STORED_MS: Range<usize> = 1..9;
const POSITION: Range<usize> = 9..17;
const KEY_LENGTH: usize = 17;
const LIVED_MS: Range<usize> = 18..26;
const CHECK: Range<usize> = 26..30;
const HEADER_BYTES: usize = 30;

/// The version without a check.
const VERSION_UNCHECKED: u8 = 1;
const HEADER_BYTES_UNCHECKED: usize = 18;

const IDENTITY_CHECK: Range<usize> = 24..28;
const IDENTITY_BYTES: usize = 28;

/// Divides agent from offset in an index key. Agent ids hold no such byte, so no id is a prefix of another.
const INDEX_SEPARATOR: u8 = 0;

/// What the searches need of a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Header {
    /// Unix milliseconds.
    pub(super) stored_ms: i64,
    /// Bytes in the topic before this record, since the topic exists.
    pub(super) position: u64,
    /// Milliseconds that the bus had lived when it took the record; 0 in records of version 1.
    pub(super) lived_ms: u64,
}

/// Which record of which boot a metrics record is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Identity {
    pub(super) boot_counter: u64,
    pub(super) boot_nonce: u64,
    pub(super) sequence: u64,
}

impl Identity {
    /// Of a payload; none when it has no sequence.
    pub(super) fn of(payload: &Payload) -> Option<Self> {
        let Payload::Metrics(metrics) = payload else {
            return None;
        };
        let Boot { counter, nonce } = metrics.boot?;
        let sequence = metrics.record.as_ref().map_or(0, |record| record.sequence);
        (sequence != 0).then_some(Self { boot_counter: counter, boot_nonce: nonce, sequence })
    }
}

/// Stored bytes that do not follow the layout.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("stored record is malformed")]
pub(super) struct Malformed;

/// A record ready to be stored, but for its header.
#[derive(Debug)]
pub(super) struct Draft {
    pub(super) topic: Topic,
    pub(super) key: AgentId,
    identity: Option<Identity>,
    value: Vec<u8>,
}

impl Draft {
    pub(super) fn new(key: AgentId, payload: &Payload) -> Self {
        let name = key.as_str().as_bytes();
        let length = u8::try_from(name.len()).expect("an agent id has at most 63 bytes");
        let mut value = Vec::with_capacity(HEADER_BYTES + name.len() + encoded_bytes(payload));
        value.resize(HEADER_BYTES, 0);
        value[0] = VERSION;
        value[KEY_LENGTH] = length;
        value.extend_from_slice(name);
        match payload {
            Payload::Metrics(metrics) => metrics.encode_raw(&mut value),
            Payload::Command(command) => command.encode_raw(&mut value),
            Payload::Response(response) => response.encode_raw(&mut value),
            Payload::Status(status) => status.encode_raw(&mut value),
        }
        Self { topic: payload.topic(), key, identity: Identity::of(payload), value }
    }

    /// Bytes that it takes, its keys included and before compression.
    pub(super) fn cost_bytes(&self) -> u64 {
        cost_bytes(&self.value, self.key.as_str().len())
    }

    /// The key and value for the index.
    pub(super) fn index_entry(&self, offset: u64) -> (Vec<u8>, Vec<u8>) {
        index_entry(self.topic, &self.key, offset, self.identity)
    }

    /// The value for the log.
    pub(super) fn into_value(mut self, offset: u64, header: Header) -> Vec<u8> {
        self.value[STORED_MS].copy_from_slice(&header.stored_ms.to_be_bytes());
        self.value[POSITION].copy_from_slice(&header.position.to_be_bytes());
        self.value[LIVED_MS].copy_from_slice(&header.lived_ms.to_be_bytes());
        let check = record_check(self.topic, offset, &self.value);
        self.value[CHECK].copy_from_slice(&check);
        self.value
    }
}

fn record_check(topic: Topic, offset: u64, value: &[u8]) -> [u8; 4] {
    let place = log_key(offset);
    check(&[&[topic as u8], &place, &value[..CHECK.start], &value[CHECK.end..]])
}

/// The lower half of the XXH3 of `parts`, one after the other.
fn check(parts: &[&[u8]]) -> [u8; 4] {
    let mut hash = Xxh3::new();
    parts.iter().for_each(|part| hash.update(part));
    let [.., a, b, c, d] = hash.digest().to_be_bytes();
    [a, b, c, d]
}

/// Whether `value` is a whole record that belongs at `offset` of `topic`; none when it has no check to tell by.
pub(super) fn is_whole(topic: Topic, offset: u64, value: &[u8]) -> Option<bool> {
    match value.first() {
        Some(&VERSION) => {
            Some(HEADER_BYTES <= value.len() && value[CHECK] == record_check(topic, offset, value))
        }
        Some(&VERSION_UNCHECKED) => None,
        Some(_) | None => Some(false),
    }
}

/// The index entry of a stored record.
pub(super) fn index_entry_of(entry: &Entry) -> (Vec<u8>, Vec<u8>) {
    let identity = Identity::of(&entry.payload);
    index_entry(entry.payload.topic(), &entry.key, entry.offset.0, identity)
}

fn index_entry(
    topic: Topic,
    key: &AgentId,
    offset: u64,
    identity: Option<Identity>,
) -> (Vec<u8>, Vec<u8>) {
    let key = index_key(key, offset);
    let Some(Identity { boot_counter, boot_nonce, sequence }) = identity else {
        return (key, Vec::new());
    };
    let mut value = Vec::with_capacity(IDENTITY_BYTES);
    for number in [boot_counter, boot_nonce, sequence] {
        value.extend_from_slice(&number.to_be_bytes());
    }
    let check = check(&[&[topic as u8], &key, &value]);
    value.extend_from_slice(&check);
    (key, value)
}

/// Whose record an index entry of `topic` names, and which; none when its check is wrong or it names none.
pub(super) fn read_identity(topic: Topic, key: &[u8], value: &[u8]) -> Option<(AgentId, Identity)> {
    if value.len() != IDENTITY_BYTES
        || value[IDENTITY_CHECK] != check(&[&[topic as u8], key, &value[..IDENTITY_CHECK.start]])
    {
        return None;
    }
    let (name, _) = key.split_at_checked(key.len().checked_sub(1 + size_of::<u64>())?)?;
    let mut numbers = value.chunks_exact(size_of::<u64>()).map(|bytes| {
        u64::from_be_bytes(bytes.try_into().expect("chunks have the size that was asked for"))
    });
    let identity = Identity {
        boot_counter: numbers.next()?,
        boot_nonce: numbers.next()?,
        sequence: numbers.next()?,
    };
    Some((std::str::from_utf8(name).ok()?.parse().ok()?, identity))
}

/// Encoded size of a payload.
pub(super) fn encoded_bytes(payload: &Payload) -> usize {
    match payload {
        Payload::Metrics(metrics) => metrics.encoded_len(),
        Payload::Command(command) => command.encoded_len(),
        Payload::Response(response) => response.encoded_len(),
        Payload::Status(status) => status.encoded_len(),
    }
}

fn cost_bytes(value: &[u8], key_bytes: usize) -> u64 {
    let log_key = size_of::<u64>();
    let index_key = key_bytes + 1 + size_of::<u64>();
    (log_key + value.len() + index_key) as u64
}

/// How long the header of a value is, by its version.
fn header_bytes(value: &[u8]) -> Result<usize, Malformed> {
    let bytes = match value.first() {
        Some(&VERSION) => HEADER_BYTES,
        Some(&VERSION_UNCHECKED) => HEADER_BYTES_UNCHECKED,
        Some(_) | None => return Err(Malformed),
    };
    if value.len() < bytes { Err(Malformed) } else { Ok(bytes) }
}

pub(super) fn read_header(value: &[u8]) -> Result<Header, Malformed> {
    let number = |range: Range<usize>| {
        let bytes = value.get(range).ok_or(Malformed)?;
        Ok(u64::from_be_bytes(bytes.try_into().map_err(|_| Malformed)?))
    };
    let checked = header_bytes(value)? == HEADER_BYTES;
    Ok(Header {
        stored_ms: number(STORED_MS)?.cast_signed(),
        position: number(POSITION)?,
        lived_ms: if checked { number(LIVED_MS)? } else { 0 },
    })
}

/// The position after the record with this value.
pub(super) fn end_position(value: &[u8]) -> Result<u64, Malformed> {
    let header = read_header(value)?;
    let cost = cost_bytes(value, usize::from(value[KEY_LENGTH]));
    header.position.checked_add(cost).ok_or(Malformed)
}

pub(super) fn read_entry(topic: Topic, offset: u64, value: &[u8]) -> Result<Entry, Malformed> {
    let header = read_header(value)?;
    if is_whole(topic, offset, value) == Some(false) {
        return Err(Malformed);
    }
    let key_bytes = usize::from(value[KEY_LENGTH]);
    let (key, payload) =
        value[header_bytes(value)?..].split_at_checked(key_bytes).ok_or(Malformed)?;
    let key = std::str::from_utf8(key).map_err(|_| Malformed)?;
    let payload = match topic {
        Topic::MonitoringData => MetricsRecord::decode(payload).map(Payload::Metrics),
        Topic::Commands => Command::decode(payload).map(Payload::Command),
        Topic::CommandResponses => {
            CommandResponse::decode(payload).map(|response| Payload::Response(Box::new(response)))
        }
        Topic::AgentStatus => {
            StatusRecord::decode(payload).map(|status| Payload::Status(Box::new(status)))
        }
    };
    Ok(Entry {
        partition: PARTITION,
        offset: Offset(offset),
        stored_ms: header.stored_ms,
        key: key.parse().map_err(|_| Malformed)?,
        payload: payload.map_err(|_| Malformed)?,
    })
}

/// The key of a record in a log.
pub(super) fn log_key(offset: u64) -> [u8; 8] {
    offset.to_be_bytes()
}

/// The key of a record in an index: agent id, zero byte, offset.
pub(super) fn index_key(key: &AgentId, offset: u64) -> Vec<u8> {
    let name = key.as_str().as_bytes();
    let mut bytes = Vec::with_capacity(name.len() + 1 + size_of::<u64>());
    bytes.extend_from_slice(name);
    bytes.push(INDEX_SEPARATOR);
    bytes.extend_from_slice(&offset.to_be_bytes());
    bytes
}

/// Whether bytes have the form of an index key.
pub(super) fn is_index_key(bytes: &[u8]) -> bool {
    let name = bytes.len().checked_sub(1 + size_of::<u64>()).map(|length| bytes.split_at(length));
    name.is_some_and(|(name, rest)| {
        rest[0] == INDEX_SEPARATOR
            && std::str::from_utf8(name).is_ok_and(|name| name.parse::<AgentId>().is_ok())
    })
}

/// The offset in a key of a log or of an index: its last eight bytes.
pub(super) fn offset_of(key: &[u8]) -> Result<u64, Malformed> {
    key.last_chunk().map(|bytes| u64::from_be_bytes(*bytes)).ok_or(Malformed)
}

/// Below what retention has removed a topic. It outlives the records, so that no offset is given twice and
/// time does not fall even when a topic was emptied.
#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct Floor {
    /// The oldest offset kept.
    #[prost(uint64, tag = "1")]
    pub(super) first: u64,
    /// Its position.
    #[prost(uint64, tag = "2")]
    pub(super) position: u64,
    /// The newest `stored_ms` when the floor was set.
    #[prost(int64, tag = "3")]
    pub(super) stored_ms: i64,
    /// The newest `lived_ms` then.
    #[prost(uint64, tag = "4")]
    pub(super) lived_ms: u64,
    /// No record gets an offset below it, though there may be none up to it: damage took them. 0: `first`.
    #[prost(uint64, tag = "5")]
    pub(super) next: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn draft() -> Draft {
        let payload =
            Payload::Command(Command { command_id: "c-1".to_owned(), ..Command::default() });
        Draft::new("edge-1".parse().unwrap(), &payload)
    }

    const HEADER: Header = Header { stored_ms: 0x0102_0304, position: 77, lived_ms: 0x0506 };

    /// As version 1 wrote `draft()`.
    const UNCHECKED: &[u8] = b"\x01\0\0\0\0\x01\x02\x03\x04\0\0\0\0\0\0\0\x4d\x06edge-1\x0a\x03c-1";

    #[test]
    fn record_values_keep_their_bytes() {
        let value = draft().into_value(9, HEADER);
        let mut expected = vec![2, 0, 0, 0, 0, 1, 2, 3, 4, 0, 0, 0, 0, 0, 0, 0, 77, 6];
        expected.extend([0, 0, 0, 0, 0, 0, 5, 6]);
        expected.extend([0x96, 0xec, 0x4e, 0x88]);
        expected.extend_from_slice(b"edge-1\x0a\x03c-1");
        assert_eq!(value, expected);
    }

    #[test]
    fn values_of_version_1_are_read() {
        assert_eq!(read_header(UNCHECKED), Ok(Header { lived_ms: 0, ..HEADER }));
        let old = read_entry(Topic::Commands, 9, UNCHECKED).unwrap();
        let new = read_entry(Topic::Commands, 9, &draft().into_value(9, HEADER)).unwrap();
        assert_eq!(old, new);
        assert_eq!(is_whole(Topic::Commands, 9, UNCHECKED), None);
    }

    #[test]
    fn a_record_belongs_to_one_place_and_no_bit_of_it_may_change() {
        let mut value = draft().into_value(9, HEADER);
        assert_eq!(is_whole(Topic::Commands, 9, &value), Some(true));
        assert_eq!(is_whole(Topic::Commands, 8, &value), Some(false));
        assert_eq!(is_whole(Topic::AgentStatus, 9, &value), Some(false));
        for bit in 0..value.len() * 8 {
            value[bit / 8] ^= 1 << (bit % 8);
            assert_ne!(is_whole(Topic::Commands, 9, &value), Some(true), "{bit}");
            value[bit / 8] ^= 1 << (bit % 8);
        }
    }

    #[test]
    fn index_values_name_the_record() {
        let boot = Some(Boot { counter: 3, nonce: 4 });
        let record = Some(proto::Record { sequence: 5, ..proto::Record::default() });
        let metrics = MetricsRecord { boot, record, ..MetricsRecord::default() };
        let agent: AgentId = "edge-1".parse().unwrap();
        let draft = Draft::new(agent.clone(), &Payload::Metrics(metrics));
        let (key, mut value) = draft.index_entry(9);
        let identity = Identity { boot_counter: 3, boot_nonce: 4, sequence: 5 };
        let topic = Topic::MonitoringData;
        assert_eq!(read_identity(topic, &key, &value), Some((agent, identity)));
        assert_eq!(read_identity(Topic::Commands, &key, &value), None);
        value[23] ^= 1;
        assert_eq!(read_identity(topic, &key, &value), None);
    }

    #[test]
    fn record_values_read_back() {
        let cost = draft().cost_bytes();
        let value = draft().into_value(9, HEADER);
        assert_eq!(read_header(&value), Ok(HEADER));
        assert_eq!(end_position(&value), Ok(77 + cost));
        let entry = read_entry(Topic::Commands, 9, &value).unwrap();
        assert_eq!(entry.offset, Offset(9));
        assert_eq!(entry.key.as_str(), "edge-1");
    }

    #[test]
    fn malformed_values_are_refused() {
        let value = draft().into_value(9, HEADER);
        for length in 0..value.len() - 5 {
            assert_eq!(read_entry(Topic::Commands, 9, &value[..length]), Err(Malformed));
        }
        for (index, byte) in [(0, 3), (KEY_LENGTH, 200), (HEADER_BYTES, b'/')] {
            let mut bad = value.clone();
            bad[index] = byte;
            assert_eq!(read_entry(Topic::Commands, 9, &bad), Err(Malformed), "{index}");
        }
    }

    #[test]
    fn index_keys_sort_by_agent_and_then_by_offset() {
        let key = |name: &str, offset| index_key(&name.parse().unwrap(), offset);
        let sorted = [key("a", 1), key("a", 256), key("a-b", 0), key("a0", 0), key("b", 2)];
        assert!(sorted.is_sorted());
        assert_eq!(offset_of(&sorted[1]), Ok(256));
        assert_eq!(offset_of(b"short"), Err(Malformed));
    }
}
