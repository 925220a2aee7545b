//! JSON lines.

use std::io::{self, Write};

use serde_json::Value;

use crate::view::text;

/// Writes one value as one line.
pub(crate) fn write_line(out: &mut dyn Write, value: &Value) -> io::Result<()> {
    writeln!(out, "{}", text::escape_json(&value.to_string()))
}
