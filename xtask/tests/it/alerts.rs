//! An alert begins and ends, and the operator sees both, whatever happens to the server in between.

use std::thread;
use std::time::Duration;

use serde_json::{Value, json};

use crate::deployment::{Deployment, FAST, wait_for};
use crate::record::assert_books_balance;

/// No host uses less memory than this, so the alert stands from the first sample. The host of a test may be busy, so
/// there is no other rule.
fn always() -> Value {
    json!({"thresholds": {"memory_percent": {"above": 0, "severity": "critical"},
                          "cpu_percent": false, "disk_read_mb": false, "disk_write_mb": false,
                          "net_in_mb": false, "net_out_mb": false}})
}

/// The alerts of the memory of `edge-1` in the order of the bus. The first samples of an agent come before its configuration,
/// so there may be others.
fn alerts(deployment: &Deployment) -> Vec<Value> {
    let answer = deployment.picket(["alerts", "--since=1h", "--output=json", "edge-1"]);
    match answer.code {
        0 => of_memory(answer.json_lines()),
        // Nothing found.
        6 => Vec::new(),
        _ => panic!("{answer:?}"),
    }
}

fn transitions(alerts: &[Value]) -> Vec<(&str, &str)> {
    alerts
        .iter()
        .map(|alert| (alert["metric"].as_str().unwrap(), alert["transition"].as_str().unwrap()))
        .collect()
}

fn wait_for_alerts(deployment: &Deployment, count: usize) -> Vec<Value> {
    wait_for("alerts", || {
        let alerts = alerts(deployment);
        (count <= alerts.len()).then_some(alerts)
    })
}

fn of_memory(mut alerts: Vec<Value>) -> Vec<Value> {
    alerts.retain(|alert| alert["metric"] == "memory_percent");
    alerts
}

/// Those of them that stand.
fn active(deployment: &Deployment) -> Vec<Value> {
    let answer = deployment.picket(["alerts", "--active", "--output=json", "edge-1"]);
    match answer.code {
        0 => of_memory(answer.json_lines()),
        6 => Vec::new(),
        _ => panic!("{answer:?}"),
    }
}

#[test]
fn an_alert_is_raised_stands_and_ends_with_its_rule() {
    let deployment = Deployment::start();
    deployment.set_config("edge-1", &always().to_string()).assert_code(0);
    let _agent = deployment.agent("edge-1", FAST);
    let raised = wait_for_alerts(&deployment, 1);
    assert_eq!(transitions(&raised), [("memory_percent", "RAISED")]);
    assert_eq!(raised[0]["severity"], "CRITICAL", "{raised:?}");
    assert_eq!(raised[0]["limit"], 0.0, "{raised:?}");
    assert!(0.0 < raised[0]["value"].as_f64().unwrap(), "{raised:?}");
    assert_eq!(active(&deployment).len(), 1);

    let mut document = always();
    document["thresholds"]["memory_percent"] = json!(false);
    deployment.set_config("edge-1", &document.to_string()).assert_code(0);
    let ended = wait_for_alerts(&deployment, 2);
    assert_eq!(transitions(&ended)[1], ("memory_percent", "WITHDRAWN"));
    assert_eq!(active(&deployment), Vec::<Value>::new());

    let status = wait_for("both are acknowledged", || {
        let status = deployment.status("edge-1");
        let alerts = &status["ledger"]["alerts"];
        let delivered = alerts["delivered"].as_u64().unwrap();
        (2 <= delivered && alerts["recorded"] == delivered).then_some(status)
    });
    assert_books_balance(&status);
}

#[test]
fn an_alert_of_an_outage_arrives_once_when_the_server_is_back() {
    let mut deployment = Deployment::start();
    deployment.stop_server();
    let file = deployment.path().join("agent.toml");
    let rules = always()["thresholds"].to_string().replace(':', " = ");
    std::fs::write(&file, format!("[config]\ninterval = 0.2\nthresholds = {rules}\n")).unwrap();
    let _agent = deployment.agent("edge-1", ["--config", file.to_str().unwrap()]);
    thread::sleep(Duration::from_secs(1));
    deployment.start_server();
    assert_eq!(transitions(&wait_for_alerts(&deployment, 1)), [("memory_percent", "RAISED")]);

    deployment.kill_server();
    deployment.start_server();
    deployment.wait_for_fresh_record("edge-1");
    let all = alerts(&deployment);
    assert_eq!(transitions(&all), [("memory_percent", "RAISED")]);
    assert_eq!(all[0]["sequence"], 1);
    let status = deployment.status("edge-1");
    assert_eq!(status["ledger"]["alerts"]["recorded"], 1, "{status}");
}

#[test]
fn samples_that_do_not_meet_the_condition_are_counted_by_reason() {
    let deployment = Deployment::start();
    let document = json!({"plugins": ["filter"],
                          "condition": "memory_percent > 100 or memory_total_mb < 1 and cpu_percent >= 0"});
    deployment.set_config("edge-1", &document.to_string()).assert_code(0);
    let _agent = deployment.agent("edge-1", FAST);
    deployment.wait_until_connected("edge-1");
    let filter = wait_for("the filter drops", || {
        let status = deployment.status("edge-1");
        let plugins = status["ledger"]["plugins"].clone();
        let dropped = plugins["filter"]["dropped"]["condition"].as_u64().unwrap_or(0);
        (3 <= dropped).then(|| plugins["filter"].clone())
    });
    // The first samples came before the configuration.
    let count = |key: &str| filter[key].as_u64().unwrap_or(0);
    let dropped = filter["dropped"]["condition"].as_u64().unwrap();
    assert_eq!(count("received"), count("forwarded") + dropped, "{filter}");
}

#[test]
fn windows_of_time_carry_their_last_values() {
    let deployment = Deployment::start();
    let document = json!({"interval": 0.1, "plugins": ["aggregation"], "window_seconds": 0.5});
    deployment.set_config("edge-1", &document.to_string()).assert_code(0);
    let _agent = deployment.agent::<&str>("edge-1", []);
    let records = deployment.wait_for_records("two windows", "edge-1", |records| {
        2 <= records.iter().filter(|record| record.json()["window"].is_object()).count()
    });
    for window in records.iter().map(|record| &record.json()["window"]).filter(|w| w.is_object()) {
        assert!(window["duration_ms"].as_u64().unwrap() < 500, "{window}");
        let last = window["last"]["memory_used_mb"].as_f64().unwrap();
        assert!(window["min"]["memory_used_mb"].as_f64().unwrap() <= last, "{window}");
        assert!(last <= window["max"]["memory_used_mb"].as_f64().unwrap(), "{window}");
    }
}
