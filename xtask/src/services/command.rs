//! `cargo xtask services up|down|status`, and the same for the time of a test run.

use std::env;
use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail, ensure};
use serde::Serialize;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};

use crate::fleet::{poll, tail};
use crate::{interrupt, workspace};

use super::health::is_healthy;
use super::identity::{Identity, Stopped};
use super::install::Installed;
use super::instance::{Instance, Ports};
use super::lock::Lock;
use super::state::{Entry, State};
use super::{REQUIRE, Service};

/// How long `up` waits for another one; that one may be downloading.
const LOCK_LIMIT: Duration = Duration::from_secs(20 * 60);

/// How long a service that runs already may take to answer.
const ANSWER_LIMIT: Duration = Duration::from_secs(60);

/// How long a service may take to stop before it is killed. Kafka needs half a second.
const STOP_GRACE: Duration = Duration::from_secs(20);

/// What becomes of what the services stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Data {
    /// The next `up` starts with nothing.
    Remove,
    /// The next `up` goes on with it, at the same addresses if they are free.
    Keep,
}

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
            let map: std::collections::BTreeMap<_, _> =
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

/// The services for a test run. Those that it starts are stopped when it is dropped.
#[derive(Debug)]
pub(crate) struct Session {
    site: Site,
    /// Those to stop.
    started: Vec<Service>,
    /// For the tests, beside what the environment names already.
    variables: Vec<(&'static str, String)>,
}

impl Session {
    /// A session that has nothing yet, where [`up`] without a directory stands.
    ///
    /// # Errors
    ///
    /// When the target directory cannot be found.
    pub(crate) fn new() -> anyhow::Result<Self> {
        Ok(Self::at(Site::new(None)?))
    }

    fn at(site: Site) -> Self {
        Self { site, started: Vec::new(), variables: Vec::new() }
    }

    /// Sees that every service serves that the environment does not name. Answers those that do not, each as a line that
    /// says why.
    ///
    /// # Errors
    ///
    /// When one does not, where that is a failure.
    pub(crate) fn begin(&mut self, interrupted: &AtomicBool) -> anyhow::Result<Vec<String>> {
        let mut missing = Vec::new();
        for service in Service::ALL {
            if env::var_os(service.variable()).is_some_and(|named| !named.is_empty()) {
                continue;
            }
            if let Err(error) = self.start(service, interrupted) {
                let error = format!("{error:#}");
                progress(&format!("{service} did not come up: {error}"));
                // The rest of the message is above; a summary has lines.
                let first = error.lines().next().unwrap_or_default();
                missing.push(format!("all that need {service}: it did not come up: {first}"));
            }
        }
        let required = env::var_os(REQUIRE).is_some_and(|value| value == "1");
        ensure!(missing.is_empty() || !required, "{REQUIRE}=1, and {}", missing.join("; "));
        Ok(missing)
    }

    fn start(&mut self, service: Service, interrupted: &AtomicBool) -> anyhow::Result<()> {
        for Report { service, entry, begun } in self.site.up(&[service], interrupted)? {
            match begun {
                Begun::Now => self.started.push(service),
                Begun::Before => {}
            }
            self.variables.push((service.variable(), service.endpoint(entry.address())));
        }
        Ok(())
    }

    /// What tells the tests of them.
    pub(crate) fn variables(&self) -> impl Iterator<Item = (&'static str, &str)> {
        self.variables.iter().map(|(name, value)| (*name, value.as_str()))
    }

    /// Stops what was started, and removes its data.
    ///
    /// # Errors
    ///
    /// When one cannot be stopped.
    pub(crate) fn end(&mut self) -> anyhow::Result<()> {
        let started = std::mem::take(&mut self.started);
        if started.is_empty() {
            return Ok(());
        }
        self.site.down(&started, Data::Remove).map(drop)
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        if let Err(error) = self.end() {
            progress(&format!("{error:#}"));
        }
    }
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
pub(super) fn progress(line: &str) {
    // A closed stderr is no reason to stop.
    writeln!(io::stderr(), "{line}").ok();
}

/// Where one of each service stands, with the file that says what runs.
#[derive(Debug)]
struct Site {
    directory: PathBuf,
}

/// A service that serves.
#[derive(Debug)]
struct Report {
    service: Service,
    entry: Entry,
    begun: Begun,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Begun {
    Before,
    Now,
}

impl Site {
    fn new(directory: Option<&Path>) -> anyhow::Result<Self> {
        let directory = match directory {
            Some(directory) => std::path::absolute(directory)
                .with_context(|| format!("cannot find {}", directory.display()))?,
            None => self::directory()?.join("run"),
        };
        Ok(Self { directory })
    }

    /// See [`up`].
    fn up(&self, services: &[Service], interrupted: &AtomicBool) -> anyhow::Result<Vec<Report>> {
        // Downloads have locks of their own, so that tests of a service that is here need not wait for them.
        let _lock = self.lock()?;
        let mut state = State::load(&self.state())?;
        let mut launched = Vec::new();
        for &service in services {
            if state.services.get(&service).and_then(Entry::running).is_some() {
                continue;
            }
            service.install()?;
            progress(&format!("starting {service} ..."));
            let earlier = state.services.get(&service).map(|entry| entry.ports);
            let ports = Ports::claim(earlier)?;
            let instance = Instance::launch(service, &self.directory.join(service.name()), ports)?;
            // Before anything else: should this program be killed, the next one finds what it left.
            state.services.insert(service, entry_of(&instance));
            state.store(&self.state())?;
            launched.push(instance);
        }
        for instance in &mut launched {
            instance.wait_until_healthy(|| interrupted.load(Ordering::Relaxed))?;
        }
        let mut reports = Vec::new();
        for &service in services {
            let entry = state.services.get(&service).cloned();
            let entry = entry.with_context(|| format!("{service} was not recorded"))?;
            let is_new = launched.iter().any(|instance| instance.service() == service);
            if !is_new {
                answers(service, &entry)?;
            }
            reports.push(Report {
                service,
                entry,
                begun: if is_new { Begun::Now } else { Begun::Before },
            });
        }
        ensure!(!interrupted.load(Ordering::Relaxed), "interrupted; what was started was stopped");
        launched.into_iter().for_each(Instance::detach);
        Ok(reports)
    }

    /// See [`down`].
    fn down(&self, services: &[Service], data: Data) -> anyhow::Result<Vec<(Service, Stopped)>> {
        let _lock = self.lock()?;
        let mut state = State::load(&self.state())?;
        let mut stopped = Vec::new();
        for &service in services {
            let process = state.services.get(&service).and_then(Entry::running);
            let how = match process {
                Some(process) => process.stop(STOP_GRACE).with_context(|| {
                    format!("cannot stop {service}: end process {} yourself", process.pid)
                })?,
                None => Stopped::Before,
            };
            stopped.push((service, how));
            match data {
                Data::Keep => {
                    if let Some(entry) = state.services.get_mut(&service) {
                        entry.process = None;
                    }
                }
                Data::Remove => {
                    state.services.remove(&service);
                    let directory = self.directory.join(service.name());
                    if directory.exists() {
                        fs::remove_dir_all(&directory)
                            .with_context(|| format!("cannot remove {}", directory.display()))?;
                    }
                }
            }
            state.store(&self.state())?;
        }
        Ok(stopped)
    }

    fn lock(&self) -> anyhow::Result<Lock> {
        Lock::wait(&self.directory.join("lock"), LOCK_LIMIT, "another `cargo xtask services`")
    }

    fn state(&self) -> PathBuf {
        self.directory.join("state.json")
    }

    /// The directory as the user would type it.
    fn shown(&self) -> String {
        let current = env::current_dir().ok();
        let relative = current
            .and_then(|current| self.directory.strip_prefix(current).ok().map(Path::to_path_buf));
        relative.unwrap_or_else(|| self.directory.clone()).display().to_string()
    }
}

fn entry_of(instance: &Instance) -> Entry {
    Entry {
        ports: instance.ports().numbers(),
        process: instance.identity(),
        log: instance.log().map(Path::to_path_buf),
    }
}

/// Sees that a service that an earlier program started answers; it may be starting still.
fn answers(service: Service, entry: &Entry) -> anyhow::Result<()> {
    let healthy = poll(ANSWER_LIMIT, || {
        ensure!(entry.running().is_some(), "{service} has just ended: try again");
        Ok(is_healthy(service, entry.address()).then_some(()))
    })?;
    let log = entry.log.as_deref().map(tail).unwrap_or_default();
    healthy.with_context(|| {
        format!("{service} runs and does not answer: cargo xtask services down, then up\n{log}")
    })
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_session_stops_what_it_started_and_nothing_else() {
        if !Service::Etcd.is_here_for("services::command::a_session_stops_what_it_started") {
            return;
        }
        let directory = tempfile::tempdir().unwrap();
        let session = || {
            let site = Site::new(Some(directory.path())).unwrap();
            let mut session = Session::at(site);
            session.start(Service::Etcd, &AtomicBool::new(false)).unwrap();
            session
        };
        let runs = || {
            let state = State::load(&directory.path().join("state.json")).unwrap();
            state.services.get(&Service::Etcd).and_then(Entry::running)
        };

        let first = session();
        let started = runs().unwrap();
        let second = session();
        assert!(first.variables().eq(second.variables()));
        assert_eq!(first.variables().next().unwrap().0, "PICKET_TEST_ETCD");
        drop(second);
        assert_eq!(runs(), Some(started));
        drop(first);
        assert_eq!(runs(), None);
        assert!(!started.runs());
    }
}
