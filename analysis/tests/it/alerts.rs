//! `alerts`.

use std::io::{BufRead, BufReader};

use proto::subscribe_status_request::Start;
use proto::{
    AgentInfo, AlertRecord, AlertSeverity, AlertTransition, ListAgentsResponse, Loss, LossReason,
    ServerStatus, StatusEvent, StatusRecord, TopicStatus,
};
use tonic::Status;

use crate::picket::{self, Run, command, piped, run};
use crate::server::{
    Ending, Script, Server, cursor, event, feed_of, status_batch, status_script_of,
};

const CPU: u32 = 0;
const TEMPERATURE: u32 = 16;

/// An alert of the first boot, raised with a ceiling of 80 %, or a floor of 80 degrees.
fn alert(sequence: u64, metric: u32, transition: AlertTransition) -> AlertRecord {
    AlertRecord {
        sequence,
        timestamp_ms: 1_700_000_000_000 + 1000 * i64::try_from(sequence).unwrap(),
        metric,
        transition: transition.into(),
        severity: AlertSeverity::Warning.into(),
        below: metric == TEMPERATURE,
        limit: if metric == TEMPERATURE { 80_000 } else { 8_000 },
        value: if metric == TEMPERATURE { 70_500 } else { 9_125 },
        lasted_ms: 5_000,
        uptime_ms: 60_000,
    }
}

fn record(agent_id: &str, boot: u64, alerts: &[AlertRecord]) -> StatusRecord {
    StatusRecord { alerts: alerts.to_vec(), ..event(agent_id, boot, StatusEvent::Alert) }
}

fn history(records: Vec<StatusRecord>) -> Server {
    Server::start(status_script_of([feed_of(vec![status_batch(records)], Ending::End)]))
}

fn raised(sequence: u64, metric: u32) -> AlertRecord {
    alert(sequence, metric, AlertTransition::Raised)
}

fn cleared(sequence: u64, metric: u32) -> AlertRecord {
    alert(sequence, metric, AlertTransition::Cleared)
}

#[test]
fn the_table_says_what_began_and_ended() {
    let server = history(vec![
        record("web-1", 1, &[raised(1, CPU), raised(2, TEMPERATURE)]),
        record("web-1", 1, &[raised(2, TEMPERATURE), cleared(3, CPU)]),
        record("db.2", 1, &[alert(1, CPU, AlertTransition::Withdrawn)]),
    ]);
    let run = run(&server.name(), "alerts");
    run.check(
        0,
        "\
TIME                 AGENT         SEVERITY  METRIC                CHANGE          VALUE         LIMIT  LASTED
2023-11-14 22:13:21  web-1         warning   cpu_percent           RAISED          91.25       > 80.00  5s
2023-11-14 22:13:22  web-1         warning   temperature_celsius   RAISED           70.5        < 80.0  5s
2023-11-14 22:13:23  web-1         warning   cpu_percent           CLEARED         91.25       > 80.00  5s
2023-11-14 22:13:21  db.2          warning   cpu_percent           WITHDRAWN       91.25       > 80.00  5s
",
    );
    assert_eq!(run.stderr, "");
}

#[test]
fn json_lines_are_for_programs() {
    let server = history(vec![record("web-1", 1, &[raised(1, TEMPERATURE)])]);
    run(&server.name(), "alerts -o json").check(
        0,
        concat!(
            r#"{"agent_id":"web-1","boot":"1-0000000000000abc","metric":"temperature_celsius","#,
            r#""transition":"RAISED","severity":"WARNING","direction":"BELOW","limit":80.0,"#,
            r#""value":70.5,"lasted_ms":5000,"sequence":1,"uptime_ms":60000,"#,
            r#""timestamp":"2023-11-14T22:13:21.000Z","timestamp_ms":1700000001000}"#,
            "\n"
        ),
    );
}

#[test]
fn csv_is_for_spreadsheets() {
    let server = history(vec![record("web-1", 1, &[raised(1, CPU), cleared(2, CPU)])]);
    run(&server.name(), "alerts -o csv").check(
        0,
        "\
timestamp,agent_id,boot,sequence,severity,metric,transition,value,direction,limit,lasted_ms,uptime_ms
2023-11-14T22:13:21.000Z,web-1,1-0000000000000abc,1,WARNING,cpu_percent,RAISED,91.25,ABOVE,80.0,5000,60000
2023-11-14T22:13:22.000Z,web-1,1-0000000000000abc,2,WARNING,cpu_percent,CLEARED,91.25,ABOVE,80.0,5000,60000
",
    );
}

#[test]
fn the_request_says_what_was_asked() {
    let server = history(vec![record("web-1", 1, &[raised(1, CPU)])]);
    let line = "alerts web-1 --agent db.2 --since 2023-11-14T22:13:20Z";
    assert_eq!(run(&server.name(), line).code, 0);
    let request = server.script.lock().unwrap().status_subscribed[0].clone();
    assert_eq!(request.agents, ["web-1", "db.2"]);
    assert_eq!(request.start, Some(Start::SinceMs(1_700_000_000_000)));
    assert!(!request.follow);
    let events: Vec<_> = request.events().collect();
    assert_eq!(events, [StatusEvent::Alert, StatusEvent::AlertLoss]);
}

#[test]
fn milder_ones_are_left_out() {
    let with = |sequence, severity: AlertSeverity| AlertRecord {
        severity: severity.into(),
        ..raised(sequence, CPU)
    };
    let records = vec![record(
        "a",
        1,
        &[
            with(1, AlertSeverity::Info),
            with(2, AlertSeverity::Critical),
            with(3, AlertSeverity::Warning),
        ],
    )];
    let batches = vec![status_batch(records)];
    let check = |severity: &str, expected: &[&str]| {
        let feed = feed_of(batches.clone(), Ending::End);
        let server = Server::start(status_script_of([feed]));
        let run = run(&server.name(), &format!("alerts -o csv --severity {severity}"));
        let rows = run.stdout.lines().skip(1);
        let sequences: Vec<&str> = rows.map(|row| row.split(',').nth(3).unwrap()).collect();
        assert_eq!(sequences, expected, "{run:#?}");
    };
    check("info", &["1", "2", "3"]);
    check("warning", &["2", "3"]);
    check("CRITICAL", &["2"]);
}

#[test]
fn losses_and_gaps_are_told() {
    let loss = Loss {
        first: 2,
        last: 4,
        reason: LossReason::Overwritten.into(),
        never_sent: 2,
        unacknowledged: 1,
    };
    let mut batch = status_batch(vec![
        record("a", 1, &[raised(1, CPU)]),
        StatusRecord { losses: vec![loss], ..event("a", 1, StatusEvent::AlertLoss) },
    ]);
    batch.skipped_last = 7;
    let server = Server::start(status_script_of([feed_of(vec![batch], Ending::End)]));
    let run = run(&server.name(), "alerts -o json");
    assert_eq!((run.code, run.stdout.lines().count()), (0, 1), "{run:#?}");
    assert_eq!(
        run.stderr,
        "picket: retention removed offsets 0..7\n\
         picket: a lost alerts: 3 overwritten in the full ring, 2 to 4, of which 1 may have arrived\n"
    );
}

#[test]
fn no_history_ends_with_6() {
    let check = |line: &str, message: &str| {
        let empty = feed_of(vec![status_batch(vec![])], Ending::End);
        let server = Server::start(status_script_of([empty]));
        let run = run(&server.name(), line);
        run.check(6, "");
        assert_eq!(run.stderr, format!("picket: {message}\n"));
    };
    check("alerts", "no alerts; begin earlier with --since, or leave out agents");
    check("alerts -o csv web-1", "no alerts; begin earlier with --since, or leave out agents");
    check("alerts --active", "no alert stands; looked at all that the server keeps");
    check(
        "alerts --active --since 2023-11-14T22:13:20Z",
        "no alert stands; looked back to 2023-11-14 22:13:20",
    );
}

#[test]
fn active_shows_what_stands_the_worst_first() {
    let critical = AlertRecord { severity: AlertSeverity::Critical.into(), ..raised(9, CPU) };
    let server = history(vec![
        event("restarted", 1, StatusEvent::Connected),
        record("restarted", 1, &[raised(1, CPU)]),
        record("ended", 1, &[raised(1, CPU), raised(2, TEMPERATURE)]),
        record("late", 1, &[raised(7, CPU)]),
        event("restarted", 2, StatusEvent::Connected),
        record("restarted", 1, &[raised(2, TEMPERATURE)]),
        record("ended", 1, &[cleared(3, CPU), alert(4, TEMPERATURE, AlertTransition::Withdrawn)]),
        record("ended", 1, &[raised(1, CPU)]),
        record("worst", 3, &[critical]),
        record("early", 1, &[raised(5, TEMPERATURE)]),
    ]);
    let run = run(&server.name(), "alerts --active -o csv");
    assert_eq!(run.code, 0, "{run:#?}");
    let agents: Vec<&str> =
        run.stdout.lines().skip(1).map(|row| row.split(',').nth(1).unwrap()).collect();
    assert_eq!(agents, ["worst", "early", "late"]);
    assert_eq!(run.stderr, "picket: looked at all that the server keeps\n");
    let request = server.script.lock().unwrap().status_subscribed[0].clone();
    assert_eq!(request.start, Some(Start::SinceMs(0)));
    assert!(request.events().any(|event| event == StatusEvent::Connected));
}

#[test]
fn active_says_since_when_and_for_how_long() {
    let server = history(vec![record("web-1", 1, &[raised(1, CPU)])]);
    let run = run(&server.name(), "alerts --active --severity warning");
    let lines: Vec<&str> = run.stdout.lines().collect();
    assert_eq!(lines.len(), 2, "{run:#?}");
    assert_eq!(
        lines[0],
        "SINCE                AGENT  SEVERITY  METRIC       VALUE    LIMIT  STANDS FOR"
    );
    let row = "2023-11-14 22:13:21  web-1  warning   cpu_percent  91.25  > 80.00  ";
    assert!(lines[1].starts_with(row), "{run:#?}");
}

#[test]
fn active_tells_where_alerts_were_lost() {
    let server =
        history(vec![record("a", 1, &[raised(1, CPU)]), event("a", 1, StatusEvent::AlertLoss)]);
    let run = run(&server.name(), "alerts --active -o json");
    assert_eq!((run.code, run.stdout.lines().count()), (0, 1), "{run:#?}");
    let lost = "picket: alerts were lost, so that more or fewer may stand: a\n";
    assert!(run.stderr.starts_with(lost), "{run:#?}");
}

#[test]
fn active_tells_which_agents_are_away() {
    let feed = feed_of(
        vec![status_batch(vec![
            record("a", 1, &[raised(1, CPU)]),
            record("b", 1, &[raised(1, CPU)]),
        ])],
        Ending::End,
    );
    let info =
        |id: &str, connected| AgentInfo { agent_id: id.into(), connected, ..AgentInfo::default() };
    let agents =
        ListAgentsResponse { agents: vec![info("a", true), info("b", false), info("c", false)] };
    let server = Server::start(Script { agents, ..status_script_of([feed]) });
    let run = run(&server.name(), "alerts --active -o json");
    assert_eq!((run.code, run.stdout.lines().count()), (0, 2), "{run:#?}");
    let away = "picket: away, so that nobody knows what stands there now: b\n";
    assert!(run.stderr.starts_with(away), "{run:#?}");
}

#[test]
fn following_goes_on_after_a_broken_stream() {
    let first = feed_of(
        vec![status_batch(vec![record("a", 1, &[raised(1, CPU)])])],
        Ending::Fail(Status::unavailable("going down")),
    );
    let second = feed_of(
        vec![status_batch(vec![record("a", 1, &[raised(1, CPU), cleared(2, CPU)])])],
        Ending::Silence,
    );
    let extent =
        TopicStatus { name: "agent-status".into(), next_offset: 11, ..TopicStatus::default() };
    let status = ServerStatus { topics: vec![extent], ..ServerStatus::default() };
    let server = Server::start(Script { status, ..status_script_of([first, second]) });
    let mut child = piped(&mut command(&server.name(), "alerts --follow -o csv"));
    let mut stdout = BufReader::new(child.stdout.take().unwrap());
    let mut text = String::new();
    for _ in 0..3 {
        stdout.read_line(&mut text).unwrap();
    }
    picket::interrupt(&child);
    let run = Run::of(child.wait_with_output().unwrap());
    assert_eq!(run.code, 0, "{run:#?}");
    let sequences: Vec<&str> = text.lines().map(|row| row.split(',').nth(3).unwrap()).collect();
    assert_eq!(sequences, ["sequence", "1", "2"]);
    let subscribed = &server.script.lock().unwrap().status_subscribed;
    assert_eq!(subscribed[0].start, None);
    assert_eq!(subscribed[1].start, Some(Start::Cursor(cursor(11))));
    assert!(run.stderr.ends_with("going on after the last record\n"), "{run:#?}");
}

#[test]
fn a_closed_pipe_is_success() {
    // Without a boot nothing is a repeat.
    let nameless = StatusRecord { boot: None, ..record("a", 1, &[raised(1, CPU)]) };
    let batch = status_batch(vec![nameless; 100]);
    let server = Server::start(status_script_of([feed_of(vec![batch], Ending::Repeat)]));
    let mut child = piped(&mut command(&server.name(), "alerts --follow"));
    let mut line = String::new();
    let mut stdout = BufReader::new(child.stdout.take().unwrap());
    stdout.read_line(&mut line).unwrap();
    assert!(line.starts_with("TIME"), "{line}");
    drop(stdout);
    Run::of(child.wait_with_output().unwrap()).check(0, "");
}

#[test]
fn a_server_that_does_not_know_alerts_is_told() {
    let refusal = Ending::Fail(Status::unimplemented(""));
    let server = Server::start(status_script_of([feed_of(vec![], refusal)]));
    let run = run(&server.name(), "alerts");
    run.check(1, "");
    assert!(run.stderr.contains("does not know this request"), "{run:#?}");
}
