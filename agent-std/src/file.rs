//! The agent's configuration file.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use proto::config::{Document, DocumentError, KEYS};
use serde::{Deserialize, Serialize};

/// What the file says. Unknown keys are errors: nobody else writes this file.
#[derive(Debug, Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct File {
    pub(crate) agent_id: Option<String>,
    pub(crate) server: Option<String>,
    pub(crate) etcd: Option<String>,
    pub(crate) etcd_user: Option<String>,
    pub(crate) etcd_password_file: Option<PathBuf>,
    pub(crate) state_dir: Option<PathBuf>,
    pub(crate) spool_max_bytes: Option<String>,
    pub(crate) spool_max_age: Option<String>,
    pub(crate) spool_after: Option<String>,
    pub(crate) spool_order: Option<String>,
    pub(crate) config_confirm: Option<String>,
    pub(crate) collector: Option<String>,
    #[serde(default)]
    pub(crate) serial: Vec<String>,
    pub(crate) baud: Option<u32>,
    #[serde(default, rename = "config")]
    table: serde_json::Map<String, serde_json::Value>,
    /// What the table `config` says.
    #[serde(skip)]
    pub(crate) config: Document,
}

/// Why the file cannot be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum FileError {
    #[error("cannot read {}", path.display())]
    Read { path: PathBuf, source: io::Error },
    #[error("{} is not as it must be", path.display())]
    Syntax { path: PathBuf, source: Box<toml::de::Error> },
    #[error("{}, table config", path.display())]
    Config { path: PathBuf, source: DocumentError },
    #[error("{}: config.{key}: unknown key; known are {}", path.display(), KEYS.join(", "))]
    UnknownKey { path: PathBuf, key: String },
}

/// Reads the file at `path`.
pub(crate) fn read(path: &Path) -> Result<File, FileError> {
    let path_buf = || path.to_owned();
    let text =
        fs::read_to_string(path).map_err(|source| FileError::Read { path: path_buf(), source })?;
    let mut file = toml::from_str::<File>(&text)
        .map_err(|source| FileError::Syntax { path: path_buf(), source: Box::new(source) })?;
    let table = serde_json::Value::Object(std::mem::take(&mut file.table));
    file.config = Document::from_value(table)
        .map_err(|source| FileError::Config { path: path_buf(), source })?;
    if let Some(key) = file.config.unknown_keys().next() {
        return Err(FileError::UnknownKey { path: path_buf(), key: key.to_owned() });
    }
    Ok(file)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<File, String> {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("agent.toml");
        fs::write(&path, text).unwrap();
        read(&path).map_err(|error| format!("{:#}", anyhow::Error::from(error)))
    }

    #[test]
    fn the_file_has_the_keys_of_the_remote_configuration() {
        let text = "agent_id = \"edge-1\"\nserver = \"h:1\"\n[config]\ninterval = 2\n\
                    metrics = [\"cpu\"]\n[config.thresholds]\ncpu_percent = 90";
        let file = parse(text).unwrap();
        assert_eq!(file.agent_id.as_deref(), Some("edge-1"));
        assert_eq!(file.config.keys().collect::<Vec<_>>(), ["interval", "metrics", "thresholds"]);
    }

    #[test]
    fn what_is_wrong_is_named_with_its_place() {
        let check = |text, part: &str| {
            let error = parse(text).unwrap_err();
            assert!(error.contains("agent.toml") && error.contains(part), "{error}");
        };
        check("agent_name = \"x\"", "agent_name");
        check("agent_id = ", "line 1");
        check("[config]\ninterval = 0", "table config: interval");
        check("[config]\nintervall = 1", "config.intervall: unknown key");
    }
}
