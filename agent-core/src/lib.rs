//! The lean core of the picket agent.
//!
//! It knows metrics, the chain of plugins, the ring of records that wait for an acknowledgement, the command
//! rules, and [`agent::Agent`], the state machine that ties them together. It does not know a clock, a
//! thread, a socket or an allocator: the shell says what happened and when, and asks what to do next. So the
//! same code runs in a thread on Linux, in a loop on a microcontroller, and in a simulation.
//!
//! In the order in which data meets them: [`metric`] names what is measured, [`plugin`] decides what is worth
//! sending, [`ring`] holds it until it is acknowledged, [`agent`] decides when.
#![no_std]
#![forbid(unsafe_code)]
#![warn(missing_docs)]

#[cfg(test)]
extern crate std;

pub mod agent;
pub mod codec;
pub mod metric;
pub mod plugin;
pub mod record;
pub mod ring;

pub mod config;
pub mod id;
pub mod ledger;
pub mod limits;
pub mod random;
pub mod time;
