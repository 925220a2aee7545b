//! The audit: whether the books of every agent agree with what is on the bus.
//!
//! [`Audit`] is told what stands on the bus and what agents say of themselves, and finds for each boot of each agent
//! which sequences came, which were declared lost, which are still to come, and which are missing. It does no I/O: the
//! operator's tool feeds it from a server or from Kafka, the simulator from its own bus.
//!
//! Feed it in this order, so that what an agent counts as delivered was on the bus before its records were read:
//!
//! 1. what agents say now ([`Audit::handle_word`]), where that can be had;
//! 2. `agent-status` from its beginning ([`Audit::handle_status`]);
//! 3. `monitoring-data` from its beginning ([`Audit::handle_metrics`]);
//! 4. what was added to `agent-status` meanwhile ([`Audit::handle_later_status`]).
//!
//! Bounds: [`BOOTS_MAX`] boots, each with sets of at most [`SET_INTERVALS_MAX`] intervals. Beyond, the report says what
//! was not looked at. A boot without gaps takes about 1 KB.

pub mod intervals;
mod judge;
mod lane;
mod report;

use std::collections::{BTreeMap, HashMap};

use agent_core::id::BootId;
use proto::{
    AgentStatus, AlertLedger, Ledger, Loss, LossReason, MetricsRecord, NamedCount, RunState,
    StatusEvent, StatusRecord,
};

use crate::contract::Partition;
use crate::topic::Topic;

use judge::{Case, Stage, judge};
use lane::{Arrival, Era, Lane};
pub use report::{
    AgentReport, BootReport, BootState, Count, LaneReport, Missing, Pending, Report, Snapshots,
};

/// Boots that one audit remembers, and agents: a fleet of 100,000 that was restarted once, in about 200 MB.
pub const BOOTS_MAX: usize = 200_000;

/// Intervals of one set of sequences: so many gaps of one boot are told apart. 256 KiB at most.
pub const SET_INTERVALS_MAX: usize = 16_384;

/// Ranges of missing sequences that are named for one boot; the count is always exact.
pub const RANGES_MAX: usize = 16;

/// Where and when a record was stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// Of its topic.
    pub partition: Partition,
    /// Unix milliseconds, by the bus.
    pub stored_ms: i64,
}

/// How far back the history goes that an audit is given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum History {
    /// To the first record ever; what is not so is said with [`Audit::handle_cut`].
    Whole,
    /// To some time: what was stored before is not given.
    Recent,
}

/// Where the history of a partition begins, from the longest history to the shortest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Begin {
    /// With its first record ever.
    Origin,
    /// At this time: Unix milliseconds.
    At(i64),
    /// With the next record that is given.
    Next,
}

impl Begin {
    /// On which side of it something is that was stored then.
    fn era(self, stored_ms: i64) -> Era {
        match self {
            Self::Origin => Era::Within,
            Self::At(begin_ms) if begin_ms <= stored_ms => Era::Within,
            Self::At(_) | Self::Next => Era::Before,
        }
    }
}

/// The audit of all agents whose records it is given.
#[derive(Clone, Debug)]
pub struct Audit {
    otherwise: Begin,
    begins: BTreeMap<(Topic, Partition), Begin>,
    agents: BTreeMap<String, Agent>,
    boot_count: usize,
    unaudited: u64,
}

#[derive(Clone, Debug, Default)]
struct Agent {
    plain: u64,
    begins: Begins,
    boots: HashMap<BootId, Boot>,
}

/// Where the history of one agent begins; none before anything of it was given.
#[derive(Clone, Copy, Debug, Default)]
struct Begins {
    status: Option<Begin>,
    records: Option<Begin>,
}

#[derive(Clone, Debug)]
struct Boot {
    /// Its number among those of its agent, as they were met.
    appeared: usize,
    /// When its first stream was stored: Unix milliseconds.
    began_ms: Option<i64>,
    /// When the latest of what it did was stored: Unix milliseconds.
    seen_ms: i64,
    is_connected: bool,
    /// Whether something said what its last sequence was.
    is_ended: bool,
    word: Option<Word>,
    records: Lane,
    alerts: Lane,
}

/// Whether words count that are found in `agent-status`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Words {
    Taken,
    LeftOut,
}

impl Audit {
    /// An audit that knows nothing yet.
    pub const fn new(history: History) -> Self {
        let otherwise = match history {
            History::Whole => Begin::Origin,
            History::Recent => Begin::Next,
        };
        Self {
            otherwise,
            begins: BTreeMap::new(),
            agents: BTreeMap::new(),
            boot_count: 0,
            unaudited: 0,
        }
    }

    /// Before any record of `partition` is given: those before the first are gone, because retention removed them. What
    /// was stored then is not judged.
    pub fn handle_cut(&mut self, topic: Topic, partition: Partition) {
        self.begins.insert((topic, partition), Begin::Next);
    }

    /// Takes what an agent says of itself now, or said in the answer to a command.
    pub fn handle_word(&mut self, agent_id: &str, boot: BootId, status: &AgentStatus) {
        if let Some((_, boot)) = self.boot(agent_id, boot) {
            boot.hear(status);
        }
    }

    /// Takes a record of `agent-status`.
    pub fn handle_status(&mut self, place: Place, record: &StatusRecord) {
        self.take_status(place, record, Words::Taken);
    }

    /// Takes a record of `agent-status` that was stored after `monitoring-data` was read: what it says of counts is left
    /// out, because the records that it counts were not read.
    pub fn handle_later_status(&mut self, place: Place, record: &StatusRecord) {
        self.take_status(place, record, Words::LeftOut);
    }

    fn take_status(&mut self, place: Place, record: &StatusRecord, words: Words) {
        let begin = self.begin(Topic::AgentStatus, place);
        let Some(boot) = record.boot else { return };
        let Some((begins, boot)) = self.boot(&record.agent_id, boot.into()) else {
            let parts = record.alerts.len() + record.losses.len();
            self.unaudited = self.unaudited.saturating_add(parts as u64);
            return;
        };
        begins.status = Some(begin);
        match record.event() {
            StatusEvent::Connected => {
                boot.is_connected = true;
                boot.seen_ms = boot.seen_ms.max(place.stored_ms);
                let is_first = record.hello.as_ref().is_some_and(|hello| hello.session == 1);
                if is_first && boot.began_ms.is_none() {
                    boot.began_ms = Some(place.stored_ms);
                }
            }
            StatusEvent::Disconnected => boot.is_connected = false,
            StatusEvent::Heartbeat => {
                boot.seen_ms = boot.seen_ms.max(place.stored_ms);
                if let Some(status) = record.status.as_ref().filter(|_| words == Words::Taken) {
                    boot.hear(status);
                }
            }
            StatusEvent::Loss => {
                boot.end_with(&record.losses);
                record.losses.iter().for_each(|loss| boot.records.declare(loss));
            }
            StatusEvent::AlertLoss => {
                boot.end_with(&record.losses);
                record.losses.iter().for_each(|loss| boot.alerts.declare(loss));
            }
            StatusEvent::Alert => {
                let era = begin.era(place.stored_ms);
                for alert in record.alerts.iter().filter(|alert| 0 < alert.sequence) {
                    boot.alerts.deliver(alert.sequence, Arrival::Live, era);
                }
            }
            StatusEvent::Unspecified
            | StatusEvent::ConfigApplied
            | StatusEvent::ConfigRejected
            | StatusEvent::ConfigRolledBack
            | StatusEvent::DuplicateId
            | StatusEvent::CommandDelivered
            | StatusEvent::CommandRunning
            | StatusEvent::CommandClosed
            | StatusEvent::CloneSuspected => {}
        }
    }

    /// Takes a record of `monitoring-data`.
    pub fn handle_metrics(&mut self, place: Place, record: &MetricsRecord) {
        let begin = self.begin(Topic::MonitoringData, place);
        let sequence = record.record.as_ref().map_or(0, |record| record.sequence);
        let named = record.boot.filter(|_| 0 < sequence);
        let Some(boot) = named else {
            match self.agent(&record.agent_id) {
                Some(agent) => agent.plain = agent.plain.saturating_add(1),
                None => self.unaudited = self.unaudited.saturating_add(1),
            }
            return;
        };
        let Some((begins, boot)) = self.boot(&record.agent_id, boot.into()) else {
            self.unaudited = self.unaudited.saturating_add(1);
            return;
        };
        begins.records = Some(begin);
        let begin = begins.status.map_or(begin, |status| status.max(begin));
        let arrival = if record.replayed { Arrival::Replayed } else { Arrival::Live };
        if arrival == Arrival::Live {
            boot.seen_ms = boot.seen_ms.max(place.stored_ms);
        }
        boot.records.deliver(sequence, arrival, begin.era(place.stored_ms));
    }

    /// What was found.
    pub fn report(&self) -> Report {
        let topics = Begins {
            status: Some(self.latest_begin(Topic::AgentStatus)),
            records: Some(self.latest_begin(Topic::MonitoringData)),
        };
        let agents = self.agents.iter();
        Report {
            agents: agents.map(|(id, agent)| agent.report(id, topics)).collect(),
            unaudited: self.unaudited,
        }
    }

    fn begin(&mut self, topic: Topic, place: Place) -> Begin {
        let begin = self.begins.entry((topic, place.partition)).or_insert(self.otherwise);
        if *begin == Begin::Next {
            *begin = Begin::At(place.stored_ms);
        }
        *begin
    }

    /// The shortest history of the partitions of `topic`, for an agent of which nothing tells its partition.
    fn latest_begin(&self, topic: Topic) -> Begin {
        let of_topic = self.begins.iter().filter(|((of, _), _)| *of == topic);
        of_topic.map(|(_, begin)| *begin).max().unwrap_or(self.otherwise)
    }

    /// The agent, which is made when there is room.
    fn agent(&mut self, agent_id: &str) -> Option<&mut Agent> {
        if !self.agents.contains_key(agent_id) && self.agents.len() < BOOTS_MAX {
            self.agents.insert(agent_id.to_owned(), Agent::default());
        }
        self.agents.get_mut(agent_id)
    }

    /// The boot, which is made when there is room.
    fn boot(&mut self, agent_id: &str, id: BootId) -> Option<(&mut Begins, &mut Boot)> {
        let has_room = self.boot_count < BOOTS_MAX;
        let agent = self.agent(agent_id)?;
        let appeared = agent.boots.len();
        if has_room && !agent.boots.contains_key(&id) {
            agent.boots.insert(id, Boot::new(appeared));
            self.boot_count += 1;
        }
        let agent = self.agents.get_mut(agent_id)?;
        agent.boots.get_mut(&id).map(|boot| (&mut agent.begins, boot))
    }
}

impl Agent {
    fn report(&self, agent_id: &str, topics: Begins) -> AgentReport {
        let status = self.begins.status.or(topics.status).unwrap_or(Begin::Origin);
        // A loss of records is a status, so both histories count.
        let records = self.begins.records.or(topics.records).unwrap_or(Begin::Origin).max(status);
        let mut boots: Vec<(&BootId, &Boot)> = self.boots.iter().collect();
        boots.sort_unstable_by_key(|(id, boot)| (id.counter, boot.appeared));
        let current =
            boots.iter().max_by_key(|(id, boot)| (boot.seen_ms, id.counter, boot.appeared));
        let current = current.map(|(id, boot)| (**id, *boot));
        let mut spooled = current.map_or([0; 2], |(_, boot)| boot.spooled_earlier());
        let stage = |id: BootId| match current {
            Some((current, _)) if current == id => Stage::Current,
            Some((_, boot)) if boot.word.is_some() => Stage::Succeeded,
            Some(_) | None => Stage::Followed,
        };
        // The newest first: what is on the agent's disk is rather of them.
        let reports = boots.iter().rev();
        let reports = reports
            .map(|(id, boot)| boot.report(**id, stage(**id), [records, status], &mut spooled));
        let mut reports: Vec<BootReport> = reports.collect();
        reports.reverse();
        AgentReport { agent_id: agent_id.to_owned(), plain: self.plain, boots: reports }
    }
}

impl Boot {
    const fn new(appeared: usize) -> Self {
        Self {
            appeared,
            began_ms: None,
            seen_ms: i64::MIN,
            is_connected: false,
            is_ended: false,
            word: None,
            records: Lane::new(),
            alerts: Lane::new(),
        }
    }

    fn hear(&mut self, status: &AgentStatus) {
        if status.state() == RunState::Draining {
            self.is_ended = true;
        }
        let is_newer =
            |word: &Word| self.word.as_ref().is_none_or(|old| old.uptime_ms <= word.uptime_ms);
        if let Some(word) = Word::of(status).filter(is_newer) {
            self.word = Some(word);
        }
    }

    fn end_with(&mut self, losses: &[Loss]) {
        self.is_ended |= losses.iter().any(|loss| match loss.reason() {
            LossReason::Crash | LossReason::Shutdown => true,
            LossReason::Unspecified
            | LossReason::Overwritten
            | LossReason::Link
            | LossReason::SpoolFull
            | LossReason::SpoolExpired
            | LossReason::SpoolDamaged
            | LossReason::StoreDamaged => false,
        });
    }

    /// Records and alerts of boots before this one that the agent has on its disk.
    fn spooled_earlier(&self) -> [u64; 2] {
        let Some(Word { records, alerts, spool: Some(spool), .. }) = &self.word else {
            return [0; 2];
        };
        let [all_records, all_alerts] = *spool;
        [all_records.saturating_sub(records.spooled), all_alerts.saturating_sub(alerts.spooled)]
    }

    fn report(
        &self,
        boot: BootId,
        stage: Stage,
        [records_begin, alerts_begin]: [Begin; 2],
        [spooled_records, spooled_alerts]: &mut [u64; 2],
    ) -> BootReport {
        let case = |lane, begin, word: fn(&Word) -> Count| Case {
            lane,
            before: self.before(lane, begin),
            stage,
            word: self.word.as_ref().map(word),
        };
        let records = case(&self.records, records_begin, |word| word.records);
        let alerts = case(&self.alerts, alerts_begin, |word| word.alerts);
        let state = match stage {
            Stage::Current if self.is_connected => BootState::Live,
            _ if self.is_ended => BootState::Ended,
            Stage::Current => BootState::Away,
            Stage::Followed | Stage::Succeeded => BootState::Open,
        };
        BootReport {
            boot,
            state,
            records: judge(records, spooled_records),
            alerts: judge(alerts, spooled_alerts),
            snapshots: self.word.as_ref().map(|word| word.snapshots.clone()),
        }
    }

    /// The sequence up to which the history that begins there says too little.
    fn before(&self, lane: &Lane, begin: Begin) -> u64 {
        match begin {
            Begin::Origin => return 0,
            // All of it was stored since.
            Begin::At(begin_ms) if self.began_ms.is_some_and(|began_ms| begin_ms <= began_ms) => {
                return 0;
            }
            Begin::At(_) | Begin::Next => {}
        }
        lane.live_first().map_or(u64::MAX, |first| lane.before().max(first - 1))
    }
}

/// What an agent said of itself.
#[derive(Clone, Debug)]
struct Word {
    uptime_ms: u64,
    snapshots: Snapshots,
    records: Count,
    alerts: Count,
    /// Records and alerts of all its boots that it has on its disk; none when it has no spool.
    spool: Option<[u64; 2]>,
}

impl Word {
    fn of(status: &AgentStatus) -> Option<Self> {
        let ledger = status.ledger.as_ref()?;
        let Ledger { produced, in_plugins, recorded, delivered, held, spooled, .. } = *ledger;
        let suppressed = ledger.suppressed.iter().map(|entry| (entry.name.clone(), entry.count));
        let records = Count { recorded, delivered, lost: sum(&ledger.lost), held, spooled };
        let suppressed = suppressed.collect();
        Some(Self {
            uptime_ms: status.uptime_ms,
            snapshots: Snapshots { produced, suppressed, in_plugins, recorded },
            records,
            alerts: ledger.alerts.as_ref().map_or_else(Count::default, alert_count),
            spool: status.spool.as_ref().map(|spool| [spool.records, spool.alerts]),
        })
    }
}

fn alert_count(ledger: &AlertLedger) -> Count {
    let AlertLedger { recorded, delivered, held, spooled, .. } = *ledger;
    Count { recorded, delivered, lost: sum(&ledger.lost), held, spooled }
}

fn sum(counts: &[NamedCount]) -> u64 {
    counts.iter().map(|entry| entry.count).fold(0, u64::saturating_add)
}

#[cfg(test)]
mod tests;
