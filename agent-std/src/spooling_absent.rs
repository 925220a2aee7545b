//! A program that was built without the spool keeps no records on the disk, and does not find out what a boot lost that
//! ended without a word. The state directory is its own all the same.

use std::path::Path;
use std::time::Duration;

use agent_core::agent::Input;
use agent_core::id::{AgentId, BootId};
use agent_core::plugin::own::OwnPlugins;
use agent_core::time::Instant;
use proto::SpoolStatus;
use proto::agent_message::Body;

use crate::net::message::Packing;
use crate::ring_memory::RingAgent;
use crate::spool::{Order, StdDisk};

/// What an operator decides of a spool.
#[derive(Clone, Copy, Debug)]
#[expect(dead_code, reason = "there is nobody to follow it")]
pub(crate) struct Settings {
    pub(crate) bytes_max: u64,
    pub(crate) age_max: Duration,
    pub(crate) after: Duration,
    pub(crate) order: Order,
}

/// Bytes of memory that it takes.
pub(crate) fn memory_bytes_max(_bytes_max: u64) -> usize {
    0
}

/// Bytes of a spool: none but 0 can be had.
///
/// # Errors
///
/// When it is to have any; with the remedy.
pub(crate) fn check_bytes(bytes: u64) -> Result<(), &'static str> {
    if bytes != 0 {
        return Err("this program was built without a spool; build with --features spool");
    }
    Ok(())
}

/// Holds the state directory for this process.
#[derive(Debug)]
pub(crate) struct Spooling {
    _disk: StdDisk,
}

impl Spooling {
    pub(crate) fn open(
        disk: StdDisk,
        _state_dir: &Path,
        _settings: Settings,
        _agent: AgentId,
        _boot: BootId,
        _now: Instant,
    ) -> Self {
        Self { _disk: disk }
    }

    pub(crate) fn handle_welcomed(&mut self, _is_wanted: bool) {}

    pub(crate) fn handle_closed(&mut self) {}

    pub(crate) fn handle_acknowledged(&mut self, _number: u64) -> Vec<Input> {
        Vec::new()
    }

    pub(crate) fn transmit(&mut self, _packing: Packing) -> Option<Body> {
        None
    }

    pub(crate) fn poll<const RING: usize>(
        &mut self,
        _now: Instant,
        _agent: &mut RingAgent<RING, impl OwnPlugins>,
    ) -> Spooled {
        Spooled::Wait(None)
    }

    pub(crate) fn store_all<const RING: usize>(
        &mut self,
        _now: Instant,
        _agent: &mut RingAgent<RING, impl OwnPlugins>,
    ) {
    }

    pub(crate) fn status(&self) -> Option<SpoolStatus> {
        None
    }

    pub(crate) fn close<const RING: usize>(&mut self, _agent: &RingAgent<RING, impl OwnPlugins>) {}
}

/// What [`Spooling::poll`] came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Spooled {
    /// The agent was told something.
    #[expect(dead_code, reason = "nobody is there to say it")]
    Changed,
    /// Nothing is to be done before the next input of the agent or this time.
    Wait(Option<Instant>),
}
