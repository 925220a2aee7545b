//! `picket events`.

use std::io::Write;

use crate::cli;
use crate::command::journal::{self, Ending};
use crate::command::{Error, Session, now_ms, page};
use crate::exit::Exit;
use crate::request;
use crate::view::log::Log;

pub(super) async fn run(
    session: &Session,
    args: &cli::Events,
    out: &mut dyn Write,
) -> Result<Exit, Error> {
    let now_ms = now_ms();
    let request = request::events(args, now_ms);
    let mut log = Log::new(out, session.output, session.zone.clone(), page(session));
    let mut nothing_found = true;
    let ending = journal::read(session, request, now_ms, |records| {
        nothing_found &= records.is_empty();
        records.iter().try_for_each(|record| log.write(record))?;
        log.flush()
    })
    .await?;
    if nothing_found && ending == Ending::CaughtUp {
        return Err(Error::NotFound(
            "no events; begin earlier with --since, or leave out agents and --event".to_owned(),
        ));
    }
    Ok(Exit::Ok)
}
