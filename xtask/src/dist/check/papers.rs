//! What people and other programs read: manual, completions, the bill of materials.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context as _, ensure};
use serde_json::Value;

use crate::dist::{Made, output};
use crate::workspace;

/// Checks that the bill of materials names the program, its crates with versions, and no place of this machine.
pub(super) fn check_bill(made: &Made) -> anyhow::Result<()> {
    let text = fs::read_to_string(&made.bill)?;
    let root = workspace::root().display().to_string();
    ensure!(!text.contains(&root), "the bill of materials names {root}");
    let bill: Value = serde_json::from_str(&text).context("the bill of materials")?;
    ensure!(bill["bomFormat"] == "CycloneDX", "the bill of materials is {}", bill["bomFormat"]);
    let named = &bill["metadata"]["component"]["name"];
    ensure!(named == made.program.package, "the bill of materials is of {named}");
    let components = bill["components"].as_array().context("a bill without components")?;
    // All three speak gRPC.
    let tonic = components.iter().find(|component| component["name"] == "tonic");
    let tonic = tonic.context("the bill of materials does not name tonic")?;
    for key in ["version", "purl", "licenses", "hashes"] {
        ensure!(!tonic[key].is_null(), "the bill of materials has no {key} of tonic");
    }
    Ok(())
}

/// Checks the completions and the manual of the program of this name below `root`.
pub(super) fn check_texts(root: &Path, name: &str) -> anyhow::Result<()> {
    let share = root.join("usr/share");
    let scripts = [
        ("bash", share.join("bash-completion/completions").join(name)),
        ("fish", share.join("fish/vendor_completions.d").join(format!("{name}.fish"))),
        ("zsh", share.join("zsh/vendor-completions").join(format!("_{name}"))),
    ];
    for (shell, script) in scripts {
        // bash is always here, the others where people use them.
        if workspace::on_path(shell).is_some() {
            output(Command::new(shell).arg("-n").arg(&script))?;
        }
    }
    let mut pages = 0;
    for section in ["man1", "man8"] {
        let directory = share.join("man").join(section);
        for page in directory.read_dir().into_iter().flatten() {
            check_page(&page?.path())?;
            pages += 1;
        }
    }
    ensure!(0 < pages, "there is no page in the manual");
    Ok(())
}

/// Sets a page, and takes each warning for an error.
fn check_page(path: &Path) -> anyhow::Result<()> {
    let page = output(Command::new("gzip").args(["--decompress", "--stdout"]).arg(path))?;
    let text = String::from_utf8(page).with_context(|| path.display().to_string())?;
    ensure!(text.contains(".SH NAME"), "{} has no name", path.display());
    let mut gzip = Command::new("gzip");
    gzip.args(["--decompress", "--stdout"]).arg(path).stdout(Stdio::piped());
    let mut gzip = gzip.spawn().context("cannot run gzip")?;
    let page = gzip.stdout.take().context("gzip without its output")?;
    let set = Command::new("groff").args(["-ww", "-man", "-Tutf8", "-z"]).stdin(page).output();
    gzip.wait().context("cannot wait for gzip")?;
    let set = set.context("cannot run groff")?;
    let said = String::from_utf8_lossy(&set.stderr);
    ensure!(set.status.success() && said.is_empty(), "{}: {said}", path.display());
    Ok(())
}
