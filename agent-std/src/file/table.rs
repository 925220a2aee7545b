//! The table `[config]` of the configuration file: the keys of the configuration store, written as TOML.

use agent_core::metric::MetricSwitch;
use agent_core::plugin::PluginKind;
use proto::config::{Document, DocumentError, keys_of};
use serde_json::{Map, Number, Value};
use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::KEYS;
use super::reading::{Reading, suggestion};

/// The name of the table.
pub(super) const NAME: &str = "config";

/// The layer that the table makes, for an agent with these plugins of the user's own.
pub(super) fn document(
    reading: &mut Reading<'_>,
    value: &Spanned<DeValue<'_>>,
    own: &[&str],
) -> Document {
    reading.found(NAME, value.span());
    let DeValue::Table(table) = value.get_ref() else {
        reading.refuse_value(NAME, value.span(), "it must be a table: [config]".to_owned());
        return Document::default();
    };
    let object = object(reading, "", table);
    let check = |value: Value| {
        let document = Document::from_value(value)?;
        document.config_for(own)?;
        Ok(document)
    };
    let errors = pieces(&object).into_iter().filter_map(|piece| check(piece).err());
    let errors = errors.collect::<Vec<_>>();
    // What is right by itself may not go together.
    let whole = if errors.is_empty() {
        check(Value::Object(object.clone()))
    } else {
        Ok(Document::default())
    };
    let (document, error) = match whole {
        Ok(document) => (document, None),
        Err(error) => (Document::default(), Some(error)),
    };
    for error in errors.iter().chain(&error) {
        refuse(reading, &object, error, own);
    }
    document
}

fn refuse(
    reading: &mut Reading<'_>,
    object: &Map<String, Value>,
    error: &DocumentError,
    own: &[&str],
) {
    let DocumentError { path, reason } = error;
    let suggested = suggested_item(object, path, own);
    let path = if path == "." { NAME.to_owned() } else { format!("{NAME}.{path}") };
    reading.refuse_path(&path, format!("{reason}{suggested}"));
}

/// What an item of the list at `path`, such as `plugins[1]`, was to be.
fn suggested_item(object: &Map<String, Value>, path: &str, own: &[&str]) -> String {
    let item = path.strip_suffix(']').and_then(|path| path.split_once('['));
    let Some((list, index)) = item else { return String::new() };
    let value =
        index.parse::<usize>().ok().and_then(|index| object.get(list)?.get(index)?.as_str());
    let Some(word) = value else { return String::new() };
    match list {
        "metrics" => suggestion(word, MetricSwitch::SINGLE.map(MetricSwitch::name)),
        "plugins" => {
            let built_in = PluginKind::BUILT_IN.map(|kind| kind.name(&[]));
            suggestion(word, built_in.into_iter().chain(own.iter().copied()))
        }
        _ => String::new(),
    }
}

/// The parts of a layer that are right or wrong by themselves.
fn pieces(object: &Map<String, Value>) -> Vec<Value> {
    let wrap = |key: &str, value: Value| Value::Object(Map::from_iter([(key.to_owned(), value)]));
    let mut pieces = Vec::new();
    for (key, value) in object {
        match value {
            Value::Object(inner) if matches!(key.as_str(), "thresholds" | "own") => {
                let parts = inner.iter().map(|(name, part)| wrap(key, wrap(name, part.clone())));
                pieces.extend(parts);
            }
            Value::Object(inner) if key == "deduplication" => {
                for (name, part) in inner {
                    match part {
                        Value::Object(tolerances) => {
                            pieces.extend(tolerances.iter().map(|(metric, tolerance)| {
                                wrap(key, wrap(name, wrap(metric, tolerance.clone())))
                            }))
                        }
                        _ => pieces.push(wrap(key, wrap(name, part.clone()))),
                    }
                }
            }
            _ => pieces.push(wrap(key, value.clone())),
        }
    }
    pieces
}

/// The table at `path` below `[config]` as JSON, without its unknown keys, which are noted.
fn object(reading: &mut Reading<'_>, path: &str, table: &DeTable<'_>) -> Map<String, Value> {
    let known = keys_of(path);
    let mut object = Map::new();
    for (key, value) in table {
        let name = key.get_ref().as_ref();
        let path = if path.is_empty() { name.to_owned() } else { format!("{path}.{name}") };
        let full = format!("{NAME}.{path}");
        if let Some(known) = known.as_ref().filter(|known| !known.contains(&name)) {
            let reason = if path == name && KEYS.contains(&name) {
                format!("unknown key; `{name}` stands above [{NAME}]")
            } else {
                unknown(name, known)
            };
            reading.refuse_key(&full, key.span(), reason);
            continue;
        }
        match json(reading, &path, value) {
            // A head of a table with nothing below it decides nothing.
            Some(Value::Object(inner)) if inner.is_empty() && HEADS.contains(&path.as_str()) => {}
            Some(value) => {
                object.insert(name.to_owned(), value);
            }
            None => {}
        }
    }
    object
}

/// The tables below `[config]` that are no values themselves.
const HEADS: [&str; 4] = ["thresholds", "deduplication", "deduplication.tolerance", "own"];

/// The value of the key `path` below `[config]` as JSON; none when there is none in JSON, which is noted.
fn json(reading: &mut Reading<'_>, path: &str, value: &Spanned<DeValue<'_>>) -> Option<Value> {
    let full = format!("{NAME}.{path}");
    reading.found(&full, value.span());
    let converted = match value.get_ref() {
        DeValue::String(text) => Some(Value::from(text.as_ref())),
        DeValue::Boolean(value) => Some(Value::from(*value)),
        DeValue::Integer(integer) => {
            i64::from_str_radix(integer.as_str(), integer.radix()).ok().map(Value::from)
        }
        DeValue::Float(float) => {
            float.as_str().parse().ok().and_then(Number::from_f64).map(Value::Number)
        }
        DeValue::Datetime(_) => None,
        DeValue::Array(items) => {
            let items = items.iter().enumerate();
            let items = items.map(|(index, item)| json(reading, &format!("{path}[{index}]"), item));
            return Some(Value::Array(items.collect::<Option<Vec<_>>>()?));
        }
        DeValue::Table(table) => return Some(Value::Object(object(reading, path, table))),
    };
    if converted.is_none() {
        let reason = "it must be a finite number, text, a list, or true or false";
        reading.refuse_value(&full, value.span(), reason.to_owned());
    }
    converted
}

/// What is wrong with the key `name` where only `known` ones may stand.
pub(super) fn unknown(name: &str, known: &[&str]) -> String {
    match suggestion(name, known.iter().copied()).as_str() {
        "" => format!("unknown key; known are {}", known.join(", ")),
        suggestion => format!("unknown key{suggestion}"),
    }
}
