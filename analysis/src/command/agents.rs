//! `picket agents`.

use std::io::Write;

use crate::cli;
use crate::client::Client;
use crate::command::{Error, Session, now_ms};
use crate::exit::Exit;
use crate::{request, view};

pub(super) async fn run(
    session: &Session,
    args: &cli::Agents,
    out: &mut dyn Write,
) -> Result<Exit, Error> {
    let client = Client::connect(session.source.server()?).await?;
    let agents = client.agents(request::names(&args.agents)).await?;
    if agents.is_empty() && args.agents.is_empty() {
        view::notice("no agent has connected yet");
    }
    if !agents.is_empty() {
        view::agents::write(&agents, session.output, &session.zone, now_ms(), out)?;
    }
    let missing: Vec<&str> = args
        .agents
        .iter()
        .map(agent_core::id::AgentId::as_str)
        .filter(|wanted| agents.iter().all(|agent| agent.agent_id != *wanted))
        .collect();
    if missing.is_empty() {
        return Ok(Exit::Ok);
    }
    out.flush()?;
    Err(Error::NotFound(format!(
        "the server knows no agent {}; picket agents lists those it knows",
        missing.join(", ")
    )))
}
