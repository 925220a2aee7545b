//! The JSON form of records of `monitoring-data`.

use std::collections::HashMap;

use agent_core::id::BootId;
use agent_core::metric::{Metric, Values};
use proto::convert::{CountsError, units_from_count, values_from_counts};
use proto::{Alert, Boot, MetricsRecord, Record, Window};
use serde_json::{Map, Value};

use super::{
    JsonError, Object, boot, count, expected, iso_8601, narrow, nonzero, texts, timestamp_ms, whole,
};

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
    object.put_some("session", nonzero(record.session));
    object.put_some("replayed", record.replayed.then_some(true));
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

/// Reads a record of `monitoring-data`, also one that only has the fixed keys. Unknown keys and metrics are
/// tolerated.
///
/// A `timestamp` without an offset is taken as UTC; `timestamp_ms` goes before it. Values come back exactly
/// below 2^48 counts; beyond, the last digit of a double may tip.
///
/// # Errors
///
/// When a fixed key is missing, or a known key has a value of the wrong type or range.
pub fn metrics_from(value: &Value) -> Result<MetricsRecord, JsonError> {
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
        session: whole(&value["session"], "session")?,
        replayed: match &value["replayed"] {
            Value::Null => false,
            Value::Bool(replayed) => *replayed,
            _ => return Err(expected("replayed", "a boolean")),
        },
    })
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

fn counts(value: &Value, path: &str) -> Result<Values, JsonError> {
    let entries = value.as_object().ok_or_else(|| expected(path, "an object of numbers"))?;
    let known =
        entries.iter().filter_map(|(key, value)| Some((key.parse::<Metric>().ok()?, value)));
    known
        .map(|(metric, value)| {
            let path = || format!("{path}.{metric}");
            Ok((metric, count(metric, value, path)?))
        })
        .collect()
}

fn window_from(value: &Value, values: &Values) -> Result<Option<Window>, JsonError> {
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

fn alerts_from(value: &Value) -> Result<Vec<Alert>, JsonError> {
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
                limit: count(metric, &alert["limit"], || "alerts.limit".to_owned())?,
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
            session: 5,
            replayed: true,
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
                r#""boot":"3-0000000000c0ffee","sequence":42,"session":5,"replayed":true,"#,
                r#""uptime_ms":210000,"#,
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
                session: 0,
                replayed: false,
            };
            let text = metrics(&record).unwrap().to_string();
            prop_assert_eq!(metrics_from(&text.parse().unwrap()), Ok(record));
        }
    }
}
