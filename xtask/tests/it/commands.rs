//! Each command does what it says, and is answered.

use std::thread;
use std::time::Duration;

use serde_json::Value;

use crate::deployment::{Deployment, FAST, STOP_LIMIT, now_ms, wait_for};
use crate::record::{Record, assert_books_balance, assert_complete};

#[test]
fn status_tells_state_configuration_and_books() {
    let deployment = Deployment::start();
    let _agent = deployment.agent("edge-1", ["--interval=0.2", "--metrics=cpu,memory"]);
    deployment.wait_for_records("five records", "edge-1", |records| 5 <= records.len());

    let answer = deployment.command("edge-1", &["STATUS"]);
    answer.assert_code(0);
    let response = answer.json();
    assert_eq!(response["outcome"], "SUCCEEDED");
    assert_eq!(response["success"], true);
    assert_eq!(response["agent_id"], "edge-1");
    let status = &response["status"];
    assert_eq!(status["state"], "RUNNING");
    assert_eq!(status["interval_ms"], 200);
    assert_eq!(status["metrics"], serde_json::json!(["cpu", "memory"]));
    assert_eq!(status["boot"], response["boot"]);
    assert!(5 <= status["ledger"]["delivered"].as_u64().unwrap());
    assert_books_balance(status);
}

#[test]
fn stop_stops_data_and_start_resumes_it() {
    let deployment = Deployment::start();
    let _agent = deployment.agent("edge-1", FAST);
    deployment.wait_for_records("data", "edge-1", |records| 2 <= records.len());

    deployment.command("edge-1", &["STOP"]).assert_code(0);
    let stopped_ms = now_ms();
    assert_eq!(deployment.status("edge-1")["state"], "STOPPED");
    // Five intervals in which a running agent would have collected.
    thread::sleep(Duration::from_secs(1));
    let started_ms = now_ms();
    deployment.command("edge-1", &["START"]).assert_code(0);
    assert_eq!(deployment.status("edge-1")["state"], "RUNNING");

    let records = deployment.wait_for_fresh_record("edge-1");
    assert_complete(&records);
    let between = |record: &&Record| (stopped_ms..started_ms).contains(&record.timestamp_ms());
    assert_eq!(records.iter().find(between), None, "collected while stopped");
    assert!(started_ms <= records.last().unwrap().timestamp_ms());
}

#[test]
fn stop_and_start_can_be_repeated() {
    let deployment = Deployment::start();
    let _agent = deployment.agent("edge-1", FAST);
    deployment.wait_until_connected("edge-1");
    for command in ["START", "STOP", "STOP", "START", "START"] {
        deployment.command("edge-1", &[command]).assert_code(0);
    }
    deployment.wait_for_fresh_record("edge-1");
}

#[test]
fn update_config_applies_its_params_at_once() {
    let deployment = Deployment::start();
    let _agent = deployment.agent::<&str>("edge-1", []);
    deployment.wait_until_connected("edge-1");

    let update = [
        "UPDATE_CONFIG",
        "--param=interval=0.2",
        "--param=metrics=[\"memory\"]",
        "--param=plugins=[]",
    ];
    let answer = deployment.command("edge-1", &update);
    answer.assert_code(0);
    assert_eq!(answer.json()["outcome"], "SUCCEEDED");

    let status = deployment.status("edge-1");
    assert_eq!(status["interval_ms"], 200);
    assert_eq!(status["metrics"], serde_json::json!(["memory"]));
    assert_eq!(status["plugins"], serde_json::json!([]));
    let records = deployment.wait_for_fresh_record("edge-1");
    assert_eq!(
        records.last().unwrap().metric_names(),
        ["memory_percent", "memory_used_mb", "memory_total_mb"]
    );
}

#[test]
fn update_config_with_bad_params_changes_nothing() {
    let deployment = Deployment::start();
    let _agent = deployment.agent("edge-1", ["--interval=0.2", "--metrics=cpu"]);
    deployment.wait_until_connected("edge-1");

    deployment
        .command("edge-1", &["UPDATE_CONFIG", "--param=interval=-1"])
        .assert_refused(4, &["interval"]);
    deployment
        .command(
            "edge-1",
            &["UPDATE_CONFIG", "--param=metrics=[\"cpu\"]", "--param=plugins=[\"nonsense\"]"],
        )
        .assert_refused(4, &["plugins", "nonsense"]);

    let status = deployment.status("edge-1");
    assert_eq!(status["interval_ms"], 200);
    assert_eq!(status["state"], "RUNNING");
}

#[test]
fn restart_is_answered_by_the_new_boot_of_the_same_agent() {
    let deployment = Deployment::start();
    let mut agent = deployment.agent("edge-1", FAST);
    let before = deployment.wait_for_records("data", "edge-1", |records| 3 <= records.len());
    let old_boot = before[0].boot();

    let answer = deployment.command("edge-1", &["RESTART"]);
    answer.assert_code(0);
    let response = answer.json();
    assert_eq!(response["outcome"], "SUCCEEDED");
    assert_eq!(response["agent_id"], "edge-1");
    let new_boot = response["boot"].as_str().unwrap().to_owned();
    assert_ne!(new_boot, old_boot, "answered by the old boot");
    assert_eq!(deployment.agent_info("edge-1")["boot"], new_boot.as_str());

    let of = |records: &[Record], boot: &str| -> Vec<Record> {
        records.iter().filter(|record| record.boot() == boot).cloned().collect()
    };
    let records = deployment.wait_for_records("data of the new boot", "edge-1", |records| {
        3 <= of(records, &new_boot).len()
    });
    assert_complete(&of(&records, old_boot));
    assert_complete(&of(&records, &new_boot));
    assert_eq!(
        of(&records, old_boot).len() + of(&records, &new_boot).len(),
        records.len(),
        "one restart makes one boot"
    );

    assert!(agent.ended().unwrap().is_none(), "a supervisor would see the agent end");
    assert!(agent.terminate(STOP_LIMIT).unwrap().success());
}

#[test]
fn a_command_for_an_agent_that_is_away_expires() {
    let deployment = Deployment::start();
    let mut agent = deployment.agent("edge-1", FAST);
    deployment.wait_until_connected("edge-1");
    assert!(agent.terminate(STOP_LIMIT).unwrap().success());
    deployment.wait_until_gone("edge-1");

    let answer = deployment.command("edge-1", &["STATUS", "--timeout", "1s"]);
    answer.assert_code(5);
    assert_eq!(answer.json()["outcome"], "EXPIRED");
}

#[test]
fn a_command_waits_for_its_agent() {
    let deployment = Deployment::start();
    let mut agent = deployment.agent("edge-1", FAST);
    deployment.wait_until_connected("edge-1");
    assert!(agent.terminate(STOP_LIMIT).unwrap().success());

    let answer = thread::scope(|scope| {
        let command = scope.spawn(|| deployment.command("edge-1", &["STATUS"]));
        let _agent = deployment.agent("edge-1", FAST);
        command.join().unwrap()
    });
    answer.assert_code(0);
}

#[test]
fn a_command_for_an_agent_that_nobody_knows_is_refused() {
    let deployment = Deployment::start();
    let answer = deployment.command("nobody", &["STATUS"]);
    answer.assert_code(4);
    assert!(answer.json()["message"].as_str().unwrap().contains("nobody"), "{answer:?}");
}

#[test]
fn what_was_stopped_stays_so_through_a_kill() {
    let deployment = Deployment::start();
    let mut agent = deployment.agent("edge-1", FAST);
    deployment.wait_until_connected("edge-1");
    deployment.command("edge-1", &["STOP"]).assert_code(0);
    agent.kill().unwrap();

    let _agent = deployment.agent("edge-1", FAST);
    assert_eq!(deployment.status("edge-1")["state"], "STOPPED");
    wait_for("the list says so", || {
        (deployment.agent_info("edge-1")["status"]["state"] == "STOPPED").then_some(())
    });
    deployment.command("edge-1", &["START"]).assert_code(0);
    deployment.wait_for_fresh_record("edge-1");
}

#[test]
fn the_history_of_commands_tells_their_lives() {
    let mut deployment = Deployment::start();
    let mut agent = deployment.agent("edge-1", FAST);
    deployment.wait_until_connected("edge-1");
    let restart = deployment.command("edge-1", &["RESTART"]);
    restart.assert_code(0);
    let restart = restart.json();
    assert!(agent.terminate(STOP_LIMIT).unwrap().success());
    deployment.wait_until_gone("edge-1");
    deployment.command("edge-1", &["STATUS", "--timeout=500ms"]).assert_code(5);
    // The history outlives the server.
    deployment.stop_server();
    deployment.start_server();

    let list = |arguments: &[&str]| {
        let all = [["commands", "list", "--output=json"].as_slice(), arguments].concat();
        deployment.picket(all).json_lines()
    };
    let listed = list(&[]);
    let states = listed.iter().map(|command| command["state"].clone()).collect::<Vec<_>>();
    assert_eq!(states, ["SUCCEEDED", "EXPIRED"]);
    assert_eq!(list(&["--state", "expired"]).len(), 1);
    assert!(deployment.picket(["commands", "list", "edge-2"]).code == 6);

    let id = restart["command_id"].as_str().unwrap();
    let shown = deployment.picket(["commands", "show", id, "--output=json"]);
    shown.assert_code(0);
    let shown = shown.json();
    assert_eq!(shown["type"], "RESTART");
    let steps = shown["steps"].as_array().unwrap();
    let named = |state: &str| {
        let found = steps.iter().filter(|step| step["state"] == state).collect::<Vec<_>>();
        // The new boot may get the command too before its answer has come, and only then more than one step is the same.
        assert!(found.len() == 1 || state == "DELIVERED", "{state} in {steps:?}");
        found[0].clone()
    };
    let times =
        ["QUEUED", "DELIVERED", "RUNNING", "SUCCEEDED"].map(|state| named(state)["at_ms"].as_i64());
    assert!(times.is_sorted(), "{times:?}");
    assert!(named("DELIVERED")["server_id"].is_string());
    let ended = named("SUCCEEDED");
    assert_eq!(ended["boot"], restart["boot"]);
    assert_eq!(ended["previous_boot"], restart["previous_boot"]);
    assert_eq!(named("RUNNING")["boot"], restart["previous_boot"]);
}

#[test]
fn an_answer_that_was_late_amends_that_its_fate_is_unknown() {
    let deployment = Deployment::start();
    let agent = deployment.agent("edge-1", FAST);
    deployment.wait_until_connected("edge-1");
    // It takes the command and cannot answer.
    agent.pause().unwrap();
    let answer = deployment.command("edge-1", &["STOP", "--timeout=1s"]);
    answer.assert_code(7);
    let answer = answer.json();
    assert_eq!(answer["outcome"], "UNKNOWN");
    agent.resume().unwrap();

    let id = answer["command_id"].as_str().unwrap();
    let steps = wait_for("what the agent says of it", || {
        let shown = deployment.picket(["commands", "show", id, "--output=json"]).json();
        assert_eq!(shown["state"], "UNKNOWN", "the first answer counts");
        let steps = shown["steps"].as_array().unwrap().clone();
        steps.last().is_some_and(|step| step["amendment"] == true).then_some(steps)
    });
    let of_agent = steps.last().unwrap();
    assert_ne!(of_agent["state"], "UNKNOWN");
    assert!(of_agent["boot"].is_string() && of_agent["server_id"] == Value::Null, "{of_agent}");
}
