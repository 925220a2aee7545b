//! What a package holds, without installing it.

use std::collections::BTreeMap;
use std::process::{Command, Stdio};

use anyhow::{Context as _, ensure};

use crate::dist::{Made, output, stem};

/// Files and directories by their absolute path.
pub(super) type Entries = BTreeMap<String, Entry>;

/// What an archive says of a file or directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Entry {
    /// As `ls` shows it, such as `-rw-r--r--`.
    pub(super) mode: String,
    /// Numbers of user and group, such as `0/0`.
    owner: String,
    bytes: String,
}

/// Checks the .deb, and that the archive has the same; what is in them.
pub(super) fn check(made: &Made) -> anyhow::Result<Entries> {
    check_fields(made)?;
    let in_archive = output(
        Command::new("tar")
            .args(["--list", "--verbose", "--numeric-owner", "--gzip", "--file"])
            .arg(&made.archive),
    )?;
    let prefix = stem(made.target, made.program);
    let in_archive = parse(&String::from_utf8_lossy(&in_archive), &prefix)?;
    let in_deb = parse(&list_deb(made)?, ".")?;
    ensure!(in_archive == in_deb, "the archive has {in_archive:#?}, the .deb {in_deb:#?}");
    let name = made.program.name;
    for (path, mode) in expected(name) {
        let entry = in_deb.get(&path).with_context(|| format!("{path} is missing"))?;
        ensure!(entry.mode == mode, "{path} has the mode {}", entry.mode);
        ensure!(entry.bytes != "0", "{path} is empty");
    }
    for (path, Entry { mode, owner, .. }) in &in_deb {
        ensure!(owner == "0/0", "{path} belongs to {owner}");
        let is_program = path == &format!("/usr/bin/{name}");
        let usual = ["drwxr-xr-x", if is_program { "-rwxr-xr-x" } else { "-rw-r--r--" }];
        ensure!(usual.contains(&mode.as_str()), "{path} has the mode {mode}");
    }
    Ok(in_deb)
}

/// Checks what dpkg goes by.
fn check_fields(made: &Made) -> anyhow::Result<()> {
    let mut show = Command::new("dpkg-deb");
    show.args(["--show", "--showformat=${Package} ${Version} ${Architecture}"]);
    let found = output(show.arg(&made.deb))?;
    let architecture = architecture(made.target.name);
    let expected = format!("{} {}-1 {architecture}", made.program.name, env!("CARGO_PKG_VERSION"));
    let found = String::from_utf8_lossy(&found);
    ensure!(found == expected, "the package is {found}, and not {expected}");
    Ok(())
}

/// Debian's name of the processor of the target of this name. Its `armhf` is ARMv7, and that of Raspberry Pi OS ARMv6.
fn architecture(target: &str) -> &str {
    match target.split('-').next() {
        Some("aarch64") => "arm64",
        Some("armv7" | "arm") => "armhf",
        Some("x86_64") => "amd64",
        Some(_) | None => target,
    }
}

/// Said here once more, and not read from the `Cargo.toml` that the packages are made by.
fn expected(name: &str) -> Vec<(String, &'static str)> {
    let is_service = name != "picket";
    let section = if is_service { 8 } else { 1 };
    let mut files = vec![
        (format!("/usr/bin/{name}"), "-rwxr-xr-x"),
        (format!("/usr/share/bash-completion/completions/{name}"), "-rw-r--r--"),
        (format!("/usr/share/doc/{name}/changelog.Debian.gz"), "-rw-r--r--"),
        (format!("/usr/share/doc/{name}/changelog.gz"), "-rw-r--r--"),
        (format!("/usr/share/doc/{name}/copyright"), "-rw-r--r--"),
        (format!("/usr/share/fish/vendor_completions.d/{name}.fish"), "-rw-r--r--"),
        (format!("/usr/share/man/man{section}/{name}.{section}.gz"), "-rw-r--r--"),
        (format!("/usr/share/zsh/vendor-completions/_{name}"), "-rw-r--r--"),
    ];
    if is_service {
        files.push((format!("/usr/lib/systemd/system/{name}.service"), "-rw-r--r--"));
        files.push((format!("/usr/share/doc/{name}/examples/secrets.conf.example"), "-rw-r--r--"));
        files.push((configuration(name).to_owned(), "-rw-r--r--"));
    }
    files
}

/// The configuration file of the service of this name.
pub(super) fn configuration(name: &str) -> &'static str {
    if name == "picket-agent" { "/etc/picket/agent.toml" } else { "/etc/picket/server.env" }
}

fn list_deb(made: &Made) -> anyhow::Result<String> {
    let mut unpack = Command::new("dpkg-deb");
    unpack.arg("--fsys-tarfile").arg(&made.deb).stdin(Stdio::null()).stdout(Stdio::piped());
    let mut unpack = unpack.spawn().context("cannot run dpkg-deb")?;
    let data = unpack.stdout.take().context("dpkg-deb without its output")?;
    let list = Command::new("tar")
        .args(["--list", "--verbose", "--numeric-owner", "--file=-"])
        .stdin(data)
        .output();
    // It is waited for whatever became of tar, so that no process is left.
    let unpacked = unpack.wait().context("cannot wait for dpkg-deb")?;
    let list = list.context("cannot run tar")?;
    ensure!(unpacked.success() && list.status.success(), "cannot read {}", made.deb.display());
    Ok(String::from_utf8_lossy(&list.stdout).into_owned())
}

/// Reads what `tar --list --verbose` says. Paths begin with `prefix`.
fn parse(list: &str, prefix: &str) -> anyhow::Result<Entries> {
    let mut entries = Entries::new();
    for line in list.lines() {
        let words: Vec<&str> = line.split_whitespace().collect();
        let &[mode, owner, bytes, _date, _time, path] = words.as_slice() else {
            anyhow::bail!("{line:?} is not the line of a file");
        };
        let path = path.strip_prefix(prefix).with_context(|| format!("{path} is elsewhere"))?;
        let path = path.trim_end_matches('/');
        let entry =
            Entry { mode: mode.to_owned(), owner: owner.to_owned(), bytes: bytes.to_owned() };
        // The directory that all is in.
        if !path.is_empty() {
            entries.insert(path.to_owned(), entry);
        }
    }
    Ok(entries)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn processors_have_the_names_of_debian() {
        assert_eq!(architecture("aarch64-unknown-linux-musl"), "arm64");
        assert_eq!(architecture("armv7-unknown-linux-musleabihf"), "armhf");
        assert_eq!(architecture("x86_64-unknown-linux-musl"), "amd64");
    }

    #[test]
    fn lists_are_read() {
        let list = "drwxr-xr-x 0/0 0 2026-11-23 13:00 ./\n\
            drwxr-xr-x 0/0 0 2026-11-23 13:00 ./usr/\n\
            -rwxr-xr-x 0/0 12 2026-11-23 13:00 ./usr/picket\n";
        let entries = parse(list, ".").unwrap();
        assert_eq!(entries.keys().collect::<Vec<_>>(), ["/usr", "/usr/picket"]);
        assert_eq!(entries["/usr/picket"].bytes, "12");
        assert!(parse("lrwxrwxrwx 0/0 0 2026-11-23 13:00 ./a -> b", ".").is_err());
        assert!(parse(list, "picket-1").is_err());
    }
}
