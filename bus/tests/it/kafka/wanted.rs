//! The real broker that a test is given, or the word that it is skipped.

use std::env;
use std::fs::OpenOptions;
use std::io::{self, Write as _};

/// Names a broker, as `HOST:PORT`.
const KAFKA: &str = "PICKET_TEST_KAFKA";

/// Set to 1 where nothing may be skipped.
const REQUIRE: &str = "PICKET_REQUIRE_SERVICES";

/// Names a file to which each skipped test adds a line.
const SKIPPED: &str = "PICKET_SKIPPED";

/// The address of the broker; the running test is to return if there is none.
pub(super) fn kafka() -> Option<String> {
    let address = env::var(KAFKA).ok().filter(|address| !address.is_empty());
    if address.is_none() {
        let test = std::thread::current().name().unwrap_or("a test of the bus").to_owned();
        let is_required = env::var_os(REQUIRE).is_some_and(|value| value == "1");
        assert!(!is_required, "{test}: {KAFKA} is not set and {REQUIRE}=1");
        skip(&test);
    }
    address
}

fn skip(test: &str) {
    let line = format!("{test}: no Kafka ({KAFKA})\n");
    // The handle itself, past the capture of the test harness. A closed stderr is no reason to fail a test.
    io::stderr().write_all(format!("\nSKIPPED {line}").as_bytes()).ok();
    if let Some(path) = env::var_os(SKIPPED) {
        // One write, so that lines of tests that run at the same time do not mix.
        let file = OpenOptions::new().append(true).create(true).open(path);
        file.and_then(|mut file| file.write_all(line.as_bytes())).unwrap();
    }
}
