//! Alerts, and what else is read back from agent-status.

use proto::agent_message::Body;
use proto::subscribe_status_request::Start;
use proto::{
    AlertBatch, AlertRecord, AlertSeverity, AlertTransition, Loss, LossReason, StatusBatch,
    StatusEvent, StatusRecord, StoredStatus, SubscribeStatusRequest, server_message,
};
use tonic::{Code, Streaming};

use crate::harness::{BOOT, Server, Stream, hello, soon};

fn alert(sequence: u64) -> AlertRecord {
    AlertRecord {
        sequence,
        timestamp_ms: 1_700_000_000_000,
        metric: 0,
        transition: AlertTransition::Raised.into(),
        severity: AlertSeverity::Critical.into(),
        below: false,
        limit: 8000,
        value: 9100,
        lasted_ms: 5000,
        uptime_ms: 60_000,
    }
}

async fn send(agent: &Stream, sequences: impl IntoIterator<Item = u64>, losses: Vec<Loss>) {
    let alerts = sequences.into_iter().map(alert).collect();
    agent
        .say(Body::Alerts(AlertBatch { boot: Some(BOOT), alerts, losses, ..AlertBatch::default() }))
        .await;
}

/// Reads until the alerts up to `sequence` are acknowledged.
async fn acknowledged(agent: &mut Stream, sequence: u64) {
    loop {
        if let server_message::Body::Ack(ack) = agent.hear().await {
            assert_eq!(ack.boot, Some(BOOT));
            assert!(ack.alert_sequence <= sequence, "{} was not sent", ack.alert_sequence);
            if ack.alert_sequence == sequence {
                return;
            }
        }
    }
}

async fn subscribe(server: &Server, request: SubscribeStatusRequest) -> Streaming<StatusBatch> {
    let mut operator = server.operator().await;
    soon("subscribing", operator.subscribe_status(request)).await.unwrap().into_inner()
}

/// Everything up to the end of history.
async fn history(stream: &mut Streaming<StatusBatch>) -> Vec<StoredStatus> {
    let mut entries = Vec::new();
    loop {
        let batch = soon("history", stream.message()).await.unwrap().unwrap();
        entries.extend(batch.entries);
        if batch.caught_up {
            return entries;
        }
    }
}

async fn read(server: &Server, request: SubscribeStatusRequest) -> Vec<StatusRecord> {
    let mut stream = subscribe(server, request).await;
    let entries = history(&mut stream).await;
    assert!(soon("the end", stream.message()).await.unwrap().is_none(), "does not follow");
    entries.into_iter().map(|entry| entry.status.unwrap()).collect()
}

fn all() -> SubscribeStatusRequest {
    SubscribeStatusRequest {
        start: Some(Start::Cursor(proto::Cursor::default())),
        ..SubscribeStatusRequest::default()
    }
}

fn of(events: &[StatusEvent]) -> SubscribeStatusRequest {
    let events = events.iter().map(|event| (*event).into()).collect();
    SubscribeStatusRequest { events, ..all() }
}

/// The sequences of the alerts that are on the bus.
async fn stored(server: &Server) -> Vec<u64> {
    let records = read(server, of(&[StatusEvent::Alert])).await;
    records.iter().flat_map(|record| &record.alerts).map(|alert| alert.sequence).collect()
}

#[tokio::test]
async fn alerts_are_stored_as_they_are_and_acknowledged() {
    let server = Server::start();
    let mut agent = server.agent("edge-01").await;
    let loss = Loss {
        first: 1,
        last: 2,
        reason: LossReason::Overwritten.into(),
        never_sent: 2,
        unacknowledged: 0,
    };
    send(&agent, [3, 4], vec![loss]).await;
    acknowledged(&mut agent, 4).await;
    // It says nothing of the records, which have their own numbers.
    agent.send_records([1]).await;
    agent.acknowledged(1).await;

    let records = read(&server, of(&[StatusEvent::Alert, StatusEvent::AlertLoss])).await;
    let [alerts, losses] = records.as_slice() else {
        panic!("{records:?} are not two");
    };
    assert_eq!(alerts.agent_id, "edge-01");
    assert_eq!(alerts.boot, Some(BOOT));
    assert_eq!(alerts.alerts, [alert(3), alert(4)]);
    assert_eq!(losses.event(), StatusEvent::AlertLoss);
    assert_eq!(losses.losses, [loss]);
    assert_eq!(server.counter("alerts.stored").await, 2);
    assert_eq!(server.counter("alerts.lost").await, 2);
    assert_eq!(server.counter("records.lost").await, 0);
}

#[tokio::test]
async fn alerts_that_come_again_are_stored_once() {
    let server = Server::start();
    let mut agent = server.agent("edge-01").await;
    send(&agent, [1, 2], Vec::new()).await;
    acknowledged(&mut agent, 2).await;
    drop(agent);
    let mut agent = server.open(Some(hello("edge-01", BOOT, 2))).await.unwrap();
    send(&agent, [1, 2, 3], Vec::new()).await;
    acknowledged(&mut agent, 3).await;
    assert_eq!(stored(&server).await, [1, 2, 3]);
    assert_eq!(server.counter("alerts.stored").await, 3);
}

#[tokio::test]
async fn acknowledged_alerts_survive_a_kill() {
    let server = Server::start();
    let mut agent = server.agent("edge-01").await;
    send(&agent, [1, 2], Vec::new()).await;
    acknowledged(&mut agent, 2).await;
    let server = Server::start_in(server.kill());
    assert_eq!(stored(&server).await, [1, 2]);
    assert_eq!(server.agents().await.len(), 1);
}

#[tokio::test]
async fn bad_alerts_end_their_stream_only() {
    let server = Server::start();
    let mut bystander = server.agent("bystander").await;
    let mut session = 0;
    let mut check = async |sequences: &[u64], counter: &str, code| {
        session += 1;
        let mut agent = server.open(Some(hello("edge-01", BOOT, session))).await.unwrap();
        let before = server.counter(counter).await;
        send(&agent, sequences.iter().copied(), Vec::new()).await;
        let refused = agent.ended().await;
        assert_eq!(refused.code(), code, "{refused}");
        assert_eq!(server.counter(counter).await, before + 1, "{refused}");
    };
    check(&[], "rejected.sequence", Code::InvalidArgument).await;
    check(&[0], "rejected.sequence", Code::InvalidArgument).await;
    check(&[2, 1], "rejected.sequence", Code::InvalidArgument).await;
    check(&Vec::from_iter(1..=33), "rejected.oversized", Code::OutOfRange).await;
    assert_eq!(stored(&server).await, [0; 0]);
    send(&bystander, [1], Vec::new()).await;
    acknowledged(&mut bystander, 1).await;
}

#[tokio::test]
async fn what_happened_to_agents_is_read_by_agent_event_and_place() {
    let server = Server::start();
    let mut first = server.agent("a").await;
    send(&first, [1], Vec::new()).await;
    acknowledged(&mut first, 1).await;
    let mut second = server.agent("b").await;
    send(&second, [1], Vec::new()).await;
    acknowledged(&mut second, 1).await;

    let names = |records: Vec<StatusRecord>| {
        let name = |record: StatusRecord| (record.agent_id.clone(), record.event());
        records.into_iter().map(name).collect::<Vec<_>>()
    };
    let event = |agent: &str, event| (agent.to_owned(), event);
    let connected = |agent| event(agent, StatusEvent::Connected);
    let alert = |agent| event(agent, StatusEvent::Alert);
    let everything = [connected("a"), alert("a"), connected("b"), alert("b")];
    assert_eq!(names(read(&server, all()).await), everything);
    let check = async |change: fn(&mut SubscribeStatusRequest), expected: &[_]| {
        let mut request = all();
        change(&mut request);
        assert_eq!(names(read(&server, request).await), expected);
    };
    check(|r| r.agents = vec!["b".into()], &everything[2..]).await;
    check(|r| r.agents = vec!["never".into()], &[]).await;
    check(|r| r.start = Some(Start::Last(1)), &everything[3..]).await;
    check(|r| r.start = Some(Start::SinceMs(1)), &everything).await;
    check(|r| r.start = Some(Start::SinceMs(i64::MAX)), &[]).await;
    check(|r| r.start = None, &[]).await;
    check(|r| r.events = vec![StatusEvent::Alert.into()], &[alert("a"), alert("b")]).await;
    let of_last = |r: &mut SubscribeStatusRequest| {
        r.start = Some(Start::Last(2));
        r.events = vec![StatusEvent::Alert.into()];
    };
    check(of_last, &[alert("b")]).await;

    let mut operator = server.operator().await;
    let bad = SubscribeStatusRequest { agents: vec!["../x".into()], ..all() };
    let refused = soon("the answer", operator.subscribe_status(bad)).await.unwrap_err();
    assert_eq!(refused.code(), Code::InvalidArgument);
}

#[tokio::test]
async fn a_follower_sees_alerts_as_they_come() {
    let server = Server::start();
    let mut agent = server.agent("a").await;
    let request = SubscribeStatusRequest { follow: true, ..of(&[StatusEvent::Alert]) };
    let mut stream = subscribe(&server, request).await;
    assert!(history(&mut stream).await.is_empty());
    send(&agent, [1], Vec::new()).await;
    acknowledged(&mut agent, 1).await;
    let batch = soon("live", stream.message()).await.unwrap().unwrap();
    assert_eq!(batch.entries[0].status.as_ref().unwrap().alerts, [alert(1)]);
}
