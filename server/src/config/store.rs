//! The layers in their store: read, validated before they are changed, changed one at a time.

use std::sync::Arc;

use agent_core::id::AgentId;
use bus::{DocumentStore, Revision};
use proto::config::{Document, DocumentError};
use tokio::sync::{Mutex, MutexGuard};

use crate::config::layers::{Effective, Layer, LayerKey};
use crate::rejection::{Reason, Rejection};

/// Why a configuration could not be read or changed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ConfigError {
    /// The caller asks for what cannot be.
    #[error(transparent)]
    Rejected(#[from] Rejection),
    /// What is stored is not valid.
    #[error("the stored document of {key} is not valid, set it again")]
    Damaged {
        key: String,
        #[source]
        source: DocumentError,
    },
    /// The store failed.
    #[error("the configuration store cannot be used now")]
    Store(#[source] bus::DocumentError),
}

impl From<bus::DocumentError> for ConfigError {
    fn from(error: bus::DocumentError) -> Self {
        match error {
            bus::DocumentError::Conflict { .. } => {
                Rejection::new(Reason::ConfigConflict, error.to_string()).into()
            }
            other => Self::Store(other),
        }
    }
}

/// All layers.
#[derive(Debug)]
pub(crate) struct ConfigStore {
    documents: Arc<dyn DocumentStore>,
    /// Held from validating a change to announcing it, so that two changes are neither validated against a
    /// stale layer nor announced in the wrong order.
    changes: Mutex<()>,
}

impl ConfigStore {
    pub(crate) fn new(documents: Arc<dyn DocumentStore>) -> Self {
        Self { documents, changes: Mutex::new(()) }
    }

    /// One layer as it is stored.
    pub(crate) async fn layer(&self, key: &LayerKey) -> Result<Layer, ConfigError> {
        let stored = self.documents.get(key.as_str()).await?;
        Layer::read(stored)
            .map_err(|source| ConfigError::Damaged { key: key.as_str().to_owned(), source })
    }

    /// What holds for an agent.
    pub(crate) async fn effective(&self, agent: &AgentId) -> Result<Effective, ConfigError> {
        let below = self.layer(&LayerKey::Default).await?;
        self.effective_above(&below, agent).await
    }

    /// What holds for an agent above `below`, which was read before.
    pub(crate) async fn effective_above(
        &self,
        below: &Layer,
        agent: &AgentId,
    ) -> Result<Effective, ConfigError> {
        let above = self.layer(&LayerKey::Agent(agent.clone())).await?;
        Ok(Effective::of(below, &above))
    }

    /// The newest changes of a layer, newest first.
    pub(crate) async fn history(
        &self,
        key: &LayerKey,
        limit: usize,
    ) -> Result<Vec<bus::Document>, ConfigError> {
        Ok(self.documents.history(key.as_str(), limit).await?)
    }

    /// Lets nobody else change a layer until the guard is dropped.
    pub(crate) async fn begin_change(&self) -> Change<'_> {
        Change { store: self, _alone: self.changes.lock().await }
    }
}

/// The right to change layers.
#[derive(Debug)]
pub(crate) struct Change<'a> {
    store: &'a ConfigStore,
    _alone: MutexGuard<'a, ()>,
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
                let below = self.store.layer(&LayerKey::Default).await?;
                Document::merge(&below.document, &document)
            }
        };
        merged.config().map_err(refused)?;
        let documents = &self.store.documents;
        let stored = documents.put(key.as_str(), Some(text), expected).await?;
        Ok(stored.revision)
    }

    /// Removes a layer. Answers with the revision of what is stored now; 0 if there never was anything.
    pub(crate) async fn delete(&self, key: &LayerKey) -> Result<Revision, ConfigError> {
        let documents = &self.store.documents;
        match documents.get(key.as_str()).await? {
            None => Ok(0),
            Some(stored) if stored.text.is_none() => Ok(stored.revision),
            Some(_) => Ok(documents.put(key.as_str(), None, None).await?.revision),
        }
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
