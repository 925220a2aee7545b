//! A server that knows only the fixed facts of the wire.

use std::time::Duration;

use proto::Command;
use proto::command::CommandType;

use crate::process::Agent;
use crate::scripted::{Headers, ScriptedServer, message_where};

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_never_answers_gets_plain_snapshots_and_can_still_command() {
    let mut server = ScriptedServer::start(Headers::WithFirstCommand).await;
    let arguments = ["--agent-id", "plain-1", "--server", &server.address(), "--interval", "0.2"];
    let mut agent = Agent::start(&arguments);
    let mut stream = server.stream().await;
    for sequence in 1..=3 {
        let message = stream.message().await.unwrap();
        assert_eq!((message.agent_id.as_str(), message.sequence), ("plain-1", sequence));
        assert!(message.message.is_none(), "a plain server gets no envelope");
        let metrics = message.metrics.unwrap();
        assert!(metrics.memory_total_mb > 1.0);
        assert!((0.0..=100.0).contains(&metrics.cpu_percent));
        assert_eq!(message.timestamp, message.timestamp_ms / 1000);
    }

    // The command brings the response headers with it, and has no name and no time to live.
    let stop = Command { r#type: CommandType::Stop.into(), ..Command::default() };
    stream.send(Command { agent_id: "plain-1".to_owned(), ..stop }).await;
    let silent = async {
        loop {
            let next = tokio::time::timeout(Duration::from_secs(2), stream.message());
            if next.await.is_err() {
                return;
            }
        }
    };
    tokio::time::timeout(Duration::from_secs(20), silent).await.expect("STOP stops the snapshots");
    let start = Command { r#type: CommandType::Start.into(), ..Command::default() };
    stream.send(start).await;
    message_where(&mut stream, |message| message.metrics.is_some()).await;

    agent.terminate();
    while stream.message().await.is_some() {}
    drop(stream);
    assert_eq!(agent.wait(), Some(0));
}
