//! What travels on the bus: one form per topic.

use agent_core::id::AgentId;
use proto::{Command, CommandResponse, MetricsRecord, StatusRecord};

use crate::topic::Topic;

/// A record to publish. Its topic follows from its payload.
#[derive(Clone, Debug, PartialEq)]
pub struct Record {
    /// Whom it concerns. Records with the same key keep their order.
    pub key: AgentId,
    /// What it says.
    pub payload: Payload,
}

/// The content of a record. The bus trusts it: whoever publishes has checked it.
#[derive(Clone, Debug, PartialEq)]
pub enum Payload {
    /// On [`Topic::MonitoringData`].
    Metrics(MetricsRecord),
    /// On [`Topic::Commands`].
    Command(Command),
    /// On [`Topic::CommandResponses`].
    Response(Box<CommandResponse>),
    /// On [`Topic::AgentStatus`].
    Status(Box<StatusRecord>),
}

impl Payload {
    /// The topic for such a payload.
    pub const fn topic(&self) -> Topic {
        match self {
            Self::Metrics(_) => Topic::MonitoringData,
            Self::Command(_) => Topic::Commands,
            Self::Response(_) => Topic::CommandResponses,
            Self::Status(_) => Topic::AgentStatus,
        }
    }
}
