//! A table whose rows are all known: aligned for people, or as CSV.

use std::io::{self, Write};

use comfy_table::presets::NOTHING;
use comfy_table::{CellAlignment, ContentArrangement, Table};

use crate::view::text;

/// How a column is set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Align {
    /// Text: to the left; guarded against being taken for a formula.
    Left,
    /// Numbers: to the right.
    Right,
}

/// A column: its heading and how it is set.
pub(crate) type Column = (&'static str, Align);

/// Columns and rows. The cells may hold text from peers.
#[derive(Debug)]
pub(crate) struct Grid {
    columns: Vec<Column>,
    rows: Vec<Vec<String>>,
}

impl Grid {
    pub(crate) fn new(columns: &[Column]) -> Self {
        Self { columns: columns.to_vec(), rows: Vec::new() }
    }

    /// Adds a row with one cell per column.
    pub(crate) fn push(&mut self, row: Vec<String>) {
        debug_assert_eq!(row.len(), self.columns.len());
        self.rows.push(row);
    }

    /// For people: aligned, headings in capitals, no lines.
    pub(crate) fn write_table(&self, out: &mut dyn Write) -> io::Result<()> {
        let mut table = Table::new();
        table
            .load_style(NOTHING)
            .set_content_arrangement(ContentArrangement::Disabled)
            .set_header(self.columns.iter().map(|(name, _)| name.to_uppercase()));
        for row in &self.rows {
            table.add_row(row.iter().map(|cell| text::escape(cell)));
        }
        for (column, (_, align)) in table.column_iter_mut().zip(&self.columns) {
            column.set_padding((0, 2));
            column.set_cell_alignment(match align {
                Align::Left => CellAlignment::Left,
                Align::Right => CellAlignment::Right,
            });
        }
        for line in table.lines() {
            writeln!(out, "{}", line.trim_end())?;
        }
        Ok(())
    }

    /// For programs: a header with the names as they are, and a line per row.
    pub(crate) fn write_csv(&self, out: &mut dyn Write) -> io::Result<()> {
        let mut writer = csv::Writer::from_writer(&mut *out);
        writer.write_record(self.columns.iter().map(|(name, _)| name))?;
        writer.flush()?;
        drop(writer);
        self.write_csv_rows(out)
    }

    /// The same without the header, which was written before.
    pub(crate) fn write_csv_rows(&self, out: &mut dyn Write) -> io::Result<()> {
        let mut writer = csv::Writer::from_writer(out);
        for row in &self.rows {
            for (cell, (_, align)) in row.iter().zip(&self.columns) {
                match align {
                    Align::Left => writer.write_field(text::cell(cell).as_ref())?,
                    Align::Right => writer.write_field(cell)?,
                }
            }
            writer.write_record(None::<&[u8]>)?;
        }
        writer.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn grid() -> Grid {
        let mut grid = Grid::new(&[("name", Align::Left), ("count", Align::Right)]);
        grid.push(vec!["a".into(), "-1".into()]);
        grid.push(vec!["=b\u{1b}".into(), "1000".into()]);
        grid
    }

    fn written(write: impl FnOnce(&mut dyn Write) -> io::Result<()>) -> String {
        let mut bytes = Vec::new();
        write(&mut bytes).unwrap();
        String::from_utf8(bytes).unwrap()
    }

    #[test]
    fn the_table_is_aligned_and_escaped() {
        assert_eq!(
            written(|out| grid().write_table(out)),
            "NAME      COUNT\na            -1\n=b\\u{1b}   1000\n"
        );
    }

    #[test]
    fn csv_guards_texts_and_leaves_numbers() {
        assert_eq!(written(|out| grid().write_csv(out)), "name,count\na,-1\n'=b\\u{1b},1000\n");
    }
}
