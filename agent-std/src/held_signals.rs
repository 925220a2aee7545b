//! Signals that wait: those that come while one program replaces another in the same process, and one that never gets its turn.
//!
//! What a program does at a signal ends with it, so until the next one listens a signal would end the process: an agent that is told
//! to reload while it restarts would be gone.

use std::io;

use nix::sys::signal::{SigSet, Signal};

/// Those that the agent listens to.
const HELD: [Signal; 3] = [Signal::SIGHUP, Signal::SIGINT, Signal::SIGTERM];

/// Has the signal of a file that has become larger than the process may make files (`ulimit -f`, `LimitFSIZE=`) wait for ever, for
/// this thread and those that it starts: the write fails then, as it does on a disk that refuses, where the signal would end the
/// process without a word. To be called before there are other threads. The program that this one replaces itself by does the same.
///
/// # Errors
///
/// Those of pthread_sigmask(3).
pub(crate) fn hold_file_size() -> io::Result<()> {
    Ok(SigSet::from(Signal::SIGXFSZ).thread_block()?)
}

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
