//! `get-metrics` and `monitor`.

use std::io::{BufRead, BufReader, Read};
use std::time::Duration;

use proto::subscribe_metrics_request::Start;
use proto::{Alert, Cursor, ServerStatus, StoredMetrics, TopicStatus, Window};
use serde_json::json;
use tonic::Status;

use crate::picket::{self, Run, command, piped, run};
use crate::server::{Ending, Script, Server, batch, cursor, entry, feed_of, script_of};

fn two_records() -> Server {
    let records = batch(vec![entry("web-1", 1), entry("db.2", 2)]);
    Server::start(script_of([feed_of(vec![records], Ending::End)]))
}

#[test]
fn the_table_is_for_people() {
    let server = two_records();
    let run = run(&server.name(), "get-metrics --no-follow --metric cpu,disk_read,net_in_mb");
    run.check(
        0,
        "\
TIME                 AGENT           CPU%  READ MB/s    IN MB/s  NOTE
2023-11-14 22:13:21  web-1           1.00      1.000          -
2023-11-14 22:13:22  db.2            2.00      1.000          -
",
    );
    assert_eq!(run.stderr, "");
    let request = server.script.lock().unwrap().subscribed[0].clone();
    assert_eq!(request.start, Some(Start::Last(20)));
    assert!(!request.follow);
}

#[test]
fn json_lines_are_for_programs() {
    let server = two_records();
    run(&server.name(), "get-metrics --limit 1 -o json").check(
        0,
        concat!(
            r#"{"agent_id":"web-1","timestamp":"2023-11-14T22:13:21.000Z","#,
            r#""timestamp_ms":1700000001000,"metrics":{"cpu_percent":1.0,"disk_read_mb":1.0},"#,
            r#""metadata":{"rack":"7"},"boot":"1-0000000000000abc","sequence":1,"session":1}"#,
            "\n"
        ),
    );
}

#[test]
fn csv_is_for_spreadsheets() {
    let server = two_records();
    run(&server.name(), "get-metrics --no-follow --metric cpu -o csv").check(
        0,
        "\
timestamp,agent_id,boot,sequence,cpu_percent,alerts,window_count,window_duration_ms,repeats
2023-11-14T22:13:21.000Z,web-1,1-0000000000000abc,1,1,,,,0
2023-11-14T22:13:22.000Z,db.2,1-0000000000000abc,2,2,,,,0
",
    );
}

/// A record with a load and a temperature, which is below its floor, beside what `entry` has.
fn richer(mut entry: StoredMetrics) -> StoredMetrics {
    let record = entry.metrics.as_mut().unwrap().record.as_mut().unwrap();
    record.present |= 1 << 8 | 1 << 16;
    record.values.extend([52, -4_250]);
    record.alerts = vec![Alert { metric: 16, limit: -2_000, below: true }];
    record.window = Some(Window {
        count: 2,
        duration_ms: 5_000,
        min: record.values.clone(),
        max: record.values.clone(),
        partial: false,
        last: vec![100, 0, 60, -4_000],
        counts: vec![2, 2, 2, 1],
    });
    entry
}

fn richer_record() -> Server {
    let records = batch(vec![entry("web-1", 1), richer(entry("web-1", 2))]);
    Server::start(script_of([feed_of(vec![records], Ending::End)]))
}

#[test]
fn metrics_beyond_the_eight_are_columns_when_they_come() {
    let server = richer_record();
    run(&server.name(), "get-metrics --no-follow").check(
        0,
        "\
TIME                 AGENT           CPU%    MEM%     USED MB    TOTAL MB  READ MB/s  WRITE MB/s    IN MB/s   OUT MB/s   LOAD1  TEMP C  NOTE
2023-11-14 22:13:21  web-1           1.00       -           -           -      1.000           -          -          -       -       -
2023-11-14 22:13:22  web-1           2.00       -           -           -      1.000           -          -          -    0.52    -4.2  \
ALERT temperature_celsius < -2.0; average of 2 over 5s
",
    );
}

#[test]
fn metrics_beyond_the_eight_are_chosen_by_name() {
    let server = richer_record();
    run(&server.name(), "get-metrics --no-follow --metric load,temperature_celsius -o csv").check(
        0,
        "\
timestamp,agent_id,boot,sequence,alerts,window_count,window_duration_ms,repeats,load1,load5,load15,temperature_celsius
2023-11-14T22:13:21.000Z,web-1,1-0000000000000abc,1,,,,0,,,,
2023-11-14T22:13:22.000Z,web-1,1-0000000000000abc,2,temperature_celsius,2,5000,0,0.52,,,-4.25
",
    );
}

#[test]
fn json_has_all_of_a_window_by_name() {
    let server = richer_record();
    let run = run(&server.name(), "get-metrics --no-follow --metric temperature,load -o json");
    let value: serde_json::Value = run.stdout.lines().nth(1).unwrap().parse().unwrap();
    assert_eq!(value["metrics"], json!({"load1": 0.52, "temperature_celsius": -4.25}));
    assert_eq!(value["window"]["last"], json!({"load1": 0.6, "temperature_celsius": -4.0}));
    assert_eq!(value["window"]["counts"], json!({"load1": 2, "temperature_celsius": 1}));
    assert_eq!(value["alerts"][0]["below"], true);
}

#[test]
fn the_request_says_what_was_asked() {
    let server = two_records();
    let line = "get-metrics --agent web-1 --agent db.2 --since 2023-11-14T22:13:20Z \
                --until 2023-11-14T23:13:20Z";
    assert_eq!(run(&server.name(), line).code, 0);
    let request = server.script.lock().unwrap().subscribed[0].clone();
    assert_eq!(request.agents, ["web-1", "db.2"]);
    assert_eq!(request.start, Some(Start::SinceMs(1_700_000_000_000)));
    assert_eq!(request.until_ms, 1_700_003_600_000);
    assert!(!request.follow);
}

#[test]
fn repeats_are_shown_once_and_gaps_are_told() {
    let mut second = batch(vec![entry("a", 2), entry("a", 1), entry("b", 1), entry("a", 3)]);
    second.skipped_first = 5;
    second.skipped_last = 9;
    let first = batch(vec![entry("a", 1), entry("a", 2)]);
    let server = Server::start(script_of([feed_of(vec![first, second], Ending::End)]));
    let run = run(&server.name(), "get-metrics --no-follow --metric cpu -o csv");
    let names: Vec<&str> =
        run.stdout.lines().skip(1).map(|line| line.split_once(',').unwrap().1).collect();
    assert_eq!(
        names,
        [
            "a,1-0000000000000abc,1,1,,,,0",
            "a,1-0000000000000abc,2,2,,,,0",
            "b,1-0000000000000abc,1,1,,,,0",
            "a,1-0000000000000abc,3,3,,,,0",
        ]
    );
    assert_eq!(run.stderr, "picket: retention removed offsets 5..9\n");
}

#[test]
fn no_records_end_with_6() {
    let server = Server::start(script_of([feed_of(vec![], Ending::End)]));
    let run = run(&server.name(), "get-metrics --no-follow");
    run.check(6, "");
    assert!(run.stderr.starts_with("picket: no records;"), "{run:#?}");
}

#[test]
fn text_from_peers_cannot_drive_the_terminal() {
    let mut hostile = entry("\u{1b}[2Jweb\u{9b}\n", 1);
    let record = hostile.metrics.as_mut().unwrap();
    record.metadata = [("k".to_owned(), "\u{1b}]0;x\u{7}\u{9b}\u{202e}".to_owned())].into();
    let records = batch(vec![hostile]);
    let feeds = (0..3).map(|_| feed_of(vec![records.clone()], Ending::End));
    let server = Server::start(script_of(feeds));
    for output in ["table", "json", "csv"] {
        let run = run(&server.name(), &format!("get-metrics --no-follow -o {output}"));
        assert_eq!(run.code, 0);
        let lines = run.stdout.trim_end().chars().filter(|c| *c == '\n').count();
        assert_eq!(lines, if output == "json" { 0 } else { 1 }, "{}", run.stdout);
        let harmless = |c: char| c == '\n' || (!c.is_control() && c != '\u{202e}');
        assert!(run.stdout.chars().all(harmless), "{:?}", run.stdout);
    }
}

#[test]
fn a_refusal_of_the_server_ends_with_4() {
    let refusal = Ending::Fail(Status::invalid_argument("no such\u{1b} place"));
    let server = Server::start(script_of([feed_of(vec![], refusal)]));
    let run = run(&server.name(), "get-metrics");
    run.check(4, "");
    assert_eq!(run.stderr, "picket: the server refuses: no such\\u{1b} place\n");
}

#[test]
fn a_history_that_breaks_off_is_an_error() {
    let gone = Ending::Fail(Status::unavailable("storage is away"));
    let server = Server::start(script_of([feed_of(vec![batch(vec![entry("a", 1)])], gone)]));
    let run = run(&server.name(), "get-metrics --since 1h --no-follow");
    assert_eq!(run.code, 1, "{run:#?}");
    assert!(run.stderr.contains("storage is away; try again later"), "{run:#?}");
    assert_eq!(run.stdout.lines().count(), 2);
}

#[test]
fn a_closed_pipe_is_success() {
    let endless = feed_of(vec![batch(vec![no_name(entry("a", 1)); 100])], Ending::Repeat);
    let server = Server::start(script_of([endless]));
    let mut child = piped(&mut command(&server.name(), "get-metrics"));
    let mut line = String::new();
    let mut stdout = BufReader::new(child.stdout.take().unwrap());
    stdout.read_line(&mut line).unwrap();
    assert!(line.starts_with("TIME"), "{line}");
    drop(stdout);
    Run::of(child.wait_with_output().unwrap()).check(0, "");
}

/// A plain client's record, which is never a repeat.
fn no_name(mut entry: StoredMetrics) -> StoredMetrics {
    let metrics = entry.metrics.as_mut().unwrap();
    metrics.boot = None;
    metrics.record.as_mut().unwrap().sequence = 0;
    entry
}

#[test]
fn a_slow_reader_keeps_the_connection() {
    let endless = feed_of(vec![batch(vec![no_name(entry("a", 1)); 100])], Ending::Repeat);
    let server = Server::start(script_of([endless]));
    let mut child = piped(&mut command(&server.name(), "get-metrics -o json"));
    let mut stdout = child.stdout.take().unwrap();
    // The pipe is full long before this is over; the probes of the connection must still be answered.
    std::thread::sleep(Duration::from_secs(1));
    let mut some = vec![0; 4 << 20];
    stdout.read_exact(&mut some).unwrap();
    drop(stdout);
    let run = Run::of(child.wait_with_output().unwrap());
    assert_eq!((run.code, run.stderr.as_str()), (0, ""));
    assert_eq!(server.script.lock().unwrap().subscribed.len(), 1);
}

#[test]
fn ctrl_c_while_following_is_success() {
    let live = feed_of(vec![batch(vec![entry("a", 1)])], Ending::Silence);
    let server = Server::start(script_of([live]));
    let mut child = piped(&mut command(&server.name(), "get-metrics"));
    let mut stdout = BufReader::new(child.stdout.take().unwrap());
    let mut lines = String::new();
    stdout.read_line(&mut lines).unwrap();
    stdout.read_line(&mut lines).unwrap();
    picket::interrupt(&child);
    let run = Run::of(child.wait_with_output().unwrap());
    assert_eq!((run.code, run.stderr.as_str()), (0, ""));
}

#[test]
fn following_goes_on_after_a_broken_stream() {
    let first = feed_of(
        vec![batch(vec![entry("a", 1), entry("a", 2)])],
        Ending::Fail(Status::unavailable("going down")),
    );
    let second = feed_of(vec![batch(vec![entry("a", 2), entry("a", 3)])], Ending::Silence);
    let server = Server::start(script_of([first, second]));
    let run = run(&server.name(), "get-metrics --follow --limit 3 --metric cpu");
    run.check(
        0,
        "\
TIME                 AGENT           CPU%  NOTE
2023-11-14 22:13:21  a               1.00
2023-11-14 22:13:22  a               2.00
2023-11-14 22:13:23  a               3.00
",
    );
    let name = server.name();
    assert_eq!(
        run.stderr,
        format!(
            "picket: lost the server at {name}: going down; trying to reach it again\n\
             picket: the server is back; going on after the last record\n"
        )
    );
    let script = server.script.lock().unwrap();
    assert_eq!(script.subscribed[1].start, Some(Start::Cursor(cursor(21))));
}

#[test]
fn following_begins_anew_with_a_server_whose_records_do() {
    let first = feed_of(
        vec![batch(vec![entry("a", 1), entry("a", 2)])],
        Ending::Fail(Status::unavailable("going down")),
    );
    let second = feed_of(vec![batch(vec![entry("a", 2), entry("a", 3)])], Ending::Silence);
    let check = |next_offset, start| {
        let extent =
            TopicStatus { name: "monitoring-data".into(), next_offset, ..TopicStatus::default() };
        let status = ServerStatus { topics: vec![extent], ..ServerStatus::default() };
        let feeds = [first.clone(), second.clone()];
        let server = Server::start(Script { status, ..script_of(feeds) });
        let run = run(&server.name(), "get-metrics --follow --limit 3 --metric cpu -o csv");
        assert_eq!(run.stdout.lines().count(), 4, "{run:#?}");
        let anew = "picket: the server's records start anew; reading from the oldest\n";
        assert_eq!(run.stderr.contains(anew), start == Cursor::default(), "{run:#?}");
        let script = server.script.lock().unwrap();
        assert_eq!(script.subscribed[1].start, Some(Start::Cursor(start)));
    };
    check(20, Cursor::default());
    check(21, cursor(21));
    check(99, cursor(21));
}

#[test]
fn following_outlives_the_server() {
    let first = feed_of(vec![batch(vec![entry("a", 1)])], Ending::Silence);
    let server = Server::start(script_of([first]));
    let line = "get-metrics --follow --limit 2 --metric cpu -o csv";
    let mut child = piped(&mut command(&server.name(), line));
    let mut stdout = BufReader::new(child.stdout.take().unwrap());
    let mut text = String::new();
    stdout.read_line(&mut text).unwrap();
    stdout.read_line(&mut text).unwrap();

    let address = server.kill();
    let mut stderr = BufReader::new(child.stderr.take().unwrap());
    let mut remark = String::new();
    stderr.read_line(&mut remark).unwrap();
    assert!(remark.starts_with("picket: lost the server at "), "{remark}");

    let second = feed_of(vec![batch(vec![entry("a", 1), entry("a", 2)])], Ending::Silence);
    let server = Server::start_at(address, script_of([second]));
    stdout.read_to_string(&mut text).unwrap();
    let sequences: Vec<&str> = text.lines().map(|line| line.split(',').nth(3).unwrap()).collect();
    assert_eq!(sequences, ["sequence", "1", "2"]);
    assert_eq!(child.wait().unwrap().code(), Some(0));
    let script = server.script.lock().unwrap();
    assert_eq!(script.subscribed[0].start, Some(Start::Cursor(cursor(11))));
}

#[test]
fn monitor_sums_up_without_a_terminal() {
    let records = (1..=20).map(|sequence| entry("web-1", sequence)).collect();
    let server = Server::start(script_of([feed_of(vec![batch(records)], Ending::Silence)]));
    let run = run(&server.name(), "monitor --duration 1s");
    run.check(
        0,
        "\
AGENT  METRIC        COUNT    MIN   MEAN    MAX    P95
web-1  cpu_percent      20   1.00  10.50  20.00  19.03
web-1  disk_read_mb     20  1.000  1.000  1.000  1.000
",
    );
}

#[test]
fn monitor_without_metrics_ends_with_6() {
    let server = Server::start(Script::default());
    let run = run(&server.name(), "monitor --duration 200ms -o json");
    run.check(6, "");
    assert!(run.stderr.starts_with("picket: no metrics came;"), "{run:#?}");
}
