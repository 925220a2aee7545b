//! A system of its own on this host, with a real systemd.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, bail, ensure};

use crate::fleet::{Group, Process, poll};
use crate::workspace;

/// What boots it. It stands beside this file.
const BOOT: &str = "xtask/src/units/boot.sh";

/// What the programs of the system are, each with Debian's package of it.
const TOOLS: [(&str, &str); 5] = [
    ("setpriv", "util-linux"),
    ("unshare", "util-linux"),
    ("nsenter", "util-linux"),
    ("mount", "mount"),
    ("systemctl", "systemd"),
];

/// Longest until systemd answers, and until a state is reached that was asked for.
const PATIENCE: Duration = Duration::from_secs(90);

/// A running system. Dropping it ends it with all its processes.
#[derive(Debug)]
pub(super) struct System {
    process: Process,
    /// The id that the system's systemd has on this host.
    systemd: u32,
}

impl System {
    /// Boots the system `host` with `programs` and the units of the directory `units`; logs and mounts go into `directory`.
    ///
    /// # Errors
    ///
    /// When this is not root, a tool is missing, or systemd does not come up.
    pub(super) fn boot(
        host: &str,
        programs: &Path,
        units: &Path,
        directory: &Path,
    ) -> anyhow::Result<Self> {
        ensure!(
            rustix::process::geteuid().is_root(),
            "a system of its own can only be made by root: run this as root"
        );
        for (name, package) in TOOLS {
            if workspace::on_path(name).is_none() {
                bail!("{name} is missing (Debian: {package})");
            }
        }
        let scratch = directory.join("mounts");
        fs::create_dir_all(&scratch).with_context(|| scratch.display().to_string())?;
        let mut boot = Command::new("sh");
        boot.arg(workspace::root().join(BOOT)).arg(programs).arg(units).arg(host).arg(&scratch);
        let mut process = Process::start("system", boot, directory, Group::Own)?;
        let id = process.id();
        let systemd = poll(PATIENCE, || {
            if let Some(status) = process.ended()? {
                bail!("the system could not be booted: {status}\n{}", process.log_tail());
            }
            Ok(systemd_below(id))
        })?;
        let systemd =
            systemd.with_context(|| format!("systemd did not start\n{}", process.log_tail()))?;
        Ok(Self { process, systemd })
    }

    /// Runs `words` in the system, and answers what they print.
    ///
    /// # Errors
    ///
    /// When they fail; with what they say.
    pub(super) fn run(&self, words: &[&str]) -> anyhow::Result<String> {
        let output = Command::new("nsenter")
            .args(["--all", "--root", "--wd", "--target", &self.systemd.to_string(), "--"])
            .args(words)
            .output()
            .context("cannot run nsenter")?;
        let text = String::from_utf8_lossy(&output.stdout).trim_end().to_owned();
        let said = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "{}: {}\n{text}\n{said}", words.join(" "), output.status);
        Ok(text)
    }

    /// The `property` of `unit`, as systemd writes it.
    ///
    /// # Errors
    ///
    /// When systemd does not answer.
    pub(super) fn property(&self, unit: &str, property: &str) -> anyhow::Result<String> {
        self.run(&["systemctl", "show", "--property", property, "--value", unit])
    }

    /// Waits until `is_so` of the `property` of `unit`, and answers what it is then.
    ///
    /// # Errors
    ///
    /// When it has not become so in 90 s, with what it is instead.
    pub(super) fn wait_for(
        &self,
        unit: &str,
        property: &str,
        is_so: impl Fn(&str) -> bool,
    ) -> anyhow::Result<String> {
        let mut last = String::new();
        let found = poll(PATIENCE, || {
            // Until systemd listens, nobody answers.
            last = self.property(unit, property).unwrap_or_else(|error| error.to_string());
            anyhow::Ok(is_so(&last).then(|| last.clone()))
        })?;
        found.with_context(|| format!("{property} of {unit} is {last:?} after 90 s"))
    }

    /// Writes the file at `path` of the system.
    ///
    /// # Errors
    ///
    /// When it cannot be written.
    pub(super) fn write(&self, path: &str, text: &str) -> anyhow::Result<()> {
        let root = PathBuf::from(format!("/proc/{}/root", self.systemd));
        let on_host = root.join(path.trim_start_matches('/'));
        fs::write(&on_host, text).with_context(|| on_host.display().to_string())
    }

    /// The end of the system's journal.
    pub(super) fn journal(&self) -> String {
        self.run(&["journalctl", "--no-pager", "--lines", "60"])
            .unwrap_or_else(|error| error.to_string())
    }
}

impl Drop for System {
    fn drop(&mut self) {
        self.process.kill().ok();
        // The system's processes die with its systemd, some a little later; then its cgroups can go. So can those that
        // a run left which was killed. One that is in use stays: it cannot be removed.
        poll(Duration::from_secs(10), || {
            let mut find = Command::new("find");
            find.args(["/sys/fs/cgroup", "-depth", "-type", "d"]);
            find.args(["-path", "*/picket-units.*", "-exec", "rmdir", "{}", "+"]);
            let output = find.output().map_err(drop)?;
            Ok::<_, ()>(output.status.success().then_some(()))
        })
        .ok();
    }
}

/// The systemd that is the child of the process `id`, once it is one.
fn systemd_below(id: u32) -> Option<u32> {
    let children =
        Command::new("ps").args(["-o", "pid=", "--ppid", &id.to_string()]).output().ok()?;
    let child: u32 = String::from_utf8_lossy(&children.stdout).trim().parse().ok()?;
    let program = fs::read_link(format!("/proc/{child}/exe")).ok()?;
    program.ends_with("systemd").then_some(child)
}
