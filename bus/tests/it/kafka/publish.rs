//! Publishing on Kafka: bounds, deadlines, partitions.

use std::time::Duration;

use bus::kafka::{KafkaBus, Options};
use bus::{Bus, PublishError, Topic};

use super::mock::{Mock, PARTITIONS};
use crate::support::{any, large, metrics, read_all};

#[tokio::test(flavor = "multi_thread")]
async fn a_record_that_is_too_large_is_refused_before_it_is_sent() {
    let mock = Mock::new();
    let bus = KafkaBus::open(Options { record_bytes_max: 1000, ..mock.options() }).unwrap();
    let published = bus.publish(vec![metrics("a", 1), large("a", 2, 1000)]).await;
    assert!(matches!(published, Err(PublishError::TooLarge { max: 1000, .. })), "{published:?}");
    assert_eq!(read_all(&*bus).await.entries.len(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_broker_the_bus_opens_and_says_that_it_is_unavailable() {
    let mock = Mock::new();
    let short = Duration::from_millis(300);
    let options = Options { publish_timeout: short, request_timeout: short, ..mock.options() };
    drop(mock);
    let bus = KafkaBus::open(options).unwrap();
    let published = bus.publish(vec![metrics("a", 1)]).await;
    assert!(matches!(published, Err(PublishError::Unavailable(_))), "{published:?}");
    let read = bus.watermarks(Topic::Commands).await;
    assert!(matches!(read, Err(bus::BusError::Unavailable(_))));
    assert!(bus.ensure_topics().await.is_err());
    bus.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_waits_for_brokers_is_bounded_and_arrives_in_order() {
    const RECORD_BYTES: usize = 100_000;
    let mock = Mock::new();
    let timeout = Duration::from_millis(500);
    let options = Options {
        queue_bytes: 1024 * 1024,
        publish_timeout: timeout,
        record_bytes_max: 2 * RECORD_BYTES,
        ..mock.options()
    };
    let bus = KafkaBus::open(options).unwrap();
    // So that the topics are known, and the producer is there.
    while bus.publish(vec![metrics("a", 0)]).await.is_err() {}
    mock.all_brokers_down();
    let mut given_up = 0;
    for sequence in 1..=20 {
        let published = bus.publish(vec![large("a", sequence, RECORD_BYTES)]).await;
        assert!(matches!(published, Err(PublishError::Unavailable(_))), "{published:?}");
        given_up += 1;
    }
    let health = bus.health();
    assert_eq!(given_up, 20);
    assert_eq!(health.publishes_waiting, 10, "as many as fit into the budget");
    assert!(timeout * 10 <= health.stalled, "{health:?}");

    mock.all_brokers_up();
    // What was given up is there, in order; this one comes after.
    while bus.publish(vec![metrics("a", 21)]).await.is_err() {}
    let mut sequences = read_all(&*bus).await.sequences();
    sequences.dedup();
    assert_eq!(sequences, (0..=10).chain([21]).collect::<Vec<_>>());
    assert_eq!(bus.health().stalled, Duration::ZERO);
    bus.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cancelled_publish_gives_its_room_back() {
    let mock = Mock::new();
    let options = Options { queue_bytes: 1024 * 1024, ..mock.options() };
    let bus = KafkaBus::open(options).unwrap();
    for sequence in 1..=50 {
        // Larger than the budget together, many times.
        let records = vec![large("a", sequence, 400_000)];
        let publish = bus.publish(records);
        tokio::time::timeout(Duration::from_millis(1), publish).await.ok();
    }
    bus.publish(vec![metrics("a", 51)]).await.unwrap();
    assert_eq!(bus.health().publishes_waiting, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn records_are_in_the_partition_of_the_common_rule() {
    let mock = Mock::new();
    let bus = mock.bus();
    let names: Vec<String> = (0..50).map(|n| format!("agent-{n}")).collect();
    bus.publish(names.iter().map(|name| metrics(name, 1)).collect()).await.unwrap();
    let entries = read_all(&*bus).await.entries;
    assert_eq!(entries.len(), names.len());
    // A reader of one key reads only the partitions of the rule. If librdkafka followed another, it would miss some.
    for name in &names {
        let read = crate::support::read(&*bus, bus::Start::Oldest, crate::support::keys(&[name]));
        assert_eq!(read.await.entries.len(), 1, "{name}");
    }
    let mut used: Vec<u32> = entries.iter().map(|entry| entry.partition.0).collect();
    used.sort_unstable();
    used.dedup();
    assert_eq!(used, (0..PARTITIONS).collect::<Vec<_>>(), "spread over all of them");
}

#[tokio::test(flavor = "multi_thread")]
async fn closing_lets_what_is_on_its_way_arrive() {
    let mock = Mock::new();
    let bus = mock.bus();
    bus.publish(vec![any(Topic::Commands, "a")]).await.unwrap();
    let publishing = tokio::spawn({
        let bus = std::sync::Arc::clone(&bus);
        async move {
            let mut acknowledged = 0;
            for sequence in 1.. {
                match bus.publish(vec![metrics("a", sequence)]).await {
                    Ok(()) => acknowledged = sequence,
                    Err(_) => break,
                }
            }
            acknowledged
        }
    });
    tokio::time::sleep(Duration::from_millis(100)).await;
    bus.close().await.unwrap();
    let acknowledged = publishing.await.unwrap();
    let sequences = read_all(&*mock.bus()).await.sequences();
    assert!((1..=acknowledged).all(|sequence| sequences.contains(&sequence)));
}
