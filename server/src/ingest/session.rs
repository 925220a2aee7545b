//! The rules of one agent stream: what is stored, what is acknowledged, what is refused.
//!
//! Sans-IO: [`crate::ingest::task`] feeds it and does what it says. It knows no clock, no bus and no gRPC
//! stream. At most one publish is under way, and nothing more is read meanwhile: that is the back-pressure.

use std::collections::VecDeque;
use std::ops::RangeInclusive;

use agent_core::id::{AgentId, BootId, CommandId};
use agent_core::time::Instant;
use bus::{Payload, Record};
use prost::Message as _;
use proto::agent_message::Body;
use proto::{
    AgentStatus, AlertBatch, Amendment, Command, CommandOutcome, CommandResponse, ConfigOutcome,
    ConfigPush, ConfigReport, Hello, Loss, LossReason, MetricsRequest, RecordBatch, StatusEvent,
    StatusRecord,
};

use crate::clock::Now;
use crate::ingest::credit::Grant;
use crate::ingest::intake::{self, Introduction, Origin};
use crate::ingest::outbox::Outbox;
use crate::limits::{REPORT_INTERVAL, RESPONSE_BYTES_MAX, STATUS_BYTES_MAX, STATUS_ENTRIES_MAX};
use crate::registry::Dialect;
use crate::rejection::{Reason, Rejection};

/// Something that others should know.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Fact {
    /// So many metrics records are durable.
    Stored { count: u64 },
    /// So many records were declared lost, and that is durable.
    Lost { count: u64 },
    /// So many records never arrived and were not declared lost, and that is durable.
    Unexplained { count: u64 },
    /// Everything of the boot up to this sequence is durable.
    Acknowledged { boot: BootId, sequence: u64 },
    /// So many alerts are durable, and so many are recorded as lost: everything of the boot up to this sequence.
    Alerts { stored: u64, lost: u64, boot: BootId, sequence: u64 },
    /// So many alerts of an earlier time are durable.
    ReplayedAlerts { stored: u64 },
    /// What the agent says of itself.
    Status(Box<AgentStatus>),
    /// What became of a configuration.
    Config(ConfigReport),
    /// A command was answered, and the answer is durable.
    Answered { command_id: String, outcome: i32, timestamp: i64 },
}

/// Who opened the stream.
#[derive(Clone, Debug)]
pub(crate) enum Opening {
    /// A client that knows only the fixed fields; its first message named it.
    Plain(AgentId),
    /// An agent that introduced itself.
    Full(Introduction),
}

#[derive(Debug)]
enum Storing {
    Idle,
    Ready(Vec<Record>, Completion),
    UnderWay(Completion),
}

/// What follows once the records are durable.
#[derive(Debug)]
enum Completion {
    Nothing,
    Snapshot,
    Batch { stored: u64, lost: u64, unexplained: u64, last: u64 },
    Alerts { stored: u64, lost: u64, last: u64 },
    Replayed { number: u64, stored: u64, lost: u64 },
    ReplayedAlerts { number: u64, stored: u64 },
    Answer { command_id: String, outcome: i32, timestamp: i64 },
}

#[derive(Clone, Copy, Debug)]
struct Heartbeat {
    at: Instant,
    state: i32,
    lost: u64,
}

/// Who tells an agent what holds for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum ConfigSource {
    Server,
    /// It reads the store itself: two sources would only contradict each other for moments.
    Own,
}

/// The revision of the configuration that the agent has.
#[derive(Clone, Copy, Debug)]
enum ConfigHeld {
    /// It came with it. It may be of another store, so any other one is news.
    Brought(u64),
    /// It was sent down this stream. Only a newer one is news.
    Sent(u64),
}

/// One stream, from its first message to its end.
#[derive(Debug)]
pub(crate) struct Session {
    agent: AgentId,
    boot: Option<BootId>,
    server_id: String,
    /// Highest sequence accounted for on this stream; none before the first batch.
    received: Option<u64>,
    /// Highest sequence of the boot accounted for before the first batch of this stream; 0 for none.
    resumed: u64,
    /// How many streams the boot has opened up to this one; 0 for a plain client.
    number: u64,
    /// Replayed batches that this stream has brought.
    replayed: u64,
    /// As `received`, of alerts.
    alerts_received: Option<u64>,
    /// Highest sequence of the alerts of the boot that are on the bus, by this stream or one before it; 0 for none.
    alerts_stored: u64,
    config: ConfigHeld,
    /// Where the agent gets its configuration.
    config_source: ConfigSource,
    /// The last heartbeat that went to the bus.
    heartbeat: Option<Heartbeat>,
    storing: Storing,
    /// What the agent was told that it may have under way; none for a plain client.
    grant: Option<Grant>,
    outbox: Outbox,
    /// At most a few: drained after each call.
    facts: VecDeque<Fact>,
}

impl Session {
    /// A stream that holds its id. The first thing to store is that it is there.
    pub(crate) fn open(now: Now, opening: Opening, server_id: &str, peer: &str) -> Self {
        let (agent, boot, hello) = match opening {
            Opening::Plain(agent) => (agent, None, None),
            Opening::Full(introduction) => {
                (introduction.agent, Some(introduction.boot), Some(introduction.hello))
            }
        };
        let mut session = Self {
            agent,
            boot,
            server_id: server_id.to_owned(),
            received: None,
            resumed: 0,
            number: hello.as_ref().map_or(0, |hello| hello.session),
            replayed: 0,
            alerts_received: None,
            alerts_stored: 0,
            config: ConfigHeld::Brought(hello.as_ref().map_or(0, |hello| hello.config_revision)),
            config_source: match &hello {
                Some(hello) if hello.own_config => ConfigSource::Own,
                _ => ConfigSource::Server,
            },
            heartbeat: None,
            storing: Storing::Idle,
            grant: None,
            outbox: Outbox::default(),
            facts: VecDeque::new(),
        };
        let connected = session.connected(now, hello, peer);
        session.storing = Storing::Ready(vec![connected], Completion::Nothing);
        session
    }

    /// Everything of the boot up to `sequence` was accounted for before this stream.
    pub(crate) fn handle_resumed(&mut self, sequence: u64) {
        self.resumed = self.resumed.max(sequence);
    }

    /// The alerts of the boot up to `sequence` were stored before this stream: they need not be again.
    pub(crate) fn handle_alerts_stored(&mut self, sequence: u64) {
        self.alerts_stored = self.alerts_stored.max(sequence);
    }

    /// The Welcome let the agent have so many bytes under way.
    pub(crate) fn handle_granted(&mut self, bytes: u64) {
        self.grant = self.boot.is_some().then(|| Grant::new(bytes));
    }

    /// The stream's share of what is free is `share` bytes now. Answers whether the agent will be told.
    pub(crate) fn handle_share(&mut self, now: Now, share: u64) -> bool {
        let told = self.grant.as_mut().and_then(|grant| grant.update(now.monotonic, share));
        if let Some(bytes) = told {
            self.outbox.credit(bytes);
        }
        told.is_some()
    }

    pub(crate) const fn boot(&self) -> Option<BootId> {
        self.boot
    }

    pub(crate) const fn dialect(&self) -> Dialect {
        match self.boot {
            Some(_) => Dialect::Full,
            None => Dialect::Plain,
        }
    }

    /// Whether a message may be given to [`Session::handle_message`].
    pub(crate) fn wants_message(&self) -> bool {
        matches!(self.storing, Storing::Idle) && self.outbox.has_room()
    }

    /// Whether a command may be given to [`Session::handle_command`].
    pub(crate) fn wants_command(&self) -> bool {
        self.outbox.has_room()
    }

    /// Takes a message of the agent. An error ends the stream.
    pub(crate) fn handle_message(
        &mut self,
        now: Now,
        request: MetricsRequest,
    ) -> Result<(), Rejection> {
        debug_assert!(matches!(self.storing, Storing::Idle));
        let Some(message) = request.message else {
            return self.take_snapshot(now, request);
        };
        let malformed = |text: &str| Rejection::new(Reason::Malformed, text);
        let Some(boot) = self.boot else {
            return Err(malformed("message (field 16) on a stream without a hello"));
        };
        self.check_agent(&request.agent_id)?;
        match message.body.ok_or_else(|| malformed("message is empty"))? {
            Body::Records(batch) if batch.replay > 0 => self.take_replayed(now, boot, batch),
            Body::Records(batch) => self.take_batch(now, boot, batch),
            Body::Status(status) => self.take_status(now, status),
            Body::Response(response) => self.take_response(now, boot, response, None),
            Body::Config(report) => self.take_config_report(now, report),
            Body::Alerts(batch) if batch.replay > 0 => self.take_replayed_alerts(now, batch),
            Body::Alerts(batch) => self.take_alerts(now, boot, batch),
            // Its event comes with the life cycle of commands.
            Body::Progress(progress) => self.take_progress(now, &progress.command_id),
        }
    }

    /// The records that [`Session::poll_publish`] gave are durable.
    pub(crate) fn handle_stored(&mut self) {
        let storing = std::mem::replace(&mut self.storing, Storing::Idle);
        let Storing::UnderWay(completion) = storing else {
            debug_assert!(false, "nothing was being stored");
            return;
        };
        self.complete(completion);
    }

    fn complete(&mut self, completion: Completion) {
        match completion {
            Completion::Nothing => {}
            Completion::Snapshot => self.facts.push_back(Fact::Stored { count: 1 }),
            Completion::Batch { stored, lost, unexplained, last } => {
                let Some(boot) = self.boot else { return };
                self.outbox.acknowledge(boot, last);
                self.facts.push_back(Fact::Stored { count: stored });
                if lost > 0 {
                    self.facts.push_back(Fact::Lost { count: lost });
                }
                if unexplained > 0 {
                    self.facts.push_back(Fact::Unexplained { count: unexplained });
                }
                self.facts.push_back(Fact::Acknowledged { boot, sequence: last });
            }
            Completion::Alerts { stored, lost, last } => {
                let Some(boot) = self.boot else { return };
                self.outbox.acknowledge_alerts(boot, last);
                self.handle_alerts_stored(last);
                self.facts.push_back(Fact::Alerts { stored, lost, boot, sequence: last });
            }
            Completion::Replayed { number, stored, lost } => {
                let Some(boot) = self.boot else { return };
                self.outbox.acknowledge_replayed(boot, number);
                self.facts.push_back(Fact::Stored { count: stored });
                if lost > 0 {
                    self.facts.push_back(Fact::Lost { count: lost });
                }
            }
            Completion::ReplayedAlerts { number, stored } => {
                let Some(boot) = self.boot else { return };
                self.outbox.acknowledge_replayed(boot, number);
                self.facts.push_back(Fact::ReplayedAlerts { stored });
            }
            Completion::Answer { command_id, outcome, timestamp } => {
                self.outbox.acknowledge_answer(command_id.clone());
                self.facts.push_back(Fact::Answered { command_id, outcome, timestamp });
            }
        }
    }

    /// A configuration holds for the agent. Answers whether it will be sent: not to a plain client, not
    /// to an agent that reads its configuration itself, and not when the agent has it or a newer one.
    pub(crate) fn handle_config(&mut self, push: ConfigPush) -> bool {
        let is_news = match self.config {
            ConfigHeld::Brought(revision) => push.revision != revision,
            ConfigHeld::Sent(revision) => revision < push.revision,
        };
        is_news && self.handle_config_again(push)
    }

    /// As [`Session::handle_config`], also when the agent has it.
    pub(crate) fn handle_config_again(&mut self, push: ConfigPush) -> bool {
        let wants_it =
            self.boot.is_some() && self.config_source == ConfigSource::Server && push.revision > 0;
        if wants_it {
            self.config = ConfigHeld::Sent(push.revision);
            self.outbox.push_config(push);
        }
        wants_it
    }

    /// A command is to be handed to the agent before `expires_at`.
    pub(crate) fn handle_command(&mut self, command: Command, expires_at: Instant) {
        debug_assert!(self.wants_command());
        self.outbox.push_command(command, expires_at);
    }

    /// The agent gave an answer that the bus has already: it need not give it again.
    pub(crate) fn handle_repeated_answer(&mut self, command_id: String) {
        self.outbox.acknowledge_answer(command_id);
    }

    /// As [`Session::handle_message`], with an answer to a command that has one.
    pub(crate) fn handle_amendment(
        &mut self,
        now: Now,
        response: CommandResponse,
        amends: Amendment,
    ) -> Result<(), Rejection> {
        debug_assert!(matches!(self.storing, Storing::Idle));
        let boot = self.boot.ok_or_else(|| {
            Rejection::new(Reason::Malformed, "message (field 16) on a stream without a hello")
        })?;
        self.take_response(now, boot, response, Some(amends))
    }

    /// Somebody wants a sign of life. A plain client does not know the question.
    pub(crate) fn handle_ping(&mut self) {
        if self.boot.is_some() {
            self.outbox.ping();
        }
    }

    /// What must be stored next; answer with [`Session::handle_stored`].
    pub(crate) fn poll_publish(&mut self) -> Option<Vec<Record>> {
        match std::mem::replace(&mut self.storing, Storing::Idle) {
            Storing::Ready(records, completion) => {
                self.storing = Storing::UnderWay(completion);
                Some(records)
            }
            other @ (Storing::Idle | Storing::UnderWay(_)) => {
                self.storing = other;
                None
            }
        }
    }

    pub(crate) fn has_transmit(&self) -> bool {
        !self.outbox.is_empty()
    }

    /// Commands, and answers to acknowledge, that wait to be sent.
    pub(crate) fn waiting_count(&self) -> usize {
        self.outbox.entry_count()
    }

    /// What must be sent to the agent next, at `now`.
    pub(crate) fn poll_transmit(&mut self, now: Instant) -> Option<Command> {
        self.outbox.pop(now)
    }

    /// What others should know next.
    pub(crate) fn poll_fact(&mut self) -> Option<Fact> {
        self.facts.pop_front()
    }

    /// The last thing to store: that the stream is gone, and why.
    pub(crate) fn disconnected(&self, now: Now, detail: String) -> Record {
        self.status_record(
            now,
            StatusRecord {
                event: StatusEvent::Disconnected.into(),
                detail,
                ..StatusRecord::default()
            },
        )
    }

    fn connected(&self, now: Now, hello: Option<Hello>, peer: &str) -> Record {
        self.status_record(
            now,
            StatusRecord {
                event: StatusEvent::Connected.into(),
                hello,
                peer: peer.to_owned(),
                ..StatusRecord::default()
            },
        )
    }

    fn check_agent(&self, given: &str) -> Result<(), Rejection> {
        if given.is_empty() || given == self.agent.as_str() {
            return Ok(());
        }
        let given: AgentId = given.parse()?;
        let text = format!("message of {given} on the stream of {}", self.agent);
        Err(Rejection::new(Reason::AgentId, text))
    }

    fn take_snapshot(&mut self, now: Now, request: MetricsRequest) -> Result<(), Rejection> {
        if request.agent_id.is_empty() {
            // The fixed form always names the agent; only field 16 may come alone.
            return Err(agent_core::id::AgentIdError::Empty.into());
        }
        self.check_agent(&request.agent_id)?;
        if self.boot.is_some() && request.boot.map(BootId::from) == self.boot {
            // An agent that waited in vain for the Welcome goes on with batches once it is there.
            self.handle_resumed(request.sequence);
        }
        let record = intake::snapshot(&self.agent, request, now.unix_ms)?;
        let record = self.record(Payload::Metrics(record));
        self.storing = Storing::Ready(vec![record], Completion::Snapshot);
        Ok(())
    }

    fn take_batch(&mut self, now: Now, boot: BootId, batch: RecordBatch) -> Result<(), Rejection> {
        let batch = intake::batch(self.origin(boot), self.received, batch)?;
        let is_first = self.received.replace(batch.last).is_none();
        // A later batch follows the one before it, or it would have been refused.
        let missing =
            (is_first && self.resumed < batch.after).then(|| self.resumed + 1..=batch.after);
        let unexplained = missing.as_ref().map(|missing| self.unexplained(now, missing));
        let unexplained_count = missing.map_or(0, |missing| missing.end() - missing.start() + 1);
        let stored = u64::try_from(batch.records.len()).unwrap_or(u64::MAX);
        let completion = Completion::Batch {
            stored,
            lost: intake::lost_count(&batch.losses),
            unexplained: unexplained_count,
            last: batch.last,
        };
        let losses = (!batch.losses.is_empty()).then(|| {
            self.status_record(
                now,
                StatusRecord {
                    event: StatusEvent::Loss.into(),
                    losses: batch.losses,
                    ..StatusRecord::default()
                },
            )
        });
        let metrics = batch.records.into_iter().map(Payload::Metrics);
        // Losses first: should the bus take only a part, nothing stands behind a gap that is not explained.
        let records = unexplained.into_iter().chain(losses);
        let records = records.chain(metrics.map(|payload| self.record(payload)));
        self.storing = Storing::Ready(records.collect(), completion);
        Ok(())
    }

    const fn origin(&self, boot: BootId) -> Origin<'_> {
        Origin { agent: &self.agent, boot, session: self.number }
    }

    fn take_replayed(
        &mut self,
        now: Now,
        boot: BootId,
        batch: RecordBatch,
    ) -> Result<(), Rejection> {
        let batch = intake::replayed_batch(self.origin(boot), self.replayed, batch)?;
        self.replayed += 1;
        let completion = Completion::Replayed {
            number: self.replayed,
            stored: u64::try_from(batch.records.len()).unwrap_or(u64::MAX),
            lost: intake::lost_count(&batch.losses),
        };
        let lost = self.lost_earlier(now, batch.boot, StatusEvent::Loss, batch.losses);
        let metrics = batch.records.into_iter().map(Payload::Metrics);
        let records = lost.into_iter().chain(metrics.map(|payload| self.record(payload)));
        self.storing = Storing::Ready(records.collect(), completion);
        Ok(())
    }

    fn take_replayed_alerts(&mut self, now: Now, batch: AlertBatch) -> Result<(), Rejection> {
        let batch = intake::replayed_alerts(self.replayed, batch)?;
        self.replayed += 1;
        let completion = Completion::ReplayedAlerts {
            number: self.replayed,
            stored: u64::try_from(batch.records.len()).unwrap_or(u64::MAX),
        };
        let alerts = (!batch.records.is_empty()).then(|| StatusRecord {
            event: StatusEvent::Alert.into(),
            replayed: true,
            boot: Some(batch.boot.into()),
            alerts: batch.records,
            ..StatusRecord::default()
        });
        let alerts = alerts.map(|given| self.status_record(now, given));
        let lost = self.lost_earlier(now, batch.boot, StatusEvent::AlertLoss, batch.losses);
        self.storing = Storing::Ready(alerts.into_iter().chain(lost).collect(), completion);
        Ok(())
    }

    /// The record of losses of `boot` that were declared later.
    fn lost_earlier(
        &self,
        now: Now,
        boot: BootId,
        event: StatusEvent,
        losses: Vec<Loss>,
    ) -> Option<Record> {
        let given = (!losses.is_empty()).then(|| StatusRecord {
            event: event.into(),
            boot: Some(boot.into()),
            losses,
            ..StatusRecord::default()
        });
        given.map(|given| self.status_record(now, given))
    }

    fn take_alerts(&mut self, now: Now, boot: BootId, batch: AlertBatch) -> Result<(), Rejection> {
        let mut batch = intake::alerts(boot, self.alerts_received, batch)?;
        self.alerts_received = Some(batch.last);
        // An agent whose stream broke sends again what was not acknowledged to it.
        batch.alerts.retain(|alert| self.alerts_stored < alert.sequence);
        batch.losses.retain(|loss| self.alerts_stored < loss.last);
        let completion = Completion::Alerts {
            stored: u64::try_from(batch.alerts.len()).unwrap_or(u64::MAX),
            lost: intake::lost_count(&batch.losses),
            last: batch.last,
        };
        let alerts = (!batch.alerts.is_empty()).then(|| StatusRecord {
            event: StatusEvent::Alert.into(),
            alerts: batch.alerts,
            ..StatusRecord::default()
        });
        let losses = (!batch.losses.is_empty()).then(|| StatusRecord {
            event: StatusEvent::AlertLoss.into(),
            losses: batch.losses,
            ..StatusRecord::default()
        });
        let given = alerts.into_iter().chain(losses);
        let records: Vec<Record> = given.map(|record| self.status_record(now, record)).collect();
        if records.is_empty() {
            self.complete(completion);
        } else {
            self.storing = Storing::Ready(records, completion);
        }
        Ok(())
    }

    /// The record of a gap that the agent says nothing about.
    fn unexplained(&self, now: Now, missing: &RangeInclusive<u64>) -> Record {
        let loss = Loss {
            first: *missing.start(),
            last: *missing.end(),
            reason: LossReason::Unspecified.into(),
            never_sent: 0,
            unacknowledged: 0,
        };
        self.status_record(
            now,
            StatusRecord {
                event: StatusEvent::Loss.into(),
                losses: vec![loss],
                detail: "never arrived here and was not declared by the agent".to_owned(),
                ..StatusRecord::default()
            },
        )
    }

    fn take_status(&mut self, now: Now, status: AgentStatus) -> Result<(), Rejection> {
        check_status(&status)?;
        if let Some(report) = &status.last_config {
            self.facts.push_back(Fact::Config(report.clone()));
        }
        let lost = status.ledger.as_ref().map_or(0, |ledger| {
            let of_alerts = ledger.alerts.iter().flat_map(|alerts| &alerts.lost);
            let counts = ledger.lost.iter().chain(of_alerts).map(|lost| lost.count);
            counts.fold(0, u64::saturating_add)
        });
        let news = self.heartbeat.is_none_or(|last| {
            last.state != status.state
                || last.lost != lost
                || REPORT_INTERVAL <= now.monotonic - last.at
        });
        if news {
            self.heartbeat = Some(Heartbeat { at: now.monotonic, state: status.state, lost });
            let heartbeat = self.status_record(
                now,
                StatusRecord {
                    event: StatusEvent::Heartbeat.into(),
                    status: Some(status.clone()),
                    ..StatusRecord::default()
                },
            );
            self.storing = Storing::Ready(vec![heartbeat], Completion::Nothing);
        }
        self.facts.push_back(Fact::Status(Box::new(status)));
        Ok(())
    }

    fn take_response(
        &mut self,
        now: Now,
        boot: BootId,
        mut response: CommandResponse,
        amends: Option<Amendment>,
    ) -> Result<(), Rejection> {
        check_size("response", response.encoded_len(), RESPONSE_BYTES_MAX)?;
        self.check_agent(&response.agent_id)?;
        let command_id: CommandId = response.command_id.parse()?;
        response.agent_id = self.agent.to_string();
        // The agent says it, whatever it says of that; what it amends is for the server to know.
        response.server_id.clear();
        response.amends = amends;
        response.boot.get_or_insert_with(|| boot.into());
        if response.timestamp == 0 {
            response.timestamp = now.unix_seconds();
        }
        match CommandOutcome::try_from(response.outcome).unwrap_or_default() {
            CommandOutcome::Unspecified if response.success => {
                response.set_outcome(CommandOutcome::Succeeded);
            }
            CommandOutcome::Unspecified => response.set_outcome(CommandOutcome::Failed),
            outcome => response.success = outcome == CommandOutcome::Succeeded,
        }
        if let Some(status) = &response.status {
            check_status(status)?;
            // The answer to STATUS is newer than the last heartbeat.
            self.facts.push_back(Fact::Status(Box::new(status.clone())));
        }
        let command_id = command_id.to_string();
        let (outcome, timestamp) = (response.outcome, response.timestamp);
        let completion = Completion::Answer { command_id, outcome, timestamp };
        let record = self.record(Payload::Response(Box::new(response)));
        self.storing = Storing::Ready(vec![record], completion);
        Ok(())
    }

    fn take_progress(&mut self, now: Now, command_id: &str) -> Result<(), Rejection> {
        let command_id: CommandId = command_id.parse()?;
        let record = self.status_record(
            now,
            StatusRecord {
                event: StatusEvent::CommandRunning.into(),
                command_id: command_id.to_string(),
                ..StatusRecord::default()
            },
        );
        self.storing = Storing::Ready(vec![record], Completion::Nothing);
        Ok(())
    }

    fn take_config_report(&mut self, now: Now, report: ConfigReport) -> Result<(), Rejection> {
        check_size("config report", report.encoded_len(), STATUS_BYTES_MAX)?;
        let event = match ConfigOutcome::try_from(report.outcome).unwrap_or_default() {
            ConfigOutcome::Applied => StatusEvent::ConfigApplied,
            ConfigOutcome::Rejected => StatusEvent::ConfigRejected,
            ConfigOutcome::RolledBack => StatusEvent::ConfigRolledBack,
            ConfigOutcome::Unspecified => {
                let text = "config report has no outcome";
                return Err(Rejection::new(Reason::Malformed, text));
            }
        };
        let record = self.status_record(
            now,
            StatusRecord {
                event: event.into(),
                config: Some(report.clone()),
                ..StatusRecord::default()
            },
        );
        self.storing = Storing::Ready(vec![record], Completion::Nothing);
        self.facts.push_back(Fact::Config(report));
        Ok(())
    }

    /// `given` with who says it, and when. It is of this stream's boot unless it names another.
    fn status_record(&self, now: Now, given: StatusRecord) -> Record {
        self.record(Payload::Status(Box::new(StatusRecord {
            agent_id: self.agent.to_string(),
            timestamp_ms: now.unix_ms,
            server_id: self.server_id.clone(),
            boot: given.boot.or_else(|| self.boot.map(Into::into)),
            ..given
        })))
    }

    fn record(&self, payload: Payload) -> Record {
        Record { key: self.agent.clone(), payload }
    }
}

fn check_size(what: &str, bytes: usize, max: usize) -> Result<(), Rejection> {
    if bytes <= max {
        return Ok(());
    }
    let text = format!("{what} has {bytes} bytes, at most {max} are allowed");
    Err(Rejection::new(Reason::Oversized, text))
}

/// Checks what is remembered of an agent: its size on the wire, and how much more it takes in memory.
fn check_status(status: &AgentStatus) -> Result<(), Rejection> {
    check_size("status", status.encoded_len(), STATUS_BYTES_MAX)?;
    let of_ledger = status.ledger.as_ref().map_or(0, |ledger| {
        let of_plugins = ledger.plugins.iter().map(|plugin| 1 + plugin.dropped.len());
        let of_alerts = ledger.alerts.as_ref().map_or(0, |alerts| alerts.lost.len());
        ledger.suppressed.len() + ledger.lost.len() + of_plugins.sum::<usize>() + of_alerts
    });
    let of_report = status.last_config.as_ref().map_or(0, |report| report.overridden.len());
    let entries = status.metrics.len() + status.plugins.len() + of_ledger + of_report;
    if entries <= STATUS_ENTRIES_MAX {
        return Ok(());
    }
    let text = format!("status has {entries} entries, at most {STATUS_ENTRIES_MAX} are allowed");
    Err(Rejection::new(Reason::Oversized, text))
}

#[cfg(test)]
mod tests {
    use super::*;

    use std::time::Duration;

    use proto::server_message;
    use proto::{
        AgentMessage, AlertRecord, Ledger, NamedCount, PluginCounters, RunState, SystemMetrics,
    };

    const BOOT: BootId = BootId { counter: 1, nonce: 7 };

    fn at(seconds: u64) -> Now {
        Now {
            monotonic: Instant::from_ms(0) + Duration::from_secs(seconds),
            unix_ms: 1_700_000_000_000,
        }
    }

    /// A full session whose CONNECTED is stored.
    fn full() -> Session {
        let hello = Hello {
            agent_id: "a".into(),
            boot: Some(BOOT.into()),
            session: 1,
            config_revision: 3,
            ..Hello::default()
        };
        let introduction = Introduction::try_from(hello).unwrap();
        settle(Session::open(at(0), Opening::Full(introduction), "s", "peer"))
    }

    fn plain() -> Session {
        let opening = Opening::Plain("a".parse().unwrap());
        settle(Session::open(at(0), opening, "s", "peer"))
    }

    fn settle(mut session: Session) -> Session {
        let events = store(&mut session);
        assert_eq!(events, [StatusEvent::Connected]);
        session
    }

    /// Does as if the bus stored what is to be stored; answers with the status events among it.
    fn store(session: &mut Session) -> Vec<StatusEvent> {
        let Some(records) = session.poll_publish() else {
            return Vec::new();
        };
        assert!(!session.wants_message());
        session.handle_stored();
        let events = records.into_iter().filter_map(|record| match record.payload {
            Payload::Status(status) => Some(status.event()),
            _ => None,
        });
        events.collect()
    }

    fn facts(session: &mut Session) -> Vec<Fact> {
        std::iter::from_fn(|| session.poll_fact()).collect()
    }

    fn message(body: Body) -> MetricsRequest {
        MetricsRequest {
            message: Some(AgentMessage { body: Some(body) }),
            ..MetricsRequest::default()
        }
    }

    fn batch(sequences: &[u64], losses: Vec<Loss>) -> MetricsRequest {
        let records = sequences
            .iter()
            .map(|sequence| proto::Record { sequence: *sequence, ..proto::Record::default() });
        message(Body::Records(RecordBatch {
            boot: Some(BOOT.into()),
            records: records.collect(),
            losses,
            ..RecordBatch::default()
        }))
    }

    /// A batch of an earlier time with the number `replay`, of `boot`.
    fn replayed(replay: u64, boot: BootId, sequences: &[u64], losses: Vec<Loss>) -> MetricsRequest {
        let mut given = batch(sequences, losses);
        let body = given.message.as_mut().and_then(|message| message.body.as_mut());
        let Some(Body::Records(records)) = body else { panic!("a batch of records") };
        (records.boot, records.replay) = (Some(boot.into()), replay);
        given
    }

    fn acknowledged(session: &mut Session) -> Option<u64> {
        match session.poll_transmit(Instant::from_ms(0))?.message?.body? {
            server_message::Body::Ack(ack) => Some(ack.sequence),
            other => panic!("{other:?} is no acknowledgement"),
        }
    }

    fn status(state: RunState, lost: u64) -> MetricsRequest {
        message(Body::Status(AgentStatus {
            state: state.into(),
            ledger: Some(Ledger {
                lost: vec![NamedCount { name: "overwritten".into(), count: lost }],
                ..Ledger::default()
            }),
            ..AgentStatus::default()
        }))
    }

    #[test]
    fn acknowledges_only_what_is_stored() {
        let mut session = full();
        session.handle_message(at(1), batch(&[1, 2, 3], Vec::new())).unwrap();
        assert!(!session.wants_message(), "back-pressure");
        let records = session.poll_publish().unwrap();
        assert_eq!(records.len(), 3);
        assert!(!session.has_transmit());
        session.handle_stored();
        assert_eq!(acknowledged(&mut session), Some(3));
        assert_eq!(
            facts(&mut session),
            [Fact::Stored { count: 3 }, Fact::Acknowledged { boot: BOOT, sequence: 3 }]
        );
        assert!(session.wants_message());
    }

    #[test]
    fn only_an_agent_that_was_granted_credit_hears_of_it() {
        let mut session = full();
        assert!(!session.handle_share(at(1), 16));
        session.handle_granted(64);
        assert!(!session.handle_share(at(1), 64));
        assert!(session.handle_share(at(1), 16));
        let told = session.poll_transmit(Instant::from_ms(0)).unwrap().message.unwrap().body;
        assert_eq!(told, Some(server_message::Body::Credit(proto::Credit { bytes: 16 })));

        let mut session = plain();
        session.handle_granted(64);
        assert!(!session.handle_share(at(1), 16));
        assert!(!session.has_transmit());
    }

    #[test]
    fn losses_are_stored_with_their_batch() {
        let mut session = full();
        let loss = Loss { first: 2, last: 4, ..Loss::default() };
        session.handle_message(at(1), batch(&[1, 5], vec![loss])).unwrap();
        assert_eq!(store(&mut session), [StatusEvent::Loss]);
        assert_eq!(acknowledged(&mut session), Some(5));
        assert!(facts(&mut session).contains(&Fact::Lost { count: 3 }));
    }

    /// The gap that the first batch of a stream leaves, when everything up to `resumed` was there before.
    fn check_gap(resumed: u64, first: MetricsRequest, expected: Option<(u64, u64)>) {
        let mut session = full();
        session.handle_resumed(resumed);
        session.handle_message(at(1), first).unwrap();
        let records = session.poll_publish().unwrap();
        session.handle_stored();
        let gaps = records.into_iter().filter_map(|record| match record.payload {
            Payload::Status(status) if !status.detail.is_empty() => Some(status.losses),
            _ => None,
        });
        let gaps: Vec<_> = gaps.flatten().map(|loss| (loss.first, loss.last)).collect();
        assert_eq!(gaps, Vec::from_iter(expected));
        let count = expected.map(|(first, last)| Fact::Unexplained { count: last - first + 1 });
        let told = facts(&mut session);
        let told = told.into_iter().find(|fact| matches!(fact, Fact::Unexplained { .. }));
        assert_eq!(told, count);
    }

    #[test]
    fn a_gap_before_the_first_batch_is_never_silent() {
        let loss = |first, last| vec![Loss { first, last, ..Loss::default() }];
        check_gap(0, batch(&[1, 2], Vec::new()), None);
        check_gap(0, batch(&[1_000_000_000], Vec::new()), Some((1, 999_999_999)));
        check_gap(0, batch(&[5], loss(1, 4)), None);
        check_gap(0, batch(&[5], loss(3, 4)), Some((1, 2)));
        check_gap(0, batch(&[], loss(3, 4)), Some((1, 2)));
        check_gap(9, batch(&[10], Vec::new()), None);
        check_gap(9, batch(&[4], Vec::new()), None);
        check_gap(9, batch(&[12], Vec::new()), Some((10, 11)));
        check_gap(9, batch(&[12], loss(10, 11)), None);
    }

    #[test]
    fn snapshots_before_the_welcome_leave_no_gap() {
        let mut session = full();
        let early = MetricsRequest { boot: Some(BOOT.into()), sequence: 3, ..snapshot("a") };
        session.handle_message(at(1), early).unwrap();
        store(&mut session);
        session.handle_message(at(1), batch(&[4], Vec::new())).unwrap();
        assert_eq!(store(&mut session), []);
    }

    #[test]
    fn a_batch_continues_the_one_before() {
        let mut session = full();
        session.handle_message(at(1), batch(&[7], Vec::new())).unwrap();
        store(&mut session);
        let rejection = session.handle_message(at(1), batch(&[9], Vec::new())).unwrap_err();
        assert_eq!(rejection.reason, Reason::Sequence);
    }

    fn alerts(sequences: &[u64], losses: Vec<Loss>) -> MetricsRequest {
        let alerts = sequences
            .iter()
            .map(|sequence| AlertRecord { sequence: *sequence, ..AlertRecord::default() });
        message(Body::Alerts(AlertBatch {
            boot: Some(BOOT.into()),
            alerts: alerts.collect(),
            losses,
            ..AlertBatch::default()
        }))
    }

    /// Does as if the bus stored what is to be stored; answers with the sequences of the alerts among it.
    fn store_alerts(session: &mut Session) -> Vec<u64> {
        let records = session.poll_publish().unwrap_or_default();
        if !records.is_empty() {
            session.handle_stored();
        }
        let alerts = records.into_iter().flat_map(|record| match record.payload {
            Payload::Status(status) => status.alerts,
            _ => Vec::new(),
        });
        alerts.map(|alert| alert.sequence).collect()
    }

    fn acknowledged_alerts(session: &mut Session) -> Option<(u64, u64)> {
        match session.poll_transmit(Instant::from_ms(0))?.message?.body? {
            server_message::Body::Ack(ack) => Some((ack.sequence, ack.alert_sequence)),
            other => panic!("{other:?} is no acknowledgement"),
        }
    }

    #[test]
    fn alerts_are_stored_and_then_acknowledged() {
        let mut session = full();
        let loss = Loss { first: 1, last: 2, ..Loss::default() };
        session.handle_message(at(1), alerts(&[3, 4], vec![loss])).unwrap();
        assert!(!session.wants_message(), "back-pressure");
        assert!(!session.has_transmit());
        assert_eq!(store(&mut session), [StatusEvent::Alert, StatusEvent::AlertLoss]);
        assert_eq!(acknowledged_alerts(&mut session), Some((0, 4)));
        let expected = Fact::Alerts { stored: 2, lost: 2, boot: BOOT, sequence: 4 };
        assert_eq!(facts(&mut session), [expected]);
        let gap = session.handle_message(at(1), alerts(&[6], Vec::new())).unwrap_err();
        assert_eq!(gap.reason, Reason::Sequence);
    }

    #[test]
    fn alerts_that_are_stored_are_acknowledged_again_and_not_stored_again() {
        let mut session = full();
        session.handle_alerts_stored(4);
        let loss = Loss { first: 1, last: 2, ..Loss::default() };
        session.handle_message(at(1), alerts(&[3, 4], vec![loss])).unwrap();
        assert!(session.wants_message(), "there is nothing to wait for");
        assert_eq!(store_alerts(&mut session), [0; 0]);
        assert_eq!(acknowledged_alerts(&mut session), Some((0, 4)));
        session.handle_message(at(1), alerts(&[5], Vec::new())).unwrap();
        assert_eq!(store_alerts(&mut session), [5]);
        assert_eq!(acknowledged_alerts(&mut session), Some((0, 5)));

        let mut session = full();
        session.handle_alerts_stored(4);
        session.handle_message(at(1), alerts(&[3, 4, 5], Vec::new())).unwrap();
        assert_eq!(store_alerts(&mut session), [5]);
        assert_eq!(acknowledged_alerts(&mut session), Some((0, 5)));
    }

    #[test]
    fn alerts_and_records_are_numbered_apart() {
        let mut session = full();
        session.handle_message(at(1), batch(&[1, 2], Vec::new())).unwrap();
        store(&mut session);
        session.handle_message(at(1), alerts(&[1], Vec::new())).unwrap();
        store(&mut session);
        assert_eq!(acknowledged_alerts(&mut session), Some((2, 1)), "in one message");
        assert!(!session.has_transmit());
    }

    #[test]
    fn heartbeats_reach_the_bus_once_a_minute_or_when_something_changed() {
        let mut session = full();
        let mut heard = |seconds, state, lost| {
            session.handle_message(at(seconds), status(state, lost)).unwrap();
            assert_eq!(facts(&mut session).len(), 1, "the registry always hears");
            !store(&mut session).is_empty()
        };
        assert!(heard(0, RunState::Running, 0));
        assert!(!heard(10, RunState::Running, 0));
        assert!(heard(20, RunState::Stopped, 0));
        assert!(!heard(79, RunState::Stopped, 0));
        assert!(heard(80, RunState::Stopped, 0));
        assert!(heard(81, RunState::Stopped, 1));
    }

    #[test]
    fn an_answer_is_acknowledged_once_it_is_stored() {
        let mut session = full();
        let status = AgentStatus { samples_late: 7, ..AgentStatus::default() };
        let response = CommandResponse {
            success: true,
            command_id: "c1".into(),
            status: Some(status.clone()),
            ..CommandResponse::default()
        };
        session.handle_message(at(1), message(Body::Response(response))).unwrap();
        assert_eq!(session.poll_fact(), Some(Fact::Status(Box::new(status))));
        let records = session.poll_publish().unwrap();
        let Payload::Response(stored) = &records[0].payload else {
            panic!("an answer is stored");
        };
        assert_eq!(stored.agent_id, "a");
        assert_eq!(stored.outcome(), CommandOutcome::Succeeded);
        assert_eq!(stored.boot, Some(BOOT.into()));
        assert!(!session.has_transmit());
        session.handle_stored();
        let sent =
            session.poll_transmit(Instant::from_ms(0)).unwrap().message.unwrap().body.unwrap();
        let server_message::Body::ResponseAck(ack) = sent else {
            panic!("{sent:?} is no acknowledgement");
        };
        assert_eq!(ack.command_id, "c1");
    }

    #[test]
    fn configurations_only_go_forward() {
        let mut session = full();
        let push = |revision| ConfigPush { revision, document: "{}".into() };
        assert!(!session.handle_config(push(3)), "the agent came with it");
        assert!(session.handle_config(push(5)));
        assert!(!session.handle_config(push(4)));
        assert!(session.handle_config_again(push(5)));
        assert!(!plain().handle_config(push(5)));
    }

    #[test]
    fn an_agent_that_reads_its_configuration_itself_is_sent_none() {
        let hello = Hello {
            agent_id: "a".into(),
            boot: Some(BOOT.into()),
            session: 1,
            own_config: true,
            ..Hello::default()
        };
        let opening = Opening::Full(Introduction::try_from(hello).unwrap());
        let mut session = settle(Session::open(at(0), opening, "s", "peer"));
        let push = ConfigPush { revision: 9, document: "{}".into() };
        assert!(!session.handle_config(push.clone()));
        assert!(!session.handle_config_again(push));
    }

    #[test]
    fn a_configuration_of_another_store_is_replaced() {
        let push = ConfigPush { revision: 1, document: "{}".into() };
        assert!(full().handle_config(push), "though the agent came with revision 3");
    }

    #[test]
    fn config_reports_are_stored_and_told() {
        let mut session = full();
        let report = |outcome: ConfigOutcome| {
            message(Body::Config(ConfigReport {
                revision: 5,
                outcome: outcome.into(),
                ..ConfigReport::default()
            }))
        };
        session.handle_message(at(1), report(ConfigOutcome::Applied)).unwrap();
        assert_eq!(store(&mut session), [StatusEvent::ConfigApplied]);
        session.handle_message(at(1), report(ConfigOutcome::Rejected)).unwrap();
        assert_eq!(store(&mut session), [StatusEvent::ConfigRejected]);
        assert_eq!(facts(&mut session).len(), 2);
        assert!(session.handle_message(at(1), report(ConfigOutcome::Unspecified)).is_err());
    }

    fn snapshot(agent: &str) -> MetricsRequest {
        MetricsRequest {
            agent_id: agent.into(),
            timestamp: 1,
            metrics: Some(SystemMetrics::default()),
            ..MetricsRequest::default()
        }
    }

    #[test]
    fn plain_snapshots_are_stored_and_not_acknowledged() {
        for mut session in [plain(), full()] {
            session.handle_message(at(1), snapshot("a")).unwrap();
            assert_eq!(session.poll_publish().map(|records| records.len()), Some(1));
            session.handle_stored();
            assert_eq!(facts(&mut session), [Fact::Stored { count: 1 }]);
            assert!(!session.has_transmit());
        }
    }

    #[test]
    fn a_stream_carries_one_agent() {
        let check = |mut session: Session, request, expected| {
            let rejection = session.handle_message(at(1), request).unwrap_err();
            assert_eq!(rejection.reason, expected, "{rejection}");
        };
        check(plain(), snapshot("b"), Reason::AgentId);
        check(full(), snapshot("b"), Reason::AgentId);
        check(plain(), snapshot(""), Reason::AgentId);
        let mut other = batch(&[1], Vec::new());
        other.agent_id = "b".into();
        check(full(), other, Reason::AgentId);
        check(plain(), batch(&[1], Vec::new()), Reason::Malformed);
        let empty = MetricsRequest {
            message: Some(AgentMessage { body: None }),
            ..MetricsRequest::default()
        };
        check(full(), empty, Reason::Malformed);
        let foreign = message(Body::Response(CommandResponse {
            agent_id: "b".into(),
            command_id: "c".into(),
            ..CommandResponse::default()
        }));
        check(full(), foreign, Reason::AgentId);
        let nameless = message(Body::Response(CommandResponse::default()));
        check(full(), nameless, Reason::CommandId);
    }

    #[test]
    fn what_is_remembered_of_an_agent_is_bounded() {
        let status = message(Body::Status(AgentStatus {
            plugins: vec!["p".repeat(STATUS_BYTES_MAX)],
            ..AgentStatus::default()
        }));
        let rejection = full().handle_message(at(1), status).unwrap_err();
        assert_eq!(rejection.reason, Reason::Oversized);
    }

    #[test]
    fn a_status_does_not_unfold_in_memory() {
        let status = |plugins: usize| AgentStatus {
            ledger: Some(Ledger {
                plugins: vec![PluginCounters::default(); plugins],
                ..Ledger::default()
            }),
            ..AgentStatus::default()
        };
        let answer = |status| CommandResponse {
            command_id: "c".into(),
            status: Some(status),
            ..CommandResponse::default()
        };
        let refuse = |body| full().handle_message(at(1), message(body)).unwrap_err().reason;
        let many = status(STATUS_ENTRIES_MAX + 1);
        assert!(many.encoded_len() < STATUS_BYTES_MAX / 8);
        assert_eq!(refuse(Body::Status(many.clone())), Reason::Oversized);
        assert_eq!(refuse(Body::Response(answer(many))), Reason::Oversized);
        let most = message(Body::Status(status(STATUS_ENTRIES_MAX)));
        full().handle_message(at(1), most).unwrap();
    }

    #[test]
    fn plain_clients_are_not_pinged() {
        let mut session = plain();
        session.handle_ping();
        assert!(!session.has_transmit());
        let mut session = full();
        session.handle_ping();
        assert!(session.has_transmit());
    }

    #[test]
    fn a_replayed_batch_has_any_boot_and_an_acknowledgement_of_its_own() {
        let mut session = full();
        session.handle_message(at(1), batch(&[41, 42], Vec::new())).unwrap();
        store(&mut session);
        assert_eq!(acknowledged(&mut session), Some(42));
        let before = BootId { counter: 0, nonce: 9 };
        // The counter was damaged since, and began again.
        let higher = BootId { counter: 9, nonce: 3 };
        let loss = Loss { first: 8, last: 9, ..Loss::default() };
        for (number, boot, sequences) in
            [(1, before, &[5, 7][..]), (2, BOOT, &[3]), (3, before, &[]), (4, higher, &[6])]
        {
            let losses = if number == 2 { Vec::new() } else { vec![loss] };
            session.handle_message(at(1), replayed(number, boot, sequences, losses)).unwrap();
            let records = session.poll_publish().unwrap();
            session.handle_stored();
            for record in records {
                match record.payload {
                    Payload::Metrics(metrics) => {
                        assert_eq!(metrics.boot.map(BootId::from), Some(boot));
                        assert!(metrics.replayed);
                        assert_eq!(metrics.session, 1);
                    }
                    Payload::Status(status) => {
                        assert_eq!(status.event(), StatusEvent::Loss);
                        assert_eq!(status.boot.map(BootId::from), Some(boot));
                    }
                    other => panic!("{other:?}"),
                }
            }
            let Some(server_message::Body::Ack(ack)) = session
                .poll_transmit(Instant::from_ms(0))
                .and_then(|command| command.message?.body)
            else {
                panic!("an acknowledgement");
            };
            assert_eq!((ack.sequence, ack.replayed), (0, number));
        }
        // The live lane goes on where it was.
        session.handle_message(at(1), batch(&[43], Vec::new())).unwrap();
    }

    #[test]
    fn a_replayed_batch_out_of_turn_is_refused() {
        for (number, boot, sequences) in
            [(2, BOOT, &[1][..]), (1, BOOT, &[2, 2]), (1, BOOT, &[u64::MAX]), (1, BOOT, &[])]
        {
            let given = replayed(number, boot, sequences, Vec::new());
            let rejection = full().handle_message(at(1), given).unwrap_err();
            assert_eq!(rejection.reason, Reason::Sequence, "{number} {boot} {sequences:?}");
        }
    }

    #[test]
    fn a_jump_over_deferred_records_is_no_loss() {
        let mut session = full();
        session.handle_resumed(10);
        let mut given = batch(&[31], Vec::new());
        let body = given.message.as_mut().and_then(|message| message.body.as_mut());
        let Some(Body::Records(records)) = body else { panic!("a batch of records") };
        records.deferred = vec![proto::Range { first: 11, last: 30 }];
        session.handle_message(at(1), given).unwrap();
        assert_eq!(store(&mut session), []);
        assert_eq!(acknowledged(&mut session), Some(31));
        let undeclared = |fact: &Fact| matches!(fact, Fact::Unexplained { .. } | Fact::Lost { .. });
        assert!(!facts(&mut session).iter().any(undeclared));
    }
}
