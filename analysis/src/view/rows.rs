//! Metrics as they come: fixed-width rows, JSON lines or CSV.

use std::io::{self, Write};

use agent_core::metric::{Metric, MetricSet};
use jiff::tz::TimeZone;

use crate::cli::Output;
use crate::decode::Sample;
use crate::view::page::{Header, Page};
use crate::view::{json, sign, text, time, value};

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
    /// Columns are the metrics `asked` for. When none were, the table has the eight that all agents know and those
    /// beyond them that come, as far as the page is wide enough; CSV, whose header comes first, has all there are.
    pub(crate) fn new(
        out: W,
        output: Output,
        asked: Option<MetricSet>,
        zone: TimeZone,
        page: Option<Page>,
    ) -> Self {
        let form = match output {
            Output::Table => Form::Table(Table {
                metrics: asked.unwrap_or(MetricSet::FIXED),
                extent: if asked.is_some() { Extent::Asked } else { Extent::AsTheyCome },
                crowded_out: MetricSet::EMPTY,
                zone,
                width_max: page.map_or(usize::MAX, |page| page.width),
                header: Header::new(page.map(|page| page.rows)),
                agent_width: AGENT_WIDTH_MIN,
            }),
            Output::Json => Form::Json,
            Output::Csv => {
                Form::Csv(Csv { metrics: asked.unwrap_or(MetricSet::ALL), started: false })
            }
        };
        Self { out, form }
    }

    /// Makes room for what these samples have; to be called before they are written. Gives what to say when some of
    /// it finds no room.
    pub(crate) fn make_room(&mut self, samples: &[Sample]) -> Option<String> {
        match &mut self.form {
            Form::Table(table) => table.make_room(samples),
            Form::Json | Form::Csv(_) => None,
        }
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
    extent: Extent,
    // Not in `metrics`, because the page is too narrow.
    crowded_out: MetricSet,
    zone: TimeZone,
    width_max: usize,
    header: Header,
    agent_width: usize,
}

/// Which metrics are columns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Extent {
    Asked,
    AsTheyCome,
}

impl Table {
    fn make_room(&mut self, samples: &[Sample]) -> Option<String> {
        let names = samples.iter().map(|sample| text::escape(sample.agent_id()).chars().count());
        self.agent_width = names.fold(self.agent_width, usize::max);
        if self.extent == Extent::Asked {
            return None;
        }
        let present = samples
            .iter()
            .map(|sample| sample.values().present())
            .fold(MetricSet::EMPTY, MetricSet::union);
        let mut crowded_out = Vec::new();
        for metric in present.difference(self.metrics).difference(self.crowded_out).iter() {
            if self.width() + column_width(metric) <= self.width_max {
                self.metrics.insert(metric);
                self.header.again();
            } else {
                self.crowded_out.insert(metric);
                crowded_out.push(metric.name());
            }
        }
        (!crowded_out.is_empty()).then(|| {
            let names = crowded_out.join(", ");
            format!("no room for {names}; choose with --metric, or use --output json")
        })
    }

    /// Of a line, the notes left out.
    fn width(&self) -> usize {
        let columns: usize = self.metrics.iter().map(column_width).sum();
        TIME_WIDTH + GAP + self.agent_width + columns + GAP + NOTE.len()
    }

    fn write(&mut self, out: &mut impl Write, sample: &Sample) -> io::Result<()> {
        let agent_id = text::escape(sample.agent_id());
        self.agent_width = self.agent_width.max(agent_id.chars().count());
        if self.header.precedes_row() {
            self.write_header(out)?;
        }
        let time = time::local(sample.timestamp_ms(), &self.zone);
        write!(out, "{time:<TIME_WIDTH$}  {agent_id:<0$}", self.agent_width)?;
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

    fn write_header(&self, out: &mut impl Write) -> io::Result<()> {
        write!(out, "{:<TIME_WIDTH$}  {:<2$}", "TIME", "AGENT", self.agent_width)?;
        for metric in self.metrics.iter() {
            write!(out, "  {}", heading(metric))?;
        }
        writeln!(out, "  {NOTE}")
    }
}

/// Characters of a date and time of day.
const TIME_WIDTH: usize = 19;

/// Blanks between two columns.
const GAP: usize = 2;

/// The heading of the last column.
const NOTE: &str = "NOTE";

const fn column_width(metric: Metric) -> usize {
    GAP + heading(metric).len()
}

/// The heading of a column, as wide as the column. ASCII, so that its bytes are its characters.
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
        Metric::Load1 => " LOAD1",
        Metric::Load5 => " LOAD5",
        Metric::Load15 => "LOAD15",
        Metric::SwapUsed => "SWAP USED MB",
        Metric::SwapTotal => "SWAP TOTAL MB",
        Metric::DiskPercent => " DISK%",
        Metric::DiskUsed => "DISK USED MB",
        Metric::DiskTotal => "DISK TOTAL MB",
        Metric::Temperature => "TEMP C",
        Metric::Uptime => "UPTIME s",
        Metric::AgentMemory => "AGENT MB",
        Metric::AgentCpu => "AGENT CPU%",
        Metric::AgentBuffer => "AGENT BUF%",
    }
}

/// What there is to say beside the values.
fn note(sample: &Sample) -> String {
    let alerts = sample.marks().map(|mark| {
        let (metric, sign) = (mark.metric, sign(mark.direction));
        format!("ALERT {metric} {sign} {}", value(metric, mark.limit))
    });
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

/// The metrics beyond the eight come last, so that what stood before them keeps its place.
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
            let (fixed, more) = self.metrics();
            let (fixed, more) = (fixed.iter().map(Metric::name), more.iter().map(Metric::name));
            writer.write_record(first.into_iter().chain(fixed).chain(last).chain(more))?;
        }
        let (boot, sequence) = sample.identity().map_or_else(Default::default, |(boot, seq)| {
            (boot.to_string(), seq.number().to_string())
        });
        writer.write_field(bus::json::iso_8601(sample.timestamp_ms()))?;
        writer.write_field(text::cell(sample.agent_id()).as_ref())?;
        writer.write_field(boot)?;
        writer.write_field(sequence)?;
        let units = |metric| {
            let units = |count| proto::convert::units_from_count(metric, count).to_string();
            sample.values().get(metric).map_or_else(String::new, units)
        };
        let (fixed, more) = self.metrics();
        for metric in fixed.iter() {
            writer.write_field(units(metric))?;
        }
        let alerts: Vec<_> = sample.marks().map(|mark| mark.metric.name()).collect();
        writer.write_field(alerts.join(" "))?;
        let window = sample.window();
        writer.write_field(shown(window.map(|window| u64::from(window.count))))?;
        writer.write_field(shown(window.map(|window| window.duration_ms)))?;
        writer.write_field(sample.repeats().to_string())?;
        for metric in more.iter() {
            writer.write_field(units(metric))?;
        }
        writer.write_record(None::<&[u8]>)?;
        out.write_all(&writer.into_inner().map_err(|error| error.into_error())?)
    }

    /// The eight, and those beyond them.
    const fn metrics(&self) -> (MetricSet, MetricSet) {
        let fixed = self.metrics.intersection(MetricSet::FIXED);
        (fixed, self.metrics.difference(MetricSet::FIXED))
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
            session: 1,
            replayed: false,
            record: Some(Record {
                sequence: 3,
                timestamp_ms: 1_700_000_000_123,
                present: 0b11,
                values: vec![9_125, 5_000],
                alerts: vec![Alert { metric: 0, limit: 8_000, below: false }],
                window: Some(Window {
                    count: 5,
                    duration_ms: 20_000,
                    min: vec![1, 1],
                    max: vec![2, 2],
                    partial: true,
                    ..Window::default()
                }),
                repeats: 2,
                uptime_ms: 0,
            }),
            metadata: [("k".to_owned(), "v".to_owned())].into(),
        };
        let wanted = [Metric::CpuPercent, Metric::NetIn].into_iter().collect();
        Sample::decode(record, wanted).unwrap()
    }

    fn check(output: Output, agents: &[&str], expected: &str) {
        let metrics = [Metric::CpuPercent, Metric::NetIn].into_iter().collect();
        let mut bytes = Vec::new();
        let mut rows = Rows::new(&mut bytes, output, Some(metrics), TimeZone::UTC, None);
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
        let page = Some(Page { width: 80, rows: 2 });
        let asked = Some(MetricSet::EMPTY);
        let mut bytes = Vec::new();
        let mut rows = Rows::new(&mut bytes, Output::Table, asked, TimeZone::UTC, page);
        for _ in 0..5 {
            rows.write(&sample("a")).unwrap();
        }
        let text = String::from_utf8(bytes).unwrap();
        let headers: Vec<bool> = text.lines().map(|line| line.starts_with("TIME")).collect();
        let (header, row) = (true, false);
        assert_eq!(headers, [header, row, row, header, row, row, header, row]);
    }

    /// One with the first of the eight and these beyond them.
    fn sample_with(more: &[Metric]) -> Sample {
        let metrics: MetricSet = more.iter().copied().chain([Metric::CpuPercent]).collect();
        let record = MetricsRecord {
            agent_id: "a".into(),
            record: Some(Record {
                present: metrics.bits(),
                values: vec![150; metrics.len() as usize],
                alerts: vec![Alert { metric: 16, limit: 5_000, below: true }],
                ..Record::default()
            }),
            ..MetricsRecord::default()
        };
        Sample::decode(record, MetricSet::ALL).unwrap()
    }

    fn shown(samples: &[Sample], page: Option<Page>) -> (String, Vec<String>) {
        let mut bytes = Vec::new();
        let mut rows = Rows::new(&mut bytes, Output::Table, None, TimeZone::UTC, page);
        let mut remarks = Vec::new();
        for sample in samples {
            remarks.extend(rows.make_room(std::slice::from_ref(sample)));
            rows.write(sample).unwrap();
        }
        (String::from_utf8(bytes).unwrap(), remarks)
    }

    #[test]
    fn metrics_beyond_the_eight_become_columns_when_they_come() {
        let samples = [sample_with(&[]), sample_with(&[Metric::Load1, Metric::Temperature])];
        let (text, remarks) = shown(&samples, None);
        let time = "1970-01-01 00:00:00  a           ";
        let head = "TIME                 AGENT           CPU%    MEM%     USED MB    TOTAL MB  \
                    READ MB/s  WRITE MB/s    IN MB/s   OUT MB/s";
        let eight =
            "    1.50       -           -           -          -           -          -          -";
        let note = "ALERT temperature_celsius < 5.0";
        let expected = [
            format!("{head}  NOTE"),
            format!("{time}{eight}  {note}"),
            format!("{head}   LOAD1  TEMP C  NOTE"),
            format!("{time}{eight}    1.50     0.1  {note}"),
        ];
        assert_eq!(text.lines().collect::<Vec<_>>(), expected);
        assert!(remarks.is_empty(), "{remarks:?}");
    }

    #[test]
    fn what_a_narrow_page_has_no_room_for_is_told_once() {
        let sample = sample_with(&[Metric::Load1, Metric::SwapTotal, Metric::Temperature]);
        let samples = [sample.clone(), sample];
        let (all, _) = shown(&samples, None);
        // The widths of the page are those of the header with two of the three columns, and one short of it.
        let width = all.lines().next().unwrap().len() - column_width(Metric::SwapTotal);
        let narrow = |width| shown(&samples, Some(Page { width, rows: 10 }));
        let (text, remarks) = narrow(width);
        assert!(text.lines().next().unwrap().ends_with("LOAD1  TEMP C  NOTE"), "{text}");
        let remark = "no room for swap_total_mb; choose with --metric, or use --output json";
        assert_eq!(remarks, [remark]);
        let (text, remarks) = narrow(width - 1);
        assert!(text.lines().next().unwrap().ends_with("LOAD1  NOTE"), "{text}");
        assert_eq!(remarks.len(), 1);
        assert!(narrow(1).0.contains("OUT MB/s  NOTE"), "the eight stay");
    }

    #[test]
    fn csv_without_a_choice_has_every_metric() {
        let mut bytes = Vec::new();
        let mut rows = Rows::new(&mut bytes, Output::Csv, None, TimeZone::UTC, None);
        rows.write(&sample_with(&[Metric::Load1])).unwrap();
        let text = String::from_utf8(bytes).unwrap();
        let (header, row) = text.split_once('\n').unwrap();
        let cells: Vec<_> = header.split(',').zip(row.trim_end().split(',')).collect();
        assert_eq!(cells.len(), 4 + Metric::COUNT + 4);
        assert_eq!(cells[11].0, "net_out_mb");
        assert_eq!(cells[15], ("repeats", "0"));
        assert_eq!(cells[16], ("load1", "1.5"));
        assert_eq!(cells[17], ("load5", ""));
    }

    #[test]
    fn csv_has_a_header_once() {
        check(
            Output::Csv,
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
        check(Output::Json, &["web-1"], &format!("{expected}\n"));
    }
}
