//! What a message takes in memory once it is decoded, found from its bytes without building it.
//!
//! protobuf lets a few bytes stand for a lot: an empty [`Record`] is two bytes on the wire and two hundred in memory. So
//! each message is walked once over its field headers before it is decoded, and refused when it would take more than
//! [`DECODED_BYTES_MAX`]. The walk allocates nothing and knows only the fields that can repeat; everything else is part of
//! the message that holds it, or text, which takes what it took on the wire.

use std::mem::size_of;

use proto::{
    AgentStatus, Alert, AlertRecord, Loss, MetricsRequest, NamedCount, PluginCounters, Range,
};

use crate::limits::{BATCH_PACKED_BYTES, DECODED_BYTES_MAX};
use crate::rejection::{Reason, Rejection};

/// What a field adds to its message.
#[derive(Clone, Copy, Debug)]
enum Field {
    /// A message, in place: only what repeats in it counts.
    Part(&'static Shape),
    /// Elements of so many bytes, each with what repeats in it.
    List(usize, &'static Shape),
    /// Numbers of eight bytes or less, one by one or packed.
    Numbers,
    /// Records in the compressed form.
    Packed,
}

/// The fields of a message that can take more room than they have bytes, by number.
#[derive(Debug)]
struct Shape(&'static [(u64, Field)]);

const LEAF: Shape = Shape(&[]);
const TEXTS: Field = Field::List(size_of::<String>(), &LEAF);
const COUNTS: Field = Field::List(size_of::<NamedCount>(), &LEAF);
const LOSSES: Field = Field::List(size_of::<Loss>(), &LEAF);
const RANGES: Field = Field::List(size_of::<Range>(), &LEAF);

/// An entry of a hash map, with the room that the table leaves free.
const MAP_ENTRY_BYTES: usize = 4 * size_of::<String>();

const REQUEST: Shape = Shape(&[
    (3, Field::Part(&Shape(&[(17, Field::Numbers)]))),
    (4, Field::List(MAP_ENTRY_BYTES, &LEAF)),
    (16, Field::Part(&MESSAGE)),
]);
const MESSAGE: Shape = Shape(&[
    (1, Field::Part(&RECORDS)),
    (2, Field::Part(&STATUS)),
    (3, Field::Part(&Shape(&[(16, Field::Part(&STATUS))]))),
    (4, Field::Part(&REPORT)),
    (5, Field::Part(&ALERTS)),
]);
const RECORDS: Shape = Shape(&[
    // On its way to the bus each is part of a larger one.
    (2, Field::List(size_of::<bus::Record>(), &RECORD)),
    (3, LOSSES),
    (4, Field::Packed),
    (6, RANGES),
]);
const RECORD: Shape = Shape(&[
    (4, Field::Numbers),
    (5, Field::Part(&WINDOW)),
    (6, Field::List(size_of::<Alert>(), &LEAF)),
]);
const WINDOW: Shape =
    Shape(&[(3, Field::Numbers), (4, Field::Numbers), (6, Field::Numbers), (7, Field::Numbers)]);
const ALERTS: Shape =
    Shape(&[(2, Field::List(size_of::<AlertRecord>(), &LEAF)), (3, LOSSES), (5, RANGES)]);
const STATUS: Shape =
    Shape(&[(3, Field::Part(&LEDGER)), (6, TEXTS), (7, TEXTS), (10, Field::Part(&REPORT))]);
const REPORT: Shape = Shape(&[(4, TEXTS)]);
const LEDGER: Shape = Shape(&[
    (2, COUNTS),
    (6, COUNTS),
    (8, Field::List(size_of::<PluginCounters>(), &Shape(&[(5, COUNTS)]))),
    (9, Field::Part(&Shape(&[(3, COUNTS)]))),
]);

/// A list that grows has room for up to twice its elements.
const GROWTH: usize = 2;

/// Bytes that the [`MetricsRequest`] in `bytes` takes when it is decoded: an upper bound that is never far too low, and
/// at most [`DECODED_BYTES_MAX`].
///
/// # Errors
///
/// When it would take more, or the bytes are no message.
pub(crate) fn weigh(bytes: &[u8]) -> Result<u32, Rejection> {
    let malformed = || Rejection::new(Reason::Malformed, "bytes are not a protobuf message");
    // A status is kept and told on, so it is there three times for a moment.
    let own = size_of::<MetricsRequest>() + 3 * size_of::<AgentStatus>();
    let total = own + bytes.len() + grown(&REQUEST, bytes).ok_or_else(malformed)?;
    match u32::try_from(total) {
        Ok(total) if total <= DECODED_BYTES_MAX => Ok(total),
        _ => {
            let text = format!(
                "message would take {total} bytes when decoded, at most {DECODED_BYTES_MAX} are allowed"
            );
            Err(Rejection::new(Reason::Oversized, text))
        }
    }
}

/// What repeats in a message of `shape`; none when it is malformed. As deep as [`Shape`]s are nested, whatever the bytes say.
fn grown(shape: &Shape, bytes: &[u8]) -> Option<usize> {
    if shape.0.is_empty() {
        // Text, or a message in which nothing repeats.
        return Some(0);
    }
    let mut total = 0_usize;
    let mut reader = Reader(bytes);
    while !reader.0.is_empty() {
        let (number, value) = reader.field()?;
        let Some((_, field)) = shape.0.iter().find(|(known, _)| *known == number) else {
            continue;
        };
        total += match (field, value) {
            (Field::Part(shape), Value::Bytes(bytes)) => grown(shape, bytes)?,
            (Field::List(element, shape), Value::Bytes(bytes)) => {
                GROWTH * element + grown(shape, bytes)?
            }
            // Each ends with a byte whose highest bit is not set.
            (Field::Numbers, Value::Bytes(bytes)) => {
                let count = bytes.iter().filter(|byte| **byte < 0x80).count();
                GROWTH * size_of::<i64>() * count
            }
            (Field::Numbers, Value::Number) => GROWTH * size_of::<i64>(),
            (Field::Packed, Value::Bytes([])) => 0,
            (Field::Packed, Value::Bytes(_)) => BATCH_PACKED_BYTES,
            // An error, which the decoder tells, and not a large one.
            (Field::Part(_) | Field::List(..) | Field::Packed, Value::Number) => 0,
        };
    }
    Some(total)
}

enum Value<'a> {
    Number,
    Bytes(&'a [u8]),
}

/// Reads the field headers of a message.
struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    /// The next field. Groups are none of ours and count as malformed: behind one anything could hide.
    fn field(&mut self) -> Option<(u64, Value<'a>)> {
        let key = self.varint()?;
        let value = match key & 7 {
            0 => {
                self.varint()?;
                Value::Number
            }
            1 => {
                self.take(8)?;
                Value::Number
            }
            2 => {
                let length = usize::try_from(self.varint()?).ok()?;
                Value::Bytes(self.take(length)?)
            }
            5 => {
                self.take(4)?;
                Value::Number
            }
            _ => return None,
        };
        Some((key >> 3, value))
    }

    fn varint(&mut self) -> Option<u64> {
        let mut number = 0;
        for shift in (0..64).step_by(7) {
            let (byte, rest) = self.0.split_first()?;
            self.0 = rest;
            number |= u64::from(byte & 0x7f) << shift;
            if *byte < 0x80 {
                return Some(number);
            }
        }
        None
    }

    fn take(&mut self, length: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        Some(taken)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    use prost::Message as _;
    use proto::agent_message::Body;
    use proto::{
        AgentMessage, AlertBatch, CommandResponse, ConfigReport, Ledger, Record, RecordBatch,
        SystemMetrics, Window,
    };

    fn message(body: Body) -> MetricsRequest {
        MetricsRequest {
            message: Some(AgentMessage { body: Some(body) }),
            ..MetricsRequest::default()
        }
    }

    fn check_refused(request: MetricsRequest) {
        let bytes = request.encode_to_vec();
        let rejection = weigh(&bytes).expect_err("it takes more than is allowed");
        assert_eq!(rejection.reason, Reason::Oversized, "{rejection}");
    }

    #[test]
    fn each_list_of_empty_elements_is_refused() {
        const MANY: usize = 60_000;
        let of_status = |status| message(Body::Status(status));
        let of_ledger =
            |ledger| of_status(AgentStatus { ledger: Some(ledger), ..AgentStatus::default() });
        let of_records = |batch| message(Body::Records(batch));
        let of_record =
            |record| of_records(RecordBatch { records: vec![record], ..RecordBatch::default() });
        let of_window = |window| of_record(Record { window: Some(window), ..Record::default() });
        let counts = || vec![NamedCount::default(); MANY];
        check_refused(of_records(RecordBatch {
            records: vec![Record::default(); MANY],
            ..RecordBatch::default()
        }));
        check_refused(of_records(RecordBatch {
            losses: vec![Loss::default(); MANY],
            ..RecordBatch::default()
        }));
        check_refused(of_records(RecordBatch {
            deferred: vec![Range::default(); MANY],
            ..RecordBatch::default()
        }));
        check_refused(of_record(Record { values: vec![0; MANY], ..Record::default() }));
        check_refused(of_record(Record {
            alerts: vec![Alert::default(); MANY],
            ..Record::default()
        }));
        check_refused(of_window(Window { min: vec![0; MANY], ..Window::default() }));
        check_refused(of_window(Window { max: vec![0; MANY], ..Window::default() }));
        check_refused(of_window(Window { last: vec![0; MANY], ..Window::default() }));
        check_refused(of_window(Window { counts: vec![0; MANY], ..Window::default() }));
        check_refused(message(Body::Alerts(AlertBatch {
            alerts: vec![AlertRecord::default(); MANY],
            ..AlertBatch::default()
        })));
        check_refused(of_status(AgentStatus {
            metrics: vec![String::new(); MANY],
            ..AgentStatus::default()
        }));
        check_refused(of_status(AgentStatus {
            plugins: vec![String::new(); MANY],
            ..AgentStatus::default()
        }));
        check_refused(of_ledger(Ledger { suppressed: counts(), ..Ledger::default() }));
        check_refused(of_ledger(Ledger { lost: counts(), ..Ledger::default() }));
        let plugins = vec![PluginCounters::default(); MANY];
        check_refused(of_ledger(Ledger { plugins, ..Ledger::default() }));
        let plugins = vec![PluginCounters { dropped: counts(), ..PluginCounters::default() }];
        check_refused(of_ledger(Ledger { plugins, ..Ledger::default() }));
        let alerts = proto::AlertLedger { lost: counts(), ..proto::AlertLedger::default() };
        check_refused(of_ledger(Ledger { alerts: Some(alerts), ..Ledger::default() }));
        let report =
            ConfigReport { overridden: vec![String::new(); MANY], ..ConfigReport::default() };
        check_refused(message(Body::Config(report.clone())));
        let status = AgentStatus { last_config: Some(report), ..AgentStatus::default() };
        check_refused(of_status(status.clone()));
        let response = CommandResponse { status: Some(status), ..CommandResponse::default() };
        check_refused(message(Body::Response(response)));
        let metrics = SystemMetrics { more: vec![0; MANY], ..SystemMetrics::default() };
        check_refused(MetricsRequest { metrics: Some(metrics), ..MetricsRequest::default() });
        let metadata = (0..MANY).map(|key| (key.to_string(), String::new())).collect();
        check_refused(MetricsRequest { metadata, ..MetricsRequest::default() });
    }

    #[test]
    fn the_largest_batch_that_is_taken_fits() {
        let values = || vec![i64::MAX; 32];
        let window = Window {
            min: values(),
            max: values(),
            last: values(),
            counts: vec![u32::MAX; 32],
            ..Window::default()
        };
        let alerts = vec![Alert { metric: 3, limit: i64::MIN, below: true }; 32];
        let record = Record { values: values(), window: Some(window), alerts, ..Record::default() };
        let records = vec![record; agent_core::limits::BATCH_RECORDS_MAX.try_into().unwrap()];
        let batch = RecordBatch { records, ..RecordBatch::default() };
        let bytes = message(Body::Records(batch)).encode_to_vec();
        assert!(weigh(&bytes).is_ok(), "{} bytes", bytes.len());
    }

    #[test]
    fn a_message_of_metrics_weighs_little() {
        let metrics = Some(SystemMetrics { cpu_percent: 1.0, ..SystemMetrics::default() });
        let request =
            MetricsRequest { agent_id: "edge-01".into(), metrics, ..MetricsRequest::default() };
        let weight = weigh(&request.encode_to_vec()).unwrap();
        assert!(weight < 4096, "{weight}");
        let packed = RecordBatch { packed: vec![1; 40], ..RecordBatch::default() };
        let weight = weigh(&message(Body::Records(packed)).encode_to_vec()).unwrap();
        assert!(BATCH_PACKED_BYTES < usize::try_from(weight).unwrap());
    }

    #[test]
    fn texts_are_not_taken_for_messages() {
        let overridden = vec!["metrics".to_owned(), "plugins".to_owned()];
        let report = ConfigReport { overridden, ..ConfigReport::default() };
        let counts = vec![NamedCount { name: "overwritten".to_owned(), count: 7 }];
        let ledger = Some(Ledger { lost: counts, ..Ledger::default() });
        let status =
            AgentStatus { last_config: Some(report.clone()), ledger, ..AgentStatus::default() };
        for body in [Body::Config(report), Body::Status(status)] {
            let weight = weigh(&message(body).encode_to_vec()).unwrap();
            assert!(weight < 8192, "{weight}");
        }
        let metadata = [("key".to_owned(), "value".to_owned())].into();
        let request = MetricsRequest { metadata, ..MetricsRequest::default() };
        assert!(weigh(&request.encode_to_vec()).is_ok());
    }

    #[test]
    fn what_is_no_message_is_malformed() {
        for bytes in [
            &[0x0f, 0xff][..],               // wire type 7
            &[0x0b],                         // a group
            &[0x0a, 0x05, 0x61],             // cut short
            &[0x80; 11],                     // a varint without end
            &[0x09, 0, 0, 0],                // half a fixed64
            &[0x82, 0x01, 0x02, 0x0a, 0x7f], // a part that is longer than the whole
        ] {
            assert_eq!(weigh(bytes).unwrap_err().reason, Reason::Malformed, "{bytes:02x?}");
        }
    }
}
