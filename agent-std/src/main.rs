//! `picket-agent`: the agent without plugins of the user's own.
#![forbid(unsafe_code)]

use std::process::ExitCode;

use agent_core::plugin::own::NoPlugins;

fn main() -> ExitCode {
    agent_std::main::<NoPlugins>()
}
