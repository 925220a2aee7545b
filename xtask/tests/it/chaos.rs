//! `cargo xtask chaos` itself: a short run passes, and one whose books do not balance fails.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::{Command, Stdio};

use serde_json::Value;

use crate::deployment::{binaries, directory};

/// A short run with the binaries in `programs`: whether it passed, its report, and its messages.
fn chaos(programs: &Path, faults: &str, settle: &str) -> (bool, Value, String) {
    let directory = directory();
    let output = Command::new(env!("CARGO_BIN_EXE_xtask"))
        .args(["chaos", "--for=12s", "--seed=1", "--agents=2", "--json"])
        .args(["--faults", faults, "--settle", settle])
        .arg("--binaries")
        .arg(programs)
        .arg("--directory")
        .arg(directory.path())
        .output()
        .unwrap();
    let messages = String::from_utf8(output.stderr).unwrap();
    let report = serde_json::from_slice(&output.stdout).unwrap_or(Value::Null);
    (output.status.success(), report, messages)
}

#[test]
fn books_balance_after_kills_and_cuts() {
    let faults = "agent-kill,server-kill,cut";
    let (passed, report, messages) = chaos(binaries().directory(), faults, "4m");
    assert!(passed, "{report}\n{messages}");
    for fault in faults.split(',') {
        assert!(1 <= report["faults"][fault]["met"].as_u64().unwrap(), "{fault}: {report}");
    }
    let agents = report["agents"].as_object().unwrap();
    assert_eq!(agents.len(), 2, "{report}");
    for account in agents.values() {
        assert_eq!(account["difference"], 0, "{report}");
        assert!(1 <= account["delivered"].as_u64().unwrap(), "{report}");
    }
    assert_eq!(report["findings"], serde_json::json!([]));
}

#[test]
fn a_difference_fails_the_run_and_names_the_seed() {
    let programs = directory();
    for name in ["picket-server", "picket-agent"] {
        symlink(binaries().directory().join(name), programs.path().join(name)).unwrap();
    }
    // An operator's tool that finds one record missing, wherever it looks.
    let script = format!(
        "#!/bin/sh\ncase \"$*\" in *audit*) \"{0}\" \"$@\" | sed 's/\"difference\":0/\"difference\":1/' ;;\n\
         *) exec \"{0}\" \"$@\" ;;\nesac\n",
        binaries().picket().display()
    );
    install_script(&programs.path().join("picket"), &script);

    let (passed, report, messages) = chaos(programs.path(), "cut", "5s");
    assert!(!passed, "{report}");
    let findings = report["findings"].to_string();
    assert!(findings.contains("edge-0: picket audit has a difference of"), "{findings}");
    assert!(messages.contains("--seed 1"), "{messages}");
}

/// Writes a program by another process: were it open for writing here while another test starts a process, it could not be run.
fn install_script(path: &Path, script: &str) {
    let text = path.with_extension("text");
    fs::write(&text, script).unwrap();
    let status = Command::new("sh")
        .args(["-c", "cat > \"$0\" && chmod 755 \"$0\""])
        .arg(path)
        .stdin(Stdio::from(fs::File::open(&text).unwrap()))
        .status()
        .unwrap();
    assert!(status.success(), "{status}");
}
