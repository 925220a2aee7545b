//! One direction of one connection: a thread that reads, keeps what is not due yet, and writes.

use std::collections::VecDeque;
use std::io::{self, ErrorKind, Read as _, Write as _};
use std::net::{Shutdown, TcpStream};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread;
use std::time::{Duration, Instant};

use super::super::random::Random;
use super::Link;
use super::connection::{Connection, Fate};
use super::weather::{Direction, Passage, Weather};

/// What a direction keeps at most; beyond it, the sender is not read from and so has to stop.
pub(super) const QUEUE_BYTES_MAX: usize = 256 * 1024;

/// The most that is read at once.
const CHUNK_BYTES_MAX: usize = 4 * 1024;

/// Parts of a second that a slow link passes at once: smaller ones make it smoother.
const CHUNKS_PER_SECOND: u32 = 10;

/// How soon a new weather or fate is noticed when nothing comes.
const IDLE: Duration = Duration::from_millis(50);

/// The same when something is waiting to become due: how late a byte may be beyond its delay.
const BUSY: Duration = Duration::from_millis(5);

/// How long a receiver may refuse what is written before the weather is looked at again.
const WRITE: Duration = Duration::from_millis(100);

/// Bytes with the time at which they go on.
#[derive(Debug)]
struct Chunk {
    due: Instant,
    bytes: Vec<u8>,
    written: usize,
}

/// One direction of a connection.
#[derive(Debug)]
pub(super) struct Pump {
    from: TcpStream,
    to: TcpStream,
    direction: Direction,
    link: Arc<Link>,
    connection: Arc<Connection>,
    random: Random,
    queue: VecDeque<Chunk>,
    /// `queue`'s bytes that were not written.
    queued_bytes: usize,
    /// When the latest byte goes on: a later one never goes earlier.
    latest: Instant,
    source: Source,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Source {
    Open,
    Ended,
}

/// Whether the pump goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Next {
    Again,
    Done,
}

impl Pump {
    pub(super) fn new(
        from: TcpStream,
        to: TcpStream,
        direction: Direction,
        link: Arc<Link>,
        connection: Arc<Connection>,
    ) -> io::Result<Self> {
        to.set_write_timeout(Some(WRITE))?;
        let random = link.random();
        Ok(Self {
            from,
            to,
            direction,
            link,
            connection,
            random,
            queue: VecDeque::new(),
            queued_bytes: 0,
            latest: Instant::now(),
            source: Source::Open,
        })
    }

    /// Runs until the connection is over, however that comes.
    pub(super) fn run(mut self) {
        loop {
            let next = match self.connection.fate() {
                Fate::Alive => self.step(),
                Fate::Forgotten => Ok(self.swallow()),
                Fate::Ended => return self.connection.hang_up(),
                // Closing without a farewell is what makes it a reset.
                Fate::Reset => return,
            };
            match next {
                Ok(Next::Again) => {}
                Ok(Next::Done) => return,
                Err(_) => {
                    // Either end was reset, and the other one is to hear of it.
                    self.connection.decide(Fate::Reset);
                    return;
                }
            }
        }
    }

    fn step(&mut self) -> io::Result<Next> {
        if self.source == Source::Open && self.queued_bytes < QUEUE_BYTES_MAX {
            self.read()?;
        } else {
            thread::sleep(if self.queue.is_empty() { IDLE } else { BUSY });
        }
        // It may have been decided while nothing came.
        if self.connection.fate() != Fate::Alive {
            return Ok(Next::Again);
        }
        match self.link.weather(self.direction).passage {
            Passage::Open => self.write(),
            Passage::Held => Ok(Next::Again),
        }
    }

    fn read(&mut self) -> io::Result<()> {
        let rate = self.link.weather(self.direction).bytes_per_second;
        let limit = rate.map_or(CHUNK_BYTES_MAX, |rate| {
            let part = rate.get().div_ceil(CHUNKS_PER_SECOND);
            usize::try_from(part).unwrap_or(CHUNK_BYTES_MAX).min(CHUNK_BYTES_MAX)
        });
        let mut bytes = vec![0; limit];
        let patience = if self.queue.is_empty() { IDLE } else { BUSY };
        let Some(count) = self.receive(&mut bytes, patience)? else { return Ok(()) };
        if count == 0 {
            self.source = Source::Ended;
            return Ok(());
        }
        bytes.truncate(count);
        // It may have changed while nothing came.
        self.take(bytes, self.link.weather(self.direction));
        Ok(())
    }

    /// Bytes that came, 0 at the end; none when nothing came in time.
    fn receive(&mut self, buffer: &mut [u8], patience: Duration) -> io::Result<Option<usize>> {
        self.from.set_read_timeout(Some(patience))?;
        match self.from.read(buffer) {
            Ok(count) => Ok(Some(count)),
            Err(error) if is_pause(&error) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Gives the bytes the time at which they go on.
    fn take(&mut self, mut bytes: Vec<u8>, weather: Weather) {
        let counters = &self.link.counters;
        let count = bytes.len();
        if self.link.take_damage(self.direction) {
            let at = self.random.below(count);
            bytes[at] ^= 1 << self.random.below(8);
            counters.flipped_bits.fetch_add(1, Ordering::Relaxed);
        }
        let now = Instant::now();
        let jitter = self.random.between(Duration::ZERO..=weather.jitter);
        let mut due = (now + weather.delay + jitter).max(self.latest);
        if let Some(rate) = weather.bytes_per_second {
            due += Duration::from_secs_f64(count as f64 / f64::from(rate.get()));
        }
        if now < due {
            counters.delayed_bytes.fetch_add(count as u64, Ordering::Relaxed);
        }
        match weather.passage {
            Passage::Open => {}
            Passage::Held => {
                counters.held_bytes.fetch_add(count as u64, Ordering::Relaxed);
            }
        }
        self.latest = due;
        self.queue.push_back(Chunk { due, bytes, written: 0 });
        self.queued_bytes += count;
        self.connection.set_in_flight(self.direction, self.queued_bytes);
    }

    /// Writes what is due.
    fn write(&mut self) -> io::Result<Next> {
        while let Some(chunk) = self.queue.front_mut() {
            if Instant::now() < chunk.due {
                return Ok(Next::Again);
            }
            let count = match self.to.write(&chunk.bytes[chunk.written..]) {
                Ok(0) => return Err(ErrorKind::WriteZero.into()),
                Ok(count) => count,
                Err(error) if is_pause(&error) => return Ok(Next::Again),
                Err(error) => return Err(error),
            };
            chunk.written += count;
            if chunk.written == chunk.bytes.len() {
                self.queue.pop_front();
            }
            self.queued_bytes -= count;
            self.link.counters.passed_bytes.fetch_add(count as u64, Ordering::Relaxed);
            self.connection.set_in_flight(self.direction, self.queued_bytes);
            self.connection.note_passage();
            if self.connection.fate() != Fate::Alive {
                return Ok(Next::Again);
            }
        }
        match self.source {
            Source::Open => Ok(Next::Again),
            Source::Ended => {
                self.to.shutdown(Shutdown::Write)?;
                Ok(Next::Done)
            }
        }
    }

    /// What comes goes nowhere, and an end of one side is not told to the other.
    fn swallow(&mut self) -> Next {
        let mut count = std::mem::take(&mut self.queued_bytes);
        self.queue.clear();
        let mut buffer = [0; CHUNK_BYTES_MAX];
        let next = match self.receive(&mut buffer, IDLE) {
            Ok(Some(0)) | Err(_) => Next::Done,
            Ok(Some(received)) => {
                count += received;
                Next::Again
            }
            Ok(None) => Next::Again,
        };
        self.link.counters.swallowed_bytes.fetch_add(count as u64, Ordering::Relaxed);
        next
    }
}

fn is_pause(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut | ErrorKind::Interrupted)
}
