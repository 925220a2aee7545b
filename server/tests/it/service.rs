//! The server as a service of systemd, or of another manager that speaks its protocol: here one that is made by hand.

use std::net::TcpStream;
use std::process::{Child, Command};
use std::time::{Duration, Instant};

use tempfile::TempDir;

use crate::harness::{Server, server_command};
use crate::manager::{Hung, Line, Log, Manager};

/// Long enough for a loaded machine to answer a quarter of it later, and short enough for a test.
const WATCHDOG: Duration = Duration::from_secs(2);

/// Longer than anything here takes on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);

/// A supervised server. Killed when dropped.
struct Service {
    manager: Manager,
    child: Child,
    log: Option<Log>,
    data: TempDir,
}

impl Service {
    fn start(watchdog: Option<Duration>) -> Self {
        Self::start_under(Manager::new(), watchdog)
    }

    fn start_under(manager: Manager, watchdog: Option<Duration>) -> Self {
        let data = TempDir::new().unwrap();
        let command = server_command(data.path());
        let mut child = manager.command(&command, watchdog).spawn().unwrap();
        let log = Some(Log::of(&mut child));
        Self { manager, child, log, data }
    }

    fn signal(&self, name: &str) {
        let mut kill = Command::new("kill");
        kill.args(["-s", name, &self.child.id().to_string()]);
        assert!(kill.status().unwrap().success());
    }

    /// Ends it; answers what it logged.
    fn end(mut self) -> String {
        self.signal("TERM");
        self.manager.until_line("STOPPING=1");
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

fn wait(child: &mut Child) -> Option<i32> {
    let deadline = Instant::now() + PATIENCE;
    while Instant::now() < deadline {
        if let Some(status) = child.try_wait().unwrap() {
            return status.code();
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    panic!("the server did not end within {PATIENCE:?}");
}

fn position(lines: &[Line], text: &str) -> usize {
    let found = lines.iter().position(|line| line.text.starts_with(text));
    found.unwrap_or_else(|| panic!("no {text} in {lines:?}"))
}

#[test]
fn it_is_ready_once_it_listens_and_says_when_it_ends() {
    let service = Service::start_under(Manager::with_abstract_name(), None);
    let heard = service.manager.until_line("READY=1");
    assert!(position(&heard, "EXTEND_TIMEOUT_USEC=") < heard.len() - 1, "a start may take long");
    let status = &heard[position(&heard, "STATUS=listening on ")].text;
    let address = status.trim_start_matches("STATUS=listening on ").split(';').next().unwrap();
    TcpStream::connect(address).unwrap();
    assert!(status.ends_with("; agents 0, records stored 0, lost 0"), "{status}");
    service.signal("TERM");
    let heard = service.manager.until("status", |line| line.starts_with("STATUS=ending"));
    assert!(position(&heard, "STOPPING=1") < position(&heard, "EXTEND_TIMEOUT_USEC="), "{heard:?}");
    service.signal("TERM");
    let mut service = service;
    assert_eq!(wait(&mut service.child), Some(0));
}

#[tokio::test]
async fn one_that_cannot_open_its_storage_is_never_ready() {
    let server = Server::start();
    let manager = Manager::new();
    let mut child =
        manager.command(&server_command(server.data()), Some(WATCHDOG)).spawn().unwrap();
    assert_eq!(wait(&mut child), Some(1));
    while let Some(line) = manager.next_within(Duration::from_millis(100)) {
        let is_of_a_start =
            ["STATUS=opening", "EXTEND_"].iter().any(|of| line.text.starts_with(of));
        assert!(is_of_a_start, "{line:?}");
    }
}

#[test]
fn it_lives_through_a_reload() {
    let service = Service::start(Some(WATCHDOG));
    service.manager.until_line("READY=1");
    service.signal("HUP");
    let heard = service.manager.until_line("READY=1");
    assert!(position(&heard, "RELOADING=1") < position(&heard, "MONOTONIC_USEC="), "{heard:?}");
    service.manager.assert_fed(WATCHDOG);
    assert!(service.end().contains("nothing that a server reads again"));
}

fn check_hang(threads: &str, part: &str) {
    let service = Service::start(Some(WATCHDOG));
    service.manager.until_line("READY=1");
    service.manager.assert_fed(WATCHDOG);
    let hung = Hung::threads(service.child.id(), threads);
    service.manager.assert_starved(WATCHDOG);
    drop(hung);
    service.manager.assert_fed(WATCHDOG);
    assert!(service.data.path().exists());
    let log = service.end();
    assert!(log.contains("it hangs") && log.contains(&format!("part=\"{part}\"")), "{log}");
}

#[test]
fn it_is_not_called_alive_while_the_writer_of_the_bus_hangs() {
    check_hang("bus-writer", "bus");
}

#[test]
fn it_is_not_called_alive_while_the_runtime_hangs() {
    check_hang("tokio-rt-worker", "runtime");
}
