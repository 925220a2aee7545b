//! Python programs that speak to ours as a third party would: an environment with the packages they need, made once.
//!
//! The programs are in `xtask/peers`; what they say it does not know.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;
use std::time::Duration;

use anyhow::{Context as _, bail};

use crate::fleet::{Group, Process};
use crate::services::command::progress;
use crate::services::lock::Lock;
use crate::services::wanted;
use crate::workspace::{on_path, root, target_directory};

/// How long Python's package client may take: it downloads 20 MB, and a busy machine unpacks slowly.
const INSTALL_LIMIT: Duration = Duration::from_secs(10 * 60);

/// Longer than one that holds the lock may take.
const LOCK_LIMIT: Duration = Duration::from_secs(15 * 60);

const REMEDY: &str = "install Python 3.9 or newer with venv and pip (Debian: apt-get install python3-venv python3-pip), \
                      and see that pip reaches its index";

/// What the peers run on.
#[derive(Debug)]
pub struct Python {
    interpreter: PathBuf,
}

impl Python {
    /// The one of this workspace, in `target/peers-venv`; made if it is not there or not what `requirements.txt` says. If
    /// it cannot be, the test named `test` is to return, as skipped.
    ///
    /// # Panics
    ///
    /// If it cannot be made where nothing may be skipped (`PICKET_REQUIRE_SERVICES=1`).
    pub fn for_test(test: &str) -> Option<&'static Self> {
        static PYTHON: OnceLock<Result<Python, String>> = OnceLock::new();
        let python = PYTHON.get_or_init(|| Self::here().map_err(|error| format!("{error:#}")));
        match python {
            Ok(python) => Some(python),
            Err(error) if wanted::is_required() => {
                panic!("{test}: no Python for the peers and {}=1: {error}", wanted::REQUIRE)
            }
            Err(error) => {
                let first = error.lines().next().unwrap_or_default();
                wanted::skip_because(test, first);
                None
            }
        }
    }

    fn here() -> anyhow::Result<Self> {
        Environment { directory: target_directory()?.join("peers-venv") }.python()
    }

    /// The peer `program`, for instance `agent.py`. What it writes comes at once.
    pub fn peer(&self, program: &str) -> Command {
        let mut command = Command::new(&self.interpreter);
        // No compiled files among the sources.
        command.arg("-B").arg(peers().join(program));
        command
    }
}

fn peers() -> PathBuf {
    root().join("xtask/peers")
}

/// Where the packages are.
#[derive(Debug)]
struct Environment {
    directory: PathBuf,
}

impl Environment {
    fn python(&self) -> anyhow::Result<Python> {
        let path = peers().join("requirements.txt");
        let requirements =
            fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
        if !self.is_whole(&requirements) {
            let lock = Lock::wait(&self.beside(".lock"), LOCK_LIMIT, "who makes it")?;
            if !self.is_whole(&requirements) {
                progress("making a Python environment for the peers (20 MB) ...");
                self.make(&path).context(format!("the Python peers cannot run: {REMEDY}"))?;
                // Comes last: what was cut off before is made again.
                fs::write(self.stamp(), &requirements)
                    .with_context(|| format!("cannot write {}", self.stamp().display()))?;
            }
            drop(lock);
        }
        Ok(Python { interpreter: self.interpreter() })
    }

    /// Whether it has what `requirements` say. Its interpreter may have gone with an update of the system.
    fn is_whole(&self, requirements: &str) -> bool {
        fs::read_to_string(self.stamp()).is_ok_and(|made_of| made_of == requirements)
            && self.interpreter().exists()
    }

    /// The caller has the lock.
    fn make(&self, requirements: &Path) -> anyhow::Result<()> {
        let python = on_path("python3").context("there is no python3 on PATH")?;
        let logs = self.beside("-logs");
        for directory in [&self.directory, &logs] {
            if directory.exists() {
                fs::remove_dir_all(directory)
                    .with_context(|| format!("cannot remove {}", directory.display()))?;
            }
        }
        fs::create_dir_all(&logs).with_context(|| format!("cannot create {}", logs.display()))?;

        let mut venv = Command::new(python);
        venv.args(["-m", "venv"]).arg(&self.directory);
        run("venv", venv, &logs)?;
        let mut pip = Command::new(self.interpreter());
        pip.args(["-m", "pip", "install", "--quiet", "--no-input", "--disable-pip-version-check"]);
        // To compile gRPC takes longer than anybody waits.
        pip.args(["--only-binary", ":all:", "--requirement"]).arg(requirements);
        run("pip", pip, &logs)
    }

    fn interpreter(&self) -> PathBuf {
        self.directory.join("bin/python")
    }

    /// The text of the requirements that it was made of.
    fn stamp(&self) -> PathBuf {
        self.directory.join("requirements.txt")
    }

    fn beside(&self, suffix: &str) -> PathBuf {
        let mut path = self.directory.clone().into_os_string();
        path.push(suffix);
        path.into()
    }
}

/// Runs `command` to its end; what it said is part of the error.
fn run(name: &str, command: Command, logs: &Path) -> anyhow::Result<()> {
    let mut process = Process::start(name, command, logs, Group::Shared)?;
    match process.wait(INSTALL_LIMIT).with_context(|| format!("cannot wait for {name}"))? {
        Some(status) if status.success() => Ok(()),
        Some(status) => {
            let said = fs::read_to_string(process.output()).unwrap_or_default();
            bail!("{name} ended with {status}\n{}\n{}", said.trim_end(), process.log_tail())
        }
        None => bail!("{name} was not done within {INSTALL_LIMIT:?}\n{}", process.log_tail()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requirements_are_exact() {
        let text = fs::read_to_string(peers().join("requirements.txt")).unwrap();
        let lines = text.lines().filter(|line| !line.starts_with('#'));
        for line in lines {
            let (name, version) = line.split_once("==").unwrap();
            assert!(
                !name.is_empty() && version.starts_with(|c: char| c.is_ascii_digit()),
                "{line}"
            );
        }
    }

    #[test]
    fn an_environment_is_whole_when_it_was_made_of_these_requirements() {
        let directory = tempfile::tempdir().unwrap();
        let environment = Environment { directory: directory.path().join("venv") };
        let is_whole = |requirements| environment.is_whole(requirements);
        assert!(!is_whole("a==1"));
        fs::create_dir_all(environment.directory.join("bin")).unwrap();
        fs::write(environment.interpreter(), "").unwrap();
        assert!(!is_whole("a==1"), "it was cut off");
        fs::write(environment.stamp(), "a==1").unwrap();
        assert!(is_whole("a==1"));
        assert!(!is_whole("a==2"), "the requirements have changed");
        fs::remove_file(environment.interpreter()).unwrap();
        assert!(!is_whole("a==1"), "the interpreter is gone");
    }

    #[test]
    fn what_went_wrong_is_told() {
        let directory = tempfile::tempdir().unwrap();
        let mut command = Command::new("sh");
        command.args(["-c", "echo ensurepip is not available; echo E: no >&2; exit 1"]);
        let error = run("venv", command, directory.path()).unwrap_err().to_string();
        for words in ["venv ended with", "ensurepip is not available", "E: no"] {
            assert!(error.contains(words), "{error}");
        }
    }
}
