//! A program that was built without serial links says so when it is asked for one.

use std::fmt;
use std::io;
use std::str::FromStr;
use std::sync::Arc;

use agent_core::id::AgentId;

use crate::clock::Clock;
use crate::net::Network;

/// Bits per second of a serial port that nobody said anything about.
pub(crate) const BAUD_DEFAULT: u32 = 115_200;

/// Links of one gateway.
pub(crate) const LINES_MAX: usize = 16;

/// What links cost that there cannot be.
pub(crate) const STACK_BYTES: usize = 0;
pub(crate) const LINE_STACK_BYTES: usize = 0;
pub(crate) const LINE_BYTES_MAX: usize = 0;
pub(crate) const QUEUE_BYTES_MAX: usize = 0;
pub(crate) const DEVICES_MAX: usize = 0;

/// Bytes that are held for one device at most.
pub(crate) const fn device_bytes_max() -> usize {
    0
}

/// There is none.
#[derive(Clone, Copy, Debug)]
pub(crate) enum PortAddress {}

/// Why the text names no port.
#[derive(Clone, Copy, Debug, thiserror::Error)]
#[error("this program was built without serial links; build with --features serial")]
pub(crate) struct PortAddressError;

impl FromStr for PortAddress {
    type Err = PortAddressError;

    fn from_str(_text: &str) -> Result<Self, PortAddressError> {
        Err(PortAddressError)
    }
}

impl fmt::Display for PortAddress {
    fn fmt(&self, _: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {}
    }
}

/// There are none, for there is no port.
#[derive(Debug)]
#[expect(dead_code, reason = "there is nobody to follow them")]
pub(crate) struct GatewaySettings {
    pub(crate) host: AgentId,
    pub(crate) ports: Vec<PortAddress>,
    pub(crate) baud: u32,
    pub(crate) seed: u64,
}

/// There is none.
#[derive(Debug)]
pub(crate) enum Gateway {}

impl Gateway {
    pub(crate) fn start(
        settings: &GatewaySettings,
        _clock: Clock,
        _network: &Arc<Network>,
    ) -> io::Result<Self> {
        let GatewaySettings { ports, .. } = settings;
        let text = format!("no port of {} can be opened", ports.len());
        Err(io::Error::new(io::ErrorKind::Unsupported, text))
    }

    pub(crate) fn shutdown(&mut self) {
        match *self {}
    }

    pub(crate) fn finish(self) {
        match self {}
    }
}
