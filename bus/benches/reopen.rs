//! How long the embedded bus takes to open again, and how much memory a process takes for that (promise L8: 1 GiB in 2 s and
//! 16 MiB).
//!
//! `cargo bench -p bus --bench reopen -- [MIB]` fills a directory with so many MiB of records (default 64), kills nothing,
//! and opens it in a process of its own. Processor time beside the time that passed tells a busy machine from a slow bus.
#![expect(clippy::print_stdout, reason = "the figures are what it is for")]

use std::env;
use std::error::Error;
use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use agent_core::id::AgentId;
use bus::embedded::{Database, Options, Retention};
use bus::{Bus as _, Payload, Record};
use proto::{Boot, MetricsRecord};

type Outcome = Result<(), Box<dyn Error>>;

/// Records in one publish.
const GROUP: u64 = 1000;
const AGENTS: u64 = 1000;

fn main() -> Outcome {
    let mut arguments = env::args().skip(1).filter(|argument| argument != "--bench");
    match (arguments.next().as_deref(), arguments.next()) {
        (Some("open"), Some(directory)) => open(Path::new(&directory)),
        (mib, _) => fill_and_open(mib.map_or(Ok(64), str::parse)?),
    }
}

fn options() -> Options {
    let keep_all = Retention { bytes: u64::MAX, age: Duration::from_secs(86_400 * 365) };
    Options { monitoring_data: keep_all, ..Options::default() }
}

fn fill_and_open(mib: u64) -> Outcome {
    let directory = tempfile::tempdir()?;
    let database = Database::open(directory.path(), options())?;
    let bus = database.bus();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let began = Instant::now();
    let mut count = 0;
    runtime.block_on(async {
        while bus_bytes(directory.path())? < mib << 20 {
            for _ in 0..50 {
                bus.publish((count..count + GROUP).map(record).collect::<Result<_, _>>()?).await?;
                count += GROUP;
            }
        }
        // Else it is closed when the last reader lets go, which may be later.
        bus.close().await?;
        Ok::<(), Box<dyn Error>>(())
    })?;
    let filled_s = began.elapsed().as_secs_f64();
    drop(bus);
    drop(database);
    let mib = bus_bytes(directory.path())? >> 20;
    println!("filled: {count} records, {mib} MiB on disk, {filled_s:.0} s");
    let status = Command::new(env::current_exe()?).arg("open").arg(directory.path()).status()?;
    if status.success() { Ok(()) } else { Err("the process that opens it failed".into()) }
}

fn record(number: u64) -> Result<Record, Box<dyn Error>> {
    let agent: AgentId = format!("edge-{:04}", number % AGENTS).parse()?;
    // Values that differ, so that blocks of them do not shrink to nothing.
    let values = (0..8).map(|index| i64::from_ne_bytes((number * 7919 + index).to_ne_bytes()));
    let record = proto::Record {
        sequence: number / AGENTS + 1,
        timestamp_ms: 1_700_000_000_000,
        present: 0xff,
        values: values.collect(),
        ..proto::Record::default()
    };
    let metrics = MetricsRecord {
        agent_id: agent.to_string(),
        boot: Some(Boot { counter: 1, nonce: number % AGENTS }),
        record: Some(record),
        ..MetricsRecord::default()
    };
    Ok(Record { key: agent, payload: Payload::Metrics(metrics) })
}

fn open(directory: &Path) -> Outcome {
    let before = resident_kib()?;
    let began = Instant::now();
    let database = Database::open(directory, options())?;
    let (took_ms, cpu) = (began.elapsed().as_millis(), processor_ticks()?);
    let after = resident_kib()?;
    println!(
        "opened: {took_ms} ms ({cpu} ticks of 10 ms), resident {before} KiB before, {after} KiB after"
    );
    drop(database);
    Ok(())
}

/// Bytes of all files below `directory`, as the disk counts them.
fn bus_bytes(directory: &Path) -> std::io::Result<u64> {
    use std::os::unix::fs::MetadataExt as _;

    let mut bytes = 0;
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        // A file may be gone again: tables are merged meanwhile.
        let Ok(metadata) = entry.metadata() else { continue };
        bytes += if metadata.is_dir() {
            bus_bytes(&entry.path()).unwrap_or(0)
        } else {
            metadata.blocks() * 512
        };
    }
    Ok(bytes)
}

fn resident_kib() -> Result<u64, Box<dyn Error>> {
    let status = fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let number = line.and_then(|line| line.split_whitespace().next()).ok_or("no VmHWM")?;
    Ok(number.parse()?)
}

/// Processor time of this process so far.
fn processor_ticks() -> Result<u64, Box<dyn Error>> {
    let stat = fs::read_to_string("/proc/self/stat")?;
    let fields = stat.rsplit(')').next().ok_or("no fields")?;
    let ticks = fields.split_whitespace().skip(11).take(2).map(str::parse::<u64>);
    Ok(ticks.sum::<Result<_, _>>()?)
}
