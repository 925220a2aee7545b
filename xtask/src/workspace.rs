//! Where the workspace is, and the cargo that builds it.

use std::env;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, ensure};

/// The directory of the root `Cargo.toml`.
pub(crate) fn root() -> PathBuf {
    let manifest = Path::new(env!("CARGO_MANIFEST_DIR"));
    manifest.parent().map_or_else(|| manifest.to_path_buf(), Path::to_path_buf)
}

/// Cargo's target directory, wherever the user's settings put it.
///
/// This program stands in it, and cargo marks it with a cache tag: so no setting needs to be read again.
pub(crate) fn target_directory() -> anyhow::Result<PathBuf> {
    let executable = env::current_exe().context("cannot find the path of this program")?;
    executable
        .ancestors()
        .find(|directory| directory.join("CACHEDIR.TAG").is_file())
        .map(Path::to_path_buf)
        .with_context(|| format!("{} is not in a target directory of cargo", executable.display()))
}

/// The cargo that built this program, to be run in the root of the workspace.
pub(crate) fn cargo() -> Command {
    let program = env::var_os("CARGO").unwrap_or_else(|| OsString::from("cargo"));
    let mut command = Command::new(program);
    command.current_dir(root());
    command
}

/// What tests and the programs under test are built with: everything but TLS to Kafka, which needs OpenSSL's headers.
pub(crate) const FEATURES: &str = "server/kafka,server/etcd,analysis/kafka,agent-std/etcd";

/// [`cargo`] for builds with [`FEATURES`]: some of their crates run protoc. Where it is not installed they are given the
/// one that a crate brings along.
#[expect(
    clippy::print_stderr,
    reason = "said before cargo's own messages, which do not name the remedy"
)]
pub(crate) fn cargo_with_protoc() -> Command {
    let mut command = cargo();
    if !Path::new("/usr/include/zlib.h").is_file() {
        eprintln!(
            "zlib.h is not in /usr/include: the client of Kafka needs it (Debian: zlib1g-dev)"
        );
    }
    let named = env::var_os("PROTOC").is_some_and(|protoc| !protoc.is_empty());
    if named || on_path("protoc").is_some() {
        return command;
    }
    // A machine that there is none for is left to the message of the crate that wants one.
    if let Some((protoc, include)) = bundled_protoc() {
        command.env("PROTOC", protoc).env("PROTOC_INCLUDE", include);
    }
    command
}

/// The protoc that a crate brings along, and the directory of the types that every protobuf knows.
fn bundled_protoc() -> Option<(PathBuf, PathBuf)> {
    let protoc = protoc_bin_vendored::protoc_bin_path().ok()?;
    Some((protoc, protoc_bin_vendored::include_path().ok()?))
}

/// Where PATH has the program `name`.
pub(crate) fn on_path(name: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH")?;
    env::split_paths(&path).map(|directory| directory.join(name)).find(|file| file.is_file())
}

/// Runs what [`cargo`] began, to its end.
pub(crate) fn run(mut cargo: Command) -> anyhow::Result<()> {
    let status = cargo.status().context("cannot run cargo")?;
    ensure!(status.success(), "cargo ended with {status}; its messages are above");
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bundled_protoc_runs_and_knows_the_usual_types() {
        let (protoc, include) = bundled_protoc().unwrap();
        assert!(Command::new(protoc).arg("--version").output().unwrap().status.success());
        assert!(include.join("google/protobuf/timestamp.proto").is_file());
    }

    #[test]
    fn programs_are_found_by_path() {
        assert!(on_path("sh").unwrap().is_absolute());
        assert_eq!(on_path("no-program-has-this-name"), None);
    }
}
