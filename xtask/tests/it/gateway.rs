//! A device behind a serial link: what it sends through the gateway is what the operator reads.

use std::io::Write as _;
use std::net::{TcpListener, TcpStream};
use std::ops::RangeInclusive;
use std::time::Duration;

use agent_core::codec::{Frame, encode_frame, pack, pack_alerts};
use agent_core::id::{BootId, Sequence};
use agent_core::metric::{Metric, Values};
use agent_core::record::{Alert, Direction, Sample, Severity, Snapshot, Transition};
use agent_core::time::Instant;
use serde_json::Value;
use xtask::fleet::Process;

use crate::deployment::{Deployment, STOP_LIMIT, wait_for};
use crate::record::{Record, assert_books_balance};

const DEVICE: &str = "mcu-1";
const BOOT: BootId = BootId { counter: 1, nonce: 0xfeed };
const NEXT_BOOT: BootId = BootId { counter: 2, nonce: 0xbeef };
const GARBAGE: &[u8] = b"\x00\xff\x01boot rom\r\n\x00\x22\x33\x00";

/// A host that exposes a serial port, and the gateway that reads it.
struct Link {
    listener: TcpListener,
    gateway: Process,
}

impl Link {
    fn start(deployment: &Deployment) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        let address = format!("--serial=tcp:{}", listener.local_addr().unwrap());
        let gateway = deployment.agent("gateway-1", [&address, "--interval=0.5"]);
        Self { listener, gateway }
    }

    fn accept(&self) -> TcpStream {
        wait_for("the gateway connects", || {
            let (stream, _) = self.listener.accept().ok()?;
            stream.set_nonblocking(false).unwrap();
            Some(stream)
        })
    }
}

fn sample(number: u64) -> Sample {
    let value = i64::try_from(number).unwrap();
    let used = 1_000_000_000 + value * 4096;
    let values = [
        (Metric::CpuPercent, value * 61 % 10_001),
        (Metric::MemoryUsed, used),
        (Metric::MemoryTotal, 8_000_000_000),
        (Metric::NetOut, value * 1021),
    ];
    Sample::from(Snapshot {
        taken_at: Instant::from_ms(number * 1000),
        wall_ms: 1_700_000_000_000 + value * 1000,
        values: Values::from_iter(values),
    })
}

fn encoded(frame: &Frame<'_>) -> Vec<u8> {
    let mut buffer = vec![0; 16_384];
    let length = encode_frame(frame, &mut buffer).unwrap();
    buffer.truncate(length);
    buffer
}

fn hello(boot: BootId) -> Vec<u8> {
    encoded(&Frame::Hello { agent: DEVICE.parse().unwrap(), boot })
}

fn records(numbers: RangeInclusive<u64>) -> Vec<u8> {
    let samples = numbers.clone().map(sample).collect::<Vec<_>>();
    let mut block = vec![0; 16_384];
    let first = Sequence::new(*numbers.start()).unwrap();
    let length = pack(first, samples.iter(), &mut block).unwrap();
    encoded(&Frame::Records(&block[..length]))
}

fn alert(number: u64) -> Alert {
    let value = i64::try_from(number).unwrap();
    Alert {
        metric: Metric::CpuPercent,
        transition: if number % 2 == 1 { Transition::Raised } else { Transition::Cleared },
        severity: Severity::Critical,
        direction: Direction::Above,
        limit: 8000,
        value: 8000 + value,
        taken_at: Instant::from_ms(number * 1000),
        wall_ms: 1_700_000_000_000 + value * 1000,
        lasted: Duration::from_millis(number),
    }
}

fn alerts(numbers: RangeInclusive<u64>) -> Vec<u8> {
    let mut packed = vec![0; 4096];
    let first = Sequence::new(*numbers.start()).unwrap();
    let length = pack_alerts(first, numbers.map(alert), &mut packed).unwrap();
    encoded(&Frame::Alerts(&packed[..length]))
}

/// Waits for the device's alerts, so many, and answers them in the order in which they were stored.
#[track_caller]
fn wait_for_alerts(deployment: &Deployment, count: usize) -> Vec<Value> {
    wait_for("alerts", || {
        let answer = deployment.picket(["alerts", "--since=1h", "--output=json", DEVICE]);
        let alerts = match answer.code {
            0 => answer.json_lines(),
            6 => Vec::new(),
            _ => panic!("picket alerts failed: {answer:?}"),
        };
        (count <= alerts.len()).then_some(alerts)
    })
}

/// That the operator reads of alert `number` what the device said.
#[track_caller]
fn assert_is_alert(read: &Value, boot: BootId, number: u64) {
    let alert = alert(number);
    assert_eq!((&read["boot"], &read["sequence"]), (&boot.to_string().into(), &number.into()));
    assert_eq!(read["metric"], alert.metric.name());
    assert_eq!(read["transition"], alert.transition.name().to_uppercase());
    assert_eq!(read["severity"], alert.severity.name().to_uppercase());
    assert_eq!(read["timestamp_ms"], alert.wall_ms);
    assert_eq!(read["uptime_ms"], alert.taken_at.as_ms());
    assert_eq!(read["lasted_ms"], number);
}

/// That `records` are what the device made of `numbers` in `boot`, value for value.
#[track_caller]
fn assert_equal(records: &[Record], boot: BootId, numbers: impl IntoIterator<Item = u64>) {
    let numbers = numbers.into_iter().collect::<Vec<_>>();
    assert_eq!(records.iter().map(Record::sequence).collect::<Vec<_>>(), numbers);
    for (record, number) in records.iter().zip(numbers) {
        let Snapshot { taken_at, wall_ms, values } = sample(number).snapshot;
        let names = values.iter().map(|(metric, _)| metric.name());
        assert_eq!(record.metric_names(), names.collect::<Vec<_>>(), "{number}");
        for (metric, count) in values.iter() {
            // JSON rounds the last digit of a double, which is far from a count.
            #[expect(clippy::cast_precision_loss, reason = "below 2^53")]
            let (count, unit) = (count as f64, metric.counts_per_unit() as f64);
            let read = record.metric(metric.name()).unwrap() * unit;
            assert!((read - count).abs() < 0.01, "{metric} of {number}: {read} is not {count}");
        }
        assert_eq!(record.boot(), boot.to_string());
        assert_eq!(record.timestamp_ms(), wall_ms);
        assert_eq!(record.json()["uptime_ms"], taken_at.as_ms());
    }
}

#[test]
fn what_a_device_sends_is_what_the_operator_reads() {
    let deployment = Deployment::start();
    let mut link = Link::start(&deployment);
    let mut device = link.accept();
    let frames = [GARBAGE, &hello(BOOT), &records(1..=64), GARBAGE, &records(65..=70), GARBAGE];
    device.write_all(&frames.concat()).unwrap();
    let stored = deployment.wait_for_records("all records", DEVICE, |all| 70 <= all.len());
    assert_equal(&stored, BOOT, 1..=70);
    // The gateway's own agent runs on.
    deployment.wait_for_fresh_record("gateway-1");

    let refused = deployment.command(DEVICE, &["RESTART"]);
    assert!(refused.stdout.contains("one-way serial link"), "{refused:?}");
    let status = deployment.status(DEVICE);
    assert_eq!(status["ledger"]["recorded"], 70);
    assert!(link.gateway.terminate(STOP_LIMIT).unwrap().success());
    wait_for("the device goes with its gateway", || {
        (deployment.agent_info(DEVICE)["connected"] == false).then_some(())
    });
}

#[test]
fn a_server_that_was_away_gets_what_the_gateway_held() {
    let mut deployment = Deployment::start();
    let link = Link::start(&deployment);
    let mut device = link.accept();
    device.write_all(&[hello(BOOT), records(1..=5)].concat()).unwrap();
    deployment.wait_for_records("the first records", DEVICE, |all| 5 <= all.len());
    deployment.kill_server();
    // A frame is lost on the link, and the device starts anew meanwhile.
    device.write_all(&[records(6..=10), records(13..=20)].concat()).unwrap();
    device.write_all(&[hello(NEXT_BOOT), records(1..=3)].concat()).unwrap();
    deployment.start_server();
    let stored = deployment.wait_for_records("all records", DEVICE, |all| 21 <= all.len());
    let (old, new) = stored.split_at(18);
    assert_equal(old, BOOT, (1..=10).chain(13..=20));
    assert_equal(new, NEXT_BOOT, 1..=3);
    assert_eq!(deployment.counter("records.lost"), 2);
    assert_eq!(deployment.counter("records.unexplained"), 0);
}

#[test]
fn a_gateway_that_is_killed_and_started_goes_on_where_it_was() {
    let deployment = Deployment::start();
    let mut link = Link::start(&deployment);
    let mut device = link.accept();
    device.write_all(&[hello(BOOT), records(1..=5)].concat()).unwrap();
    deployment.wait_for_records("the first records", DEVICE, |all| 5 <= all.len());
    link.gateway.kill().unwrap();
    drop(device);
    // Records 6 and 7 had nobody to go to.
    let link = Link::start(&deployment);
    let mut device = link.accept();
    device.write_all(&[hello(BOOT), records(8..=9)].concat()).unwrap();
    let stored = deployment.wait_for_records("all records", DEVICE, |all| 7 <= all.len());
    assert_equal(&stored, BOOT, (1..=5).chain(8..=9));
    assert_eq!(deployment.counter("records.lost"), 2);
    assert_eq!(deployment.counter("records.unexplained"), 0);
}

#[test]
fn alerts_of_a_device_survive_a_server_that_was_away() {
    let mut deployment = Deployment::start();
    let link = Link::start(&deployment);
    let mut device = link.accept();
    device.write_all(&[hello(BOOT), alerts(1..=2), records(1..=3)].concat()).unwrap();
    wait_for_alerts(&deployment, 2);
    deployment.kill_server();
    // A frame with alerts is lost on the link, and the device starts anew meanwhile.
    device.write_all(&[alerts(3..=3), alerts(6..=6), records(4..=5)].concat()).unwrap();
    device.write_all(&[hello(NEXT_BOOT), alerts(1..=1), records(1..=1)].concat()).unwrap();
    deployment.start_server();
    let stored = wait_for_alerts(&deployment, 5);
    let expected = [(BOOT, 1), (BOOT, 2), (BOOT, 3), (BOOT, 6), (NEXT_BOOT, 1)];
    assert_eq!(stored.len(), expected.len(), "{stored:?}");
    for (read, (boot, number)) in stored.iter().zip(expected) {
        assert_is_alert(read, boot, number);
    }
    deployment.wait_for_records("the last record", DEVICE, |all| {
        all.last().is_some_and(|record| record.boot() == NEXT_BOOT.to_string())
    });
    let status = wait_for("the alert is acknowledged", || {
        let status = deployment.status(DEVICE);
        (status["ledger"]["alerts"]["delivered"] == 1).then_some(status)
    });
    assert_books_balance(&status);
}
