//! `picket completions`.

use std::io::Write;

use clap::CommandFactory;
use clap_complete::Shell;

use crate::cli::Cli;
use crate::command::Error;
use crate::exit::Exit;

pub(super) fn run(shell: Shell, out: &mut dyn Write) -> Result<Exit, Error> {
    // By way of memory: the generator panics when a write fails.
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "picket", &mut script);
    out.write_all(&script)?;
    Ok(Exit::Ok)
}
