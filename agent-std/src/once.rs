//! `picket-agent once`: one measurement of this host, for people and scripts.

use std::io::{self, Write};
use std::thread;
use std::time::{Duration, Instant};

use agent_core::metric::{MetricSet, MetricSwitch, Values};
use anyhow::{Context as _, ensure};
use proto::convert::units_from_count;
use serde::Serialize;
use serde_json::{Map, Value};

use crate::cli::Once;
use crate::collector::{CollectorKind, unix_ms};
use crate::settings::Problems;

/// Between the two looks that a rate needs.
const BETWEEN_LOOKS: Duration = Duration::from_secs(1);

/// What was measured.
#[derive(Debug, Serialize)]
struct Measurement {
    /// Unix milliseconds of the second look.
    timestamp_ms: i64,
    /// Between the two looks.
    seconds: f64,
    collector: &'static str,
    /// By name, in its unit; null where this host does not have it or does not tell.
    metrics: Map<String, Value>,
}

/// Measures and prints.
///
/// # Errors
///
/// [`Problems`] when a switch is unknown; when this system cannot be measured, nothing could be measured, or the output ends.
pub(crate) fn run(arguments: &Once) -> anyhow::Result<()> {
    let wanted = wanted(&arguments.metrics).map_err(|problem| Problems(vec![problem]))?;
    let kind = arguments.collector.unwrap_or(CollectorKind::DEFAULT);
    let mut collector = kind.open().context("cannot measure this system")?;
    collector.collect(wanted);
    let first = Instant::now();
    thread::sleep(BETWEEN_LOOKS);
    let values = collector.collect(wanted);
    let measurement = Measurement {
        timestamp_ms: unix_ms(),
        seconds: first.elapsed().as_secs_f64(),
        collector: kind.name(),
        metrics: metrics(wanted, &values),
    };
    let mut out = io::stdout().lock();
    if arguments.json {
        writeln!(out, "{}", serde_json::to_string(&measurement)?)?;
    } else {
        write_table(&mut out, &measurement, wanted, &values)?;
    }
    let present = values.present().intersection(wanted);
    ensure!(!present.is_empty(), "nothing that was asked for could be measured");
    Ok(())
}

/// The metrics of these switches. That of an agent's buffer is absent, as none runs here.
fn wanted(names: &[String]) -> Result<MetricSet, String> {
    let mut wanted = MetricSet::EMPTY;
    for name in names.iter().map(|name| name.trim()).filter(|name| !name.is_empty()) {
        let Ok(switch) = name.parse::<MetricSwitch>() else {
            let known = MetricSwitch::SINGLE.map(MetricSwitch::name).join(", ");
            let all = MetricSwitch::Standard.name();
            return Err(format!("unknown metric {name:?}; known are {known}, and {all} for all"));
        };
        wanted = wanted.union(switch.metrics());
    }
    if wanted.is_empty() { Err("there must be at least one metric".to_owned()) } else { Ok(wanted) }
}

fn metrics(wanted: MetricSet, values: &Values) -> Map<String, Value> {
    let value = |metric| values.get(metric).map(|count| units_from_count(metric, count));
    wanted.iter().map(|metric| (metric.name().to_owned(), value(metric).into())).collect()
}

fn write_table(
    out: &mut impl Write,
    measurement: &Measurement,
    wanted: MetricSet,
    values: &Values,
) -> io::Result<()> {
    let Measurement { seconds, collector, .. } = measurement;
    writeln!(out, "# measured with {collector}; rates are over {seconds:.2} s")?;
    let width = wanted.iter().map(|metric| metric.name().len()).max().unwrap_or(0);
    for metric in wanted.iter() {
        let name = metric.name();
        match values.get(metric) {
            Some(count) => {
                // The resolution is a power of ten, or a byte in a unit that hundredths are enough for.
                let digits = if metric.counts_per_unit() == 1000 { 3 } else { 2 };
                let value = units_from_count(metric, count);
                let line = format!("{name:width$}  {value:>14.digits$} {}", metric.unit());
                writeln!(out, "{}", line.trim_end())?;
            }
            None => writeln!(out, "{name:width$}  {:>14}", "-")?,
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use agent_core::metric::Metric;

    use super::*;

    fn of(names: &str) -> Result<MetricSet, String> {
        wanted(&names.split(',').map(str::to_owned).collect::<Vec<_>>())
    }

    #[test]
    fn switches_are_those_of_the_agent() {
        assert_eq!(of("cpu, memory").unwrap().len(), 4);
        assert_eq!(of("disk read").unwrap().len(), 1);
        assert!(of("agent").unwrap().contains(Metric::AgentBuffer));
        assert!(of("gpu").unwrap_err().contains("known are cpu"));
        assert!(of("").unwrap_err().contains("at least one"));
    }

    #[test]
    fn what_is_absent_is_shown_as_absent() {
        let wanted = of("cpu,temperature").unwrap();
        let mut values = Values::EMPTY;
        values.set(Metric::CpuPercent, 1_234);
        let metrics = metrics(wanted, &values);
        let json = serde_json::to_string(&metrics).unwrap();
        assert_eq!(json, r#"{"cpu_percent":12.34,"temperature_celsius":null}"#);
        let measurement = Measurement { timestamp_ms: 0, seconds: 1.0, collector: "proc", metrics };
        let mut out = Vec::new();
        write_table(&mut out, &measurement, wanted, &values).unwrap();
        let text = String::from_utf8(out).unwrap();
        let lines = text.lines().collect::<Vec<_>>();
        assert_eq!(lines[0], "# measured with proc; rates are over 1.00 s");
        assert_eq!(lines[1], "cpu_percent                   12.34 %");
        assert_eq!(lines[2], "temperature_celsius               -");
    }
}
