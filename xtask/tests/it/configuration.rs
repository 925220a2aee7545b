//! The configuration of the server's store reaches running agents, and bad ones change nothing.

use serde_json::{Value, json};

use crate::deployment::{Deployment, wait_for};
use crate::record::{Record, assert_complete};

/// A deployment with one agent that has no settings of its own, and samples fast by the layer below.
fn with_plain_agent() -> (Deployment, xtask::fleet::Process) {
    let deployment = Deployment::start();
    deployment.set_config("_default", r#"{"interval": 0.2}"#).assert_code(0);
    let agent = deployment.agent::<&str>("edge-1", []);
    deployment.wait_for_fresh_record("edge-1");
    (deployment, agent)
}

/// Sets the agent's document and checks that the agent reports it applied.
#[track_caller]
fn apply(deployment: &Deployment, document: &Value) -> Value {
    let answer = deployment.set_config("edge-1", &document.to_string());
    answer.assert_code(0);
    let change = answer.json();
    assert_eq!(change["report"]["outcome"], "APPLIED", "{change}");
    assert_eq!(change["report"]["revision"], change["revision"], "{change}");
    change
}

#[test]
fn interval_changes_live() {
    let (deployment, _agent) = with_plain_agent();
    assert_eq!(deployment.status("edge-1")["interval_ms"], 200);
    apply(&deployment, &json!({"interval": 0.1}));
    assert_eq!(deployment.status("edge-1")["interval_ms"], 100);
    apply(&deployment, &json!({"interval": 3600}));
    assert_eq!(deployment.status("edge-1")["interval_ms"], 3_600_000);
    // An agent that sleeps for an hour still hears the next change.
    apply(&deployment, &json!({"interval": 0.1}));
    let records = deployment.wait_for_fresh_record("edge-1");
    assert_complete(&records);
    assert_eq!(deployment.status("edge-1")["sessions"], 1, "a change needs no new connection");
}

#[test]
fn metrics_change_live() {
    let (deployment, _agent) = with_plain_agent();
    apply(&deployment, &json!({"metrics": ["cpu", "disk write"]}));
    deployment.wait_for_records("only these metrics", "edge-1", |records| {
        records
            .last()
            .is_some_and(|record| record.metric_names() == ["cpu_percent", "disk_write_mb"])
    });

    deployment.picket(["config", "unset", "edge-1"]).assert_code(0);
    deployment.wait_for_records("all metrics again", "edge-1", |records| {
        records.last().is_some_and(|record| record.metric_names().len() == 8)
    });
}

#[test]
fn plugins_change_live() {
    let (deployment, _agent) = with_plain_agent();

    apply(
        &deployment,
        &json!({"plugins": ["agent.plugins.threshold_alert.ThresholdAlertPlugin"],
                "thresholds": {"memory_percent": 0.0}}),
    );
    let alerted = |record: &Record| {
        let alerts = record.json()["alerts"].as_array();
        alerts.is_some_and(|alerts| alerts.iter().any(|alert| alert["metric"] == "memory_percent"))
    };
    deployment
        .wait_for_records("an alert", "edge-1", |records| records.last().is_some_and(alerted));

    apply(&deployment, &json!({"plugins": ["aggregation"], "window_size": 3}));
    let whole_window = |record: &Record| record.json()["window"]["count"] == 3;
    let records = deployment
        .wait_for_records("a window", "edge-1", |records| records.last().is_some_and(whole_window));
    let window = &records.last().unwrap().json()["window"];
    let average = records.last().unwrap().metric("memory_used_mb").unwrap();
    assert!(window["min"]["memory_used_mb"].as_f64().unwrap() <= average);
    assert!(average <= window["max"]["memory_used_mb"].as_f64().unwrap());

    apply(&deployment, &json!({"plugins": ["filter"], "min_memory": 100.0}));
    let count_after_change = deployment.status("edge-1")["ledger"]["recorded"].clone();
    wait_for("the filter drops", || {
        let status = deployment.status("edge-1");
        let dropped = status["ledger"]["suppressed"]["filter"].as_u64().unwrap_or(0);
        assert_eq!(status["ledger"]["recorded"], count_after_change, "the filter drops everything");
        (5 <= dropped).then_some(())
    });
}

#[test]
fn a_bad_document_is_refused_and_changes_nothing() {
    let (deployment, _agent) = with_plain_agent();
    let applied = apply(&deployment, &json!({"interval": 0.3}));

    let check = |document: &str, words: &[&str]| {
        deployment.set_config("edge-1", document).assert_refused(4, words);
    };
    check(r#"{"interval": -1}"#, &["interval"]);
    check(r#"{"interval": "often"}"#, &["interval"]);
    check(r#"{"plugins": ["deduplication", "nonsense"]}"#, &["plugins[1]", "nonsense"]);
    check(r#"{"metrics": ["cpu", "gpu"]}"#, &["metrics[1]", "gpu"]);
    check(r#"{"interval": 1"#, &[]);
    check("[]", &[]);
    check("", &[]);
    // This one does not even leave the tool.
    let oversized = format!(r#"{{"note": "{}"}}"#, "x".repeat(70_000));
    deployment.set_config("edge-1", &oversized).assert_refused(2, &["65536"]);

    let stored = deployment.picket(["config", "get", "edge-1", "--output", "json"]).json();
    assert_eq!(stored["revision"], applied["revision"]);
    assert_eq!(stored["document"], json!({"interval": 0.3}));
    assert_eq!(deployment.status("edge-1")["interval_ms"], 300);
    assert!(1 <= deployment.counter("rejected.config"));
}

#[test]
fn a_stale_change_is_refused() {
    let (deployment, _agent) = with_plain_agent();
    let revision = apply(&deployment, &json!({"interval": 0.3}))["revision"].to_string();
    apply(&deployment, &json!({"interval": 0.4}));
    let file = deployment.path().join("document.json");
    std::fs::write(&file, r#"{"interval": 0.5}"#).unwrap();
    let arguments =
        ["config", "set", "edge-1", file.to_str().unwrap(), "--expected-revision", &revision];
    deployment.picket(arguments).assert_refused(4, &["revision"]);
    assert_eq!(deployment.status("edge-1")["interval_ms"], 400);
}

#[test]
fn flags_of_the_agent_win_and_are_named() {
    let deployment = Deployment::start();
    let _agent = deployment.agent("edge-1", ["--interval", "0.2"]);
    deployment.wait_until_connected("edge-1");
    let change = apply(&deployment, &json!({"interval": 7, "metrics": ["memory"]}));
    assert_eq!(change["report"]["overridden"], json!(["interval"]));
    let status = deployment.status("edge-1");
    assert_eq!(status["interval_ms"], 200);
    assert_eq!(status["metrics"], json!(["memory"]));
}

#[test]
fn a_configuration_waits_for_its_agent() {
    let deployment = Deployment::start();
    deployment.set_config("edge-1", r#"{"interval": 0.2, "metrics": ["memory"]}"#).assert_code(0);
    let _agent = deployment.agent::<&str>("edge-1", []);
    deployment.wait_until_connected("edge-1");
    let info = wait_for("the agent reports the configuration", || {
        let info = deployment.agent_info("edge-1");
        (info["config_applied"] == info["config_wanted"]).then_some(info)
    });
    assert_ne!(info["config_wanted"], 0);
    assert_eq!(deployment.status("edge-1")["interval_ms"], 200);
}
