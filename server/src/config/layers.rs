//! What layers are, and what they make together.

use std::str::FromStr;

use agent_core::id::{AgentId, AgentIdError};
use bus::Revision;
use proto::ConfigPush;
use proto::config::{Document, DocumentError};

/// The key of the layer below every agent's own. No agent id: those begin with a letter or a digit.
const DEFAULT_KEY: &str = "_default";

/// Names a layer.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum LayerKey {
    /// Below every agent's own.
    Default,
    /// An agent's own.
    Agent(AgentId),
}

impl LayerKey {
    pub(crate) fn as_str(&self) -> &str {
        match self {
            Self::Default => DEFAULT_KEY,
            Self::Agent(id) => id.as_str(),
        }
    }
}

impl FromStr for LayerKey {
    type Err = AgentIdError;

    fn from_str(text: &str) -> Result<Self, AgentIdError> {
        if text == DEFAULT_KEY {
            return Ok(Self::Default);
        }
        text.parse().map(Self::Agent)
    }
}

/// One layer as it is stored.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Layer {
    /// The change that made it, a deletion included; 0 if there never was one.
    pub(crate) revision: Revision,
    /// Unix milliseconds.
    pub(crate) modified_ms: i64,
    /// As it was given; none when there is no document.
    pub(crate) text: Option<String>,
    /// What the text says; says nothing when there is none.
    pub(crate) document: Document,
}

impl Layer {
    /// Reads a stored layer.
    ///
    /// # Errors
    ///
    /// When the text is not valid, which another version of this program may have stored.
    pub(crate) fn read(stored: Option<bus::Document>) -> Result<Self, DocumentError> {
        let Some(stored) = stored else {
            return Ok(Self::default());
        };
        let document = match &stored.text {
            Some(text) => Document::parse(text)?,
            None => Document::default(),
        };
        Ok(Self {
            revision: stored.revision,
            modified_ms: stored.modified_ms,
            text: stored.text,
            document,
        })
    }
}

/// What the layers of an agent make together.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Effective {
    /// The newest among the layers; 0 when there never was one.
    pub(crate) revision: Revision,
    pub(crate) document: Document,
}

impl Effective {
    pub(crate) fn of(below: &Layer, above: &Layer) -> Self {
        Self {
            revision: below.revision.max(above.revision),
            document: Document::merge(&below.document, &above.document),
        }
    }

    pub(crate) fn push(&self) -> ConfigPush {
        ConfigPush { revision: self.revision, document: self.document.to_json() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn layer(revision: Revision, text: Option<&str>) -> Layer {
        let stored = bus::Document {
            key: "a".into(),
            revision,
            modified_ms: 1,
            text: text.map(str::to_owned),
        };
        Layer::read(Some(stored)).unwrap()
    }

    #[test]
    fn keys_are_agent_ids_or_the_default() {
        assert_eq!("_default".parse(), Ok(LayerKey::Default));
        let agent = "edge-01".parse::<LayerKey>().unwrap();
        assert_eq!(agent.as_str(), "edge-01");
        assert!("_other".parse::<LayerKey>().is_err());
        assert!("../_default".parse::<LayerKey>().is_err());
    }

    #[test]
    fn own_layer_wins_and_the_newest_revision_names_the_result() {
        let below = layer(3, Some(r#"{"interval": 5, "window_size": 7}"#));
        let above = layer(2, Some(r#"{"interval": 1}"#));
        let effective = Effective::of(&below, &above);
        assert_eq!(effective.revision, 3);
        let expected = Document::parse(r#"{"interval": 1, "window_size": 7}"#).unwrap();
        assert_eq!(effective.document, expected);
    }

    #[test]
    fn a_deletion_is_a_change_too() {
        let below = layer(1, Some(r#"{"interval": 5}"#));
        let effective = Effective::of(&below, &layer(4, None));
        assert_eq!(effective.revision, 4);
        assert_eq!(effective.document, below.document);
        let nothing = Effective::of(&Layer::default(), &Layer::default());
        assert_eq!(nothing.revision, 0);
        assert_eq!(nothing.document.to_json(), "{}");
    }
}
