//! The JSON form of bus records: what Kafka carries, and what `picket --output json` prints.
//!
//! The keys of [`metrics`] and [`command`] that the Python system knows never change; ours stand beside them.
//! Three rules hold everywhere: what is absent is left out and never `null`; a metric is a number in its unit
//! (percent, MB, MB/s); an enum value is its short name in capitals, or its number when this version does not
//! know it.

use std::collections::HashMap;

use agent_core::id::{BootId, BootIdError};
use agent_core::metric::{Metric, Values};
use jiff::Timestamp;
use jiff::civil::DateTime;
use jiff::tz::TimeZone;
use proto::command::CommandType;
use proto::convert::{
    CountsError, ValueError, count_from_units, units_from_count, values_from_counts,
};
use proto::{
    AgentStatus, Alert, AlertLedger, AlertRecord, AlertSeverity, AlertTransition, Boot, Command,
    CommandOutcome, CommandResponse, ConfigOutcome, ConfigReport, Hello, Ledger, Loss, LossReason,
    MetricsRecord, NamedCount, PluginCounters, Record, RunState, StatusEvent, StatusRecord, Window,
};
use serde_json::{Map, Value};

/// The form of a record of `monitoring-data`.
///
/// Shape: `agent_id`, `timestamp` (ISO 8601, UTC, milliseconds), `timestamp_ms`, `metrics`, `metadata`; then,
/// where the record has them, `boot` (`COUNTER-NONCE`), `sequence`, `uptime_ms`, `alerts`
/// (`[{metric, value, limit, below}]`, `below` only where the limit is a floor), `window` (`{count, duration_ms,
/// partial, min, max, last, counts}`, `counts` only when a metric was absent from a part of the window) and `repeats`.
/// Metrics that this version does not know are left out.
///
/// # Errors
///
/// When a list of values does not fit the record's `present` bits.
pub fn metrics(record: &MetricsRecord) -> Result<Value, CountsError> {
    let default = Record::default();
    let body = record.record.as_ref().unwrap_or(&default);
    let values = values_from_counts(body.present, &body.values)?;

    let mut object = Object::new();
    object.put("agent_id", record.agent_id.as_str());
    object.put("timestamp", iso_8601(body.timestamp_ms));
    object.put("timestamp_ms", body.timestamp_ms);
    object.put("metrics", units(&values));
    object.put("metadata", texts(&record.metadata));
    object.put_some("boot", record.boot.map(boot));
    object.put_some("sequence", nonzero(body.sequence));
    object.put_some("uptime_ms", nonzero(body.uptime_ms));
    let alerts: Vec<Value> =
        body.alerts.iter().filter_map(|raised| alert(raised, &values)).collect();
    object.put_some("alerts", (!alerts.is_empty()).then_some(alerts));
    if let Some(spread) = &body.window {
        object.put("window", window(body.present, spread)?);
    }
    object.put_some("repeats", nonzero(body.repeats.into()));
    Ok(object.into_value())
}

/// Why a JSON value is no record of `monitoring-data`.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum MetricsJsonError {
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

/// Reads a record of `monitoring-data`, also one that only has the fixed keys. Unknown keys and metrics are
/// tolerated.
///
/// A `timestamp` without an offset is taken as UTC; `timestamp_ms` goes before it. Values come back exactly
/// below 2^48 counts; beyond, the last digit of a double may tip.
///
/// # Errors
///
/// When a fixed key is missing, or a known key has a value of the wrong type or range.
pub fn metrics_from(value: &Value) -> Result<MetricsRecord, MetricsJsonError> {
    let agent_id = value["agent_id"].as_str().ok_or_else(|| expected("agent_id", "a string"))?;
    let values = counts(&value["metrics"], "metrics")?;
    let metadata = match &value["metadata"] {
        Value::Null => HashMap::new(),
        Value::Object(entries) => entries
            .iter()
            .map(|(key, text)| Some((key.clone(), text.as_str()?.to_owned())))
            .collect::<Option<_>>()
            .ok_or_else(|| expected("metadata", "an object of strings"))?,
        _ => return Err(expected("metadata", "an object of strings")),
    };
    let boot = value["boot"].as_str().map(str::parse::<BootId>).transpose()?;
    let record = Record {
        sequence: whole(&value["sequence"], "sequence")?,
        timestamp_ms: timestamp_ms(value)?,
        present: values.present().bits(),
        values: values.iter().map(|(_, count)| count).collect(),
        window: window_from(&value["window"], &values)?,
        alerts: alerts_from(&value["alerts"])?,
        repeats: narrow(whole(&value["repeats"], "repeats")?, "repeats")?,
        uptime_ms: whole(&value["uptime_ms"], "uptime_ms")?,
    };
    Ok(MetricsRecord {
        agent_id: agent_id.to_owned(),
        boot: boot.map(Boot::from),
        record: Some(record),
        metadata,
    })
}

/// The form of a record of `commands`.
///
/// Shape: `agent_id`, `type` (`STATUS`, ...), `params`, `timestamp` (Unix seconds), and, where they are set,
/// `command_id` and `ttl_ms`.
pub fn command(command: &Command) -> Value {
    let mut object = Object::new();
    object.put("agent_id", command.agent_id.as_str());
    object.put("type", name::<CommandType>(command.r#type, CommandType::as_str_name, ""));
    object.put("params", texts(&command.params));
    object.put("timestamp", command.timestamp);
    object.put_some("command_id", nonempty(&command.command_id));
    object.put_some("ttl_ms", nonzero(command.ttl_ms));
    object.into_value()
}

/// The form of a record of `command-responses`.
///
/// Shape: `agent_id`, `success`, `outcome`, `message`, `timestamp` (Unix seconds), and, where they are set,
/// `command_id`, `boot` and `status` (see [`agent_status`]).
pub fn command_response(response: &CommandResponse) -> Value {
    let mut object = Object::new();
    object.put("agent_id", response.agent_id.as_str());
    object.put("success", response.success);
    object.put(
        "outcome",
        name::<CommandOutcome>(response.outcome, CommandOutcome::as_str_name, "COMMAND_OUTCOME_"),
    );
    object.put("message", response.message.as_str());
    object.put("timestamp", response.timestamp);
    object.put_some("command_id", nonempty(&response.command_id));
    object.put_some("boot", response.boot.map(boot));
    object.put_some("status", response.status.as_ref().map(agent_status));
    object.into_value()
}

/// The form of a record of `agent-status`.
///
/// Shape: `agent_id`, `event`, `timestamp` (ISO 8601), `timestamp_ms`, `server_id`, and, where the event has
/// them, `boot`, `detail`, `peer`, `hello`, `status`, `config`, `losses` and `alerts` (see [`alert_record`]).
pub fn status_record(record: &StatusRecord) -> Value {
    let mut object = Object::new();
    object.put("agent_id", record.agent_id.as_str());
    object
        .put("event", name::<StatusEvent>(record.event, StatusEvent::as_str_name, "STATUS_EVENT_"));
    object.put("timestamp", iso_8601(record.timestamp_ms));
    object.put("timestamp_ms", record.timestamp_ms);
    object.put("server_id", record.server_id.as_str());
    object.put_some("boot", record.boot.map(boot));
    object.put_some("detail", nonempty(&record.detail));
    object.put_some("peer", nonempty(&record.peer));
    object.put_some("hello", record.hello.as_ref().map(hello));
    object.put_some("status", record.status.as_ref().map(agent_status));
    object.put_some("config", record.config.as_ref().map(config_report));
    let losses: Vec<Value> = record.losses.iter().map(loss).collect();
    object.put_some("losses", (!losses.is_empty()).then_some(losses));
    let alerts: Vec<Value> = record.alerts.iter().map(alert_record).collect();
    object.put_some("alerts", (!alerts.is_empty()).then_some(alerts));
    object.into_value()
}

/// The form of an alert that began or ended.
///
/// Shape: `metric`, `transition` (`RAISED`, `CLEARED`, `WITHDRAWN`), `severity` (`INFO`, `WARNING`, `CRITICAL`),
/// `direction` (`ABOVE`, `BELOW`), `limit` and `value` in the metric's unit, `lasted_ms`, `sequence`, `uptime_ms`,
/// `timestamp` (ISO 8601), `timestamp_ms`. Of a metric that this version does not know: its id, without limit and value.
pub fn alert_record(alert: &AlertRecord) -> Value {
    let metric = Metric::from_id(alert.metric);
    let units = |count| metric.map(|metric| units_from_count(metric, count));
    let mut object = Object::new();
    object.put("metric", metric.map_or_else(|| alert.metric.into(), |m| Value::from(m.name())));
    object.put(
        "transition",
        name::<AlertTransition>(
            alert.transition,
            AlertTransition::as_str_name,
            "ALERT_TRANSITION_",
        ),
    );
    object.put(
        "severity",
        name::<AlertSeverity>(alert.severity, AlertSeverity::as_str_name, "ALERT_SEVERITY_"),
    );
    object.put("direction", if alert.below { BELOW } else { ABOVE });
    object.put_some("limit", units(alert.limit));
    object.put_some("value", units(alert.value));
    object.put("lasted_ms", alert.lasted_ms);
    object.put("sequence", alert.sequence);
    object.put("uptime_ms", alert.uptime_ms);
    object.put("timestamp", iso_8601(alert.timestamp_ms));
    object.put("timestamp_ms", alert.timestamp_ms);
    object.into_value()
}

/// The limit of an alert is a ceiling.
const ABOVE: &str = "ABOVE";
/// The limit of an alert is a floor.
const BELOW: &str = "BELOW";

/// What an agent says of itself, with its books.
pub fn agent_status(status: &AgentStatus) -> Value {
    let mut object = Object::new();
    object.put("state", name::<RunState>(status.state, RunState::as_str_name, "RUN_STATE_"));
    object.put_some("boot", status.boot.map(boot));
    object.put("uptime_ms", status.uptime_ms);
    object.put("interval_ms", status.interval_ms);
    object.put("metrics", status.metrics.clone());
    object.put("plugins", status.plugins.clone());
    object.put("samples_late", status.samples_late);
    object.put("sessions", status.sessions);
    object.put("config_revision", status.config_revision);
    object.put_some("last_config", status.last_config.as_ref().map(config_report));
    object.put_some("ledger", status.ledger.as_ref().map(ledger));
    object.into_value()
}

/// What became of a configuration.
pub fn config_report(report: &ConfigReport) -> Value {
    let mut object = Object::new();
    object.put("revision", report.revision);
    object.put(
        "outcome",
        name::<ConfigOutcome>(report.outcome, ConfigOutcome::as_str_name, "CONFIG_OUTCOME_"),
    );
    object.put_some("reason", nonempty(&report.reason));
    object
        .put_some("overridden", (!report.overridden.is_empty()).then(|| report.overridden.clone()));
    object.into_value()
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

fn ledger(ledger: &Ledger) -> Value {
    let mut object = Object::new();
    object.put("produced", ledger.produced);
    object.put("suppressed", named_counts(&ledger.suppressed));
    object.put("in_plugins", ledger.in_plugins);
    object.put("recorded", ledger.recorded);
    object.put("delivered", ledger.delivered);
    object.put("lost", named_counts(&ledger.lost));
    object.put("held", ledger.held);
    let plugins: Map<String, Value> = ledger
        .plugins
        .iter()
        .map(|counters| (counters.name.clone(), plugin_counters(counters)))
        .collect();
    object.put_some("plugins", (!plugins.is_empty()).then_some(plugins));
    object.put_some("alerts", ledger.alerts.as_ref().map(alert_ledger));
    object.into_value()
}

fn plugin_counters(counters: &PluginCounters) -> Value {
    let mut object = Object::new();
    object.put("received", counters.received);
    object.put("forwarded", counters.forwarded);
    object.put("merged", counters.merged);
    object.put("dropped", named_counts(&counters.dropped));
    object.into_value()
}

fn alert_ledger(ledger: &AlertLedger) -> Value {
    let mut object = Object::new();
    object.put("recorded", ledger.recorded);
    object.put("delivered", ledger.delivered);
    object.put("lost", named_counts(&ledger.lost));
    object.put("held", ledger.held);
    object.into_value()
}

fn hello(hello: &Hello) -> Value {
    let mut object = Object::new();
    object.put("agent_id", hello.agent_id.as_str());
    object.put_some("boot", hello.boot.map(boot));
    object.put("session", hello.session);
    object.put("version", hello.version.as_str());
    object.put("host_name", hello.host_name.as_str());
    object.put("target", hello.target.as_str());
    object.put("config_revision", hello.config_revision);
    object.into_value()
}

fn loss(loss: &Loss) -> Value {
    let mut object = Object::new();
    object.put("first", loss.first);
    object.put("last", loss.last);
    object.put("reason", name::<LossReason>(loss.reason, LossReason::as_str_name, "LOSS_REASON_"));
    object.put("never_sent", loss.never_sent);
    object.put("unacknowledged", loss.unacknowledged);
    object.into_value()
}

fn units(values: &Values) -> Value {
    values
        .iter()
        .map(|(metric, count)| {
            let units = units_from_count(metric, count);
            (metric.name().to_owned(), Value::from(units))
        })
        .collect::<Map<_, _>>()
        .into()
}

fn alert(alert: &Alert, values: &Values) -> Option<Value> {
    let metric = Metric::from_id(alert.metric)?;
    let mut object = Object::new();
    object.put("metric", metric.name());
    object.put_some("value", values.get(metric).map(|count| units_from_count(metric, count)));
    object.put("limit", units_from_count(metric, alert.limit));
    object.put_some("below", alert.below.then_some(true));
    Some(object.into_value())
}

fn window(present: u64, window: &Window) -> Result<Value, CountsError> {
    let mut object = Object::new();
    object.put("count", window.count);
    object.put("duration_ms", window.duration_ms);
    object.put("partial", window.partial);
    object.put("min", units(&values_from_counts(present, &window.min)?));
    object.put("max", units(&values_from_counts(present, &window.max)?));
    if !window.last.is_empty() {
        object.put("last", units(&values_from_counts(present, &window.last)?));
    }
    if !window.counts.is_empty() {
        let counts: Vec<i64> = window.counts.iter().copied().map(i64::from).collect();
        let counts = values_from_counts(present, &counts)?;
        let counts = counts.iter().map(|(metric, count)| (metric.name().to_owned(), count.into()));
        object.put("counts", counts.collect::<Map<_, _>>());
    }
    Ok(object.into_value())
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

fn expected(path: &str, expected: &'static str) -> MetricsJsonError {
    MetricsJsonError::Expected { path: path.to_owned(), expected }
}

fn counts(value: &Value, path: &str) -> Result<Values, MetricsJsonError> {
    let entries = value.as_object().ok_or_else(|| expected(path, "an object of numbers"))?;
    let known =
        entries.iter().filter_map(|(key, value)| Some((key.parse::<Metric>().ok()?, value)));
    known.map(|(metric, value)| Ok((metric, count(metric, value, path)?))).collect()
}

fn count(metric: Metric, value: &Value, path: &str) -> Result<i64, MetricsJsonError> {
    let units = value.as_f64().ok_or_else(|| expected(&format!("{path}.{metric}"), "a number"))?;
    Ok(count_from_units(metric, units)?)
}

fn timestamp_ms(value: &Value) -> Result<i64, MetricsJsonError> {
    if let Some(unix_ms) = value["timestamp_ms"].as_i64() {
        return Ok(unix_ms);
    }
    let text = value["timestamp"].as_str().ok_or_else(|| expected("timestamp", "a string"))?;
    let without_offset = || text.parse::<DateTime>()?.to_zoned(TimeZone::UTC);
    text.parse::<Timestamp>()
        .or_else(|_| without_offset().map(|zoned| zoned.timestamp()))
        .map(Timestamp::as_millisecond)
        .map_err(|_| MetricsJsonError::Timestamp { text: text.to_owned() })
}

/// A whole number; 0 when it is absent.
fn whole(value: &Value, path: &str) -> Result<u64, MetricsJsonError> {
    match value {
        Value::Null => Ok(0),
        value => value.as_u64().ok_or_else(|| expected(path, "a whole number")),
    }
}

fn narrow(number: u64, path: &str) -> Result<u32, MetricsJsonError> {
    u32::try_from(number).map_err(|_| expected(path, "a whole number of 32 bits"))
}

fn window_from(value: &Value, values: &Values) -> Result<Option<Window>, MetricsJsonError> {
    if value.is_null() {
        return Ok(None);
    }
    let of_every_metric = |path: &str, get: &dyn Fn(Metric) -> Option<i64>| {
        let counts = values.present().iter().map(get).collect::<Option<Vec<_>>>();
        counts.ok_or_else(|| expected(path, "there for every metric of the record"))
    };
    let spread = |key: &str| {
        let path = format!("window.{key}");
        let counts = counts(&value[key], &path)?;
        of_every_metric(&path, &|metric| counts.get(metric))
    };
    let last = if value["last"].is_null() { Vec::new() } else { spread("last")? };
    let counts = match &value["counts"] {
        Value::Null => Vec::new(),
        counts => {
            let path = "window.counts";
            let counts = of_every_metric(path, &|metric| counts[metric.name()].as_i64())?;
            let narrow = |count| u32::try_from(count).ok();
            let counts = counts.into_iter().map(narrow).collect::<Option<Vec<_>>>();
            counts.ok_or_else(|| expected(path, "an object of whole numbers of 32 bits"))?
        }
    };
    Ok(Some(Window {
        count: narrow(whole(&value["count"], "window.count")?, "window.count")?,
        duration_ms: whole(&value["duration_ms"], "window.duration_ms")?,
        min: spread("min")?,
        max: spread("max")?,
        partial: value["partial"].as_bool().unwrap_or(false),
        last,
        counts,
    }))
}

fn alerts_from(value: &Value) -> Result<Vec<Alert>, MetricsJsonError> {
    let alerts = match value {
        Value::Null => return Ok(Vec::new()),
        Value::Array(alerts) => alerts,
        _ => return Err(expected("alerts", "a list")),
    };
    let known = alerts.iter().filter_map(|alert| {
        let metric: Metric = alert["metric"].as_str()?.parse().ok()?;
        Some((metric, alert))
    });
    known
        .map(|(metric, alert)| {
            Ok(Alert {
                metric: metric.id().into(),
                limit: count(metric, &alert["limit"], "alerts.limit")?,
                below: alert["below"].as_bool().unwrap_or(false),
            })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use agent_core::metric::MetricSet;
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    const BOOT: Boot = Boot { counter: 3, nonce: 0x00c0_ffee };

    fn full_record() -> MetricsRecord {
        MetricsRecord {
            agent_id: "web-1".into(),
            boot: Some(BOOT),
            record: Some(Record {
                sequence: 42,
                timestamp_ms: 1_700_000_000_123,
                present: 0b1_0001,
                values: vec![8_125, 1_048_576],
                window: Some(Window {
                    count: 5,
                    duration_ms: 20_000,
                    min: vec![8_000, 0],
                    max: vec![8_250, 2_097_152],
                    partial: true,
                    last: vec![8_100, 1_048_576],
                    counts: vec![5, 4],
                }),
                alerts: vec![
                    Alert { metric: 0, limit: 8_000, below: false },
                    Alert { metric: 4, limit: 2_097_152, below: true },
                ],
                repeats: 2,
                uptime_ms: 210_000,
            }),
            metadata: HashMap::from([("site".into(), "b".into()), ("rack".into(), "7".into())]),
        }
    }

    #[test]
    fn a_full_record_has_every_key_in_order() {
        let text = metrics(&full_record()).unwrap().to_string();
        assert_eq!(
            text,
            concat!(
                r#"{"agent_id":"web-1","timestamp":"2023-11-14T22:13:20.123Z","#,
                r#""timestamp_ms":1700000000123,"#,
                r#""metrics":{"cpu_percent":81.25,"disk_read_mb":1.0},"#,
                r#""metadata":{"rack":"7","site":"b"},"#,
                r#""boot":"3-0000000000c0ffee","sequence":42,"uptime_ms":210000,"#,
                r#""alerts":[{"metric":"cpu_percent","value":81.25,"limit":80.0},"#,
                r#"{"metric":"disk_read_mb","value":1.0,"limit":2.0,"below":true}],"#,
                r#""window":{"count":5,"duration_ms":20000,"partial":true,"#,
                r#""min":{"cpu_percent":80.0,"disk_read_mb":0.0},"#,
                r#""max":{"cpu_percent":82.5,"disk_read_mb":2.0},"#,
                r#""last":{"cpu_percent":81.0,"disk_read_mb":1.0},"#,
                r#""counts":{"cpu_percent":5,"disk_read_mb":4}},"repeats":2}"#,
            )
        );
        assert_eq!(metrics_from(&text.parse().unwrap()), Ok(full_record()), "read back");
    }

    #[test]
    fn a_plain_record_has_only_the_fixed_keys_and_the_milliseconds() {
        let record = MetricsRecord {
            agent_id: "py".into(),
            record: Some(Record {
                timestamp_ms: 1_000,
                present: 1,
                values: vec![0],
                ..Record::default()
            }),
            ..MetricsRecord::default()
        };
        assert_eq!(
            metrics(&record).unwrap(),
            json!({
                "agent_id": "py",
                "timestamp": "1970-01-01T00:00:01.000Z",
                "timestamp_ms": 1000,
                "metrics": {"cpu_percent": 0.0},
                "metadata": {},
            })
        );
    }

    #[test]
    fn a_record_of_the_python_system_is_read() {
        let record = metrics_from(&json!({
            "agent_id": "py",
            "timestamp": "2023-11-14T22:13:20.123456",
            "metrics": {"cpu_percent": 12, "net_out_mb": 0.5, "of_tomorrow": "x"},
            "metadata": {"os": "linux"},
            "new_key": [],
        }))
        .unwrap();
        let body = record.record.unwrap();
        assert_eq!(body.timestamp_ms, 1_700_000_000_123);
        assert_eq!(body.present, 0b1000_0001);
        assert_eq!(body.values, [1_200, 524_288]);
        assert_eq!((record.boot, body.sequence), (None, 0));
    }

    #[test]
    fn what_is_no_record_is_refused_with_its_path() {
        let check = |value: Value, message: &str| {
            let error = metrics_from(&value).unwrap_err();
            assert_eq!(error.to_string(), message, "{value}");
        };
        check(json!([]), "agent_id must be a string");
        check(json!({"agent_id": "a"}), "metrics must be an object of numbers");
        check(
            json!({"agent_id": "a", "metrics": {"cpu_percent": "1"}}),
            "metrics.cpu_percent must be a number",
        );
        check(
            json!({"agent_id": "a", "metrics": {"cpu_percent": 1e300}}),
            "a value is out of range",
        );
        check(
            json!({"agent_id": "a", "metrics": {}, "timestamp": "noon"}),
            "timestamp \"noon\" is no ISO 8601 time",
        );
        check(
            json!({"agent_id": "a", "metrics": {}, "metadata": {"a": 1}}),
            "metadata must be an object of strings",
        );
        check(
            json!({"agent_id": "a", "metrics": {}, "boot": "x", "timestamp_ms": 1}),
            "boot is malformed",
        );
        check(
            json!({"agent_id": "a", "metrics": {"cpu_percent": 1}, "timestamp_ms": 1,
                   "window": {"min": {}, "max": {}}}),
            "window.min must be there for every metric of the record",
        );
    }

    #[test]
    fn values_that_do_not_fit_the_bits_are_an_error() {
        let mut record = full_record();
        record.record.as_mut().unwrap().values.pop();
        assert!(metrics(&record).is_err());
    }

    #[test]
    fn a_command_keeps_the_fixed_keys() {
        let mut given = Command {
            agent_id: "web-1".into(),
            r#type: CommandType::UpdateConfig.into(),
            timestamp: 7,
            params: HashMap::from([("interval".into(), "1".into())]),
            ..Command::default()
        };
        assert_eq!(
            command(&given).to_string(),
            r#"{"agent_id":"web-1","type":"UPDATE_CONFIG","params":{"interval":"1"},"timestamp":7}"#
        );
        given.r#type = 99;
        given.command_id = "c1".into();
        given.ttl_ms = 500;
        assert_eq!(
            command(&given).to_string(),
            r#"{"agent_id":"web-1","type":99,"params":{"interval":"1"},"timestamp":7,"command_id":"c1","ttl_ms":500}"#
        );
    }

    #[test]
    fn a_response_carries_status_and_books() {
        let response = CommandResponse {
            success: true,
            message: "running".into(),
            agent_id: "web-1".into(),
            timestamp: 7,
            command_id: "c1".into(),
            outcome: CommandOutcome::Succeeded.into(),
            boot: Some(BOOT),
            status: Some(AgentStatus {
                state: RunState::Running.into(),
                ledger: Some(Ledger {
                    produced: 9,
                    suppressed: vec![NamedCount { name: "filter".into(), count: 2 }],
                    recorded: 7,
                    delivered: 7,
                    ..Ledger::default()
                }),
                ..AgentStatus::default()
            }),
        };
        assert_eq!(
            command_response(&response),
            json!({
                "agent_id": "web-1", "success": true, "outcome": "SUCCEEDED", "message": "running",
                "timestamp": 7, "command_id": "c1", "boot": "3-0000000000c0ffee",
                "status": {
                    "state": "RUNNING", "uptime_ms": 0, "interval_ms": 0, "metrics": [],
                    "plugins": [], "samples_late": 0, "sessions": 0, "config_revision": 0,
                    "ledger": {
                        "produced": 9, "suppressed": {"filter": 2}, "in_plugins": 0,
                        "recorded": 7, "delivered": 7, "lost": {}, "held": 0,
                    },
                },
            })
        );
    }

    #[test]
    fn a_status_record_has_what_its_event_has() {
        let record = StatusRecord {
            agent_id: "web-1".into(),
            event: StatusEvent::Loss.into(),
            timestamp_ms: 1,
            server_id: "s1".into(),
            losses: vec![Loss {
                first: 3,
                last: 5,
                reason: LossReason::Overwritten.into(),
                never_sent: 2,
                unacknowledged: 1,
            }],
            ..StatusRecord::default()
        };
        assert_eq!(
            status_record(&record),
            json!({
                "agent_id": "web-1", "event": "LOSS", "timestamp": "1970-01-01T00:00:00.001Z",
                "timestamp_ms": 1, "server_id": "s1",
                "losses": [{"first": 3, "last": 5, "reason": "OVERWRITTEN", "never_sent": 2,
                            "unacknowledged": 1}],
            })
        );
    }

    #[test]
    fn times_beyond_the_calendar_are_clamped() {
        assert_eq!(iso_8601(0), "1970-01-01T00:00:00.000Z");
        assert!(iso_8601(i64::MAX).starts_with("9999-12-30"));
        assert!(iso_8601(i64::MIN).starts_with("-009999"));
    }

    const COUNTS: std::ops::Range<i64> = -(1_i64 << 48)..1 << 48;

    prop_compose! {
        /// A list for each field that has one value per metric, and a flag for what may be there or not.
        fn any_record()(
            present in 0..=MetricSet::ALL.bits(),
            lists in prop::collection::vec([COUNTS; 4], Metric::COUNT),
            counts in prop::collection::vec(any::<u32>(), Metric::COUNT),
            alerts in prop::collection::vec((0..21_u32, COUNTS, any::<bool>()), 0..3),
            flags: [bool; 3],
        ) -> Record {
            let amount = present.count_ones() as usize;
            let list = |index: usize| lists.iter().take(amount).map(|row| row[index]).collect();
            let [windowed, has_last, has_counts] = flags;
            let window = windowed.then(|| Window {
                count: 5,
                duration_ms: 7,
                min: list(1),
                max: list(2),
                partial: has_last,
                last: if has_last { list(3) } else { Vec::new() },
                counts: if has_counts { counts[..amount].to_vec() } else { Vec::new() },
            });
            let alert = |(metric, limit, below)| Alert { metric, limit, below };
            let alerts = alerts.into_iter().map(alert).collect();
            Record { present, values: list(0), window, alerts, ..Record::default() }
        }
    }

    proptest! {
        #[test]
        fn every_record_is_read_back(
            record in any_record(),
            sequence: u64,
            timestamp_ms in -377_705_023_201_000_i64..253_402_207_200_000,
            nonce: u64,
        ) {
            let record = MetricsRecord {
                agent_id: "a".into(),
                boot: Some(Boot { counter: 1, nonce }),
                record: Some(Record { sequence, timestamp_ms, ..record }),
                metadata: HashMap::new(),
            };
            let text = metrics(&record).unwrap().to_string();
            prop_assert_eq!(metrics_from(&text.parse().unwrap()), Ok(record));
        }
    }
}
