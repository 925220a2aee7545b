//! Flow control: what agents may send, what is in memory at once, and that a reader holds up nobody.

use proto::SubscribeMetricsRequest;
use tokio::task::JoinSet;

use crate::harness::{BOOT, Server, hello, sequences, since_the_start, soon};

const MIB: u64 = 1 << 20;

#[tokio::test]
async fn an_agent_is_told_its_share() {
    let server = Server::start();
    let agent = server.agent("edge-01").await;
    let welcome = agent.welcome.unwrap();
    assert_eq!(welcome.credit_bytes, 256 * 1024);
    assert_eq!(welcome.message_bytes_max, 128 * 1024);
}

#[tokio::test]
async fn no_more_is_in_memory_than_is_allowed_and_all_of_it_arrives() {
    const AGENTS: u64 = 12;
    const BATCHES: u64 = 10;
    let data = tempfile::TempDir::new().unwrap();
    let server = Server::start_with(data, &["--in-flight-bytes", "1M"]);
    let mut agents = JoinSet::new();
    for index in 0..AGENTS {
        let mut agent = server.open(Some(hello(&format!("edge-{index}"), BOOT, 1))).await.unwrap();
        let welcome = agent.welcome.clone().unwrap();
        assert!(4096 <= welcome.credit_bytes && welcome.credit_bytes <= 256 * 1024);
        agents.spawn(async move {
            for batch in 0..BATCHES {
                agent.send_records(64 * batch + 1..=64 * (batch + 1)).await;
            }
            agent.acknowledged(64 * BATCHES).await;
        });
    }
    soon("the acknowledgements", agents.join_all()).await;
    assert_eq!(server.counter("records.stored").await, AGENTS * BATCHES * 64);
    let peak = server.counter("in_flight.bytes.peak").await;
    assert!(0 < peak && peak <= MIB, "{peak}");
    assert_eq!(server.counter("in_flight.bytes").await, 0);
    assert_eq!(server.counter("in_flight.bytes.limit").await, MIB);
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn a_reader_that_stops_holds_up_nobody_and_costs_little() {
    const BATCHES: u64 = 150;
    let server = Server::start();
    let mut agent = server.agent("edge-01").await;
    let mut send = async |batches: std::ops::Range<u64>| {
        for batch in batches {
            agent.send_records(64 * batch + 1..=64 * (batch + 1)).await;
            agent.acknowledged(64 * (batch + 1)).await;
        }
    };
    send(0..20).await;
    let before = server.resident_bytes();
    let follow = SubscribeMetricsRequest { follow: true, ..since_the_start() };
    let mut stopped = Vec::new();
    for _ in 0..8 {
        stopped.push(server.subscribe(follow.clone()).await);
    }
    assert_eq!(server.counter("readers").await, 8);
    soon("the acknowledgements", send(20..BATCHES)).await;
    let grown = server.resident_bytes().saturating_sub(before);
    // Storing takes some by itself. Readers that were waited for with what they miss would take ten times as much.
    assert!(grown < 64 * MIB, "{grown}");
    // One that goes on has missed nothing.
    let mut reader = stopped.remove(0);
    let mut read = Vec::new();
    while u64::try_from(read.len()).unwrap() < BATCHES * 64 {
        let batch = soon("a batch", reader.message()).await.unwrap().unwrap();
        read.extend(sequences(&batch.entries));
    }
    assert!(read.into_iter().eq(1..=BATCHES * 64));
}
