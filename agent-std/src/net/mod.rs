//! The uplink: a thread with the agent's only async runtime, which carries messages between the main loop and the
//! server. It decides nothing: it dials when told to and reports what happens.

pub(crate) mod message;
mod session;

use std::io;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use agent_core::agent::Transmit;
use agent_core::limits::TRANSMIT_SLOTS;
use crossbeam_channel::Sender;
use proto::address::ServerAddress;
use proto::{Hello, MetricsRequest};
use tokio::sync::mpsc;
use tonic::transport::Endpoint;

use crate::event::Event;

/// What the main loop asks of the uplink.
#[derive(Debug)]
pub(crate) enum Request {
    /// Open a stream; an open one is dropped.
    Dial(Box<Hello>),
    /// Put a message on the stream.
    Send(Box<MetricsRequest>, Transmit),
    /// End the stream in good order.
    Close,
}

/// The uplink's thread.
#[derive(Debug)]
pub(crate) struct Uplink {
    requests: mpsc::Sender<Request>,
    _thread: JoinHandle<()>,
}

/// The main loop asked for more than the core's slots allow, or the thread is gone.
#[derive(Clone, Copy, Debug, thiserror::Error)]
#[error("the uplink does not take requests")]
pub(crate) struct UplinkError;

impl Uplink {
    /// Starts the thread; what happens is reported to `events`, a request to end the process included.
    pub(crate) fn spawn(endpoint: Endpoint, events: Sender<Event>) -> io::Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        // Room for all the messages that the core lets be under way, a dial and a close.
        let (requests, queue) = mpsc::channel(usize::from(TRANSMIT_SLOTS) + 2);
        let thread = thread::Builder::new().name("uplink".to_owned()).spawn(move || {
            runtime.block_on(async {
                tokio::select! {
                    () = session::run(&endpoint, queue, &events) => {}
                    () = forward_signals(&events) => {}
                }
            });
        })?;
        Ok(Self { requests, _thread: thread })
    }

    /// Hands `request` over without waiting.
    pub(crate) fn request(&self, request: Request) -> Result<(), UplinkError> {
        self.requests.try_send(request).map_err(|_| UplinkError)
    }
}

/// The way to the server.
///
/// # Errors
///
/// When the address cannot be part of a URI.
pub(crate) fn endpoint(server: &ServerAddress) -> Result<Endpoint, tonic::transport::Error> {
    Ok(Endpoint::from_shared(format!("http://{server}"))?
        .connect_timeout(Duration::from_secs(5))
        .tcp_nodelay(true)
        // A server that vanished without a word is found after 15 s.
        .http2_keep_alive_interval(Duration::from_secs(10))
        .keep_alive_timeout(Duration::from_secs(5))
        .keep_alive_while_idle(true)
        .initial_stream_window_size(64 * 1024)
        .initial_connection_window_size(64 * 1024))
}

/// Reports SIGTERM and SIGINT for ever. Signals live here because the runtime already waits for file descriptors.
#[cfg(unix)]
async fn forward_signals(events: &Sender<Event>) {
    use tokio::signal::unix::{SignalKind, signal};

    let signals = signal(SignalKind::terminate())
        .and_then(|terminate| Ok((terminate, signal(SignalKind::interrupt())?)));
    let (mut terminate, mut interrupt) = match signals {
        Ok(signals) => signals,
        Err(error) => {
            tracing::error!(%error, "cannot listen for signals; the agent will only stop when killed");
            return std::future::pending().await;
        }
    };
    loop {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        if events.send(Event::Shutdown).is_err() {
            return;
        }
    }
}

/// Reports Ctrl-C for ever.
#[cfg(not(unix))]
async fn forward_signals(events: &Sender<Event>) {
    while tokio::signal::ctrl_c().await.is_ok() {
        if events.send(Event::Shutdown).is_err() {
            return;
        }
    }
}
