//! The bytes that the embedded bus keeps: keys, record values and the floor of a topic.
//!
//! A record value is a fixed header and then the payload as protobuf:
//!
//! ```text
//! 0        1            9            17   18                18+n
//! +--------+------------+------------+----+-----------------+------------------+
//! | 1      | stored_ms  | position   | n  | key, n bytes    | payload, protobuf|
//! +--------+------------+------------+----+-----------------+------------------+
//!   version  i64 BE       u64 BE
//! ```
//!
//! The header is not protobuf because the searches by time and by size look at it alone, some twenty times per
//! search; it lies at fixed places, and the payload behind it is not touched. `position` counts the bytes that
//! the topic took before this record since it exists, so that the size of any part of a topic is the
//! difference of two headers. Both numbers never fall from one record to the next.

use agent_core::id::AgentId;
use prost::Message;
use proto::{Command, CommandResponse, MetricsRecord, StatusRecord};

use crate::contract::{Entry, Offset};
use crate::embedded::PARTITION;
use crate::record::Payload;
use crate::topic::Topic;

const VERSION: u8 = 1;
const STORED_MS: std::ops::Range<usize> = 1..9;
const POSITION: std::ops::Range<usize> = 9..17;
const KEY_LENGTH: usize = 17;
const HEADER_BYTES: usize = 18;

/// Divides agent from offset in an index key. Agent ids hold no such byte, so no id is a prefix of another.
const INDEX_SEPARATOR: u8 = 0;

/// What the searches need of a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Header {
    /// Unix milliseconds.
    pub(super) stored_ms: i64,
    /// Bytes in the topic before this record, since the topic exists.
    pub(super) position: u64,
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
        Self { topic: payload.topic(), key, value }
    }

    /// Bytes that it takes, its keys included and before compression.
    pub(super) fn cost_bytes(&self) -> u64 {
        cost_bytes(&self.value, self.key.as_str().len())
    }

    pub(super) fn into_value(mut self, header: Header) -> Vec<u8> {
        self.value[STORED_MS].copy_from_slice(&header.stored_ms.to_be_bytes());
        self.value[POSITION].copy_from_slice(&header.position.to_be_bytes());
        self.value
    }
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

pub(super) fn read_header(value: &[u8]) -> Result<Header, Malformed> {
    if value.len() < HEADER_BYTES || value[0] != VERSION {
        return Err(Malformed);
    }
    Ok(Header {
        stored_ms: i64::from_be_bytes(value[STORED_MS].try_into().map_err(|_| Malformed)?),
        position: u64::from_be_bytes(value[POSITION].try_into().map_err(|_| Malformed)?),
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
    let (key, payload) =
        value[HEADER_BYTES..].split_at_checked(usize::from(value[KEY_LENGTH])).ok_or(Malformed)?;
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
}

#[cfg(test)]
mod tests {
    use super::*;

    fn draft() -> Draft {
        let payload =
            Payload::Command(Command { command_id: "c-1".to_owned(), ..Command::default() });
        Draft::new("edge-1".parse().unwrap(), &payload)
    }

    const HEADER: Header = Header { stored_ms: 0x0102_0304, position: 77 };

    #[test]
    fn record_values_keep_their_bytes() {
        let value = draft().into_value(HEADER);
        let mut expected = vec![1, 0, 0, 0, 0, 1, 2, 3, 4, 0, 0, 0, 0, 0, 0, 0, 77, 6];
        expected.extend_from_slice(b"edge-1\x0a\x03c-1");
        assert_eq!(value, expected);
    }

    #[test]
    fn record_values_read_back() {
        let cost = draft().cost_bytes();
        let value = draft().into_value(HEADER);
        assert_eq!(read_header(&value), Ok(HEADER));
        assert_eq!(end_position(&value), Ok(77 + cost));
        let entry = read_entry(Topic::Commands, 9, &value).unwrap();
        assert_eq!(entry.offset, Offset(9));
        assert_eq!(entry.key.as_str(), "edge-1");
    }

    #[test]
    fn malformed_values_are_refused() {
        let value = draft().into_value(HEADER);
        for length in 0..value.len() - 5 {
            assert_eq!(read_entry(Topic::Commands, 9, &value[..length]), Err(Malformed));
        }
        for (index, byte) in [(0, 2), (KEY_LENGTH, 200), (HEADER_BYTES, b'/')] {
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
