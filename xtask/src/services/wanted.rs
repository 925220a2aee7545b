//! What a test does that needs a service: take the address it was given, or say loudly that it is skipped.
//!
//! It depends on the standard library alone, so that the tests of other crates can include this very file.

use std::fs::OpenOptions;
use std::io::{self, Write as _};
use std::{env, fs};

/// Names a Kafka, as `HOST:PORT`.
pub(crate) const KAFKA: &str = "PICKET_TEST_KAFKA";

/// Names an etcd, as a URL.
pub(crate) const ETCD: &str = "PICKET_TEST_ETCD";

/// Set to 1 where nothing may be skipped.
pub(crate) const REQUIRE: &str = "PICKET_REQUIRE_SERVICES";

/// Names a file to which each skipped test adds a line; `cargo xtask test` counts them.
const SKIPPED: &str = "PICKET_SKIPPED";

const REMEDY: &str = "`cargo xtask services up` starts it and prints the variable, `cargo xtask test` does all of that";

/// The service that the environment `variable` names. If there is none, the test named `test` is to return.
///
/// # Panics
///
/// If there is none where nothing may be skipped.
pub(crate) fn address(variable: &str, test: &str) -> Option<String> {
    let address = env::var(variable).ok().filter(|address| !address.is_empty());
    if address.is_none() {
        assert!(!is_required(), "{test}: {variable} is not set and {REQUIRE}=1: {REMEDY}");
        skip(test, variable);
    }
    address
}

/// Whether a missing service is a failure here.
pub(crate) fn is_required() -> bool {
    env::var_os(REQUIRE).is_some_and(|value| value == "1")
}

/// Says aloud that a test does nothing here, for want of `what`, and tells it to who runs the tests.
pub(crate) fn skip(test: &str, what: &str) {
    skip_because(test, &format!("{what} is missing; {REMEDY}"));
}

/// The same, with another reason, which is one line.
pub(crate) fn skip_because(test: &str, reason: &str) {
    let line = format!("{test}: {reason}\n");
    // The handle itself, past the capture of the test harness. A closed stderr is no reason to fail a test.
    io::stderr().write_all(format!("\nSKIPPED {line}").as_bytes()).ok();
    if let Some(path) = env::var_os(SKIPPED) {
        // One write, so that lines of tests that run at the same time do not mix.
        let file = OpenOptions::new().append(true).create(true).open(path);
        let written = file.and_then(|mut file: fs::File| file.write_all(line.as_bytes()));
        written.expect("the file named by PICKET_SKIPPED can be written");
    }
}
