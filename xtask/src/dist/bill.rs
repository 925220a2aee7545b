//! The bill of materials (SBOM) of a program, in the form of CycloneDX.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, ensure};
use serde_json::Value;
use toml::Table;

use crate::cross::{Program, Target};
use crate::dist::epoch::Epoch;
use crate::dist::{output, renew, stem};
use crate::workspace;

/// Writes it into `directory`: each crate that the program is built of, its version, licence and checksum.
///
/// cargo-cyclonedx writes beside each `Cargo.toml`, so it is given a mirror of the workspace. It asks cargo for the crates
/// of the whole workspace, with features that only other members or tests turn on: what `cargo build` does not take
/// for this program is removed.
pub(super) fn write(
    target: &Target,
    program: &Program,
    cargo_cyclonedx: &Path,
    epoch: Epoch,
    directory: &Path,
) -> anyhow::Result<PathBuf> {
    let mirror = workspace::target_directory()?.join("dist-work/mirror");
    renew(&mirror)?;
    mirror_workspace(&mirror)?;
    let mut command = Command::new(cargo_cyclonedx);
    command.current_dir(&mirror).args(["cyclonedx", "--format", "json", "--spec-version", "1.5"]);
    command.args(["--target", target.name, "--override-filename", program.name, "--quiet"]);
    command.arg("--manifest-path").arg(mirror.join(program.package).join("Cargo.toml"));
    command.env("SOURCE_DATE_EPOCH", epoch.to_string());
    // The versions are those of Cargo.lock, and cargo has downloaded them to build.
    command.env("CARGO_NET_OFFLINE", "true");
    output(&mut command)?;
    let written = mirror.join(program.package).join(format!("{}.json", program.name));
    let text = fs::read_to_string(&written).with_context(|| written.display().to_string())?;
    // It names our own crates by where they are, which is another place on each machine.
    let text = text.replace(&mirror.display().to_string(), "/picket");
    let mut bill = serde_json::from_str(&text).with_context(|| written.display().to_string())?;
    narrow(&mut bill, crates(target, program)?)?;
    let path = directory.join(format!("{}.cdx.json", stem(target, program)));
    let text = serde_json::to_string_pretty(&bill)? + "\n";
    fs::write(&path, text).with_context(|| path.display().to_string())?;
    Ok(path)
}

/// Puts the manifests of the workspace into `mirror`, and links to all else.
fn mirror_workspace(mirror: &Path) -> anyhow::Result<()> {
    let root = workspace::root();
    for file in ["Cargo.toml", "Cargo.lock"] {
        fs::copy(root.join(file), mirror.join(file)).with_context(|| file.to_owned())?;
    }
    let manifest: Table = fs::read_to_string(root.join("Cargo.toml"))?.parse()?;
    let members = manifest["workspace"]["members"].as_array().context("no list of members")?;
    for member in members.iter().filter_map(toml::Value::as_str) {
        fs::create_dir_all(mirror.join(member))?;
        for entry in root.join(member).read_dir().with_context(|| member.to_owned())? {
            let entry = entry?;
            let place = mirror.join(member).join(entry.file_name());
            if entry.file_name() == "Cargo.toml" {
                fs::copy(entry.path(), place)?;
            } else {
                symlink(entry.path(), place)?;
            }
        }
    }
    Ok(())
}

/// Names and versions of the crates that cargo builds the program of, as `name version`.
fn crates(target: &Target, program: &Program) -> anyhow::Result<BTreeSet<String>> {
    let mut cargo = workspace::cargo();
    cargo.args(["tree", "--locked", "--package", program.package, "--target", target.name]);
    cargo.args(["--edges", "normal,build", "--prefix", "none", "--format", "{p}"]);
    let tree = output(&mut cargo)?;
    Ok(parse_tree(&String::from_utf8_lossy(&tree)))
}

/// Lines are such as `tonic v0.14.9 (*)`.
fn parse_tree(tree: &str) -> BTreeSet<String> {
    let named = tree.lines().filter_map(|line| line.split_once(" v"));
    named
        .map(|(name, rest)| format!("{name} {}", rest.split(' ').next().unwrap_or_default()))
        .collect()
}

/// Leaves only `crates` in the bill, and says when one of them is not in it.
fn narrow(bill: &mut Value, crates: BTreeSet<String>) -> anyhow::Result<()> {
    let mut missing = crates.clone();
    let mut removed = BTreeSet::new();
    let name = |component: &Value| {
        let text = |key: &str| component[key].as_str().unwrap_or_default().to_owned();
        format!("{} {}", text("name"), text("version"))
    };
    missing.remove(&name(&bill["metadata"]["component"]));
    let components = bill["components"].as_array_mut().context("a bill without components")?;
    components.retain(|component| {
        let name = name(component);
        missing.remove(&name);
        let is_kept = crates.contains(&name);
        if !is_kept {
            removed.insert(component["bom-ref"].clone().to_string());
        }
        is_kept
    });
    ensure!(missing.is_empty(), "the bill of materials does not name {missing:?}");
    let is_kept = |reference: &Value| !removed.contains(&reference.to_string());
    let dependencies = bill["dependencies"].as_array_mut().context("a bill without edges")?;
    dependencies.retain(|dependency| is_kept(&dependency["ref"]));
    for dependency in dependencies {
        if let Some(targets) = dependency.get_mut("dependsOn").and_then(Value::as_array_mut) {
            targets.retain(is_kept);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_tree_names_each_crate_once() {
        let tree = "agent-std v0.1.0 (/somewhere)\ntonic v0.14.9\ntonic v0.14.9 (*)\n\n\
            serde_derive v1.0.1 (proc-macro)\n";
        let crates = parse_tree(tree);
        let expected = ["agent-std 0.1.0", "serde_derive 1.0.1", "tonic 0.14.9"];
        assert_eq!(crates.iter().collect::<Vec<_>>(), expected);
    }

    fn bill() -> Value {
        json!({
            "metadata": { "component": { "name": "a", "version": "1" } },
            "components": [
                { "bom-ref": "b#1", "name": "b", "version": "1" },
                { "bom-ref": "c#1", "name": "c", "version": "1" },
            ],
            "dependencies": [
                { "ref": "a#1", "dependsOn": ["b#1", "c#1"] },
                { "ref": "c#1" },
            ],
        })
    }

    #[test]
    fn what_is_not_built_is_not_in_the_bill() {
        let mut bill = bill();
        narrow(&mut bill, ["a 1".to_owned(), "b 1".to_owned()].into()).unwrap();
        assert_eq!(bill["components"].as_array().unwrap().len(), 1);
        assert_eq!(bill["dependencies"], json!([{ "ref": "a#1", "dependsOn": ["b#1"] }]));
    }

    #[test]
    fn what_is_built_and_not_in_the_bill_is_an_error() {
        let crates = ["a 1".to_owned(), "b 2".to_owned()].into();
        let error = narrow(&mut bill(), crates).unwrap_err();
        assert!(error.to_string().contains("b 2"), "{error}");
    }
}
