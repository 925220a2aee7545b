//! Commands over a link that comes and goes.
#![no_main]

mod operations;

use libfuzzer_sys::fuzz_target;

fuzz_target!(|operations: Vec<operations::Operation>| operations::run(&operations));
