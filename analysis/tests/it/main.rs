//! Drives the real `picket` against a scripted server.
#![expect(clippy::unwrap_used, reason = "a test that cannot be set up has failed")]

mod alerts;
mod arguments;
mod audit;
mod command;
mod config;
mod events;
mod metrics;
mod picket;
mod server;
