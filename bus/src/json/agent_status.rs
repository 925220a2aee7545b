//! The JSON form of records of `agent-status`.

use agent_core::metric::Metric;
use proto::convert::units_from_count;
use proto::{
    AgentStatus, AlertLedger, AlertRecord, AlertSeverity, AlertTransition, ConfigOutcome,
    ConfigReport, Hello, Ledger, Loss, LossReason, PluginCounters, RunState, SpoolStatus,
    StatusEvent, StatusRecord,
};
use serde_json::{Map, Value};

use super::part::Part;
use super::{
    JsonError, Object, boot, count, expected, iso_8601, name, named_counts, nonempty, nonzero,
    timestamp_ms,
};

/// The form of a record of `agent-status`.
///
/// Shape: `agent_id`, `event`, `timestamp` (ISO 8601), `timestamp_ms`, `server_id`, and, where the event has
/// them, `boot`, `detail`, `peer`, `command_id`, `hello`, `status`, `config`, `losses`, `alerts` (see
/// [`alert_record`]) and, of alerts from a spool, `replayed`.
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
    object.put_some("command_id", nonempty(&record.command_id));
    object.put_some("hello", record.hello.as_ref().map(hello));
    object.put_some("status", record.status.as_ref().map(agent_status));
    object.put_some("config", record.config.as_ref().map(config_report));
    let losses: Vec<Value> = record.losses.iter().map(loss).collect();
    object.put_some("losses", (!losses.is_empty()).then_some(losses));
    let alerts: Vec<Value> = record.alerts.iter().map(alert_record).collect();
    object.put_some("alerts", (!alerts.is_empty()).then_some(alerts));
    object.put_some("replayed", record.replayed.then_some(true));
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
    object.put_some("spool", status.spool.as_ref().map(spool));
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
    object.put("running", report.running);
    object.put_some("reason", nonempty(&report.reason));
    object
        .put_some("overridden", (!report.overridden.is_empty()).then(|| report.overridden.clone()));
    object.into_value()
}

fn spool(spool: &SpoolStatus) -> Value {
    let mut object = Object::new();
    object.put("bytes", spool.bytes);
    object.put("bytes_max", spool.bytes_max);
    object.put("records", spool.records);
    object.put("alerts", spool.alerts);
    object.put("written_bytes", spool.written_bytes);
    object.put_some("oldest_ms", nonzero(spool.oldest_ms));
    object.put_some("problem", nonempty(&spool.problem));
    object.into_value()
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
    object.put_some("spooled", nonzero(ledger.spooled));
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
    object.put_some("spooled", nonzero(ledger.spooled));
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
    object.put_some("acknowledged", nonzero(hello.acknowledged));
    object.put_some("alerts_acknowledged", nonzero(hello.alerts_acknowledged));
    object.put_some("own_config", hello.own_config.then_some(true));
    object.put_some("host", nonempty(&hello.host));
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

/// Reads a record of `agent-status`. Unknown keys are tolerated, and a name that this version does not know stands for
/// the value 0 of its enum.
///
/// Of an alert of an unknown metric, limit and value are 0: nobody knows their unit.
///
/// # Errors
///
/// When `agent_id` is missing, or a known key has a value of the wrong type or range.
pub fn status_record_from(value: &Value) -> Result<StatusRecord, JsonError> {
    let agent_id = value["agent_id"].as_str().ok_or_else(|| expected("agent_id", "a string"))?;
    let record = Part::record(value);
    Ok(StatusRecord {
        agent_id: agent_id.to_owned(),
        event: record.number("event", StatusEvent::from_str_name, "STATUS_EVENT_")?,
        timestamp_ms: timestamp_ms(value)?,
        server_id: record.text("server_id")?,
        boot: record.boot()?,
        detail: record.text("detail")?,
        status: record.part("status")?.map(agent_status_from).transpose()?,
        config: record.part("config")?.map(config_report_from).transpose()?,
        losses: record.parts("losses")?.into_iter().map(loss_from).collect::<Result<_, _>>()?,
        hello: record.part("hello")?.map(hello_from).transpose()?,
        peer: record.text("peer")?,
        alerts: record.parts("alerts")?.into_iter().map(alert_from).collect::<Result<_, _>>()?,
        command_id: record.text("command_id")?,
        replayed: record.flag("replayed")?,
    })
}

pub(super) fn agent_status_from(status: Part<'_>) -> Result<AgentStatus, JsonError> {
    Ok(AgentStatus {
        state: status.number("state", RunState::from_str_name, "RUN_STATE_")?,
        uptime_ms: status.whole("uptime_ms")?,
        ledger: status.part("ledger")?.map(ledger_from).transpose()?,
        config_revision: status.whole("config_revision")?,
        interval_ms: status.whole("interval_ms")?,
        metrics: status.texts("metrics")?,
        plugins: status.texts("plugins")?,
        samples_late: status.whole("samples_late")?,
        sessions: status.whole("sessions")?,
        last_config: status.part("last_config")?.map(config_report_from).transpose()?,
        boot: status.boot()?,
        spool: status.part("spool")?.map(spool_from).transpose()?,
    })
}

fn spool_from(spool: Part<'_>) -> Result<SpoolStatus, JsonError> {
    Ok(SpoolStatus {
        bytes: spool.whole("bytes")?,
        bytes_max: spool.whole("bytes_max")?,
        records: spool.whole("records")?,
        alerts: spool.whole("alerts")?,
        written_bytes: spool.whole("written_bytes")?,
        oldest_ms: spool.whole("oldest_ms")?,
        problem: spool.text("problem")?,
    })
}

fn ledger_from(ledger: Part<'_>) -> Result<Ledger, JsonError> {
    let plugins = ledger.named_parts("plugins")?.into_iter();
    Ok(Ledger {
        produced: ledger.whole("produced")?,
        suppressed: ledger.named_counts("suppressed")?,
        in_plugins: ledger.whole("in_plugins")?,
        recorded: ledger.whole("recorded")?,
        delivered: ledger.whole("delivered")?,
        lost: ledger.named_counts("lost")?,
        held: ledger.whole("held")?,
        spooled: ledger.whole("spooled")?,
        plugins: plugins.map(plugin_counters_from).collect::<Result<_, _>>()?,
        alerts: ledger.part("alerts")?.map(alert_ledger_from).transpose()?,
    })
}

fn plugin_counters_from((name, part): (&str, Part<'_>)) -> Result<PluginCounters, JsonError> {
    Ok(PluginCounters {
        name: name.to_owned(),
        received: part.whole("received")?,
        forwarded: part.whole("forwarded")?,
        merged: part.whole("merged")?,
        dropped: part.named_counts("dropped")?,
    })
}

fn alert_ledger_from(ledger: Part<'_>) -> Result<AlertLedger, JsonError> {
    Ok(AlertLedger {
        recorded: ledger.whole("recorded")?,
        delivered: ledger.whole("delivered")?,
        lost: ledger.named_counts("lost")?,
        held: ledger.whole("held")?,
        spooled: ledger.whole("spooled")?,
    })
}

fn config_report_from(report: Part<'_>) -> Result<ConfigReport, JsonError> {
    Ok(ConfigReport {
        revision: report.whole("revision")?,
        outcome: report.number("outcome", ConfigOutcome::from_str_name, "CONFIG_OUTCOME_")?,
        reason: report.text("reason")?,
        overridden: report.texts("overridden")?,
        running: report.whole("running")?,
    })
}

fn hello_from(hello: Part<'_>) -> Result<Hello, JsonError> {
    Ok(Hello {
        agent_id: hello.text("agent_id")?,
        boot: hello.boot()?,
        session: hello.whole("session")?,
        version: hello.text("version")?,
        host_name: hello.text("host_name")?,
        target: hello.text("target")?,
        config_revision: hello.whole("config_revision")?,
        acknowledged: hello.whole("acknowledged")?,
        alerts_acknowledged: hello.whole("alerts_acknowledged")?,
        own_config: hello.flag("own_config")?,
        host: hello.text("host")?,
    })
}

fn loss_from(loss: Part<'_>) -> Result<Loss, JsonError> {
    Ok(Loss {
        first: loss.whole("first")?,
        last: loss.whole("last")?,
        reason: loss.number("reason", LossReason::from_str_name, "LOSS_REASON_")?,
        never_sent: loss.whole("never_sent")?,
        unacknowledged: loss.whole("unacknowledged")?,
    })
}

fn alert_from(alert: Part<'_>) -> Result<AlertRecord, JsonError> {
    let of_alert = "the name or the id of a metric";
    let (id, metric) = match alert.get("metric") {
        Value::String(name) => {
            let metric = name.parse::<Metric>().ok();
            // A reader of an unknown name cannot know its id; no metric will ever have this one.
            (metric.map_or(u32::MAX, |metric| metric.id().into()), metric)
        }
        id => {
            let id = id.as_u64().and_then(|id| u32::try_from(id).ok());
            let id = id.ok_or_else(|| expected(&alert.path("metric"), of_alert))?;
            (id, Metric::from_id(id))
        }
    };
    let units = |key: &str| match metric {
        Some(metric) => count(metric, alert.get(key), || alert.path(key)),
        None => Ok(0),
    };
    Ok(AlertRecord {
        sequence: alert.whole("sequence")?,
        timestamp_ms: timestamp_ms(alert.value())?,
        metric: id,
        transition: alert.number(
            "transition",
            AlertTransition::from_str_name,
            "ALERT_TRANSITION_",
        )?,
        severity: alert.number("severity", AlertSeverity::from_str_name, "ALERT_SEVERITY_")?,
        below: alert.get("direction").as_str() == Some(BELOW),
        limit: units("limit")?,
        value: units("value")?,
        lasted_ms: alert.whole("lasted_ms")?,
        uptime_ms: alert.whole("uptime_ms")?,
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use proto::{Boot, NamedCount};
    use serde_json::json;

    use super::*;

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

    const BOOT: Boot = Boot { counter: 3, nonce: 0x00c0_ffee };

    fn alert() -> AlertRecord {
        AlertRecord {
            sequence: 7,
            timestamp_ms: 1_700_000_000_123,
            metric: Metric::Temperature.id().into(),
            transition: AlertTransition::Raised.into(),
            severity: AlertSeverity::Critical.into(),
            below: true,
            limit: 5_000,
            value: 4_500,
            lasted_ms: 60_000,
            uptime_ms: 210_000,
        }
    }

    #[test]
    fn an_alert_has_names_and_units() {
        let record = StatusRecord {
            agent_id: "web-1".into(),
            event: StatusEvent::Alert.into(),
            timestamp_ms: 1,
            server_id: "s1".into(),
            boot: Some(BOOT),
            alerts: vec![alert()],
            ..StatusRecord::default()
        };
        let form = status_record(&record);
        assert_eq!(
            form["alerts"].to_string(),
            concat!(
                r#"[{"metric":"temperature_celsius","transition":"RAISED","severity":"CRITICAL","#,
                r#""direction":"BELOW","limit":5.0,"value":4.5,"lasted_ms":60000,"sequence":7,"#,
                r#""uptime_ms":210000,"timestamp":"2023-11-14T22:13:20.123Z","#,
                r#""timestamp_ms":1700000000123}]"#,
            )
        );
        assert_eq!(form["event"], "ALERT");
        assert_eq!(status_record_from(&form), Ok(record));
    }

    #[test]
    fn what_a_later_version_says_of_an_alert_is_passed_on() {
        let later =
            AlertRecord { metric: 60, severity: 9, limit: 0, value: 0, below: false, ..alert() };
        let form = alert_record(&later);
        assert_eq!((&form["metric"], &form["severity"]), (&json!(60), &json!(9)));
        assert!(form.get("limit").is_none());
        let record = json!({"agent_id": "a", "timestamp_ms": 1, "alerts": [form]});
        assert_eq!(status_record_from(&record).unwrap().alerts, [later]);
        let named = json!({"metric": "of_tomorrow", "severity": "DIRE", "timestamp_ms": 1});
        let record = json!({"agent_id": "a", "timestamp_ms": 1, "alerts": [named]});
        let read = &status_record_from(&record).unwrap().alerts[0];
        assert_eq!((Metric::from_id(read.metric), read.severity), (None, 0));
    }

    #[test]
    fn the_books_are_by_name() {
        let lost = vec![NamedCount { name: "overwritten".into(), count: 1 }];
        let given = Ledger {
            produced: 9,
            recorded: 7,
            plugins: vec![PluginCounters {
                name: "filter".into(),
                received: 9,
                forwarded: 7,
                merged: 0,
                dropped: vec![NamedCount { name: "idle".into(), count: 2 }],
            }],
            alerts: Some(AlertLedger { recorded: 3, delivered: 1, lost, held: 1, spooled: 0 }),
            ..Ledger::default()
        };
        let form = ledger(&given);
        let filter = json!({"received": 9, "forwarded": 7, "merged": 0, "dropped": {"idle": 2}});
        assert_eq!(form["plugins"], json!({"filter": filter}));
        let alerts = json!({"recorded": 3, "delivered": 1, "lost": {"overwritten": 1}, "held": 1});
        assert_eq!(form["alerts"], alerts);
        assert_eq!(ledger_from(Part::record(&form)), Ok(given));
    }

    #[test]
    fn what_is_no_status_is_refused_with_its_path() {
        let check = |value: Value, message: &str| {
            let mut record = json!({"agent_id": "a", "timestamp_ms": 1});
            let more = value.as_object().unwrap().clone();
            record.as_object_mut().unwrap().extend(more);
            let error = status_record_from(&record).unwrap_err();
            assert_eq!(error.to_string(), message, "{record}");
        };
        check(json!({"agent_id": null}), "agent_id must be a string");
        check(json!({"event": []}), "event must be a name or a number of 32 bits");
        check(json!({"status": []}), "status must be an object");
        check(json!({"status": {"plugins": [1]}}), "status.plugins must be a list of strings");
        let plugins = json!({"filter": {"received": -1}});
        check(
            json!({"status": {"ledger": {"plugins": plugins}}}),
            "status.ledger.plugins.filter.received must be a whole number",
        );
        check(json!({"losses": [{}, {"first": "1"}]}), "losses[1].first must be a whole number");
        check(
            json!({"alerts": [{"metric": true}]}),
            "alerts[0].metric must be the name or the id of a metric",
        );
        check(
            json!({"alerts": [{"metric": "load1", "timestamp_ms": 1, "limit": "x"}]}),
            "alerts[0].limit must be a number",
        );
    }

    prop_compose! {
        fn any_status()(
            event in 0..=13_i32,
            numbers: [u32; 8],
            text in "[ -~]{0,8}",
            below: bool,
            flags: [bool; 4],
        ) -> StatusRecord {
            let [a, b, c, d, e, f, g, h] = numbers.map(u64::from);
            let [with_status, with_config, with_hello, with_boot] = flags;
            let counts = vec![NamedCount { name: "x".into(), count: a }];
            let boot = with_boot.then_some(BOOT);
            let config = with_config.then(|| ConfigReport {
                revision: b,
                outcome: ConfigOutcome::Rejected.into(),
                reason: text.clone(),
                overridden: vec![text.clone()],
                running: c,
            });
            let ledger = Ledger {
                produced: a, suppressed: counts.clone(), in_plugins: b, recorded: c, delivered: d,
                lost: counts.clone(), held: e,
                plugins: vec![PluginCounters {
                    name: "own.x".into(), received: f, forwarded: g, merged: h, dropped: counts,
                }],
                alerts: with_boot.then(|| AlertLedger { spooled: c, ..AlertLedger::default() }),
                spooled: h,
            };
            let spool = SpoolStatus {
                bytes: a, bytes_max: b, records: c, alerts: d, written_bytes: e, oldest_ms: f,
                problem: text.clone(),
            };
            let status = with_status.then(|| AgentStatus {
                state: RunState::Draining.into(), uptime_ms: a, ledger: Some(ledger),
                config_revision: b, interval_ms: c, metrics: vec!["cpu".into()],
                plugins: Vec::new(), samples_late: d, sessions: e, last_config: config.clone(), boot,
                spool: with_hello.then_some(spool),
            });
            let hello = with_hello.then(|| Hello {
                agent_id: "a".into(), boot, session: f, version: text.clone(),
                host_name: text.clone(), target: String::new(), config_revision: g, acknowledged: h,
                alerts_acknowledged: a, own_config: below, host: text.clone(),
            });
            let reason = LossReason::Shutdown.into();
            StatusRecord {
                agent_id: "a".into(), event, timestamp_ms: 1, server_id: text.clone(), boot,
                detail: text.clone(), status, config, command_id: text.clone(),
                losses: vec![Loss { first: a, last: b, reason, never_sent: c, unacknowledged: d }],
                hello, peer: text, replayed: below, alerts: vec![AlertRecord { below, sequence: h, ..alert() }],
            }
        }
    }

    proptest! {
        #[test]
        fn every_record_is_read_back(record in any_status()) {
            let text = status_record(&record).to_string();
            prop_assert_eq!(status_record_from(&text.parse().unwrap()), Ok(record));
        }
    }
}
