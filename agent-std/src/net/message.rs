//! Conversions between the core's types and the wire's messages.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use agent_core::agent::{Agent, Answer, Batch, Change, CommandSlot, ConfigReport, Loss, RunState};
use agent_core::id::{AgentId, BootId, CommandId, Sequence};
use agent_core::ledger::{Ledger, LossReason};
use agent_core::limits::{COMMAND_TTL_DEFAULT, COMMAND_TTL_MAX};
use agent_core::metric::{MetricSwitch, Values};
use agent_core::plugin::PluginKind;
use agent_core::record::{Completeness, Sample, Window};
use agent_core::time::Instant;
use proto::agent_message::Body;
use proto::{
    AgentMessage, AgentStatus, CommandOutcome, CommandResponse, ConfigOutcome, MetricsRequest,
    NamedCount, Record, RecordBatch, Welcome,
};

/// A message that only a server with a welcome understands.
pub(crate) fn envelope(agent: &AgentId, body: Body) -> MetricsRequest {
    MetricsRequest {
        agent_id: agent.to_string(),
        message: Some(AgentMessage { body: Some(body) }),
        ..MetricsRequest::default()
    }
}

/// The records and the loss of `batch`.
pub(crate) fn record_batch(agent: &Agent, batch: &Batch) -> RecordBatch {
    RecordBatch {
        boot: Some(agent.boot().into()),
        records: agent.records(batch).map(|(sequence, sample)| record(sequence, sample)).collect(),
        losses: batch.loss.iter().map(loss).collect(),
    }
}

/// One record in the form that every server knows.
pub(crate) fn plain(
    id: &AgentId,
    boot: BootId,
    sequence: Sequence,
    sample: &Sample,
) -> MetricsRequest {
    MetricsRequest {
        agent_id: id.to_string(),
        boot: Some(boot.into()),
        sequence: sequence.number(),
        ..plain_form(sample)
    }
}

/// What `sample` says, in the form that every server knows.
pub(crate) fn plain_form(sample: &Sample) -> MetricsRequest {
    let alerts = proto::convert::alerts_metadata(&sample.snapshot.values, &sample.alerts);
    MetricsRequest {
        timestamp: sample.snapshot.wall_ms.div_euclid(1000),
        metrics: Some((&sample.snapshot.values).into()),
        metadata: alerts.into_iter().map(|(key, value)| (key.to_owned(), value)).collect(),
        timestamp_ms: sample.snapshot.wall_ms,
        ..MetricsRequest::default()
    }
}

/// One record of a batch.
pub(crate) fn record(sequence: Sequence, sample: &Sample) -> Record {
    let values = &sample.snapshot.values;
    Record {
        sequence: sequence.number(),
        timestamp_ms: sample.snapshot.wall_ms,
        present: values.present().bits(),
        values: counts(values),
        window: sample.window.as_ref().map(|window| {
            let Window { count, first_taken_at, min, max, completeness } = window;
            proto::Window {
                count: u32::from(*count),
                duration_ms: millis(sample.snapshot.taken_at - *first_taken_at),
                min: counts(min),
                max: counts(max),
                partial: *completeness == Completeness::Partial,
            }
        }),
        alerts: sample
            .alerts
            .iter()
            .map(|(metric, limit)| proto::Alert { metric: u32::from(metric.id()), limit })
            .collect(),
        repeats: sample.repeats,
        uptime_ms: sample.snapshot.taken_at.as_ms(),
    }
}

fn counts(values: &Values) -> Vec<i64> {
    values.iter().map(|(_, count)| count).collect()
}

/// Records that will never come.
pub(crate) fn loss(loss: &Loss) -> proto::Loss {
    let reason = match loss.reason {
        LossReason::Overwritten => proto::LossReason::Overwritten,
        LossReason::Shutdown => proto::LossReason::Shutdown,
        LossReason::Link => proto::LossReason::Link,
    };
    proto::Loss {
        first: loss.first.number(),
        last: loss.last.number(),
        reason: reason.into(),
        never_sent: loss.never_sent,
        unacknowledged: loss.unacknowledged,
    }
}

/// What the agent says of itself.
pub(crate) fn status(agent: &Agent, now: Instant, overridden: &[String]) -> AgentStatus {
    let status = agent.status(now);
    let settings = agent.config().settings();
    AgentStatus {
        state: match status.state {
            RunState::Running => proto::RunState::Running,
            RunState::Stopped => proto::RunState::Stopped,
            RunState::Draining => proto::RunState::Draining,
        }
        .into(),
        uptime_ms: millis(status.uptime),
        ledger: Some(ledger(&status.ledger)),
        config_revision: status.config_revision.0,
        interval_ms: millis(settings.interval),
        metrics: MetricSwitch::all_in(settings.metrics).map(|s| s.name().to_owned()).collect(),
        plugins: settings.plugins.iter().map(|kind| kind.name().to_owned()).collect(),
        samples_late: status.samples_late,
        sessions: status.sessions,
        last_config: agent.config_report().map(|report| config_report(report, overridden)),
        boot: Some(agent.boot().into()),
    }
}

/// The books of one boot.
pub(crate) fn ledger(ledger: &Ledger) -> proto::Ledger {
    let named = |name: &str, count| NamedCount { name: name.to_owned(), count };
    let suppressed = PluginKind::ALL.map(|kind| named(kind.name(), ledger.suppressed.by(kind)));
    let lost = LossReason::ALL.map(|reason| named(reason.name(), ledger.lost.by(reason)));
    let not_zero = |count: &NamedCount| count.count != 0;
    proto::Ledger {
        produced: ledger.produced,
        suppressed: suppressed.into_iter().filter(not_zero).collect(),
        in_plugins: ledger.in_plugins,
        recorded: ledger.recorded,
        delivered: ledger.delivered,
        lost: lost.into_iter().filter(not_zero).collect(),
        held: ledger.held,
    }
}

/// What became of a pushed configuration; `overridden` are the keys that the host decides itself.
pub(crate) fn config_report(report: &ConfigReport, overridden: &[String]) -> proto::ConfigReport {
    let (outcome, reason) = match &report.outcome {
        Ok(()) => (ConfigOutcome::Applied, String::new()),
        Err(reason) => (ConfigOutcome::Rejected, reason.as_str().to_owned()),
    };
    proto::ConfigReport {
        revision: report.revision.0,
        outcome: outcome.into(),
        reason,
        overridden: overridden.to_vec(),
    }
}

/// The answer in `slot`; none if it was forgotten in between.
pub(crate) fn response(
    id: &AgentId,
    agent: &Agent,
    slot: CommandSlot,
    now: Instant,
    overridden: &[String],
) -> Option<CommandResponse> {
    let (command, answer) = agent.answer(slot)?;
    let (outcome, message) = describe(answer, agent);
    let status = matches!(answer, Answer::Status).then(|| status(agent, now, overridden));
    let said = CommandResponse { message, status, ..CommandResponse::default() };
    Some(answer_to(command, id, agent.boot(), outcome, said))
}

/// `said` as the answer of an agent to `command`.
pub(crate) fn answer_to(
    command: &CommandId,
    id: &AgentId,
    boot: BootId,
    outcome: CommandOutcome,
    said: CommandResponse,
) -> CommandResponse {
    let seconds = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    CommandResponse {
        success: outcome == CommandOutcome::Succeeded,
        agent_id: id.to_string(),
        timestamp: i64::try_from(seconds).unwrap_or(i64::MAX),
        command_id: command.to_string(),
        outcome: outcome.into(),
        boot: Some(boot.into()),
        ..said
    }
}

fn describe(answer: &Answer, agent: &Agent) -> (CommandOutcome, String) {
    let settings = agent.config().settings();
    let interval = settings.interval.as_secs_f64();
    let (outcome, message) = match answer {
        Answer::Status => (CommandOutcome::Succeeded, "status reported"),
        Answer::Stopped(Change::Done) => (CommandOutcome::Succeeded, "collecting stopped"),
        Answer::Stopped(Change::AlreadySo) => {
            (CommandOutcome::Succeeded, "collecting was stopped already")
        }
        Answer::Started(Change::Done) => {
            let message = format!("collecting started, every {interval} s");
            return (CommandOutcome::Succeeded, message);
        }
        Answer::Started(Change::AlreadySo) => {
            (CommandOutcome::Succeeded, "collecting was running already")
        }
        Answer::ConfigApplied => {
            let metrics = MetricSwitch::all_in(settings.metrics).map(MetricSwitch::name);
            let plugins = settings.plugins.iter().map(|kind| kind.name());
            let message = format!(
                "configuration applied: interval {interval} s, metrics [{}], plugins [{}]",
                metrics.collect::<Vec<_>>().join(", "),
                plugins.collect::<Vec<_>>().join(", "),
            );
            return (CommandOutcome::Succeeded, message);
        }
        Answer::ConfigRejected(reason) => (CommandOutcome::Rejected, reason.as_str()),
        Answer::Restarted { previous } => {
            let message = format!("restarted: boot {} took over from {previous}", agent.boot());
            return (CommandOutcome::Succeeded, message);
        }
        Answer::RestartFailed(reason) => {
            let message = format!("restart failed, the agent goes on: {}", reason.as_str());
            return (CommandOutcome::Failed, message);
        }
        Answer::Expired => (CommandOutcome::Expired, "the command came after its time to live"),
        Answer::Busy => (CommandOutcome::Rejected, "too many commands are remembered; try later"),
        Answer::ShuttingDown => (CommandOutcome::Rejected, "the agent is shutting down"),
        Answer::Unknown => (CommandOutcome::Rejected, "not a command of this agent"),
    };
    (outcome, message.to_owned())
}

/// The longest silence that a server asks for; none when it does not say.
pub(crate) fn heartbeat(welcome: &Welcome) -> Option<Duration> {
    match welcome.heartbeat_ms {
        0 => None,
        ms => Some(Duration::from_millis(u64::from(ms))),
    }
}

/// How long a command may still wait before it starts. On the wire 0 says nothing, so a sender whose time is over
/// does not send.
pub(crate) fn time_to_live(ttl_ms: u64) -> Duration {
    match ttl_ms {
        0 => COMMAND_TTL_DEFAULT,
        ms => Duration::from_millis(ms).min(COMMAND_TTL_MAX),
    }
}

pub(crate) fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use agent_core::metric::Metric;
    use agent_core::record::Snapshot;

    use super::*;

    #[test]
    fn a_record_carries_one_count_per_present_metric() {
        let values = Values::from_iter([(Metric::NetOut, 7), (Metric::CpuPercent, 12)]);
        let snapshot = Snapshot { taken_at: Instant::from_ms(5), wall_ms: 1_000, values };
        let mut sample = Sample::from(snapshot);
        sample.alerts = Values::from_iter([(Metric::CpuPercent, 10)]);
        let record = record(Sequence::FIRST, &sample);
        assert_eq!((record.present, record.values), (0b1000_0001, vec![12, 7]));
        assert_eq!(record.alerts, [proto::Alert { metric: 0, limit: 10 }]);
        assert_eq!((record.sequence, record.timestamp_ms, record.uptime_ms), (1, 1_000, 5));
    }

    #[test]
    fn a_time_to_live_has_a_default_and_an_end() {
        assert_eq!(time_to_live(0), Duration::from_secs(60));
        assert_eq!(time_to_live(1), Duration::from_millis(1));
        assert_eq!(time_to_live(u64::MAX), COMMAND_TTL_MAX);
    }
}
