//! `picket audit`: what is read, what is said, and the exit codes.

use proto::{
    AgentInfo, AgentStatus, Boot, Hello, Ledger, ListAgentsResponse, Loss, LossReason,
    ServerStatus, StatusEvent, StatusRecord, StoredMetrics, TopicStatus,
    subscribe_metrics_request as metrics, subscribe_status_request as status,
};
use serde_json::{Value, json};

use crate::picket::run;
use crate::server::{
    Ending, Script, Server, batch, cursor, entry, event, feed_of, script_of, status_batch,
};

const BOOT: Boot = Boot { counter: 1, nonce: 0xabc };

fn connected() -> StatusRecord {
    let hello = Some(Hello { session: 1, ..Hello::default() });
    StatusRecord { hello, ..event("a", 1, StatusEvent::Connected) }
}

/// A server whose agent `a` says that it has recorded so many, and delivered them but for `held`.
fn server(
    records: Vec<StoredMetrics>,
    recorded: u64,
    held: u64,
    later: Vec<StatusRecord>,
) -> Script {
    let ledger = Ledger {
        produced: recorded,
        recorded,
        delivered: recorded - held,
        held,
        ..Ledger::default()
    };
    let status = AgentStatus { ledger: Some(ledger), ..AgentStatus::default() };
    let agent = AgentInfo {
        agent_id: "a".into(),
        boot: Some(BOOT),
        status: Some(status),
        ..AgentInfo::default()
    };
    let statuses =
        [vec![connected()], later].map(|part| feed_of(vec![status_batch(part)], Ending::End));
    Script {
        agents: ListAgentsResponse { agents: vec![agent] },
        status_feeds: statuses.into(),
        ..script_of([feed_of(vec![batch(records)], Ending::End)])
    }
}

fn entries(sequences: impl IntoIterator<Item = u64>) -> Vec<StoredMetrics> {
    sequences.into_iter().map(|sequence| entry("a", sequence)).collect()
}

#[test]
fn books_that_agree_end_with_0() {
    let server = Server::start(server(entries(1..=8), 10, 2, vec![]));
    let run = run(&server.name(), "audit a -o json");
    assert_eq!(run.code, 0, "{run:?}");
    let found: Value = serde_json::from_str(&run.stdout).unwrap();
    assert_eq!(found["boot"], "1-0000000000000abc");
    assert_eq!((&found["difference"], &found["pending"]), (&json!(0), &json!(2)));
    assert_eq!(found["records"]["delivered"], 8);

    let script = server.script.lock().unwrap();
    let begin = script.subscribed[0].start.clone();
    assert_eq!(begin, Some(metrics::Start::SinceMs(0)));
    // What was added meanwhile is read from where the first reading ended.
    let starts: Vec<_> = script.status_subscribed.iter().map(|asked| asked.start.clone()).collect();
    let [Some(status::Start::SinceMs(0)), Some(status::Start::Cursor(after))] = &starts[..] else {
        panic!("{starts:?}");
    };
    assert_eq!(*after, cursor(11));
}

#[test]
fn what_is_missing_is_named_and_ends_with_10() {
    let there = entries((1..=10).filter(|sequence| !(4..=6).contains(sequence)));
    let server = Server::start(server(there, 10, 0, vec![]));
    let run = run(&server.name(), "audit");
    assert_eq!(run.code, 10, "{run:?}");
    let finding = "a boot 1-0000000000000abc: 3 records are missing, 4 to 6, \
                   3 of them acknowledged: they were durable and are gone";
    assert!(run.stdout.lines().any(|line| line == finding), "{run:?}");
}

#[test]
fn a_loss_that_is_declared_meanwhile_is_not_missing() {
    let losses = vec![Loss {
        first: 4,
        last: 6,
        reason: LossReason::StoreDamaged.into(),
        ..Loss::default()
    }];
    let declared = StatusRecord { losses, ..event("a", 1, StatusEvent::Loss) };
    let there = entries((1..=10).filter(|sequence| !(4..=6).contains(sequence)));
    let server = Server::start(server(there, 10, 0, vec![declared]));
    let run = run(&server.name(), "audit");
    assert_eq!(run.code, 0, "{run:?}");
    assert!(run.stdout.contains("records declared lost: store_damaged 3"), "{run:?}");
}

#[test]
fn what_retention_removed_is_not_missing() {
    let topic = TopicStatus {
        name: "monitoring-data".into(),
        first_offset: 50,
        next_offset: 90,
        ..TopicStatus::default()
    };
    let mut script = server(entries(6..=10), 10, 0, vec![]);
    // Before the data that is kept.
    for feed in &mut script.status_feeds {
        feed.batches[0].entries.iter_mut().for_each(|entry| entry.stored_ms = -1);
    }
    script.status = ServerStatus { topics: vec![topic], ..ServerStatus::default() };
    let server = Server::start(script);
    let run = run(&server.name(), "audit");
    assert_eq!(run.code, 0, "{run:?}");
    assert!(run.stdout.contains("its records up to 5 are before the history"), "{run:?}");
}

#[test]
fn offsets_that_cannot_be_read_are_told_and_their_records_are_missing() {
    let mut script = server(entries([1, 2, 5]), 5, 0, vec![]);
    let damage = proto::MetricsBatch { skipped_first: 11, skipped_last: 40, ..batch(vec![]) };
    script.feeds[0].batches.insert(0, damage);
    let server = Server::start(script);
    let run = run(&server.name(), "audit");
    assert_eq!(run.code, 10, "{run:?}");
    assert!(run.stderr.contains("monitoring-data: offsets 11..40 cannot be read"), "{run:?}");
}

#[test]
fn who_is_not_there_ends_with_6_and_what_is_held_too_long_with_5() {
    let server = Server::start(server(entries(1..=8), 10, 2, vec![]));
    let run_found = run(&server.name(), "audit a b");
    assert_eq!(run_found.code, 6, "{run_found:?}");
    assert!(run_found.stderr.contains("nothing is stored of b"), "{run_found:?}");
    drop(server);

    let server = Server::start(self::server(entries(1..=8), 10, 2, vec![]));
    let run_waiting = run(&server.name(), "audit --wait 0");
    assert_eq!(run_waiting.code, 5, "{run_waiting:?}");
}
