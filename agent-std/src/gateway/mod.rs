//! The gateway: takes frames from devices on byte links and forwards what they say under the devices' own names.
//!
//! It runs beside the agent of this host and shares nothing with it but the process and the way to the server. In the
//! order in which data meets them: [`port`] opens a link, [`mod@line`] finds frames and whose they are, [`record`] is
//! what they carry, [`backlog`] holds it, [`relay`] decides what one device's stream carries. [`reader`] is the thread of a
//! link, [`forwarder`] the one thread that drives all relays.

mod backlog;
mod forwarder;
mod line;
mod port;
mod reader;
mod record;
mod relay;

use std::io;
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use agent_core::id::AgentId;
use agent_core::random::SplitMix64;
use crossbeam_channel::{Sender, bounded};

use self::forwarder::{Event, Forwarder};
pub(crate) use self::port::PortAddress;
use self::reader::Reader;
use crate::clock::Clock;
use crate::net::Network;
use crate::stack;

/// Bits per second of a serial port that nobody said anything about.
pub(crate) const BAUD_DEFAULT: u32 = 115_200;

/// Links of one gateway. What each costs is in [`LINE_BYTES_MAX`].
pub(crate) const LINES_MAX: usize = 16;

/// What waits for the forwarder. The readers wait when it is full, and the forwarder never waits for them.
const EVENTS_MAX: usize = 16;

/// The stack of the forwarder.
pub(crate) const STACK_BYTES: usize = stack::bytes(256);

/// The stack of one link's thread.
pub(crate) const LINE_STACK_BYTES: usize = stack::bytes(128);

/// Bytes that one link takes at most, beside its stack.
pub(crate) const LINE_BYTES_MAX: usize = line::BYTES_MAX;

/// Bytes that wait for the forwarder at most: what frames said, of which each may have records of all metrics.
pub(crate) const QUEUE_BYTES_MAX: usize = EVENTS_MAX * (size_of::<Event>() + line::HEARD_BYTES_MAX);

pub(crate) use self::forwarder::DEVICES_MAX;

/// Bytes that are held for one device at most, with records of the usual size. Its uplink comes to that.
pub(crate) const fn device_bytes_max() -> usize {
    relay::BYTES_MAX
}

/// How often the log says what came over a link and what was forwarded, if that has changed.
const REPORT_EVERY: Duration = Duration::from_secs(300);

/// Which link: its place among the `--serial` arguments.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct LineNumber(usize);

/// What a gateway works with.
#[derive(Clone, Debug)]
pub(crate) struct GatewaySettings {
    /// The host's own agent, which the devices are behind.
    pub(crate) host: AgentId,
    /// At least one.
    pub(crate) ports: Vec<PortAddress>,
    pub(crate) baud: u32,
    pub(crate) seed: u64,
}

/// A running gateway.
#[derive(Debug)]
pub(crate) struct Gateway {
    events: Sender<Event>,
    asked_to_end: bool,
    thread: JoinHandle<()>,
}

impl Gateway {
    /// Starts the threads. A port that cannot be opened is tried again for ever.
    pub(crate) fn start(
        settings: &GatewaySettings,
        clock: Clock,
        network: &Arc<Network>,
    ) -> io::Result<Self> {
        let (events, queue) = bounded(EVENTS_MAX);
        // Nothing is ever sent: closing them ends the readers.
        let mut running = Vec::with_capacity(settings.ports.len());
        let mut random = SplitMix64::new(settings.seed);
        for (number, address) in settings.ports.iter().enumerate() {
            let (is_running, stop) = bounded(0);
            running.push(is_running);
            let reader = Reader {
                number: LineNumber(number),
                address: address.clone(),
                baud: settings.baud,
                seed: random.next_u64(),
                clock,
                events: events.clone(),
                stop,
            };
            reader.spawn()?;
        }
        let forwarder = Forwarder::new(
            settings.clone(),
            random,
            clock,
            Arc::clone(network),
            events.clone(),
            queue,
            running,
        );
        let thread = thread::Builder::new().name("gateway".to_owned()).stack_size(STACK_BYTES);
        let thread = thread.spawn(move || forwarder.run())?;
        Ok(Self { events, asked_to_end: false, thread })
    }

    /// Asks it to deliver what it holds and to end. Asked twice, it ends without delivering.
    pub(crate) fn shutdown(&mut self) {
        self.asked_to_end = true;
        // It may have ended.
        self.events.send(Event::Shutdown).ok();
    }

    /// Waits for its end, after asking for it if nobody has: some seconds at most.
    pub(crate) fn finish(mut self) {
        if !self.asked_to_end {
            self.shutdown();
        }
        if self.thread.join().is_err() {
            tracing::error!("the gateway's thread has panicked");
        }
    }
}
