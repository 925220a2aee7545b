//! `picket config`.

use std::io::{self, Write};

use proto::config::{Document, KEYS};
use proto::{ConfigOutcome, ConfigReport, SetConfigRequest, SetConfigResponse};
use serde_json::{Map, Value, json};

use crate::cli::{Config, Layer, Output};
use crate::client::Client;
use crate::command::{Error, Session, input};
use crate::exit::Exit;
use crate::view::{self, json, status, text};

pub(super) async fn run(
    session: &Session,
    args: Config,
    out: &mut dyn Write,
) -> Result<Exit, Error> {
    match args {
        Config::Get { layer } => get(session, &layer, out).await,
        Config::Show { layer } => show(session, &layer, out).await,
        Config::Set { layer, file, expected_revision } => {
            let request = SetConfigRequest {
                agent_id: layer.as_str().to_owned(),
                document: input::read(&file)?,
                expected_revision,
            };
            let unknown = unknown_keys(&request.document);
            let client = connect(session).await?;
            let response = client.set_config(request).await?;
            if let Some(unknown) = unknown {
                view::notice(&unknown);
            }
            write_change(session, &layer, &response, out)?;
            Ok(exit(&response))
        }
        Config::Unset { layer } => {
            let client = connect(session).await?;
            // A document that cannot be read any more can still be removed.
            let held = client.config(layer.as_str().to_owned()).await;
            if held.is_ok_and(|held| held.revision == 0) {
                return Err(Error::NotFound(format!("{} has no document", layer.as_str())));
            }
            let response = client.delete_config(layer.as_str().to_owned()).await?;
            write_change(session, &layer, &response, out)?;
            Ok(exit(&response))
        }
    }
}

/// What to say of keys that are stored and have no effect; nothing of a document that the server will refuse.
fn unknown_keys(document: &str) -> Option<String> {
    let document = Document::parse(document).ok()?;
    let unknown: Vec<&str> = document.unknown_keys().collect();
    (!unknown.is_empty()).then(|| {
        let (unknown, known) = (unknown.join(", "), KEYS.join(", "));
        format!("unknown keys have no effect: {unknown}; known are {known}")
    })
}

async fn get(session: &Session, layer: &Layer, out: &mut dyn Write) -> Result<Exit, Error> {
    let client = connect(session).await?;
    let response = client.config(layer.as_str().to_owned()).await?;
    if response.revision == 0 {
        let name = layer.as_str();
        return Err(Error::NotFound(format!(
            "{name} has no document; picket config show {name} prints what holds"
        )));
    }
    match session.output {
        Output::Json => json::write_line(
            out,
            &json!({
                "agent_id": response.agent_id,
                "revision": response.revision,
                "modified": bus::json::iso_8601(response.modified_ms),
                "document": parsed(&response.document),
            }),
        )?,
        Output::Table | Output::Csv => {
            write_document(&response.document, out)?;
            let modified = view::time::local(response.modified_ms, &session.zone);
            view::notice(&format!("revision {} of {modified}", response.revision));
        }
    }
    Ok(Exit::Ok)
}

async fn show(session: &Session, layer: &Layer, out: &mut dyn Write) -> Result<Exit, Error> {
    let client = connect(session).await?;
    let response = client.config(layer.as_str().to_owned()).await?;
    match session.output {
        Output::Json => json::write_line(
            out,
            &json!({
                "agent_id": response.agent_id,
                "revision": response.effective_revision,
                "effective": parsed(&response.effective),
            }),
        )?,
        Output::Table | Output::Csv => {
            write_document(&response.effective, out)?;
            view::notice(&match response.effective_revision {
                0 => "no layer has a document: the agent's own settings and defaults hold".into(),
                revision => format!("revision {revision}"),
            });
        }
    }
    Ok(Exit::Ok)
}

async fn connect(session: &Session) -> Result<Client, Error> {
    Ok(Client::connect(session.server.clone()).await?)
}

/// As it is, but for what a terminal might act on, which JSON can write otherwise.
fn write_document(document: &str, out: &mut dyn Write) -> io::Result<()> {
    writeln!(out, "{}", text::escape_json(document.trim_end()))?;
    out.flush()
}

fn write_change(
    session: &Session,
    layer: &Layer,
    response: &SetConfigResponse,
    out: &mut dyn Write,
) -> io::Result<()> {
    match session.output {
        Output::Json => {
            let mut object = Map::new();
            object.insert("agent_id".to_owned(), layer.as_str().into());
            object.insert("revision".to_owned(), response.revision.into());
            object.insert("pushed".to_owned(), response.pushed.into());
            if let Some(report) = &response.report {
                object.insert("report".to_owned(), bus::json::config_report(report));
            }
            json::write_line(out, &Value::Object(object))
        }
        Output::Table | Output::Csv => {
            let line = change_text(layer, response);
            writeln!(out, "{}", text::escape(&line))
        }
    }
}

fn change_text(layer: &Layer, response: &SetConfigResponse) -> String {
    let name = layer.as_str();
    let reached = match (response.pushed, &response.report) {
        (_, Some(report)) if is_refused(report) => format!(
            "{}; it is stored all the same: set another, or take it away with `picket config unset {name}`",
            status::report_text(report)
        ),
        (_, Some(report)) => status::report_text(report),
        (0, None) => "no connected agent is concerned; it holds from the next connect".to_owned(),
        (1, None) => "sent to 1 agent".to_owned(),
        (count, None) => format!("sent to {count} agents"),
    };
    format!("{name}: revision {}, {reached}", response.revision)
}

/// A document that the agent rejects is stored all the same, which is not what was wanted.
fn exit(response: &SetConfigResponse) -> Exit {
    match &response.report {
        Some(report) if is_refused(report) => Exit::Rejected,
        Some(_) | None => Exit::Ok,
    }
}

/// Whether the agent goes on without it: it is not valid there, or was taken back before.
fn is_refused(report: &ConfigReport) -> bool {
    matches!(report.outcome(), ConfigOutcome::Rejected | ConfigOutcome::RolledBack)
}

/// The document as JSON, or as a string should it be none.
fn parsed(document: &str) -> Value {
    serde_json::from_str(document).unwrap_or_else(|_| document.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unknown_keys_are_named_with_the_known_ones() {
        let text = unknown_keys(r#"{"intervall": 1, "interval": 2}"#).unwrap();
        let (unknown, known) = text.split_once("; known are ").unwrap();
        assert_eq!(unknown, "unknown keys have no effect: intervall");
        assert!(known.starts_with("interval, metrics, "), "{known}");
        assert_eq!(unknown_keys(r#"{"interval": 2}"#), None);
        assert_eq!(unknown_keys("[]"), None);
    }

    #[test]
    fn a_change_says_whom_it_reached() {
        let check = |pushed, outcome: Option<ConfigOutcome>, text: &str, expected: Exit| {
            let response = SetConfigResponse {
                revision: 7,
                pushed,
                report: outcome.map(|outcome| ConfigReport {
                    revision: 7,
                    outcome: outcome.into(),
                    reason: "interval: too short".into(),
                    overridden: vec!["metrics".into()],
                    running: 6,
                }),
            };
            assert_eq!(change_text(&Layer::Default, &response), text);
            assert_eq!(exit(&response), expected);
        };
        check(
            0,
            None,
            "_default: revision 7, no connected agent is concerned; it holds from the next connect",
            Exit::Ok,
        );
        check(3, None, "_default: revision 7, sent to 3 agents", Exit::Ok);
        check(
            1,
            Some(ConfigOutcome::Applied),
            "_default: revision 7, applied; decided locally: metrics",
            Exit::Ok,
        );
        check(
            1,
            Some(ConfigOutcome::Rejected),
            "_default: revision 7, rejected: interval: too short; it is stored all the same: set another, or take \
             it away with `picket config unset _default`",
            Exit::Rejected,
        );
    }
}
