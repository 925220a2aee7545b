//! What the packed form takes, beside other forms of the same records.
//!
//! All forms hold the same blocks of 60 records. Ours and both forms of protobuf leave out agent and boot, which a
//! stream says once; a line of JSON stands alone, so it has them.

use std::io::{self, Write};

use agent_core::codec;
use agent_core::id::Sequence;
use agent_core::metric::Metric;
use agent_core::record::Sample;
use anyhow::Context as _;
use prost::Message;
use proto::{Boot, MetricsRecord, MetricsRequest};
use serde_json::{Value, json};

use super::trace::Trace;
use super::{Row, percent, write_columns};

/// Records in one block, as in a batch of a minute at one record a second.
const BLOCK_RECORDS: usize = 60;

/// Room for any of the blocks.
const BLOCK_BYTES_MAX: usize = 64 * 1024;

/// The most bytes for a value that are aimed at, in thousandths.
const AIM_PER_VALUE: u64 = 1000;

/// A form of a block of records.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Form {
    Packed,
    Columnar,
    ColumnarZstd(i32),
    Plain,
    PlainZstd(i32),
    Json,
    JsonZstd(i32),
}

/// Below which the packed form should be on each trace.
const RIVAL: Form = Form::ColumnarZstd(19);

impl Form {
    const ALL: [Self; 8] = [
        Self::Packed,
        Self::Columnar,
        Self::ColumnarZstd(3),
        RIVAL,
        Self::Plain,
        Self::PlainZstd(19),
        Self::Json,
        Self::JsonZstd(19),
    ];

    fn name(self) -> String {
        match self {
            Self::Packed => "packed block".to_owned(),
            Self::Columnar => "columnar protobuf".to_owned(),
            Self::ColumnarZstd(level) => format!("columnar protobuf, zstd -{level}"),
            Self::Plain => "protobuf message of doubles".to_owned(),
            Self::PlainZstd(level) => format!("protobuf of doubles, zstd -{level}"),
            Self::Json => "JSON lines".to_owned(),
            Self::JsonZstd(level) => format!("JSON lines, zstd -{level}"),
        }
    }

    fn encode(self, first: Sequence, rows: &[Sample]) -> anyhow::Result<Vec<u8>> {
        Ok(match self {
            Self::Packed => packed(first, rows)?,
            Self::Columnar => columnar(first, rows).encode_to_vec(),
            Self::Plain => plain(rows),
            Self::Json => json_lines(first, rows)?,
            Self::ColumnarZstd(level) => compress(Self::Columnar.encode(first, rows)?, level)?,
            Self::PlainZstd(level) => compress(Self::Plain.encode(first, rows)?, level)?,
            Self::JsonZstd(level) => compress(Self::Json.encode(first, rows)?, level)?,
        })
    }
}

fn compress(bytes: Vec<u8>, level: i32) -> io::Result<Vec<u8>> {
    zstd::bulk::compress(&bytes, level)
}

fn packed(first: Sequence, rows: &[Sample]) -> anyhow::Result<Vec<u8>> {
    let mut buffer = vec![0; BLOCK_BYTES_MAX];
    let length = codec::pack(first, rows.iter(), &mut buffer)?;
    buffer.truncate(length);
    Ok(buffer)
}

/// A block as one would write it in protobuf: a packed field of zigzag varints for each column.
#[derive(Clone, PartialEq, Message)]
struct Columnar {
    #[prost(uint64, tag = "1")]
    first_sequence: u64,
    #[prost(message, optional, tag = "2")]
    wall_ms: Option<Column>,
    /// Wall clock less uptime.
    #[prost(message, optional, tag = "3")]
    offset_ms: Option<Column>,
    /// The metrics of each row, as bits.
    #[prost(message, optional, tag = "4")]
    present: Option<Column>,
    /// A column for each metric that a row has, in the order of their ids.
    #[prost(message, repeated, tag = "5")]
    metrics: Vec<Column>,
}

/// The numbers of a column in one of two ways, whichever takes fewer bytes.
#[derive(Clone, PartialEq, Message)]
struct Column {
    #[prost(sint64, repeated, tag = "1")]
    values: Vec<i64>,
    /// Each less the one before, the first less 0.
    #[prost(sint64, repeated, tag = "2")]
    deltas: Vec<i64>,
}

impl Column {
    fn new(values: Vec<i64>) -> Self {
        let before = std::iter::once(0).chain(values.iter().copied());
        let deltas = before.zip(&values).map(|(before, value)| value.wrapping_sub(before));
        let deltas = Self { values: Vec::new(), deltas: deltas.collect() };
        let values = Self { values, deltas: Vec::new() };
        if values.encoded_len() < deltas.encoded_len() { values } else { deltas }
    }

    /// As [`Column::new`]; a column of equal values as the first of them alone.
    fn folded(values: Vec<i64>) -> Self {
        let is_constant = values.windows(2).all(|pair| pair[0] == pair[1]);
        if is_constant {
            Self::new(values.into_iter().take(1).collect())
        } else {
            Self::new(values)
        }
    }
}

fn columnar(first: Sequence, rows: &[Sample]) -> Columnar {
    let column = |value: fn(&Sample) -> i64| Some(Column::new(rows.iter().map(value).collect()));
    let metrics = Metric::ALL.into_iter().map(|metric| {
        rows.iter().filter_map(|row| row.snapshot.values.get(metric)).collect::<Vec<_>>()
    });
    let present = rows.iter().map(|row| row.snapshot.values.present().bits().cast_signed());
    Columnar {
        first_sequence: first.number(),
        wall_ms: column(|row| row.snapshot.wall_ms),
        offset_ms: column(|row| {
            row.snapshot.wall_ms.wrapping_sub(row.snapshot.taken_at.as_ms().cast_signed())
        }),
        present: Some(Column::folded(present.collect())),
        metrics: metrics.filter(|column| !column.is_empty()).map(Column::new).collect(),
    }
}

/// A message of doubles for each record, as the fixed form has it, each with its length before it.
fn plain(rows: &[Sample]) -> Vec<u8> {
    let message = |row: &Sample| MetricsRequest {
        timestamp: row.snapshot.wall_ms.div_euclid(1000),
        metrics: Some((&row.snapshot.values).into()),
        ..MetricsRequest::default()
    };
    rows.iter().flat_map(|row| message(row).encode_length_delimited_to_vec()).collect()
}

/// The form of the bus for other readers.
fn json_lines(first: Sequence, rows: &[Sample]) -> anyhow::Result<Vec<u8>> {
    let mut lines = Vec::new();
    let mut sequence = first;
    for row in rows {
        let record = MetricsRecord {
            agent_id: "pi-0001".to_owned(),
            boot: Some(Boot { counter: 7, nonce: 0x0123_4567_89ab_cdef }),
            record: Some(proto::convert::record(sequence, row)),
            ..MetricsRecord::default()
        };
        writeln!(lines, "{}", bus::json::metrics(&record)?)?;
        sequence = sequence.next();
    }
    Ok(lines)
}

/// What one form takes of one trace.
#[derive(Debug)]
pub(crate) struct Size {
    trace: String,
    form: Form,
    records: u64,
    values: u64,
    bytes: u64,
}

impl Size {
    /// In thousandths.
    fn per_value(&self) -> u64 {
        (self.bytes * 1000).div_ceil(self.values)
    }

    /// In thousandths.
    fn per_record(&self) -> u64 {
        (self.bytes * 1000).div_ceil(self.records)
    }
}

impl Row for Size {
    fn json(&self) -> Value {
        json!({
            "trace": self.trace,
            "form": self.form.name(),
            "records": self.records,
            "values": self.values,
            "bytes": self.bytes,
        })
    }
}

/// All forms of each of `traces`, and of all of them together.
pub(crate) fn measure(traces: &[Trace]) -> anyhow::Result<Vec<Size>> {
    let mut sizes = Vec::new();
    for form in Form::ALL {
        let mut all = Size { trace: "all".to_owned(), form, records: 0, values: 0, bytes: 0 };
        for trace in traces {
            let size = size(form, trace).with_context(|| format!("{}: {form:?}", trace.name))?;
            all.records += size.records;
            all.values += size.values;
            all.bytes += size.bytes;
            sizes.push(size);
        }
        sizes.push(all);
    }
    Ok(sizes)
}

fn size(form: Form, trace: &Trace) -> anyhow::Result<Size> {
    let mut first = Sequence::FIRST;
    let mut bytes = 0;
    for rows in trace.samples.chunks(BLOCK_RECORDS) {
        bytes += form.encode(first, rows)?.len();
        first = rows.iter().fold(first, |sequence, _| sequence.next());
    }
    let present = |row: &Sample| u64::from(row.snapshot.values.present().len());
    Ok(Size {
        trace: trace.name.clone(),
        form,
        records: trace.samples.len() as u64,
        values: trace.samples.iter().map(present).sum(),
        bytes: bytes as u64,
    })
}

/// Writes the table, and what became of the aims on each trace.
pub(crate) fn write(out: &mut impl Write, sizes: &[Size]) -> io::Result<()> {
    let head = ["trace", "form", "bytes", "B per record", "B per value"];
    let mut lines = vec![head.map(str::to_owned)];
    let thousandths = |number: u64| format!("{}.{:03}", number / 1000, number % 1000);
    let packed = || sizes.iter().filter(|size| size.form == Form::Packed);
    for trace in packed().map(|size| &size.trace) {
        for size in sizes.iter().filter(|size| size.trace == *trace) {
            lines.push([
                trace.clone(),
                size.form.name(),
                size.bytes.to_string(),
                thousandths(size.per_record()),
                thousandths(size.per_value()),
            ]);
        }
    }
    write_columns(out, 2, &lines)?;
    writeln!(out)?;

    let mut lines = vec![
        ["trace", "at most 1 B per value", "below the rival", "of the rival"].map(str::to_owned),
    ];
    for size in packed() {
        let is_rival = |other: &&Size| other.form == RIVAL && other.trace == size.trace;
        let rival = sizes.iter().find(is_rival).map_or(0, |rival| rival.bytes);
        let met = |is_met| if is_met { "met" } else { "NOT met" }.to_owned();
        lines.push([
            size.trace.clone(),
            met(size.per_value() <= AIM_PER_VALUE),
            met(size.bytes < rival),
            percent(super::per_mille(size.bytes, rival)),
        ]);
    }
    write_columns(out, 1, &lines)?;
    writeln!(out, "\nThe rival: {}. Blocks of {BLOCK_RECORDS} records.", RIVAL.name())
}
