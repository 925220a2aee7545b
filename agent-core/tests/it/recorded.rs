//! The recorded traces, as the snapshots that they were made of.

use std::fs;
use std::path::Path;

use agent_core::metric::{Metric, Values};
use agent_core::record::{Sample, Snapshot};
use agent_core::time::Instant;

/// The snapshots of `testdata/traces/NAME.csv`.
pub(crate) fn trace(name: &str) -> Vec<Sample> {
    let traces = Path::new(env!("CARGO_MANIFEST_DIR")).join("../testdata/traces");
    let text = fs::read_to_string(traces.join(name).with_extension("csv")).unwrap();
    let mut lines = text.lines().filter(|line| !line.starts_with('#'));
    let columns = lines.next().unwrap().split(',').collect::<Vec<_>>();
    lines.map(|line| Sample::from(snapshot(&columns, line))).collect()
}

fn snapshot(columns: &[&str], line: &str) -> Snapshot {
    let mut snapshot = Snapshot { taken_at: Instant::default(), wall_ms: 0, values: Values::EMPTY };
    // An empty field is an absent metric.
    let fields = columns.iter().zip(line.split(',')).filter(|(_, field)| !field.is_empty());
    for (column, field) in fields {
        let count = field.parse::<i64>().unwrap();
        match *column {
            "uptime_ms" => snapshot.taken_at = Instant::from_ms(count.cast_unsigned()),
            "wall_ms" => snapshot.wall_ms = count,
            name => snapshot.values.set(name.parse::<Metric>().unwrap(), count),
        }
    }
    snapshot
}

/// `sample` with every metric there is: those that the traces lack get the counts of those that they have, in turn.
pub(crate) fn with_all_metrics(mut sample: Sample) -> Sample {
    let recorded = sample.snapshot.values.iter().map(|(_, count)| count).collect::<Vec<_>>();
    for (metric, count) in Metric::ALL.into_iter().zip(recorded.iter().cycle()) {
        sample.snapshot.values.set(metric, *count);
    }
    sample
}
