//! A server that knows only the fixed facts of the wire.

use std::io::Read as _;
use std::net::TcpListener;
use std::process::Stdio;
use std::time::Duration;

use proto::Command;
use proto::command::CommandType;

use crate::process::{Agent, command, send_signal, wait};
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

/// The last line of the log of an agent with `arguments` that was asked to end after `time`.
fn last_words(arguments: &[&str], time: Duration) -> String {
    let mut child = command(arguments).stderr(Stdio::piped()).spawn().unwrap();
    std::thread::sleep(time);
    send_signal(child.id(), rustix::process::Signal::TERM);
    let mut said = String::new();
    child.stderr.take().unwrap().read_to_string(&mut said).unwrap();
    assert_eq!(wait(&mut child), Some(0), "{said}");
    said.lines().rfind(|line| line.contains(" stopped ")).unwrap().to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_hears_an_agent_out_has_all_that_it_was_sent() {
    let mut server = ScriptedServer::start(Headers::WithFirstCommand).await;
    let address = server.address();
    let agent = tokio::task::spawn_blocking(move || {
        let arguments = ["--agent-id", "plain-2", "--server", &address, "--interval", "0.2"];
        last_words(&arguments, Duration::from_secs(3))
    });
    let mut stream = server.stream().await;
    stream.send(Command { r#type: CommandType::Start.into(), ..Command::default() }).await;
    let mut records = 0;
    while let Some(message) = stream.message().await {
        records += usize::from(message.metrics.is_some());
    }
    // Only now does the server end its half, in good order.
    drop(stream);
    let last = agent.await.unwrap();
    assert!(last.contains(&format!(" delivered={records} spooled=0 lost=0")), "{records}: {last}");
}

#[test]
fn what_nobody_answered_to_is_not_delivered() {
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = silent.local_addr().unwrap().to_string();
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().to_str().unwrap();
    let arguments = ["--agent-id", "plain-3", "--server", &address, "--interval", "0.2"];
    let last = last_words(&arguments, Duration::from_secs(3));
    assert!(last.contains(" delivered=0 spooled=0 ") && !last.contains(" lost=0"), "{last}");
    let spool = [&arguments[..], &["--state-dir", path, "--spool-max-bytes", "1M"]].concat();
    let last = last_words(&spool, Duration::from_secs(3));
    assert!(last.contains(" delivered=0 ") && !last.contains(" spooled=0"), "{last}");
    assert!(last.contains(" lost=0"), "{last}");
}
