//! What the faults strike: agents, servers, services and the links between, as they stand at one moment.

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::ExitStatus;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};

use super::Bus;
use super::disk::Disk;
use super::proxy::{Proxy, Tally};
use super::random::Random;
use super::schedule::{AGENT_WITH_DISK, agent_id};
use crate::fleet::{Binaries, Group, Process, Server, Site};
use crate::services::{Claim, Instance, Service};

/// How long a process may take to stop when asked: an agent drains for 5 s, a server for 10 s, and the machine may be busy.
const STOP_WITHIN: Duration = Duration::from_secs(60);

/// The room for the state of the agent with a small disk.
const AGENT_DISK_KIBIBYTES: u32 = 2 * 1024;

/// The room for the data of a server with a small disk.
const SERVER_DISK_KIBIBYTES: u32 = 256 * 1024;

/// Seconds between two snapshots, by turns.
const INTERVALS: [&str; 3] = ["0.1", "0.15", "0.2"];

/// Chains of plugins, by turns: what suppresses, merges and alerts has books, too.
const PLUGINS: [&str; 3] =
    ["threshold_alert", "deduplication,threshold_alert", "threshold_alert,aggregation"];

/// Which records of a spool go first, by turns.
const SPOOL_ORDERS: [&str; 2] = ["oldest-first", "newest-first"];

/// What a spool may take: more than an outage of some seconds needs, and less than the small disk.
const SPOOL_BYTES_MAX: &str = "1M";

/// How long an agent is without a server before it spools: so short that short outages reach the disk.
const SPOOL_AFTER: &str = "1s";

/// How long an agent that has ended by itself is left alone.
const RESTART_PAUSE: Duration = Duration::from_secs(1);

/// What an agent says that cannot start because its disk is full.
const CANNOT_COUNT: &str = "cannot keep the boot counter";

/// All that runs.
#[derive(Debug)]
pub(super) struct Field {
    pub(super) nodes: Vec<Node>,
    pub(super) agents: Vec<Agent>,
    pub(super) kafka: Option<Instance>,
    pub(super) etcd: Option<Instance>,
    binaries: Binaries,
    directory: PathBuf,
    /// What should not have happened, each with where to read on.
    pub(super) findings: Vec<String>,
}

/// A server with its place and its address, which it has also while it is down.
#[derive(Debug)]
pub(super) struct Node {
    site: Site,
    claim: Claim,
    server: Option<Server>,
    pub(super) disk: Option<Disk>,
}

/// An agent with its state and its links, one to each server.
#[derive(Debug)]
pub(super) struct Agent {
    pub(super) id: String,
    site: Site,
    arguments: Vec<String>,
    process: Option<Process>,
    started: Option<Instant>,
    pub(super) links: Vec<Proxy>,
    pub(super) disk: Option<Disk>,
    /// Other processes have had its id.
    pub(super) twins: usize,
}

/// Where the processes of a run come from and how many there are.
#[derive(Debug)]
pub(super) struct Plan<'a> {
    pub(super) binaries: &'a Binaries,
    pub(super) directory: &'a Path,
    pub(super) bus: Bus,
    pub(super) agents: usize,
    /// Whether it may mount small disks.
    pub(super) disks: bool,
}

impl Field {
    /// Sets everything up and starts nothing but the services, which are down again when this returns.
    ///
    /// # Errors
    ///
    /// When a directory, a disk, a link or a service is not to be had.
    pub(super) fn prepare(plan: &Plan<'_>, random: &mut Random) -> anyhow::Result<Self> {
        let (mut kafka, mut etcd) = (None, None);
        if plan.bus == Bus::Kafka {
            // Started once for their addresses and their storage; they are absent when the servers start.
            let start = |service: Service| -> anyhow::Result<Instance> {
                let mut instance = service.start(&plan.directory.join(service.name()))?;
                instance.stop()?;
                Ok(instance)
            };
            kafka = Some(start(Service::Kafka)?);
            etcd = Some(start(Service::Etcd)?);
        }
        let mut server_arguments = Vec::new();
        if let Some(kafka) = &kafka {
            server_arguments.extend(["--kafka".to_owned(), kafka.endpoint()]);
        }
        if let Some(etcd) = &etcd {
            server_arguments.extend(["--etcd".to_owned(), etcd.address().to_string()]);
        }
        let mut nodes = Vec::new();
        for index in 0..plan.bus.servers() {
            let directory = plan.directory.join(format!("server-{index}"));
            let site = Site::new(plan.binaries.clone(), &directory, Group::Own)?;
            let site = site.with_server_arguments(&server_arguments);
            let has_disk = plan.disks && plan.bus == Bus::Embedded;
            let disk = has_disk.then(|| Disk::mount(&site.data(), SERVER_DISK_KIBIBYTES));
            let disk = disk.transpose()?;
            nodes.push(Node { site, claim: Claim::any()?, server: None, disk });
        }
        let mut agents = Vec::new();
        for index in 0..plan.agents {
            let id = agent_id(index);
            let site =
                Site::new(plan.binaries.clone(), &plan.directory.join("agents"), Group::Own)?;
            let links = nodes
                .iter()
                .map(|node| Proxy::start(node.address(), random.split()))
                .collect::<anyhow::Result<Vec<_>>>()?;
            let has_disk = plan.disks && index == AGENT_WITH_DISK;
            let disk = has_disk.then(|| Disk::mount(&site.state(&id), AGENT_DISK_KIBIBYTES));
            let disk = disk.transpose()?;
            let arguments = agent_arguments(index);
            agents.push(Agent {
                id,
                site,
                arguments,
                process: None,
                started: None,
                links,
                disk,
                twins: 0,
            });
        }
        Ok(Self {
            nodes,
            agents,
            kafka,
            etcd,
            binaries: plan.binaries.clone(),
            directory: plan.directory.to_path_buf(),
            findings: Vec::new(),
        })
    }

    /// Looks for what has ended by itself, notes it, and starts it again so that the run goes on.
    ///
    /// # Errors
    ///
    /// When it cannot be started.
    pub(super) fn watch(&mut self) -> anyhow::Result<()> {
        for (index, node) in self.nodes.iter_mut().enumerate() {
            if let Some((status, tail)) = ended(node.server.as_mut().map(Server::process))? {
                self.findings.push(format!("server-{index} ended by itself ({status})\n{tail}"));
                node.server = None;
                node.start()?;
            }
        }
        for agent in &mut self.agents {
            // As a supervisor of services would: not again and again at once.
            if agent.started.is_some_and(|started| started.elapsed() < RESTART_PAUSE) {
                continue;
            }
            if let Some((status, tail)) = ended(agent.process.as_mut())? {
                // On a full disk it cannot count its boots, so it does not start.
                let is_full = agent.disk.as_ref().map(Disk::is_full).transpose()?;
                if !(is_full == Some(true) && tail.contains(CANNOT_COUNT)) {
                    self.findings.push(format!("{} ended by itself ({status})\n{tail}", agent.id));
                }
                agent.process = None;
                agent.start()?;
            }
        }
        Ok(())
    }

    /// Another process with the id of an agent, and through the same links; `copy` gives it what the agent has stored.
    ///
    /// # Errors
    ///
    /// When it cannot be started.
    pub(super) fn twin(&mut self, index: usize, copy: bool) -> anyhow::Result<Process> {
        let agent = &mut self.agents[index];
        agent.twins += 1;
        let directory = self.directory.join(format!("twin-{}-of-{}", agent.twins, agent.id));
        let site = Site::new(self.binaries.clone(), &directory, Group::Own)?;
        if copy {
            copy_directory(&agent.site.state(&agent.id), &site.state(&agent.id))?;
        }
        site.agent(&agent.id, agent.servers(), &agent.arguments)
    }

    /// What all links have done.
    pub(super) fn tally(&self) -> Tally {
        let tallies = self.agents.iter().map(Agent::tally);
        tallies.fold(Tally::default(), Tally::plus)
    }

    /// Every log there is, of what ran at any time.
    ///
    /// # Errors
    ///
    /// When a directory cannot be read.
    pub(super) fn logs(&self) -> anyhow::Result<Vec<PathBuf>> {
        let mut logs = Vec::new();
        for entry in fs::read_dir(&self.directory)? {
            let directory = entry?.path().join("logs");
            // Those of Kafka and etcd are not ours.
            let is_service =
                Service::ALL.iter().any(|service| directory.ends_with(format!("{service}/logs")));
            if is_service || !directory.is_dir() {
                continue;
            }
            for log in fs::read_dir(&directory)? {
                logs.push(log?.path());
            }
        }
        logs.sort();
        Ok(logs)
    }
}

impl Node {
    pub(super) fn address(&self) -> SocketAddr {
        self.claim.address()
    }

    pub(super) fn is_up(&self) -> bool {
        self.server.is_some()
    }

    /// Starts it where it always is, and waits until it listens.
    ///
    /// # Errors
    ///
    /// When it does not.
    pub(super) fn start(&mut self) -> anyhow::Result<()> {
        self.server = Some(self.site.server_at(self.address())?);
        Ok(())
    }

    pub(super) fn process(&mut self) -> anyhow::Result<&mut Process> {
        Ok(self.server.as_mut().context("the server is down")?.process())
    }

    pub(super) fn kill(&mut self) -> anyhow::Result<()> {
        self.process()?.kill()?;
        self.server = None;
        Ok(())
    }

    /// Stops it as an operator would.
    ///
    /// # Errors
    ///
    /// When it does not stop in time, or not with success.
    pub(super) fn stop(&mut self) -> anyhow::Result<()> {
        let process = self.process()?;
        expect_success("the server", process)?;
        self.server = None;
        Ok(())
    }
}

impl Agent {
    /// Its servers' addresses, as its links have them.
    fn servers(&self) -> String {
        let addresses: Vec<String> =
            self.links.iter().map(|link| link.address().to_string()).collect();
        addresses.join(",")
    }

    /// Starts it on the state it left.
    ///
    /// # Errors
    ///
    /// When it cannot be run.
    pub(super) fn start(&mut self) -> anyhow::Result<()> {
        self.process = Some(self.site.agent(&self.id, self.servers(), &self.arguments)?);
        self.started = Some(Instant::now());
        Ok(())
    }

    pub(super) fn process(&mut self) -> anyhow::Result<&mut Process> {
        self.process.as_mut().with_context(|| format!("{} is down", self.id))
    }

    pub(super) fn kill(&mut self) -> anyhow::Result<()> {
        self.process()?.kill()?;
        self.process = None;
        Ok(())
    }

    /// Stops it as an operator would.
    ///
    /// # Errors
    ///
    /// When it does not stop in time, or not with success.
    pub(super) fn stop(&mut self) -> anyhow::Result<()> {
        let id = self.id.clone();
        expect_success(&id, self.process()?)?;
        self.process = None;
        Ok(())
    }

    pub(super) fn state(&self) -> PathBuf {
        self.site.state(&self.id)
    }

    pub(super) fn tally(&self) -> Tally {
        self.links.iter().map(Proxy::tally).fold(Tally::default(), Tally::plus)
    }

    /// The link that it uses now, or used last.
    pub(super) fn busiest_link(&self) -> &Proxy {
        let busiest = self.links.iter().max_by_key(|link| link.last_passage());
        // There is a server, so there is a link.
        busiest.unwrap_or(&self.links[0])
    }
}

/// How a process ended that nobody has ended, with the end of its log.
fn ended(process: Option<&mut Process>) -> anyhow::Result<Option<(ExitStatus, String)>> {
    let Some(process) = process else { return Ok(None) };
    Ok(process.ended()?.map(|status| (status, process.log_tail())))
}

fn expect_success(name: &str, process: &mut Process) -> anyhow::Result<()> {
    let status = process.terminate(STOP_WITHIN)?;
    if !status.success() {
        bail!("{name} did not stop cleanly ({status})\n{}", process.log_tail());
    }
    Ok(())
}

fn agent_arguments(index: usize) -> Vec<String> {
    let interval = INTERVALS[index % INTERVALS.len()];
    let plugins = PLUGINS[index % PLUGINS.len()];
    let order = SPOOL_ORDERS[index % SPOOL_ORDERS.len()];
    vec![
        // All there are: larger records fill a disk sooner.
        "--metrics=standard".to_owned(),
        format!("--interval={interval}"),
        format!("--plugins={plugins}"),
        format!("--spool-max-bytes={SPOOL_BYTES_MAX}"),
        format!("--spool-after={SPOOL_AFTER}"),
        format!("--spool-order={order}"),
    ]
}

/// Copies files and directories; one that goes away meanwhile is left out, as by a copy of a running host's disk.
pub(super) fn copy_directory(from: &Path, to: &Path) -> anyhow::Result<()> {
    fs::create_dir_all(to).with_context(|| format!("cannot create {}", to.display()))?;
    for entry in fs::read_dir(from).with_context(|| format!("cannot read {}", from.display()))? {
        let entry = entry?;
        let target = to.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            copy_directory(&entry.path(), &target)?;
        } else {
            match fs::copy(entry.path(), &target) {
                Ok(_) => {}
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
                Err(error) => {
                    return Err(error)
                        .with_context(|| format!("cannot copy {}", entry.path().display()));
                }
            }
        }
    }
    Ok(())
}
