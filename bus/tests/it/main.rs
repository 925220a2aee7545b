//! What the bus promises, checked from outside.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on should say where")]

mod contract;
mod crash;
mod documents;
mod embedded;
#[cfg(feature = "kafka")]
mod kafka;
mod model;
mod support;
