//! The document stores: what each promises, and what only one of them does.

use std::time::Duration;

use bus::embedded::{Database, Options};
#[cfg(feature = "etcd")]
use bus::etcd::EtcdDocuments;
use bus::{Bus, Document, DocumentError, DocumentEvent, DocumentStore};

#[cfg(feature = "etcd")]
use crate::real_etcd::Etcd;
use crate::support::{TestClock, open};

/// Longer than anything here takes, and short enough to fail.
const PATIENCE: Duration = Duration::from_secs(60);

fn fresh() -> (tempfile::TempDir, Database) {
    let dir = tempfile::tempdir().unwrap();
    let database = open(dir.path(), Options::default());
    (dir, database)
}

/// What every store promises. Keys are made by `key`, so that a store that others use too can be tested.
mod suite {
    use bus::{Document, DocumentError, DocumentEvent, DocumentStore, DocumentWatch};

    use super::PATIENCE;

    pub(super) async fn run(store: &dyn DocumentStore, key: impl Fn(&str) -> String) {
        a_document_is_stored_changed_and_deleted(store, &key("a"), &key("b")).await;
        a_change_in_between_is_a_conflict(store, &key("c")).await;
        keys_are_exact(store, &key("d"), &key("d1")).await;
        history_is_newest_first(store, &key("e")).await;
        a_watch_tells_what_is_there_and_what_changes(store, &key("f"), &key("g")).await;
    }

    async fn a_document_is_stored_changed_and_deleted(store: &dyn DocumentStore, a: &str, b: &str) {
        assert_eq!(store.get(a).await.unwrap(), None);
        let first = store.put(a, Some("1"), None).await.unwrap();
        assert_eq!((first.key.as_str(), first.text.as_deref()), (a, Some("1")));
        assert!(0 < first.revision);
        assert_eq!(store.get(a).await.unwrap(), Some(first.clone()));
        let other = store.put(b, Some("x"), Some(0)).await.unwrap();
        assert!(first.revision < other.revision);

        let deleted = store.put(a, None, Some(first.revision)).await.unwrap();
        assert!(other.revision < deleted.revision);
        assert_eq!(deleted.text, None);
        assert_eq!(store.get(a).await.unwrap(), Some(deleted.clone()));
        assert_eq!(store.get(b).await.unwrap(), Some(other));
        // A deleted document counts as none.
        let again = store.put(a, Some("new"), Some(0)).await.unwrap();
        assert!(deleted.revision < again.revision);
    }

    async fn a_change_in_between_is_a_conflict(store: &dyn DocumentStore, key: &str) {
        let first = store.put(key, Some("1"), Some(0)).await.unwrap().revision;
        let second = store.put(key, Some("2"), Some(first)).await.unwrap().revision;
        for expected in [0, first, second + 1] {
            match store.put(key, Some("3"), Some(expected)).await {
                Err(DocumentError::Conflict { expected: e, actual }) => {
                    assert_eq!((e, actual), (expected, second));
                }
                other => panic!("{other:?}"),
            }
        }
        assert_eq!(store.get(key).await.unwrap().unwrap().text.as_deref(), Some("2"));
    }

    async fn keys_are_exact(store: &dyn DocumentStore, short: &str, long: &str) {
        assert!(long.starts_with(short));
        let document = store.put(long, Some("long"), None).await.unwrap();
        assert_eq!(store.get(short).await.unwrap(), None);
        assert_eq!(store.history(short, 10).await.unwrap(), []);
        assert_eq!(store.history(long, 10).await.unwrap(), [document]);
    }

    async fn history_is_newest_first(store: &dyn DocumentStore, key: &str) {
        let mut made = Vec::new();
        for text in [Some("1"), Some("2"), None, Some("3")] {
            made.push(store.put(key, text, None).await.unwrap());
        }
        made.reverse();
        assert_eq!(store.history(key, 100).await.unwrap(), made);
        assert_eq!(store.history(key, 2).await.unwrap(), made[..2]);
        assert_eq!(store.history(key, 0).await.unwrap(), []);
    }

    async fn a_watch_tells_what_is_there_and_what_changes(
        store: &dyn DocumentStore,
        there: &str,
        later: &str,
    ) {
        let document = store.put(there, Some("there"), None).await.unwrap();
        let mut watch = store.watch().await;
        let mut told = Vec::new();
        loop {
            match next(&mut *watch).await {
                DocumentEvent::Synced => break,
                DocumentEvent::Changed(document) => told.push(document),
                // Of others, who may do as they like with their keys.
                _ => {}
            }
        }
        assert_eq!(told.iter().filter(|told| told.key == there).collect::<Vec<_>>(), [&document]);
        assert!(told.iter().all(|told| told.key != later));

        let created = store.put(later, Some("{\"a\": 1}"), None).await.unwrap();
        assert_eq!(next_of(&mut *watch, &[there, later]).await, created);
        let deleted = store.put(there, None, None).await.unwrap();
        assert_eq!(next_of(&mut *watch, &[there, later]).await, deleted);
    }

    async fn next(watch: &mut dyn DocumentWatch) -> DocumentEvent {
        tokio::time::timeout(PATIENCE, watch.next()).await.unwrap().unwrap()
    }

    /// The next change of one of these keys; others may be in use by others.
    async fn next_of(watch: &mut dyn DocumentWatch, keys: &[&str]) -> Document {
        loop {
            match next(watch).await {
                DocumentEvent::Changed(document) if keys.contains(&document.key.as_str()) => {
                    return document;
                }
                _ => {}
            }
        }
    }
}

#[tokio::test]
async fn embedded_store_keeps_the_contract() {
    let (_dir, database) = fresh();
    suite::run(&*database.documents(), str::to_owned).await;
    assert_eq!(database.documents().kind(), "embedded");
}

#[cfg(feature = "etcd")]
#[tokio::test]
async fn etcd_store_keeps_the_contract() {
    let Some(etcd) = Etcd::any("documents::etcd_store_keeps_the_contract") else {
        return;
    };
    let store = EtcdDocuments::new(etcd::Options::new(etcd.address().parse().unwrap()));
    let own = format!("t{:016x}", getrandom::u64().unwrap());
    suite::run(&store, |name| format!("{own}{name}")).await;
    assert_eq!(store.kind(), "etcd");
}

#[cfg(feature = "etcd")]
#[tokio::test]
async fn what_others_do_in_etcd_is_told() {
    let Some(etcd) = Etcd::any("documents::what_others_do_in_etcd_is_told") else {
        return;
    };
    let store = EtcdDocuments::new(etcd::Options::new(etcd.address().parse().unwrap()));
    let name = format!("t{:016x}", getrandom::u64().unwrap());
    let path = format!("/monitor/config/{name}");
    let mut watch = store.watch().await;
    let outsider = etcd.outsider();
    let mut next = async || loop {
        let event = tokio::time::timeout(PATIENCE, watch.next()).await.unwrap().unwrap();
        match &event {
            DocumentEvent::Changed(Document { key, .. })
            | DocumentEvent::Unreadable { key, .. }
            | DocumentEvent::Vanished { key, .. }
                if *key == name =>
            {
                return event;
            }
            _ => {}
        }
    };
    let document = |revision, text: Option<&str>| {
        DocumentEvent::Changed(Document {
            key: name.clone(),
            revision,
            modified_ms: 0,
            text: text.map(str::to_owned),
        })
    };

    let revision = outsider.put(&path, "not even JSON");
    assert_eq!(next().await, document(revision, Some("not even JSON")));
    let revision = outsider.put(&path, "{}");
    assert_eq!(next().await, document(revision, None));
    let revision = outsider.put(&path, "x".repeat(70_000));
    match next().await {
        DocumentEvent::Unreadable { revision: told, reason, .. } => {
            assert_eq!(told, revision);
            assert!(reason.contains("70000 bytes"), "{reason}");
        }
        other => panic!("{other:?}"),
    }
    let read = store.get(&name).await;
    assert!(matches!(read, Err(DocumentError::Unreadable { revision: r, .. }) if r == revision));
    // It can be replaced, by who knows that it is there.
    assert!(store.put(&name, Some("1"), Some(0)).await.is_err());
    let revision = store.put(&name, Some("1"), Some(revision)).await.unwrap().revision;
    assert_eq!(next().await, document(revision, Some("1")));
    let revision = outsider.delete(&path);
    assert_eq!(next().await, DocumentEvent::Vanished { key: name.clone(), revision });
    assert_eq!(store.get(&name).await.unwrap(), None);
}

#[cfg(feature = "etcd")]
#[tokio::test]
async fn a_key_that_is_no_agent_id_and_an_etcd_that_is_not_there_are_refused() {
    let options = etcd::Options::new("127.0.0.1:1".parse().unwrap());
    let store = EtcdDocuments::new(options);
    for bad in ["", "../a", "a/b", "_other"] {
        assert!(matches!(store.get(bad).await, Err(DocumentError::Key { .. })), "{bad}");
        assert!(matches!(store.put(bad, None, None).await, Err(DocumentError::Key { .. })));
    }
    assert!(matches!(store.get("a").await, Err(DocumentError::Unavailable(_))));
    assert!(matches!(store.put("a", None, None).await, Err(DocumentError::Unavailable(_))));
    assert!(matches!(store.history("a", 1).await, Err(DocumentError::Unavailable(_))));
}

#[tokio::test]
async fn times_are_those_of_the_clock_and_revisions_count_from_one() {
    let dir = tempfile::tempdir().unwrap();
    let options = Options { clock: TestClock::at(77).clock(), ..Options::default() };
    let documents = open(dir.path(), options).documents();
    for expected in 1..=3 {
        let document = documents.put("a", Some("{}"), None).await.unwrap();
        assert_eq!((document.revision, document.modified_ms), (expected, 77));
    }
}

#[tokio::test]
async fn a_watch_that_falls_behind_is_told_everything_again() {
    let (_dir, database) = fresh();
    let documents = database.documents();
    let mut watch = documents.watch().await;
    assert_eq!(watch.next().await, Some(DocumentEvent::Synced));
    // More than it remembers, and more than one page.
    for round in 0..300 {
        documents.put(&format!("k{}", round % 40), Some(&round.to_string()), None).await.unwrap();
    }
    let mut newest = std::collections::BTreeMap::new();
    loop {
        match tokio::time::timeout(PATIENCE, watch.next()).await.unwrap().unwrap() {
            DocumentEvent::Changed(document) => newest.insert(document.key.clone(), document),
            DocumentEvent::Synced => break,
            other => panic!("{other:?}"),
        };
    }
    assert_eq!(newest.len(), 40);
    for (key, told) in newest {
        assert_eq!(documents.get(&key).await.unwrap(), Some(told));
    }
    database.bus().close().await.unwrap();
    while tokio::time::timeout(PATIENCE, watch.next()).await.unwrap().is_some() {}
}

#[tokio::test]
async fn keys_are_exact_and_may_be_odd() {
    let (_dir, database) = fresh();
    let documents = database.documents();
    let names = ["", "a", "a\0", "a\0\0\0\0\0\0\0\0\x01", "ab", "_default"];
    for name in names {
        documents.put(name, Some(name), None).await.unwrap();
    }
    for name in names {
        let document = documents.get(name).await.unwrap().unwrap();
        assert_eq!(document.text.as_deref(), Some(name));
        assert_eq!(documents.history(name, 10).await.unwrap(), [document]);
    }
}

#[tokio::test]
async fn what_is_too_large_is_refused() {
    let (_dir, database) = fresh();
    let documents = database.documents();
    let long = "k".repeat(2000);
    let refused = documents.put(&long, Some(""), None).await;
    assert!(matches!(refused, Err(DocumentError::TooLarge { bytes: 2000, max: 1024 })));
    let text = "x".repeat(1024 * 1024 + 1);
    let refused = documents.put("a", Some(&text), None).await;
    assert!(matches!(refused, Err(DocumentError::TooLarge { .. })));
    assert_eq!(documents.get(&long).await.unwrap(), None);
}

#[tokio::test]
async fn history_is_bounded_and_survives_with_the_revision() {
    let (dir, database) = fresh();
    let documents = database.documents();
    for round in 1..=120 {
        documents.put("a", Some(&round.to_string()), None).await.unwrap();
    }
    documents.put("b", Some("other"), None).await.unwrap();
    database.bus().close().await.unwrap();
    assert!(documents.get("a").await.is_err());
    assert!(documents.put("a", None, None).await.is_err());

    let documents = open(dir.path(), Options::default()).documents();
    let revisions = |documents: Vec<Document>| -> Vec<u64> {
        documents.iter().map(|document| document.revision).collect()
    };
    let newest = documents.history("a", 3).await.unwrap();
    assert_eq!(revisions(newest), [120, 119, 118]);
    let all = documents.history("a", usize::MAX).await.unwrap();
    assert_eq!(revisions(all), (21..=120).rev().collect::<Vec<_>>());
    assert_eq!(documents.put("c", Some(""), None).await.unwrap().revision, 122);
}
