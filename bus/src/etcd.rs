//! Documents in etcd, for many servers and for whoever else reads and writes there.
//!
//! A revision is etcd's `mod_revision`. Other programs change and delete keys too, and may mean nothing by it: a key that
//! vanishes is told apart from a document that was deleted through this interface, which leaves `{}`, a document that says
//! nothing. So everybody who reads the key, an agent or a program that knows nothing of this, sees the same.

pub use ::etcd::{Credentials, Endpoints, EndpointsError, Options, Timing};

use ::etcd::{Event, Key, Selection, Store, StoreError, TEXT_BYTES_MAX, Version, Watch};
use async_trait::async_trait;

use crate::documents::{
    Document, DocumentError, DocumentEvent, DocumentStore, DocumentWatch, Revision,
};

/// What a deleted document leaves.
const DELETED: &str = "{}";

/// The documents below `/monitor/config/`. Keys are agent ids and `_default`.
#[derive(Debug)]
pub struct EtcdDocuments {
    options: Options,
    store: Store,
}

impl EtcdDocuments {
    /// Nothing needs to be there yet.
    pub fn new(options: Options) -> Self {
        Self { store: Store::new(options.clone()), options }
    }
}

#[async_trait]
impl DocumentStore for EtcdDocuments {
    async fn get(&self, key: &str) -> Result<Option<Document>, DocumentError> {
        let key = parse(key)?;
        let version = self.store.get(&key).await.map_err(failed)?;
        version.map(|version| document(&key, version)).transpose()
    }

    async fn put(
        &self,
        key: &str,
        text: Option<&str>,
        expected: Option<Revision>,
    ) -> Result<Document, DocumentError> {
        let key = parse(key)?;
        let text = text.unwrap_or(DELETED);
        let condition = match expected {
            None => None,
            Some(expected) => {
                let held = self.store.get(&key).await.map_err(failed)?;
                let actual = match &held {
                    Some(held) if held.text.as_deref() != Ok(DELETED) => held.revision,
                    _ => 0,
                };
                if expected != actual {
                    return Err(DocumentError::Conflict { expected, actual });
                }
                Some(held.map_or(0, |held| held.revision))
            }
        };
        let revision = self.store.put(&key, text, condition).await.map_err(|error| {
            match (failed(error), expected) {
                (DocumentError::Conflict { actual, .. }, Some(expected)) => {
                    DocumentError::Conflict { expected, actual }
                }
                (error, _) => error,
            }
        })?;
        document(&key, Version { revision, text: Ok(text.to_owned()) })
    }

    async fn history(&self, key: &str, limit: usize) -> Result<Vec<Document>, DocumentError> {
        let key = parse(key)?;
        let versions = self.store.history(&key, limit.min(HISTORY_MAX)).await.map_err(failed)?;
        // Versions that are no text are nothing to go back to.
        Ok(versions.into_iter().filter_map(|version| document(&key, version).ok()).collect())
    }

    async fn watch(&self) -> Box<dyn DocumentWatch> {
        Box::new(EtcdWatch(Watch::start(self.options.clone(), Selection::Folder)))
    }

    fn is_shared(&self) -> bool {
        true
    }

    fn kind(&self) -> &'static str {
        "etcd"
    }
}

/// Versions of one document that are looked for: each takes a request.
const HISTORY_MAX: usize = 100;

#[derive(Debug)]
struct EtcdWatch(Watch);

#[async_trait]
impl DocumentWatch for EtcdWatch {
    async fn next(&mut self) -> Option<DocumentEvent> {
        Some(match self.0.next().await? {
            Event::Changed { key, revision, text: Ok(text) } => {
                DocumentEvent::Changed(readable(&key, revision, text))
            }
            Event::Changed { key, revision, text: Err(reason) } => DocumentEvent::Unreadable {
                key: key.name().to_owned(),
                revision,
                reason: reason.to_string(),
            },
            Event::Deleted { key, revision } => {
                DocumentEvent::Vanished { key: key.name().to_owned(), revision }
            }
            Event::Synced => DocumentEvent::Synced,
            Event::ClusterChanged => DocumentEvent::Renumbered,
            Event::Unreachable(failure) => DocumentEvent::Unavailable(failure.to_string()),
            Event::Back => DocumentEvent::Available,
        })
    }
}

fn parse(key: &str) -> Result<Key, DocumentError> {
    key.parse().map_err(|error: agent_core::id::AgentIdError| DocumentError::Key {
        key: key.to_owned(),
        reason: error.to_string(),
    })
}

fn document(key: &Key, version: Version) -> Result<Document, DocumentError> {
    let Version { revision, text } = version;
    match text {
        Ok(text) => Ok(readable(key, revision, text)),
        Err(reason) => Err(DocumentError::Unreadable { revision, reason: reason.to_string() }),
    }
}

/// etcd does not keep when a change was made.
fn readable(key: &Key, revision: Revision, text: String) -> Document {
    let text = (text != DELETED).then_some(text);
    Document { key: key.name().to_owned(), revision, modified_ms: 0, text }
}

fn failed(error: StoreError) -> DocumentError {
    match error {
        StoreError::Conflict { expected, actual } => DocumentError::Conflict { expected, actual },
        StoreError::TooLarge { bytes } => DocumentError::TooLarge { bytes, max: TEXT_BYTES_MAX },
        StoreError::Unavailable(failure) => DocumentError::Unavailable(Box::new(failure)),
    }
}
