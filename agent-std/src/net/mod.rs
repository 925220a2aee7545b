//! The network: a thread with the program's only async runtime, and on it an uplink for each agent that this process
//! speaks for. It decides nothing: it dials when told to and reports what happens.

pub(crate) mod message;
mod servers;
mod session;

use std::fmt;
use std::io;
use std::thread::{self, JoinHandle};

use agent_core::limits::TRANSMIT_SLOTS;
use proto::{Command, Hello, MetricsRequest, Welcome};
use tokio::runtime::Handle;
use tokio::sync::mpsc;

pub(crate) use self::servers::Servers;

/// What an uplink is asked for. `T` is what its owner calls a message by.
#[derive(Debug)]
pub(crate) enum Request<T> {
    /// Open a stream; an open one is dropped.
    Dial(Box<Hello>),
    /// Put a message on the stream.
    Send(Box<MetricsRequest>, T),
    /// End the stream in good order.
    Close,
}

/// What can happen to a stream.
#[derive(Debug)]
pub(crate) enum LinkEvent<T> {
    /// The connection stands and the call was made.
    Opened,
    /// The response headers came; none: the server knows only the fixed facts.
    Answered(Option<Welcome>),
    /// A message came.
    Received(Box<Command>),
    /// The transport took a message.
    Transmitted(T),
    /// The server refused the stream because another live agent has the id.
    Refused {
        /// For the log.
        reason: String,
    },
    /// The stream ended, or could not be opened.
    Closed {
        /// For the log.
        reason: String,
    },
}

/// The network's thread.
#[derive(Debug)]
pub(crate) struct Network {
    servers: Servers,
    runtime: Handle,
    _thread: JoinHandle<()>,
}

impl Network {
    /// Starts the thread, which carries streams to one of `servers`. `on_signal` is called for each request to end the
    /// process; it answers whether somebody still wants to know.
    pub(crate) fn spawn(
        servers: Servers,
        on_signal: impl Fn() -> bool + Send + 'static,
    ) -> io::Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let handle = runtime.handle().clone();
        let thread = thread::Builder::new().name("network".to_owned()).spawn(move || {
            runtime.block_on(async {
                forward_signals(on_signal).await;
                // Nobody is left to hear of signals; the streams go on for as long as the process.
                std::future::pending::<()>().await;
            });
        })?;
        Ok(Self { servers, runtime: handle, _thread: thread })
    }

    /// An uplink of its own for one agent. `report` is told what happens to its streams, each by the session number
    /// of its Hello. It may wait while its owner is behind, which is the back-pressure; all uplinks wait with it.
    pub(crate) fn uplink<T: Send + 'static>(
        &self,
        report: impl Fn(u64, LinkEvent<T>) + Send + Sync + 'static,
    ) -> Uplink<T> {
        // Room for all the messages that the core lets be under way, a dial and a close.
        let (requests, queue) = mpsc::channel(usize::from(TRANSMIT_SLOTS) + 2);
        let servers = self.servers.clone();
        self.runtime.spawn(session::run(servers, queue, report));
        Uplink { requests }
    }
}

/// The way of one agent to the server. Dropping it ends its stream in good order.
pub(crate) struct Uplink<T> {
    requests: mpsc::Sender<Request<T>>,
}

/// The owner asked for more than the core's slots allow, or the network's thread is gone.
#[derive(Clone, Copy, Debug, thiserror::Error)]
#[error("the uplink does not take requests")]
pub(crate) struct UplinkError;

impl<T> Uplink<T> {
    /// Hands `request` over without waiting.
    pub(crate) fn request(&self, request: Request<T>) -> Result<(), UplinkError> {
        self.requests.try_send(request).map_err(|_| UplinkError)
    }
}

impl<T> fmt::Debug for Uplink<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Uplink").finish_non_exhaustive()
    }
}

/// Reports SIGTERM and SIGINT. Signals live here because the runtime already waits for file descriptors.
#[cfg(unix)]
async fn forward_signals(on_signal: impl Fn() -> bool) {
    use tokio::signal::unix::{SignalKind, signal};

    let signals = signal(SignalKind::terminate())
        .and_then(|terminate| Ok((terminate, signal(SignalKind::interrupt())?)));
    let (mut terminate, mut interrupt) = match signals {
        Ok(signals) => signals,
        Err(error) => {
            tracing::error!(%error, "cannot listen for signals; the agent will only stop when killed");
            return;
        }
    };
    loop {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        if !on_signal() {
            return;
        }
    }
}

/// Reports Ctrl-C.
#[cfg(not(unix))]
async fn forward_signals(on_signal: impl Fn() -> bool) {
    while tokio::signal::ctrl_c().await.is_ok() && on_signal() {}
}
