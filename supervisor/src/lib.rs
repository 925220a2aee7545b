//! What a program tells the manager of services that started it, such as systemd, and when it may tell it.
//!
//! [`Notifier`] speaks the notify protocol, and says nothing where nobody asked for it. [`Watchdog`] is the rule of when
//! the program may be called alive: it has no clock, no socket and no thread. Agent and server share both.
#![forbid(unsafe_code)]
#![warn(missing_docs)]

#[cfg_attr(not(unix), path = "manager_absent.rs")]
mod manager;
mod notifier;
mod watchdog;

pub use notifier::{News, Notifier};
pub use watchdog::{Step, Watchdog};
