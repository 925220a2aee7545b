//! What the core costs: a snapshot through the agent, the chain and each plugin, the ring, the codec, and frames.
//!
//!     cargo xtask bench core
//!
//! Every time is that of one snapshot or one record, on a processor, with the rows of a recorded host.
#![forbid(unsafe_code)]
#![expect(clippy::unwrap_used, reason = "a benchmark may fail loudly")]

mod agent;
mod codec;
mod plugins;
mod processor_time;
mod ring;

#[path = "../../tests/it/recorded.rs"]
mod recorded;

use agent_core::record::{Sample, Snapshot};
use agent_core::time::Instant;
use criterion::Criterion;

use crate::processor_time::ProcessorTime;

/// The busiest of the traces: nearly every value changes from row to row.
const TRACE: &str = "busy-compile";

/// The two widths of a snapshot, by their names in the results.
fn widths() -> [(&'static str, Vec<Sample>); 2] {
    let eight = recorded::trace(TRACE);
    let all = eight.iter().cloned().map(recorded::with_all_metrics).collect();
    [("8 metrics", eight), ("21 metrics", all)]
}

/// A host that does the same again and again: the rows of a trace in turn, a second apart, without an end.
fn endless(rows: &[Sample]) -> impl Iterator<Item = Snapshot> {
    (1..).zip(rows.iter().cycle()).map(|(seconds, row)| Snapshot {
        taken_at: Instant::from_ms(seconds * 1000),
        ..row.snapshot
    })
}

fn main() {
    let mut criterion = Criterion::default().with_measurement(ProcessorTime).configure_from_args();
    plugins::benchmark(&mut criterion);
    agent::benchmark(&mut criterion);
    ring::benchmark(&mut criterion);
    codec::benchmark(&mut criterion);
    criterion.final_summary();
}
