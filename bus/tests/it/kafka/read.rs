//! Reading on Kafka: many partitions, topics that change under a reader.

use bus::kafka::{KafkaBus, Options};
use bus::{Bus, BusError, Cursor, Delivery, Offset, Selection, Start, Topic};

use super::mock::Mock;
use crate::support::{history, keys, large, live, metrics, next, noise, read, sequence};

#[tokio::test(flavor = "multi_thread")]
async fn a_topic_that_is_absent_is_said_by_name() {
    let mock = Mock::without_topics();
    let bus = mock.bus();
    let subscribed = bus.subscribe(Topic::Commands, Start::Oldest, Selection::All).await;
    let Err(BusError::Unavailable(source)) = subscribed.map(|_| ()) else {
        panic!("it cannot be read");
    };
    assert_eq!(source.to_string(), "topic commands does not exist");
    // Asking has not created it.
    assert!(bus.watermarks(Topic::Commands).await.is_err());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cursor_beyond_the_end_starts_over() {
    let mock = Mock::new();
    let bus = mock.bus();
    bus.publish((1..=3).map(|n| metrics("a", n)).collect()).await.unwrap();
    let entries = read(&*bus, Start::Oldest, Selection::All).await.entries;
    let partition = entries[0].partition;
    let ahead = Start::At(Cursor::from_iter([(partition, Offset(10))]));
    let read = read(&*bus, ahead, Selection::All).await;
    assert_eq!(read.skipped, [(3, 9)]);
    assert_eq!(read.sequences(), [1, 2, 3]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cursor_goes_on_in_every_partition() {
    let mock = Mock::new();
    let bus = mock.bus();
    let names: Vec<String> = (0..20).map(|n| format!("agent-{n}")).collect();
    let publish = async |n: u64| {
        let records = names.iter().map(|name| metrics(name, n)).collect();
        bus.publish(records).await.unwrap();
    };
    publish(1).await;
    let first = read(&*bus, Start::Oldest, Selection::All).await.entries;
    publish(2).await;
    let rest = read(&*bus, crate::support::after(&first), Selection::All).await;
    assert_eq!(rest.skipped, []);
    assert_eq!(rest.sequences(), [2; 20]);
}

#[tokio::test(flavor = "multi_thread")]
async fn another_number_of_partitions_makes_readers_read_all() {
    let mock = Mock::new();
    let bus = mock.bus();
    let names: Vec<String> = (0..20).map(|n| format!("agent-{n}")).collect();
    bus.publish(names.iter().map(|name| metrics(name, 1)).collect()).await.unwrap();
    // It thinks that the topic was created with four, and that one was added.
    let later = KafkaBus::open(Options { partitions: 4, ..mock.options() }).unwrap();
    for name in &names {
        assert_eq!(read(&*later, Start::Oldest, keys(&[name])).await.sequences(), [1], "{name}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_last_of_rare_keys_are_found_far_back() {
    let mock = Mock::new();
    let bus = mock.bus();
    bus.publish(vec![metrics("rare", 1), metrics("rare", 2)]).await.unwrap();
    for first in (0..5000).step_by(500) {
        let others = (first..first + 500).map(|n| metrics(&format!("agent-{}", n % 50), n));
        bus.publish(others.collect()).await.unwrap();
    }
    let last = read(&*bus, Start::Last(1), keys(&["rare"])).await;
    assert_eq!(last.sequences(), [2]);
    let last = read(&*bus, Start::Last(100), keys(&["rare"])).await;
    assert_eq!(last.sequences(), [1, 2]);
    let last = read(&*bus, Start::Last(1234), Selection::All).await;
    assert_eq!(last.entries.len(), 1234);
}

#[tokio::test(flavor = "multi_thread")]
async fn large_records_pass_through_small_queues() {
    let mock = Mock::new();
    let bus = mock.bus();
    let mut reader =
        bus.subscribe(Topic::MonitoringData, Start::Tail, Selection::All).await.unwrap();
    for n in 1..=12 {
        bus.publish(vec![large("a", n, 400_000)]).await.unwrap();
    }
    assert_eq!(next(&mut *reader).await, Delivery::CaughtUp);
    let mut sequences = Vec::new();
    while sequences.len() < 12 {
        let Delivery::Entries(entries) = next(&mut *reader).await else {
            panic!("entries");
        };
        assert!(entries.len() <= 3, "a delivery has about a mebibyte");
        sequences.extend(entries.iter().map(sequence));
    }
    assert_eq!(sequences, (1..=12).collect::<Vec<_>>());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_cluster_dropped_is_said() {
    // The mock cluster keeps about 5 MB of a partition.
    let mock = Mock::new();
    let bus = mock.bus();
    for n in 1..=30 {
        bus.publish(vec![noise("a", n, 400_000)]).await.unwrap();
    }
    // It knows none of the partitions.
    let from_first = Start::At(Cursor::default());
    let mut reader = bus.subscribe(Topic::MonitoringData, from_first, keys(&["a"])).await.unwrap();
    let read = history(&mut *reader).await;
    let [(0, last)] = read.skipped[..] else {
        panic!("one gap from the beginning: {:?}", read.skipped);
    };
    assert_eq!(read.sequences(), (last + 2..=30).collect::<Vec<_>>());
    bus.publish(vec![metrics("a", 31)]).await.unwrap();
    assert_eq!(live(&mut *reader, 1).await, [31]);
}
