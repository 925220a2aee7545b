//! The JSON form of bus records: what Kafka carries, and what `picket --output json` prints.
//!
//! The keys of [`metrics`] and [`command`] that the Python system knows never change; ours stand beside them.
//! Three rules hold everywhere: what is absent is left out and never `null`; a metric is a number in its unit
//! (percent, MB, MB/s); an enum value is its short name in capitals, or its number when this version does not
//! know it.

mod agent_status;
mod commands;
mod monitoring_data;
mod part;

use std::collections::HashMap;

use agent_core::id::{BootId, BootIdError};
use agent_core::metric::Metric;
use jiff::Timestamp;
use jiff::civil::DateTime;
use jiff::tz::TimeZone;
use proto::convert::{ValueError, count_from_units};
use proto::{Boot, NamedCount};
use serde_json::{Map, Value};

pub use agent_status::{
    agent_status, alert_record, config_report, status_record, status_record_from,
};
pub use commands::{command, command_from, command_response, command_response_from};
pub use monitoring_data::{metrics, metrics_from};

/// Why a JSON value is no record of its topic.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum JsonError {
    /// A key that must be there is missing, or a value has another type than it must have.
    #[error("{path} must be {expected}")]
    Expected {
        /// The path of the key.
        path: String,
        /// What must stand there.
        expected: &'static str,
    },
    /// A time that is none.
    #[error("timestamp {text:?} is no ISO 8601 time")]
    Timestamp {
        /// What was given.
        text: String,
    },
    /// A boot that is none.
    #[error("boot is malformed")]
    Boot(#[from] BootIdError),
    /// A number out of range.
    #[error("a value is out of range")]
    Value(#[from] ValueError),
}

/// `COUNTER-NONCE`, as everywhere in text.
pub fn boot(boot: Boot) -> String {
    BootId::from(boot).to_string()
}

/// Unix milliseconds as ISO 8601 in UTC with milliseconds. Times beyond the years -9999 to 9999 become the
/// first or last of them.
pub fn iso_8601(unix_ms: i64) -> String {
    let time = Timestamp::from_millisecond(unix_ms).unwrap_or(if unix_ms < 0 {
        Timestamp::MIN
    } else {
        Timestamp::MAX
    });
    format!("{time:.3}")
}

/// Counts by name, in the order given.
pub fn named_counts(counts: &[NamedCount]) -> Value {
    counts
        .iter()
        .map(|entry| (entry.name.clone(), Value::from(entry.count)))
        .collect::<Map<_, _>>()
        .into()
}

/// Texts by name, sorted, so that equal records have equal bytes.
fn texts(map: &HashMap<String, String>) -> Value {
    let mut entries: Vec<_> = map.iter().collect();
    entries.sort_unstable();
    entries
        .into_iter()
        .map(|(key, text)| (key.clone(), Value::from(text.as_str())))
        .collect::<Map<_, _>>()
        .into()
}

fn name<E: TryFrom<i32>>(number: i32, text: fn(&E) -> &'static str, prefix: &str) -> Value {
    E::try_from(number).map_or_else(
        |_| Value::from(number),
        |known| {
            let text = text(&known);
            Value::from(text.strip_prefix(prefix).unwrap_or(text))
        },
    )
}

fn nonzero(number: u64) -> Option<u64> {
    (number != 0).then_some(number)
}

fn nonempty(text: &str) -> Option<&str> {
    (!text.is_empty()).then_some(text)
}

/// A JSON object in the making, in the order in which keys are put.
struct Object(Map<String, Value>);

impl Object {
    fn new() -> Self {
        Self(Map::new())
    }

    fn put(&mut self, key: &str, value: impl Into<Value>) {
        self.0.insert(key.to_owned(), value.into());
    }

    fn put_some(&mut self, key: &str, value: Option<impl Into<Value>>) {
        if let Some(value) = value {
            self.put(key, value);
        }
    }

    fn into_value(self) -> Value {
        Value::Object(self.0)
    }
}

fn expected(path: &str, expected: &'static str) -> JsonError {
    JsonError::Expected { path: path.to_owned(), expected }
}

/// A whole number; 0 when it is absent.
fn whole(value: &Value, path: &str) -> Result<u64, JsonError> {
    match value {
        Value::Null => Ok(0),
        value => value.as_u64().ok_or_else(|| expected(path, "a whole number")),
    }
}

/// The time of a record: `timestamp_ms`, else `timestamp`.
fn timestamp_ms(value: &Value) -> Result<i64, JsonError> {
    if let Some(unix_ms) = value["timestamp_ms"].as_i64() {
        return Ok(unix_ms);
    }
    let text = value["timestamp"].as_str().ok_or_else(|| expected("timestamp", "a string"))?;
    let without_offset = || text.parse::<DateTime>()?.to_zoned(TimeZone::UTC);
    text.parse::<Timestamp>()
        .or_else(|_| without_offset().map(|zoned| zoned.timestamp()))
        .map(Timestamp::as_millisecond)
        .map_err(|_| JsonError::Timestamp { text: text.to_owned() })
}

/// A number of units as a count.
fn count(metric: Metric, value: &Value, path: impl FnOnce() -> String) -> Result<i64, JsonError> {
    let units = value.as_f64().ok_or_else(|| expected(&path(), "a number"))?;
    Ok(count_from_units(metric, units)?)
}

fn narrow(number: u64, path: &str) -> Result<u32, JsonError> {
    u32::try_from(number).map_err(|_| expected(path, "a whole number of 32 bits"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_beyond_the_calendar_are_clamped() {
        assert_eq!(iso_8601(0), "1970-01-01T00:00:00.000Z");
        assert!(iso_8601(i64::MAX).starts_with("9999-12-30"));
        assert!(iso_8601(i64::MIN).starts_with("-009999"));
    }
}
