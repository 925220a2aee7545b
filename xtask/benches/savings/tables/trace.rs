//! The recorded traces.

use std::fs;
use std::path::{Path, PathBuf};

use agent_core::metric::{Metric, Values};
use agent_core::record::{Sample, Snapshot};
use agent_core::time::Instant;
use anyhow::{Context as _, ensure};

/// The snapshots of a host.
#[derive(Debug)]
pub(crate) struct Trace {
    pub(crate) name: String,
    pub(crate) samples: Vec<Sample>,
}

/// All there are, by name.
pub(crate) fn paths() -> anyhow::Result<Vec<PathBuf>> {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("../testdata/traces");
    let entries = fs::read_dir(&directory)
        .with_context(|| format!("cannot read {}", directory.display()))?
        .collect::<Result<Vec<_>, _>>()?;
    let mut paths = entries.iter().map(fs::DirEntry::path).collect::<Vec<_>>();
    paths.retain(|path| path.extension().is_some_and(|extension| extension == "csv"));
    paths.sort();
    ensure!(!paths.is_empty(), "{} has no trace", directory.display());
    Ok(paths)
}

pub(crate) fn name(path: &Path) -> String {
    path.file_stem().unwrap_or_default().to_string_lossy().into_owned()
}

/// Reads what `picket-agent record` wrote.
pub(crate) fn read(path: &Path) -> anyhow::Result<Trace> {
    let text =
        fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
    let mut lines = text.lines().filter(|line| !line.starts_with('#'));
    let columns = lines.next().unwrap_or_default().split(',').collect::<Vec<_>>();
    let samples = lines.map(|line| {
        let snapshot = snapshot(&columns, line);
        let snapshot = snapshot.with_context(|| format!("{}: {line:?}", path.display()))?;
        Ok(Sample::from(snapshot))
    });
    Ok(Trace { name: name(path), samples: samples.collect::<anyhow::Result<_>>()? })
}

fn snapshot(columns: &[&str], line: &str) -> anyhow::Result<Snapshot> {
    let mut snapshot = Snapshot { taken_at: Instant::default(), wall_ms: 0, values: Values::EMPTY };
    // An empty field is an absent metric.
    let fields = columns.iter().zip(line.split(',')).filter(|(_, field)| !field.is_empty());
    for (column, field) in fields {
        let count = field.parse::<i64>()?;
        match *column {
            "uptime_ms" => snapshot.taken_at = Instant::from_ms(count.try_into()?),
            "wall_ms" => snapshot.wall_ms = count,
            name => snapshot.values.set(name.parse::<Metric>()?, count),
        }
    }
    Ok(snapshot)
}
