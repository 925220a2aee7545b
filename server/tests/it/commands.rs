//! Commands: to an agent and its answer back.

use std::time::{Duration, Instant};

use proto::agent_message::Body;
use proto::command::CommandType;
use proto::{
    Boot, Command, CommandHistory, CommandOutcome, CommandResponse, CommandState, CommandStep,
    Hello, ListCommandsRequest, RecordBatch, server_message,
};
use tonic::{Code, Request, Status};

use crate::harness::{BOOT, Server, Stream, hello, plain, record, soon};

fn command(id: &str, kind: CommandType) -> Command {
    Command {
        command_id: id.into(),
        agent_id: "edge-01".into(),
        r#type: kind.into(),
        ttl_ms: 8000,
        ..Command::default()
    }
}

async fn send(server: &Server, command: Command) -> Result<CommandResponse, Status> {
    let mut client = server.monitoring().await;
    let response = soon("the answer", client.send_command(command)).await;
    response.map(tonic::Response::into_inner)
}

fn response(id: &str, message: &str) -> CommandResponse {
    CommandResponse {
        success: true,
        message: message.into(),
        agent_id: "edge-01".into(),
        command_id: id.into(),
        outcome: CommandOutcome::Succeeded.into(),
        ..CommandResponse::default()
    }
}

/// Answers the next command, and reads that the answer is acknowledged.
async fn obey(agent: &mut Stream, message: &str) -> Command {
    let command = agent.next().await.unwrap().unwrap();
    answer(agent, command, message).await
}

async fn answer(agent: &mut Stream, command: Command, message: &str) -> Command {
    assert_eq!(command.message, None, "a command, not a message of ours");
    agent.say(Body::Response(response(&command.command_id, message))).await;
    let acknowledged = agent.hear().await;
    let server_message::Body::ResponseAck(ack) = acknowledged else {
        panic!("{acknowledged:?} is not the acknowledgement of an answer");
    };
    assert_eq!(ack.command_id, command.command_id);
    command
}

#[tokio::test]
async fn a_command_reaches_the_agent_and_its_answer_the_caller() {
    let server = Server::start();
    let mut agent = server.agent("edge-01").await;
    server.until("edge-01", |info| info.connected).await;
    let obeyed = tokio::spawn(async move { obey(&mut agent, "stopped").await });
    let answer = send(&server, command("", CommandType::Stop)).await.unwrap();
    assert!(answer.success);
    assert_eq!(answer.message, "stopped");
    assert_eq!(answer.agent_id, "edge-01");
    assert_eq!(answer.boot, Some(BOOT));
    let given = obeyed.await.unwrap();
    assert_eq!(given.command_id, answer.command_id);
    assert_eq!(given.command_id.len(), 32, "a fresh id");
    assert_eq!(given.r#type(), CommandType::Stop);
    assert!(0 < given.ttl_ms && given.ttl_ms <= 8000, "{}", given.ttl_ms);
    assert!(given.timestamp > 0);
}

#[tokio::test]
async fn an_agent_that_is_away_gets_the_command_when_it_is_back() {
    let server = Server::start();
    drop(server.agent("edge-01").await);
    server.until("edge-01", |info| !info.connected).await;
    let asked = tokio::spawn({
        let mut client = server.monitoring().await;
        async move { client.send_command(command("c1", CommandType::Status)).await }
    });
    // The command is on its way before the agent is back.
    while server.counter("commands.accepted").await == 0 {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let mut agent = server.open(Some(hello("edge-01", BOOT, 2))).await.unwrap();
    obey(&mut agent, "here").await;
    assert_eq!(soon("the answer", asked).await.unwrap().unwrap().into_inner().message, "here");
}

#[tokio::test]
async fn a_command_that_is_not_delivered_expires() {
    let server = Server::start();
    drop(server.agent("edge-01").await);
    server.until("edge-01", |info| !info.connected).await;
    let started = Instant::now();
    let given = Command { ttl_ms: 300, ..command("c1", CommandType::Status) };
    let answer = send(&server, given).await.unwrap();
    assert!(Duration::from_millis(300) <= started.elapsed());
    assert_eq!(answer.outcome(), CommandOutcome::Expired);
    assert!(!answer.success);
    assert!(
        answer.message.starts_with("agent edge-01 is not connected (last seen 20"),
        "{answer:?}"
    );
    assert_eq!(server.counter("commands.expired").await, 1);
}

#[tokio::test]
async fn a_command_without_an_answer_is_unknown() {
    let server = Server::start();
    let mut agent = server.agent("edge-01").await;
    server.until("edge-01", |info| info.connected).await;
    // Long enough for a busy machine to deliver it.
    let given = Command { ttl_ms: 4000, ..command("c1", CommandType::Restart) };
    let answer = send(&server, given).await.unwrap();
    assert_eq!(answer.outcome(), CommandOutcome::Unknown);
    assert_eq!(agent.next().await.unwrap().unwrap().command_id, "c1");
}

#[tokio::test]
async fn an_agent_that_was_never_seen_is_not_waited_for() {
    let server = Server::start();
    let answer = send(&server, command("c1", CommandType::Status)).await.unwrap();
    assert_eq!(answer.outcome(), CommandOutcome::Rejected);
    assert_eq!(answer.message, "no agent edge-01 has ever connected");
}

#[tokio::test]
async fn a_plain_client_gets_the_plain_command() {
    let server = Server::start();
    let mut agent = server.open(None).await.unwrap();
    agent.send(plain("edge-01", 1.0)).await;
    server.until("edge-01", |info| info.connected).await;
    let answer = send(&server, command("c1", CommandType::Start)).await.unwrap();
    assert!(answer.success);
    assert!(answer.message.contains("plain form"), "{}", answer.message);
    let given = agent.next().await.unwrap().unwrap();
    assert_eq!((given.command_id.as_str(), given.r#type()), ("c1", CommandType::Start));
}

#[tokio::test]
async fn one_command_id_has_one_answer_for_every_caller() {
    let server = Server::start();
    let mut agent = server.agent("edge-01").await;
    server.until("edge-01", |info| info.connected).await;
    let callers: Vec<_> = {
        let mut callers = Vec::new();
        for _ in 0..2 {
            let mut client = server.monitoring().await;
            let given = command("c1", CommandType::Status);
            callers.push(tokio::spawn(async move { client.send_command(given).await }));
        }
        callers
    };
    obey(&mut agent, "once").await;
    for caller in callers {
        let answer = soon("the answer", caller).await.unwrap().unwrap();
        assert_eq!(answer.into_inner().message, "once");
    }
    let again = send(&server, command("c1", CommandType::Status)).await.unwrap();
    assert_eq!(again.message, "once", "remembered");
    let elsewhere = Command { agent_id: "edge-02".into(), ..command("c1", CommandType::Status) };
    let other = server.open(Some(hello("edge-02", BOOT, 1))).await.unwrap();
    server.until("edge-02", |info| info.connected).await;
    assert_eq!(send(&server, elsewhere).await.unwrap_err().code(), Code::InvalidArgument);
    drop(other);
}

#[tokio::test]
async fn a_callers_deadline_is_kept_and_the_command_goes_on() {
    let server = Server::start();
    let mut agent = server.agent("edge-01").await;
    server.until("edge-01", |info| info.connected).await;
    let mut client = server.monitoring().await;
    // A caller that is gone before the server has taken the command in takes it back, so a busy machine may need more
    // than one.
    let given = loop {
        let mut request = Request::new(command("c1", CommandType::Status));
        request.set_timeout(Duration::from_millis(200));
        assert!(soon("the deadline", client.send_command(request)).await.is_err());
        if let Ok(given) = tokio::time::timeout(Duration::from_millis(500), agent.next()).await {
            break given.unwrap().unwrap();
        }
    };
    answer(&mut agent, given, "late").await;
    let again = send(&server, command("c1", CommandType::Status)).await.unwrap();
    assert_eq!(again.message, "late");
}

#[tokio::test]
async fn a_command_survives_a_restart_of_the_server() {
    let server = Server::start();
    drop(server.agent("edge-01").await);
    server.until("edge-01", |info| !info.connected).await;
    let given = Command { ttl_ms: 60_000, ..command("c1", CommandType::Stop) };
    let before = server.stored("commands").await;
    let asked = tokio::spawn({
        let (mut client, given) = (server.monitoring().await, given.clone());
        async move { client.send_command(given).await }
    });
    while server.stored("commands").await == before {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }

    let server = Server::start_in(server.kill());
    let mut agent = server.open(Some(hello("edge-01", BOOT, 2))).await.unwrap();
    assert!(soon("the end of the caller", asked).await.unwrap().is_err());
    obey(&mut agent, "stopped").await;
    let server = Server::start_in(server.kill());
    let answer = send(&server, given).await.unwrap();
    assert_eq!(answer.message, "stopped", "the answer survives too");
    let mut agent = server.open(Some(hello("edge-01", BOOT, 3))).await.unwrap();
    let nothing = tokio::time::timeout(Duration::from_millis(200), agent.next()).await;
    assert!(nothing.is_err(), "answered commands are not sent again");
}

#[tokio::test]
async fn update_config_without_params_sends_the_configuration_again() {
    let server = Server::start();
    let mut agent = server.agent("edge-01").await;
    server.until("edge-01", |info| info.connected).await;
    let mut operator = server.operator().await;
    let set = proto::SetConfigRequest {
        agent_id: "_default".into(),
        document: r#"{"interval": 2}"#.into(),
        expected_revision: None,
    };
    operator.set_config(set).await.unwrap();
    assert!(matches!(agent.hear().await, server_message::Body::Config(_)));
    let asked = tokio::spawn({
        let mut client = server.monitoring().await;
        async move { client.send_command(command("c1", CommandType::UpdateConfig)).await }
    });
    let server_message::Body::Config(push) = agent.hear().await else {
        panic!("the configuration comes before the command");
    };
    assert_eq!(push.document, r#"{"interval":2}"#);
    obey(&mut agent, "read again").await;
    soon("the answer", asked).await.unwrap().unwrap();
}

async fn list(server: &Server, id: &str) -> Option<CommandHistory> {
    let request = ListCommandsRequest { command_id: id.into(), ..ListCommandsRequest::default() };
    let mut operator = server.operator().await;
    let listed = soon("the list", operator.list_commands(request)).await.unwrap().into_inner();
    listed.commands.into_iter().next()
}

/// Says an answer to `id`, and reads that it is acknowledged.
async fn answer_again(agent: &mut Stream, id: &str) {
    agent.say(Body::Response(response(id, "stopped"))).await;
    loop {
        if let server_message::Body::ResponseAck(ack) = agent.hear().await {
            assert_eq!(ack.command_id, id);
            return;
        }
    }
}

#[tokio::test]
async fn an_answer_that_comes_again_is_stored_once() {
    let server = Server::start();
    let mut agent = server.agent("edge-01").await;
    server.until("edge-01", |info| info.connected).await;
    let asked = tokio::spawn({
        let mut client = server.monitoring().await;
        async move { client.send_command(command("c1", CommandType::Stop)).await }
    });
    obey(&mut agent, "stopped").await;
    soon("the answer", asked).await.unwrap().unwrap();
    let stored = server.stored("command-responses").await;
    answer_again(&mut agent, "c1").await;
    let mut agent = server.open(Some(hello("edge-01", BOOT, 2))).await.unwrap();
    answer_again(&mut agent, "c1").await;
    assert_eq!(server.counter("commands.answered_again").await, 2);
    // The next run of the server knows it from the bus.
    let server = Server::start_in(server.kill());
    let mut agent = server.open(Some(hello("edge-01", BOOT, 3))).await.unwrap();
    answer_again(&mut agent, "c1").await;
    assert_eq!(server.stored("command-responses").await, stored);
}

#[tokio::test]
async fn what_the_agent_says_after_unknown_amends_it() {
    let server = Server::start();
    let mut agent = server.agent("edge-01").await;
    server.until("edge-01", |info| info.connected).await;
    let given = Command { ttl_ms: 4000, ..command("c1", CommandType::Stop) };
    assert_eq!(send(&server, given).await.unwrap().outcome(), CommandOutcome::Unknown);
    assert_eq!(agent.next().await.unwrap().unwrap().command_id, "c1");
    agent.say(Body::Progress(proto::CommandProgress { command_id: "c1".into() })).await;
    // The answer of the server is stored by another task than that of the agent.
    while server.stored("command-responses").await == 0
        || list(&server, "c1").await.is_none_or(|known| known.state() != CommandState::Unknown)
    {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    answer_again(&mut agent, "c1").await;
    answer_again(&mut agent, "c1").await;
    let known = list(&server, "c1").await.unwrap();
    assert_eq!(known.state(), CommandState::Unknown, "the first answer counts");
    let states = known.steps.iter().map(CommandStep::state).collect::<Vec<_>>();
    let of_server = [CommandState::Queued, CommandState::Delivered];
    assert!(
        states.starts_with(&of_server) && states.contains(&CommandState::Running),
        "{states:?}"
    );
    let last = known.steps.last().unwrap();
    assert_eq!((last.state(), last.amendment), (CommandState::Succeeded, true));
    assert_eq!(last.boot, Some(BOOT));
    assert_eq!(server.counter("commands.amended").await, 1);
}

#[tokio::test]
async fn an_issuer_that_sends_too_many_is_told_so() {
    let server = Server::start();
    let client = server.monitoring().await;
    for _ in 0..50 {
        let callers = (0..64).map(|_| {
            let mut client = client.clone();
            tokio::spawn(async move { client.send_command(command("", CommandType::Status)).await })
        });
        let callers = callers.collect::<Vec<_>>();
        for caller in callers {
            let answer = soon("the answer", caller).await.unwrap().unwrap().into_inner();
            assert_eq!(answer.outcome(), CommandOutcome::Rejected);
            if answer.message.starts_with("busy: ") {
                assert!(0 < server.counter("commands.throttled").await);
                return;
            }
        }
    }
    panic!("not one of thousands was refused");
}

#[tokio::test]
async fn what_became_of_a_command_is_told_however_often() {
    let server = Server::start();
    let mut agent = server.agent("edge-01").await;
    server.until("edge-01", |info| info.connected).await;
    let client = server.monitoring().await;
    let ask = |kind| {
        let mut client = client.clone();
        tokio::spawn(async move { client.send_command(command("c1", kind)).await })
    };
    // More at once than an issuer may send of new ones.
    let mut callers = (0..64).map(|_| ask(CommandType::Stop)).collect::<Vec<_>>();
    obey(&mut agent, "stopped").await;
    callers.extend((0..64).map(|_| ask(CommandType::Stop)));
    for caller in callers {
        let answer = soon("the answer", caller).await.unwrap().unwrap().into_inner();
        assert_eq!((answer.message.as_str(), answer.success), ("stopped", true));
    }
    assert_eq!(server.counter("commands.throttled").await, 0);
    let other = soon("the answer", ask(CommandType::Restart)).await.unwrap().unwrap_err();
    assert_eq!(other.code(), Code::InvalidArgument, "{other}");
    assert_eq!(server.counter("rejected.command_id").await, 1);
}

#[tokio::test]
async fn commands_to_a_doubtful_identity_must_be_forced() {
    let server = Server::start();
    let boot = |nonce| Boot { counter: 5, nonce };
    let mut first = server.open(Some(hello("edge-01", boot(1), 1))).await.unwrap();
    // Once a batch is acknowledged, the bus has who brought it.
    let records = vec![record(1)];
    first.say(Body::Records(RecordBatch { records, ..RecordBatch::default() })).await;
    while !matches!(first.hear().await, server_message::Body::Ack(_)) {}
    drop(first);
    server.until("edge-01", |info| !info.connected && info.boot == Some(boot(1))).await;
    let copy = Hello { host: "other".into(), ..hello("edge-01", boot(2), 1) };
    let mut agent = server.open(Some(copy)).await.unwrap();
    let info = server.until("edge-01", |info| !info.troubles.is_empty()).await;
    assert!(info.troubles[0].starts_with("clone suspected: boot 5-"), "{info:?}");
    let refused = send(&server, command("c1", CommandType::Stop)).await.unwrap();
    assert_eq!(refused.outcome(), CommandOutcome::Rejected);
    assert!(refused.message.contains("--force"), "{refused:?}");
    assert_eq!(server.counter("commands.doubtful").await, 1);
    let forced = Command { force: true, ..command("c2", CommandType::Stop) };
    let asked = tokio::spawn({
        let mut client = server.monitoring().await;
        async move { client.send_command(forced).await }
    });
    obey(&mut agent, "stopped").await;
    assert!(soon("the answer", asked).await.unwrap().unwrap().into_inner().success);

    // The next run of the server comes to the same conclusion.
    let server = Server::start_in(server.kill());
    let info = server.until("edge-01", |info| !info.troubles.is_empty()).await;
    assert!(info.troubles[0].contains("clone suspected"), "{info:?}");
}
