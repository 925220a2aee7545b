//! `picket config`.

mod history;
mod origin;

use std::io::{self, Write};

use proto::config::{Document, KEYS};
use proto::{ConfigOutcome, ConfigReport, GetConfigResponse, SetConfigRequest, SetConfigResponse};
use serde_json::{Map, Value};

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
        Config::Show { layer, origin: false } => show(session, &layer, out).await,
        Config::Show { layer, origin: true } => origin::run(session, &layer, out).await,
        Config::History { layer, limit } => history::history(session, &layer, limit, out).await,
        Config::Rollback { layer, to } => history::rollback(session, &layer, to, out).await,
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
            let is_nothing =
                |held: GetConfigResponse| held.revision == 0 && held.problem.is_empty();
            if held.is_ok_and(is_nothing) {
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
    warn_of(layer, &response);
    if response.revision == 0 {
        let name = layer.as_str();
        return Err(Error::NotFound(format!(
            "{name} has no document; picket config show {name} prints what holds"
        )));
    }
    match session.output {
        Output::Json => json::write_line(out, &Value::Object(layer_object(&response)))?,
        Output::Table | Output::Csv => {
            write_document(&response.document, out)?;
            let revision = response.revision;
            view::notice(&match response.modified_ms {
                0 => format!("revision {revision}"),
                modified_ms => {
                    format!(
                        "revision {revision} of {}",
                        view::time::local(modified_ms, &session.zone)
                    )
                }
            });
        }
    }
    Ok(Exit::Ok)
}

async fn show(session: &Session, layer: &Layer, out: &mut dyn Write) -> Result<Exit, Error> {
    let client = connect(session).await?;
    let response = client.config(layer.as_str().to_owned()).await?;
    warn_of(layer, &response);
    match session.output {
        Output::Json => {
            let mut object = Map::new();
            object.insert("agent_id".to_owned(), response.agent_id.into());
            object.insert("revision".to_owned(), response.effective_revision.into());
            object.insert("effective".to_owned(), parsed(&response.effective));
            if !response.problem.is_empty() {
                object.insert("problem".to_owned(), response.problem.into());
            }
            json::write_line(out, &Value::Object(object))?;
        }
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

fn layer_object(response: &GetConfigResponse) -> Map<String, Value> {
    let mut object = Map::new();
    object.insert("agent_id".to_owned(), response.agent_id.as_str().into());
    object.insert("revision".to_owned(), response.revision.into());
    if response.modified_ms != 0 {
        object.insert("modified".to_owned(), bus::json::iso_8601(response.modified_ms).into());
    }
    object.insert("document".to_owned(), parsed(&response.document));
    if !response.problem.is_empty() {
        object.insert("problem".to_owned(), response.problem.as_str().into());
    }
    object
}

/// Says that what is stored is not what holds.
fn warn_of(layer: &Layer, response: &GetConfigResponse) {
    if !response.problem.is_empty() {
        let name = layer.as_str();
        view::notice(&format!(
            "what is stored for {name} is not in force, the last that could be used is: {}",
            response.problem
        ));
    }
}

async fn connect(session: &Session) -> Result<Client, Error> {
    Ok(Client::connect(session.source.server()?).await?)
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
        Output::Json => json::write_line(out, &Value::Object(change_object(layer, response))),
        Output::Table | Output::Csv => {
            let line = change_text(layer, response);
            writeln!(out, "{}", text::escape(&line))
        }
    }
}

fn change_object(layer: &Layer, response: &SetConfigResponse) -> Map<String, Value> {
    let mut object = Map::new();
    object.insert("agent_id".to_owned(), layer.as_str().into());
    object.insert("revision".to_owned(), response.revision.into());
    object.insert("pushed".to_owned(), response.pushed.into());
    if let Some(report) = &response.report {
        object.insert("report".to_owned(), bus::json::config_report(report));
    }
    object
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
