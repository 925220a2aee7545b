//! The agent's shell without threads, sockets and clocks, for the simulator in `sim/`: the real core, the real layers and
//! trials of its configuration, and the real conversions to and from the wire.
//!
//! Sans-IO. It mirrors [`crate::main_loop`] step by step, with the uplink's requests as its outputs.

use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use agent_core::agent::{
    Action, Batch, Command, ConfigOutcome, Input, Intent, LinkState, Output, Place, Reason,
    Restarted, Transmit,
};
use agent_core::id::{AgentId, BootId, ConfigRevision, Sequence};
use agent_core::ledger::Ledger;
use agent_core::metric::MetricSet;
use agent_core::plugin::own::NoPlugins;
use agent_core::record::{Alert, Sample, Snapshot};
use agent_core::time::Instant;
use prost::Message as _;
use proto::agent_message::Body;
use proto::command::CommandType;
use proto::config::{Document, DocumentError};
use proto::server_message::Body as ServerBody;
use proto::{AgentStatus, Hello, Welcome};

use crate::boot_book::BookFile;
use crate::config::{Candidate, Configuration, Layers, Offer, Source, Step, Version};
use crate::main_loop::{is_answered, split};
use crate::net::message::{self, Packing};
use crate::ring_memory::RingAgent;
use crate::sealed::SealError;
use crate::spool::sim::{Fault, SimDisk, Unsynced};
use crate::spool::{Counts, Order};
use crate::spooling::{Settings, Spooled, Spooling};

type Core<const RING: usize> = RingAgent<RING, NoPlugins>;

/// What the agents of one host keep on its disk, which outlives them. Clones are the same disk.
#[derive(Clone, Debug, Default)]
pub struct StateDisk {
    spool: SimDisk,
    files: Arc<Mutex<Files>>,
}

/// The small files, each of which is replaced as a whole and durable then.
#[derive(Debug, Default)]
struct Files {
    begun: Vec<Intent>,
    is_stopped: bool,
    book: Option<Vec<u8>>,
    is_full: bool,
}

impl Files {
    fn change(&self) -> io::Result<()> {
        if self.is_full { Err(io::ErrorKind::StorageFull.into()) } else { Ok(()) }
    }
}

impl StateDisk {
    /// From now on nothing can be written, or everything again.
    pub fn set_full(&self, is_full: bool) {
        self.spool.fail_changes(is_full.then_some(Fault::NoSpace));
        self.files().is_full = is_full;
    }

    /// The host loses power: of what was not synced something is there, as `seed` says.
    pub fn lose_power(&self, seed: u64) {
        let choice = usize::try_from(seed % 5).unwrap_or_default();
        self.spool.restart(Unsynced::ALL[choice], seed);
        let is_full = self.files().is_full;
        self.set_full(is_full);
    }

    fn files(&self) -> MutexGuard<'_, Files> {
        // Nobody panics while holding it.
        self.files.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn recall(&self) -> Vec<Input> {
        let files = self.files();
        let stopped = files.is_stopped.then_some(Input::RecallStopped);
        files.begun.iter().cloned().map(Input::Recall).chain(stopped).collect()
    }

    fn remember<const RING: usize>(&self, core: &Core<RING>, now: Instant) -> io::Result<()> {
        let mut files = self.files();
        files.change()?;
        files.begun = core.intents(now).collect();
        files.is_stopped = core.is_to_stay_stopped();
        Ok(())
    }
}

impl BookFile for StateDisk {
    fn read(&self) -> Result<Option<Vec<u8>>, SealError> {
        Ok(self.files().book.clone())
    }

    fn replace(&mut self, content: &[u8]) -> io::Result<()> {
        let mut files = self.files();
        // A book that is as long as the one before has room in its place.
        if files.book.as_ref().is_none_or(|book| book.len() != content.len()) {
            files.change()?;
        }
        files.book = Some(content.to_vec());
        Ok(())
    }
}

/// The state directory of a host, and what its operator decides of it.
#[derive(Clone, Debug)]
pub struct State {
    /// What is in it.
    pub disk: StateDisk,
    /// Bytes of the spool; 0: no records, only what became of earlier boots.
    pub spool_bytes: u64,
    /// How long no server must take records before they go to the disk.
    pub spool_after: Duration,
    /// What is sent first.
    pub order: Order,
}

/// How long a spool keeps a record.
const SPOOL_AGE_MAX: Duration = Duration::from_secs(7 * 86_400);

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
    /// None: nothing outlives the process.
    pub state: Option<State>,
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
    /// Say on the stream that no message follows. Simulated servers welcome every agent, so what they say then is of no account.
    Finish,
    /// Look at what is recorded, if at all: it may leave the ring for the disk now.
    Look,
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
    disk: Option<StateDisk>,
    spooling: Option<Spooling<SimDisk, StateDisk>>,
    tells_progress: bool,
}

impl<const RING: usize> Shell<RING> {
    /// Mirrors `crate::run`.
    ///
    /// # Errors
    ///
    /// When the host's own document cannot be used.
    pub fn start(now: Instant, start: Start) -> Result<Self, DocumentError> {
        let Start { id, boot, seed, restarted, document, config_confirm, state } = start;
        let layers = Layers::new(&[], Document::default(), Document::parse(&document)?);
        let config = layers.config()?;
        let mut core = Box::new(Core::with_memory(now, boot, seed, config, restarted));
        core.take_place(Place::of(&id));
        let disk = state.as_ref().map(|state| state.disk.clone());
        for input in disk.iter().flat_map(StateDisk::recall) {
            core.handle(now, input);
        }
        let spooling = state.map(|State { disk, spool_bytes, spool_after, order }| {
            let settings = Settings {
                bytes_max: spool_bytes,
                age_max: SPOOL_AGE_MAX,
                after: spool_after,
                order,
            };
            Spooling::on(disk.spool.clone(), disk, settings, id.clone(), boot, now)
        });
        let (configuration, inputs) = Configuration::open(layers, None, config_confirm, now);
        for input in inputs {
            core.handle(now, input);
        }
        Ok(Self {
            id,
            core,
            configuration,
            packing: Packing::default(),
            update: None,
            disk,
            spooling,
            tells_progress: false,
        })
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

    /// What the spool has; none without a state directory.
    pub fn spooled(&self) -> Option<Counts> {
        self.spooling.as_ref().map(Spooling::counts)
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
                self.configuration.handle_end_failed(now);
                self.on_link_closed(now);
                let reason = "the program is gone".into();
                self.core.handle(now, Input::RestartFailed(reason));
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
                    self.close();
                    self.configuration.handle_end(now);
                    let restarted = command.map(|command| Restarted { command, previous });
                    return Next::Request(Request::Restart(restarted));
                }
                Output::Finish => return Next::Request(Request::Finish),
                Output::Exit => {
                    self.configuration.handle_end(now);
                    self.close();
                    return Next::Request(Request::Exit);
                }
                Output::Remember => {
                    let outcome = match &self.disk {
                        Some(disk) => disk.remember(&self.core, now),
                        None => Ok(()),
                    };
                    let outcome = outcome.map_err(|error| Reason::from(error.to_string().as_str()));
                    self.core.handle(now, Input::Remembered(outcome));
                    self.settle_update();
                    return Next::Request(Request::Look);
                }
                Output::Spool => {
                    if let Some(spooling) = &mut self.spooling {
                        spooling.store_all(now, &mut self.core);
                    }
                }
                Output::Wait(until) => {
                    match self.configuration.poll(now, is_answered(self.core.link())) {
                        Step::Tell(inputs) => {
                            inputs.into_iter().for_each(|input| self.core.handle(now, input));
                            return Next::Request(Request::Look);
                        }
                        Step::Wait(also_until) => {
                            let deadlines = until.into_iter().chain(also_until);
                            let Some(spooling) = &mut self.spooling else {
                                return Next::Wait(deadlines.min());
                            };
                            match spooling.poll(now, &mut self.core) {
                                Spooled::Changed => {}
                                Spooled::Wait(spool_until) => {
                                    return Next::Wait(deadlines.chain(spool_until).min());
                                }
                            }
                        }
                    }
                }
            }
        }
    }

    /// Mirrors `MainLoop::close`.
    fn close(&mut self) {
        if let Some(spooling) = &mut self.spooling {
            spooling.close(&self.core);
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
                response.map(|mut response| {
                    if let Some(status) = &mut response.status {
                        status.spool = self.spooling.as_ref().and_then(Spooling::status);
                    }
                    // The one thing that the real conversion takes from the system's clock.
                    Body::Response(proto::CommandResponse { timestamp: unix_s, ..response })
                })
            }
            Transmit::Replay => {
                let packing = self.packing;
                self.spooling.as_mut().and_then(|spooling| spooling.transmit(packing))
            }
            Transmit::Begun(slot) => core
                .begun(slot)
                .filter(|_| self.tells_progress)
                .map(|id| Body::Progress(proto::CommandProgress { command_id: id.to_string() })),
            Transmit::ConfigReport => core
                .config_report()
                .map(|report| Body::Config(message::config_report(report, &overridden))),
            Transmit::Status => Some(Body::Status(AgentStatus {
                spool: self.spooling.as_ref().and_then(Spooling::status),
                ..message::status(core, now, &overridden)
            })),
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
                if let Some(spooling) = &mut self.spooling {
                    spooling.handle_welcomed(welcome.replay);
                }
            }
            LinkEvent::Received(command) => {
                let command = proto::Command::decode(&*command).map_err(|_| Unreadable)?;
                self.on_message(now, command);
            }
            LinkEvent::Transmitted(transmit) => {
                self.core.handle(now, Input::Transmitted(transmit));
            }
            LinkEvent::Closed => self.on_link_closed(now),
        }
        Ok(())
    }

    /// Mirrors `MainLoop::on_link_closed`.
    fn on_link_closed(&mut self, now: Instant) {
        self.core.handle(now, Input::LinkClosed);
        if let Some(spooling) = &mut self.spooling {
            spooling.handle_closed();
        }
    }

    /// Mirrors `MainLoop::on_message`.
    fn on_message(&mut self, now: Instant, command: proto::Command) {
        let Some(message) = command.message else {
            return self.on_command(now, command);
        };
        match message.body {
            Some(ServerBody::Ack(ack)) => {
                let Some(boot) = ack.boot.map(BootId::from) else { return };
                if let Some(spooling) = &mut self.spooling {
                    let inputs = spooling.handle_acknowledged(ack.replayed);
                    inputs.into_iter().for_each(|input| self.core.handle(now, input));
                }
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
        let id = command.command_id.parse().ok();
        let time_to_live = message::time_to_live(command.ttl_ms);
        self.tells_progress = command.wants_progress;
        self.update = None;
        let is_misdirected = !command.agent_id.is_empty() && command.agent_id != self.id.as_str();
        let action = match CommandType::try_from(command.r#type) {
            _ if is_misdirected => Action::Misdirected,
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
