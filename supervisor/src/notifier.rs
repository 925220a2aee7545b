//! The notify protocol: assignments in datagrams, as sd_notify(3) describes them.

use std::env;
use std::ffi::OsStr;
use std::fmt::{self, Write as _};
use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crate::manager::{Manager, monotonic_us};

/// Something to tell the manager.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum News<'a> {
    /// The program does its work from now on: after its start, and after [`Reloading`](Self::Reloading).
    Ready,
    /// It reads its settings again, or replaces itself in the same process. [`Ready`](Self::Ready) follows.
    Reloading,
    /// It ends.
    Stopping,
    /// It is alive, as far as it can tell.
    Alive,
    /// What is at hand, a start or an end, takes so long from now.
    MoreTime(Duration),
    /// How things stand, in one line for people. Line breaks become blanks, and what is beyond 512 characters is cut off.
    Status(&'a str),
}

/// Longest line on how things stand, in characters. systemd drops a datagram of more than 4,096 bytes unread
/// (`NOTIFY_BUFFER_MAX`), and a character may have four.
const STATUS_MAX: usize = 512;

impl fmt::Display for News<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ready => f.write_str("READY=1"),
            // A manager that waits for the end of a reload wants to know which one this is.
            Self::Reloading => write!(f, "RELOADING=1\nMONOTONIC_USEC={}", monotonic_us()),
            Self::Stopping => f.write_str("STOPPING=1"),
            Self::Alive => f.write_str("WATCHDOG=1"),
            Self::MoreTime(time) => write!(f, "EXTEND_TIMEOUT_USEC={}", time.as_micros()),
            Self::Status(text) => {
                f.write_str("STATUS=")?;
                let mut characters = text.chars();
                characters.by_ref().take(STATUS_MAX).try_for_each(|character| {
                    f.write_char(if character.is_control() { ' ' } else { character })
                })?;
                if characters.next().is_some() { f.write_str(" ...") } else { Ok(()) }
            }
        }
    }
}

/// Tells the manager how the program is. Where no manager asked for it, nothing happens.
///
/// The environment stays as it is, so that a program which replaces itself in the same process is heard as before.
#[derive(Debug, Default)]
pub struct Notifier {
    manager: Option<Manager>,
    watchdog: Option<Duration>,
    // So that a manager which is away is logged once.
    has_failed: AtomicBool,
}

impl Notifier {
    /// For the manager that `NOTIFY_SOCKET` names, with the watchdog of `WATCHDOG_USEC` and `WATCHDOG_PID`. One that cannot
    /// be used is logged and is none.
    pub fn from_environment() -> Self {
        let text = |name| env::var(name).ok();
        let watchdog = watchdog(text("WATCHDOG_USEC"), text("WATCHDOG_PID"), std::process::id());
        Self::new(env::var_os("NOTIFY_SOCKET").as_deref(), watchdog)
    }

    fn new(socket: Option<&OsStr>, watchdog: Option<Duration>) -> Self {
        let manager = socket.filter(|name| !name.is_empty()).and_then(|name| {
            Manager::new(name)
                .inspect_err(|error| {
                    tracing::warn!(?name, %error, "NOTIFY_SOCKET cannot be used; no manager is told anything");
                })
                .ok()
        });
        Self { watchdog: watchdog.filter(|_| manager.is_some()), manager, ..Self::default() }
    }

    /// Whether there is somebody to tell.
    pub const fn is_heard(&self) -> bool {
        self.manager.is_some()
    }

    /// How long the manager waits for [`News::Alive`] before it takes the program for hung; none when it does not.
    pub const fn watchdog(&self) -> Option<Duration> {
        self.watchdog
    }

    /// Tells all of `news` at once. It may take a second, when the manager is too busy to read. What cannot be told is
    /// logged, once until something can be told again.
    pub fn tell(&self, news: &[News<'_>]) {
        let Some(manager) = &self.manager else { return };
        let lines = news.iter().map(|news| format!("{news}\n")).collect::<String>();
        self.note(&manager.send(&lines));
    }

    fn note(&self, told: &io::Result<()>) {
        let had_failed = self.has_failed.swap(told.is_err(), Ordering::Relaxed);
        if let Err(error) = told
            && !had_failed
        {
            tracing::warn!(%error, "the manager of services does not hear this program");
        }
    }
}

/// What the variables say to the process with the number `own`. Those of another process, from which this one has them,
/// do not count.
fn watchdog(usec: Option<String>, pid: Option<String>, own: u32) -> Option<Duration> {
    let is_meant = pid.is_none_or(|pid| pid.parse() == Ok(own));
    let usec = usec.filter(|_| is_meant)?.parse().ok().filter(|usec| *usec != 0)?;
    Some(Duration::from_micros(usec))
}

#[cfg(unix)]
#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixDatagram;

    use super::*;

    fn received(socket: &UnixDatagram) -> String {
        let mut bytes = [0; 4096];
        let count = socket.recv(&mut bytes).unwrap();
        String::from_utf8(bytes[..count].to_vec()).unwrap()
    }

    #[test]
    fn news_are_lines_of_one_datagram() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("notify");
        let socket = UnixDatagram::bind(&path).unwrap();
        let notifier = Notifier::new(Some(path.as_os_str()), None);
        assert!(notifier.is_heard());
        notifier.tell(&[News::Ready, News::Status("one\ntwo\u{1b}"), News::Alive]);
        assert_eq!(received(&socket), "READY=1\nSTATUS=one two \nWATCHDOG=1\n");
        notifier.tell(&[News::Status(&"\u{fe0f}x".repeat(300))]);
        let text = received(&socket);
        assert!(text.ends_with("x ...\n") && text.chars().count() == 7 + 512 + 5, "{text}");
        notifier.tell(&[News::Stopping, News::MoreTime(Duration::from_millis(1500))]);
        assert_eq!(received(&socket), "STOPPING=1\nEXTEND_TIMEOUT_USEC=1500000\n");
        notifier.tell(&[News::Reloading]);
        let text = received(&socket);
        let usec = text.strip_prefix("RELOADING=1\nMONOTONIC_USEC=").unwrap().trim_end();
        assert!(0 < usec.parse::<i64>().unwrap());
    }

    #[test]
    fn a_manager_that_comes_back_under_its_name_is_heard_again() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("notify");
        let notifier = Notifier::new(Some(path.as_os_str()), None);
        notifier.tell(&[News::Alive]);
        let socket = UnixDatagram::bind(&path).unwrap();
        notifier.tell(&[News::Alive]);
        assert_eq!(received(&socket), "WATCHDOG=1\n");
        drop(socket);
        std::fs::remove_file(&path).unwrap();
        let socket = UnixDatagram::bind(&path).unwrap();
        notifier.tell(&[News::Ready]);
        assert_eq!(received(&socket), "READY=1\n");
    }

    #[test]
    fn a_manager_that_does_not_read_is_not_waited_for() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("notify");
        let _socket = UnixDatagram::bind(&path).unwrap();
        let notifier = Notifier::new(Some(path.as_os_str()), None);
        let status = "x".repeat(60_000);
        // Until its buffer is full, which it then stays. That this returns is the point.
        for _ in 0..1000 {
            notifier.tell(&[News::Status(&status)]);
            if notifier.has_failed.load(Ordering::Relaxed) {
                return;
            }
        }
        panic!("the buffer is never full");
    }

    #[test]
    fn without_a_manager_nothing_happens() {
        for name in [None, Some(""), Some("relative"), Some("@"), Some("vsock:2:1")] {
            let notifier = Notifier::new(name.map(OsStr::new), Some(Duration::from_secs(1)));
            assert!(!notifier.is_heard(), "{name:?}");
            assert_eq!(notifier.watchdog(), None);
            notifier.tell(&[News::Ready]);
        }
    }

    #[test]
    fn the_watchdog_of_another_process_does_not_count() {
        let check = |usec: Option<&str>, pid: Option<&str>, expected: Option<u64>| {
            let found = watchdog(usec.map(str::to_owned), pid.map(str::to_owned), 7);
            assert_eq!(found, expected.map(Duration::from_micros), "{usec:?} {pid:?}");
        };
        check(Some("5"), None, Some(5));
        check(Some("5"), Some("7"), Some(5));
        check(Some("5"), Some("8"), None);
        check(Some("5"), Some("x"), None);
        check(Some("0"), None, None);
        check(Some("-1"), Some("7"), None);
        check(None, Some("7"), None);
    }
}
