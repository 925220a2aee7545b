//! Servers and Kafka die, stand still and come back: what was acknowledged is on the topic, and commands go on.

use std::thread;

use serde_json::Value;

use super::{Cluster, answers_to, assert_all_arrived, wait_for_fresh_record};
use crate::deployment::{now_ms, wait_for};

const METRICS: &str = "monitoring-data";
const COMMANDS: &str = "commands";
const ANSWERS: &str = "command-responses";

#[test]
fn agents_of_a_server_that_is_killed_go_on_with_the_other_one() {
    let test = "cluster::outages::agents_of_a_server_that_is_killed_go_on_with_the_other_one";
    let Some(mut cluster) = Cluster::start(test) else { return };
    let mut metrics = cluster.reader(METRICS);
    let [one, two, other, new] = ["one", "two", "other", "new"].map(|name| cluster.id(name));
    let (a, b) = (&cluster.a, &cluster.b);
    let _agents = [(&one, [a, b]), (&two, [a, b]), (&other, [b, a])]
        .map(|(id, servers)| cluster.agent(id, servers));
    for agent in [&one, &two, &other] {
        wait_for_fresh_record(&mut metrics, agent);
    }
    cluster.wait_until_at(&one, &cluster.a);

    cluster.a.kill();
    let survivor = cluster.b.id();
    for agent in [&one, &two, &other] {
        wait_for("the survivor has the agent", || {
            let info = cluster.b.console().agent_info(agent);
            (info["connected"] == true && info["server_id"] == survivor).then_some(())
        });
        cluster.b.console().command(agent, &["STATUS"]).assert_code(0);
        wait_for_fresh_record(&mut metrics, agent);
    }

    cluster.a.start();
    let _agent = cluster.agent(&new, [&cluster.a, &cluster.b]);
    cluster.wait_until_at(&new, &cluster.a);
    cluster.wait_until_at(&one, &cluster.b);
    cluster.b.console().command(&new, &["STATUS"]).assert_code(0);
    wait_for_fresh_record(&mut metrics, &new);
    for agent in [&one, &two, &other, &new] {
        assert_all_arrived(cluster.a.console(), &mut metrics, agent);
    }
}

#[test]
fn a_kafka_that_is_killed_in_the_middle_loses_nothing_that_was_acknowledged() {
    let test = "cluster::outages::a_kafka_that_is_killed_in_the_middle_loses_nothing_that_was_acknowledged";
    let Some(mut cluster) = Cluster::with_own_kafka(test) else { return };
    cluster.start_both();
    let mut metrics = cluster.reader(METRICS);
    let [one, two, other] = ["one", "two", "other"].map(|name| cluster.id(name));
    let (a, b) = (&cluster.a, &cluster.b);
    let _agents = [(&one, [a, b]), (&two, [a, b]), (&other, [b, a])]
        .map(|(id, servers)| cluster.agent(id, servers));
    for agent in [&one, &two, &other] {
        wait_for_fresh_record(&mut metrics, agent);
    }
    for node in cluster.nodes() {
        node.wait_until_well();
    }

    cluster.kafka().kill().unwrap();
    let down_ms = now_ms();
    for node in cluster.nodes() {
        node.wait_until_degraded();
    }
    let back_ms = now_ms();
    cluster.kafka().restart().unwrap();
    for node in cluster.nodes() {
        node.wait_until_well();
    }
    for agent in [&one, &two, &other] {
        wait_for_fresh_record(&mut metrics, agent);
        assert_all_arrived(cluster.a.console(), &mut metrics, agent);
        let made_meanwhile = |record: &Value| {
            record["timestamp_ms"].as_i64().is_some_and(|at_ms| (down_ms..back_ms).contains(&at_ms))
        };
        assert!(metrics.read_of(agent).iter().any(made_meanwhile), "nothing of the outage");
    }
}

#[test]
fn a_server_that_stood_still_lets_go_of_agents_that_went_on() {
    let test = "cluster::outages::a_server_that_stood_still_lets_go_of_agents_that_went_on";
    let Some(mut cluster) = Cluster::start(test) else { return };
    let (mut metrics, mut answers) = (cluster.reader(METRICS), cluster.reader(ANSWERS));
    let agent = cluster.id("edge");
    let _agent = cluster.agent(&agent, [&cluster.a, &cluster.b]);
    wait_for_fresh_record(&mut metrics, &agent);
    cluster.wait_until_at(&agent, &cluster.a);

    cluster.a.process().pause().unwrap();
    let survivor = cluster.b.id();
    wait_for("the agent goes on with the other server", || {
        (cluster.b.console().agent_info(&agent)["server_id"] == survivor).then_some(())
    });
    // Its time is over when the first server goes on, which still takes the agent for its own.
    let answer = cluster.b.console().command(&agent, &["STOP", "--timeout=10s"]);
    let over_ms = now_ms() + 10_000;
    answer.assert_code(0);
    let stopped = answer.json();
    cluster.b.console().command(&agent, &["START"]).assert_code(0);
    wait_for_fresh_record(&mut metrics, &agent);
    wait_for("the end of the command's time", || (over_ms < now_ms()).then_some(()));

    cluster.a.process().resume().unwrap();
    cluster.wait_until_at(&agent, &cluster.b);
    // Its answer comes after that to the earlier command, in the same partition.
    assert_eq!(cluster.a.console().status(&agent)["state"], "RUNNING");
    let answers = answers_to(&mut answers, &agent, stopped["command_id"].as_str().unwrap());
    assert_eq!(answers.len(), 1, "{answers:?}");
    wait_for_fresh_record(&mut metrics, &agent);
    assert_all_arrived(cluster.a.console(), &mut metrics, &agent);
}

#[test]
fn a_server_that_stood_still_does_not_contradict_what_was_answered_meanwhile() {
    let test = "cluster::outages::a_server_that_stood_still_does_not_contradict_what_was_answered_meanwhile";
    let Some(mut cluster) = Cluster::start(test) else { return };
    let (mut commands, mut answers) = (cluster.reader(COMMANDS), cluster.reader(ANSWERS));
    let agent = cluster.agent_that_has_left();
    let console = cluster.a.console();
    thread::scope(|scope| {
        let sent = scope.spawn(|| console.command(&agent, &["STATUS", "--timeout=30s"]));
        commands.wait_for("the command", &agent, |_| true);
        let over_ms = now_ms() + 30_000;
        cluster.a.process().pause().unwrap();
        let _agent = cluster.agent(&agent, [&cluster.b, &cluster.a]);
        let answer = answers.wait_for("its answer", &agent, |_| true);
        assert_eq!(answer["outcome"], "SUCCEEDED", "{answer}");
        // The server finds a deadline that is long over when it goes on.
        wait_for("the end of its time", || (over_ms + 2_000 < now_ms()).then_some(()));
        cluster.a.process().resume().unwrap();
        // Its caller may have given it up by now.
        sent.join().unwrap();
        // What it says of another command comes after what it may say of this one.
        console.status(&agent);
        let answers = answers_to(&mut answers, &agent, answer["command_id"].as_str().unwrap());
        assert_eq!(answers.len(), 1, "{answers:?}");
    });
}

#[test]
fn servers_and_agents_that_start_before_kafka_lose_nothing() {
    let test = "cluster::outages::servers_and_agents_that_start_before_kafka_lose_nothing";
    let Some(mut cluster) = Cluster::with_own_kafka(test) else { return };
    let mut metrics = cluster.reader(METRICS);
    cluster.kafka().kill().unwrap();
    cluster.start_both();
    for node in cluster.nodes() {
        node.wait_until_degraded();
    }
    let [one, other] = ["one", "other"].map(|name| cluster.id(name));
    let (a, b) = (&cluster.a, &cluster.b);
    let _agents = [cluster.agent(&one, [a, b]), cluster.agent(&other, [b, a])];
    for (node, agent) in [(a, &one), (b, &other)] {
        wait_for("the server takes the agent", || {
            (node.console().agent_info(agent)["connected"] == true).then_some(())
        });
    }

    let back_ms = now_ms();
    cluster.kafka().restart().unwrap();
    for node in cluster.nodes() {
        node.wait_until_well();
    }
    for agent in [&one, &other] {
        wait_for_fresh_record(&mut metrics, agent);
        assert_all_arrived(cluster.b.console(), &mut metrics, agent);
        let first = &metrics.read_of(agent)[0];
        assert!(first["timestamp_ms"].as_i64().unwrap() < back_ms, "{first}");
    }
}
