//! Several agents on one server, with names of their own and with the same name.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use crate::deployment::{Deployment, FAST, STOP_LIMIT, wait_for};
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

/// Copies the state of the agent `id` to the host that [`Deployment::agent_elsewhere`] calls `host`.
fn copy_state(deployment: &Deployment, host: &str, id: &str) {
    let (from, to) = (Path::new("state").join(id), Path::new(host).join("state").join(id));
    let (from, to) = (deployment.path().join(from), deployment.path().join(to));
    copy_all(&from, &to);
}

/// Copies a directory with all that is in it.
fn copy_all(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let to = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy_all(&entry.path(), &to);
        } else {
            fs::copy(entry.path(), to).unwrap();
        }
    }
}

fn troubles(deployment: &Deployment) -> String {
    deployment.agent_info("edge-1")["troubles"].to_string()
}

#[test]
fn a_copied_disk_is_suspected_and_its_commands_must_be_forced() {
    let mut deployment = Deployment::start();
    let mut original = deployment.agent("edge-1", FAST);
    deployment.wait_for_fresh_record("edge-1");
    assert!(original.terminate(STOP_LIMIT).unwrap().success());
    copy_state(&deployment, "other-host", "edge-1");

    let mut original = deployment.agent("edge-1", FAST);
    deployment.wait_for_fresh_record("edge-1");
    assert_eq!(troubles(&deployment), "null");
    deployment.command("edge-1", &["STATUS"]).assert_code(0);
    let _copy = deployment.agent_elsewhere("other-host", "edge-1");
    wait_for("both are told of", || {
        let troubles = troubles(&deployment);
        (troubles.contains("duplicate id: ") && troubles.contains("clone suspected: "))
            .then_some(())
    });
    let refused = deployment.command("edge-1", &["STOP"]);
    refused.assert_code(4);
    assert!(refused.json()["message"].as_str().unwrap().contains("--force"), "{refused:?}");
    deployment.command("edge-1", &["STATUS", "--force"]).assert_code(0);
    let events = ["events", "edge-1", "--event=clone_suspected,duplicate_id", "--output=json"];
    assert!(2 <= deployment.picket(events).json_lines().len());

    // It is known still when the server begins anew, and when the original is gone.
    original.kill().unwrap();
    deployment.stop_server();
    deployment.start_server();
    deployment.wait_until_connected("edge-1");
    assert!(troubles(&deployment).contains("clone suspected: "), "{}", troubles(&deployment));
    deployment.command("edge-1", &["STATUS"]).assert_code(4);

    // What the two sent is told apart.
    let records = deployment.wait_for_fresh_record("edge-1");
    let boots = records.iter().map(|record| record.boot().to_owned()).collect::<BTreeSet<_>>();
    assert_eq!(boots.len(), 3, "two of the original, one of the copy");
    for boot in boots {
        let of_boot = records.iter().filter(|record| record.boot() == boot);
        assert_complete(&of_boot.cloned().collect::<Vec<_>>());
    }
}
