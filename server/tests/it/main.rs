//! Drives the real `picket-server` with plain gRPC clients.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]
#![expect(clippy::print_stderr, reason = "the server's log belongs to a failed test")]

mod harness;

mod alerts;
mod bad_input;
mod commands;
mod config;
mod identity;
mod metrics;
mod process;
mod sessions;
