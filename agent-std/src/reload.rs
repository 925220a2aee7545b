//! Reading the host's file again, as SIGHUP asks for it.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use agent_core::agent::Input;
use agent_core::plugin::own::OwnPlugins;
use agent_core::time::Instant;
use proto::config::Document;

use crate::HostAgent;
use crate::config::{Candidate, LayersError};
use crate::file::File;
use crate::main_loop::MainLoop;

/// What a file says outside its table `config`: what is read at the start of a process and then holds for all of it.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct HostKeys(BTreeMap<String, String>);

impl HostKeys {
    pub(crate) fn of(file: &File) -> Self {
        Self(file.host_keys.clone())
    }

    /// The keys that are not in `newer` as they are here, in the order of the alphabet.
    fn changed<'a>(&'a self, newer: &'a Self) -> Vec<&'a str> {
        let keys = self.0.keys().chain(newer.0.keys()).collect::<BTreeSet<_>>();
        let changed = keys.into_iter().filter(|key| self.0.get(*key) != newer.0.get(*key));
        changed.map(String::as_str).collect()
    }
}

/// The host's file, as it was found.
#[derive(Debug)]
pub(crate) struct HostFile {
    /// Where it is, or would be.
    pub(crate) path: PathBuf,
    pub(crate) is_there: bool,
    pub(crate) keys: HostKeys,
    /// What its table `config` says.
    pub(crate) config: Document,
}

impl MainLoop {
    /// Puts in force what the host's file says now. When a start would refuse it, everything stays as it was.
    pub(crate) fn reload(&mut self, agent: &mut HostAgent<impl OwnPlugins>, now: Instant) {
        self.service.begin_reload();
        let complaint = match self.next_start.look() {
            Ok(found) if !found.is_there && !self.file.is_there => {
                tracing::info!("asked to reload, but there is no file to read again");
                None
            }
            Ok(found) => self.put_in_force(agent, now, found),
            Err(problems) => Some(problems.in_one_line()),
        };
        if let Some(reason) = &complaint {
            tracing::error!(reason, "the host's file cannot be used; what was in force stays");
        }
        self.service.end_reload(complaint);
    }

    /// Answers why it could not.
    fn put_in_force(
        &mut self,
        agent: &mut HostAgent<impl OwnPlugins>,
        now: Instant,
        found: HostFile,
    ) -> Option<String> {
        let candidate = match self.configuration.reload(found.config.clone()) {
            Ok(candidate) => candidate,
            Err(error) => return Some(format!("{:#}", anyhow::Error::from(error))),
        };
        let revision = agent.status(now).config_revision;
        let config = candidate.config.clone();
        agent.handle(now, Input::Restore { revision, config });
        // The core refuses what names plugins that this program does not have; it reports that itself.
        if *agent.config() != candidate.config {
            return Some("it names plugins that this program does not have".to_owned());
        }
        self.configuration.adopt_update(candidate);
        let path = found.path.display();
        if found.is_there {
            tracing::info!(%path, "the host's file was read again and is in force");
        } else {
            tracing::warn!(%path, "the host's file is not there any more: what it said has its default");
        }
        let at_next_start = self.file.keys.changed(&found.keys);
        if !at_next_start.is_empty() {
            let keys = at_next_start.join(", ");
            tracing::warn!(
                keys,
                "these keys of the file have changed, and count from the next start on"
            );
        }
        self.file.is_there = found.is_there;
        None
    }

    /// What an UPDATE_CONFIG without params would make: the host's file is read again.
    pub(crate) fn read_again(&self) -> Result<Candidate, LayersError> {
        let found = self.next_start.look()?;
        self.configuration.reload(found.config)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keys(text: &str) -> HostKeys {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("agent.toml");
        std::fs::write(&path, text).unwrap();
        HostKeys::of(&crate::file::read(&path, &[]).unwrap())
    }

    #[test]
    fn keys_that_count_at_a_start_are_told_when_they_change_come_or_go() {
        let check = |then: &str, now: &str, expected: &[&str]| {
            assert_eq!(keys(then).changed(&keys(now)), expected, "{then:?} to {now:?}");
        };
        check("server = \"a:1\"", "server = \"a:1\"", &[]);
        check("server = \"a:1\"", "server = \"b:1\"\nbaud = 9600", &["baud", "server"]);
        check("spool_max_bytes = \"1M\"", "", &["spool_max_bytes"]);
        check("", "serial = [\"/dev/ttyS0\"]", &["serial"]);
        check("[config]\ninterval = 1", "[config]\ninterval = 2", &[]);
    }
}
