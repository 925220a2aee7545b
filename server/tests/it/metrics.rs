//! Metrics: what agents send, and how it is read back.

use std::collections::HashMap;
use std::time::{SystemTime, UNIX_EPOCH};

use agent_core::codec;
use agent_core::id::Sequence;
use agent_core::metric::{Metric, Values};
use agent_core::record::{Sample, Snapshot};
use agent_core::time::Instant;
use proto::agent_message::Body;
use proto::subscribe_metrics_request::Start;
use proto::{Alert, Loss, LossReason, Position, RecordBatch, SubscribeMetricsRequest};

use crate::harness::{BOOT, Server, hello, plain, record, sequences, since_the_start, soon};

#[tokio::test]
async fn a_client_that_knows_only_the_fixed_fields_works() {
    let server = Server::start();
    let stream = server.open(None).await.unwrap();
    assert_eq!(stream.welcome, None, "nothing is offered to who did not say hello");
    let mut request = plain("edge-01", 12.5);
    request.metadata = HashMap::from([("alerts".to_owned(), "none".to_owned())]);
    stream.send(request.clone()).await;
    stream.send(plain("edge-01", 99.0)).await;

    let follow = SubscribeMetricsRequest { follow: true, ..since_the_start() };
    let entries = server.read(follow, 2).await;
    let first = entries[0].metrics.as_ref().unwrap();
    assert_eq!(first.agent_id, "edge-01");
    assert_eq!(first.boot, None);
    assert_eq!(first.metadata, request.metadata);
    let values = first.record.as_ref().unwrap();
    assert_eq!(values.timestamp_ms, 1_700_000_000_000);
    assert_eq!(values.present, 0xff);
    assert_eq!(values.values[0], 1250);

    let info = server.until("edge-01", |info| info.connected).await;
    assert_eq!(info.dialect, "plain");
    assert_eq!(info.boot, None);
    assert_eq!(server.counter("records.stored").await, 2);
}

#[tokio::test]
async fn plain_metrics_without_a_time_are_stamped() {
    let server = Server::start();
    let stream = server.open(None).await.unwrap();
    let mut request = plain("edge-01", 1.0);
    request.timestamp = 0;
    stream.send(request).await;
    let follow = SubscribeMetricsRequest { follow: true, ..since_the_start() };
    let entries = server.read(follow, 1).await;
    let stamp = entries[0].metrics.as_ref().unwrap().record.as_ref().unwrap().timestamp_ms;
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis();
    let age = i128::try_from(now).unwrap() - i128::from(stamp);
    assert!((0..60_000).contains(&age), "{age} ms");
}

#[tokio::test]
async fn batches_are_unpacked_and_acknowledged_cumulatively() {
    let server = Server::start();
    let mut agent = server.agent("edge-01").await;
    let welcome = agent.welcome.clone().unwrap();
    assert_eq!(welcome.acknowledged, 0);
    assert_eq!(welcome.batch_records_max, 64);
    assert_eq!(welcome.heartbeat_ms, 10_000);

    agent.send_records(1..=64).await;
    agent.acknowledged(64).await;
    let mut alerting = record(65);
    alerting.alerts = vec![Alert { metric: 1, limit: 2000, below: false }];
    let batch = RecordBatch { boot: Some(BOOT), records: vec![alerting], ..RecordBatch::default() };
    agent.say(Body::Records(batch)).await;
    agent.acknowledged(65).await;

    let entries = server.history().await;
    assert_eq!(sequences(&entries), Vec::from_iter(1..=65));
    let last = entries[64].metrics.as_ref().unwrap();
    assert_eq!(last.boot, Some(BOOT));
    assert_eq!(last.metadata["alerts"], "memory_percent 25.00 > 20.00");
    assert_eq!(last.metadata["alert_count"], "1");
}

#[tokio::test]
async fn packed_batches_are_stored_as_records() {
    let server = Server::start();
    let mut agent = server.agent("edge-01").await;
    assert_eq!(agent.welcome.as_ref().unwrap().packed, 1);
    let sample = |number: i64| {
        Sample::from(Snapshot {
            taken_at: Instant::from_ms(5000),
            wall_ms: 1_700_000_000_000 + 5000 * number,
            values: Values::from_iter([(Metric::CpuPercent, 1250), (Metric::Uptime, number)]),
        })
    };
    let samples: Vec<Sample> = (1..=60).map(sample).collect();
    let mut packed = vec![0; 16 * 1024];
    let length = codec::pack(Sequence::FIRST, samples.iter(), &mut packed).unwrap();
    packed.truncate(length);
    agent
        .say(Body::Records(RecordBatch { boot: Some(BOOT), packed, ..RecordBatch::default() }))
        .await;
    agent.acknowledged(60).await;
    agent.send_records([61]).await;
    agent.acknowledged(61).await;

    let entries = server.history().await;
    assert_eq!(sequences(&entries), Vec::from_iter(1..=61));
    let last = entries[59].metrics.as_ref().unwrap();
    assert_eq!(last.boot, Some(BOOT));
    let last = last.record.as_ref().unwrap();
    assert_eq!(last.present, 1 | 1 << Metric::Uptime.id());
    assert_eq!(last.values, [1250, 60]);
    assert_eq!(last.timestamp_ms, 1_700_000_300_000);
}

#[tokio::test]
async fn a_new_stream_of_the_boot_learns_what_is_durable() {
    let server = Server::start();
    let mut agent = server.agent("edge-01").await;
    agent.send_records(1..=3).await;
    agent.acknowledged(3).await;
    drop(agent);
    let again = server.open(Some(hello("edge-01", BOOT, 2))).await.unwrap();
    assert_eq!(again.welcome.unwrap().acknowledged, 3);
}

#[tokio::test]
async fn losses_are_announced_and_acknowledged() {
    let server = Server::start();
    let mut agent = server.agent("edge-01").await;
    let batch = RecordBatch {
        boot: Some(BOOT),
        records: vec![record(1), record(5)],
        losses: vec![Loss {
            first: 2,
            last: 4,
            reason: LossReason::Overwritten.into(),
            never_sent: 3,
            unacknowledged: 0,
        }],
        ..RecordBatch::default()
    };
    agent.say(Body::Records(batch)).await;
    agent.acknowledged(5).await;
    assert_eq!(server.counter("records.lost").await, 3);
    assert_eq!(sequences(&server.history().await), [1, 5]);
}

#[tokio::test]
async fn a_gap_that_nobody_declared_is_stored_counted_and_reported_once() {
    let server = Server::start();
    let mut agent = server.agent("edge-01").await;
    agent.send_records([1_000_000_000]).await;
    agent.acknowledged(1_000_000_000).await;
    assert_eq!(server.counter("records.unexplained").await, 999_999_999);
    assert_eq!(server.counter("records.lost").await, 999_999_999);
    assert_eq!(server.counter("records.stored").await, 1);

    let mut again = server.open(Some(hello("edge-01", BOOT, 2))).await.unwrap();
    again.send_records([1_000_000_001]).await;
    again.acknowledged(1_000_000_001).await;
    assert_eq!(server.counter("records.unexplained").await, 999_999_999);
}

#[tokio::test]
async fn a_boot_goes_on_where_it_was_after_a_restart_of_the_server() {
    let server = Server::start();
    let mut agent = server.agent("edge-01").await;
    agent.send_records(1..=10).await;
    agent.acknowledged(10).await;
    let mut server = Server::start_in(server.kill());
    let mut agent = server.open(Some(hello("edge-01", BOOT, 2))).await.unwrap();
    // A server that is too busy to look it up in time has the agent send again what is stored.
    while agent.welcome.as_ref().unwrap().acknowledged == 0 {
        drop(agent);
        server = Server::start_in(server.kill());
        agent = server.open(Some(hello("edge-01", BOOT, 2))).await.unwrap();
    }
    assert_eq!(agent.welcome.as_ref().unwrap().acknowledged, 10);
    agent.send_records([11]).await;
    agent.acknowledged(11).await;
    assert_eq!(server.counter("records.unexplained").await, 0);
    drop(agent);

    let server = Server::start_in(server.kill());
    let mut agent = server.open(Some(hello("edge-01", BOOT, 3))).await.unwrap();
    agent.send_records([14]).await;
    agent.acknowledged(14).await;
    assert_eq!(server.counter("records.unexplained").await, 2);
}

#[tokio::test]
async fn acknowledged_records_survive_a_kill() {
    let server = Server::start();
    let mut agent = server.agent("edge-01").await;
    agent.send_records(1..=10).await;
    agent.acknowledged(10).await;
    let server = Server::start_in(server.kill());
    assert_eq!(sequences(&server.history().await), Vec::from_iter(1..=10));
    let known = server.until("edge-01", |info| !info.connected).await;
    assert_eq!(known.dialect, "full");
    assert_eq!(known.version, "0.1.0");
    assert_eq!(known.host_name, "test-host");
}

#[tokio::test]
async fn subscriptions_begin_and_end_where_they_are_asked_to() {
    let server = Server::start();
    let mut first = server.agent("a").await;
    first.send_records(1..=5).await;
    first.acknowledged(5).await;
    let mut second = server.agent("b").await;
    second.send_records(1..=2).await;
    second.acknowledged(2).await;

    let all = server.history().await;
    assert_eq!(sequences(&all), [1, 2, 3, 4, 5, 1, 2]);
    let at =
        |next_offset| proto::Cursor { positions: vec![Position { partition: 0, next_offset }] };
    let read = async |change: fn(&mut SubscribeMetricsRequest, proto::Cursor)| {
        let mut request = since_the_start();
        change(&mut request, at(all[2].offset));
        sequences(&server.read(request, usize::MAX).await)
    };
    assert_eq!(read(|r, third| r.start = Some(Start::Cursor(third))).await, [3, 4, 5, 1, 2]);
    assert_eq!(read(|r, _| r.start = Some(Start::Last(3))).await, [5, 1, 2]);
    assert_eq!(read(|r, _| r.start = Some(Start::SinceMs(1))).await, [1, 2, 3, 4, 5, 1, 2]);
    assert_eq!(read(|r, _| r.start = Some(Start::SinceMs(i64::MAX))).await, [0; 0]);
    assert_eq!(read(|r, _| r.start = None).await, [0; 0]);
    assert_eq!(read(|r, _| r.limit = 2).await, [1, 2]);
    assert_eq!(read(|r, _| r.until_ms = 1).await, [0; 0]);
    assert_eq!(read(|r, _| r.agents = vec!["b".into()]).await, [1, 2]);
    assert_eq!(read(|r, _| r.agents = vec!["never".into()]).await, [0; 0]);
    assert_eq!(
        read(|r, _| {
            r.agents = vec!["a".into()];
            r.start = Some(Start::Last(2));
        })
        .await,
        [4, 5]
    );
}

#[tokio::test]
async fn a_follower_sees_the_end_of_history_and_then_what_comes() {
    let server = Server::start();
    let mut agent = server.agent("a").await;
    agent.send_records(1..=2).await;
    agent.acknowledged(2).await;
    let mut stream =
        server.subscribe(SubscribeMetricsRequest { follow: true, ..since_the_start() }).await;
    let mut seen = Vec::new();
    loop {
        let batch = soon("history", stream.message()).await.unwrap().unwrap();
        seen.extend(sequences(&batch.entries));
        if batch.caught_up {
            break;
        }
    }
    assert_eq!(seen, [1, 2]);
    agent.send_records(3..=3).await;
    let batch = soon("live", stream.message()).await.unwrap().unwrap();
    assert_eq!(sequences(&batch.entries), [3]);

    let mut live = server
        .subscribe(SubscribeMetricsRequest {
            follow: true,
            limit: 1,
            ..SubscribeMetricsRequest::default()
        })
        .await;
    agent.send_records(4..=4).await;
    let mut seen = Vec::new();
    while let Some(batch) = soon("live", live.message()).await.unwrap() {
        seen.extend(sequences(&batch.entries));
    }
    assert_eq!(seen, [4], "ends at its limit");
}
