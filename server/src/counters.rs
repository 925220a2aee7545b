//! The server's own figures, counted where things happen.

use std::sync::atomic::{AtomicU64, Ordering};

use proto::NamedCount;

use crate::rejection::Reason;

/// Something that is counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Counter {
    /// Metrics records that the bus has made durable.
    RecordsStored,
    /// Records that agents declared lost, and those that are missing without a word.
    RecordsLost,
    /// Of the lost, those that no agent declared.
    RecordsUnexplained,
    /// Alerts that the bus has made durable.
    AlertsStored,
    /// Alerts that agents declared lost.
    AlertsLost,
    /// Streams of agents that were taken.
    SessionsOpened,
    /// Streams of agents that ended, for whatever reason.
    SessionsClosed,
    /// Streams that were replaced by a newer one of the same agent.
    SessionsSuperseded,
    /// Of them, those of plain streams that replaced each other more often than reconnects explain.
    SessionsPlainReplaced,
    /// Publishes that the bus refused.
    PublishFailed,
    /// Commands taken from callers of `SendCommand`.
    CommandsAccepted,
    /// Commands handed to a session, repeats included.
    CommandsDelivered,
    /// Commands that an agent answered.
    CommandsAnswered,
    /// Commands that were certainly not started in time.
    CommandsExpired,
    /// Commands that an agent got and did not answer in time.
    CommandsUnknown,
    /// Answers that an agent gave again although the bus had them.
    CommandsAnsweredAgain,
    /// Answers of agents after a server had said something else.
    CommandsAmended,
    /// Commands that were refused because their issuer sends too many.
    CommandsThrottled,
    /// Commands that were refused because the agent's identity is in doubt.
    CommandsDoubtful,
    /// Configurations sent down a stream.
    ConfigsPushed,
    /// Times that an agent was told how much it may send from now on.
    CreditsSent,
    /// Connections that were closed at once because there were as many as are allowed, or no files for more.
    ConnectionsRefused,
    /// Connections that were closed because they made no request.
    ConnectionsSilent,
    /// Connections whose peer was gone without a word.
    ConnectionsVanished,
    /// Connections that the system ended: reset, or unanswered by the peer's TCP.
    ConnectionsBroken,
    /// Connections that were closed because their peer did not speak HTTP/2 or misused it.
    ConnectionsRefusedByProtocol,
    /// Connections that were closed because their peer did not take what was left of an answer.
    ConnectionsStuck,
}

impl Counter {
    const ALL: [Self; 27] = [
        Self::RecordsStored,
        Self::RecordsLost,
        Self::RecordsUnexplained,
        Self::AlertsStored,
        Self::AlertsLost,
        Self::SessionsOpened,
        Self::SessionsClosed,
        Self::SessionsSuperseded,
        Self::SessionsPlainReplaced,
        Self::PublishFailed,
        Self::CommandsAccepted,
        Self::CommandsDelivered,
        Self::CommandsAnswered,
        Self::CommandsExpired,
        Self::CommandsUnknown,
        Self::CommandsAnsweredAgain,
        Self::CommandsAmended,
        Self::CommandsThrottled,
        Self::CommandsDoubtful,
        Self::ConfigsPushed,
        Self::CreditsSent,
        Self::ConnectionsRefused,
        Self::ConnectionsSilent,
        Self::ConnectionsVanished,
        Self::ConnectionsBroken,
        Self::ConnectionsRefusedByProtocol,
        Self::ConnectionsStuck,
    ];

    const fn name(self) -> &'static str {
        match self {
            Self::RecordsStored => "records.stored",
            Self::RecordsLost => "records.lost",
            Self::RecordsUnexplained => "records.unexplained",
            Self::AlertsStored => "alerts.stored",
            Self::AlertsLost => "alerts.lost",
            Self::SessionsOpened => "sessions.opened",
            Self::SessionsClosed => "sessions.closed",
            Self::SessionsSuperseded => "sessions.superseded",
            Self::SessionsPlainReplaced => "sessions.plain_replaced",
            Self::PublishFailed => "bus.publish_failed",
            Self::CommandsAccepted => "commands.accepted",
            Self::CommandsDelivered => "commands.delivered",
            Self::CommandsAnswered => "commands.answered",
            Self::CommandsExpired => "commands.expired",
            Self::CommandsUnknown => "commands.unknown",
            Self::CommandsAnsweredAgain => "commands.answered_again",
            Self::CommandsAmended => "commands.amended",
            Self::CommandsThrottled => "commands.throttled",
            Self::CommandsDoubtful => "commands.doubtful",
            Self::ConfigsPushed => "configs.pushed",
            Self::CreditsSent => "credits.sent",
            Self::ConnectionsRefused => "connections.refused",
            Self::ConnectionsSilent => "connections.silent",
            Self::ConnectionsVanished => "connections.vanished",
            Self::ConnectionsBroken => "connections.broken",
            Self::ConnectionsRefusedByProtocol => "connections.misused",
            Self::ConnectionsStuck => "connections.stuck",
        }
    }
}

/// All counters since the server started. Each only rises.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    counts: [AtomicU64; Counter::ALL.len()],
    rejected: [AtomicU64; Reason::ALL.len()],
}

impl Counters {
    pub(crate) fn add(&self, counter: Counter, count: u64) {
        self.counts[counter as usize].fetch_add(count, Ordering::Relaxed);
    }

    pub(crate) fn get(&self, counter: Counter) -> u64 {
        self.counts[counter as usize].load(Ordering::Relaxed)
    }

    pub(crate) fn reject(&self, reason: Reason) {
        self.rejected[reason as usize].fetch_add(1, Ordering::Relaxed);
    }

    /// Every counter by name, sorted; rejections are `rejected.<reason>`.
    pub(crate) fn snapshot(&self) -> Vec<NamedCount> {
        let happened = Counter::ALL
            .into_iter()
            .zip(&self.counts)
            .map(|(counter, count)| (counter.name().to_owned(), count));
        let rejected = Reason::ALL
            .into_iter()
            .zip(&self.rejected)
            .map(|(reason, count)| (format!("rejected.{}", reason.name()), count));
        let mut counts: Vec<NamedCount> = happened
            .chain(rejected)
            .map(|(name, count)| NamedCount { name, count: count.load(Ordering::Relaxed) })
            .collect();
        counts.sort_by(|left, right| left.name.cmp(&right.name));
        counts
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn positions_are_discriminants() {
        for (index, counter) in Counter::ALL.into_iter().enumerate() {
            assert_eq!(counter as usize, index);
        }
        for (index, reason) in Reason::ALL.into_iter().enumerate() {
            assert_eq!(reason as usize, index);
        }
    }

    #[test]
    fn snapshot_is_sorted_and_has_each_name_once() {
        let counters = Counters::default();
        counters.add(Counter::RecordsStored, 3);
        counters.reject(Reason::AgentId);
        let counts = counters.snapshot();
        assert!(counts.windows(2).all(|pair| pair[0].name < pair[1].name));
        let count = |name: &str| counts.iter().find(|c| c.name == name).map(|c| c.count);
        assert_eq!(count("records.stored"), Some(3));
        assert_eq!(count("rejected.agent_id"), Some(1));
        assert_eq!(count("rejected.malformed"), Some(0));
    }
}
