//! A command reaches its agent wherever it is sent and wherever the agent is, once; what becomes of it is told.

use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::{Cluster, answers_to};
use crate::deployment::{now_ms, wait_for};

const COMMANDS: &str = "commands";
const ANSWERS: &str = "command-responses";
const STATUS: &str = "agent-status";
const METRICS: &str = "monitoring-data";

/// A command as a producer puts it on the topic that knows the fixed keys only.
fn fixed_form(agent: &str, kind: &str) -> Value {
    json!({"agent_id": agent, "type": kind, "params": {}, "timestamp": now_ms() / 1000})
}

/// How often an agent has started, from the name of its boot.
#[track_caller]
fn boots(boot: &Value) -> u64 {
    boot.as_str().unwrap().split_once('-').unwrap().0.parse().unwrap()
}

#[test]
fn either_server_reaches_the_agents_of_both() {
    let test = "cluster::commands::either_server_reaches_the_agents_of_both";
    let Some(cluster) = Cluster::start(test) else { return };
    let (a, b) = (&cluster.a, &cluster.b);
    let mut answers = cluster.reader(ANSWERS);
    let (at_a, at_b) = (cluster.id("at-a"), cluster.id("at-b"));
    let _agents = [cluster.agent(&at_a, [a, b]), cluster.agent(&at_b, [b, a])];
    cluster.wait_until_at(&at_a, a);
    cluster.wait_until_at(&at_b, b);

    let every_type: [&[&str]; 5] = [
        &["STATUS"],
        &["STOP"],
        &["START"],
        &["UPDATE_CONFIG", "--param=interval=0.3"],
        &["RESTART"],
    ];
    let mut sent = Vec::new();
    for (server, agent) in [(a, &at_b), (b, &at_a), (a, &at_a), (b, &at_b)] {
        for command in every_type {
            let answer = server.console().command(agent, command);
            answer.assert_code(0);
            let answer = answer.json();
            assert_eq!(answer["outcome"], "SUCCEEDED");
            assert_eq!(answer["agent_id"], agent.as_str());
            sent.push((agent, answer["command_id"].as_str().unwrap().to_owned()));
        }
    }
    cluster.wait_until_at(&at_a, a);
    cluster.wait_until_at(&at_b, b);
    for (agent, id) in sent {
        let answers = answers_to(&mut answers, agent, &id);
        assert_eq!(answers.len(), 1, "{answers:?}");
    }
}

#[test]
fn a_command_that_is_on_the_topic_again_and_again_runs_once() {
    let test = "cluster::commands::a_command_that_is_on_the_topic_again_and_again_runs_once";
    let Some(cluster) = Cluster::start(test) else { return };
    let mut answers = cluster.reader(ANSWERS);
    let agent = cluster.id("edge");
    let _agent = cluster.agent(&agent, [&cluster.a, &cluster.b]);
    cluster.wait_until_at(&agent, &cluster.a);
    let before = cluster.b.console().status(&agent);

    let mut command = fixed_form(&agent, "RESTART");
    command["command_id"] = cluster.id("again").into();
    for _ in 0..2 {
        cluster.put(COMMANDS, &agent, &command);
    }
    let answer = answers
        .wait_for("its answer", &agent, |answer| answer["command_id"] == command["command_id"]);
    assert_eq!(answer["outcome"], "SUCCEEDED", "{answer}");
    cluster.put(COMMANDS, &agent, &command);
    // Both servers have read the last one when they have what was put there after it.
    for node in cluster.nodes() {
        let after = node.console().status(&agent);
        assert_eq!(boots(&after["boot"]), boots(&before["boot"]) + 1);
    }
    let id = command["command_id"].as_str().unwrap();
    let answers = answers_to(&mut answers, &agent, id);
    assert_eq!(answers.len(), 1, "{answers:?}");
}

#[test]
fn a_command_in_the_fixed_form_is_delivered_once() {
    let test = "cluster::commands::a_command_in_the_fixed_form_is_delivered_once";
    let Some(cluster) = Cluster::start(test) else { return };
    let (mut answers, mut status) = (cluster.reader(ANSWERS), cluster.reader(STATUS));
    let agent = cluster.id("edge");
    let _agent = cluster.agent(&agent, [&cluster.a, &cluster.b]);
    cluster.wait_until_at(&agent, &cluster.a);

    cluster.put(COMMANDS, &agent, &fixed_form(&agent, "STATUS"));
    let answer = answers.wait_for("its answer", &agent, |_| true);
    assert_eq!(answer["outcome"], "SUCCEEDED", "{answer}");
    for node in cluster.nodes() {
        node.console().command(&agent, &["STATUS"]).assert_code(0);
    }
    // Servers name it alike.
    let id = answer["command_id"].as_str().unwrap();
    let answers = answers_to(&mut answers, &agent, id);
    assert_eq!(answers.len(), 1, "{answers:?}");
    let mut deliveries = status.read_of(&agent);
    deliveries.retain(|event| event["event"] == "COMMAND_DELIVERED" && event["command_id"] == id);
    assert_eq!(deliveries.len(), 1, "{deliveries:?}");
}

#[test]
fn a_command_waits_for_its_agent_to_come_to_any_server() {
    let test = "cluster::commands::a_command_waits_for_its_agent_to_come_to_any_server";
    let Some(cluster) = Cluster::start(test) else { return };
    let mut commands = cluster.reader(COMMANDS);
    let agent = cluster.agent_that_has_left();
    let console = cluster.a.console();
    thread::scope(|scope| {
        let answer = scope.spawn(|| console.command(&agent, &["STATUS", "--timeout=55s"]));
        commands.wait_for("the command", &agent, |_| true);
        assert!(!answer.is_finished());
        let _agent = cluster.agent(&agent, [&cluster.b, &cluster.a]);
        let answer = answer.join().unwrap();
        answer.assert_code(0);
        assert_eq!(answer.json()["outcome"], "SUCCEEDED");
    });
}

#[test]
fn the_server_that_took_a_command_says_at_its_time_that_it_expired() {
    let test = "cluster::commands::the_server_that_took_a_command_says_at_its_time_that_it_expired";
    let Some(cluster) = Cluster::start(test) else { return };
    let mut answers = cluster.reader(ANSWERS);
    let agent = cluster.agent_that_has_left();
    // The other server waits 5 s longer at least. A busy machine may need as long: then it is tried again.
    const TIME: Duration = Duration::from_secs(2);
    const GRACE: Duration = Duration::from_secs(5);
    let is_timely = (0..5).any(|_| {
        let sent_at = Instant::now();
        let answer = cluster.a.console().command(&agent, &["STATUS", "--timeout=2s"]);
        let took = sent_at.elapsed();
        answer.assert_code(5);
        let answer = answer.json();
        assert_eq!(answer["outcome"], "EXPIRED");
        assert!(TIME <= took, "{took:?}");
        let id = answer["command_id"].as_str().unwrap();
        let on_topic = wait_for("the answer on the topic", || {
            let answers = answers_to(&mut answers, &agent, id);
            (!answers.is_empty()).then_some(answers)
        });
        assert!(on_topic.iter().all(|answer| answer["outcome"] == "EXPIRED"), "{on_topic:?}");
        took < TIME + GRACE
    });
    assert!(is_timely, "it was told by the other server, or too late");
}

#[test]
fn when_the_server_that_took_a_command_dies_another_says_that_it_expired() {
    let test =
        "cluster::commands::when_the_server_that_took_a_command_dies_another_says_that_it_expired";
    let Some(mut cluster) = Cluster::start(test) else { return };
    let (mut commands, mut answers) = (cluster.reader(COMMANDS), cluster.reader(ANSWERS));
    let agent = cluster.agent_that_has_left();
    let console = cluster.a.console();
    thread::scope(|scope| {
        let lost = scope.spawn(|| console.command(&agent, &["STATUS", "--timeout=5s"]));
        let command = commands.wait_for("the command", &agent, |_| true);
        cluster.a.kill();
        lost.join().unwrap().assert_code(3);
        let answer = answers.wait_for("its end", &agent, |_| true);
        assert_eq!(answer["outcome"], "EXPIRED");
        assert_eq!(answer["command_id"], command["command_id"]);
    });
}

#[test]
fn kafka_is_enough_to_look_and_to_command() {
    let test = "cluster::commands::kafka_is_enough_to_look_and_to_command";
    let Some(mut cluster) = Cluster::with_own_kafka(test) else { return };
    let mut metrics = cluster.reader(METRICS);
    let agent = cluster.id("edge");
    cluster.a.start();
    let _agent = cluster.agent(&agent, [&cluster.a, &cluster.b]);
    super::wait_for_fresh_record(&mut metrics, &agent);
    let boot = cluster.a.console().status(&agent)["boot"].clone();
    let mut answers = cluster.reader(ANSWERS);
    cluster.a.kill();

    // What is there.
    let history = ["get-metrics", "--since=1h", "--no-follow", "--output=json", "--agent", &agent];
    let history = cluster.picket_on_kafka(history);
    history.assert_code(0);
    let sequences = |records: &[Value]| -> Vec<u64> {
        records.iter().map(|record| record["sequence"].as_u64().unwrap()).collect()
    };
    assert_eq!(sequences(&history.json_lines()), sequences(&metrics.read_of(&agent)));
    let events = cluster.picket_on_kafka(["events", "--output=json", &agent]);
    events.assert_code(0);
    assert_eq!(events.json_lines()[0]["event"], "CONNECTED");

    // What comes.
    let third = cluster.id("third-party");
    let follow = ["get-metrics", "--follow", "--limit=1", "--output=json", "--agent", &third];
    thread::scope(|scope| {
        let follower = scope.spawn(|| cluster.picket_on_kafka(follow));
        let record = json!({"agent_id": third, "timestamp": "2026-03-01T08:00:00Z",
            "metrics": {"cpu_percent": 12.5}, "metadata": {}});
        wait_for("the end of the follower", || {
            cluster.put(METRICS, &third, &record);
            follower.is_finished().then_some(())
        });
        let answer = follower.join().unwrap();
        answer.assert_code(0);
        assert_eq!(answer.json()["metrics"]["cpu_percent"], 12.5);
    });

    // One whose time is over before a server comes, and one that has a minute.
    let over = ["send-command", "--output=json", "--timeout=1s", &agent, "RESTART"];
    let over = cluster.picket_on_kafka(over);
    over.assert_code(7);
    let over = over.json();
    assert_eq!(over["outcome"], "UNKNOWN");
    cluster.put(COMMANDS, &agent, &fixed_form(&agent, "STATUS"));

    cluster.start_both();
    let answer = answers.wait_for("an answer", &agent, |answer| answer["outcome"] == "SUCCEEDED");
    assert_eq!(answer["boot"], boot, "it was not restarted");
    answers.wait_for("the end of the other command", &agent, |answer| {
        answer["command_id"] == over["command_id"]
    });
    // The servers cannot tell whether an earlier one had delivered it. Both may say so when they come at the same time.
    let id = over["command_id"].as_str().unwrap();
    let ends = answers_to(&mut answers, &agent, id);
    assert!(ends.iter().all(|answer| answer["outcome"] == "UNKNOWN"), "{ends:?}");

    let answer = cluster.picket_on_kafka(["send-command", "--output=json", &agent, "STATUS"]);
    answer.assert_code(0);
    assert_eq!(answer.json()["boot"], boot, "it was not restarted");
}
