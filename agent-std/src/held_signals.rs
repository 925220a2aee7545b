//! Signals that wait while one program replaces another in the same process.
//!
//! What a program does at a signal ends with it, so until the next one listens a signal would end the process: an agent that is told
//! to reload while it restarts would be gone.

use std::io;

use nix::sys::signal::{SigSet, Signal};

/// Those that the agent listens to.
const HELD: [Signal; 3] = [Signal::SIGHUP, Signal::SIGINT, Signal::SIGTERM];

/// Has them wait, for this thread and for the program that it replaces itself by.
///
/// # Errors
///
/// Those of pthread_sigmask(3).
pub(crate) fn hold() -> io::Result<()> {
    Ok(HELD.into_iter().collect::<SigSet>().thread_block()?)
}

/// Lets them come, those that have waited at once.
///
/// # Errors
///
/// Those of pthread_sigmask(3).
pub(crate) fn release() -> io::Result<()> {
    Ok(HELD.into_iter().collect::<SigSet>().thread_unblock()?)
}
