//! The document store of an embedded database.

use std::collections::VecDeque;
use std::fmt;
use std::ops::Bound;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use fjall::UserValue;
use prost::Message;
use tokio::sync::{broadcast, oneshot, watch};

use super::Inner;
use super::layout::Malformed;
use super::shared::{Head, ReadError, Shared};
use super::storage::{Failure, Storage};
use super::writer::Request;
use crate::documents::{
    Document, DocumentError, DocumentEvent, DocumentStore, DocumentWatch, Revision,
};
use crate::topic::Topic;

/// Changes of one key that are remembered.
const HISTORY_MAX: usize = 100;

/// Longest key, in bytes.
const KEY_BYTES_MAX: usize = 1024;

/// Longest text, in bytes.
const TEXT_BYTES_MAX: usize = 1024 * 1024;

/// Where the keyspace `state` counts the revisions.
pub(super) const REVISION_KEY: &str = "documents.revision";

/// Documents in the same database as the records of a bus: durable in the same way, and closed with it.
pub struct EmbeddedDocuments {
    pub(super) inner: Arc<Inner>,
}

/// A change to a document.
#[derive(Debug)]
pub(super) struct Change {
    key: String,
    text: Option<String>,
    expected: Option<Revision>,
}

/// The stored revision is not the expected one.
#[derive(Clone, Copy, Debug)]
pub(super) struct Conflict {
    expected: Revision,
    actual: Revision,
}

impl From<Conflict> for DocumentError {
    fn from(conflict: Conflict) -> Self {
        Self::Conflict { expected: conflict.expected, actual: conflict.actual }
    }
}

impl From<Failure> for DocumentError {
    fn from(failure: Failure) -> Self {
        Self::Unavailable(Box::new(failure))
    }
}

impl From<ReadError> for DocumentError {
    fn from(error: ReadError) -> Self {
        match error {
            ReadError::Closed => closed(),
            ReadError::Failed(failure) => failure.into(),
        }
    }
}

fn closed() -> DocumentError {
    DocumentError::Unavailable("the database is closed".into())
}

/// A document as it is stored, in `documents` and, with its revision in the key, in `document-history`.
#[derive(Clone, PartialEq, prost::Message)]
struct Stored {
    #[prost(uint64, tag = "1")]
    revision: u64,
    #[prost(int64, tag = "2")]
    modified_ms: i64,
    #[prost(string, optional, tag = "3")]
    text: Option<String>,
}

impl Stored {
    fn read(value: &UserValue) -> Result<Self, Failure> {
        Ok(Self::decode(&**value).map_err(|_| Malformed)?)
    }

    fn into_document(self, key: &str) -> Document {
        Document {
            key: key.to_owned(),
            revision: self.revision,
            modified_ms: self.modified_ms,
            text: self.text,
        }
    }
}

#[async_trait]
impl DocumentStore for EmbeddedDocuments {
    async fn get(&self, key: &str) -> Result<Option<Document>, DocumentError> {
        self.read(key, |storage, key| {
            let stored = load(storage, key)?;
            Ok(stored.map(|stored| stored.into_document(key)))
        })
        .await
    }

    async fn put(
        &self,
        key: &str,
        text: Option<&str>,
        expected: Option<Revision>,
    ) -> Result<Document, DocumentError> {
        let text_bytes = text.map_or(0, str::len);
        for (bytes, max) in [(key.len(), KEY_BYTES_MAX), (text_bytes, TEXT_BYTES_MAX)] {
            if max < bytes {
                return Err(DocumentError::TooLarge { bytes, max });
            }
        }
        let change = Change { key: key.to_owned(), text: text.map(ToOwned::to_owned), expected };
        let _permit = self.inner.queue_share(key.len() + text_bytes).await.ok_or_else(closed)?;
        let (reply, answer) = oneshot::channel();
        let request = Request::Change(change, reply);
        self.inner.requests.send(request).await.map_err(|_| closed())?;
        answer.await.map_err(|_| closed())?
    }

    async fn history(&self, key: &str, limit: usize) -> Result<Vec<Document>, DocumentError> {
        self.read(key, move |storage, key| {
            storage
                .history
                .prefix(document_key(key))
                .rev()
                .take(limit.min(HISTORY_MAX))
                .map(|entry| Ok(Stored::read(&entry.value()?)?.into_document(key)))
                .collect()
        })
        .await
    }

    async fn watch(&self) -> Box<dyn DocumentWatch> {
        Box::new(Watch::new(&self.inner.shared))
    }

    fn is_shared(&self) -> bool {
        false
    }

    fn kind(&self) -> &'static str {
        "embedded"
    }
}

impl EmbeddedDocuments {
    async fn read<T: Send + 'static>(
        &self,
        key: &str,
        read: impl Fn(&Storage, &str) -> Result<T, Failure> + Send + Sync + 'static,
    ) -> Result<T, DocumentError> {
        let key = key.to_owned();
        self.inner.read(move |storage| Ok(read(storage, &key)?)).await.map_err(DocumentError::from)
    }
}

/// Documents read at a time.
const PAGE_DOCUMENTS: usize = 16;

/// How long a watch waits after a read that failed.
const RETRY_AFTER: Duration = Duration::from_millis(500);

/// A watch of the documents. It listens before it reads, so it may tell a change twice, and misses none.
struct Watch {
    shared: Arc<Shared>,
    changed_keys: broadcast::Receiver<String>,
    head: watch::Receiver<Head>,
    /// All documents are being read, and this is the last key that was; none when they are read.
    reading: Option<Bound<Vec<u8>>>,
    /// What was read and is not told yet: a page at most.
    told_next: VecDeque<DocumentEvent>,
    /// A document that changed and is not read yet.
    changed: Option<String>,
    availability: Availability,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Availability {
    Available,
    Unavailable,
}

impl Watch {
    fn new(shared: &Arc<Shared>) -> Self {
        Self {
            shared: Arc::clone(shared),
            changed_keys: shared.changed_keys.subscribe(),
            head: shared.heads.get(Topic::AgentStatus).subscribe(),
            reading: Some(Bound::Unbounded),
            told_next: VecDeque::new(),
            changed: None,
            availability: Availability::Available,
        }
    }

    /// Reads what is to be told next. Nothing is lost when this is given up: what was read is noted at once.
    async fn advance(&mut self) -> Result<(), ReadError> {
        if let Some(from) = self.reading.clone() {
            let page =
                super::read(&self.shared, move |storage| Ok(page(storage, from.clone())?)).await?;
            self.told_next.extend(page.documents.into_iter().map(DocumentEvent::Changed));
            if page.next.is_none() {
                self.told_next.push_back(DocumentEvent::Synced);
            }
            self.reading = page.next;
            return Ok(());
        }
        if self.changed.is_none() {
            match self.changed_keys.recv().await {
                Ok(key) => self.changed = Some(key),
                Err(broadcast::error::RecvError::Lagged(_)) => {
                    self.reading = Some(Bound::Unbounded);
                    return Ok(());
                }
                Err(broadcast::error::RecvError::Closed) => return Err(ReadError::Closed),
            }
        }
        if let Some(key) = self.changed.clone() {
            let document = super::read(&self.shared, move |storage| {
                Ok(load(storage, &key)?.map(|stored| stored.into_document(&key)))
            });
            self.told_next.extend(document.await?.map(DocumentEvent::Changed));
            self.changed = None;
        }
        Ok(())
    }
}

#[async_trait]
impl DocumentWatch for Watch {
    async fn next(&mut self) -> Option<DocumentEvent> {
        loop {
            if let Some(event) = self.told_next.pop_front() {
                return Some(event);
            }
            let mut head = self.head.clone();
            let advanced = tokio::select! {
                // Closed for good, though nothing changes any more.
                _ = head.wait_for(|head| head.closed) => return None,
                advanced = self.advance() => advanced,
            };
            match advanced {
                Err(ReadError::Closed) => return None,
                Err(ReadError::Failed(failure)) => {
                    if self.availability == Availability::Unavailable {
                        tokio::time::sleep(RETRY_AFTER).await;
                        continue;
                    }
                    self.availability = Availability::Unavailable;
                    return Some(DocumentEvent::Unavailable(failure.to_string()));
                }
                Ok(()) if self.availability == Availability::Unavailable => {
                    self.availability = Availability::Available;
                    self.told_next.push_back(DocumentEvent::Available);
                }
                Ok(()) => {}
            }
        }
    }
}

impl fmt::Debug for Watch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Watch").field("reading", &self.reading).finish_non_exhaustive()
    }
}

/// Some of the documents, in the order of their stored keys.
struct Page {
    documents: Vec<Document>,
    /// Where the next one begins, if there may be one.
    next: Option<Bound<Vec<u8>>>,
}

fn page(storage: &Storage, from: Bound<Vec<u8>>) -> Result<Page, Failure> {
    let mut documents = Vec::with_capacity(PAGE_DOCUMENTS);
    let mut last = None;
    for entry in storage.documents.range((from, Bound::Unbounded)).take(PAGE_DOCUMENTS) {
        let (stored_key, value) = entry.into_inner()?;
        let key = stored_key.get(2..).and_then(|key| std::str::from_utf8(key).ok());
        let key = key.ok_or(Malformed)?;
        documents.push(Stored::read(&value)?.into_document(key));
        last = Some(stored_key.to_vec());
    }
    let next = last.filter(|_| documents.len() == PAGE_DOCUMENTS).map(Bound::Excluded);
    Ok(Page { documents, next })
}

impl fmt::Debug for EmbeddedDocuments {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("EmbeddedDocuments")
    }
}

/// Makes `change`, unless the stored revision is not the expected one. Only the writer thread calls this, so
/// nothing changes between the look and the commit.
pub(super) fn apply(
    storage: &Storage,
    change: &Change,
    now_ms: i64,
) -> Result<Result<Document, Conflict>, Failure> {
    let key = change.key.as_str();
    let actual = match load(storage, key)? {
        Some(Stored { text: None, .. }) | None => 0,
        Some(stored) => stored.revision,
    };
    if let Some(expected) = change.expected
        && expected != actual
    {
        return Ok(Err(Conflict { expected, actual }));
    }

    let stored = Stored {
        revision: last_revision(storage)? + 1,
        modified_ms: now_ms,
        text: change.text.clone(),
    };
    let value = stored.encode_to_vec();
    let mut batch = storage.batch(4);
    batch.insert(&storage.documents, document_key(key), value.as_slice());
    batch.insert(&storage.history, history_key(key, stored.revision), value);
    batch.insert(&storage.state, REVISION_KEY, stored.revision.to_be_bytes());
    for forgotten in storage.history.prefix(document_key(key)).rev().skip(HISTORY_MAX - 1) {
        batch.remove(&storage.history, forgotten.key()?);
    }
    batch.commit()?;
    Ok(Ok(stored.into_document(key)))
}

fn load(storage: &Storage, key: &str) -> Result<Option<Stored>, Failure> {
    let value = storage.documents.get(document_key(key))?;
    value.as_ref().map(Stored::read).transpose()
}

pub(super) fn last_revision(storage: &Storage) -> Result<Revision, Failure> {
    let Some(value) = storage.state.get(REVISION_KEY)? else {
        return Ok(0);
    };
    let bytes = value.first_chunk().ok_or(Malformed)?;
    Ok(Revision::from_be_bytes(*bytes))
}

/// The key with its length in front: never empty, which the library could not take, and never the beginning of
/// another, so that histories do not mix.
fn document_key(key: &str) -> Vec<u8> {
    // Longer keys than `KEY_BYTES_MAX` are never stored, so none is found under a cut length.
    let length = u16::try_from(key.len()).unwrap_or(u16::MAX);
    let mut bytes = Vec::with_capacity(2 + key.len() + size_of::<Revision>());
    bytes.extend_from_slice(&length.to_be_bytes());
    bytes.extend_from_slice(key.as_bytes());
    bytes
}

/// The length that a stored key says it has, and how long it is.
fn described_bytes(bytes: &[u8]) -> Option<(usize, usize)> {
    let (length, key) = bytes.split_first_chunk()?;
    Some((usize::from(u16::from_be_bytes(*length)), key.len()))
}

/// Whether bytes have the form of the key of a document.
pub(super) fn is_document_key(bytes: &[u8]) -> bool {
    described_bytes(bytes).is_some_and(|(described, found)| described == found)
}

/// Whether bytes have the form of the key of an earlier version of a document.
pub(super) fn is_history_key(bytes: &[u8]) -> bool {
    let revision = size_of::<Revision>();
    described_bytes(bytes).is_some_and(|(described, found)| described + revision == found)
}

/// Makes documents whole after damage: each is as its newest version says that is left, and no revision up to
/// `revision` is given again.
pub(super) fn restore(storage: &Storage, revision: Revision) -> Result<(), Failure> {
    let mut newest = last_revision(storage)?.max(revision);
    for keyspace in [&storage.documents, &storage.history] {
        for entry in keyspace.iter() {
            let (stored_key, value) = entry.into_inner()?;
            let Ok(stored) = Stored::read(&value) else {
                continue;
            };
            newest = newest.max(stored.revision);
            let bytes = if is_document_key(&stored_key) {
                continue;
            } else {
                stored_key.len().saturating_sub(size_of::<Revision>())
            };
            let key = &stored_key[..bytes];
            let current = storage.documents.get(key)?;
            let current = current.and_then(|value| Stored::read(&value).ok());
            if current.is_none_or(|current| current.revision < stored.revision) {
                storage.documents.insert(key, &*value)?;
            }
        }
    }
    if 0 < newest {
        storage.state.insert(REVISION_KEY, newest.to_be_bytes())?;
    }
    Ok(())
}

fn history_key(key: &str, revision: Revision) -> Vec<u8> {
    let mut bytes = document_key(key);
    bytes.extend_from_slice(&revision.to_be_bytes());
    bytes
}
