//! How many connections the limit on open files allows.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tracing::{debug, warn};

use crate::limits::{AGENTS_MAX, OWN_FILES};

/// Raises the process's own limit on open files to what it is allowed, and answers how many connections there may be:
/// `wanted`, else one for each agent that is remembered, as far as the files go.
///
/// A `wanted` that the files do not reach for holds all the same, with a warning: what cannot be accepted then is closed.
pub(crate) fn connections_max(wanted: Option<u32>) -> u32 {
    let files = raise();
    let own = (files / 4).min(OWN_FILES);
    let possible = u32::try_from(files - own).unwrap_or(u32::MAX);
    let agents = u32::try_from(AGENTS_MAX).unwrap_or(u32::MAX);
    match wanted {
        Some(wanted) => {
            if possible < wanted {
                warn!(
                    "{wanted} connections are allowed, but only {files} open files (LimitNOFILE)"
                );
            }
            wanted
        }
        None => possible.min(agents),
    }
}

/// The limit on open files, raised as far as it goes without privileges.
fn raise() -> u64 {
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit { current: limit.maximum, maximum: limit.maximum };
    if limit.current == limit.maximum {
        return limit.current.unwrap_or(u64::MAX);
    }
    match setrlimit(Resource::Nofile, raised) {
        Ok(()) => limit.maximum.unwrap_or(u64::MAX),
        Err(error) => {
            debug!("the limit on open files stays as it is: {error}");
            limit.current.unwrap_or(u64::MAX)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_files_decide_unless_a_number_is_wanted() {
        assert_eq!(connections_max(Some(7)), 7);
        let possible = connections_max(None);
        assert!(0 < possible);
        assert!(usize::try_from(possible).unwrap() <= AGENTS_MAX);
    }
}
