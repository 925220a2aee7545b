//! `picket`, the operator's tool: metrics, alerts, summaries, commands and configuration from a terminal.
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

use clap::Parser;

fn main() -> ExitCode {
    let cli = cli::Cli::parse();
    exit::conclude(command::run(cli)).into()
}
