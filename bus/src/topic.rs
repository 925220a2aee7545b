//! The topics, which have the same names on every bus.

use std::fmt;

/// A stream of records of one kind, keyed by agent id.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Topic {
    /// One record per forwarded snapshot.
    MonitoringData,
    /// Commands on their way to agents.
    Commands,
    /// The answers of agents.
    CommandResponses,
    /// Connects, disconnects, heartbeats, configurations applied or rejected, losses.
    AgentStatus,
}

impl Topic {
    /// All topics.
    pub const ALL: [Self; 4] =
        [Self::MonitoringData, Self::Commands, Self::CommandResponses, Self::AgentStatus];

    /// The name on the bus.
    pub const fn name(self) -> &'static str {
        match self {
            Self::MonitoringData => "monitoring-data",
            Self::Commands => "commands",
            Self::CommandResponses => "command-responses",
            Self::AgentStatus => "agent-status",
        }
    }
}

impl fmt::Display for Topic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}
