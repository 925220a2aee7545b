//! A program that was built without the spool says so when it is to look into one.

use std::path::PathBuf;

use crate::cli::SpoolTool;

/// Answers that it cannot.
pub(super) fn run(tool: SpoolTool) -> anyhow::Result<()> {
    let (SpoolTool::Check { place, .. } | SpoolTool::Dump { place }) = tool;
    Err(NoLook(place.state_dir()?).into())
}

/// There is none for this program.
#[derive(Debug, thiserror::Error)]
#[error(
    "cannot look for a spool in {}: this program was built without it; build with --features spool", .0.display()
)]
pub(crate) struct NoLook(PathBuf);
