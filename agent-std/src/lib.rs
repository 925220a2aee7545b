//! The shell of the agent for hosts: it collects metrics and streams them to a server, as `agent-core` says.
//!
//! [`main`] is the whole program. `picket-agent` is it without plugins of the user's own; a program with some of them is
//! one line, see `examples/own-plugin` and [`agent_core::plugin::own`].
#![forbid(unsafe_code)]
#![warn(missing_docs)]

mod boot_book;
mod cli;
mod clock;
mod collector;
mod config;
mod event;
mod file;
mod gateway;
mod identity;
mod journal;
mod main_loop;
mod net;
mod owner;
mod reload;
mod replay;
mod sealed;
mod service;
#[cfg(feature = "simulation")]
#[doc(hidden)]
pub mod simulated;
pub mod spool;
mod spooling;
mod state_file;
mod tool;
mod trace;

use std::io::IsTerminal as _;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use agent_core::agent::Agent;
use agent_core::limits::{COMMANDS_MAX, RING_BYTES};
use agent_core::plugin::own::OwnPlugins;
use anyhow::{Context as _, ensure};
use clap::{CommandFactory as _, Parser as _, ValueEnum as _};
use proto::address::{ServerAddress, ServerAddresses};
use proto::config::Document;
use supervisor::Notifier;
use tracing::level_filters::LevelFilter;

use crate::cli::{Arguments, Cli};
use crate::clock::Clock;
use crate::collector::{CollectorKind, CollectorThread};
use crate::config::{Configuration, Keeper, Layers};
use crate::event::{EVENTS_MAX, Event};
use crate::file::File;
use crate::gateway::{BAUD_DEFAULT, GatewaySettings, LINES_MAX, PortAddress};
use crate::journal::Journal;
use crate::main_loop::{Authority, MainLoop};
use crate::net::message::Packing;
use crate::net::{ConfigStore, Network, Servers, Signal};
use crate::reload::HostKeys;
use crate::service::Service;
use crate::spooling::Spooling;

/// Something outside could not be used: a file, a directory, the system.
const FAILURE: u8 = 1;
/// The command line, a variable or the file says something that cannot be.
const USAGE: u8 = 2;

/// Longer than a server takes to start anew, and short enough for a host to be back before somebody drives to it.
const CONFIG_CONFIRM_DEFAULT: Duration = Duration::from_secs(120);

/// Longer than most outages, and shorter than metrics are kept by default.
const SPOOL_AGE: Duration = Duration::from_secs(7 * 86_400);

/// A restart of the server takes less, and wears no disk.
const SPOOL_AFTER: Duration = Duration::from_secs(30);

/// The agent of a host, with the user's own plugins.
type HostAgent<O> = Agent<RING_BYTES, COMMANDS_MAX, O>;

/// Runs the program with the plugins of `O` beside the built-in ones, by its command line and environment.
///
/// The exit code is 0 when it was asked to end and did, 1 when something outside could not be used, and 2 when the
/// command line, a variable or the configuration file says something that cannot be.
pub fn main<O: OwnPlugins>() -> ExitCode {
    let Cli { tool, agent: arguments } = Cli::parse();
    if let Some(tool) = tool {
        return match tool::run::<O>(tool) {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) if error.is::<tool::NoSpool>() => report(&error, USAGE),
            Err(error) => report(&error, FAILURE),
        };
    }
    tracing_subscriber::fmt()
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .with_max_level(LevelFilter::from(arguments.log_level))
        .with_target(false)
        .init();
    let settings = match Settings::resolve::<O>(arguments) {
        Ok(settings) => settings,
        Err(error) => return report(&error, USAGE),
    };
    match run::<O>(settings) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => report(&error, FAILURE),
    }
}

/// The command line of `picket-agent`, for what is generated from it.
#[must_use]
pub fn command() -> clap::Command {
    Cli::command()
}

#[expect(clippy::print_stderr, reason = "the one message of a program that cannot start")]
fn report(error: &anyhow::Error, code: u8) -> ExitCode {
    eprintln!("picket-agent: {error:#}");
    ExitCode::from(code)
}

/// Everything that was asked for, checked.
struct Settings {
    id: agent_core::id::AgentId,
    server: ServerAddresses,
    servers: Servers,
    state_dir: Option<std::path::PathBuf>,
    ports: Vec<PortAddress>,
    baud: u32,
    config_confirm: Duration,
    collector: CollectorKind,
    spool: spooling::Settings,
    store: Option<ConfigStore>,
    layers: Layers,
    file_at_start: HostKeys,
    config: agent_core::config::Config,
}

impl Settings {
    fn resolve<O: OwnPlugins>(arguments: Arguments) -> anyhow::Result<Self> {
        let file = match &arguments.config {
            Some(path) => file::read(path)?,
            None => File::default(),
        };
        let file_at_start = HostKeys::of(&file);
        let spool = spool_settings(&arguments.spool, &file)?;
        let flags = Document::from_value(arguments.document())
            .context("flags or PICKET_ variables cannot be used")?;
        let id = identity::agent_id(arguments.agent_id.as_deref().or(file.agent_id.as_deref()))?;
        let in_file = file.server.as_deref().map(|server| {
            let parsed = server.parse::<ServerAddresses>();
            parsed.with_context(|| format!("server {server:?} of the file is no HOST:PORT"))
        });
        let server = match (arguments.server()?, in_file) {
            (Some(server), _) => server,
            (None, Some(server)) => server?,
            (None, None) => ServerAddress::default().into(),
        };
        let store = match arguments.etcd().or(file.etcd) {
            None => None,
            Some(etcd) => {
                let user = arguments.etcd_user.or(file.etcd_user);
                let password_file = arguments.etcd_password_file.or(file.etcd_password_file);
                let store = ConfigStore::new(&etcd, user, password_file.as_deref(), &id);
                Some(store.context("etcd cannot be used")?)
            }
        };
        let servers = Servers::new(&server).context("the server's address makes no URI")?;
        let state_dir =
            arguments.state_dir.or(file.state_dir).or(arguments.systemd_state_directory);
        let in_file = file.config_confirm.as_deref().map(|text| {
            let parsed = cli::confirm(text).map_err(anyhow::Error::msg);
            parsed.with_context(|| format!("config_confirm {text:?} of the file"))
        });
        let config_confirm = match (arguments.config_confirm, in_file) {
            (Some(duration), _) => duration,
            (None, in_file) => in_file.transpose()?.unwrap_or(CONFIG_CONFIRM_DEFAULT),
        };
        let in_file = file.collector.as_deref().map(|text| {
            let parsed = CollectorKind::from_str(text, false).ok();
            parsed.with_context(|| format!("collector {text:?} of the file is not proc or sysinfo"))
        });
        let collector = match (arguments.collector, in_file) {
            (Some(kind), _) => kind,
            (None, in_file) => in_file.transpose()?.unwrap_or(CollectorKind::DEFAULT),
        };
        ensure!(
            spool.bytes_max == 0 || state_dir.is_some(),
            "a spool needs a state directory (--state-dir)"
        );
        let in_file = file.serial.iter().map(|port| {
            let parsed = port.parse::<PortAddress>();
            parsed.with_context(|| format!("serial {port:?} of the file is no port"))
        });
        let ports = match arguments.serial {
            Some(ports) => ports,
            None => in_file.collect::<Result<_, _>>()?,
        };
        let links = ports.len();
        ensure!(links <= LINES_MAX, "{links} serial links, at most {LINES_MAX} are allowed");
        let baud = arguments.baud.or(file.baud).unwrap_or(BAUD_DEFAULT);
        ensure!(baud != 0, "baud must be at least 1");
        let layers = Layers::new(O::NAMES, flags, arguments.config, file.config);
        let config = layers.config().context("the file and the flags do not go together")?;
        Ok(Self {
            id,
            server,
            servers,
            state_dir,
            ports,
            baud,
            config_confirm,
            collector,
            spool,
            store,
            layers,
            file_at_start,
            config,
        })
    }
}

/// The settings of the spool, from flags and variables, else from the file.
fn spool_settings(flags: &cli::SpoolArguments, file: &File) -> anyhow::Result<spooling::Settings> {
    fn either<T>(
        flag: Option<T>,
        in_file: Option<&str>,
        key: &str,
        parse: impl FnOnce(&str) -> Result<T, String>,
        default: T,
    ) -> anyhow::Result<T> {
        let Some(text) = in_file.filter(|_| flag.is_none()) else {
            return Ok(flag.unwrap_or(default));
        };
        let parsed = parse(text).map_err(anyhow::Error::msg);
        parsed.with_context(|| format!("{key} {text:?} of the file"))
    }
    let duration = |text: &str| humantime::parse_duration(text).map_err(|error| error.to_string());
    let max_bytes = file.spool_max_bytes.as_deref();
    let max_age = file.spool_max_age.as_deref();
    let (after, order) = (file.spool_after.as_deref(), file.spool_order.as_deref());
    let parse_order = |text: &str| cli::SpoolOrder::from_str(text, false);
    let oldest_first = cli::SpoolOrder::OldestFirst;
    Ok(spooling::Settings {
        bytes_max: either(
            flags.spool_max_bytes,
            max_bytes,
            "spool_max_bytes",
            cli::spool_bytes,
            0,
        )?,
        age_max: either(flags.spool_max_age, max_age, "spool_max_age", duration, SPOOL_AGE)?,
        after: either(flags.spool_after, after, "spool_after", duration, SPOOL_AFTER)?,
        order: either(flags.spool_order, order, "spool_order", parse_order, oldest_first)?.into(),
    })
}

fn run<O: OwnPlugins>(settings: Settings) -> anyhow::Result<()> {
    let Settings {
        id,
        server,
        servers,
        state_dir,
        ports,
        baud,
        config_confirm,
        collector,
        spool,
        store,
        layers,
        file_at_start,
        config,
    } = settings;
    let program = identity::program().context("cannot find the path of this program")?;
    // Before anything is counted: two processes on one directory would spoil it.
    let disk = state_dir.as_deref().map(|directory| owner::take(directory, &id)).transpose()?;
    let known = state_dir.as_deref().map_or(0, boot_book::newest);
    let boot = identity::next_boot(state_dir.as_deref(), known)?;
    let restarted = identity::restarted();
    let version = env!("CARGO_PKG_VERSION");
    tracing::info!(%id, %boot, version, %server, "picket-agent starts");

    let clock = Clock::start();
    let (sender, events) = crossbeam_channel::bounded(EVENTS_MAX);
    let collector = collector.open().context("cannot measure this system")?;
    let collector = CollectorThread::spawn(collector, clock, sender.clone())
        .context("cannot start the collector thread")?;
    let on_signal = {
        let sender = sender.clone();
        move |signal| {
            let event = match signal {
                Signal::End => Event::Shutdown,
                Signal::Reload => Event::Reload,
            };
            sender.send(event).is_ok()
        }
    };
    let network =
        Network::spawn(servers.clone(), on_signal).context("cannot start the network thread")?;
    // Fails only when the main loop is gone, which then needs no report.
    let authority = match &store {
        None => Authority::Server,
        Some(_) => Authority::Store { has_told: false },
    };
    if let Some(store) = store {
        let sender = sender.clone();
        network.follow(store, move |event| {
            sender.send(Event::Store(event)).ok();
        });
    }
    let link_sender = sender.clone();
    let uplink = network.uplink(move |session, event| {
        link_sender.send(Event::Link { session, event }).ok();
    });
    let seed = identity::random()?;
    let gateway_settings = match ports.as_slice() {
        [] => None,
        _ => Some(GatewaySettings { host: id.clone(), ports, baud, seed: identity::random()? }),
    };
    // It stays where it is made: moving it would touch all the memory of its ring.
    let mut agent = HostAgent::<O>::new(clock.now(), boot, seed, config, restarted);
    let unix_seconds = collector::unix_ms().div_euclid(1000);
    let (journal, inputs) = Journal::open(state_dir.as_deref(), id.clone(), unix_seconds);
    for input in inputs {
        agent.handle(clock.now(), input);
    }
    let spooling = state_dir.as_deref().zip(disk).map(|(directory, disk)| {
        Spooling::open(disk, directory, spool, id.clone(), boot, clock.now())
    });
    let keeper = state_dir.map(|directory| Keeper::new(&directory, id.clone()));
    let (configuration, inputs) = Configuration::open(layers, keeper, config_confirm, clock.now());
    for input in inputs {
        agent.handle(clock.now(), input);
    }
    let mut main_loop = MainLoop {
        id,
        servers,
        program,
        clock,
        events,
        sender,
        collector,
        uplink,
        network: Arc::new(network),
        gateway_settings,
        gateway: None,
        configuration,
        file_at_start,
        service: Service::new(Notifier::from_environment(), clock.now()),
        journal,
        spooling,
        host: identity::host(),
        update: None,
        tells_progress: false,
        authority,
        was_open: false,
        packing: Packing::default(),
    };
    main_loop.start_gateway().context("cannot start the threads of the serial links")?;
    main_loop.run(&mut agent);
    Ok(())
}
