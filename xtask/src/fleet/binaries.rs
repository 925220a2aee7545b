//! The three binaries, built by cargo.

use std::env::consts::EXE_SUFFIX;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, ensure};

use crate::workspace;

/// How optimised the binaries are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Profile {
    /// As tests use them: with all features.
    Debug,
    /// As operators use them who need nothing else: with the default features.
    Release,
}

/// The packages that the binaries are in.
const PACKAGES: [&str; 3] = ["server", "agent-std", "analysis"];

/// Paths of the built binaries.
#[derive(Clone, Debug)]
pub struct Binaries {
    directory: PathBuf,
}

impl Binaries {
    /// Builds what is not fresh; cargo shows its progress on stderr.
    ///
    /// # Errors
    ///
    /// When cargo cannot be run or the build fails.
    pub fn build(profile: Profile) -> anyhow::Result<Self> {
        let target = workspace::target_directory()?;
        let mut command = workspace::cargo_with_protoc();
        command.args(["build", "--bins", "--target-dir"]).arg(&target);
        for package in PACKAGES {
            command.args(["--package", package]);
        }
        let directory = match profile {
            Profile::Debug => {
                command.args(["--features", workspace::FEATURES]);
                "debug"
            }
            Profile::Release => {
                command.arg("--release");
                "release"
            }
        };
        let status = command.status().context("cannot run cargo")?;
        ensure!(status.success(), "the build failed ({status}); cargo's messages are above");
        Ok(Self { directory: target.join(directory) })
    }

    /// Those that are in `directory` already, for instance ones that were built for another purpose.
    pub fn at(directory: PathBuf) -> Self {
        Self { directory }
    }

    /// `picket-server`
    pub fn server(&self) -> PathBuf {
        self.named("picket-server")
    }

    /// `picket-agent`
    pub fn agent(&self) -> PathBuf {
        self.named("picket-agent")
    }

    /// `picket`
    pub fn picket(&self) -> PathBuf {
        self.named("picket")
    }

    /// Where they are.
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    fn named(&self, name: &str) -> PathBuf {
        self.directory.join(format!("{name}{EXE_SUFFIX}"))
    }
}
