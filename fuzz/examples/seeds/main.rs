//! Writes the seed corpora anew: `cargo run --manifest-path fuzz/Cargo.toml --example seeds`.
//!
//! Seeds of the decoders are what the encoders make of a recorded trace, whole, cut and damaged. Seeds of the state
//! machines are scripts of operations. The same code and trace give the same files.

mod records;
mod script;

// What the targets do with the operations is theirs; here it shows that a seed passes.
#[path = "../../fuzz_targets/agent/operations.rs"]
mod agent;
#[path = "../../fuzz_targets/commands/operations.rs"]
mod commands;

use std::path::{Path, PathBuf};
use std::{fs, io};

use agent_core::codec::{Frame, SeriesEncoder, encode_frame, pack, pack_alerts};
use agent_core::id::{BootId, Sequence};
use agent_core::metric::Metric;
use agent_core::record::Sample;
use proto::config::Document;

use crate::script::Script;

/// Larger than any seed.
const BUFFER_BYTES: usize = 64 * 1024;

fn main() -> io::Result<()> {
    let trace = records::trace()?;
    let blocks = blocks(&trace);
    write("frame", frames(&blocks))?;
    write("block", blocks)?;
    write("series", series(&trace))?;
    write("config", configs())?;
    write("agent", agent_scripts())?;
    write("commands", command_scripts())
}

/// A seed: the name of its file and its bytes.
type Seed = (&'static str, Vec<u8>);

/// Puts `seeds` in place of those that were there.
fn write(target: &str, seeds: Vec<Seed>) -> io::Result<()> {
    let directory = directory().join("seeds").join(target);
    if directory.exists() {
        fs::remove_dir_all(&directory)?;
    }
    fs::create_dir_all(&directory)?;
    for (name, bytes) in seeds {
        fs::write(directory.join(name), bytes)?;
    }
    Ok(())
}

fn directory() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).to_path_buf()
}

/// Packed records of every form: as measured, with gaps, with repeats, with windows, with alerts.
fn blocks(trace: &[Sample]) -> Vec<Seed> {
    let packed = |first: u64, rows: &[Sample]| {
        let mut buffer = vec![0; BUFFER_BYTES];
        let first = Sequence::new(first).expect("it is not 0");
        let length = pack(first, rows.iter(), &mut buffer).expect("the buffer is large");
        buffer.truncate(length);
        buffer
    };
    let whole = packed(1, &trace[..60]);
    let cut = whole[..whole.len() / 2].to_vec();
    let sparse = trace[..30].iter().enumerate().map(|(index, sample)| {
        let mut sample = sample.clone();
        sample.snapshot.values.clear(Metric::ALL[index % Metric::COUNT]);
        sample
    });
    let windows = records::through(trace, records::WINDOWS);
    let alerts = records::through(trace, records::ALERTS);
    let repeats = records::through(trace, records::REPEATS);
    vec![
        ("one", packed(1, &trace[..1])),
        ("few", packed(1000, &trace[100..110])),
        ("late", packed(u64::MAX - 10, &trace[..8])),
        ("sparse", packed(7, &sparse.collect::<Vec<_>>())),
        ("windows", packed(1, &windows[..windows.len().min(24)])),
        ("alerts", packed(1, &alerts[..20])),
        ("repeats", packed(1, &repeats[..repeats.len().min(20)])),
        ("cut", cut),
        // Found by fuzzing: it was read, and what was read could not be written.
        ("floor-without-limit", vec![16, 41, 1, 16, 0, 0, 0, 0, 0, 0, 0, 0, 255, 24, 0, 131]),
        ("whole", whole),
    ]
}

/// What a device sends over a byte link, and what is left of it on a bad one.
fn frames(blocks: &[Seed]) -> Vec<Seed> {
    let encoded = |frame: &Frame<'_>| {
        let mut buffer = vec![0; BUFFER_BYTES];
        let length = encode_frame(frame, &mut buffer).expect("the buffer is large");
        buffer.truncate(length);
        buffer
    };
    let agent = "edge-1".parse().expect("it is an agent id");
    let hello = encoded(&Frame::Hello { agent, boot: BootId { counter: 3, nonce: 0x9f3a } });
    let of = |wanted: &str| {
        let block = blocks.iter().find(|(name, _)| *name == wanted).expect("there is such a block");
        encoded(&Frame::Records(&block.1))
    };
    let (one, few) = (of("one"), of("few"));
    let alerts = {
        let mut buffer = [0; 256];
        let alerts = records::alerts().into_iter();
        let length = pack_alerts(Sequence::FIRST, alerts, &mut buffer).expect("two fit");
        encoded(&Frame::Alerts(&buffer[..length]))
    };
    let mut damaged = few.clone();
    damaged[few.len() / 2] ^= 0x40;
    let late = [&few[few.len() / 3..], &hello, &one].concat();
    vec![
        ("link", [hello.as_slice(), &one, &few].concat()),
        ("late", late),
        ("damaged", [damaged.as_slice(), &one].concat()),
        ("too-long", of("whole").repeat(2)),
        ("delimiters", [&[0; 4], hello.as_slice(), &[0; 4]].concat()),
        ("empty-block", encoded(&Frame::Records(&[]))),
        ("alerts", alerts),
        ("hello", hello),
        ("one", one),
    ]
}

/// The columns of the trace, behind the number of values that the target shall read.
fn series(trace: &[Sample]) -> Vec<Seed> {
    let rows = &trace[..60];
    let column = |metric| {
        let values = rows.iter().map(|row| row.snapshot.values.get(metric).unwrap_or(0));
        values.collect::<Vec<_>>()
    };
    let encoded = |series: &[&[i64]]| {
        let mut buffer = vec![0; BUFFER_BYTES];
        let mut encoder = SeriesEncoder::new(&mut buffer);
        for (index, values) in series.iter().enumerate() {
            let given = index.checked_sub(1).map(|before| series[before]);
            encoder.series(values, given).expect("the buffer is large");
        }
        let length = encoder.finish().expect("the buffer is large");
        let count = u8::try_from(series[0].len()).expect("a series is short");
        [&[count], &buffer[..length]].concat()
    };
    let words = |values: &[i64]| {
        let bytes = values.iter().flat_map(|value| value.to_le_bytes());
        std::iter::once(0).chain(bytes).collect::<Vec<_>>()
    };
    let (cpu, written) = (column(Metric::CpuPercent), column(Metric::DiskWrite));
    let (used, total) = (column(Metric::MemoryUsed), column(Metric::MemoryTotal));
    let clock = rows.iter().map(|row| row.snapshot.wall_ms).collect::<Vec<_>>();
    let ends = [i64::MIN, i64::MAX, 0, -1, 1, i64::MIN, i64::MIN, i64::MAX];
    vec![
        ("cpu", encoded(&[&cpu])),
        ("constant", encoded(&[&total])),
        ("bursts", encoded(&[&written])),
        ("clock", encoded(&[&clock])),
        ("predicted", encoded(&[&used, &total, &used])),
        ("ends", encoded(&[&ends])),
        ("empty", encoded(&[&[]])),
        ("words-of-memory", words(&used)),
        ("words-of-ends", words(&ends)),
    ]
}

/// Documents: valid ones as they are written back, and some with an error each.
fn configs() -> Vec<Seed> {
    const WHOLE: &str = r#"{"interval":5,"metrics":["cpu","memory","disk read","disk_write","net in","net out"],
        "plugins":["agent.plugins.deduplication.DeduplicationPlugin","threshold_alert","aggregation","filter"],
        "thresholds":{"cpu_percent":80.0,"memory_percent":85.5,"net_in_mb":null},"window_size":10,"min_cpu":0.0,
        "min_memory":12.5,"send_idle":true,
        "deduplication":{"tolerance":{"cpu_percent":0.5},"max_silence":300},"of_the_future":[1,{"a":null}]}"#;
    const RULES: &str = r#"{"metrics":["standard"],"thresholds":{"cpu_percent":{"above":80,"hysteresis":5,"for":30,
        "severity":"critical"},"temperature_celsius":{"below":-5.5},"net_in_mb":false},"window_seconds":60,
        "deduplication":{"tolerance":{"memory_used_mb":"1.5%"}},
        "condition":"cpu_percent > 20 and net_in_mb >= 0.5 or load1 < 3","plugins":["own.every_nth","filter"],"own":{"own.every_nth":[3,-1]}}"#;
    const VALID: [(&str, &str); 6] = [
        ("whole", WHOLE),
        ("empty", "{}"),
        ("digits", r#"{"future":184640473777777777777777777777777777777774709551615}"#),
        ("short", r#"{"interval":0.1,"metrics":["cpu"],"plugins":[]}"#),
        ("rules", RULES),
        ("nulls", r#"{"interval":null,"thresholds":null,"deduplication":{"tolerance":null}}"#),
    ];
    const WRONG: [(&str, &str); 9] = [
        ("cut", r#"{"interval":5,"metrics":["#),
        ("no-object", "[]"),
        ("twice", r#"{"interval":5,"interval":6}"#),
        ("negative", r#"{"interval":-1}"#),
        ("huge-number", r#"{"thresholds":{"cpu_percent":1e400}}"#),
        ("unknown-plugin", r#"{"plugins":["no_such_plugin"]}"#),
        ("window", r#"{"window_size":18446744073709551615}"#),
        ("type", r#"{"send_idle":"yes"}"#),
        ("deep", r#"{"a":[[[[[[[[[[[[]]]]]]]]]]]]}"#),
    ];
    let valid = VALID.into_iter().map(|(name, text)| {
        let document = Document::parse(text).unwrap_or_else(|error| panic!("{name}: {error}"));
        (name, document.to_json().into_bytes())
    });
    let wrong = WRONG.into_iter().map(|(name, text)| {
        assert!(Document::parse(text).is_err(), "{name}");
        (name, text.as_bytes().to_vec())
    });
    valid.chain(wrong).chain([("as-written", WHOLE.as_bytes().to_vec())]).collect()
}

/// Writes a script whose operations match the patterns in turn, and sees that it passes.
macro_rules! script {
    ($machine:ident, $name:literal, $($pattern:pat),+ $(,)?) => {{
        let mut script = Script::new();
        $(script.push(|operation: &$machine::Operation| matches!(operation, $pattern));)+
        $machine::run(&script.operations());
        ($name, script.bytes())
    }};
}

fn agent_scripts() -> Vec<Seed> {
    use agent::{Kind, Operation as Op};
    vec![
        script!(
            agent,
            "delivers",
            Op::StreamOpens,
            Op::ServerWelcomes { .. },
            Op::Sample { .. },
            Op::Sample { .. },
            Op::TransportTakes { messages: 1.. },
            Op::Sample { .. },
            Op::TransportTakes { messages: 1.. },
            Op::Acknowledge { through: 1..=3, own_boot: true },
            Op::Ping,
            Op::StreamEnds,
        ),
        script!(
            agent,
            "plain",
            Op::StreamOpens,
            Op::ServerIsPlain,
            Op::Sample { .. },
            Op::Sample { .. },
            Op::TransportTakes { messages: 1.. },
            Op::Wait { ms: 20_000.. },
            Op::TransportTakes { messages: 1.. },
            Op::Shutdown,
        ),
        script!(
            agent,
            "overflows",
            Op::Burst { samples: 250.. },
            Op::Burst { samples: 250.. },
            Op::Burst { samples: 250.. },
            Op::Burst { samples: 250.. },
            Op::Burst { samples: 250.. },
            Op::Burst { samples: 250.. },
            Op::Burst { samples: 250.. },
            Op::Burst { samples: 250.. },
            Op::Burst { samples: 250.. },
            Op::StreamOpens,
            Op::ServerWelcomes { acknowledged: None, .. },
            Op::TransportTakes { messages: 8.. },
            Op::Acknowledge { own_boot: true, .. },
        ),
        script!(
            agent,
            "reconfigured",
            Op::StreamOpens,
            Op::ServerWelcomes { .. },
            Op::Push { revision: 1..=9, config: Some(_) },
            Op::Burst { samples: 3..=20 },
            Op::Push { revision: 10..=20, config: Some(_) },
            Op::Burst { samples: 3..=20 },
            Op::Push { revision: 21..=30, config: None },
            Op::Sample { .. },
            Op::Command { id: Some(_), kind: Kind::Update(Some(_)), time_to_live_ms: 1.. },
            Op::Burst { samples: 3..=20 },
            Op::Shutdown,
        ),
        script!(
            agent,
            "commanded",
            Op::StreamOpens,
            Op::ServerWelcomes { .. },
            Op::Command { id: Some(1), kind: Kind::Stop, time_to_live_ms: 1.. },
            Op::SampleFails,
            Op::Command { id: Some(2), kind: Kind::Start, time_to_live_ms: 1.. },
            Op::Command { id: Some(1), kind: Kind::Stop, time_to_live_ms: 1.. },
            Op::Command { id: None, kind: Kind::Status, .. },
            Op::Command { id: Some(3), kind: Kind::Unknown, time_to_live_ms: 0 },
            Op::TransportTakes { messages: 4.. },
            Op::AcknowledgeAnswer { id: 1 },
            Op::Command { id: Some(4), kind: Kind::Restart, time_to_live_ms: 1.. },
            Op::RestartFails,
            Op::Wait { ms: 5_000.. },
            Op::RestartFails,
            Op::Shutdown,
            Op::Shutdown,
        ),
    ]
}

fn command_scripts() -> Vec<Seed> {
    use commands::{Kind, Operation as Op};
    vec![
        script!(
            commands,
            "answered",
            Op::StreamOpens,
            Op::ServerWelcomes,
            Op::Issue { kind: Kind::Stop, time_to_live_ms: 1.. },
            Op::Issue { kind: Kind::Start, time_to_live_ms: 1.. },
            Op::Issue { kind: Kind::Update, time_to_live_ms: 1.. },
            Op::TransportTakes { messages: 4.. },
            Op::ServerAcknowledges,
            Op::SendAgain { which: 0 },
            Op::SendAgain { which: 1 },
        ),
        script!(
            commands,
            "reconnects",
            Op::StreamOpens,
            Op::ServerWelcomes,
            Op::Issue { kind: Kind::Update, time_to_live_ms: 30_000.. },
            Op::StreamEnds,
            Op::Wait { ms: 30_000.. },
            Op::StreamOpens,
            Op::SendAgain { which: 0 },
            Op::ServerWelcomes,
            Op::SendAgain { which: 0 },
            Op::TransportTakes { messages: 4.. },
            Op::ServerAcknowledges,
        ),
        script!(
            commands,
            "expires",
            Op::StreamOpens,
            Op::ServerWelcomes,
            Op::Issue { kind: Kind::Stop, time_to_live_ms: 0 },
            Op::StreamEnds,
            Op::Wait { ms: 40_000..=59_000 },
            Op::StreamOpens,
            Op::SendAgain { which: 0 },
            Op::ServerWelcomes,
            Op::TransportTakes { messages: 4.. },
        ),
        script!(
            commands,
            "restarts",
            Op::StreamOpens,
            Op::ServerWelcomes,
            Op::Sample,
            Op::Issue { kind: Kind::FailingRestart, time_to_live_ms: 1.. },
            Op::Wait { ms: 5_000.. },
            Op::Issue { kind: Kind::Restart, time_to_live_ms: 1.. },
            Op::Wait { ms: 5_000.. },
            Op::StreamOpens,
            Op::ServerWelcomes,
            Op::SendAgain { which: 0 },
            Op::TransportTakes { messages: 4.. },
        ),
        script!(
            commands,
            "busy",
            Op::StreamOpens,
            Op::ServerWelcomes,
            Op::Issue { kind: Kind::Status, .. },
            Op::Issue { kind: Kind::Unknown, .. },
            Op::Issue { kind: Kind::BadUpdate, .. },
            Op::Issue { kind: Kind::Stop, .. },
            Op::Issue { kind: Kind::Start, .. },
            Op::Issue { kind: Kind::Update, .. },
            Op::Issue { kind: Kind::Stop, .. },
            Op::TransportTakes { messages: 8.. },
            Op::ServerAcknowledges,
            Op::Issue { kind: Kind::Update, .. },
            Op::SendAgain { which: 6 },
        ),
        script!(
            commands,
            "plain",
            Op::StreamOpens,
            Op::ServerIsPlain,
            Op::Issue { kind: Kind::Update, time_to_live_ms: 1.. },
            Op::SendAgain { which: 0 },
            Op::StreamEnds,
            Op::Wait { .. },
        ),
    ]
}
