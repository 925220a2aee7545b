//! Alerts: when they began and ended, as they come, and those that stand.

use std::io::{self, Write};

use agent_core::metric::Metric;
use jiff::tz::TimeZone;
use proto::{AlertRecord, AlertSeverity, AlertTransition, Boot};
use serde_json::{Map, Value};

use crate::cli::Output;
use crate::decode::direction;
use crate::view::grid::{Align, Column, Grid};
use crate::view::log::Entry;
use crate::view::{json, sign, time, value};

/// An alert that began or ended, and whose it is.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Change<'a> {
    pub(crate) agent_id: &'a str,
    pub(crate) boot: Option<Boot>,
    pub(crate) alert: &'a AlertRecord,
}

impl Entry for Change<'_> {
    const HEADING: &'static str =
        "SEVERITY  METRIC                CHANGE          VALUE         LIMIT  LASTED";

    const COLUMNS: &'static [Column] = &[
        ("timestamp", Align::Left),
        ("agent_id", Align::Left),
        ("boot", Align::Left),
        ("sequence", Align::Right),
        ("severity", Align::Left),
        ("metric", Align::Left),
        ("transition", Align::Left),
        ("value", Align::Right),
        ("direction", Align::Left),
        ("limit", Align::Right),
        ("lasted_ms", Align::Right),
        ("uptime_ms", Align::Right),
    ];

    fn agent_id(&self) -> &str {
        self.agent_id
    }

    /// By the agent's clock.
    fn timestamp_ms(&self) -> i64 {
        self.alert.timestamp_ms
    }

    fn row(&self) -> String {
        let alert = self.alert;
        let (severity, metric, transition) = (severity(alert), metric(alert), transition(alert));
        let (value, limit) = (value_text(alert), limit(alert));
        let lasted = time::fine_span(alert.lasted_ms);
        format!("{severity:<8}  {metric:<20}  {transition:<9}  {value:>10}  {limit:>12}  {lasted}")
    }

    /// The words are those of JSON.
    fn cells(&self) -> Vec<String> {
        let object = self.object();
        let cell = |(name, _): &Column| match &object[*name] {
            Value::Null => String::new(),
            Value::String(text) => text.clone(),
            other => other.to_string(),
        };
        Self::COLUMNS.iter().map(cell).collect()
    }

    /// The form of the bus, with whose it is before it.
    fn object(&self) -> Value {
        let mut object = Map::new();
        object.insert("agent_id".to_owned(), self.agent_id.into());
        if let Some(boot) = self.boot {
            object.insert("boot".to_owned(), bus::json::boot(boot).into());
        }
        if let Value::Object(form) = bus::json::alert_record(self.alert) {
            object.extend(form);
        }
        Value::Object(object)
    }
}

/// Alerts that stand, in the order given.
pub(crate) fn write_standing(
    alerts: &[Change<'_>],
    output: Output,
    zone: &TimeZone,
    now_ms: i64,
    out: &mut dyn Write,
) -> io::Result<()> {
    match output {
        Output::Table => standing_table(alerts, zone, now_ms).write_table(out),
        Output::Json => alerts.iter().try_for_each(|alert| json::write_line(out, &alert.object())),
        Output::Csv => {
            let mut grid = Grid::new(Change::COLUMNS);
            alerts.iter().for_each(|alert| grid.push(alert.cells()));
            grid.write_csv(out)
        }
    }
}

fn standing_table(alerts: &[Change<'_>], zone: &TimeZone, now_ms: i64) -> Grid {
    let mut grid = Grid::new(&[
        ("since", Align::Left),
        ("agent", Align::Left),
        ("severity", Align::Left),
        ("metric", Align::Left),
        ("value", Align::Right),
        ("limit", Align::Right),
        ("stands for", Align::Left),
    ]);
    for change in alerts {
        let alert = change.alert;
        grid.push(vec![
            time::local(alert.timestamp_ms, zone),
            change.agent_id.to_owned(),
            severity(alert),
            metric(alert),
            value_text(alert),
            limit(alert),
            time::span(now_ms.saturating_sub(alert.timestamp_ms)),
        ]);
    }
    grid
}

/// An alert in a few words.
pub(crate) fn describe(alert: &AlertRecord) -> String {
    let (metric, transition) = (metric(alert), transition(alert));
    let (value, limit, severity) = (value_text(alert), limit(alert), severity(alert));
    format!("{metric} {transition} at {value}, limit {limit}, {severity}")
}

fn severity(alert: &AlertRecord) -> String {
    match AlertSeverity::try_from(alert.severity) {
        Ok(AlertSeverity::Unspecified) => "-".to_owned(),
        Ok(AlertSeverity::Info) => "info".to_owned(),
        Ok(AlertSeverity::Warning) => "warning".to_owned(),
        Ok(AlertSeverity::Critical) => "critical".to_owned(),
        Err(_) => alert.severity.to_string(),
    }
}

fn transition(alert: &AlertRecord) -> String {
    match AlertTransition::try_from(alert.transition) {
        Ok(AlertTransition::Unspecified) => "-".to_owned(),
        Ok(AlertTransition::Raised) => "RAISED".to_owned(),
        Ok(AlertTransition::Cleared) => "CLEARED".to_owned(),
        Ok(AlertTransition::Withdrawn) => "WITHDRAWN".to_owned(),
        Err(_) => alert.transition.to_string(),
    }
}

/// Of a metric that this version does not know: its id.
fn metric(alert: &AlertRecord) -> String {
    Metric::from_id(alert.metric)
        .map_or_else(|| format!("metric {}", alert.metric), |metric| metric.name().to_owned())
}

fn value_text(alert: &AlertRecord) -> String {
    Metric::from_id(alert.metric)
        .map_or_else(|| "-".to_owned(), |metric| value(metric, alert.value))
}

fn limit(alert: &AlertRecord) -> String {
    let sign = sign(direction(alert.below));
    Metric::from_id(alert.metric)
        .map_or_else(|| "-".to_owned(), |metric| format!("{sign} {}", value(metric, alert.limit)))
}

#[cfg(test)]
mod tests {
    use crate::view::log::Log;

    use super::*;

    const NOW_MS: i64 = 1_700_000_000_000;

    fn raised() -> AlertRecord {
        AlertRecord {
            sequence: 4,
            timestamp_ms: NOW_MS - 90_000,
            metric: 0,
            transition: AlertTransition::Raised.into(),
            severity: AlertSeverity::Warning.into(),
            below: false,
            limit: 8_000,
            value: 9_125,
            lasted_ms: 2_500,
            uptime_ms: 60_000,
        }
    }

    fn alerts() -> [AlertRecord; 3] {
        let cleared = AlertRecord {
            metric: 16,
            transition: AlertTransition::Cleared.into(),
            severity: AlertSeverity::Critical.into(),
            below: true,
            limit: -5_000,
            value: -4_000,
            lasted_ms: 3_600_000,
            ..raised()
        };
        // Of a version to come.
        let unknown = AlertRecord { metric: 40, transition: 9, severity: 9, ..raised() };
        [raised(), cleared, unknown]
    }

    fn written(write: impl FnOnce(&[Change<'_>], &mut Vec<u8>)) -> String {
        let alerts = alerts();
        let boot = Some(Boot { counter: 1, nonce: 2 });
        let changes: Vec<_> =
            alerts.iter().map(|alert| Change { agent_id: "web-1", boot, alert }).collect();
        let mut bytes = Vec::new();
        write(&changes, &mut bytes);
        String::from_utf8(bytes).unwrap()
    }

    fn logged(output: Output) -> String {
        written(|changes, bytes| {
            let mut log = Log::new(bytes, output, TimeZone::UTC, None);
            changes.iter().for_each(|change| log.write(change).unwrap());
        })
    }

    fn standing(output: Output) -> String {
        written(|changes, bytes| {
            write_standing(changes, output, &TimeZone::UTC, NOW_MS, bytes).unwrap();
        })
    }

    #[test]
    fn rows_are_aligned() {
        assert_eq!(
            logged(Output::Table),
            "\
TIME                 AGENT         SEVERITY  METRIC                CHANGE          VALUE         LIMIT  LASTED
2023-11-14 22:11:50  web-1         warning   cpu_percent           RAISED          91.25       > 80.00  2.5s
2023-11-14 22:11:50  web-1         critical  temperature_celsius   CLEARED          -4.0        < -5.0  1h
2023-11-14 22:11:50  web-1         9         metric 40             9                   -             -  2.5s
"
        );
    }

    #[test]
    fn json_says_whose_it_is_and_has_the_form_of_the_bus() {
        let text = logged(Output::Json);
        let first: Value = text.lines().next().unwrap().parse().unwrap();
        let form = bus::json::alert_record(&raised());
        assert_eq!(first["agent_id"], "web-1");
        assert_eq!(first["boot"], "1-0000000000000002");
        for (key, value) in form.as_object().unwrap() {
            assert_eq!(&first[key], value, "{key}");
        }
        assert_eq!(text.lines().count(), 3);
        assert_eq!(standing(Output::Json), text);
    }

    #[test]
    fn csv_has_the_words_of_json() {
        let expected = "\
timestamp,agent_id,boot,sequence,severity,metric,transition,value,direction,limit,lasted_ms,uptime_ms
2023-11-14T22:11:50.000Z,web-1,1-0000000000000002,4,WARNING,cpu_percent,RAISED,91.25,ABOVE,80.0,2500,60000
2023-11-14T22:11:50.000Z,web-1,1-0000000000000002,4,CRITICAL,temperature_celsius,CLEARED,-4.0,BELOW,-5.0,3600000,60000
2023-11-14T22:11:50.000Z,web-1,1-0000000000000002,4,9,40,9,,ABOVE,,2500,60000
";
        assert_eq!(logged(Output::Csv), expected);
        assert_eq!(standing(Output::Csv), expected);
    }

    #[test]
    fn what_stands_says_for_how_long() {
        assert_eq!(
            standing(Output::Table).lines().take(2).collect::<Vec<_>>(),
            [
                "SINCE                AGENT  SEVERITY  METRIC               VALUE    LIMIT  STANDS FOR",
                "2023-11-14 22:11:50  web-1  warning   cpu_percent          91.25  > 80.00  1m 30s",
            ]
        );
    }

    #[test]
    fn an_alert_in_words_has_all_that_counts() {
        let words = alerts().each_ref().map(describe);
        assert_eq!(
            words,
            [
                "cpu_percent RAISED at 91.25, limit > 80.00, warning",
                "temperature_celsius CLEARED at -4.0, limit < -5.0, critical",
                "metric 40 9 at -, limit -, 9",
            ]
        );
    }
}
