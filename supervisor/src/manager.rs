//! The socket of the manager of services.

use std::ffi::OsStr;
use std::io;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};

/// A manager that does not read for so long is not waited for: what it is told is lost then.
const WAIT_MAX: Duration = Duration::from_secs(1);

/// Where the manager listens.
#[derive(Debug)]
pub(crate) struct Manager {
    socket: UnixDatagram,
    address: SocketAddr,
}

impl Manager {
    /// `name` is what `NOTIFY_SOCKET` says: a path, or `@` and an abstract name.
    ///
    /// # Errors
    ///
    /// When it is neither, or the system gives no socket.
    pub(crate) fn new(name: &OsStr) -> io::Result<Self> {
        let address = match name.as_bytes() {
            [b'/', ..] => SocketAddr::from_pathname(name)?,
            [b'@', name @ ..] if !name.is_empty() => abstract_address(name)?,
            _ => return Err(io::Error::new(io::ErrorKind::Unsupported, "neither /PATH nor @NAME")),
        };
        let socket = UnixDatagram::unbound()?;
        socket.set_write_timeout(Some(WAIT_MAX))?;
        Ok(Self { socket, address })
    }

    /// Sends one datagram. The address is looked up each time, because a manager that was started anew listens on another
    /// socket of the same name.
    ///
    /// # Errors
    ///
    /// When nobody listens, or the manager reads nothing for a second.
    pub(crate) fn send(&self, text: &str) -> io::Result<()> {
        // A datagram goes whole or not at all.
        self.socket.send_to_addr(text.as_bytes(), &self.address).map(|_| ())
    }
}

#[cfg(any(target_os = "linux", target_os = "android"))]
fn abstract_address(name: &[u8]) -> io::Result<SocketAddr> {
    use std::os::linux::net::SocketAddrExt as _;

    SocketAddr::from_abstract_name(name)
}

#[cfg(not(any(target_os = "linux", target_os = "android")))]
fn abstract_address(_: &[u8]) -> io::Result<SocketAddr> {
    Err(io::Error::new(io::ErrorKind::Unsupported, "this system has no abstract names"))
}

/// CLOCK_MONOTONIC in microseconds, as the protocol wants it.
pub(crate) fn monotonic_us() -> i64 {
    let now = clock_gettime(ClockId::Monotonic);
    // Wide enough for 292,000 years of uptime, also where the system's own seconds have 32 bits.
    now.tv_sec.saturating_mul(1_000_000).saturating_add(now.tv_nsec / 1000)
}
