//! Which key holds the document of whom.

use std::fmt;
use std::str::FromStr;

use agent_core::id::{AgentId, AgentIdError};

/// What the keys of all documents begin with. Fixed: other programs keep to it too.
pub const FOLDER: &str = "/monitor/config/";

/// The end of the folder as a range of keys: `0` comes after `/`.
pub(crate) const FOLDER_END: &str = "/monitor/config0";

/// The name of the layer below every agent's own. No agent id: those begin with a letter or a digit.
const DEFAULT: &str = "_default";

/// Names a document. Exact: the key of `a` is no prefix for that of `ab` in anything this crate asks of etcd.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Key {
    /// `_default`, below every agent's own.
    Default,
    /// An agent's own.
    Agent(AgentId),
}

impl Key {
    /// The name without the folder.
    pub fn name(&self) -> &str {
        match self {
            Self::Default => DEFAULT,
            Self::Agent(agent) => agent.as_str(),
        }
    }

    /// The key in etcd.
    pub fn path(&self) -> String {
        format!("{FOLDER}{}", self.name())
    }

    /// The name that a key in etcd stands for; none for a key that is nobody's, such as one in a deeper folder.
    pub(crate) fn of_path(path: &[u8]) -> Option<Self> {
        let name = path.strip_prefix(FOLDER.as_bytes())?;
        std::str::from_utf8(name).ok()?.parse().ok()
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Key {
    type Err = AgentIdError;

    fn from_str(name: &str) -> Result<Self, AgentIdError> {
        if name == DEFAULT {
            return Ok(Self::Default);
        }
        name.parse().map(Self::Agent)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_paths_and_back() {
        for (name, path) in
            [("_default", "/monitor/config/_default"), ("edge-01.a", "/monitor/config/edge-01.a")]
        {
            let key: Key = name.parse().unwrap();
            assert_eq!(key.path(), path);
            assert_eq!(Key::of_path(path.as_bytes()), Some(key));
            assert!(FOLDER < path && path < FOLDER_END);
        }
    }

    #[test]
    fn what_is_nobodys_has_no_name() {
        for path in [
            "/monitor/config/",
            "/monitor/config/a/b",
            "/monitor/configs/a",
            "a",
            "/monitor/config/..",
        ] {
            assert_eq!(Key::of_path(path.as_bytes()), None, "{path}");
        }
        assert_eq!(Key::of_path(b"/monitor/config/\xff"), None);
    }
}
