//! The table of places where something can be dropped names every reason that there is in the code, and for each a test
//! that makes it happen.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use agent_core::ledger;
use agent_core::plugin::DropReason;
use proto::LossReason;

use crate::deployment::Deployment;

/// A row: `path/of/test.rs`, and the name of the test.
type Test = (String, String);

fn root() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/.."))
}

fn read(path: &str) -> String {
    match fs::read_to_string(root().join(path)) {
        Ok(text) => text,
        Err(error) => panic!("{path}: {error}"),
    }
}

/// The rows of the tables whose first cell is a reason.
fn rows() -> BTreeMap<String, Test> {
    let text = read("docs/delivery.md");
    let (_, tables) = text.split_once("## Where something can be dropped").unwrap();
    let rows = tables.lines().filter(|line| line.starts_with("| `"));
    let rows = rows.map(|line| {
        let cells: Vec<&str> = line.trim_matches('|').split(" | ").map(str::trim).collect();
        let [reason, _, _, test] = cells[..] else { panic!("not four cells: {line}") };
        let (file, name) = test.split_once(": ").unwrap();
        let plain = |cell: &str| cell.trim_matches('`').to_owned();
        (plain(reason), (plain(file), plain(name)))
    });
    let listed: Vec<_> = rows.collect();
    let by_reason: BTreeMap<_, _> = listed.iter().cloned().collect();
    assert_eq!(by_reason.len(), listed.len(), "a reason has two rows");
    by_reason
}

#[track_caller]
fn check(names: impl IntoIterator<Item = String>) {
    let rows = rows();
    for name in names {
        assert!(rows.contains_key(&name), "docs/delivery.md has no row for `{name}`");
    }
}

#[test]
fn each_reason_of_a_loss_is_listed() {
    let wire = (0..)
        .map_while(|number| LossReason::try_from(number).ok())
        .map(|reason| reason.as_str_name().trim_start_matches("LOSS_REASON_").to_ascii_lowercase());
    check(wire);
    check(ledger::LossReason::ALL.map(|reason| reason.name().to_owned()));
}

#[test]
fn each_reason_of_a_plugin_is_listed() {
    check(DropReason::ALL.map(|reason| reason.name().to_owned()));
}

#[test]
fn each_reason_of_a_refusal_is_listed() {
    let deployment = Deployment::start();
    let status = deployment.picket(["server-status", "--output", "json"]).json();
    let counters = status["counters"].as_object().unwrap();
    let rejected = counters.keys().filter(|name| name.starts_with("rejected.")).cloned();
    let rejected: Vec<String> = rejected.collect();
    assert!(!rejected.is_empty(), "{status}");
    check(rejected);
}

#[test]
fn each_reason_of_a_foreign_record_is_listed() {
    // They are behind a feature that these tests do not need otherwise.
    let code = read("bus/src/kafka/rejected.rs");
    let names = code.lines().filter_map(|line| {
        let name = line.trim().strip_prefix("Self::")?.split_once(" => \"")?.1;
        Some(format!("bus_rejected.TOPIC.{}", name.strip_suffix("\",")?))
    });
    let names: Vec<String> = names.collect();
    assert!(3 < names.len(), "{names:?}");
    check(names);
}

#[test]
fn each_row_names_a_test_that_is_there() {
    for (reason, (file, name)) in rows() {
        let code = read(&file);
        let is_test = code.contains(&format!("fn {name}("));
        assert!(is_test, "`{reason}`: there is no test {name} in {file}");
    }
}
