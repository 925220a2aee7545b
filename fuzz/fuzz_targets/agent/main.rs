//! The agent's state machine by operations.
#![no_main]

mod operations;

use libfuzzer_sys::fuzz_target;

fuzz_target!(|operations: Vec<operations::Operation>| operations::run(&operations));
