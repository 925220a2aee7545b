//! What no log may say.

use std::fs;
use std::path::PathBuf;

use anyhow::Context as _;

/// What Rust writes when a thread panics, and what a program writes when it aborts.
const BAD: [&str; 3] = ["panicked at", "memory allocation of", "stack overflow"];

/// Lines that tell of a panic, each with its file.
///
/// # Errors
///
/// When a log cannot be read.
pub(super) fn panics(logs: &[PathBuf]) -> anyhow::Result<Vec<String>> {
    let mut found = Vec::new();
    for log in logs {
        let bytes = fs::read(log).with_context(|| format!("cannot read {}", log.display()))?;
        let text = String::from_utf8_lossy(&bytes);
        let bad = text.lines().filter(|line| BAD.iter().any(|bad| line.contains(bad)));
        found.extend(bad.map(|line| format!("{}: {line}", log.display())));
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_is_found_with_its_file() {
        let directory = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| {
            let path = directory.path().join(name);
            fs::write(&path, text).unwrap();
            path
        };
        let panicked = "all well\nthread 'main' (7) panicked at src/main.rs:1:1:\nno\n";
        let logs = [write("good.log", "all well\n"), write("bad.log", panicked)];
        let found = panics(&logs).unwrap();
        assert_eq!(found.len(), 1);
        assert!(found[0].contains("bad.log") && found[0].contains("src/main.rs"), "{found:?}");
    }
}
