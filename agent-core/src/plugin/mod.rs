//! The plugins: each looks at one sample after the other and decides what becomes of it.

mod aggregation;
mod chain;
mod deduplication;
mod filter;
mod threshold_alert;

use core::fmt;
use core::str::FromStr;

pub use aggregation::Aggregation;
pub use chain::Chain;
pub use deduplication::Deduplication;
pub use filter::Filter;
pub use threshold_alert::ThresholdAlert;

use crate::record::Sample;

/// One stage of the chain.
///
/// The chain calls a plugin from one thread, once per sample, in the order in which the samples were taken. A
/// plugin does bounded work per call, allocates nothing, and takes the time from the sample.
pub trait Plugin {
    /// Looks at `sample`, may write on it, and says what becomes of it.
    fn process(&mut self, sample: &mut Sample) -> Verdict;

    /// Gives out what the plugin holds, because it is about to be removed, changed or stopped. The plugin
    /// starts afresh after it.
    fn flush(&mut self) -> Option<Sample> {
        None
    }

    /// How many snapshots it holds for a sample still to come.
    fn held(&self) -> u64 {
        0
    }
}

/// What becomes of a sample.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It goes on to the next stage.
    Forward,
    /// It is dropped on purpose.
    Drop,
    /// The plugin keeps it as part of a sample still to come.
    Hold,
    /// It goes on, and stands for itself and `merged` snapshots that were held before.
    ForwardMerged {
        /// How many snapshots, beside this one, it stands for.
        merged: u64,
    },
}

/// The kinds of plugin.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum PluginKind {
    /// Drops a snapshot that says what the last one sent said.
    Deduplication,
    /// Marks metrics above their limits.
    ThresholdAlert,
    /// Averages windows of snapshots.
    Aggregation,
    /// Drops snapshots of idle hosts, or below a floor.
    Filter,
}

impl PluginKind {
    /// How many there are.
    pub const COUNT: usize = Self::ALL.len();

    /// All kinds.
    pub const ALL: [Self; 4] =
        [Self::Deduplication, Self::ThresholdAlert, Self::Aggregation, Self::Filter];

    /// The short name in configuration and in counters.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Deduplication => "deduplication",
            Self::ThresholdAlert => "threshold_alert",
            Self::Aggregation => "aggregation",
            Self::Filter => "filter",
        }
    }

    /// The class that has this part in the existing system; its dotted path is `agent.plugins.NAME.CLASS`.
    const fn class(self) -> &'static str {
        match self {
            Self::Deduplication => "DeduplicationPlugin",
            Self::ThresholdAlert => "ThresholdAlertPlugin",
            Self::Aggregation => "AggregationPlugin",
            Self::Filter => "FilterPlugin",
        }
    }
}

impl fmt::Display for PluginKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// No plugin has this name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("no plugin has this name")]
pub struct UnknownPlugin;

impl FromStr for PluginKind {
    type Err = UnknownPlugin;

    /// Takes the short name, or a dotted path whose last two parts are the short name and the class.
    fn from_str(name: &str) -> Result<Self, UnknownPlugin> {
        let named = |kind: &Self| match name.rsplit_once('.') {
            None => name == kind.name(),
            Some((path, class)) => {
                class == kind.class() && path.rsplit('.').next() == Some(kind.name())
            }
        };
        Self::ALL.into_iter().find(named).ok_or(UnknownPlugin)
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
        for kind in PluginKind::ALL {
            assert_eq!(kind.name().parse(), Ok(kind));
        }
        for bad in
            ["", "dedup", "Filter", "a.filter", ".FilterPlugin", "agent.plugins.x.FilterPlugin"]
        {
            assert_eq!(bad.parse::<PluginKind>(), Err(UnknownPlugin), "{bad:?}");
        }
    }
}
