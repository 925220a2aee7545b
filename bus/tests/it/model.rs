//! The embedded log against a plain vector, closed and opened again in between.

use std::collections::BTreeSet;

use bus::embedded::Options;
use bus::{Bus, Partition, Selection, Start};
use proptest::prelude::*;

use crate::support::{TestClock, at, key, large, open, read};

const NAMES: [&str; 4] = ["a", "a-1", "b", "c"];

#[derive(Clone, Debug)]
enum Step {
    /// Publishes for these agents, by place in `NAMES`, together.
    Publish(Vec<usize>),
    Clock(i64),
    Reopen,
    Read(Start, BTreeSet<usize>),
}

/// What the bus must have.
#[derive(Debug)]
struct Expected {
    offset: u64,
    stored_ms: i64,
    name: usize,
}

fn step() -> impl Strategy<Value = Step> {
    let start = prop_oneof![
        Just(Start::Oldest),
        (0..400_u64).prop_map(at),
        (0..100_i64).prop_map(Start::Time),
        (0..300_u64).prop_map(Start::Last),
        Just(Start::Tail),
    ];
    // No names means no selection.
    let names = prop::collection::btree_set(0..NAMES.len(), 0..3);
    prop_oneof![
        4 => prop::collection::vec(0..NAMES.len(), 0..60).prop_map(Step::Publish),
        2 => (0..100_i64).prop_map(Step::Clock),
        1 => Just(Step::Reopen),
        4 => (start, names).prop_map(|(start, names)| Step::Read(start, names)),
    ]
}

fn expected_read(log: &[Expected], start: &Start, names: &BTreeSet<usize>) -> Vec<u64> {
    let selected = |record: &&Expected| names.is_empty() || names.contains(&record.name);
    let offsets = |records: &mut dyn Iterator<Item = &Expected>| -> Vec<u64> {
        records.map(|record| record.offset).collect()
    };
    match start {
        Start::Oldest => offsets(&mut log.iter().filter(selected)),
        Start::At(cursor) => {
            let first = cursor.next_in(Partition(0)).unwrap().0;
            offsets(&mut log.iter().filter(selected).filter(|r| first <= r.offset))
        }
        Start::Time(first) => {
            offsets(&mut log.iter().filter(selected).filter(|r| *first <= r.stored_ms))
        }
        Start::Last(count) => {
            let mut all = offsets(&mut log.iter().filter(selected));
            let count = usize::try_from(*count).unwrap();
            all.split_off(all.len().saturating_sub(count))
        }
        Start::Tail => Vec::new(),
    }
}

async fn run(steps: Vec<Step>) {
    let dir = tempfile::tempdir().unwrap();
    let clock = TestClock::at(0);
    let options =
        || Options { clock: clock.clock(), memory_bytes: 8 * 1024 * 1024, ..Options::default() };
    let mut bus = open(dir.path(), options()).bus();
    let mut log: Vec<Expected> = Vec::new();
    let mut now_ms = 0;
    for step in steps {
        match step {
            Step::Publish(names) => {
                let mut records = Vec::new();
                for name in names {
                    let offset = log.len() as u64 + 1;
                    let stored_ms = log.last().map_or(now_ms, |last| last.stored_ms.max(now_ms));
                    records.push(large(NAMES[name], offset, 3000));
                    log.push(Expected { offset, stored_ms, name });
                }
                bus.publish(records).await.unwrap();
            }
            Step::Clock(unix_ms) => {
                now_ms = unix_ms;
                clock.set(unix_ms);
            }
            Step::Reopen => {
                bus.close().await.unwrap();
                bus = open(dir.path(), options()).bus();
            }
            Step::Read(start, names) => {
                let selection = if names.is_empty() {
                    Selection::All
                } else {
                    Selection::Keys(names.iter().map(|name| key(NAMES[*name])).collect())
                };
                let found = read(&*bus, start.clone(), selection).await;
                assert_eq!(found.skipped, []);
                assert_eq!(found.sequences(), expected_read(&log, &start, &names));
                for entry in &found.entries {
                    let record = &log[usize::try_from(entry.offset.0).unwrap() - 1];
                    assert_eq!(entry.stored_ms, record.stored_ms);
                    assert_eq!(entry.key, key(NAMES[record.name]));
                }
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 10, ..ProptestConfig::default() })]

    #[test]
    fn the_log_is_a_vector(steps in prop::collection::vec(step(), 1..40)) {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .unwrap();
        runtime.block_on(run(steps));
    }
}
