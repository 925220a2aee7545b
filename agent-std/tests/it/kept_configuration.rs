//! Remote configurations that outlive the process, stand a trial, and are taken back.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use agent_core::metric::Metric;
use proto::agent_message::Body;
use proto::server_message::Body as ServerBody;
use proto::{Command, ConfigOutcome, ConfigPush, ConfigReport, RecordBatch, ServerMessage};
use serde_json::Value;

use crate::full_server::{batch, body, send};
use crate::process::{Agent, PATIENCE};
use crate::scripted::{Headers, ScriptedServer, Stream, message_where, welcome};
use crate::settings::settings;

const UPTIME_ONLY: &str = r#"{"interval":0.2,"metrics":["uptime"],"plugins":[]}"#;
const MEMORY_ONLY: &str = r#"{"interval":0.2,"metrics":["memory"],"plugins":[]}"#;

pub(crate) fn push(revision: u64, document: &str) -> ServerBody {
    ServerBody::Config(ConfigPush { revision, document: document.to_owned() })
}

/// A server that pushes this with its welcome, ends the stream, and refuses all others.
fn last_word(revision: u64, document: &str) -> [Headers; 2] {
    let message = Some(ServerMessage { body: Some(push(revision, document)) });
    let word = Command { message, ..Command::default() };
    [Headers::LastWord(welcome(), Box::new(word)), Headers::Refused]
}

pub(crate) async fn report(stream: &mut Stream) -> ConfigReport {
    let message = message_where(stream, |message| matches!(body(message), Some(Body::Config(_))));
    match message.await.message.unwrap().body {
        Some(Body::Config(report)) => report,
        other => panic!("{other:?}"),
    }
}

pub(crate) fn outcome(report: &ConfigReport) -> (ConfigOutcome, u64, u64) {
    (report.outcome(), report.revision, report.running)
}

fn start(server: &ScriptedServer, state: &Path, confirm: &str) -> Agent {
    let (address, state) = (server.address(), state.to_str().unwrap());
    let arguments = ["--agent-id", "kept-1", "--server", &address, "--state-dir", state];
    Agent::start(&[arguments.as_slice(), &["--config-confirm", confirm]].concat())
}

/// Waits until what is kept is so; answers it.
pub(crate) async fn kept_where(state: &Path, mut condition: impl FnMut(&Value) -> bool) -> Value {
    let path = state.join("configuration");
    let deadline = Instant::now() + PATIENCE;
    let mut last = Value::Null;
    while Instant::now() < deadline {
        // The file is replaced as a whole, so it is never seen half written.
        if let Ok(text) = fs::read_to_string(&path)
            && let Some((_, content)) = text.split_once('\n')
        {
            last = serde_json::from_str(content).unwrap();
            if condition(&last) {
                return last;
            }
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    panic!("what is kept is {last}");
}

fn assert_uptime_only(batch: &RecordBatch) {
    for record in &batch.records {
        assert_eq!(record.present, 1 << Metric::Uptime.id(), "{record:?}");
    }
}

fn runs(kept: &Value) -> Option<u64> {
    kept["trial"]["runs"].as_u64()
}

/// Starts an agent and brings it to run `UPTIME_ONLY`, revision 4, which it has confirmed.
async fn confirmed(confirm: &str) -> (ScriptedServer, tempfile::TempDir, Agent, Stream) {
    let state = tempfile::tempdir().unwrap();
    let mut server = ScriptedServer::start(Headers::Welcome(welcome())).await;
    // As short as can be, so that it is confirmed at once.
    let agent = start(&server, state.path(), "1ms");
    let mut stream = server.stream().await;
    send(&stream, push(4, UPTIME_ONLY)).await;
    assert_eq!(outcome(&report(&mut stream).await), (ConfigOutcome::Applied, 4, 4));
    kept_where(state.path(), |kept| kept["confirmed"]["revision"] == 4).await;
    agent.kill();
    drop(stream);
    let agent = start(&server, state.path(), confirm);
    let stream = server.stream().await;
    assert_eq!(stream.hello.as_ref().unwrap().config_revision, 4);
    (server, state, agent, stream)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_that_starts_without_a_server_keeps_its_configuration() {
    let (mut server, state, agent, stream) = confirmed("1h").await;
    agent.kill();
    drop(stream);
    server.answer([Headers::Refused, Headers::Refused, Headers::Welcome(welcome())]);
    let _agent = start(&server, state.path(), "1h");
    let mut stream = server.stream().await;
    assert_eq!(stream.hello.as_ref().unwrap().config_revision, 4);
    assert_uptime_only(&batch(&mut stream).await);
    // The server says otherwise, and is heard.
    send(&stream, push(5, MEMORY_ONLY)).await;
    assert_eq!(outcome(&report(&mut stream).await), (ConfigOutcome::Applied, 5, 5));
}

/// All files of a state directory with what is in them.
fn contents(directory: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut found = BTreeMap::new();
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(contents(&path));
        } else {
            let bytes = fs::read(&path).unwrap();
            found.insert(path, bytes);
        }
    }
    found
}

#[tokio::test(flavor = "multi_thread")]
async fn a_check_of_the_settings_finds_what_was_kept_and_changes_nothing() {
    let (_server, state, agent, _stream) = confirmed("1h").await;
    agent.kill();
    let before = contents(state.path());
    let directory = state.path().to_str().unwrap();
    let arguments = ["--agent-id", "kept-1", "--state-dir", directory];
    let found = settings(&arguments, &[]);
    let remote = |key: &str| (found[key]["from"].clone(), found[key]["revision"].clone());
    assert_eq!(found["config.interval"]["value"], 0.2);
    assert_eq!(remote("config.interval"), ("remote".into(), 4.into()));
    assert_eq!(remote("config.window_size"), ("default".into(), Value::Null));
    // The host's own word is above it, and tells what it shadows.
    let found = settings(&[arguments.as_slice(), &["--interval", "3"]].concat(), &[]);
    let shadowed = &found["config.interval"]["shadows"][0];
    assert_eq!((&shadowed["from"], &shadowed["value"]), (&"remote".into(), &"0.2".into()));
    // Of another agent it is not used.
    let found = settings(&["--agent-id", "kept-2", "--state-dir", directory], &[]);
    assert_eq!(found["config.interval"]["from"], "default");
    assert_eq!(contents(state.path()), before);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_host_decides_together_no_part_of_it_comes_from_the_server() {
    let state = tempfile::tempdir().unwrap();
    let file = state.path().join("agent.toml");
    let text = "[config]\nwindow_size = 10\nthresholds.cpu_percent = { above = 90 }\n";
    fs::write(&file, text).unwrap();
    let directory = state.path().join("state");
    let mut server = ScriptedServer::start(Headers::Welcome(welcome())).await;
    let (address, file) = (server.address(), file.to_str().unwrap());
    let of_both = [
        "--agent-id",
        "kept-1",
        "--state-dir",
        directory.to_str().unwrap(),
        "--config-confirm",
        "0",
        "--config",
        file,
    ];
    let _agent = Agent::start(&[of_both.as_slice(), &["--server", &address]].concat());
    let mut stream = server.stream().await;
    let document = r#"{"window_seconds":60,"thresholds":{"cpu_percent":{"below":5,"for":86400}}}"#;
    send(&stream, push(4, document)).await;
    let told = report(&mut stream).await;
    assert_eq!(outcome(&told), (ConfigOutcome::Applied, 4, 4));
    assert_eq!(told.overridden, ["thresholds", "window_seconds"]);
    kept_where(&directory, |kept| kept["confirmed"]["revision"] == 4).await;
    let found = settings(&of_both, &[]);
    let check = |key: &str, value: Value, line: u64, shadowed: &[&str]| {
        let found = &found[key];
        assert_eq!((&found["value"], &found["from"]), (&value, &"file".into()), "{key}");
        assert_eq!(found["line"], line, "{key}");
        let shadows = found["shadows"].as_array().unwrap();
        let shadows = shadows.iter().map(|said| said["value"].as_str().unwrap());
        assert_eq!(shadows.collect::<Vec<_>>(), shadowed, "{key}");
    };
    check("config.window_size", 10.into(), 2, &[]);
    check("config.window_seconds", Value::Null, 2, &["60"]);
    let whole = r#"{"below":5,"for":86400}"#;
    check("config.thresholds.cpu_percent.above", 90.into(), 3, &[whole]);
    assert_eq!(found.get("config.thresholds.cpu_percent.for"), None);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_configuration_without_a_server_is_rolled_back_reported_and_never_applied_again() {
    let (mut server, state, _agent, stream) = confirmed("6s").await;
    server.answer(last_word(5, MEMORY_ONLY));
    drop(stream);
    kept_where(state.path(), |kept| kept["trial"]["version"]["revision"] == 5).await;
    let kept = kept_where(state.path(), |kept| kept["trial"].is_null()).await;
    assert_eq!(kept["confirmed"]["revision"], 4);
    assert_eq!(kept["quarantine"].as_array().unwrap().len(), 1);

    server.answer([Headers::Welcome(welcome())]);
    let mut stream = server.stream().await;
    assert_eq!(stream.hello.as_ref().unwrap().config_revision, 4);
    for _ in 0..2 {
        let report = report(&mut stream).await;
        assert_eq!(outcome(&report), (ConfigOutcome::RolledBack, 5, 4));
        assert!(report.reason.contains("no server was reached for 6 s"), "{}", report.reason);
        // Which it is at each connect.
        send(&stream, push(5, MEMORY_ONLY)).await;
    }
    // Another document is applied as ever.
    send(&stream, push(6, r#"{"interval":0.2,"metrics":["load"]}"#)).await;
    while outcome(&report(&mut stream).await) != (ConfigOutcome::Applied, 6, 6) {}
}

#[tokio::test(flavor = "multi_thread")]
async fn a_configuration_with_which_the_agent_is_killed_twice_is_rolled_back() {
    let (mut server, state, agent, stream) = confirmed("1h").await;
    server.answer(last_word(5, MEMORY_ONLY));
    drop(stream);
    kept_where(state.path(), |kept| runs(kept) == Some(1)).await;
    agent.kill();
    let agent = start(&server, state.path(), "1h");
    kept_where(state.path(), |kept| runs(kept) == Some(2)).await;
    agent.kill();
    server.answer([Headers::Welcome(welcome())]);
    let _agent = start(&server, state.path(), "1h");
    let mut stream = server.stream().await;
    assert_eq!(stream.hello.as_ref().unwrap().config_revision, 4);
    let report = report(&mut stream).await;
    assert_eq!(outcome(&report), (ConfigOutcome::RolledBack, 5, 4));
    assert!(report.reason.contains("ended 2 times"), "{}", report.reason);
    assert_uptime_only(&batch(&mut stream).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_that_is_asked_to_end_does_not_lose_its_configuration() {
    let (mut server, state, mut agent, stream) = confirmed("1h").await;
    server.answer(last_word(5, MEMORY_ONLY));
    drop(stream);
    for _ in 0..4 {
        kept_where(state.path(), |kept| runs(kept) == Some(1)).await;
        agent.terminate_at_once();
        kept_where(state.path(), |kept| runs(kept) == Some(0)).await;
        agent = start(&server, state.path(), "1h");
    }
    server.answer([Headers::Welcome(welcome())]);
    let stream = server.stream().await;
    assert_eq!(stream.hello.as_ref().unwrap().config_revision, 5);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_file_is_reported_and_replaced_by_the_next_document() {
    let state = tempfile::tempdir().unwrap();
    let path = state.path().join("configuration");
    fs::write(&path, "picket-agent configuration 1 0000\n{}").unwrap();
    let mut server = ScriptedServer::start(Headers::Welcome(welcome())).await;
    let _agent = start(&server, state.path(), "1h");
    let mut stream = server.stream().await;
    assert_eq!(stream.hello.as_ref().unwrap().config_revision, 0);
    let first = report(&mut stream).await;
    assert_eq!(outcome(&first), (ConfigOutcome::Rejected, 0, 0));
    assert!(first.reason.ends_with("it is damaged"), "{}", first.reason);
    assert!(fs::read_to_string(&path).unwrap().ends_with("0000\n{}"));
    send(&stream, push(4, UPTIME_ONLY)).await;
    assert_eq!(outcome(&report(&mut stream).await), (ConfigOutcome::Applied, 4, 4));
    kept_where(state.path(), |kept| kept["trial"]["version"]["revision"] == 4).await;
}
