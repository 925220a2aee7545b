//! `picket config history` and `picket config rollback`.

use std::io::Write;

use proto::{ConfigVersion, GetConfigResponse, SetConfigRequest, SetConfigResponse};
use serde_json::{Map, Value, json};

use super::{change_object, change_text, connect, exit, parsed};
use crate::cli::{Layer, Output};
use crate::command::{Error, Session};
use crate::exit::Exit;
use crate::view::grid::{Align, Grid};
use crate::view::{self, json, text};

/// Versions that are looked through for one to go back to; a server gives no more.
const VERSIONS_MAX: u32 = 100;

/// Characters of a document in a table; the rest is for JSON.
const DOCUMENT_CHARACTERS: usize = 60;

pub(super) async fn history(
    session: &Session,
    layer: &Layer,
    limit: u32,
    out: &mut dyn Write,
) -> Result<Exit, Error> {
    let client = connect(session).await?;
    let held = client.config(layer.as_str().to_owned()).await?;
    let versions = client.config_history(layer.as_str().to_owned(), limit).await?;
    if versions.is_empty() {
        let name = layer.as_str();
        return Err(Error::NotFound(format!("the server knows no version of {name}")));
    }
    let is_current = |version: &ConfigVersion| version.revision == held.revision;
    if session.output == Output::Json {
        for version in &versions {
            json::write_line(out, &version_object(layer, version, is_current(version)))?;
        }
        return Ok(Exit::Ok);
    }
    let mut grid = Grid::new(&[
        ("revision", Align::Right),
        ("modified", Align::Left),
        ("bytes", Align::Right),
        ("current", Align::Left),
        ("document", Align::Left),
    ]);
    for version in &versions {
        let modified = match version.modified_ms {
            0 => "-".to_owned(),
            modified_ms => view::time::local(modified_ms, &session.zone),
        };
        grid.push(vec![
            version.revision.to_string(),
            modified,
            version.document.len().to_string(),
            if is_current(version) { "*".to_owned() } else { String::new() },
            glance(version),
        ]);
    }
    grid.write_table(out)?;
    Ok(Exit::Ok)
}

fn version_object(layer: &Layer, version: &ConfigVersion, current: bool) -> Value {
    let mut object = Map::new();
    object.insert("agent_id".to_owned(), layer.as_str().into());
    object.insert("revision".to_owned(), version.revision.into());
    if version.modified_ms != 0 {
        object.insert("modified".to_owned(), bus::json::iso_8601(version.modified_ms).into());
    }
    object.insert("current".to_owned(), current.into());
    object.insert("deleted".to_owned(), version.deleted.into());
    if !version.deleted {
        object.insert("document".to_owned(), parsed(&version.document));
    }
    Value::Object(object)
}

/// As much of a document as a line of a table takes.
fn glance(version: &ConfigVersion) -> String {
    if version.deleted {
        return "(removed)".to_owned();
    }
    let line = match parsed(&version.document) {
        Value::String(text) => text,
        document => document.to_string(),
    };
    match line.char_indices().nth(DOCUMENT_CHARACTERS) {
        Some((end, _)) => format!("{}...", &line[..end]),
        None => line,
    }
}

pub(super) async fn rollback(
    session: &Session,
    layer: &Layer,
    to: Option<u64>,
    out: &mut dyn Write,
) -> Result<Exit, Error> {
    let client = connect(session).await?;
    let held = client.config(layer.as_str().to_owned()).await?;
    let versions = client.config_history(layer.as_str().to_owned(), VERSIONS_MAX).await?;
    let target = target(layer, &held, versions, to)?;
    if session.output != Output::Json {
        write_difference(&held.document, &target.document, out)?;
        out.flush()?;
    }
    let response = client
        .set_config(SetConfigRequest {
            agent_id: layer.as_str().to_owned(),
            document: target.document.clone(),
            // What somebody else has set since it was looked at is not to be lost.
            expected_revision: Some(held.revision),
        })
        .await?;
    if session.output == Output::Json {
        json::write_line(out, &rollback_object(layer, &held, &target, &response))?;
    } else {
        let change = change_text(layer, &response);
        let line = format!("{change}; as it was at revision {}", target.revision);
        writeln!(out, "{}", text::escape(&line))?;
    }
    Ok(exit(&response))
}

/// The version to go back to: the one named, or the newest with a document before the one that is stored.
fn target(
    layer: &Layer,
    held: &GetConfigResponse,
    versions: Vec<ConfigVersion>,
    to: Option<u64>,
) -> Result<ConfigVersion, Error> {
    let name = layer.as_str();
    let Some(to) = to else {
        let before = |version: &ConfigVersion| {
            !version.deleted && (held.revision == 0 || version.revision < held.revision)
        };
        return versions.into_iter().find(before).ok_or_else(|| {
            Error::NotFound(format!("the server knows no earlier version of {name}"))
        });
    };
    let found = versions.into_iter().find(|version| version.revision == to);
    let found = found.ok_or_else(|| {
        Error::NotFound(format!(
            "the server knows no revision {to} of {name}; picket config history {name} lists those it knows"
        ))
    })?;
    if found.deleted {
        return Err(Error::Usage(format!(
            "revision {to} removed the document of {name}; picket config unset {name} does that again"
        )));
    }
    Ok(found)
}

fn rollback_object(
    layer: &Layer,
    held: &GetConfigResponse,
    target: &ConfigVersion,
    response: &SetConfigResponse,
) -> Value {
    let mut object = change_object(layer, response);
    object.insert("from".to_owned(), held.revision.into());
    object.insert("to".to_owned(), target.revision.into());
    object.insert("before".to_owned(), parsed(&held.document));
    object.insert("after".to_owned(), parsed(&target.document));
    Value::Object(object)
}

/// A line for each key that has another value before than after.
fn write_difference(before: &str, after: &str, out: &mut dyn Write) -> std::io::Result<()> {
    for (sign, key, value) in difference(&parsed(before), &parsed(after)) {
        writeln!(out, "{sign} {}", text::escape_json(&format!("{}: {value}", json!(key))))?;
    }
    Ok(())
}

/// Keys and values that only one of them has: `-` before, `+` after. What is no object is one value with no key.
fn difference(before: &Value, after: &Value) -> Vec<(char, String, Value)> {
    let entries = |document: &Value| match document {
        Value::Object(object) => object.clone(),
        Value::String(text) if text.is_empty() => Map::new(),
        other => Map::from_iter([(".".to_owned(), other.clone())]),
    };
    let (before, after) = (entries(before), entries(after));
    let mut lines = Vec::new();
    for (key, value) in &before {
        if after.get(key) != Some(value) {
            lines.push(('-', key.clone(), value.clone()));
            lines.extend(after.get(key).map(|after| ('+', key.clone(), after.clone())));
        }
    }
    for (key, value) in after {
        if !before.contains_key(&key) {
            lines.push(('+', key, value));
        }
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    fn version(revision: u64, document: Option<&str>) -> ConfigVersion {
        ConfigVersion {
            revision,
            modified_ms: 0,
            deleted: document.is_none(),
            document: document.unwrap_or_default().to_owned(),
        }
    }

    fn goes_to(held: u64, to: Option<u64>) -> Result<u64, String> {
        let held = GetConfigResponse { revision: held, ..GetConfigResponse::default() };
        let versions = vec![
            version(9, Some("9")),
            version(7, None),
            version(5, Some("5")),
            version(2, Some("2")),
        ];
        let target = target(&Layer::Default, &held, versions, to);
        target.map(|version| version.revision).map_err(|error| error.to_string())
    }

    #[test]
    fn it_goes_to_the_version_before_the_stored_one_or_to_the_named_one() {
        assert_eq!(goes_to(9, None), Ok(5));
        assert_eq!(goes_to(5, None), Ok(2));
        assert_eq!(goes_to(0, None), Ok(9), "nothing is stored");
        assert!(goes_to(2, None).unwrap_err().contains("no earlier version of _default"));
        assert_eq!(goes_to(9, Some(2)), Ok(2));
        assert!(goes_to(9, Some(3)).unwrap_err().contains("no revision 3"));
        assert!(goes_to(9, Some(7)).unwrap_err().contains("picket config unset _default"));
    }

    #[test]
    fn the_difference_names_keys_with_both_values() {
        let check = |before: &str, after: &str, expected: &str| {
            let mut out = Vec::new();
            write_difference(before, after, &mut out).unwrap();
            assert_eq!(String::from_utf8(out).unwrap(), expected);
        };
        check(
            r#"{"a": 1, "b": [1], "c": 3}"#,
            r#"{"a": 1, "b": [2], "d": {"e": 1}}"#,
            "- \"b\": [1]\n+ \"b\": [2]\n- \"c\": 3\n+ \"d\": {\"e\":1}\n",
        );
        check("", "{\"a\": 1}", "+ \"a\": 1\n");
        check("{broken", "{}", "- \".\": \"{broken\"\n");
        check("{}", "{}", "");
    }

    #[test]
    fn a_glance_is_one_short_line() {
        assert_eq!(glance(&version(1, Some("{\n \"a\": 1\n}"))), r#"{"a":1}"#);
        assert_eq!(glance(&version(1, None)), "(removed)");
        let long = glance(&version(1, Some(&"é".repeat(100))));
        assert_eq!(long, format!("{}...", "é".repeat(60)));
    }
}
