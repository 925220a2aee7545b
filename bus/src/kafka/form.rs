//! What a record is as a Kafka message, and back: key, value and headers.

use agent_core::id::AgentId;
use proto::MetricsRecord;
use serde_json::Value;

use super::rejected::Reason;
use crate::contract::{Entry, Offset, Partition, PublishError};
use crate::json::{self, JsonError};
use crate::record::{Payload, Record};
use crate::topic::Topic;

/// A record ready to be sent.
#[derive(Debug)]
pub(super) struct Message {
    pub(super) topic: Topic,
    pub(super) key: AgentId,
    pub(super) value: String,
    /// For consumers that sort by them without reading the value. We read the value only.
    pub(super) headers: Vec<(&'static str, String)>,
}

impl Message {
    pub(super) fn new(record: Record, bytes_max: usize) -> Result<Self, PublishError> {
        let Record { key, payload } = record;
        let topic = payload.topic();
        let value = match &payload {
            Payload::Metrics(metrics) => match json::metrics(metrics) {
                Ok(value) => value,
                Err(error) => return Err(PublishError::Malformed { key, source: error.into() }),
            },
            Payload::Command(command) => json::command(command),
            Payload::Response(response) => json::command_response(response),
            Payload::Status(status) => json::status_record(status),
        };
        let value = value.to_string();
        if bytes_max < value.len() {
            return Err(PublishError::TooLarge { key, bytes: value.len(), max: bytes_max });
        }
        Ok(Self { topic, key, value, headers: headers(&payload) })
    }

    /// What it takes of the budget: what librdkafka holds for it, about 200 bytes of its own included.
    pub(super) fn cost_bytes(&self) -> usize {
        const OVERHEAD_BYTES: usize = 512;
        self.value.len() + OVERHEAD_BYTES
    }
}

fn headers(payload: &Payload) -> Vec<(&'static str, String)> {
    let command_id = |id: &String| {
        let id = (!id.is_empty()).then(|| ("command_id", id.clone()));
        id.into_iter().collect()
    };
    match payload {
        Payload::Metrics(MetricsRecord { boot, record, .. }) => {
            let boot = boot.map(|boot| ("boot", json::boot(boot)));
            let sequence = record.as_ref().map_or(0, |record| record.sequence);
            let sequence = (sequence != 0).then(|| ("sequence", sequence.to_string()));
            boot.into_iter().chain(sequence).collect()
        }
        Payload::Command(command) => command_id(&command.command_id),
        Payload::Response(response) => command_id(&response.command_id),
        Payload::Status(_) => Vec::new(),
    }
}

/// A message as it was read.
#[derive(Clone, Copy, Debug)]
pub(super) struct Raw<'a> {
    pub(super) partition: Partition,
    pub(super) offset: Offset,
    pub(super) stored_ms: i64,
    pub(super) key: Option<&'a [u8]>,
    pub(super) value: Option<&'a [u8]>,
}

/// Why a message is no record.
#[derive(Debug)]
pub(super) struct Rejection {
    pub(super) reason: Reason,
    /// For people.
    pub(super) detail: String,
}

impl Rejection {
    fn new(reason: Reason, detail: impl ToString) -> Self {
        Self { reason, detail: detail.to_string() }
    }
}

impl From<JsonError> for Rejection {
    fn from(error: JsonError) -> Self {
        Self::new(Reason::Form, error)
    }
}

impl Raw<'_> {
    /// What it takes in memory, about.
    pub(super) fn bytes(&self) -> usize {
        self.key.map_or(0, <[u8]>::len) + self.value.map_or(0, <[u8]>::len)
    }

    /// The entry that it is. Without a key, `agent_id` of the value says whom it concerns.
    pub(super) fn read(&self, topic: Topic, bytes_max: usize) -> Result<Entry, Rejection> {
        let value = self.value.unwrap_or_default();
        if value.is_empty() {
            return Err(Rejection::new(Reason::Empty, "no value"));
        }
        if bytes_max < value.len() {
            let detail = format!("{} bytes, at most {bytes_max} are read", value.len());
            return Err(Rejection::new(Reason::TooLarge, detail));
        }
        let value: Value =
            serde_json::from_slice(value).map_err(|e| Rejection::new(Reason::NotJson, e))?;
        let (agent_id, payload) = payload(topic, &value)?;
        let id: AgentId = agent_id.parse().map_err(|e| Rejection::new(Reason::Key, e))?;
        let key = self.key.unwrap_or_default();
        if !key.is_empty() && key != id.as_str().as_bytes() {
            return Err(Rejection::new(Reason::Key, "the key is not the agent_id"));
        }
        let Self { partition, offset, stored_ms, .. } = *self;
        Ok(Entry { partition, offset, stored_ms, key: id, payload })
    }
}

fn payload(topic: Topic, value: &Value) -> Result<(String, Payload), JsonError> {
    Ok(match topic {
        Topic::MonitoringData => {
            let metrics = json::metrics_from(value)?;
            (metrics.agent_id.clone(), Payload::Metrics(metrics))
        }
        Topic::Commands => {
            let command = json::command_from(value)?;
            (command.agent_id.clone(), Payload::Command(command))
        }
        Topic::CommandResponses => {
            let response = json::command_response_from(value)?;
            (response.agent_id.clone(), Payload::Response(Box::new(response)))
        }
        Topic::AgentStatus => {
            let status = json::status_record_from(value)?;
            (status.agent_id.clone(), Payload::Status(Box::new(status)))
        }
    })
}

#[cfg(test)]
mod tests {
    use proto::{Boot, Command};

    use super::*;

    const BYTES_MAX: usize = 1000;

    fn raw<'a>(key: Option<&'a [u8]>, value: Option<&'a [u8]>) -> Raw<'a> {
        Raw { partition: Partition(1), offset: Offset(2), stored_ms: 3, key, value }
    }

    fn check(key: Option<&[u8]>, value: &[u8], expected: Result<&str, Reason>) {
        let read = raw(key, Some(value)).read(Topic::Commands, BYTES_MAX);
        let read = read.map(|entry| entry.key.to_string()).map_err(|rejection| rejection.reason);
        assert_eq!(read, expected.map(str::to_owned), "{}", String::from_utf8_lossy(value));
    }

    #[test]
    fn what_is_no_record_is_rejected() {
        let good = br#"{"agent_id":"a","type":"STOP"}"#;
        check(Some(b"a"), good, Ok("a"));
        check(None, good, Ok("a"));
        check(Some(b""), good, Ok("a"));
        check(Some(b"b"), good, Err(Reason::Key));
        check(Some(b"\xff"), good, Err(Reason::Key));
        check(Some(b"a/b"), br#"{"agent_id":"a/b","type":"STOP"}"#, Err(Reason::Key));
        check(None, br#"{"agent_id":"","type":"STOP"}"#, Err(Reason::Key));
        check(Some(b"a"), b"", Err(Reason::Empty));
        check(Some(b"a"), b"{", Err(Reason::NotJson));
        check(Some(b"a"), b"\xff\xfe", Err(Reason::NotJson));
        check(Some(b"a"), "[".repeat(500).as_bytes(), Err(Reason::NotJson));
        check(Some(b"a"), b"[]", Err(Reason::Form));
        check(Some(b"a"), br#"{"agent_id":"a","type":"EXPLODE"}"#, Err(Reason::Form));
        check(Some(b"a"), &b" ".repeat(BYTES_MAX + 1), Err(Reason::TooLarge));
        let tombstone = raw(Some(b"a"), None).read(Topic::Commands, BYTES_MAX).unwrap_err();
        assert_eq!(tombstone.reason, Reason::Empty);
    }

    #[test]
    fn headers_name_the_record() {
        let record = proto::Record { sequence: 7, ..proto::Record::default() };
        let metrics = MetricsRecord {
            boot: Some(Boot { counter: 1, nonce: 2 }),
            record: Some(record),
            ..MetricsRecord::default()
        };
        let expected = [("boot", "1-0000000000000002".to_owned()), ("sequence", "7".to_owned())];
        assert_eq!(headers(&Payload::Metrics(metrics)), expected);
        let command = Command { command_id: "c".to_owned(), ..Command::default() };
        assert_eq!(headers(&Payload::Command(command)), [("command_id", "c".to_owned())]);
        assert_eq!(headers(&Payload::Command(Command::default())), []);
    }

    #[test]
    fn a_record_that_does_not_fit_or_make_sense_is_not_sent() {
        let key: AgentId = "a".parse().unwrap();
        let command = Command { agent_id: "x".repeat(50), ..Command::default() };
        let record = Record { key: key.clone(), payload: Payload::Command(command) };
        let error = Message::new(record, 100).unwrap_err();
        assert!(matches!(error, PublishError::TooLarge { max: 100, bytes, .. } if 100 < bytes));

        let record = proto::Record { values: vec![1], ..proto::Record::default() };
        let metrics = MetricsRecord { record: Some(record), ..MetricsRecord::default() };
        let error = Message::new(Record { key, payload: Payload::Metrics(metrics) }, 1000);
        assert!(matches!(error, Err(PublishError::Malformed { .. })));
    }
}
