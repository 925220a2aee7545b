//! What the writer, the retention thread and the readers of one database share.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{broadcast, watch};

use super::PerTopic;
use super::options::Options;
use super::storage::{Extent, Failure, Storage};
use crate::contract::BusError;

/// How long a read waits while the storage is opened again after a failure.
const REOPEN_WAIT_MAX: Duration = Duration::from_secs(5);

/// What readers of a topic wait on.
#[derive(Clone, Copy, Debug)]
pub(super) struct Head {
    pub(super) extent: Extent,
    /// Set last, when everything is let go of.
    pub(super) closed: bool,
}

#[derive(Debug)]
pub(super) struct Shared {
    pub(super) options: Options,
    /// Each covers only what is durable. The writer moves the end, the retention thread the beginning.
    pub(super) heads: PerTopic<watch::Sender<Head>>,
    pub(super) slot: Slot,
    /// The keys of documents that changed. Whoever is too slow for it reads all documents again.
    pub(super) changed_keys: broadcast::Sender<String>,
}

/// Why a read of the storage cannot be done.
#[derive(Clone, Debug)]
pub(super) enum ReadError {
    Closed,
    Failed(Failure),
}

impl From<Failure> for ReadError {
    fn from(failure: Failure) -> Self {
        Self::Failed(failure)
    }
}

impl From<fjall::Error> for ReadError {
    fn from(error: fjall::Error) -> Self {
        Self::Failed(error.into())
    }
}

impl From<ReadError> for BusError {
    fn from(error: ReadError) -> Self {
        match error {
            ReadError::Closed => Self::Closed,
            ReadError::Failed(failure) => Self::Unavailable(Box::new(failure)),
        }
    }
}

/// Where the storage is, if it is open. Users take it for one short operation each, so that it can be opened
/// again under them.
#[derive(Debug)]
pub(super) struct Slot {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug)]
enum State {
    Open(Arc<Storage>),
    /// Given up because of this failure, and not yet open again.
    Failed(Failure),
    Closed,
}

impl Slot {
    pub(super) fn new(storage: Storage) -> Self {
        Self { state: Mutex::new(State::Open(Arc::new(storage))), changed: Condvar::new() }
    }

    /// The storage; waits a while for one that is being opened again. Blocks.
    pub(super) fn storage(&self) -> Result<Arc<Storage>, ReadError> {
        let (state, _) = self
            .changed
            .wait_timeout_while(self.lock(), REOPEN_WAIT_MAX, |state| {
                matches!(state, State::Failed(_))
            })
            .unwrap_or_else(PoisonError::into_inner);
        match &*state {
            State::Open(storage) => Ok(Arc::clone(storage)),
            State::Failed(failure) => Err(ReadError::Failed(failure.clone())),
            State::Closed => Err(ReadError::Closed),
        }
    }

    /// The storage if it is open.
    pub(super) fn storage_now(&self) -> Option<Arc<Storage>> {
        match &*self.lock() {
            State::Open(storage) => Some(Arc::clone(storage)),
            State::Failed(_) | State::Closed => None,
        }
    }

    /// Takes the storage out, because of `failure`.
    pub(super) fn fail(&self, failure: Failure) -> Option<Arc<Storage>> {
        self.replace(State::Failed(failure))
    }

    pub(super) fn open(&self, storage: Storage) {
        self.replace(State::Open(Arc::new(storage)));
    }

    /// Takes the storage out for good.
    pub(super) fn close(&self) -> Option<Arc<Storage>> {
        self.replace(State::Closed)
    }

    fn replace(&self, state: State) -> Option<Arc<Storage>> {
        let old = std::mem::replace(&mut *self.lock(), state);
        self.changed.notify_all();
        match old {
            State::Open(storage) => Some(storage),
            State::Failed(_) | State::Closed => None,
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Each section is a single read or assignment, so a panic cannot leave it half done.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
