//! The process: its command line, its messages, its exit codes.

use std::net::TcpListener;

use tempfile::TempDir;

use crate::harness::{Server, run_to_end, server_command};

fn check(arguments: &[&str], code: i32, message: &str) {
    let data = TempDir::new().unwrap();
    let mut process = server_command(data.path());
    process.args(arguments);
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
