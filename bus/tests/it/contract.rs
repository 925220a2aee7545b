//! The contract of [`Bus`], for every implementation.
//!
//! An implementation says where its bus is ([`Place`]) and calls [`contract_suite`].

use std::sync::Arc;

use bus::{
    Bus, BusError, Cursor, Delivery, PublishError, Selection, Start, Subscription, Topic,
    Watermarks,
};

use crate::support::{after, any, history, keys, live, metrics, next, read, read_all, sequence};

/// Where a bus keeps its records.
pub(crate) trait Place {
    /// Opens the bus, empty at first. Called again after `close`, it opens the same bus.
    async fn open(&self) -> Arc<dyn Bus>;
}

/// Makes one test of each function below.
macro_rules! contract_suite {
    ($place:expr; $($name:ident)*) => {
        $(
            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $name() {
                let place = $place;
                $crate::contract::$name(&place).await;
            }
        )*
    };
    ($place:expr) => {
        $crate::contract::contract_suite! { $place;
            each_topic_gives_back_what_was_published
            acknowledged_records_survive_a_close
            records_of_one_key_keep_their_order
            a_reader_sees_only_what_is_durable_and_all_of_it
            a_reader_at_the_tail_sees_only_what_comes
            caught_up_comes_exactly_once
            readers_start_where_they_are_told
            a_reader_goes_on_where_another_ended
            keys_select
            a_stopped_reader_holds_nobody_back
            a_cancelled_next_skips_nothing
            watermarks_frame_what_is_stored
            closed_means_closed
        }
    };
}
pub(crate) use contract_suite;

async fn tail(bus: &dyn Bus) -> Box<dyn Subscription> {
    bus.subscribe(Topic::MonitoringData, Start::Tail, Selection::All).await.unwrap()
}

async fn publish_numbered(bus: &dyn Bus, name: &str, sequences: std::ops::Range<u64>) {
    let records = sequences.map(|sequence| metrics(name, sequence)).collect();
    bus.publish(records).await.unwrap();
}

pub(crate) async fn each_topic_gives_back_what_was_published(place: &impl Place) {
    let bus = place.open().await;
    let records: Vec<_> = Topic::ALL.into_iter().map(|topic| any(topic, "edge-1")).collect();
    bus.publish(records.clone()).await.unwrap();
    for (topic, record) in Topic::ALL.into_iter().zip(records) {
        let start = Start::Oldest;
        let mut reader = bus.subscribe(topic, start, Selection::All).await.unwrap();
        let entries = history(&mut *reader).await.entries;
        assert_eq!(entries.len(), 1, "{topic}");
        assert_eq!(entries[0].key, record.key);
        assert_eq!(entries[0].payload, record.payload);
    }
}

pub(crate) async fn acknowledged_records_survive_a_close(place: &impl Place) {
    let bus = place.open().await;
    publish_numbered(&*bus, "a", 1..600).await;
    bus.close().await.unwrap();
    let bus = place.open().await;
    publish_numbered(&*bus, "a", 600..700).await;
    assert_eq!(read_all(&*bus).await.sequences(), (1..700).collect::<Vec<_>>());
}

pub(crate) async fn records_of_one_key_keep_their_order(place: &impl Place) {
    let bus = place.open().await;
    let publishers: Vec<_> = ["a", "b", "c"]
        .into_iter()
        .map(|name| {
            let bus = Arc::clone(&bus);
            tokio::spawn(async move {
                for first in (1..100).step_by(3) {
                    publish_numbered(&*bus, name, first..first + 3).await;
                }
            })
        })
        .collect();
    for publisher in publishers {
        publisher.await.unwrap();
    }
    for name in ["a", "b", "c"] {
        let sequences = read(&*bus, Start::Oldest, keys(&[name])).await.sequences();
        assert_eq!(sequences, (1..100).collect::<Vec<_>>(), "{name}");
    }
}

pub(crate) async fn a_reader_sees_only_what_is_durable_and_all_of_it(place: &impl Place) {
    let bus = place.open().await;
    let mut reader = tail(&*bus).await;
    assert_eq!(next(&mut *reader).await, Delivery::CaughtUp);
    let publisher = tokio::spawn({
        let bus = Arc::clone(&bus);
        async move {
            for sequence in 1..200 {
                bus.publish(vec![metrics("a", sequence)]).await.unwrap();
            }
        }
    });
    let mut expected = 1;
    while expected < 200 {
        let Delivery::Entries(entries) = next(&mut *reader).await else {
            panic!("only entries can come");
        };
        let durable = ends(&bus.watermarks(Topic::MonitoringData).await.unwrap());
        for entry in entries {
            assert_eq!(sequence(&entry), expected);
            assert!(entry.offset < durable.next_in(entry.partition).unwrap());
            expected += 1;
        }
    }
    publisher.await.unwrap();
}

pub(crate) async fn a_reader_at_the_tail_sees_only_what_comes(place: &impl Place) {
    let bus = place.open().await;
    publish_numbered(&*bus, "a", 1..10).await;
    let mut reader = tail(&*bus).await;
    publish_numbered(&*bus, "a", 10..20).await;
    assert_eq!(next(&mut *reader).await, Delivery::CaughtUp);
    assert_eq!(live(&mut *reader, 10).await, (10..20).collect::<Vec<_>>());
}

pub(crate) async fn caught_up_comes_exactly_once(place: &impl Place) {
    let bus = place.open().await;
    for start in [Start::Tail, Start::Last(5), Start::Time(0), Start::Oldest] {
        let what = format!("{start:?} of nothing");
        let mut reader = bus.subscribe(Topic::Commands, start, Selection::All).await.unwrap();
        assert_eq!(next(&mut *reader).await, Delivery::CaughtUp, "{what}");
    }

    publish_numbered(&*bus, "a", 1..10).await;
    let start = Start::Oldest;
    let mut reader = bus.subscribe(Topic::MonitoringData, start, Selection::All).await.unwrap();
    // What comes after the subscription was made comes after the mark.
    publish_numbered(&*bus, "a", 10..20).await;
    assert_eq!(history(&mut *reader).await.sequences(), (1..10).collect::<Vec<_>>());
    assert_eq!(live(&mut *reader, 10).await, (10..20).collect::<Vec<_>>());
}

pub(crate) async fn readers_start_where_they_are_told(place: &impl Place) {
    let bus = place.open().await;
    publish_numbered(&*bus, "a", 1..11).await;
    let entries = read_all(&*bus).await.entries;

    let from = read(&*bus, after(&entries[..4]), Selection::All).await;
    assert_eq!(from.sequences(), (5..11).collect::<Vec<_>>());
    let from = read(&*bus, after(&entries), Selection::All).await;
    assert_eq!(from.sequences(), [0_u64; 0]);

    for (count, expected) in [(0, 11..11), (1, 10..11), (10, 1..11), (u64::MAX, 1..11)] {
        let last = read(&*bus, Start::Last(count), Selection::All).await;
        assert_eq!(last.sequences(), expected.collect::<Vec<_>>(), "last {count}");
    }

    let since = read(&*bus, Start::Time(entries[0].stored_ms), Selection::All).await;
    assert_eq!(since.sequences(), (1..11).collect::<Vec<_>>());
    let since = read(&*bus, Start::Time(entries[9].stored_ms + 1), Selection::All).await;
    assert_eq!(since.sequences(), [0_u64; 0]);
}

pub(crate) async fn a_reader_goes_on_where_another_ended(place: &impl Place) {
    let bus = place.open().await;
    publish_numbered(&*bus, "a", 1..11).await;
    let mut first =
        bus.subscribe(Topic::MonitoringData, Start::Oldest, Selection::All).await.unwrap();
    let begun = Start::At(first.cursor());
    assert_eq!(history(&mut *first).await.entries.len(), 10);
    let ended = Start::At(first.cursor());
    // The second may be in a partition that had nothing.
    publish_numbered(&*bus, "a", 11..13).await;
    publish_numbered(&*bus, "b", 13..15).await;
    let mut more = read(&*bus, ended.clone(), Selection::All).await.sequences();
    more.sort_unstable();
    assert_eq!(more, [11, 12, 13, 14]);
    assert_eq!(read(&*bus, ended, keys(&["b"])).await.sequences(), [13, 14]);
    assert_eq!(read(&*bus, begun, Selection::All).await.entries.len(), 14);

    // In the middle of what was read, too.
    let mut tail = tail(&*bus).await;
    assert_eq!(next(&mut *tail).await, Delivery::CaughtUp);
    for first in (15..35).step_by(5) {
        publish_numbered(&*bus, "a", first..first + 5).await;
    }
    let before = live(&mut *tail, 1).await;
    let after = read(&*bus, Start::At(tail.cursor()), Selection::All).await.sequences();
    assert_eq!([before, after].concat(), (15..35).collect::<Vec<_>>());
}

pub(crate) async fn keys_select(place: &impl Place) {
    let bus = place.open().await;
    // Ids of which one begins another must not be taken for it.
    let names = ["a", "a-1", "a0", "b"];
    for round in 0..500 {
        let records =
            names.iter().zip(1..).map(|(name, place)| metrics(name, round * 4 + place)).collect();
        bus.publish(records).await.unwrap();
    }

    let only = |places: &'static [u64]| {
        (0..500).flat_map(move |round| places.iter().map(move |place| round * 4 + place))
    };
    let everything = Start::Oldest;
    let one = read(&*bus, everything.clone(), keys(&["a"])).await;
    assert_eq!(one.sequences(), only(&[1]).collect::<Vec<_>>());
    let two = read(&*bus, everything.clone(), keys(&["a-1", "b", "unknown"])).await;
    assert_eq!(two.sequences(), only(&[2, 4]).collect::<Vec<_>>());
    let none = read(&*bus, everything, keys(&[])).await;
    assert_eq!(none.sequences(), [0_u64; 0]);
    let last = read(&*bus, Start::Last(3), keys(&["a", "b"])).await;
    assert_eq!(last.sequences(), [1996, 1997, 2000]);
    let last = read(&*bus, Start::Last(3), keys(&["unknown"])).await;
    assert_eq!(last.sequences(), [0_u64; 0]);

    let mut reader = bus.subscribe(Topic::MonitoringData, Start::Tail, keys(&["b"])).await.unwrap();
    assert_eq!(next(&mut *reader).await, Delivery::CaughtUp);
    bus.publish(vec![metrics("a", 1), metrics("b", 2)]).await.unwrap();
    bus.publish(vec![metrics("a", 3)]).await.unwrap();
    bus.publish(vec![metrics("b", 4)]).await.unwrap();
    assert_eq!(live(&mut *reader, 2).await, [2, 4]);
}

pub(crate) async fn a_stopped_reader_holds_nobody_back(place: &impl Place) {
    let bus = place.open().await;
    let mut stopped = tail(&*bus).await;
    for first in (1..5001).step_by(500) {
        publish_numbered(&*bus, "a", first..first + 500).await;
    }
    assert_eq!(read_all(&*bus).await.entries.len(), 5000);
    assert_eq!(next(&mut *stopped).await, Delivery::CaughtUp);
    assert_eq!(live(&mut *stopped, 5000).await, (1..5001).collect::<Vec<_>>());
}

pub(crate) async fn a_cancelled_next_skips_nothing(place: &impl Place) {
    let bus = place.open().await;
    publish_numbered(&*bus, "a", 1..1000).await;
    let start = Start::Oldest;
    let mut reader = bus.subscribe(Topic::MonitoringData, start, Selection::All).await.unwrap();
    let mut sequences = Vec::new();
    for patience_us in (0..).map(|round| round % 50 * 20) {
        let patience = std::time::Duration::from_micros(patience_us);
        match tokio::time::timeout(patience, reader.next()).await {
            Ok(Ok(Delivery::Entries(entries))) => sequences.extend(entries.iter().map(sequence)),
            Ok(Ok(Delivery::CaughtUp)) => break,
            Ok(other) => panic!("{other:?}"),
            Err(_cancelled) => {}
        }
    }
    assert_eq!(sequences, (1..1000).collect::<Vec<_>>());
}

pub(crate) async fn watermarks_frame_what_is_stored(place: &impl Place) {
    let bus = place.open().await;
    let empty = bus.watermarks(Topic::MonitoringData).await.unwrap();
    assert!(!empty.is_empty());
    assert!(empty.iter().all(|marks| marks.first == marks.next));
    publish_numbered(&*bus, "a", 1..100).await;
    let full = bus.watermarks(Topic::MonitoringData).await.unwrap();
    let entries = read_all(&*bus).await.entries;
    let (oldest, newest) = (&entries[0], &entries[98]);
    assert_eq!(oldest.partition, newest.partition, "they have one key");
    let marks = full.iter().find(|marks| marks.partition == oldest.partition).unwrap();
    assert_eq!(marks.first, oldest.offset);
    assert!(newest.offset < marks.next);
    assert!(marks.bytes.is_none_or(|bytes| 0 < bytes));
    let other = bus.watermarks(Topic::Commands).await.unwrap();
    assert!(other.iter().all(|marks| marks.first == marks.next));
}

/// Where each partition ends.
fn ends(watermarks: &[Watermarks]) -> Cursor {
    watermarks.iter().map(|marks| (marks.partition, marks.next)).collect()
}

pub(crate) async fn closed_means_closed(place: &impl Place) {
    let bus = place.open().await;
    publish_numbered(&*bus, "a", 1..10).await;
    let mut reader = tail(&*bus).await;
    assert_eq!(next(&mut *reader).await, Delivery::CaughtUp);
    let waiting = tokio::spawn(async move { reader.next().await });
    bus.close().await.unwrap();
    bus.close().await.unwrap();

    assert!(matches!(waiting.await.unwrap(), Err(BusError::Closed)));
    let published = bus.publish(vec![metrics("a", 10)]).await;
    assert!(matches!(published, Err(PublishError::Closed)));
    let subscribed = bus.subscribe(Topic::MonitoringData, Start::Tail, Selection::All).await;
    assert!(matches!(subscribed.map(|_| ()), Err(BusError::Closed)));
    let watermarks = bus.watermarks(Topic::MonitoringData).await;
    assert!(matches!(watermarks, Err(BusError::Closed)));
}
