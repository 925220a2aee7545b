//! Where settings are from: of all that say something of a key, the highest decides, and it shadows the others.
//!
//! Precedence, highest first: flags, environment variables, the configuration file, the remote configuration, defaults. One
//! variable stands below the file: systemd's own `STATE_DIRECTORY`.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};

use clap::parser::ValueSource;
use clap::{ArgMatches, CommandFactory as _};
use proto::config::{DEFAULTS, Document, WINDOW_KEYS};
use serde::Serialize;
use serde_json::{Map, Value, json};

use crate::cli::{self, Cli};
use crate::config::Version;
use crate::file::Places;

/// Where a value is from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "from", rename_all = "snake_case")]
pub(crate) enum Origin {
    Flag {
        name: String,
    },
    Variable {
        name: String,
    },
    File {
        path: PathBuf,
        /// Counted from 1.
        line: usize,
    },
    /// Kept from the server or from etcd.
    Remote {
        revision: u64,
    },
    Default,
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Flag { name } => write!(f, "flag {name}"),
            Self::Variable { name } => write!(f, "variable {name}"),
            Self::File { path, line } => write!(f, "file {}:{line}", path.display()),
            Self::Remote { revision } => write!(f, "remote (kept, revision {revision})"),
            Self::Default => f.write_str("default"),
        }
    }
}

/// What one layer says of a key.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Said {
    #[serde(flatten)]
    pub(crate) origin: Origin,
    /// As it is written there.
    pub(crate) value: String,
}

/// A setting in force.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(crate) struct Effective {
    /// As in the configuration file, such as `baud` or `config.thresholds.cpu_percent`.
    pub(crate) key: String,
    /// Null where there is none.
    pub(crate) value: Value,
    #[serde(flatten)]
    pub(crate) origin: Origin,
    /// What would be in force otherwise, highest first, without defaults.
    pub(crate) shadows: Vec<Said>,
}

impl Effective {
    fn new(key: &str, value: Value, said: Vec<Said>) -> Self {
        let mut said = said.into_iter();
        let origin = said.next().map_or(Origin::Default, |said| said.origin);
        Self { key: key.to_owned(), value, origin, shadows: said.collect() }
    }
}

/// What the command line and the environment say of a key.
#[derive(Debug, Default)]
struct Given {
    flag: Option<Said>,
    variable: Option<Said>,
}

/// Everything that was said beside the remote configuration.
#[derive(Debug, Default)]
pub(crate) struct Sources {
    given: BTreeMap<String, Given>,
    file: Option<(PathBuf, Places)>,
}

impl Sources {
    /// What the flags and variables of `matches` say.
    pub(crate) fn new(matches: &ArgMatches) -> Self {
        let command = Cli::command();
        let given = command.get_arguments().filter_map(|argument| {
            let id = argument.get_id().as_str();
            let from_flag = matches.value_source(id) == Some(ValueSource::CommandLine);
            let raw = || matches.get_raw(id).into_iter().flatten();
            let texts = || raw().map(|text| text.to_string_lossy()).collect::<Vec<_>>().join(",");
            let flag = argument.get_long().filter(|_| from_flag).map(|name| Said {
                origin: Origin::Flag { name: format!("--{name}") },
                value: texts(),
            });
            let variable = argument.get_env().and_then(|name| {
                let value = std::env::var_os(name)?.to_string_lossy().into_owned();
                // An empty one is as good as not set.
                if value.is_empty() {
                    return None;
                }
                let name = name.to_string_lossy().into_owned();
                Some(Said { origin: Origin::Variable { name }, value })
            });
            (flag.is_some() || variable.is_some())
                .then(|| (id.to_owned(), Given { flag, variable }))
        });
        Self { given: given.collect(), file: None }
    }

    /// Adds what the file at `path` says.
    pub(crate) fn add_file(&mut self, path: &Path, places: Places) {
        self.file = Some((path.to_owned(), places));
    }

    /// All that is said of `key`, highest first.
    fn said(&self, key: &str) -> Vec<Said> {
        let given = self.given.get(key.strip_prefix("config.").unwrap_or(key));
        let flag = given.and_then(|given| given.flag.clone());
        let variable = given.and_then(|given| given.variable.clone());
        let of = |names: &[&str], value: String| Said {
            origin: Origin::Variable { name: names.join(" and ") },
            value,
        };
        // The variables of the existing system; ours is above them.
        let theirs = match key {
            "server" => {
                let names = ["GRPC_SERVER_HOST", "GRPC_SERVER_PORT"];
                let set = names.map(|name| cli::variable(name).map(|value| (name, value)));
                let (names, values): (Vec<_>, Vec<_>) = set.into_iter().flatten().unzip();
                (!names.is_empty()).then(|| of(&names, values.join(":")))
            }
            "etcd" => cli::etcd_variables().map(|value| of(&["ETCD_HOST"], value)),
            _ => None,
        };
        let in_file = self.file.as_ref().and_then(|(path, places)| {
            let place = places.get(key)?;
            let origin = Origin::File { path: path.clone(), line: place.line };
            Some(Said { origin, value: place.value.clone() })
        });
        let below_the_file = (key == "state_dir").then(|| {
            let given = self.given.get("systemd_state_directory")?;
            given.variable.clone()
        });
        [flag, variable, theirs, in_file, below_the_file.flatten()].into_iter().flatten().collect()
    }

    /// Whether the file says something of `key`.
    pub(crate) fn is_in_file(&self, key: &str) -> bool {
        self.file.as_ref().is_some_and(|(_, places)| places.get(key).is_some())
    }

    /// What decides `key`; none when it has its default.
    pub(crate) fn decisive(&self, key: &str) -> Option<Said> {
        self.said(key).into_iter().next()
    }

    /// What decides on the window beside the remote configuration.
    fn decisive_of_window(&self) -> Option<Said> {
        WINDOW_KEYS.iter().rev().find_map(|key| self.decisive(&format!("config.{key}")))
    }

    /// The setting of `key` that is in force with `value`.
    pub(crate) fn effective(&self, key: &str, value: Value) -> Effective {
        Effective::new(key, value, self.said(key))
    }

    /// The settings below `config` that are in force: `layers` are the documents of flags and variables, of the file, and
    /// `remote`, of which the last is of this `version`.
    pub(crate) fn effective_config(
        &self,
        layers: [&Document; 3],
        version: &Version,
    ) -> Vec<Effective> {
        let trees = layers.map(tree);
        let defaults = serde_json::from_str(DEFAULTS).unwrap_or_default();
        let merged = layers
            .into_iter()
            .rev()
            .fold(Document::default(), |below, above| Document::decide(&below, above));
        let mut in_force = Vec::new();
        collect_leaves("", &with_defaults(&tree(&merged), &defaults), &mut in_force);
        for key in ["window_seconds", "condition"] {
            if !in_force.iter().any(|(path, _)| path == key) {
                in_force.push((key.to_owned(), Value::Null));
            }
        }
        let of = |(path, value): (String, Value)| {
            let key = format!("config.{path}");
            let mut said = self.said(&key);
            let mut value = value;
            let remote = trees.last().and_then(|tree| of_layer(tree, &path, !said.is_empty()));
            // The host decides with the other key, and this one says nothing.
            if said.is_empty()
                && remote.is_some()
                && WINDOW_KEYS.contains(&path.as_str())
                && let Some(decisive) = self.decisive_of_window()
            {
                said.push(decisive);
                value = Value::Null;
            }
            said.extend(remote.map(|value| Said {
                origin: Origin::Remote { revision: version.revision },
                value: value.to_string(),
            }));
            Effective::new(&key, value, said)
        };
        in_force.into_iter().map(of).collect()
    }
}

fn tree(document: &Document) -> Value {
    serde_json::from_str(&document.to_json()).unwrap_or_else(|_| json!({}))
}

/// `value` with what it does not say taken from `defaults`. A part that is no object in one of them is of the first.
fn with_defaults(value: &Value, defaults: &Value) -> Value {
    let (Value::Object(object), Value::Object(defaults)) = (value, defaults) else {
        return value.clone();
    };
    let mut merged = Map::new();
    for (key, default) in defaults {
        let value =
            object.get(key).map_or_else(|| default.clone(), |value| with_defaults(value, default));
        merged.insert(key.clone(), value);
    }
    for (key, value) in object {
        if !merged.contains_key(key) {
            merged.insert(key.clone(), value.clone());
        }
    }
    Value::Object(merged)
}

/// The values that are no objects, with their paths.
fn collect_leaves(path: &str, value: &Value, leaves: &mut Vec<(String, Value)>) {
    let Value::Object(object) = value else {
        return leaves.push((path.to_owned(), value.clone()));
    };
    for (key, value) in object {
        let path = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
        collect_leaves(&path, value, leaves);
    }
}

/// What the layer `tree` says of the value at `path`: of a threshold that the host has decided on, which it does as a whole, the whole.
fn of_layer<'a>(tree: &'a Value, path: &str, is_decided: bool) -> Option<&'a Value> {
    let rule = path.strip_prefix("thresholds.").filter(|_| is_decided);
    let Some(rule) = rule else { return leaf(tree, path) };
    let metric = rule.split('.').next().unwrap_or(rule);
    tree.get("thresholds")?.get(metric).filter(|threshold| !threshold.is_null())
}

/// The value at `path` that is no object; null is none.
fn leaf<'a>(tree: &'a Value, path: &str) -> Option<&'a Value> {
    let (mut value, mut rest) = (tree, path);
    while !rest.is_empty() {
        // The names of own plugins have a dot.
        let object = value.as_object()?;
        let (key, inner) = object.iter().find(|(key, _)| {
            rest.strip_prefix(key.as_str())
                .is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
        })?;
        value = inner;
        rest = rest[key.len()..].trim_start_matches('.');
    }
    (!value.is_object() && !value.is_null()).then_some(value)
}
