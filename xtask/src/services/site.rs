//! Where one of each service stands: started there, stopped there, and found again by the next program.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context as _, ensure};

use crate::fleet::{poll, tail};

use super::Service;
use super::command::progress;
use super::health::is_healthy;
use super::identity::Stopped;
use super::instance::{Instance, Ports};
use super::lock::Lock;
use super::state::{Entry, State};

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

/// Where one of each service stands, with the file that says what runs.
#[derive(Debug)]
pub(super) struct Site {
    directory: PathBuf,
}

/// A service that serves.
#[derive(Debug)]
pub(super) struct Report {
    pub(super) service: Service,
    pub(super) entry: Entry,
    pub(super) begun: Begun,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Begun {
    Before,
    Now,
}

impl Site {
    pub(super) fn new(directory: Option<&Path>) -> anyhow::Result<Self> {
        let directory = match directory {
            Some(directory) => std::path::absolute(directory)
                .with_context(|| format!("cannot find {}", directory.display()))?,
            None => super::command::directory()?.join("run"),
        };
        Ok(Self { directory })
    }

    /// See [`up`].
    pub(super) fn up(
        &self,
        services: &[Service],
        interrupted: &AtomicBool,
    ) -> anyhow::Result<Vec<Report>> {
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
    pub(super) fn down(
        &self,
        services: &[Service],
        data: Data,
    ) -> anyhow::Result<Vec<(Service, Stopped)>> {
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

    pub(super) fn state(&self) -> PathBuf {
        self.directory.join("state.json")
    }

    /// The directory as the user would type it.
    pub(super) fn shown(&self) -> String {
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
