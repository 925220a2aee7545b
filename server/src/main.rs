//! `picket-server`: reads the command line, sets up logging, runs the server.
#![forbid(unsafe_code)]

use std::io::{IsTerminal as _, Write as _};
use std::process::ExitCode;
use std::time::Duration;

use server::cli::{Args, LogFormat, LogLevel};
use server::refusal::{self, Refusal};
use server::serve::serve;
use server::service::Service;
use server::signals::Signals;
use tracing::level_filters::LevelFilter;
use tracing_subscriber::Layer as _;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;

/// How the process ends. Clap uses 2 for a command line that it cannot read, and so does every wrong setting.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Exit {
    Success,
    Failure,
    Refused,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        match exit {
            Exit::Success => Self::SUCCESS,
            Exit::Failure => Self::from(1),
            Exit::Refused => Self::from(2),
        }
    }
}

/// Connections that linger after the server has ended get no more time than this.
const RUNTIME_END_MAX: Duration = Duration::from_millis(200);

fn main() -> ExitCode {
    let args = Args::of_process();
    if let Err(error) = refusal::check(&args) {
        complain(&error.into());
        return Exit::Refused.into();
    }
    log(&args);
    match run(args) {
        Ok(()) => Exit::Success.into(),
        Err(error) => {
            complain(&error);
            if error.is::<Refusal>() { Exit::Refused.into() } else { Exit::Failure.into() }
        }
    }
}

fn run(args: Args) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let service = Service::from_environment();
    let result = runtime.block_on(async { serve(args, service, Signals::listen()?).await });
    runtime.shutdown_timeout(RUNTIME_END_MAX);
    result
}

fn log(args: &Args) {
    let level = match args.log_level {
        LogLevel::Error => LevelFilter::ERROR,
        LogLevel::Warn => LevelFilter::WARN,
        LogLevel::Info => LevelFilter::INFO,
        LogLevel::Debug => LevelFilter::DEBUG,
        LogLevel::Trace => LevelFilter::TRACE,
    };
    // The libraries below log every frame at DEBUG: they are let in at TRACE only.
    let libraries = match args.log_level {
        LogLevel::Trace => LevelFilter::TRACE,
        LogLevel::Error => LevelFilter::ERROR,
        LogLevel::Warn | LogLevel::Info | LogLevel::Debug => LevelFilter::WARN,
    };
    let filter = Targets::new()
        .with_default(libraries)
        .with_target("server", level)
        .with_target("bus", level);
    let lines = tracing_subscriber::fmt::layer()
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal());
    let lines = match args.log_format {
        LogFormat::Text => lines.with_target(false).boxed(),
        LogFormat::Json => lines.json().flatten_event(true).boxed(),
    };
    tracing_subscriber::registry().with(lines.with_filter(filter)).init();
}

/// Says on standard error what went wrong: the error and its causes in one line.
fn complain(error: &anyhow::Error) {
    // Nobody is left to tell when standard error is closed.
    writeln!(std::io::stderr(), "error: {error:#}").ok();
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exit_codes_are_those_of_the_help_text() {
        let code = |exit: Exit| format!("{:?}", ExitCode::from(exit));
        assert_eq!(code(Exit::Success), format!("{:?}", ExitCode::from(0)));
        assert_eq!(code(Exit::Failure), format!("{:?}", ExitCode::from(1)));
        assert_eq!(code(Exit::Refused), format!("{:?}", ExitCode::from(2)));
    }
}
