//! Writes what is generated from the programs' command lines for their packages: `generate DIRECTORY`.
//!
//! Each program has a directory there with `man1` or `man8`, a page for each subcommand too, and `bash`, `zsh` and `fish`.
#![forbid(unsafe_code)]

mod manual;
mod shells;

use std::env;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};
use clap::Command;

/// A program, and what its command line does not tell.
#[derive(Debug)]
struct Program {
    command: Command,
    /// Of the manual: 1 for what people type, 8 for what the system runs.
    section: &'static str,
    /// Files that people have to know, each with what it is for.
    files: &'static [(&'static str, &'static str)],
    /// Other pages, by name and section.
    related: &'static [(&'static str, &'static str)],
}

fn programs() -> [Program; 3] {
    [
        Program {
            command: agent_std::command(),
            section: "8",
            files: &[
                (
                    "/etc/picket/agent.toml",
                    "the configuration; every key is in it, with its default",
                ),
                ("/etc/picket/agent.env", "variables for the service, if the file is there"),
                (
                    "/var/lib/picket-agent",
                    "what survives restarts: identity, kept configuration, spool",
                ),
            ],
            related: &[("picket", "1"), ("picket-server", "8")],
        },
        Program {
            command: server::cli::command(),
            section: "8",
            files: &[
                ("/etc/picket/server.env", "variables for the service, if the file is there"),
                ("/var/lib/picket-server", "metrics, commands and configurations"),
            ],
            related: &[("picket", "1"), ("picket-agent", "8")],
        },
        Program {
            command: analysis::command(),
            section: "1",
            files: &[],
            related: &[("picket-agent", "8"), ("picket-server", "8")],
        },
    ]
}

fn main() -> anyhow::Result<()> {
    let mut arguments = env::args_os().skip(1).map(PathBuf::from);
    let (Some(directory), None) = (arguments.next(), arguments.next()) else {
        bail!("say where to: generate DIRECTORY");
    };
    for program in programs() {
        write(program, &directory)?;
    }
    Ok(())
}

fn write(program: Program, directory: &Path) -> anyhow::Result<()> {
    let directory = directory.join(program.command.get_name());
    for (path, content) in
        manual::pages(&program)?.into_iter().chain(shells::scripts(program.command))
    {
        let path = directory.join(path);
        let parent = path.parent().context("a file without a directory")?;
        fs::create_dir_all(parent).with_context(|| parent.display().to_string())?;
        fs::write(&path, content).with_context(|| path.display().to_string())?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_program_has_pages_and_scripts() {
        let directory = tempfile::tempdir().unwrap();
        for program in programs() {
            write(program, directory.path()).unwrap();
        }
        for path in [
            "picket/man1/picket.1",
            "picket/man1/picket-send-command.1",
            "picket-agent/man8/picket-agent-spool-check.8",
            "picket-server/man8/picket-server.8",
            "picket/bash/picket",
            "picket-agent/zsh/_picket-agent",
            "picket-server/fish/picket-server.fish",
        ] {
            let metadata = fs::metadata(directory.path().join(path)).expect(path);
            assert!(0 < metadata.len(), "{path}");
        }
    }

    #[test]
    fn the_servers_file_has_all_its_variables() {
        let text = include_str!("../../server.env");
        let command = server::cli::command();
        let variables = command.get_arguments().filter_map(|argument| argument.get_env()?.to_str());
        // The unit sets it.
        for variable in variables.filter(|&variable| variable != "STATE_DIRECTORY") {
            assert!(text.contains(&format!("\n#{variable}=")), "{variable} is not in server.env");
        }
        for line in text.lines() {
            assert!(line.is_empty() || line.starts_with('#'), "{line} is no comment");
        }
    }

    #[test]
    fn the_units_name_the_pages_that_there_are() {
        for (name, unit) in [
            ("picket-agent", include_str!("../../systemd/picket-agent.service")),
            ("picket-server", include_str!("../../systemd/picket-server.service")),
        ] {
            let pages = format!("Documentation=man:{name}(8)");
            assert!(unit.lines().any(|line| line == pages), "{name} has no {pages}");
        }
    }
}
