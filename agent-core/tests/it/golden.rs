//! The bytes of blocks and frames are fixed: what is in `testdata/golden` is what today's code writes and reads.
//!
//! A change of these files is a change of the format, which the other end of a link must know. After one that is wanted,
//!
//!     PICKET_GOLDEN=write cargo test -p agent-core --test it golden
//!
//! writes them anew.

use std::fmt::Write as _;
use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use agent_core::codec::{
    BLOCK_ROWS_MAX, Deframer, Frame, encode_frame, pack, pack_alerts, unpack, unpack_alerts,
};
use agent_core::config::{Config, Settings, Tolerance, WindowEnd};
use agent_core::id::{BootId, Sequence};
use agent_core::ledger::PluginBooks;
use agent_core::metric::{Metric, Values};
use agent_core::plugin::own::NoPlugins;
use agent_core::plugin::{Chain, Outlet, PluginKind};
use agent_core::record::{
    Alert, Completeness, Direction, Marks, Sample, Severity, Snapshot, Transition, Window,
};
use agent_core::time::Instant;

use crate::recorded::{trace, with_all_metrics};

const ROOM: usize = 64 * 1024;

/// Compares `bytes` with the file `name`, or writes it. Answers what the file says.
#[track_caller]
fn fixed(name: &str, bytes: &[u8]) -> Vec<u8> {
    let directory = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../testdata/golden");
    let path = directory.join(name).with_extension("hex");
    if std::env::var_os("PICKET_GOLDEN").is_some_and(|value| value == "write") {
        fs::create_dir_all(&directory).unwrap();
        fs::write(&path, hex(bytes)).unwrap();
    }
    let text = fs::read_to_string(&path).unwrap();
    assert_eq!(hex(bytes), text, "the bytes of {name} have changed");
    let digits = text.split_whitespace().collect::<String>();
    let pairs = digits.as_bytes().chunks(2).map(|pair| std::str::from_utf8(pair).unwrap());
    pairs.map(|pair| u8::from_str_radix(pair, 16).unwrap()).collect()
}

/// In lines of 32 bytes.
fn hex(bytes: &[u8]) -> String {
    let mut text = String::new();
    for line in bytes.chunks(32) {
        line.iter().for_each(|byte| write!(text, "{byte:02x}").unwrap());
        text.push('\n');
    }
    text
}

fn packed(first: Sequence, rows: &[Sample]) -> Vec<u8> {
    let mut buffer = vec![0; ROOM];
    let length = pack(first, rows.iter(), &mut buffer).unwrap();
    buffer.truncate(length);
    buffer
}

/// `rows` are what the file `name` says, both ways.
#[track_caller]
fn check_block(name: &str, first: u64, rows: &[Sample]) {
    let first = Sequence::new(first).unwrap();
    let block = fixed(name, &packed(first, rows));
    let mut read = vec![Sample::from(EMPTY); BLOCK_ROWS_MAX];
    assert_eq!(unpack(&block, &mut read), Ok((first, rows.len())));
    assert_eq!(read[..rows.len()], *rows);
    assert_eq!(packed(first, &read[..rows.len()]), block);
}

fn framed(frame: &Frame<'_>) -> Vec<u8> {
    let mut buffer = vec![0; ROOM];
    let length = encode_frame(frame, &mut buffer).unwrap();
    buffer.truncate(length);
    buffer
}

/// `frame` is what the file `name` says, both ways.
#[track_caller]
fn check_frame(name: &str, frame: &Frame<'_>) {
    let link = fixed(name, &framed(frame));
    let mut deframer = Box::new(Deframer::<ROOM>::new());
    let (delimiter, encoded) = link.split_last().unwrap();
    assert!(encoded.iter().all(|byte| deframer.push(*byte).is_none()));
    let read = deframer.push(*delimiter).unwrap().unwrap();
    assert_eq!(read, *frame);
    assert_eq!(framed(&read), link);
}

const EMPTY: Snapshot =
    Snapshot { taken_at: Instant::from_ms(0), wall_ms: 0, values: Values::EMPTY };

/// A minute of a recorded host.
fn minute() -> Vec<Sample> {
    trace("busy-compile")[..60].to_vec()
}

#[derive(Default)]
struct Collected(Vec<Sample>);

impl Outlet for Collected {
    fn sample(&mut self, sample: Sample) {
        self.0.push(sample);
    }

    fn alert(&mut self, _: Alert) {}
}

/// What is left of `rows` behind the chain of `settings`.
fn through(rows: &[Sample], settings: Settings) -> Vec<Sample> {
    let mut chain = Chain::<NoPlugins>::new(&Config::new(settings).unwrap());
    let mut books = PluginBooks::default();
    let mut out = Collected::default();
    for row in rows {
        chain.process(row.clone(), &mut books, &mut out);
    }
    chain.flush(&mut books, &mut out);
    out.0
}

fn settings(plugin: PluginKind) -> Settings {
    Settings { plugins: [plugin].into_iter().collect(), ..Settings::default() }
}

#[test]
fn one_record() {
    check_block("block-one-record", 1, &minute()[..1]);
}

#[test]
fn a_minute_of_a_trace() {
    check_block("block-minute", 61, &minute());
}

#[test]
fn windows_with_a_partial_one() {
    let window = WindowEnd::Snapshots(7);
    let rows = through(&minute(), Settings { window, ..settings(PluginKind::Aggregation) });
    assert!(rows.iter().any(|row| {
        row.window.is_some_and(|window| window.completeness == Completeness::Partial)
    }));
    check_block("block-windows", 5, &rows);
}

#[test]
fn marks_of_alerts() {
    let mut rows = through(&minute(), settings(PluginKind::ThresholdAlert));
    rows[0].marks.set(Metric::MemoryPercent, 600, Direction::Below);
    assert!(rows.iter().any(|row| !row.marks.is_empty()));
    check_block("block-marks", 300, &rows);
}

#[test]
fn repeats_of_deduplication() {
    let mut settings = settings(PluginKind::Deduplication);
    for metric in Metric::ALL {
        let counts = if metric == Metric::CpuPercent { 500 } else { i64::MAX };
        settings.deduplication.tolerance.set(metric, Tolerance::Absolute(counts));
    }
    settings.deduplication.max_silence = Duration::from_secs(7);
    let rows = through(&minute(), settings);
    assert!(rows.iter().any(|row| 0 < row.repeats));
    check_block("block-repeats", 70_000, &rows);
}

#[test]
fn every_metric_and_rows_that_lack_some() {
    let mut rows = minute().into_iter().take(16).map(with_all_metrics).collect::<Vec<_>>();
    rows[3].snapshot.values = Values::EMPTY;
    rows[7].snapshot.values = Values::from_iter([(Metric::Temperature, -40_000)]);
    check_block("block-all-metrics", 1 << 40, &rows);
}

#[test]
fn the_ends_of_every_range() {
    let ends = [i64::MIN, i64::MAX, 0, -1, 1, i64::MAX, i64::MIN, i64::MIN];
    let row = |(index, end): (usize, &i64)| {
        let all = |count: i64| Values::from_iter(Metric::ALL.map(|metric| (metric, count)));
        let window = Window {
            count: u32::MAX,
            first_taken_at: Instant::from_ms(u64::MAX),
            completeness: Completeness::Partial,
            min: all(i64::MIN),
            max: all(i64::MAX),
            last: all(*end),
            counts: all(i64::from(u32::MAX)),
        };
        let mut marks = Marks::NONE;
        marks.set(Metric::AgentBuffer, *end, Direction::Below);
        let values = all(end.wrapping_neg());
        let snapshot =
            Snapshot { taken_at: Instant::from_ms(end.cast_unsigned()), wall_ms: *end, values };
        let window = index.is_multiple_of(2).then_some(window);
        Sample { snapshot, window, marks, repeats: u32::MAX }
    };
    check_block("block-extremes", u64::MAX, &ends.iter().enumerate().map(row).collect::<Vec<_>>());
}

#[test]
fn frames() {
    let boot = BootId { counter: 3, nonce: 0x0123_4567_89ab_cdef };
    check_frame("frame-hello", &Frame::Hello { agent: "mcu-1".parse().unwrap(), boot });
    let block = packed(Sequence::FIRST, &minute()[..1]);
    check_frame("frame-one-record", &Frame::Records(&block));
}

#[test]
fn a_frame_of_alerts() {
    let raised = Alert {
        metric: Metric::CpuPercent,
        transition: Transition::Raised,
        severity: Severity::Warning,
        direction: Direction::Above,
        limit: 8_000,
        value: 9_120,
        taken_at: Instant::from_ms(30_000),
        wall_ms: 1_795_387_018_000,
        lasted: Duration::from_millis(30_500),
    };
    let alerts = [
        raised,
        Alert { transition: Transition::Cleared, value: 7_400, ..raised },
        Alert {
            metric: Metric::Temperature,
            transition: Transition::Withdrawn,
            severity: Severity::Critical,
            direction: Direction::Below,
            limit: i64::MIN,
            value: i64::MAX,
            taken_at: Instant::from_ms(u64::MAX),
            wall_ms: i64::MIN,
            lasted: Duration::MAX,
        },
    ];
    let first = Sequence::new(41).unwrap();
    let mut buffer = vec![0; ROOM];
    let length = pack_alerts(first, alerts.into_iter(), &mut buffer).unwrap();
    let (read_first, read) = unpack_alerts(&buffer[..length]).unwrap();
    assert_eq!((read_first, read.as_slice()), (first, &alerts[..]));
    check_frame("frame-alerts", &Frame::Alerts(&buffer[..length]));
}
