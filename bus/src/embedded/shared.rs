//! What the writer, the retention thread and the readers of one database share.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{broadcast, mpsc, watch};

use super::PerTopic;
use super::options::{Clock, Options};
use super::storage::{Extent, Failure, Storage};
use super::writer::Request;
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
    /// What turns the running clock into the time that the bus has lived.
    pub(super) lifetime: Lifetime,
    /// To ask the writer for a repair. Weak: a reader alone keeps no bus open.
    pub(super) requests: mpsc::WeakSender<Request>,
    /// The keys of documents that changed. Whoever is too slow for it reads all documents again.
    pub(super) changed_keys: broadcast::Sender<String>,
}

impl Shared {
    /// Milliseconds that the bus has lived: it never falls, and no step of the system's clock is in it.
    pub(super) fn lived_ms(&self) -> u64 {
        self.lifetime.lived_ms(&self.options.clock)
    }
}

/// How long the bus has lived, over all its runs.
#[derive(Clone, Copy, Debug)]
pub(super) struct Lifetime {
    before_ms: u64,
    began_ms: u64,
}

impl Lifetime {
    /// Of the time that the bus was closed so much counts at most: the clock says how long that was, and it may have been
    /// set meanwhile.
    const CLOSED_MS_MAX: u64 = 24 * 3600 * 1000;

    /// Begins a run. `newest` are the newest times of all records.
    pub(super) fn begin(clock: &Clock, newest_lived_ms: u64, newest_stored_ms: i64) -> Self {
        let closed_ms = match newest_stored_ms {
            i64::MIN => 0,
            stored_ms => clock.unix_ms().saturating_sub(stored_ms).max(0).unsigned_abs(),
        };
        let before_ms = newest_lived_ms.saturating_add(closed_ms.min(Self::CLOSED_MS_MAX));
        Self { before_ms, began_ms: clock.running_ms() }
    }

    fn lived_ms(&self, clock: &Clock) -> u64 {
        self.before_ms.saturating_add(clock.running_ms().saturating_sub(self.began_ms))
    }
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
