//! The agent as a child process.

use std::io::Read as _;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

/// How long anything that must happen may take on a loaded machine.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// A running agent; it is killed when it is dropped.
#[derive(Debug)]
pub(crate) struct Agent {
    child: Child,
}

impl Agent {
    pub(crate) fn start(arguments: &[&str]) -> Self {
        Self::of(command(arguments).stderr(Stdio::null()).spawn().unwrap())
    }

    /// One that was started otherwise.
    pub(crate) fn of(child: Child) -> Self {
        Self { child }
    }

    /// The number of the process.
    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    /// Asks it to end as systemd does.
    pub(crate) fn terminate(&self) {
        send_signal(self.child.id(), Signal::TERM);
    }

    /// Ends it as a loss of power does.
    pub(crate) fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Asks it to end until it does, without the time to deliver what it holds.
    pub(crate) fn terminate_at_once(mut self) {
        let deadline = Instant::now() + PATIENCE;
        while Instant::now() < deadline {
            self.terminate();
            std::thread::sleep(Duration::from_millis(50));
            if self.child.try_wait().unwrap().is_some() {
                return;
            }
        }
        panic!("the agent did not end within {PATIENCE:?}");
    }

    /// Waits for its end; answers its exit code.
    pub(crate) fn wait(&mut self) -> Option<i32> {
        wait(&mut self.child)
    }
}

/// Waits for the end of `child`; answers its exit code.
pub(crate) fn wait(child: &mut Child) -> Option<i32> {
    let deadline = Instant::now() + PATIENCE;
    while Instant::now() < deadline {
        if let Some(status) = child.try_wait().unwrap() {
            return status.code();
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    panic!("the agent did not end within {PATIENCE:?}");
}

/// Sends `signal` to the process with this number, a child of this one.
pub(crate) fn send_signal(process: u32, signal: Signal) {
    let pid = Pid::from_raw(i32::try_from(process).unwrap()).unwrap();
    kill_process(pid, signal).unwrap();
}

impl Drop for Agent {
    fn drop(&mut self) {
        // It may have ended by itself.
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

/// Runs the agent to its end; answers its exit code and what it said.
pub(crate) fn run(arguments: &[&str]) -> (Option<i32>, String) {
    let mut child = command(arguments).stderr(Stdio::piped()).spawn().unwrap();
    let mut said = String::new();
    child.stderr.take().unwrap().read_to_string(&mut said).unwrap();
    (child.wait().unwrap().code(), said)
}

/// Runs the program to its end; answers all that it said.
pub(crate) fn output(arguments: &[&str]) -> Output {
    command(arguments).stdout(Stdio::piped()).stderr(Stdio::piped()).output().unwrap()
}

/// The program as it is to be started.
pub(crate) fn command(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_picket-agent"));
    // Whatever the machine that runs the tests has set must not decide.
    for (name, _) in std::env::vars() {
        if name.starts_with("PICKET_")
            || name.starts_with("GRPC_")
            || name.starts_with("ETCD_")
            || ["STATE_DIRECTORY", "NOTIFY_SOCKET", "WATCHDOG_USEC"].contains(&name.as_str())
        {
            command.env_remove(name);
        }
    }
    // A file that this machine has in the standard place must not decide either.
    command.env("PICKET_CONFIG", "/dev/null");
    command.args(arguments).stdin(Stdio::null()).stdout(Stdio::null());
    command
}
