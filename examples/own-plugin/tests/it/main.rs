//! The template as a program: the plugin is named and configured like a built-in one, and a typing error is an error.
#![expect(clippy::unwrap_used, reason = "a test helper may fail loudly")]

use std::process::{Command, Output};

const TRACE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../testdata/traces/idle.csv");

fn replay(plugins: &str) -> Output {
    let mut program = Command::new(env!("CARGO_BIN_EXE_own-plugin"));
    program.args(["replay", TRACE, "--output", "json", "--plugins", plugins]);
    program.args(["--set", r#"own={"own.thin": [10]}"#]).output().unwrap()
}

#[test]
fn it_stands_in_the_chain_like_a_built_in_one() {
    let output = replay("filter,own.thin");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let lines = String::from_utf8(output.stdout).unwrap();
    let stages = lines.lines().map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap());
    let counts = stages.map(|stage| {
        (stage["after"].as_str().unwrap().to_owned(), stage["records"].as_u64().unwrap())
    });
    let expected = [("trace", 600), ("filter", 600), ("own.thin", 60)];
    assert_eq!(counts.collect::<Vec<_>>(), expected.map(|(after, n)| (after.to_owned(), n)));
}

#[test]
fn one_that_the_program_does_not_have_is_an_error_that_says_what_it_has() {
    let output = replay("own.thick");
    assert!(!output.status.success());
    let error = String::from_utf8(output.stderr).unwrap();
    assert!(error.contains("own.thick") && error.contains("own.thin"), "{error}");
}
