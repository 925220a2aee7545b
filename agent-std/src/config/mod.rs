//! The agent's configuration: the layers that make it, the trial that a new remote document stands, and the file that
//! keeps it over restarts.

mod kept;
mod layers;
mod look;
mod trial;

use std::collections::HashMap;
use std::time::Duration;

use agent_core::agent::{Input, Reason};
use agent_core::id::ConfigRevision;
use agent_core::time::Instant;
use proto::config::{DOCUMENT_BYTES_MAX, DOCUMENT_VALUES_MAX, Document};

pub(crate) use self::kept::Keeper;
pub(crate) use self::layers::{Candidate, Layers, LayersError};
pub(crate) use self::look::look;
use self::trial::{RolledBack, Trial};
pub(crate) use self::trial::{Source, Version};

/// How long to wait before a write that failed is tried again.
const SAVE_AGAIN_AFTER: Duration = Duration::from_secs(60);

/// Bytes that documents take at most: that of the file, the remote one in force and the next one, the texts of the latter two
/// and of the last good one; with a state directory the text that is kept there, in which each character may be escaped;
/// with an etcd of its own the two layers there.
pub(crate) const fn memory_bytes_max(has_state_dir: bool, has_store: bool) -> usize {
    let mut bytes = 3 * DOCUMENT_MEMORY_BYTES + 3 * DOCUMENT_BYTES_MAX;
    if has_state_dir {
        bytes += 2 * 2 * 2 * DOCUMENT_BYTES_MAX;
    }
    if has_store {
        bytes += 2 * (DOCUMENT_MEMORY_BYTES + DOCUMENT_BYTES_MAX);
    }
    bytes
}

/// A document that was read: its strings, and its values in lists that have grown to twice what is in them.
const DOCUMENT_MEMORY_BYTES: usize =
    DOCUMENT_BYTES_MAX + DOCUMENT_VALUES_MAX * (2 * size_of::<serde_json::Value>() + 64);

/// The configuration of the agent, for the one loop that drives the core.
#[derive(Debug)]
pub(crate) struct Configuration {
    layers: Layers,
    trial: Trial,
    /// None when there is no state directory: then nothing outlives the process.
    keeper: Option<Keeper>,
    /// What is in the file is not what it should be.
    save_again_at: Option<Instant>,
}

/// What the main loop has to do for the configuration.
#[derive(Debug)]
pub(crate) enum Step {
    /// Hand these to the core.
    Tell(Vec<Input>),
    /// Nothing until this time or the next event.
    Wait(Option<Instant>),
}

/// What is to become of a remote document.
#[derive(Debug)]
#[expect(
    clippy::large_enum_variant,
    reason = "made and taken apart at once, and documents are rare"
)]
pub(crate) enum Offer {
    /// It has been overtaken already.
    Outdated,
    /// It was taken back before, for this reason.
    Quarantined(Reason),
    /// What it makes of the layers. [`Configuration::adopt`] follows if the core applies it.
    New(Result<Candidate, LayersError>),
}

impl Configuration {
    /// The configuration at the start of a process, and what the core is to be told of it: `layers` with what was kept
    /// over them. A new remote document has the time `window` to prove itself; 0 trusts it at once.
    pub(crate) fn open(
        layers: Layers,
        keeper: Option<Keeper>,
        window: Duration,
        now: Instant,
    ) -> (Self, Vec<Input>) {
        let mut inputs = Vec::new();
        let memory = match &keeper {
            None => trial::Memory::default(),
            Some(keeper) => keeper.read().unwrap_or_else(|error| {
                let path = keeper.path();
                let reason = format!(
                    "kept configuration {}: {:#}",
                    path.display(),
                    anyhow::Error::from(error)
                );
                tracing::error!(reason, "the host's own configuration is used until another comes");
                inputs.push(rejected(ConfigRevision(0), &reason));
                trial::Memory::default()
            }),
        };
        let (trial, rolled_back) = Trial::start(memory, window, now);
        let mut this = Self { layers, trial, keeper, save_again_at: None };
        // A start on trial is counted before the document can do anything.
        this.save_if_due(now);
        this.restore(&mut inputs);
        if let Some(rolled_back) = rolled_back {
            inputs.push(this.rolled_back(rolled_back));
        }
        this.save_if_due(now);
        (this, inputs)
    }

    /// What to do about `version`, which a server or etcd gave.
    pub(crate) fn offer(&self, version: &Version) -> Offer {
        let in_force = self.in_force();
        // A server's store may have been set up anew, and streams keep their order. etcd has neither excuse nor order: it
        // may repeat what was overtaken, and a key that is gone leaves an older one to tell.
        let is_ordered = matches!(version.source, Source::Etcd { .. });
        if is_ordered && version.source == in_force.source && version.revision < in_force.revision {
            return Offer::Outdated;
        }
        match self.trial.quarantined(&version.text) {
            Some(reason) => Offer::Quarantined(Reason::from(reason)),
            None => Offer::New(self.layers.push(&version.text)),
        }
    }

    /// The core applied the `candidate` that `version` made, at `now`. A trial is written down before it begins: before
    /// the first snapshot is taken with it.
    pub(crate) fn adopt(&mut self, now: Instant, version: Version, candidate: Candidate) {
        self.layers.adopt(candidate);
        self.trial.handle_applied(now, version);
        self.save_if_due(now);
    }

    /// As [`Layers::update`]. Params are not part of a trial: they came over a stream that stood, are not kept, and end
    /// with the next remote document, one that is taken back to included.
    pub(crate) fn update(
        &self,
        params: &HashMap<String, String>,
    ) -> Result<Candidate, LayersError> {
        self.layers.update(params)
    }

    /// As [`Layers::reload`]. As with params, what the host says itself is no part of a trial.
    pub(crate) fn reload(&self, file: Document) -> Result<Candidate, LayersError> {
        self.layers.reload(file)
    }

    /// The core applied what [`Configuration::update`] or [`Configuration::reload`] gave.
    pub(crate) fn adopt_update(&mut self, candidate: Candidate) {
        self.layers.adopt(candidate);
    }

    /// The remote document in force, but for params over it.
    pub(crate) fn in_force(&self) -> &Version {
        self.trial.in_force()
    }

    /// As [`Layers::overridden`].
    pub(crate) fn overridden(&self) -> Vec<String> {
        self.layers.overridden()
    }

    /// The server answered a stream that was opened just now.
    pub(crate) fn handle_answered(&mut self) {
        self.trial.handle_answered();
    }

    /// The process ends because it was asked to.
    pub(crate) fn handle_end(&mut self, now: Instant) {
        self.trial.handle_end();
        self.save_if_due(now);
    }

    /// The process could not be replaced and goes on.
    pub(crate) fn handle_end_failed(&mut self, now: Instant) {
        self.trial.handle_end_failed();
        self.save_if_due(now);
    }

    /// What to do at `now`; `is_up` says whether a stream stands that the server has answered. To be called again until it
    /// answers [`Step::Wait`].
    pub(crate) fn poll(&mut self, now: Instant, is_up: bool) -> Step {
        let rolled_back = self.trial.poll(now, is_up);
        let told = rolled_back.map(|rolled_back| {
            let mut inputs = Vec::new();
            self.restore(&mut inputs);
            inputs.push(self.rolled_back(rolled_back));
            inputs
        });
        self.save_if_due(now);
        match told {
            Some(inputs) => Step::Tell(inputs),
            None => {
                let deadlines = [self.trial.deadline(now), self.save_again_at];
                Step::Wait(deadlines.into_iter().flatten().min())
            }
        }
    }

    /// Puts the kept document in force, or the one below it if this program cannot use it, or the host's own layers.
    fn restore(&mut self, inputs: &mut Vec<Input>) {
        loop {
            let Version { revision, text, .. } = self.trial.in_force();
            let revision = ConfigRevision(*revision);
            match self.layers.push(text) {
                Ok(candidate) => {
                    inputs.push(Input::Restore { revision, config: candidate.config.clone() });
                    self.layers.adopt(candidate);
                    return;
                }
                Err(error) => {
                    let reason = format!("kept configuration: {:#}", anyhow::Error::from(error));
                    tracing::error!(%revision, reason, "what was kept cannot be used");
                    inputs.push(rejected(revision, &reason));
                    let is_last = *self.trial.in_force() == Version::default();
                    self.trial.handle_unusable();
                    // Without a document the host's layers stand alone, and they were valid when they were read.
                    if is_last {
                        return;
                    }
                }
            }
        }
    }

    fn rolled_back(&self, rolled_back: RolledBack) -> Input {
        let RolledBack { revision, reason } = rolled_back;
        tracing::error!(
            revision,
            running = self.in_force().revision,
            reason,
            "configuration rolled back; it will not be applied again"
        );
        Input::RolledBack {
            revision: ConfigRevision(revision),
            reason: Reason::from(reason.as_str()),
        }
    }

    fn save_if_due(&mut self, now: Instant) {
        let is_retry = self.save_again_at.is_some_and(|at| at <= now);
        if !self.trial.poll_save() && !is_retry {
            return;
        }
        let Some(keeper) = &self.keeper else { return };
        self.save_again_at = match keeper.write(&self.trial.memory()) {
            Ok(()) => None,
            Err(error) => {
                let path = keeper.path();
                tracing::error!(path = %path.display(), %error, "cannot keep the configuration");
                Some(now + SAVE_AGAIN_AFTER)
            }
        };
    }
}

fn rejected(revision: ConfigRevision, reason: &str) -> Input {
    Input::Configure { revision, config: Err(Reason::from(reason)) }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::Path;

    use proto::config::Document;

    use super::*;

    const WINDOW: Duration = Duration::from_secs(120);

    fn at(seconds: u64) -> Instant {
        Instant::from_ms(seconds * 1000)
    }

    fn open_at(directory: &Path, now: Instant) -> (Configuration, Vec<Input>) {
        let layers = Layers::new(&[], Document::default(), Document::default());
        let keeper = Keeper::new(directory, "edge-01".parse().unwrap());
        Configuration::open(layers, Some(keeper), WINDOW, now)
    }

    fn open(directory: &Path) -> (Configuration, Vec<Input>) {
        open_at(directory, at(0))
    }

    fn version(revision: u64, text: &str) -> Version {
        Version { source: Source::Server, revision, text: text.to_owned() }
    }

    fn apply(configuration: &mut Configuration, now: Instant, version: Version) {
        match configuration.offer(&version) {
            Offer::New(Ok(candidate)) => configuration.adopt(now, version, candidate),
            other => panic!("{other:?}"),
        }
    }

    /// What the core is told, in short.
    fn told(inputs: &[Input]) -> Vec<String> {
        let describe = |input: &Input| match input {
            Input::Restore { revision, config } => {
                format!("restore {revision}: {:?}", config.settings().interval)
            }
            Input::RolledBack { revision, reason } => {
                format!("rolled back {revision}: {}", reason.as_str())
            }
            Input::Configure { revision, config: Err(reason) } => {
                format!("rejected {revision}: {}", reason.as_str())
            }
            other => panic!("{other:?}"),
        };
        inputs.iter().map(describe).collect()
    }

    #[test]
    fn a_confirmed_document_outlives_the_process() {
        let directory = tempfile::tempdir().unwrap();
        let (mut configuration, inputs) = open(directory.path());
        assert_eq!(told(&inputs), ["restore 0: 5s"]);
        assert!(!directory.path().join("configuration").exists(), "there is nothing to keep");
        apply(&mut configuration, at(0), version(4, r#"{"interval": 7}"#));
        assert!(matches!(configuration.poll(at(0), true), Step::Wait(Some(_))));
        assert!(matches!(configuration.poll(at(20), true), Step::Wait(None)));
        drop(configuration);
        let (_, inputs) = open(directory.path());
        assert_eq!(told(&inputs), ["restore 4: 7s"]);
    }

    #[test]
    fn a_rolled_back_document_is_told_and_not_offered_again_by_the_next_process_either() {
        let directory = tempfile::tempdir().unwrap();
        let (mut configuration, _) = open(directory.path());
        apply(&mut configuration, at(0), version(4, r#"{"interval": 7}"#));
        configuration.poll(at(20), true);
        let bad = version(5, r#"{"interval": 8}"#);
        apply(&mut configuration, at(30), bad.clone());
        let Step::Tell(inputs) = configuration.poll(at(150), false) else { panic!("no roll back") };
        let told = told(&inputs);
        assert_eq!(told[0], "restore 4: 7s");
        assert!(told[1].starts_with("rolled back 5: no server was reached"), "{told:?}");
        assert!(matches!(configuration.poll(at(150), false), Step::Wait(None)));
        drop(configuration);
        let (configuration, inputs) = open(directory.path());
        assert_eq!(inputs.len(), 1, "{inputs:?}");
        assert!(matches!(configuration.offer(&bad), Offer::Quarantined(_)));
        assert!(matches!(configuration.offer(&version(6, "{}")), Offer::New(Ok(_))));
    }

    #[test]
    fn two_crashes_are_told_by_the_third_process() {
        let directory = tempfile::tempdir().unwrap();
        let (mut configuration, _) = open(directory.path());
        apply(&mut configuration, at(0), version(5, r#"{"interval": 8}"#));
        let (_, inputs) = open(directory.path());
        assert_eq!(told(&inputs), ["restore 5: 8s"]);
        let (_, inputs) = open(directory.path());
        let told = told(&inputs);
        assert_eq!(told[0], "restore 0: 5s");
        assert!(told[1].starts_with("rolled back 5: the agent ended 2 times"), "{told:?}");
    }

    #[test]
    fn a_file_that_cannot_be_used_is_told_and_left_until_there_is_something_to_put_in_its_place() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("configuration");
        fs::write(&path, "rubbish").unwrap();
        let (mut configuration, inputs) = open(directory.path());
        let told = told(&inputs);
        assert!(told[0].starts_with("rejected 0: kept configuration "), "{told:?}");
        assert_eq!(told[1], "restore 0: 5s");
        configuration.poll(at(0), true);
        configuration.handle_end(at(0));
        assert_eq!(fs::read(&path).unwrap(), b"rubbish");
        apply(&mut configuration, at(1), version(4, r#"{"interval": 7}"#));
        configuration.poll(at(1), true);
        assert_ne!(fs::read(&path).unwrap(), b"rubbish");
    }

    #[test]
    fn a_kept_document_that_this_program_cannot_use_gives_way_to_the_one_below_it() {
        let directory = tempfile::tempdir().unwrap();
        let layers = Layers::new(&["own.a"], Document::default(), Document::default());
        let keeper = Keeper::new(directory.path(), "edge-01".parse().unwrap());
        let (mut configuration, _) = Configuration::open(layers, Some(keeper), WINDOW, at(0));
        apply(&mut configuration, at(0), version(4, r#"{"interval": 7}"#));
        configuration.poll(at(20), true);
        apply(&mut configuration, at(30), version(5, r#"{"plugins": ["own.a"]}"#));
        configuration.poll(at(30), true);
        let (_, inputs) = open(directory.path());
        let told = told(&inputs);
        assert!(told[0].starts_with("rejected 5: kept configuration: plugins[0]"), "{told:?}");
        assert_eq!(told[1], "restore 4: 7s");
    }

    #[test]
    fn a_write_that_fails_is_tried_again() {
        let directory = tempfile::tempdir().unwrap();
        let (mut configuration, _) = open(directory.path());
        let obstacle = directory.path().join("configuration.new");
        fs::create_dir(&obstacle).unwrap();
        apply(&mut configuration, at(0), version(4, r#"{"interval": 7}"#));
        assert!(matches!(configuration.poll(at(0), true), Step::Wait(Some(_))));
        assert!(matches!(configuration.poll(at(20), true), Step::Wait(Some(_))));
        fs::remove_dir(&obstacle).unwrap();
        assert!(matches!(configuration.poll(at(79), true), Step::Wait(Some(_))));
        assert!(matches!(configuration.poll(at(80), true), Step::Wait(None)));
        let (_, inputs) = open(directory.path());
        assert_eq!(told(&inputs), ["restore 4: 7s"]);
    }

    #[test]
    fn params_end_with_a_roll_back() {
        let directory = tempfile::tempdir().unwrap();
        let (mut configuration, _) = open(directory.path());
        apply(&mut configuration, at(0), version(4, r#"{"interval": 7}"#));
        let params = HashMap::from([("interval".to_owned(), "2".to_owned())]);
        let candidate = configuration.update(&params).unwrap();
        configuration.adopt_update(candidate);
        let Step::Tell(inputs) = configuration.poll(at(120), false) else { panic!("no roll back") };
        assert_eq!(told(&inputs)[0], "restore 0: 5s");
        assert!(configuration.overridden().is_empty());
    }

    #[test]
    fn what_etcd_repeats_from_the_past_is_ignored_but_not_what_another_source_says() {
        let directory = tempfile::tempdir().unwrap();
        let (mut configuration, _) = open(directory.path());
        let etcd = |cluster, revision| Version {
            source: Source::Etcd { cluster },
            ..version(revision, r#"{"interval": 7}"#)
        };
        apply(&mut configuration, at(0), etcd(1, 9));
        assert!(matches!(configuration.offer(&etcd(1, 8)), Offer::Outdated));
        assert!(matches!(configuration.offer(&etcd(1, 9)), Offer::New(_)));
        assert!(matches!(configuration.offer(&etcd(2, 3)), Offer::New(_)));
        assert!(matches!(configuration.offer(&version(3, "{}")), Offer::New(_)));
    }
}
