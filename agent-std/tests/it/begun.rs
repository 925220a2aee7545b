//! Commands that were begun, and what a process that is killed leaves of them to the next one.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use proto::agent_message::Body;
use proto::command::CommandType;
use proto::server_message::Body as ServerBody;
use proto::{Command, CommandOutcome, ResponseAck, RunState};
use tempfile::TempDir;

use crate::full_server::{body, response, send};
use crate::process::{Agent, PATIENCE};
use crate::scripted::{Headers, ScriptedServer, Stream, message_where, welcome};

const ID: &str = "begun-1";

struct Host {
    server: ScriptedServer,
    state: TempDir,
}

impl Host {
    async fn new() -> Self {
        let server = ScriptedServer::start(Headers::Welcome(welcome())).await;
        Self { server, state: TempDir::new().unwrap() }
    }

    fn path(&self) -> &Path {
        self.state.path()
    }

    /// A fresh process of the agent, and its stream.
    async fn boot(&mut self) -> (Agent, Stream) {
        let (address, state) = (self.server.address(), self.path().to_str().unwrap().to_owned());
        let arguments = ["--agent-id", ID, "--server", &address, "--state-dir", &state];
        let counted = fs::read_to_string(self.path().join("boot")).unwrap_or_default();
        let counted = counted.trim().parse::<u64>().unwrap_or(0);
        let agent = Agent::start(&[arguments.as_slice(), &["--interval", "0.2"]].concat());
        // On a busy machine a restart may have been over before its process was killed, and its stream waits still.
        loop {
            let stream = self.server.stream().await;
            if counted < stream.hello.as_ref().unwrap().boot.unwrap().counter {
                return (agent, stream);
            }
        }
    }

    fn journal(&self) -> String {
        fs::read_to_string(self.path().join("commands")).unwrap_or_default()
    }

    fn wait_for_journal(&self, part: &str) {
        let deadline = Instant::now() + PATIENCE;
        while !self.journal().contains(part) {
            assert!(Instant::now() < deadline, "{part} is not in {}", self.journal());
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

async fn command(stream: &Stream, id: &str, kind: CommandType) {
    issued(stream, id, kind, unix_seconds()).await;
}

async fn issued(stream: &Stream, id: &str, kind: CommandType, timestamp: i64) {
    stream
        .send(Command {
            command_id: id.to_owned(),
            agent_id: ID.to_owned(),
            r#type: kind.into(),
            ttl_ms: 60_000,
            timestamp,
            wants_progress: true,
            ..Command::default()
        })
        .await;
}

fn unix_seconds() -> i64 {
    let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    i64::try_from(since_epoch.as_secs()).unwrap()
}

async fn acknowledge(stream: &Stream, id: &str) {
    send(stream, ServerBody::ResponseAck(ResponseAck { command_id: id.to_owned() })).await;
}

async fn state(stream: &mut Stream, id: &str) -> RunState {
    command(stream, id, CommandType::Status).await;
    let answer = response(stream).await;
    assert_eq!(answer.command_id, id);
    acknowledge(stream, id).await;
    answer.status.unwrap().state()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restart_whose_process_is_killed_is_answered_by_the_next_and_does_not_run_again() {
    let mut host = Host::new().await;
    let (agent, mut stream) = host.boot().await;
    let first = stream.hello.clone().unwrap().boot.unwrap();
    // It has records that nobody acknowledges, so it drains for seconds before it restarts.
    message_where(&mut stream, |message| matches!(body(message), Some(Body::Records(_)))).await;
    command(&stream, "r1", CommandType::Restart).await;
    let begun =
        message_where(&mut stream, |message| matches!(body(message), Some(Body::Progress(_))));
    let Some(Body::Progress(begun)) = begun.await.message.unwrap().body else { unreachable!() };
    assert_eq!(begun.command_id, "r1");
    assert!(host.journal().contains("\"owed\":true"), "{}", host.journal());
    agent.kill();

    let (agent, mut stream) = host.boot().await;
    let second = stream.hello.clone().unwrap().boot.unwrap();
    assert!(first.counter < second.counter);
    let answer = response(&mut stream).await;
    assert_eq!((answer.command_id.as_str(), answer.outcome()), ("r1", CommandOutcome::Succeeded));
    assert_eq!((answer.previous_boot, answer.boot), (Some(first), Some(second)));
    // It comes again, over another server for instance: it has been done.
    acknowledge(&stream, "r1").await;
    command(&stream, "r1", CommandType::Restart).await;
    assert_eq!(response(&mut stream).await.previous_boot, Some(first));
    host.wait_for_journal("\"owed\":false");
    agent.kill();

    let (_agent, mut stream) = host.boot().await;
    command(&stream, "r1", CommandType::Restart).await;
    let answer = response(&mut stream).await;
    assert_eq!((answer.command_id.as_str(), answer.previous_boot), ("r1", Some(first)));
    acknowledge(&stream, "r1").await;
    assert_eq!(state(&mut stream, "s1").await, RunState::Running);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_stopped_stays_so_until_it_is_started() {
    let mut host = Host::new().await;
    let (agent, mut stream) = host.boot().await;
    command(&stream, "c1", CommandType::Stop).await;
    assert_eq!(response(&mut stream).await.outcome(), CommandOutcome::Succeeded);
    agent.kill();

    let (agent, mut stream) = host.boot().await;
    assert_eq!(state(&mut stream, "s1").await, RunState::Stopped);
    // The server has not heard of the first answer: it was stopped, and this says so.
    command(&stream, "c1", CommandType::Stop).await;
    let answer = response(&mut stream).await;
    assert_eq!((answer.command_id.as_str(), answer.outcome()), ("c1", CommandOutcome::Succeeded));
    assert!(answer.previous_boot.is_some() && answer.message.contains("stopped"), "{answer:?}");
    acknowledge(&stream, "c1").await;
    command(&stream, "c2", CommandType::Start).await;
    assert_eq!(response(&mut stream).await.outcome(), CommandOutcome::Succeeded);
    agent.kill();

    let (_agent, mut stream) = host.boot().await;
    assert_eq!(state(&mut stream, "s2").await, RunState::Running);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_written_down_does_not_begin() {
    let mut host = Host::new().await;
    let (_agent, mut stream) = host.boot().await;
    let boot = stream.hello.clone().unwrap().boot;
    let obstacle = host.path().join("commands.new");
    fs::create_dir(&obstacle).unwrap();
    for (id, kind) in [("c1", CommandType::Stop), ("c2", CommandType::Restart)] {
        command(&stream, id, kind).await;
        let answer = response(&mut stream).await;
        assert_eq!((answer.command_id.as_str(), answer.boot), (id, boot));
        assert_eq!(answer.outcome(), CommandOutcome::Rejected);
        assert!(answer.message.starts_with("storage: "), "{answer:?}");
        acknowledge(&stream, id).await;
    }
    assert_eq!(state(&mut stream, "s1").await, RunState::Running);
    fs::remove_dir(&obstacle).unwrap();
    command(&stream, "c3", CommandType::Stop).await;
    assert_eq!(response(&mut stream).await.outcome(), CommandOutcome::Succeeded);
}

#[tokio::test(flavor = "multi_thread")]
async fn with_a_damaged_record_only_what_was_issued_since_begins() {
    let mut host = Host::new().await;
    let (agent, mut stream) = host.boot().await;
    command(&stream, "c1", CommandType::Stop).await;
    response(&mut stream).await;
    agent.kill();
    let whole = host.journal();
    fs::write(host.path().join("commands"), &whole[..whole.len() - 1]).unwrap();

    let (_agent, mut stream) = host.boot().await;
    command(&stream, "c1", CommandType::Stop).await;
    let answer = response(&mut stream).await;
    assert_eq!(answer.outcome(), CommandOutcome::Rejected);
    assert!(answer.message.contains("damaged"), "{answer:?}");
    acknowledge(&stream, "c1").await;
    assert_eq!(state(&mut stream, "s1").await, RunState::Running);
    issued(&stream, "c2", CommandType::Stop, unix_seconds() + 3600).await;
    assert_eq!(response(&mut stream).await.outcome(), CommandOutcome::Succeeded);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_command_to_another_agent_is_rejected() {
    let mut host = Host::new().await;
    let (_agent, mut stream) = host.boot().await;
    let agent_id = "begun-2".to_owned();
    let stop = Command {
        command_id: "c1".to_owned(),
        agent_id,
        r#type: CommandType::Stop.into(),
        ..Command::default()
    };
    stream.send(stop).await;
    let answer = response(&mut stream).await;
    assert_eq!(answer.outcome(), CommandOutcome::Rejected);
    assert!(answer.message.contains("another agent"), "{answer:?}");
    acknowledge(&stream, "c1").await;
    assert_eq!(state(&mut stream, "s1").await, RunState::Running);
}
