//! A child process with its log files, which outlives its owner only when it is let go.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use rustix::process::{Pid, Signal, kill_process};

/// How often a condition of a process is looked at.
const POLL: Duration = Duration::from_millis(20);

/// Lines of a log that a message carries.
const TAIL_LINES: usize = 30;

/// Which process group a child is in, so whether Ctrl-C in a terminal reaches it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Group {
    /// Its parent's: Ctrl-C ends both.
    Shared,
    /// Its own: only its parent ends it, in the order it chooses.
    Own,
}

/// A running child. Dropping it kills and reaps it, unless it was let go with [`Process::detach`].
#[derive(Debug)]
pub struct Process {
    name: String,
    child: Child,
    output: PathBuf,
    log: PathBuf,
    end: End,
}

/// What becomes of a child when its owner is dropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    Killed,
    LeftAlone,
}

impl Process {
    /// Starts `command` with its output in `NAME-N.out` and `NAME-N.log` of `directory`, with the first N that is free.
    ///
    /// # Errors
    ///
    /// When the files cannot be made or the program cannot be run.
    pub fn start(
        name: &str,
        mut command: Command,
        directory: &Path,
        group: Group,
    ) -> anyhow::Result<Self> {
        let (output, output_file) = create_numbered(directory, name)
            .with_context(|| format!("cannot create a log in {}", directory.display()))?;
        let log = output.with_extension("log");
        let log_file =
            File::create(&log).with_context(|| format!("cannot create {}", log.display()))?;
        command.stdin(Stdio::null()).stdout(output_file).stderr(log_file);
        set_group(&mut command, group);
        let child = command
            .spawn()
            .with_context(|| format!("cannot run {}", command.get_program().display()))?;
        Ok(Self { name: name.to_owned(), child, output, log, end: End::Killed })
    }

    /// The process id.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// What it wrote to stdout.
    pub fn output(&self) -> &Path {
        &self.output
    }

    /// What it wrote to stderr.
    pub fn log(&self) -> &Path {
        &self.log
    }

    /// The last lines of the log, under a heading.
    pub fn log_tail(&self) -> String {
        tail(&self.log)
    }

    /// How it ended, if it has.
    ///
    /// # Errors
    ///
    /// When the operating system does not say.
    pub fn ended(&mut self) -> io::Result<Option<ExitStatus>> {
        self.child.try_wait()
    }

    /// Waits for it to end by itself; none if it still runs after `limit`.
    ///
    /// # Errors
    ///
    /// When the operating system does not say.
    pub fn wait(&mut self, limit: Duration) -> io::Result<Option<ExitStatus>> {
        poll(limit, || self.child.try_wait())
    }

    /// The first whole line it writes to stdout; none if there is none within `limit`.
    ///
    /// # Errors
    ///
    /// When it ends before that; the end of its log is included.
    pub fn first_line(&mut self, limit: Duration) -> anyhow::Result<Option<String>> {
        poll(limit, || {
            // The end is looked for first: what it wrote before is then surely in the file.
            let ended = self.child.try_wait()?;
            let text = fs::read_to_string(&self.output)?;
            if let Some((line, _)) = text.split_once('\n') {
                return Ok(Some(line.to_owned()));
            }
            if let Some(status) = ended {
                bail!("{} ended early ({status})\n{}", self.name, tail(&self.log));
            }
            Ok(None)
        })
    }

    /// Asks it to stop (SIGTERM) and waits for it.
    ///
    /// # Errors
    ///
    /// When it does not stop within `limit`; it still runs then.
    pub fn terminate(&mut self, limit: Duration) -> anyhow::Result<ExitStatus> {
        self.signal(Signal::TERM)?;
        match self.wait(limit)? {
            Some(status) => Ok(status),
            None => {
                bail!("{} did not stop within {limit:?} of SIGTERM\n{}", self.name, self.log_tail())
            }
        }
    }

    /// Ends it at once (SIGKILL), as a power cut would.
    ///
    /// # Errors
    ///
    /// When the operating system refuses.
    pub fn kill(&mut self) -> io::Result<()> {
        self.child.kill()?;
        self.child.wait()?;
        Ok(())
    }

    /// Lets it stand still (SIGSTOP), as a host does that is suspended: its connections stay open and say nothing.
    ///
    /// # Errors
    ///
    /// When the operating system refuses.
    pub fn pause(&self) -> anyhow::Result<()> {
        self.signal(Signal::STOP)
    }

    /// Lets it go on after [`Process::pause`].
    ///
    /// # Errors
    ///
    /// When the operating system refuses.
    pub fn resume(&self) -> anyhow::Result<()> {
        self.signal(Signal::CONT)
    }

    /// Lets it run on for good, also after the end of this program if it is in a group of its own.
    pub fn detach(mut self) {
        self.end = End::LeftAlone;
    }

    fn signal(&self, signal: Signal) -> anyhow::Result<()> {
        kill_process(Pid::from_child(&self.child), signal)
            .with_context(|| format!("cannot signal {}", self.name))
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        match self.end {
            End::Killed => {
                #[expect(clippy::let_underscore_must_use, reason = "nobody is left to hear of it")]
                let _ = self.kill();
            }
            End::LeftAlone => {}
        }
    }
}

/// The last lines of the log at `path`, under a heading with its name.
pub fn tail(path: &Path) -> String {
    let text = fs::read_to_string(path).unwrap_or_else(|error| format!("cannot be read: {error}"));
    let lines: Vec<&str> = text.lines().collect();
    let first = lines.len().saturating_sub(TAIL_LINES);
    format!("--- the end of {}:\n{}", path.display(), lines[first..].join("\n"))
}

/// Asks `probe` again and again until it has an answer; none if `limit` is over first.
///
/// # Errors
///
/// The first error of `probe`.
pub fn poll<T, E>(
    limit: Duration,
    mut probe: impl FnMut() -> Result<Option<T>, E>,
) -> Result<Option<T>, E> {
    let deadline = Instant::now() + limit;
    loop {
        if let Some(answer) = probe()? {
            return Ok(Some(answer));
        }
        if Instant::now() >= deadline {
            return Ok(None);
        }
        thread::sleep(POLL);
    }
}

fn create_numbered(directory: &Path, name: &str) -> io::Result<(PathBuf, File)> {
    let mut number = 1_u32;
    loop {
        let path = directory.join(format!("{name}-{number}.out"));
        match File::create_new(&path) {
            Ok(file) => return Ok((path, file)),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => number += 1,
            Err(error) => return Err(error),
        }
    }
}

fn set_group(command: &mut Command, group: Group) {
    use std::os::unix::process::CommandExt as _;

    match group {
        Group::Shared => {}
        Group::Own => {
            command.process_group(0);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SOON: Duration = Duration::from_secs(10);

    fn shell(script: &str) -> Command {
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        command
    }

    #[test]
    fn first_line_is_read_while_the_process_runs() {
        let directory = tempfile::tempdir().unwrap();
        let mut process =
            Process::start("a", shell("echo ready; exec sleep 60"), directory.path(), Group::Own)
                .unwrap();
        assert_eq!(process.first_line(SOON).unwrap().as_deref(), Some("ready"));
        assert!(process.ended().unwrap().is_none());
        assert!(!process.terminate(SOON).unwrap().success());
    }

    #[test]
    fn an_early_end_is_told_with_the_log() {
        let directory = tempfile::tempdir().unwrap();
        let mut process = Process::start(
            "a",
            shell("echo port taken >&2; exit 3"),
            directory.path(),
            Group::Shared,
        )
        .unwrap();
        let error = process.first_line(SOON).unwrap_err().to_string();
        assert!(error.contains("ended early"), "{error}");
        assert!(error.contains("port taken"), "{error}");
    }

    #[test]
    fn dropping_kills() {
        let directory = tempfile::tempdir().unwrap();
        let process =
            Process::start("a", shell("exec sleep 60"), directory.path(), Group::Shared).unwrap();
        let id = process.id();
        drop(process);
        assert!(!Path::new(&format!("/proc/{id}")).exists());
    }

    #[test]
    fn what_is_paused_stands_still_until_it_is_resumed() {
        let directory = tempfile::tempdir().unwrap();
        let process =
            Process::start("a", shell("exec sleep 60"), directory.path(), Group::Own).unwrap();
        let stat = || fs::read_to_string(format!("/proc/{}/stat", process.id()));
        let stands = |expected| {
            let probe = || Ok((stat()?.contains(") T ") == expected).then_some(()));
            poll(SOON, probe).map_err(|error: io::Error| error).unwrap()
        };
        process.pause().unwrap();
        assert_eq!(stands(true), Some(()));
        process.resume().unwrap();
        assert_eq!(stands(false), Some(()));
    }

    #[test]
    fn what_is_let_go_runs_on() {
        let directory = tempfile::tempdir().unwrap();
        let process =
            Process::start("a", shell("exec sleep 60"), directory.path(), Group::Own).unwrap();
        let id = Pid::from_child(&process.child);
        process.detach();
        // Not yet waited for, it could be signalled in any case; so what is looked at is that it was not.
        let stat = fs::read_to_string(format!("/proc/{}/stat", id.as_raw_nonzero())).unwrap();
        assert!(!stat.contains(") Z"), "{stat}");
        kill_process(id, Signal::KILL).unwrap();
        rustix::process::waitpid(Some(id), rustix::process::WaitOptions::empty()).unwrap();
    }
}
