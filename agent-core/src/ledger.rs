//! The books of one boot: what became of every snapshot.

use crate::plugin::PluginKind;

/// Snapshots that a plugin kept from being sent, on purpose: dropped, or merged into a window.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Suppressed([u64; PluginKind::COUNT]);

impl Suppressed {
    /// Counts `snapshots` for `plugin`.
    pub const fn add(&mut self, plugin: PluginKind, snapshots: u64) {
        let count = &mut self.0[plugin as usize];
        *count = count.saturating_add(snapshots);
    }

    /// How many `plugin` suppressed.
    pub const fn by(&self, plugin: PluginKind) -> u64 {
        self.0[plugin as usize]
    }

    /// How many all plugins together suppressed.
    pub fn total(&self) -> u64 {
        self.0.iter().sum()
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
}

impl LossReason {
    /// All reasons.
    pub const ALL: [Self; 3] = [Self::Overwritten, Self::Shutdown, Self::Link];

    /// The name in counters.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Overwritten => "overwritten",
            Self::Shutdown => "shutdown",
            Self::Link => "link",
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
    /// Snapshots that plugins kept from being sent.
    pub suppressed: Suppressed,
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
}

impl Ledger {
    /// The conservation equation: every snapshot is somewhere, and only there.
    pub fn balances(&self) -> bool {
        self.produced == self.suppressed.total() + self.in_plugins + self.recorded
            && self.recorded == self.delivered + self.lost.total() + self.held
    }
}
