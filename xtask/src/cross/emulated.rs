//! Tests of what was built for another processor, on an emulator of it.
//!
//! The end-to-end tests are those that the programs of this host pass. They take their programs from a directory; here
//! that has the server and the tool of this host, and a script that runs the agent of the target on the emulator.

use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use anyhow::{Context as _, ensure};
use serde_json::Value;

use crate::cross::directory;
use crate::cross::target::Target;
use crate::cross::toolchain::Toolchain;
use crate::fleet::{Binaries, Profile, tail};
use crate::workspace;

/// The program that the end-to-end tests run on the emulator.
pub(super) const PROGRAM: &str = "picket-agent";

/// The end-to-end tests of which the agent is the subject: what it sends, all commands, servers and agents that end in
/// good order or not.
const SUBJECTS: [&str; 3] = ["commands::", "metrics::", "outage::"];

/// Of those with such names: the server, or a peer, is their subject, on a real Kafka.
const OTHERS: [&str; 2] = ["cluster::", "python::"];

/// What runs a target's programs on this host.
#[derive(Debug)]
pub(crate) struct Emulator {
    /// The program, as its name or path, and its arguments; empty when programs of the target need none.
    words: Vec<String>,
}

impl Emulator {
    /// The emulator of `target`.
    ///
    /// # Errors
    ///
    /// When it is not installed, or cargo's configuration cannot be read.
    pub(crate) fn find(target: &Target) -> anyhow::Result<Self> {
        let runner = target.tools()?.runner.unwrap_or_default();
        let words = runner.split_whitespace().map(str::to_owned).collect::<Vec<_>>();
        if let Some(program) = words.first() {
            ensure!(
                workspace::on_path(program).is_some(),
                "{program} is missing, which runs programs of {} (Debian: qemu-user-static)",
                target.name
            );
        }
        Ok(Self { words })
    }

    /// For people.
    pub(super) fn name(&self) -> &str {
        self.words.first().map_or("this host itself", String::as_str)
    }

    /// A command that runs `program`; arguments for it may be added.
    pub(crate) fn command(&self, program: &Path) -> Command {
        let [emulator, arguments @ ..] = self.words.as_slice() else {
            return Command::new(program);
        };
        let mut command = Command::new(emulator);
        command.args(arguments).arg(program);
        command
    }

    /// A shell script that runs `program` with the arguments of the script. To `program` it is the script that runs: so
    /// what replaces itself by itself, as an agent does to restart, runs on the emulator again.
    fn script(&self, program: &Path) -> String {
        let program = program.display();
        let [emulator, arguments @ ..] = self.words.as_slice() else {
            return format!("#!/bin/sh\nexec '{program}' \"$@\"\n");
        };
        let arguments: String = arguments.iter().map(|argument| format!("{argument} ")).collect();
        format!("#!/bin/sh\nexec {emulator} {arguments}-0 \"$0\" '{program}' \"$@\"\n")
    }
}

/// A run of agent-core's own tests, which takes minutes and one processor: those of several targets run side by side.
#[derive(Debug)]
pub(super) struct CoreTests {
    target: &'static Target,
    cargo: Child,
    log: PathBuf,
}

impl CoreTests {
    /// Begins to build and run them.
    ///
    /// # Errors
    ///
    /// When cargo cannot be run, or its log not be written.
    pub(super) fn start(target: &'static Target, toolchain: &Toolchain) -> anyhow::Result<Self> {
        let directory = directory()?;
        let log = directory.join(target.name).join("core-tests.log");
        let file = File::create(&log).with_context(|| log.display().to_string())?;
        let mut cargo = toolchain.cargo(target);
        cargo.args(["test", "--locked", "--package", "agent-core", "--target", target.name]);
        cargo.arg("--target-dir").arg(directory).stdout(file.try_clone()?).stderr(file);
        let cargo = cargo.spawn().context("cannot run cargo")?;
        Ok(Self { target, cargo, log })
    }

    /// Waits until they have ended, and prints what came out.
    ///
    /// # Errors
    ///
    /// When one fails, with the end of the log.
    pub(super) fn finish(mut self, out: &mut dyn Write) -> anyhow::Result<()> {
        let status = self.cargo.wait().context("cannot wait for cargo")?;
        let name = self.target.name;
        ensure!(status.success(), "agent-core's tests on {name}: {status}\n{}", tail(&self.log));
        let text = fs::read_to_string(&self.log).with_context(|| self.log.display().to_string())?;
        writeln!(out, "\nagent-core's tests on {name}")?;
        for line in text.lines().filter(|line| line.starts_with("test result:")) {
            writeln!(out, "{line}")?;
        }
        Ok(())
    }
}

/// Runs end-to-end tests with the `agent` of `target` and the server and the tool of this host.
///
/// # Errors
///
/// When one fails.
pub(super) fn test_end_to_end(
    target: &Target,
    emulator: &Emulator,
    agent: &Path,
) -> anyhow::Result<()> {
    let tests = end_to_end_tests()?;
    let native = Binaries::build(Profile::Debug)?;
    let programs = directory()?.join(target.name).join("emulated");
    if programs.is_dir() {
        fs::remove_dir_all(&programs).with_context(|| programs.display().to_string())?;
    }
    fs::create_dir_all(&programs).with_context(|| programs.display().to_string())?;
    let mixed = Binaries::at(programs.clone());
    symlink(native.server(), mixed.server())?;
    symlink(native.picket(), mixed.picket())?;
    fs::write(mixed.agent(), emulator.script(agent))?;
    fs::set_permissions(mixed.agent(), fs::Permissions::from_mode(0o755))?;
    let mut command = Command::new(tests);
    command.args(SUBJECTS).args(OTHERS.map(|name| format!("--skip={name}")));
    command.env("PICKET_BINARIES", programs);
    command.env("PICKET_AGENT_TARGET", target.told()).current_dir(workspace::root().join("xtask"));
    let status = command.status().context("cannot run the end-to-end tests")?;
    ensure!(status.success(), "the end-to-end tests ended with {status}; see above");
    Ok(())
}

/// The program with the end-to-end tests, built as `cargo xtask test` builds it, so that nothing is built twice.
fn end_to_end_tests() -> anyhow::Result<PathBuf> {
    let mut cargo = workspace::cargo_with_protoc();
    cargo.args(["test", "--workspace", "--features", workspace::FEATURES, "--no-run"]);
    cargo.args(["--message-format", "json-render-diagnostics"]).stderr(Stdio::inherit());
    let output = cargo.output().context("cannot run cargo")?;
    ensure!(output.status.success(), "the tests cannot be built; cargo's messages are above");
    let manifest = workspace::root().join("xtask/Cargo.toml");
    let messages = String::from_utf8_lossy(&output.stdout);
    let executable = messages.lines().find_map(|line| {
        let message: Value = serde_json::from_str(line).ok()?;
        let is_it = message["target"]["name"] == "it"
            && Path::new(message["manifest_path"].as_str()?) == manifest;
        is_it.then(|| message["executable"].as_str().map(PathBuf::from))?
    });
    executable.context("cargo does not say where the end-to-end tests are")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_restarts_itself_runs_the_script_again() {
        let words = ["qemu-arm-static", "-L", "/usr/arm"].map(str::to_owned);
        let emulator = Emulator { words: words.to_vec() };
        assert_eq!(
            emulator.script(Path::new("/a b/agent")),
            "#!/bin/sh\nexec qemu-arm-static -L /usr/arm -0 \"$0\" '/a b/agent' \"$@\"\n"
        );
        let none = Emulator { words: vec![] };
        assert_eq!(none.script(Path::new("/agent")), "#!/bin/sh\nexec '/agent' \"$@\"\n");
    }
}
