//! Entries as they come: fixed-width rows, JSON lines or CSV.

use std::io::{self, Write};

use jiff::tz::TimeZone;
use serde_json::Value;

use crate::cli::Output;
use crate::view::grid::{Column, Grid};
use crate::view::page::{Header, Page};
use crate::view::{json, text, time};

/// Narrowest column of agent names. It grows with the longest name seen, so most logs never move.
const AGENT_WIDTH_MIN: usize = 12;

/// What can be logged. Texts may come from peers: the log makes them safe.
pub(crate) trait Entry {
    /// The heading of the table, right of time and agent.
    const HEADING: &'static str;

    /// The columns of CSV.
    const COLUMNS: &'static [Column];

    /// Whom it concerns.
    fn agent_id(&self) -> &str;

    /// When it happened: Unix milliseconds.
    fn timestamp_ms(&self) -> i64;

    /// The row of the table right of time and agent, set below [`Entry::HEADING`].
    fn row(&self) -> String;

    /// The cells of CSV, one for each column.
    fn cells(&self) -> Vec<String>;

    /// The JSON object.
    fn object(&self) -> Value;
}

/// Writes entries in one form, with a header before the first where the form has one.
#[derive(Debug)]
pub(crate) struct Log<W> {
    out: W,
    form: Form,
}

#[derive(Debug)]
enum Form {
    Table { zone: TimeZone, header: Header, agent_width: usize },
    Json,
    Csv { header: Header },
}

impl<W: Write> Log<W> {
    /// With a page the table repeats its header after so many rows.
    pub(crate) fn new(out: W, output: Output, zone: TimeZone, page: Option<Page>) -> Self {
        let form = match output {
            Output::Table => Form::Table {
                zone,
                header: Header::new(page.map(|page| page.rows)),
                agent_width: AGENT_WIDTH_MIN,
            },
            Output::Json => Form::Json,
            Output::Csv => Form::Csv { header: Header::new(None) },
        };
        Self { out, form }
    }

    pub(crate) fn write<E: Entry>(&mut self, entry: &E) -> io::Result<()> {
        let out = &mut self.out;
        match &mut self.form {
            Form::Table { zone, header, agent_width } => {
                let agent_id = text::escape(entry.agent_id());
                let width = agent_id.chars().count().max(*agent_width);
                *agent_width = width;
                if header.precedes_row() {
                    writeln!(out, "{:<19}  {:<width$}  {}", "TIME", "AGENT", E::HEADING)?;
                }
                let time = time::local(entry.timestamp_ms(), zone);
                let row = entry.row();
                let line = format!("{time:<19}  {agent_id:<width$}  {}", text::escape(&row));
                writeln!(out, "{}", line.trim_end())
            }
            Form::Json => json::write_line(out, &entry.object()),
            Form::Csv { header } => {
                let mut grid = Grid::new(E::COLUMNS);
                grid.push(entry.cells());
                if header.precedes_row() { grid.write_csv(out) } else { grid.write_csv_rows(out) }
            }
        }
    }

    pub(crate) fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::view::grid::Align;

    struct Note(&'static str);

    impl Entry for Note {
        const HEADING: &'static str = "LENGTH  TEXT";
        const COLUMNS: &'static [Column] = &[("text", Align::Left)];

        fn agent_id(&self) -> &str {
            self.0
        }

        fn timestamp_ms(&self) -> i64 {
            1_700_000_000_000
        }

        fn row(&self) -> String {
            format!("{:>6}  {}", self.0.len(), self.0)
        }

        fn cells(&self) -> Vec<String> {
            vec![self.0.to_owned()]
        }

        fn object(&self) -> Value {
            json!({"text": self.0})
        }
    }

    fn check(output: Output, page: Option<Page>, notes: &[&'static str], expected: &str) {
        let mut bytes = Vec::new();
        let mut log = Log::new(&mut bytes, output, TimeZone::UTC, page);
        notes.iter().for_each(|note| log.write(&Note(note)).unwrap());
        log.flush().unwrap();
        assert_eq!(String::from_utf8(bytes).unwrap(), expected);
    }

    #[test]
    fn rows_are_aligned_and_safe() {
        check(
            Output::Table,
            None,
            &["a", "", "thirteen-char\u{1b}"],
            "\
TIME                 AGENT         LENGTH  TEXT
2023-11-14 22:13:20  a                  1  a
2023-11-14 22:13:20                     0
2023-11-14 22:13:20  thirteen-char\\u{1b}      14  thirteen-char\\u{1b}
",
        );
    }

    #[test]
    fn the_header_comes_again_with_each_page() {
        check(
            Output::Table,
            Some(Page { width: 80, rows: 1 }),
            &["a", "b"],
            "\
TIME                 AGENT         LENGTH  TEXT
2023-11-14 22:13:20  a                  1  a
TIME                 AGENT         LENGTH  TEXT
2023-11-14 22:13:20  b                  1  b
",
        );
    }

    #[test]
    fn csv_has_a_header_once_and_json_none() {
        check(Output::Csv, None, &["a", "=b", "c,\n"], "text\na\n'=b\n\"c,\\n\"\n");
        check(Output::Json, None, &["a", "\u{9b}"], "{\"text\":\"a\"}\n{\"text\":\"\\u009b\"}\n");
    }
}
