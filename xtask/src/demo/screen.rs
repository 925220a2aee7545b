//! The demo's output: `picket get-metrics`, passed on line by line and counted.

use std::io::{self, BufRead as _, BufReader, Write as _};
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, ChildStdout, Command, ExitStatus, Stdio};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use anyhow::Context as _;
use rustix::process::{Pid, Signal, kill_process};

use crate::fleet::poll;

/// Prints a line of the demo itself.
pub(super) fn say(line: &str) {
    #[expect(
        clippy::let_underscore_must_use,
        reason = "a closed terminal has its signal to end the demo"
    )]
    let _ = writeln!(io::stdout(), "{line}");
}

/// A running `picket get-metrics` in the terminal's process group, so that Ctrl-C reaches it as it would alone.
#[derive(Debug)]
pub(super) struct Screen {
    child: Child,
    reader: Option<JoinHandle<io::Result<u64>>>,
}

impl Screen {
    /// Starts to show what `agent_id` delivers to the server at `address`.
    pub(super) fn start(
        picket: &Path,
        address: SocketAddr,
        agent_id: &str,
    ) -> anyhow::Result<Self> {
        let mut child = Command::new(picket)
            .args(["--server", &address.to_string(), "get-metrics", "--agent", agent_id])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .with_context(|| format!("cannot run {}", picket.display()))?;
        let stdout = child.stdout.take().context("picket has no stdout")?;
        let agent_id = agent_id.to_owned();
        let reader = thread::Builder::new()
            .name("screen".to_owned())
            .spawn(move || show(stdout, &agent_id))
            .context("cannot start a thread")?;
        Ok(Self { child, reader: Some(reader) })
    }

    /// How picket ended, if it has.
    pub(super) fn ended(&mut self) -> io::Result<Option<ExitStatus>> {
        self.child.try_wait()
    }

    /// Ends picket as Ctrl-C would, and says how many records it has shown.
    pub(super) fn finish(mut self, limit: Duration) -> anyhow::Result<u64> {
        if self.child.try_wait()?.is_none() {
            kill_process(Pid::from_child(&self.child), Signal::INT)?;
            let ended = poll(limit, || self.child.try_wait())?;
            ended.with_context(|| format!("picket did not stop within {limit:?} of SIGINT"))?;
        }
        match self.reader.take().map(JoinHandle::join) {
            Some(Ok(shown)) => shown.context("cannot pass on the output of picket"),
            Some(Err(_)) | None => {
                anyhow::bail!("the thread that passes on the output of picket failed")
            }
        }
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        #[expect(
            clippy::let_underscore_must_use,
            reason = "after `finish` there is nothing to end"
        )]
        let _ = self.child.kill().and_then(|()| self.child.wait());
    }
}

/// Passes lines on and counts those that are records: they name the agent, the header does not.
fn show(stdout: ChildStdout, agent_id: &str) -> io::Result<u64> {
    let mut terminal = io::stdout();
    let mut shown = 0;
    for line in BufReader::new(stdout).lines() {
        let line = line?;
        if line.split_whitespace().any(|word| word == agent_id) {
            shown += 1;
        }
        writeln!(terminal, "{line}")?;
    }
    Ok(shown)
}
