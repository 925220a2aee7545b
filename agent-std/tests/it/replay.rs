//! What an agent keeps on its disk while no server takes it, and what it says of boots before it.

use std::path::Path;

use proto::agent_message::Body;
use proto::server_message::Body as ServerBody;
use proto::{Ack, AlertBatch, Boot, Loss, LossReason, RecordBatch, Welcome};

use crate::full_server::{body, send};
use crate::process::Agent;
use crate::scripted::{Headers, ScriptedServer, Stream, message_where, welcome};

fn replaying() -> Headers {
    Headers::Welcome(Welcome { replay: true, ..welcome() })
}

fn agent(server: &str, state: &Path, more: &[&str]) -> Agent {
    let state = state.to_str().unwrap();
    let mut arguments =
        vec!["--agent-id", "full-1", "--server", server, "--state-dir", state, "--interval", "0.1"];
    arguments.extend(more);
    Agent::start(&arguments)
}

/// What the stream brings of an earlier time.
#[derive(Debug)]
enum Replayed {
    Records(RecordBatch),
    Alerts(AlertBatch),
}

impl Replayed {
    fn number(&self) -> u64 {
        match self {
            Self::Records(batch) => batch.replay,
            Self::Alerts(batch) => batch.replay,
        }
    }

    fn boot(&self) -> Option<Boot> {
        match self {
            Self::Records(batch) => batch.boot,
            Self::Alerts(batch) => batch.boot,
        }
    }

    fn losses(&self) -> &[Loss] {
        match self {
            Self::Records(batch) => &batch.losses,
            Self::Alerts(batch) => &batch.losses,
        }
    }
}

/// The next batch of an earlier time, acknowledged.
async fn replayed(stream: &mut Stream) -> Replayed {
    let is_replayed = |message: &_| match body(message) {
        Some(Body::Records(batch)) => batch.replay > 0,
        Some(Body::Alerts(batch)) => batch.replay > 0,
        _ => false,
    };
    let message = message_where(stream, is_replayed).await;
    let replayed = match message.message.unwrap().body.unwrap() {
        Body::Records(batch) => Replayed::Records(batch),
        Body::Alerts(batch) => Replayed::Alerts(batch),
        other => panic!("{other:?}"),
    };
    let boot = stream.hello.clone().unwrap().boot;
    let ack = Ack { boot, replayed: replayed.number(), ..Ack::default() };
    send(stream, ServerBody::Ack(ack)).await;
    replayed
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_held_when_the_agent_ends_comes_with_its_next_boot() {
    let state = tempfile::tempdir().unwrap();
    let mut server = ScriptedServer::start(replaying()).await;
    let address = server.address();
    let with_spool = ["--spool-max-bytes", "1M"];
    let mut first = agent(&address, state.path(), &with_spool);
    let mut stream = server.stream().await;
    let boot = stream.hello.clone().unwrap().boot.unwrap();
    // Nothing is acknowledged.
    let mut last = 0;
    while last < 5 {
        let message =
            message_where(&mut stream, |m| matches!(body(m), Some(Body::Records(_)))).await;
        let Some(Body::Records(batch)) = body(&message) else { panic!("records") };
        last = batch.records.last().map_or(last, |record| record.sequence);
    }
    first.terminate();
    assert_eq!(first.wait(), Some(0));

    let _second = agent(&address, state.path(), &with_spool);
    let mut stream = server.stream().await;
    let mut next = 1;
    while next <= last {
        // A busy host has alerts as well, which go first.
        let Replayed::Records(batch) = replayed(&mut stream).await else { continue };
        assert_eq!((batch.boot, batch.losses.len()), (Some(boot), 0));
        for record in batch.records {
            assert_eq!(record.sequence, next);
            next += 1;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_killed_boot_may_have_lost_is_declared_by_the_next() {
    let state = tempfile::tempdir().unwrap();
    let mut server = ScriptedServer::start(replaying()).await;
    let address = server.address();
    let first = agent(&address, state.path(), &[]);
    let stream = server.stream().await;
    let boot = stream.hello.clone().unwrap().boot;
    first.kill();

    let second = agent(&address, state.path(), &[]);
    let mut stream = server.stream().await;
    let mut lanes = Vec::new();
    for _ in 0..2 {
        let replayed = replayed(&mut stream).await;
        assert_eq!(replayed.boot(), boot);
        let [loss] = replayed.losses() else { panic!("{replayed:?}") };
        assert_eq!((loss.first, loss.reason()), (1, LossReason::Crash));
        assert!(4096 <= loss.last, "{loss:?}");
        lanes.push(matches!(replayed, Replayed::Alerts(_)));
    }
    lanes.sort_unstable();
    assert_eq!(lanes, [false, true]);
    second.terminate_at_once();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_spool_needs_a_state_directory() {
    let (code, text) = crate::process::run(&["--spool-max-bytes", "1M"]);
    assert_eq!(code, Some(2));
    assert!(text.contains("--state-dir"), "{text}");
}
