//! A server with its own directory and port for one test, and what a test does with it again and again.

use std::env;
use std::ffi::OsStr;
use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde_json::Value;
use tempfile::TempDir;
use xtask::fleet::{self, Binaries, Group, Process, Profile, Server, Site};

use crate::picket::{Answer, Console, Picket};
use crate::record::Record;

/// How long anything may take that normally takes a second: the machine may be busy with other tests.
pub(crate) const LIMIT: Duration = Duration::from_secs(60);

/// How long a clean stop may take: the agent drains for 5 s, the server for 10 s, and the machine may be busy.
pub(crate) const STOP_LIMIT: Duration = LIMIT;

/// An interval at which a test need not wait for data.
pub(crate) const FAST: [&str; 2] = ["--interval", "0.2"];

/// The binaries under test.
pub(crate) fn binaries() -> &'static Binaries {
    static BINARIES: OnceLock<Binaries> = OnceLock::new();
    BINARIES.get_or_init(|| match env::var_os("PICKET_BINARIES") {
        Some(directory) => Binaries::at(PathBuf::from(directory)),
        None => Binaries::build(Profile::Debug).unwrap(),
    })
}

/// A fresh directory on the disk that the target directory is on.
pub(crate) fn directory() -> TempDir {
    tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap()
}

/// Asks `probe` until it has an answer, and fails the test if it has none in time.
#[track_caller]
pub(crate) fn wait_for<T>(what: &str, mut probe: impl FnMut() -> Option<T>) -> T {
    let answer = fleet::poll(LIMIT, || Ok::<_, std::convert::Infallible>(probe()));
    match answer {
        Ok(Some(answer)) => answer,
        Ok(None) => panic!("not within {LIMIT:?}: {what}"),
    }
}

/// Unix milliseconds.
pub(crate) fn now_ms() -> i64 {
    let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    i64::try_from(since_epoch.as_millis()).unwrap()
}

/// A running server, and where it and its agents stand. When the test fails it shows all logs.
#[derive(Debug)]
pub(crate) struct Deployment {
    server: Option<Server>,
    address: SocketAddr,
    site: Site,
    directory: TempDir,
}

impl Deployment {
    pub(crate) fn start() -> Self {
        Self::start_with([])
    }

    /// With a server that is given `arguments`, also when it is started again.
    pub(crate) fn start_with<const N: usize>(arguments: [&str; N]) -> Self {
        let directory = directory();
        let site = Site::new(binaries().clone(), directory.path(), Group::Shared).unwrap();
        let site = site.with_server_arguments(arguments);
        let server = site.server().unwrap();
        Self { address: server.address(), server: Some(server), site, directory }
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    pub(crate) fn path(&self) -> &Path {
        self.directory.path()
    }

    pub(crate) fn data(&self) -> PathBuf {
        self.site.data()
    }

    pub(crate) fn agent<A: AsRef<OsStr>>(
        &self,
        id: &str,
        arguments: impl IntoIterator<Item = A>,
    ) -> Process {
        self.site.agent(id, self.address, arguments).unwrap()
    }

    /// An agent on what looks like another host: nothing is shared but the server.
    pub(crate) fn agent_elsewhere(&self, host: &str, id: &str) -> Process {
        let directory = self.directory.path().join(host);
        let site = Site::new(binaries().clone(), &directory, Group::Shared).unwrap();
        site.agent(id, self.address, FAST).unwrap()
    }

    /// Stops the server as an operator would.
    pub(crate) fn stop_server(&mut self) {
        let status = self.server.take().unwrap().process().terminate(STOP_LIMIT).unwrap();
        assert!(status.success(), "the server ended with {status}");
    }

    /// Stops the server as a power cut would.
    pub(crate) fn kill_server(&mut self) {
        self.server.take().unwrap().process().kill().unwrap();
    }

    /// Starts the server again where it was, on its data.
    pub(crate) fn start_server(&mut self) {
        assert!(self.server.is_none(), "it runs");
        self.server = Some(self.site.server_at(self.address).unwrap());
    }

    /// Whether the server still runs.
    pub(crate) fn server_runs(&mut self) -> bool {
        self.server.as_mut().is_some_and(|server| server.process().ended().unwrap().is_none())
    }

    fn console(&self) -> Console {
        Console { server: self.address }
    }

    pub(crate) fn picket<A: AsRef<OsStr>>(&self, arguments: impl IntoIterator<Item = A>) -> Answer {
        self.console().picket(arguments)
    }

    /// Stores `document` as the configuration of `layer`.
    pub(crate) fn set_config(&self, layer: &str, document: &str) -> Answer {
        Picket::new(binaries(), self.address)
            .with_input(document)
            .run(["config", "set", layer, "--output", "json"])
    }

    /// Sends a command and gives its answer, as JSON, with the exit code.
    pub(crate) fn command(&self, agent: &str, command: &[&str]) -> Answer {
        self.console().command(agent, command)
    }

    /// What the agent says of itself.
    #[track_caller]
    pub(crate) fn status(&self, agent: &str) -> Value {
        self.console().status(agent)
    }

    /// Everything that was stored for `agent`, in order.
    #[track_caller]
    pub(crate) fn records(&self, agent: &str) -> Vec<Record> {
        let answer = self.picket([
            "get-metrics",
            "--since=1h",
            "--no-follow",
            "--output=json",
            "--agent",
            agent,
        ]);
        match answer.code {
            0 => answer.json_lines().into_iter().map(Record::new).collect(),
            6 => Vec::new(),
            _ => panic!("picket get-metrics failed: {answer:?}"),
        }
    }

    /// Waits until `agent` has stored records for which `condition` holds.
    #[track_caller]
    pub(crate) fn wait_for_records(
        &self,
        what: &str,
        agent: &str,
        condition: impl Fn(&[Record]) -> bool,
    ) -> Vec<Record> {
        wait_for(what, || {
            let records = self.records(agent);
            condition(&records).then_some(records)
        })
    }

    /// Waits for a record that was made after now.
    #[track_caller]
    pub(crate) fn wait_for_fresh_record(&self, agent: &str) -> Vec<Record> {
        let now_ms = now_ms();
        self.wait_for_records("a fresh record", agent, |records| {
            records.last().is_some_and(|record| now_ms < record.timestamp_ms())
        })
    }

    /// The entry of `picket agents` for `agent`; null when the server does not know it.
    pub(crate) fn agent_info(&self, agent: &str) -> Value {
        self.console().agent_info(agent)
    }

    #[track_caller]
    pub(crate) fn wait_until_connected(&self, agent: &str) {
        wait_for("the agent connects", || {
            (self.agent_info(agent)["connected"] == true).then_some(())
        });
    }

    /// Waits until the server has seen the agent leave, which may be after the agent has ended.
    #[track_caller]
    pub(crate) fn wait_until_gone(&self, agent: &str) {
        wait_for("the server sees the agent leave", || {
            (self.agent_info(agent)["connected"] == false).then_some(())
        });
    }

    /// A counter of the server; 0 when it never counted.
    pub(crate) fn counter(&self, name: &str) -> u64 {
        self.console().server_status()["counters"][name].as_u64().unwrap_or(0)
    }
}

impl Drop for Deployment {
    #[expect(clippy::print_stdout, reason = "the test harness shows it when the test fails")]
    fn drop(&mut self) {
        if !std::thread::panicking() {
            return;
        }
        for log in self.site.logs().unwrap_or_default() {
            if fs::metadata(&log).is_ok_and(|metadata| 0 < metadata.len()) {
                println!("{}", fleet::tail(&log));
            }
        }
    }
}
