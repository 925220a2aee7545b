//! `cargo xtask services up|down|status`: what they print.

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::bail;
use serde::Serialize;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};

use crate::{interrupt, workspace};

use super::Service;
use super::health::is_healthy;
use super::identity::{Identity, Stopped};
use super::install::Installed;
use super::site::{Begun, Data, Report, Site};
use super::state::{Entry, State};

/// How a status is printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// Lines for people.
    Text,
    /// One JSON object, keyed by service.
    Json,
}

/// Starts those of `services` that do not run, waits until all of them serve, and prints how to use them. They outlive
/// this program. Everything they write is in `directory`, or in the target directory.
///
/// # Errors
///
/// When one cannot be downloaded or does not serve in time; what this call started was stopped then.
pub fn up(services: &[Service], directory: Option<&Path>) -> anyhow::Result<()> {
    let interrupted = interrupt::flag([SIGINT, SIGTERM, SIGHUP])?;
    let site = Site::new(directory)?;
    let started = Instant::now();
    let reports = site.up(services, &interrupted)?;
    let mut out = io::stdout();
    for Report { service, entry, begun } in &reports {
        let (endpoint, pid) = (service.endpoint(entry.address()), entry.process.map(|it| it.pid));
        let how = match begun {
            Begun::Now => "started",
            Begun::Before => "was up",
        };
        writeln!(out, "{service:<6} {how} at {endpoint}, pid {}", pid.unwrap_or_default())?;
    }
    writeln!(out, "ready after {:.1} s\n\nfor tests:", started.elapsed().as_secs_f64())?;
    for Report { service, entry, .. } in &reports {
        writeln!(out, "  export {}={}", service.variable(), service.endpoint(entry.address()))?;
    }
    writeln!(out, "\nto watch them:")?;
    for Report { service, entry, .. } in &reports {
        write!(out, "{}", watching(*service, &service.endpoint(entry.address()))?)?;
    }
    writeln!(out, "\nlogs and data are in {}; to stop: cargo xtask services down", site.shown())?;
    Ok(())
}

/// Stops what [`up`] with the same `directory` started and what still runs of it.
///
/// # Errors
///
/// When a process cannot be stopped or its data cannot be removed.
pub fn down(data: Data, directory: Option<&Path>) -> anyhow::Result<()> {
    let site = Site::new(directory)?;
    let mut out = io::stdout();
    for (service, stopped) in site.down(&Service::ALL, data)? {
        let how = match stopped {
            Stopped::Before => "was down",
            Stopped::Asked => "stopped",
            Stopped::Killed => "did not stop when asked to, killed",
        };
        writeln!(out, "{service:<6} {how}")?;
    }
    match data {
        Data::Remove => {}
        Data::Keep => writeln!(out, "their data stay in {}", site.shown())?,
    }
    Ok(())
}

/// Prints how the services are that [`up`] with the same `directory` started.
///
/// # Errors
///
/// When one of them is not healthy; all was printed then.
pub fn status(form: Form, directory: Option<&Path>) -> anyhow::Result<()> {
    let site = Site::new(directory)?;
    let state = State::load(&site.state())?;
    let statuses = Service::ALL.map(|service| (service, Status::of(service, &state)));
    let mut out = io::stdout();
    match form {
        Form::Text => {
            for (service, status) in &statuses {
                writeln!(out, "{service:<6} {}", status.line())?;
            }
        }
        Form::Json => {
            let map: BTreeMap<_, _> =
                statuses.iter().map(|(service, status)| (service.name(), status)).collect();
            writeln!(out, "{}", serde_json::to_string_pretty(&map)?)?;
        }
    }
    for (service, status) in &statuses {
        match status.health {
            Health::Healthy => {}
            Health::Silent => bail!(
                "{service} runs and does not answer: cargo xtask services down, then up; its log: {}",
                status.log.as_ref().map_or_else(String::new, |log| log.display().to_string())
            ),
            Health::Down => bail!("{service} is down: cargo xtask services up"),
        }
    }
    Ok(())
}

/// Where the programs are, and all that the services of everybody write.
///
/// # Errors
///
/// When the target directory cannot be found.
pub(super) fn directory() -> anyhow::Result<PathBuf> {
    Ok(workspace::target_directory()?.join("services"))
}

/// Tells the user what takes time, apart from the results on stdout.
pub(crate) fn progress(line: &str) {
    // A closed stderr is no reason to stop.
    writeln!(io::stderr(), "{line}").ok();
}

/// What to type to see what goes through `service`.
fn watching(service: Service, endpoint: &str) -> anyhow::Result<String> {
    Ok(match service {
        Service::Etcd => {
            let etcdctl = Installed::here()?.etcdctl();
            let etcdctl =
                etcdctl.map_or_else(|| "etcdctl".into(), |path| path.display().to_string());
            format!(
                "  {etcdctl} --endpoints={endpoint} watch --prefix /monitor/config/\n  \
                   {etcdctl} --endpoints={endpoint} get --prefix /monitor/config/\n"
            )
        }
        Service::Kafka => format!(
            "  kcat -b {endpoint} -L\n  \
               kcat -b {endpoint} -C -t monitoring-data -f '%k %s\\n'\n"
        ),
    })
}

/// How a service is.
#[derive(Debug, Serialize)]
struct Status {
    health: Health,
    pid: Option<u32>,
    /// For clients, in the form they take.
    endpoint: Option<String>,
    port: Option<u16>,
    /// For etcd's peers, Kafka's controller.
    own_port: Option<u16>,
    variable: &'static str,
    log: Option<PathBuf>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum Health {
    /// It answers.
    Healthy,
    /// Its process is there and does not answer.
    Silent,
    /// There is no process.
    Down,
}

impl Status {
    fn of(service: Service, state: &State) -> Self {
        let entry = state.services.get(&service);
        let process = entry.and_then(Entry::running);
        let health = match (entry, process) {
            (Some(entry), Some(_)) if is_healthy(service, entry.address()) => Health::Healthy,
            (Some(_), Some(_)) => Health::Silent,
            (Some(_) | None, _) => Health::Down,
        };
        let running = entry.filter(|_| process.is_some());
        Self {
            health,
            pid: process.map(|Identity { pid, .. }| pid),
            endpoint: running.map(|entry| service.endpoint(entry.address())),
            port: running.map(|entry| entry.ports[0]),
            own_port: running.map(|entry| entry.ports[1]),
            variable: service.variable(),
            log: entry.and_then(|entry| entry.log.clone()),
        }
    }

    fn line(&self) -> String {
        let health = match self.health {
            Health::Healthy => "healthy",
            Health::Silent => "does not answer",
            Health::Down => return "down".into(),
        };
        let number = |number: Option<u16>| number.map_or_else(String::new, |it| it.to_string());
        format!(
            "{health}, {}, pid {}, ports {} and {}",
            self.endpoint.as_deref().unwrap_or_default(),
            self.pid.unwrap_or_default(),
            number(self.port),
            number(self.own_port),
        )
    }
}
