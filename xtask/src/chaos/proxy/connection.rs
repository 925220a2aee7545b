//! A connection through a link, as its two pumps and who switches the link see it.

use std::net::{Shutdown, TcpStream};
use std::sync::atomic::{AtomicU8, AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use super::weather::Direction;

/// What becomes of a connection. It changes once, from alive to one of the others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Fate {
    Alive,
    /// Half-open: either side may think that the other is there, and never hears of it again.
    Forgotten,
    /// Closed in order (FIN), whatever was under way.
    Ended,
    /// Torn down (RST).
    Reset,
}

impl Fate {
    const ALL: [Self; 4] = [Self::Alive, Self::Forgotten, Self::Ended, Self::Reset];
}

/// What is shared by the two directions of one connection.
#[derive(Debug)]
pub(super) struct Connection {
    /// A further handle to each of the two sockets.
    streams: [TcpStream; 2],
    fate: AtomicU8,
    in_flight_bytes: [AtomicUsize; 2],
    begun: Instant,
    /// Milliseconds from `begun` to the latest byte that passed.
    passage_ms: AtomicU64,
}

impl Connection {
    pub(super) fn new(streams: [TcpStream; 2]) -> Self {
        Self {
            streams,
            fate: AtomicU8::new(Fate::Alive as u8),
            in_flight_bytes: [AtomicUsize::new(0), AtomicUsize::new(0)],
            begun: Instant::now(),
            passage_ms: AtomicU64::new(0),
        }
    }

    pub(super) fn fate(&self) -> Fate {
        let number = self.fate.load(Ordering::Acquire);
        Fate::ALL[usize::from(number)]
    }

    /// Whether it was alive until now.
    pub(super) fn decide(&self, fate: Fate) -> bool {
        if fate == Fate::Reset {
            for stream in &self.streams {
                // A socket that lingers for no time is reset when its last handle is closed.
                rustix::net::sockopt::set_socket_linger(stream, Some(Duration::ZERO)).ok();
            }
        }
        let alive = Fate::Alive as u8;
        self.fate.compare_exchange(alive, fate as u8, Ordering::AcqRel, Ordering::Acquire).is_ok()
    }

    /// Ends what its pumps wait for.
    pub(super) fn hang_up(&self) {
        for stream in &self.streams {
            stream.shutdown(Shutdown::Both).ok();
        }
    }

    pub(super) fn set_in_flight(&self, direction: Direction, bytes: usize) {
        self.in_flight_bytes[direction.index()].store(bytes, Ordering::Relaxed);
    }

    /// Whether the link has bytes that it did not pass on yet.
    pub(super) fn has_in_flight(&self) -> bool {
        self.in_flight_bytes.iter().any(|bytes| 0 < bytes.load(Ordering::Relaxed))
    }

    pub(super) fn note_passage(&self) {
        let since = u64::try_from(self.begun.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.passage_ms.store(since, Ordering::Relaxed);
    }

    /// When a byte last passed.
    pub(super) fn last_passage(&self) -> Instant {
        self.begun + Duration::from_millis(self.passage_ms.load(Ordering::Relaxed))
    }
}
