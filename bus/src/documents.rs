//! Small named documents with revisions: what the server's configuration store is kept in.

use async_trait::async_trait;

/// Counts the changes of a store, from 1. One counter for all keys, so revisions of two keys compare.
pub type Revision = u64;

/// A stored document, or the mark that one was deleted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Document {
    /// Under which name.
    pub key: String,
    /// The change that made it.
    pub revision: Revision,
    /// When: Unix milliseconds.
    pub modified_ms: i64,
    /// The text; none when this change deleted the document.
    pub text: Option<String>,
}

/// Why a document could not be read or written.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DocumentError {
    /// Somebody else changed it in between.
    #[error("the document is at revision {actual}, not {expected}")]
    Conflict {
        /// What the caller expected; 0 for no document.
        expected: Revision,
        /// What is stored; 0 for no document.
        actual: Revision,
    },
    /// The key or the text is larger than the store takes.
    #[error("{bytes} bytes are too many, at most {max} fit")]
    TooLarge {
        /// What it has.
        bytes: usize,
        /// The limit.
        max: usize,
    },
    /// The key is none that the store takes.
    #[error("{key:?} cannot be a key: {reason}")]
    Key {
        /// As it was given.
        key: String,
        /// What is wrong with it.
        reason: String,
    },
    /// What is stored is no text that this interface could have stored. Somebody else put it there.
    #[error("what is stored at revision {revision} cannot be read: {reason}")]
    Unreadable {
        /// The change that stored it.
        revision: Revision,
        /// Why.
        reason: String,
    },
    /// The storage failed.
    #[error("the document store cannot be used now")]
    Unavailable(#[source] Box<dyn std::error::Error + Send + Sync>),
}

/// What a watch tells.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DocumentEvent {
    /// A document is there, or was deleted through this interface. Revisions of a key only rise; what was told may be
    /// told again.
    Changed(Document),
    /// Something is there that is no document. What was there before is no more.
    Unreadable {
        /// Under which name.
        key: String,
        /// The change that stored it.
        revision: Revision,
        /// Why it cannot be read.
        reason: String,
    },
    /// A document is gone, and nobody removed it through this interface.
    Vanished {
        /// Under which name.
        key: String,
        /// That change, or a later one.
        revision: Revision,
    },
    /// All that is there is told. Comes once at the beginning, and again whenever changes might have been missed.
    Synced,
    /// The store is another one, or was put back to an older state: revisions begin anew, and all is told again.
    Renumbered,
    /// Changes cannot be followed now, for this reason.
    Unavailable(String),
    /// They can be followed again; what was missed has been told.
    Available,
}

/// Follows all documents of a store.
#[async_trait]
pub trait DocumentWatch: std::fmt::Debug + Send {
    /// The next thing to tell; waits for it. None when the store is closed.
    ///
    /// Cancel-safe. A watch that nobody asks costs the store nothing: what it may remember for it is bounded, and when
    /// that is not enough it tells everything again.
    async fn next(&mut self) -> Option<DocumentEvent>;
}

/// A durable map from keys to documents. Keys are exact: there are no prefixes.
#[async_trait]
pub trait DocumentStore: std::fmt::Debug + Send + Sync + 'static {
    /// The latest change of `key`, a deletion included; none if there never was one that the store remembers.
    async fn get(&self, key: &str) -> Result<Option<Document>, DocumentError>;

    /// Stores `text` under `key`, or deletes the document when `text` is none. Durable when it returns.
    ///
    /// With `expected`, only if the stored revision is that one (0: no document, or a deleted one).
    async fn put(
        &self,
        key: &str,
        text: Option<&str>,
        expected: Option<Revision>,
    ) -> Result<Document, DocumentError>;

    /// The newest changes of `key`, newest first, at most `limit`, as far back as the store remembers.
    async fn history(&self, key: &str, limit: usize) -> Result<Vec<Document>, DocumentError>;

    /// Follows all documents, from now on: tells of each that is there, then [`DocumentEvent::Synced`], then of each change
    /// by whomever. Several changes of one key that come close together may be told as the last of them.
    async fn watch(&self) -> Box<dyn DocumentWatch>;

    /// Whether several servers use it at once.
    fn is_shared(&self) -> bool;

    /// What it is, for people: `embedded` or `etcd`.
    fn kind(&self) -> &'static str;
}
