//! The simulated network, as TCP and HTTP/2 show it: a stream keeps its order, and its bytes come whole or not at all.
//!
//! What can go wrong is what can go wrong with TCP: a connection is reset and what was in flight is gone; a path is
//! closed in one direction or both, and whoever hears nothing for 15 s gives up; what an old connection still had in
//! flight arrives after a new one was opened. Nothing overtakes anything within a connection, because TCP never lets it.

use std::collections::VecDeque;

use agent_core::agent::Transmit;

/// Bytes that may be on their way in one direction without having been read: the HTTP/2 window of both sides.
pub(crate) const WINDOW_BYTES: usize = 64 * 1024;

/// Within this time of silence a side gives a connection up.
pub(crate) const KEEPALIVE_MS: (u64, u64) = (10_000, 15_000);

/// How long a dial waits for a path that is closed.
pub(crate) const CONNECT_MS: u64 = 5000;

/// A direction, and with it the side that receives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Direction {
    /// From the agent to the server.
    Up,
    /// From the server to the agent.
    Down,
}

/// What travels.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Parcel {
    /// The headers of the call, or of its answer.
    Headers(Vec<u8>),
    Message(Vec<u8>),
    /// The sender is done, after what it has sent. `is_refusal`: a server says that somebody else has the id.
    End {
        is_refusal: bool,
    },
    /// The connection broke.
    Reset,
}

impl Parcel {
    pub(crate) const fn bytes(&self) -> usize {
        match self {
            Self::Headers(bytes) | Self::Message(bytes) => bytes.len(),
            Self::End { .. } | Self::Reset => 0,
        }
    }
}

/// One direction of a connection.
#[derive(Debug, Default)]
pub(crate) struct Pipe {
    pub(crate) parcels: VecDeque<Parcel>,
    pub(crate) bytes: usize,
    /// When the newest parcel arrives.
    pub(crate) last_arrival: u64,
    /// Parcels whose time has come and which the receiver has not been given yet.
    pub(crate) due: usize,
}

impl Pipe {
    pub(crate) fn push(&mut self, parcel: Parcel) {
        self.bytes += parcel.bytes();
        self.parcels.push_back(parcel);
    }

    pub(crate) fn pop(&mut self) -> Option<Parcel> {
        let parcel = self.parcels.pop_front()?;
        self.bytes -= parcel.bytes();
        Some(parcel)
    }

    /// What is in flight is gone. Answers how many messages that were.
    pub(crate) fn clear(&mut self) -> u64 {
        let messages = self.parcels.iter().filter(|p| matches!(p, Parcel::Message(_))).count();
        self.parcels.clear();
        self.bytes = 0;
        self.due = 0;
        messages as u64
    }
}

/// One connection with its one stream.
#[derive(Debug)]
pub(crate) struct Connection {
    pub(crate) agent: usize,
    /// Which process of the agent.
    pub(crate) process: u64,
    /// Which stream of that process.
    pub(crate) session: u64,
    pub(crate) server: usize,
    /// Which run of the server.
    pub(crate) run: u64,
    pub(crate) up: Pipe,
    pub(crate) down: Pipe,
    /// Messages that the agent's transport has not taken yet.
    pub(crate) outbox: VecDeque<(Vec<u8>, Transmit)>,
    /// The agent's half ends after them.
    pub(crate) finishes: bool,
    pub(crate) is_agent_there: bool,
    pub(crate) is_server_there: bool,
}

impl Connection {
    pub(crate) const fn pipe(&mut self, direction: Direction) -> &mut Pipe {
        match direction {
            Direction::Up => &mut self.up,
            Direction::Down => &mut self.down,
        }
    }
}
