//! The agent: one state machine that decides when to collect, what to send, and what a command does.
//!
//! It does no I/O and knows no clock. The shell hands in an [`Input`] together with the time, then asks
//! [`Agent::poll`] again and again until it answers [`Output::Wait`], then waits for that time or the next input.
//! Waking early is harmless. The same inputs, times and seed give the same outputs.

mod command;
mod gaps;
mod link;
mod outbox;
mod replay;
mod sampler;
mod vigil;

use core::time::Duration;

pub use command::{Action, Answer, Change, Command, CommandSlot, Intent, Kind, Reason};
pub use gaps::{Deferred, Loss};
pub use link::{Link, LinkState};
pub use outbox::Batch;
pub use replay::Lane;
pub use sampler::Place;
pub use vigil::Vigil;

use self::command::{Admission, CommandTable, Repetition};
use self::outbox::Outbox;
use self::replay::Replay;
use self::sampler::Sampler;
use crate::config::Config;
use crate::id::{BootId, CommandId, ConfigRevision, Sequence};
use crate::ledger::{AlertBooks, Ledger, LossReason, PluginBooks};
use crate::limits::{
    ALERT_RING_BYTES, BATCH_ALERTS_MAX, BATCH_RECORDS_MAX, COMMAND_TTL_MAX, COMMANDS_MAX,
    DRAIN_MAX, PLAIN_CONFIRMED_AFTER, RING_BYTES,
};
use crate::metric::{Metric, MetricSet};
use crate::plugin::own::{NoPlugins, OwnPlugins};
use crate::plugin::{Chain, Outlet};
use crate::record::{Alert, Sample, Snapshot};
use crate::ring::{Inline, Memory, Range};
use crate::time::Instant;

/// Everything that can happen to an agent.
#[derive(Clone, Debug)]
pub enum Input {
    /// Time has passed.
    Tick,
    /// The collector measured what [`Output::Collect`] asked for.
    Snapshot(Snapshot),
    /// The collector could not measure.
    SnapshotFailed,
    /// A stream to the server is open; what the server speaks is not known yet.
    LinkOpened,
    /// The server answered without a welcome: it knows only the fixed facts.
    LinkPlain,
    /// A byte link is open, on which nobody answers: a record counts as delivered when the transport took it.
    LinkOneWay,
    /// The server answered with a welcome.
    LinkWelcomed {
        /// The highest sequence of this boot that the server knows to be durable.
        acknowledged: Option<Sequence>,
        /// The longest silence that it wants to see.
        heartbeat: Option<Duration>,
        /// As [`Input::Credit`].
        credit: Credit,
    },
    /// How many bytes of records may be on their way from now on.
    Credit(Credit),
    /// The stream ended, or could not be opened.
    LinkClosed,
    /// The stream ended in good order after [`Output::Finish`]: the server has read all that was put on it.
    LinkFinished,
    /// The transport took this message from the shell.
    Transmitted(Transmit),
    /// The server made everything of a boot up to a sequence durable.
    Acknowledged {
        /// Which boot; one that is not this boot is ignored.
        boot: BootId,
        /// The last sequence covered.
        through: Sequence,
    },
    /// The server made the alerts of a boot up to a sequence of their own durable.
    AlertsAcknowledged {
        /// Which boot; one that is not this boot is ignored.
        boot: BootId,
        /// The last sequence covered.
        through: Sequence,
    },
    /// The records and alerts up to these are in the spool, which will bring them.
    Deferred {
        /// The last record; none when only alerts are.
        records: Option<Sequence>,
        /// The last alert.
        alerts: Option<Sequence>,
    },
    /// What the spool can do now.
    SpoolChanged {
        /// It can take what is held when the agent ends.
        is_writable: bool,
        /// It has a batch to be replayed.
        has_batch: bool,
    },
    /// The server made a replayed batch durable.
    Replayed,
    /// The spool has brought so many of this boot.
    SpoolDelivered {
        /// What they are.
        lane: Lane,
        /// How many.
        count: u64,
    },
    /// The spool has lost so many of this boot.
    SpoolLost {
        /// What they are.
        lane: Lane,
        /// Why.
        reason: LossReason,
        /// How many.
        count: u64,
    },
    /// The server made the answer to a command durable.
    AnswerAcknowledged(CommandId),
    /// The server wants a status now.
    Ping,
    /// A command came.
    Command(Command),
    /// The server pushed a configuration: a valid one, or the reason why it is not.
    Configure {
        /// Its revision.
        revision: ConfigRevision,
        /// What the shell made of it.
        config: Result<Config, Reason>,
    },
    /// A configuration of an earlier time is in force: the one that the shell kept over a restart, or the one before a
    /// configuration that it takes back. Nothing is reported.
    Restore {
        /// Its revision; 0 when it is not from the server.
        revision: ConfigRevision,
        /// It must be valid.
        config: Config,
    },
    /// The shell took a configuration back, or the server pushed one that was taken back before.
    RolledBack {
        /// The revision that is not in force.
        revision: ConfigRevision,
        /// Why.
        reason: Reason,
    },
    /// Configurations come from another store from now on, whose revisions do not compare with those before.
    StoreChanged,
    /// What [`Output::Remember`] asked for is durable, or why it cannot be. A shell that has no place for it says at once
    /// that it is: then commands run once in each boot.
    Remembered(Result<(), Reason>),
    /// What an earlier boot began, as [`Agent::intents`] gave it: it does not run again. For the start, before all else.
    Recall(Intent),
    /// An earlier boot was stopped by a command, so this one begins stopped. For the start, as [`Input::Recall`].
    RecallStopped,
    /// [`Output::Restart`] did not work.
    RestartFailed(Reason),
    /// The process was asked to end. Asked twice, it ends without delivering what it holds.
    Shutdown,
}

/// What the shell has to do next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Output {
    /// Measure these metrics and hand in the snapshot.
    Collect(MetricSet),
    /// Open a stream to the server.
    Dial,
    /// Put this on the stream.
    Transmit(Transmit),
    /// Make [`Agent::intents`] and [`Agent::is_to_stay_stopped`] durable in place of what was before, then hand in
    /// [`Input::Remembered`], before any other input. A command waits for it.
    Remember,
    /// Put into the spool what [`Agent::held_records`] and [`Agent::held_alerts`] give, and hand in [`Input::Deferred`]: the
    /// agent is about to end. Given once; what is not deferred after it is lost.
    Spool,
    /// Say on the stream that no message follows, and hand in [`Input::LinkFinished`] when the server then ends it in good order. A
    /// server that acknowledges nothing proves so that it has read everything.
    Finish,
    /// Restart the process for the command in [`Agent::restart_command`].
    Restart,
    /// End the process.
    Exit,
    /// Nothing, until the next input or this time.
    Wait(Option<Instant>),
}

/// A message for the stream. Its content is read from the agent before the next input.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transmit {
    /// The records of [`Agent::records`], and a loss.
    Batch(Batch),
    /// One record in the plain form.
    Plain(Batch),
    /// The alerts of [`Agent::alerts`], and a loss of alerts.
    Alerts(Batch),
    /// The next batch of the spool, which is for the shell to know.
    Replay,
    /// The answer of [`Agent::answer`].
    Answer(CommandSlot),
    /// The command of [`Agent::begun`] has begun, and takes a while.
    Begun(CommandSlot),
    /// The report of [`Agent::config_report`].
    ConfigReport,
    /// The status of [`Agent::status`].
    Status,
}

/// Whether the agent collects.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RunState {
    /// It does.
    Running,
    /// It does not, but it answers commands.
    Stopped,
    /// It delivers what it holds, then ends.
    Draining,
}

/// What became of the configurations that the server pushed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigReport {
    /// The revision that was pushed; 0 is what the shell had kept from before and could not use.
    pub revision: ConfigRevision,
    /// Whether it is in force, or why not.
    pub outcome: ConfigOutcome,
    /// The revision in force after it; 0: none from the server.
    pub running: ConfigRevision,
}

/// What became of one configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ConfigOutcome {
    /// It is in force.
    Applied,
    /// It cannot be used.
    Rejected(Reason),
    /// It was in force, and was taken back.
    RolledBack(Reason),
}

/// What an agent says of itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Status {
    /// Whether it collects.
    pub state: RunState,
    /// Time since the agent was made.
    pub uptime: Duration,
    /// The books of this boot.
    pub ledger: Ledger,
    /// The revision in force; 0 when there is none from the server.
    pub config_revision: ConfigRevision,
    /// Ticks skipped because the snapshot before was not done.
    pub samples_late: u64,
    /// Streams opened.
    pub sessions: u64,
    /// Acknowledgements refused because they named what was never sent.
    pub refused_acknowledgements: u64,
}

/// How many bytes of records a server takes before it acknowledges the first of them. A record counts with its bytes in
/// the ring. One batch may always be on its way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Credit {
    /// As many as there are.
    Unlimited,
    /// At most so many.
    Bytes(usize),
}

impl Credit {
    const fn bytes(self) -> usize {
        match self {
            Self::Unlimited => usize::MAX,
            Self::Bytes(bytes) => bytes,
        }
    }
}

/// A command that restarted the process that was here before.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Restarted {
    /// The command, which this boot answers.
    pub command: CommandId,
    /// The boot that took it.
    pub previous: BootId,
}

/// A command that waits until it is durable that it begins.
#[derive(Clone, Debug)]
struct Intended {
    // What the table calls running, unless it has no name.
    is_named: bool,
    action: Action,
    expires_at: Instant,
}

/// Why the agent drains.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ending {
    Exit,
    Restart,
}

/// Records that a plain peer was handed. They are confirmed in turns: all of one turn when its time is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct HandedOver {
    // Those of the turn that runs: confirms <= through.
    confirms: Sequence,
    confirmed_at: Instant,
    // Those of the next turn as well.
    through: Sequence,
    vigil: Vigil,
}

impl HandedOver {
    fn new(now: Instant, through: Sequence) -> Self {
        let confirmed_at = now + PLAIN_CONFIRMED_AFTER;
        Self { confirms: through, confirmed_at, through, vigil: Vigil::new(now) }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mode {
    Running,
    Stopped,
    Draining {
        ending: Ending,
        until: Instant,
        resume: Resume,
        has_spooled: bool,
        // A plain server has read all that it can be given.
        is_heard_out: bool,
    },
    // The output that ends the process was given.
    Ended {
        resume: Resume,
    },
}

/// What to go back to when a restart fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Resume {
    Running,
    Stopped,
}

/// The two outboxes: alerts have room of their own, so that no amount of samples can displace one.
#[derive(Debug)]
struct Outgoing<const RING: usize, M> {
    samples: Outbox<Sample, RING, M>,
    alerts: Outbox<Alert, ALERT_RING_BYTES>,
}

impl<const RING: usize, M: Memory> Outgoing<RING, M> {
    fn new() -> Self {
        Self { samples: Outbox::new(), alerts: Outbox::new() }
    }

    fn rewind(&mut self) {
        self.samples.rewind();
        self.alerts.rewind();
    }

    fn release_handed_over(&mut self) {
        self.samples.release_handed_over();
        self.alerts.release_handed_over();
    }

    fn holds_any(&self) -> bool {
        self.samples.held() > 0 || self.alerts.held() > 0
    }

    fn abandon(&mut self) {
        self.samples.abandon();
        self.alerts.abandon();
    }
}

impl<const RING: usize, M: Memory> Outlet for Outgoing<RING, M> {
    fn sample(&mut self, sample: Sample) {
        self.samples.push(&sample);
    }

    fn alert(&mut self, alert: Alert) {
        self.alerts.push(&alert);
    }
}

/// See the module's documentation. Its memory is all inside it, unless the ring is told to be elsewhere: about 300 KiB, nearly
/// all of it the ring.
///
/// `RING` is how many bytes of records it holds until they are acknowledged, `COMMANDS` how many commands it
/// remembers, and `O` the program's own plugins, if it has any. The defaults suit a host; a device with some KiB of
/// memory names smaller ones, at about 50 bytes for a record and 300 for a command. `M` is where the ring keeps its bytes.
#[derive(Debug)]
pub struct Agent<
    const RING: usize = RING_BYTES,
    const COMMANDS: usize = COMMANDS_MAX,
    O: OwnPlugins = NoPlugins,
    M = Inline<RING>,
> {
    boot: BootId,
    started_at: Instant,
    mode: Mode,
    config: Config,
    config_revision: ConfigRevision,
    // The newest revision that the current stream has pushed.
    newest_push: ConfigRevision,
    config_report: Option<ConfigReport>,
    config_report_due: bool,
    sampler: Sampler,
    chain: Chain<O>,
    produced: u64,
    plugins: PluginBooks,
    outgoing: Outgoing<RING, M>,
    handed_over: Option<HandedOver>,
    farewell_said: bool,
    replay: Replay,
    credit: Credit,
    commands: CommandTable<COMMANDS>,
    // At most one: the shell answers before it hands in anything else.
    intended: Option<Intended>,
    // What outlives the process has changed.
    remember_due: bool,
    link: Link,
}

impl<const RING: usize, const COMMANDS: usize, O: OwnPlugins> Agent<RING, COMMANDS, O> {
    /// An agent that collects and dials at once, with its ring within it.
    ///
    /// `seed` feeds the jitter of the back-off. `restarted` names the command that this boot has to answer.
    pub fn new(
        now: Instant,
        boot: BootId,
        seed: u64,
        config: Config,
        restarted: Option<Restarted>,
    ) -> Self {
        Self::with_memory(now, boot, seed, config, restarted)
    }
}

impl<const RING: usize, const COMMANDS: usize, O: OwnPlugins, M: Memory>
    Agent<RING, COMMANDS, O, M>
{
    /// As [`Agent::new`], with the ring in memory of the kind `M`.
    pub fn with_memory(
        now: Instant,
        boot: BootId,
        seed: u64,
        config: Config,
        restarted: Option<Restarted>,
    ) -> Self {
        let mut commands = CommandTable::default();
        if let Some(Restarted { command, previous }) = restarted
            && let Admission::Run(slot) = commands.admit(
                now,
                previous,
                &command,
                Repetition::Harmful(Kind::Restart),
                COMMAND_TTL_MAX,
            )
        {
            commands.answer(slot, Answer::Restarted { previous });
        }
        Self {
            boot,
            started_at: now,
            mode: Mode::Running,
            sampler: Sampler::new(now),
            chain: Chain::new(&config),
            config,
            config_revision: ConfigRevision::default(),
            newest_push: ConfigRevision::default(),
            config_report: None,
            config_report_due: false,
            produced: 0,
            plugins: PluginBooks::default(),
            outgoing: Outgoing::new(),
            handed_over: None,
            farewell_said: false,
            replay: Replay::new(),
            credit: Credit::Unlimited,
            commands,
            intended: None,
            remember_due: false,
            link: Link::new(now, seed),
        }
    }

    /// Has the agent take its snapshots at its `place` in the interval, but for the first one after each start, which is
    /// taken at once. Without this they are taken from there on, so that agents started together also sample together.
    pub const fn take_place(&mut self, place: Place) {
        self.sampler.take_place(place);
    }

    /// Takes in what happened at `now`.
    pub fn handle(&mut self, now: Instant, input: Input) {
        match input {
            Input::Tick => {}
            Input::Snapshot(snapshot) => self.on_snapshot(snapshot),
            Input::SnapshotFailed => self.sampler.handle_done(),
            Input::LinkOpened => self.link.handle_opened(now),
            Input::LinkPlain => self.link.handle_plain(),
            Input::LinkOneWay => self.on_one_way(),
            Input::LinkWelcomed { acknowledged, heartbeat, credit } => {
                self.on_welcome(now, acknowledged, heartbeat, credit);
            }
            Input::Credit(credit) => self.credit = credit,
            Input::LinkFinished => self.on_link_finished(now),
            Input::LinkClosed => self.on_link_closed(now),
            Input::Transmitted(transmit) => self.on_transmitted(now, transmit),
            Input::Acknowledged { boot, through } => {
                if boot == self.boot {
                    self.outgoing.samples.acknowledge(through);
                }
            }
            Input::AlertsAcknowledged { boot, through } => {
                if boot == self.boot {
                    self.outgoing.alerts.acknowledge(through);
                }
            }
            Input::Deferred { records, alerts } => {
                if let Some(through) = records {
                    self.outgoing.samples.defer(through);
                }
                if let Some(through) = alerts {
                    self.outgoing.alerts.defer(through);
                }
            }
            Input::SpoolChanged { is_writable, has_batch } => {
                self.replay.handle_spool(is_writable, has_batch);
            }
            Input::Replayed => self.replay.handle_acknowledged(),
            Input::SpoolDelivered { lane, count } => match lane {
                Lane::Records => self.outgoing.samples.spool_delivered(count),
                Lane::Alerts => self.outgoing.alerts.spool_delivered(count),
            },
            Input::SpoolLost { lane, reason, count } => match lane {
                Lane::Records => self.outgoing.samples.spool_lost(reason, count),
                Lane::Alerts => self.outgoing.alerts.spool_lost(reason, count),
            },
            Input::AnswerAcknowledged(id) => self.remember_due |= self.commands.acknowledge(&id),
            Input::Ping => self.link.hasten_heartbeat(now),
            Input::Command(command) => self.on_command(now, command),
            Input::Configure { revision, config } => self.on_configure(now, revision, config),
            Input::Restore { revision, config } => self.on_restore(now, revision, config),
            Input::RolledBack { revision, reason } => {
                self.report_config(revision, ConfigOutcome::RolledBack(reason));
            }
            Input::StoreChanged => self.newest_push = ConfigRevision::default(),
            Input::Remembered(outcome) => self.on_remembered(now, outcome),
            Input::Recall(intent) => {
                // A program with room for fewer than the one before it forgets the last of them.
                self.commands.recall(now, intent);
            }
            Input::RecallStopped => self.mode = Mode::Stopped,
            Input::RestartFailed(reason) => self.on_restart_failed(now, reason),
            Input::Shutdown => self.on_shutdown(now),
        }
        debug_assert!(self.ledger().balances(), "{:?}", self.ledger());
    }

    /// What to do next at `now`. The shell asks until the answer is [`Output::Wait`].
    pub fn poll(&mut self, now: Instant) -> Output {
        self.link.advance(now);
        self.confirm_handed_over(now);
        if core::mem::take(&mut self.remember_due) {
            return Output::Remember;
        }
        if let Some(output) = self.poll_ending(now) {
            return output;
        }
        if self.link.poll_dial(now) {
            return Output::Dial;
        }
        if let Some(transmit) = self.poll_transmit(now) {
            self.link.take_slot();
            return Output::Transmit(transmit);
        }
        let settings = self.config.settings();
        if self.mode == Mode::Running && self.sampler.poll_due(now, settings.interval) {
            return Output::Collect(settings.metrics);
        }
        Output::Wait(self.deadline())
    }

    /// The boot that this agent is.
    pub const fn boot(&self) -> BootId {
        self.boot
    }

    /// The configuration in force.
    pub const fn config(&self) -> &Config {
        &self.config
    }

    /// How far the link has come.
    pub const fn link(&self) -> LinkState {
        self.link.state()
    }

    /// The records of `batch` in sequence order.
    pub fn records(&self, batch: &Batch) -> Range<'_, Sample, RING, M> {
        self.outgoing.samples.range(batch)
    }

    /// The alerts of the `batch` of [`Transmit::Alerts`] in sequence order.
    pub fn alerts(&self, batch: &Batch) -> Range<'_, Alert, ALERT_RING_BYTES> {
        self.outgoing.alerts.range(batch)
    }

    /// All records that are held, in sequence order.
    pub fn held_records(&self) -> Range<'_, Sample, RING, M> {
        self.outgoing.samples.all()
    }

    /// All alerts that are held, in sequence order.
    pub fn held_alerts(&self) -> Range<'_, Alert, ALERT_RING_BYTES> {
        self.outgoing.alerts.all()
    }

    /// How many bytes of the ring are in use.
    pub const fn held_bytes(&self) -> usize {
        self.outgoing.samples.used_bytes()
    }

    /// Whether [`Input::Deferred`] would be heeded, for records and for alerts. It is not while too many ranges were lost
    /// and deferred by turns and no server has confirmed to know.
    pub fn can_defer(&self) -> bool {
        self.outgoing.samples.can_defer() && self.outgoing.alerts.can_defer()
    }

    /// The losses of records that no server has confirmed to know of.
    pub fn unsettled_records(&self) -> impl Iterator<Item = Loss> {
        self.outgoing.samples.unsettled()
    }

    /// The losses of alerts that no server has confirmed to know of.
    pub fn unsettled_alerts(&self) -> impl Iterator<Item = Loss> {
        self.outgoing.alerts.unsettled()
    }

    /// The answer that [`Transmit::Answer`] is about.
    pub fn answer(&self, slot: CommandSlot) -> Option<(&CommandId, &Answer)> {
        self.commands.get(slot)
    }

    /// The command that [`Transmit::Begun`] is about; none once it has an answer.
    pub fn begun(&self, slot: CommandSlot) -> Option<&CommandId> {
        self.commands.begun(slot)
    }

    /// The commands that must not run twice and may still come, be it to another boot: at most as many as it remembers.
    pub fn intents(&self, now: Instant) -> impl Iterator<Item = Intent> + '_ {
        self.commands.intents(now)
    }

    /// Whether the next boot has to begin stopped.
    pub fn is_to_stay_stopped(&self) -> bool {
        match self.intended.as_ref().map(|intended| &intended.action) {
            Some(Action::Stop) => true,
            Some(Action::Start) => false,
            _ => match self.mode {
                Mode::Stopped => true,
                Mode::Running => false,
                Mode::Draining { resume, .. } | Mode::Ended { resume } => resume == Resume::Stopped,
            },
        }
    }

    /// What became of the latest configuration from the server; none if there was none.
    pub const fn config_report(&self) -> Option<&ConfigReport> {
        self.config_report.as_ref()
    }

    /// The command that [`Output::Restart`] is for; none when it had no name.
    pub fn restart_command(&self) -> Option<&CommandId> {
        self.commands.running()
    }

    /// Up to where servers have told this boot that everything is durable, or its loss: records, and alerts. Another
    /// server learns from it where the boot goes on.
    pub fn accounted(&self) -> (Option<Sequence>, Option<Sequence>) {
        (self.outgoing.samples.accounted(), self.outgoing.alerts.accounted())
    }

    /// The books of this boot.
    pub fn ledger(&self) -> Ledger {
        let Outgoing { samples, alerts } = &self.outgoing;
        Ledger {
            produced: self.produced,
            plugins: self.plugins,
            in_plugins: self.chain.held(),
            recorded: samples.recorded(),
            delivered: samples.delivered(),
            lost: samples.lost(),
            held: samples.held(),
            spooled: samples.spooled(),
            alerts: AlertBooks {
                recorded: alerts.recorded(),
                delivered: alerts.delivered(),
                lost: alerts.lost(),
                held: alerts.held(),
                spooled: alerts.spooled(),
            },
        }
    }

    /// What the agent says of itself at `now`.
    pub fn status(&self, now: Instant) -> Status {
        Status {
            state: match self.mode {
                Mode::Running => RunState::Running,
                Mode::Stopped => RunState::Stopped,
                Mode::Draining { .. } | Mode::Ended { .. } => RunState::Draining,
            },
            uptime: now - self.started_at,
            ledger: self.ledger(),
            config_revision: self.config_revision,
            samples_late: self.sampler.late(),
            sessions: self.link.sessions(),
            refused_acknowledgements: self.outgoing.samples.refused_acknowledgements()
                + self.outgoing.alerts.refused_acknowledgements(),
        }
    }

    fn on_snapshot(&mut self, mut snapshot: Snapshot) {
        self.sampler.handle_done();
        // One that was asked for before a STOP comes too late to count.
        if self.mode != Mode::Running {
            return;
        }
        self.produced = self.produced.saturating_add(1);
        if self.config.settings().metrics.contains(Metric::AgentBuffer) {
            snapshot.values.set(Metric::AgentBuffer, self.outgoing.samples.fill());
        }
        self.chain.process(Sample::from(snapshot), &mut self.plugins, &mut self.outgoing);
    }

    fn on_welcome(
        &mut self,
        now: Instant,
        acknowledged: Option<Sequence>,
        heartbeat: Option<Duration>,
        credit: Credit,
    ) {
        if !self.link.handle_welcome(now, heartbeat) {
            return;
        }
        self.newest_push = ConfigRevision::default();
        self.credit = credit;
        if let Some(through) = acknowledged {
            self.outgoing.samples.acknowledge(through);
        }
        // Whatever the plain form carried before the welcome is acknowledged from now on as well.
        self.handed_over = None;
        self.outgoing.rewind();
        self.commands.resend();
        self.config_report_due = self.config_report.is_some();
    }

    fn on_link_finished(&mut self, now: Instant) {
        if self.link.handle_finished(now)
            && let Mode::Draining { is_heard_out, .. } = &mut self.mode
        {
            *is_heard_out = true;
            self.outgoing.samples.release_handed_over();
        }
        self.forget_stream();
    }

    fn on_link_closed(&mut self, now: Instant) {
        self.link.handle_closed(now);
        self.forget_stream();
    }

    fn forget_stream(&mut self) {
        self.handed_over = None;
        self.outgoing.rewind();
        self.replay.handle_closed();
        self.commands.resend();
        self.config_report_due = self.config_report.is_some();
    }

    fn on_one_way(&mut self) {
        self.link.handle_one_way();
        self.outgoing.rewind();
    }

    fn on_transmitted(&mut self, now: Instant, transmit: Transmit) {
        self.link.free_slot();
        let batch = match transmit {
            Transmit::Plain(batch) => batch,
            Transmit::Alerts(batch) => {
                if self.link.state() == LinkState::OneWay {
                    self.outgoing.alerts.release_unconfirmed(batch.first);
                }
                return;
            }
            Transmit::Batch(_)
            | Transmit::Replay
            | Transmit::Answer(_)
            | Transmit::Begun(_)
            | Transmit::ConfigReport
            | Transmit::Status => return,
        };
        match self.link.state() {
            LinkState::OneWay => self.outgoing.samples.release_unconfirmed(batch.first),
            LinkState::Plain => match &mut self.handed_over {
                Some(handed_over) => handed_over.through = batch.first,
                None => self.handed_over = Some(HandedOver::new(now, batch.first)),
            },
            // A stream that was welcomed in between acknowledges what it carried.
            LinkState::Down { .. }
            | LinkState::Dialling
            | LinkState::Undecided { .. }
            | LinkState::Full { .. } => {}
        }
    }

    /// What a plain peer has had for long enough counts as delivered.
    fn confirm_handed_over(&mut self, now: Instant) {
        let Some(handed_over) = &mut self.handed_over else { return };
        if handed_over.vigil.look(now) {
            // The peer may be gone without the transport having had the time to find out.
            *handed_over = HandedOver::new(now, handed_over.through);
        } else if handed_over.confirmed_at <= now {
            let HandedOver { confirms, through, .. } = *handed_over;
            self.outgoing.samples.release_unconfirmed(confirms);
            self.handed_over = (confirms < through).then(|| HandedOver::new(now, through));
        }
    }

    fn on_configure(
        &mut self,
        now: Instant,
        revision: ConfigRevision,
        config: Result<Config, Reason>,
    ) {
        // A late copy of an older push must not undo a newer one. Only within a stream: a server whose store was
        // set up anew counts from 1 again, and is right.
        if revision < self.newest_push {
            return;
        }
        self.newest_push = revision;
        let outcome = match config {
            Ok(config) => match Self::refusal(&config) {
                None => {
                    self.config_revision = revision;
                    self.apply(now, config);
                    ConfigOutcome::Applied
                }
                Some(reason) => ConfigOutcome::Rejected(reason),
            },
            Err(reason) => ConfigOutcome::Rejected(reason),
        };
        self.report_config(revision, outcome);
    }

    fn on_restore(&mut self, now: Instant, revision: ConfigRevision, config: Config) {
        if let Some(reason) = Self::refusal(&config) {
            return self.report_config(revision, ConfigOutcome::Rejected(reason));
        }
        self.config_revision = revision;
        self.apply(now, config);
    }

    fn report_config(&mut self, revision: ConfigRevision, outcome: ConfigOutcome) {
        let running = self.config_revision;
        self.config_report = Some(ConfigReport { revision, outcome, running });
        self.config_report_due = true;
    }

    /// Why a valid configuration still cannot be used: it names a plugin that this program does not have.
    fn refusal(config: &Config) -> Option<Reason> {
        let reason = "plugins: this agent was built without one of the user's own plugins";
        (!Chain::<O>::supports(config)).then(|| Reason::from(reason))
    }

    /// Puts `config` in force between two snapshots.
    fn apply(&mut self, now: Instant, config: Config) {
        self.chain.reconfigure(&self.config, &config, &mut self.plugins, &mut self.outgoing);
        let interval = config.settings().interval;
        if self.config.settings().interval != interval {
            self.sampler.change_interval(now, interval);
        }
        self.config = config;
    }

    fn on_command(&mut self, now: Instant, command: Command) {
        let Command { id, action, time_to_live } = command;
        let repetition = action.repetition();
        let is_harmful = repetition != Repetition::Harmless;
        if is_harmful && self.intended.is_some() {
            if let Some(id) = id.filter(|id| !self.commands.knows(id)) {
                self.commands.refuse(&id);
            }
            return;
        }
        let slot = match &id {
            None => None,
            Some(id) => match self.commands.admit(now, self.boot, id, repetition, time_to_live) {
                Admission::Run(slot) => Some(slot),
                Admission::Repeat | Admission::Busy => return,
            },
        };
        let expires_at = now + time_to_live;
        if is_harmful && self.obstacle(now, expires_at).is_none() {
            self.intended = Some(Intended { is_named: slot.is_some(), action, expires_at });
            self.remember_due = true;
            return;
        }
        if let Some(answer) = self.run(now, action, expires_at)
            && let Some(slot) = slot
        {
            self.commands.answer(slot, answer);
        }
    }

    /// It is durable that the command that waits begins; or it cannot be, then it must not.
    fn on_remembered(&mut self, now: Instant, outcome: Result<(), Reason>) {
        let Some(Intended { is_named, action, expires_at }) = self.intended.take() else {
            return;
        };
        let answer = match outcome {
            Ok(()) => self.run(now, action, expires_at),
            Err(reason) => Some(Answer::NotRecorded(reason)),
        };
        let Some(slot) = self.commands.running_slot().filter(|_| is_named) else {
            return;
        };
        match answer {
            Some(answer) => self.commands.answer(slot, answer),
            None => self.commands.begin(slot),
        }
    }

    /// Why no command that changes anything may begin at `now`, if it must not.
    fn obstacle(&self, now: Instant, expires_at: Instant) -> Option<Answer> {
        if expires_at <= now {
            return Some(Answer::Expired);
        }
        let is_ending = matches!(self.mode, Mode::Draining { .. } | Mode::Ended { .. });
        is_ending.then_some(Answer::ShuttingDown)
    }

    /// Runs a command. No answer: it is still running.
    fn run(&mut self, now: Instant, action: Action, expires_at: Instant) -> Option<Answer> {
        Some(match action {
            _ if expires_at <= now => Answer::Expired,
            Action::Status => Answer::Status,
            Action::Unknown => Answer::Unknown,
            Action::Misdirected => Answer::Misdirected,
            Action::Unremembered => Answer::Unremembered,
            Action::Refused(reason) => Answer::Refused(reason),
            Action::Stop | Action::Start | Action::UpdateConfig(_) | Action::Restart
                if let Some(obstacle) = self.obstacle(now, expires_at) =>
            {
                obstacle
            }
            Action::Stop => Answer::Stopped(self.stop()),
            Action::Start => Answer::Started(self.start(now)),
            Action::UpdateConfig(Ok(config)) => match Self::refusal(&config) {
                None => {
                    self.apply(now, config);
                    Answer::ConfigApplied
                }
                Some(reason) => Answer::ConfigRejected(reason),
            },
            Action::UpdateConfig(Err(reason)) => Answer::ConfigRejected(reason),
            Action::Restart => {
                self.begin_drain(now, Ending::Restart);
                return None;
            }
        })
    }

    fn stop(&mut self) -> Change {
        if self.mode == Mode::Stopped {
            return Change::AlreadySo;
        }
        self.mode = Mode::Stopped;
        self.flush_chain();
        Change::Done
    }

    fn start(&mut self, now: Instant) -> Change {
        if self.mode == Mode::Running {
            return Change::AlreadySo;
        }
        self.mode = Mode::Running;
        self.sampler.restart(now);
        Change::Done
    }

    fn flush_chain(&mut self) {
        self.chain.flush(&mut self.plugins, &mut self.outgoing);
    }

    fn on_shutdown(&mut self, now: Instant) {
        match &mut self.mode {
            Mode::Running | Mode::Stopped => self.begin_drain(now, Ending::Exit),
            // Asked to end while it drains for a restart: it ends instead. Asked a second time: at once.
            Mode::Draining { ending: ending @ Ending::Restart, .. } => *ending = Ending::Exit,
            Mode::Draining { until, ending: Ending::Exit, .. } => *until = now,
            Mode::Ended { .. } => {}
        }
    }

    fn begin_drain(&mut self, now: Instant, ending: Ending) {
        let resume = if self.mode == Mode::Stopped { Resume::Stopped } else { Resume::Running };
        self.flush_chain();
        let until = now + DRAIN_MAX;
        self.mode =
            Mode::Draining { ending, until, resume, has_spooled: false, is_heard_out: false };
        self.farewell_said = false;
        // The server learns that this agent is about to leave.
        self.link.hasten_heartbeat(now);
    }

    fn on_restart_failed(&mut self, now: Instant, reason: Reason) {
        let (Mode::Draining { resume, .. } | Mode::Ended { resume }) = self.mode else {
            return;
        };
        if let Some(slot) = self.commands.running_slot() {
            self.commands.answer(slot, Answer::RestartFailed(reason));
        }
        // The next boot is not the restart that was asked for.
        self.remember_due = true;
        self.mode = Mode::Stopped;
        if resume == Resume::Running {
            self.start(now);
        }
    }

    fn poll_ending(&mut self, now: Instant) -> Option<Output> {
        let Mode::Draining { ending, until, resume, has_spooled, is_heard_out } = self.mode else {
            return matches!(self.mode, Mode::Ended { .. }).then_some(Output::Wait(None));
        };
        let is_drained = self.is_drained();
        // With a spool there is no need to wait for a server that is away.
        let spools_early = self.replay.is_writable() && self.link.is_down();
        if !is_drained && now < until && !spools_early && !is_heard_out {
            let is_due = self.outgoing.samples.is_handed_over() && self.link.poll_finish();
            return is_due.then_some(Output::Finish);
        }
        if is_drained {
            // Nobody answers there. A peer that acknowledges has said what it has.
            if self.link.state() == LinkState::OneWay {
                self.outgoing.release_handed_over();
            }
        } else if self.replay.is_writable() && !has_spooled && self.outgoing.holds_any() {
            self.mode = Mode::Draining { ending, until, resume, has_spooled: true, is_heard_out };
            return Some(Output::Spool);
        }
        self.outgoing.abandon();
        if let Some(declaration) = self.poll_last_declaration() {
            self.link.take_slot();
            return Some(Output::Transmit(declaration));
        }
        // The last word: the books as they are closed.
        if !self.farewell_said && self.can_say_farewell() {
            self.farewell_said = true;
            self.link.take_slot();
            return Some(Output::Transmit(Transmit::Status));
        }
        self.mode = Mode::Ended { resume };
        Some(match ending {
            Ending::Exit => Output::Exit,
            Ending::Restart => Output::Restart,
        })
    }

    /// Whether everything that the peer can be given was given and confirmed as far as it confirms.
    fn is_drained(&self) -> bool {
        match self.link.state() {
            // Answers and alerts have no form there.
            LinkState::Plain => self.outgoing.samples.held() == 0,
            // Nobody answers: what the transport took is all that can be known.
            LinkState::OneWay => {
                self.outgoing.samples.is_handed_over() && self.outgoing.alerts.is_handed_over()
            }
            LinkState::Down { .. }
            | LinkState::Dialling
            | LinkState::Undecided { .. }
            | LinkState::Full { .. } => {
                self.outgoing.samples.held() == 0
                    && self.outgoing.alerts.held() == 0
                    && !self.commands.has_unacknowledged()
                    && !self.has_notice()
            }
        }
    }

    /// Whether a server that understands it is still to hear that a command has begun.
    fn has_notice(&self) -> bool {
        matches!(self.link.state(), LinkState::Full { .. }) && self.commands.has_notice()
    }

    /// What was given up is declared while there is somebody to hear it. Nobody waits for the acknowledgement: a shell that
    /// can keep it declares it again.
    fn poll_last_declaration(&mut self) -> Option<Transmit> {
        if !self.can_say_farewell() {
            return None;
        }
        let alerts = self.outgoing.alerts.poll_batch(BATCH_ALERTS_MAX as u64, usize::MAX);
        alerts.map(Transmit::Alerts).or_else(|| {
            self.outgoing.samples.poll_batch(BATCH_RECORDS_MAX, usize::MAX).map(Transmit::Batch)
        })
    }

    fn can_say_farewell(&self) -> bool {
        matches!(self.link.state(), LinkState::Full { .. }) && self.link.has_slot()
    }

    /// The next message: answers, reports and alerts before records, so that a backlog does not delay them.
    fn poll_transmit(&mut self, now: Instant) -> Option<Transmit> {
        if !self.link.has_slot() {
            return None;
        }
        match self.link.state() {
            LinkState::Down { .. } | LinkState::Dialling | LinkState::Undecided { .. } => None,
            // The plain form has no alerts; the marks on the records say what stands.
            LinkState::Plain => self.outgoing.samples.poll_plain().map(Transmit::Plain),
            LinkState::OneWay => {
                let alert = self.outgoing.alerts.poll_plain().map(Transmit::Alerts);
                alert.or_else(|| self.outgoing.samples.poll_plain().map(Transmit::Plain))
            }
            LinkState::Full { .. } => {
                if let Some(slot) = self.commands.poll_due() {
                    return Some(Transmit::Answer(slot));
                }
                if let Some(slot) = self.commands.poll_begun() {
                    return Some(Transmit::Begun(slot));
                }
                if core::mem::take(&mut self.config_report_due) {
                    return Some(Transmit::ConfigReport);
                }
                if self.link.poll_heartbeat(now) {
                    return Some(Transmit::Status);
                }
                let alerts = self.outgoing.alerts.poll_batch(BATCH_ALERTS_MAX as u64, usize::MAX);
                if let Some(alerts) = alerts {
                    return Some(Transmit::Alerts(alerts));
                }
                // Live records and those of the spool take turns, so that neither waits for all of the other.
                if self.replay.is_its_turn() && self.replay.poll() {
                    return Some(Transmit::Replay);
                }
                let credit = self.credit.bytes();
                if let Some(batch) = self.outgoing.samples.poll_batch(BATCH_RECORDS_MAX, credit) {
                    self.replay.handle_live();
                    return Some(Transmit::Batch(batch));
                }
                self.replay.poll().then_some(Transmit::Replay)
            }
        }
    }

    fn deadline(&self) -> Option<Instant> {
        let sample = (self.mode == Mode::Running).then(|| self.sampler.deadline());
        let drained = match self.mode {
            Mode::Draining { until, .. } => Some(until),
            Mode::Running | Mode::Stopped | Mode::Ended { .. } => None,
        };
        let confirmed = self
            .handed_over
            .map(|handed_over| handed_over.confirmed_at.min(handed_over.vigil.deadline()));
        [sample, drained, confirmed, self.link.deadline()].into_iter().flatten().min()
    }
}

#[cfg(test)]
mod tests;
