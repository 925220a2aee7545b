//! The turns of the spool: when a batch of earlier records may go out beside the live ones.

use crate::limits::REPLAYS_IN_FLIGHT_MAX;

/// What an agent numbers apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Lane {
    /// Samples that left the chain.
    Records,
    /// Alerts that began or ended.
    Alerts,
}

impl Lane {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Records, Self::Alerts];

    /// The name in files and in JSON.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Records => "records",
            Self::Alerts => "alerts",
        }
    }
}

/// The spool is the shell's. This is what the agent has to know of it.
#[derive(Clone, Debug)]
pub(crate) struct Replay {
    is_writable: bool,
    has_batch: bool,
    // in_flight <= REPLAYS_IN_FLIGHT_MAX
    in_flight: u8,
    // Whether the message before was live, when both wait: each has every other message.
    live_was_last: bool,
}

impl Replay {
    pub(crate) const fn new() -> Self {
        Self { is_writable: false, has_batch: false, in_flight: 0, live_was_last: false }
    }

    pub(crate) const fn handle_spool(&mut self, is_writable: bool, has_batch: bool) {
        self.is_writable = is_writable;
        self.has_batch = has_batch;
    }

    /// Whether the spool takes what is held at the end.
    pub(crate) const fn is_writable(&self) -> bool {
        self.is_writable
    }

    /// The server made one batch durable.
    pub(crate) const fn handle_acknowledged(&mut self) {
        self.in_flight = self.in_flight.saturating_sub(1);
    }

    /// The stream has ended, and what was on its way with it.
    pub(crate) const fn handle_closed(&mut self) {
        self.in_flight = 0;
    }

    /// A batch of live records goes out.
    pub(crate) const fn handle_live(&mut self) {
        self.live_was_last = true;
    }

    /// Whether the spool goes before live records that wait.
    pub(crate) const fn is_its_turn(&self) -> bool {
        self.live_was_last
    }

    /// Whether a batch of the spool may go out; then it counts as on its way.
    pub(crate) const fn poll(&mut self) -> bool {
        let may = self.has_batch && self.in_flight < REPLAYS_IN_FLIGHT_MAX;
        if may {
            self.in_flight += 1;
            self.live_was_last = false;
        }
        may
    }
}
