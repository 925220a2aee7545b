//! Runs the binary.

use std::io::Write;
use std::process::{Child, Command, Output, Stdio};

/// What a run left behind.
#[derive(Debug)]
pub(crate) struct Run {
    pub(crate) code: i32,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Run {
    pub(crate) fn of(output: Output) -> Self {
        Self {
            code: output.status.code().expect("not ended by a signal"),
            stdout: String::from_utf8(output.stdout).unwrap(),
            stderr: String::from_utf8(output.stderr).unwrap(),
        }
    }

    /// Checks code and output; says all there is when they differ.
    pub(crate) fn check(&self, code: i32, stdout: &str) {
        assert_eq!(self.code, code, "{self:#?}");
        assert_eq!(self.stdout, stdout, "{}", self.stderr);
    }
}

/// The command with its arguments, in a known environment.
pub(crate) fn command(server: &str, line: &str) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_picket"));
    command
        .args(line.split_whitespace())
        .env("TZ", "UTC")
        .env_remove("PICKET_SERVER")
        .env_remove("GRPC_SERVER_PORT")
        .env_remove("GRPC_SERVER_HOST")
        .stdin(Stdio::null());
    if !server.is_empty() {
        command.args(["--server", server]);
    }
    command
}

/// Runs to the end.
pub(crate) fn run(server: &str, line: &str) -> Run {
    Run::of(command(server, line).output().unwrap())
}

/// Runs to the end with this on standard input.
pub(crate) fn run_with_input(server: &str, line: &str, input: &str) -> Run {
    let mut child = piped(command(server, line).stdin(Stdio::piped()));
    let mut stdin = child.stdin.take().unwrap();
    stdin.write_all(input.as_bytes()).unwrap();
    drop(stdin);
    Run::of(child.wait_with_output().unwrap())
}

/// Starts with both outputs piped.
pub(crate) fn piped(command: &mut Command) -> Child {
    command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
}

/// Sends SIGINT, as Ctrl-C does.
pub(crate) fn interrupt(child: &Child) {
    let kill = format!("kill -INT {}", child.id());
    let status = Command::new("sh").args(["-c", &kill]).status().unwrap();
    assert!(status.success());
}
