//! Runs `picket` to its end, within a limit.

use std::ffi::OsStr;
use std::fs::File;
use std::io::{Read as _, Seek as _, Write as _};
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Command, Stdio};

use serde_json::Value;
use xtask::fleet::{self, Binaries};

use crate::deployment::{LIMIT, binaries};

/// How a program ended and what it said.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) code: i32,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Answer {
    #[track_caller]
    pub(crate) fn assert_code(&self, code: i32) {
        assert_eq!(self.code, code, "{self:?}");
    }

    /// That it failed with `code`, and said each of `words` in one line on stderr.
    #[track_caller]
    pub(crate) fn assert_refused(&self, code: i32, words: &[&str]) {
        self.assert_code(code);
        for word in words {
            assert!(self.stderr.contains(word), "{word:?} is not in the message: {self:?}");
        }
    }

    /// The one line of output as JSON.
    #[track_caller]
    pub(crate) fn json(&self) -> Value {
        match self.json_lines().as_slice() {
            [value] => value.clone(),
            _ => panic!("not one line of JSON: {self:?}"),
        }
    }

    #[track_caller]
    pub(crate) fn json_lines(&self) -> Vec<Value> {
        let parse = |line| match serde_json::from_str(line) {
            Ok(value) => value,
            Err(error) => panic!("{error}: {line}"),
        };
        self.stdout.lines().map(parse).collect()
    }
}

/// Runs `command` with nothing, or `input`, on stdin; kills it and fails the test when it takes too long.
pub(crate) fn run(mut command: Command, input: Option<&str>) -> Answer {
    let (mut stdout, mut stderr) = (tempfile::tempfile().unwrap(), tempfile::tempfile().unwrap());
    let stdin = input.map_or_else(Stdio::null, |text| {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(text.as_bytes()).unwrap();
        file.rewind().unwrap();
        Stdio::from(file)
    });
    command.stdin(stdin).stdout(stdout.try_clone().unwrap()).stderr(stderr.try_clone().unwrap());
    let mut child = command.spawn().unwrap();
    let status = fleet::poll(LIMIT, || child.try_wait()).unwrap();
    if status.is_none() {
        child.kill().unwrap();
        child.wait().unwrap();
    }
    let (stdout, stderr) = (read(&mut stdout), read(&mut stderr));
    let Some(status) = status else {
        panic!("not done within {LIMIT:?}: {command:?}\n{stdout}\n{stderr}");
    };
    Answer { code: status.code().unwrap(), stdout, stderr }
}

fn read(file: &mut File) -> String {
    file.rewind().unwrap();
    let mut text = String::new();
    file.read_to_string(&mut text).unwrap();
    text
}

/// `program` with `arguments`, run to its end.
pub(crate) fn run_program<A: AsRef<OsStr>>(
    program: &Path,
    arguments: impl IntoIterator<Item = A>,
) -> Answer {
    let mut command = Command::new(program);
    command.args(arguments);
    run(command, None)
}

/// The operator at one server.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Console {
    pub(crate) server: SocketAddr,
}

impl Console {
    pub(crate) fn picket<A: AsRef<OsStr>>(self, arguments: impl IntoIterator<Item = A>) -> Answer {
        Picket::new(binaries(), self.server).run(arguments)
    }

    /// Sends a command and gives its answer, as JSON, with the exit code.
    pub(crate) fn command(self, agent: &str, command: &[&str]) -> Answer {
        let prefix = ["send-command", "--output", "json", agent];
        self.picket(prefix.iter().chain(command))
    }

    /// What the agent says of itself.
    #[track_caller]
    pub(crate) fn status(self, agent: &str) -> Value {
        let answer = self.command(agent, &["STATUS"]);
        answer.assert_code(0);
        answer.json()["status"].clone()
    }

    /// The entry of `picket agents` for `agent`; null when the server does not know it.
    #[track_caller]
    pub(crate) fn agent_info(self, agent: &str) -> Value {
        let answer = self.picket(["agents", "--output", "json", agent]);
        match answer.code {
            0 => answer.json(),
            6 => Value::Null,
            _ => panic!("picket agents failed: {answer:?}"),
        }
    }

    /// What the server says of itself.
    #[track_caller]
    pub(crate) fn server_status(self) -> Value {
        let answer = self.picket(["server-status", "--output", "json"]);
        answer.assert_code(0);
        answer.json()
    }
}

/// The operator's tool, aimed at one server.
#[derive(Debug)]
pub(crate) struct Picket {
    command: Command,
    input: Option<String>,
}

impl Picket {
    pub(crate) fn new(binaries: &Binaries, server: SocketAddr) -> Self {
        let mut command = Command::new(binaries.picket());
        command.arg("--server").arg(server.to_string());
        Self { command, input: None }
    }

    /// The same without a server, on Kafka.
    pub(crate) fn on_kafka(binaries: &Binaries, brokers: &str) -> Self {
        let mut command = Command::new(binaries.picket());
        command.arg("--kafka").arg(brokers);
        Self { command, input: None }
    }

    pub(crate) fn with_input(mut self, input: &str) -> Self {
        self.input = Some(input.to_owned());
        self
    }

    pub(crate) fn run<A: AsRef<OsStr>>(mut self, arguments: impl IntoIterator<Item = A>) -> Answer {
        self.command.args(arguments);
        run(self.command, self.input.as_deref())
    }
}
