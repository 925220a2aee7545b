//! Metrics as they come: fixed-width rows, JSON lines or CSV.

use std::io::{self, Write};

use agent_core::metric::{Metric, MetricSet};
use jiff::tz::TimeZone;

use crate::cli::Output;
use crate::decode::Sample;
use crate::view::{json, text, time, value};

/// Narrowest column of agent names. It grows with the longest name seen, so most streams never move.
const AGENT_WIDTH_MIN: usize = 12;

/// Writes samples in one form, with a header before the first where the form has one.
#[derive(Debug)]
pub(crate) struct Rows<W> {
    out: W,
    form: Form,
}

#[derive(Debug)]
enum Form {
    Table(Table),
    Json,
    Csv(Csv),
}

impl<W: Write> Rows<W> {
    /// With `page_rows` the table repeats its header after so many rows.
    pub(crate) fn new(
        out: W,
        output: Output,
        metrics: MetricSet,
        zone: TimeZone,
        page_rows: Option<usize>,
    ) -> Self {
        let form = match output {
            Output::Table => Form::Table(Table {
                metrics,
                zone,
                page_rows,
                rows_left: 0,
                started: false,
                agent_width: AGENT_WIDTH_MIN,
            }),
            Output::Json => Form::Json,
            Output::Csv => Form::Csv(Csv { metrics, started: false }),
        };
        Self { out, form }
    }

    pub(crate) fn write(&mut self, sample: &Sample) -> io::Result<()> {
        match &mut self.form {
            Form::Table(table) => table.write(&mut self.out, sample),
            Form::Json => {
                // Decoding has checked what could be wrong with the record.
                let value = bus::json::metrics(sample.record()).map_err(io::Error::other)?;
                json::write_line(&mut self.out, &value)
            }
            Form::Csv(csv) => csv.write(&mut self.out, sample),
        }
    }

    pub(crate) fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}

#[derive(Debug)]
struct Table {
    metrics: MetricSet,
    zone: TimeZone,
    page_rows: Option<usize>,
    // Until the header comes again; counts only when `page_rows` is set.
    rows_left: usize,
    started: bool,
    agent_width: usize,
}

impl Table {
    fn write(&mut self, out: &mut impl Write, sample: &Sample) -> io::Result<()> {
        let agent_id = text::escape(sample.agent_id());
        self.agent_width = self.agent_width.max(agent_id.chars().count());
        self.write_header_when_due(out)?;

        let time = time::local(sample.timestamp_ms(), &self.zone);
        write!(out, "{time:<19}  {agent_id:<0$}", self.agent_width)?;
        for metric in self.metrics.iter() {
            let shown = sample
                .values()
                .get(metric)
                .map_or_else(|| "-".to_owned(), |count| value(metric, count));
            write!(out, "  {shown:>0$}", heading(metric).len())?;
        }
        let note = note(sample);
        if !note.is_empty() {
            write!(out, "  {note}")?;
        }
        writeln!(out)
    }

    fn write_header_when_due(&mut self, out: &mut impl Write) -> io::Result<()> {
        let due = !self.started || (self.page_rows.is_some() && self.rows_left == 0);
        self.rows_left = match (due, self.page_rows) {
            (true, Some(page_rows)) => page_rows.saturating_sub(1),
            _ => self.rows_left.saturating_sub(1),
        };
        if !due {
            return Ok(());
        }
        self.started = true;
        write!(out, "{:<19}  {:<2$}", "TIME", "AGENT", self.agent_width)?;
        for metric in self.metrics.iter() {
            write!(out, "  {}", heading(metric))?;
        }
        writeln!(out, "  NOTE")
    }
}

/// The heading of a column, as wide as the column.
const fn heading(metric: Metric) -> &'static str {
    match metric {
        Metric::CpuPercent => "  CPU%",
        Metric::MemoryPercent => "  MEM%",
        Metric::MemoryUsed => "   USED MB",
        Metric::MemoryTotal => "  TOTAL MB",
        Metric::DiskRead => "READ MB/s",
        Metric::DiskWrite => "WRITE MB/s",
        Metric::NetIn => "  IN MB/s",
        Metric::NetOut => " OUT MB/s",
    }
}

/// What there is to say beside the values.
fn note(sample: &Sample) -> String {
    let alerts =
        sample.alerts().map(|(metric, limit)| format!("ALERT {metric} > {}", value(metric, limit)));
    let window = sample.window().map(|window| {
        let partial = if window.partial { ", cut short" } else { "" };
        let span = time::fine_span(window.duration_ms);
        format!("average of {} over {span}{partial}", window.count)
    });
    let repeats = match sample.repeats() {
        0 => None,
        1 => Some("1 equal one before".to_owned()),
        count => Some(format!("{count} equal ones before")),
    };
    alerts.chain(window).chain(repeats).collect::<Vec<_>>().join("; ")
}

#[derive(Debug)]
struct Csv {
    metrics: MetricSet,
    started: bool,
}

impl Csv {
    fn write(&mut self, out: &mut impl Write, sample: &Sample) -> io::Result<()> {
        // By way of memory: flushing the writer would flush `out`, row by row.
        let mut writer =
            csv::WriterBuilder::new().buffer_capacity(ROW_BYTES_USUAL).from_writer(Vec::new());
        if !self.started {
            self.started = true;
            let first = ["timestamp", "agent_id", "boot", "sequence"];
            let last = ["alerts", "window_count", "window_duration_ms", "repeats"];
            let metrics = self.metrics.iter().map(Metric::name);
            writer.write_record(first.into_iter().chain(metrics).chain(last))?;
        }
        let (boot, sequence) = sample.identity().map_or_else(Default::default, |(boot, seq)| {
            (boot.to_string(), seq.number().to_string())
        });
        writer.write_field(bus::json::iso_8601(sample.timestamp_ms()))?;
        writer.write_field(text::cell(sample.agent_id()).as_ref())?;
        writer.write_field(boot)?;
        writer.write_field(sequence)?;
        for metric in self.metrics.iter() {
            let count = sample.values().get(metric);
            let units = count.map(|count| proto::convert::units_from_count(metric, count));
            writer.write_field(units.map_or_else(String::new, |units| units.to_string()))?;
        }
        let alerts: Vec<_> = sample.alerts().map(|(metric, _)| metric.name()).collect();
        writer.write_field(alerts.join(" "))?;
        let window = sample.window();
        writer.write_field(shown(window.map(|window| u64::from(window.count))))?;
        writer.write_field(shown(window.map(|window| window.duration_ms)))?;
        writer.write_field(sample.repeats().to_string())?;
        writer.write_record(None::<&[u8]>)?;
        out.write_all(&writer.into_inner().map_err(|error| error.into_error())?)
    }
}

/// Bytes of a row with all metrics, give or take.
const ROW_BYTES_USUAL: usize = 256;

fn shown(number: Option<u64>) -> String {
    number.map_or_else(String::new, |number| number.to_string())
}

#[cfg(test)]
mod tests {
    use proto::{Alert, Boot, MetricsRecord, Record, Window};

    use super::*;

    fn sample(agent_id: &str) -> Sample {
        let record = MetricsRecord {
            agent_id: agent_id.into(),
            boot: Some(Boot { counter: 1, nonce: 2 }),
            record: Some(Record {
                sequence: 3,
                timestamp_ms: 1_700_000_000_123,
                present: 0b11,
                values: vec![9_125, 5_000],
                alerts: vec![Alert { metric: 0, limit: 8_000 }],
                window: Some(Window {
                    count: 5,
                    duration_ms: 20_000,
                    min: vec![1, 1],
                    max: vec![2, 2],
                    partial: true,
                }),
                repeats: 2,
                uptime_ms: 0,
            }),
            metadata: [("k".to_owned(), "v".to_owned())].into(),
        };
        let wanted = [Metric::CpuPercent, Metric::NetIn].into_iter().collect();
        Sample::decode(record, wanted).unwrap()
    }

    fn check(output: Output, page_rows: Option<usize>, agents: &[&str], expected: &str) {
        let metrics = [Metric::CpuPercent, Metric::NetIn].into_iter().collect();
        let mut bytes = Vec::new();
        let mut rows = Rows::new(&mut bytes, output, metrics, TimeZone::UTC, page_rows);
        for agent in agents {
            rows.write(&sample(agent)).unwrap();
        }
        rows.flush().unwrap();
        assert_eq!(String::from_utf8(bytes).unwrap(), expected);
    }

    #[test]
    fn table_rows_are_aligned() {
        check(
            Output::Table,
            None,
            &["web-1", "a-longer-name-than-most"],
            "\
TIME                 AGENT           CPU%    IN MB/s  NOTE
2023-11-14 22:13:20  web-1          91.25          -  \
ALERT cpu_percent > 80.00; average of 5 over 20s, cut short; 2 equal ones before
2023-11-14 22:13:20  a-longer-name-than-most   91.25          -  \
ALERT cpu_percent > 80.00; average of 5 over 20s, cut short; 2 equal ones before
",
        );
    }

    #[test]
    fn the_header_comes_again_with_each_page() {
        let metrics = MetricSet::EMPTY;
        let mut bytes = Vec::new();
        let mut rows = Rows::new(&mut bytes, Output::Table, metrics, TimeZone::UTC, Some(2));
        for _ in 0..5 {
            rows.write(&sample("a")).unwrap();
        }
        let text = String::from_utf8(bytes).unwrap();
        let headers: Vec<bool> = text.lines().map(|line| line.starts_with("TIME")).collect();
        let (header, row) = (true, false);
        assert_eq!(headers, [header, row, row, header, row, row, header, row]);
    }

    #[test]
    fn csv_has_a_header_once() {
        check(
            Output::Csv,
            None,
            &["web-1", "=cmd"],
            "\
timestamp,agent_id,boot,sequence,cpu_percent,net_in_mb,alerts,window_count,window_duration_ms,repeats
2023-11-14T22:13:20.123Z,web-1,1-0000000000000002,3,91.25,,cpu_percent,5,20000,2
2023-11-14T22:13:20.123Z,'=cmd,1-0000000000000002,3,91.25,,cpu_percent,5,20000,2
",
        );
    }

    #[test]
    fn json_is_the_form_of_the_bus() {
        let expected = bus::json::metrics(sample("web-1").record()).unwrap();
        check(Output::Json, None, &["web-1"], &format!("{expected}\n"));
    }
}
