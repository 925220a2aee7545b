//! Everything that can wake the main loop.

use agent_core::agent::Transmit;
use agent_core::record::Snapshot;

use crate::net::{LinkEvent, StoreEvent};
use crate::service::Part;

/// A wake-up of the main loop.
#[derive(Debug)]
pub(crate) enum Event {
    /// The collector measured.
    Snapshot(Snapshot),
    /// Something happened to a stream.
    Link {
        /// Which: the number that the dial request gave it. Events of an older stream are dropped.
        session: u64,
        /// What.
        event: LinkEvent<Transmit>,
    },
    /// The agent's own watch of the configuration store has something to say.
    Store(StoreEvent),
    /// A part of the agent was asked for a sign of life.
    Alive(Part),
    /// The process was asked to read its file again.
    Reload,
    /// The process was asked to end.
    Shutdown,
}

/// How many events may wait. The core bounds what the uplink and the collector can have under way, so it is not
/// reached in practice; if it is, the sender waits, which is back-pressure down to the socket.
pub(crate) const EVENTS_MAX: usize = 64;
