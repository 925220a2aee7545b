//! What happens when the storage fails: the fault is asked for, the recovery is the real one.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use proto::CommandResponse;

use super::*;
use crate::contract::Delivery;
use crate::documents::{DocumentError, DocumentStore};
use crate::record::Payload;

fn record(number: i64) -> Record {
    Record {
        key: "edge-1".parse().unwrap(),
        payload: Payload::Response(Box::new(CommandResponse {
            timestamp: number,
            ..CommandResponse::default()
        })),
    }
}

async fn subscribe(bus: &EmbeddedBus, start: Start) -> Box<dyn Subscription> {
    bus.subscribe(Topic::CommandResponses, start, Selection::All).await.unwrap()
}

async fn offsets_until_caught_up(reader: &mut dyn Subscription) -> Vec<u64> {
    let mut offsets = Vec::new();
    loop {
        match reader.next().await.unwrap() {
            Delivery::Entries(entries) => offsets.extend(entries.iter().map(|e| e.offset.0)),
            Delivery::CaughtUp => return offsets,
            other @ Delivery::Skipped { .. } => panic!("{other:?}"),
        }
    }
}

/// Publishes until it works, more often than the storage is opened again.
async fn publish_again(bus: &EmbeddedBus, number: i64) {
    for _ in 0..2000 {
        match bus.publish(vec![record(number)]).await {
            Ok(()) => return,
            Err(PublishError::Unavailable(_)) => {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            Err(other) => panic!("{other:?}"),
        }
    }
    panic!("the bus does not come back");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn after_a_storage_failure_the_bus_comes_back_without_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let options = Options::default();
    let fault = Arc::clone(&options.fault);
    let database = Database::open(dir.path(), options).unwrap();
    let (bus, documents) = (database.bus(), database.documents());
    bus.publish(vec![record(1)]).await.unwrap();
    documents.put("a", Some("1"), None).await.unwrap();
    let mut waiting = subscribe(&bus, Start::Tail).await;
    assert_eq!(waiting.next().await.unwrap(), Delivery::CaughtUp);

    for round in 0..3 {
        fault.store(true, Ordering::SeqCst);
        for _ in 0..3 {
            let refused = bus.publish(vec![record(99)]).await;
            assert!(matches!(refused, Err(PublishError::Unavailable(_))));
            let refused = documents.put("a", Some("99"), None).await;
            assert!(matches!(refused, Err(DocumentError::Unavailable(_))));
        }
        // Readers go on meanwhile, and see nothing of what was refused.
        let mut reader = subscribe(&bus, Start::Oldest).await;
        let expected: Vec<u64> = (1..=round + 1).collect();
        assert_eq!(offsets_until_caught_up(&mut *reader).await, expected);

        fault.store(false, Ordering::SeqCst);
        publish_again(&bus, 2).await;
        let Delivery::Entries(entries) = waiting.next().await.unwrap() else {
            panic!("an entry must come");
        };
        assert_eq!(entries[0].offset, Offset(round + 2));
    }
    assert_eq!(documents.put("a", None, Some(1)).await.unwrap().revision, 2);
    bus.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_journal_that_failed_is_not_written_again() {
    let dir = tempfile::tempdir().unwrap();
    let options = Options::default();
    let fault = Arc::clone(&options.fault);
    let bus = Database::open(dir.path(), options).unwrap().bus();
    bus.publish(vec![record(1)]).await.unwrap();
    let journals = || salvage::journals(&dir.path().join("db")).unwrap();
    let before = journals();
    let failed = before.last().unwrap().clone();
    fault.store(true, Ordering::SeqCst);
    bus.publish(vec![record(2)]).await.unwrap_err();
    fault.store(false, Ordering::SeqCst);
    publish_again(&bus, 3).await;
    let after = journals();
    assert!(failed.0 < after.last().unwrap().0, "{after:?}");
    bus.close().await.unwrap();

    // Without the one that failed nothing is missing: all of it was written anew before publishing went on.
    if failed.1.exists() {
        std::fs::write(&failed.1, "").unwrap();
    }
    let bus = Database::open(dir.path(), Options::default()).unwrap().bus();
    let mut reader = subscribe(&bus, Start::Oldest).await;
    assert_eq!(offsets_until_caught_up(&mut *reader).await, [1, 2]);
    bus.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_failed_bus_closes_and_opens_again() {
    let dir = tempfile::tempdir().unwrap();
    let options = Options::default();
    let fault = Arc::clone(&options.fault);
    let bus = Database::open(dir.path(), options).unwrap().bus();
    bus.publish(vec![record(1)]).await.unwrap();
    fault.store(true, Ordering::SeqCst);
    bus.publish(vec![record(2)]).await.unwrap_err();
    bus.close().await.unwrap();

    let bus = Database::open(dir.path(), Options::default()).unwrap().bus();
    bus.publish(vec![record(3)]).await.unwrap();
    let mut reader = subscribe(&bus, Start::Oldest).await;
    assert_eq!(offsets_until_caught_up(&mut *reader).await, [1, 2]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_writer_shows_that_it_is_alive_until_the_bus_is_closed_also_when_it_cannot_store() {
    let dir = tempfile::tempdir().unwrap();
    let options = Options::default();
    let fault = Arc::clone(&options.fault);
    let bus = Database::open(dir.path(), options).unwrap().bus();
    bus.alive().await.unwrap();
    fault.store(true, Ordering::SeqCst);
    bus.publish(vec![record(1)]).await.unwrap_err();
    bus.alive().await.unwrap();
    fault.store(false, Ordering::SeqCst);
    bus.close().await.unwrap();
    assert!(matches!(bus.alive().await, Err(BusError::Closed)));
}
