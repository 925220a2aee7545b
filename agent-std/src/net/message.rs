//! Conversions between the core's types and the wire's messages.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use agent_core::agent::{
    self, Answer, Batch, Change, CommandSlot, ConfigReport, Credit, Deferred, Kind, Loss, RunState,
};
use agent_core::codec;
use agent_core::id::{AgentId, BootId, CommandId, Sequence};
use agent_core::ledger::{Ledger, LossReason, Lost, PluginCounters};
use agent_core::limits::{
    BATCH_RECORDS_MAX, COMMAND_TTL_DEFAULT, COMMAND_TTL_MAX, IN_FLIGHT_RECORDS_MAX,
    RECORD_BYTES_MAX, TRANSMIT_SLOTS,
};
use agent_core::metric::MetricSwitch;
use agent_core::plugin::own::OwnPlugins;
use agent_core::plugin::{DropReason, OwnIndex, PluginKind};
use agent_core::record::{Alert, Sample};
use agent_core::time::Instant;
use proto::agent_message::Body;
use proto::{
    AgentMessage, AgentStatus, AlertBatch, AlertLedger, CommandOutcome, CommandResponse,
    ConfigOutcome, MetricsRequest, NamedCount, RecordBatch, Welcome, convert,
};

use crate::ring_memory::RingAgent;

/// A message that only a server with a welcome understands.
pub(crate) fn envelope(agent: &AgentId, body: Body) -> MetricsRequest {
    MetricsRequest {
        agent_id: agent.to_string(),
        message: Some(AgentMessage { body: Some(body) }),
        ..MetricsRequest::default()
    }
}

/// How records travel in a batch.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Packing {
    /// One message each, which every server with a welcome reads.
    #[default]
    Records,
    /// As one compressed block.
    Block,
}

impl From<&Welcome> for Packing {
    /// A server that reads later versions of the block reads the first as well.
    fn from(welcome: &Welcome) -> Self {
        if welcome.packed == 0 { Self::Records } else { Self::Block }
    }
}

/// Bytes of a block at most; a batch that would take more travels as records.
const BLOCK_BYTES_MAX: usize = 64 * 1024;

/// Bytes that messages on their way take at most: as many records as may be unacknowledged, each as a message at most twice as
/// large as it is decoded, the batch that is being made, its encoding and the copy of it that waits for the window, and the
/// other messages.
pub(crate) const fn sent_bytes_max() -> usize {
    const OTHER_BYTES: usize = 8 * 1024;
    // Neither is near the limits of the target.
    #[expect(clippy::cast_possible_truncation, reason = "both are small")]
    let (records, batch) = (IN_FLIGHT_RECORDS_MAX as usize, BATCH_RECORDS_MAX as usize);
    let row = size_of::<(Sequence, Sample)>();
    (2 * records + batch) * row + 2 * BLOCK_BYTES_MAX + TRANSMIT_SLOTS as usize * OTHER_BYTES
}

/// The records and the loss of `batch`.
pub(crate) fn record_batch<const RING: usize>(
    agent: &RingAgent<RING, impl OwnPlugins>,
    batch: &Batch,
    packing: Packing,
) -> RecordBatch {
    let losses = batch.loss.iter().map(loss).collect();
    let deferred = batch.deferred.iter().map(deferred).collect();
    let mut rows = agent.records(batch);
    let batch = match (rows.next(), rows.next()) {
        // As a rule: for it no memory need be had from the system and given back.
        (Some(single), None) => records(agent.boot(), &[single], losses, packing),
        (first, second) => {
            let rows = first.into_iter().chain(second).chain(rows).collect::<Vec<_>>();
            records(agent.boot(), &rows, losses, packing)
        }
    };
    RecordBatch { deferred, ..batch }
}

/// A batch of `records`, which have rising sequences.
pub(crate) fn records(
    boot: BootId,
    records: &[(Sequence, Sample)],
    losses: Vec<proto::Loss>,
    packing: Packing,
) -> RecordBatch {
    let packed = match packing {
        Packing::Records => None,
        Packing::Block => packed(records),
    };
    let record = |(number, sample): &(Sequence, Sample)| convert::record(*number, sample);
    RecordBatch {
        boot: Some(boot.into()),
        records: if packed.is_some() { Vec::new() } else { records.iter().map(record).collect() },
        losses,
        packed: packed.unwrap_or_default(),
        ..RecordBatch::default()
    }
}

/// `records` as a block; none when there are none, when one is missing among them, or when the block would be too large.
fn packed(records: &[(Sequence, Sample)]) -> Option<Vec<u8>> {
    let (first, last) = (records.first()?.0, records.last()?.0);
    let is_gapless = u64::try_from(records.len()) == Ok(first.count_until(last.next()));
    // A record takes no more packed than it takes in the ring, but for odd ones, whose batch then travels as records.
    // A single one takes no memory from the system.
    let (mut single, mut several) = ([0; RECORD_BYTES_MAX], Vec::new());
    let buffer = if records.len() == 1 {
        single.as_mut_slice()
    } else {
        several.resize(BLOCK_BYTES_MAX.min(records.len() * RECORD_BYTES_MAX), 0);
        several.as_mut_slice()
    };
    let rows = records.iter().map(|(_, sample)| sample);
    let length = is_gapless.then(|| codec::pack(first, rows, buffer))?.ok()?;
    // The transport holds several messages, and a block takes a small part of its buffer.
    buffer.get(..length).map(<[u8]>::to_vec)
}

/// The alerts and the loss of `batch`.
pub(crate) fn alert_batch<const RING: usize>(
    agent: &RingAgent<RING, impl OwnPlugins>,
    batch: &Batch,
) -> AlertBatch {
    let losses = batch.loss.iter().map(loss).collect();
    let deferred = batch.deferred.iter().map(deferred).collect();
    AlertBatch { deferred, ..alerts(agent.boot(), agent.alerts(batch), losses) }
}

/// A batch of `alerts`, which have rising sequences.
pub(crate) fn alerts(
    boot: BootId,
    alerts: impl IntoIterator<Item = (Sequence, Alert)>,
    losses: Vec<proto::Loss>,
) -> AlertBatch {
    let alerts = alerts.into_iter();
    AlertBatch {
        boot: Some(boot.into()),
        alerts: alerts.map(|(number, alert)| convert::alert_record(number, &alert)).collect(),
        losses,
        ..AlertBatch::default()
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
    let alerts = convert::alerts_metadata(&sample.snapshot.values, &sample.marks);
    MetricsRequest {
        timestamp: sample.snapshot.wall_ms.div_euclid(1000),
        metrics: Some((&sample.snapshot.values).into()),
        metadata: alerts.into_iter().map(|(key, value)| (key.to_owned(), value)).collect(),
        timestamp_ms: sample.snapshot.wall_ms,
        ..MetricsRequest::default()
    }
}

fn deferred(deferred: &Deferred) -> proto::Range {
    proto::Range { first: deferred.first.number(), last: deferred.last.number() }
}

/// How many bytes of records the server takes; it says 0 when it sets no limit.
pub(crate) fn credit(bytes: u64) -> Credit {
    match bytes {
        0 => Credit::Unlimited,
        bytes => Credit::Bytes(usize::try_from(bytes).unwrap_or(usize::MAX)),
    }
}

/// Records that will never come.
pub(crate) fn loss(loss: &Loss) -> proto::Loss {
    let reason = match loss.reason {
        LossReason::Overwritten => proto::LossReason::Overwritten,
        LossReason::Shutdown => proto::LossReason::Shutdown,
        LossReason::Link => proto::LossReason::Link,
        LossReason::Crash => proto::LossReason::Crash,
        LossReason::SpoolFull => proto::LossReason::SpoolFull,
        LossReason::SpoolExpired => proto::LossReason::SpoolExpired,
        LossReason::SpoolDamaged => proto::LossReason::SpoolDamaged,
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
pub(crate) fn status<const RING: usize, O: OwnPlugins>(
    agent: &RingAgent<RING, O>,
    now: Instant,
    overridden: &[String],
) -> AgentStatus {
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
        ledger: Some(ledger(&status.ledger, O::NAMES)),
        config_revision: status.config_revision.0,
        interval_ms: millis(settings.interval),
        metrics: MetricSwitch::all_in(settings.metrics).map(|s| s.name().to_owned()).collect(),
        plugins: settings.plugins.iter().map(|kind| kind.name(O::NAMES).to_owned()).collect(),
        samples_late: status.samples_late,
        sessions: status.sessions,
        last_config: agent.config_report().map(|report| config_report(report, overridden)),
        boot: Some(agent.boot().into()),
        // The shell's, who asks for this.
        spool: None,
    }
}

/// The books. `own` are the names of the user's own plugins.
pub(crate) fn ledger(ledger: &Ledger, own: &'static [&'static str]) -> proto::Ledger {
    let own_kinds = (0..own.len()).filter_map(|index| OwnIndex::new(index).map(PluginKind::Own));
    let kinds = PluginKind::BUILT_IN.into_iter().chain(own_kinds).collect::<Vec<_>>();
    let suppressed =
        kinds.iter().map(|kind| (kind.name(own), ledger.plugins.of(*kind).suppressed()));
    let plugins = kinds.iter().map(|kind| (kind.name(own), ledger.plugins.of(*kind)));
    proto::Ledger {
        produced: ledger.produced,
        suppressed: named_counts(suppressed),
        in_plugins: ledger.in_plugins,
        recorded: ledger.recorded,
        delivered: ledger.delivered,
        lost: lost(&ledger.lost),
        held: ledger.held,
        plugins: plugins
            .filter(|(_, counters)| counters.received != 0)
            .map(|(name, counters)| plugin_counters(name, counters))
            .collect(),
        alerts: Some(AlertLedger {
            recorded: ledger.alerts.recorded,
            delivered: ledger.alerts.delivered,
            lost: lost(&ledger.alerts.lost),
            held: ledger.alerts.held,
            spooled: ledger.alerts.spooled,
        }),
        spooled: ledger.spooled,
    }
}

fn plugin_counters(name: &str, counters: &PluginCounters) -> proto::PluginCounters {
    let dropped = DropReason::ALL.map(|reason| (reason.name(), counters.dropped_for(reason)));
    proto::PluginCounters {
        name: name.to_owned(),
        received: counters.received,
        forwarded: counters.forwarded,
        merged: counters.merged,
        dropped: named_counts(dropped),
    }
}

fn lost(lost: &Lost) -> Vec<NamedCount> {
    named_counts(LossReason::ALL.map(|reason| (reason.name(), lost.by(reason))))
}

/// Those that are not zero.
fn named_counts(counts: impl IntoIterator<Item = (&'static str, u64)>) -> Vec<NamedCount> {
    let named = |(name, count): (&str, u64)| NamedCount { name: name.to_owned(), count };
    counts.into_iter().filter(|(_, count)| *count != 0).map(named).collect()
}

/// What became of a pushed configuration; `overridden` are the keys that the host decides itself.
pub(crate) fn config_report(report: &ConfigReport, overridden: &[String]) -> proto::ConfigReport {
    let (outcome, reason) = match &report.outcome {
        agent::ConfigOutcome::Applied => (ConfigOutcome::Applied, ""),
        agent::ConfigOutcome::Rejected(reason) => (ConfigOutcome::Rejected, reason.as_str()),
        agent::ConfigOutcome::RolledBack(reason) => (ConfigOutcome::RolledBack, reason.as_str()),
    };
    proto::ConfigReport {
        revision: report.revision.0,
        outcome: outcome.into(),
        reason: reason.to_owned(),
        overridden: overridden.to_vec(),
        running: report.running.0,
    }
}

/// The answer in `slot`; none if it was forgotten in between.
pub(crate) fn response<const RING: usize>(
    id: &AgentId,
    agent: &RingAgent<RING, impl OwnPlugins>,
    slot: CommandSlot,
    now: Instant,
    overridden: &[String],
) -> Option<CommandResponse> {
    let (command, answer) = agent.answer(slot)?;
    let (outcome, message) = describe(answer, agent, overridden);
    let status = matches!(answer, Answer::Status).then(|| status(agent, now, overridden));
    let previous_boot = match answer {
        Answer::Restarted { previous } | Answer::BegunBefore { previous, .. } => Some(*previous),
        _ => None,
    };
    let previous_boot = previous_boot.map(Into::into);
    let said = CommandResponse { message, status, previous_boot, ..CommandResponse::default() };
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

fn describe<const RING: usize, O: OwnPlugins>(
    answer: &Answer,
    agent: &RingAgent<RING, O>,
    overridden: &[String],
) -> (CommandOutcome, String) {
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
            let plugins = settings.plugins.iter().map(|kind| kind.name(O::NAMES));
            let local = match overridden {
                [] => String::new(),
                keys => format!("; decided locally: {}", keys.join(", ")),
            };
            let message = format!(
                "configuration applied: interval {interval} s, metrics [{}], plugins [{}]{local}",
                metrics.collect::<Vec<_>>().join(", "),
                plugins.collect::<Vec<_>>().join(", "),
            );
            return (CommandOutcome::Succeeded, message);
        }
        Answer::ConfigRejected(reason) | Answer::Refused(reason) => {
            (CommandOutcome::Rejected, reason.as_str())
        }
        Answer::Restarted { previous } => {
            let message = format!("restarted: boot {} took over from {previous}", agent.boot());
            return (CommandOutcome::Succeeded, message);
        }
        Answer::RestartFailed(reason) => {
            let message = format!("restart failed, the agent goes on: {}", reason.as_str());
            return (CommandOutcome::Failed, message);
        }
        Answer::BegunBefore { kind, previous } => {
            let (outcome, became) = match kind {
                Kind::Stop => (CommandOutcome::Succeeded, "collecting was stopped"),
                Kind::Start => (CommandOutcome::Succeeded, "collecting was started"),
                Kind::UpdateConfig => (
                    CommandOutcome::Unknown,
                    "params may have been applied, and do not outlive a process",
                ),
                Kind::Restart => (CommandOutcome::Succeeded, "restarted"),
            };
            return (outcome, format!("{became}: begun by boot {previous}, which has ended"));
        }
        Answer::NotRecorded(reason) => {
            let reason = reason.as_str();
            let message = format!("storage: cannot write down that it begins: {reason}");
            return (CommandOutcome::Rejected, message);
        }
        Answer::Misdirected => (CommandOutcome::Rejected, "the command is to another agent"),
        Answer::Unremembered => (
            CommandOutcome::Rejected,
            "storage: an earlier boot may have begun it, and its record is damaged; send a new one",
        ),
        Answer::Expired => (CommandOutcome::Expired, "the command came after its time to live"),
        Answer::Busy => {
            (CommandOutcome::Rejected, "busy: too many commands are remembered; try later")
        }
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
    use super::*;

    #[test]
    fn a_time_to_live_has_a_default_and_an_end() {
        assert_eq!(time_to_live(0), Duration::from_secs(60));
        assert_eq!(time_to_live(1), Duration::from_millis(1));
        assert_eq!(time_to_live(u64::MAX), COMMAND_TTL_MAX);
    }
}
