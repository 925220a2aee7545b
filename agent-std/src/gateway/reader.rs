//! The thread of one link: opens it, reads it, opens it again when it is gone.

use std::io;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use agent_core::agent::{Link, LinkState};
use agent_core::time::Instant;
use crossbeam_channel::{Receiver, RecvTimeoutError, Sender};

use super::forwarder::Event;
use super::line::{Counts, Line};
use super::port::{self, Port, PortAddress};
use super::{LINE_STACK_BYTES, LineNumber, REPORT_EVERY};
use crate::clock::Clock;
use crate::collector::unix_ms;

/// Bytes taken from a port at once.
const CHUNK_BYTES: usize = 4096;

/// What never comes: the other end tells by closing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Never {}

/// The link's thread, from its parts.
#[derive(Debug)]
pub(super) struct Reader {
    pub(super) number: LineNumber,
    pub(super) address: PortAddress,
    pub(super) baud: u32,
    pub(super) seed: u64,
    pub(super) clock: Clock,
    pub(super) events: Sender<Event>,
    /// Closed when the thread has to end.
    pub(super) stop: Receiver<Never>,
}

/// Why reading has come to an end.
enum End {
    /// The process ends, or nobody listens any more.
    Stopped,
    /// The port is gone.
    Gone(String),
}

impl Reader {
    /// Starts the thread. It ends some 200 ms after `stop` was closed, or, when it is connecting just then, after the
    /// time that takes.
    pub(super) fn spawn(self) -> io::Result<JoinHandle<()>> {
        let thread = thread::Builder::new().name(format!("serial-{}", self.number.0));
        thread.stack_size(LINE_STACK_BYTES).spawn(move || {
            let events = self.events.clone();
            self.run();
            // The forwarder may be gone already.
            events.send(Event::ReaderEnded).ok();
        })
    }

    fn run(self) {
        let mut line = Line::new();
        let mut report = Report { last: Counts::default(), due: self.clock.now() + REPORT_EVERY };
        // A port is dialled as a server is, and with the same back-off.
        let mut link = Link::new(self.clock.now(), self.seed);
        // Said once, until something changes: a port may be away for days.
        let mut last_error = None;
        loop {
            let now = self.clock.now();
            if !link.poll_dial(now) {
                let LinkState::Down { retry_at } = link.state() else { return };
                report.look(&self.address, now, line.counts());
                if self.is_stopped_within((retry_at - now).min(REPORT_EVERY)) {
                    break;
                }
                continue;
            }
            match port::open(&self.address, self.baud) {
                Ok(port) => {
                    tracing::info!(line = %self.address, "serial link open");
                    last_error = None;
                    link.handle_opened(self.clock.now());
                    link.handle_one_way();
                    line.restart();
                    let end = self.read(port, &mut line, &mut report);
                    self.events.send(Event::LineClosed(self.number)).ok();
                    match end {
                        End::Stopped => break,
                        End::Gone(reason) => {
                            tracing::warn!(line = %self.address, reason, "serial link lost");
                        }
                    }
                }
                Err(error) => {
                    let error = error.to_string();
                    if last_error.as_ref() == Some(&error) {
                        tracing::debug!(line = %self.address, error, "cannot open serial link");
                    } else {
                        tracing::warn!(line = %self.address, error, "cannot open serial link");
                        last_error = Some(error);
                    }
                }
            }
            link.handle_closed(self.clock.now());
        }
        report.say(&self.address, line.counts());
    }

    fn is_stopped_within(&self, wait: Duration) -> bool {
        self.stop.recv_timeout(wait) == Err(RecvTimeoutError::Disconnected)
    }

    fn read(&self, mut port: Port, line: &mut Line, report: &mut Report) -> End {
        let mut chunk = [0; CHUNK_BYTES];
        loop {
            if self.is_stopped_within(Duration::ZERO) {
                return End::Stopped;
            }
            let bytes = match port.read(&mut chunk) {
                Ok(0) => return End::Gone("the other side closed it".to_owned()),
                Ok(length) => chunk.get(..length).unwrap_or_default(),
                Err(error) => match error.kind() {
                    io::ErrorKind::WouldBlock
                    | io::ErrorKind::TimedOut
                    | io::ErrorKind::Interrupted => &[],
                    _ => return End::Gone(error.to_string()),
                },
            };
            let wall_ms = unix_ms();
            for byte in bytes {
                if let Some(heard) = line.push(*byte, wall_ms) {
                    // Waits while the forwarder is behind. It does not wait for the network, so that is never long.
                    if self.events.send(Event::Heard(self.number, heard)).is_err() {
                        return End::Stopped;
                    }
                }
            }
            report.look(&self.address, self.clock.now(), line.counts());
        }
    }
}

/// Tells the log now and then what came over the link, however much garbage that was.
struct Report {
    last: Counts,
    due: Instant,
}

impl Report {
    fn look(&mut self, address: &PortAddress, now: Instant, counts: Counts) {
        if now < self.due {
            return;
        }
        self.due = now + REPORT_EVERY;
        if counts != self.last {
            self.say(address, counts);
        }
    }

    fn say(&mut self, address: &PortAddress, counts: Counts) {
        let Counts { bytes, frames, damaged, unknown, resyncs, unnamed } = counts;
        tracing::info!(
            line = %address, bytes, frames, damaged, unknown, resyncs, unnamed, "serial link"
        );
        self.last = counts;
    }
}
