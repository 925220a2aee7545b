//! A .deb in the life of a host: installed, used, installed again, removed, purged.
//!
//! dpkg works on a directory as if it were the root of a host, with a database of its own. The maintainer's scripts run
//! there with `DPKG_ROOT`, which Debian's helpers for systemd honour, so nothing of this host changes.

use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, ensure};

use crate::cross::Emulator;
use crate::dist::check::contents::{Entries, configuration};
use crate::dist::check::{is_root, papers};
use crate::dist::{Made, output, renew};
use crate::workspace;

/// Checks it all.
pub(super) fn check(made: &Made, files: &Entries) -> anyhow::Result<()> {
    let name = made.program.name;
    let host = Host::new(&workspace::target_directory()?.join("dist-work/root"))?;
    host.dpkg(&["--install"], &made.deb)?;
    ensure!(host.state_of(name)? == "install ok installed", "{name} is {}", host.state_of(name)?);
    for (path, entry) in files {
        host.check_file(path, &entry.mode)?;
    }
    host.check_version(made)?;
    papers::check_texts(&host.root, name)?;
    let copyright = host.path(&format!("/usr/share/doc/{name}/copyright"));
    let copyright = fs::read_to_string(copyright)?;
    ensure!(copyright.contains("\nLicense: Apache-2.0\n"), "the copyright is {copyright}");
    if name == "picket" {
        host.dpkg(&["--purge"], name)?;
    } else {
        check_service(&host, made)?;
    }
    host.check_nothing_is_left(files)
}

/// What a service has beside its files: a unit that starts with the host, a configuration, and state.
fn check_service(host: &Host, made: &Made) -> anyhow::Result<()> {
    let name = made.program.name;
    let unit = fs::read_to_string(host.path(&format!("/usr/lib/systemd/system/{name}.service")))?;
    for line in [format!("StateDirectory={name}"), "WantedBy=multi-user.target".to_owned()] {
        ensure!(unit.lines().any(|known| known.trim() == line), "the unit has no {line}");
    }
    ensure!(
        unit.lines().any(
            |line| line.starts_with("ExecStart=") && line.contains(&format!("/usr/bin/{name}"))
        ),
        "the unit does not start /usr/bin/{name}"
    );
    let wanted = format!("/etc/systemd/system/multi-user.target.wants/{name}.service");
    ensure!(host.has(&wanted), "{wanted} is missing: the service does not start with the host");

    // As the service and its user leave them.
    let state = format!("/var/lib/private/{name}");
    fs::create_dir_all(host.path(&state))?;
    fs::write(host.path(&state).join("kept"), "state")?;
    let link = format!("/var/lib/{name}");
    symlink(format!("private/{name}"), host.path(&link))?;
    let configuration = configuration(name);
    fs::write(host.path(configuration), "# changed\n")?;
    let variables = format!("/etc/picket/{}.env", name.trim_start_matches("picket-"));
    fs::write(host.path(&variables), "# changed\n")?;

    host.dpkg(&["--install"], &made.deb)?;
    let unchanged = |what: &str| -> anyhow::Result<()> {
        ensure!(
            fs::read_to_string(host.path(configuration))? == "# changed\n",
            "{configuration} {what}"
        );
        ensure!(host.has(&format!("{link}/kept")), "{link} {what}");
        Ok(())
    };
    unchanged("is lost with an upgrade")?;

    host.dpkg(&["--remove"], name)?;
    ensure!(!host.has(&format!("/usr/bin/{name}")), "/usr/bin/{name} is left after removal");
    unchanged("is lost with the removal")?;

    host.dpkg(&["--purge"], name)?;
    for path in [&*state, &*link, configuration, &*variables, &*wanted] {
        ensure!(!host.has(path), "{path} is left after purge");
    }
    Ok(())
}

/// A directory that stands for the root of a host.
#[derive(Debug)]
struct Host {
    root: PathBuf,
}

impl Host {
    fn new(root: &Path) -> anyhow::Result<Self> {
        renew(root)?;
        let host = Self { root: root.to_path_buf() };
        for directory in ["/var/lib/dpkg/info", "/var/lib/dpkg/updates", "/usr/sbin", "/var/lib"] {
            fs::create_dir_all(host.path(directory))?;
        }
        for file in ["/var/lib/dpkg/status", "/var/lib/dpkg/available"] {
            fs::write(host.path(file), "")?;
        }
        // On a host that systemd runs, this keeps it from being asked for units of the directory.
        let policy = host.path("/usr/sbin/policy-rc.d");
        fs::write(&policy, "#!/bin/sh\nexit 101\n")?;
        fs::set_permissions(&policy, fs::Permissions::from_mode(0o755))?;
        Ok(host)
    }

    fn path(&self, absolute: &str) -> PathBuf {
        self.root.join(absolute.trim_start_matches('/'))
    }

    /// Links count, wherever they lead.
    fn has(&self, absolute: &str) -> bool {
        self.path(absolute).symlink_metadata().is_ok()
    }

    fn dpkg(&self, arguments: &[&str], package: impl AsRef<Path>) -> anyhow::Result<()> {
        let mut command = if is_root() { Command::new("dpkg") } else { Command::new("fakeroot") };
        if !is_root() {
            command.arg("dpkg");
        }
        command.arg(format!("--root={}", self.root.display())).arg("--force-script-chrootless");
        command.arg(format!("--log={}", self.root.with_extension("log").display()));
        // The other packages of the host are not there, and its processor may be another one.
        command.args(["--force-depends", "--force-architecture", "--force-not-root"]);
        command.env("DEBIAN_FRONTEND", "noninteractive").env("LC_ALL", "C");
        output(command.args(arguments).arg(package.as_ref()))?;
        Ok(())
    }

    fn state_of(&self, package: &str) -> anyhow::Result<String> {
        let mut query = Command::new("dpkg-query");
        query.arg(format!("--root={}", self.root.display()));
        let state = output(query.args(["--show", "--showformat=${Status}", package]))?;
        Ok(String::from_utf8_lossy(&state).into_owned())
    }

    fn check_file(&self, path: &str, mode: &str) -> anyhow::Result<()> {
        let metadata = self.path(path).symlink_metadata();
        let metadata = metadata.with_context(|| format!("{path} was not installed"))?;
        ensure!(metadata.is_dir() == mode.starts_with('d'), "{path} is not what it was packed as");
        let bits = if mode.contains('x') { 0o755 } else { 0o644 };
        let found = metadata.permissions().mode() & 0o7777;
        ensure!(found == bits, "{path} has the mode {found:o}");
        // Under fakeroot they belong to whoever runs this.
        ensure!(!is_root() || metadata.uid() == 0, "{path} belongs to {}", metadata.uid());
        Ok(())
    }

    /// Runs the program, on an emulator if need be.
    fn check_version(&self, made: &Made) -> anyhow::Result<()> {
        let name = made.program.name;
        let path = self.path(&format!("/usr/bin/{name}"));
        let mut command = Emulator::find(made.target)?.command(&path);
        let said = output(command.arg("--version"))?;
        let said = String::from_utf8_lossy(&said);
        let expected = format!("{name} {}", env!("CARGO_PKG_VERSION"));
        ensure!(said.starts_with(&expected), "--version says {said}");
        Ok(())
    }

    fn check_nothing_is_left(&self, files: &Entries) -> anyhow::Result<()> {
        for (path, entry) in files {
            let is_shared = entry.mode.starts_with('d') && path != "/etc/picket";
            ensure!(is_shared || !self.has(path), "{path} is left after purge");
        }
        Ok(())
    }
}
