//! What the bus promises, checked from outside.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on should say where")]

mod contract;
mod crash;
mod damage;
mod documents;
mod embedded;
mod images;
#[cfg(feature = "kafka")]
mod kafka;
mod model;
#[cfg(feature = "etcd")]
#[path = "../../../etcd/tests/it/real.rs"]
#[expect(dead_code, reason = "it is shared with other crates, and each uses a part")]
mod real_etcd;
mod support;
mod torn;
