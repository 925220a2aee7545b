//! Whether packages are as they must be: `cargo xtask dist --check`.

mod contents;
mod installed;
mod papers;

use std::fs;
use std::io::Write;
use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, bail, ensure};

use crate::cross::{Emulator, Target};
use crate::dist::{Made, output};
use crate::workspace;

/// The programs that the checks need, each with Debian's package of it.
const TOOLS: [(&str, &str); 6] = [
    ("bash", "bash"),
    ("deb-systemd-helper", "init-system-helpers"),
    ("dpkg", "dpkg"),
    ("dpkg-deb", "dpkg"),
    ("groff", "groff-base"),
    ("sha256sum", "coreutils"),
];

/// Sees that the checks can be made. Said before the first build: nothing is left out when a tool is missing.
///
/// # Errors
///
/// When one is missing, with what to install.
pub(super) fn find_tools(targets: &[&'static Target]) -> anyhow::Result<()> {
    let fakeroot = (!is_root()).then_some(("fakeroot", "fakeroot"));
    for (name, package) in TOOLS.into_iter().chain(fakeroot) {
        if workspace::on_path(name).is_none() {
            bail!("{name} is missing, which --check needs (Debian: {package})");
        }
    }
    for target in targets {
        Emulator::find(target)?;
    }
    Ok(())
}

/// Files of a package belong to root, and only root can install them so.
fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// Checks all packages in `site`. `second` is what was made from the same once more.
///
/// # Errors
///
/// When one of them is not as it must be; with what is wrong.
pub(super) fn run(
    first: &[Made],
    second: &[Made],
    site: &Path,
    out: &mut dyn Write,
) -> anyhow::Result<()> {
    let mut sums = Command::new("sha256sum");
    output(sums.current_dir(site).args(["--check", "--strict", "--quiet", "SHA256SUMS"]))?;
    writeln!(out, "\nchecked: SHA256SUMS is right")?;
    for (one, again) in first.iter().zip(second) {
        let Made { target, program, .. } = one;
        let named = || format!("{} for {}", program.name, target.name);
        check(one, again).with_context(named)?;
        writeln!(
            out,
            "checked: {} is the same twice, whole, installed, run, removed and purged",
            named()
        )?;
    }
    Ok(())
}

fn check(one: &Made, again: &Made) -> anyhow::Result<()> {
    for (file, repeated) in one.files().into_iter().zip(again.files()) {
        let is_same = fs::read(file)? == fs::read(repeated)?;
        ensure!(is_same, "{} is another each time", file.display());
    }
    let files = contents::check(one)?;
    papers::check_bill(one)?;
    installed::check(one, &files)
}
