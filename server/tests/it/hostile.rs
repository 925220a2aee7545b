//! Peers that mean no good: each is refused or cut off, is counted, and is nothing to others.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use proto::agent_message::Body;
use proto::operator_service_client::OperatorServiceClient;
use proto::{
    AgentMessage, GetServerStatusRequest, MetricsRequest, Record, RecordBatch, ServerStatus,
};
use tonic::transport::Endpoint;

use crate::harness::{BOOT, Server, hello, soon};
use crate::raw::{PREFACE, Peer};

/// The window that a decent client gives.
const OPEN: u32 = 65_535;

/// An agent that sends and is acknowledged until it is told to stop; then the number of its last record.
async fn healthy(server: &Server, stop: &AtomicBool) -> u64 {
    let mut agent = server.agent("healthy").await;
    let mut sequence = 0;
    while !stop.load(Ordering::Relaxed) {
        sequence += 1;
        agent.send_records([sequence]).await;
        agent.acknowledged(sequence).await;
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    sequence
}

/// Runs `hostile` beside a healthy agent, which must not notice.
async fn beside_a_healthy_agent(server: &Server, hostile: impl Future<Output = ()>) {
    let stop = AtomicBool::new(false);
    let hostile = async {
        hostile.await;
        stop.store(true, Ordering::Relaxed);
    };
    let (sent, ()) = tokio::join!(healthy(server, &stop), hostile);
    assert!(0 < sent);
    assert_eq!(server.counter("sessions.superseded").await, 0);
}

#[tokio::test]
async fn those_that_take_their_time_are_cut_off() {
    let server = Server::start();
    // Says nothing at all.
    let silent = async { Peer::connect(&server.address).await.closed_in_silence().await };
    // Says half of what comes first.
    let halting = async {
        let mut peer = Peer::connect(&server.address).await;
        peer.write(&PREFACE[..10]).await;
        peer.closed_in_silence().await;
    };
    // Speaks HTTP/2, and makes no request.
    let idle = async { Peer::greet(&server.address, OPEN).await.closed().await };
    // Begins a message, and sends a byte of it a second.
    let trickling = async {
        let mut peer = Peer::greet(&server.address, OPEN).await;
        peer.open(1, None).await;
        peer.body(1, &[0, 0, 0, 1, 0]).await;
        for _ in 0..45 {
            peer.body(1, &[0]).await;
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
        peer.stream_ended().await;
    };
    // Lets nothing be sent to it, and answers pings.
    let deaf = async {
        let mut peer = Peer::greet(&server.address, 0).await;
        peer.open(1, Some(&hello("deaf", BOOT, 1))).await;
        // Each is acknowledged by itself: it is sent after the one before is stored.
        for sequence in 1..=20 {
            let records = vec![Record { sequence, ..Record::default() }];
            let batch = RecordBatch { boot: Some(BOOT), records, ..RecordBatch::default() };
            let message = Some(AgentMessage { body: Some(Body::Records(batch)) });
            peer.message(1, &MetricsRequest { message, ..MetricsRequest::default() }).await;
        }
        peer.closed().await
    };
    beside_a_healthy_agent(&server, async {
        tokio::join!(silent, halting, idle, trickling, deaf);
    })
    .await;
    assert_eq!(server.counter("connections.silent").await, 3);
    assert_eq!(server.counter("rejected.slow").await, 1);
    assert_eq!(server.counter("connections.stuck").await, 1);
    server.until("deaf", |info| !info.connected).await;
}

#[tokio::test]
async fn messages_that_would_take_much_room_are_refused_before_they_do() {
    let server = Server::start();
    let hostile = async {
        // 4 GiB are announced.
        let mut peer = Peer::greet(&server.address, OPEN).await;
        peer.open(1, None).await;
        peer.body(1, &[0, 0xff, 0xff, 0xff, 0xff]).await;
        peer.stream_ended().await;
        // Something compressed, in a form that was never agreed on.
        let mut peer = Peer::greet(&server.address, OPEN).await;
        peer.open(1, None).await;
        peer.body(1, &[1, 0, 0, 0, 1, 0]).await;
        peer.stream_ended().await;
        // Two bytes each, and two hundred in memory.
        let mut peer = server.open(Some(hello("bomb", BOOT, 1))).await.unwrap();
        let records = vec![Record::default(); 60_000];
        peer.say(Body::Records(RecordBatch { records, ..RecordBatch::default() })).await;
        assert_eq!(peer.ended().await.code(), tonic::Code::OutOfRange);
    };
    beside_a_healthy_agent(&server, hostile).await;
    assert_eq!(server.counter("rejected.oversized").await, 2);
    assert_eq!(server.counter("rejected.malformed").await, 1);
    let peak = server.counter("in_flight.bytes.peak").await;
    assert!(0 < peak && peak < 256 * 1024, "{peak}");
}

#[tokio::test]
async fn floods_of_streams_end_their_connection() {
    const STREAMS: u32 = 10_000;
    let server = Server::start();
    let resetting = async {
        let mut peer = Peer::greet(&server.address, OPEN).await;
        for stream in 0..STREAMS {
            peer.open_and_reset(2 * stream + 1).await;
        }
        peer.closed().await;
    };
    let opening = async {
        let mut peer = Peer::greet(&server.address, OPEN).await;
        for stream in 0..STREAMS {
            peer.open(2 * stream + 1, None).await;
        }
        peer.closed().await;
    };
    beside_a_healthy_agent(&server, async {
        tokio::join!(resetting, opening);
    })
    .await;
    let ended =
        server.counter("connections.misused").await + server.counter("connections.broken").await;
    assert_eq!(ended, 2);
    // Every stream is over, but for what this test asks itself.
    let gone = async {
        while server.counter("streams").await > 0 {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    soon("the end of the streams", gone).await;
}

#[tokio::test]
async fn connections_beyond_the_limit_are_closed_and_others_live_on() {
    let data = tempfile::TempDir::new().unwrap();
    let server = Server::start_with(data, &["--connections-max", "3"]);
    let mut agent = server.agent("edge-01").await;
    let others =
        [Peer::greet(&server.address, OPEN).await, Peer::greet(&server.address, OPEN).await];
    let mut refused = Peer::greet(&server.address, OPEN).await;
    refused.closed().await;
    agent.send_records([1]).await;
    agent.acknowledged(1).await;
    drop(others);
    let status = status_when_there_is_room(&server).await;
    let count = |name| status.counters.iter().find(|c| c.name == name).unwrap().count;
    assert!(1 <= count("connections.refused"));
    assert_eq!(count("connections.peak"), 3);
}

/// The server has to see first that others are gone.
async fn status_when_there_is_room(server: &Server) -> ServerStatus {
    let status = async {
        loop {
            let endpoint = Endpoint::from_shared(format!("http://{}", server.address)).unwrap();
            if let Ok(channel) = endpoint.connect().await {
                let mut operator = OperatorServiceClient::new(channel);
                if let Ok(status) = operator.get_server_status(GetServerStatusRequest {}).await {
                    return status.into_inner();
                }
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    soon("room for a connection", status).await
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn without_files_for_more_connections_those_that_are_there_live_on() {
    const FILES: u32 = 128;
    let data = tempfile::TempDir::new().unwrap();
    let server = Server::start_with_files(data, FILES, &["--connections-max", "1000"]);
    let mut agent = server.agent("edge-01").await;
    let mut others = Vec::new();
    for _ in 0..FILES {
        others.push(Peer::greet(&server.address, OPEN).await);
    }
    let mut refused = Peer::greet(&server.address, OPEN).await;
    refused.closed().await;
    agent.send_records([1]).await;
    agent.acknowledged(1).await;
    drop(others);
    let status = status_when_there_is_room(&server).await;
    let refused = status.counters.iter().find(|c| c.name == "connections.refused").unwrap();
    assert!(1 <= refused.count);
}
