//! Who this process is: the agent's name, its boot, and what a restart hands over.

use std::env;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use agent_core::agent::Restarted;
use agent_core::id::{AgentId, AgentIdError, BootId};
use gethostname::gethostname;
use sha2::{Digest as _, Sha256};

use crate::state_file;

/// The variable in which a process tells its successor why it was restarted: command id and boot, with a blank.
const RESTARTED_VARIABLE: &str = "PICKET_RESTARTED";

/// Why this process cannot say who it is.
#[derive(Debug, thiserror::Error)]
pub(crate) enum IdentityError {
    #[error("{id:?} is no agent id (set another with agent_id or --agent-id)")]
    AgentId { id: String, source: AgentIdError },
    #[error("cannot keep the boot counter in {} (set another directory with --state-dir)", path.display())]
    State { path: PathBuf, source: io::Error },
    #[error("the system gives no random numbers")]
    Random(#[source] getrandom::Error),
}

/// The agent's name: what was asked for, else the host's name with other characters replaced by `-`.
pub(crate) fn agent_id(wanted: Option<&str>) -> Result<AgentId, IdentityError> {
    let id = match wanted {
        Some(id) => id.to_owned(),
        None => from_host_name(&host_name()),
    };
    id.parse().map_err(|source| IdentityError::AgentId { id, source })
}

/// The name of this host.
pub(crate) fn host_name() -> String {
    gethostname().to_string_lossy().into_owned()
}

fn from_host_name(name: &str) -> String {
    let allowed = |character: char| character.is_ascii_alphanumeric() || "._-".contains(character);
    let replaced = name
        .chars()
        .map(|character| if allowed(character) { character } else { '-' })
        .collect::<String>();
    replaced.trim_matches(['.', '_', '-']).to_owned()
}

/// Files in which a Linux system or its hardware says which one it is. A copied disk takes the first with it, the others
/// stay with the hardware; the last one is for root alone.
const HOST_FILES: [&str; 3] =
    ["/etc/machine-id", "/proc/device-tree/serial-number", "/sys/class/dmi/id/product_uuid"];

/// Goes into the hash before them, so that it tells nobody else what they hold.
const HOST_SALT: &[u8] = b"picket-agent host 1\n";

/// What tells this host from others: a hash in hexadecimal; empty where the host does not say.
pub(crate) fn host() -> String {
    let parts = HOST_FILES.map(|path| fs::read(path).unwrap_or_default());
    host_of(&parts)
}

fn host_of(parts: &[Vec<u8>]) -> String {
    if parts.iter().all(Vec::is_empty) {
        return String::new();
    }
    let mut hash = Sha256::new_with_prefix(HOST_SALT);
    for part in parts {
        hash.update(Sha256::digest(part));
    }
    hash.finalize().iter().take(HOST_BYTES).map(|byte| format!("{byte:02x}")).collect()
}

/// Enough that no two hosts have the same by chance.
const HOST_BYTES: usize = 16;

/// A fresh boot: random, and counted if there is a place to count. `known` is the highest boot that something else there
/// tells of.
pub(crate) fn next_boot(state_dir: Option<&Path>, known: u64) -> Result<BootId, IdentityError> {
    let counter = match state_dir {
        None => 0,
        Some(directory) => count_boot(directory, known)
            .map_err(|source| IdentityError::State { path: directory.to_owned(), source })?,
    };
    Ok(BootId { counter, nonce: random()? })
}

/// A random number from the system.
pub(crate) fn random() -> Result<u64, IdentityError> {
    getrandom::u64().map_err(IdentityError::Random)
}

/// More than the longest counter.
const COUNTER_BYTES_MAX: u64 = 64;

/// Reads the counter, adds one, and writes it so that it survives a loss of power. A full disk has no room for another file,
/// but for the digits of this one: there the counter is written in its place.
fn count_boot(directory: &Path, known: u64) -> io::Result<u64> {
    let path = directory.join("boot");
    let counted = state_file::read(&path, COUNTER_BYTES_MAX)?.map(|bytes| {
        let text = String::from_utf8_lossy(&bytes).trim().to_owned();
        text.parse::<u64>().unwrap_or_else(|_| {
            tracing::warn!(
                path = %path.display(), known,
                "the boot counter is damaged and goes on from what else is known; where that is too low, the server suspects a \
                 copied disk"
            );
            0
        })
    });
    let counter = counted.unwrap_or(0).max(known).saturating_add(1);
    // As wide as the largest one, so that any fits where another one was.
    let text = format!("{counter:020}\n");
    state_file::replace(directory, "boot", text.as_bytes()).or_else(|error| {
        state_file::overwrite(directory, "boot", text.as_bytes()).map_err(|_| error)
    })?;
    Ok(counter)
}

/// What the process before this one handed over, if it restarted into this one.
pub(crate) fn restarted() -> Option<Restarted> {
    parse_restarted(&env::var(RESTARTED_VARIABLE).ok()?)
}

fn parse_restarted(text: &str) -> Option<Restarted> {
    let (command, boot) = text.split_once(' ')?;
    Some(Restarted { command: command.parse().ok()?, previous: boot.parse().ok()? })
}

/// The path that this program was started from. Links are kept, so that a restart follows one that was turned to
/// another version since.
pub(crate) fn program() -> io::Result<PathBuf> {
    let started_as = env::args_os().next().map(PathBuf::from).unwrap_or_default();
    // A name without a directory was found in PATH, which only the system's own answer tells.
    if started_as.components().nth(1).is_none() {
        return env::current_exe();
    }
    // Absolute, because the working directory may change.
    std::path::absolute(started_as)
}

/// Replaces this process by a fresh one with the same arguments. Returns only if that fails.
///
/// The program is looked up by its path again, so a restart after an upgrade runs the new one.
#[cfg(unix)]
pub(crate) fn restart(program: &Path, restarted: Option<Restarted>) -> io::Error {
    use std::os::unix::process::CommandExt as _;

    let mut command = std::process::Command::new(program);
    command.args(env::args_os().skip(1));
    match restarted {
        Some(Restarted { command: id, previous }) => {
            command.env(RESTARTED_VARIABLE, format!("{id} {previous}"))
        }
        None => command.env_remove(RESTARTED_VARIABLE),
    };
    command.exec()
}

#[cfg(not(unix))]
pub(crate) fn restart(_program: &Path, _restarted: Option<Restarted>) -> io::Error {
    io::Error::new(io::ErrorKind::Unsupported, "this system cannot replace a running process")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_name_becomes_an_agent_id() {
        assert_eq!(from_host_name("edge-1.example"), "edge-1.example");
        assert_eq!(from_host_name("_my host_"), "my-host");
        assert!(agent_id(Some("a/b")).is_err());
        assert!(agent_id(None).is_ok());
    }

    #[test]
    fn hosts_are_told_apart_by_any_part() {
        let parts = |one: &str, other: &str| host_of(&[one.into(), other.into()]);
        assert_eq!(parts("a", "b").len(), 32);
        assert_eq!(parts("a", "b"), parts("a", "b"));
        assert_ne!(parts("a", "b"), parts("a", "c"));
        assert_ne!(parts("ab", ""), parts("a", "b"));
        assert_eq!(parts("", ""), "");
    }

    #[test]
    fn boots_are_counted_and_a_damaged_counter_starts_again() {
        let directory = tempfile::tempdir().unwrap();
        let state = directory.path().join("state");
        assert_eq!(next_boot(Some(&state), 0).unwrap().counter, 1);
        assert_eq!(next_boot(Some(&state), 0).unwrap().counter, 2);
        for damage in [b"\xff\xfe".as_slice(), b"x", b""] {
            fs::write(state.join("boot"), damage).unwrap();
            assert_eq!(next_boot(Some(&state), 0).unwrap().counter, 1);
            fs::write(state.join("boot"), damage).unwrap();
            assert_eq!(next_boot(Some(&state), 7).unwrap().counter, 8, "the book knows more");
        }
        fs::remove_file(state.join("boot")).unwrap();
        fs::create_dir(state.join("boot")).unwrap();
        assert!(next_boot(Some(&state), 0).is_err(), "what is no file is not waited for");
        assert_eq!(next_boot(None, 0).unwrap().counter, 0);
    }

    #[test]
    fn boots_are_counted_where_no_other_file_can_be_made() {
        let directory = tempfile::tempdir().unwrap();
        let state = directory.path();
        // In the place of the temporary file, which then cannot be created.
        fs::create_dir(state.join("boot.new")).unwrap();
        assert!(next_boot(Some(state), 0).is_err(), "there is nothing to write over");
        fs::remove_dir(state.join("boot.new")).unwrap();
        assert_eq!(next_boot(Some(state), 0).unwrap().counter, 1);
        fs::create_dir(state.join("boot.new")).unwrap();
        for counter in 2..12 {
            assert_eq!(next_boot(Some(state), 0).unwrap().counter, counter);
        }
    }

    #[test]
    fn what_a_restart_hands_over_reads_back() {
        let restarted = parse_restarted("c-1 3-00000000000000ff").unwrap();
        assert_eq!(restarted.command.as_str(), "c-1");
        assert_eq!(restarted.previous, BootId { counter: 3, nonce: 255 });
        for bad in ["", "c-1", "c-1 x", " 1-1"] {
            assert_eq!(parse_restarted(bad), None, "{bad:?}");
        }
    }
}
