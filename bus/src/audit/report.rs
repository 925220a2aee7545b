//! What an audit finds.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;

use agent_core::id::BootId;

/// The findings, by agent in the order of their ids.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// One for each agent that the history names.
    pub agents: Vec<AgentReport>,
    /// Records and alerts of boots beyond [`BOOTS_MAX`](super::BOOTS_MAX): they were not looked at.
    pub unaudited: u64,
}

/// The findings of one agent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AgentReport {
    /// Whose.
    pub agent_id: String,
    /// Records without a name, of a client that gives them none: counted, and that is all that can be said of them.
    pub plain: u64,
    /// Its boots, in the order of their counters.
    pub boots: Vec<BootReport>,
}

/// The findings of one boot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BootReport {
    /// Which.
    pub boot: BootId,
    /// What is known of its end.
    pub state: BootState,
    /// Its records.
    pub records: LaneReport,
    /// Its alerts, which have sequences of their own.
    pub alerts: LaneReport,
    /// Snapshots, as the agent last counted them; none when it has not said a word.
    pub snapshots: Option<Snapshots>,
}

/// What is known of the end of a boot.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum BootState {
    /// The latest of its agent, which is connected.
    Live,
    /// The latest of its agent, which is not connected.
    Away,
    /// Its end is known: it said that it was ending, or what became of its last records was declared.
    Ended,
    /// Another one followed, and nothing says what its last sequence was: what it held at its end may be gone without
    /// a trace until a loss for [a crash](proto::LossReason::Crash) is declared.
    Open,
}

/// One kind of sequences of one boot. All counts are of sequences above `before`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LaneReport {
    /// Sequences up to here were stored before the history begins, and are not judged; 0: none.
    pub before: u64,
    /// Up to here there were too many gaps to remember, and they are not judged; 0: none.
    pub blurred_to: u64,
    /// The highest sequence that anything names; with a loss for a crash, an upper bound.
    pub last: u64,
    /// Distinct sequences on the bus.
    pub delivered: u64,
    /// Of them, those that came late, from the agent's spool.
    pub replayed: u64,
    /// Further copies of them.
    pub repeats: u64,
    /// Those that came after a higher one, without being replayed.
    pub disordered: u64,
    /// Declared lost, and not on the bus; by reason. `crash` is an upper bound.
    pub lost: BTreeMap<&'static str, u64>,
    /// Still to come.
    pub pending: Pending,
    /// Neither on the bus, nor declared lost, nor still to come.
    pub missing: Missing,
    /// What the agent last counted; none when it has not said a word.
    pub word: Option<Count>,
}

/// Sequences that are not on the bus, and need not be yet.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Pending {
    /// The agent said that it holds them in memory.
    pub held: u64,
    /// The agent said that it has them on its disk.
    pub spooled: u64,
    /// Gaps above all that the agent spoke of when it was last heard: its next word decides.
    pub unjudged: u64,
    /// Known of a boot that is over, whose end nobody has told yet.
    pub open: u64,
}

impl Pending {
    /// All of them.
    pub const fn total(&self) -> u64 {
        self.held
            .saturating_add(self.spooled)
            .saturating_add(self.unjudged)
            .saturating_add(self.open)
    }
}

/// What is gone without a word.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Missing {
    /// How many.
    pub count: u64,
    /// Of them, those that the agent counts as delivered: they were acknowledged, so they were durable, or should have
    /// been. There is no worse finding.
    pub acknowledged: u64,
    /// Where, from the lowest; at most [`RANGES_MAX`](super::RANGES_MAX). Where the agent has a spool some of these may
    /// be in it, so that together they may be more than `count`.
    pub ranges: Vec<RangeInclusive<u64>>,
}

/// The books of an agent for one kind of sequences: recorded = delivered + lost + held + spooled.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Count {
    /// Got a sequence.
    pub recorded: u64,
    /// Acknowledged.
    pub delivered: u64,
    /// Given up, for any reason.
    pub lost: u64,
    /// In memory.
    pub held: u64,
    /// On the disk.
    pub spooled: u64,
}

impl Count {
    /// By how much the sides of the equation differ.
    pub fn imbalance(&self) -> u64 {
        let right = [self.delivered, self.lost, self.held, self.spooled];
        imbalance(self.recorded, right)
    }
}

/// The books of an agent before sequences are given: produced = suppressed + in plugins + recorded.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Snapshots {
    /// Collected.
    pub produced: u64,
    /// Kept from being sent on purpose, by plugin.
    pub suppressed: BTreeMap<String, u64>,
    /// In an open window.
    pub in_plugins: u64,
    /// Got a sequence.
    pub recorded: u64,
}

impl Snapshots {
    /// By how much the sides of the equation differ.
    pub fn imbalance(&self) -> u64 {
        let suppressed = self.suppressed.values().copied();
        imbalance(self.produced, suppressed.chain([self.in_plugins, self.recorded]))
    }
}

fn imbalance(left: u64, right: impl IntoIterator<Item = u64>) -> u64 {
    let right: u128 = right.into_iter().map(u128::from).sum();
    u64::try_from(right.abs_diff(u128::from(left))).unwrap_or(u64::MAX)
}

impl LaneReport {
    /// What is missing, and what the agent's own books are off by.
    pub fn difference(&self) -> u64 {
        let imbalance = self.word.as_ref().map_or(0, Count::imbalance);
        self.missing.count.saturating_add(imbalance)
    }

    /// Declared lost, for any reason.
    pub fn lost_count(&self) -> u64 {
        self.lost.values().copied().fold(0, u64::saturating_add)
    }
}

impl BootReport {
    /// The difference of its records, its alerts and its snapshots.
    pub fn difference(&self) -> u64 {
        let snapshots = self.snapshots.as_ref().map_or(0, Snapshots::imbalance);
        self.records.difference().saturating_add(self.alerts.difference()).saturating_add(snapshots)
    }

    /// Records and alerts that are still to come.
    pub const fn pending(&self) -> u64 {
        self.records.pending.total().saturating_add(self.alerts.pending.total())
    }

    /// Whether everything from the first sequence to the last could be judged.
    pub const fn is_whole(&self) -> bool {
        let (records, alerts) = (&self.records, &self.alerts);
        records.before == 0
            && alerts.before == 0
            && records.blurred_to == 0
            && alerts.blurred_to == 0
    }
}

impl AgentReport {
    /// The sum over its boots.
    pub fn difference(&self) -> u64 {
        self.boots.iter().map(BootReport::difference).fold(0, u64::saturating_add)
    }

    /// The sum over its boots.
    pub fn pending(&self) -> u64 {
        self.boots.iter().map(BootReport::pending).fold(0, u64::saturating_add)
    }
}

impl Report {
    /// 0 when the books of every agent agree with the bus.
    pub fn difference(&self) -> u64 {
        self.agents.iter().map(AgentReport::difference).fold(0, u64::saturating_add)
    }

    /// Records and alerts that are still to come.
    pub fn pending(&self) -> u64 {
        self.agents.iter().map(AgentReport::pending).fold(0, u64::saturating_add)
    }
}
