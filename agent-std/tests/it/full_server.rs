//! A server that speaks all of picket's wire.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use proto::agent_message::Body;
use proto::command::CommandType;
use proto::server_message::Body as ServerBody;
use proto::{
    Ack, AgentStatus, Boot, Command, CommandOutcome, CommandResponse, ConfigOutcome, ConfigPush,
    MetricsRequest, RecordBatch, ResponseAck, RunState, ServerMessage,
};

use rustix::process::Signal;

use crate::process::{Agent, send_signal};
use crate::scripted::{Headers, ScriptedServer, Stream, message_where, welcome};

pub(crate) fn body(message: &MetricsRequest) -> Option<&Body> {
    message.message.as_ref()?.body.as_ref()
}

pub(crate) async fn batch(stream: &mut Stream) -> RecordBatch {
    let message = message_where(stream, |message| matches!(body(message), Some(Body::Records(_))));
    match message.await.message.unwrap().body {
        Some(Body::Records(batch)) => batch,
        other => panic!("{other:?}"),
    }
}

pub(crate) async fn response(stream: &mut Stream) -> CommandResponse {
    let message = message_where(stream, |message| matches!(body(message), Some(Body::Response(_))));
    match message.await.message.unwrap().body {
        Some(Body::Response(response)) => response,
        other => panic!("{other:?}"),
    }
}

pub(crate) async fn send(stream: &Stream, body: ServerBody) {
    let message = Some(ServerMessage { body: Some(body) });
    stream.send(Command { message, ..Command::default() }).await;
}

async fn acknowledge(stream: &Stream, boot: Boot, sequence: u64) {
    send(stream, ServerBody::Ack(Ack { boot: Some(boot), sequence, ..Ack::default() })).await;
}

pub(crate) async fn command(stream: &Stream, id: &str, kind: CommandType, params: &[(&str, &str)]) {
    let params = params.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned()));
    stream
        .send(Command {
            command_id: id.to_owned(),
            agent_id: "full-1".to_owned(),
            r#type: kind.into(),
            params: params.collect(),
            ttl_ms: 30_000,
            ..Command::default()
        })
        .await;
}

async fn start(interval: Option<&str>) -> (ScriptedServer, Agent, Stream) {
    let mut server = ScriptedServer::start(Headers::Welcome(welcome())).await;
    let address = server.address();
    let mut arguments = vec!["--agent-id", "full-1", "--server", &address];
    if let Some(interval) = interval {
        arguments.extend(["--interval", interval]);
    }
    let agent = Agent::start(&arguments);
    let stream = server.stream().await;
    (server, agent, stream)
}

#[tokio::test(flavor = "multi_thread")]
async fn unacknowledged_records_come_again_on_the_next_stream() {
    let (mut server, _agent, mut stream) = start(Some("0.2")).await;
    let hello = stream.hello.clone().unwrap();
    assert_eq!((hello.agent_id.as_str(), hello.session), ("full-1", 1));
    let boot = hello.boot.unwrap();
    let mut last = 0;
    while last < 5 {
        let batch = batch(&mut stream).await;
        assert_eq!(batch.boot, Some(boot));
        for record in batch.records {
            assert_eq!(record.sequence, last + 1);
            last = record.sequence;
        }
    }
    acknowledge(&stream, boot, 2).await;
    // An acknowledgement of the future and one of another boot must change nothing.
    acknowledge(&stream, boot, 1_000_000).await;
    acknowledge(&stream, Boot { counter: 9, nonce: 9 }, last).await;
    // It is in force once the agent answers what was sent behind it.
    command(&stream, "after", CommandType::Status, &[]).await;
    let status = response(&mut stream).await.status.unwrap();
    assert_eq!(status.ledger.unwrap().delivered, 2);
    drop(stream);

    let mut stream = server.stream().await;
    let hello = stream.hello.clone().unwrap();
    assert_eq!((hello.boot.unwrap(), hello.session), (boot, 2));
    let first = batch(&mut stream).await.records.first().map(|record| record.sequence);
    assert_eq!(first, Some(3));
}

#[tokio::test(flavor = "multi_thread")]
async fn commands_are_answered_once_and_their_answers_resent_until_acknowledged() {
    let (mut server, _agent, mut stream) = start(Some("0.2")).await;
    command(&stream, "c1", CommandType::Stop, &[]).await;
    let answer = response(&mut stream).await;
    assert_eq!(answer.command_id, "c1");
    assert_eq!(answer.outcome(), CommandOutcome::Succeeded);
    drop(stream);

    let mut stream = server.stream().await;
    assert_eq!(response(&mut stream).await.command_id, "c1");
    send(&stream, ServerBody::ResponseAck(ResponseAck { command_id: "c1".to_owned() })).await;
    command(&stream, "c2", CommandType::Status, &[]).await;
    let answer = response(&mut stream).await;
    assert_eq!(answer.command_id, "c2");
    let status = answer.status.unwrap();
    assert_eq!(status.state(), RunState::Stopped);
    let ledger = status.ledger.unwrap();
    let lost = ledger.lost.iter().map(|lost| lost.count).sum::<u64>();
    assert_eq!(ledger.recorded, ledger.delivered + lost + ledger.held);
    // The same command again: not run, the same answer.
    command(&stream, "c1", CommandType::Stop, &[]).await;
    let answer = response(&mut stream).await;
    assert_eq!((answer.command_id.as_str(), answer.message.as_str()), ("c1", "collecting stopped"));
}

#[tokio::test(flavor = "multi_thread")]
async fn unknown_commands_and_bad_params_are_rejected() {
    let (_server, _agent, mut stream) = start(Some("5")).await;
    stream.send(Command { command_id: "odd".to_owned(), r#type: 77, ..Command::default() }).await;
    assert_eq!(response(&mut stream).await.outcome(), CommandOutcome::Rejected);
    command(&stream, "bad", CommandType::UpdateConfig, &[("interval", "-3")]).await;
    let answer = response(&mut stream).await;
    assert_eq!(answer.outcome(), CommandOutcome::Rejected);
    assert!(answer.message.starts_with("interval: "), "{}", answer.message);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pushed_configuration_is_applied_live_or_rejected_with_the_reason() {
    let (_server, _agent, mut stream) = start(None).await;
    let push = |revision, document: &str| {
        ServerBody::Config(ConfigPush { revision, document: document.to_owned() })
    };
    let document = r#"{"interval": 0.2, "metrics": ["memory"], "plugins": []}"#;
    send(&stream, push(4, document)).await;
    let mut outcomes = Vec::new();
    let live = message_where(&mut stream, |message| match body(message) {
        Some(Body::Config(report)) => {
            outcomes.push((report.revision, report.outcome()));
            false
        }
        // The first snapshot has no more than these in any case: the others are rates.
        Some(Body::Records(batch)) => {
            batch.records.iter().any(|record| record.sequence != 1 && record.present == 0b1110)
        }
        _ => false,
    });
    live.await;
    assert_eq!(outcomes, [(4, ConfigOutcome::Applied)]);

    send(&stream, push(5, r#"{"interval": 0.2, "plugins": ["spy"]}"#)).await;
    let report = message_where(&mut stream, |m| matches!(body(m), Some(Body::Config(_)))).await;
    let Some(Body::Config(report)) = report.message.unwrap().body else { unreachable!() };
    assert_eq!((report.revision, report.outcome()), (5, ConfigOutcome::Rejected));
    assert!(report.reason.starts_with("plugins[0]: unknown plugin"), "{}", report.reason);
    command(&stream, "s", CommandType::Status, &[]).await;
    let status: AgentStatus = response(&mut stream).await.status.unwrap();
    assert_eq!((status.config_revision, status.interval_ms), (4, 200));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restart_is_answered_by_the_new_boot() {
    let (mut server, _agent, mut stream) = start(Some("0.2")).await;
    let old = stream.hello.clone().unwrap().boot.unwrap();
    command(&stream, "r", CommandType::Restart, &[]).await;
    // What it holds is delivered first.
    while let Some(message) = stream.message().await {
        if let Some(Body::Records(batch)) = body(&message) {
            let last = batch.records.last().map_or(0, |record| record.sequence);
            acknowledge(&stream, old, last).await;
        }
    }
    drop(stream);
    let mut stream = server.stream().await;
    let new = stream.hello.clone().unwrap().boot.unwrap();
    assert_ne!(new, old);
    let answer = response(&mut stream).await;
    assert_eq!((answer.command_id.as_str(), answer.outcome()), ("r", CommandOutcome::Succeeded));
    assert_eq!(answer.boot, Some(new));
    assert_eq!(batch(&mut stream).await.records[0].sequence, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn signals_that_come_while_it_restarts_do_not_end_it() {
    let (mut server, agent, mut stream) = start(Some("0.2")).await;
    let process = agent.id();
    let is_over = Arc::new(AtomicBool::new(false));
    let storm = {
        let is_over = Arc::clone(&is_over);
        std::thread::spawn(move || {
            while !is_over.load(Ordering::Relaxed) {
                send_signal(process, Signal::HUP);
                std::thread::sleep(Duration::from_millis(1));
            }
        })
    };
    for number in 0..5 {
        let old = stream.hello.clone().unwrap().boot.unwrap();
        command(&stream, &format!("r{number}"), CommandType::Restart, &[]).await;
        while let Some(message) = stream.message().await {
            if let Some(Body::Records(batch)) = body(&message) {
                let last = batch.records.last().map_or(0, |record| record.sequence);
                acknowledge(&stream, old, last).await;
            }
        }
        drop(stream);
        stream = server.stream().await;
        let answer = response(&mut stream).await;
        assert_eq!(answer.outcome(), CommandOutcome::Succeeded, "{answer:?}");
        let ack = ResponseAck { command_id: answer.command_id };
        send(&stream, ServerBody::ResponseAck(ack)).await;
    }
    is_over.store(true, Ordering::Relaxed);
    storm.join().unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_clean_stop_delivers_what_is_held() {
    let (_server, mut agent, mut stream) = start(Some("0.2")).await;
    let boot = stream.hello.clone().unwrap().boot.unwrap();
    batch(&mut stream).await;
    agent.terminate();
    while let Some(message) = stream.message().await {
        if let Some(Body::Records(batch)) = body(&message) {
            let last = batch.records.last().map_or(0, |record| record.sequence);
            acknowledge(&stream, boot, last).await;
        } else if let Some(Body::Status(status)) = body(&message)
            && status.state() == RunState::Draining
        {
            acknowledge(&stream, boot, status.ledger.as_ref().unwrap().recorded).await;
        }
    }
    drop(stream);
    assert_eq!(agent.wait(), Some(0));
}
