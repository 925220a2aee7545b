//! A device for tests: the frames that it sends, and the link that it sends them over.

use std::ops::RangeInclusive;
use std::time::Duration;

use agent_core::codec::{Frame, encode_frame, pack, pack_alerts};
use agent_core::id::{BootId, Sequence};
use agent_core::metric::{Metric, Values};
use agent_core::record::{Alert, Direction, Sample, Severity, Snapshot, Transition};
use agent_core::time::Instant;
use proto::{AlertRecord, AlertSeverity, AlertTransition, Record};
use tokio::io::AsyncWriteExt as _;
use tokio::net::{TcpListener, TcpStream};

use crate::process::PATIENCE;

pub(crate) const BOOT: BootId = BootId { counter: 3, nonce: 0x1234 };
pub(crate) const NEXT_BOOT: BootId = BootId { counter: 4, nonce: 0x5678 };

/// Bytes that are no frame: an unfinished one, and then some.
pub(crate) const GARBAGE: &[u8] = b"\x07boot rom v1.2\r\n\xff\xfe\x00\x00\x03garbage\x00\x11";

/// Where a device is plugged in: a host that exposes its serial port over TCP.
#[derive(Debug)]
pub(crate) struct Socket {
    listener: TcpListener,
}

impl Socket {
    pub(crate) async fn open() -> Self {
        Self { listener: TcpListener::bind("127.0.0.1:0").await.unwrap() }
    }

    /// What `--serial` has to say.
    pub(crate) fn argument(&self) -> String {
        format!("tcp:{}", self.listener.local_addr().unwrap())
    }

    /// The next connection of the gateway.
    pub(crate) async fn link(&self) -> Link {
        let accepted = tokio::time::timeout(PATIENCE, self.listener.accept());
        let (stream, _) = accepted.await.expect("the gateway did not connect").unwrap();
        stream.set_nodelay(true).unwrap();
        Link { stream }
    }
}

/// An open link. Dropping it takes the device away.
#[derive(Debug)]
pub(crate) struct Link {
    stream: TcpStream,
}

impl Link {
    pub(crate) async fn send(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).await.unwrap();
    }
}

fn encoded(frame: &Frame<'_>) -> Vec<u8> {
    let mut buffer = vec![0; 16_384];
    let length = encode_frame(frame, &mut buffer).unwrap();
    buffer.truncate(length);
    buffer
}

pub(crate) fn hello(agent: &str, boot: BootId) -> Vec<u8> {
    encoded(&Frame::Hello { agent: agent.parse().unwrap(), boot })
}

/// One frame with at most 64 records.
pub(crate) fn records(numbers: RangeInclusive<u64>) -> Vec<u8> {
    let samples = numbers.clone().map(sample).collect::<Vec<_>>();
    let mut block = vec![0; 16_384];
    let first = Sequence::new(*numbers.start()).unwrap();
    let length = pack(first, samples.iter(), &mut block).unwrap();
    encoded(&Frame::Records(&block[..length]))
}

/// One frame with at most 32 alerts.
pub(crate) fn alerts(numbers: RangeInclusive<u64>) -> Vec<u8> {
    let mut packed = vec![0; 4096];
    let first = Sequence::new(*numbers.start()).unwrap();
    let length = pack_alerts(first, numbers.map(alert), &mut packed).unwrap();
    encoded(&Frame::Alerts(&packed[..length]))
}

/// Alert `number` of the device: something that no two alerts have in common.
fn alert(number: u64) -> Alert {
    let value = i64::try_from(number).unwrap();
    Alert {
        metric: Metric::Temperature,
        transition: Transition::Raised,
        severity: Severity::Critical,
        direction: Direction::Above,
        limit: 80_000,
        value: 80_000 + value,
        taken_at: Instant::from_ms(number * 1000),
        wall_ms: 1_700_000_000_000 + value * 1000,
        lasted: Duration::from_millis(number),
    }
}

/// What a server must be told of alert `number`.
pub(crate) fn expected_alert(number: u64) -> AlertRecord {
    let alert = alert(number);
    AlertRecord {
        sequence: number,
        timestamp_ms: alert.wall_ms,
        metric: alert.metric.id().into(),
        transition: AlertTransition::Raised.into(),
        severity: AlertSeverity::Critical.into(),
        below: false,
        limit: alert.limit,
        value: alert.value,
        lasted_ms: number,
        uptime_ms: alert.taken_at.as_ms(),
    }
}

/// What the device measures for its record `number`: something that no two records have in common.
fn sample(number: u64) -> Sample {
    let value = i64::try_from(number).unwrap();
    let values = [
        (Metric::CpuPercent, value * 37 % 10_001),
        (Metric::MemoryUsed, value * 1_000_003),
        (Metric::NetIn, value.pow(2)),
    ];
    Sample::from(Snapshot {
        taken_at: Instant::from_ms(number * 1000),
        wall_ms: 1_700_000_000_000 + value * 1000,
        values: Values::from_iter(values),
    })
}

/// What a server must be told of record `number`.
pub(crate) fn expected(number: u64) -> Record {
    let Snapshot { taken_at, wall_ms, values } = sample(number).snapshot;
    Record {
        sequence: number,
        timestamp_ms: wall_ms,
        present: values.present().bits(),
        values: values.iter().map(|(_, count)| count).collect(),
        uptime_ms: taken_at.as_ms(),
        ..Record::default()
    }
}
