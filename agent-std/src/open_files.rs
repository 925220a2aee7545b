//! The system's limit on open files, looked at before anything is opened: beyond it not even the runtime can start.

use std::fmt;

use crate::gateway::DEVICES_MAX;

/// What is open with a state directory, 18 files, and what is open for a moment beside them: the socket that asks for an address, a
/// second connection while the first one closes, a file that is replaced, a sensor, the spool's next file.
const OWN: u64 = 32;

/// Fewer files may be open than the agent needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct TooFew {
    limit: u64,
    needed: u64,
}

impl fmt::Display for TooFew {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { limit, needed } = self;
        write!(
            f,
            "too few file descriptors: at most {limit} are allowed, {needed} are needed (ulimit -n, or LimitNOFILE= of the unit)"
        )
    }
}

impl std::error::Error for TooFew {}

/// What an agent with this many serial links needs: each is a file, and each of the devices behind them has a connection.
const fn needed(lines: usize) -> u64 {
    match lines {
        0 => OWN,
        lines => OWN + lines as u64 + DEVICES_MAX as u64,
    }
}

/// # Errors
///
/// When the system allows too few for an agent with this many serial links.
pub(crate) fn check(lines: usize) -> Result<(), TooFew> {
    compare(limit(), needed(lines))
}

fn compare(limit: Option<u64>, needed: u64) -> Result<(), TooFew> {
    match limit {
        Some(limit) if limit < needed => Err(TooFew { limit, needed }),
        _ => Ok(()),
    }
}

/// None where there is no limit.
#[cfg(unix)]
fn limit() -> Option<u64> {
    rustix::process::getrlimit(rustix::process::Resource::Nofile).current
}

#[cfg(not(unix))]
const fn limit() -> Option<u64> {
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_link_needs_files_of_its_own() {
        assert_eq!(needed(0), 32);
        assert_eq!(needed(2), 34 + DEVICES_MAX as u64);
        assert_eq!(compare(None, 32), Ok(()));
        assert_eq!(compare(Some(32), 32), Ok(()));
        let error = compare(Some(31), 32).unwrap_err().to_string();
        assert!(error.contains("at most 31 are allowed, 32 are needed"), "{error}");
    }
}
