//! What plugins save: `picket-agent replay` on each trace with each setting, beside what the existing system claims.

use std::io::{self, Write};
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, ensure};
use serde_json::{Value, json};

use super::{Row, per_mille, percent, trace, write_columns};

/// A chain with its settings, and which share of snapshots it should drop.
#[derive(Debug)]
struct Setting {
    name: &'static str,
    plugins: &'static str,
    set: &'static [&'static str],
    /// What the existing system claims, in percent.
    claimed: RangeInclusive<u64>,
}

/// What counts as unchanged when it need not be equal: one point of a percentage, 16 MB of memory, 1 MB/s.
const TOLERANCE: &[&str] = &[
    "deduplication.tolerance.cpu_percent=1",
    "deduplication.tolerance.memory_percent=1",
    "deduplication.tolerance.memory_used_mb=16",
    "deduplication.tolerance.disk_read_mb=1",
    "deduplication.tolerance.disk_write_mb=1",
    "deduplication.tolerance.net_in_mb=1",
    "deduplication.tolerance.net_out_mb=1",
    "send_idle=false",
];

/// An idle host is dropped: CPU below 10 %, and each rate below 1 MB/s.
const NO_IDLE: &[&str] = &["send_idle=false"];

const SETTINGS: [Setting; 6] = [
    Setting { name: "deduplication, exact", plugins: "deduplication", set: &[], claimed: 30..=70 },
    Setting {
        name: "deduplication, tolerant",
        plugins: "deduplication",
        set: TOLERANCE,
        claimed: 30..=70,
    },
    Setting { name: "filter", plugins: "filter", set: NO_IDLE, claimed: 40..=60 },
    Setting {
        name: "both, exact",
        plugins: "deduplication,filter",
        set: NO_IDLE,
        claimed: 60..=85,
    },
    Setting {
        name: "both, tolerant",
        plugins: "deduplication,filter",
        set: TOLERANCE,
        claimed: 60..=85,
    },
    Setting {
        name: "aggregation of 10",
        plugins: "aggregation",
        set: &["window_size=10"],
        claimed: 90..=90,
    },
];

/// How much there is, as `picket-agent replay` counts it.
#[derive(Clone, Copy, Debug)]
struct Amount {
    records: u64,
    values: u64,
    packed_bytes: u64,
    plain_bytes: u64,
}

impl Amount {
    fn read(stage: &Value) -> anyhow::Result<Self> {
        let count = |key: &str| stage[key].as_u64().with_context(|| format!("no {key} in {stage}"));
        Ok(Self {
            records: count("records")?,
            values: count("values")?,
            packed_bytes: count("packed_bytes")?,
            plain_bytes: count("plain_bytes")?,
        })
    }

    fn json(self) -> Value {
        let Self { records, values, packed_bytes, plain_bytes } = self;
        json!({
            "records": records,
            "values": values,
            "packed_bytes": packed_bytes,
            "plain_bytes": plain_bytes,
        })
    }
}

/// What one setting makes of one trace.
#[derive(Debug)]
pub(crate) struct Saving {
    trace: String,
    setting: &'static Setting,
    before: Amount,
    after: Amount,
}

impl Saving {
    /// The share of records that do not go out, in tenths of a percent.
    fn dropped_per_mille(&self) -> u64 {
        per_mille(self.before.records - self.after.records, self.before.records)
    }

    /// How the share stands to what is claimed.
    fn verdict(&self) -> &'static str {
        let dropped = self.dropped_per_mille();
        if dropped < self.setting.claimed.start() * 10 {
            "outside, below"
        } else if self.setting.claimed.end() * 10 < dropped {
            "outside, above"
        } else {
            "inside"
        }
    }

    fn claimed(&self) -> String {
        let (from, to) = (self.setting.claimed.start(), self.setting.claimed.end());
        if from == to { format!("{to} %") } else { format!("{from}-{to} %") }
    }
}

impl Row for Saving {
    fn json(&self) -> Value {
        json!({
            "trace": self.trace,
            "setting": self.setting.name,
            "plugins": self.setting.plugins,
            "set": self.setting.set,
            "before": self.before.json(),
            "after": self.after.json(),
            "dropped_per_mille": self.dropped_per_mille(),
            "claimed_percent": [self.setting.claimed.start(), self.setting.claimed.end()],
            "verdict": self.verdict(),
        })
    }
}

/// Replays each of `traces` with each setting through the agent at `agent`.
pub(crate) fn measure(agent: &Path, traces: &[PathBuf]) -> anyhow::Result<Vec<Saving>> {
    let pairs = SETTINGS.iter().flat_map(|setting| traces.iter().map(move |path| (setting, path)));
    pairs.map(|(setting, path)| replay(agent, path, setting)).collect()
}

fn replay(agent: &Path, path: &Path, setting: &'static Setting) -> anyhow::Result<Saving> {
    let mut command = Command::new(agent);
    command.arg("replay").arg(path).args(["--plugins", setting.plugins, "--output", "json"]);
    for key in setting.set {
        command.args(["--set", key]);
    }
    let output = command.output().with_context(|| format!("cannot run {}", agent.display()))?;
    let errors = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{command:?} ended with {}: {errors}", output.status);
    let lines = String::from_utf8(output.stdout)?;
    let stages = lines.lines().map(serde_json::from_str).collect::<Result<Vec<Value>, _>>()?;
    let [before, .., after] = stages.as_slice() else {
        anyhow::bail!("{command:?} shows no plugin: {lines:?}");
    };
    let (before, after) = (Amount::read(before)?, Amount::read(after)?);
    ensure!(after.records <= before.records, "{command:?} shows more than went in");
    Ok(Saving { trace: trace::name(path), setting, before, after })
}

/// Writes the table: what went out of what went in.
pub(crate) fn write(out: &mut impl Write, savings: &[Saving]) -> io::Result<()> {
    let head = [
        "setting",
        "trace",
        "dropped",
        "claimed",
        "",
        "snapshots",
        "values",
        "packed B",
        "plain B",
    ];
    let mut lines = vec![head.map(str::to_owned)];
    for saving in savings {
        let Saving { trace, setting, before, after } = saving;
        let change =
            |amount: fn(&Amount) -> u64| format!("{} of {}", amount(after), amount(before));
        lines.push([
            setting.name.to_owned(),
            trace.clone(),
            percent(saving.dropped_per_mille()),
            saving.claimed(),
            saving.verdict().to_owned(),
            change(|amount| amount.records),
            change(|amount| amount.values),
            change(|amount| amount.packed_bytes),
            change(|amount| amount.plain_bytes),
        ]);
    }
    write_columns(out, 2, &lines)
}
