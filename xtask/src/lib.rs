//! The project's tasks, and the real binaries as one can start and stop them from Rust.
#![forbid(unsafe_code)]
#![warn(missing_docs)]

pub mod bench;
pub mod chaos;
pub mod cross;
pub mod demo;
pub mod dist;
pub mod fleet;
pub mod fuzz;
pub mod peers;
pub mod services;
pub mod tasks;
pub mod units;

mod interrupt;
mod workspace;
