//! The layers in their store: read, validated before they are changed, changed one at a time.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use agent_core::id::AgentId;
use bus::{DocumentEvent, DocumentStore, Revision};
use proto::config::{Document, DocumentError};
use tokio::sync::{Mutex as AsyncMutex, MutexGuard as AsyncMutexGuard};

use crate::config::follow::Follower;
use crate::config::layers::{Effective, Layer, LayerKey};
use crate::config::table::{Lesson, Problem, Table};
use crate::rejection::{Reason, Rejection};

/// Why a configuration could not be read or changed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ConfigError {
    /// The caller asks for what cannot be.
    #[error(transparent)]
    Rejected(#[from] Rejection),
    /// Nothing is known of what should hold: the store was not read yet, or has no version that can be used.
    #[error("it is not known what holds for {0}")]
    Unknown(String),
    /// The store failed.
    #[error(
        "the configuration store ({kind}) cannot be used now; agents keep what they have; see that it runs and that \
         this server reaches it, `picket server-status` says when it does"
    )]
    Store {
        kind: &'static str,
        #[source]
        source: bus::DocumentError,
    },
}
/// All layers: as they are stored, and those in force.
#[derive(Debug)]
pub(crate) struct ConfigStore {
    documents: Arc<dyn DocumentStore>,
    table: Mutex<Table>,
    /// Held from validating a change to announcing it, so that two changes are neither validated against a
    /// stale layer nor announced in the wrong order.
    changes: AsyncMutex<()>,
}

impl ConfigStore {
    pub(crate) fn new(documents: Arc<dyn DocumentStore>) -> Self {
        Self { documents, table: Mutex::default(), changes: AsyncMutex::default() }
    }

    /// What the store is, for people.
    /// Whether other servers use the store, too.
    pub(crate) fn is_shared(&self) -> bool {
        self.documents.is_shared()
    }

    pub(crate) fn kind(&self) -> &'static str {
        self.documents.kind()
    }

    /// Begins to follow the store.
    pub(crate) async fn follow(&self) -> Follower {
        Follower::new(self.documents.watch().await)
    }

    /// Takes in what a watch tells, or what was just stored.
    pub(crate) fn learn(&self, event: DocumentEvent) -> Lesson {
        self.table().learn(event)
    }

    /// Whether the store was read at least once.
    pub(crate) fn is_complete(&self) -> bool {
        self.table().is_complete()
    }

    /// The layers whose newest version is not in force, with the reason.
    pub(crate) fn problems(&self) -> Vec<(LayerKey, Problem)> {
        self.table().problems()
    }

    /// What holds for an agent. Asks nobody, so it is at hand while the store is away.
    ///
    /// # Errors
    ///
    /// When it is not known.
    pub(crate) fn effective(&self, agent: &AgentId) -> Result<Effective, ConfigError> {
        let effective = self.table().effective(agent);
        effective.ok_or_else(|| ConfigError::Unknown(agent.to_string()))
    }

    /// One layer as it is stored, beside the one in force.
    pub(crate) async fn look(&self, key: &LayerKey) -> Result<Sight, ConfigError> {
        let stored = match self.documents.get(key.as_str()).await {
            Ok(stored) => Ok(stored),
            Err(bus::DocumentError::Unreadable { revision, reason }) => {
                Err(Problem { revision, reason: format!(".: {reason}") })
            }
            Err(error) => return Err(self.failed(error)),
        };
        let (text, read) = match stored {
            Ok(stored) => {
                let revision = stored.as_ref().map_or(0, |stored| stored.revision);
                let text = stored.as_ref().and_then(|stored| stored.text.clone());
                let read = Layer::read(stored)
                    .map_err(|error| Problem { revision, reason: error.to_string() });
                (text, read)
            }
            Err(problem) => (None, Err(problem)),
        };
        let table = self.table();
        let known = table.layer(key);
        Ok(match read {
            // A key that vanished is no layer that was taken away.
            Ok(Layer { revision: 0, .. }) => Sight {
                stored: Layer::default(),
                problem: table.problem(key).cloned(),
                in_force: known,
            },
            Ok(layer) => Sight { in_force: Some(layer.clone()), stored: layer, problem: None },
            Err(problem) => Sight {
                stored: Layer { revision: problem.revision, text, ..Layer::default() },
                problem: Some(problem),
                in_force: known,
            },
        })
    }

    /// The newest changes of a layer, newest first.
    pub(crate) async fn history(
        &self,
        key: &LayerKey,
        limit: usize,
    ) -> Result<Vec<bus::Document>, ConfigError> {
        let history = self.documents.history(key.as_str(), limit).await;
        history.map_err(|error| self.failed(error))
    }

    /// Lets nobody else change a layer until the guard is dropped.
    pub(crate) async fn begin_change(&self) -> Change<'_> {
        Change { store: self, _alone: self.changes.lock().await }
    }

    fn failed(&self, error: bus::DocumentError) -> ConfigError {
        match error {
            bus::DocumentError::Conflict { .. } => {
                Rejection::new(Reason::ConfigConflict, error.to_string()).into()
            }
            source => ConfigError::Store { kind: self.kind(), source },
        }
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        // Each change to it is whole before anything in it can panic.
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A layer as somebody finds it who asks.
#[derive(Debug)]
pub(crate) struct Sight {
    /// What is stored, valid or not; revision 0 when nothing is.
    pub(crate) stored: Layer,
    /// Why that is not in force.
    pub(crate) problem: Option<Problem>,
    /// What is; none when that is not known.
    pub(crate) in_force: Option<Layer>,
}

/// The right to change layers.
#[derive(Debug)]
pub(crate) struct Change<'a> {
    store: &'a ConfigStore,
    _alone: AsyncMutexGuard<'a, ()>,
}

impl Change<'_> {
    /// Validates `text`, alone and with the other layer, and stores it.
    pub(crate) async fn set(
        &self,
        key: &LayerKey,
        text: &str,
        expected: Option<Revision>,
    ) -> Result<Revision, ConfigError> {
        check_is_object(text)?;
        let document = Document::parse(text).map_err(refused)?;
        let merged = match key {
            // The agents' own layers may clash with it; each agent says so when it gets the result.
            LayerKey::Default => Document::merge(&document, &Document::default()),
            LayerKey::Agent(_) => {
                // Should that layer be spoilt and never have been known, this one is judged alone.
                let below = self.store.look(&LayerKey::Default).await?.in_force;
                Document::merge(&below.unwrap_or_default().document, &document)
            }
        };
        merged.config().map_err(refused)?;
        self.put(key, Some(text), expected).await
    }

    /// Removes a layer. Answers with the revision of what is stored now; 0 if there never was anything.
    pub(crate) async fn delete(&self, key: &LayerKey) -> Result<Revision, ConfigError> {
        let Sight { stored, problem, in_force } = self.store.look(key).await?;
        let holds = in_force.is_some_and(|layer| layer.text.is_some());
        if stored.text.is_none() && problem.is_none() && !holds {
            return Ok(stored.revision);
        }
        self.put(key, None, None).await
    }

    async fn put(
        &self,
        key: &LayerKey,
        text: Option<&str>,
        expected: Option<Revision>,
    ) -> Result<Revision, ConfigError> {
        let put = self.store.documents.put(key.as_str(), text, expected).await;
        let document = put.map_err(|error| self.store.failed(error))?;
        let revision = document.revision;
        self.store.learn(DocumentEvent::Changed(document));
        Ok(revision)
    }
}

/// What is no object at all is told in plainer words than the parser has.
fn check_is_object(text: &str) -> Result<(), Rejection> {
    if text.trim_start().starts_with('{') {
        return Ok(());
    }
    Err(Rejection::new(Reason::Config, ".: the document must be a JSON object"))
}

fn refused(error: DocumentError) -> ConfigError {
    Rejection::new(Reason::Config, error.to_string()).into()
}
