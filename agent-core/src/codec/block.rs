//! The packed form of a run of records: one compressed block, columns one after the other.
//!
//! ```text
//! block   = version (4 bits) | rows - 1 (8 bits) | forms (2 bits) | first sequence | columns
//! columns = wall clock | wall clock - uptime | present metrics | repeats | values of each metric
//!           | if forms has bit 0: windows: count, duration, completeness; least, greatest, last and count of each metric
//!           | if forms has bit 1: marks: metrics with an alert, limit of each metric, which limits are floors
//! ```
//!
//! Each column is a series (see the module `series`); a metric's column has a value for each row in which it is
//! present. A percentage is predicted from the two metrics that it is made of; least, greatest and last of a window from
//! its average; its counts from the window's own. Everything goes through one range coder, so a block has no padding. It stands alone: losing one
//! costs only its own records.

use core::borrow::Borrow;

use heapless::Vec;

use super::CodecError;
use super::series::{SeriesDecoder, SeriesEncoder};
use crate::id::Sequence;
use crate::metric::{Metric, MetricSet, Values, percent_of};
use crate::record::{Completeness, Marks, Sample, Snapshot, Window};
use crate::time::Instant;

/// Records in one block.
pub const BLOCK_ROWS_MAX: usize = 64;

/// The first version; a reader refuses one that it does not know.
const VERSION: u64 = 1;

const WITH_WINDOWS: u64 = 1;
const WITH_MARKS: u64 = 2;

/// One column's values.
type Column = Vec<i64, BLOCK_ROWS_MAX>;

/// Writes `rows`, records with consecutive sequences from `first` on, into `buffer`. Answers the bytes it took.
///
/// # Errors
///
/// [`CodecError::TooLong`] for no row or more than [`BLOCK_ROWS_MAX`]; [`CodecError::BufferFull`].
///
/// The rows are gone through once for each column, so an iterator that makes them anew each time is slower than a slice.
pub fn pack(
    first: Sequence,
    rows: impl Iterator<Item = impl Borrow<Sample>> + Clone,
    buffer: &mut [u8],
) -> Result<usize, CodecError> {
    let count = rows.clone().count();
    let last_row = count.checked_sub(1).filter(|last| *last < BLOCK_ROWS_MAX);
    let last_row = last_row.ok_or(CodecError::TooLong)?;
    let with_windows = rows.clone().any(|row| row.borrow().window.is_some());
    let with_marks = rows.clone().any(|row| !row.borrow().marks.is_empty());
    let forms =
        if with_windows { WITH_WINDOWS } else { 0 } | if with_marks { WITH_MARKS } else { 0 };

    let mut writer = Writer { encoder: SeriesEncoder::new(buffer) };
    writer.encoder.number(VERSION, 4)?;
    writer.encoder.number(u64::try_from(last_row).unwrap_or(0), 8)?;
    writer.encoder.number(forms, 2)?;
    writer.column(core::iter::once(first.number().cast_signed()))?;
    let snapshots = rows.clone().map(|row| row.borrow().snapshot);
    writer.column(snapshots.clone().map(|row| row.wall_ms))?;
    writer.column(snapshots.clone().map(|row| row.wall_ms.wrapping_sub(uptime(row.taken_at))))?;
    let averages = snapshots.map(|row| row.values);
    writer.column(averages.clone().map(|row| row.present().bits().cast_signed()))?;
    writer.column(rows.clone().map(|row| i64::from(row.borrow().repeats)))?;
    writer.metrics(averages, predicted_percent)?;
    if with_windows {
        let count = |row: Option<Window>| row.map_or(0, |window| i64::from(window.count));
        writer.column(rows.clone().map(|row| count(row.borrow().window)))?;
        let windows =
            rows.clone().filter_map(|row| Some((row.borrow().snapshot, row.borrow().window?)));
        writer.column(windows.clone().map(|(row, window)| {
            uptime(row.taken_at).wrapping_sub(uptime(window.first_taken_at))
        }))?;
        writer.column(
            windows
                .clone()
                .map(|(_, window)| i64::from(window.completeness == Completeness::Partial)),
        )?;
        // A window has the same metrics as its averages.
        let averages = windows.clone().map(|(row, _)| row.values);
        let bounds = [|w: &Window| w.min, |w: &Window| w.max, |w: &Window| w.last];
        for bound in bounds {
            let bounds = windows.clone().map(|(_, window)| bound(&window));
            writer.metrics_beside(bounds, averages.clone())?;
        }
        let whole = windows.clone().map(|(row, window)| {
            row.values.present().iter().map(|m| (m, i64::from(window.count))).collect()
        });
        writer.metrics_beside(windows.map(|(_, window)| window.counts), whole)?;
    }
    if with_marks {
        let marks = rows.map(|row| row.borrow().marks);
        let limits = marks.clone().map(|marks| marks.limits);
        writer.column(limits.clone().map(|limits| limits.present().bits().cast_signed()))?;
        writer.metrics(limits, |_, _| None)?;
        writer.column(marks.map(|marks| marks.below.bits().cast_signed()))?;
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
        |row, metric| predicted_percent(&row.snapshot.values, metric).unwrap_or(0),
    )?;
    if forms & WITH_WINDOWS != 0 {
        reader.windows(rows, &mut present)?;
    }
    if forms & WITH_MARKS != 0 {
        let present = reader.metric_sets(count)?;
        reader.metrics(rows, &present, |row| &mut row.marks.limits, |_, _| 0)?;
        for (row, below) in rows.iter_mut().zip(reader.metric_sets(count)?) {
            // A floor of a metric without a limit means nothing, so nobody has written it.
            if !below.difference(row.marks.limits.present()).is_empty() {
                return Err(CodecError::Malformed);
            }
            row.marks.below = below;
        }
    }
    Ok((first, count))
}

const EMPTY: Sample = Sample {
    snapshot: Snapshot { taken_at: Instant::from_ms(0), wall_ms: 0, values: Values::EMPTY },
    window: None,
    marks: Marks::NONE,
    repeats: 0,
};

const EMPTY_WINDOW: Window = Window {
    count: 0,
    first_taken_at: Instant::from_ms(0),
    completeness: Completeness::Full,
    min: Values::EMPTY,
    max: Values::EMPTY,
    last: Values::EMPTY,
    counts: Values::EMPTY,
};

const fn uptime(taken_at: Instant) -> i64 {
    taken_at.as_ms().cast_signed()
}

/// A percentage that is made of two other metrics: itself, the part and the whole.
const PERCENTAGES: [(Metric, Metric, Metric); 2] = [
    (Metric::MemoryPercent, Metric::MemoryUsed, Metric::MemoryTotal),
    (Metric::DiskPercent, Metric::DiskUsed, Metric::DiskTotal),
];

/// The order of the columns of `metrics`: what a prediction needs stands before it.
fn column_order(metrics: MetricSet) -> impl Iterator<Item = Metric> {
    let percentages = MetricSet::from_iter(PERCENTAGES.map(|(percentage, ..)| percentage));
    let others = Metric::ALL.into_iter().filter(move |metric| !percentages.contains(*metric));
    others
        .chain(PERCENTAGES.map(|(percentage, ..)| percentage))
        .filter(move |metric| metrics.contains(*metric))
}

/// What a percentage should be, from the two it is made of, 0 when they are not there; none for any other metric.
fn predicted_percent(values: &Values, metric: Metric) -> Option<i64> {
    let (_, part, whole) =
        PERCENTAGES.into_iter().find(|(percentage, ..)| *percentage == metric)?;
    let pair = values.get(part).zip(values.get(whole));
    Some(pair.and_then(|(part, whole)| percent_of(part, whole)).unwrap_or(0))
}

fn union(sets: impl Iterator<Item = MetricSet>) -> MetricSet {
    sets.fold(MetricSet::EMPTY, MetricSet::union)
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
        for metric in column_order(union(rows.clone().map(|row| row.present()))) {
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
        for metric in column_order(union(rows.clone().map(|row| row.present()))) {
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
        for metric in column_order(union(present.iter().copied())) {
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
            let count = u32::try_from(*count).map_err(|_| CodecError::Malformed)?;
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
            let first = uptime(row.snapshot.taken_at).wrapping_sub(*duration);
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
        self.metrics(rows, present, |row| &mut row.window_mut().max, average)?;
        self.metrics(rows, present, |row| &mut row.window_mut().last, average)?;
        let whole = |row: &Sample, _| row.window.map_or(0, |window| i64::from(window.count));
        self.metrics(rows, present, |row| &mut row.window_mut().counts, whole)
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
        let count = prop_oneof![any::<i64>(), 0..10_000_i64];
        let counts = prop::collection::vec(count, Metric::COUNT);
        (any::<u64>(), counts).prop_map(|(bits, counts)| {
            let present = MetricSet::from_bits_truncate(bits);
            present.iter().map(|metric| (metric, counts[metric.index()])).collect()
        })
    }

    /// `counts` for just the metrics of `values`.
    fn like(values: &Values, shift: i64) -> Values {
        values.iter().map(|(metric, count)| (metric, count.wrapping_add(shift))).collect()
    }

    fn any_sample() -> impl Strategy<Value = Sample> {
        let times = (any::<u64>(), any::<i64>(), any::<u64>());
        let marks = (any::<bool>(), 1..u32::MAX, any::<bool>(), any::<i64>(), any::<u32>());
        (times, any_values(), any_values(), marks).prop_map(|(times, values, limits, marks)| {
            let (taken_at, wall_ms, first) = times;
            let (windowed, count, partial, shift, repeats) = marks;
            let window = windowed.then(|| Window {
                count,
                first_taken_at: Instant::from_ms(first),
                min: like(&values, shift),
                max: like(&values, -1),
                last: like(&values, shift),
                counts: like(&values, 1),
                completeness: if partial { Completeness::Partial } else { Completeness::Full },
            });
            let snapshot = Snapshot { taken_at: Instant::from_ms(taken_at), wall_ms, values };
            let below = MetricSet::from_bits_truncate(shift.cast_unsigned());
            let below = below.intersection(limits.present());
            Sample { snapshot, window, marks: Marks { limits, below }, repeats }
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
                (Metric::MemoryPercent, percent_of(used, total).unwrap()),
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
