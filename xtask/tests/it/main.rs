//! Tests that need more than one crate: the real binaries together, and the committed generated code.
//!
//! The binaries are built by the first test that needs them; `PICKET_BINARIES=DIRECTORY` takes others instead.
#![expect(clippy::unwrap_used, reason = "a test helper may fail loudly")]

mod deployment;
mod picket;
mod record;

mod alerts;
mod audit;
mod bad_input;
mod cluster;
mod codegen;
mod commands;
mod compose;
mod configuration;
mod drop_sites;
mod gateway;
mod identity;
mod metrics;
mod outage;
mod python;
mod savings;
mod services;
