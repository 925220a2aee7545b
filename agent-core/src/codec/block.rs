//! The packed form of a run of records: one compressed block, columns one after the other.
//!
//! ```text
//! block   = version (4 bits) | rows - 1 (8 bits) | forms (2 bits) | first sequence | columns
//! columns = wall clock | wall clock - uptime | present metrics | repeats | values of each metric
//!           | if forms has bit 0: windows: count, duration, completeness, least and greatest of each metric
//!           | if forms has bit 1: alerts: metrics above their limits, limit of each metric
//! ```
//!
//! Each column is a series (see the module `series`); a metric's column has a value for each row in which it is
//! present. memory_percent is predicted from memory_used_mb and memory_total_mb, least and greatest of a window from
//! its average. Everything goes through one range coder, so a block has no padding. It stands alone: losing one
//! costs only its own records.

use heapless::Vec;

use super::CodecError;
use super::series::{SeriesDecoder, SeriesEncoder};
use crate::id::Sequence;
use crate::metric::{Metric, MetricSet, Values, memory_percent};
use crate::record::{Completeness, Sample, Snapshot, Window};
use crate::time::Instant;

/// Records in one block.
pub const BLOCK_ROWS_MAX: usize = 64;

/// The first version; a reader refuses one that it does not know.
const VERSION: u64 = 1;

const WITH_WINDOWS: u64 = 1;
const WITH_ALERTS: u64 = 2;

/// One column's values.
type Column = Vec<i64, BLOCK_ROWS_MAX>;

/// Writes `rows`, records with consecutive sequences from `first` on, into `buffer`. Answers the bytes it took.
///
/// # Errors
///
/// [`CodecError::TooLong`] for no row or more than [`BLOCK_ROWS_MAX`]; [`CodecError::BufferFull`].
pub fn pack<'a>(
    first: Sequence,
    rows: impl Iterator<Item = &'a Sample> + Clone,
    buffer: &mut [u8],
) -> Result<usize, CodecError> {
    let count = rows.clone().count();
    let last_row = count.checked_sub(1).filter(|last| *last < BLOCK_ROWS_MAX);
    let last_row = last_row.ok_or(CodecError::TooLong)?;
    let with_windows = rows.clone().any(|row| row.window.is_some());
    let with_alerts = rows.clone().any(|row| !row.alerts.present().is_empty());
    let forms =
        if with_windows { WITH_WINDOWS } else { 0 } | if with_alerts { WITH_ALERTS } else { 0 };

    let mut writer = Writer { encoder: SeriesEncoder::new(buffer) };
    writer.encoder.number(VERSION, 4)?;
    writer.encoder.number(u64::try_from(last_row).unwrap_or(0), 8)?;
    writer.encoder.number(forms, 2)?;
    writer.column(core::iter::once(first.number().cast_signed()))?;
    writer.column(rows.clone().map(|row| row.snapshot.wall_ms))?;
    writer.column(rows.clone().map(|row| row.snapshot.wall_ms.wrapping_sub(uptime(row))))?;
    writer.column(rows.clone().map(|row| row.snapshot.values.present().bits().cast_signed()))?;
    writer.column(rows.clone().map(|row| i64::from(row.repeats)))?;
    writer.metrics(rows.clone().map(|row| row.snapshot.values), |row: &Values, metric| {
        (metric == Metric::MemoryPercent).then(|| predicted_percent(row))
    })?;
    if with_windows {
        let windows = rows.clone().filter_map(|row| Some((row, row.window?)));
        writer.column(rows.clone().map(|row| row.window.map_or(0, |w| i64::from(w.count))))?;
        writer.column(windows.clone().map(|(row, window)| {
            uptime(row).wrapping_sub(window.first_taken_at.as_ms().cast_signed())
        }))?;
        writer.column(
            windows
                .clone()
                .map(|(_, window)| i64::from(window.completeness == Completeness::Partial)),
        )?;
        // A window has the same metrics as its averages.
        let averages = windows.clone().map(|(row, _)| row.snapshot.values);
        for bounds in [|window: &Window| window.min, |window: &Window| window.max] {
            let bounds = windows.clone().map(|(_, window)| bounds(&window));
            writer.metrics_beside(bounds, averages.clone())?;
        }
    }
    if with_alerts {
        writer.column(rows.clone().map(|row| row.alerts.present().bits().cast_signed()))?;
        writer.metrics(rows.map(|row| row.alerts), |_, _| None)?;
    }
    writer.encoder.finish()
}

/// Reads a block into `rows`. Answers the sequence of the first record and how many there are.
///
/// # Errors
///
/// [`CodecError::TooLong`] when `rows` has no room for all of them; [`CodecError::Malformed`] and
/// [`CodecError::Truncated`]. Damaged bytes may also be read as other records: a checksum around the block tells.
pub fn unpack(block: &[u8], rows: &mut [Sample]) -> Result<(Sequence, usize), CodecError> {
    let mut reader = Reader { decoder: SeriesDecoder::new(block), column: Column::new() };
    if reader.decoder.number(4)? != VERSION {
        return Err(CodecError::Malformed);
    }
    let last_row = usize::try_from(reader.decoder.number(8)?).map_err(|_| CodecError::Malformed)?;
    if BLOCK_ROWS_MAX <= last_row {
        return Err(CodecError::Malformed);
    }
    let forms = reader.decoder.number(2)?;
    let rows = rows.get_mut(..=last_row).ok_or(CodecError::TooLong)?;
    let count = rows.len();
    let first = reader.column(1, |_| 0)?.first().copied().map(i64::cast_unsigned);
    let first = first.and_then(Sequence::new).ok_or(CodecError::Malformed)?;

    rows.fill(EMPTY);
    for (row, wall_ms) in rows.iter_mut().zip(reader.column(count, |_| 0)?) {
        row.snapshot.wall_ms = *wall_ms;
    }
    for (row, offset) in rows.iter_mut().zip(reader.column(count, |_| 0)?) {
        let uptime = row.snapshot.wall_ms.wrapping_sub(*offset);
        row.snapshot.taken_at = Instant::from_ms(uptime.cast_unsigned());
    }
    let mut present = reader.metric_sets(count)?;
    for (row, repeats) in rows.iter_mut().zip(reader.column(count, |_| 0)?) {
        row.repeats = u32::try_from(*repeats).map_err(|_| CodecError::Malformed)?;
    }
    reader.metrics(
        rows,
        &present,
        |row| &mut row.snapshot.values,
        |row, metric| {
            if metric == Metric::MemoryPercent {
                predicted_percent(&row.snapshot.values)
            } else {
                0
            }
        },
    )?;
    if forms & WITH_WINDOWS != 0 {
        reader.windows(rows, &mut present)?;
    }
    if forms & WITH_ALERTS != 0 {
        let present = reader.metric_sets(count)?;
        reader.metrics(rows, &present, |row| &mut row.alerts, |_, _| 0)?;
    }
    Ok((first, count))
}

const EMPTY: Sample = Sample {
    snapshot: Snapshot { taken_at: Instant::from_ms(0), wall_ms: 0, values: Values::EMPTY },
    window: None,
    alerts: Values::EMPTY,
    repeats: 0,
};

const EMPTY_WINDOW: Window = Window {
    count: 0,
    first_taken_at: Instant::from_ms(0),
    min: Values::EMPTY,
    max: Values::EMPTY,
    completeness: Completeness::Full,
};

const fn uptime(row: &Sample) -> i64 {
    row.snapshot.taken_at.as_ms().cast_signed()
}

/// The order of the columns: what a prediction needs stands before it.
fn column_order() -> impl Iterator<Item = Metric> {
    let last = |metric: &Metric| *metric == Metric::MemoryPercent;
    Metric::ALL
        .into_iter()
        .filter(move |metric| !last(metric))
        .chain(Metric::ALL.into_iter().filter(last))
}

/// What memory_percent should be, from the two it is made of; 0 when they are not there.
fn predicted_percent(values: &Values) -> i64 {
    let used = values.get(Metric::MemoryUsed);
    let total = values.get(Metric::MemoryTotal);
    used.zip(total).and_then(|(used, total)| memory_percent(used, total)).unwrap_or(0)
}

struct Writer<'b> {
    encoder: SeriesEncoder<'b>,
}

impl Writer<'_> {
    fn column(&mut self, values: impl Iterator<Item = i64>) -> Result<(), CodecError> {
        self.encoder.series(&collect(values)?, None)
    }

    /// A column for each metric that a row has. `predict` says what a value should be, for the metrics for which it
    /// can.
    fn metrics(
        &mut self,
        rows: impl Iterator<Item = Values> + Clone,
        predict: impl Fn(&Values, Metric) -> Option<i64>,
    ) -> Result<(), CodecError> {
        for metric in column_order() {
            let present = rows.clone().filter_map(|row| Some((row.get(metric)?, row)));
            let values = collect(present.clone().map(|(value, _)| value))?;
            if values.is_empty() {
                continue;
            }
            let given = collect(present.filter_map(|(_, row)| predict(&row, metric)))?;
            self.encoder.series(&values, (!given.is_empty()).then_some(given.as_slice()))?;
        }
        Ok(())
    }

    /// A column for each metric that a row has, each value predicted by the one beside it.
    fn metrics_beside(
        &mut self,
        rows: impl Iterator<Item = Values> + Clone,
        beside: impl Iterator<Item = Values> + Clone,
    ) -> Result<(), CodecError> {
        for metric in column_order() {
            let pairs = rows.clone().zip(beside.clone());
            let present =
                pairs.filter_map(|(row, beside)| Some((row.get(metric)?, beside.get(metric)?)));
            let values = collect(present.clone().map(|(value, _)| value))?;
            if values.is_empty() {
                continue;
            }
            let given = collect(present.map(|(_, beside)| beside))?;
            self.encoder.series(&values, Some(&given))?;
        }
        Ok(())
    }
}

fn collect(values: impl Iterator<Item = i64>) -> Result<Column, CodecError> {
    let mut column = Column::new();
    for value in values {
        column.push(value).map_err(|_| CodecError::TooLong)?;
    }
    Ok(column)
}

struct Reader<'b> {
    decoder: SeriesDecoder<'b>,
    column: Column,
}

impl Reader<'_> {
    fn column(
        &mut self,
        count: usize,
        given: impl FnMut(usize) -> i64,
    ) -> Result<&[i64], CodecError> {
        self.column.resize(count, 0).map_err(|_| CodecError::Malformed)?;
        self.decoder.series(&mut self.column, given)?;
        Ok(&self.column)
    }

    fn metric_sets(&mut self, count: usize) -> Result<Vec<MetricSet, BLOCK_ROWS_MAX>, CodecError> {
        let sets = self.column(count, |_| 0)?.iter().map(|bits| {
            let bits = bits.cast_unsigned();
            let set = MetricSet::from_bits_truncate(bits);
            // A metric that this version does not know has a column of a resolution that it does not know either.
            if set.bits() == bits { Ok(set) } else { Err(CodecError::Malformed) }
        });
        sets.collect()
    }

    /// The columns of the metrics that `present` says, one set for each row, into the values that `place` finds.
    fn metrics(
        &mut self,
        rows: &mut [Sample],
        present: &[MetricSet],
        place: impl Fn(&mut Sample) -> &mut Values,
        predict: impl Fn(&Sample, Metric) -> i64,
    ) -> Result<(), CodecError> {
        for metric in column_order() {
            let mut given = Column::new();
            for (row, _) in rows.iter().zip(present).filter(|(_, set)| set.contains(metric)) {
                given.push(predict(row, metric)).map_err(|_| CodecError::Malformed)?;
            }
            if given.is_empty() {
                continue;
            }
            let column =
                self.column(given.len(), |index| given.get(index).copied().unwrap_or(0))?;
            let with_value = rows.iter_mut().zip(present).filter(|(_, set)| set.contains(metric));
            for ((row, _), value) in with_value.zip(column) {
                place(row).set(metric, *value);
            }
        }
        Ok(())
    }

    fn windows(
        &mut self,
        rows: &mut [Sample],
        present: &mut Vec<MetricSet, BLOCK_ROWS_MAX>,
    ) -> Result<(), CodecError> {
        let count = rows.len();
        let mut windows = 0_usize;
        let counts = self.column(count, |_| 0)?;
        for ((row, present), count) in rows.iter_mut().zip(present.iter_mut()).zip(counts) {
            let count = u16::try_from(*count).map_err(|_| CodecError::Malformed)?;
            if count == 0 {
                // No window, so none of its columns either.
                *present = MetricSet::EMPTY;
            } else {
                row.window = Some(Window { count, ..EMPTY_WINDOW });
                windows = windows.saturating_add(1);
            }
        }
        let durations = self.column(windows, |_| 0)?;
        let with_window = rows.iter_mut().filter(|row| row.window.is_some());
        for (row, duration) in with_window.zip(durations) {
            let first = uptime(row).wrapping_sub(*duration);
            row.window_mut().first_taken_at = Instant::from_ms(first.cast_unsigned());
        }
        let partial = self.column(windows, |_| 0)?;
        let with_window = rows.iter_mut().filter(|row| row.window.is_some());
        for (row, partial) in with_window.zip(partial) {
            row.window_mut().completeness = match partial {
                0 => Completeness::Full,
                1 => Completeness::Partial,
                _ => return Err(CodecError::Malformed),
            };
        }
        let average = |row: &Sample, metric| row.snapshot.values.get(metric).unwrap_or(0);
        self.metrics(rows, present, |row| &mut row.window_mut().min, average)?;
        self.metrics(rows, present, |row| &mut row.window_mut().max, average)
    }
}

impl Sample {
    fn window_mut(&mut self) -> &mut Window {
        self.window.get_or_insert(EMPTY_WINDOW)
    }
}

#[cfg(test)]
mod tests {
    use std::vec;
    use std::vec::Vec;

    use proptest::prelude::*;

    use super::*;

    fn check(first: u64, rows: &[Sample]) -> usize {
        let first = Sequence::new(first).unwrap();
        let mut buffer = vec![0; 64 * 1024];
        let length = pack(first, rows.iter(), &mut buffer).unwrap();
        let mut read = vec![EMPTY; BLOCK_ROWS_MAX];
        assert_eq!(unpack(&buffer[..length], &mut read), Ok((first, rows.len())));
        assert_eq!(read[..rows.len()], *rows);
        length
    }

    fn any_values() -> impl Strategy<Value = Values> {
        let counts = prop::array::uniform8(prop_oneof![any::<i64>(), 0..10_000_i64]);
        (any::<u8>(), counts).prop_map(|(bits, counts)| {
            let present = MetricSet::from_bits_truncate(u64::from(bits));
            present.iter().map(|metric| (metric, counts[metric.index()])).collect()
        })
    }

    /// `counts` for just the metrics of `values`.
    fn like(values: &Values, shift: i64) -> Values {
        values.iter().map(|(metric, count)| (metric, count.wrapping_add(shift))).collect()
    }

    fn any_sample() -> impl Strategy<Value = Sample> {
        let times = (any::<u64>(), any::<i64>(), any::<u64>());
        let marks = (any::<bool>(), 1..u16::MAX, any::<bool>(), any::<i64>(), any::<u32>());
        (times, any_values(), any_values(), marks).prop_map(|(times, values, alerts, marks)| {
            let (taken_at, wall_ms, first) = times;
            let (windowed, count, partial, shift, repeats) = marks;
            let window = windowed.then(|| Window {
                count,
                first_taken_at: Instant::from_ms(first),
                min: like(&values, shift),
                max: like(&values, -1),
                completeness: if partial { Completeness::Partial } else { Completeness::Full },
            });
            let snapshot = Snapshot { taken_at: Instant::from_ms(taken_at), wall_ms, values };
            Sample { snapshot, window, alerts, repeats }
        })
    }

    proptest! {
        #[test]
        fn every_record_comes_back(
            first in 1..u64::MAX,
            rows in prop::collection::vec(any_sample(), 1..=BLOCK_ROWS_MAX),
        ) {
            check(first, &rows);
        }

        #[test]
        fn no_bytes_panic(block in prop::collection::vec(any::<u8>(), 0..300)) {
            unpack(&block, &mut vec![EMPTY; BLOCK_ROWS_MAX]).ok();
        }

        #[test]
        fn damage_never_panics(
            rows in prop::collection::vec(any_sample(), 1..8),
            at in any::<prop::sample::Index>(),
            flip in 1..=255_u8,
        ) {
            let mut buffer = vec![0; 64 * 1024];
            let length = pack(Sequence::FIRST, rows.iter(), &mut buffer).unwrap();
            buffer[at.index(length)] ^= flip;
            unpack(&buffer[..length], &mut vec![EMPTY; BLOCK_ROWS_MAX]).ok();
        }
    }

    #[test]
    fn a_quiet_host_takes_a_fraction_of_a_byte_per_value() {
        let row = |n: u64| {
            let used = 900_000_000 + i64::try_from(n % 3 * 4096).unwrap();
            let total = 25_276_846_080;
            let values = Values::from_iter([
                (Metric::CpuPercent, 150 + i64::try_from(n * 7 % 5).unwrap()),
                (Metric::MemoryPercent, memory_percent(used, total).unwrap()),
                (Metric::MemoryUsed, used),
                (Metric::MemoryTotal, total),
                (Metric::DiskRead, 0),
                (Metric::DiskWrite, 0),
                (Metric::NetIn, 0),
                (Metric::NetOut, 0),
            ]);
            let wall_ms = 1_795_387_018_000 + i64::try_from(n * 1000).unwrap();
            Sample::from(Snapshot { taken_at: Instant::from_ms(5000 + n * 1000), wall_ms, values })
        };
        let rows = (0..60).map(row).collect::<Vec<_>>();
        assert!(check(1, &rows) < 60 * 8 / 4, "{}", check(1, &rows));
    }

    #[test]
    fn what_does_not_fit_is_an_error() {
        let mut buffer = [0; 8];
        let none: [Sample; 0] = [];
        assert_eq!(pack(Sequence::FIRST, none.iter(), &mut buffer), Err(CodecError::TooLong));
        let many = vec![EMPTY; BLOCK_ROWS_MAX + 1];
        assert_eq!(pack(Sequence::FIRST, many.iter(), &mut buffer), Err(CodecError::TooLong));
        let mut large = [0; 200];
        let length = pack(Sequence::FIRST, many[..3].iter(), &mut large).unwrap();
        assert_eq!(unpack(&large[..length], &mut many[..2].to_vec()), Err(CodecError::TooLong));
        large[0] ^= 0x40;
        assert_eq!(unpack(&large[..length], &mut many.clone()), Err(CodecError::Malformed));
    }
}
