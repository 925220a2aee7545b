//! A plain agent and a plain analyst in place of ours: our server serves them.

use serde_json::Value;
use xtask::peers::Python;

use super::{Peer, ask};
use crate::deployment::{Deployment, FAST, STOP_LIMIT, wait_for};
use crate::picket::Answer;
use crate::record::Record;

const TYPES: [&str; 5] = ["STATUS", "STOP", "START", "UPDATE_CONFIG", "RESTART"];

fn plain_agent(python: &Python, deployment: &Deployment, id: &str) -> Peer {
    let arguments = [deployment.address().to_string(), id.to_owned()];
    Peer::start(python, "agent.py", arguments, deployment.path())
}

fn plain_analyst(python: &Python, deployment: &Deployment, id: &str, kind: &str) -> Answer {
    let server = deployment.address().to_string();
    ask(python, "analysis.py", [server.as_str(), id, kind])
}

/// That `record` is snapshot `n` of `agent.py`, whole, and nothing else.
#[track_caller]
fn assert_is_snapshot(record: &Record, n: u32) {
    let expected = [
        ("cpu_percent", f64::from(n % 100) + super::CPU_PERCENT_OFFSET),
        ("memory_percent", 50.0),
        ("memory_used_mb", 1024.0),
        ("memory_total_mb", 2048.0),
        ("disk_read_mb", 0.5),
        ("disk_write_mb", 1.5),
        ("net_in_mb", 0.25),
        ("net_out_mb", 0.125),
    ];
    for (name, value) in expected {
        assert_eq!(record.metric(name), Some(value), "{name} of {n}: {record:?}");
    }
    assert_eq!(record.metric_names().len(), expected.len(), "{record:?}");
    let json = record.json();
    assert_eq!(json["metadata"]["made_by"], "python", "{record:?}");
    assert_eq!(record.timestamp_ms() % 1000, 0, "it knows seconds only: {record:?}");
    assert!(json["boot"].is_null() && json["sequence"].is_null(), "it has no name: {record:?}");
}

#[test]
fn a_plain_agent_is_shown_like_any_other() {
    let Some(python) = Python::for_test("python::agent::a_plain_agent_is_shown_like_any_other")
    else {
        return;
    };
    let deployment = Deployment::start();
    let mut agent = plain_agent(python, &deployment, "edge-py");
    let records = deployment.wait_for_records("some", "edge-py", |records| 5 <= records.len());
    for (record, n) in records.iter().zip(0..) {
        assert_is_snapshot(record, n);
    }
    let info = deployment.agent_info("edge-py");
    assert_eq!(info["dialect"], "plain", "{info}");
    assert_eq!(info["connected"], true, "{info}");

    agent.kill();
    deployment.wait_until_gone("edge-py");
}

#[test]
fn a_plain_analyst_commands_a_plain_agent() {
    let Some(python) = Python::for_test("python::agent::a_plain_analyst_commands_a_plain_agent")
    else {
        return;
    };
    let deployment = Deployment::start();
    let mut agent = plain_agent(python, &deployment, "edge-py");
    deployment.wait_until_connected("edge-py");
    for kind in TYPES {
        let answer = plain_analyst(python, &deployment, "edge-py", kind);
        answer.assert_code(0);
        let answer = answer.json();
        assert_eq!(answer["success"], true, "{answer}");
        assert_eq!(answer["agent_id"], "edge-py", "{answer}");
        // It cannot be known whether a plain agent has done it.
        assert!(answer["message"].as_str().unwrap().contains("does not answer"), "{answer}");
    }
    // Ours has the same answer.
    let answer = deployment.command("edge-py", &["STATUS"]);
    answer.assert_code(0);
    assert_eq!(answer.json()["outcome"], "SUCCEEDED", "{answer:?}");

    let commands = agent.wait_for_count("command", TYPES.len() + 1);
    let texts = |name: &str| -> Vec<&str> {
        commands.iter().map(|command| command[name].as_str().unwrap()).collect()
    };
    assert_eq!(texts("type"), [TYPES.as_slice(), &["STATUS"]].concat());
    assert!(texts("agent_id").iter().all(|id| *id == "edge-py"), "{commands:?}");
    // Whoever did not give an id was given one.
    let mut ids = texts("command_id");
    assert!(ids.iter().all(|id| !id.is_empty()), "{commands:?}");
    ids.sort_unstable();
    ids.dedup();
    assert_eq!(ids.len(), commands.len(), "{commands:?}");
}

#[test]
fn a_plain_analyst_commands_our_agent() {
    let Some(python) = Python::for_test("python::agent::a_plain_analyst_commands_our_agent") else {
        return;
    };
    let deployment = Deployment::start();
    let _agent = deployment.agent("edge-1", FAST);
    deployment.wait_until_connected("edge-1");
    let send = |kind: &str| {
        let answer = plain_analyst(python, &deployment, "edge-1", kind);
        answer.assert_code(0);
        let answer = answer.json();
        assert_eq!(answer["success"], true, "{answer}");
        assert_eq!(answer["agent_id"], "edge-1", "{answer}");
        assert!(0 < answer["timestamp"].as_i64().unwrap(), "{answer}");
    };
    let state = || deployment.status("edge-1")["state"].clone();
    send("STATUS");
    send("STOP");
    assert_eq!(state(), "STOPPED");
    send("START");
    assert_eq!(state(), "RUNNING");
    let boot = || deployment.status("edge-1")["boot"].clone();
    let before = boot();
    send("RESTART");
    assert_ne!(boot(), before, "the answer comes from the new boot");

    let refused = plain_analyst(python, &deployment, "../etc", "STATUS");
    refused.assert_code(1);
    assert_eq!(refused.json()["code"], "INVALID_ARGUMENT", "{refused:?}");
}

#[test]
fn agents_are_exchanged_one_for_the_other_and_back() {
    let test = "python::agent::agents_are_exchanged_one_for_the_other_and_back";
    let Some(python) = Python::for_test(test) else {
        return;
    };
    let deployment = Deployment::start();
    let dialect = || {
        let info = deployment.agent_info("edge-1");
        (info["connected"] == true).then(|| info["dialect"].as_str().unwrap().to_owned())
    };
    let wait_for_dialect = |expected: &str| {
        wait_for(expected, || (dialect().as_deref() == Some(expected)).then_some(()));
    };
    let is_plain = |record: &&Record| record.json()["boot"] == Value::Null;

    let mut plain = plain_agent(python, &deployment, "edge-1");
    wait_for_dialect("plain");
    deployment.wait_for_fresh_record("edge-1");
    plain.kill();
    deployment.wait_until_gone("edge-1");

    let mut ours = deployment.agent("edge-1", FAST);
    wait_for_dialect("full");
    let records = deployment.wait_for_records("ours", "edge-1", |records| {
        records.last().is_some_and(|record| !is_plain(&record))
    });
    let plain_count = records.iter().filter(is_plain).count();
    assert!(0 < plain_count, "what came before is still there");
    assert!(ours.terminate(STOP_LIMIT).unwrap().success());
    deployment.wait_until_gone("edge-1");

    let _plain = plain_agent(python, &deployment, "edge-1");
    wait_for_dialect("plain");
    deployment.wait_for_records("plain ones again", "edge-1", |records| {
        plain_count < records.iter().filter(is_plain).count()
    });
}
