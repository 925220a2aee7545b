//! `send-command`, `agents` and `server-status`.

use proto::command::CommandType;
use proto::{
    AgentInfo, AgentStatus, AlertLedger, CommandHistory, CommandOutcome, CommandResponse,
    CommandState, CommandStep, Ledger, ListAgentsResponse, ListCommandsResponse, NamedCount,
    PluginCounters,
};
use tonic::Status;

use crate::picket::{run, run_with_input};
use crate::server::{Script, Server};

fn answering(outcome: CommandOutcome) -> Server {
    let response = CommandResponse {
        success: outcome == CommandOutcome::Succeeded,
        message: "as said".into(),
        agent_id: "web-1".into(),
        outcome: outcome.into(),
        ..CommandResponse::default()
    };
    Server::start(Script { command: Some(Ok(response)), ..Script::default() })
}

#[test]
fn the_exit_code_is_the_outcome() {
    let check = |outcome, code, word: &str| {
        let server = answering(outcome);
        let run = run(&server.name(), "send-command web-1 status");
        assert_eq!(run.code, code, "{run:#?}");
        let expected = format!("agent     web-1\noutcome   {word}\nmessage   as said\n");
        assert_eq!(run.stdout, expected);
    };
    check(CommandOutcome::Succeeded, 0, "succeeded");
    check(CommandOutcome::Failed, 1, "failed");
    check(CommandOutcome::Rejected, 4, "rejected, nothing changed");
    check(CommandOutcome::Expired, 5, "expired, certainly not started");
    check(CommandOutcome::Unknown, 7, "unknown, it may have started");
}

#[test]
fn errors_of_the_rpc_have_their_codes() {
    let check = |status: Status, code: i32| {
        let server = Server::start(Script { command: Some(Err(status)), ..Script::default() });
        let run = run(&server.name(), "send-command web-1 STATUS");
        assert_eq!(run.code, code, "{run:#?}");
        assert_eq!(run.stderr.lines().count(), 1, "{run:#?}");
    };
    check(Status::invalid_argument("bad"), 4);
    check(Status::deadline_exceeded("late"), 5);
    check(Status::not_found("who"), 6);
    check(Status::internal("oops"), 1);
    check(Status::unimplemented(""), 1);
    check(Status::unavailable("bus"), 1);
}

#[test]
fn the_answer_is_one_json_object() {
    let server = answering(CommandOutcome::Succeeded);
    run(&server.name(), "send-command web-1 RESTART -o json").check(
        0,
        "{\"agent_id\":\"web-1\",\"success\":true,\"outcome\":\"SUCCEEDED\",\
         \"message\":\"as said\",\"timestamp\":0}\n",
    );
}

#[test]
fn status_has_the_books_of_plugins_and_alerts() {
    let counters = PluginCounters {
        name: "deduplication".into(),
        received: 10,
        forwarded: 4,
        merged: 0,
        dropped: vec![NamedCount { name: "unchanged".into(), count: 6 }],
    };
    let ledger = Ledger {
        produced: 10,
        suppressed: vec![NamedCount { name: "deduplication".into(), count: 6 }],
        recorded: 4,
        delivered: 4,
        plugins: vec![counters],
        alerts: Some(AlertLedger { recorded: 2, delivered: 2, ..AlertLedger::default() }),
        ..Ledger::default()
    };
    let status = AgentStatus { ledger: Some(ledger), ..AgentStatus::default() };
    let response = CommandResponse {
        success: true,
        status: Some(status.clone()),
        ..CommandResponse::default()
    };
    let agent =
        AgentInfo { agent_id: "web-1".into(), status: Some(status), ..AgentInfo::default() };
    let server = Server::start(Script {
        command: Some(Ok(response)),
        agents: ListAgentsResponse { agents: vec![agent] },
        ..Script::default()
    });
    let table = run(&server.name(), "send-command web-1 STATUS");
    let counters = "counters  deduplication: \
                    received 10 = forwarded 4 + merged 0 + dropped 6 (unchanged 6) + held 0\n";
    assert!(table.stdout.contains(counters), "{table:#?}");
    let alerts = "alerts    recorded 2 = delivered 2 + lost 0 + held 0\n";
    assert!(table.stdout.ends_with(alerts), "{table:#?}");
    for line in ["send-command web-1 STATUS -o json", "agents -o json"] {
        let json = run(&server.name(), line);
        let value: serde_json::Value = json.stdout.parse().unwrap();
        let ledger = &value["status"]["ledger"];
        assert_eq!(ledger["plugins"]["deduplication"]["dropped"]["unchanged"], 6, "{line}");
        assert_eq!(ledger["alerts"]["delivered"], 2, "{line}");
    }
}

#[test]
fn the_command_carries_what_was_said() {
    let server = answering(CommandOutcome::Succeeded);
    let run = run_with_input(
        &server.name(),
        "send-command web-1 update_config --config - --param interval=2 --timeout 1500ms",
        r#"{"interval": 1, "metrics": ["cpu"]}"#,
    );
    assert_eq!(run.code, 0, "{run:#?}");
    let script = server.script.lock().unwrap();
    let command = &script.commanded[0];
    assert_eq!(command.r#type(), CommandType::UpdateConfig);
    assert_eq!(command.ttl_ms, 1500);
    assert_eq!(command.command_id.len(), 32);
    assert_eq!(command.params.len(), 2);
    assert_eq!(command.params["interval"], "2");
    assert_eq!(command.params["metrics"], "[\"cpu\"]");
}

fn with_agents() -> Server {
    let agent = |name: &str| AgentInfo {
        agent_id: name.into(),
        connected: true,
        version: "0.1.0".into(),
        ..AgentInfo::default()
    };
    Server::start(Script {
        agents: ListAgentsResponse { agents: vec![agent("a"), agent("b")] },
        ..Script::default()
    })
}

#[test]
fn agents_are_listed() {
    let server = with_agents();
    let lines = |line: &str| run(&server.name(), line).stdout.lines().count();
    assert_eq!(lines("agents"), 3);
    assert_eq!(lines("agents -o csv b"), 2);
    run(&server.name(), "agents -o json a").check(
        0,
        "{\"agent_id\":\"a\",\"connected\":true,\"version\":\"0.1.0\",\
         \"config_wanted\":0,\"config_applied\":0}\n",
    );
}

#[test]
fn an_agent_that_nobody_knows_ends_with_6() {
    let server = with_agents();
    let run = run(&server.name(), "agents a zz -o json");
    assert_eq!((run.code, run.stdout.lines().count()), (6, 1));
    assert!(run.stderr.contains("knows no agent zz;"), "{run:#?}");
}

#[test]
fn an_empty_fleet_is_no_error() {
    let server = Server::start(Script::default());
    let run = run(&server.name(), "agents");
    run.check(0, "");
    assert_eq!(run.stderr, "picket: no agent has connected yet\n");
}

#[test]
fn the_server_tells_its_figures() {
    let server = Server::start(Script::default());
    let run = run(&server.name(), "server-status -o json");
    assert_eq!(run.code, 0);
    let value: serde_json::Value = run.stdout.parse().unwrap();
    assert_eq!(value["agents_known"], 0);
}

fn history(id: &str, state: CommandState) -> CommandHistory {
    let step = |state: CommandState| CommandStep { state: state.into(), ..CommandStep::default() };
    CommandHistory {
        command_id: id.into(),
        agent_id: "web-1".into(),
        state: state.into(),
        steps: vec![step(CommandState::Queued), step(state)],
        ..CommandHistory::default()
    }
}

#[test]
fn commands_are_listed_and_one_is_shown() {
    let commands =
        vec![history("c1", CommandState::Succeeded), history("c2", CommandState::Unknown)];
    let commands = ListCommandsResponse { commands, truncated: true };
    let server = Server::start(Script { commands, ..Script::default() });
    let listed =
        run(&server.name(), "commands list web-1 --state unknown,succeeded --since 1h -o json");
    assert_eq!((listed.code, listed.stdout.lines().count()), (0, 2), "{listed:#?}");
    assert!(listed.stderr.contains("there are more commands"), "{listed:#?}");
    let shown = run(&server.name(), "commands show c1");
    assert_eq!(shown.code, 0);
    assert!(shown.stdout.starts_with("command   c1\nagent     web-1\n"), "{shown:#?}");
    let script = server.script.lock().unwrap();
    let [list, show] = script.listed.as_slice() else { panic!("{:?}", script.listed) };
    assert_eq!(list.agents, ["web-1"]);
    let states = [CommandState::Unknown, CommandState::Succeeded].map(i32::from);
    assert_eq!((list.states.as_slice(), list.limit), (states.as_slice(), 100));
    assert_eq!((show.command_id.as_str(), show.limit), ("c1", 1));
    assert!(show.since_ms < list.since_ms);
}

#[test]
fn a_command_that_nobody_knows_ends_with_6() {
    let server = Server::start(Script::default());
    let shown = run(&server.name(), "commands show c1");
    assert_eq!(shown.code, 6);
    assert!(shown.stderr.contains("no command c1"), "{shown:#?}");
    assert_eq!(run(&server.name(), "commands list").code, 6);
}

#[test]
fn what_may_start_still_is_said_and_a_command_can_be_forced() {
    let server = answering(CommandOutcome::Unknown);
    let sent = run(&server.name(), "send-command web-1 STOP --force");
    assert!(sent.stderr.contains("within 20 s"), "{sent:#?}");
    assert!(server.script.lock().unwrap().commanded[0].force);
}
