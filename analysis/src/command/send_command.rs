//! `picket send-command`.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::Path;

use proto::{CommandOutcome, CommandResponse};

use crate::cli::{self, CommandKind};
use crate::client::{Client, Source};
use crate::command::{Error, Session, input, now_ms};
use crate::exit::Exit;
use crate::{request, view};

pub(super) async fn run(
    session: &Session,
    args: &cli::SendCommand,
    out: &mut dyn Write,
) -> Result<Exit, Error> {
    let has_params = !args.params.is_empty() || args.config.is_some();
    if has_params && args.kind != CommandKind::UpdateConfig {
        return Err(Error::Usage("--param and --config go with UPDATE_CONFIG only".to_owned()));
    }
    let config = match &args.config {
        Some(path) => params(path)?,
        None => BTreeMap::new(),
    };
    let command = request::command(args, config, fresh_id()?, now_ms());
    let response = match &session.source {
        Source::Server(server) => {
            Client::connect(server.clone()).await?.send_command(command).await?
        }
        #[cfg(feature = "kafka")]
        Source::Kafka(brokers) => brokers.send_command(command).await?,
    };
    view::status::write(&response, session.output, out)?;
    let exit = exit(&response);
    if exit == Exit::Unknown {
        out.flush()?;
        view::notice(&format!(
            "it may still start within {DEAD_PEER_SECONDS} s, which a dead connection takes to be noticed; \
             see picket commands show {}",
            response.command_id
        ));
    }
    Ok(exit)
}

/// How long a command may be under way on a connection that nobody has noticed to be dead.
const DEAD_PEER_SECONDS: u32 = 20;

fn params(path: &Path) -> Result<BTreeMap<String, String>, Error> {
    request::params_from_json(&input::read(path)?)
        .map_err(|error| Error::Input { name: path.to_owned(), source: error.into() })
}

/// 128 random bits in hexadecimal digits.
fn fresh_id() -> Result<String, Error> {
    let mut bytes = [0; 16];
    getrandom::fill(&mut bytes).map_err(|error| Error::Runtime(error.into()))?;
    Ok(format!("{:032x}", u128::from_be_bytes(bytes)))
}

fn exit(response: &CommandResponse) -> Exit {
    match response.outcome() {
        CommandOutcome::Unspecified if response.success => Exit::Ok,
        CommandOutcome::Succeeded => Exit::Ok,
        CommandOutcome::Unspecified | CommandOutcome::Failed => Exit::Failed,
        CommandOutcome::Rejected => Exit::Rejected,
        CommandOutcome::Expired => Exit::TimedOut,
        CommandOutcome::Unknown => Exit::Unknown,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_fresh_and_of_full_length() {
        let (first, second) = (fresh_id().unwrap(), fresh_id().unwrap());
        assert_eq!(first.len(), 32);
        assert_ne!(first, second);
    }

    #[test]
    fn an_outcome_has_its_exit_code() {
        let check = |outcome: CommandOutcome, success: bool, expected: Exit| {
            let response =
                CommandResponse { success, outcome: outcome.into(), ..CommandResponse::default() };
            assert_eq!(exit(&response), expected, "{outcome:?}");
        };
        check(CommandOutcome::Unspecified, true, Exit::Ok);
        check(CommandOutcome::Unspecified, false, Exit::Failed);
        check(CommandOutcome::Succeeded, true, Exit::Ok);
        check(CommandOutcome::Failed, false, Exit::Failed);
        check(CommandOutcome::Rejected, false, Exit::Rejected);
        check(CommandOutcome::Expired, false, Exit::TimedOut);
        check(CommandOutcome::Unknown, false, Exit::Unknown);
    }
}
