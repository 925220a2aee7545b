//! What the agent says to arguments that cannot be.

use std::fs;

use crate::process::run;

fn check_refused(arguments: &[&str], part: &str) {
    let (code, said) = run(arguments);
    assert_eq!(code, Some(2), "{arguments:?}: {said}");
    assert!(said.contains(part), "{arguments:?}: {said}");
}

#[test]
fn wrong_arguments_are_named_with_what_is_allowed() {
    check_refused(&["--agent-id", "a/b"], "is no agent id");
    check_refused(&["--agent-id", ""], "agent id is empty");
    check_refused(&["--interval", "0"], "it must be 0.1 to 86400 s");
    check_refused(&["--interval=-1"], "interval");
    check_refused(&["--interval", "soon"], "invalid");
    check_refused(&["--metrics", "cpu,gpu"], "known are cpu, memory");
    check_refused(&["--plugins", "filter,filter"], "listed twice");
    check_refused(&["--interval", "nan"], "finite");
    check_refused(&["--start-jitter", "maybe"], "it must be true or false");
    for address in ["no where:1", ":50051", "http://localhost:50051", "h:0", "::1:5"] {
        check_refused(&["--server", address], "--server <HOST:PORT>");
    }
    check_refused(&["--no-such-flag"], "--no-such-flag");
}

#[test]
fn a_collector_is_one_of_two() {
    check_refused(&["--collector", "collectd"], "--collector <KIND>");
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("agent.toml");
    fs::write(&path, "collector = \"collectd\"\n").unwrap();
    let said = "agent.toml:1: collector = \"collectd\": it must be one of proc, sysinfo";
    check_refused(&["--config", path.to_str().unwrap()], said);
}

#[test]
fn a_file_that_cannot_be_used_is_named_with_its_place() {
    check_refused(&["--config", "/no/such/agent.toml"], "/no/such/agent.toml");
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("agent.toml");
    fs::write(&path, "[config]\nplugins = [\"filter\", \"spy\"]\n").unwrap();
    check_refused(
        &["--config", path.to_str().unwrap()],
        "agent.toml:2: config.plugins[1] = \"spy\"",
    );
}

#[test]
fn a_state_directory_that_cannot_be_used_is_an_error() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("file");
    fs::write(&file, "").unwrap();
    let (code, said) = run(&["--state-dir", file.to_str().unwrap()]);
    assert_eq!(code, Some(1), "{said}");
    let named = format!("the state directory {} cannot be used: ", file.display());
    assert!(said.contains(&named), "{said}");
    assert!(said.contains("is from flag --state-dir"), "{said}");
    let configuration = directory.path().join("agent.toml");
    fs::write(&configuration, format!("\nstate_dir = {file:?}\n")).unwrap();
    let (_, said) = run(&["--config", configuration.to_str().unwrap()]);
    let place = format!("is from file {}:2", configuration.display());
    assert!(said.contains(&named) && said.contains(&place), "{said}");
}

#[test]
fn a_window_for_configurations_is_a_duration_of_at_most_a_day() {
    for bad in ["soon", "-1s", "5", "25h"] {
        let bad = format!("--config-confirm={bad}");
        check_refused(&[&bad], "--config-confirm");
    }
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("agent.toml");
    fs::write(&path, "config_confirm = \"2 days\"\n").unwrap();
    check_refused(
        &["--config", path.to_str().unwrap()],
        "agent.toml:1: config_confirm = \"2 days\"",
    );
}

#[cfg(not(feature = "etcd"))]
#[test]
fn a_program_without_etcd_says_how_to_get_it() {
    check_refused(&["--etcd", "localhost:2379"], "build with --features etcd");
}

#[cfg(feature = "etcd")]
#[test]
fn an_etcd_that_cannot_be_is_refused_at_once() {
    check_refused(&["--etcd", "localhost"], "is not HOST:PORT");
    check_refused(&["--etcd", "https://localhost:2379"], "only http");
    check_refused(&["--etcd", "h:1", "--etcd-user", "u"], "--etcd-password-file");
    check_refused(&["--etcd", "h:1", "--etcd-password-file", "/no/such"], "--etcd-user");
    let user = ["--etcd", "h:1", "--etcd-user", "u", "--etcd-password-file", "/no/such"];
    check_refused(&user, "cannot read the password in /no/such");
}

#[test]
fn a_serial_link_that_cannot_be_is_refused_at_once() {
    for link in ["", "tcp:", "tcp:host", "tcp:host:0", "tcp:no where:1"] {
        check_refused(&["--serial", link], "--serial <PATH|tcp:HOST:PORT>");
    }
    check_refused(&["--baud", "fast"], "--baud <RATE>");
    check_refused(&["--serial", "/dev/ttyS0", "--baud", "0"], "0 is not in 1..=4294967295");
    let many = (1..=17).map(|port| format!("--serial=tcp:h:{port}")).collect::<Vec<_>>();
    let many = many.iter().map(String::as_str).collect::<Vec<_>>();
    check_refused(&many, "17 serial links, at most 16 are allowed");
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("agent.toml");
    fs::write(&path, "serial = [\"tcp:host\"]\n").unwrap();
    check_refused(&["--config", path.to_str().unwrap()], "agent.toml:1: serial[0] = \"tcp:host\"");
}
