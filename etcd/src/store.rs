//! Reads and writes documents, wherever in the cluster somebody answers.

use std::fmt;
use std::sync::{Mutex, PoisonError};

use etcd_client::{Compare, CompareOp, GetOptions, Txn, TxnOp};

use crate::connection::{Connection, in_time};
use crate::document::{Found, Revision, TEXT_BYTES_MAX, TextError, revision};
use crate::failure::Failure;
use crate::key::Key;
use crate::options::Options;

/// A document at one of its revisions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Version {
    /// The change that made it.
    pub revision: Revision,
    /// What it says, or why it can say nothing.
    pub text: Result<String, TextError>,
}

/// Why a document could not be read or written.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// Somebody else changed it in between. Nothing was written.
    #[error("the document is at revision {actual}, not {expected}")]
    Conflict {
        /// What the caller expected; 0 for no document.
        expected: Revision,
        /// What is there; 0 for no document.
        actual: Revision,
    },
    /// The text is too long. Nothing was written.
    #[error("document has {bytes} bytes, at most {TEXT_BYTES_MAX} are allowed")]
    TooLarge {
        /// What it has.
        bytes: usize,
    },
    /// etcd could not be asked. A write may have been made all the same.
    #[error("etcd cannot be used now")]
    Unavailable(#[source] Failure),
}

impl From<Failure> for StoreError {
    fn from(failure: Failure) -> Self {
        Self::Unavailable(failure)
    }
}

/// The documents. One connection, made when it is needed and thrown away when it fails.
pub struct Store {
    options: Options,
    current: Mutex<Current>,
}

struct Current {
    connection: Option<Connection>,
    /// Which endpoint comes next.
    turn: usize,
}

impl Store {
    /// Nothing needs to be there yet.
    pub fn new(options: Options) -> Self {
        Self { options, current: Mutex::new(Current { connection: None, turn: 0 }) }
    }

    /// What a key holds now.
    ///
    /// # Errors
    ///
    /// When no member of the cluster can be asked.
    pub async fn get(&self, key: &Key) -> Result<Option<Version>, StoreError> {
        Ok(self.get_at(key, None).await?)
    }

    /// Writes `text`, with `expected` only if the key is at that revision (0: not there). Answers with the revision that
    /// this made.
    ///
    /// # Errors
    ///
    /// As [`StoreError`] says. Nothing that may have been written is tried again.
    pub async fn put(
        &self,
        key: &Key,
        text: &str,
        expected: Option<Revision>,
    ) -> Result<Revision, StoreError> {
        if TEXT_BYTES_MAX < text.len() {
            return Err(StoreError::TooLarge { bytes: text.len() });
        }
        let path = key.path();
        let compare = expected.map(|expected| {
            let expected = i64::try_from(expected).unwrap_or(i64::MAX);
            Compare::mod_revision(path.as_str(), CompareOp::Equal, expected)
        });
        let put = TxnOp::put(path.as_str(), text, None);
        let txn = Txn::new().when(Vec::from_iter(compare)).and_then([put]);
        let made = self.write(txn).await?;
        match (made, expected) {
            (Some(revision), _) => Ok(revision),
            (None, expected) => {
                let actual = self.get(key).await?.map_or(0, |version| version.revision);
                Err(StoreError::Conflict { expected: expected.unwrap_or(0), actual })
            }
        }
    }

    /// The versions of a document, newest first, at most `limit`: as far back as etcd remembers, and not beyond a
    /// deletion.
    ///
    /// # Errors
    ///
    /// When no member of the cluster can be asked.
    pub async fn history(&self, key: &Key, limit: usize) -> Result<Vec<Version>, StoreError> {
        let mut versions = Vec::new();
        let mut at = None;
        while versions.len() < limit {
            let version = match self.get_at(key, at).await {
                Ok(Some(version)) => version,
                Ok(None) | Err(Failure::Compacted { .. }) => break,
                Err(failure) => return Err(failure.into()),
            };
            let before = version.revision.saturating_sub(1);
            versions.push(version);
            if before == 0 {
                break;
            }
            at = Some(before);
        }
        Ok(versions)
    }

    /// Asks each member once, should those before not answer; the last answer is the one that counts.
    async fn get_at(&self, key: &Key, at: Option<Revision>) -> Result<Option<Version>, Failure> {
        let mut options = GetOptions::new();
        if let Some(at) = at {
            options = options.with_revision(i64::try_from(at).unwrap_or(i64::MAX));
        }
        let mut tries = self.options.endpoints.count();
        loop {
            let asked = self.get_once(key, options.clone()).await;
            match asked {
                Err(Failure::Unreachable { .. } | Failure::Denied { .. }) if 0 < tries => {
                    tries -= 1
                }
                asked => return asked,
            }
        }
    }

    async fn get_once(&self, key: &Key, options: GetOptions) -> Result<Option<Version>, Failure> {
        let connection = self.connect().await?;
        let response = match connection.get(key.path(), options).await {
            Ok(response) => response,
            Err(failure @ Failure::Compacted { .. }) => return Err(failure),
            Err(failure) => return Err(self.give_up(failure)),
        };
        let found = response.kvs().first().and_then(Found::of);
        Ok(found.and_then(|found| Some(Version { revision: found.revision, text: found.text? })))
    }

    /// Makes a transaction; none when its condition does not hold. A denied one was not made, so it is tried again with
    /// fresh credentials.
    async fn write(&self, txn: Txn) -> Result<Option<Revision>, Failure> {
        match self.write_once(txn.clone()).await {
            Err(Failure::Denied { .. }) => self.write_once(txn).await,
            done => done,
        }
    }

    async fn write_once(&self, txn: Txn) -> Result<Option<Revision>, Failure> {
        let connection = self.connect().await?;
        let mut keys = connection.keys();
        let done = in_time(connection.endpoint(), keys.txn(txn)).await;
        let done = done.map_err(|failure| self.give_up(failure))?;
        let header = done.header();
        let made = header.map(|header| revision(header.revision()));
        Ok(made.filter(|_| done.succeeded()))
    }

    async fn connect(&self) -> Result<Connection, Failure> {
        let endpoint = {
            let mut current = self.current();
            if let Some(connection) = &current.connection {
                return Ok(connection.clone());
            }
            let endpoint = self.options.endpoints.at(current.turn).to_owned();
            current.turn = current.turn.wrapping_add(1);
            endpoint
        };
        let connection = Connection::open(&endpoint, &self.options).await?;
        self.current().connection = Some(connection.clone());
        Ok(connection)
    }

    fn give_up(&self, failure: Failure) -> Failure {
        self.current().connection = None;
        failure
    }

    /// Each change to it is a single step, so what a panic left is whole.
    fn current(&self) -> std::sync::MutexGuard<'_, Current> {
        self.current.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Store {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Store").field("options", &self.options).finish_non_exhaustive()
    }
}
