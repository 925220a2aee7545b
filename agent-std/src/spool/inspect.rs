//! Looking into a spool without changing it: `picket-agent spool check` and `dump`.

use std::io::{self, Write};

use agent_core::metric::{Metric, Values};
use agent_core::record::{Alert, Completeness, Direction, Sample, Window};
use proto::convert::units_from_count;
use serde::Serialize;
use serde_json::{Map, Value, json};

use super::disk::Disk;
use super::frame::{HEADER_BYTES, Header};
use super::reading::read_from;
use super::replay::content;
use super::runs::{Run, Runs};
use super::survey::{Listing, SegmentFile, Survey, segment_name, to_u64};
use super::{Content, Loss};

/// What is in a spool.
#[derive(Debug, Serialize)]
pub(crate) struct Inspection {
    /// Of all files.
    bytes: u64,
    segments: Vec<SegmentReport>,
    waiting: Vec<RangeReport>,
    /// Declared and not yet told to the server.
    losses: Vec<LossReport>,
    /// What the agent will declare as SPOOL_DAMAGED when it opens the spool.
    damaged: Vec<RangeReport>,
    /// What is not as it must be. A write that a loss of power cut short is no trouble.
    pub(crate) troubles: Vec<String>,
}

#[derive(Debug, Serialize)]
struct SegmentReport {
    file: String,
    bytes: u64,
    frames: usize,
    records: u64,
    damaged_bytes: u64,
    unfinished_bytes: u64,
}

#[derive(Debug, Serialize)]
struct RangeReport {
    lane: &'static str,
    boot: String,
    first: u64,
    last: u64,
}

impl From<&Run> for RangeReport {
    fn from(run: &Run) -> Self {
        let (lane, boot) = (run.lane.name(), run.boot.to_string());
        Self { lane, boot, first: run.first.number(), last: run.last.number() }
    }
}

#[derive(Debug, Serialize)]
struct LossReport {
    #[serde(flatten)]
    range: RangeReport,
    reason: &'static str,
    never_sent: u64,
    unacknowledged: u64,
}

impl From<&Loss> for LossReport {
    fn from(loss: &Loss) -> Self {
        let Loss { reason, never_sent, unacknowledged, .. } = *loss;
        let range = RangeReport::from(&loss.run());
        Self { range, reason: reason.name(), never_sent, unacknowledged }
    }
}

/// Reads everything.
///
/// # Errors
///
/// When the directory or a file in it cannot be read.
pub(crate) fn inspect<D: Disk>(disk: &mut D) -> io::Result<Inspection> {
    let listing = Listing::read(disk)?;
    let expected = listing.expected();
    let (mut found, mut waiting, mut gone) = (Runs::default(), Runs::default(), Runs::default());
    let (mut segments, mut troubles) = (Vec::new(), Vec::new());
    for file in &listing.segments {
        let survey = Survey::read(disk, file, listing.known(file), &expected)?;
        let damaged_bytes = survey.damaged.iter().map(|range| range.end - range.start).sum();
        if 0 < damaged_bytes {
            troubles.push(format!("{} has {damaged_bytes} damaged bytes", file.name()));
        }
        segments.push(SegmentReport {
            file: file.name(),
            bytes: file.bytes,
            frames: survey.frames.len(),
            records: survey.frames.iter().map(|(_, header)| header.run.count()).sum(),
            damaged_bytes,
            unfinished_bytes: survey.unfinished_bytes,
        });
        found.extend(survey.found.iter().copied());
        waiting.extend(survey.waiting.iter().copied());
        gone.extend(survey.gone.iter().copied());
    }
    for known in listing.state().iter().flat_map(|state| &state.segments) {
        let is_it = |file: &SegmentFile| (file.number, file.lane) == (known.number, known.lane);
        if !listing.segments.iter().any(is_it) {
            troubles.push(format!("{} is missing", segment_name(known.lane, known.number)));
        }
    }
    if listing.copies.are_damaged {
        troubles.push("both copies of the state are damaged".to_owned());
    }
    gone.extend(expected.iter().copied());
    let losses = listing.state().map_or(&[][..], |state| &state.losses);
    let files = listing.segments.iter().chain(&listing.finished).map(|file| file.bytes);
    Ok(Inspection {
        bytes: files.sum::<u64>() + listing.copy_bytes.iter().sum::<u64>(),
        segments,
        waiting: waiting.iter().map(RangeReport::from).collect(),
        losses: losses.iter().map(LossReport::from).collect(),
        damaged: gone.without(&found).iter().map(RangeReport::from).collect(),
        troubles,
    })
}

impl Inspection {
    /// Prints it for people.
    ///
    /// # Errors
    ///
    /// Those of `out`.
    pub(crate) fn write(&self, out: &mut impl Write) -> io::Result<()> {
        writeln!(out, "{} bytes in {} segments", self.bytes, self.segments.len())?;
        for segment in &self.segments {
            let SegmentReport { file, bytes, frames, records, damaged_bytes, unfinished_bytes } =
                segment;
            write!(out, "  {file}  {bytes} bytes, {frames} frames, {records} {}", lane_of(file))?;
            if 0 < *damaged_bytes {
                write!(out, ", {damaged_bytes} bytes damaged")?;
            }
            if 0 < *unfinished_bytes {
                write!(out, ", {unfinished_bytes} bytes of a write that was never finished")?;
            }
            writeln!(out)?;
        }
        for RangeReport { lane, boot, first, last } in &self.waiting {
            writeln!(out, "waiting: {lane} of boot {boot}, {first} to {last}")?;
        }
        for LossReport { range, reason, .. } in &self.losses {
            let RangeReport { lane, boot, first, last } = range;
            writeln!(out, "lost ({reason}): {lane} of boot {boot}, {first} to {last}")?;
        }
        for RangeReport { lane, boot, first, last } in &self.damaged {
            writeln!(out, "damaged: {lane} of boot {boot}, {first} to {last}")?;
        }
        for trouble in &self.troubles {
            writeln!(out, "trouble: {trouble}")?;
        }
        Ok(())
    }
}

fn lane_of(file: &str) -> &str {
    file.split_once('-').map_or(file, |(lane, _)| lane)
}

/// Prints everything that waits, one object per line, in the order of its appending.
///
/// # Errors
///
/// When something cannot be read, or `out` cannot be written.
pub(crate) fn dump<D: Disk>(disk: &mut D, out: &mut impl Write) -> io::Result<()> {
    let listing = Listing::read(disk)?;
    let expected = listing.expected();
    let mut frames = Vec::new();
    for file in &listing.segments {
        let survey = Survey::read(disk, file, listing.known(file), &expected)?;
        let waiting =
            survey.frames.iter().filter(|(_, header)| survey.waiting.overlaps(&header.run));
        frames.extend(waiting.map(|(offset, header)| (*file, *offset, *header)));
    }
    frames.sort_by_key(|(_, _, header)| header.clock_ms);
    for (file, offset, header) in frames {
        let at = offset + to_u64(HEADER_BYTES);
        let payload = read_from(disk, &file.name(), at, header.payload_bytes)?;
        for line in lines(&header, payload) {
            writeln!(out, "{line}")?;
        }
    }
    Ok(())
}

fn lines(header: &Header, payload: Vec<u8>) -> Vec<Value> {
    let names = (header.run.first.number()..).map(|sequence| {
        json!({
            "lane": header.run.lane.name(),
            "boot": header.run.boot.to_string(),
            "sequence": sequence,
        })
    });
    let rows = match content(header, payload) {
        Some(Content::Records { rows, .. }) => rows.iter().map(sample).collect::<Vec<_>>(),
        Some(Content::Alerts { rows, .. }) => rows.iter().map(alert).collect(),
        Some(Content::Losses { .. }) | None => Vec::new(),
    };
    let lines = names.zip(rows).map(|(mut line, row)| {
        if let (Value::Object(line), Value::Object(row)) = (&mut line, row) {
            line.extend(row);
        }
        line
    });
    lines.collect()
}

fn sample(sample: &Sample) -> Value {
    let mut object = json!({
        "timestamp_ms": sample.snapshot.wall_ms,
        "uptime_ms": sample.snapshot.taken_at.as_ms(),
        "metrics": units(&sample.snapshot.values),
    });
    if let Some(window) = &sample.window {
        object["window"] = self::window(window);
    }
    if !sample.marks.is_empty() {
        let marks = sample.marks.iter().map(|(metric, limit, direction)| {
            let limit = units_from_count(metric, limit);
            json!({"metric": metric.name(), "limit": limit, "direction": direction_name(direction)})
        });
        object["alerts"] = marks.collect();
    }
    if sample.repeats != 0 {
        object["repeats"] = sample.repeats.into();
    }
    object
}

fn window(window: &Window) -> Value {
    let counts =
        window.counts.iter().map(|(metric, count)| (metric.name().to_owned(), count.into()));
    json!({
        "count": window.count,
        "first_uptime_ms": window.first_taken_at.as_ms(),
        "partial": window.completeness == Completeness::Partial,
        "min": units(&window.min),
        "max": units(&window.max),
        "last": units(&window.last),
        "counts": counts.collect::<Map<_, _>>(),
    })
}

fn units(values: &Values) -> Value {
    let unit = |(metric, count): (Metric, i64)| {
        (metric.name().to_owned(), units_from_count(metric, count).into())
    };
    Value::Object(values.iter().map(unit).collect())
}

fn alert(alert: &Alert) -> Value {
    json!({
        "timestamp_ms": alert.wall_ms,
        "uptime_ms": alert.taken_at.as_ms(),
        "metric": alert.metric.name(),
        "transition": alert.transition.name(),
        "severity": alert.severity.name(),
        "direction": direction_name(alert.direction),
        "limit": units_from_count(alert.metric, alert.limit),
        "value": units_from_count(alert.metric, alert.value),
        "lasted_ms": u64::try_from(alert.lasted.as_millis()).unwrap_or(u64::MAX),
    })
}

const fn direction_name(direction: Direction) -> &'static str {
    match direction {
        Direction::Above => "above",
        Direction::Below => "below",
    }
}
