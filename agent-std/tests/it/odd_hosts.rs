//! Hosts with a disk that cannot be written, hosts without a clock of their own, and hosts that give little.
//!
//! Some need tools of Linux: `unshare` with user namespaces, and `faketime`. Where one is missing
//! the test says so and passes, unless `PICKET_REQUIRE_ODD_HOSTS` is set, as it is in CI.

use std::fs;
use std::process::{Command, Stdio};

use proto::{ConfigOutcome, Record};

use crate::full_server::{batch, send};
use crate::kept_configuration::{outcome, push, report};
use crate::process::{Agent, command};
use crate::scripted::{Headers, ScriptedServer, Stream, welcome};

/// Whether a test can run that needs `tool`.
#[expect(clippy::print_stdout, reason = "a test that is skipped says so")]
fn can_run(tool: &str, is_there: bool) -> bool {
    let is_required = std::env::var_os("PICKET_REQUIRE_ODD_HOSTS").is_some();
    assert!(is_there || !is_required, "{tool} is missing");
    if !is_there {
        println!("skipped: {tool} is missing");
    }
    is_there
}

fn has_namespaces() -> bool {
    let unshare = Command::new("unshare").args(["-rm", "true"]).stderr(Stdio::null()).status();
    can_run("unshare with user namespaces", unshare.is_ok_and(|status| status.success()))
}

/// The agent, started by `script` in a namespace of mounts of its own; `$@` is the program with its arguments.
fn in_namespace(script: &str, arguments: &[&str]) -> Command {
    let mut unshare = Command::new("unshare");
    unshare.args(["-rm", "sh"]);
    in_shell(unshare, script, arguments)
}

/// The agent, started by `script` with a limit of the shell.
fn with_limit(limit: &str, arguments: &[&str]) -> Command {
    in_shell(Command::new("sh"), &format!("ulimit {limit}; exec \"$@\""), arguments)
}

fn in_shell(mut shell: Command, script: &str, arguments: &[&str]) -> Command {
    let agent = command(arguments);
    shell.args(["-ec", script, "sh"]).arg(agent.get_program()).args(arguments);
    for (name, value) in agent.get_envs() {
        match value {
            Some(value) => shell.env(name, value),
            None => shell.env_remove(name),
        };
    }
    shell.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
    shell
}

#[test]
fn a_state_directory_on_a_read_only_disk_is_named() {
    if !has_namespaces() {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let state = directory.path().to_str().unwrap();
    let script = format!("mount -t tmpfs -o ro none '{state}'; exec \"$@\"");
    let output = in_namespace(&script, &["--state-dir", state]).output().unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{said}");
    let said = said.lines().last().unwrap();
    for part in ["--state-dir", state, "Read-only file system"] {
        assert!(said.contains(part), "{said}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_without_a_state_directory_needs_no_disk_that_can_be_written() {
    if !has_namespaces() {
        return;
    }
    let mut server = ScriptedServer::start(Headers::Welcome(welcome())).await;
    let address = server.address();
    // Everything but the pseudo file systems; the shell proves it before the agent is started.
    let script = "for it in / /tmp /var /run /dev/shm; do
            mount --rbind \"$it\" \"$it\" && mount -o remount,bind,ro \"$it\"
        done
        if touch /tmp/picket-odd-host 2>/dev/null; then exit 77; fi
        cd / && exec \"$@\"";
    let arguments = ["--agent-id", "odd-1", "--server", &address, "--interval", "0.2"];
    let child = in_namespace(script, &arguments).stderr(Stdio::null()).spawn().unwrap();
    let _agent = Agent::of(child);
    let mut stream = server.stream().await;
    assert_eq!(batch(&mut stream).await.boot.unwrap().counter, 0, "nothing is counted");
}

#[test]
fn a_limit_of_too_few_files_is_said_before_anything_is_opened() {
    for (limit, arguments) in [("8", [].as_slice()), ("31", &[]), ("60", &["--serial", "/dev/x"])] {
        let output = with_limit(&format!("-n {limit}"), arguments).output().unwrap();
        let said = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(1), "{said}");
        let expected = format!("too few file descriptors: at most {limit} are allowed");
        assert!(said.contains(&expected) && !said.contains("panicked"), "{said}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_fewest_files_that_are_allowed_are_enough() {
    let mut server = ScriptedServer::start(Headers::Welcome(welcome())).await;
    let (state, address) = (tempfile::tempdir().unwrap(), server.address());
    let arguments = ["--agent-id", "odd-3", "--server", &address, "--interval", "0.2"];
    let state = ["--state-dir", state.path().to_str().unwrap(), "--spool-max-bytes", "1M"];
    let mut command = with_limit("-n 32", &[&arguments[..], &state].concat());
    let _agent = Agent::of(command.stderr(Stdio::null()).spawn().unwrap());
    for _ in 0..3 {
        let mut stream = server.stream().await;
        batch(&mut stream).await;
    }
}

#[test]
fn a_limit_on_the_size_of_files_is_a_disk_that_refuses_at_the_start() {
    let state = tempfile::tempdir().unwrap();
    let state = state.path().to_str().unwrap();
    let output = with_limit("-f 0", &["--state-dir", state]).output().unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{said}");
    for part in [state, "File too large"] {
        assert!(said.contains(part), "{said}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_limit_on_the_size_of_files_is_a_disk_that_refuses_later() {
    let mut server = ScriptedServer::start(Headers::Welcome(welcome())).await;
    let (directory, address) = (tempfile::tempdir().unwrap(), server.address());
    let state = directory.path().join("state");
    let arguments = ["--agent-id", "odd-4", "--server", &address, "--interval", "0.2"];
    let state_dir = ["--state-dir", state.to_str().unwrap(), "--config-confirm", "0"];
    // Of 512 or 1024 bytes, as the shell has it.
    let mut command = with_limit("-f 8", &[&arguments[..], &state_dir].concat());
    let _agent = Agent::of(command.stderr(Stdio::null()).spawn().unwrap());
    let mut stream = server.stream().await;
    let document = format!(r#"{{"interval":0.2,"unknown":"{}"}}"#, "x".repeat(30_000));
    send(&stream, push(7, &document)).await;
    assert_eq!(outcome(&report(&mut stream).await), (ConfigOutcome::Applied, 7, 7));
    // It goes on, without having kept that.
    for _ in 0..3 {
        batch(&mut stream).await;
    }
    assert!(!state.join("configuration").exists());
}

/// The variables that have a program see another wall clock: those that `faketime` gives to what it runs, but for the ones that
/// say which clock. It is not run itself with the agent, because it would stand between the agent and the signals of the test.
fn faketime() -> Option<Vec<(String, String)>> {
    let mut faketime = Command::new("faketime");
    faketime
        .args(["-f", "+0", "env"])
        .env_clear()
        .envs(std::env::var_os("PATH").map(|path| ("PATH", path)));
    let output = faketime.output().ok().filter(|output| output.status.success());
    let found = output.map(|output| {
        let text = String::from_utf8(output.stdout).unwrap();
        let variables = text.lines().filter_map(|line| line.split_once('='));
        let loads = variables.filter(|(name, _)| *name != "PATH" && !name.starts_with("FAKETIME"));
        loads.map(|(name, value)| (name.to_owned(), value.to_owned())).collect()
    });
    can_run("faketime", found.is_some()).then_some(found).flatten()
}

/// A host whose wall clock a test sets.
struct ClockHost {
    faketime: Vec<(String, String)>,
    directory: tempfile::TempDir,
}

impl ClockHost {
    fn set(&self, time: &str) {
        // Replaced as a whole: the agent reads it whenever it asks for the time.
        let new = self.directory.path().join("time.new");
        fs::write(&new, format!("@{time}\n")).unwrap();
        fs::rename(new, self.directory.path().join("time")).unwrap();
    }

    fn start(&self, server: &str) -> Agent {
        let state = self.directory.path().join("state");
        let arguments =
            ["--agent-id", "odd-2", "--interval", "0.2", "--server", server, "--state-dir"];
        let mut command = command(&[&arguments[..], &[state.to_str().unwrap()]].concat());
        command
            .envs(self.faketime.iter().cloned())
            .env("FAKETIME_TIMESTAMP_FILE", self.directory.path().join("time"))
            .env("FAKETIME_NO_CACHE", "1")
            // A step moves the wall clock alone.
            .env("FAKETIME_DONT_FAKE_MONOTONIC", "1")
            .env("TZ", "UTC");
        Agent::of(command.stderr(Stdio::null()).spawn().unwrap())
    }
}

const YEAR_MS: i64 = 365 * 86_400_000;

/// Records up to one whose time is `expected`; answers all of them.
async fn records_until(stream: &mut Stream, expected: impl Fn(i64) -> bool) -> Vec<Record> {
    let mut found = Vec::new();
    // More than any number that fits into the patience of the stream.
    for _ in 0..1_000 {
        found.extend(batch(stream).await.records);
        if found.last().is_some_and(|record| expected(record.timestamp_ms)) {
            return found;
        }
    }
    panic!("{found:?}");
}

fn is_in_1970(ms: i64) -> bool {
    (0..YEAR_MS).contains(&ms)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_that_boots_in_1970_is_put_in_order_by_counters_and_not_by_its_clock() {
    let Some(faketime) = faketime() else { return };
    let host = ClockHost { faketime, directory: tempfile::tempdir().unwrap() };
    let mut server = ScriptedServer::start(Headers::Welcome(welcome())).await;
    host.set("1970-01-01 00:00:10");
    let agent = host.start(&server.address());
    let mut stream = server.stream().await;
    let first_boot = stream.hello.as_ref().unwrap().boot.unwrap();
    assert_eq!(first_boot.counter, 1);
    let mut records = records_until(&mut stream, is_in_1970).await;
    // The time comes from the network.
    host.set("2026-11-23 12:00:00");
    records.extend(records_until(&mut stream, |ms| 50 * YEAR_MS < ms).await);
    // And is corrected backwards.
    host.set("2026-11-23 11:00:00");
    let after = records.last().unwrap().timestamp_ms;
    records.extend(records_until(&mut stream, |ms| ms < after).await);
    // Times step, and nothing else does: no record is missing, and the time since the start rises by the interval.
    assert!(is_in_1970(records[0].timestamp_ms), "{:?}", records[0]);
    for pair in records.windows(2) {
        assert_eq!(pair[1].sequence, pair[0].sequence + 1);
        let passed = pair[1].uptime_ms - pair[0].uptime_ms;
        assert!((1..60_000).contains(&passed), "{passed} ms");
    }
    // The next boot begins in 1970 again, and is the later one all the same.
    agent.kill();
    drop(stream);
    host.set("1970-01-01 00:00:05");
    let _agent = host.start(&server.address());
    let mut stream = server.stream().await;
    assert_eq!(stream.hello.as_ref().unwrap().boot.unwrap().counter, 2);
    let records = records_until(&mut stream, is_in_1970).await;
    assert_eq!(records[0].sequence, 1);
}
