//! The network: a thread with the program's only async runtime, and on it an uplink for each agent that this process
//! speaks for. It decides nothing: it dials when told to and reports what happens.

#[cfg(feature = "etcd")]
mod followed;
pub(crate) mod message;
mod servers;
mod session;
#[cfg_attr(not(feature = "etcd"), path = "store_absent.rs")]
mod store;

use std::fmt;
use std::io;
use std::thread::{self, JoinHandle};

use agent_core::limits::TRANSMIT_SLOTS;
use proto::{Command, Hello, MetricsRequest, Welcome};
use tokio::runtime::Handle;
use tokio::sync::{OwnedSemaphorePermit, mpsc};

pub(crate) use self::servers::Servers;
pub(crate) use self::store::ConfigStore;
use crate::config::Version;
use crate::stack;

/// What an uplink is asked for. `T` is what its owner calls a message by.
#[derive(Debug)]
pub(crate) enum Request<T> {
    /// Open a stream; an open one is dropped.
    Dial(Box<Hello>),
    /// Put a message on the stream.
    Send(Box<MetricsRequest>, T),
    /// Say on the stream that no message follows, and hear the server out.
    Finish,
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
    /// A message came. It keeps its place until it has been dealt with.
    Received(Box<Command>, Place),
    /// The transport took a message.
    Transmitted(T),
    /// The server refused the stream because another live agent has the id.
    Refused {
        /// For the log.
        reason: String,
    },
    /// The server ended the stream in good order after [`Request::Finish`].
    Finished,
    /// The stream ended, or could not be opened.
    Closed {
        /// For the log.
        reason: String,
    },
}

/// Room for one message of the server. The next one is not taken from the connection before one of few such is free.
#[derive(Debug)]
#[expect(dead_code, reason = "dropping it is all that it is for")]
pub(crate) struct Place(OwnedSemaphorePermit);

/// What the agent's own watch of the configuration store has to say.
#[derive(Debug, PartialEq)]
#[cfg_attr(not(feature = "etcd"), expect(dead_code, reason = "nobody is there to say it"))]
pub(crate) enum StoreEvent {
    /// What the layers make together now.
    Document(Version),
    /// They make nothing that could be used, so what is in force stays.
    Unusable {
        /// The change after which it is so.
        revision: u64,
        /// Which key, where in it, and why.
        reason: String,
    },
    /// Another cluster answers, whose revisions do not compare with those before.
    ClusterChanged,
}

/// The stack of the thread.
const STACK_BYTES: usize = stack::bytes(384);

/// Threads that ask for the address of a name, which blocks; each ends after a few seconds without work.
const RESOLVERS_MAX: usize = 2;

/// The stack of one.
const RESOLVER_STACK_BYTES: usize = stack::bytes(192);

/// The stacks of all threads here.
pub(crate) const STACKS_BYTES: usize = STACK_BYTES + RESOLVERS_MAX * RESOLVER_STACK_BYTES;

/// Bytes that the messages of one uplink take at most.
pub(crate) const fn uplink_bytes_max() -> usize {
    // The one that is being read, as it came and as it is understood, and those that wait.
    let received =
        2 * servers::WINDOW_BYTES + (2 + session::RECEIVED_MAX) * session::MESSAGE_BYTES_MAX;
    received + message::sent_bytes_max()
}

/// The network's thread.
#[derive(Debug)]
pub(crate) struct Network {
    servers: Servers,
    runtime: Handle,
    _thread: JoinHandle<()>,
}

impl Network {
    /// Starts the thread, which carries streams to one of `servers`. `on_signal` is called for each request of the system; it
    /// answers whether somebody still wants to know.
    pub(crate) fn spawn(
        servers: Servers,
        on_signal: impl Fn(Signal) -> bool + Send + 'static,
    ) -> io::Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .max_blocking_threads(RESOLVERS_MAX)
            .thread_stack_size(RESOLVER_STACK_BYTES)
            .build()?;
        let handle = runtime.handle().clone();
        // Before anything else of the agent starts: until then a signal ends the process as a crash would.
        let signals = {
            let _entered = runtime.enter();
            Signals::listen()
        };
        // A program that was here before may have had them wait.
        #[cfg(unix)]
        crate::held_signals::release()?;
        let thread = thread::Builder::new().name("network".to_owned()).stack_size(STACK_BYTES);
        let thread = thread.spawn(move || {
            runtime.block_on(async {
                if let Err(error) = forward_signals(signals, on_signal).await {
                    tracing::error!(%error, "cannot listen for signals; the agent only stops when killed");
                }
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

    /// Has the thread call `answer` when it comes to it, which shows that it is alive.
    pub(crate) fn ask(&self, answer: impl FnOnce() + Send + 'static) {
        self.runtime.spawn(async move { answer() });
    }

    /// Follows the configuration in `store` for as long as the process lives. `report` may wait as that of
    /// [`Network::uplink`] may.
    pub(crate) fn follow(
        &self,
        store: ConfigStore,
        report: impl Fn(StoreEvent) + Send + Sync + 'static,
    ) {
        self.runtime.spawn(store::follow(store, report));
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

    /// Whether somebody is there to serve requests.
    pub(crate) fn is_alive(&self) -> bool {
        !self.requests.is_closed()
    }
}

impl<T> fmt::Debug for Uplink<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Uplink").finish_non_exhaustive()
    }
}

/// What the system asks of the process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Signal {
    /// To end.
    End,
    /// To read its settings again.
    #[cfg_attr(not(unix), expect(dead_code, reason = "other systems have no such signal"))]
    Reload,
}

/// Requests of the system. Signals live here because the runtime already waits for file descriptors.
#[cfg(unix)]
struct Signals {
    terminate: tokio::signal::unix::Signal,
    interrupt: tokio::signal::unix::Signal,
    hangup: tokio::signal::unix::Signal,
}

#[cfg(unix)]
impl Signals {
    /// Takes SIGTERM, SIGINT and SIGHUP from the system, which then no longer end the process by themselves.
    fn listen() -> io::Result<Self> {
        use tokio::signal::unix::{SignalKind, signal};

        let terminate = signal(SignalKind::terminate())?;
        let interrupt = signal(SignalKind::interrupt())?;
        Ok(Self { terminate, interrupt, hangup: signal(SignalKind::hangup())? })
    }

    /// Waits for the next one.
    async fn next(&mut self) -> io::Result<Signal> {
        Ok(tokio::select! {
            _ = self.terminate.recv() => Signal::End,
            _ = self.interrupt.recv() => Signal::End,
            _ = self.hangup.recv() => Signal::Reload,
        })
    }
}

/// Requests to end the process: Ctrl-C.
#[cfg(not(unix))]
struct Signals;

#[cfg(not(unix))]
impl Signals {
    fn listen() -> io::Result<Self> {
        Ok(Self)
    }

    async fn next(&mut self) -> io::Result<Signal> {
        tokio::signal::ctrl_c().await.map(|()| Signal::End)
    }
}

/// Reports signals until nobody wants to know any more.
async fn forward_signals(
    signals: io::Result<Signals>,
    on_signal: impl Fn(Signal) -> bool,
) -> io::Result<()> {
    let mut signals = signals?;
    loop {
        if !on_signal(signals.next().await?) {
            return Ok(());
        }
    }
}
