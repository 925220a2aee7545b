//! The agent's shell without threads, sockets and clocks, for the simulator in `sim/`: the real core, the real layers and
//! trials of its configuration, and the real conversions to and from the wire.
//!
//! Sans-IO. It mirrors [`crate::main_loop`] step by step, with the uplink's requests as its outputs.

use std::time::Duration;

use agent_core::agent::{
    Action, Agent, Batch, Command, ConfigOutcome, Input, LinkState, Output, Restarted, Transmit,
};
use agent_core::id::{AgentId, BootId, ConfigRevision, Sequence};
use agent_core::ledger::Ledger;
use agent_core::limits::COMMANDS_MAX;
use agent_core::metric::MetricSet;
use agent_core::plugin::own::NoPlugins;
use agent_core::record::{Alert, Sample, Snapshot};
use agent_core::time::Instant;
use prost::Message as _;
use proto::agent_message::Body;
use proto::command::CommandType;
use proto::config::{Document, DocumentError};
use proto::server_message::Body as ServerBody;
use proto::{Hello, Welcome};

use crate::config::{Candidate, Configuration, Layers, Offer, Source, Step, Version};
use crate::main_loop::{is_answered, split};
use crate::net::message::{self, Packing};

type Core<const RING: usize> = Agent<RING, COMMANDS_MAX, NoPlugins>;

/// What a host's agent is started with.
#[derive(Clone, Debug)]
pub struct Start {
    /// Its name.
    pub id: AgentId,
    /// This process.
    pub boot: BootId,
    /// For the jitter of the back-off.
    pub seed: u64,
    /// What the process before handed over.
    pub restarted: Option<Restarted>,
    /// The host's own configuration, as JSON.
    pub document: String,
    /// How long a pushed configuration has to prove itself; 0 trusts it at once.
    pub config_confirm: Duration,
}

/// What happens to an agent.
#[derive(Clone, Debug)]
pub enum Event {
    /// The collector measured.
    Snapshot(Snapshot),
    /// It could not.
    SnapshotFailed,
    /// The stream with this session number.
    Link(u64, LinkEvent),
    /// The process was asked to end.
    Shutdown,
    /// The process could not be replaced.
    RestartFailed,
}

/// What happens to a stream.
#[derive(Clone, Debug)]
pub enum LinkEvent {
    /// The call was made.
    Opened,
    /// The response headers came, with an encoded Welcome.
    Answered(Vec<u8>),
    /// A message came.
    Received(Vec<u8>),
    /// The transport took a message.
    Transmitted(Transmit),
    /// The stream ended, or could not be opened.
    Closed,
}

/// What the agent wants.
#[derive(Clone, Debug)]
pub enum Request {
    /// Measure these.
    Collect(MetricSet),
    /// Open a stream in place of the one there is, with this session number and an encoded Hello.
    Dial(u64, Vec<u8>),
    /// Put a message on the stream; say when the transport has taken it.
    Send(Vec<u8>, Transmit),
    /// Replace the process.
    Restart(Option<Restarted>),
    /// End the process.
    Exit,
}

/// What to do next.
#[derive(Clone, Debug)]
pub enum Next {
    /// This.
    Request(Request),
    /// Nothing until this time or the next event.
    Wait(Option<Instant>),
}

/// A message of the server cannot be read: its stream is to be ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the server sent what cannot be read")]
pub struct Unreadable;

/// The agent of a simulated host, whose ring has `RING` bytes.
#[derive(Debug)]
pub struct Shell<const RING: usize> {
    id: AgentId,
    core: Box<Core<RING>>,
    configuration: Configuration,
    packing: Packing,
    update: Option<Candidate>,
}

impl<const RING: usize> Shell<RING> {
    /// Mirrors `crate::run`.
    ///
    /// # Errors
    ///
    /// When the host's own document cannot be used.
    pub fn start(now: Instant, start: Start) -> Result<Self, DocumentError> {
        let Start { id, boot, seed, restarted, document, config_confirm } = start;
        let layers = Layers::new(&[], Document::default(), None, Document::parse(&document)?);
        let config = layers.config()?;
        let mut core = Box::new(Core::new(now, boot, seed, config, restarted));
        let (configuration, inputs) = Configuration::open(layers, None, config_confirm, now);
        for input in inputs {
            core.handle(now, input);
        }
        Ok(Self { id, core, configuration, packing: Packing::default(), update: None })
    }

    /// The boot that it is.
    pub const fn boot(&self) -> BootId {
        self.core.boot()
    }

    /// The books.
    pub fn ledger(&self) -> Ledger {
        self.core.ledger()
    }

    /// What the agent says of itself.
    pub fn status(&self, now: Instant) -> agent_core::agent::Status {
        self.core.status(now)
    }

    /// How far the link has come.
    pub const fn link(&self) -> LinkState {
        self.core.link()
    }

    /// Up to where records and alerts are accounted for, by their acknowledgements.
    pub fn accounted(&self) -> (Option<Sequence>, Option<Sequence>) {
        self.core.accounted()
    }

    /// The interval of the configuration in force.
    pub const fn interval(&self) -> Duration {
        self.core.config().settings().interval
    }

    /// The records from `first` (inclusive) to `end` (exclusive), as far as they are held.
    pub fn records(
        &self,
        first: Sequence,
        end: Sequence,
    ) -> impl Iterator<Item = (Sequence, Sample)> + '_ {
        self.core.records(&Batch { first, end, loss: None, deferred: None })
    }

    /// The alerts from `first` (inclusive) to `end` (exclusive), as far as they are held.
    pub fn alerts(
        &self,
        first: Sequence,
        end: Sequence,
    ) -> impl Iterator<Item = (Sequence, Alert)> + '_ {
        self.core.alerts(&Batch { first, end, loss: None, deferred: None })
    }

    /// Mirrors `MainLoop::on_event`.
    ///
    /// # Errors
    ///
    /// When a message of the server cannot be decoded; nothing has changed then.
    pub fn handle(&mut self, now: Instant, event: Event) -> Result<(), Unreadable> {
        match event {
            Event::Snapshot(snapshot) => self.core.handle(now, Input::Snapshot(snapshot)),
            Event::SnapshotFailed => self.core.handle(now, Input::SnapshotFailed),
            Event::Shutdown => self.core.handle(now, Input::Shutdown),
            Event::RestartFailed => {
                let reason = "the program is gone".into();
                self.core.handle(now, Input::RestartFailed(reason));
                self.configuration.handle_end_failed(now);
                self.core.handle(now, Input::LinkClosed);
            }
            Event::Link(session, event) => {
                if session == self.core.status(now).sessions {
                    return self.on_link_event(now, event);
                }
            }
        }
        Ok(())
    }

    /// Time has passed.
    pub fn tick(&mut self, now: Instant) {
        self.core.handle(now, Input::Tick);
    }

    /// Mirrors `MainLoop::drain`; `unix_s` stamps answers. To be asked until it answers [`Next::Wait`].
    pub fn poll(&mut self, now: Instant, unix_s: i64) -> Next {
        loop {
            match self.core.poll(now) {
                Output::Collect(wanted) => return Next::Request(Request::Collect(wanted)),
                Output::Dial => return Next::Request(self.dial(now)),
                Output::Transmit(transmit) => {
                    if let Some(request) = self.transmit(now, unix_s, transmit) {
                        return Next::Request(request);
                    }
                }
                Output::Restart => {
                    let command = self.core.restart_command().cloned();
                    let previous = self.core.boot();
                    self.configuration.handle_end(now);
                    let restarted = command.map(|command| Restarted { command, previous });
                    return Next::Request(Request::Restart(restarted));
                }
                Output::Exit => {
                    self.configuration.handle_end(now);
                    return Next::Request(Request::Exit);
                }
                Output::Remember => {
                    self.core.handle(now, Input::Remembered(Ok(())));
                    self.settle_update();
                }
                // Without a spool nothing can be kept.
                Output::Spool => {}
                Output::Wait(until) => {
                    match self.configuration.poll(now, is_answered(self.core.link())) {
                        Step::Tell(inputs) => {
                            inputs.into_iter().for_each(|input| self.core.handle(now, input));
                        }
                        Step::Wait(also_until) => {
                            return Next::Wait(until.into_iter().chain(also_until).min());
                        }
                    }
                }
            }
        }
    }

    fn dial(&self, now: Instant) -> Request {
        let status = self.core.status(now);
        let (records, alerts) = self.core.accounted();
        let hello = Hello {
            agent_id: self.id.to_string(),
            boot: Some(self.core.boot().into()),
            session: status.sessions,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            config_revision: status.config_revision.0,
            acknowledged: records.map_or(0, Sequence::number),
            alerts_acknowledged: alerts.map_or(0, Sequence::number),
            ..Hello::default()
        };
        Request::Dial(status.sessions, hello.encode_to_vec())
    }

    /// Mirrors `MainLoop::transmit`.
    fn transmit(&mut self, now: Instant, unix_s: i64, transmit: Transmit) -> Option<Request> {
        let core = &*self.core;
        let overridden = self.configuration.overridden();
        let body = match transmit {
            Transmit::Batch(batch) => {
                Some(Body::Records(message::record_batch(core, &batch, self.packing)))
            }
            Transmit::Alerts(batch) => Some(Body::Alerts(message::alert_batch(core, &batch))),
            Transmit::Plain(batch) => {
                let (sequence, sample) = core.records(&batch).next()?;
                let record = message::plain(&self.id, core.boot(), sequence, &sample);
                return Some(Request::Send(record.encode_to_vec(), transmit));
            }
            Transmit::Answer(slot) => {
                let response = message::response(&self.id, core, slot, now, &overridden);
                response.map(|response| {
                    // The one thing that the real conversion takes from the system's clock.
                    Body::Response(proto::CommandResponse { timestamp: unix_s, ..response })
                })
            }
            Transmit::Replay => None,
            Transmit::Begun(slot) => core
                .begun(slot)
                .map(|id| Body::Progress(proto::CommandProgress { command_id: id.to_string() })),
            Transmit::ConfigReport => core
                .config_report()
                .map(|report| Body::Config(message::config_report(report, &overridden))),
            Transmit::Status => Some(Body::Status(message::status(core, now, &overridden))),
        };
        match body {
            Some(body) => {
                let message = message::envelope(&self.id, body);
                Some(Request::Send(message.encode_to_vec(), transmit))
            }
            None => {
                self.core.handle(now, Input::Transmitted(transmit));
                None
            }
        }
    }

    /// Mirrors `MainLoop::on_link_event`.
    fn on_link_event(&mut self, now: Instant, event: LinkEvent) -> Result<(), Unreadable> {
        match event {
            LinkEvent::Opened => self.core.handle(now, Input::LinkOpened),
            LinkEvent::Answered(welcome) => {
                let welcome = Welcome::decode(&*welcome).map_err(|_| Unreadable)?;
                self.configuration.handle_answered();
                self.packing = Packing::from(&welcome);
                let heartbeat = message::heartbeat(&welcome);
                let acknowledged = Sequence::new(welcome.acknowledged);
                let credit = message::credit(welcome.credit_bytes);
                let welcomed = Input::LinkWelcomed { acknowledged, heartbeat, credit };
                self.core.handle(now, welcomed);
            }
            LinkEvent::Received(command) => {
                let command = proto::Command::decode(&*command).map_err(|_| Unreadable)?;
                self.on_message(now, command);
            }
            LinkEvent::Transmitted(transmit) => {
                self.core.handle(now, Input::Transmitted(transmit));
            }
            LinkEvent::Closed => self.core.handle(now, Input::LinkClosed),
        }
        Ok(())
    }

    /// Mirrors `MainLoop::on_message`.
    fn on_message(&mut self, now: Instant, command: proto::Command) {
        let Some(message) = command.message else {
            return self.on_command(now, command);
        };
        match message.body {
            Some(ServerBody::Ack(ack)) => {
                let Some(boot) = ack.boot.map(BootId::from) else { return };
                if let Some(through) = Sequence::new(ack.sequence) {
                    self.core.handle(now, Input::Acknowledged { boot, through });
                }
                if let Some(through) = Sequence::new(ack.alert_sequence) {
                    self.core.handle(now, Input::AlertsAcknowledged { boot, through });
                }
            }
            Some(ServerBody::Config(push)) => {
                let proto::ConfigPush { revision, document: text } = push;
                self.configure(now, Version { source: Source::Server, revision, text });
            }
            Some(ServerBody::ResponseAck(ack)) => {
                if let Ok(id) = ack.command_id.parse() {
                    self.core.handle(now, Input::AnswerAcknowledged(id));
                }
            }
            Some(ServerBody::Ping(_)) => self.core.handle(now, Input::Ping),
            Some(ServerBody::Credit(credit)) => {
                self.core.handle(now, Input::Credit(message::credit(credit.bytes)));
            }
            None => {}
        }
    }

    /// Mirrors `MainLoop::configure`.
    fn configure(&mut self, now: Instant, version: Version) {
        let revision = ConfigRevision(version.revision);
        let candidate = match self.configuration.offer(&version) {
            Offer::Outdated => return,
            Offer::Quarantined(reason) => {
                return self.core.handle(now, Input::RolledBack { revision, reason });
            }
            Offer::New(candidate) => candidate,
        };
        let (candidate, config) = split(candidate);
        self.core.handle(now, Input::Configure { revision, config });
        let report = self.core.config_report().filter(|report| report.revision == revision);
        if let Some(report) = report
            && report.outcome == ConfigOutcome::Applied
            && let Some(candidate) = candidate
        {
            self.configuration.adopt(now, version, candidate);
        }
    }

    /// Mirrors `MainLoop::on_command`.
    fn on_command(&mut self, now: Instant, command: proto::Command) {
        if !command.agent_id.is_empty() && command.agent_id != self.id.as_str() {
            return;
        }
        let id = command.command_id.parse().ok();
        let time_to_live = message::time_to_live(command.ttl_ms);
        let action = match CommandType::try_from(command.r#type) {
            Ok(CommandType::Status) => Action::Status,
            Ok(CommandType::Stop) => Action::Stop,
            Ok(CommandType::Start) => Action::Start,
            Ok(CommandType::Restart) => Action::Restart,
            Ok(CommandType::UpdateConfig) => {
                let (layers, config) = split(self.configuration.update(&command.params));
                self.update = layers;
                Action::UpdateConfig(config)
            }
            Err(_) => Action::Unknown,
        };
        self.core.handle(now, Input::Command(Command { id, action, time_to_live }));
    }

    /// Mirrors `MainLoop::settle_update`.
    fn settle_update(&mut self) {
        if let Some(candidate) = self.update.take()
            && *self.core.config() == candidate.config
        {
            self.configuration.adopt_update(candidate);
        }
    }
}
