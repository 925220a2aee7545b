//! One service as a child process: started, watched, killed and started again where it was.

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, bail};

use crate::fleet::{Group, Process, poll};

use super::Service;
use super::health::is_healthy;
use super::identity::Identity;
use super::install::{Installed, Program};
use super::port::Claim;

/// How long a service may take from its start to its first answer. Kafka needs 4 s, 8 s after a kill; a machine that
/// compiles meanwhile many times that.
const HEALTHY_WITHIN: Duration = Duration::from_secs(180);

/// How long it may take to stop by itself.
const STOP_WITHIN: Duration = Duration::from_secs(60);

/// A service that belongs to its owner alone. Dropping it kills it; what it stored stays in its directory.
#[derive(Debug)]
pub struct Instance {
    service: Service,
    directory: PathBuf,
    ports: Ports,
    process: Option<Process>,
}

/// The two ports that either service needs.
#[derive(Debug)]
pub(super) struct Ports {
    /// For clients.
    pub(super) client: Claim,
    /// For its own kind: etcd's peers, Kafka's controller.
    pub(super) own: Claim,
}

impl Ports {
    /// The `earlier` ones if they are free still, so that addresses last; else any.
    ///
    /// # Errors
    ///
    /// When none was free.
    pub(super) fn claim(earlier: Option<[u16; 2]>) -> anyhow::Result<Self> {
        if let Some([client, own]) = earlier
            && let (Some(client), Some(own)) = (Claim::of(client), Claim::of(own))
        {
            return Ok(Self { client, own });
        }
        Ok(Self { client: Claim::any()?, own: Claim::any()? })
    }

    pub(super) fn numbers(&self) -> [u16; 2] {
        [self.client.port(), self.own.port()]
    }
}

impl Instance {
    pub(super) fn start(service: Service, directory: &Path) -> anyhow::Result<Self> {
        let mut instance = Self::launch(service, directory, Ports::claim(None)?)?;
        instance.wait_until_healthy(|| false)?;
        Ok(instance)
    }

    /// Starts the process, and does not wait for it to serve.
    pub(super) fn launch(service: Service, directory: &Path, ports: Ports) -> anyhow::Result<Self> {
        fs::create_dir_all(directory.join("logs"))
            .with_context(|| format!("cannot create {}", directory.display()))?;
        // The services are given this path, and run in the directory.
        let directory = directory
            .canonicalize()
            .with_context(|| format!("cannot find {}", directory.display()))?;
        let mut instance = Self { service, directory, ports, process: None };
        instance.spawn()?;
        Ok(instance)
    }

    /// Waits until it serves; fails early when `is_cancelled`.
    pub(super) fn wait_until_healthy(
        &mut self,
        mut is_cancelled: impl FnMut() -> bool,
    ) -> anyhow::Result<()> {
        let (service, address) = (self.service, self.address());
        let process = self.process.as_mut().with_context(|| format!("{service} is not running"))?;
        let healthy = poll(HEALTHY_WITHIN, || {
            if let Some(status) = process.ended()? {
                bail!("{service} ended early ({status})\n{}", process.log_tail());
            }
            if is_cancelled() {
                bail!("interrupted while {service} started; it was stopped");
            }
            Ok(is_healthy(service, address).then_some(()))
        })?;
        match healthy {
            Some(()) => Ok(()),
            None => bail!(
                "{service} did not serve at {address} within {HEALTHY_WITHIN:?}\n{}",
                process.log_tail()
            ),
        }
    }

    fn spawn(&mut self) -> anyhow::Result<()> {
        let Ports { client, own } = &self.ports;
        let mut command = match Installed::here()?.find(self.service)? {
            Program::Etcd(program) => super::etcd::command(&program, &self.directory, client, own),
            Program::Kafka(program) => program.command(&self.directory, client, own)?,
        };
        command.current_dir(&self.directory);
        let logs = self.directory.join("logs");
        self.process = Some(Process::start(self.service.name(), command, &logs, Group::Own)?);
        Ok(())
    }

    /// Which service it is.
    pub fn service(&self) -> Service {
        self.service
    }

    /// Where clients reach it; the same after each restart.
    pub fn address(&self) -> SocketAddr {
        self.ports.client.address()
    }

    /// [`Instance::address`] in the form that clients take: a URL for etcd, `HOST:PORT` for Kafka.
    pub fn endpoint(&self) -> String {
        self.service.endpoint(self.address())
    }

    /// Ends it at once (SIGKILL), as a power cut would. Does nothing when it is down.
    ///
    /// # Errors
    ///
    /// When the operating system refuses.
    pub fn kill(&mut self) -> anyhow::Result<()> {
        match self.process.take() {
            Some(mut process) => {
                process.kill().with_context(|| format!("cannot kill {}", self.service))
            }
            None => Ok(()),
        }
    }

    /// Asks it to stop (SIGTERM) and waits for it. Does nothing when it is down.
    ///
    /// # Errors
    ///
    /// When it does not stop in time; it was killed then.
    pub fn stop(&mut self) -> anyhow::Result<()> {
        match self.process.take() {
            Some(mut process) => process.terminate(STOP_WITHIN).map(drop),
            None => Ok(()),
        }
    }

    /// Kills it if it runs, starts it again at the same address on the same data, and waits until it serves. Kafka needs
    /// some seconds after a kill: it refuses itself until its earlier session is over.
    ///
    /// # Errors
    ///
    /// When it does not serve in time; the end of its log is included.
    pub fn restart(&mut self) -> anyhow::Result<()> {
        self.kill()?;
        self.spawn()?;
        self.wait_until_healthy(|| false)
    }

    /// The process, to be named to another program; none when it is down or has ended.
    pub(super) fn identity(&self) -> Option<Identity> {
        Identity::of(self.process.as_ref()?.id())
    }

    pub(super) fn ports(&self) -> &Ports {
        &self.ports
    }

    /// What it wrote since its last start; none when it is down.
    pub(super) fn log(&self) -> Option<&Path> {
        self.process.as_ref().map(Process::log)
    }

    /// Lets it run on after this program.
    pub(super) fn detach(mut self) {
        if let Some(process) = self.process.take() {
            process.detach();
        }
    }
}
