//! Turns the first rows of a recorded trace into a table that fits into flash; `src/trace.rs` reads it.
//!
//! ```text
//! table = { row }
//! row   = present metrics (1 byte, bit i is column i) | uptime | wall clock | value of each present metric
//! ```
//!
//! Every number is the difference to the one of its column before, zigzag, LEB128: 20 bytes a row instead of 80.

use std::path::Path;
use std::{env, fs};

const TRACE: &str = "../../../testdata/traces/busy-compile.csv";
const HEADER: &str = "uptime_ms,wall_ms,cpu_percent,memory_percent,memory_used_mb,memory_total_mb,disk_read_mb,\
                      disk_write_mb,net_in_mb,net_out_mb";
/// Five minutes.
const ROWS: usize = 300;
const TIMES: usize = 2;
const METRICS: usize = 8;

fn main() {
    let manifest = env::var_os("CARGO_MANIFEST_DIR").expect("cargo sets it");
    let trace = Path::new(&manifest).join(TRACE);
    println!("cargo::rerun-if-changed={}", trace.display());
    println!("cargo::rerun-if-changed=build.rs");
    let text = fs::read_to_string(&trace).expect("the trace is part of the repository");
    let out = env::var_os("OUT_DIR").expect("cargo sets it");
    fs::write(Path::new(&out).join("trace.bin"), table(&text)).expect("cargo made OUT_DIR");
}

fn table(text: &str) -> Vec<u8> {
    let mut lines = text.lines().filter(|line| !line.starts_with('#'));
    assert_eq!(lines.next(), Some(HEADER), "the trace has other columns");
    let mut table = Vec::new();
    let mut before = [0_i64; TIMES + METRICS];
    let mut rows = 0;
    for line in lines.take(ROWS) {
        let row = line.split(',').map(count).collect::<Vec<_>>();
        assert_eq!(row.len(), TIMES + METRICS, "{line}");
        let metrics = row.iter().skip(TIMES).enumerate();
        let present = metrics.filter(|(_, value)| value.is_some());
        table.push(present.fold(0, |bits, (column, _)| bits | 1 << column));
        for (value, before) in row.iter().zip(&mut before) {
            if let Some(value) = value {
                push_number(&mut table, value.wrapping_sub(*before));
                *before = *value;
            }
        }
        rows += 1;
    }
    assert_eq!(rows, ROWS, "the trace is too short");
    table
}

/// An empty field is an absent metric.
fn count(field: &str) -> Option<i64> {
    (!field.is_empty()).then(|| field.parse().expect("a field is an integer"))
}

fn push_number(table: &mut Vec<u8>, number: i64) {
    let mut rest = (number.wrapping_shl(1) ^ (number >> 63)).cast_unsigned();
    loop {
        let [low, ..] = rest.to_le_bytes();
        rest >>= 7;
        if rest == 0 {
            table.push(low);
            return;
        }
        table.push(low | 0x80);
    }
}
