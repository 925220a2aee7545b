//! Looking into a spool with the real program.

use std::fs;
use std::path::Path;
use std::process::Output;

use agent_core::id::{BootId, Sequence};
use agent_core::metric::{Metric, Values};
use agent_core::record::{Alert, Direction, Sample, Severity, Snapshot, Transition};
use agent_core::time::Instant;
use agent_std::spool::{DIRECTORY_NAME, Options, Spool, StdDisk};
use serde_json::Value;

use crate::process::output;

const BOOT: BootId = BootId { counter: 3, nonce: 0xab };

fn sample(number: u64) -> Sample {
    Sample::from(Snapshot {
        taken_at: Instant::from_ms(number * 1000),
        wall_ms: 1_700_000_000_000,
        values: Values::from_iter([(Metric::CpuPercent, 1250)]),
    })
}

fn open(state_dir: &Path) -> Spool<StdDisk> {
    let disk = StdDisk::open(&state_dir.join(DIRECTORY_NAME)).unwrap();
    Spool::open(disk, Options::default(), Instant::from_ms(0)).0
}

/// Two records and an alert.
fn fill(state_dir: &Path) {
    let mut spool = open(state_dir);
    let now = Instant::from_ms(0);
    spool.append_records(BOOT, Sequence::FIRST, &[sample(1), sample(2)], now).unwrap();
    let alert = Alert {
        metric: Metric::CpuPercent,
        transition: Transition::Raised,
        severity: Severity::Warning,
        direction: Direction::Above,
        limit: 1000,
        value: 1250,
        taken_at: Instant::from_ms(2000),
        wall_ms: 1_700_000_000_000,
        lasted: std::time::Duration::from_secs(3),
    };
    spool.append_alerts(BOOT, Sequence::FIRST, &[alert], Instant::from_ms(5)).unwrap();
    spool.close();
}

fn spool(tool: &str, state_dir: &Path) -> Output {
    output(&["spool", tool, "--state-dir", state_dir.to_str().unwrap()])
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn what_waits_is_listed_and_printed() {
    let directory = tempfile::tempdir().unwrap();
    fill(directory.path());
    let check = spool("check", directory.path());
    assert_eq!(check.status.code(), Some(0), "{}", said(&check));
    let text = String::from_utf8(check.stdout).unwrap();
    assert!(text.contains("waiting: records of boot 3-00000000000000ab, 1 to 2"), "{text}");

    let dump = spool("dump", directory.path());
    assert_eq!(dump.status.code(), Some(0), "{}", said(&dump));
    let lines = String::from_utf8(dump.stdout).unwrap();
    let lines = lines.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    let lines = lines.collect::<Vec<_>>();
    assert_eq!(lines.len(), 3);
    assert_eq!((&lines[1]["lane"], &lines[1]["sequence"]), (&"records".into(), &2.into()));
    assert_eq!(lines[1]["metrics"]["cpu_percent"], 12.5);
    assert_eq!((&lines[2]["lane"], &lines[2]["severity"]), (&"alerts".into(), &"warning".into()));
}

#[test]
fn damage_is_named_and_left_as_it_is() {
    let directory = tempfile::tempdir().unwrap();
    fill(directory.path());
    let spool_dir = directory.path().join(DIRECTORY_NAME);
    let entries = fs::read_dir(&spool_dir).unwrap().map(|entry| entry.unwrap().path());
    let segment = entries.into_iter().find(|path| path.to_str().unwrap().contains("records-"));
    let segment = segment.unwrap();
    let mut bytes = fs::read(&segment).unwrap();
    bytes[70] ^= 1;
    fs::write(&segment, &bytes).unwrap();
    let arguments = ["spool", "check", "--json", "--state-dir", directory.path().to_str().unwrap()];
    let check = output(&arguments);
    assert_eq!(check.status.code(), Some(1));
    assert!(said(&check).contains("the spool is damaged"), "{}", said(&check));
    let report = serde_json::from_slice::<Value>(&check.stdout).unwrap();
    assert_eq!(report["damaged"][0]["last"], 2);
    assert_eq!(fs::read(&segment).unwrap(), bytes);
}

#[test]
fn a_spool_in_use_or_not_there_is_not_read() {
    let directory = tempfile::tempdir().unwrap();
    let missing = spool("check", directory.path());
    assert_eq!(missing.status.code(), Some(2));
    assert!(said(&missing).contains("there is no spool in"), "{}", said(&missing));
    assert!(!directory.path().join(DIRECTORY_NAME).exists());
    // What cannot be looked at is not called empty, as for a user without the permission.
    let file = directory.path().join("file");
    fs::write(&file, "").unwrap();
    let refused = spool("check", &file);
    assert_eq!(refused.status.code(), Some(2));
    assert!(said(&refused).contains("cannot look into"), "{}", said(&refused));
    let _agent = open(directory.path());
    for tool in ["check", "dump"] {
        let refused = spool(tool, directory.path());
        assert_eq!(refused.status.code(), Some(2), "1 is damage");
        assert!(said(&refused).contains("in use by another process"), "{}", said(&refused));
    }
}
