//! What the frames say, read as a gateway would.

use agent_core::codec::{Deframer, Frame, FrameError, unpack, unpack_alerts};
use agent_core::metric::{Metric, Values};
use agent_core::record::{Alert, Marks, Sample, Snapshot, Transition};
use agent_core::time::Instant;
use device::{AGENT_ID, BOOT, HELLO_EVERY, Trace};

/// The digest of the bytes on the wire. When it is meant to change, write it anew: `cargo run > host/golden.txt`.
pub(crate) const GOLDEN: &str = include_str!("../../golden.txt");

const EMPTY: Sample = Sample {
    snapshot: Snapshot { taken_at: Instant::from_ms(0), wall_ms: 0, values: Values::EMPTY },
    window: None,
    marks: Marks::NONE,
    repeats: 0,
};

/// One frame, with its content kept.
#[derive(Debug)]
enum Received {
    Hello,
    Records { first: u64, records: Vec<Sample> },
    Alerts { first: u64, alerts: Vec<Alert> },
}

fn receive(bytes: &[u8]) -> Vec<Result<Received, FrameError>> {
    let mut deframer = Deframer::<1024>::new();
    let mut received = Vec::new();
    for byte in bytes {
        let Some(frame) = deframer.push(*byte) else {
            continue;
        };
        received.push(frame.map(|frame| match frame {
            Frame::Hello { agent, boot } => {
                assert_eq!((agent.as_str(), boot), (AGENT_ID, BOOT));
                Received::Hello
            }
            Frame::Records(block) => {
                // The device sends one record in a block.
                let mut rows = vec![EMPTY; 1];
                let (first, count) = unpack(block, &mut rows).unwrap();
                rows.truncate(count);
                Received::Records { first: first.number(), records: rows }
            }
            Frame::Alerts(alerts) => {
                let (first, alerts) = unpack_alerts(alerts).unwrap();
                Received::Alerts { first: first.number(), alerts: alerts.to_vec() }
            }
        }));
    }
    received
}

/// All records with their sequences.
pub(crate) fn records(bytes: &[u8]) -> Vec<(u64, Sample)> {
    let mut all = Vec::new();
    for frame in receive(bytes) {
        if let Received::Records { first, records } = frame.unwrap() {
            all.extend((first..).zip(records));
        }
    }
    all
}

/// All alerts with their sequences.
pub(crate) fn alerts(bytes: &[u8]) -> Vec<(u64, Alert)> {
    let mut all = Vec::new();
    for frame in receive(bytes) {
        if let Received::Alerts { first, alerts } = frame.unwrap() {
            all.extend((first..).zip(alerts));
        }
    }
    all
}

#[test]
fn the_bytes_are_those_of_the_golden_digest() {
    let (capture, _) = host::run().unwrap();
    assert_eq!(host::digest(&capture.bytes), GOLDEN.trim_end());
}

#[test]
fn the_books_balance_and_what_was_delivered_arrives() {
    let (capture, totals) = host::run().unwrap();
    let ledger = totals.ledger;
    assert!(ledger.balances(), "{ledger:?}");
    assert_eq!((ledger.held, ledger.in_plugins), (0, 0), "{ledger:?}");
    let lost = ledger.lost.total();
    assert!(0 < lost, "the wire came up late: {ledger:?}");

    let records = records(&capture.bytes);
    assert_eq!(records.len() as u64, ledger.delivered);
    let sequences = records.iter().map(|(sequence, _)| *sequence).collect::<Vec<_>>();
    let expected = (lost + 1..=ledger.recorded).collect::<Vec<_>>();
    assert_eq!(sequences, expected, "the oldest gave way, and no other");
    assert!(lost < 45, "the ring holds some of them");
}

#[test]
fn records_of_the_trace_say_what_the_trace_says() {
    let (capture, _) = host::run().unwrap();
    let records = records(&capture.bytes);
    let mut compared = 0;
    for measured in Trace::new() {
        let record = records.iter().find(|(_, r)| r.snapshot.taken_at == measured.taken_at);
        if let Some((_, record)) = record {
            assert_eq!(record.snapshot, measured);
            compared += 1;
        }
    }
    assert!(200 < compared, "{compared}");
}

#[test]
fn the_sensor_follows_in_windows_after_the_change_of_configuration() {
    let (capture, _) = host::run().unwrap();
    let records = records(&capture.bytes);
    let windows = records.iter().filter_map(|(_, record)| Some((record, record.window?)));
    let windows = windows.collect::<Vec<_>>();
    let snapshots = windows.iter().map(|(_, window)| window.count).sum::<u32>();
    assert_eq!((windows.len(), snapshots), (24, 240));
    let with_alert = |(record, _): &&(&Sample, _)| !record.marks.is_empty();
    assert!(windows.iter().any(|w| with_alert(&w)), "the load is above its threshold at times");
    for (record, window) in &windows {
        let average = record.snapshot.values.get(Metric::CpuPercent);
        assert!(window.min.get(Metric::CpuPercent) <= average);
        assert!(average <= window.max.get(Metric::CpuPercent));
        assert_eq!(record.snapshot.values.get(Metric::MemoryTotal), None);
    }
}

#[test]
fn every_alert_that_the_load_raises_arrives_and_ends() {
    let (capture, totals) = host::run().unwrap();
    let alerts = alerts(&capture.bytes);
    let sequences = alerts.iter().map(|(sequence, _)| *sequence);
    assert!(sequences.eq(1..=totals.ledger.alerts.recorded));
    let of_cpu = alerts.iter().filter(|(_, alert)| alert.metric == Metric::CpuPercent);
    let transitions = of_cpu.map(|(_, alert)| alert.transition).collect::<Vec<_>>();
    assert!(transitions.len() >= 4, "{alerts:?}");
    for pair in transitions.chunks_exact(2) {
        assert_eq!(pair[0], Transition::Raised);
        assert_ne!(pair[1], Transition::Raised);
    }
}

#[test]
fn a_hello_stands_before_every_so_many_frames() {
    let (capture, totals) = host::run().unwrap();
    let mut frames = 0;
    let mut hello_due = true;
    for frame in receive(&capture.bytes) {
        match frame.unwrap() {
            Received::Hello => {
                assert!(hello_due, "after {frames} frames");
                hello_due = false;
            }
            Received::Records { .. } | Received::Alerts { .. } => {
                assert!(!hello_due, "after {frames} frames");
                frames += 1;
                hello_due = frames % HELLO_EVERY == 0;
            }
        }
    }
    assert_eq!(frames, totals.frames);
}

#[test]
fn a_reader_that_comes_late_loses_one_frame() {
    let (capture, _) = host::run().unwrap();
    for from in (1..200).step_by(7) {
        let received = receive(&capture.bytes[from..]);
        let damaged = received.iter().filter(|frame| frame.is_err()).count();
        assert!(damaged <= 1, "from byte {from}");
        assert!(received.iter().skip(1).all(Result::is_ok), "from byte {from}");
    }
}
