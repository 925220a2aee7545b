//! The gateway's loop: the one place that drives the relays. It waits for an event or a deadline, hands it to the relay
//! that it concerns, and does what the relays ask for.

use std::sync::Arc;
use std::time::Duration;

use agent_core::agent::LinkState;
use agent_core::id::{AgentId, BootId, Sequence};
use agent_core::limits::DRAIN_MAX;
use agent_core::random::SplitMix64;
use agent_core::time::Instant;
use crossbeam_channel::{Receiver, RecvTimeoutError, Sender};
use proto::Hello;

use super::line::Heard;
use super::reader::Never;
use super::relay::{Output, Relay, Tally, Ticket, Totals};
use super::{GatewaySettings, LineNumber, REPORT_EVERY};
use crate::clock::Clock;
use crate::identity;
use crate::net::{LinkEvent, Network, Request, Uplink};

/// Devices of one gateway. Each costs a connection, and 300 KiB when the server is away for long. More are refused:
/// their frames are counted and dropped.
pub(crate) const DEVICES_MAX: usize = 32;

/// A device that was not heard for so long is given up, so that the server sees it disconnected. It is three times the
/// longest silence of a device that deduplicates with the defaults.
const SILENCE_MAX: Duration = Duration::from_secs(900);

/// A link holds the name of a device for so long after it was heard there: two devices with one name on two links must
/// not take turns, and one that was plugged in elsewhere must not be refused for ever.
const NAME_HELD_FOR: Duration = Duration::from_secs(60);

/// How long the ends of streams and readers may take at the end of the process.
const CLOSE_MAX: Duration = Duration::from_secs(1);

/// A wake-up of the forwarder.
#[derive(Debug)]
pub(super) enum Event {
    /// A device said something on this link.
    Heard(LineNumber, Heard),
    /// A link is gone.
    LineClosed(LineNumber),
    /// A link's thread is at its end.
    ReaderEnded,
    /// Something happened to a stream.
    Link {
        /// Whose stream.
        device: DeviceKey,
        /// Which of its streams; events of an older one are dropped.
        session: u64,
        /// What.
        event: LinkEvent<Ticket>,
    },
    /// The process is about to end.
    Shutdown,
}

/// Names a device within this run of the gateway. Never reused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct DeviceKey(u64);

#[derive(Debug)]
struct Device {
    key: DeviceKey,
    relay: Relay,
    uplink: Uplink<Ticket>,
    // The link on which it was heard last; none when that was closed since.
    line: Option<LineNumber>,
    heard_at: Instant,
    // Whether a server answered on the stream in hand, so that a failed attempt is logged differently from a loss.
    was_open: bool,
    ended: bool,
}

/// What was not forwarded, for the log.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Refused {
    /// Frames of a device beyond [`DEVICES_MAX`].
    beyond_limit: u64,
    /// Frames of a device whose name another link holds, or the agent of this host.
    name_held: u64,
}

/// How long the end may take.
#[derive(Clone, Copy, Debug)]
struct Ending {
    // Readers take some 200 ms to notice, and longer only when they are connecting.
    readers_until: Instant,
    // For everything.
    until: Instant,
}

#[derive(Debug)]
pub(super) struct Forwarder {
    settings: GatewaySettings,
    random: SplitMix64,
    clock: Clock,
    network: Arc<Network>,
    sender: Sender<Event>,
    events: Receiver<Event>,
    // Dropped to end the readers.
    running: Option<Vec<Sender<Never>>>,
    readers: usize,
    // At most DEVICES_MAX.
    devices: Vec<Device>,
    next_key: u64,
    refused: Refused,
    // The books of devices that were given up.
    past: Totals,
    reported: (Totals, Refused),
    report_at: Instant,
    // None while nobody has asked for the end.
    ending: Option<Ending>,
}

impl Forwarder {
    pub(super) fn new(
        settings: GatewaySettings,
        random: SplitMix64,
        clock: Clock,
        network: Arc<Network>,
        sender: Sender<Event>,
        events: Receiver<Event>,
        running: Vec<Sender<Never>>,
    ) -> Self {
        Self {
            readers: settings.ports.len(),
            settings,
            random,
            clock,
            network,
            sender,
            events,
            running: Some(running),
            devices: Vec::new(),
            next_key: 0,
            refused: Refused::default(),
            past: Totals::default(),
            reported: (Totals::default(), Refused::default()),
            report_at: clock.now() + REPORT_EVERY,
            ending: None,
        }
    }

    /// Runs until the process is asked to end.
    pub(super) fn run(mut self) {
        loop {
            let mut until = self.drain().into_iter().chain([self.report_at]).min();
            if let Some(ending) = self.ending {
                let now = self.clock.now();
                let readers_ended = self.readers == 0 || ending.readers_until <= now;
                if ending.until <= now || (readers_ended && self.streams_ended()) {
                    break;
                }
                let next = if readers_ended { ending.until } else { ending.readers_until };
                until = until.into_iter().chain([next]).min();
            }
            if let Some(event) = self.wait(until) {
                self.on_event(event);
            }
        }
        self.say_totals();
    }

    fn streams_ended(&self) -> bool {
        self.devices.iter().all(|device| {
            let is_down =
                matches!(device.relay.link(), LinkState::Down { .. } | LinkState::Dialling);
            device.ended && is_down
        })
    }

    /// The next event; none when the time is over.
    fn wait(&self, until: Option<Instant>) -> Option<Event> {
        let received = match until {
            Some(until) => self.events.recv_timeout(self.clock.time_until(until)),
            None => self.events.recv().map_err(|_| RecvTimeoutError::Disconnected),
        };
        // It keeps a sender itself.
        received.ok()
    }

    /// Does what the relays ask for until all want to wait. Answers for how long.
    fn drain(&mut self) -> Option<Instant> {
        let now = self.clock.now();
        if self.report_at <= now {
            self.report_at = now + REPORT_EVERY;
            if (self.totals(), self.refused) != self.reported {
                self.say_totals();
            }
        }
        self.give_up_silent(now);
        let mut until: Option<Instant> = None;
        for device in &mut self.devices {
            let waits_until = device.drain(&self.clock, &self.settings.host);
            until = until.into_iter().chain(waits_until).min();
        }
        until
    }

    /// Forgets devices that have gone silent. Looked at with each wake-up, and there is one with each report.
    fn give_up_silent(&mut self, now: Instant) {
        let past = &mut self.past;
        self.devices.retain_mut(|device| {
            let is_over = SILENCE_MAX <= now - device.heard_at && device.relay.is_settled();
            if is_over {
                tracing::info!(device = %device.relay.agent(), "device is silent; given up");
                past.add(device.relay.give_up());
            }
            // Dropping its uplink ends its stream in good order.
            !is_over
        });
    }

    fn on_event(&mut self, event: Event) {
        let now = self.clock.now();
        match event {
            Event::Heard(line, heard) => self.on_heard(now, line, heard),
            Event::LineClosed(line) => {
                for device in self.devices.iter_mut().filter(|device| device.line == Some(line)) {
                    device.line = None;
                }
            }
            Event::ReaderEnded => self.readers = self.readers.saturating_sub(1),
            Event::Link { device, session, event } => {
                let device = self.devices.iter_mut().find(|known| known.key == device);
                if let Some(device) = device.filter(|device| device.relay.session() == session) {
                    device.on_link_event(now, event);
                }
            }
            Event::Shutdown => {
                self.running = None;
                for device in &mut self.devices {
                    device.relay.handle_shutdown(now);
                }
                let until = match self.ending {
                    None => now + DRAIN_MAX + CLOSE_MAX,
                    Some(_) => now + CLOSE_MAX,
                };
                self.ending = Some(Ending { readers_until: now + CLOSE_MAX, until });
            }
        }
    }

    fn on_heard(&mut self, now: Instant, line: LineNumber, heard: Heard) {
        if self.running.is_none() {
            return;
        }
        let (Heard::Hello { agent, boot }
        | Heard::Records { agent, boot, .. }
        | Heard::Alerts { agent, boot, .. }) = &heard;
        let boot = *boot;
        let Some(device) = self.device(now, line, agent.clone(), boot) else { return };
        (device.line, device.heard_at) = (Some(line), now);
        if device.relay.handle_hello(boot) {
            tracing::info!(device = %device.relay.agent(), %boot, "device has started anew");
        }
        match heard {
            Heard::Hello { .. } => {}
            Heard::Records { records, .. } => device.relay.handle_records(boot, records),
            Heard::Alerts { alerts, .. } => device.relay.handle_alerts(boot, alerts),
        }
    }

    /// The device with this name, new or known; none when it is refused.
    fn device(
        &mut self,
        now: Instant,
        line: LineNumber,
        agent: AgentId,
        boot: BootId,
    ) -> Option<&mut Device> {
        let address = &self.settings.ports[line.0];
        if agent == self.settings.host {
            if self.refused.name_held == 0 {
                tracing::warn!(
                    device = %agent, line = %address,
                    "refused: the device has the name of this host's own agent; give it another name"
                );
            }
            self.refused.name_held += 1;
            return None;
        }
        if let Some(index) = self.devices.iter().position(|known| *known.relay.agent() == agent) {
            let known = &self.devices[index];
            let is_held = known.line.is_some_and(|holder| holder != line)
                && now - known.heard_at < NAME_HELD_FOR;
            if is_held {
                if self.refused.name_held == 0 {
                    tracing::warn!(
                        device = %agent, line = %address,
                        "refused: a device of this name is on another link; give one of the two another name"
                    );
                }
                self.refused.name_held += 1;
                return None;
            }
            return self.devices.get_mut(index);
        }
        if DEVICES_MAX <= self.devices.len() {
            if self.refused.beyond_limit == 0 {
                tracing::warn!(
                    device = %agent, line = %address, limit = DEVICES_MAX,
                    "refused: too many devices on one gateway"
                );
            }
            self.refused.beyond_limit += 1;
            return None;
        }
        tracing::info!(device = %agent, %boot, line = %address, "device found");
        let key = DeviceKey(self.next_key);
        self.next_key += 1;
        let events = self.sender.clone();
        // Fails only when the forwarder is gone, which then needs no report.
        let report = move |session, event| {
            events.send(Event::Link { device: key, session, event }).ok();
        };
        self.devices.push(Device {
            key,
            relay: Relay::new(now, agent, boot, self.random.next_u64()),
            uplink: self.network.uplink(report),
            line: Some(line),
            heard_at: now,
            was_open: false,
            ended: false,
        });
        self.devices.last_mut()
    }

    fn totals(&self) -> Totals {
        let mut totals = self.past;
        for device in &self.devices {
            totals.add(device.relay.totals());
        }
        totals
    }

    fn say_totals(&mut self) {
        let totals = self.totals();
        let Totals { records, alerts } = totals;
        let Tally { delivered, lost, held, repeated } = records;
        let Refused { beyond_limit, name_held } = self.refused;
        tracing::info!(
            devices = self.devices.len(),
            delivered,
            lost,
            held,
            repeated,
            alerts_delivered = alerts.delivered,
            alerts_lost = alerts.lost,
            alerts_held = alerts.held,
            alerts_repeated = alerts.repeated,
            beyond_limit,
            name_held,
            "serial gateway"
        );
        self.reported = (totals, self.refused);
    }
}

impl Device {
    /// Does what the relay asks for until it wants to wait.
    fn drain(&mut self, clock: &Clock, host: &AgentId) -> Option<Instant> {
        loop {
            match self.relay.poll(clock.now()) {
                Output::Dial(boot) => self.dial(boot, host),
                Output::Transmit(message, ticket) => self.request(Request::Send(message, ticket)),
                Output::Finish => self.request(Request::Finish),
                Output::Close => self.request(Request::Close),
                Output::End => {
                    if !self.ended {
                        self.ended = true;
                        self.request(Request::Close);
                    }
                    return None;
                }
                Output::Wait(until) => return until,
            }
        }
    }

    fn dial(&mut self, boot: BootId, host: &AgentId) {
        self.was_open = false;
        let (records, alerts) = self.relay.accounted();
        self.request(Request::Dial(Box::new(Hello {
            agent_id: self.relay.agent().to_string(),
            boot: Some(boot.into()),
            session: self.relay.session(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            host_name: identity::host_name(),
            target: format!("serial, behind {host}"),
            config_revision: 0,
            acknowledged: records.map_or(0, Sequence::number),
            alerts_acknowledged: alerts.map_or(0, Sequence::number),
            own_config: false,
            // What tells devices apart is not for the host to say.
            host: String::new(),
        })));
    }

    /// The core's slots keep the queue from ever being full, so a refusal means that the network's thread is gone.
    fn request(&self, request: Request<Ticket>) {
        if let Err(error) = self.uplink.request(request) {
            tracing::error!(%error, "a message for the server was not taken");
        }
    }

    fn on_link_event(&mut self, now: Instant, event: LinkEvent<Ticket>) {
        let device = self.relay.agent();
        match event {
            LinkEvent::Opened => self.relay.handle_opened(now),
            LinkEvent::Answered(None) => {
                self.was_open = true;
                tracing::info!(%device, "device connected; the server speaks the plain form");
                self.relay.handle_plain();
            }
            LinkEvent::Answered(Some(welcome)) => {
                self.was_open = true;
                tracing::info!(%device, "device connected");
                self.relay.handle_welcome(now, &welcome);
            }
            LinkEvent::Received(command, _place) => self.relay.handle_message(now, *command),
            LinkEvent::Transmitted(ticket) => self.relay.handle_transmitted(now, ticket),
            LinkEvent::Refused { reason } => {
                tracing::warn!(%device, reason, "device refused: another live agent has its name");
                self.relay.handle_closed(now);
            }
            LinkEvent::Finished => {
                self.was_open = false;
                self.relay.handle_finished(now);
            }
            LinkEvent::Closed { reason } => {
                if self.was_open {
                    tracing::info!(%device, reason, "device disconnected; its records are kept");
                } else {
                    // The host's own agent says so aloud.
                    tracing::debug!(%device, reason, "cannot connect for the device");
                }
                self.was_open = false;
                self.relay.handle_closed(now);
            }
        }
    }
}
