//! `picket commands`.

use std::io::Write;

use proto::{ListCommandsRequest, ListCommandsResponse};

use crate::cli;
use crate::client::{Client, Source};
use crate::command::{Error, Session, now_ms};
use crate::exit::Exit;
use crate::{request, view};

pub(super) async fn run(
    session: &Session,
    args: &cli::Commands,
    out: &mut dyn Write,
) -> Result<Exit, Error> {
    match args {
        cli::Commands::List(args) => list(session, args, out).await,
        cli::Commands::Show(args) => show(session, args, out).await,
    }
}

async fn list(
    session: &Session,
    args: &cli::CommandsList,
    out: &mut dyn Write,
) -> Result<Exit, Error> {
    let response = ask(session, request::commands(args, now_ms())).await?;
    if response.truncated {
        view::notice("there are more commands; begin later with --since, or raise --limit");
    }
    if response.commands.is_empty() {
        return Err(Error::NotFound(
            "no commands; begin earlier with --since, or leave out agents and --state".to_owned(),
        ));
    }
    view::commands::write_list(&response.commands, session.output, &session.zone, out)?;
    Ok(Exit::Ok)
}

async fn show(
    session: &Session,
    args: &cli::CommandsShow,
    out: &mut dyn Write,
) -> Result<Exit, Error> {
    let response = ask(session, request::command_history(args, now_ms())).await?;
    let Some(command) = response.commands.first() else {
        return Err(Error::NotFound(format!(
            "no command {}; begin earlier with --since, or see picket commands list",
            args.id
        )));
    };
    view::commands::write_one(command, session.output, &session.zone, out)?;
    Ok(Exit::Ok)
}

async fn ask(
    session: &Session,
    request: ListCommandsRequest,
) -> Result<ListCommandsResponse, Error> {
    Ok(match &session.source {
        Source::Server(server) => Client::connect(server.clone()).await?.commands(request).await?,
        #[cfg(feature = "kafka")]
        Source::Kafka(brokers) => brokers.commands(request).await?,
    })
}
