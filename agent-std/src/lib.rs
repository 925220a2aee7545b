//! The shell of the agent for hosts: it collects metrics and streams them to a server, as `agent-core` says.
//!
//! [`main`] is the whole program. `picket-agent` is it without plugins of the user's own; a program with some of them is
//! one line, see `examples/own-plugin` and [`agent_core::plugin::own`].
#![forbid(unsafe_code)]
#![warn(missing_docs)]

#[cfg_attr(not(feature = "spool"), path = "boot_book_absent.rs")]
mod boot_book;
mod budget;
mod check_config;
mod cli;
mod clock;
mod collector;
mod config;
mod event;
mod file;
#[cfg_attr(not(feature = "serial"), path = "gateway_absent.rs")]
mod gateway;
#[cfg(unix)]
mod held_signals;
mod identity;
mod journal;
mod main_loop;
mod net;
mod once;
mod open_files;
mod origin;
mod owner;
mod priority;
mod reload;
mod replay;
mod ring_memory;
mod sealed;
mod service;
mod settings;
#[cfg(feature = "simulation")]
#[doc(hidden)]
pub mod simulated;
#[cfg_attr(not(feature = "spool"), path = "spool_absent.rs")]
pub mod spool;
#[cfg_attr(not(feature = "spool"), path = "spooling_absent.rs")]
mod spooling;
mod stack;
mod state_file;
#[cfg_attr(not(target_os = "linux"), path = "timer_slack_elsewhere.rs")]
mod timer_slack;
mod tool;
mod trace;
mod version;

use std::io::IsTerminal as _;
use std::process::ExitCode;
use std::sync::Arc;

use agent_core::agent::Place;
use agent_core::limits::RING_BYTES;
use agent_core::plugin::own::OwnPlugins;
use anyhow::Context as _;
use clap::CommandFactory as _;
use crossbeam_channel::bounded;
use supervisor::Notifier;
use tracing::level_filters::LevelFilter;

use crate::budget::{Budget, Demand};
use crate::cli::{Arguments, Cli};
use crate::clock::Clock;
use crate::collector::CollectorThread;
use crate::config::{Configuration, Keeper};
use crate::event::{EVENTS_MAX, Event};
use crate::gateway::GatewaySettings;
use crate::journal::Journal;
use crate::main_loop::{Authority, MainLoop};
use crate::net::message::Packing;
use crate::net::{Network, Signal};
use crate::origin::{Origin, Sources};
use crate::ring_memory::RingAgent;
use crate::service::Service;
use crate::settings::{NextStart, Problems, Settings};
use crate::spooling::Spooling;

/// Something outside could not be used: a file, a directory, the system.
const FAILURE: u8 = 1;
/// The command line, a variable or the file says something that cannot be.
const USAGE: u8 = 2;

/// The agent of a host, with the user's own plugins.
type HostAgent<O> = RingAgent<RING_BYTES, O>;

/// Runs the program with the plugins of `O` beside the built-in ones, by its command line and environment.
///
/// The exit code is 0 when it was asked to end and did, 1 when something outside could not be used, and 2 when the
/// command line, a variable or the configuration file says something that cannot be.
pub fn main<O: OwnPlugins>() -> ExitCode {
    // Before there are other threads: they have it from this one.
    #[cfg(unix)]
    if let Err(error) = held_signals::hold_file_size() {
        return report(&error.into(), FAILURE);
    }
    let (Cli { tool, agent: arguments }, matches) =
        Cli::of_this_process().unwrap_or_else(|error| error.exit());
    if let Some(tool) = tool {
        // The flags of a tool are its own.
        let matches = matches.subcommand().map_or(&matches, |(_, matches)| matches);
        return match tool::run::<O>(tool, matches) {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) if error.is::<tool::NoLook>() || error.is::<Problems>() => {
                report(&error, USAGE)
            }
            Err(error) => report(&error, FAILURE),
        };
    }
    let settings = match settings::resolve::<O>(arguments, Sources::new(&matches)).settings {
        Ok(settings) => settings,
        Err(problems) => return report(&problems.into(), USAGE),
    };
    tracing_subscriber::fmt()
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .with_max_level(LevelFilter::from(settings.log_level))
        .with_target(false)
        .init();
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

#[expect(clippy::print_stderr, reason = "what a program that cannot start says")]
fn report(error: &anyhow::Error, code: u8) -> ExitCode {
    for line in format!("{error:#}").lines() {
        eprintln!("picket-agent: {line}");
    }
    ExitCode::from(code)
}

/// What a run with the settings of `arguments` takes of the host's memory at most.
fn budget<O: OwnPlugins>(arguments: Arguments, sources: Sources) -> anyhow::Result<Budget> {
    let settings = settings::resolve::<O>(arguments, sources).settings?;
    let program = identity::program().context("cannot find the path of this program")?;
    let program = std::fs::metadata(&program).with_context(|| program.display().to_string())?;
    Ok(Budget::of::<O>(Demand {
        lines: settings.ports.len(),
        spool_bytes: settings.spool.bytes_max,
        has_state_dir: settings.state_dir.is_some(),
        has_store: settings.store.is_some(),
        program_bytes: program.len(),
    }))
}

/// `error` about the state directory, with what named that.
fn with_place(error: anyhow::Error, from: &Origin) -> anyhow::Error {
    anyhow::anyhow!("{error:#} (the directory is from {from}: set another there)")
}

fn run<O: OwnPlugins>(settings: Settings) -> anyhow::Result<()> {
    let Settings {
        id,
        server,
        servers,
        state_dir,
        state_dir_from,
        spool,
        config_confirm,
        store,
        collector,
        start_jitter,
        ports,
        baud,
        nice,
        log_level: _,
        layers,
        file,
        config,
    } = settings;
    open_files::check(ports.len())?;
    // Before there are other threads: they have it from this one.
    nice.inspect(|nice| priority::set_nice(*nice));
    let program = identity::program().context("cannot find the path of this program")?;
    // Before anything is counted: two processes on one directory would spoil it.
    let disk = state_dir.as_deref().map(|directory| owner::take(directory, &id)).transpose();
    let disk = disk.map_err(|error| with_place(error.into(), &state_dir_from))?;
    let known = state_dir.as_deref().map_or(0, boot_book::newest);
    let boot = identity::next_boot(state_dir.as_deref(), known)
        .map_err(|error| with_place(error.into(), &state_dir_from))?;
    let restarted = identity::restarted();
    let version = env!("CARGO_PKG_VERSION");
    tracing::info!(%id, %boot, version, %server, "picket-agent starts");

    // Before the first thread, which inherits it.
    if let Err(error) = timer_slack::widen() {
        tracing::debug!(%error, "timers stay as exact as the system has them");
    }
    let clock = Clock::start();
    let (sender, events) = bounded(EVENTS_MAX);
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
    let mut agent = HostAgent::<O>::with_memory(clock.now(), boot, seed, config, restarted);
    if start_jitter {
        agent.take_place(Place::of(&id));
    }
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
        file,
        next_start: NextStart::of::<O>(),
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
