//! Drives the real `picket-server` with plain gRPC clients.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]
#![expect(clippy::print_stderr, reason = "the server's log belongs to a failed test")]

mod harness;

mod alerts;
mod bad_input;
mod commands;
mod config;
mod etcd;
mod flow;
mod hostile;
mod identity;
#[cfg(target_os = "linux")]
#[path = "../../../supervisor/tests/it/manager.rs"]
mod manager;
mod metrics;
mod process;
#[expect(dead_code, reason = "it is shared with the benchmark of memory, and each uses a part")]
mod raw;
#[cfg(feature = "etcd")]
#[path = "../../../etcd/tests/it/real.rs"]
#[expect(dead_code, reason = "it is shared with other crates, and each uses a part")]
mod real_etcd;
#[cfg(target_os = "linux")]
mod service;
mod sessions;
