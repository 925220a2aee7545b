//! The tables, and how they are printed.

pub(crate) mod codec;
pub(crate) mod reduction;
pub(crate) mod trace;

use std::io::{self, Write};

use serde_json::Value;

/// A row as one JSON object.
pub(crate) trait Row {
    fn json(&self) -> Value;
}

/// Writes each row on a line of its own.
pub(crate) fn write_json(out: &mut impl Write, rows: &[impl Row]) -> io::Result<()> {
    rows.iter().try_for_each(|row| writeln!(out, "{}", row.json()))
}

/// Writes `lines`, the first of them the head: the first `left` columns begin, the others end below each other.
fn write_columns<const N: usize>(
    out: &mut impl Write,
    left: usize,
    lines: &[[String; N]],
) -> io::Result<()> {
    let width = |column: usize| lines.iter().map(|line| line[column].chars().count()).max();
    let widths: [usize; N] = std::array::from_fn(|column| width(column).unwrap_or(0));
    for line in lines {
        let mut text = String::new();
        for (column, (cell, width)) in line.iter().zip(widths).enumerate() {
            text += &if column < left {
                format!("{cell:<width$}  ")
            } else {
                format!("{cell:>width$}  ")
            };
        }
        writeln!(out, "{}", text.trim_end())?;
    }
    Ok(())
}

/// `part` of `whole` in tenths of a percent, rounded to the nearest; 0 of nothing.
fn per_mille(part: u64, whole: u64) -> u64 {
    (part * 1000 + whole / 2).checked_div(whole).unwrap_or(0)
}

/// Tenths of a percent as percent.
fn percent(per_mille: u64) -> String {
    format!("{}.{} %", per_mille / 10, per_mille % 10)
}
