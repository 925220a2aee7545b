//! The agent's own watch of a real etcd.

use std::path::Path;

use agent_core::metric::Metric;
use proto::agent_message::Body;
use proto::command::CommandType;
use proto::{AgentStatus, ConfigOutcome, MetricsRequest};

use crate::full_server::{body, command, response, send};
use crate::kept_configuration::{kept_where, outcome, push, report};
use crate::process::Agent;
use crate::real_etcd::Private;
use crate::scripted::{Headers, ScriptedServer, Stream, message_where, welcome};

const DEFAULT: &str = "/monitor/config/_default";
const OWN: &str = "/monitor/config/full-1";

const UPTIME: &str = r#"{"interval": 0.2, "metrics": ["uptime"], "plugins": []}"#;

fn start(server: &ScriptedServer, etcd: &Private, state: &Path) -> Agent {
    let (server, etcd) = (server.address(), etcd.address());
    Agent::start(&[
        "--agent-id",
        "full-1",
        "--server",
        &server,
        "--etcd",
        &etcd,
        "--state-dir",
        state.to_str().unwrap(),
    ])
}

/// An agent that follows `etcd`, and its stream.
async fn follow(etcd: &Private) -> (ScriptedServer, tempfile::TempDir, Agent, Stream) {
    let state = tempfile::tempdir().unwrap();
    let mut server = ScriptedServer::start(Headers::Welcome(welcome())).await;
    let agent = start(&server, etcd, state.path());
    let stream = server.stream().await;
    assert!(stream.hello.as_ref().unwrap().own_config);
    (server, state, agent, stream)
}

async fn expect_applied(stream: &mut Stream, revision: u64) {
    let report = report(stream).await;
    assert_eq!(outcome(&report), (ConfigOutcome::Applied, revision, revision), "{report:?}");
}

async fn expect_rejected(stream: &mut Stream, revision: u64, running: u64) -> String {
    let report = report(stream).await;
    assert_eq!(outcome(&report), (ConfigOutcome::Rejected, revision, running), "{report:?}");
    report.reason
}

fn has_records_of(message: &MetricsRequest, present: u64) -> bool {
    match body(message) {
        Some(Body::Records(batch)) => batch.records.iter().any(|r| r.present == present),
        _ => false,
    }
}

async fn status(stream: &mut Stream, id: &str) -> AgentStatus {
    command(stream, id, CommandType::Status, &[]).await;
    response(stream).await.status.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn interval_metrics_and_plugins_change_live() {
    let Some(etcd) = Private::start("own_etcd::interval_metrics_and_plugins_change_live") else {
        return;
    };
    let outside = etcd.outsider();
    let first = outside.put(DEFAULT, UPTIME);
    let (_server, _state, _agent, mut stream) = follow(&etcd).await;
    expect_applied(&mut stream, first).await;
    message_where(&mut stream, |m| has_records_of(m, 1 << Metric::Uptime.id())).await;

    // The own layer lies over the default: its interval stays.
    let text = r#"{"metrics": ["memory"], "plugins": ["deduplication", "threshold_alert"]}"#;
    let second = outside.put(OWN, text);
    expect_applied(&mut stream, second).await;
    message_where(&mut stream, |m| has_records_of(m, 0b1110)).await;
    let said = status(&mut stream, "s1").await;
    assert_eq!((said.config_revision, said.interval_ms), (second, 200));
    assert_eq!(said.metrics, ["memory"]);
    assert_eq!(said.plugins, ["deduplication", "threshold_alert"]);

    // What a server pushes is not for this agent.
    send(&stream, push(second + 100, r#"{"interval": 77}"#)).await;
    let third = outside.put(OWN, r#"{"interval": 0.5, "plugins": ["filter"]}"#);
    expect_applied(&mut stream, third).await;
    let said = status(&mut stream, "s2").await;
    assert_eq!((said.config_revision, said.interval_ms), (third, 500));
    assert_eq!(
        (said.metrics, said.plugins),
        (vec!["uptime".to_owned()], vec!["filter".to_owned()])
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bad_or_deleted_document_changes_nothing_and_is_reported() {
    let test = "own_etcd::a_bad_or_deleted_document_changes_nothing_and_is_reported";
    let Some(etcd) = Private::start(test) else { return };
    let outside = etcd.outsider();
    let (mut server, state, agent, mut stream) = follow(&etcd).await;
    let good = outside.put(OWN, UPTIME);
    expect_applied(&mut stream, good).await;

    let bad = outside.put(OWN, r#"{"interval": 1, "thresholds": {"cpu_percent": -1}}"#);
    let reason = expect_rejected(&mut stream, bad, good).await;
    assert!(reason.starts_with(&format!("{OWN}: thresholds.cpu_percent: ")), "{reason}");
    for text in [b"{".as_slice(), b"\xff\xfe{\0}\0", b"", &[b' '; 70_000]] {
        let bad = outside.put(DEFAULT, text);
        let reason = expect_rejected(&mut stream, bad, good).await;
        assert!(reason.starts_with(DEFAULT), "{reason}");
    }
    // Right by itself, but not for this agent.
    outside.put(DEFAULT, "{}");
    report(&mut stream).await;
    let bad = outside.put(OWN, r#"{"plugins": ["own.none"]}"#);
    let reason = expect_rejected(&mut stream, bad, good).await;
    assert!(reason.starts_with("plugins[0]: "), "{reason}");

    let good = outside.put(OWN, UPTIME);
    expect_applied(&mut stream, good).await;
    let deleted = outside.delete(OWN);
    let reason = expect_rejected(&mut stream, deleted, good).await;
    assert!(reason.starts_with(&format!("{OWN} was deleted")), "{reason}");
    let said = status(&mut stream, "s").await;
    assert_eq!((said.config_revision, said.interval_ms), (good, 200));
    assert_eq!(said.last_config.unwrap().outcome(), ConfigOutcome::Rejected);

    // Nor does a new start change anything, although only an older document is there.
    kept_where(state.path(), |kept| kept["trial"]["version"]["revision"] == good).await;
    agent.terminate_at_once();
    drop(stream);
    let _agent = start(&server, &etcd, state.path());
    let mut stream = server.stream().await;
    assert_eq!(stream.hello.as_ref().unwrap().config_revision, good);
    let next = outside.put(DEFAULT, r#"{"interval": 0.3}"#);
    expect_applied(&mut stream, next).await;
    assert_eq!(status(&mut stream, "t").await.interval_ms, 300);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_etcd_delays_nothing_but_changes() {
    let Some(mut etcd) = Private::start("own_etcd::a_killed_etcd_delays_nothing_but_changes")
    else {
        return;
    };
    let outside = etcd.outsider();
    let first = outside.put(OWN, UPTIME);
    let (_server, _state, _agent, mut stream) = follow(&etcd).await;
    expect_applied(&mut stream, first).await;
    etcd.kill();
    for _ in 0..3 {
        message_where(&mut stream, |m| has_records_of(m, 1 << Metric::Uptime.id())).await;
    }
    etcd.restart();
    // Changes that a watch from the old revision could not tell of any more.
    let mut last = 0;
    for _ in 0..5 {
        last = outside.put(OWN, r#"{"interval": 7}"#);
    }
    outside.compact(last);
    while outcome(&report(&mut stream).await) != (ConfigOutcome::Applied, last, last) {}
    let next = outside.put(OWN, r#"{"interval": 0.4}"#);
    expect_applied(&mut stream, next).await;
    assert_eq!(status(&mut stream, "s").await.interval_ms, 400);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_starts_without_etcd_and_takes_another_cluster_for_what_it_is() {
    let test = "own_etcd::an_agent_starts_without_etcd_and_takes_another_cluster_for_what_it_is";
    let Some(mut etcd) = Private::start(test) else { return };
    let outside = etcd.outsider();
    for _ in 0..20 {
        outside.put(OWN, "{}");
    }
    let high = outside.put(OWN, UPTIME);
    let (mut server, state, agent, mut stream) = follow(&etcd).await;
    expect_applied(&mut stream, high).await;
    kept_where(state.path(), |kept| kept["trial"]["version"]["revision"] == high).await;
    agent.terminate_at_once();
    drop(stream);
    etcd.kill();

    let _agent = start(&server, &etcd, state.path());
    let mut stream = server.stream().await;
    assert_eq!(stream.hello.as_ref().unwrap().config_revision, high);
    message_where(&mut stream, |m| has_records_of(m, 1 << Metric::Uptime.id())).await;

    // Its revisions are lower, and right all the same.
    etcd.lose_everything();
    etcd.restart();
    let low = outside.put(OWN, r#"{"interval": 0.3}"#);
    assert!(low < high);
    expect_applied(&mut stream, low).await;
    assert_eq!(status(&mut stream, "s").await.interval_ms, 300);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cluster_made_anew_is_obeyed_although_it_counts_from_one_again() {
    let test = "own_etcd::a_cluster_made_anew_is_obeyed_although_it_counts_from_one_again";
    let Some(mut etcd) = Private::start(test) else { return };
    let outside = etcd.outsider();
    for _ in 0..20 {
        outside.put(OWN, "{}");
    }
    let (_server, _state, _agent, mut stream) = follow(&etcd).await;
    report(&mut stream).await;
    // On this very stream, on which an older revision would otherwise be a late one.
    let high = outside.put(OWN, UPTIME);
    expect_applied(&mut stream, high).await;
    etcd.kill();
    etcd.lose_everything();
    etcd.restart();
    let low = outside.put(OWN, r#"{"interval": 0.3}"#);
    assert!(low < high);
    // That the document is gone is told as well, if the agent was there before it was put again.
    while outcome(&report(&mut stream).await) != (ConfigOutcome::Applied, low, low) {}
}
