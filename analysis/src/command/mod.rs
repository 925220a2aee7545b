//! The commands: each asks the server and shows the answer.

mod agents;
mod alerts;
mod audit;
mod commands;
mod completions;
mod config;
mod events;
mod get_metrics;
mod input;
mod intake;
mod journal;
mod monitor;
mod send_command;
mod server_status;

use std::env;
use std::io::{self, BufWriter, IsTerminal, Write};
use std::path::PathBuf;

use jiff::Timestamp;
use jiff::tz::TimeZone;
use ratatui::crossterm::terminal;
use tokio::runtime;

use crate::cli::{self, Cli, Command, Output};
use crate::client::{self, Resumption, ServerAddress, Source};
use crate::exit::Exit;
use crate::view;
use crate::view::page::Page;

/// Why a command did not end well.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    #[error(transparent)]
    Client(#[from] client::Error),
    #[error("cannot write the output")]
    Output(#[from] io::Error),
    #[error("cannot start")]
    Runtime(#[source] io::Error),
    #[error("cannot use {}", name.display())]
    Input { name: PathBuf, source: Box<dyn std::error::Error + Send + Sync> },
    #[error("{0}")]
    Usage(String),
    #[error("{0}")]
    NotFound(String),
}

/// What every command needs to know.
#[derive(Debug)]
struct Session {
    source: Source,
    output: Output,
    zone: TimeZone,
    /// Whether standard output is a terminal.
    terminal: bool,
}

/// Runs what the command line says.
pub(crate) fn run(cli: Cli) -> Result<Exit, Error> {
    if let Command::Completions { shell } = cli.command {
        completions::run(shell, &mut io::stdout().lock())?;
        return Ok(Exit::Ok);
    }
    check_output(&cli.command, cli.output)?;
    let session = Session {
        source: source(cli.server, &cli.kafka, &cli.command)?,
        output: cli.output,
        zone: TimeZone::system(),
        terminal: io::stdout().is_terminal(),
    };
    // The worker keeps the connection alive while this thread waits for a slow reader of the output.
    let runtime = runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .map_err(Error::Runtime)?;
    let result = runtime.block_on(dispatch(&session, cli.command));
    // A name lookup that hangs must not hold up the end.
    runtime.shutdown_background();
    result
}

async fn dispatch(session: &Session, command: Command) -> Result<Exit, Error> {
    let mut out = BufWriter::new(io::stdout().lock());
    let exit = match command {
        Command::GetMetrics(args) => get_metrics::run(session, &args, &mut out).await,
        Command::Monitor(args) => monitor::run(session, &args, &mut out).await,
        Command::Alerts(args) => alerts::run(session, &args, &mut out).await,
        Command::Events(args) => events::run(session, &args, &mut out).await,
        Command::Audit(args) => audit::run(session, &args, &mut out).await,
        Command::SendCommand(args) => send_command::run(session, &args, &mut out).await,
        Command::Commands(args) => commands::run(session, &args, &mut out).await,
        Command::Agents(args) => agents::run(session, &args, &mut out).await,
        Command::Config(args) => config::run(session, args, &mut out).await,
        Command::ServerStatus => server_status::run(session, &mut out).await,
        Command::Completions { shell } => completions::run(shell, &mut out),
    }?;
    out.flush()?;
    Ok(exit)
}

/// CSV is for rows; the other commands answer with something else.
fn check_output(command: &Command, output: Output) -> Result<(), Error> {
    match command {
        Command::GetMetrics(_)
        | Command::Monitor(_)
        | Command::Alerts(_)
        | Command::Events(_)
        | Command::Commands(_)
        | Command::Audit(_)
        | Command::Agents(_) => Ok(()),
        Command::SendCommand(_)
        | Command::Config(_)
        | Command::ServerStatus
        | Command::Completions { .. } => match output {
            Output::Table | Output::Json => Ok(()),
            Output::Csv => Err(Error::Usage(
                "--output csv is for get-metrics, monitor, alerts, events, commands, audit and agents; \
                 use --output json"
                    .to_owned(),
            )),
        },
    }
}

/// Where the command line and the variables say that records are.
fn source(
    server_flag: Option<ServerAddress>,
    kafka: &cli::Kafka,
    command: &Command,
) -> Result<Source, Error> {
    if let Some(names) = &kafka.kafka {
        return brokers(names, kafka);
    }
    // The variable may be there for the servers; it counts where Kafka has what is asked for.
    let variable = env::var("KAFKA_BOOTSTRAP_SERVERS").ok().filter(|names| !names.is_empty());
    if cfg!(feature = "kafka")
        && server_flag.is_none()
        && command.can_read_kafka()
        && let Some(names) = variable
    {
        view::notice(&format!("asking Kafka at {names}, as KAFKA_BOOTSTRAP_SERVERS says"));
        return brokers(&names, kafka);
    }
    server(server_flag).map(Source::Server)
}

#[cfg(feature = "kafka")]
fn brokers(names: &str, kafka: &cli::Kafka) -> Result<Source, Error> {
    let brokers = client::Brokers::new(names, kafka.kafka_config.as_deref());
    // With its causes, which name the place.
    brokers.map(Source::Kafka).map_err(|error| Error::Usage(causes(&error)))
}

#[cfg(feature = "kafka")]
fn causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}

#[cfg(not(feature = "kafka"))]
fn brokers(_: &str, _: &cli::Kafka) -> Result<Source, Error> {
    let text =
        "this picket was built without Kafka; build it with --features kafka, or ask a server";
    Err(Error::Usage(text.to_owned()))
}

fn server(flag: Option<ServerAddress>) -> Result<ServerAddress, Error> {
    let host = env::var("GRPC_SERVER_HOST").ok();
    let port = env::var("GRPC_SERVER_PORT").ok();
    ServerAddress::choose(flag, host.as_deref(), port.as_deref()).map_err(|error| {
        Error::Usage(format!("GRPC_SERVER_HOST and GRPC_SERVER_PORT give no address: {error}"))
    })
}

/// Unix milliseconds.
fn now_ms() -> i64 {
    Timestamp::now().as_millisecond()
}

/// What is said while the server is away.
fn away(session: &Session, reason: &str) -> String {
    format!("lost {}: {reason}; trying to reach it again", session.source)
}

/// What is said when it is back.
const fn back(resumption: Resumption) -> &'static str {
    match resumption {
        Resumption::AfterLast => "the server is back; going on after the last record",
        Resumption::Oldest => "the server's records start anew; reading from the oldest",
    }
}

/// What is said of offsets that can no longer be read; both are 0 when there are none.
fn skipped(first: u64, last: u64) -> Option<String> {
    // An offset may be 0, so the first alone does not tell.
    (last > 0).then(|| format!("retention removed offsets {first}..{last}"))
}

/// One screenful, when the output is a table on a screen.
fn page(session: &Session) -> Option<Page> {
    if !session.terminal || session.output != Output::Table {
        return None;
    }
    let (width, height) = terminal::size().ok()?;
    // One line for the header, one for the prompt.
    let rows = usize::from(height).saturating_sub(2).max(10);
    Some(Page { width: width.into(), rows })
}
