//! `picket server-status`.

use std::io::Write;

use crate::client::Client;
use crate::command::{Error, Session, now_ms};
use crate::exit::Exit;
use crate::view;

pub(super) async fn run(session: &Session, out: &mut dyn Write) -> Result<Exit, Error> {
    let client = Client::connect(session.source.server()?).await?;
    let status = client.server_status().await?;
    view::server::write(&status, session.output, &session.zone, now_ms(), out)?;
    Ok(Exit::Ok)
}
