//! The project's tasks, run as `cargo xtask TASK`.
#![forbid(unsafe_code)]

use std::time::Duration;

use clap::{Parser, Subcommand};

/// The project's tasks.
#[derive(Debug, Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask", max_term_width = 100)]
struct Arguments {
    #[command(subcommand)]
    task: Task,
}

#[derive(Debug, Subcommand)]
enum Task {
    /// Show this host's metrics live: builds everything (release), starts a server and an agent on free
    /// loopback ports, and prints what arrives, until Ctrl-C
    ///
    /// Data and logs of the latest demo stay in target/demo/run. The exit code is not 0 when a part failed
    /// or, with --for, when no metric arrived.
    Demo {
        /// End after so many seconds instead of at Ctrl-C; needs no terminal
        #[arg(long = "for", value_name = "SECONDS", value_parser = clap::value_parser!(u32).range(1..))]
        seconds: Option<u32>,
    },
    /// Build the binaries and run every test there is
    Test {
        /// Given to the test programs, for instance a part of a test's name
        #[arg(last = true, value_name = "ARGS")]
        arguments: Vec<String>,
    },
    /// Write the code generated from proto/proto/monitoring.proto anew
    Codegen,
}

fn main() -> anyhow::Result<()> {
    match Arguments::parse().task {
        Task::Demo { seconds } => {
            xtask::demo::run(seconds.map(|seconds| Duration::from_secs(seconds.into())))
        }
        Task::Test { arguments } => xtask::tasks::test(&arguments),
        Task::Codegen => xtask::tasks::codegen(),
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::Arguments;

    #[test]
    fn arguments_are_consistent() {
        Arguments::command().debug_assert();
    }
}
