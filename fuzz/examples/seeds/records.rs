//! Records as an agent makes them of a recorded trace.

use std::path::Path;
use std::time::Duration;
use std::{fs, io};

use agent_core::agent::{Agent, Input, Output, Transmit};
use agent_core::config::{Config, Settings, Tolerance};
use agent_core::id::BootId;
use agent_core::metric::{Metric, Values};
use agent_core::plugin::PluginKind;
use agent_core::plugin::own::NoPlugins;
use agent_core::record::{Alert, Direction, Sample, Severity, Snapshot, Transition};
use agent_core::time::Instant;

/// The recording, from this directory.
const TRACE: &str = "../testdata/traces/busy-compile.csv";

/// Chains that leave their marks on records.
pub(crate) const WINDOWS: &[PluginKind] = &[PluginKind::Aggregation, PluginKind::ThresholdAlert];
pub(crate) const ALERTS: &[PluginKind] = &[PluginKind::ThresholdAlert];
pub(crate) const REPEATS: &[PluginKind] = &[PluginKind::Deduplication];

/// The snapshots of the recording.
pub(crate) fn trace() -> io::Result<Vec<Sample>> {
    let text = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(TRACE))?;
    let mut lines = text.lines().filter(|line| !line.starts_with('#'));
    let header = lines.next().expect("a trace has a header");
    let columns = header.split(',').collect::<Vec<_>>();
    Ok(lines.map(|line| Sample::from(snapshot(&columns, line))).collect())
}

/// An empty field is an absent metric.
fn snapshot(columns: &[&str], line: &str) -> Snapshot {
    let mut snapshot = Snapshot { taken_at: Instant::default(), wall_ms: 0, values: Values::EMPTY };
    for (column, field) in
        columns.iter().zip(line.split(',')).filter(|(_, field)| !field.is_empty())
    {
        let count = field.parse::<i64>().expect("a field is an integer");
        match *column {
            "uptime_ms" => snapshot.taken_at = Instant::from_ms(count.cast_unsigned()),
            "wall_ms" => snapshot.wall_ms = count,
            metric => snapshot.values.set(metric.parse::<Metric>().expect("a known metric"), count),
        }
    }
    snapshot
}

/// What an agent with the chain `plugins` holds of `trace`, as it would send it.
pub(crate) fn through(trace: &[Sample], plugins: &[PluginKind]) -> Vec<Sample> {
    let mut settings =
        Settings { plugins: plugins.iter().copied().collect(), ..Settings::default() };
    // A few percent of processor time, and any amount of memory and traffic, count as unchanged.
    for metric in Metric::ALL {
        let counts = if metric == Metric::CpuPercent { 500 } else { i64::MAX };
        settings.deduplication.tolerance.set(metric, Tolerance::Absolute(counts));
    }
    let config = Config::new(settings).expect("the settings are valid");
    let boot = BootId { counter: 1, nonce: 7 };
    let mut agent = Agent::<65_536, 1, NoPlugins>::new(Instant::default(), boot, 1, config, None);
    let mut records = Vec::new();
    let mut handle = |now, input| {
        agent.handle(now, input);
        loop {
            match agent.poll(now) {
                Output::Wait(_) => return,
                Output::Transmit(transmit) => {
                    if let Transmit::Plain(batch) = &transmit {
                        records.extend(agent.records(batch).map(|(_, record)| record));
                    }
                    agent.handle(now, Input::Transmitted(transmit));
                }
                Output::Collect(_)
                | Output::Dial
                | Output::Finish
                | Output::Remember
                | Output::Restart
                | Output::Spool
                | Output::Exit => {}
            }
        }
    };
    handle(Instant::default(), Input::LinkOpened);
    handle(Instant::default(), Input::LinkOneWay);
    for sample in trace {
        handle(sample.snapshot.taken_at, Input::Snapshot(sample.snapshot));
    }
    records
}

/// An alert that began, and its end.
pub(crate) fn alerts() -> [Alert; 2] {
    let raised = Alert {
        metric: Metric::CpuPercent,
        transition: Transition::Raised,
        severity: Severity::Warning,
        direction: Direction::Above,
        limit: 8000,
        value: 9120,
        taken_at: Instant::from_ms(30_000),
        wall_ms: 1_795_387_018_000,
        lasted: Duration::from_secs(30),
    };
    [raised, Alert { transition: Transition::Cleared, value: 7400, ..raised }]
}
