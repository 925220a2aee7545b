//! The tables of `cargo xtask bench reduction` and `codec` can be made. What stands in them is for people to judge.

#[path = "../../benches/savings/tables/mod.rs"]
mod tables;

use serde_json::Value;

use self::tables::{codec, reduction, trace, write_json};
use crate::deployment::binaries;

fn json_lines(rows: &[impl tables::Row]) -> Vec<Value> {
    let mut lines = Vec::new();
    write_json(&mut lines, rows).unwrap();
    let lines = String::from_utf8(lines).unwrap();
    lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[test]
fn the_table_of_plugins_can_be_made() {
    let paths = trace::paths().unwrap();
    let savings = reduction::measure(&binaries().agent(), &paths[..2]).unwrap();
    let rows = json_lines(&savings);
    assert_eq!(rows.len(), 2 * 6);
    for row in &rows {
        assert!(row["after"]["records"].as_u64() <= row["before"]["records"].as_u64(), "{row}");
        assert!(0 < row["before"]["plain_bytes"].as_u64().unwrap(), "{row}");
    }
    let mut table = Vec::new();
    reduction::write(&mut table, &savings).unwrap();
    let table = String::from_utf8(table).unwrap();
    assert_eq!(table.lines().count(), 1 + rows.len(), "{table}");
    assert!(table.contains(&trace::name(&paths[1])), "{table}");
    assert!(table.contains("90 %"), "{table}");
}

#[test]
fn the_table_of_forms_can_be_made() {
    let mut trace = trace::read(&trace::paths().unwrap()[0]).unwrap();
    trace.samples.truncate(90);
    let sizes = codec::measure(&[trace]).unwrap();
    let rows = json_lines(&sizes);
    // The trace, and all of them together, in each form.
    assert_eq!(rows.len(), 2 * 8);
    for row in &rows {
        assert_eq!((&row["records"], &row["values"]), (&90.into(), &(8 * 90).into()), "{row}");
    }
    let mut table = Vec::new();
    codec::write(&mut table, &sizes).unwrap();
    let table = String::from_utf8(table).unwrap();
    assert!(table.contains("columnar protobuf, zstd -19"), "{table}");
    assert_eq!(table.matches("met").count(), 2 * 2, "{table}");
}
