//! What the gateway does for one device: holds its records and alerts, and speaks for it to the server. No I/O.
//!
//! It is to a device behind a one-way link what the core's `Agent` is to a host: a state machine that is told what
//! happened and when, and asked again and again what to do. It has the core's link, and no sampler, chain or
//! configuration: those are in the device. What the device holds back cannot be asked for.

use std::collections::VecDeque;

use agent_core::agent::{Link, LinkState, Vigil};
use agent_core::id::{AgentId, BootId, CommandId, Sequence};
use agent_core::ledger::{AlertBooks, Ledger};
use agent_core::limits::{BATCH_ALERTS_MAX, BATCH_RECORDS_MAX, DRAIN_MAX, PLAIN_CONFIRMED_AFTER};
use agent_core::metric::{MetricSet, MetricSwitch};
use agent_core::record::Alert;
use agent_core::time::Instant;
use proto::agent_message::Body;
use proto::command::CommandType;
use proto::server_message::Body as ServerBody;
use proto::{
    AgentStatus, Command, CommandOutcome, CommandResponse, ConfigOutcome, ConfigReport,
    MetricsRequest, RunState, Welcome,
};

use super::backlog::{Admission, Backlog, Books, Held};
use super::record::Record;
use crate::net::message::{self, Packing};

/// Records held for one device until they are acknowledged, as many as an agent holds for itself; 300 KiB.
const RECORDS_MAX: u64 = 2048;

/// Alerts held for one device until they are acknowledged, apart from the records, so that those can never displace one;
/// 20 KiB.
const ALERTS_MAX: u64 = 256;

/// Bytes of a packed record of the standard metrics. One of all metrics in a window, each at an end of its range, has ten times
/// as many.
const RECORD_BYTES_USUAL: usize = 128;

/// Bytes that are held for one device. Its lists have grown to at most twice what is in them.
pub(super) const BYTES_MAX: usize = {
    let record =
        2 * size_of::<(Sequence, Record)>() + 2 * size_of::<Sequence>() + RECORD_BYTES_USUAL;
    let alert = 2 * (size_of::<(Sequence, Alert)>() + size_of::<Sequence>());
    #[expect(clippy::cast_possible_truncation, reason = "both are small")]
    let (records, alerts) = (RECORDS_MAX as usize, ALERTS_MAX as usize);
    size_of::<Relay>() + records * record + alerts * alert
};

/// Boots of one device that wait to be delivered, beside the one that is being delivered.
const BOOTS_WAITING_MAX: usize = 7;

/// Answers to commands that the server has not acknowledged. The oldest gives way; then its command ends as UNKNOWN.
const ANSWERS_MAX: usize = 16;

/// Why a device does nothing that it is asked for.
const ONE_WAY: &str =
    "device is behind a one-way serial link: it takes no commands and no configuration";

/// What a message is called while the transport has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ticket {
    /// One record in the plain form.
    Plain(Sequence),
    /// Anything that is acknowledged, or need not be.
    Other,
}

/// What to do next.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Output {
    /// Open a stream for this boot.
    Dial(BootId),
    /// Put this on the stream.
    Transmit(Box<MetricsRequest>, Ticket),
    /// Say on the stream that no message follows, and hear the server out.
    Finish,
    /// End the stream in good order.
    Close,
    /// Nothing more, for ever.
    End,
    /// Nothing, until something happens or this time.
    Wait(Option<Instant>),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Serving,
    // Heard out: a plain server has read all that it can be given.
    Draining { until: Instant, farewell_said: bool, is_heard_out: bool },
    Ended,
}

/// Whether a stream may be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Turn {
    /// It may.
    Running,
    /// Its boot is delivered; it is being ended, to make place for the next boot's.
    Over,
}

/// One boot of the device.
#[derive(Clone, Debug)]
struct Boot {
    id: BootId,
    records: Backlog<Record>,
    alerts: Backlog<Alert>,
    uptime: Instant,
    metrics: MetricSet,
}

impl Boot {
    const fn new(id: BootId) -> Self {
        Self {
            id,
            records: Backlog::new(),
            alerts: Backlog::new(),
            uptime: Instant::from_ms(0),
            metrics: MetricSet::EMPTY,
        }
    }

    /// A new stream: everything unacknowledged is sent again.
    fn rewind(&mut self) {
        self.records.rewind();
        self.alerts.rewind();
    }

    /// Gives up what is still held.
    fn abandon(&mut self) {
        self.records.abandon();
        self.alerts.abandon();
    }

    /// Whether the server has accounted for all that was heard.
    fn is_settled(&self) -> bool {
        self.records.is_settled() && self.alerts.is_settled()
    }

    /// The books, as far as the gateway can know them: it hears of no snapshot before it is a record.
    fn ledger(&self) -> Ledger {
        let Books { recorded, delivered, lost, held } = self.records.books();
        let alerts = self.alerts.books();
        Ledger {
            produced: recorded,
            recorded,
            delivered,
            lost,
            held,
            alerts: AlertBooks {
                recorded: alerts.recorded,
                delivered: alerts.delivered,
                lost: alerts.lost,
                held: alerts.held,
                spooled: 0,
            },
            ..Ledger::default()
        }
    }

    fn totals(&self) -> Totals {
        Totals { records: self.records.books().into(), alerts: self.alerts.books().into() }
    }
}

#[derive(Clone, Debug)]
struct Answer {
    command: CommandId,
    kind: AnswerKind,
    sent: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum AnswerKind {
    /// What the gateway knows.
    Status,
    Refusal,
}

/// See the module's documentation.
#[derive(Clone, Debug)]
pub(crate) struct Relay {
    agent: AgentId,
    // The boot that the stream carries.
    boot: Boot,
    // Those that wait for their turn, oldest first: at most BOOTS_WAITING_MAX.
    waiting: VecDeque<Boot>,
    link: Link,
    phase: Phase,
    turn: Turn,
    answers: VecDeque<Answer>,
    config_report: Option<ConfigReport>,
    config_report_due: bool,
    // When a record that a plain server was handed counts as delivered, in sequence order.
    handed_over: VecDeque<(Instant, Sequence)>,
    // Looks at the clock while there are any.
    vigil: Vigil,
    // The books of boots that are done with.
    past: Totals,
    // How records travel on the stream in hand.
    packing: Packing,
}

/// What became of what a device sent, over all its boots.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Totals {
    pub(crate) records: Tally,
    pub(crate) alerts: Tally,
}

/// What became of the records, or of the alerts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Tally {
    /// Those that were heard and are durable, or were delivered by an earlier run of the gateway.
    pub(crate) delivered: u64,
    /// Those that will never arrive.
    pub(crate) lost: u64,
    /// Those that wait.
    pub(crate) held: u64,
    /// Those that came again, or for the first time with a number that was used: dropped.
    pub(crate) repeated: u64,
}

impl Totals {
    /// Adds those of another device, or of other boots.
    pub(crate) const fn add(&mut self, other: Self) {
        self.records.add(other.records);
        self.alerts.add(other.alerts);
    }
}

impl Tally {
    const fn add(&mut self, other: Self) {
        self.delivered = self.delivered.saturating_add(other.delivered);
        self.lost = self.lost.saturating_add(other.lost);
        self.held = self.held.saturating_add(other.held);
        self.repeated = self.repeated.saturating_add(other.repeated);
    }
}

impl From<Books> for Tally {
    fn from(books: Books) -> Self {
        let Books { delivered, held, .. } = books;
        Self { delivered, lost: books.lost.total(), held, repeated: 0 }
    }
}

impl Relay {
    /// A relay that dials at once. `seed` feeds the jitter of the back-off.
    pub(crate) fn new(now: Instant, agent: AgentId, boot: BootId, seed: u64) -> Self {
        Self {
            agent,
            boot: Boot::new(boot),
            waiting: VecDeque::new(),
            link: Link::new(now, seed),
            phase: Phase::Serving,
            turn: Turn::Running,
            answers: VecDeque::new(),
            config_report: None,
            config_report_due: false,
            handed_over: VecDeque::new(),
            vigil: Vigil::new(now),
            past: Totals::default(),
            packing: Packing::default(),
        }
    }

    pub(crate) const fn agent(&self) -> &AgentId {
        &self.agent
    }

    /// Streams dialled: the number of the current one.
    pub(crate) const fn session(&self) -> u64 {
        self.link.sessions()
    }

    pub(crate) const fn link(&self) -> LinkState {
        self.link.state()
    }

    /// Whether nothing is held, so that the relay can be forgotten.
    pub(crate) fn is_settled(&self) -> bool {
        self.waiting.is_empty() && self.is_done_with_boot()
    }

    pub(crate) fn totals(&self) -> Totals {
        let mut totals = self.past;
        for boot in self.boots() {
            totals.add(boot.totals());
        }
        totals
    }

    /// Ends it without delivering. Answers the last totals.
    pub(crate) fn give_up(&mut self) -> Totals {
        for boot in self.boots_mut() {
            boot.abandon();
        }
        self.totals()
    }

    fn boots(&self) -> impl Iterator<Item = &Boot> {
        std::iter::once(&self.boot).chain(&self.waiting)
    }

    fn boots_mut(&mut self) -> impl Iterator<Item = &mut Boot> {
        std::iter::once(&mut self.boot).chain(&mut self.waiting)
    }

    /// The device said which boot it is in. Answers whether that is news.
    pub(crate) fn handle_hello(&mut self, boot: BootId) -> bool {
        if self.boots().any(|known| known.id == boot) {
            return false;
        }
        self.waiting.push_back(Boot::new(boot));
        if BOOTS_WAITING_MAX < self.waiting.len()
            && let Some(mut oldest) = self.waiting.pop_front()
        {
            // No stream will tell the server; the log and the server's own account of the gap have to.
            while oldest.records.evict() {}
            while oldest.alerts.evict() {}
            self.past.add(oldest.totals());
        }
        true
    }

    /// The device sent records of `boot`.
    pub(crate) fn handle_records(&mut self, boot: BootId, records: Vec<(Sequence, Record)>) {
        let Some(boot) = self.hearing(boot) else { return };
        // What comes again says nothing new.
        if let Some((_, newest)) = records.last()
            && boot.uptime <= newest.taken_at()
        {
            boot.metrics = newest.metrics;
            boot.uptime = newest.taken_at();
        }
        let repeated = take_in(&mut boot.records, records);
        self.past.records.repeated += repeated;
        let excess = self.totals().records.held.saturating_sub(RECORDS_MAX);
        make_room(excess, self.boots_mut().map(|boot| &mut boot.records));
    }

    /// The device sent alerts of `boot`.
    pub(crate) fn handle_alerts(&mut self, boot: BootId, alerts: Vec<(Sequence, Alert)>) {
        let Some(boot) = self.hearing(boot) else { return };
        if let Some((_, newest)) = alerts.last() {
            boot.uptime = boot.uptime.max(newest.taken_at());
        }
        let repeated = take_in(&mut boot.alerts, alerts);
        self.past.alerts.repeated += repeated;
        let excess = self.totals().alerts.held.saturating_sub(ALERTS_MAX);
        make_room(excess, self.boots_mut().map(|boot| &mut boot.alerts));
    }

    /// The boot for what the device sent of it; none when nothing is taken any more.
    fn hearing(&mut self, boot: BootId) -> Option<&mut Boot> {
        if matches!(self.phase, Phase::Ended) {
            return None;
        }
        self.handle_hello(boot);
        self.boots_mut().find(|known| known.id == boot)
    }

    /// Up to where the boot that is told of now is accounted for at a server: records, and alerts.
    pub(crate) fn accounted(&self) -> (Option<Sequence>, Option<Sequence>) {
        (self.boot.records.accounted(), self.boot.alerts.accounted())
    }

    /// A stream is open; what the server speaks is not known yet.
    pub(crate) fn handle_opened(&mut self, now: Instant) {
        self.link.handle_opened(now);
    }

    /// The server answered without a welcome.
    pub(crate) fn handle_plain(&mut self) {
        self.link.handle_plain();
    }

    /// The server answered with a welcome.
    pub(crate) fn handle_welcome(&mut self, now: Instant, welcome: &Welcome) {
        if !self.link.handle_welcome(now, message::heartbeat(welcome)) {
            return;
        }
        self.packing = Packing::from(welcome);
        // What the plain form carried before the welcome is acknowledged from now on as well.
        self.handed_over.clear();
        self.boot.rewind();
        // The welcome does not say which alerts are known. They come again, and the server drops repeats.
        if let Some(through) = Sequence::new(welcome.acknowledged) {
            self.boot.records.resume(through);
        }
    }

    /// The server ended the stream in good order after [`Output::Finish`]: it has read all that was put on it.
    pub(crate) fn handle_finished(&mut self, now: Instant) {
        if self.link.handle_finished(now)
            && let Phase::Draining { is_heard_out, .. } = &mut self.phase
        {
            self.boot.records.release_all_handed_over();
            // Another boot has its own stream.
            *is_heard_out = self.waiting.is_empty();
        }
        self.forget_stream();
    }

    /// The stream ended, or could not be opened.
    pub(crate) fn handle_closed(&mut self, now: Instant) {
        self.link.handle_closed(now);
        self.forget_stream();
    }

    fn forget_stream(&mut self) {
        self.handed_over.clear();
        self.boot.rewind();
        for answer in &mut self.answers {
            answer.sent = false;
        }
        self.config_report_due = self.config_report.is_some();
        self.turn = Turn::Running;
    }

    /// The transport took a message.
    pub(crate) fn handle_transmitted(&mut self, now: Instant, ticket: Ticket) {
        self.link.free_slot();
        if let Ticket::Plain(sequence) = ticket
            && self.link.state() == LinkState::Plain
        {
            if self.handed_over.is_empty() {
                self.vigil = Vigil::new(now);
            }
            // At most one for each record held.
            self.handed_over.push_back((now + PLAIN_CONFIRMED_AFTER, sequence));
        }
    }

    /// The server said something.
    pub(crate) fn handle_message(&mut self, now: Instant, command: Command) {
        let Some(said) = command.message else { return self.on_command(&command) };
        match said.body {
            Some(ServerBody::Ack(ack)) => {
                if ack.boot.map(BootId::from) != Some(self.boot.id) {
                    return;
                }
                if let Some(through) = Sequence::new(ack.sequence) {
                    self.boot.records.acknowledge(through);
                }
                if let Some(through) = Sequence::new(ack.alert_sequence) {
                    self.boot.alerts.acknowledge(through);
                }
            }
            Some(ServerBody::Config(push)) => {
                self.config_report = Some(ConfigReport {
                    revision: push.revision,
                    outcome: ConfigOutcome::Rejected.into(),
                    reason: ONE_WAY.to_owned(),
                    overridden: Vec::new(),
                    running: 0,
                });
                self.config_report_due = true;
            }
            Some(ServerBody::ResponseAck(ack)) => {
                self.answers.retain(|answer| answer.command.as_str() != ack.command_id);
            }
            Some(ServerBody::Ping(_)) => self.link.hasten_heartbeat(now),
            // What a relay has under way is bounded by its backlog, which is smaller than any credit.
            Some(ServerBody::Credit(_)) => {}
            // A later server may say more; what is not understood has no effect.
            None => {}
        }
    }

    /// Nothing that a device is asked for can be done, so a command that comes again is harmless.
    fn on_command(&mut self, command: &Command) {
        // One without a name cannot be answered.
        let Ok(id) = command.command_id.parse::<CommandId>() else { return };
        self.answers.retain(|answer| answer.command != id);
        if ANSWERS_MAX <= self.answers.len() {
            self.answers.pop_front();
        }
        let kind = match CommandType::try_from(command.r#type) {
            Ok(CommandType::Status) => AnswerKind::Status,
            Ok(
                CommandType::Stop
                | CommandType::Start
                | CommandType::UpdateConfig
                | CommandType::Restart,
            )
            | Err(_) => AnswerKind::Refusal,
        };
        self.answers.push_back(Answer { command: id, kind, sent: false });
    }

    /// The process is about to end. Told twice, it does not wait for what is held.
    pub(crate) fn handle_shutdown(&mut self, now: Instant) {
        match &mut self.phase {
            Phase::Serving => {
                let until = now + DRAIN_MAX;
                self.phase = Phase::Draining { until, farewell_said: false, is_heard_out: false };
                self.link.hasten_heartbeat(now);
            }
            Phase::Draining { until, .. } => *until = now,
            Phase::Ended => {}
        }
    }

    /// What to do next at `now`; to be asked until the answer is [`Output::Wait`] or [`Output::End`].
    pub(crate) fn poll(&mut self, now: Instant) -> Output {
        self.link.advance(now);
        self.confirm_handed_over(now);
        match self.phase {
            Phase::Serving => {}
            Phase::Draining { .. } => {
                if let Some(output) = self.poll_ending(now) {
                    return output;
                }
            }
            Phase::Ended => return Output::End,
        }
        if let Some(output) = self.poll_next_boot() {
            return output;
        }
        if self.link.poll_dial(now) {
            return Output::Dial(self.boot.id);
        }
        if self.turn == Turn::Running
            && let Some((message, ticket)) = self.poll_transmit(now)
        {
            self.link.take_slot();
            return Output::Transmit(Box::new(message), ticket);
        }
        Output::Wait(self.deadline())
    }

    /// Goes on to the next boot when the one in hand is delivered. One stream carries one boot.
    fn poll_next_boot(&mut self) -> Option<Output> {
        while !self.waiting.is_empty() && self.is_done_with_boot() {
            match self.link.state() {
                LinkState::Down { .. } => {
                    let next = self.waiting.pop_front()?;
                    let done = std::mem::replace(&mut self.boot, next);
                    self.past.add(done.totals());
                }
                // How it goes on will be told.
                LinkState::Dialling => return None,
                LinkState::Undecided { .. }
                | LinkState::Plain
                | LinkState::OneWay
                | LinkState::Full { .. } => {
                    if self.turn == Turn::Over {
                        return None;
                    }
                    self.turn = Turn::Over;
                    // Alerts and gaps that a plain server cannot be told of.
                    self.boot.abandon();
                    return Some(Output::Close);
                }
            }
        }
        None
    }

    /// Whether the server has all of the boot in hand that it can be given. The plain form has no alerts.
    fn is_done_with_boot(&self) -> bool {
        match self.link.state() {
            LinkState::Plain | LinkState::OneWay => self.boot.records.held() == 0,
            LinkState::Down { .. }
            | LinkState::Dialling
            | LinkState::Undecided { .. }
            | LinkState::Full { .. } => self.boot.is_settled(),
        }
    }

    /// What a plain server has had for long enough counts as delivered.
    fn confirm_handed_over(&mut self, now: Instant) {
        if !self.handed_over.is_empty() && self.vigil.look(now) {
            // The server may be gone without the transport having had the time to find out.
            self.handed_over.iter_mut().for_each(|(at, _)| *at = now + PLAIN_CONFIRMED_AFTER);
        }
        while let Some((_, sequence)) = self.handed_over.pop_front_if(|(at, _)| *at <= now) {
            self.boot.records.release_handed_over(sequence);
        }
    }

    /// The end, when it has come; before it the last word.
    fn poll_ending(&mut self, now: Instant) -> Option<Output> {
        let Phase::Draining { until, farewell_said, is_heard_out } = self.phase else {
            return None;
        };
        let is_drained = self.is_drained();
        if !is_drained && now < until && !is_heard_out {
            let is_due = self.boot.records.is_handed_over() && self.link.poll_finish();
            return is_due.then_some(Output::Finish);
        }
        for boot in self.boots_mut() {
            boot.abandon();
        }
        let can_speak = matches!(self.link.state(), LinkState::Full { .. })
            && self.turn == Turn::Running
            && self.link.has_slot();
        if !farewell_said && can_speak {
            self.phase = Phase::Draining { until, farewell_said: true, is_heard_out };
            self.link.take_slot();
            let message = message::envelope(&self.agent, Body::Status(self.status()));
            return Some(Output::Transmit(Box::new(message), Ticket::Other));
        }
        self.phase = Phase::Ended;
        Some(Output::End)
    }

    /// Whether everything that the server can be given was given, and confirmed as far as it confirms.
    fn is_drained(&self) -> bool {
        self.waiting.is_empty()
            && match self.link.state() {
                LinkState::Plain | LinkState::OneWay => self.boot.records.held() == 0,
                LinkState::Down { .. }
                | LinkState::Dialling
                | LinkState::Undecided { .. }
                | LinkState::Full { .. } => self.boot.is_settled() && self.answers.is_empty(),
            }
    }

    /// The next message: answers, reports and alerts before records, so that a backlog does not delay them.
    fn poll_transmit(&mut self, now: Instant) -> Option<(MetricsRequest, Ticket)> {
        if !self.link.has_slot() {
            return None;
        }
        match self.link.state() {
            LinkState::Down { .. }
            | LinkState::Dialling
            | LinkState::Undecided { .. }
            | LinkState::OneWay => None,
            LinkState::Plain => {
                let (sequence, sample) = self.boot.records.poll_plain()?;
                let message = message::plain(&self.agent, self.boot.id, sequence, &sample);
                Some((message, Ticket::Plain(sequence)))
            }
            LinkState::Full { .. } => {
                let body = self.poll_body(now)?;
                Some((message::envelope(&self.agent, body), Ticket::Other))
            }
        }
    }

    fn poll_body(&mut self, now: Instant) -> Option<Body> {
        if let Some(index) = self.answers.iter().position(|answer| !answer.sent) {
            self.answers[index].sent = true;
            return Some(Body::Response(self.response(&self.answers[index])));
        }
        if std::mem::take(&mut self.config_report_due) {
            return self.config_report.clone().map(Body::Config);
        }
        if self.link.poll_heartbeat(now) {
            return Some(Body::Status(self.status()));
        }
        if let Some(batch) = self.boot.alerts.poll_batch(BATCH_ALERTS_MAX as u64) {
            let losses = batch.losses.iter().map(message::loss).collect();
            return Some(Body::Alerts(message::alerts(self.boot.id, batch.entries, losses)));
        }
        let batch = self.boot.records.poll_batch(BATCH_RECORDS_MAX)?;
        let losses = batch.losses.iter().map(message::loss).collect();
        let records = message::records(self.boot.id, &batch.entries, losses, self.packing);
        Some(Body::Records(records))
    }

    fn response(&self, answer: &Answer) -> CommandResponse {
        let (outcome, said) = match answer.kind {
            AnswerKind::Status => {
                let message = "what the gateway knows of a device behind a one-way serial link";
                let status = Some(self.status());
                let message = message.to_owned();
                let said = CommandResponse { message, status, ..CommandResponse::default() };
                (CommandOutcome::Succeeded, said)
            }
            AnswerKind::Refusal => {
                let message = ONE_WAY.to_owned();
                (
                    CommandOutcome::Rejected,
                    CommandResponse { message, ..CommandResponse::default() },
                )
            }
        };
        message::answer_to(&answer.command, &self.agent, self.boot.id, outcome, said)
    }

    /// What the gateway knows of the device. Its interval and plugins it does not.
    fn status(&self) -> AgentStatus {
        let state = match self.phase {
            Phase::Serving => RunState::Running,
            Phase::Draining { .. } | Phase::Ended => RunState::Draining,
        };
        let switches = MetricSwitch::all_in(self.boot.metrics);
        AgentStatus {
            state: state.into(),
            uptime_ms: self.boot.uptime.as_ms(),
            ledger: Some(message::ledger(&self.boot.ledger(), &[])),
            metrics: switches.map(|switch| switch.name().to_owned()).collect(),
            sessions: self.link.sessions(),
            last_config: self.config_report.clone(),
            boot: Some(self.boot.id.into()),
            ..AgentStatus::default()
        }
    }

    fn deadline(&self) -> Option<Instant> {
        let drained = match self.phase {
            Phase::Draining { until, .. } => Some(until),
            Phase::Serving | Phase::Ended => None,
        };
        let confirmed = self.handed_over.front().map(|(at, _)| self.vigil.deadline().min(*at));
        [drained, confirmed, self.link.deadline()].into_iter().flatten().min()
    }
}

/// Puts `entries` into `backlog`. Answers how many it had already.
fn take_in<T: Held>(backlog: &mut Backlog<T>, entries: Vec<(Sequence, T)>) -> u64 {
    let admissions = entries.into_iter().map(|(sequence, held)| backlog.push(sequence, held));
    admissions.map(|admission| u64::from(admission == Admission::Repeated)).sum()
}

/// Gives up `excess` entries of `backlogs`, which are those of a device's boots, the oldest boot first.
fn make_room<'b, T: Held + 'b>(
    mut excess: u64,
    backlogs: impl Iterator<Item = &'b mut Backlog<T>>,
) {
    for backlog in backlogs {
        while 0 < excess && backlog.evict() {
            excess -= 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proto::{Ack, ConfigPush, Loss, LossReason, Ping, ResponseAck, ServerMessage};

    use super::super::backlog::tests::alert;
    use super::super::record::tests::record;
    use super::*;

    const OLD: BootId = BootId { counter: 1, nonce: 7 };
    const NEW: BootId = BootId { counter: 2, nonce: 8 };

    /// A relay and the server that it talks to, with a clock of its own.
    struct Site {
        relay: Relay,
        now: Instant,
        sent: Vec<(MetricsRequest, Ticket)>,
        dialled: Vec<BootId>,
        closes: usize,
        finishes: usize,
        ended: bool,
    }

    impl Site {
        fn new() -> Self {
            let now = Instant::from_ms(0);
            let mut site = Self {
                relay: Relay::new(now, "mcu-1".parse().unwrap(), OLD, 1),
                now,
                sent: Vec::new(),
                dialled: Vec::new(),
                closes: 0,
                finishes: 0,
                ended: false,
            };
            site.drain();
            site
        }

        /// With a stream to a server that welcomes it.
        fn connected() -> Self {
            let mut site = Self::new();
            site.open();
            site.welcome(0);
            site
        }

        fn drain(&mut self) -> Option<Instant> {
            loop {
                match self.relay.poll(self.now) {
                    Output::Dial(boot) => self.dialled.push(boot),
                    Output::Transmit(message, ticket) => {
                        self.sent.push((*message, ticket));
                        self.relay.handle_transmitted(self.now, ticket);
                    }
                    Output::Finish => self.finishes += 1,
                    Output::Close => {
                        self.closes += 1;
                        self.relay.handle_closed(self.now);
                    }
                    Output::End => {
                        self.ended = true;
                        return None;
                    }
                    Output::Wait(until) => return until,
                }
            }
        }

        fn pass(&mut self, time: Duration) {
            let end = self.now + time;
            while let Some(until) = self.drain().filter(|until| *until <= end) {
                assert!(self.now < until, "it wakes for nothing");
                self.now = until;
            }
            self.now = end;
            self.drain();
        }

        fn open(&mut self) {
            self.relay.handle_opened(self.now);
            self.drain();
        }

        fn welcome(&mut self, acknowledged: u64) {
            let welcome = Welcome { acknowledged, heartbeat_ms: 10_000, ..Welcome::default() };
            self.relay.handle_welcome(self.now, &welcome);
            self.drain();
        }

        fn hear(&mut self, boot: BootId, numbers: impl IntoIterator<Item = u64>) {
            for number in numbers {
                self.relay.handle_records(boot, vec![(sequence(number), record(number))]);
            }
            self.drain();
        }

        fn hear_alerts(&mut self, boot: BootId, numbers: impl IntoIterator<Item = u64>) {
            let numbered = numbers.into_iter().map(|number| (sequence(number), alert(number)));
            self.relay.handle_alerts(boot, numbered.collect());
            self.drain();
        }

        fn say(&mut self, body: ServerBody) {
            let message = Some(ServerMessage { body: Some(body) });
            self.relay.handle_message(self.now, Command { message, ..Command::default() });
            self.drain();
        }

        fn acknowledge(&mut self, boot: BootId, sequence: u64) {
            self.say(ServerBody::Ack(Ack { boot: Some(boot.into()), sequence, ..Ack::default() }));
        }

        fn acknowledge_alerts(&mut self, boot: BootId, alert_sequence: u64) {
            self.say(ServerBody::Ack(Ack {
                boot: Some(boot.into()),
                alert_sequence,
                ..Ack::default()
            }));
        }

        fn command(&mut self, id: &str, kind: i32) {
            let command = Command { command_id: id.to_owned(), r#type: kind, ..Command::default() };
            self.relay.handle_message(self.now, command);
            self.drain();
        }

        fn bodies(&mut self) -> Vec<Body> {
            let sent = std::mem::take(&mut self.sent);
            sent.into_iter().map(|(message, _)| message.message.unwrap().body.unwrap()).collect()
        }

        /// The numbers of the records in the batches sent since it was asked last, and the losses.
        fn records(&mut self) -> (Vec<u64>, Vec<Loss>) {
            let (mut numbers, mut losses) = (Vec::new(), Vec::new());
            for body in self.bodies() {
                if let Body::Records(batch) = body {
                    numbers.extend(batch.records.iter().map(|record| record.sequence));
                    losses.extend(batch.losses);
                }
            }
            (numbers, losses)
        }

        /// As `records`, of alerts.
        fn alerts(&mut self) -> (Vec<u64>, Vec<Loss>) {
            let (mut numbers, mut losses) = (Vec::new(), Vec::new());
            for body in self.bodies() {
                if let Body::Alerts(batch) = body {
                    assert!(batch.alerts.len() + batch.losses.len() <= BATCH_ALERTS_MAX);
                    numbers.extend(batch.alerts.iter().map(|alert| alert.sequence));
                    losses.extend(batch.losses);
                }
            }
            (numbers, losses)
        }

        /// Loses the stream and gets the next one, to a server that welcomes it.
        fn reconnect(&mut self) {
            self.relay.handle_closed(self.now);
            self.pass(Duration::from_secs(1));
            self.open();
            self.welcome(0);
        }
    }

    fn sequence(number: u64) -> Sequence {
        Sequence::new(number).unwrap()
    }

    #[test]
    fn records_go_out_in_batches_and_come_again_until_they_are_acknowledged() {
        let mut site = Site::connected();
        site.hear(OLD, 1..=3);
        assert_eq!(site.records().0, [1, 2, 3]);
        site.acknowledge(NEW, 3);
        site.acknowledge(OLD, 2);
        site.relay.handle_closed(site.now);
        site.pass(Duration::from_secs(1));
        assert_eq!(site.dialled, [OLD, OLD]);
        site.open();
        site.welcome(0);
        assert_eq!(site.records().0, [3]);
        site.acknowledge(OLD, 3);
        assert!(site.relay.is_settled());
        assert_eq!(site.relay.totals().records.delivered, 3);
    }

    #[test]
    fn a_new_boot_gets_a_stream_of_its_own_once_the_old_one_is_delivered() {
        let mut site = Site::connected();
        site.hear(OLD, 1..=2);
        site.hear(NEW, 1..=1);
        site.hear(OLD, 3..=3);
        assert_eq!((site.records().0, site.closes), (vec![1, 2, 3], 0));
        site.acknowledge(OLD, 3);
        assert_eq!(site.closes, 1);
        site.pass(Duration::from_secs(1));
        assert_eq!(site.dialled, [OLD, NEW]);
        site.open();
        site.welcome(0);
        assert_eq!(site.records().0, [1]);
        site.acknowledge(NEW, 1);
        assert!(site.relay.is_settled());
        assert_eq!(site.relay.totals().records.delivered, 4);
    }

    #[test]
    fn a_device_that_reboots_while_the_server_is_away_keeps_its_boots_apart() {
        let mut site = Site::new();
        site.hear(OLD, 1..=2);
        site.hear(NEW, 1..=2);
        site.relay.handle_closed(site.now);
        for boot in [OLD, NEW] {
            site.pass(Duration::from_secs(1));
            assert_eq!(site.dialled.last(), Some(&boot));
            site.open();
            site.welcome(0);
            assert_eq!(site.records().0, [1, 2]);
            site.acknowledge(boot, 2);
        }
        assert!(site.relay.is_settled());
    }

    #[test]
    fn a_device_that_reboots_again_and_again_is_bounded_and_accounted_for() {
        let mut site = Site::new();
        for counter in 2..50 {
            site.hear(BootId { counter, nonce: 1 }, 1..=2);
        }
        assert_eq!(site.relay.waiting.len(), BOOTS_WAITING_MAX);
        let totals = site.relay.totals().records;
        assert_eq!(totals.held, 2 * BOOTS_WAITING_MAX as u64);
        assert_eq!(totals.lost + totals.held, 2 * 48);
    }

    #[test]
    fn when_the_queue_is_full_the_oldest_gives_way_and_is_declared() {
        let mut site = Site::new();
        site.hear(OLD, 1..=RECORDS_MAX + 10);
        assert_eq!(site.relay.totals().records.held, RECORDS_MAX);
        site.open();
        site.welcome(0);
        let (numbers, losses) = site.records();
        assert_eq!(numbers.first(), Some(&11));
        let [loss] = losses.as_slice() else { panic!("{losses:?}") };
        assert_eq!((loss.first, loss.last, loss.never_sent), (1, 10, 10));
        assert_eq!(loss.reason(), LossReason::Overwritten);
    }

    #[test]
    fn what_the_link_swallowed_is_declared() {
        let mut site = Site::connected();
        site.hear(OLD, [3, 4]);
        let (numbers, losses) = site.records();
        assert_eq!(numbers, [3, 4]);
        assert_eq!((losses[0].first, losses[0].last, losses[0].reason()), (1, 2, LossReason::Link));
        site.hear(OLD, [2, 4]);
        assert_eq!(site.relay.totals().records.repeated, 2);
    }

    #[test]
    fn alerts_go_out_before_records_and_come_again_until_they_are_acknowledged() {
        let mut site = Site::new();
        site.hear(OLD, 1..=100);
        site.hear_alerts(OLD, 1..=3);
        site.open();
        site.welcome(0);
        let bodies = site.bodies();
        let Some([Body::Alerts(alerts), Body::Records(_)]) = bodies.get(1..3) else {
            panic!("{bodies:?}")
        };
        assert_eq!((alerts.boot, alerts.alerts.len()), (Some(OLD.into()), 3));
        assert_eq!(alerts.alerts[2], proto::convert::alert_record(sequence(3), &alert(3)));
        site.acknowledge(OLD, 100);
        assert!(!site.relay.is_settled(), "an acknowledgement of records says nothing of alerts");
        site.acknowledge_alerts(NEW, 3);
        site.acknowledge_alerts(OLD, 2);
        site.reconnect();
        assert_eq!(site.alerts().0, [3]);
        site.acknowledge_alerts(OLD, 3);
        assert!(site.relay.is_settled());
        assert_eq!(site.relay.totals().alerts.delivered, 3);
    }

    #[test]
    fn alerts_that_the_link_swallowed_are_declared_and_repeats_are_dropped() {
        let mut site = Site::connected();
        site.hear_alerts(OLD, [3, 4]);
        site.hear_alerts(OLD, [2, 4]);
        let (numbers, losses) = site.alerts();
        assert_eq!(numbers, [3, 4]);
        let [loss] = losses.as_slice() else { panic!("{losses:?}") };
        assert_eq!((loss.first, loss.last, loss.reason()), (1, 2, LossReason::Link));
        site.acknowledge_alerts(OLD, 4);
        let tally = Tally { delivered: 2, lost: 2, held: 0, repeated: 2 };
        assert_eq!(site.relay.totals().alerts, tally);
    }

    #[test]
    fn no_amount_of_records_displaces_an_alert() {
        let mut site = Site::new();
        site.hear_alerts(OLD, 1..=ALERTS_MAX);
        site.hear(OLD, 1..=RECORDS_MAX + 10);
        assert_eq!(site.relay.totals().alerts.held, ALERTS_MAX);
        site.hear_alerts(OLD, [ALERTS_MAX + 1]);
        let Totals { records, alerts } = site.relay.totals();
        assert_eq!((records.held, records.lost), (RECORDS_MAX, 10));
        assert_eq!((alerts.held, alerts.lost), (ALERTS_MAX, 1));
        site.open();
        site.welcome(0);
        let (numbers, losses) = site.alerts();
        assert_eq!(numbers.first(), Some(&2));
        let [loss] = losses.as_slice() else { panic!("{losses:?}") };
        assert_eq!((loss.first, loss.last, loss.reason()), (1, 1, LossReason::Overwritten));
    }

    #[test]
    fn a_boot_is_done_with_once_its_alerts_are_delivered_too() {
        let mut site = Site::connected();
        site.hear(OLD, [1]);
        site.hear_alerts(OLD, [1]);
        site.hear_alerts(NEW, [1]);
        site.acknowledge(OLD, 1);
        assert_eq!(site.closes, 0);
        site.acknowledge_alerts(OLD, 1);
        assert_eq!(site.closes, 1);
        site.pass(Duration::from_secs(1));
        assert_eq!(site.dialled, [OLD, NEW]);
        site.bodies();
        site.open();
        site.welcome(0);
        assert_eq!(site.alerts().0, [1]);
        site.acknowledge_alerts(NEW, 1);
        assert!(site.relay.is_settled());
    }

    #[test]
    fn alerts_wait_while_the_server_is_a_plain_one() {
        let mut site = Site::new();
        site.open();
        site.hear(OLD, [1]);
        site.hear_alerts(OLD, [1]);
        site.pass(Duration::from_secs(30));
        let Totals { records, alerts } = site.relay.totals();
        assert_eq!((site.sent.len(), records.delivered, alerts.held), (1, 1, 1));
        site.sent.clear();
        site.reconnect();
        assert_eq!(site.alerts().0, [1]);
    }

    #[test]
    fn alerts_that_no_server_takes_are_counted_when_the_device_is_given_up_or_starts_anew() {
        let mut site = Site::new();
        site.open();
        site.pass(Duration::from_secs(2));
        site.hear_alerts(OLD, [1, 2]);
        assert!(site.relay.is_settled(), "a plain server was given all that it takes");
        site.hear_alerts(NEW, [1]);
        assert_eq!(site.closes, 1);
        let alerts = site.relay.give_up().alerts;
        assert_eq!((alerts.lost, alerts.held), (3, 0));
    }

    #[test]
    fn a_status_has_the_books_of_alerts() {
        let mut site = Site::connected();
        site.hear(OLD, [1]);
        site.hear_alerts(OLD, [2, 3, 5]);
        site.acknowledge_alerts(OLD, 3);
        site.bodies();
        site.say(ServerBody::Ping(Ping {}));
        let bodies = site.bodies();
        let [Body::Status(status)] = &bodies[..] else { panic!("{bodies:?}") };
        assert_eq!(status.uptime_ms, 5000);
        let alerts = status.ledger.as_ref().unwrap().alerts.as_ref().unwrap();
        let lost = alerts.lost.iter().map(|lost| (lost.name.as_str(), lost.count));
        assert_eq!(lost.collect::<Vec<_>>(), [("link", 2)]);
        assert_eq!((alerts.recorded, alerts.delivered, alerts.held), (5, 2, 1));
        assert!(site.relay.boot.ledger().balances());
    }

    #[test]
    fn commands_are_refused_and_answered_until_the_answer_is_acknowledged() {
        let mut site = Site::connected();
        site.bodies();
        site.command("c1", CommandType::Restart.into());
        site.command("c2", CommandType::Status.into());
        site.command("c3", 77);
        site.command("", CommandType::Stop.into());
        let mut outcomes = Vec::new();
        for body in site.bodies() {
            let Body::Response(response) = body else { panic!("{body:?}") };
            assert!(response.message.contains("one-way serial link"));
            outcomes.push((response.command_id.clone(), response.outcome(), response.status));
        }
        let [(c1, first, None), (c2, second, Some(status)), (c3, third, None)] = &outcomes[..]
        else {
            panic!("{outcomes:?}")
        };
        assert_eq!((c1.as_str(), c2.as_str(), c3.as_str()), ("c1", "c2", "c3"));
        assert_eq!([*first, *third], [CommandOutcome::Rejected; 2]);
        assert_eq!(*second, CommandOutcome::Succeeded);
        assert_eq!((status.state(), status.boot), (RunState::Running, Some(OLD.into())));

        site.say(ServerBody::ResponseAck(ResponseAck { command_id: "c1".to_owned() }));
        site.relay.handle_closed(site.now);
        site.pass(Duration::from_secs(1));
        site.open();
        site.welcome(0);
        let again = site.bodies();
        assert_eq!(again.iter().filter(|body| matches!(body, Body::Response(_))).count(), 2);
    }

    #[test]
    fn a_configuration_is_rejected() {
        let mut site = Site::connected();
        site.bodies();
        let document = "{}".to_owned();
        site.say(ServerBody::Config(ConfigPush { revision: 4, document }));
        let bodies = site.bodies();
        let [Body::Config(report)] = &bodies[..] else { panic!("{bodies:?}") };
        assert_eq!((report.revision, report.outcome()), (4, ConfigOutcome::Rejected));
        assert_eq!(report.reason, ONE_WAY);
    }

    #[test]
    fn a_status_is_said_at_each_heartbeat_and_when_asked() {
        let mut site = Site::connected();
        assert!(matches!(site.bodies()[..], [Body::Status(_)]));
        site.say(ServerBody::Ping(Ping {}));
        assert!(matches!(site.bodies()[..], [Body::Status(_)]));
        site.pass(Duration::from_secs(30));
        assert_eq!(site.bodies().len(), 3);
    }

    #[test]
    fn a_plain_server_gets_records_that_count_once_it_has_had_them_for_long_enough() {
        let mut site = Site::new();
        site.open();
        site.hear(OLD, [2, 3]);
        site.pass(Duration::from_secs(2));
        let sent = site.sent.iter().map(|(message, _)| message.sequence).collect::<Vec<_>>();
        assert_eq!(sent, [2, 3]);
        assert!(site.sent.iter().all(|(message, _)| message.message.is_none()));
        assert_eq!(site.relay.totals().records.held, 2);
        site.pass(Duration::from_secs(21));
        let Tally { held, delivered, lost, .. } = site.relay.totals().records;
        assert_eq!((held, delivered, lost), (0, 2, 1));
        // The next boot follows.
        site.hear(NEW, [1]);
        assert_eq!(site.closes, 1);
    }

    #[test]
    fn a_plain_server_has_at_the_end_what_it_heard_out() {
        for is_heard in [true, false] {
            let mut site = Site::new();
            site.open();
            site.hear(OLD, [1]);
            site.pass(Duration::from_secs(2));
            site.relay.handle_shutdown(site.now);
            site.drain();
            assert_eq!((site.finishes, site.ended), (1, false));
            if is_heard {
                site.relay.handle_finished(site.now);
                site.drain();
            } else {
                site.pass(DRAIN_MAX);
            }
            assert!(site.ended);
            let Tally { delivered, lost, .. } = site.relay.totals().records;
            assert_eq!((delivered, lost), if is_heard { (1, 0) } else { (0, 1) });
        }
    }

    #[test]
    fn time_in_which_the_gateway_stood_still_proves_nothing_of_a_plain_server() {
        let mut site = Site::new();
        site.open();
        site.hear(OLD, [1]);
        site.pass(Duration::from_secs(2));
        site.now = site.now + Duration::from_secs(300);
        site.drain();
        assert_eq!(site.relay.totals().records.delivered, 0);
        site.pass(Duration::from_secs(21));
        assert_eq!(site.relay.totals().records.delivered, 1);
    }

    #[test]
    fn a_shutdown_delivers_what_is_held_and_says_farewell() {
        let mut site = Site::connected();
        site.hear(OLD, 1..=2);
        site.hear_alerts(OLD, [1]);
        site.relay.handle_shutdown(site.now);
        site.drain();
        site.acknowledge(OLD, 2);
        assert!(!site.ended, "it waits for the acknowledgement of the alert as well");
        site.bodies();
        site.acknowledge_alerts(OLD, 1);
        assert!(site.ended);
        let bodies = site.bodies();
        let Some(Body::Status(status)) = bodies.last() else { panic!("{bodies:?}") };
        assert_eq!(status.state(), RunState::Draining);
        assert_eq!(status.ledger.as_ref().unwrap().delivered, 2);
    }

    #[test]
    fn a_shutdown_without_a_server_ends_in_time_and_counts_what_it_gives_up() {
        let mut site = Site::new();
        site.hear(OLD, 1..=2);
        site.relay.handle_shutdown(site.now);
        site.pass(DRAIN_MAX);
        assert!(site.ended);
        assert_eq!(site.relay.totals().records.lost, 2);
        let mut site = Site::new();
        site.hear(OLD, 1..=2);
        site.relay.handle_shutdown(site.now);
        site.relay.handle_shutdown(site.now);
        site.drain();
        assert!(site.ended, "asked twice");
    }
}
