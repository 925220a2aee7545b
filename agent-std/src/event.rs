//! Everything that can wake the main loop.

use agent_core::agent::Transmit;
use agent_core::record::Snapshot;
use proto::{Command, Welcome};

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
        event: LinkEvent,
    },
    /// The process was asked to end.
    Shutdown,
}

/// What can happen to a stream.
#[derive(Debug)]
pub(crate) enum LinkEvent {
    /// The connection stands and the call was made.
    Opened,
    /// The response headers came; none: the server knows only the fixed facts.
    Answered(Option<Welcome>),
    /// A message came.
    Received(Box<Command>),
    /// The transport took a message.
    Transmitted(Transmit),
    /// The server refused the stream because another live agent has the id.
    Refused {
        /// For the log.
        reason: String,
    },
    /// The stream ended, or could not be opened.
    Closed {
        /// For the log.
        reason: String,
    },
}

/// How many events may wait. The core bounds what the uplink and the collector can have under way, so it is not
/// reached in practice; if it is, the sender waits, which is back-pressure down to the socket.
pub(crate) const EVENTS_MAX: usize = 64;
