//! One snapshot through the whole agent.

use std::hint::black_box;

use agent_core::agent::{Agent, Credit, Input, Output, Transmit};
use agent_core::id::{BootId, Sequence};
use agent_core::record::Sample;
use agent_core::time::Instant;
use criterion::{Bencher, Criterion};

use crate::plugins::{ALL, config};
use crate::processor_time::ProcessorTime;
use crate::{endless, widths};

const BOOT: BootId = BootId { counter: 1, nonce: 1 };

pub(crate) fn benchmark(criterion: &mut Criterion<ProcessorTime>) {
    for (width, rows) in widths() {
        let mut group = criterion.benchmark_group(format!("agent, {width}"));
        for (plugins, name) in [(&[][..], "no plugin"), (ALL, "all four")] {
            let new = || {
                let mut agent: Box<Agent> =
                    Box::new(Agent::new(Instant::default(), BOOT, 1, config(plugins), None));
                agent.handle(Instant::default(), Input::LinkOpened);
                agent
            };
            group.bench_function(format!("{name}, connected"), |bencher| {
                let mut agent = new();
                let welcome = Input::LinkWelcomed {
                    acknowledged: None,
                    heartbeat: None,
                    credit: Credit::Unlimited,
                };
                agent.handle(Instant::default(), welcome);
                run(bencher, &rows, &mut agent);
            });
            group.bench_function(format!("{name}, server away"), |bencher| {
                run(bencher, &rows, &mut new());
            });
        }
        group.finish();
    }
}

/// Hands in one snapshot after the other, and does all that the agent asks for in between.
fn run(bencher: &mut Bencher<'_, ProcessorTime>, rows: &[Sample], agent: &mut Agent) {
    let mut snapshots = endless(rows);
    bencher.iter(|| {
        let snapshot = snapshots.next().unwrap();
        let now = snapshot.taken_at;
        agent.handle(now, Input::Snapshot(snapshot));
        loop {
            match agent.poll(now) {
                Output::Wait(_) => return,
                Output::Transmit(transmit) => transmit_and_acknowledge(agent, now, transmit),
                Output::Collect(_)
                | Output::Dial
                | Output::Finish
                | Output::Remember
                | Output::Restart
                | Output::Spool
                | Output::Exit => {}
            }
        }
    });
}

fn transmit_and_acknowledge(agent: &mut Agent, now: Instant, transmit: Transmit) {
    match &transmit {
        Transmit::Batch(batch) => {
            for record in agent.records(batch) {
                black_box(record);
            }
        }
        Transmit::Alerts(batch) => {
            for alert in agent.alerts(batch) {
                black_box(alert);
            }
        }
        Transmit::Plain(_)
        | Transmit::Replay
        | Transmit::Answer(_)
        | Transmit::Begun(_)
        | Transmit::ConfigReport
        | Transmit::Status => {}
    }
    agent.handle(now, Input::Transmitted(transmit));
    let through = |end: Sequence| Sequence::new(end.number() - 1);
    match transmit {
        Transmit::Batch(batch) => {
            if let Some(through) = through(batch.end) {
                agent.handle(now, Input::Acknowledged { boot: BOOT, through });
            }
        }
        Transmit::Alerts(batch) => {
            if let Some(through) = through(batch.end) {
                agent.handle(now, Input::AlertsAcknowledged { boot: BOOT, through });
            }
        }
        Transmit::Plain(_)
        | Transmit::Replay
        | Transmit::Answer(_)
        | Transmit::Begun(_)
        | Transmit::ConfigReport
        | Transmit::Status => {}
    }
}
