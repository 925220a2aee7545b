//! The process: its command line, its messages, its exit codes.

use std::net::TcpListener;

use tempfile::TempDir;

use crate::harness::{Server, run_to_end, server_command};

/// Checks how a server ends that does not start.
pub(crate) fn check(arguments: &[&str], code: i32, message: &str) {
    check_end(arguments, &[], code, message);
}

pub(crate) fn check_variables(variables: &[(&str, &str)], code: i32, message: &str) {
    check_end(&[], variables, code, message);
}

fn check_end(arguments: &[&str], variables: &[(&str, &str)], code: i32, message: &str) {
    let data = TempDir::new().unwrap();
    let mut process = server_command(data.path());
    process.args(arguments).envs(variables.iter().copied());
    let output = run_to_end(process);
    let errors = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(code), "{errors}");
    assert!(errors.contains(message), "{errors}");
    assert!(output.stdout.is_empty(), "nothing is announced");
}

#[test]
fn an_address_beyond_loopback_is_refused() {
    let data = TempDir::new().unwrap();
    for address in ["0.0.0.0:0", "[::]:0", "192.0.2.1:0"] {
        let mut process = std::process::Command::new(env!("CARGO_BIN_EXE_picket-server"));
        process.args(["--listen", address, "--data"]).arg(data.path());
        let output = run_to_end(process);
        let errors = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(2), "{errors}");
        assert!(errors.contains("--insecure"), "{errors}");
    }
    assert_eq!(data.path().read_dir().unwrap().count(), 0, "nothing was touched");
}

#[test]
fn wrong_arguments_are_refused() {
    check(&["--no-such-flag"], 2, "--no-such-flag");
    check(&["--log-format", "xml"], 2, "xml");
    check(&["--retention-bytes", "5X"], 2, "5X");
    check(&["--retention-age", "1s"], 2, "at least 1m");
    check_variables(&[("PICKET_CONNECTIONS_MAX", "none")], 2, "--connections-max");
}

#[cfg(not(feature = "kafka"))]
#[test]
fn a_server_built_without_kafka_says_so() {
    let message = "build it with --features kafka";
    check(&["--kafka", "127.0.0.1:1"], 2, message);
    check(&["--kafka-config", "/x"], 2, message);
    check(&["--kafka-partitions", "3"], 2, message);
    check_variables(&[("KAFKA_BOOTSTRAP_SERVERS", "127.0.0.1:1")], 2, message);
}

#[cfg(feature = "kafka")]
#[test]
fn settings_of_kafka_that_cannot_be_used_are_refused() {
    let kafka = ["--kafka", "127.0.0.1:1", "--kafka-config"];
    check(&[&kafka[..], &["/no/such/file"]].concat(), 2, "cannot use the file of --kafka-config");
    let settings = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(settings.path(), "no.such.property = 1").unwrap();
    let path = settings.path().to_str().unwrap();
    check(&[&kafka[..], &[path]].concat(), 2, "cannot use Kafka with these settings");
}

/// The variables of the file that the unit reads, as they stand there behind a `#`.
fn variables_of_the_unit() -> Vec<(&'static str, &'static str)> {
    let lines = include_str!("../../../packaging/server.env").lines();
    let variables = lines.filter_map(|line| line.strip_prefix('#')?.split_once('='));
    // What goes into the unit's command line, and comments.
    variables.filter(|(name, _)| !name.contains(' ') && *name != "PICKET_SERVER_ARGS").collect()
}

#[test]
fn every_variable_of_the_unit_is_valid_as_it_stands_and_when_it_is_empty() {
    let variables = variables_of_the_unit();
    assert!(variables.contains(&("PICKET_IN_FLIGHT_BYTES", "64M")), "{variables:?}");
    assert!(variables.contains(&("PICKET_CONNECTIONS_MAX", "")), "{variables:?}");
    let empty: Vec<_> = variables.iter().map(|&(name, _)| (name, "")).collect();
    for variables in [variables, empty] {
        let server = Server::start_with_variables(TempDir::new().unwrap(), &variables);
        assert_eq!(server.terminate().0.code(), Some(0));
    }
}

#[test]
fn a_port_in_use_is_told_with_the_remedy() {
    let holder = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = holder.local_addr().unwrap().to_string();
    let data = TempDir::new().unwrap();
    let mut process = std::process::Command::new(env!("CARGO_BIN_EXE_picket-server"));
    process.args(["--listen", &address, "--data"]).arg(data.path());
    let output = run_to_end(process);
    let errors = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{errors}");
    assert!(errors.contains("in use") && errors.contains("--listen"), "{errors}");
}

#[tokio::test]
async fn a_data_directory_in_use_is_told_with_the_remedy() {
    let server = Server::start();
    let output = run_to_end(server_command(server.data()));
    let errors = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{errors}");
    assert!(errors.contains("another server") && errors.contains("--data"), "{errors}");
    assert!(server.status().await.started_ms > 0, "the first server goes on");
}

#[test]
fn a_data_directory_that_cannot_be_made_is_told() {
    let file = tempfile::NamedTempFile::new().unwrap();
    let output = run_to_end(server_command(&file.path().join("data")));
    let errors = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{errors}");
    assert!(errors.contains("--data"), "{errors}");
}

#[test]
fn sigterm_ends_it_with_success() {
    let (status, data) = Server::start().terminate();
    assert_eq!(status.code(), Some(0));
    let (status, _) = Server::start_in(data).terminate();
    assert_eq!(status.code(), Some(0), "and it starts again in the same directory");
}
