//! Looking into the spool, which is left as it is.

use std::io::{self, Write as _};
use std::path::PathBuf;

use anyhow::{Context as _, bail, ensure};

use crate::cli::{SpoolPlace, SpoolTool};
use crate::spool::{DIRECTORY_NAME, StdDisk, inspect};

/// Runs `tool`.
pub(super) fn run(tool: SpoolTool) -> anyhow::Result<()> {
    match tool {
        SpoolTool::Check { place, json } => check(place, json),
        SpoolTool::Dump { place } => dump(place),
    }
}

fn check(place: SpoolPlace, json: bool) -> anyhow::Result<()> {
    let mut disk = look_into(place)?;
    let inspection = inspect::inspect(&mut disk).context("cannot read the spool")?;
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
    let mut disk = look_into(place)?;
    inspect::dump(&mut disk, &mut io::stdout().lock())?;
    check_unused(&disk)
}

/// No agent has had a spool there.
#[derive(Debug, thiserror::Error)]
#[error("there is no spool in {} (the --state-dir of an agent?)", .0.display())]
pub(crate) struct NoSpool(PathBuf);

fn look_into(place: SpoolPlace) -> anyhow::Result<StdDisk> {
    let state_dir = place.state_dir()?;
    let directory = state_dir.join(DIRECTORY_NAME);
    if !directory.exists() {
        return Err(NoSpool(state_dir).into());
    }
    StdDisk::look(&directory).context("cannot look into the spool")
}

/// An agent that came meanwhile has changed what was being read.
fn check_unused(disk: &StdDisk) -> anyhow::Result<()> {
    ensure!(!disk.is_in_use(), "an agent has begun to use the spool: stop it, and try again");
    Ok(())
}
