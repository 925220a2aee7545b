//! The programs of others that make packages, of known versions.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::ensure;

use crate::workspace;

/// A program that cargo installs.
#[derive(Debug)]
pub(super) struct Tool {
    name: &'static str,
    /// The version that is known to work here.
    version: &'static str,
    /// What it is for.
    purpose: &'static str,
    /// Makes it print its version.
    asks_version: &'static [&'static str],
}

impl Tool {
    pub(super) const DEB: Self = Self {
        name: "cargo-deb",
        version: "3.8.0",
        purpose: "makes Debian's packages",
        asks_version: &["--version"],
    };

    pub(super) const BILL: Self = Self {
        name: "cargo-cyclonedx",
        version: "0.5.9",
        purpose: "lists what a program is made of",
        asks_version: &["cyclonedx", "--version"],
    };

    /// Its path. Where it is not in `target/tools`, it is installed there.
    ///
    /// # Errors
    ///
    /// When it cannot be installed.
    pub(super) fn installed(&self, out: &mut dyn Write) -> anyhow::Result<PathBuf> {
        let Self { name, version, purpose, .. } = self;
        let tools = workspace::target_directory()?.join("tools");
        let path = tools.join("bin").join(name);
        if self.is_at(&path) {
            return Ok(path);
        }
        writeln!(
            out,
            "installing {name} {version}, which {purpose}, into {} (once; some minutes) ...",
            tools.display()
        )?;
        let mut cargo = workspace::cargo();
        // What it is built from is not of this workspace, and is not needed again.
        cargo.env_remove("CARGO_TARGET_DIR");
        // It runs for seconds: not worth minutes of optimising.
        cargo.env("CARGO_PROFILE_RELEASE_LTO", "off").env("CARGO_PROFILE_RELEASE_OPT_LEVEL", "1");
        cargo.args(["install", name, "--quiet", "--locked", "--force", "--version", version]);
        cargo.arg("--root").arg(&tools);
        workspace::run(cargo)?;
        ensure!(self.is_at(&path), "{} is not {name} {version}", path.display());
        Ok(path)
    }

    fn is_at(&self, path: &Path) -> bool {
        let output = Command::new(path).args(self.asks_version).output();
        output.is_ok_and(|output| {
            let said = String::from_utf8_lossy(&output.stdout);
            said.split_whitespace().any(|word| word == self.version)
        })
    }
}
