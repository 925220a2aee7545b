//! Several agents on one server, with names of their own and with the same name.

use std::fs;

use crate::deployment::{Deployment, FAST, wait_for};
use crate::record::assert_complete;

#[test]
fn three_agents_at_once_are_kept_apart() {
    const AGENTS: [&str; 3] = ["edge-1", "edge-2", "edge-3"];
    let deployment = Deployment::start();
    let _agents = AGENTS.map(|id| deployment.agent(id, FAST));
    for id in AGENTS {
        let records = deployment.wait_for_records("ten records", id, |records| 10 <= records.len());
        assert_complete(&records);
        assert!(records.iter().all(|record| record.json()["agent_id"] == id));
    }

    deployment.command("edge-2", &["STOP"]).assert_code(0);
    let states = AGENTS.map(|id| deployment.status(id)["state"].clone());
    assert_eq!(states, ["RUNNING", "STOPPED", "RUNNING"]);

    let listed = deployment.picket(["agents", "--output", "json"]).json_lines();
    assert_eq!(listed.len(), AGENTS.len());
    for (agent, id) in listed.iter().zip(AGENTS) {
        assert_eq!(agent["agent_id"], id);
        assert_eq!(agent["connected"], true);
    }
}

#[test]
fn a_second_host_with_the_same_id_is_refused_and_the_first_goes_on() {
    let deployment = Deployment::start();
    let _first = deployment.agent("edge-1", FAST);
    let boot = deployment.wait_for_fresh_record("edge-1")[0].boot().to_owned();

    let mut second = deployment.agent_elsewhere("other-host", "edge-1");
    let log = wait_for("the second is told why", || {
        let log = fs::read_to_string(second.log()).unwrap();
        log.contains("another").then_some(log)
    });
    assert!(log.contains("edge-1"), "{log}");
    wait_for("the server counts it", || {
        (1 <= deployment.counter("rejected.duplicate_id")).then_some(())
    });
    assert!(second.ended().unwrap().is_none(), "it tries again: the first may go away");

    let records = deployment.wait_for_fresh_record("edge-1");
    assert_complete(&records);
    assert_eq!(deployment.agent_info("edge-1")["boot"], boot.as_str());
    let status = deployment.status("edge-1");
    assert_eq!(status["boot"], boot.as_str());
    assert_eq!(status["sessions"], 1, "the first kept its connection");
}

#[test]
fn a_second_host_takes_the_id_over_when_the_first_is_gone() {
    let deployment = Deployment::start();
    let mut first = deployment.agent("edge-1", FAST);
    let boot = deployment.wait_for_fresh_record("edge-1")[0].boot().to_owned();
    first.kill().unwrap();
    let _second = deployment.agent_elsewhere("other-host", "edge-1");
    let records = deployment.wait_for_fresh_record("edge-1");
    assert_ne!(records.last().unwrap().boot(), boot);
}
