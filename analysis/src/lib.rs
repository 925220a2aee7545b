//! `picket`, the operator's tool: metrics, alerts, summaries, commands and configuration from a terminal.
//!
//! [`main`] is the whole program.
#![forbid(unsafe_code)]

mod cli;
mod client;
mod command;
mod decode;
mod dedup;
mod exit;
mod interrupt;
mod request;
mod standing;
mod stats;
mod view;

use std::process::ExitCode;

use clap::{CommandFactory as _, Parser as _};

/// Runs the program by its command line and environment; `picket --help` has a table of the exit codes.
pub fn main() -> ExitCode {
    let cli = cli::Cli::parse();
    exit::conclude(command::run(cli)).into()
}

/// The command line, for what is generated from it.
#[must_use]
pub fn command() -> clap::Command {
    cli::Cli::command()
}
