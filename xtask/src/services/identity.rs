//! Which process it is: a number that the system gives again, and the time of its start that it does not.

use std::fs;
use std::io;
use std::time::Duration;

use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use serde::{Deserialize, Serialize};

use crate::fleet::poll;

/// How long a process may take to be gone after SIGKILL; only one in an uninterruptible wait needs any of it.
const GONE_WITHIN: Duration = Duration::from_secs(20);

/// A process, as one can name it to another program.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Identity {
    /// The process id.
    pub(super) pid: u32,
    /// When it started, in clock ticks since the system did.
    started_ticks: u64,
}

/// How a process was ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stopped {
    /// It had ended before.
    Before,
    /// It ended when it was asked to.
    Asked,
    /// It did not, and was killed.
    Killed,
}

impl Identity {
    /// The process that has the number `pid` now; none if there is none, or it has ended and nobody has waited for it.
    pub(super) fn of(pid: u32) -> Option<Self> {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        let started_ticks = running_since(&stat)?;
        Some(Self { pid, started_ticks })
    }

    /// Whether it still runs.
    pub(super) fn runs(self) -> bool {
        Self::of(self.pid) == Some(self)
    }

    /// Asks it to stop, kills it after `grace`, and waits until it is gone.
    ///
    /// # Errors
    ///
    /// When it may not be signalled, or survives.
    pub(super) fn stop(self, grace: Duration) -> io::Result<Stopped> {
        let Some(pid) = i32::try_from(self.pid).ok().and_then(Pid::from_raw) else {
            return Ok(Stopped::Before);
        };
        // The handle is of one process, whatever becomes of its number; looking comes after opening.
        let handle = match pidfd_open(pid, PidfdFlags::empty()) {
            Ok(handle) => handle,
            Err(Errno::SRCH) => return Ok(Stopped::Before),
            Err(error) => return Err(error.into()),
        };
        if !self.runs() {
            return Ok(Stopped::Before);
        }
        for (signal, within, stopped) in
            [(Signal::TERM, grace, Stopped::Asked), (Signal::KILL, GONE_WITHIN, Stopped::Killed)]
        {
            match pidfd_send_signal(&handle, signal) {
                Ok(()) | Err(Errno::SRCH) => {}
                Err(error) => return Err(error.into()),
            }
            if poll(within, || Ok::<_, io::Error>((!self.runs()).then_some(())))?.is_some() {
                return Ok(stopped);
            }
        }
        Err(io::Error::other(format!("process {} survived SIGKILL", self.pid)))
    }
}

/// The time of the start in `stat`, the text of `/proc/PID/stat` (proc(5)); none if the process has ended.
fn running_since(stat: &str) -> Option<u64> {
    // The second field is the program's name in parentheses, and may contain anything, parentheses too.
    let (_, fields) = stat.rsplit_once(')')?;
    let mut fields = fields.split_ascii_whitespace();
    let state = fields.next()?;
    if matches!(state, "Z" | "X") {
        return None;
    }
    // It is the 22nd field, and the state is the third.
    fields.nth(22 - 3 - 1)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use std::process::{Child, Command};

    use super::*;

    const GRACE: Duration = Duration::from_secs(20);

    fn shell(script: &str) -> (Child, Identity) {
        let child = Command::new("sh").args(["-c", script]).spawn().unwrap();
        let identity = Identity::of(child.id()).unwrap();
        (child, identity)
    }

    #[test]
    fn the_start_is_read_whatever_the_name_is() {
        let fields = "S 1 1 1 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 1 0 987654 1000 2000";
        assert_eq!(running_since(&format!("12 (sh) {fields}")), Some(987_654));
        assert_eq!(running_since(&format!("12 (a) b) c) {fields}")), Some(987_654));
        assert_eq!(running_since(&format!("12 (sh) {}", fields.replace('S', "Z"))), None);
        assert_eq!(running_since("12 (sh) S 1 2"), None);
        assert_eq!(running_since(""), None);
    }

    #[test]
    fn this_process_runs_and_another_of_its_number_does_not() {
        let own = Identity::of(std::process::id()).unwrap();
        assert!(own.runs());
        let earlier = Identity { started_ticks: own.started_ticks - 1, ..own };
        assert!(!earlier.runs());
        // Nothing is signalled: this test would end.
        assert_eq!(earlier.stop(GRACE).unwrap(), Stopped::Before);
    }

    #[test]
    fn a_process_is_asked_to_stop() {
        let (mut child, identity) = shell("exec sleep 600");
        // Nobody has waited for it when it is found to be gone.
        assert_eq!(identity.stop(GRACE).unwrap(), Stopped::Asked);
        child.wait().unwrap();
        assert_eq!(identity.stop(GRACE).unwrap(), Stopped::Before);
    }

    #[test]
    fn a_process_that_does_not_stop_is_killed() {
        let mut command = Command::new("sh");
        command.args(["-c", "trap '' TERM; echo deaf; while :; do sleep 1; done"]);
        let mut child = command.stdout(std::process::Stdio::piped()).spawn().unwrap();
        let identity = Identity::of(child.id()).unwrap();
        let mut deaf = [0; 5];
        io::Read::read_exact(child.stdout.as_mut().unwrap(), &mut deaf).unwrap();
        assert_eq!(identity.stop(Duration::from_millis(100)).unwrap(), Stopped::Killed);
        child.wait().unwrap();
    }
}
