//! `picket audit` on what the real programs have written: nothing is missing after kills and outages, and what was taken
//! away is named.

use std::fs;
use std::path::Path;
use std::thread;
use std::time::Duration;

use bus::embedded::{Database, Options};
use bus::{Bus as _, Delivery, Payload, Record, Selection, Start, Topic};
use serde_json::Value;

use crate::deployment::{Deployment, FAST, STOP_LIMIT, wait_for};

/// What `picket audit` ends with when something is missing.
const MISSING: i32 = 10;

/// The findings of one boot each.
fn audit(deployment: &Deployment, agent: &str) -> (i32, Vec<Value>) {
    let answer = deployment.picket(["audit", agent, "--output", "json"]);
    (answer.code, answer.json_lines())
}

#[test]
fn nothing_is_missing_after_kills_and_outages() {
    let mut deployment = Deployment::start();
    let mut steady = deployment.agent("steady", ["--interval=0.1"]);
    let mut killed = deployment.agent("killed", ["--interval=0.1"]);
    for agent in ["steady", "killed"] {
        deployment.wait_for_records("data", agent, |records| 5 <= records.len());
    }
    deployment.kill_server();
    thread::sleep(Duration::from_secs(1));
    deployment.start_server();
    for agent in ["steady", "killed"] {
        deployment.wait_for_fresh_record(agent);
    }
    killed.kill().unwrap();
    let mut killed = deployment.agent("killed", ["--interval=0.1"]);
    deployment.wait_for_fresh_record("killed");
    deployment.stop_server();
    thread::sleep(Duration::from_secs(1));
    deployment.start_server();
    for agent in ["steady", "killed"] {
        deployment.wait_for_fresh_record(agent);
    }
    // While they run there is always something on its way; it is told as such.
    deployment.picket(["audit"]).assert_code(0);
    for agent in [&mut steady, &mut killed] {
        assert!(agent.terminate(STOP_LIMIT).unwrap().success());
    }

    let settled = deployment.picket(["audit", "steady", "--wait=50s", "--output=json"]);
    settled.assert_code(0);
    let found = settled.json();
    assert_eq!((found["difference"].as_u64(), found["pending"].as_u64()), (Some(0), Some(0)));
    assert_eq!(found["state"], "ended");
    let records = &found["records"];
    assert_eq!((&records["before"], &records["disordered"]), (&0.into(), &0.into()), "{found}");
    assert_eq!(records["delivered"], records["last"], "{found}");
    assert_eq!(records["word"]["off_by"], 0, "{found}");

    // What the killed boot held at its end may be open until its next boot declares it; what followed is whole.
    let boots = wait_for("the boot after the kill to settle", || {
        let (code, boots) = audit(&deployment, "killed");
        assert_eq!(code, 0, "{boots:?}");
        let last = boots.last()?;
        (boots.len() == 2 && last["pending"] == 0 && last["state"] == "ended").then_some(boots)
    });
    for boot in &boots {
        assert_eq!(boot["difference"], 0, "{boot}");
        assert_eq!(boot["records"]["disordered"], 0, "{boot}");
    }
    let pending = &boots[0]["records"]["pending"];
    assert_eq!((&pending["held"], &pending["unjudged"]), (&0.into(), &0.into()), "{boots:?}");
}

#[test]
fn a_record_that_was_taken_away_is_named() {
    let mut deployment = Deployment::start();
    let mut agent = deployment.agent("edge-1", FAST);
    deployment.wait_for_records("data", "edge-1", |records| 6 <= records.len());
    assert!(agent.terminate(STOP_LIMIT).unwrap().success());
    deployment.wait_until_gone("edge-1");
    deployment.picket(["audit", "--wait=50s"]).assert_code(0);

    deployment.stop_server();
    let original = deployment.path().join("original");
    fs::rename(deployment.data(), &original).unwrap();
    copy_without(&original, &deployment.data(), 3);
    deployment.start_server();

    let (code, boots) = audit(&deployment, "edge-1");
    assert_eq!(code, MISSING, "{boots:?}");
    let missing = &boots[0]["records"]["missing"];
    assert_eq!(missing["count"], 1, "{boots:?}");
    assert_eq!(missing["acknowledged"], 1, "{boots:?}");
    assert_eq!(missing["ranges"], serde_json::json!([[3, 3]]), "{boots:?}");
    let told = deployment.picket(["audit"]);
    told.assert_code(MISSING);
    let boot = boots[0]["boot"].as_str().unwrap();
    let finding = format!("edge-1 boot {boot}: 1 records are missing, 3, 1 of them acknowledged");
    assert!(told.stdout.contains(&finding), "{told:?}");
}

/// Copies the records and statuses of one data directory of a server into another, but for the record with `sequence`.
fn copy_without(from: &Path, to: &Path, sequence: u64) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
    let open = |dir: &Path| Database::open(dir, Options::default()).unwrap();
    runtime.block_on(async {
        let (from, to) = (open(from).bus(), open(to).bus());
        for topic in [Topic::AgentStatus, Topic::MonitoringData] {
            let mut reader = from.subscribe(topic, Start::Oldest, Selection::All).await.unwrap();
            loop {
                let Delivery::Entries(entries) = reader.next().await.unwrap() else { break };
                let records = entries.into_iter().filter(|entry| match &entry.payload {
                    Payload::Metrics(metrics) => {
                        metrics.record.as_ref().is_none_or(|record| record.sequence != sequence)
                    }
                    Payload::Command(_) | Payload::Response(_) | Payload::Status(_) => true,
                });
                let record = records.map(|entry| Record { key: entry.key, payload: entry.payload });
                to.publish(record.collect()).await.unwrap();
            }
        }
        from.close().await.unwrap();
        to.close().await.unwrap();
    });
}
