//! What `cargo xtask services` has started, in a file that the next one reads.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use serde::{Deserialize, Serialize};

use super::Service;
use super::identity::Identity;

/// What was started, and where.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub(super) struct State {
    pub(super) services: BTreeMap<Service, Entry>,
}

/// One service.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Entry {
    /// For clients, and for its own kind.
    pub(super) ports: [u16; 2],
    /// None after a stop that kept the data, and with them the ports.
    pub(super) process: Option<Identity>,
    pub(super) log: Option<PathBuf>,
}

impl Entry {
    pub(super) fn address(&self) -> SocketAddr {
        SocketAddr::from((Ipv4Addr::LOCALHOST, self.ports[0]))
    }

    /// The process, if it runs still.
    pub(super) fn running(&self) -> Option<Identity> {
        self.process.filter(|process| process.runs())
    }
}

impl State {
    /// What the file at `path` says; nothing if there is no file.
    ///
    /// # Errors
    ///
    /// When it cannot be read or understood.
    pub(super) fn load(path: &Path) -> anyhow::Result<Self> {
        let text = match fs::read_to_string(path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Self::default()),
            Err(error) => {
                return Err(error).with_context(|| format!("cannot read {}", path.display()));
            }
        };
        serde_json::from_str(&text).with_context(|| {
            format!(
                "{} cannot be understood: end the etcd and the Kafka that were started from it, if any, and remove it",
                path.display()
            )
        })
    }

    /// Writes the file at `path`, whole or not at all.
    ///
    /// # Errors
    ///
    /// When it cannot be written.
    pub(super) fn store(&self, path: &Path) -> anyhow::Result<()> {
        let mut text = serde_json::to_string_pretty(self).context("a state has a text form")?;
        text.push('\n');
        let part = path.with_added_extension("part");
        fs::write(&part, text)
            .and_then(|()| fs::rename(&part, path))
            .with_context(|| format!("cannot write {}", path.display()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_stored_is_loaded() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("state.json");
        assert_eq!(State::load(&path).unwrap(), State::default());

        let mut state = State::default();
        let process = Identity::of(std::process::id());
        let log = Some(PathBuf::from("/logs/etcd-1.log"));
        state.services.insert(Service::Etcd, Entry { ports: [1000, 2000], process, log });
        let kept = Entry { ports: [3000, 4000], process: None, log: None };
        state.services.insert(Service::Kafka, kept);
        state.store(&path).unwrap();
        assert_eq!(State::load(&path).unwrap(), state);
        assert!(state.services[&Service::Etcd].running().is_some());
        assert!(state.services[&Service::Kafka].running().is_none());
    }

    #[test]
    fn a_file_that_is_no_state_is_an_error_with_its_remedy() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("state.json");
        for text in ["", "{", r#"{"etcd": {"ports": [1]}}"#, r#"{"redis": {}}"#] {
            fs::write(&path, text).unwrap();
            let error = State::load(&path).unwrap_err().to_string();
            assert!(error.contains("remove it"), "{text}: {error}");
        }
    }
}
