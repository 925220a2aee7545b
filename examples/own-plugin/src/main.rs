//! A template: the picket agent with a plugin of one's own. It takes the place of `picket-agent`, with the same command
//! line, configuration and service unit.
//!
//! ```text
//! cargo run -p own-plugin -- --agent-id edge-1
//! picket config set edge-1 <<< '{"plugins": ["threshold_alert", "own.thin"], "own": {"own.thin": [10]}}'
//! ```
#![forbid(unsafe_code)]

mod thin;

use std::process::ExitCode;

use thin::Thin;

// The one line that registers plugins: up to four, `{ Thin, Another }`.
agent_core::own_plugins!(
    enum Mine {
        Thin,
    }
);

fn main() -> ExitCode {
    agent_std::main::<Mine>()
}
