//! The main loop: the one place that drives the core. It waits for an event or a deadline, hands it in, and does
//! what the core asks for.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use agent_core::agent::{
    Action, Command, ConfigOutcome, Input, LinkState, Output, Reason, Restarted, Transmit,
};
use agent_core::id::{AgentId, BootId, ConfigRevision, Sequence};
use agent_core::ledger::Ledger;
use agent_core::plugin::own::OwnPlugins;
use agent_core::time::Instant;
use crossbeam_channel::{Receiver, RecvTimeoutError, Sender};
use proto::agent_message::Body;
use proto::command::CommandType;
use proto::server_message::Body as ServerBody;
use proto::{AgentStatus, ConfigPush, Hello, Welcome};

use crate::HostAgent;
use crate::clock::Clock;
use crate::collector::CollectorThread;
use crate::config::{Candidate, Configuration, LayersError, Offer, Source, Step, Version};
use crate::event::Event;
use crate::gateway::{Gateway, GatewaySettings};
use crate::identity;
use crate::journal::Journal;
use crate::net::message::{self, Packing};
use crate::net::{LinkEvent, Network, Request, Servers, StoreEvent, Uplink};
use crate::reload::HostFile;
use crate::service::{Chore, Counts, Part, Service, Standing, Stream};
use crate::settings::{NextStart, Problems};
use crate::spooling::{Spooled, Spooling};

/// How long the end of a stream may take before the process ends or is replaced.
const CLOSE_MAX: Duration = Duration::from_secs(1);

/// What the main loop works with.
#[derive(Debug)]
pub(crate) struct MainLoop {
    pub(crate) id: AgentId,
    pub(crate) servers: Servers,
    pub(crate) program: PathBuf,
    pub(crate) clock: Clock,
    pub(crate) events: Receiver<Event>,
    /// For answers that come back as events.
    pub(crate) sender: Sender<Event>,
    pub(crate) collector: CollectorThread,
    pub(crate) uplink: Uplink<Transmit>,
    pub(crate) network: Arc<Network>,
    /// None when there are no devices to forward for.
    pub(crate) gateway_settings: Option<GatewaySettings>,
    /// None also while it is stopped for a restart.
    pub(crate) gateway: Option<Gateway>,
    pub(crate) configuration: Configuration,
    /// The host's file; its keys are those of the start of the process.
    pub(crate) file: HostFile,
    /// What a start would find now.
    pub(crate) next_start: NextStart,
    /// What the manager of services hears.
    pub(crate) service: Service,
    /// What outlives the process of commands.
    pub(crate) journal: Journal,
    /// None when there is no state directory.
    pub(crate) spooling: Option<Spooling>,
    /// What tells this host from others.
    pub(crate) host: String,
    /// What an UPDATE_CONFIG makes of the layers, until it has begun.
    pub(crate) update: Option<Candidate>,
    /// Whether the server of the stream in hand understands that a command has begun.
    pub(crate) tells_progress: bool,
    /// Who decides what the remote configuration is.
    pub(crate) authority: Authority,
    /// Whether the stream in hand was open, so that a failed attempt is logged differently from a loss.
    pub(crate) was_open: bool,
    /// How records travel on the stream in hand.
    pub(crate) packing: Packing,
}

/// Whose remote configuration is obeyed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Authority {
    /// What the server pushes.
    Server,
    /// What the agent finds in the store itself; `has_told` once a push of the server was ignored aloud.
    Store { has_told: bool },
}

/// What the core answered after its last output.
enum Next {
    Wait(Option<Instant>),
    Exit,
}

impl MainLoop {
    /// Starts the gateway, if there is to be one.
    pub(crate) fn start_gateway(&mut self) -> io::Result<()> {
        let start =
            |settings: &GatewaySettings| Gateway::start(settings, self.clock, &self.network);
        self.gateway = self.gateway_settings.as_ref().map(start).transpose()?;
        Ok(())
    }

    /// Runs until the process is asked to end.
    pub(crate) fn run(mut self, agent: &mut HostAgent<impl OwnPlugins>) {
        loop {
            match self.drain(agent) {
                Next::Exit => {
                    self.configuration.handle_end(self.clock.now());
                    // What comes now may have to wait for a disk.
                    self.service.stop();
                    return self.close(agent);
                }
                Next::Wait(until) => {
                    let deadlines = until.into_iter().chain(self.attend(agent));
                    match self.wait(deadlines.min()) {
                        Some(event) => self.on_event(agent, event),
                        None => agent.handle(self.clock.now(), Input::Tick),
                    }
                }
            }
        }
    }

    /// Does what there is to do for the manager of services; answers when there is more.
    fn attend(&mut self, agent: &HostAgent<impl OwnPlugins>) -> Option<Instant> {
        if !self.service.is_heard() {
            return None;
        }
        let now = self.clock.now();
        let Ledger { held, spooled, lost, .. } = agent.ledger();
        let counts = Counts { held, spooled, lost: lost.total() };
        let stream = match (is_answered(agent.link()), self.was_open) {
            (true, true) => Stream::Answered,
            (true, false) => Stream::Unanswered,
            (false, _) => Stream::None,
        };
        let server = self.servers.current().clone();
        let state = agent.status(now).state;
        self.service.handle_standing(now, Standing { state, stream, server, counts });
        loop {
            match self.service.poll(now) {
                Chore::Ask(Part::Collector) => self.collector.ask(),
                // Without anybody to carry streams the thread may turn as it likes.
                Chore::Ask(Part::Network) if !self.uplink.is_alive() => {}
                Chore::Ask(Part::Network) => {
                    let sender = self.sender.clone();
                    // Fails only when the main loop is gone, which then needs no answer.
                    self.network.ask(move || drop(sender.send(Event::Alive(Part::Network))));
                }
                Chore::Wait(until) => return until,
            }
        }
    }

    /// The next event; none when the time is over.
    fn wait(&self, until: Option<Instant>) -> Option<Event> {
        let received = match until {
            Some(until) => self.events.recv_timeout(self.clock.time_until(until)),
            None => self.events.recv().map_err(|_| RecvTimeoutError::Disconnected),
        };
        // There is always a sender: the one in our own hands.
        received.ok()
    }

    /// Does what the core asks for until it wants to wait.
    fn drain(&mut self, agent: &mut HostAgent<impl OwnPlugins>) -> Next {
        loop {
            let now = self.clock.now();
            match agent.poll(now) {
                Output::Collect(wanted) => {
                    if !self.collector.request(wanted) {
                        tracing::error!("the collector does not take requests");
                        agent.handle(now, Input::SnapshotFailed);
                    }
                }
                Output::Dial => self.dial(agent, now),
                Output::Transmit(transmit) => self.transmit(agent, now, transmit),
                Output::Remember => {
                    let outcome = self.journal.remember(agent, now).map_err(|error| {
                        tracing::error!(%error, "cannot write down which command begins");
                        Reason::from(error.to_string().as_str())
                    });
                    agent.handle(now, Input::Remembered(outcome));
                    self.settle_update(agent);
                }
                Output::Spool => {
                    if let Some(spooling) = &mut self.spooling {
                        spooling.store_all(now, agent);
                    }
                }
                Output::Restart => {
                    let reason = self.restart(agent);
                    tracing::error!(reason = reason.as_str(), "cannot restart; the agent goes on");
                    agent.handle(self.clock.now(), Input::RestartFailed(reason));
                    if let Err(error) = self.start_gateway() {
                        tracing::error!(%error, "cannot start the gateway again");
                    }
                }
                Output::Finish => self.request(Request::Finish),
                Output::Exit => return Next::Exit,
                Output::Wait(until) => {
                    match self.configuration.poll(now, is_answered(agent.link())) {
                        Step::Tell(inputs) => {
                            inputs.into_iter().for_each(|input| agent.handle(now, input));
                        }
                        Step::Wait(also_until) => {
                            let deadlines = until.into_iter().chain(also_until);
                            let Some(spooling) = &mut self.spooling else {
                                return Next::Wait(deadlines.min());
                            };
                            match spooling.poll(now, agent) {
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

    fn dial(&mut self, agent: &HostAgent<impl OwnPlugins>, now: Instant) {
        let status = agent.status(now);
        let (records, alerts) = agent.accounted();
        let hello = Hello {
            agent_id: self.id.to_string(),
            boot: Some(agent.boot().into()),
            session: status.sessions,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            host_name: identity::host_name(),
            target: format!("{}-{}", std::env::consts::ARCH, std::env::consts::OS),
            config_revision: status.config_revision.0,
            acknowledged: records.map_or(0, Sequence::number),
            alerts_acknowledged: alerts.map_or(0, Sequence::number),
            own_config: self.authority != Authority::Server,
            host: self.host.clone(),
        };
        self.was_open = false;
        tracing::debug!(session = status.sessions, "dialling");
        self.request(Request::Dial(Box::new(hello)));
    }

    fn transmit(
        &mut self,
        agent: &mut HostAgent<impl OwnPlugins>,
        now: Instant,
        transmit: Transmit,
    ) {
        let body = match transmit {
            Transmit::Batch(batch) => {
                if let Some(loss) = &batch.loss {
                    let (first, last) = (loss.first.number(), loss.last.number());
                    tracing::warn!(first, last, reason = loss.reason.name(), "records were lost");
                }
                Some(Body::Records(message::record_batch(agent, &batch, self.packing)))
            }
            Transmit::Alerts(batch) => {
                if let Some(loss) = &batch.loss {
                    let (first, last) = (loss.first.number(), loss.last.number());
                    tracing::warn!(first, last, reason = loss.reason.name(), "alerts were lost");
                }
                Some(Body::Alerts(message::alert_batch(agent, &batch)))
            }
            Transmit::Plain(batch) => {
                let Some((sequence, sample)) = agent.records(&batch).next() else { return };
                let record = message::plain(&self.id, agent.boot(), sequence, &sample);
                return self.request(Request::Send(Box::new(record), transmit));
            }
            Transmit::Replay => {
                let packing = self.packing;
                self.spooling.as_mut().and_then(|spooling| spooling.transmit(packing))
            }
            Transmit::Answer(slot) => {
                let overridden = self.configuration.overridden();
                let response = message::response(&self.id, agent, slot, now, &overridden);
                response.map(|mut response| {
                    if let Some(status) = &mut response.status {
                        status.spool = self.spooling.as_ref().and_then(Spooling::status);
                    }
                    Body::Response(response)
                })
            }
            Transmit::Begun(slot) => agent
                .begun(slot)
                .filter(|_| self.tells_progress)
                .map(|id| Body::Progress(proto::CommandProgress { command_id: id.to_string() })),
            Transmit::ConfigReport => agent
                .config_report()
                .map(|report| message::config_report(report, &self.configuration.overridden()))
                .map(Body::Config),
            Transmit::Status => {
                let overridden = self.configuration.overridden();
                let spool = self.spooling.as_ref().and_then(Spooling::status);
                Some(Body::Status(AgentStatus {
                    spool,
                    ..message::status(agent, now, &overridden)
                }))
            }
        };
        match body {
            Some(body) => {
                let message = message::envelope(&self.id, body);
                self.request(Request::Send(Box::new(message), transmit));
            }
            // Forgotten between the output and here, or not for this server: the slot it took is free again.
            None => agent.handle(now, Input::Transmitted(transmit)),
        }
    }

    /// The core's slots keep the queue from ever being full, so a refusal means that the uplink's thread is gone.
    fn request(&self, request: Request<Transmit>) {
        if let Err(error) = self.uplink.request(request) {
            tracing::error!(%error, "a message for the server was not taken");
        }
    }

    fn on_event(&mut self, agent: &mut HostAgent<impl OwnPlugins>, event: Event) {
        let now = self.clock.now();
        match event {
            Event::Snapshot(snapshot) => agent.handle(now, Input::Snapshot(snapshot)),
            Event::Store(event) => self.on_store_event(agent, now, event),
            Event::Alive(part) => self.service.handle_alive(part),
            Event::Reload => self.reload(agent, now),
            Event::Shutdown => {
                self.service.stop();
                tracing::info!("stopping: delivering what is held");
                if let Some(gateway) = &mut self.gateway {
                    gateway.shutdown();
                }
                agent.handle(now, Input::Shutdown);
            }
            Event::Link { session, event } => {
                if session == agent.status(now).sessions {
                    self.on_link_event(agent, now, event);
                }
            }
        }
    }

    fn on_link_event(
        &mut self,
        agent: &mut HostAgent<impl OwnPlugins>,
        now: Instant,
        event: LinkEvent<Transmit>,
    ) {
        match event {
            LinkEvent::Opened => agent.handle(now, Input::LinkOpened),
            LinkEvent::Answered(None) => {
                self.was_open = true;
                self.configuration.handle_answered();
                let server = self.servers.current();
                tracing::info!(%server, "connected; the server speaks the plain form");
                agent.handle(now, Input::LinkPlain);
            }
            LinkEvent::Answered(Some(welcome)) => self.on_welcome(agent, now, &welcome),
            LinkEvent::Received(command, _place) => self.on_message(agent, now, *command),
            LinkEvent::Transmitted(transmit) => agent.handle(now, Input::Transmitted(transmit)),
            LinkEvent::Refused { reason } => {
                self.on_link_closed(agent, now);
                let server = self.servers.current();
                tracing::error!(
                    %server,
                    reason,
                    "refused; give one of the two another agent_id in its file, or --agent-id"
                );
            }
            LinkEvent::Finished => {
                agent.handle(now, Input::LinkFinished);
                if let Some(spooling) = &mut self.spooling {
                    spooling.handle_closed();
                }
            }
            LinkEvent::Closed { reason } => {
                self.on_link_closed(agent, now);
                let retry_ms = match agent.link() {
                    LinkState::Down { retry_at } => (retry_at - now).as_millis(),
                    _ => 0,
                };
                if self.was_open {
                    tracing::warn!(
                        reason,
                        retry_ms,
                        "connection lost; samples are kept while there is room"
                    );
                } else {
                    tracing::warn!(
                        reason,
                        retry_ms,
                        "cannot connect; samples are kept while there is room"
                    );
                }
            }
        }
    }

    fn on_link_closed(&mut self, agent: &mut HostAgent<impl OwnPlugins>, now: Instant) {
        agent.handle(now, Input::LinkClosed);
        if let Some(spooling) = &mut self.spooling {
            spooling.handle_closed();
        }
    }

    fn on_welcome(
        &mut self,
        agent: &mut HostAgent<impl OwnPlugins>,
        now: Instant,
        welcome: &Welcome,
    ) {
        self.was_open = true;
        self.configuration.handle_answered();
        let (server, version) = (self.servers.current(), &welcome.version);
        let Ledger { held, spooled, lost, .. } = agent.ledger();
        tracing::info!(%server, version, held, spooled, lost = lost.total(), "connected");
        self.packing = Packing::from(welcome);
        let heartbeat = message::heartbeat(welcome);
        let acknowledged = Sequence::new(welcome.acknowledged);
        let credit = message::credit(welcome.credit_bytes);
        agent.handle(now, Input::LinkWelcomed { acknowledged, heartbeat, credit });
        if let Some(spooling) = &mut self.spooling {
            spooling.handle_welcomed(welcome.replay);
        }
    }

    fn on_message(
        &mut self,
        agent: &mut HostAgent<impl OwnPlugins>,
        now: Instant,
        command: proto::Command,
    ) {
        let Some(message) = command.message else {
            return self.on_command(agent, now, command);
        };
        match message.body {
            Some(ServerBody::Ack(ack)) => {
                let Some(boot) = ack.boot.map(BootId::from) else { return };
                if let Some(spooling) = &mut self.spooling {
                    let inputs = spooling.handle_acknowledged(ack.replayed);
                    inputs.into_iter().for_each(|input| agent.handle(now, input));
                }
                if let Some(through) = Sequence::new(ack.sequence) {
                    agent.handle(now, Input::Acknowledged { boot, through });
                }
                if let Some(through) = Sequence::new(ack.alert_sequence) {
                    agent.handle(now, Input::AlertsAcknowledged { boot, through });
                }
            }
            Some(ServerBody::Config(push)) => {
                let ConfigPush { revision, document: text } = push;
                match &mut self.authority {
                    Authority::Server => {
                        let source = Source::Server;
                        self.configure(agent, now, Version { source, revision, text });
                    }
                    Authority::Store { has_told } => {
                        if !std::mem::replace(has_told, true) {
                            tracing::warn!("the server's configurations are ignored: etcd decides");
                        }
                    }
                }
            }
            Some(ServerBody::ResponseAck(ack)) => {
                // An id that is none names no command of ours.
                if let Ok(id) = ack.command_id.parse() {
                    agent.handle(now, Input::AnswerAcknowledged(id));
                }
            }
            Some(ServerBody::Ping(_)) => agent.handle(now, Input::Ping),
            Some(ServerBody::Credit(credit)) => {
                agent.handle(now, Input::Credit(message::credit(credit.bytes)));
            }
            // A later server may say more; what is not understood has no effect.
            None => tracing::debug!("the server sent a message that this version does not know"),
        }
    }

    fn on_store_event(
        &mut self,
        agent: &mut HostAgent<impl OwnPlugins>,
        now: Instant,
        event: StoreEvent,
    ) {
        match event {
            StoreEvent::Document(version) => self.configure(agent, now, version),
            StoreEvent::Unusable { revision, reason } => {
                tracing::warn!(revision, reason, "configuration rejected; what was in force stays");
                let config = Err(Reason::from(reason.as_str()));
                agent.handle(now, Input::Configure { revision: ConfigRevision(revision), config });
            }
            StoreEvent::ClusterChanged => {
                tracing::warn!("another etcd cluster answers; its configuration is taken afresh");
                agent.handle(now, Input::StoreChanged);
            }
        }
    }

    /// A remote document came.
    fn configure(
        &mut self,
        agent: &mut HostAgent<impl OwnPlugins>,
        now: Instant,
        version: Version,
    ) {
        let revision = ConfigRevision(version.revision);
        let candidate = match self.configuration.offer(&version) {
            Offer::Outdated => {
                tracing::debug!(%revision, "an older configuration came late and is ignored");
                return;
            }
            Offer::Quarantined(reason) => {
                let reason_text = reason.as_str();
                tracing::warn!(%revision, reason = reason_text, "not applied: it was rolled back");
                return agent.handle(now, Input::RolledBack { revision, reason });
            }
            Offer::New(candidate) => candidate,
        };
        if version.source != self.configuration.in_force().source {
            agent.handle(now, Input::StoreChanged);
        }
        let (candidate, config) = split(candidate);
        agent.handle(now, Input::Configure { revision, config });
        let report = agent.config_report().filter(|report| report.revision == revision);
        let Some(report) = report else {
            tracing::debug!(%revision, "an older configuration came late and is ignored");
            return;
        };
        match (&report.outcome, candidate) {
            (ConfigOutcome::Applied, Some(candidate)) => {
                self.configuration.adopt(now, version, candidate);
                tracing::info!(%revision, "configuration applied");
            }
            (ConfigOutcome::Rejected(reason) | ConfigOutcome::RolledBack(reason), _) => {
                let reason = reason.as_str();
                tracing::warn!(%revision, reason, "configuration rejected; what was in force stays");
            }
            // The core applies only what it was given.
            (ConfigOutcome::Applied, None) => {}
        }
    }

    fn on_command(
        &mut self,
        agent: &mut HostAgent<impl OwnPlugins>,
        now: Instant,
        command: proto::Command,
    ) {
        let id = command.command_id.parse().ok();
        let time_to_live = message::time_to_live(command.ttl_ms);
        self.tells_progress = command.wants_progress;
        self.update = None;
        let is_misdirected = !command.agent_id.is_empty() && command.agent_id != self.id.as_str();
        let action = match CommandType::try_from(command.r#type) {
            _ if is_misdirected => Action::Misdirected,
            Ok(CommandType::Status) => Action::Status,
            Ok(_) if self.journal.is_doubtful(command.timestamp) => Action::Unremembered,
            Ok(CommandType::Stop) => Action::Stop,
            Ok(CommandType::Start) => Action::Start,
            // Whoever starts this program leaves it alone once it has ended because of its settings.
            Ok(CommandType::Restart) => match self.next_start.look() {
                Ok(_) => Action::Restart,
                Err(problems) => Action::Refused(refusal(&problems)),
            },
            Ok(CommandType::UpdateConfig) => {
                let updated = match command.params.is_empty() {
                    true => self.read_again(),
                    false => self.configuration.update(&command.params),
                };
                let (layers, config) = split(updated);
                self.update = layers;
                Action::UpdateConfig(config)
            }
            Err(_) => Action::Unknown,
        };
        tracing::info!(id = command.command_id, action = action.name(), "command");
        agent.handle(now, Input::Command(Command { id, action, time_to_live }));
    }

    /// An UPDATE_CONFIG may have begun. The core may have refused to run it; then the layers stay as they are.
    fn settle_update(&mut self, agent: &HostAgent<impl OwnPlugins>) {
        if let Some(candidate) = self.update.take()
            && *agent.config() == candidate.config
        {
            self.configuration.adopt_update(candidate);
        }
    }

    /// Ends the streams in good order, so that the server need not wait to find out.
    fn close(&mut self, agent: &HostAgent<impl OwnPlugins>) {
        let ledger = agent.ledger();
        if matches!(agent.link(), LinkState::Undecided { .. }) || is_answered(agent.link()) {
            self.request(Request::Close);
            let deadline = self.clock.now() + CLOSE_MAX;
            while let Ok(event) = self.events.recv_timeout(self.clock.time_until(deadline)) {
                if matches!(
                    event,
                    Event::Link {
                        event: LinkEvent::Closed { .. }
                            | LinkEvent::Finished
                            | LinkEvent::Refused { .. },
                        ..
                    }
                ) {
                    break;
                }
            }
        }
        if let Some(gateway) = self.gateway.take() {
            gateway.finish();
        }
        if let Some(spooling) = &mut self.spooling {
            spooling.close(agent);
        }
        let Ledger { produced, recorded, delivered, ref lost, spooled, .. } = ledger;
        let lost = lost.total();
        tracing::info!(produced, recorded, delivered, spooled, lost, "stopped");
    }

    /// Replaces the process. Comes back only with the reason why that did not work.
    fn restart(&mut self, agent: &mut HostAgent<impl OwnPlugins>) -> Reason {
        tracing::info!("restarting");
        let restarted = agent
            .restart_command()
            .map(|command| Restarted { command: command.clone(), previous: agent.boot() });
        self.service.begin_restart();
        self.close(agent);
        self.configuration.handle_end(self.clock.now());
        // The settings were right when the command came, and delivering takes a while.
        let reason = match self.next_start.look() {
            Err(problems) => refusal(&problems),
            Ok(_) => {
                let error = identity::restart(&self.program, restarted);
                let program = self.program.display();
                Reason::from(format!("cannot run {program}: {error}").as_str())
            }
        };
        self.service.fail_restart();
        self.configuration.handle_end_failed(self.clock.now());
        // The stream was closed for it.
        self.on_link_closed(agent, self.clock.now());
        reason
    }
}

/// Why there is to be no restart.
fn refusal(problems: &Problems) -> Reason {
    let problems = problems.in_one_line();
    tracing::error!(problems, "not restarted: a start would refuse the settings");
    Reason::from(problems.as_str())
}

/// Whether a stream stands that the server has answered. One that knows only the fixed facts may never do so in words; its
/// stream counts once the core takes it for such.
pub(crate) fn is_answered(link: LinkState) -> bool {
    match link {
        LinkState::Plain | LinkState::Full { .. } => true,
        LinkState::Down { .. }
        | LinkState::Dialling
        | LinkState::Undecided { .. }
        | LinkState::OneWay => false,
    }
}

/// The candidate, and the configuration or the reason for the core.
pub(crate) fn split(
    candidate: Result<Candidate, LayersError>,
) -> (Option<Candidate>, Result<agent_core::config::Config, Reason>) {
    match candidate {
        Ok(candidate) => {
            let config = candidate.config.clone();
            (Some(candidate), Ok(config))
        }
        Err(error) => {
            // With its causes, which name the place.
            let text = format!("{:#}", anyhow::Error::from(error));
            (None, Err(Reason::from(text.as_str())))
        }
    }
}
