//! The layers of the agent's configuration: what the server pushed, with the host's own word above it.

use std::collections::HashMap;

use agent_core::config::Config;
use proto::config::{Document, DocumentError};

use crate::file::{File, FileError, Location};

/// Precedence, highest first: flags and variables, the host's file, what the server pushed, defaults.
#[derive(Debug)]
pub(crate) struct Layers {
    // The user's own plugins that this program has.
    own_plugins: &'static [&'static str],
    flags: Document,
    // None where there is none to read again.
    location: Option<Location>,
    file: Document,
    remote: Document,
}

/// A configuration that is valid, with the layers that make it; [`Layers::adopt`] puts it in place.
#[derive(Debug)]
pub(crate) struct Candidate {
    pub(crate) config: Config,
    file: Document,
    remote: Document,
}

/// Why new layers cannot be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LayersError {
    #[error(transparent)]
    Document(#[from] DocumentError),
    #[error(transparent)]
    File(#[from] FileError),
}

impl Layers {
    /// The host's own layers; nothing is known from the server yet.
    pub(crate) fn new(
        own_plugins: &'static [&'static str],
        flags: Document,
        location: Option<Location>,
        file: Document,
    ) -> Self {
        Self { own_plugins, flags, location, file, remote: Document::default() }
    }

    /// What the layers make together.
    pub(crate) fn config(&self) -> Result<Config, DocumentError> {
        Ok(self.candidate(self.file.clone(), self.remote.clone())?.config)
    }

    /// What a document pushed by the server would make.
    pub(crate) fn push(&self, text: &str) -> Result<Candidate, LayersError> {
        Ok(self.candidate(self.file.clone(), Document::parse(text)?)?)
    }

    /// What the params of an UPDATE_CONFIG would make: they lie over what the server pushed, until it pushes again.
    /// Without params the host's file is read again.
    pub(crate) fn update(
        &self,
        params: &HashMap<String, String>,
    ) -> Result<Candidate, LayersError> {
        if params.is_empty()
            && let Some((_, candidate)) = self.reload()?
        {
            return Ok(candidate);
        }
        let file = self.file.clone();
        let remote = Document::merge(&self.remote, &Document::from_params(params)?);
        Ok(self.candidate(file, remote)?)
    }

    /// What the host's file says now, and what it would make; none when there is no file and was none. One that need not be
    /// there and is gone says nothing any more.
    pub(crate) fn reload(&self) -> Result<Option<(File, Candidate)>, LayersError> {
        let Some(location) = &self.location else { return Ok(None) };
        let file = match location.read(self.own_plugins)? {
            None if self.file.is_empty() => return Ok(None),
            file => file.unwrap_or_default(),
        };
        let candidate = self.candidate(file.config.clone(), self.remote.clone())?;
        Ok(Some((file, candidate)))
    }

    /// Makes `candidate` the layers in force.
    pub(crate) fn adopt(&mut self, candidate: Candidate) {
        self.file = candidate.file;
        self.remote = candidate.remote;
    }

    /// The layers, highest first: what flags and variables say, the file, and what the server pushed.
    pub(crate) const fn all(&self) -> [&Document; 3] {
        [&self.flags, &self.file, &self.remote]
    }

    /// The keys of the server's document that the host decides itself, sorted.
    pub(crate) fn overridden(&self) -> Vec<String> {
        let is_local =
            |key: &&str| self.file.keys().chain(self.flags.keys()).any(|own| own == *key);
        let mut keys = self.remote.keys().filter(is_local).map(str::to_owned).collect::<Vec<_>>();
        keys.sort_unstable();
        keys
    }

    fn candidate(&self, file: Document, remote: Document) -> Result<Candidate, DocumentError> {
        let local = Document::merge(&file, &self.flags);
        let config = Document::merge(&remote, &local).config_for(self.own_plugins)?;
        Ok(Candidate { config, file, remote })
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use agent_core::config::WindowEnd;

    use super::*;

    fn document(text: &str) -> Document {
        Document::parse(text).unwrap()
    }

    fn interval(candidate: &Candidate) -> Duration {
        candidate.config.settings().interval
    }

    #[test]
    fn the_host_wins_over_the_server_and_says_where() {
        let mut layers =
            Layers::new(&[], document(r#"{"interval": 1}"#), None, Document::default());
        let pushed = layers.push(r#"{"interval": 7, "window_size": 3}"#).unwrap();
        assert_eq!(interval(&pushed), Duration::from_secs(1));
        assert_eq!(pushed.config.settings().window, WindowEnd::Snapshots(3));
        layers.adopt(pushed);
        assert_eq!(layers.overridden(), ["interval"]);
    }

    #[test]
    fn params_lie_over_what_was_pushed_until_the_next_push() {
        let mut layers = Layers::new(&[], Document::default(), None, Document::default());
        let pushed = layers.push(r#"{"interval": 7, "window_size": 3}"#).unwrap();
        layers.adopt(pushed);
        let params = HashMap::from([("interval".to_owned(), "2".to_owned())]);
        let updated = layers.update(&params).unwrap();
        assert_eq!(interval(&updated), Duration::from_secs(2));
        assert_eq!(updated.config.settings().window, WindowEnd::Snapshots(3));
        layers.adopt(updated);
        let pushed = layers.push(r#"{"window_size": 4}"#).unwrap();
        assert_eq!(interval(&pushed), Duration::from_secs(5));
    }

    #[test]
    fn without_params_the_file_is_read_again() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("agent.toml");
        std::fs::write(&path, "[config]\ninterval = 3\n").unwrap();
        let location = Location::Named(path.clone());
        let file = location.read(&[]).unwrap().unwrap().config;
        let layers = Layers::new(&[], Document::default(), Some(location), file);
        std::fs::write(&path, "[config]\ninterval = 4\n").unwrap();
        assert_eq!(interval(&layers.update(&HashMap::new()).unwrap()), Duration::from_secs(4));
        std::fs::write(&path, "[config]\ninterval = -4\n").unwrap();
        for error in [layers.update(&HashMap::new()).err(), layers.reload().err()] {
            let error = format!("{:#}", anyhow::Error::from(error.unwrap()));
            assert!(error.contains("agent.toml") && error.contains("interval"), "{error}");
        }
    }
}
