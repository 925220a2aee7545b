//! A relay on loopback that counts the bytes which pass it, both ways.

use std::io::{self, Read as _, Write as _};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;

use anyhow::Context as _;

/// Bytes of TCP's payload that have passed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Passed {
    /// From the client to the server.
    pub(super) up: u64,
    /// From the server to the client.
    pub(super) down: u64,
}

/// A relay to one server. It lives as long as the program does.
#[derive(Debug)]
pub(super) struct Relay {
    address: SocketAddr,
    up: Arc<AtomicU64>,
    down: Arc<AtomicU64>,
}

impl Relay {
    /// Listens on any loopback port, and passes every connection on to `server`.
    pub(super) fn start(server: SocketAddr) -> anyhow::Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).context("cannot listen")?;
        let address = listener.local_addr()?;
        let (up, down) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
        let relay = Self { address, up: Arc::clone(&up), down: Arc::clone(&down) };
        spawn("relay", move || {
            // A connection that cannot be had is its client's to make anew.
            for client in listener.incoming().flatten() {
                connect(client, server, &up, &down).ok();
            }
        })?;
        Ok(relay)
    }

    pub(super) fn address(&self) -> SocketAddr {
        self.address
    }

    pub(super) fn passed(&self) -> Passed {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Passed { up: read(&self.up), down: read(&self.down) }
    }
}

fn connect(
    client: TcpStream,
    server: SocketAddr,
    up: &Arc<AtomicU64>,
    down: &Arc<AtomicU64>,
) -> io::Result<()> {
    let server = TcpStream::connect(server)?;
    client.set_nodelay(true)?;
    server.set_nodelay(true)?;
    let (other_client, other_server) = (client.try_clone()?, server.try_clone()?);
    let (up, down) = (Arc::clone(up), Arc::clone(down));
    spawn("relay-up", move || pump(client, server, &up))?;
    spawn("relay-down", move || pump(other_server, other_client, &down))
}

fn spawn(name: &str, run: impl FnOnce() + Send + 'static) -> io::Result<()> {
    thread::Builder::new().name(name.to_owned()).spawn(run)?;
    Ok(())
}

/// Passes on until one side is gone, and then tells the other.
fn pump(mut from: TcpStream, mut to: TcpStream, passed: &AtomicU64) {
    let mut chunk = [0; 16 * 1024];
    while let Ok(length @ 1..) = from.read(&mut chunk) {
        if to.write_all(chunk.get(..length).unwrap_or_default()).is_err() {
            break;
        }
        passed.fetch_add(u64::try_from(length).unwrap_or(u64::MAX), Ordering::Relaxed);
    }
    to.shutdown(Shutdown::Write).ok();
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_pass_both_ways_and_are_counted_with_their_direction() {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let relay = Relay::start(listener.local_addr().unwrap()).unwrap();
        let mut client = TcpStream::connect(relay.address()).unwrap();
        let (mut server, _) = listener.accept().unwrap();
        client.write_all(b"12345").unwrap();
        let mut heard = [0; 5];
        server.read_exact(&mut heard).unwrap();
        assert_eq!(&heard, b"12345");
        server.write_all(b"67").unwrap();
        drop(server);
        let mut rest = Vec::new();
        client.read_to_end(&mut rest).unwrap();
        assert_eq!(rest, b"67");
        drop(client);
        // What was passed on is counted a moment after.
        let counted = crate::fleet::poll(std::time::Duration::from_secs(60), || {
            let passed = relay.passed();
            Ok::<_, io::Error>((passed == Passed { up: 5, down: 2 }).then_some(()))
        });
        assert_eq!(counted.unwrap(), Some(()));
    }
}
