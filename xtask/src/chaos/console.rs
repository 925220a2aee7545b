//! `picket`, run to its end within a limit.

use std::ffi::OsStr;
use std::io::{Read, Write as _};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use anyhow::Context as _;
use serde_json::Value;

use crate::fleet::poll;

/// How one run of it ended.
#[derive(Clone, Debug)]
pub(super) struct Answer {
    /// None when it was killed, because it took too long.
    pub(super) code: Option<i32>,
    /// The lines of its output that are JSON.
    pub(super) lines: Vec<Value>,
    pub(super) stderr: String,
}

/// The operator's tool.
#[derive(Clone, Debug)]
pub(super) struct Console {
    program: PathBuf,
    /// Before all others.
    arguments: Vec<PathBuf>,
}

impl Console {
    pub(super) fn new(program: PathBuf) -> Self {
        Self { program, arguments: Vec::new() }
    }

    /// Runs it on the server at `server`, with `input` on stdin, and for at most `limit`.
    ///
    /// # Errors
    ///
    /// When it cannot be run.
    pub(super) fn run<A: AsRef<OsStr>>(
        &self,
        server: impl ToString,
        arguments: impl IntoIterator<Item = A>,
        input: &str,
        limit: Duration,
    ) -> anyhow::Result<Answer> {
        let mut command = Command::new(&self.program);
        command.args(&self.arguments);
        command.args(["--output", "json", "--server", &server.to_string()]).args(arguments);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        // Else it would read Kafka itself where somebody's environment names one.
        command.env_remove("KAFKA_BOOTSTRAP_SERVERS");
        let child =
            command.spawn().with_context(|| format!("cannot run {}", self.program.display()))?;
        let mut child = Reaped(child);
        let stdout = collect(child.0.stdout.take())?;
        let stderr = collect(child.0.stderr.take())?;
        if let Some(mut stdin) = child.0.stdin.take() {
            // It may end without having read it.
            stdin.write_all(input.as_bytes()).ok();
        }
        let status = poll(limit, || child.0.try_wait())?;
        // Killed now at the latest, so that its output ends.
        drop(child);
        let text = |reader: JoinHandle<String>| reader.join().unwrap_or_default();
        let lines =
            text(stdout).lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
        let code = status.and_then(|status| status.code());
        Ok(Answer { code, lines, stderr: text(stderr) })
    }
}

/// A child that ends with its owner.
struct Reaped(Child);

impl Drop for Reaped {
    fn drop(&mut self) {
        // One that has ended is reaped already.
        self.0.kill().and_then(|()| self.0.wait().map(drop)).ok();
    }
}

/// Reads all of it in a thread of its own.
fn collect(source: Option<impl Read + Send + 'static>) -> anyhow::Result<JoinHandle<String>> {
    let mut source = source.context("picket has no output")?;
    let read = move || {
        let mut bytes = Vec::new();
        // What came before an error is as good as any.
        source.read_to_end(&mut bytes).ok();
        String::from_utf8_lossy(&bytes).into_owned()
    };
    thread::Builder::new().name("console".to_owned()).spawn(read).context("cannot start a thread")
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn console(script: &str) -> (tempfile::TempDir, Console) {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("picket");
        fs::write(&file, script).unwrap();
        let program = PathBuf::from("/bin/sh");
        (directory, Console { program, arguments: vec![file] })
    }

    #[test]
    fn code_lines_and_messages_are_taken() {
        let (_directory, console) =
            console(r#"cat; echo "{\"server\": \"$4\"}"; echo no >&2; exit 4"#);
        let limit = Duration::from_secs(30);
        let answer = console.run("a:1", ["x"], "{\"n\":1}\nhello\n", limit).unwrap();
        assert_eq!(answer.code, Some(4));
        assert_eq!(
            answer.lines,
            [serde_json::json!({"n": 1}), serde_json::json!({"server": "a:1"})]
        );
        assert_eq!(answer.stderr, "no\n");
    }

    #[test]
    fn one_that_hangs_is_killed() {
        let (_directory, console) = console("exec sleep 60");
        let answer = console.run("a:1", ["x"], "", Duration::from_millis(200)).unwrap();
        assert_eq!(answer.code, None);
    }
}
