//! The real agent binary against servers that are scripted here: one that knows only the fixed facts, and one that
//! speaks all of picket's wire.
#![expect(clippy::unwrap_used, reason = "a test helper may fail loudly")]

mod arguments;
mod begun;
#[cfg(target_os = "linux")]
mod collector;
mod device;
mod full_server;
mod gateway;
mod kept_configuration;
#[cfg(target_os = "linux")]
mod lean;
#[cfg(target_os = "linux")]
#[path = "../../../supervisor/tests/it/manager.rs"]
mod manager;
#[cfg(target_os = "linux")]
mod odd_hosts;
#[cfg(feature = "etcd")]
mod own_etcd;
mod plain_server;
mod process;
#[cfg(feature = "etcd")]
#[path = "../../../etcd/tests/it/real.rs"]
#[expect(dead_code, reason = "these tests need a part of it")]
mod real_etcd;
mod replay;
mod scripted;
#[cfg(target_os = "linux")]
mod service;
mod settings;
mod spool;
