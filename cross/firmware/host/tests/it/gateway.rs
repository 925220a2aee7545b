//! The board in QEMU, its UART on TCP, the real gateway, the real server: what arrives is what the device measured.

use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;
use std::{env, io, thread};

use agent_core::metric::{Metric, Values};
use agent_core::record::{Alert, Sample};
use device::{AGENT_ID, BOOT};
use serde_json::Value;
use xtask::fleet::{Binaries, Group, Site, poll};

use crate::{board, frames};

/// How long anything may take that normally takes a second: the machine may be busy with other tests.
const PATIENCE: Duration = Duration::from_secs(120);

#[test]
fn what_a_cortex_m3_measures_arrives_at_the_server() {
    let Some(program) = board::build("firmware behind the gateway") else { return };
    let binaries = binaries();
    let directory = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let site = Site::new(binaries.clone(), directory.path(), Group::Shared).unwrap();
    let server = site.server().unwrap();

    // QEMU and the gateway both connect, so that no port has to be chosen before it is free.
    let [uart, host] = [(); 2].map(|()| TcpListener::bind("127.0.0.1:0").unwrap());
    let serial = format!("--serial=tcp:{}", host.local_addr().unwrap());
    let _gateway = site.agent("gateway-1", server.address(), [serial]).unwrap();
    let wire = format!("tcp:{}", uart.local_addr().unwrap());
    let bridge = thread::spawn(move || {
        let (mut gateway, _) = host.accept().unwrap();
        let (mut board, _) = uart.accept().unwrap();
        io::copy(&mut board, &mut gateway).unwrap();
        // The link stays open for as long as somebody holds it.
        gateway
    });
    board::run(&program, &wire);
    let carried = poll(PATIENCE, || Ok::<_, io::Error>(bridge.is_finished().then_some(())));
    carried.unwrap().expect("the gateway takes what the board sent");
    let _link = bridge.join().unwrap();

    let (capture, totals) = host::run().unwrap();
    let expected = frames::records(&capture.bytes);
    let stored = poll(PATIENCE, || {
        let records = stored(&binaries, &server.address().to_string());
        Ok::<_, io::Error>((expected.len() <= records.len()).then_some(records))
    });
    let stored = stored.unwrap().expect("all records arrive");
    assert_eq!(stored.len(), expected.len());
    for (record, (sequence, sample)) in stored.iter().zip(&expected) {
        assert_eq!(record["sequence"], *sequence);
        check(record, sample);
    }

    let expected = frames::alerts(&capture.bytes);
    let alerts = poll(PATIENCE, || {
        let alerts = stored_alerts(&binaries, &server.address().to_string());
        Ok::<_, io::Error>((expected.len() <= alerts.len()).then_some(alerts))
    });
    let alerts = alerts.unwrap().expect("all alerts arrive");
    assert_eq!(alerts.len(), expected.len());
    for (read, (sequence, alert)) in alerts.iter().zip(&expected) {
        assert_eq!(read["sequence"], *sequence);
        check_alert(read, alert);
    }

    // The device gave up records before its wire was up; that is declared.
    let lost = totals.ledger.lost.total();
    let status = picket(&binaries, &server.address().to_string(), &["server-status"]);
    let [status] = status.as_slice() else { panic!("{status:?}") };
    assert_eq!(status["counters"]["records.lost"], lost, "{status}");
    assert_eq!(status["counters"]["records.unexplained"].as_u64().unwrap_or(0), 0, "{status}");
}

/// That `record`, as the operator's tool prints it, says what `sample` says.
fn check(record: &Value, sample: &Sample) {
    let snapshot = &sample.snapshot;
    assert_eq!(record["boot"], BOOT.to_string());
    assert_eq!(record["timestamp_ms"], snapshot.wall_ms);
    assert_eq!(record["uptime_ms"], snapshot.taken_at.as_ms());
    assert_eq!(record["repeats"].as_u64().unwrap_or(0), u64::from(sample.repeats));
    check_values(&record["metrics"], &snapshot.values);
    match &sample.window {
        None => assert_eq!(record["window"], Value::Null),
        Some(window) => {
            assert_eq!(record["window"]["count"], window.count);
            check_values(&record["window"]["min"], &window.min);
            check_values(&record["window"]["max"], &window.max);
        }
    }
    let marked = record["alerts"].as_array().map_or(0, Vec::len);
    assert_eq!(marked, sample.marks.iter().count());
}

/// As [`check`], of an alert.
fn check_alert(read: &Value, alert: &Alert) {
    assert_eq!(read["boot"], BOOT.to_string());
    assert_eq!(read["timestamp_ms"], alert.wall_ms);
    assert_eq!(read["uptime_ms"], alert.taken_at.as_ms());
    assert_eq!(read["metric"], alert.metric.name());
    assert_eq!(read["transition"], alert.transition.name().to_uppercase());
    assert_eq!(read["severity"], alert.severity.name().to_uppercase());
    assert!(is_count(alert.metric, &read["value"], alert.value), "{read}, not {alert:?}");
    assert!(is_count(alert.metric, &read["limit"], alert.limit), "{read}, not {alert:?}");
}

fn check_values(units: &Value, values: &Values) {
    assert_eq!(units.as_object().map_or(0, serde_json::Map::len), values.iter().count(), "{units}");
    for (metric, count) in values.iter() {
        assert!(is_count(metric, &units[metric.name()], count), "{metric}: {units}, not {count}");
    }
}

#[expect(clippy::cast_precision_loss, reason = "below 2^53")]
fn is_count(metric: Metric, units: &Value, count: i64) -> bool {
    // JSON rounds the last digit of a double, which is far from a count.
    let read = units.as_f64().unwrap() * metric.counts_per_unit() as f64;
    (read - count as f64).abs() < 0.01
}

/// What the operator sees of the device.
fn stored(binaries: &Binaries, server: &str) -> Vec<Value> {
    picket(binaries, server, &["get-metrics", "--since=1h", "--no-follow", "--agent", AGENT_ID])
}

/// Likewise, of its alerts.
fn stored_alerts(binaries: &Binaries, server: &str) -> Vec<Value> {
    picket(binaries, server, &["alerts", "--since=1h", AGENT_ID])
}

/// The lines that the operator's tool prints; none when there is nothing to print.
fn picket(binaries: &Binaries, server: &str, arguments: &[&str]) -> Vec<Value> {
    const NOTHING_THERE: i32 = 6;
    let mut command = Command::new(binaries.picket());
    command.args(["--server", server]).args(arguments).args(["--output", "json"]);
    let output = command.output().unwrap();
    let code = output.status.code();
    assert!([Some(0), Some(NOTHING_THERE)].contains(&code), "{command:?}: {output:?}");
    let text = String::from_utf8(output.stdout).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// The programs of the main workspace, built where it builds them; `PICKET_BINARIES=DIRECTORY` takes others.
fn binaries() -> Binaries {
    if let Some(directory) = env::var_os("PICKET_BINARIES") {
        return Binaries::at(directory.into());
    }
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../..");
    let target = env::var_os("CARGO_TARGET_DIR").map_or_else(|| root.join("target"), PathBuf::from);
    let mut cargo = Command::new(env!("CARGO"));
    cargo.args(["build", "--quiet", "--locked", "--bins", "--package", "server"]);
    cargo.args(["--package", "agent-std", "--package", "analysis", "--target-dir"]).arg(&target);
    let status = cargo.current_dir(&root).status().unwrap();
    assert!(status.success(), "{cargo:?} ended with {status}");
    Binaries::at(target.join("debug"))
}
