//! What a run did and met, counted, so that a run that met nothing proves nothing.

use std::collections::BTreeMap;
use std::fmt::{self, Write as _};

use proto::CommandOutcome;

/// A kind of fault, counted each time that it met traffic: bytes or records were on their way or held.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Fault {
    /// A stream broke with messages of the agent in flight.
    StreamBroken,
    /// A message of an agent was lost with its stream.
    MessageLost,
    /// A message of a server, an acknowledgement as a rule, was lost with its stream.
    AcknowledgementLost,
    /// A path was closed in one direction under an open stream.
    HalfOpen,
    /// A path was closed in both directions under an open stream.
    Partition,
    /// Bytes of an old stream arrived after the agent had opened a new one.
    LateBytes,
    /// A message was damaged.
    Damage,
    /// A dial found nobody.
    DialFailed,
    /// An agent was killed while it held records.
    AgentKilled,
    /// A host lost power: nobody heard its connection close.
    PowerLost,
    /// The boot counter was not read back.
    StateTorn,
    /// An agent stood still.
    AgentFrozen,
    /// An agent was asked to end, and ended.
    AgentStopped,
    /// A server was killed while it was storing.
    ServerKilled,
    /// Records that a killed server was storing are only partly there.
    GroupTorn,
    /// A server stood still with streams open.
    ServerFrozen,
    /// A server that stood still stored records after the agent had gone on with another stream.
    ZombieWrite,
    /// A server was asked to end.
    ServerStopped,
    /// A publish was refused: disk full, or brokers away.
    StoreFull,
    /// A publish that was reported as failed was stored later.
    StoredAfterAll,
    /// A publish took seconds.
    StoreSlow,
    /// A wall clock was set by more than an hour.
    ClockStep,
    /// The collector failed or took seconds.
    CollectorStuck,
    /// The ring ran over.
    RingOverflow,
    /// A record arrived more than once.
    Repeat,
    /// A command was sent more than once.
    CommandRepeated,
    /// A configuration that cannot be used was pushed.
    BadConfiguration,
    /// An agent spoke the plain form because the server was slow to answer.
    PlainForm,
    /// An agent went to another server.
    Failover,
    /// A record came late, from a spool.
    Replay,
    /// A stream ended with replayed batches that were not acknowledged.
    ReplayCut,
    /// An agent was killed while there were records in its spool.
    KilledWithSpool,
    /// A host lost power while there were records in its spool.
    PowerLostWithSpool,
    /// A spool gave records up because it was full.
    SpoolFull,
    /// The disk of a host took nothing.
    DiskFull,
    /// A boot that had ended without a word was declared by the next one.
    CrashDeclared,
}

impl Fault {
    /// All kinds.
    pub const ALL: [Self; 36] = [
        Self::StreamBroken,
        Self::MessageLost,
        Self::AcknowledgementLost,
        Self::HalfOpen,
        Self::Partition,
        Self::LateBytes,
        Self::Damage,
        Self::DialFailed,
        Self::AgentKilled,
        Self::PowerLost,
        Self::StateTorn,
        Self::AgentFrozen,
        Self::AgentStopped,
        Self::ServerKilled,
        Self::GroupTorn,
        Self::ServerFrozen,
        Self::ZombieWrite,
        Self::ServerStopped,
        Self::StoreFull,
        Self::StoredAfterAll,
        Self::StoreSlow,
        Self::ClockStep,
        Self::CollectorStuck,
        Self::RingOverflow,
        Self::Repeat,
        Self::CommandRepeated,
        Self::BadConfiguration,
        Self::PlainForm,
        Self::Failover,
        Self::Replay,
        Self::ReplayCut,
        Self::KilledWithSpool,
        Self::PowerLostWithSpool,
        Self::SpoolFull,
        Self::DiskFull,
        Self::CrashDeclared,
    ];

    /// What it is called in the report.
    pub const fn name(self) -> &'static str {
        match self {
            Self::StreamBroken => "streams broken with data in flight",
            Self::MessageLost => "messages lost",
            Self::AcknowledgementLost => "acknowledgements lost",
            Self::HalfOpen => "half-open connections",
            Self::Partition => "partitions",
            Self::LateBytes => "late bytes of old streams",
            Self::Damage => "messages damaged",
            Self::DialFailed => "dials failed",
            Self::AgentKilled => "agents killed with records held",
            Self::PowerLost => "hosts without power",
            Self::StateTorn => "boot counters torn",
            Self::AgentFrozen => "agents frozen",
            Self::AgentStopped => "agents stopped",
            Self::ServerKilled => "servers killed while storing",
            Self::GroupTorn => "groups of records torn",
            Self::ServerFrozen => "servers frozen with streams",
            Self::ZombieWrite => "late writes of frozen servers",
            Self::ServerStopped => "servers stopped",
            Self::StoreFull => "publishes refused",
            Self::StoredAfterAll => "failed publishes stored later",
            Self::StoreSlow => "publishes of seconds",
            Self::ClockStep => "clock steps",
            Self::CollectorStuck => "collectors stuck",
            Self::RingOverflow => "records overwritten",
            Self::Repeat => "records repeated",
            Self::CommandRepeated => "commands repeated",
            Self::BadConfiguration => "bad configurations pushed",
            Self::PlainForm => "records in the plain form",
            Self::Failover => "failovers",
            Self::Replay => "records replayed",
            Self::ReplayCut => "replays cut",
            Self::KilledWithSpool => "agents killed with records spooled",
            Self::PowerLostWithSpool => "power lost with records spooled",
            Self::SpoolFull => "losses of full spools",
            Self::DiskFull => "disks of hosts full",
            Self::CrashDeclared => "crashes declared by the next boot",
        }
    }
}

/// The figures of one world, or of many together.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Simulated time of all agents together, in milliseconds.
    pub agent_ms: u64,
    /// Processes of agents.
    pub boots: u64,
    /// Records that agents gave a sequence.
    pub recorded: u64,
    /// Of them, those on the bus, each once.
    pub delivered: u64,
    /// Of them, those declared as lost and not on the bus.
    pub lost: u64,
    /// Of them, those that went with a killed process, neither acknowledged nor declared.
    pub died: u64,
    /// Of them, those that were in the spool of an agent when the world ended.
    pub spooled: u64,
    /// Alerts that agents gave a sequence.
    pub alerts: u64,
    /// Streams opened.
    pub streams: u64,
    /// Events of the queue.
    pub events: u64,
    /// By kind.
    pub faults: BTreeMap<Fault, u64>,
    /// Terminal states of commands, by the number of the outcome.
    pub outcomes: BTreeMap<i32, u64>,
    /// Answers that stand on the bus more than once.
    pub answers_repeated: u64,
    /// Answers that came after UNKNOWN.
    pub amendments: u64,
    /// Commands that the next boot began again, because the one before died before its answer was stored.
    pub begun_again: u64,
    /// Commands that began late, because the bus was slow to take them, or a server's wall clock was wrong.
    pub outlived: u64,
    /// Late records of an older stream that was declared lost before.
    pub late_writes: u64,
}

impl Tally {
    pub(crate) fn met(&mut self, fault: Fault, count: u64) {
        if count > 0 {
            *self.faults.entry(fault).or_default() += count;
        }
    }

    /// Adds the figures of another world.
    pub fn add(&mut self, other: &Self) {
        self.agent_ms += other.agent_ms;
        self.boots += other.boots;
        self.recorded += other.recorded;
        self.delivered += other.delivered;
        self.lost += other.lost;
        self.died += other.died;
        self.spooled += other.spooled;
        self.alerts += other.alerts;
        self.streams += other.streams;
        self.events += other.events;
        self.answers_repeated += other.answers_repeated;
        self.amendments += other.amendments;
        self.begun_again += other.begun_again;
        self.late_writes += other.late_writes;
        self.outlived += other.outlived;
        for (fault, count) in &other.faults {
            *self.faults.entry(*fault).or_default() += count;
        }
        for (outcome, count) in &other.outcomes {
            *self.outcomes.entry(*outcome).or_default() += count;
        }
    }

    /// The kinds of faults that were never met.
    pub fn unmet(&self) -> impl Iterator<Item = Fault> + '_ {
        Fault::ALL.into_iter().filter(|fault| !self.faults.contains_key(fault))
    }

    /// Whole agent-hours.
    pub const fn agent_hours(&self) -> u64 {
        self.agent_ms / 3_600_000
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "agent-hours              {:>12}", self.agent_hours())?;
        writeln!(f, "events                   {:>12}", self.events)?;
        writeln!(f, "boots                    {:>12}", self.boots)?;
        writeln!(f, "streams                  {:>12}", self.streams)?;
        writeln!(f, "records                  {:>12}", self.recorded)?;
        writeln!(f, "  delivered              {:>12}", self.delivered)?;
        writeln!(f, "  declared lost          {:>12}", self.lost)?;
        writeln!(f, "  died with a process    {:>12}", self.died)?;
        writeln!(f, "  in a spool at the end  {:>12}", self.spooled)?;
        writeln!(f, "alerts                   {:>12}", self.alerts)?;
        writeln!(f, "late writes, fenced      {:>12}", self.late_writes)?;
        let mut commands = String::new();
        for (outcome, count) in &self.outcomes {
            let name = CommandOutcome::try_from(*outcome).map_or("?", |o| o.as_str_name());
            let name = name.trim_start_matches("COMMAND_OUTCOME_").to_lowercase();
            write!(commands, " {name} {count}")?;
        }
        writeln!(f, "commands                 {commands}")?;
        writeln!(
            f,
            "  answers repeated {}, amended {}, begun again by the next boot {}, outlived {}",
            self.answers_repeated, self.amendments, self.begun_again, self.outlived
        )?;
        writeln!(f, "faults that met traffic:")?;
        for fault in Fault::ALL {
            let count = self.faults.get(&fault).copied().unwrap_or(0);
            writeln!(f, "  {:<36} {count:>12}", fault.name())?;
        }
        Ok(())
    }
}
