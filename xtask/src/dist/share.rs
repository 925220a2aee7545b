//! The files of a package that are generated: manual, completions, changelogs.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, ensure};

use crate::cross::PROGRAMS;
use crate::dist::epoch::Epoch;
use crate::dist::{output, renew};
use crate::workspace;

/// Generates them all: a directory with one for each program.
pub(super) fn generate(epoch: Epoch) -> anyhow::Result<PathBuf> {
    let directory = workspace::target_directory()?.join("dist-work/share");
    renew(&directory)?;
    let mut cargo = workspace::cargo();
    cargo.args(["run", "--quiet", "--locked", "--package", "generate", "--"]).arg(&directory);
    workspace::run(cargo)?;
    for program in PROGRAMS {
        let own = directory.join(program.name);
        let pages: Vec<PathBuf> = ["man1", "man8"]
            .iter()
            .filter_map(|section| own.join(section).read_dir().ok())
            .flatten()
            .map(|entry| entry.map(|entry| entry.path()))
            .collect::<Result<_, _>>()?;
        ensure!(!pages.is_empty(), "{} has no page in the manual", program.name);
        let changes = own.join("changelog");
        let of_project = workspace::root().join("CHANGELOG.md");
        fs::copy(&of_project, &changes).with_context(|| of_project.display().to_string())?;
        let of_package = own.join("changelog.Debian");
        fs::write(&of_package, changelog(program.name, &epoch.rfc_2822()?))?;
        let files = pages.into_iter().chain([changes, of_package]);
        // As Debian wants it: without the name and the time.
        output(Command::new("gzip").args(["--best", "--no-name"]).args(files))?;
    }
    Ok(directory)
}

/// Debian's form of a changelog, see deb-changelog(5).
fn changelog(package: &str, time: &str) -> String {
    let version = env!("CARGO_PKG_VERSION");
    format!(
        "{package} ({version}-1) unstable; urgency=medium\n\n  \
         * Packaged from the project itself; its changes are in changelog.gz.\n\n \
         -- {MAINTAINER}  {time}\n"
    )
}

/// As in the `Cargo.toml` of each package.
const MAINTAINER: &str = "The picket developers <maintainers@picket.example>";

/// Puts what is generated for the program of this name where `[package.metadata.deb]` looks for it: beside the program.
pub(super) fn put_beside(binary: &Path, name: &str, shared: &Path) -> anyhow::Result<()> {
    let directory = binary.parent().context("a program without a directory")?;
    let share = directory.join("share").join(name);
    renew(&share)?;
    output(Command::new("cp").args(["-R", "--"]).arg(shared.join(name).join(".")).arg(&share))?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_changelog_has_the_form_of_debian() {
        let text = changelog("picket", "Thu, 01 Jan 1970 00:00:00 +0000");
        let lines: Vec<&str> = text.lines().collect();
        assert!(lines[0].starts_with("picket (") && lines[0].ends_with("urgency=medium"), "{text}");
        assert!(lines[2].starts_with("  * "), "{text}");
        assert!(lines[4].starts_with(" -- The picket developers <"), "{text}");
        assert!(lines[4].ends_with(">  Thu, 01 Jan 1970 00:00:00 +0000"), "{text}");
    }

    #[test]
    fn the_maintainer_is_the_same_everywhere() {
        for program in PROGRAMS {
            let manifest = workspace::root().join(program.package).join("Cargo.toml");
            let text = fs::read_to_string(manifest).unwrap();
            assert!(text.contains(&format!("maintainer = \"{MAINTAINER}\"")), "{}", program.name);
        }
    }
}
