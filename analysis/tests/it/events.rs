//! `events`.

use std::io::{BufRead, BufReader};

use proto::subscribe_status_request::Start;
use proto::{AlertRecord, Loss, LossReason, StatusEvent, StatusRecord};
use tonic::Status;

use crate::picket::{Run, command, piped, run};
use crate::server::{Ending, Server, event, feed_of, status_batch, status_script_of};

fn history(records: Vec<StatusRecord>) -> Server {
    Server::start(status_script_of([feed_of(vec![status_batch(records)], Ending::End)]))
}

fn some_events() -> Vec<StatusRecord> {
    let loss = Loss { first: 5, last: 5, reason: LossReason::Shutdown.into(), ..Loss::default() };
    let alert = AlertRecord { sequence: 1, transition: 1, severity: 3, ..AlertRecord::default() };
    let alerts = StatusRecord { alerts: vec![alert], ..event("web-1", 1, StatusEvent::Alert) };
    vec![
        StatusRecord { peer: "[::1]:9".into(), ..event("web-1", 1, StatusEvent::Connected) },
        alerts.clone(),
        alerts,
        StatusRecord { losses: vec![loss], ..event("db.2", 1, StatusEvent::Loss) },
        StatusRecord { detail: "gone\u{1b}".into(), ..event("db.2", 1, StatusEvent::Disconnected) },
    ]
}

#[test]
fn the_table_is_for_people() {
    let server = history(some_events());
    let run = run(&server.name(), "events");
    run.check(
        0,
        "\
TIME                 AGENT         EVENT               DETAIL
2023-11-14 22:13:20  web-1         connected           from [::1]:9
2023-11-14 22:13:20  web-1         alert               cpu_percent RAISED at 0.00, limit > 0.00, critical
2023-11-14 22:13:20  db.2          loss                1 given up at a shutdown, 5 to 5
2023-11-14 22:13:20  db.2          disconnected        gone\\u{1b}
",
    );
    assert_eq!(run.stderr, "");
}

#[test]
fn json_lines_are_the_form_of_the_bus() {
    let server = history(vec![event("web-1", 1, StatusEvent::Disconnected)]);
    run(&server.name(), "events -o json").check(
        0,
        concat!(
            r#"{"agent_id":"web-1","event":"DISCONNECTED","timestamp":"2023-11-14T22:13:20.000Z","#,
            r#""timestamp_ms":1700000000000,"server_id":"s1","boot":"1-0000000000000abc"}"#,
            "\n"
        ),
    );
}

#[test]
fn csv_is_for_spreadsheets() {
    let server = history(some_events());
    let run = run(&server.name(), "events -o csv");
    let lines: Vec<&str> = run.stdout.lines().collect();
    assert_eq!(lines.len(), 5, "{run:#?}");
    assert_eq!(lines[0], "timestamp,agent_id,event,boot,server_id,detail");
    assert_eq!(
        lines[3],
        "2023-11-14T22:13:20.000Z,db.2,loss,1-0000000000000abc,s1,\"1 given up at a shutdown, 5 to 5\""
    );
}

#[test]
fn the_request_says_what_was_asked() {
    let server = history(some_events());
    let line = "events --agent web-1 --since 2023-11-14T22:13:20Z --event connected,loss";
    assert_eq!(run(&server.name(), line).code, 0);
    let request = server.script.lock().unwrap().status_subscribed[0].clone();
    assert_eq!(request.agents, ["web-1"]);
    assert_eq!(request.start, Some(Start::SinceMs(1_700_000_000_000)));
    let events: Vec<_> = request.events().collect();
    assert_eq!(events, [StatusEvent::Connected, StatusEvent::Loss]);
}

#[test]
fn no_history_ends_with_6() {
    let server = history(vec![]);
    let run = run(&server.name(), "events");
    run.check(6, "");
    let message = "no events; begin earlier with --since, or leave out agents and --event";
    assert_eq!(run.stderr, format!("picket: {message}\n"));
}

#[test]
fn a_refusal_of_the_server_ends_with_4() {
    let refusal = Ending::Fail(Status::invalid_argument("no such place"));
    let server = Server::start(status_script_of([feed_of(vec![], refusal)]));
    run(&server.name(), "events --follow").check(4, "");
}

#[test]
fn a_closed_pipe_is_success() {
    let batch = status_batch(vec![event("a", 1, StatusEvent::Connected); 100]);
    let server = Server::start(status_script_of([feed_of(vec![batch], Ending::Repeat)]));
    let mut child = piped(&mut command(&server.name(), "events --follow -o json"));
    let mut line = String::new();
    let mut stdout = BufReader::new(child.stdout.take().unwrap());
    stdout.read_line(&mut line).unwrap();
    assert!(line.starts_with("{\"agent_id\":\"a\""), "{line}");
    drop(stdout);
    Run::of(child.wait_with_output().unwrap()).check(0, "");
}
