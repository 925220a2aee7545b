//! What an agent sends, checked and turned into bus records.

use std::collections::HashMap;
use std::ops::RangeInclusive;

use agent_core::codec::{self, BLOCK_ROWS_MAX, CodecError};
use agent_core::id::{AgentId, BootId, Sequence};
use agent_core::limits::{BATCH_ALERTS_MAX, BATCH_RECORDS_MAX};
use agent_core::metric::{Metric, Values};
use agent_core::record::{Marks, Sample, Snapshot};
use agent_core::time::Instant;
use proto::convert::{self, units_from_count};
use proto::{
    Alert, AlertBatch, AlertRecord, Boot, Hello, Loss, LossReason, MetricsRecord, MetricsRequest,
    Range, Record, RecordBatch,
};

use crate::limits::{
    METADATA_ENTRIES_MAX, METADATA_KEY_BYTES_MAX, METADATA_VALUE_BYTES_MAX, METRICS_MAX,
    NAME_BYTES_MAX, UNIX_MS_MAX,
};
use crate::rejection::{Reason, Rejection};

/// Metadata key with the number of alerts of a record, as the Python plugin names it.
const ALERT_COUNT: &str = "alert_count";
/// Metadata key with the alerts of a record in words, as the Python plugin names it.
const ALERTS: &str = "alerts";

/// A Hello that was checked.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Introduction {
    pub(crate) agent: AgentId,
    pub(crate) boot: BootId,
    pub(crate) hello: Hello,
}

impl TryFrom<Hello> for Introduction {
    type Error = Rejection;

    fn try_from(hello: Hello) -> Result<Self, Rejection> {
        let agent = hello.agent_id.parse()?;
        let malformed = |text: &str| Rejection::new(Reason::Malformed, text);
        let boot = hello.boot.ok_or_else(|| malformed("hello has no boot"))?;
        if hello.session == 0 {
            return Err(malformed("hello has session 0, the first is 1"));
        }
        Rejection::check_text("hello.version", &hello.version, NAME_BYTES_MAX)?;
        Rejection::check_text("hello.host_name", &hello.host_name, NAME_BYTES_MAX)?;
        Rejection::check_text("hello.target", &hello.target, NAME_BYTES_MAX)?;
        Rejection::check_text("hello.host", &hello.host, NAME_BYTES_MAX)?;
        Ok(Self { agent, boot: boot.into(), hello })
    }
}

/// Checks that what a client without a Hello begins with is a snapshot, of bounded size: it may have to wait until the
/// holder of the id has gone, and must not make a live one go for something that will be refused.
pub(crate) fn check_opening(request: &MetricsRequest) -> Result<(), Rejection> {
    if request.message.is_some() {
        let text = "message (field 16) on a stream without a hello";
        return Err(Rejection::new(Reason::Malformed, text));
    }
    let counts = request.metrics.as_ref().map_or(0, |metrics| metrics.more.len());
    if METRICS_MAX < counts {
        let text = format!("snapshot has {counts} counts, at most {METRICS_MAX} are allowed");
        return Err(Rejection::new(Reason::Value, text));
    }
    check_metadata(&request.metadata)
}

/// Turns a plain snapshot into the record to store. `unix_ms` stamps one that has no time of its own.
pub(crate) fn snapshot(
    agent: &AgentId,
    request: MetricsRequest,
    unix_ms: i64,
) -> Result<MetricsRecord, Rejection> {
    let metrics = request
        .metrics
        .ok_or_else(|| Rejection::new(Reason::Malformed, "message has no metrics"))?;
    let values = Values::try_from(&metrics)
        .map_err(|error| Rejection::new(Reason::Value, error.to_string()))?;
    let timestamp_ms = match (request.timestamp_ms, request.timestamp) {
        (0, 0) => unix_ms,
        (0, seconds) => check_time(seconds.saturating_mul(1000))?,
        (ms, _) => check_time(ms)?,
    };
    check_metadata(&request.metadata)?;
    Ok(MetricsRecord {
        agent_id: agent.to_string(),
        session: 0,
        replayed: false,
        boot: request.boot,
        record: Some(Record {
            sequence: request.sequence,
            timestamp_ms,
            present: values.present().bits(),
            values: values.iter().map(|(_, count)| count).collect(),
            ..Record::default()
        }),
        metadata: request.metadata,
    })
}

/// A batch that was checked, as records to store.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Batch {
    pub(crate) records: Vec<MetricsRecord>,
    pub(crate) losses: Vec<Loss>,
    /// The sequence after which the batch begins: it accounts for every one above, up to `last`.
    pub(crate) after: u64,
    /// The highest sequence that the batch accounts for.
    pub(crate) last: u64,
}

/// How many records checked losses stand for. What a crash may have cost is no number of records: it is an upper bound.
pub(crate) fn lost_count(losses: &[Loss]) -> u64 {
    let exact = losses.iter().filter(|loss| loss.reason() != LossReason::Crash);
    exact.map(|loss| loss.last - loss.first + 1).fold(0, u64::saturating_add)
}

/// The stream that brings a batch.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Origin<'a> {
    pub(crate) agent: &'a AgentId,
    pub(crate) boot: BootId,
    /// Rises with each stream of the boot.
    pub(crate) session: u64,
}

/// Checks a live batch that comes after `received`, the highest sequence this stream has accounted for; none when
/// it is the first, which may begin anywhere because other streams came before it; whether
/// they account for what is below `after` is for the caller to know.
pub(crate) fn batch(
    origin: Origin<'_>,
    received: Option<u64>,
    batch: RecordBatch,
) -> Result<Batch, Rejection> {
    let RecordBatch { boot: given, records, losses, packed, replay: _, deferred } = batch;
    check_boot(origin.boot, given)?;
    check_record_parts(&records, &losses, &deferred)?;
    let records = unpacked(records, &packed)?;
    let sequences = records.iter().map(|record| record.sequence);
    let (after, last) = account(received, sequences, spans(&losses, &deferred))?;
    let records = stored(origin, origin.boot, records, Lane::Live);
    Ok(Batch { records, losses, after, last })
}

/// A batch of an earlier time that was checked.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Replayed<T> {
    /// The boot that it is of.
    pub(crate) boot: BootId,
    pub(crate) records: Vec<T>,
    pub(crate) losses: Vec<Loss>,
}

/// Checks a batch that says that it is the one with the number `batch.replay`, after `replayed` others on the stream.
pub(crate) fn replayed_batch(
    origin: Origin<'_>,
    replayed: u64,
    batch: RecordBatch,
) -> Result<Replayed<MetricsRecord>, Rejection> {
    let RecordBatch { boot, records, losses, packed, replay, deferred } = batch;
    let boot = check_replay(replayed, replay, boot)?;
    check_record_parts(&records, &losses, &deferred)?;
    let records = unpacked(records, &packed)?;
    check_alone(records.iter().map(|record| record.sequence), &losses)?;
    let records = stored(origin, boot, records, Lane::Replayed);
    Ok(Replayed { boot, records, losses })
}

/// As [`replayed_batch`], of alerts.
pub(crate) fn replayed_alerts(
    replayed: u64,
    batch: AlertBatch,
) -> Result<Replayed<AlertRecord>, Rejection> {
    let AlertBatch { boot, alerts, losses, replay, deferred } = batch;
    let boot = check_replay(replayed, replay, boot)?;
    check_alert_parts(&alerts, &losses, &deferred)?;
    check_alone(alerts.iter().map(|alert| alert.sequence), &losses)?;
    Ok(Replayed { boot, records: alerts, losses })
}

/// A replayed batch comes in its turn, and names its boot. That one may have a higher counter than the stream's: a counter that
/// was damaged starts again, and what the spool has of the boots before is not to be refused for it.
fn check_replay(replayed: u64, number: u64, given: Option<Boot>) -> Result<BootId, Rejection> {
    let refuse = |text: String| Err(Rejection::new(Reason::Sequence, text));
    if number != replayed + 1 {
        return refuse(format!("replayed batch {number} comes after {replayed}"));
    }
    match given {
        Some(boot) => Ok(boot.into()),
        None => refuse("replayed batch names no boot".to_owned()),
    }
}

/// A replayed batch stands for itself: its records rise, its losses are ranges, and it has something.
fn check_alone(sequences: impl Iterator<Item = u64>, losses: &[Loss]) -> Result<(), Rejection> {
    let refuse = |text: String| Err(Rejection::new(Reason::Sequence, text));
    let mut previous = 0;
    for sequence in sequences {
        if sequence <= previous || sequence == u64::MAX {
            return refuse(format!("replayed record {sequence} comes after {previous}"));
        }
        previous = sequence;
    }
    if previous == 0 && losses.is_empty() {
        return refuse("replayed batch has neither records nor losses".to_owned());
    }
    spans(losses, &[]).iter().try_for_each(check_span)
}

/// How records reached the server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Lane {
    Live,
    Replayed,
}

/// `records` of `boot` as they are stored.
fn stored(
    origin: Origin<'_>,
    boot: BootId,
    records: Vec<Record>,
    lane: Lane,
) -> Vec<MetricsRecord> {
    let record = |record| MetricsRecord {
        agent_id: origin.agent.to_string(),
        boot: Some(boot.into()),
        metadata: describe_alerts(&record),
        record: Some(record),
        session: origin.session,
        replayed: lane == Lane::Replayed,
    };
    records.into_iter().map(record).collect()
}

fn check_record_parts(
    records: &[Record],
    losses: &[Loss],
    deferred: &[Range],
) -> Result<(), Rejection> {
    let max = usize::try_from(BATCH_RECORDS_MAX).unwrap_or(usize::MAX);
    check_parts("records", records.len().max(losses.len()).max(deferred.len()), max)
}

fn check_alert_parts(
    alerts: &[AlertRecord],
    losses: &[Loss],
    deferred: &[Range],
) -> Result<(), Rejection> {
    let parts = alerts.len().max(losses.len()).max(deferred.len());
    check_parts("alerts", parts, BATCH_ALERTS_MAX)?;
    alerts.iter().try_for_each(|alert| check_time(alert.timestamp_ms).map(|_| ()))
}

/// The records of a batch, which come one by one or as a block.
fn unpacked(records: Vec<Record>, packed: &[u8]) -> Result<Vec<Record>, Rejection> {
    let records = match (packed.is_empty(), records.is_empty()) {
        (true, _) => records,
        (false, true) => unpack(packed)?,
        (false, false) => {
            let text = "batch has packed records beside others";
            return Err(Rejection::new(Reason::Packed, text));
        }
    };
    records.iter().try_for_each(check_record)?;
    Ok(records)
}

/// Alerts that were checked.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Alerts {
    pub(crate) alerts: Vec<AlertRecord>,
    pub(crate) losses: Vec<Loss>,
    /// The highest sequence that they account for.
    pub(crate) last: u64,
}

/// Checks a live batch of alerts as [`batch`] does. Metrics, transitions and severities that this version does not know are
/// for readers to judge.
pub(crate) fn alerts(
    boot: BootId,
    received: Option<u64>,
    batch: AlertBatch,
) -> Result<Alerts, Rejection> {
    let AlertBatch { boot: given, alerts, losses, replay: _, deferred } = batch;
    check_boot(boot, given)?;
    check_alert_parts(&alerts, &losses, &deferred)?;
    let sequences = alerts.iter().map(|alert| alert.sequence);
    let (_, last) = account(received, sequences, spans(&losses, &deferred))?;
    Ok(Alerts { alerts, losses, last })
}

fn check_boot(boot: BootId, given: Option<Boot>) -> Result<(), Rejection> {
    if given.is_none_or(|given| BootId::from(given) == boot) {
        return Ok(());
    }
    let text = format!("batch is not of boot {boot}, which the stream was opened for");
    Err(Rejection::new(Reason::Sequence, text))
}

fn check_parts(what: &str, parts: usize, max: usize) -> Result<(), Rejection> {
    if parts <= max {
        return Ok(());
    }
    let text = format!("batch has {parts} {what} or losses, at most {max} are allowed");
    Err(Rejection::new(Reason::Oversized, text))
}

const _: () =
    assert!(BLOCK_ROWS_MAX as u64 <= BATCH_RECORDS_MAX, "a block is no more than a batch");

/// The records of a packed block. Its size is bounded by that of its message, what it makes by the rows of a block.
fn unpack(packed: &[u8]) -> Result<Vec<Record>, Rejection> {
    let refuse = |text: String| Rejection::new(Reason::Packed, text);
    // A live agent sends one record at a time, for which a whole block's worth of memory would be much to clear.
    let mut rows = vec![NO_SAMPLE; 1];
    let mut unpacked = codec::unpack(packed, &mut rows);
    if unpacked == Err(CodecError::TooLong) {
        rows.resize(BLOCK_ROWS_MAX, NO_SAMPLE);
        unpacked = codec::unpack(packed, &mut rows);
    }
    let (first, count) = unpacked.map_err(|error| refuse(format!("packed records: {error}")))?;
    // Where the numbers end before the rows do, the last of them is one that no record may have.
    let numbers = (0_u64..).map_while(|index| first.number().checked_add(index));
    let records = numbers.filter_map(Sequence::new).zip(rows.iter().take(count));
    Ok(records.map(|(sequence, sample)| convert::record(sequence, sample)).collect())
}

const NO_SAMPLE: Sample = Sample {
    snapshot: Snapshot { taken_at: Instant::from_ms(0), wall_ms: 0, values: Values::EMPTY },
    window: None,
    marks: Marks::NONE,
    repeats: 0,
};

/// The sequences that a batch explains without having them, by their first: they are lost, or will come later.
fn spans(losses: &[Loss], deferred: &[Range]) -> Vec<RangeInclusive<u64>> {
    let lost = losses.iter().map(|loss| loss.first..=loss.last);
    let mut spans: Vec<_> =
        lost.chain(deferred.iter().map(|range| range.first..=range.last)).collect();
    spans.sort_by_key(|span| *span.start());
    spans
}

fn check_span(span: &RangeInclusive<u64>) -> Result<(), Rejection> {
    let (first, last) = (*span.start(), *span.end());
    if first == 0 || last < first || last == u64::MAX {
        let text = format!("loss or deferral of {first} to {last}");
        return Err(Rejection::new(Reason::Sequence, text));
    }
    Ok(())
}

/// Checks that what has these sequences and the spans together account for every sequence after `received`, in order,
/// and answers with the sequence it counted from and the highest.
fn account(
    received: Option<u64>,
    sequences: impl Iterator<Item = u64> + Clone,
    spans: Vec<RangeInclusive<u64>>,
) -> Result<(u64, u64), Rejection> {
    let refuse = |text: String| Err(Rejection::new(Reason::Sequence, text));
    spans.iter().try_for_each(check_span)?;
    let first = |sequence: Option<u64>| sequence.map(|s| s.saturating_sub(1));
    let first_record = first(sequences.clone().next());
    let first_span = first(spans.first().map(|span| *span.start()));
    // A loss may reach below `received`: what was sent and never acknowledged is declared lost when the ring
    // overwrites it, though it may have arrived.
    let start = received.or_else(|| first_record.into_iter().chain(first_span).min());
    let Some(start) = start else {
        return refuse("batch has neither records nor losses".to_owned());
    };
    let mut accounted = start;

    let mut spans = spans.into_iter().peekable();
    let mut previous = received;
    for sequence in sequences {
        if sequence == 0 || sequence == u64::MAX {
            return refuse(format!("record has sequence {sequence}"));
        }
        if previous.is_some_and(|previous| sequence <= previous) {
            return refuse(format!("record {sequence} comes after {}", previous.unwrap_or(0)));
        }
        previous = Some(sequence);
        while let Some(span) = spans.next_if(|span| *span.start() < sequence) {
            if *span.start() <= accounted + 1 {
                accounted = accounted.max(*span.end());
            }
        }
        if accounted + 1 < sequence {
            return refuse(format!(
                "records {} to {} are missing and no loss explains it",
                accounted + 1,
                sequence - 1
            ));
        }
        accounted = accounted.max(sequence);
    }
    for span in spans {
        if accounted + 1 < *span.start() {
            return refuse(format!(
                "records {} to {} are missing and no loss explains it",
                accounted + 1,
                span.start() - 1
            ));
        }
        accounted = accounted.max(*span.end());
    }
    Ok((start, accounted))
}

fn check_record(record: &Record) -> Result<(), Rejection> {
    let present = record.present.count_ones();
    let check_counts = |what: &str, count: usize| {
        if usize::try_from(present) == Ok(count) {
            return Ok(());
        }
        let text = format!("record {} has {count} {what} for {present} metrics", record.sequence);
        Err(Rejection::new(Reason::Value, text))
    };
    check_counts("values", record.values.len())?;
    if let Some(window) = &record.window {
        check_counts("minima", window.min.len())?;
        check_counts("maxima", window.max.len())?;
        // Agents of the first version do not say these.
        if !window.last.is_empty() {
            check_counts("last values", window.last.len())?;
        }
        if !window.counts.is_empty() {
            check_counts("counts", window.counts.len())?;
        }
    }
    if record.alerts.len() > METRICS_MAX {
        let text = format!(
            "record {} has {} alerts, at most {METRICS_MAX} are allowed",
            record.sequence,
            record.alerts.len()
        );
        return Err(Rejection::new(Reason::Value, text));
    }
    check_time(record.timestamp_ms).map(|_| ())
}

fn check_time(unix_ms: i64) -> Result<i64, Rejection> {
    if (0..=UNIX_MS_MAX).contains(&unix_ms) {
        return Ok(unix_ms);
    }
    let text = format!("timestamp {unix_ms} ms is outside the years 1970 to 9999");
    Err(Rejection::new(Reason::Timestamp, text))
}

fn check_metadata(metadata: &HashMap<String, String>) -> Result<(), Rejection> {
    let refuse = |text: String| Err(Rejection::new(Reason::Metadata, text));
    if metadata.len() > METADATA_ENTRIES_MAX {
        return refuse(format!(
            "metadata has {} entries, at most {METADATA_ENTRIES_MAX} are allowed",
            metadata.len()
        ));
    }
    for (key, value) in metadata {
        if key.len() > METADATA_KEY_BYTES_MAX {
            return refuse(format!(
                "a metadata key has {} bytes, at most {METADATA_KEY_BYTES_MAX} are allowed",
                key.len()
            ));
        }
        if value.len() > METADATA_VALUE_BYTES_MAX {
            return refuse(format!(
                "metadata value of {key:?} has {} bytes, at most {METADATA_VALUE_BYTES_MAX} are allowed",
                value.len()
            ));
        }
    }
    Ok(())
}

/// The alerts of a record in the words that readers of the fixed form know.
fn describe_alerts(record: &Record) -> HashMap<String, String> {
    if record.alerts.is_empty() {
        return HashMap::new();
    }
    let alerts: Vec<String> = record.alerts.iter().map(|a| describe_alert(record, a)).collect();
    HashMap::from([
        (ALERTS.to_owned(), alerts.join(", ")),
        (ALERT_COUNT.to_owned(), alerts.len().to_string()),
    ])
}

fn describe_alert(record: &Record, alert: &Alert) -> String {
    let Some(metric) = Metric::from_id(alert.metric) else {
        return format!("metric {}", alert.metric);
    };
    let limit = units_from_count(metric, alert.limit);
    // The value stands as far into `values` as there are bits below its own.
    let below = record.present & ((1 << metric.id()) - 1);
    let index = usize::try_from(below.count_ones()).unwrap_or(usize::MAX);
    let measured = record.present & (1 << metric.id()) != 0;
    let sign = if alert.below { '<' } else { '>' };
    match record.values.get(index).filter(|_| measured) {
        Some(count) => {
            format!("{metric} {:.2} {sign} {limit:.2}", units_from_count(metric, *count))
        }
        None => format!("{metric} {sign} {limit:.2}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    use agent_core::record::{Completeness, Direction, Window};
    use proto::SystemMetrics;

    const BOOT: BootId = BootId { counter: 1, nonce: 7 };

    fn agent() -> AgentId {
        "edge-01".parse().unwrap()
    }

    fn origin(agent: &AgentId) -> Origin<'_> {
        Origin { agent, boot: BOOT, session: 3 }
    }

    fn record(sequence: u64) -> Record {
        Record {
            sequence,
            timestamp_ms: 1_700_000_000_000,
            present: 0b11,
            values: vec![9120, 2500],
            ..Record::default()
        }
    }

    fn loss(first: u64, last: u64) -> Loss {
        Loss {
            first,
            last,
            reason: LossReason::Overwritten.into(),
            never_sent: last.saturating_sub(first) + 1,
            unacknowledged: 0,
        }
    }

    /// What a batch after `received` accounts for; 0 when it is refused.
    fn check(received: Option<u64>, records: &[u64], losses: &[(u64, u64)], expected: u64) {
        let given = RecordBatch {
            boot: Some(BOOT.into()),
            records: records.iter().map(|s| record(*s)).collect(),
            losses: losses.iter().map(|(f, l)| loss(*f, *l)).collect(),
            ..RecordBatch::default()
        };
        let last = batch(origin(&agent()), received, given).map_or_else(
            |rejection| {
                assert_eq!(rejection.reason, Reason::Sequence);
                0
            },
            |batch| batch.last,
        );
        assert_eq!(last, expected, "{received:?} {records:?} {losses:?}");
    }

    #[test]
    fn sequences_rise_without_holes() {
        check(None, &[5, 6, 7], &[], 7);
        check(Some(7), &[8, 9], &[], 9);
        check(Some(7), &[9], &[], 0);
        check(None, &[5, 7], &[], 0);
        check(None, &[5, 5], &[], 0);
        check(None, &[6, 5], &[], 0);
        check(Some(7), &[7], &[], 0);
        check(None, &[0], &[], 0);
        check(None, &[u64::MAX], &[], 0);
        check(None, &[], &[], 0);
    }

    #[test]
    fn losses_explain_holes() {
        check(None, &[5, 8], &[(6, 7)], 8);
        check(Some(4), &[8], &[(5, 7)], 8);
        check(Some(4), &[8], &[(6, 7)], 0);
        check(Some(4), &[8], &[(5, 6)], 0);
        check(Some(4), &[8], &[(5, 6), (7, 7)], 8);
        check(Some(4), &[8], &[(7, 7), (5, 6)], 8);
        check(Some(4), &[], &[(5, 9)], 9);
        check(Some(4), &[], &[(6, 9)], 0);
        check(None, &[], &[(1, 9)], 9);
        check(None, &[3], &[(4, 9)], 9);
        // Sent, not acknowledged, then overwritten: the loss reaches into what has arrived.
        check(Some(64), &[70], &[(10, 69)], 70);
        check(None, &[5], &[(5, 4)], 0);
        check(None, &[5], &[(0, 4)], 0);
        check(Some(4), &[8], &[(5, u64::MAX)], 0);
    }

    #[test]
    fn batch_of_another_boot_is_refused() {
        let other = BootId { counter: 2, nonce: 7 };
        let given = RecordBatch {
            boot: Some(other.into()),
            records: vec![record(1)],
            ..RecordBatch::default()
        };
        assert!(batch(origin(&agent()), None, given).is_err());
    }

    #[test]
    fn batch_beyond_the_limit_is_refused() {
        let records = (1..=65).map(record).collect();
        let given = RecordBatch { records, ..RecordBatch::default() };
        let rejection = batch(origin(&agent()), None, given).unwrap_err();
        assert_eq!(rejection.reason, Reason::Oversized);
    }

    /// Samples that use every part of the form.
    fn samples() -> Vec<Sample> {
        let values = |count| Values::from_iter([(Metric::CpuPercent, count), (Metric::Load1, 7)]);
        let sample = |number: i64| {
            let mut sample = NO_SAMPLE;
            sample.snapshot.taken_at = Instant::from_ms(5000 * number.unsigned_abs());
            sample.snapshot.wall_ms = 1_700_000_000_000 + 5000 * number;
            sample.snapshot.values = values(9000 + number);
            sample
        };
        let mut samples: Vec<Sample> = (1..=3).map(sample).collect();
        samples[1].repeats = 4;
        samples[1].marks.set(Metric::CpuPercent, 8000, Direction::Above);
        samples[2].window = Some(Window {
            count: 5,
            first_taken_at: Instant::from_ms(2000),
            completeness: Completeness::Partial,
            min: values(8000),
            max: values(9500),
            last: values(9100),
            counts: values(5),
        });
        samples
    }

    fn packed(first: u64) -> RecordBatch {
        let mut buffer = vec![0; 4096];
        let first = Sequence::new(first).unwrap();
        let length = codec::pack(first, samples().iter(), &mut buffer).unwrap();
        buffer.truncate(length);
        RecordBatch { boot: Some(BOOT.into()), packed: buffer, ..RecordBatch::default() }
    }

    #[test]
    fn packed_records_are_as_if_they_had_come_plain() {
        let take = |received, given| batch(origin(&agent()), Some(received), given);
        let samples = samples();
        let records = samples
            .iter()
            .zip(7..)
            .map(|(sample, number)| convert::record(Sequence::new(number).unwrap(), sample));
        let plain = RecordBatch { records: records.collect(), ..RecordBatch::default() };
        let unpacked = take(6, packed(7)).unwrap();
        assert_eq!(take(6, plain).as_ref(), Ok(&unpacked));
        assert_eq!(unpacked.last, 9);
        assert_eq!(unpacked.records[1].metadata[ALERTS], "cpu_percent 90.02 > 80.00");
        assert_eq!(take(5, packed(7)).unwrap_err().reason, Reason::Sequence);
        let explained = RecordBatch { losses: vec![loss(6, 6)], ..packed(7) };
        assert_eq!(take(5, explained).unwrap().last, 9);
    }

    #[test]
    fn packed_records_that_are_not_of_the_form_are_refused() {
        let check = |change: fn(&mut RecordBatch), expected| {
            let mut given = packed(7);
            change(&mut given);
            let rejection = batch(origin(&agent()), None, given).unwrap_err();
            assert_eq!(rejection.reason, expected, "{rejection}");
        };
        check(|b| b.packed[0] ^= 0xf0, Reason::Packed);
        check(|b| b.packed = vec![0xff; 200_000], Reason::Packed);
        check(|b| b.records = vec![record(7)], Reason::Packed);
        check(|b| b.boot = Some(Boot::default()), Reason::Sequence);
        let rejection = batch(origin(&agent()), None, packed(u64::MAX - 1)).unwrap_err();
        assert_eq!(rejection.reason, Reason::Sequence, "{rejection}");
    }

    fn alert(sequence: u64) -> AlertRecord {
        let timestamp_ms = 1_700_000_000_000;
        AlertRecord { sequence, timestamp_ms, metric: 99, ..AlertRecord::default() }
    }

    /// What alerts after `received` account for, or why they are refused.
    fn check_alerts(
        received: Option<u64>,
        sequences: &[u64],
        losses: Vec<Loss>,
        expected: Result<u64, Reason>,
    ) {
        let given = AlertBatch {
            boot: Some(BOOT.into()),
            alerts: sequences.iter().map(|sequence| alert(*sequence)).collect(),
            losses,
            ..AlertBatch::default()
        };
        let taken = alerts(BOOT, received, given);
        let last = taken.map(|taken| taken.last).map_err(|rejection| rejection.reason);
        assert_eq!(last, expected, "{received:?} {sequences:?}");
    }

    #[test]
    fn alerts_rise_without_holes() {
        check_alerts(None, &[3, 4], Vec::new(), Ok(4));
        check_alerts(Some(2), &[3], Vec::new(), Ok(3));
        check_alerts(Some(2), &[5], vec![loss(3, 4)], Ok(5));
        check_alerts(None, &[4, 3], Vec::new(), Err(Reason::Sequence));
        check_alerts(None, &[3, 3], Vec::new(), Err(Reason::Sequence));
        check_alerts(None, &[0], Vec::new(), Err(Reason::Sequence));
        check_alerts(None, &[u64::MAX], Vec::new(), Err(Reason::Sequence));
        check_alerts(Some(2), &[5], Vec::new(), Err(Reason::Sequence));
        check_alerts(None, &[], Vec::new(), Err(Reason::Sequence));
        check_alerts(None, &Vec::from_iter(1..=33), Vec::new(), Err(Reason::Oversized));
    }

    #[test]
    fn alerts_of_another_boot_or_time_are_refused() {
        let mut given = AlertBatch { alerts: vec![alert(1)], ..AlertBatch::default() };
        given.alerts[0].timestamp_ms = -1;
        assert_eq!(alerts(BOOT, None, given.clone()).unwrap_err().reason, Reason::Timestamp);
        given.boot = Some(Boot::default());
        assert_eq!(alerts(BOOT, None, given).unwrap_err().reason, Reason::Sequence);
    }

    #[test]
    fn counts_must_fit_their_bits() {
        let check = |change: fn(&mut Record)| {
            let mut record = record(1);
            change(&mut record);
            check_record(&record).map_err(|rejection| rejection.reason)
        };
        assert_eq!(check(|_| ()), Ok(()));
        assert_eq!(check(|r| r.present = 0b1), Err(Reason::Value));
        assert_eq!(check(|r| r.present = 0b111), Err(Reason::Value));
        assert_eq!(check(|r| r.present = 3 << 60), Ok(()), "metrics of a newer agent");
        let window = |last: usize, counts: usize| proto::Window {
            min: vec![1, 2],
            max: vec![1, 2],
            last: vec![1; last],
            counts: vec![1; counts],
            ..proto::Window::default()
        };
        let windowed = |window: proto::Window| {
            check_record(&Record { window: Some(window), ..record(1) })
                .map_err(|rejection| rejection.reason)
        };
        assert_eq!(windowed(proto::Window::default()), Err(Reason::Value));
        assert_eq!(windowed(window(0, 0)), Ok(()), "agents of the first version");
        assert_eq!(windowed(window(2, 2)), Ok(()));
        assert_eq!(windowed(window(1, 0)), Err(Reason::Value));
        assert_eq!(windowed(window(0, 3)), Err(Reason::Value));
        assert_eq!(check(|r| r.alerts = vec![Alert::default(); 65]), Err(Reason::Value));
        assert_eq!(check(|r| r.timestamp_ms = -1), Err(Reason::Timestamp));
        assert_eq!(check(|r| r.timestamp_ms = i64::MAX), Err(Reason::Timestamp));
    }

    #[test]
    fn alerts_are_put_in_words() {
        let mut alerting = record(1);
        alerting.alerts = vec![
            Alert { metric: 0, limit: 8000, below: false },
            Alert { metric: 1, limit: 4000, below: true },
            Alert { metric: 63, limit: 1, below: false },
        ];
        let metadata = describe_alerts(&alerting);
        assert_eq!(
            metadata[ALERTS],
            "cpu_percent 91.20 > 80.00, memory_percent 25.00 < 40.00, metric 63"
        );
        assert_eq!(metadata[ALERT_COUNT], "3");
        assert!(describe_alerts(&record(1)).is_empty());
    }

    fn plain() -> MetricsRequest {
        MetricsRequest {
            agent_id: "edge-01".into(),
            timestamp: 1_700_000_000,
            metrics: Some(SystemMetrics {
                cpu_percent: 12.5,
                memory_used_mb: 1.0,
                ..SystemMetrics::default()
            }),
            ..MetricsRequest::default()
        }
    }

    #[test]
    fn plain_snapshot_becomes_counts() {
        let stored = snapshot(&agent(), plain(), 5).unwrap();
        let record = stored.record.unwrap();
        assert_eq!(record.timestamp_ms, 1_700_000_000_000);
        assert_eq!(record.present, 0xff);
        assert_eq!(record.values, [1250, 0, 1_048_576, 0, 0, 0, 0, 0]);
        assert_eq!(stored.boot, None);
    }

    #[test]
    fn plain_snapshot_may_have_metrics_beyond_the_eight() {
        let values = Values::from_iter([(Metric::CpuPercent, 1250), (Metric::Load1, 42)]);
        let request = MetricsRequest { metrics: Some(SystemMetrics::from(&values)), ..plain() };
        let record = snapshot(&agent(), request.clone(), 5).unwrap().record.unwrap();
        assert_eq!(record.present, 0b1_0000_0001);
        assert_eq!(record.values, [1250, 42]);
        let mut request = request;
        request.metrics.as_mut().unwrap().more.clear();
        let rejection = snapshot(&agent(), request, 5).unwrap_err();
        assert_eq!(rejection.reason, Reason::Value);
    }

    #[test]
    fn plain_snapshot_without_a_time_is_stamped() {
        let stamped = |timestamp, timestamp_ms| {
            let request = MetricsRequest { timestamp, timestamp_ms, ..plain() };
            let stored = snapshot(&agent(), request, 5);
            stored.map(|stored| stored.record.unwrap().timestamp_ms)
        };
        assert_eq!(stamped(0, 0), Ok(5));
        assert_eq!(stamped(9, 0), Ok(9000));
        assert_eq!(stamped(9, 9001), Ok(9001));
        for (seconds, ms) in [(-1, 0), (i64::MAX, 0), (i64::MIN, 0), (0, -1), (0, i64::MAX)] {
            let reason = stamped(seconds, ms).map_err(|rejection| rejection.reason);
            assert_eq!(reason, Err(Reason::Timestamp), "{seconds} {ms}");
        }
    }

    #[test]
    fn plain_snapshot_out_of_bounds_is_refused() {
        let check = |expected: Reason, change: fn(&mut MetricsRequest)| {
            let mut request = plain();
            change(&mut request);
            let rejection = snapshot(&agent(), request, 5).unwrap_err();
            assert_eq!(rejection.reason, expected, "{rejection}");
            rejection.to_string()
        };
        check(Reason::Malformed, |r| r.metrics = None);
        let text = check(Reason::Value, |r| {
            r.metrics.as_mut().unwrap().net_in_mb = f64::NAN;
        });
        assert!(text.contains("net_in_mb"), "{text}");
        check(Reason::Value, |r| {
            r.metrics.as_mut().unwrap().cpu_percent = f64::INFINITY;
        });
        check(Reason::Metadata, |r| {
            r.metadata = (0..33).map(|i| (i.to_string(), String::new())).collect();
        });
        check(Reason::Metadata, |r| {
            r.metadata.insert("k".repeat(65), String::new());
        });
        check(Reason::Metadata, |r| {
            r.metadata.insert("k".into(), "v".repeat(1025));
        });
    }

    #[test]
    fn hello_must_name_its_agent_boot_and_session() {
        let hello = Hello {
            agent_id: "edge-01".into(),
            boot: Some(BOOT.into()),
            session: 1,
            ..Hello::default()
        };
        assert!(Introduction::try_from(hello.clone()).is_ok());
        let check = |change: fn(&mut Hello)| {
            let mut hello = hello.clone();
            change(&mut hello);
            Introduction::try_from(hello).unwrap_err().reason
        };
        assert_eq!(check(|h| h.agent_id = "../x".into()), Reason::AgentId);
        assert_eq!(check(|h| h.boot = None), Reason::Malformed);
        assert_eq!(check(|h| h.session = 0), Reason::Malformed);
        assert_eq!(check(|h| h.version = "v".repeat(257)), Reason::Malformed);
    }
}
