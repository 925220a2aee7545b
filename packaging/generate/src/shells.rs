//! Completions for the shells.

use std::path::PathBuf;

use clap::Command;
use clap_complete::{Shell, generate};

/// The shells that Debian's packages carry completions for, and the directory of each.
const SHELLS: [(Shell, &str); 3] =
    [(Shell::Bash, "bash"), (Shell::Zsh, "zsh"), (Shell::Fish, "fish")];

/// The scripts with their paths, named as each shell looks for them.
pub(crate) fn scripts(mut command: Command) -> Vec<(PathBuf, Vec<u8>)> {
    let name = command.get_name().to_owned();
    let mut scripts = Vec::new();
    for (shell, directory) in SHELLS {
        let file = match shell {
            Shell::Zsh => format!("_{name}"),
            Shell::Fish => format!("{name}.fish"),
            _ => name.clone(),
        };
        let mut script = Vec::new();
        generate(shell, &mut command, &name, &mut script);
        scripts.push((PathBuf::from(directory).join(file), script));
    }
    scripts
}
