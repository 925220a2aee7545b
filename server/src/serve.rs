//! The life of a server: open, recover, serve, end.

use std::io::Write as _;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use proto::operator_service_server::OperatorServiceServer;
use tokio::net::TcpListener;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tonic::service::Routes;
use tonic_health::server::HealthReporter;
use tracing::{info, warn};

use crate::budget::Budget;
use crate::cli::Args;
use crate::clock::Clock;
use crate::command::{Commands, Router};
use crate::config::ConfigStore;
use crate::counters::Counters;
use crate::damage;
use crate::ids::server_id;
use crate::ingest::Sink;
use crate::levels::Levels;
use crate::limits::{
    AGENTS_MAX, HISTORY_WAIT, MESSAGE_BYTES_MAX, SHUTDOWN_MAX, SHUTDOWN_STREAMS_MAX,
};
use crate::net::{self, Listener, connections_max};
use crate::registry::{News, Registry};
use crate::rpc::{Monitoring, Operator};
use crate::service::Service;
use crate::shared::{Shared, Tables};
use crate::shutdown::Shutdown;
use crate::signals::{Signal, Signals};
use crate::storage::Storage;
use crate::troubles::{Trouble, Troubles};

/// Runs a server until `signals` ask for its end, then ends it in order.
///
/// Writes `listening on ADDRESS` to standard output once connections are accepted, and tells `service` likewise.
///
/// # Errors
///
/// When the data directory or the address cannot be used, or what is stored cannot be read.
pub async fn serve(args: Args, mut service: Service, mut signals: Signals) -> anyhow::Result<()> {
    let starting = service.start();
    // Bound first: a wrong address is the likelier mistake, and costs nothing to undo.
    let listener = listen(args.listen).await?;
    let address =
        listener.local_addr().context("cannot read the address of the listening socket")?;
    // Before the storage opens its files.
    let connections_max = connections_max(args.connections_max);
    let beyond_loopback = !address.ip().is_loopback();
    if beyond_loopback {
        warn!(%address, "insecure: whoever reaches this port can read all metrics and command all agents");
    }

    let troubles = Arc::new(Troubles::default());
    let storage = Storage::open(&args, &troubles).await?;

    let shutdown = Shutdown::new();
    let (shared, router, commands_known) = assemble(&args, &storage, &troubles, &shutdown);
    let router = tokio::spawn(router.run());
    let mut follower = shared.config.follow().await;
    follower.read_first(&shared.config, &troubles).await;
    let news = remember(&shared, commands_known).await;
    let follower = tokio::spawn(follower.run(Arc::clone(&shared)));
    let damage = tokio::spawn(damage::tell(Arc::clone(&shared)));

    let (health, health_service) = tonic_health::server::health_reporter();
    set_health(&health, Health::Serving).await;
    let routes = routes(&shared)?.add_service(health_service).prepare();
    let listener = Listener::new(listener, connections_max, &shared.levels, &shared.counters);
    let mut serving = tokio::spawn(net::serve(listener, routes, shutdown.stopping()));
    announce(address)?;
    drop(starting);
    service
        .watch(&shared, storage.buses(), address)
        .context("cannot start the thread that watches the server")?;
    info!(%address, %storage, connections_max, server = shared.server_id, "server ready");

    let asked_to_end = async {
        while signals.next().await == Signal::Reload {
            service.reload();
        }
    };
    tokio::select! {
        () = asked_to_end => info!("shutting down"),
        result = &mut serving => {
            result.context("the gRPC server panicked")?;
        }
    }

    service.stop();
    let ending = async {
        set_health(&health, Health::NotServing).await;
        shutdown.begin();
        let streams = shutdown.finished();
        if tokio::time::timeout(SHUTDOWN_STREAMS_MAX, streams).await.is_err() {
            warn!("some streams did not end in time");
        }
        router.abort();
        news.abort();
        follower.abort();
        damage.abort();
        // The last statuses are on their way out while the bus closes.
        let goodbye = tokio::time::timeout(GOODBYE_MAX, &mut serving);
        let (closed, _) = tokio::join!(storage.close(), goodbye);
        closed
    };
    match tokio::time::timeout(SHUTDOWN_MAX, ending).await {
        Ok(closed) => closed.context("cannot close the storage")?,
        Err(_) => warn!("the storage was not closed in time; nothing acknowledged is lost"),
    }
    info!("server ended");
    Ok(())
}

/// How long connections may linger once their streams have ended: a peer that does not read would hold them.
const GOODBYE_MAX: Duration = Duration::from_secs(1);

async fn listen(address: SocketAddr) -> anyhow::Result<TcpListener> {
    use std::io::ErrorKind;

    TcpListener::bind(address)
        .await
        .map_err(|error| match error.kind() {
            ErrorKind::AddrInUse => anyhow::anyhow!(
                "cannot listen on {address}: the port is in use; stop the other program, or choose another \
                 port with --listen (port 0 takes any free one)"
            ),
            ErrorKind::PermissionDenied => anyhow::anyhow!(
                "cannot listen on {address}: not permitted; choose a port from 1024 up with --listen"
            ),
            ErrorKind::AddrNotAvailable => anyhow::anyhow!(
                "cannot listen on {address}: this host does not have that address; choose one with --listen"
            ),
            _ => anyhow::Error::new(error).context(format!("cannot listen on {address}")),
        })
}

/// Puts the rooms together.
fn assemble(
    args: &Args,
    storage: &Storage,
    troubles: &Arc<Troubles>,
    shutdown: &Shutdown,
) -> (Arc<Shared>, Router, oneshot::Receiver<()>) {
    let bus = storage.bus();
    let clock = Clock::new();
    let counters = Arc::new(Counters::default());
    let levels = Arc::new(Levels::default());
    let tables = Arc::new(Tables::new(Registry::new(AGENTS_MAX)));
    let server_id = server_id();

    let (commands, inbox, commands_known) = Commands::new();
    let reach = (&commands, inbox);
    let router = Router::new(bus, &clock, &counters, &tables, troubles, &server_id, reach);
    let shared = Shared {
        server_id,
        started_ms: clock.now().unix_ms,
        insecure: !args.listen.ip().is_loopback(),
        clock,
        counters,
        budget: Budget::new(args.in_flight_bytes, &levels),
        levels,
        sink: Arc::new(Sink::default()),
        bus: Arc::clone(bus),
        config: ConfigStore::new(storage.documents()),
        commands,
        stopping: shutdown.stopping(),
        tables,
        troubles: Arc::clone(troubles),
    };
    (Arc::new(shared), router, commands_known)
}

/// Begins to read what earlier runs and other servers saw of agents, and waits a while for it, and for what they saw of
/// commands: an answer that an agent gives again would be taken for a new one before that.
async fn remember(shared: &Arc<Shared>, commands_known: oneshot::Receiver<()>) -> JoinHandle<()> {
    let (caught_up, agents_known) = oneshot::channel();
    let news = tokio::spawn(News::new(shared).run(caught_up));
    let mut known = Box::pin(async { tokio::try_join!(agents_known, commands_known) });
    if tokio::time::timeout(HISTORY_WAIT, &mut known).await.is_err() {
        let text = "what the bus has of agents and commands is not read yet";
        shared.troubles.raise(Trouble::History, text);
        let troubles = Arc::clone(&shared.troubles);
        tokio::spawn(async move {
            if known.await.is_ok() {
                troubles.clear(Trouble::History);
            }
        });
    }
    news
}

/// What is served, but for the health of it all.
fn routes(shared: &Arc<Shared>) -> anyhow::Result<Routes> {
    let operator = OperatorServiceServer::new(Operator::new(Arc::clone(shared)))
        .max_decoding_message_size(MESSAGE_BYTES_MAX)
        .max_encoding_message_size(MESSAGE_BYTES_MAX);
    let monitoring = Monitoring::new(Arc::clone(shared));
    Ok(Routes::new(monitoring).add_service(operator).add_service(reflection()?))
}

fn reflection() -> anyhow::Result<
    tonic_reflection::server::v1::ServerReflectionServer<
        impl tonic_reflection::server::v1::ServerReflection,
    >,
> {
    tonic_reflection::server::Builder::configure()
        .register_encoded_file_descriptor_set(proto::FILE_DESCRIPTOR_SET)
        .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
        .build_v1()
        .context("the built-in service description is not valid")
}

#[derive(Clone, Copy, Debug)]
enum Health {
    Serving,
    NotServing,
}

/// What the health service says of the server as a whole (the empty name) and of each service.
async fn set_health(reporter: &HealthReporter, health: Health) {
    use tonic_health::ServingStatus;

    let status = match health {
        Health::Serving => ServingStatus::Serving,
        Health::NotServing => ServingStatus::NotServing,
    };
    for name in [
        "",
        proto::monitoring_service_server::SERVICE_NAME,
        proto::operator_service_server::SERVICE_NAME,
    ] {
        reporter.set_service_status(name, status).await;
    }
}

/// Says on standard output that the server is ready: scripts and tests wait for this line.
fn announce(address: SocketAddr) -> anyhow::Result<()> {
    let mut out = std::io::stdout().lock();
    writeln!(out, "listening on {address}")
        .and_then(|()| out.flush())
        .context("cannot write to standard output")
}
