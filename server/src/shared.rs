//! What every task of the server reaches: the rooms, and the tables that need a lock.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bus::Bus;

use crate::budget::Budget;
use crate::clock::Clock;
use crate::command::{Answered, Commands, Rates};
use crate::config::ConfigStore;
use crate::counters::Counters;
use crate::ingest::{Claims, Load, SessionHandle, Sink};
use crate::levels::{Level, Levels};
use crate::limits::ANSWERS_MAX;
use crate::registry::Registry;
use crate::shutdown::Stopping;
use crate::troubles::Troubles;

/// One per server. Nothing here is held across an await.
#[derive(Debug)]
pub(crate) struct Shared {
    /// Names this run of this server.
    pub(crate) server_id: String,
    /// Unix milliseconds.
    pub(crate) started_ms: i64,
    /// Listening beyond loopback without TLS.
    pub(crate) insecure: bool,
    pub(crate) clock: Clock,
    pub(crate) counters: Arc<Counters>,
    pub(crate) levels: Arc<Levels>,
    /// Room for messages on their way to the bus.
    pub(crate) budget: Budget,
    /// How the bus keeps up.
    pub(crate) sink: Arc<Sink>,
    pub(crate) bus: Arc<dyn Bus>,
    pub(crate) config: ConfigStore,
    pub(crate) commands: Commands,
    pub(crate) stopping: Stopping,
    pub(crate) tables: Arc<Tables>,
    pub(crate) troubles: Arc<Troubles>,
}

/// What is known of agents and commands, and which agents have a session.
#[derive(Debug)]
pub(crate) struct Tables {
    registry: Mutex<Registry>,
    claims: Mutex<Claims<SessionHandle>>,
    answered: Mutex<Answered>,
    rates: Mutex<Rates>,
}

impl Shared {
    /// What each stream's share of the budget follows from.
    pub(crate) fn load(&self) -> Load {
        Load {
            free_bytes: self.budget.free(),
            streams: self.levels.now(Level::Streams),
            sink: self.sink.latency(),
        }
    }

    pub(crate) fn registry(&self) -> MutexGuard<'_, Registry> {
        self.tables.registry()
    }

    pub(crate) fn claims(&self) -> MutexGuard<'_, Claims<SessionHandle>> {
        self.tables.claims()
    }

    pub(crate) fn answered(&self) -> MutexGuard<'_, Answered> {
        self.tables.answered()
    }
}

impl Tables {
    pub(crate) fn new(registry: Registry) -> Self {
        Self {
            registry: Mutex::new(registry),
            claims: Mutex::new(Claims::new()),
            answered: Mutex::new(Answered::new(ANSWERS_MAX)),
            rates: Mutex::default(),
        }
    }

    // A panic while one of these is held is a bug, and each change is a single step: what the panic left is
    // whole, and ending every other session for it would be worse.

    pub(crate) fn registry(&self) -> MutexGuard<'_, Registry> {
        self.registry.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn claims(&self) -> MutexGuard<'_, Claims<SessionHandle>> {
        self.claims.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn rates(&self) -> MutexGuard<'_, Rates> {
        self.rates.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn answered(&self) -> MutexGuard<'_, Answered> {
        self.answered.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
