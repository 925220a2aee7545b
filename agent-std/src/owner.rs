//! Whose records the state directory has.
//!
//! What an agent has left there for the next boot must not go out under another name. So an agent that finds another one's
//! spool and book puts them aside, as `spool.of-NAME` and `books.of-NAME`, and takes back its own if they were put aside.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use agent_core::id::AgentId;

use crate::spool::{self, StdDisk, StdDiskError};
use crate::{boot_book, state_file};

const FILE_NAME: &str = "owner";

/// Longer than any name.
const FILE_BYTES_MAX: u64 = 256;

/// Why the state directory cannot be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum OwnerError {
    #[error(
        "the state directory {} is in use by another agent: end that one, or give each a directory of its own",
        path.display()
    )]
    InUse { path: PathBuf },
    #[error("the state directory {} cannot be used", path.display())]
    State { path: PathBuf, source: io::Error },
    #[error("the spool in the state directory cannot be used")]
    Disk(#[source] StdDiskError),
    #[error("cannot put aside what the agent {owner} left in {}", path.display())]
    PutAside { owner: AgentId, path: PathBuf, source: io::Error },
    #[error(
        "{} was put aside, and is of this agent: a start under another name was cut short. Put it in the place of \"spool\", or \
         remove it", path.display()
    )]
    HalfWay { path: PathBuf },
}

/// Takes `state_dir` for this process and `agent`. The disk of the spool is its lock.
///
/// # Errors
///
/// When another process has it, or the system refuses.
pub(crate) fn take(state_dir: &Path, agent: &AgentId) -> Result<StdDisk, OwnerError> {
    let disk = open(state_dir)?;
    let owner = read(state_dir);
    if owner.as_ref() == Some(agent) {
        let mine = aside(state_dir, spool::DIRECTORY_NAME, agent);
        return if mine.exists() { Err(OwnerError::HalfWay { path: mine }) } else { Ok(disk) };
    }
    let Some(owner) = owner else {
        if let Err(error) = write(state_dir, agent) {
            // A full disk is no reason not to measure.
            tracing::warn!(%error, "cannot write down whose records the state directory has");
        }
        return Ok(disk);
    };
    swap(state_dir, &owner, agent).map_err(|source| OwnerError::PutAside {
        owner,
        path: state_dir.to_owned(),
        source,
    })?;
    // The lock went with the directory.
    drop(disk);
    open(state_dir)
}

/// Puts aside what is of `owner`, takes back what is of `agent`, and only then writes the new name down: after a
/// crash the next start of `agent` goes on with it.
fn swap(state_dir: &Path, owner: &AgentId, agent: &AgentId) -> io::Result<()> {
    for name in [spool::DIRECTORY_NAME, boot_book::FILE_NAME] {
        let theirs = aside(state_dir, name, owner);
        if !theirs.exists() && rename(&state_dir.join(name), &theirs)? {
            tracing::warn!(
                "{name} is of the agent {owner} and was put aside as {name}.of-{owner}: start that agent here again to send \
                 what is there, or remove it"
            );
        }
        if rename(&aside(state_dir, name, agent), &state_dir.join(name))? {
            tracing::info!("{name} of this agent was taken back");
        }
    }
    sync(state_dir)?;
    write(state_dir, agent)
}

fn read(state_dir: &Path) -> Option<AgentId> {
    let bytes = state_file::read(&state_dir.join(FILE_NAME), FILE_BYTES_MAX).ok()??;
    str::from_utf8(&bytes).ok()?.trim().parse().ok()
}

fn write(state_dir: &Path, agent: &AgentId) -> io::Result<()> {
    state_file::replace(state_dir, FILE_NAME, format!("{agent}\n").as_bytes())
}

fn open(state_dir: &Path) -> Result<StdDisk, OwnerError> {
    StdDisk::open(&state_dir.join(spool::DIRECTORY_NAME)).map_err(|error| match error {
        StdDiskError::InUse { .. } => OwnerError::InUse { path: state_dir.to_owned() },
        StdDiskError::Io { source, .. } => OwnerError::State { path: state_dir.to_owned(), source },
        other => OwnerError::Disk(other),
    })
}

fn aside(state_dir: &Path, name: &str, agent: &AgentId) -> PathBuf {
    state_dir.join(format!("{name}.of-{agent}"))
}

/// Answers whether there was something to rename.
fn rename(from: &Path, to: &Path) -> io::Result<bool> {
    match fs::rename(from, to) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

fn sync(directory: &Path) -> io::Result<()> {
    if cfg!(unix) { File::open(directory)?.sync_all() } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn agent(name: &str) -> AgentId {
        name.parse().unwrap()
    }

    fn leave(state: &Path, what: &str) {
        fs::write(state.join("spool/records"), what).unwrap();
        fs::write(state.join("books"), what).unwrap();
    }

    fn found(state: &Path) -> Option<String> {
        let spool = fs::read_to_string(state.join("spool/records")).ok();
        assert_eq!(spool, fs::read_to_string(state.join("books")).ok());
        spool
    }

    #[test]
    fn what_another_agent_left_is_put_aside_and_taken_back_by_it() {
        let directory = tempfile::tempdir().unwrap();
        let state = directory.path();
        drop(take(state, &agent("old")).unwrap());
        leave(state, "of old");
        drop(take(state, &agent("new")).unwrap());
        assert_eq!(found(state), None, "nothing of it goes out under another name");
        leave(state, "of new");
        drop(take(state, &agent("old")).unwrap());
        assert_eq!(found(state).as_deref(), Some("of old"));
        drop(take(state, &agent("old")).unwrap());
        assert_eq!(found(state).as_deref(), Some("of old"));
        drop(take(state, &agent("new")).unwrap());
        assert_eq!(found(state).as_deref(), Some("of new"));
    }

    #[test]
    fn a_swap_that_was_cut_short_goes_on() {
        let directory = tempfile::tempdir().unwrap();
        let state = directory.path();
        drop(take(state, &agent("old")).unwrap());
        leave(state, "of old");
        fs::rename(state.join("spool"), state.join("spool.of-old")).unwrap();
        assert!(matches!(take(state, &agent("old")), Err(OwnerError::HalfWay { .. })));
        drop(take(state, &agent("new")).unwrap());
        assert_eq!(found(state), None);
        drop(take(state, &agent("old")).unwrap());
        assert_eq!(found(state).as_deref(), Some("of old"));
    }

    #[test]
    fn one_process_has_it_at_a_time() {
        let directory = tempfile::tempdir().unwrap();
        let first = take(directory.path(), &agent("a")).unwrap();
        for name in ["a", "b"] {
            let error = take(directory.path(), &agent(name)).unwrap_err();
            assert!(matches!(error, OwnerError::InUse { .. }), "{error}");
        }
        drop(first);
        take(directory.path(), &agent("a")).unwrap();
    }
}
