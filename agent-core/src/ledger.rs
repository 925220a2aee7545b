//! The books of one boot: what became of every snapshot.

use crate::plugin::{DropReason, PluginKind};

/// What one plugin did. Always: received = forwarded + merged + dropped + what it holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PluginCounters {
    /// Samples that came to it.
    pub received: u64,
    /// Samples that went on.
    pub forwarded: u64,
    /// Samples that became part of one that went on.
    pub merged: u64,
    /// Samples that it dropped on purpose, by reason.
    pub dropped: [u64; DropReason::COUNT],
}

impl PluginCounters {
    /// How many it dropped for `reason`.
    pub const fn dropped_for(&self, reason: DropReason) -> u64 {
        self.dropped[reason as usize]
    }

    /// Snapshots that it kept from being sent on purpose: dropped, or merged into a window.
    pub fn suppressed(&self) -> u64 {
        self.merged + self.dropped.iter().sum::<u64>()
    }
}

/// What each plugin did in this boot, whether it is in the chain now or not.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PluginBooks([PluginCounters; PluginKind::COUNT]);

impl PluginBooks {
    /// What `plugin` did.
    pub const fn of(&self, plugin: PluginKind) -> &PluginCounters {
        &self.0[plugin.index()]
    }

    pub(crate) const fn of_mut(&mut self, plugin: PluginKind) -> &mut PluginCounters {
        &mut self.0[plugin.index()]
    }

    /// Snapshots that all plugins together kept from being sent.
    pub fn suppressed(&self) -> u64 {
        self.0.iter().map(PluginCounters::suppressed).sum()
    }
}

/// Why a record will never arrive.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum LossReason {
    /// The ring was full and the oldest record gave way.
    Overwritten,
    /// It was still held when the drain time of a shutdown was over.
    Shutdown,
    /// It is missing between the records that a device sent over its one-way link: damaged there, or given up by the
    /// device before. Counted by the device's gateway; an agent on its own has none.
    Link,
    /// The process ended without a word while it was held. Declared by the next boot, as an upper bound.
    Crash,
    /// The spool had no room for it.
    SpoolFull,
    /// It was older than the spool keeps records.
    SpoolExpired,
    /// The spool could not read it back.
    SpoolDamaged,
}

impl LossReason {
    /// All reasons.
    pub const ALL: [Self; 7] = [
        Self::Overwritten,
        Self::Shutdown,
        Self::Link,
        Self::Crash,
        Self::SpoolFull,
        Self::SpoolExpired,
        Self::SpoolDamaged,
    ];

    /// The name in counters.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Overwritten => "overwritten",
            Self::Shutdown => "shutdown",
            Self::Link => "link",
            Self::Crash => "crash",
            Self::SpoolFull => "spool_full",
            Self::SpoolExpired => "spool_expired",
            Self::SpoolDamaged => "spool_damaged",
        }
    }
}

/// Records lost, by reason.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Lost([u64; LossReason::ALL.len()]);

impl Lost {
    /// Nothing was lost.
    pub const NONE: Self = Self([0; LossReason::ALL.len()]);

    /// Counts `records` as lost.
    pub const fn add(&mut self, reason: LossReason, records: u64) {
        let count = &mut self.0[reason as usize];
        *count = count.saturating_add(records);
    }

    /// Takes `records` back: they arrived after all.
    pub const fn take_back(&mut self, reason: LossReason, records: u64) {
        let count = &mut self.0[reason as usize];
        *count = count.saturating_sub(records);
    }

    /// How many were lost for `reason`.
    pub const fn by(&self, reason: LossReason) -> u64 {
        self.0[reason as usize]
    }

    /// How many were lost for any reason.
    pub fn total(&self) -> u64 {
        self.0.iter().sum()
    }
}

/// What became of every snapshot of this boot.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Ledger {
    /// Snapshots that entered the chain.
    pub produced: u64,
    /// What each plugin did with them.
    pub plugins: PluginBooks,
    /// Snapshots in an open window.
    pub in_plugins: u64,
    /// Samples that left the chain and got a sequence.
    pub recorded: u64,
    /// Records acknowledged as durable, or handed to a peer that does not acknowledge.
    pub delivered: u64,
    /// Records that will never arrive.
    pub lost: Lost,
    /// Records in the ring.
    pub held: u64,
    /// Records in the spool.
    pub spooled: u64,
    /// Alerts, which are counted apart.
    pub alerts: AlertBooks,
}

/// What became of every alert of this boot.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct AlertBooks {
    /// Alerts that began or ended, and got a sequence.
    pub recorded: u64,
    /// Acknowledged as durable, or handed to a peer that does not acknowledge.
    pub delivered: u64,
    /// Those that will never arrive.
    pub lost: Lost,
    /// Those in their ring.
    pub held: u64,
    /// Those in the spool.
    pub spooled: u64,
}

impl Ledger {
    /// The conservation equation: every snapshot and every alert is somewhere, and only there.
    pub fn balances(&self) -> bool {
        let AlertBooks { recorded, delivered, lost, held, spooled } = &self.alerts;
        self.produced == self.plugins.suppressed() + self.in_plugins + self.recorded
            && self.recorded == self.delivered + self.lost.total() + self.held + self.spooled
            && *recorded == delivered + lost.total() + held + spooled
    }
}
