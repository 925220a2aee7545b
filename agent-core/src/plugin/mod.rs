//! The plugins: each looks at one sample after the other and decides what becomes of it.
//!
//! [`Plugin`] is the contract of all of them. Four are built in; [`own`] is how a program adds its own.

mod aggregation;
mod chain;
mod deduplication;
mod filter;
pub mod own;
mod threshold_alert;

use core::fmt;
use core::str::FromStr;

pub use aggregation::Aggregation;
pub use chain::{Chain, Outlet};
pub use deduplication::Deduplication;
pub use filter::Filter;
pub use threshold_alert::ThresholdAlert;

use crate::config::Settings;
use crate::limits::OWN_PLUGINS_MAX;
use crate::record::{Alert, Sample};

/// One stage of the chain.
///
/// The chain calls a plugin from one thread, once per sample, in the order in which the samples were taken. A
/// plugin does bounded work per call, allocates nothing, and takes the time from the sample.
///
/// The books count on it: each sample that enters [`Plugin::process`] is forwarded, dropped or held; what is held is
/// counted in [`Plugin::held`] until it is merged into a sample that goes on.
pub trait Plugin {
    /// Looks at `sample`, may write on it, and says what becomes of it. `raise` takes alerts, which go their own way.
    fn process(&mut self, sample: &mut Sample, raise: &mut dyn FnMut(Alert)) -> Verdict;

    /// Gives out what the plugin holds, because nothing will be measured for a while, or because the plugin is about to
    /// be changed or removed. The sample stands for all that was held.
    fn flush(&mut self) -> Option<Sample> {
        None
    }

    /// How many snapshots it holds for a sample still to come.
    fn held(&self) -> u64 {
        0
    }

    /// Goes on with other settings. It holds nothing when it is called.
    fn reconfigure(&mut self, settings: &Settings, raise: &mut dyn FnMut(Alert));

    /// Is about to be removed from the chain. It holds nothing when it is called.
    fn retire(&mut self, _raise: &mut dyn FnMut(Alert)) {}
}

/// What becomes of a sample.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It goes on to the next stage.
    Forward,
    /// It is dropped on purpose.
    Drop(DropReason),
    /// The plugin keeps it as part of a sample still to come.
    Hold,
    /// A sample goes on that stands for several: `merged` snapshots beside itself, which were held before or came just
    /// now. Any other that was held, or came, is held from now on.
    ForwardMerged {
        /// How many snapshots, beside one, it stands for.
        merged: u64,
    },
}

/// Why a plugin dropped a sample.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum DropReason {
    /// Deduplication: it says what the last one said.
    Unchanged,
    /// Filter: the host is idle.
    Idle,
    /// Filter: CPU is below its floor.
    MinCpu,
    /// Filter: memory is below its floor.
    MinMemory,
    /// Filter: the condition is not met.
    Condition,
    /// A plugin of the user's own has its reason.
    Own,
}

impl DropReason {
    /// How many there are.
    pub const COUNT: usize = Self::ALL.len();

    /// All reasons.
    pub const ALL: [Self; 6] =
        [Self::Unchanged, Self::Idle, Self::MinCpu, Self::MinMemory, Self::Condition, Self::Own];

    /// The name in counters.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Unchanged => "unchanged",
            Self::Idle => "idle",
            Self::MinCpu => "min_cpu",
            Self::MinMemory => "min_memory",
            Self::Condition => "condition",
            Self::Own => "own",
        }
    }
}

/// The kinds of plugin.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum PluginKind {
    /// Drops a snapshot that says what the last one sent said.
    Deduplication,
    /// Raises alerts when metrics go beyond their limits.
    ThresholdAlert,
    /// Averages windows of snapshots.
    Aggregation,
    /// Drops snapshots of idle hosts, below a floor, or that do not meet a condition.
    Filter,
    /// One of the user's own, by its place in [`own::OwnPlugins::NAMES`], less than [`OWN_PLUGINS_MAX`].
    Own(OwnIndex),
}

/// The place of one of the user's own plugins in the program's list of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct OwnIndex(u8);

impl OwnIndex {
    /// The first plugin.
    pub const FIRST: Self = Self(0);

    /// The plugin at `index`; none from [`OWN_PLUGINS_MAX`] on.
    pub fn new(index: usize) -> Option<Self> {
        u8::try_from(index).ok().filter(|_| index < OWN_PLUGINS_MAX).map(Self)
    }

    /// The place.
    pub const fn get(self) -> usize {
        self.0 as usize
    }
}

impl PluginKind {
    /// How many there can be in one program.
    pub const COUNT: usize = Self::BUILT_IN.len() + OWN_PLUGINS_MAX;

    /// The built-in kinds.
    pub const BUILT_IN: [Self; 4] =
        [Self::Deduplication, Self::ThresholdAlert, Self::Aggregation, Self::Filter];

    /// A number below [`PluginKind::COUNT`].
    pub const fn index(self) -> usize {
        match self {
            Self::Deduplication => 0,
            Self::ThresholdAlert => 1,
            Self::Aggregation => 2,
            Self::Filter => 3,
            Self::Own(index) => Self::BUILT_IN.len() + index.get(),
        }
    }

    /// The short name of a built-in kind in configuration and in counters. One of the user's own has its name in the
    /// program's list of them, which gives it when handed in.
    pub fn name(self, own: &[&'static str]) -> &'static str {
        match self {
            Self::Deduplication => "deduplication",
            Self::ThresholdAlert => "threshold_alert",
            Self::Aggregation => "aggregation",
            Self::Filter => "filter",
            Self::Own(index) => own.get(index.get()).copied().unwrap_or("own"),
        }
    }

    /// The class that has this part in the existing system; its dotted path is `agent.plugins.NAME.CLASS`.
    const fn class(self) -> &'static str {
        match self {
            Self::Deduplication => "DeduplicationPlugin",
            Self::ThresholdAlert => "ThresholdAlertPlugin",
            Self::Aggregation => "AggregationPlugin",
            Self::Filter => "FilterPlugin",
            Self::Own(_) => "",
        }
    }
}

impl fmt::Display for PluginKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name(&[]))
    }
}

/// No built-in plugin has this name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("no plugin has this name")]
pub struct UnknownPlugin;

impl FromStr for PluginKind {
    type Err = UnknownPlugin;

    /// Takes the short name of a built-in kind, or a dotted path whose last two parts are the short name and the class.
    fn from_str(name: &str) -> Result<Self, UnknownPlugin> {
        let named = |kind: &Self| match name.rsplit_once('.') {
            None => name == kind.name(&[]),
            Some((path, class)) => {
                class == kind.class() && path.rsplit('.').next() == Some(kind.name(&[]))
            }
        };
        Self::BUILT_IN.into_iter().find(named).ok_or(UnknownPlugin)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_forms_of_a_name_are_taken() {
        let dotted = "agent.plugins.deduplication.DeduplicationPlugin";
        assert_eq!(dotted.parse(), Ok(PluginKind::Deduplication));
        let dotted = "agent.plugins.threshold_alert.ThresholdAlertPlugin";
        assert_eq!(dotted.parse(), Ok(PluginKind::ThresholdAlert));
        for kind in PluginKind::BUILT_IN {
            assert_eq!(kind.name(&[]).parse(), Ok(kind));
        }
        for bad in
            ["", "dedup", "Filter", "a.filter", ".FilterPlugin", "agent.plugins.x.FilterPlugin"]
        {
            assert_eq!(bad.parse::<PluginKind>(), Err(UnknownPlugin), "{bad:?}");
        }
    }
}
