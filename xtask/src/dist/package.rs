//! One package in two forms.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, ensure};

use crate::cross::{self, Program, Target};
use crate::dist::epoch::Epoch;
use crate::dist::{output, renew, stem};
use crate::workspace;

/// The .deb, as `[package.metadata.deb]` of the crate says.
pub(super) fn deb(
    target: &Target,
    program: &Program,
    cargo_deb: &Path,
    epoch: Epoch,
    directory: &Path,
) -> anyhow::Result<PathBuf> {
    let mut command = Command::new(cargo_deb);
    command.current_dir(workspace::root());
    command.args(["--package", program.package, "--target", target.name, "--locked"]);
    // It finds the program in cargo's directory for the profile, where it was built, and stripped.
    command.args(["--profile", program.profile, "--no-build", "--no-strip"]);
    if !target.is_static() {
        command.args(["--variant", "gnu"]);
    }
    command.arg("--output").arg(directory);
    command.env("CARGO_TARGET_DIR", cross::directory()?);
    command.env("SOURCE_DATE_EPOCH", epoch.to_string());
    let made = command.stdin(Stdio::null()).output();
    let made = made.with_context(|| cargo_deb.display().to_string())?;
    // It takes a unit that is not there, or a file that is there twice, for worth a warning.
    let said = String::from_utf8_lossy(&made.stderr);
    ensure!(made.status.success() && !said.contains("warning"), "cargo-deb: {said}");
    // It prints where it has put the package.
    let path = PathBuf::from(String::from_utf8_lossy(&made.stdout).trim());
    ensure!(path.is_file(), "{} was not made", path.display());
    Ok(path)
}

/// The tar.gz with what the .deb has, below one directory.
pub(super) fn archive(
    target: &Target,
    program: &Program,
    deb: &Path,
    epoch: Epoch,
    directory: &Path,
) -> anyhow::Result<PathBuf> {
    let tree = workspace::target_directory()?.join("dist-work/tree");
    renew(&tree)?;
    unpack(deb, &tree)?;
    let stem = stem(target, program);
    let path = directory.join(format!("{stem}.tar.gz"));
    let mut tar = Command::new("tar");
    // The same bytes from the same files: in order, with one time, of one owner, without the time of packing.
    tar.args(["--create", "--format=gnu", "--sort=name", "--owner=0", "--group=0"]);
    tar.args(["--numeric-owner", &format!("--mtime=@{epoch}")]);
    tar.arg("--use-compress-program=gzip --best --no-name");
    tar.arg(format!("--transform=s,^\\.,{stem},"));
    tar.arg("--file").arg(&path).arg("--directory").arg(&tree).arg(".");
    output(&mut tar)?;
    Ok(path)
}

/// Unpacks the files of a .deb, which is an `ar` archive with a tar archive of them, see deb(5).
fn unpack(deb: &Path, tree: &Path) -> anyhow::Result<()> {
    let mut ar = Command::new("ar");
    ar.arg("p").arg(deb).arg("data.tar.xz").stdin(Stdio::null()).stdout(Stdio::piped());
    let mut ar = ar.spawn().context("cannot run ar (Debian: binutils)")?;
    let data = ar.stdout.take().context("ar without its output")?;
    let mut tar = Command::new("tar");
    tar.args(["--extract", "--xz", "--preserve-permissions", "--no-same-owner"]);
    let unpacked = tar.arg("--directory").arg(tree).stdin(data).status();
    // It is waited for whatever became of tar, so that no process is left.
    let read = ar.wait().context("cannot wait for ar")?;
    let unpacked = unpacked.context("cannot run tar")?;
    ensure!(read.success() && unpacked.success(), "cannot unpack {}", deb.display());
    ensure!(fs::read_dir(tree)?.next().is_some(), "{} is empty", deb.display());
    Ok(())
}
