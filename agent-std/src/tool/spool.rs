//! Looking into the spool, which is left as it is.

use std::io::{self, Write as _};
use std::path::PathBuf;

use anyhow::bail;

use crate::cli::{SpoolPlace, SpoolTool};
use crate::spool::{DIRECTORY_NAME, StdDisk, StdDiskError, inspect};

/// Runs `tool`.
pub(super) fn run(tool: SpoolTool) -> anyhow::Result<()> {
    match tool {
        SpoolTool::Check { place, json } => check(place, json),
        SpoolTool::Dump { place } => dump(place),
    }
}

fn check(place: SpoolPlace, json: bool) -> anyhow::Result<()> {
    let (directory, mut disk) = look_into(place)?;
    let inspection = inspect::inspect(&mut disk).map_err(|source| unreadable(directory, source))?;
    check_unused(&disk)?;
    let mut out = io::stdout().lock();
    if json {
        writeln!(out, "{}", serde_json::to_string(&inspection)?)?;
    } else {
        inspection.write(&mut out)?;
    }
    match inspection.troubles.as_slice() {
        [] => Ok(()),
        troubles => bail!("the spool is damaged: {}", troubles.join("; ")),
    }
}

fn dump(place: SpoolPlace) -> anyhow::Result<()> {
    let (_, mut disk) = look_into(place)?;
    inspect::dump(&mut disk, &mut io::stdout().lock())?;
    Ok(check_unused(&disk)?)
}

/// Why nothing can be said of a spool, not even whether it is damaged.
#[derive(Debug, thiserror::Error)]
pub(crate) enum NoLook {
    /// No agent has had a spool there.
    #[error("there is no spool in {} (the --state-dir of an agent?)", .0.display())]
    None(PathBuf),
    #[error("the spool in {} is in use by another process: stop the agent, and try again", .0.display())]
    InUse(PathBuf),
    /// An agent that came meanwhile has changed what was being read.
    #[error("an agent has begun to use the spool: stop it, and try again")]
    Taken,
    #[error("may not look into {}: permission denied (run this as root, or as the agent's user)", .0.display())]
    Denied(PathBuf),
    #[error("cannot look into {}", path.display())]
    Unreadable { path: PathBuf, source: io::Error },
    #[error(transparent)]
    Strange(StdDiskError),
}

fn look_into(place: SpoolPlace) -> Result<(PathBuf, StdDisk), anyhow::Error> {
    let state_dir = place.state_dir()?;
    let directory = state_dir.join(DIRECTORY_NAME);
    match directory.symlink_metadata() {
        Ok(_) => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return Err(NoLook::None(state_dir).into());
        }
        Err(error) => return Err(unreadable(directory, error).into()),
    }
    let disk = StdDisk::look(&directory).map_err(|error| match error {
        StdDiskError::InUse { .. } => NoLook::InUse(state_dir),
        StdDiskError::Io { path, source } => unreadable(path, source),
        StdDiskError::NoDirectory { .. } => NoLook::Strange(error),
    })?;
    Ok((directory, disk))
}

fn unreadable(path: PathBuf, source: io::Error) -> NoLook {
    match source.kind() {
        io::ErrorKind::PermissionDenied => NoLook::Denied(path),
        _ => NoLook::Unreadable { path, source },
    }
}

fn check_unused(disk: &StdDisk) -> Result<(), NoLook> {
    if disk.is_in_use() { Err(NoLook::Taken) } else { Ok(()) }
}
