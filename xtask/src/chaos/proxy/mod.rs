//! A TCP relay on loopback that can do to a connection what networks do: delay, squeeze, hold, damage, forget and cut.
//!
//! It stands between one agent and one server, and knows bytes and connections only. Everything is switched while it runs. Each direction
//! of a connection has a thread and a queue of at most 256 KiB; behind a full queue the sender has to wait, as behind a full window.

mod connection;
mod pump;
#[cfg(test)]
mod tests;
mod weather;

use std::io::{self, ErrorKind};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::Context as _;

use super::random::Random;
use crate::fleet::poll;

use self::connection::{Connection, Fate};
use self::pump::Pump;
use self::weather::Counters;
pub(super) use self::weather::{Direction, Passage, Tally, Weather};

/// Connections at the same time; an agent has one, and the ones that were forgotten.
const CONNECTIONS_MAX: usize = 64;

/// How often a listener without connections looks around.
const ACCEPT_PAUSE: Duration = Duration::from_millis(20);

/// How long the server may take to accept. One on loopback does so at once, even when its process stands still.
const CONNECT_WITHIN: Duration = Duration::from_secs(2);

/// How long a cut waits for bytes to be under way.
const IN_FLIGHT_WITHIN: Duration = Duration::from_secs(5);

/// How a connection is cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Cut {
    /// An end in order, though in the middle of what was sent (FIN).
    Ended,
    /// A reset (RST).
    Reset,
}

/// A relay to one server. Dropping it ends its connections.
#[derive(Debug)]
pub(super) struct Proxy {
    address: SocketAddr,
    link: Arc<Link>,
    accepting: Option<JoinHandle<()>>,
}

/// What the threads of a relay share.
#[derive(Debug)]
struct Link {
    weather: Mutex<[Weather; 2]>,
    /// Chunks to damage, by direction.
    damage: [AtomicU32; 2],
    random: Mutex<Random>,
    connections: Mutex<Vec<Weak<Connection>>>,
    counters: Counters,
    is_closing: AtomicBool,
}

impl Proxy {
    /// Listens on any loopback port, and passes every connection on to `server`, which need not be there.
    pub(super) fn start(server: SocketAddr, random: Random) -> anyhow::Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).context("cannot listen")?;
        listener.set_nonblocking(true)?;
        let address = listener.local_addr()?;
        let link = Arc::new(Link {
            weather: Mutex::default(),
            damage: [AtomicU32::new(0), AtomicU32::new(0)],
            random: Mutex::new(random),
            connections: Mutex::default(),
            counters: Counters::default(),
            is_closing: AtomicBool::new(false),
        });
        let shared = Arc::clone(&link);
        let accepting = thread::Builder::new()
            .name("proxy".to_owned())
            .spawn(move || accept(&listener, server, &shared))
            .context("cannot start a thread")?;
        Ok(Self { address, link, accepting: Some(accepting) })
    }

    /// Where clients connect to.
    pub(super) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Changes one direction, also of the connections that there are.
    pub(super) fn set_weather(&self, direction: Direction, weather: Weather) {
        lock(&self.link.weather)[direction.index()] = weather;
    }

    /// Both directions as if there were no relay.
    pub(super) fn calm(&self) {
        *lock(&self.link.weather) = [Weather::default(); 2];
        self.link.damage.iter().for_each(|chunks| chunks.store(0, Ordering::Relaxed));
    }

    /// Flips a bit in each of the next `chunks` that come this way; a chunk is at most 4 KiB.
    pub(super) fn damage(&self, direction: Direction, chunks: u32) {
        self.link.damage[direction.index()].store(chunks, Ordering::Relaxed);
    }

    /// Makes the connections there are half-open, for good. New ones are as ever.
    pub(super) fn forget(&self) {
        self.decide(Fate::Forgotten);
    }

    /// Resets the connections there are at once, so that either side knows that they are gone.
    pub(super) fn reset(&self) {
        self.decide(Fate::Reset);
    }

    /// Cuts the connections there are, if possible with bytes under way, for which it waits a while.
    pub(super) fn cut(&self, how: Cut) {
        // Held bytes are under way until somebody lets them go.
        let before = *lock(&self.link.weather);
        for direction in Direction::ALL {
            let held = Weather { passage: Passage::Held, ..before[direction.index()] };
            self.set_weather(direction, held);
        }
        let under_way = || {
            let connections = self.link.alive();
            let is_over = connections.is_empty() || connections.iter().any(|at| at.has_in_flight());
            Ok::<_, std::convert::Infallible>(is_over.then_some(()))
        };
        match poll(IN_FLIGHT_WITHIN, under_way) {
            Ok(Some(()) | None) => {}
        }
        let counters = &self.link.counters;
        let fate = match how {
            Cut::Ended => Fate::Ended,
            Cut::Reset => Fate::Reset,
        };
        for connection in self.link.alive() {
            let is_in_flight = connection.has_in_flight();
            if connection.decide(fate) {
                counters.cuts.fetch_add(1, Ordering::Relaxed);
                counters.cuts_in_flight.fetch_add(u64::from(is_in_flight), Ordering::Relaxed);
            }
        }
        *lock(&self.link.weather) = before;
    }

    /// When a byte last passed on a connection that is alive; none without connections.
    pub(super) fn last_passage(&self) -> Option<Instant> {
        self.link.alive().iter().map(|connection| connection.last_passage()).max()
    }

    pub(super) fn tally(&self) -> Tally {
        self.link.counters.tally()
    }

    fn decide(&self, fate: Fate) {
        for connection in self.link.alive() {
            connection.decide(fate);
        }
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.link.is_closing.store(true, Ordering::Release);
        if let Some(accepting) = self.accepting.take() {
            // It has ended its pumps before. A panic of it was printed.
            accepting.join().ok();
        }
    }
}

impl Link {
    fn weather(&self, direction: Direction) -> Weather {
        lock(&self.weather)[direction.index()]
    }

    fn random(&self) -> Random {
        lock(&self.random).split()
    }

    /// Whether the chunk at hand is one to damage.
    fn take_damage(&self, direction: Direction) -> bool {
        let chunks = &self.damage[direction.index()];
        let taken = |left: u32| left.checked_sub(1);
        chunks.fetch_update(Ordering::Relaxed, Ordering::Relaxed, taken).is_ok()
    }

    fn alive(&self) -> Vec<Arc<Connection>> {
        let connections = lock(&self.connections);
        let alive = |connection: &Weak<Connection>| {
            connection.upgrade().filter(|connection| connection.fate() == Fate::Alive)
        };
        connections.iter().filter_map(alive).collect()
    }

    /// Whether there is room for one more connection.
    fn has_room(&self) -> bool {
        let mut connections = lock(&self.connections);
        connections.retain(|connection| 0 < connection.strong_count());
        connections.len() < CONNECTIONS_MAX
    }
}

/// Takes connections until the relay is dropped, then ends them all.
fn accept(listener: &TcpListener, server: SocketAddr, link: &Arc<Link>) {
    let mut pumps: Vec<JoinHandle<()>> = Vec::new();
    while !link.is_closing.load(Ordering::Acquire) {
        match listener.accept() {
            Ok((client, _)) => {
                pumps.retain(|pump| !pump.is_finished());
                match connect(client, server, link) {
                    Ok(started) => {
                        link.counters.connections.fetch_add(1, Ordering::Relaxed);
                        pumps.extend(started);
                    }
                    // The client is closed: it finds the server away.
                    Err(_) => {
                        link.counters.refused.fetch_add(1, Ordering::Relaxed);
                    }
                }
            }
            // A connection that was gone before it was accepted is no reason to end either.
            Err(_) => thread::sleep(ACCEPT_PAUSE),
        }
    }
    for connection in lock(&link.connections).iter().filter_map(Weak::upgrade) {
        connection.decide(Fate::Reset);
        connection.hang_up();
    }
    for pump in pumps {
        pump.join().ok();
    }
}

/// Connects to the server, and starts the two pumps.
fn connect(
    client: TcpStream,
    server: SocketAddr,
    link: &Arc<Link>,
) -> io::Result<[JoinHandle<()>; 2]> {
    if !link.has_room() {
        return Err(ErrorKind::QuotaExceeded.into());
    }
    // Some systems let it inherit what the listener has.
    client.set_nonblocking(false)?;
    client.set_nodelay(true)?;
    let upstream = TcpStream::connect_timeout(&server, CONNECT_WITHIN)?;
    upstream.set_nodelay(true)?;
    let connection = Arc::new(Connection::new([client.try_clone()?, upstream.try_clone()?]));
    let pump = |from: &TcpStream, to: &TcpStream, direction| {
        let (from, to) = (from.try_clone()?, to.try_clone()?);
        Pump::new(from, to, direction, Arc::clone(link), Arc::clone(&connection))
    };
    let (up, down) =
        (pump(&client, &upstream, Direction::Up)?, pump(&upstream, &client, Direction::Down)?);
    lock(&link.connections).push(Arc::downgrade(&connection));
    let spawn = |name: &str, pump: Pump| {
        thread::Builder::new().name(name.to_owned()).spawn(move || pump.run())
    };
    Ok([spawn("proxy-up", up)?, spawn("proxy-down", down)?])
}

/// The values are whole after each statement, so a panic elsewhere leaves nothing half done.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
