//! The agent as a service of systemd, or of another manager that speaks its protocol: here one that is made by hand.

use std::fs;
use std::path::Path;
use std::process::Child;
use std::time::Duration;

use agent_core::metric::Metric;
use proto::command::CommandType;
use proto::{CommandOutcome, RecordBatch};
use rustix::process::Signal;

use crate::full_server::{batch, command, response};
use crate::manager::{Hung, Line, Log, Manager};
use crate::process::{self, send_signal, wait};
use crate::scripted::{Headers, ScriptedServer, Stream, welcome};

/// Long enough for a loaded machine to answer a quarter of it later, and short enough for a test.
const WATCHDOG: Duration = Duration::from_secs(2);

/// A day: an agent that measures once and then has nothing to do.
const SELDOM: [&str; 2] = ["--interval", "86400"];

/// A supervised agent. Killed when dropped.
struct Service {
    manager: Manager,
    child: Child,
    log: Option<Log>,
}

impl Service {
    fn start(arguments: &[&str], watchdog: Option<Duration>) -> Self {
        Self::start_under(Manager::new(), arguments, watchdog)
    }

    fn start_under(manager: Manager, arguments: &[&str], watchdog: Option<Duration>) -> Self {
        let identity = ["--agent-id", "full-1"];
        let command = process::command(&[identity.as_slice(), arguments].concat());
        let mut child = manager.command(&command, watchdog).spawn().unwrap();
        let log = Some(Log::of(&mut child));
        Self { manager, child, log }
    }

    fn signal(&self, signal: Signal) {
        send_signal(self.child.id(), signal);
    }

    /// Waits for a STATUS with this part.
    fn until_status(&self, part: &str) -> Vec<Line> {
        self.manager.until(part, |line| {
            line.strip_prefix("STATUS=").is_some_and(|text| text.contains(part))
        })
    }

    /// Ends it; answers what it logged.
    fn end(mut self) -> String {
        // Twice, because what it holds need not be delivered.
        self.signal(Signal::TERM);
        self.manager.until_line("STOPPING=1");
        self.signal(Signal::TERM);
        assert_eq!(wait(&mut self.child), Some(0));
        self.log.take().unwrap().text()
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        // It may have ended by itself.
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

fn texts(lines: &[Line]) -> Vec<&str> {
    lines.iter().map(|line| line.text.as_str()).collect()
}

/// An address at which nobody listens, for as long as the listener that is dropped is not replaced by another program's.
fn nobody() -> String {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    listener.local_addr().unwrap().to_string()
}

async fn welcoming() -> (ScriptedServer, String) {
    let server = ScriptedServer::start(Headers::Welcome(welcome())).await;
    let address = server.address();
    (server, address)
}

fn measures(batch: &RecordBatch, metric: Metric) -> bool {
    batch.records.iter().any(|record| record.present & (1 << metric.id()) != 0)
}

async fn until_measured(stream: &mut Stream, metric: Metric) {
    while !measures(&batch(stream).await, metric) {}
}

#[tokio::test(flavor = "multi_thread")]
async fn it_is_ready_says_to_whom_it_is_connected_and_when_it_ends() {
    let (mut server, address) = welcoming().await;
    let service = Service::start(&["--server", &address, "--interval", "0.2"], None);
    let heard = service.manager.until_line("READY=1");
    assert!(!texts(&heard).contains(&"WATCHDOG=1"), "nobody asked for it");
    let _stream = server.stream().await;
    let heard = service.until_status(&format!("connected to {address}; records held "));
    assert!(heard.last().unwrap().text.ends_with(", spooled 0, lost 0"), "{heard:?}");
    service.signal(Signal::TERM);
    let heard = service.manager.until("more time", |line| line.starts_with("EXTEND_TIMEOUT_USEC="));
    assert!(texts(&heard).contains(&"STOPPING=1"), "{heard:?}");
    service.end();
}

#[test]
fn it_is_ready_without_a_server_and_on_a_socket_with_an_abstract_name() {
    let address = nobody();
    let manager = Manager::with_abstract_name();
    let service = Service::start_under(manager, &["--server", &address], None);
    service.until_status(&format!("no server, trying {address}"));
    service.manager.until_line("READY=1");
    service.end();
}

#[test]
fn one_that_cannot_start_is_never_ready() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("file");
    fs::write(&file, "").unwrap();
    let arguments = ["--server", &nobody(), "--state-dir", file.to_str().unwrap()];
    let mut service = Service::start(&arguments, Some(WATCHDOG));
    assert_eq!(wait(&mut service.child), Some(1));
    let said = service.manager.next_within(Duration::from_millis(100));
    assert!(said.is_none(), "{said:?}");
}

#[test]
fn it_is_alive_while_no_server_is_there_and_there_is_nothing_to_measure() {
    let address = nobody();
    let arguments = [["--server", &address], SELDOM].concat();
    let service = Service::start(&arguments, Some(WATCHDOG));
    service.manager.until_line("READY=1");
    service.manager.assert_fed(WATCHDOG);
    service.end();
}

#[tokio::test(flavor = "multi_thread")]
async fn it_is_alive_while_it_is_stopped_by_a_command() {
    let (mut server, address) = welcoming().await;
    let service = Service::start(&["--server", &address, "--interval", "0.2"], Some(WATCHDOG));
    let mut stream = server.stream().await;
    command(&stream, "s1", CommandType::Stop, &[]).await;
    assert_eq!(response(&mut stream).await.outcome(), CommandOutcome::Succeeded);
    service.until_status("stopped by a command, connected to");
    service.manager.assert_fed(WATCHDOG);
    service.end();
}

fn check_hang(thread: &str, arguments: &[&str]) {
    let address = nobody();
    let server = ["--server", &address];
    let service = Service::start(&[server.as_slice(), arguments].concat(), Some(WATCHDOG));
    service.manager.until_line("READY=1");
    service.manager.assert_fed(WATCHDOG);
    let hung = Hung::threads(service.child.id(), thread);
    service.manager.assert_starved(WATCHDOG);
    drop(hung);
    service.manager.assert_fed(WATCHDOG);
    let log = service.end();
    let line = format!("part=\"{thread}\"");
    assert!(log.contains("a thread hangs") && log.contains(&line), "{log}");
}

#[test]
fn it_is_not_called_alive_while_the_collector_hangs() {
    check_hang("collector", &["--interval", "0.2"]);
    check_hang("collector", &SELDOM);
}

#[test]
fn it_is_not_called_alive_while_the_network_hangs() {
    check_hang("network", &["--interval", "0.2"]);
}

#[test]
fn it_is_not_called_alive_while_the_main_loop_hangs() {
    let service = Service::start(&["--server", &nobody()], Some(WATCHDOG));
    service.manager.until_line("READY=1");
    // The main thread has the name of the program, as the system cuts it.
    let hung = Hung::threads(service.child.id(), "picket-agent");
    service.manager.assert_starved(WATCHDOG);
    drop(hung);
    service.manager.assert_fed(WATCHDOG);
    service.end();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restart_by_command_stays_in_its_process_and_says_that_it_is_ready_again() {
    let (mut server, address) = welcoming().await;
    let state = tempfile::tempdir().unwrap();
    let state = state.path().to_str().unwrap();
    let arguments = ["--server", &address, "--state-dir", state, "--interval", "0.2"];
    let mut service = Service::start(&arguments, Some(WATCHDOG));
    service.manager.until_line("READY=1");
    for restart in 1..=3 {
        let stream = server.stream().await;
        let boot = stream.hello.as_ref().unwrap().boot.unwrap();
        command(&stream, &format!("r{restart}"), CommandType::Restart, &[]).await;
        service.manager.until_line("RELOADING=1");
        drop(stream);
        service.manager.until_line("READY=1");
        let mut stream = server.stream().await;
        let hello = stream.hello.clone().unwrap();
        assert!(boot.counter < hello.boot.unwrap().counter, "it is another boot");
        let answer = response(&mut stream).await;
        assert_eq!(answer.command_id, format!("r{restart}"));
        assert_eq!(answer.outcome(), CommandOutcome::Succeeded);
        // The variables of the watchdog, its process number among them, are those that the first one had.
        service.manager.assert_fed(WATCHDOG);
        assert!(service.child.try_wait().unwrap().is_none(), "the process is still the same");
        // The next round takes the stream that follows this one.
        drop(stream);
    }
    service.end();
}

fn write(path: &Path, text: &str) {
    fs::write(path, text).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restart_that_would_not_come_back_is_refused_and_the_agent_goes_on() {
    let (mut server, address) = welcoming().await;
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("agent.toml");
    let good = "[config]\ninterval = 0.2\n";
    write(&path, good);
    let arguments = ["--server", &address, "--config", path.to_str().unwrap()];
    let service = Service::start(&arguments, None);
    service.manager.until_line("READY=1");
    let mut stream = server.stream().await;
    let boot = stream.hello.as_ref().unwrap().boot;
    let place = path.display().to_string();
    let wrong = [
        (
            Some("[config]\ninterval = \"5\"\n"),
            format!("{place}:2: config.interval = \"5\": it must be"),
        ),
        (
            Some("\nspool_max_bytes = \"16M\"\n"),
            format!("{place}:2: spool_max_bytes = \"16M\": a spool needs"),
        ),
        (None, format!("cannot read {place}: ")),
    ];
    for (index, (text, expected)) in wrong.into_iter().enumerate() {
        match text {
            Some(text) => write(&path, text),
            None => fs::remove_file(&path).unwrap(),
        }
        command(&stream, &format!("r{index}"), CommandType::Restart, &[]).await;
        let answer = response(&mut stream).await;
        assert_eq!(answer.outcome(), CommandOutcome::Rejected, "{answer:?}");
        assert!(answer.message.starts_with(&expected), "{answer:?}");
    }
    batch(&mut stream).await;

    write(&path, good);
    command(&stream, "r9", CommandType::Restart, &[]).await;
    service.manager.until_line("RELOADING=1");
    drop(stream);
    let mut stream = server.stream().await;
    assert_ne!(stream.hello.as_ref().unwrap().boot, boot, "it is another boot");
    assert_eq!(response(&mut stream).await.outcome(), CommandOutcome::Succeeded);
    drop(stream);
    service.end();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_start_would_refuse_is_refused_when_it_is_read_again_in_the_same_words() {
    let (mut server, address) = welcoming().await;
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("agent.toml");
    write(&path, "[config]\ninterval = 0.2\nmetrics = [\"memory\"]\n");
    let file = path.to_str().unwrap();
    let service = Service::start(&["--server", &address, "--config", file], None);
    service.manager.until_line("READY=1");
    let mut stream = server.stream().await;
    until_measured(&mut stream, Metric::MemoryUsed).await;

    write(&path, "spool_max_bytes = \"16M\"\n[config]\ninterval = 0.2\nmetrics = [\"uptime\"]\n");
    let arguments = ["check-config", "--server", &address, "--config", file];
    let checked = process::output(&[&arguments, ["--agent-id", "full-1"].as_slice()].concat());
    assert_eq!(checked.status.code(), Some(2));
    let said = String::from_utf8(checked.stderr).unwrap();
    let words = said.trim().strip_prefix("picket-agent: ").unwrap();

    command(&stream, "u1", CommandType::UpdateConfig, &[]).await;
    let answer = response(&mut stream).await;
    assert_eq!((answer.outcome(), answer.message.as_str()), (CommandOutcome::Rejected, words));
    service.signal(Signal::HUP);
    service.manager.until_line("RELOADING=1");
    service.until_status(&format!("not reloaded: {words}"));
    for _ in 0..3 {
        assert!(!measures(&batch(&mut stream).await, Metric::Uptime), "what was in force stays");
    }
    drop(stream);
    service.end();
}

#[tokio::test(flavor = "multi_thread")]
async fn sighup_reads_the_file_again() {
    let (mut server, address) = welcoming().await;
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("agent.toml");
    write(&path, "[config]\ninterval = 0.2\nmetrics = [\"uptime\"]\n");
    let arguments = ["--server", &address, "--config", path.to_str().unwrap()];
    let service = Service::start(&arguments, None);
    service.manager.until_line("READY=1");
    let mut stream = server.stream().await;
    until_measured(&mut stream, Metric::Uptime).await;
    service.until_status("connected to");

    write(&path, "[config]\ninterval = 0.2\nmetrics = [\"memory\"]\n");
    service.signal(Signal::HUP);
    let heard = service.manager.until_line("READY=1");
    let reloading = texts(&heard).iter().position(|line| *line == "RELOADING=1").unwrap();
    assert!(heard[reloading + 1].text.starts_with("MONOTONIC_USEC="), "{heard:?}");
    until_measured(&mut stream, Metric::MemoryUsed).await;

    write(&path, "[config]\ninterval = 0\nmetrics = [\"uptime\"]\n");
    service.signal(Signal::HUP);
    service.manager.until_line("RELOADING=1");
    service.manager.until_line("READY=1");
    service.until_status("not reloaded: ");
    for _ in 0..3 {
        assert!(!measures(&batch(&mut stream).await, Metric::Uptime), "what was in force stays");
    }

    write(&path, "baud = 9600\n[config]\ninterval = 0.2\nmetrics = [\"uptime\"]\n");
    service.signal(Signal::HUP);
    service.manager.until_line("READY=1");
    until_measured(&mut stream, Metric::Uptime).await;
    let heard = service.until_status("connected to");
    assert!(!heard.last().unwrap().text.contains("not reloaded"), "{heard:?}");

    let log = service.end();
    let complaint = log.lines().find(|line| line.contains("cannot be used")).unwrap();
    assert!(complaint.contains("agent.toml:2: config.interval"), "{complaint}");
    let told = log.lines().find(|line| line.contains("from the next start on")).unwrap();
    assert!(told.contains("keys=\"baud\""), "{told}");
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_manager_sighup_does_not_end_it() {
    let (mut server, address) = welcoming().await;
    let arguments = ["--agent-id", "full-1", "--server", &address, "--interval", "0.2"];
    let agent = process::Agent::start(&arguments);
    let mut stream = server.stream().await;
    batch(&mut stream).await;
    send_signal(agent.id(), Signal::HUP);
    for _ in 0..3 {
        batch(&mut stream).await;
    }
}
