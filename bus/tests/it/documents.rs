//! The document store of the embedded database.

use bus::embedded::{Database, Options};
use bus::{Bus, DocumentError, DocumentStore};

use crate::support::{TestClock, open};

fn fresh() -> (tempfile::TempDir, Database) {
    let dir = tempfile::tempdir().unwrap();
    let database = open(dir.path(), Options::default());
    (dir, database)
}

#[tokio::test]
async fn a_document_is_stored_changed_and_deleted() {
    let dir = tempfile::tempdir().unwrap();
    let options = Options { clock: TestClock::at(77).clock(), ..Options::default() };
    let documents = open(dir.path(), options).documents();
    assert_eq!(documents.get("a").await.unwrap(), None);

    let first = documents.put("a", Some("{}"), None).await.unwrap();
    assert_eq!((first.revision, first.modified_ms), (1, 77));
    assert_eq!(documents.get("a").await.unwrap(), Some(first));
    let other = documents.put("b", Some("x"), Some(0)).await.unwrap();
    assert_eq!(other.revision, 2);

    let deleted = documents.put("a", None, Some(1)).await.unwrap();
    assert_eq!((deleted.revision, deleted.text.clone()), (3, None));
    assert_eq!(documents.get("a").await.unwrap(), Some(deleted));
    assert_eq!(documents.get("b").await.unwrap(), Some(other));
    // A deleted document counts as none.
    assert_eq!(documents.put("a", Some("new"), Some(0)).await.unwrap().revision, 4);
}

#[tokio::test]
async fn a_change_in_between_is_a_conflict() {
    let (_dir, database) = fresh();
    let documents = database.documents();
    documents.put("a", Some("1"), Some(0)).await.unwrap();
    documents.put("a", Some("2"), Some(1)).await.unwrap();
    for expected in [0, 1, 3] {
        match documents.put("a", Some("3"), Some(expected)).await {
            Err(DocumentError::Conflict { expected: e, actual }) => {
                assert_eq!((e, actual), (expected, 2));
            }
            other => panic!("{other:?}"),
        }
    }
    let kept = documents.get("a").await.unwrap().unwrap();
    assert_eq!(kept.text.as_deref(), Some("2"));
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
    let revisions = |documents: Vec<bus::Document>| -> Vec<u64> {
        documents.iter().map(|document| document.revision).collect()
    };
    let newest = documents.history("a", 3).await.unwrap();
    assert_eq!(revisions(newest), [120, 119, 118]);
    let all = documents.history("a", usize::MAX).await.unwrap();
    assert_eq!(revisions(all), (21..=120).rev().collect::<Vec<_>>());
    assert_eq!(documents.put("c", Some(""), None).await.unwrap().revision, 122);
}
