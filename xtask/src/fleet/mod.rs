//! A server and its agents as real processes: built once, started on free loopback ports, always reaped.
//!
//! It knows command lines, logs and signals. What the processes say to each other it does not know.

mod binaries;
mod directory;
mod process;

use std::ffi::{OsStr, OsString};
use std::fmt::Display;
use std::fs;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, bail};

pub use binaries::{Binaries, Profile};
pub(crate) use directory::Directory;
pub use process::{Group, Process, poll, tail};

/// How long a server may take from its start to its first line; an unoptimised one on a busy machine is slow.
const LISTENING_WITHIN: Duration = Duration::from_secs(30);

/// What a server prints before its address.
const LISTENING: &str = "listening on ";

/// Where the processes of one run stand: binaries, a directory for their data and logs, a process group.
#[derive(Clone, Debug)]
pub struct Site {
    binaries: Binaries,
    directory: PathBuf,
    group: Group,
    server_arguments: Vec<OsString>,
}

impl Site {
    /// A site that keeps everything below `directory`, which is created.
    ///
    /// # Errors
    ///
    /// When the directory cannot be created.
    pub fn new(binaries: Binaries, directory: &Path, group: Group) -> anyhow::Result<Self> {
        fs::create_dir_all(directory.join("logs"))
            .with_context(|| format!("cannot create {}", directory.display()))?;
        let directory = directory.to_path_buf();
        Ok(Self { binaries, directory, group, server_arguments: Vec::new() })
    }

    /// The same, with servers that are given further `arguments`.
    #[must_use]
    pub fn with_server_arguments<A: Into<OsString>>(
        mut self,
        arguments: impl IntoIterator<Item = A>,
    ) -> Self {
        self.server_arguments.extend(arguments.into_iter().map(Into::into));
        self
    }

    /// The binaries that run here.
    pub fn binaries(&self) -> &Binaries {
        &self.binaries
    }

    /// Where a server of this site keeps its data.
    pub fn data(&self) -> PathBuf {
        self.directory.join("data")
    }

    /// Where the agent `id` keeps its state.
    pub fn state(&self, id: &str) -> PathBuf {
        self.directory.join("state").join(id)
    }

    /// The logs written so far, oldest name first.
    ///
    /// # Errors
    ///
    /// When their directory cannot be read.
    pub fn logs(&self) -> io::Result<Vec<PathBuf>> {
        let entries = fs::read_dir(self.directory.join("logs"))?;
        let mut logs = entries.map(|entry| Ok(entry?.path())).collect::<io::Result<Vec<_>>>()?;
        logs.sort();
        Ok(logs)
    }

    /// Starts a server on any free loopback port, and waits until it listens.
    ///
    /// # Errors
    ///
    /// When it cannot be run, ends early, or does not say its address in time; the end of its log is included.
    pub fn server(&self) -> anyhow::Result<Server> {
        self.server_at(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)))
    }

    /// Starts a server at `address`, for instance where an earlier one stood, on the same data.
    ///
    /// # Errors
    ///
    /// As [`Site::server`].
    pub fn server_at(&self, address: SocketAddr) -> anyhow::Result<Server> {
        let mut command = Command::new(self.binaries.server());
        command.arg("--listen").arg(address.to_string()).arg("--data").arg(self.data());
        command.args(&self.server_arguments);
        let mut process = Process::start("server", command, &self.log_directory(), self.group)?;
        let Some(line) = process.first_line(LISTENING_WITHIN)? else {
            bail!(
                "the server did not say its address within {LISTENING_WITHIN:?}\n{}",
                process.log_tail()
            );
        };
        let address = line
            .strip_prefix(LISTENING)
            .and_then(|address| address.parse().ok())
            .with_context(|| format!("the server's first line is not its address: {line:?}"))?;
        Ok(Server { process, address })
    }

    /// Starts an agent named `id` for the server at an address, or for several with commas between. Its state is kept
    /// across starts.
    ///
    /// # Errors
    ///
    /// When it cannot be run.
    pub fn agent<A: AsRef<OsStr>>(
        &self,
        id: &str,
        servers: impl Display,
        arguments: impl IntoIterator<Item = A>,
    ) -> anyhow::Result<Process> {
        let mut command = Command::new(self.binaries.agent());
        // An agent of this host may have a file at the place where all look.
        command.env("PICKET_CONFIG", "/dev/null");
        command
            .arg("--agent-id")
            .arg(id)
            .arg("--server")
            .arg(servers.to_string())
            .arg("--state-dir")
            .arg(self.state(id))
            .args(arguments);
        Process::start(&format!("agent-{id}"), command, &self.log_directory(), self.group)
    }

    fn log_directory(&self) -> PathBuf {
        self.directory.join("logs")
    }
}

/// A server that listens.
#[derive(Debug)]
pub struct Server {
    process: Process,
    address: SocketAddr,
}

impl Server {
    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The process.
    pub fn process(&mut self) -> &mut Process {
        &mut self.process
    }
}
