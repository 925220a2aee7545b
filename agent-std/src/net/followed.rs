//! What the two layers in etcd make together, by the rule of the server: the agent's own lies over `_default`, and the
//! newest revision names the result.
//!
//! A key that is deleted changes nothing. What it said stays in force, also over a restart with a state directory, until a
//! document is put under either of the two keys; then it is the documents that are there which count. While one of them
//! cannot be read, nothing new is made of the other.

use std::collections::BTreeMap;

use etcd::{Event, Key, Revision};
use proto::config::Document;

use crate::config::{Source, Version};
use crate::net::StoreEvent;

/// The state of the layers.
#[derive(Debug, Default)]
pub(super) struct Followed {
    /// Those that there are: at most two.
    layers: BTreeMap<Key, Layer>,
    /// Everything was told of once, so the layers can be taken together.
    is_whole: bool,
}

#[derive(Debug)]
struct Layer {
    revision: Revision,
    /// What it says, or where and why it cannot be used.
    document: Result<Document, String>,
}

impl Followed {
    /// Takes in what `cluster` says. Answers with what follows from it, if anything does.
    pub(super) fn handle(&mut self, event: Event, cluster: u64) -> Option<StoreEvent> {
        match event {
            Event::Changed { key, revision, text } => {
                let document =
                    text.map_err(|error| format!("{}: {error}", key.path())).and_then(|text| {
                        Document::parse(&text).map_err(|error| format!("{}: {error}", key.path()))
                    });
                self.layers.insert(key, Layer { revision, document });
                if self.is_whole { self.result(cluster) } else { None }
            }
            Event::Deleted { key, revision } => {
                self.layers.remove(&key);
                let path = key.path();
                let reason =
                    format!("{path} was deleted, which changes nothing; put {{}} to reset it");
                Some(StoreEvent::Unusable { revision, reason })
            }
            Event::Synced => {
                let is_first = !std::mem::replace(&mut self.is_whole, true);
                if is_first { self.result(cluster) } else { None }
            }
            Event::ClusterChanged => {
                *self = Self::default();
                Some(StoreEvent::ClusterChanged)
            }
            Event::Unreachable(_) | Event::Back => None,
        }
    }

    /// What the layers make; nothing when there are none.
    fn result(&self, cluster: u64) -> Option<StoreEvent> {
        let revision = self.layers.values().map(|layer| layer.revision).max()?;
        let mut merged = Document::default();
        // `_default` comes first in the order of keys.
        for layer in self.layers.values() {
            match &layer.document {
                Ok(document) => merged = Document::merge(&merged, document),
                Err(reason) => {
                    return Some(StoreEvent::Unusable { revision, reason: reason.clone() });
                }
            }
        }
        let source = Source::Etcd { cluster };
        Some(StoreEvent::Document(Version { source, revision, text: merged.to_json() }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn own() -> Key {
        "edge-01".parse().unwrap()
    }

    fn changed(key: Key, revision: Revision, text: &str) -> Event {
        Event::Changed { key, revision, text: Ok(text.to_owned()) }
    }

    fn document(revision: u64, text: &str) -> Option<StoreEvent> {
        let source = Source::Etcd { cluster: 7 };
        Some(StoreEvent::Document(Version { source, revision, text: text.to_owned() }))
    }

    fn reason(event: Option<StoreEvent>) -> String {
        match event {
            Some(StoreEvent::Unusable { revision, reason }) => format!("{revision} {reason}"),
            other => panic!("{other:?}"),
        }
    }

    /// Both layers are there, and told of.
    fn both() -> Followed {
        let mut followed = Followed::default();
        let default = r#"{"interval":5,"thresholds":{"cpu_percent":50,"net_in_mb":1}}"#;
        assert_eq!(followed.handle(changed(Key::Default, 9, default), 7), None);
        let above = r#"{"interval":null,"thresholds":{"cpu_percent":60}}"#;
        assert_eq!(followed.handle(changed(own(), 4, above), 7), None);
        let merged = r#"{"thresholds":{"cpu_percent":60,"net_in_mb":1}}"#;
        assert_eq!(followed.handle(Event::Synced, 7), document(9, merged));
        followed
    }

    #[test]
    fn the_own_layer_lies_over_the_default_and_the_newest_revision_names_the_result() {
        let mut followed = both();
        assert_eq!(followed.handle(Event::Synced, 7), None, "a re-read is no news");
        let event = followed.handle(changed(own(), 12, r#"{"interval":2,"thresholds":null}"#), 7);
        assert_eq!(event, document(12, r#"{"interval":2}"#));
    }

    #[test]
    fn one_layer_alone_is_enough_and_none_says_nothing() {
        let mut followed = Followed::default();
        assert_eq!(followed.handle(Event::Synced, 7), None);
        let event = followed.handle(changed(Key::Default, 3, r#"{"interval":2}"#), 7);
        assert_eq!(event, document(3, r#"{"interval":2}"#));
    }

    #[test]
    fn a_bad_layer_is_named_with_its_path_and_keeps_the_other_from_changing_anything() {
        let mut followed = both();
        let said = reason(followed.handle(changed(own(), 10, r#"{"interval":-1}"#), 7));
        assert!(said.starts_with("10 /monitor/config/edge-01: interval: "), "{said}");
        let said = reason(followed.handle(changed(Key::Default, 11, "{}"), 7));
        assert!(said.starts_with("11 /monitor/config/edge-01: interval: "), "{said}");
        let too_large = Err(etcd::TextError::TooLarge { bytes: 70_000 });
        let event = Event::Changed { key: Key::Default, revision: 12, text: too_large };
        let said = reason(followed.handle(event, 7));
        assert!(said.starts_with("12 /monitor/config/_default: document has 70000"), "{said}");
        followed.handle(changed(Key::Default, 13, "{}"), 7);
        let event = followed.handle(changed(own(), 14, r#"{"interval":2}"#), 7);
        assert_eq!(event, document(14, r#"{"interval":2}"#));
    }

    #[test]
    fn a_deleted_layer_is_told_and_counts_no_more_from_the_next_document_on() {
        let mut followed = both();
        let said = reason(followed.handle(Event::Deleted { key: own(), revision: 10 }, 7));
        assert!(said.starts_with("10 /monitor/config/edge-01 was deleted"), "{said}");
        assert_eq!(followed.handle(Event::Synced, 7), None);
        let event = followed.handle(changed(Key::Default, 11, r#"{"interval":3}"#), 7);
        assert_eq!(event, document(11, r#"{"interval":3}"#));
    }

    #[test]
    fn another_cluster_starts_from_nothing() {
        let mut followed = both();
        assert_eq!(followed.handle(Event::ClusterChanged, 7), Some(StoreEvent::ClusterChanged));
        assert_eq!(followed.handle(changed(own(), 2, r#"{"interval":3}"#), 7), None);
        assert_eq!(followed.handle(Event::Synced, 7), document(2, r#"{"interval":3}"#));
    }
}
