//! `picket config show --origin`: which layer each value is from.

use std::io::Write;

use proto::config::DEFAULTS;
use serde_json::{Map, Value, json};

use super::{connect, parsed};
use crate::cli::{Layer, Output};
use crate::command::{Error, Session};
use crate::exit::Exit;
use crate::view::grid::{Align, Grid};
use crate::view::json;

/// Where a value is from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Origin {
    /// No layer says anything.
    Default,
    /// The layer below all agents' own.
    Below,
    /// The agent's own layer.
    Own,
    /// A flag, a variable or a file of the agent. The server knows that it decides, and not what.
    Local,
}

impl Origin {
    const fn name(self) -> &'static str {
        match self {
            Self::Default => "default",
            Self::Below => "_default",
            Self::Own => "own",
            Self::Local => "local",
        }
    }
}

/// A value, and where it is from.
#[derive(Clone, Debug, PartialEq)]
struct Traced {
    /// The key, and those within it with dots between.
    path: String,
    /// None where only the agent knows.
    value: Option<Value>,
    origin: Origin,
}

pub(super) async fn run(
    session: &Session,
    layer: &Layer,
    out: &mut dyn Write,
) -> Result<Exit, Error> {
    let client = connect(session).await?;
    let held = client.config(layer.as_str().to_owned()).await?;
    super::warn_of(layer, &held);
    let (own, local) = match layer {
        Layer::Default => (Value::Object(Map::new()), Vec::new()),
        Layer::Agent(agent) => {
            let agents = client.agents(vec![agent.to_string()]).await?;
            let status = agents.into_iter().next().and_then(|agent| agent.status);
            let report = status.and_then(|status| status.last_config);
            let local = report.map(|report| report.overridden).unwrap_or_default();
            (parsed(&held.document), local)
        }
    };
    let traced = trace(&parsed(&held.effective), &own, &local);
    if session.output == Output::Json {
        for Traced { path, value, origin } in traced {
            let origin = origin.name();
            json::write_line(out, &json!({"key": path, "value": value, "origin": origin}))?;
        }
        return Ok(Exit::Ok);
    }
    let mut grid =
        Grid::new(&[("key", Align::Left), ("value", Align::Left), ("origin", Align::Left)]);
    for Traced { path, value, origin } in traced {
        let value = value.map_or_else(|| "?".to_owned(), |value| value.to_string());
        let origin = match (origin, layer) {
            (Origin::Own, Layer::Agent(agent)) => agent.to_string(),
            (Origin::Local, _) => "agent's flag, variable or file".to_owned(),
            (origin, _) => origin.name().to_owned(),
        };
        grid.push(vec![path, value, origin]);
    }
    grid.write_table(out)?;
    Ok(Exit::Ok)
}

/// Every value of `effective`, and the default of what it does not say; sorted by key. What a layer removes with `null`
/// has its default again.
fn trace(effective: &Value, own: &Value, local: &[String]) -> Vec<Traced> {
    let mut traced = Vec::new();
    leaves(effective, &mut Vec::new(), &mut |path, value| {
        let origin = if at(own, path).is_some() { Origin::Own } else { Origin::Below };
        traced.push(Traced { path: path.join("."), value: Some(value.clone()), origin });
    });
    leaves(&parsed(DEFAULTS), &mut Vec::new(), &mut |path, value| {
        if !says(effective, path) {
            let (path, value) = (path.join("."), Some(value.clone()));
            traced.push(Traced { path, value, origin: Origin::Default });
        }
    });
    traced.retain(|traced| !local.iter().any(|key| begins_with(&traced.path, key)));
    traced.extend(local.iter().map(|key| Traced {
        path: key.clone(),
        value: None,
        origin: Origin::Local,
    }));
    traced.sort_by(|one, other| one.path.cmp(&other.path));
    traced
}

/// Visits what is no object, and objects that are empty.
fn leaves<'v>(value: &'v Value, path: &mut Vec<&'v str>, visit: &mut impl FnMut(&[&str], &Value)) {
    match value {
        Value::Object(object) if !object.is_empty() || path.is_empty() => {
            for (key, value) in object {
                path.push(key);
                leaves(value, path, visit);
                path.pop();
            }
        }
        _ => visit(path, value),
    }
}

fn at<'v>(document: &'v Value, path: &[&str]) -> Option<&'v Value> {
    path.iter().try_fold(document, |value, key| value.get(key))
}

/// Whether a document says something there: the value itself, or a list or number in the place of what holds it. A rule
/// that it gives to a metric replaces the default one whole.
fn says(document: &Value, path: &[&str]) -> bool {
    let mut value = document;
    for key in path {
        match value.get(key) {
            Some(inner) => value = inner,
            None => return !value.is_object(),
        }
    }
    true
}

fn begins_with(path: &str, key: &str) -> bool {
    path.strip_prefix(key).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(effective: &str, own: &str, local: &[&str], expected: &[(&str, &str, Origin)]) {
        let local: Vec<String> = local.iter().map(|&key| key.to_owned()).collect();
        let traced = trace(&parsed(effective), &parsed(own), &local);
        for (path, value, origin) in expected {
            let found: Vec<_> = traced.iter().filter(|traced| traced.path == *path).collect();
            let value = (*value != "?").then(|| parsed(value));
            let wanted = Traced { path: (*path).to_owned(), value, origin: *origin };
            assert_eq!(found, [&wanted], "{path}");
        }
        assert!(traced.is_sorted_by(|one, other| one.path < other.path), "{traced:?}");
    }

    #[test]
    fn each_value_has_one_origin() {
        check(
            r#"{"interval": 1, "plugins": ["filter"], "thresholds": {"cpu_percent": 50, "net_in_mb": 2}}"#,
            r#"{"interval": 1, "thresholds": {"net_in_mb": 2}}"#,
            &[],
            &[
                ("interval", "1", Origin::Own),
                ("plugins", r#"["filter"]"#, Origin::Below),
                ("thresholds.cpu_percent", "50", Origin::Below),
                ("thresholds.net_in_mb", "2", Origin::Own),
                ("thresholds.memory_percent", "85", Origin::Default),
                ("window_size", "5", Origin::Default),
            ],
        );
    }

    #[test]
    fn a_rule_replaces_the_default_one() {
        let effective = r#"{"thresholds": {"cpu_percent": {"below": 3}}}"#;
        check(effective, "{}", &[], &[("thresholds.cpu_percent.below", "3", Origin::Below)]);
        let traced = trace(&parsed(effective), &parsed("{}"), &[]);
        assert!(traced.iter().all(|traced| traced.path != "thresholds.cpu_percent"));
    }

    #[test]
    fn what_the_agent_decides_is_not_known() {
        check(
            r#"{"thresholds": {"cpu_percent": 50}, "interval": 1}"#,
            r#"{"interval": 1}"#,
            &["interval", "thresholds"],
            &[
                ("interval", "?", Origin::Local),
                ("thresholds", "?", Origin::Local),
                (
                    "metrics",
                    r#"["cpu","memory","disk_read","disk_write","net_in","net_out"]"#,
                    Origin::Default,
                ),
            ],
        );
    }
}
