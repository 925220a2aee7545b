//! Free ports of 127.0.0.1 that stay one's own while the service on them is down.

use std::fs;
use std::hash::{BuildHasher as _, Hasher as _, RandomState};
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::ops::Range;
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::net::{SocketAddr as LocalAddress, UnixListener};

use anyhow::{Context as _, bail};

/// Ports that the system does not give to outgoing connections, unless its settings are unusual.
const USUAL: Range<u16> = 15_000..32_768;

/// How many ports are tried; one that is taken is rare.
const TRIES_MAX: u16 = 500;

/// A port that nobody listened on when it was claimed, and that nobody else can claim until this is dropped.
#[derive(Debug)]
pub struct Claim {
    port: u16,
    /// A name that one process of the machine can have, and that its end frees.
    _name: UnixListener,
}

impl Claim {
    /// Any port.
    ///
    /// # Errors
    ///
    /// When none was free.
    pub fn any() -> anyhow::Result<Self> {
        let ports = claimable(&fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range"));
        let count = ports.end - ports.start;
        let start = u16::try_from(RandomState::new().build_hasher().finish() % u64::from(count))
            .context("a remainder of a u16 is one")?;
        for step in 0..TRIES_MAX.min(count) {
            let offset = (u32::from(start) + u32::from(step)) % u32::from(count);
            let offset = u16::try_from(offset).context("a remainder of a u16 is one")?;
            if let Some(claim) = Self::of(ports.start + offset) {
                return Ok(claim);
            }
        }
        bail!("no port of 127.0.0.1 is free in {ports:?}: end what listens there")
    }

    /// This port; none if it is taken.
    pub fn of(port: u16) -> Option<Self> {
        let name = LocalAddress::from_abstract_name(format!("picket-port-{port}")).ok()?;
        let name = UnixListener::bind_addr(&name).ok()?;
        // Closed at once: a listener that had no connection leaves nothing behind.
        TcpListener::bind((Ipv4Addr::LOCALHOST, port)).ok()?;
        Some(Self { port, _name: name })
    }

    /// Its number.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Where a service on it is to listen.
    pub fn address(&self) -> SocketAddr {
        SocketAddr::from((Ipv4Addr::LOCALHOST, self.port))
    }
}

/// The ports to choose from, given what the system says of those it gives to outgoing connections: one of these could
/// take the port of a service that is down for a moment.
fn claimable(outgoing: &std::io::Result<String>) -> Range<u16> {
    let parse = |text: &str| -> Option<(u16, u16)> {
        let (first, last) = text.trim().split_once(char::is_whitespace)?;
        Some((first.trim().parse().ok()?, last.trim().parse().ok()?))
    };
    let Some((first, last)) = outgoing.as_deref().ok().and_then(parse) else { return USUAL };
    let below = USUAL.start..first;
    let above = last.max(USUAL.start)..u16::MAX;
    [below, above].into_iter().find(|ports| 1_000 <= ports.len()).unwrap_or(USUAL)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_of_outgoing_connections_are_left_alone() {
        let check = |text: &str, expected| assert_eq!(claimable(&Ok(text.to_owned())), expected);
        check("32768\t60999\n", 15_000..32_768);
        check("1024 60999", 60_999..65_535);
        check("1024 65535", USUAL);
        check("1 2 3", USUAL);
        check("", USUAL);
        assert_eq!(claimable(&Err(std::io::ErrorKind::NotFound.into())), USUAL);
    }

    #[test]
    fn a_port_is_claimed_once() {
        let claim = Claim::any().unwrap();
        assert!(Claim::of(claim.port()).is_none());
        let port = claim.port();
        drop(claim);
        // Another process may be quicker; then the port is listened on or claimed, which is no fault.
        drop(Claim::of(port));
    }

    #[test]
    fn a_port_that_is_listened_on_is_not_claimed() {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        assert!(Claim::of(listener.local_addr().unwrap().port()).is_none());
    }

    #[test]
    fn claims_at_the_same_time_differ() {
        let claims: Vec<Claim> = (0..20).map(|_| Claim::any().unwrap()).collect();
        let mut ports: Vec<u16> = claims.iter().map(Claim::port).collect();
        ports.sort_unstable();
        ports.dedup();
        assert_eq!(ports.len(), claims.len());
    }
}
