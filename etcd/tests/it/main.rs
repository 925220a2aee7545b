//! The documents on a real etcd, and what it survives.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod real;
mod store;
mod watch;
