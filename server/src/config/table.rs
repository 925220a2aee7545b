//! What is known of each layer: the version in force, and what became of a newer one that is not.
//!
//! It is fed by whoever changes a layer through this server and by the watch of the store, which sees the changes of
//! everybody; so it hears of most changes twice, and takes each only once. Revisions of a layer only rise here.
//!
//! A version that cannot be used, and a key that somebody deleted without this program, leave the layer in force that
//! was: a mistake in the store changes nothing at the agents. Only what was stored as a deletion takes a layer away.

use std::collections::HashMap;

use agent_core::id::AgentId;
use bus::{DocumentEvent, Revision};

use crate::config::layers::{Effective, Layer, LayerKey};
use crate::limits::{LAYERS_BYTES_MAX, LAYERS_MAX};

/// What became of something that was learnt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Lesson {
    /// It was known, or something newer is.
    Old,
    /// This version of the layer is in force now.
    InForce(LayerKey, Revision),
    /// Something is stored that is not in force.
    NotInForce(LayerKey, Problem),
}

/// Why the newest version of a layer is not in force. What was in force before still is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Problem {
    pub(crate) revision: Revision,
    /// Path and reason, for people.
    pub(crate) reason: String,
}

#[derive(Debug, Default)]
struct Entry {
    /// None when no version was ever usable: then nobody knows what should hold.
    in_force: Option<Layer>,
    problem: Option<Problem>,
    /// The newest version that was heard of; 0 after the store began to count anew.
    newest: Revision,
}

/// All layers that are known. At most [`LAYERS_MAX`], with [`LAYERS_BYTES_MAX`] of text together; what does not fit is
/// a problem of the layer that came last.
#[derive(Debug, Default)]
pub(crate) struct Table {
    entries: HashMap<LayerKey, Entry>,
    bytes: usize,
    /// Everything in the store was read at least once, so a layer that is not here is not there.
    complete: bool,
}

impl Table {
    /// Takes in what a watch tells.
    pub(crate) fn learn(&mut self, event: DocumentEvent) -> Lesson {
        match event {
            DocumentEvent::Changed(document) => match document.key.parse() {
                Ok(key) => self.changed(key, document),
                // Of no agent, so of no consequence.
                Err(_) => Lesson::Old,
            },
            DocumentEvent::Unreadable { key, revision, reason } => match key.parse() {
                Ok(key) => self.spoiled(key, Problem { revision, reason: format!(".: {reason}") }),
                Err(_) => Lesson::Old,
            },
            DocumentEvent::Vanished { key, revision } => match key.parse() {
                Ok(key) => self.vanished(key, revision),
                Err(_) => Lesson::Old,
            },
            DocumentEvent::Synced => {
                self.complete = true;
                Lesson::Old
            }
            DocumentEvent::Renumbered => {
                for entry in self.entries.values_mut() {
                    entry.newest = 0;
                }
                Lesson::Old
            }
            DocumentEvent::Unavailable(_) | DocumentEvent::Available => Lesson::Old,
        }
    }

    pub(crate) const fn is_complete(&self) -> bool {
        self.complete
    }

    /// The layer in force; the empty one when there never was any, none when nobody can say.
    pub(crate) fn layer(&self, key: &LayerKey) -> Option<Layer> {
        match self.entries.get(key) {
            Some(entry) => entry.in_force.clone(),
            None => self.complete.then(Layer::default),
        }
    }

    /// Why the newest version of a layer is not in force.
    pub(crate) fn problem(&self, key: &LayerKey) -> Option<&Problem> {
        self.entries.get(key)?.problem.as_ref()
    }

    /// The layers whose newest version is not in force.
    pub(crate) fn problems(&self) -> Vec<(LayerKey, Problem)> {
        let problems = self.entries.iter();
        problems.filter_map(|(key, entry)| Some((key.clone(), entry.problem.clone()?))).collect()
    }

    /// What holds for an agent; none when one of its layers is not known.
    pub(crate) fn effective(&self, agent: &AgentId) -> Option<Effective> {
        let below = self.layer(&LayerKey::Default)?;
        let above = self.layer(&LayerKey::Agent(agent.clone()))?;
        Some(Effective::of(&below, &above))
    }

    fn changed(&mut self, key: LayerKey, document: bus::Document) -> Lesson {
        let revision = document.revision;
        if !self.is_news(&key, revision) {
            return Lesson::Old;
        }
        let layer = match Layer::read(Some(document)) {
            Ok(layer) => layer,
            Err(error) => {
                return self.spoiled(key, Problem { revision, reason: error.to_string() });
            }
        };
        let before = self.entries.get(&key).and_then(|entry| entry.in_force.as_ref());
        let bytes = self.bytes - before.map_or(0, text_bytes) + text_bytes(&layer);
        let fits = bytes <= LAYERS_BYTES_MAX
            && (self.entries.contains_key(&key) || self.entries.len() < LAYERS_MAX);
        if !fits {
            let reason = format!(
                ".: no room for it: this server takes {LAYERS_MAX} documents with {LAYERS_BYTES_MAX} bytes together"
            );
            return self.spoiled(key, Problem { revision, reason });
        }
        self.bytes = bytes;
        let entry = Entry { in_force: Some(layer), problem: None, newest: revision };
        self.entries.insert(key.clone(), entry);
        Lesson::InForce(key, revision)
    }

    fn spoiled(&mut self, key: LayerKey, problem: Problem) -> Lesson {
        if !self.is_news(&key, problem.revision) {
            return Lesson::Old;
        }
        if self.entries.contains_key(&key) || self.entries.len() < LAYERS_MAX {
            let entry = self.entries.entry(key.clone()).or_default();
            entry.newest = problem.revision;
            entry.problem = Some(problem.clone());
        }
        Lesson::NotInForce(key, problem)
    }

    fn vanished(&mut self, key: LayerKey, revision: Revision) -> Lesson {
        // What was never in force leaves nothing behind.
        if self.entries.get(&key).is_some_and(|entry| entry.in_force.is_none()) {
            self.entries.remove(&key);
            return Lesson::Old;
        }
        if !self.entries.contains_key(&key) {
            return Lesson::Old;
        }
        let reason = format!(
            ".: the key was deleted by another program, which changes nothing; `picket config unset {}` removes the \
             layer for good",
            key.as_str()
        );
        self.spoiled(key, Problem { revision, reason })
    }

    fn is_news(&self, key: &LayerKey, revision: Revision) -> bool {
        self.entries.get(key).is_none_or(|entry| entry.newest < revision)
    }
}

fn text_bytes(layer: &Layer) -> usize {
    layer.text.as_ref().map_or(0, String::len)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(name: &str) -> LayerKey {
        name.parse().unwrap()
    }

    fn agent() -> AgentId {
        "a".parse().unwrap()
    }

    fn changed(name: &str, revision: Revision, text: Option<&str>) -> DocumentEvent {
        DocumentEvent::Changed(bus::Document {
            key: name.into(),
            revision,
            modified_ms: 0,
            text: text.map(str::to_owned),
        })
    }

    fn vanished(name: &str, revision: Revision) -> DocumentEvent {
        DocumentEvent::Vanished { key: name.into(), revision }
    }

    fn holds(table: &Table) -> Option<(Revision, String)> {
        let effective = table.effective(&agent())?;
        Some((effective.revision, effective.document.to_json()))
    }

    /// A table with a layer below at revision 2, and one of the agent's own at 5.
    fn table() -> Table {
        let mut table = Table::default();
        table.learn(changed("_default", 2, Some(r#"{"window_size": 7}"#)));
        table.learn(changed("a", 5, Some(r#"{"interval": 1}"#)));
        table.learn(DocumentEvent::Synced);
        table
    }

    fn both() -> String {
        r#"{"window_size":7,"interval":1}"#.to_owned()
    }

    #[test]
    fn nothing_holds_before_everything_was_read() {
        let mut table = Table::default();
        assert_eq!(holds(&table), None);
        table.learn(changed("a", 5, Some(r#"{"interval": 1}"#)));
        assert_eq!(holds(&table), None, "there may be a layer below");
        table.learn(DocumentEvent::Synced);
        assert_eq!(holds(&table), Some((5, r#"{"interval":1}"#.into())));
        assert_eq!(self::table().effective(&agent()).unwrap().document.to_json(), both());
    }

    #[test]
    fn each_change_is_taken_once_and_none_that_is_older() {
        let mut table = table();
        let news = changed("a", 9, Some(r#"{"interval": 3}"#));
        assert_eq!(table.learn(news.clone()), Lesson::InForce(key("a"), 9));
        assert_eq!(table.learn(news), Lesson::Old);
        assert_eq!(table.learn(changed("a", 8, Some("{}"))), Lesson::Old);
        assert_eq!(holds(&table).unwrap().0, 9);
    }

    #[test]
    fn what_cannot_be_used_leaves_what_was() {
        let mut table = table();
        for (revision, text, path) in [
            (10, "{", "."),
            (11, r#"{"interval": "soon"}"#, "interval"),
            (12, r#"{"plugins": ["no_such"]}"#, "plugins[0]"),
        ] {
            match table.learn(changed("a", revision, Some(text))) {
                Lesson::NotInForce(_, problem) => {
                    assert_eq!(problem.revision, revision);
                    assert!(problem.reason.starts_with(path), "{}", problem.reason);
                }
                other => panic!("{other:?}"),
            }
            assert_eq!(holds(&table), Some((5, both())));
        }
        let large =
            DocumentEvent::Unreadable { key: "a".into(), revision: 13, reason: "too large".into() };
        assert!(matches!(table.learn(large.clone()), Lesson::NotInForce(..)));
        assert_eq!(table.learn(large), Lesson::Old, "told once");
        assert_eq!(table.problem(&key("a")).unwrap().reason, ".: too large");

        // The layer below goes on to change under what is in force.
        table.learn(changed("_default", 20, Some(r#"{"window_size": 8}"#)));
        let both = r#"{"window_size":8,"interval":1}"#;
        assert_eq!(holds(&table), Some((20, both.into())));
        assert_eq!(
            table.learn(changed("a", 21, Some("{ }"))),
            Lesson::InForce(key("a"), 21),
            "mended"
        );
        assert_eq!(table.problems(), []);
    }

    #[test]
    fn a_layer_that_was_never_usable_makes_nothing_hold() {
        let mut table = table();
        table.learn(changed("b", 9, Some("{")));
        assert_eq!(table.effective(&"b".parse().unwrap()), None);
        table.learn(vanished("b", 10));
        assert_eq!(table.effective(&"b".parse().unwrap()).unwrap().revision, 2);
    }

    #[test]
    fn a_key_that_vanishes_changes_nothing_and_a_deletion_does() {
        let mut table = table();
        assert!(matches!(table.learn(vanished("a", 9)), Lesson::NotInForce(..)));
        assert_eq!(holds(&table), Some((5, both())));
        assert_eq!(table.learn(vanished("unknown", 9)), Lesson::Old);
        assert_eq!(table.learn(changed("a", 10, None)), Lesson::InForce(key("a"), 10));
        assert_eq!(holds(&table), Some((10, r#"{"window_size":7}"#.into())));
        assert_eq!(table.problem(&key("a")), None);
    }

    #[test]
    fn another_store_may_count_from_the_beginning() {
        let mut table = table();
        table.learn(DocumentEvent::Renumbered);
        assert_eq!(holds(&table), Some((5, both())), "until it is told otherwise");
        let lesson = table.learn(changed("a", 1, Some(r#"{"interval": 9}"#)));
        assert_eq!(lesson, Lesson::InForce(key("a"), 1));
        table.learn(changed("_default", 2, None));
        assert_eq!(holds(&table), Some((2, r#"{"interval":9}"#.into())));
    }

    #[test]
    fn there_is_only_so_much_room() {
        let mut table = Table::default();
        table.learn(DocumentEvent::Synced);
        let text = format!(r#"{{"note": "{}"}}"#, "x".repeat(60_000));
        let mut refused = 0;
        for index in 0..LAYERS_BYTES_MAX / 60_000 + 10 {
            let event = changed(&format!("a{index}"), 1, Some(&text));
            match table.learn(event) {
                Lesson::InForce(..) => assert_eq!(refused, 0),
                Lesson::NotInForce(..) => refused += 1,
                Lesson::Old => panic!("it is new"),
            }
            assert!(table.bytes <= LAYERS_BYTES_MAX);
        }
        assert!(0 < refused);
        // What is replaced makes room.
        table.learn(changed("a0", 2, None));
        assert!(matches!(table.learn(changed("b", 3, Some(&text))), Lesson::InForce(..)));
    }
}
