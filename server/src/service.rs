//! The server as a service of systemd, or of another manager that speaks its protocol: what it tells, and the thread that
//! watches whether the server is alive.
//!
//! That thread is no part of the runtime, so that it can say of the runtime too that it hangs. Without a manager there is
//! no thread, and nothing is told.

use std::fmt::Write as _;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::time::Duration;

use agent_core::time::Instant;
use bus::Bus;
use supervisor::{News, Notifier, Step, Watchdog};
use tokio::runtime::Handle;
use tokio::task::JoinHandle;
use tracing::{error, info};

use crate::counters::Counter;
use crate::levels::Level;
use crate::limits::SHUTDOWN_MAX;
use crate::shared::Shared;

/// While the server starts it asks for so much time, again and again in half of it.
const START_STEP: Duration = Duration::from_secs(60);

/// After so long it asks no more: rebuilding 60 GiB takes an hour, and a start that hangs should be noticed some day.
const START_MAX: Duration = Duration::from_secs(3600);

/// For what comes after the end of the streams and of the storage.
const END_SLACK: Duration = Duration::from_secs(5);

/// How often it is looked whether there is something to tell.
const LOOK_EVERY: Duration = Duration::from_secs(5);

/// Counts of records change all the time, and the manager has other things to do.
const COUNTS_EVERY: Duration = Duration::from_secs(30);

/// What can hang without the other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Part {
    /// The threads on which everything runs that waits for something.
    Runtime,
    /// The thread that makes records durable.
    Bus,
}

impl Part {
    const fn name(self) -> &'static str {
        match self {
            Self::Runtime => "runtime",
            Self::Bus => "bus",
        }
    }
}

/// What the watching thread is told.
#[derive(Clone, Copy, Debug)]
enum Note {
    Alive(Part),
    End,
}

/// Tells the manager of services how the server is.
#[derive(Clone, Debug)]
pub struct Service {
    notifier: Arc<Notifier>,
    // The thread that watches, once there is one.
    watching: Option<SyncSender<Note>>,
}

impl Service {
    /// For the manager that the environment names, if it names one.
    pub fn from_environment() -> Self {
        Self { notifier: Arc::new(Notifier::from_environment()), watching: None }
    }

    /// The server starts, and this may take long. Ends when the answer is dropped.
    pub(crate) fn start(&self) -> Starting {
        if !self.notifier.is_heard() {
            return Starting(None);
        }
        let notifier = Arc::clone(&self.notifier);
        notifier.tell(&[News::Status("opening the storage")]);
        Starting(Some(tokio::spawn(async move {
            for _ in 0..START_MAX.as_secs() / (START_STEP / 2).as_secs() {
                notifier.tell(&[News::MoreTime(START_STEP)]);
                tokio::time::sleep(START_STEP / 2).await;
            }
        })))
    }

    /// The server listens and its storage is open. The manager is told that it is ready once each part has shown that it is
    /// alive, and from then on that it is. `buses` are those with threads of their own.
    ///
    /// # Errors
    ///
    /// When the system can start no thread.
    pub(crate) fn watch(
        &mut self,
        shared: &Arc<Shared>,
        buses: Vec<Arc<dyn Bus>>,
        address: SocketAddr,
    ) -> io::Result<()> {
        if !self.notifier.is_heard() {
            return Ok(());
        }
        // One answer of each part at most, and the end.
        let (notes, queue) = sync_channel(3);
        let limit = self.notifier.watchdog();
        let now = shared.clock.now().monotonic;
        let watching = Watching {
            notifier: Arc::clone(&self.notifier),
            shared: Arc::clone(shared),
            buses,
            address,
            runtime: Handle::current(),
            notes: notes.clone(),
            queue,
            watchdog: Watchdog::new(&[Part::Runtime, Part::Bus], limit, now),
            is_ready: false,
            told: Told::default(),
        };
        std::thread::Builder::new().name("service".to_owned()).spawn(move || watching.run())?;
        self.watching = Some(notes);
        Ok(())
    }

    /// The server was asked to reload.
    pub(crate) fn reload(&self) {
        self.notifier.tell(&[News::Reloading]);
        info!(
            "asked to reload, but there is nothing that a server reads again; it goes on as it is"
        );
        self.notifier.tell(&[News::Ready]);
    }

    /// The server ends.
    pub(crate) fn stop(&self) {
        let status = News::Status("ending: storing what is under way");
        self.notifier.tell(&[News::Stopping, News::MoreTime(SHUTDOWN_MAX + END_SLACK), status]);
        if let Some(watching) = &self.watching {
            // There is room for it; a thread that is gone need not be told.
            watching.try_send(Note::End).ok();
        }
    }
}

/// Asks for more time until it is dropped.
#[derive(Debug)]
pub(crate) struct Starting(Option<JoinHandle<()>>);

impl Drop for Starting {
    fn drop(&mut self) {
        if let Some(task) = &self.0 {
            task.abort();
        }
    }
}

/// What the thread that watches works with.
struct Watching {
    notifier: Arc<Notifier>,
    shared: Arc<Shared>,
    buses: Vec<Arc<dyn Bus>>,
    address: SocketAddr,
    runtime: Handle,
    notes: SyncSender<Note>,
    queue: Receiver<Note>,
    watchdog: Watchdog<Part>,
    is_ready: bool,
    told: Told,
}

impl Watching {
    fn run(mut self) {
        loop {
            let now = self.shared.clock.now().monotonic;
            let standing = self.standing();
            if self.told.is_due(now, &standing) {
                self.notifier.tell(&[News::Status(&standing.line())]);
                self.told = Told(Some((now, standing)));
            }
            let wait = self.attend(now).map_or(LOOK_EVERY, |until| LOOK_EVERY.min(until - now));
            match self.queue.recv_timeout(wait) {
                Ok(Note::Alive(part)) => self.watchdog.handle_alive(part),
                Err(RecvTimeoutError::Timeout) => {}
                Ok(Note::End) | Err(RecvTimeoutError::Disconnected) => return,
            }
        }
    }

    /// Does what there is to do for the watchdog; answers when there is more.
    fn attend(&mut self, now: Instant) -> Option<Instant> {
        loop {
            match self.watchdog.poll(now) {
                Step::Ask(part) => self.ask(part),
                Step::Wait(until) => return until,
                Step::Alive => {
                    if !std::mem::replace(&mut self.is_ready, true) {
                        self.notifier.tell(&[News::Ready]);
                    }
                    if self.notifier.watchdog().is_some() {
                        self.notifier.tell(&[News::Alive]);
                    }
                }
                Step::Silent(part) => {
                    let part = part.name();
                    error!(part, "it hangs; the watchdog is not fed until it answers");
                }
            }
        }
    }

    fn ask(&self, part: Part) {
        let notes = self.notes.clone();
        let buses = match part {
            Part::Runtime => Vec::new(),
            Part::Bus => self.buses.clone(),
        };
        self.runtime.spawn(async move {
            for bus in buses {
                // One that is closed does not answer any more: the server ends, or should.
                if bus.alive().await.is_err() {
                    return;
                }
            }
            // There is room, for nobody is asked twice.
            notes.try_send(Note::Alive(part)).ok();
        });
    }

    fn standing(&self) -> Standing {
        Standing {
            address: self.address,
            troubles: self.shared.troubles.texts(),
            agents: self.shared.levels.now(Level::Streams),
            counts: [
                self.shared.counters.get(Counter::RecordsStored),
                self.shared.counters.get(Counter::RecordsLost),
            ],
        }
    }
}

/// How things stand.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Standing {
    address: SocketAddr,
    troubles: Vec<String>,
    /// Those that are connected.
    agents: u64,
    /// Records stored, records lost.
    counts: [u64; 2],
}

impl Standing {
    /// One line for people.
    fn line(&self) -> String {
        let Self { address, troubles, agents, counts: [stored, lost] } = self;
        let mut line = format!(
            "listening on {address}; agents {agents}, records stored {stored}, lost {lost}"
        );
        for trouble in troubles {
            // A String takes whatever is written.
            write!(line, "; degraded: {trouble}").ok();
        }
        line
    }
}

/// What was told last.
#[derive(Debug, Default)]
struct Told(Option<(Instant, Standing)>);

impl Told {
    /// Whether `standing` is to be told at `now`: trouble and how many agents at once, counts of records now and then.
    fn is_due(&self, now: Instant, standing: &Standing) -> bool {
        let Some((told_at, told)) = &self.0 else { return true };
        told.troubles != standing.troubles
            || told.agents != standing.agents
            || (*told_at + COUNTS_EVERY <= now && told.counts != standing.counts)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn standing(troubles: &[&str], agents: u64, counts: [u64; 2]) -> Standing {
        let troubles = troubles.iter().map(|&text| text.to_owned()).collect();
        Standing { address: "[::1]:50051".parse().unwrap(), troubles, agents, counts }
    }

    #[test]
    fn a_line_says_where_how_many_and_what_is_wrong() {
        assert_eq!(
            standing(&["no disk", "no etcd"], 2, [30, 1]).line(),
            "listening on [::1]:50051; agents 2, records stored 30, lost 1; degraded: no disk; degraded: no etcd"
        );
    }

    #[test]
    fn trouble_and_agents_are_told_at_once_and_counts_now_and_then() {
        let at = |seconds: u64| Instant::from_ms(seconds * 1000);
        let told = Told(Some((at(5), standing(&[], 1, [1, 1]))));
        assert!(Told::default().is_due(at(5), &standing(&[], 1, [1, 1])));
        assert!(!told.is_due(at(34), &standing(&[], 1, [2, 1])));
        assert!(told.is_due(at(35), &standing(&[], 1, [2, 1])));
        assert!(!told.is_due(at(99), &standing(&[], 1, [1, 1])));
        assert!(told.is_due(at(6), &standing(&["no disk"], 1, [1, 1])));
        assert!(told.is_due(at(6), &standing(&[], 2, [1, 1])));
        assert!(told.is_due(at(6), &standing(&[], 0, [1, 1])));
    }
}
