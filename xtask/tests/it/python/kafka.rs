//! Plain producers and consumers on the topics in Kafka, beside our server, agent and tool.
//!
//! The topics have fixed names and are shared with other tests, so each test has agents of its own.

use std::sync::atomic::{AtomicU32, Ordering};

use serde_json::{Value, json};
use xtask::peers::Python;
use xtask::services::{self, Service};

use super::{Peer, ask};
use crate::deployment::{Deployment, FAST, binaries, directory, now_ms, wait_for};
use crate::picket::{Answer, run_program};
use crate::record::Record;

/// A Python, and the Kafka that tests share; none if `test` is to return.
fn wanted(test: &str) -> Option<(&'static Python, String)> {
    Some((Python::for_test(test)?, services::kafka(test)?))
}

/// An agent id that nobody has had.
fn fresh_id(prefix: &str) -> String {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let count = COUNT.fetch_add(1, Ordering::Relaxed);
    format!("{prefix}-{}-{}-{count}", now_ms(), std::process::id())
}

/// A server on Kafka whose topics are there.
fn deployment(kafka: &str) -> Deployment {
    let deployment = Deployment::start_with(["--kafka", kafka]);
    wait_for("the topics", || {
        let status = deployment.picket(["server-status", "--output", "json"]);
        // It does not answer in time while brokers are slow.
        let status = (status.code == 0).then(|| status.json())?;
        let topics = status["topics"].as_array()?;
        let has = |name: &str| topics.iter().any(|topic| topic["name"] == name);
        ["monitoring-data", "commands", "command-responses", "agent-status"]
            .into_iter()
            .all(has)
            .then_some(())
    });
    deployment
}

/// Runs `producer.py`, and says how many records it sent, by topic.
fn produce(python: &Python, kafka: &str, arguments: &[&str]) -> Value {
    let answer = ask(python, "producer.py", [&[kafka], arguments].concat());
    answer.assert_code(0);
    answer.json()["sent"].clone()
}

fn consumer(python: &Python, kafka: &str, id: &str, topic: &str, deployment: &Deployment) -> Peer {
    Peer::start(python, "consumer.py", [kafka, id, topic], deployment.path())
}

/// Our tool, which is told of no server.
fn picket_on(kafka: &str, arguments: &[&str]) -> Answer {
    let on_kafka = ["--output", "json", "--kafka", kafka];
    run_program(&binaries().picket(), on_kafka.iter().chain(arguments))
}

fn numbers(records: &[Record]) -> Vec<f64> {
    records.iter().map(|record| record.metric("cpu_percent").unwrap()).collect()
}

#[test]
fn snapshots_of_a_plain_producer_are_shown_with_and_without_a_server() {
    let test = "python::kafka::snapshots_of_a_plain_producer_are_shown_with_and_without_a_server";
    let Some((python, kafka)) = wanted(test) else {
        return;
    };
    let mut deployment = deployment(&kafka);
    // librdkafka's own partitioner, which Python clients have, and that of Java's clients, which ours has.
    let ids = [(fresh_id("crc"), None), (fresh_id("murmur"), Some("murmur2_random"))];
    for (id, partitioner) in &ids {
        let partitioner = partitioner.map(|name| format!("--partitioner={name}"));
        let arguments = partitioner.iter().map(String::as_str);
        let arguments: Vec<&str> = arguments.chain(["snapshots", id, "--count", "5"]).collect();
        produce(python, &kafka, &arguments);
    }
    let expected: Vec<f64> = (0..5).map(|n| f64::from(n) + super::CPU_PERCENT_OFFSET).collect();
    for (id, _) in &ids {
        let records = deployment.records(id);
        assert_eq!(numbers(&records), expected, "{id} through the server");
        for record in &records {
            assert_eq!(record.json()["metadata"]["made_by"], "python", "{record:?}");
            assert_eq!(record.metric("memory_percent"), Some(50.0), "{record:?}");
            assert!((now_ms() - record.timestamp_ms()).abs() < 3_600_000, "it is UTC: {record:?}");
        }
    }
    deployment.stop_server();
    for (id, _) in &ids {
        let history = ["get-metrics", "--since=1h", "--no-follow", "--agent", id];
        let answer = picket_on(&kafka, &history);
        answer.assert_code(0);
        let records: Vec<Record> = answer.json_lines().into_iter().map(Record::new).collect();
        assert_eq!(numbers(&records), expected, "{id} straight from Kafka");
    }
}

#[test]
fn a_command_of_a_plain_producer_reaches_our_agent_and_is_answered() {
    let test = "python::kafka::a_command_of_a_plain_producer_reaches_our_agent_and_is_answered";
    let Some((python, kafka)) = wanted(test) else {
        return;
    };
    let deployment = deployment(&kafka);
    let id = fresh_id("edge");
    let _agent = deployment.agent(&id, FAST);
    deployment.wait_until_connected(&id);
    let mut answers = consumer(python, &kafka, &id, "command-responses", &deployment);
    let mut send = |count: usize, arguments: &[&str]| {
        produce(python, &kafka, &[&["command", id.as_str()], arguments].concat());
        let records = answers.wait_for_count("record", count);
        assert_eq!(records.len(), count, "one answer each: {records:?}");
        let answer = records.last().unwrap();
        assert_eq!(answer["success"], true, "{answer}");
        assert_eq!(answer["agent_id"], id.as_str(), "{answer}");
    };
    send(1, &["STATUS"]);
    send(2, &["STOP"]);
    send(3, &["UPDATE_CONFIG", "--param", r#"metrics=["cpu", "net in"]"#]);
    let status = deployment.status(&id);
    assert_eq!(status["state"], "STOPPED", "{status}");
    assert_eq!(status["metrics"], json!(["cpu", "net_in"]), "{status}");

    let mut events = consumer(python, &kafka, &id, "agent-status", &deployment);
    events.wait_for("that it has connected", "record", |records| {
        records.iter().any(|record| record["event"] == "CONNECTED").then_some(())
    });
}

#[test]
fn what_ours_write_is_read_by_a_plain_consumer() {
    let Some((python, kafka)) =
        wanted("python::kafka::what_ours_write_is_read_by_a_plain_consumer")
    else {
        return;
    };
    let deployment = deployment(&kafka);
    let id = fresh_id("edge");
    let _agent = deployment.agent(&id, FAST);
    let mut snapshots = consumer(python, &kafka, &id, "monitoring-data", &deployment);
    let read = snapshots.wait_for_count("record", 5);
    let shown = deployment.records(&id);
    for (record, shown) in read.iter().zip(&shown) {
        assert_eq!(record["agent_id"], id.as_str(), "{record}");
        let seconds = record["timestamp"].as_f64().unwrap();
        let shown_ms = shown.timestamp_ms() as f64;
        assert!((1000.0 * seconds - shown_ms).abs() < 1.0, "{record} {shown:?}");
        for (name, value) in record["metrics"].as_object().unwrap() {
            assert_eq!(value.as_f64(), shown.metric(name), "{name}: {record} {shown:?}");
        }
    }
    let last = &read.last().unwrap()["metrics"];
    assert_eq!(last.as_object().unwrap().len(), 8, "all that are fixed: {last}");

    // Our commands have the fixed form too, whether a server writes them or our tool itself.
    let mut commands = consumer(python, &kafka, &id, "commands", &deployment);
    deployment.command(&id, &["STATUS"]).assert_code(0);
    let arguments = ["send-command", id.as_str(), "UPDATE_CONFIG", "--param", "window_size=3"];
    picket_on(&kafka, &arguments).assert_code(0);
    let read = commands.wait_for_count("record", 2);
    assert_eq!(read[0]["type"], "STATUS", "{read:?}");
    assert_eq!(read[1]["type"], "UPDATE_CONFIG", "{read:?}");
    assert_eq!(read[1]["params"]["window_size"], "3", "{read:?}");
}

/// Counters of what was skipped on `topic`, by reason.
fn rejected(deployment: &Deployment, topic: &str) -> Vec<(String, u64)> {
    ["empty", "too_large", "not_json", "form", "key"]
        .into_iter()
        .map(|reason| {
            let name = format!("bus_rejected.{topic}.{reason}");
            let count = deployment.counter(&name);
            (name, count)
        })
        .collect()
}

/// Waits until at least `sent` records were skipped on `topic`, for every reason there is.
fn wait_for_rejected(deployment: &Deployment, topic: &str, sent: &Value) {
    let sent = sent[topic].as_u64().unwrap();
    wait_for("all that is no record is counted", || {
        let counts = rejected(deployment, topic);
        let sum: u64 = counts.iter().map(|(_, count)| count).sum();
        (sent <= sum && counts.iter().all(|(_, count)| 0 < *count)).then_some(())
    });
}

#[test]
fn what_is_no_record_harms_nobody_and_is_counted() {
    let test = "python::kafka::what_is_no_record_harms_nobody_and_is_counted";
    let Some(python) = Python::for_test(test) else {
        return;
    };
    if !Service::Kafka.is_here_for(test) {
        return;
    }
    // One of its own: every record on it is known.
    let directory = directory();
    let broker = Service::Kafka.start(directory.path()).unwrap();
    let kafka = broker.endpoint();
    let mut deployment = deployment(&kafka);
    let mut agent = deployment.agent("edge-1", FAST);
    deployment.wait_for_fresh_record("edge-1");

    let sent = produce(python, &kafka, &["garbage", "edge-1"]);
    for topic in ["commands", "command-responses", "agent-status"] {
        wait_for_rejected(&deployment, topic, &sent);
    }
    // Nobody reads this one but who asks for records, here for those of all agents.
    deployment.picket(["get-metrics", "--since=1h", "--no-follow"]).assert_code(0);
    wait_for_rejected(&deployment, "monitoring-data", &sent);
    let records = deployment.wait_for_fresh_record("edge-1");
    assert!(
        records.iter().all(|record| !record.json()["boot"].is_null()),
        "only ours: {records:?}"
    );
    assert_eq!(deployment.status("edge-1")["state"], "RUNNING");
    let answer = picket_on(&kafka, &["get-metrics", "--limit=5", "--agent=edge-1"]);
    answer.assert_code(0);
    assert_eq!(answer.json_lines().len(), 5, "{answer:?}");
    picket_on(&kafka, &["events", "--since=1h", "edge-1"]).assert_code(0);

    assert!(deployment.server_runs());
    assert!(agent.ended().unwrap().is_none());
}

#[test]
fn a_command_that_comes_again_runs_once() {
    let test = "python::kafka::a_command_that_comes_again_runs_once";
    let Some((python, kafka)) = wanted(test) else {
        return;
    };
    let deployment = deployment(&kafka);
    let id = fresh_id("edge");
    let _agent = deployment.agent(&id, FAST);
    deployment.wait_until_connected(&id);
    let boot_count = || -> u64 {
        let status = deployment.status(&id);
        let (count, _) = status["boot"].as_str().unwrap().split_once('-').unwrap();
        count.parse().unwrap()
    };
    let before = boot_count();
    let mut answers = consumer(python, &kafka, &id, "command-responses", &deployment);
    // To nobody there is: it waits its time, and nobody is harmed.
    produce(python, &kafka, &["command", &fresh_id("nobody"), "STOP"]);
    let command_id = fresh_id("again");
    // Before it was answered, and after.
    for _ in 0..2 {
        produce(python, &kafka, &["repeat", &id, "RESTART", &command_id, "--count=20"]);
        // The answer to STATUS and that to RESTART.
        let answer = answers.wait_for_count("record", 2).remove(1);
        assert_eq!(answer["success"], true, "{answer}");
        // This STATUS comes after all the others.
        assert_eq!(boot_count(), before + 1, "it restarted once");
    }
}
