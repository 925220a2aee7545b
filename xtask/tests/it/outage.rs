//! Servers and agents stop, die and come back; what was acknowledged stays, what was held is delivered.

use std::thread;
use std::time::Duration;

use crate::deployment::{Deployment, FAST, STOP_LIMIT, now_ms};
use crate::record::{assert_books_balance, assert_complete};

/// Runs an agent across an outage of the server that begins with `end_server`.
fn check_outage(end_server: fn(&mut Deployment)) {
    let mut deployment = Deployment::start();
    let _agent = deployment.agent("edge-1", FAST);
    let before = deployment.wait_for_records("data", "edge-1", |records| 5 <= records.len());

    end_server(&mut deployment);
    let ended_ms = now_ms();
    // The outage: ten intervals.
    thread::sleep(Duration::from_secs(2));
    let back_ms = now_ms();
    deployment.start_server();

    let after = deployment.wait_for_fresh_record("edge-1");
    assert_eq!(after[..before.len()], before, "what was acknowledged is still there");
    assert_complete(&after);
    let made_in_outage =
        after.iter().filter(|record| (ended_ms..back_ms).contains(&record.timestamp_ms())).count();
    // Not ten: a busy machine skips samples.
    assert!(0 < made_in_outage, "no record of the outage was delivered");

    let status = deployment.status("edge-1");
    assert_books_balance(&status);
    let lost = status["ledger"]["lost"].as_object().unwrap();
    assert!(lost.values().all(|count| count == 0), "{status}");
    assert_eq!(after[0].boot(), status["boot"], "the agent itself went on");
}

#[test]
fn a_server_that_is_stopped_and_started_loses_nothing() {
    check_outage(Deployment::stop_server);
}

#[test]
fn a_server_that_is_killed_and_started_loses_nothing() {
    check_outage(Deployment::kill_server);
}

#[test]
fn a_server_that_is_killed_again_and_again_loses_nothing() {
    let mut deployment = Deployment::start();
    let _agent = deployment.agent("edge-1", ["--interval=0.1"]);
    let mut before = Vec::new();
    for _ in 0..4 {
        let after = deployment.wait_for_fresh_record("edge-1");
        assert_eq!(after[..before.len()], before);
        before = after;
        deployment.kill_server();
        deployment.start_server();
    }
    assert_complete(&deployment.wait_for_fresh_record("edge-1"));
}

#[test]
fn an_agent_that_starts_before_its_server_delivers_from_its_first_record() {
    let mut deployment = Deployment::start();
    deployment.stop_server();
    let mut agent = deployment.agent("edge-1", FAST);
    thread::sleep(Duration::from_secs(1));
    assert!(agent.ended().unwrap().is_none(), "it waits for the server");
    deployment.start_server();
    assert_complete(&deployment.wait_for_fresh_record("edge-1"));
}

#[test]
fn an_agent_that_is_stopped_delivers_what_it_holds() {
    let deployment = Deployment::start();
    let mut agent = deployment.agent("edge-1", ["--interval=0.1", "--plugins=aggregation"]);
    deployment.wait_for_records("data", "edge-1", |records| 2 <= records.len());
    assert!(agent.terminate(STOP_LIMIT).unwrap().success());

    let records = deployment.records("edge-1");
    assert_complete(&records);
    deployment.wait_until_gone("edge-1");
}

#[test]
fn an_agent_stops_in_time_when_there_is_no_server() {
    let mut deployment = Deployment::start();
    deployment.stop_server();
    let mut agent = deployment.agent("edge-1", FAST);
    thread::sleep(Duration::from_secs(1));
    assert!(agent.terminate(STOP_LIMIT).unwrap().success());
}

#[test]
fn an_agent_that_is_killed_starts_a_new_boot() {
    let deployment = Deployment::start();
    let mut agent = deployment.agent("edge-1", FAST);
    let before = deployment.wait_for_records("data", "edge-1", |records| 3 <= records.len());
    agent.kill().unwrap();
    let _agent = deployment.agent("edge-1", FAST);
    let records = deployment.wait_for_fresh_record("edge-1");
    let new_boot = records.last().unwrap().boot();
    assert_ne!(new_boot, before[0].boot());
    let of_new: Vec<_> =
        records.iter().filter(|record| record.boot() == new_boot).cloned().collect();
    assert_complete(&of_new);
}
