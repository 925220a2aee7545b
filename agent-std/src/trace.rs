//! Traces: snapshots of a host in a file, to try plugins and the codec on.
//!
//! A file has a comment line that says where it comes from, a CSV header, and one row per snapshot: uptime in
//! milliseconds, wall clock in Unix milliseconds, then the integer count of each metric, empty where it was absent.

use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use agent_core::metric::{Metric, Values};
use agent_core::record::Snapshot;
use agent_core::time::Instant;

/// The columns before those of the metrics.
const TIMES: [&str; 2] = ["uptime_ms", "wall_ms"];

/// Why a trace cannot be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum TraceError {
    #[error("cannot read {}", path.display())]
    Read { path: PathBuf, source: io::Error },
    #[error("{}, line {line}: {reason}", path.display())]
    Line { path: PathBuf, line: usize, reason: String },
    #[error("{} has no snapshots", path.display())]
    Empty { path: PathBuf },
}

/// Reads the snapshots of the file at `path`. Columns of metrics that this version does not know are left out.
pub(crate) fn read(path: &Path) -> Result<Vec<Snapshot>, TraceError> {
    let text = fs::read_to_string(path)
        .map_err(|source| TraceError::Read { path: path.to_owned(), source })?;
    let mut lines = text.lines().enumerate().filter(|(_, line)| !line.starts_with('#'));
    let header = lines.next().map_or("", |(_, line)| line);
    let columns = header.split(',').skip(TIMES.len()).map(|name| name.parse::<Metric>().ok());
    let columns = columns.collect::<Vec<_>>();
    let snapshot = |(index, line): (usize, &str)| {
        parse(line, &columns).map_err(|reason| TraceError::Line {
            path: path.to_owned(),
            line: index + 1,
            reason,
        })
    };
    let snapshots = lines.map(snapshot).collect::<Result<Vec<_>, _>>()?;
    if snapshots.is_empty() {
        return Err(TraceError::Empty { path: path.to_owned() });
    }
    Ok(snapshots)
}

fn parse(line: &str, columns: &[Option<Metric>]) -> Result<Snapshot, String> {
    let mut fields = line.split(',');
    let mut time = |name| {
        let field = fields.next().unwrap_or_default();
        field.parse::<i64>().map_err(|_| format!("{name} is {field:?}, which is no number"))
    };
    let uptime_ms = time(TIMES[0])?;
    let wall_ms = time(TIMES[1])?;
    let uptime_ms =
        u64::try_from(uptime_ms).map_err(|_| format!("{} is {uptime_ms}, below 0", TIMES[0]))?;
    let mut values = Values::EMPTY;
    for (metric, field) in columns.iter().zip(fields) {
        if let (Some(metric), false) = (metric, field.is_empty()) {
            let count =
                field.parse().map_err(|_| format!("{metric} is {field:?}, which is no count"))?;
            values.set(*metric, count);
        }
    }
    Ok(Snapshot { taken_at: Instant::from_ms(uptime_ms), wall_ms, values })
}

/// Writes the head of a trace that comes from `source`, one line of text.
pub(crate) fn write_header(out: &mut impl Write, source: &str) -> io::Result<()> {
    let metrics = Metric::ALL.map(Metric::name);
    writeln!(out, "# {}", source.replace(['\r', '\n'], " "))?;
    writeln!(out, "{},{}", TIMES.join(","), metrics.join(","))
}

/// Writes one row.
pub(crate) fn write_row(out: &mut impl Write, snapshot: &Snapshot) -> io::Result<()> {
    write!(out, "{},{}", snapshot.taken_at.as_ms(), snapshot.wall_ms)?;
    for metric in Metric::ALL {
        match snapshot.values.get(metric) {
            Some(count) => write!(out, ",{count}")?,
            None => write!(out, ",")?,
        }
    }
    writeln!(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(text: &[u8]) -> (tempfile::TempDir, PathBuf) {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("t.csv");
        fs::write(&path, text).unwrap();
        (directory, path)
    }

    #[test]
    fn what_is_written_is_read() {
        let snapshots = [
            (1, Values::from_iter([(Metric::CpuPercent, 5), (Metric::NetOut, i64::MAX)])),
            (2, Values::EMPTY),
        ];
        let snapshots = snapshots.map(|(ms, values)| Snapshot {
            taken_at: Instant::from_ms(ms),
            wall_ms: -7,
            values,
        });
        let mut text = Vec::new();
        write_header(&mut text, "a\nhost").unwrap();
        snapshots.iter().for_each(|snapshot| write_row(&mut text, snapshot).unwrap());
        let (_directory, path) = file(&text);
        assert_eq!(read(&path).unwrap(), snapshots);
    }

    #[test]
    fn what_is_wrong_is_named_with_its_line() {
        let check = |text: &str, part: &str| {
            let (_directory, path) = file(text.as_bytes());
            let error = read(&path).unwrap_err().to_string();
            assert!(error.contains(part), "{error}");
        };
        check("# x\nuptime_ms,wall_ms,cpu_percent\n1,2,3\n1,2,x\n", "line 4: cpu_percent is \"x\"");
        check("uptime_ms,wall_ms\n-1,2\n", "line 2: uptime_ms is -1");
        check("uptime_ms,wall_ms\n1\n", "wall_ms is \"\"");
        check("", "no snapshots");
    }
}
