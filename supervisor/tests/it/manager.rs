//! A manager of services for tests, as systemd is one to its services, and a way to make one thread of a service hang.
//!
//! The tests of other crates include this very file; it needs `tempfile`, and `nix` to stop threads.

use std::ffi::OsString;
use std::fs;
use std::io::Read as _;
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use nix::sys::ptrace;
use nix::sys::wait::{WaitPidFlag, waitpid};
use nix::unistd::Pid;

/// Longer than anything here takes on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);

/// What was heard, and when.
#[derive(Clone, Debug)]
pub(crate) struct Line {
    pub(crate) at: Instant,
    pub(crate) text: String,
}

/// Hears what one service has to say.
#[derive(Debug)]
pub(crate) struct Manager {
    name: OsString,
    lines: Receiver<Line>,
    _directory: tempfile::TempDir,
}

impl Manager {
    /// Listens on a socket with a path.
    pub(crate) fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("notify");
        let socket = UnixDatagram::bind(&path).unwrap();
        Self::listen(socket, path.into_os_string(), directory)
    }

    /// Listens on a socket with an abstract name.
    pub(crate) fn with_abstract_name() -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let name = format!("picket-test-{}-{number}", std::process::id());
        let address = SocketAddr::from_abstract_name(&name).unwrap();
        let socket = UnixDatagram::bind_addr(&address).unwrap();
        Self::listen(socket, format!("@{name}").into(), tempfile::tempdir().unwrap())
    }

    fn listen(socket: UnixDatagram, name: OsString, directory: tempfile::TempDir) -> Self {
        // A service that says more than any test lets it has to wait.
        let (sender, lines) = sync_channel(10_000);
        // It ends with the test program: nothing closes a socket that somebody reads.
        std::thread::spawn(move || {
            let mut bytes = vec![0; 64 * 1024];
            while let Ok(count) = socket.recv(&mut bytes) {
                let at = Instant::now();
                let text = String::from_utf8(bytes[..count].to_vec()).unwrap();
                for text in text.lines() {
                    if sender.send(Line { at, text: text.to_owned() }).is_err() {
                        return;
                    }
                }
            }
        });
        Self { name, lines, _directory: directory }
    }

    /// `command` as this manager starts it, with a watchdog of so long if there is to be one.
    pub(crate) fn command(&self, command: &Command, watchdog: Option<Duration>) -> Command {
        // Only the process itself knows its number before it is another program.
        let script = match watchdog {
            None => "exec \"$0\" \"$@\"",
            Some(_) => "WATCHDOG_PID=$$ exec \"$0\" \"$@\"",
        };
        let mut supervised = Command::new("sh");
        supervised.args(["-c", script]).arg(command.get_program()).args(command.get_args());
        for (name, value) in command.get_envs() {
            match value {
                Some(value) => supervised.env(name, value),
                None => supervised.env_remove(name),
            };
        }
        if let Some(limit) = watchdog {
            supervised.env("WATCHDOG_USEC", limit.as_micros().to_string());
        }
        supervised.env("NOTIFY_SOCKET", &self.name).stdin(Stdio::null()).stdout(Stdio::null());
        supervised.stderr(Stdio::piped());
        supervised
    }

    /// The next line; none when there is none for so long.
    pub(crate) fn next_within(&self, time: Duration) -> Option<Line> {
        match self.lines.recv_timeout(time) {
            Ok(line) => Some(line),
            Err(RecvTimeoutError::Timeout) => None,
            Err(RecvTimeoutError::Disconnected) => panic!("the socket is gone"),
        }
    }

    /// All lines up to one that is as wanted, with it.
    pub(crate) fn until(&self, what: &str, wanted: impl Fn(&str) -> bool) -> Vec<Line> {
        let deadline = Instant::now() + PATIENCE;
        let mut heard = Vec::new();
        while let Some(line) = self.next_within(deadline.saturating_duration_since(Instant::now()))
        {
            let is_wanted = wanted(&line.text);
            heard.push(line);
            if is_wanted {
                return heard;
            }
        }
        panic!("no {what} within {PATIENCE:?}, but {heard:?}");
    }

    /// As [`Manager::until`], for a line of exactly this text.
    pub(crate) fn until_line(&self, text: &str) -> Vec<Line> {
        self.until(text, |line| line == text)
    }

    /// Fails unless the service goes on feeding a watchdog of so long.
    pub(crate) fn assert_fed(&self, limit: Duration) {
        let fed = (0..4).map(|_| {
            let heard = self.until_line("WATCHDOG=1");
            heard.last().unwrap().at
        });
        let fed = fed.collect::<Vec<_>>();
        // A machine that stalls makes some gaps longer, but hardly all of them.
        let shortest = fed.windows(2).map(|pair| pair[1] - pair[0]).min().unwrap();
        assert!(shortest < limit / 2, "{shortest:?}");
    }

    /// Fails if the service feeds a watchdog of so long, of which a thread hangs since before this was called.
    pub(crate) fn assert_starved(&self, limit: Duration) {
        let fed_within = |time: Duration| {
            let end = Instant::now() + time;
            let lines = std::iter::from_fn(|| {
                self.next_within(end.saturating_duration_since(Instant::now()))
            });
            lines.filter(|line| line.text == "WATCHDOG=1").count()
        };
        // What was said before, and what came of the last answer, may still lie in the socket.
        fed_within(limit);
        let fed = fed_within(limit * 2);
        assert!(fed <= 1, "fed {fed} times; a healthy service feeds 8 times in that time");
    }
}

/// What a process says on standard error, read as it comes: a process whose pipe is full would wait.
#[derive(Debug)]
pub(crate) struct Log(JoinHandle<String>);

impl Log {
    pub(crate) fn of(child: &mut Child) -> Self {
        let mut stderr = child.stderr.take().unwrap();
        Self(std::thread::spawn(move || {
            let mut text = String::new();
            stderr.read_to_string(&mut text).unwrap();
            text
        }))
    }

    /// All of it, once the process has ended.
    pub(crate) fn text(self) -> String {
        self.0.join().unwrap()
    }
}

/// Threads of another process, which are stopped until this is dropped. Their process must be alive until then.
#[derive(Debug)]
pub(crate) struct Hung(#[expect(dead_code, reason = "held until it is dropped")] Vec<HungThread>);

impl Hung {
    /// Stops the threads with this name of the process with this number, a child of this one. All others run on: it is how
    /// a debugger does it.
    pub(crate) fn threads(process: u32, name: &str) -> Self {
        Self(find(process, name).into_iter().map(HungThread::stop).collect())
    }
}

#[derive(Debug)]
struct HungThread {
    release: Option<SyncSender<()>>,
    tracer: Option<JoinHandle<()>>,
}

impl HungThread {
    fn stop(thread: Pid) -> Self {
        let (release, released) = sync_channel::<()>(1);
        let (stopped, is_stopped) = sync_channel(1);
        // All that is asked of a thread that is traced must be asked by one and the same thread.
        let tracer = std::thread::spawn(move || {
            ptrace::seize(thread, ptrace::Options::empty()).unwrap();
            ptrace::interrupt(thread).unwrap();
            waitpid(thread, Some(WaitPidFlag::__WALL)).unwrap();
            stopped.send(()).unwrap();
            // An error is the other end being dropped, which is what is waited for.
            released.recv().ok();
            ptrace::detach(thread, None).unwrap();
        });
        is_stopped.recv_timeout(PATIENCE).expect("the thread cannot be stopped");
        Self { release: Some(release), tracer: Some(tracer) }
    }
}

impl Drop for HungThread {
    fn drop(&mut self) {
        drop(self.release.take());
        if let Some(tracer) = self.tracer.take() {
            // If it has panicked, it has said why.
            tracer.join().ok();
        }
    }
}

fn find(process: u32, name: &str) -> Vec<Pid> {
    let mut others = Vec::new();
    let mut found = Vec::new();
    for entry in fs::read_dir(format!("/proc/{process}/task")).unwrap() {
        let entry = entry.unwrap();
        // It may have ended since.
        let its_name = fs::read_to_string(entry.path().join("comm")).unwrap_or_default();
        if its_name.trim_end() == name {
            found.push(Pid::from_raw(entry.file_name().to_str().unwrap().parse().unwrap()));
        } else {
            others.push(its_name);
        }
    }
    assert!(!found.is_empty(), "no thread {name} among {others:?}");
    found
}
