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
    /// The storage failed.
    #[error("the document store cannot be used now")]
    Unavailable(#[source] Box<dyn std::error::Error + Send + Sync>),
}

/// A durable map from keys to documents. Keys are exact: there are no prefixes.
#[async_trait]
pub trait DocumentStore: std::fmt::Debug + Send + Sync + 'static {
    /// The latest change of `key`, a deletion included; none if there never was one.
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

    /// The newest changes of `key`, newest first, at most `limit`.
    async fn history(&self, key: &str, limit: usize) -> Result<Vec<Document>, DocumentError>;
}
