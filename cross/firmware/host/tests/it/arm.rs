//! Finds what the tests for ARM need.

use std::fs::OpenOptions;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::{env, io};

pub(crate) const TARGET: &str = "thumbv7m-none-eabi";

/// Set to 1 where nothing may be skipped.
const REQUIRE: &str = "PICKET_REQUIRE_ARM";

/// Names a file to which each skipped test adds a line; `cargo xtask test` counts them.
const SKIPPED: &str = "PICKET_SKIPPED";

/// A Rust toolchain that has the library of [`TARGET`].
#[derive(Debug)]
pub(crate) enum Toolchain {
    /// The one that runs this test.
    Current,
    /// One that rustup knows by this name.
    Rustup(String),
    /// One that `cross/setup.sh` unpacked here, on a host without rustup.
    Unpacked(PathBuf),
}

impl Toolchain {
    /// The first that has the library; none if there is none.
    pub(crate) fn find() -> Option<Self> {
        // The names and defaults are those of cross/setup.sh.
        let name = env::var("CROSS_TOOLCHAIN").unwrap_or_else(|_| "debian-cross".into());
        let prefix = env::var_os("CROSS_PREFIX").unwrap_or_else(|| "/opt/debian-cross".into());
        let unpacked = Path::new(&prefix).join("usr/bin");
        [Self::Current, Self::Rustup(name), Self::Unpacked(unpacked)]
            .into_iter()
            .find(Self::has_target)
    }

    fn has_target(&self) -> bool {
        let output =
            self.tool("rustc").args(["--print", "target-libdir", "--target", TARGET]).output();
        output.is_ok_and(|output| {
            let directory = String::from_utf8_lossy(&output.stdout);
            output.status.success() && Path::new(directory.trim()).is_dir()
        })
    }

    fn tool(&self, name: &str) -> Command {
        let mut command = match self {
            Self::Current if name == "cargo" => Command::new(env!("CARGO")),
            Self::Current => Command::new(name),
            Self::Rustup(toolchain) => {
                let mut command = Command::new("rustup");
                command.args(["run", toolchain, name]);
                command
            }
            Self::Unpacked(directory) => {
                let mut command = Command::new(directory.join(name));
                command.env("RUSTC", directory.join("rustc"));
                command
            }
        };
        // Cargo sets it for this test; it names the libraries of another compiler.
        command.env_remove("LD_LIBRARY_PATH");
        command
    }

    /// Builds with `arguments` in the workspace at `workspace`, a path from `cross/`. Answers the target directory.
    pub(crate) fn build(&self, workspace: &str, arguments: &[&str]) -> PathBuf {
        let manifest = cross().join(workspace).join("Cargo.toml");
        let target = Path::new(env!("CARGO_TARGET_TMPDIR")).join(workspace);
        let mut cargo = self.tool("cargo");
        cargo.args(["build", "--quiet", "--locked", "--manifest-path"]).arg(manifest);
        cargo.arg("--target-dir").arg(&target).args(arguments);
        let status = cargo.status().unwrap();
        assert!(status.success(), "{cargo:?} ended with {status}");
        target
    }
}

fn cross() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// The program `name` runs here.
pub(crate) fn is_installed(name: &str) -> bool {
    Command::new(name).arg("--version").output().is_ok_and(|output| output.status.success())
}

/// Says aloud that a test does nothing here, for want of `what`, and tells it to who runs the tests.
///
/// # Panics
///
/// Where nothing may be skipped.
pub(crate) fn skip(test: &str, what: &str) {
    let remedy = format!("cross/setup.sh {TARGET} installs it on Debian");
    let required = env::var_os(REQUIRE).is_some_and(|value| value == "1");
    assert!(!required, "{what} is missing and {REQUIRE}=1: {remedy}");
    let line = format!("{test}: {what} is missing; {remedy}");
    say(&format!("SKIPPED {line}"));
    if let Some(path) = env::var_os(SKIPPED) {
        // One write, so that lines of tests that run at the same time do not mix.
        let mut file = OpenOptions::new().append(true).create(true).open(path).unwrap();
        file.write_all(format!("{line}\n").as_bytes()).unwrap();
    }
}

/// Prints past the capture of the test harness.
pub(crate) fn say(line: &str) {
    let mut stderr = io::stderr().lock();
    writeln!(stderr, "\n{line}").unwrap();
}
