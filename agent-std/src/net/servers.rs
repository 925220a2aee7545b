//! The servers that may carry a stream: the one in use, and those to turn to when it fails.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use proto::address::{ServerAddress, ServerAddresses};
use tonic::transport::{Channel, Endpoint};

use crate::net::session::describe;

/// All uplinks of a process go to the same server, so that one that is away is found out once.
#[derive(Clone, Debug)]
pub(crate) struct Servers {
    endpoints: Arc<[(ServerAddress, Endpoint)]>,
    // Counts on and on; the remainder says which.
    turn: Arc<AtomicUsize>,
}

/// A server, and when it was chosen.
#[derive(Clone, Copy, Debug)]
pub(super) struct Choice<'a> {
    pub(super) address: &'a ServerAddress,
    endpoint: &'a Endpoint,
    turn: usize,
}

impl Servers {
    /// # Errors
    ///
    /// When an address cannot be part of a URI.
    pub(crate) fn new(addresses: &ServerAddresses) -> Result<Self, tonic::transport::Error> {
        let endpoints = addresses.iter().map(|address| Ok((address.clone(), endpoint(address)?)));
        Ok(Self { endpoints: endpoints.collect::<Result<_, _>>()?, turn: Arc::default() })
    }

    /// Connects to the one in use, else to the next that answers: one round, so that a server that is away costs no
    /// step of the back-off while another one is there.
    ///
    /// # Errors
    ///
    /// When none answers; what is wrong with each.
    pub(super) async fn connect(&self) -> Result<(Choice<'_>, Channel), String> {
        let mut reasons = Vec::with_capacity(self.endpoints.len());
        for _ in 0..self.endpoints.len() {
            let choice = self.choose();
            match choice.endpoint.connect().await {
                Ok(channel) => return Ok((choice, channel)),
                Err(error) => {
                    self.give_up(choice);
                    reasons.push(format!("{}: {}", choice.address, describe(&error)));
                }
            }
        }
        Err(reasons.join("; "))
    }

    /// The address of the one in use.
    pub(crate) fn current(&self) -> &ServerAddress {
        self.choose().address
    }

    /// The one to use now.
    fn choose(&self) -> Choice<'_> {
        let turn = self.turn.load(Ordering::Relaxed);
        // There is at least one.
        let (address, endpoint) = &self.endpoints[turn % self.endpoints.len()];
        Choice { address, endpoint, turn }
    }

    /// The chosen one cannot be reached, or has ended the stream: the next choice is the one after it. Says nothing
    /// new when another uplink has found out before.
    pub(super) fn give_up(&self, choice: Choice<'_>) {
        let next = choice.turn.wrapping_add(1);
        self.turn.compare_exchange(choice.turn, next, Ordering::Relaxed, Ordering::Relaxed).ok();
    }
}

/// Bytes that a server may send before they are read.
pub(super) const WINDOW_BYTES: usize = WINDOW as usize;
const WINDOW: u32 = 32 * 1024;

fn endpoint(server: &ServerAddress) -> Result<Endpoint, tonic::transport::Error> {
    Ok(Endpoint::from_shared(format!("http://{server}"))?
        .connect_timeout(Duration::from_secs(5))
        .tcp_nodelay(true)
        // A server that vanished without a word is found after 15 s.
        .http2_keep_alive_interval(Duration::from_secs(10))
        .keep_alive_timeout(Duration::from_secs(5))
        .keep_alive_while_idle(true)
        // What the system itself does about it, should this program be too busy to ask.
        .tcp_keepalive(Some(Duration::from_secs(20)))
        // What a server may make this host keep: it sends little, but for a configuration now and then.
        .initial_stream_window_size(WINDOW)
        .initial_connection_window_size(WINDOW)
        .http2_max_header_list_size(8 * 1024))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_has_its_turn_and_one_failure_counts_once() {
        let servers = Servers::new(&"a:1,b:2".parse().unwrap()).unwrap();
        let (one, other) = (servers.choose(), servers.choose());
        assert_eq!(one.address.to_string(), "a:1");
        servers.give_up(one);
        servers.give_up(other);
        assert_eq!(servers.choose().address.to_string(), "b:2");
        servers.give_up(servers.choose());
        assert_eq!(servers.choose().address.to_string(), "a:1");
    }
}
