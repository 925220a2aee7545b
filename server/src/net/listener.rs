//! Lets connections in, up to a limit.

use std::fs::File;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use rustix::io::Errno;
use socket2::{SockRef, TcpKeepalive};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tonic::service::Routes;
use tracing::{debug, warn};

use crate::counters::{Counter, Counters};
use crate::levels::{Level, Levels};
use crate::limits::{KEEPALIVE_INTERVAL, TCP_UNANSWERED_MAX};
use crate::net::connection;
use crate::shutdown::Stopping;

/// Pause after an error of the listening socket that is none of a single connection.
const RETRY: Duration = Duration::from_millis(100);

/// A listening socket with what it may let in.
#[derive(Debug)]
pub(crate) struct Listener {
    socket: TcpListener,
    connections_max: u32,
    levels: Arc<Levels>,
    counters: Arc<Counters>,
    /// Given up for a moment when there are no files left, so that who knocks can be told by closing the door.
    spare: Option<File>,
}

impl Listener {
    pub(crate) fn new(
        socket: TcpListener,
        connections_max: u32,
        levels: &Arc<Levels>,
        counters: &Arc<Counters>,
    ) -> Self {
        let (levels, counters) = (Arc::clone(levels), Arc::clone(counters));
        Self { socket, connections_max, levels, counters, spare: spare() }
    }

    /// The next connection that there is room for. Those that there is none for are closed: their peers try another
    /// server, or come back later.
    ///
    /// Safe to cancel.
    async fn accept(&mut self) -> TcpStream {
        loop {
            match self.socket.accept().await {
                Ok((socket, _)) if self.has_room() => return socket,
                Ok((socket, peer)) => {
                    debug!(%peer, "connection refused: there are as many as are allowed");
                    self.counters.add(Counter::ConnectionsRefused, 1);
                    drop(socket);
                }
                Err(error) if is_without_files(&error) => self.turn_away().await,
                Err(error) if is_of_one_connection(&error) => {}
                Err(error) => {
                    warn!("cannot accept connections: {error}");
                    tokio::time::sleep(RETRY).await;
                }
            }
        }
    }

    fn has_room(&self) -> bool {
        self.levels.now(Level::Connections) < self.connections_max.into()
    }

    /// Closes the connection that is next, with the file that was kept for that.
    async fn turn_away(&mut self) {
        self.counters.add(Counter::ConnectionsRefused, 1);
        if self.spare.take().is_some() {
            // Another thread may have been faster, so the socket may still not be had.
            let next = tokio::time::timeout(RETRY, self.socket.accept()).await;
            drop(next);
        } else {
            tokio::time::sleep(RETRY).await;
        }
        self.spare = spare();
    }
}

fn spare() -> Option<File> {
    File::open("/dev/null").ok()
}

fn is_without_files(error: &io::Error) -> bool {
    [Errno::MFILE, Errno::NFILE].map(Errno::raw_os_error).map(Some).contains(&error.raw_os_error())
}

fn is_of_one_connection(error: &io::Error) -> bool {
    use io::ErrorKind;

    matches!(
        error.kind(),
        ErrorKind::ConnectionAborted | ErrorKind::ConnectionReset | ErrorKind::Interrupted
    )
}

/// Serves `routes` on what `listener` lets in, until the server ends and all connections have.
pub(crate) async fn serve(mut listener: Listener, routes: Routes, mut stopping: Stopping) {
    let protocol = connection::protocol();
    // Nothing is ever sent: the channel is closed once every connection has dropped its end.
    let (alive, mut gone) = mpsc::channel::<()>(1);
    loop {
        let socket = tokio::select! {
            () = stopping.wait() => break,
            socket = listener.accept() => socket,
        };
        let held = listener.levels.hold(Level::Connections, 1);
        if let Err(error) = set_options(&socket) {
            debug!("cannot set the options of a connection: {error}");
        }
        let counters = Arc::clone(&listener.counters);
        let serving =
            connection::run(protocol.clone(), socket, routes.clone(), counters, stopping.clone());
        let alive = alive.clone();
        tokio::spawn(async move {
            serving.await;
            drop((held, alive));
        });
    }
    // The port is free from here on, and nobody waits in its line for an answer.
    drop((listener, alive));
    gone.recv().await;
}

/// What the system is to do with a connection by itself: a second net below the HTTP/2 keepalive.
fn set_options(socket: &TcpStream) -> io::Result<()> {
    socket.set_nodelay(true)?;
    let socket = SockRef::from(socket);
    let probes =
        TcpKeepalive::new().with_time(TCP_UNANSWERED_MAX).with_interval(KEEPALIVE_INTERVAL);
    socket.set_tcp_keepalive(&probes)?;
    // Also ends a connection whose peer answers nothing to what we sent, which probes do not.
    #[cfg(target_os = "linux")]
    socket.set_tcp_user_timeout(Some(TCP_UNANSWERED_MAX))?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn pair() -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (client, accepted) = tokio::join!(TcpStream::connect(address), listener.accept());
        (client.unwrap(), accepted.unwrap().0)
    }

    #[tokio::test]
    async fn an_accepted_socket_has_its_options() {
        let (_client, socket) = pair().await;
        set_options(&socket).unwrap();
        assert!(socket.nodelay().unwrap());
        let socket = SockRef::from(&socket);
        assert!(socket.keepalive().unwrap());
        #[cfg(target_os = "linux")]
        assert_eq!(socket.tcp_user_timeout().unwrap(), Some(TCP_UNANSWERED_MAX));
    }

    #[tokio::test]
    async fn no_more_are_let_in_than_are_allowed() {
        let socket = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = socket.local_addr().unwrap();
        let (levels, counters) = (Arc::new(Levels::default()), Arc::new(Counters::default()));
        let mut listener = Listener::new(socket, 1, &levels, &counters);
        let _first = TcpStream::connect(address).await.unwrap();
        let _accepted = listener.accept().await;
        let held = levels.hold(Level::Connections, 1);

        let second = TcpStream::connect(address).await.unwrap();
        // The listener waits for another one, so only the client's side can be looked at meanwhile.
        tokio::select! {
            _ = listener.accept() => panic!("there is no room"),
            closed = second.readable() => closed.unwrap(),
        }
        assert_eq!(second.try_read(&mut [0]).unwrap(), 0, "closed");
        drop(held);
        let _third = TcpStream::connect(address).await.unwrap();
        listener.accept().await;
    }
}
