//! Parts of another system in place of ours, one at a time: the Python programs of `xtask/peers`, which know the fixed
//! facts and nothing else.

use std::ffi::OsStr;
use std::fs;
use std::path::Path;
use std::time::Duration;

use serde_json::Value;
use xtask::fleet::{self, Group, Process};
use xtask::peers::Python;

use crate::picket::{Answer, run};

mod agent;
mod kafka;
mod server;

/// How long what a peer sees may take: beside a busy machine, a Python that starts and a consumer group that forms.
const LIMIT: Duration = Duration::from_secs(180);

/// A peer that runs until it is dropped.
#[derive(Debug)]
struct Peer {
    process: Process,
}

impl Peer {
    fn start<A: AsRef<OsStr>>(
        python: &Python,
        program: &str,
        arguments: impl IntoIterator<Item = A>,
        directory: &Path,
    ) -> Self {
        let mut command = python.peer(program);
        command.args(arguments);
        let process = Process::start(program, command, directory, Group::Shared).unwrap();
        Self { process }
    }

    /// What it has said so far.
    fn lines(&self) -> Vec<Value> {
        let text = fs::read_to_string(self.process.output()).unwrap();
        // The last one may not be whole yet.
        let whole = text.rfind('\n').map_or("", |end| &text[..end]);
        whole.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    /// All that it has said under `name`.
    fn said(&self, name: &str) -> Vec<Value> {
        self.lines().iter().filter_map(|line| line.get(name).cloned()).collect()
    }

    /// Waits until what it has said under `name` has an answer for `probe`.
    #[track_caller]
    fn wait_for<T>(
        &mut self,
        what: &str,
        name: &str,
        mut probe: impl FnMut(&[Value]) -> Option<T>,
    ) -> T {
        let answer = fleet::poll(LIMIT, || {
            // The end is looked for first: what it said before is then surely there.
            let ended = self.process.ended().unwrap();
            match (probe(&self.said(name)), ended) {
                (None, Some(status)) => Err(format!("the peer ended ({status})")),
                (answer, _) => Ok(answer),
            }
        });
        let reason = match answer {
            Ok(Some(answer)) => return answer,
            Ok(None) => format!("not within {LIMIT:?}"),
            Err(error) => error,
        };
        let (output, log) = (fleet::tail(self.process.output()), self.process.log_tail());
        panic!("{what}: {reason}\n{output}\n{log}");
    }

    /// Waits until it has said at least `count` things under `name`.
    #[track_caller]
    fn wait_for_count(&mut self, name: &str, count: usize) -> Vec<Value> {
        let what = format!("{count} times {name}");
        self.wait_for(&what, name, |said| (count <= said.len()).then(|| said.to_vec()))
    }

    fn kill(&mut self) {
        self.process.kill().unwrap();
    }
}

/// Runs the peer `program` to its end.
fn ask<A: AsRef<OsStr>>(
    python: &Python,
    program: &str,
    arguments: impl IntoIterator<Item = A>,
) -> Answer {
    let mut command = python.peer(program);
    command.args(arguments);
    run(command, None)
}

/// What `agent.py` measures, snapshot by snapshot.
const CPU_PERCENT_OFFSET: f64 = 0.25;
