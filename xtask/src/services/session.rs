//! The services for the time of a test run.

use std::env;
use std::sync::atomic::AtomicBool;

use anyhow::ensure;

use super::command::progress;
use super::site::{Begun, Data, Report, Site};
use super::{REQUIRE, Service};

/// What a test run uses. Those that it starts are stopped when it is dropped.
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

#[cfg(test)]
mod tests {
    use super::super::state::{Entry, State};
    use super::*;

    #[test]
    fn a_session_stops_what_it_started_and_nothing_else() {
        if !Service::Etcd.is_here_for("services::session::a_session_stops_what_it_started") {
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
