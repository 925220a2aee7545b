//! What `systemd-analyze` says of the units and of the examples that change them.
//!
//! Where it is missing (Debian has it in the package systemd) this is skipped loudly; with `PICKET_REQUIRE_SERVICES=1` it
//! fails.

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

const AGENT: &str = "picket-agent.service";
const SERVER: &str = "picket-server.service";

fn units() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../packaging/systemd")
}

/// Runs it; none when it is not there and need not be.
#[expect(clippy::print_stderr, reason = "a test that is skipped says so")]
fn analyze(arguments: &[&str]) -> Option<Output> {
    let mut command = Command::new("systemd-analyze");
    // As on a machine of anybody else, in which language ever.
    command.args(arguments).env("LC_ALL", "C").env("SYSTEMD_COLORS", "0");
    match command.output() {
        Ok(output) => Some(output),
        Err(error) if error.kind() == ErrorKind::NotFound => {
            let is_required =
                std::env::var("PICKET_REQUIRE_SERVICES").is_ok_and(|text| text == "1");
            assert!(
                !is_required,
                "there is no systemd-analyze; Debian has it in the package systemd"
            );
            eprintln!("SKIPPED: there is no systemd-analyze");
            None
        }
        Err(error) => panic!("systemd-analyze cannot be run: {error}"),
    }
}

fn version() -> Option<u32> {
    let output = analyze(&["--version"])?;
    let text = String::from_utf8(output.stdout).unwrap();
    Some(text.split_whitespace().nth(1).unwrap().parse().unwrap())
}

/// Copies the unit and the examples of these names, in force, into the directory; answers where the unit is.
fn place(
    unit: &str,
    examples: &[&str],
    directory: &Path,
    change: impl Fn(String) -> String,
) -> PathBuf {
    let copy = directory.join(unit);
    fs::write(&copy, change(fs::read_to_string(units().join(unit)).unwrap())).unwrap();
    let drop_ins = format!("{unit}.d");
    fs::create_dir(directory.join(&drop_ins)).unwrap();
    for example in examples {
        let path = units().join(&drop_ins).join(format!("{example}.conf.example"));
        let text = change(fs::read_to_string(path).unwrap());
        fs::write(directory.join(&drop_ins).join(format!("{example}.conf")), text).unwrap();
    }
    copy
}

/// `tenths` is the exposure that is allowed with the examples of these names in force, in tenths.
fn check_exposure(unit: &str, examples: &[&str], tenths: u32) {
    let directory = tempfile::tempdir().unwrap();
    let path = place(unit, examples, directory.path(), |text| text);
    let threshold = format!("--threshold={tenths}");
    let arguments =
        ["security", "--no-pager", "--offline=true", &threshold, path.to_str().unwrap()];
    let Some(output) = analyze(&arguments) else { return };
    let text = String::from_utf8(output.stdout).unwrap();
    let said = text.lines().find_map(|line| line.split_once("Overall exposure level for "));
    let (_, said) = said.unwrap_or_else(|| panic!("{text}"));
    let exposure = said.strip_prefix(unit).unwrap().split_whitespace().nth(1).unwrap();
    let (whole, tenth) = exposure.split_once('.').unwrap();
    let found = 10 * whole.parse::<u32>().unwrap() + tenth.parse::<u32>().unwrap();
    assert!(found <= tenths, "{text}");
    assert!(output.status.success(), "{text}");
}

#[test]
fn the_sandbox_of_the_agent_leaves_little_open() {
    check_exposure(AGENT, &[], 12);
    check_exposure(AGENT, &["serial", "secrets", "backoff"], 16);
}

#[test]
fn the_sandbox_of_the_server_leaves_little_open() {
    check_exposure(SERVER, &[], 11);
    check_exposure(SERVER, &["secrets", "backoff"], 11);
}

/// Checks the unit with the examples of these names in force.
fn check_unit(unit: &str, examples: &[&str]) {
    let directory = tempfile::tempdir().unwrap();
    // The programs need not be installed here for the unit to be right.
    let installed = |text: String| {
        text.replace("/usr/bin/picket-", "/bin/true picket-").replace("/bin/kill", "/bin/true")
    };
    let copy = place(unit, examples, directory.path(), installed);
    let arguments = ["verify", "--man=no", "--recursive-errors=no", copy.to_str().unwrap()];
    let Some(output) = analyze(&arguments) else { return };
    // A key that it does not know is a warning alone.
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.success() && said.is_empty(), "{unit} with {examples:?}: {said}");
}

#[test]
fn the_units_are_as_systemd_wants_them() {
    check_unit(AGENT, &[]);
    check_unit(SERVER, &[]);
}

#[test]
fn the_examples_are_as_systemd_wants_them() {
    check_unit(AGENT, &["serial"]);
    check_unit(AGENT, &["secrets"]);
    check_unit(SERVER, &["secrets"]);
    if version().is_some_and(|version| 254 <= version) {
        check_unit(AGENT, &["backoff"]);
        check_unit(SERVER, &["backoff"]);
    }
}

/// What the unit says of `key`, as it stands.
fn said(unit: &str, key: &str) -> Option<String> {
    let text = fs::read_to_string(units().join(unit)).unwrap();
    let mut values = text.lines().filter_map(|line| line.strip_prefix(key)?.strip_prefix('='));
    values.next().map(str::to_owned)
}

#[test]
fn the_units_say_what_the_programs_rely_on() {
    for unit in [AGENT, SERVER] {
        let check = |key: &str, expected: &str| {
            assert_eq!(said(unit, key).as_deref(), Some(expected), "{key} of {unit}");
        };
        check("Type", "notify");
        // The agent replaces its program in the same process, so nobody else ever has to be heard.
        check("NotifyAccess", "main");
        // Nobody may come by to start it by hand, but for a setting that is wrong.
        check("Restart", "always");
        check("StartLimitIntervalSec", "0");
        check("RestartPreventExitStatus", "2");
        for key in ["WatchdogSec", "StateDirectory", "MemoryMax", "TasksMax", "LimitNOFILE"] {
            assert!(said(unit, key).is_some(), "{key} of {unit}");
        }
    }
    // It would hide what the agent measures.
    assert_eq!(said(AGENT, "ProcSubset"), None);
}
