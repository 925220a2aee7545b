//! `cargo xtask bench`: what the core costs, and what plugins and the packed form save on the recorded hosts,
//! what peers cost a server, what an agent costs its host.

mod agent;
mod relay;
mod usage;

use crate::workspace;

pub use agent::Options as AgentOptions;

/// What is measured.
#[derive(Clone, Debug)]
pub enum Bench {
    /// Time, with criterion.
    Core,
    /// Snapshots that plugins do not send.
    Reduction(Output),
    /// Bytes of the packed form, beside others.
    Codec(Output),
    /// Memory that peers of a server cost it.
    Memory(Output),
    /// What a running agent costs its host.
    Agent(AgentOptions),
}

/// How a table is printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Output {
    /// For reading.
    Table,
    /// An object per line.
    Json,
}

/// Measures, and prints what was found.
///
/// # Errors
///
/// When a build fails, a trace cannot be read, or a program does not run as it must.
pub fn run(bench: Bench) -> anyhow::Result<()> {
    match bench {
        Bench::Agent(options) => agent::run(&options),
        Bench::Core => {
            let mut cargo = workspace::cargo();
            cargo.args(["bench", "--package", "agent-core", "--bench", "core"]);
            workspace::run(cargo)
        }
        Bench::Reduction(output) => {
            let target = workspace::target_directory()?;
            let mut build = workspace::cargo();
            build.args(["build", "--release", "--package", "agent-std", "--bin", "picket-agent"]);
            build.arg("--target-dir").arg(&target);
            workspace::run(build)?;
            let mut tables = tables("reduction", output);
            tables.env("PICKET_BINARIES", target.join("release"));
            workspace::run(tables)
        }
        Bench::Codec(output) => workspace::run(tables("codec", output)),
        Bench::Memory(output) => {
            let target = workspace::target_directory()?;
            let mut build = workspace::cargo();
            build.args(["build", "--release", "--package", "server", "--bin", "picket-server"]);
            build.arg("--target-dir").arg(&target);
            workspace::run(build)?;
            // The peers need not be fast, so they share their dependencies with the tests.
            let mut peers = workspace::cargo();
            peers.args(["bench", "--quiet", "--profile", "dev", "--package", "server"]);
            peers.args(["--bench", "memory", "--"]);
            peers.env("PICKET_BINARIES", target.join("release"));
            workspace::run(with(peers, output))
        }
    }
}

/// The program that makes the tables. It is a benchmark, so that only those who need it build it and what it compares
/// with; sizes are the same in every profile, and this one shares its dependencies with the tests.
fn tables(table: &str, output: Output) -> std::process::Command {
    let mut cargo = workspace::cargo();
    cargo.args(["bench", "--quiet", "--profile", "dev", "--package", "xtask"]);
    cargo.args(["--bench", "savings", "--", table]);
    with(cargo, output)
}

fn with(mut bench: std::process::Command, output: Output) -> std::process::Command {
    match output {
        Output::Table => {}
        Output::Json => {
            bench.arg("--json");
        }
    }
    bench
}
