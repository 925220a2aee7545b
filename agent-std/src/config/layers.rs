//! The layers of the agent's configuration: what the server pushed, with the host's own word above it.

use std::collections::HashMap;

use agent_core::config::Config;
use proto::config::{Document, DocumentError, WINDOW_KEYS};

use crate::settings::Problems;

/// Precedence, highest first: flags and variables, the host's file, what the server pushed, defaults.
#[derive(Debug)]
pub(crate) struct Layers {
    // The user's own plugins that this program has.
    own_plugins: &'static [&'static str],
    flags: Document,
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
    /// The host's own settings, read again, make no agent.
    #[error("{}", .0.in_one_line())]
    Host(Problems),
}

impl From<Problems> for LayersError {
    fn from(problems: Problems) -> Self {
        Self::Host(problems)
    }
}

impl Layers {
    /// The host's own layers; nothing is known from the server yet.
    pub(crate) fn new(
        own_plugins: &'static [&'static str],
        flags: Document,
        file: Document,
    ) -> Self {
        Self { own_plugins, flags, file, remote: Document::default() }
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
    pub(crate) fn update(
        &self,
        params: &HashMap<String, String>,
    ) -> Result<Candidate, LayersError> {
        let file = self.file.clone();
        let remote = Document::merge(&self.remote, &Document::from_params(params)?);
        Ok(self.candidate(file, remote)?)
    }

    /// What `file` would make in place of what the host's file said when it was read last.
    pub(crate) fn reload(&self, file: Document) -> Result<Candidate, LayersError> {
        Ok(self.candidate(file, self.remote.clone())?)
    }

    /// What the host's file said when it was read last.
    pub(crate) fn into_file(self) -> Document {
        self.file
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
        let of_host = [&self.flags, &self.file];
        let is_local = |key: &&str| {
            of_host.iter().any(|own| {
                own.keys().any(|own| own == *key)
                    || WINDOW_KEYS.contains(key) && own.decides_window()
            })
        };
        let mut keys = self.remote.keys().filter(is_local).map(str::to_owned).collect::<Vec<_>>();
        keys.sort_unstable();
        keys
    }

    fn candidate(&self, file: Document, remote: Document) -> Result<Candidate, DocumentError> {
        let local = Document::decide(&file, &self.flags);
        let config = Document::decide(&remote, &local).config_for(self.own_plugins)?;
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
        let mut layers = Layers::new(&[], document(r#"{"interval": 1}"#), Document::default());
        let pushed = layers.push(r#"{"interval": 7, "window_size": 3}"#).unwrap();
        assert_eq!(interval(&pushed), Duration::from_secs(1));
        assert_eq!(pushed.config.settings().window, WindowEnd::Snapshots(3));
        layers.adopt(pushed);
        assert_eq!(layers.overridden(), ["interval"]);
    }

    #[test]
    fn what_the_host_decides_together_the_server_cannot_change_in_part() {
        let file = r#"{"window_size": 10, "thresholds": {"cpu_percent": {"above": 90}}}"#;
        let mut layers = Layers::new(&[], Document::default(), document(file));
        let own = layers.config().unwrap();
        for (remote, overridden) in [
            (r#"{"window_seconds": 60}"#, "window_seconds"),
            (
                r#"{"thresholds": {"cpu_percent": {"above": 50, "for": 86400, "severity": "info"}}}"#,
                "thresholds",
            ),
            (r#"{"thresholds": {"cpu_percent": {"below": 5}}}"#, "thresholds"),
            (r#"{"thresholds": {"cpu_percent": 5}}"#, "thresholds"),
        ] {
            let pushed = layers.push(remote).unwrap();
            assert_eq!(pushed.config, own, "{remote}");
            layers.adopt(pushed);
            assert_eq!(layers.overridden(), [overridden], "{remote}");
        }
        // What comes by UPDATE_CONFIG is no more.
        let params = [("window_seconds", "60"), ("thresholds.cpu_percent.below", "5")];
        let params = params.map(|(key, value)| (key.to_owned(), value.to_owned()));
        layers.adopt(layers.push(r#"{"thresholds": {"cpu_percent": {"above": 5}}}"#).unwrap());
        let updated = layers.update(&HashMap::from(params)).unwrap();
        assert_eq!(updated.config, own);
        let mut layers =
            Layers::new(&[], Document::default(), document(r#"{"window_seconds": 60}"#));
        let pushed = layers.push(r#"{"window_size": 3}"#).unwrap();
        assert_eq!(pushed.config.settings().window, WindowEnd::Duration(Duration::from_secs(60)));
        layers.adopt(pushed);
        assert_eq!(layers.overridden(), ["window_size"]);
    }

    #[test]
    fn params_lie_over_what_was_pushed_until_the_next_push() {
        let mut layers = Layers::new(&[], Document::default(), Document::default());
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
    fn a_file_that_is_read_again_takes_the_place_of_the_one_before() {
        let mut layers = Layers::new(&[], Document::default(), document(r#"{"interval": 3}"#));
        let reloaded = layers.reload(document(r#"{"interval": 4}"#)).unwrap();
        assert_eq!(interval(&reloaded), Duration::from_secs(4));
        layers.adopt(reloaded);
        assert_eq!(interval(&layers.update(&HashMap::new()).unwrap()), Duration::from_secs(4));
        let gone = layers.reload(Document::default()).unwrap();
        assert_eq!(interval(&gone), Duration::from_secs(5));
    }
}
