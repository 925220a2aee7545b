//! Drives the real `picket` against a scripted server.
#![expect(clippy::unwrap_used, reason = "a test that cannot be set up has failed")]

mod arguments;
mod command;
mod config;
mod metrics;
mod picket;
mod server;
