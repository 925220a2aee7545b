//! Streams: who holds an id, and how a stream ends.

use std::time::Duration;

use proto::agent_message::Body;
use proto::{AgentStatus, Boot, Ledger, RunState, server_message};
use tonic::Code;

use crate::harness::{BOOT, Server, hello, plain, soon};

const OTHER_BOOT: Boot = Boot { counter: 0, nonce: 1 };

#[tokio::test]
async fn what_an_agent_says_of_itself_is_listed() {
    let server = Server::start();
    let agent = server.agent("edge-01").await;
    let status = AgentStatus {
        state: RunState::Stopped.into(),
        ledger: Some(Ledger { produced: 7, ..Ledger::default() }),
        ..AgentStatus::default()
    };
    agent.say(Body::Status(status.clone())).await;
    let info = server.until("edge-01", |info| info.status.is_some()).await;
    assert!(info.connected);
    assert_eq!(info.dialect, "full");
    assert_eq!(info.boot, Some(BOOT));
    assert_eq!(info.version, "0.1.0");
    assert_eq!(info.target, "x86_64-linux");
    assert!(info.peer.starts_with("127.0.0.1:"), "{}", info.peer);
    assert!(0 < info.connected_since_ms && info.connected_since_ms <= info.last_seen_ms);
    assert_eq!(info.status, Some(status));
    drop(agent);
    server.until("edge-01", |info| !info.connected && info.connected_since_ms == 0).await;
}

#[tokio::test]
async fn a_newer_stream_of_one_boot_takes_over() {
    let server = Server::start();
    let mut old = server.agent("edge-01").await;
    server.until("edge-01", |info| info.connected).await;
    let mut new = server.open(Some(hello("edge-01", BOOT, 2))).await.unwrap();
    assert_eq!(old.ended().await.code(), Code::Aborted);
    new.send_records([1]).await;
    new.acknowledged(1).await;
    let mut stale = server.open(Some(hello("edge-01", BOOT, 1))).await.unwrap();
    assert_eq!(stale.ended().await.code(), Code::AlreadyExists);
    new.send_records([2]).await;
    new.acknowledged(2).await;
    assert!(server.until("edge-01", |_| true).await.connected);
}

#[tokio::test]
async fn of_two_live_agents_with_one_id_the_first_stays() {
    let server = Server::start();
    let mut first = server.agent("edge-01").await;
    server.until("edge-01", |info| info.connected).await;
    let answering = tokio::spawn(async move {
        let asked = first.hear().await;
        assert!(matches!(asked, server_message::Body::Ping(_)), "{asked:?}");
        first.say(Body::Status(AgentStatus::default())).await;
        first
    });
    let mut second = server.open(Some(hello("edge-01", OTHER_BOOT, 1))).await.unwrap();
    let refused = second.ended().await;
    assert_eq!(refused.code(), Code::AlreadyExists);
    assert!(refused.message().contains("edge-01"), "{refused}");
    assert!(refused.message().contains("127.0.0.1:"), "{refused}");
    assert_eq!(server.counter("rejected.duplicate_id").await, 1);

    let mut first = soon("the first agent", answering).await.unwrap();
    first.send_records([1]).await;
    first.acknowledged(1).await;
}

#[tokio::test]
async fn an_agent_that_does_not_answer_loses_its_id() {
    let server = Server::start();
    let mut dead = server.agent("edge-01").await;
    server.until("edge-01", |info| info.connected).await;
    let mut alive = server.open(Some(hello("edge-01", OTHER_BOOT, 1))).await.unwrap();
    let taken = server.until("edge-01", |info| info.boot == Some(OTHER_BOOT)).await;
    assert!(taken.connected);
    assert_eq!(dead.ended().await.code(), Code::Aborted);
    assert!(tokio::time::timeout(Duration::from_millis(100), alive.next()).await.is_err());
}

#[tokio::test]
async fn the_newest_of_two_plain_clients_stays() {
    let server = Server::start();
    let mut old = server.open(None).await.unwrap();
    old.send(plain("edge-01", 1.0)).await;
    server.until("edge-01", |info| info.connected).await;
    let new = server.open(None).await.unwrap();
    new.send(plain("edge-01", 2.0)).await;
    assert_eq!(old.ended().await.code(), Code::Aborted);
    assert!(server.until("edge-01", |_| true).await.connected);
}

#[tokio::test]
async fn plain_clients_that_keep_replacing_each_other_are_counted() {
    let server = Server::start();
    let mut streams = Vec::new();
    for _ in 0..6 {
        let stream = server.open(None).await.unwrap();
        stream.send(plain("edge-01", 1.0)).await;
        let stored = u64::try_from(streams.len() + 1).unwrap();
        while server.counter("records.stored").await < stored {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        streams.push(stream);
    }
    assert_eq!(server.counter("sessions.superseded").await, 5);
    assert_eq!(server.counter("sessions.plain_replaced").await, 2);
}

#[tokio::test]
async fn a_client_that_is_done_is_answered_to_the_end() {
    let server = Server::start();
    let mut agent = server.agent("edge-01").await;
    agent.send_records(1..=3).await;
    agent.finish();
    agent.acknowledged(3).await;
    assert_eq!(agent.ended().await.code(), Code::Ok);
}

#[tokio::test]
async fn shutdown_ends_streams_with_a_reason_and_loses_nothing() {
    let mut server = Server::start();
    let mut agent = server.agent("edge-01").await;
    agent.send_records(1..=3).await;
    agent.acknowledged(3).await;
    let mut follower = server
        .subscribe(proto::SubscribeMetricsRequest {
            follow: true,
            ..proto::SubscribeMetricsRequest::default()
        })
        .await;
    // The end of history: from here on it waits.
    assert!(soon("history", follower.message()).await.unwrap().unwrap().caught_up);
    server.send_sigterm();
    let ended = agent.ended().await;
    assert_eq!(ended.code(), Code::Unavailable);
    assert_eq!(ended.message(), "server is shutting down");
    let ended = soon("the subscription", follower.message()).await.unwrap_err();
    assert_eq!(ended.code(), Code::Unavailable);
    assert!(server.wait().await.success());
    let server = Server::start_in(server.kill());
    assert_eq!(server.history().await.len(), 3);
}
