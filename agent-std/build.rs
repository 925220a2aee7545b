//! Tells the program what it is built for and of which commit, for `--version`.
//!
//! The same source and target give the same answer, whenever and wherever it is built. The commit is PICKET_COMMIT where that
//! is set, else that of the checkout; a source without either has none, and neither has a debug build, which would be
//! made anew after each commit.

use std::env;
use std::path::Path;
use std::process::Command;

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-env-changed=PICKET_COMMIT");
    let target = env::var("TARGET").unwrap_or_default();
    println!("cargo::rustc-env=PICKET_TARGET={target}");
    let named = env::var("PICKET_COMMIT").ok().filter(|commit| !commit.is_empty());
    let is_debug = env::var("PROFILE").is_ok_and(|profile| profile == "debug");
    let commit = named.or_else(|| if is_debug { None } else { of_checkout() });
    if let Some(commit) = commit {
        println!("cargo::rustc-env=PICKET_COMMIT={commit}");
    }
}

/// The commit that is checked out, if this file is part of a checkout and not only lies below another one.
fn of_checkout() -> Option<String> {
    git(&["ls-files", "--error-unmatch", "build.rs"])?;
    let commit = git(&["rev-parse", "--short=12", "HEAD"])?;
    // HEAD changes when another branch is checked out, its log also when a commit is made.
    for name in ["HEAD", "logs/HEAD"] {
        let path = git(&["rev-parse", "--git-path", name])?;
        if Path::new(&path).exists() {
            println!("cargo::rerun-if-changed={path}");
        }
    }
    Some(commit)
}

fn git(arguments: &[&str]) -> Option<String> {
    let output = Command::new("git").args(arguments).output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    output.status.success().then(|| text.trim().to_owned())
}
