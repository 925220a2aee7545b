//! No heap allocation between a snapshot and the frame that carries it.

use std::time::Duration;

use agent_core::agent::{Agent, Credit, Input, Output, Transmit};
use agent_core::codec::{BLOCK_ROWS_MAX, Deframer, Frame, encode_frame, pack, pack_alerts, unpack};
use agent_core::config::{Config, Settings, WindowEnd};
use agent_core::id::BootId;
use agent_core::metric::{MetricSet, Values};
use agent_core::plugin::PluginKind;
use agent_core::record::{Marks, Sample, Snapshot};
use agent_core::time::Instant;

const SAMPLES: u64 = 1_000_000;
/// Samples from one exchange with the server to the next: more would overflow the ring of alerts.
const EXCHANGE_EVERY: u64 = 16;
/// A sample that says nothing, to be overwritten.
const EMPTY: Sample = Sample {
    snapshot: Snapshot { taken_at: Instant::from_ms(0), wall_ms: 0, values: Values::EMPTY },
    window: None,
    marks: Marks::NONE,
    repeats: 0,
};
const BOOT: BootId = BootId { counter: 1, nonce: 1 };

fn snapshot(number: u64) -> Snapshot {
    // Steps of a Weyl sequence: spread over the range, the same on every machine.
    let noise = number.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 50;
    let values = MetricSet::FIXED.iter().map(|metric| {
        let count = i64::try_from(noise).unwrap() * (i64::from(metric.id()) + 1);
        (metric, if number.is_multiple_of(7) { 0 } else { count })
    });
    Snapshot {
        taken_at: Instant::from_ms(number * 1000),
        wall_ms: 1_795_387_018_000 + i64::try_from(number).unwrap() * 1000,
        values: values.collect(),
    }
}

/// Takes what the agent sends, writes it as a frame, reads that again, and acknowledges it.
fn exchange(agent: &mut Agent, now: Instant, buffers: &mut Buffers) -> u64 {
    let mut records = 0;
    loop {
        match agent.poll(now) {
            Output::Wait(_) => return records,
            Output::Transmit(transmit) => {
                if let Transmit::Batch(batch) = transmit {
                    let mut count = 0;
                    for (row, (_, sample)) in buffers.sent.iter_mut().zip(agent.records(&batch)) {
                        *row = sample;
                        count += 1;
                    }
                    let sent = &buffers.sent[..count];
                    let length = pack(batch.first, sent.iter(), &mut buffers.block).unwrap();
                    let frame = Frame::Records(&buffers.block[..length]);
                    let length = encode_frame(&frame, &mut buffers.link).unwrap();
                    let bytes = &buffers.link[..length];
                    let (deframer, received) = (&mut buffers.deframer, &mut buffers.received);
                    let read = bytes.iter().find_map(|byte| match deframer.push(*byte) {
                        Some(Ok(Frame::Records(block))) => Some(unpack(block, received)),
                        _ => None,
                    });
                    assert_eq!(read, Some(Ok((batch.first, count))));
                    assert_eq!(received[..count], *sent);
                    records += batch.first.count_until(batch.end);
                    let last = batch.end.number() - 1;
                    let through = agent_core::id::Sequence::new(last).unwrap();
                    agent.handle(now, Input::Acknowledged { boot: BOOT, through });
                }
                if let Transmit::Alerts(batch) = transmit {
                    let alerts = agent.alerts(&batch).map(|(_, alert)| alert);
                    let length = pack_alerts(batch.first, alerts, &mut buffers.block).unwrap();
                    let frame = Frame::Alerts(&buffers.block[..length]);
                    encode_frame(&frame, &mut buffers.link).unwrap();
                    let last = batch.end.number() - 1;
                    let through = agent_core::id::Sequence::new(last).unwrap();
                    agent.handle(now, Input::AlertsAcknowledged { boot: BOOT, through });
                }
                agent.handle(now, Input::Transmitted(transmit));
            }
            _ => {}
        }
    }
}

struct Buffers {
    block: [u8; 32_768],
    link: [u8; 65_536],
    deframer: Deframer<65_536>,
    sent: [Sample; BLOCK_ROWS_MAX],
    received: [Sample; BLOCK_ROWS_MAX],
}

#[test]
fn a_million_samples_allocate_nothing() {
    let config = Config::new(Settings {
        interval: Duration::from_secs(1),
        plugins: PluginKind::BUILT_IN.into_iter().collect(),
        metrics: MetricSet::ALL,
        window: WindowEnd::Snapshots(2),
        ..Settings::default()
    });
    let mut buffers = Buffers {
        block: [0; 32_768],
        link: [0; 65_536],
        deframer: Deframer::new(),
        sent: [const { EMPTY }; BLOCK_ROWS_MAX],
        received: [const { EMPTY }; BLOCK_ROWS_MAX],
    };
    let mut agent: Agent = Agent::new(Instant::from_ms(0), BOOT, 1, config.unwrap(), None);
    agent.handle(Instant::from_ms(0), Input::LinkOpened);
    agent.handle(
        Instant::from_ms(0),
        Input::LinkWelcomed { acknowledged: None, heartbeat: None, credit: Credit::Unlimited },
    );
    let mut records = 0;
    let allocations = allocation_counter::measure(|| {
        for number in 1..=SAMPLES {
            let now = Instant::from_ms(number * 1000);
            agent.handle(now, Input::Snapshot(snapshot(number)));
            if number.is_multiple_of(EXCHANGE_EVERY) {
                records += exchange(&mut agent, now, &mut buffers);
            }
        }
    });
    assert_eq!(allocations.count_total, 0);
    let ledger = agent.ledger();
    assert_eq!((ledger.produced, ledger.delivered), (SAMPLES, records));
    assert!(SAMPLES / 4 < records, "{records}");
    let alerts = ledger.alerts;
    assert!(SAMPLES / 100 < alerts.delivered, "{alerts:?}");
    assert_eq!(alerts.lost.total(), 0);
}
