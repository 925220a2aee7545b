//! What the manager of services, such as systemd, hears of the agent: that it is ready, that it is alive, how things stand.
//!
//! Without one all of this does nothing.

use std::time::Duration;

use agent_core::agent::RunState;
use agent_core::time::Instant;
use proto::address::ServerAddress;
use supervisor::{News, Notifier, Step, Watchdog};

/// What can hang without the main loop, which tells the manager and so is alive whenever something is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Part {
    /// The thread that measures.
    Collector,
    /// The thread that carries streams.
    Network,
}

impl Part {
    const ALL: [Self; 2] = [Self::Collector, Self::Network];

    const fn name(self) -> &'static str {
        match self {
            Self::Collector => "collector",
            Self::Network => "network",
        }
    }
}

/// Counts change with each snapshot, and the manager has other things to do.
const STATUS_INTERVAL: Duration = Duration::from_secs(30);

/// How long the end may take: the core's time to deliver what is held and the end of the stream are within it by far, and
/// what is left is for a disk that is slow to take the rest.
const END_MAX: Duration = Duration::from_secs(30);

/// How things stand.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Standing {
    pub(crate) state: RunState,
    pub(crate) stream: Stream,
    /// The one that has the stream, or is tried next.
    pub(crate) server: ServerAddress,
    pub(crate) counts: Counts,
}

/// How far the stream has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stream {
    /// There is none.
    None,
    /// Records go out, and the server has not said a word. One that knows only the fixed facts may never do.
    Unanswered,
    /// The server has answered.
    Answered,
}

/// Records of this boot.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Counts {
    pub(crate) held: u64,
    pub(crate) spooled: u64,
    pub(crate) lost: u64,
}

impl Standing {
    /// One line for people.
    fn line(&self, complaint: Option<&str>) -> String {
        let state = match self.state {
            RunState::Running => "",
            RunState::Stopped => "stopped by a command, ",
            RunState::Draining => "ending, ",
        };
        let link = match self.stream {
            Stream::None => "no server, trying",
            Stream::Unanswered => "no answer yet from",
            Stream::Answered => "connected to",
        };
        let Counts { held, spooled, lost } = self.counts;
        let server = &self.server;
        let mut line =
            format!("{state}{link} {server}; records held {held}, spooled {spooled}, lost {lost}");
        if let Some(complaint) = complaint {
            line.push_str("; not reloaded: ");
            line.push_str(complaint);
        }
        line
    }
}

/// What the main loop has to do for the manager.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Chore {
    /// Have this part answer with [`Service::handle_alive`].
    Ask(Part),
    /// Come back at this time, or when something happens.
    Wait(Option<Instant>),
}

/// The agent as a service.
#[derive(Debug)]
pub(crate) struct Service {
    notifier: Notifier,
    watchdog: Watchdog<Part>,
    is_ready: bool,
    told: Option<(Instant, Standing)>,
    /// Why the host's file is not in force as it stands.
    complaint: Option<String>,
}

impl Service {
    /// Ready once all parts have answered for the first time after `now`.
    pub(crate) fn new(notifier: Notifier, now: Instant) -> Self {
        let watchdog = Watchdog::new(&Part::ALL, notifier.watchdog(), now);
        Self { notifier, watchdog, is_ready: false, told: None, complaint: None }
    }

    /// Whether there is a manager to tell.
    pub(crate) const fn is_heard(&self) -> bool {
        self.notifier.is_heard()
    }

    /// Things stand so at `now`. What changed in the counts alone is told later.
    pub(crate) fn handle_standing(&mut self, now: Instant, standing: Standing) {
        let is_due = self.told.as_ref().is_none_or(|(told_at, told)| {
            let counts_are_due = *told_at + STATUS_INTERVAL <= now;
            let counts = if counts_are_due { standing.counts } else { told.counts };
            *told != Standing { counts, ..standing.clone() }
        });
        if is_due {
            self.notifier.tell(&[News::Status(&standing.line(self.complaint.as_deref()))]);
            self.told = Some((now, standing));
        }
    }

    /// `part` answered.
    pub(crate) fn handle_alive(&mut self, part: Part) {
        self.watchdog.handle_alive(part);
    }

    /// What there is to do at `now`. To be called until it answers [`Chore::Wait`].
    pub(crate) fn poll(&mut self, now: Instant) -> Chore {
        loop {
            match self.watchdog.poll(now) {
                Step::Ask(part) => return Chore::Ask(part),
                Step::Wait(until) => return Chore::Wait(until),
                Step::Alive => {
                    if !std::mem::replace(&mut self.is_ready, true) {
                        self.notifier.tell(&[News::Ready]);
                    }
                    self.feed();
                }
                Step::Silent(part) => {
                    let part = part.name();
                    tracing::error!(
                        part,
                        "a thread hangs; the watchdog is not fed until it answers"
                    );
                }
            }
        }
    }

    /// The host's file is about to be read again.
    pub(crate) fn begin_reload(&self) {
        self.notifier.tell(&[News::Reloading]);
    }

    /// That is over; `complaint` says why nothing changed, if so.
    pub(crate) fn end_reload(&mut self, complaint: Option<String>) {
        self.complaint = complaint;
        self.notifier.tell(&[News::Ready]);
        // What is told next has it.
        self.told = None;
    }

    /// The process is about to be replaced by a fresh one, which says itself that it is ready.
    pub(crate) fn begin_restart(&self) {
        self.notifier.tell(&[News::Reloading, News::Status("restarting")]);
        // The fresh one has all the time there is until its own first sign of life.
        self.feed();
    }

    /// It was not; this one goes on.
    pub(crate) fn fail_restart(&mut self) {
        self.notifier.tell(&[News::Ready]);
        self.told = None;
    }

    /// The process was asked to end, or comes to the last thing that takes time in it.
    pub(crate) fn stop(&self) {
        self.notifier.tell(&[News::Stopping, News::MoreTime(END_MAX)]);
    }

    fn feed(&self) {
        if self.notifier.watchdog().is_some() {
            self.notifier.tell(&[News::Alive]);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn standing(is_answered: bool, held: u64) -> Standing {
        let counts = Counts { held, ..Counts::default() };
        let server = "edge:50051".parse().unwrap();
        let stream = if is_answered { Stream::Answered } else { Stream::None };
        Standing { state: RunState::Running, stream, server, counts }
    }

    #[test]
    fn a_line_says_to_whom_and_how_many() {
        assert_eq!(
            standing(true, 3).line(None),
            "connected to edge:50051; records held 3, spooled 0, lost 0"
        );
        let unanswered = Standing { stream: Stream::Unanswered, ..standing(true, 3) };
        assert!(unanswered.line(None).starts_with("no answer yet from edge:50051; "));
        let stopped = Standing { state: RunState::Stopped, ..standing(false, 0) };
        assert_eq!(
            stopped.line(Some("agent.toml: interval")),
            "stopped by a command, no server, trying edge:50051; records held 0, spooled 0, lost 0; \
             not reloaded: agent.toml: interval"
        );
    }

    #[test]
    fn the_link_is_told_at_once_and_counts_now_and_then() {
        let at = |seconds: u64| Instant::from_ms(seconds * 1000);
        let mut service = Service::new(Notifier::default(), at(0));
        let mut check = |seconds, standing: Standing, told_at| {
            service.handle_standing(at(seconds), standing);
            assert_eq!(service.told.as_ref().map(|(told_at, _)| *told_at), Some(at(told_at)));
        };
        check(0, standing(false, 0), 0);
        check(1, standing(false, 5), 0);
        check(2, standing(true, 5), 2);
        check(31, standing(true, 9), 2);
        check(32, standing(true, 9), 32);
        check(99, standing(true, 9), 32);
    }

    #[test]
    fn a_complaint_is_told_with_the_next_line_and_stays_until_a_reload_works() {
        let mut service = Service::new(Notifier::default(), Instant::default());
        service.handle_standing(Instant::default(), standing(true, 0));
        service.end_reload(Some("bad".to_owned()));
        assert!(service.told.is_none());
        service.handle_standing(Instant::default(), standing(true, 0));
        assert!(service.told.is_some());
        assert_eq!(service.complaint.as_deref(), Some("bad"));
        service.end_reload(None);
        assert!(service.complaint.is_none() && service.told.is_none());
    }
}
