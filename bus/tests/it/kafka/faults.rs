//! Brokers that fail: nothing acknowledged is lost, nothing overtakes, the bus goes on.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bus::kafka::KafkaBus;
use bus::{Bus, BusError, Delivery, PublishError, Selection, Start, Subscription, Topic};
use rdkafka::types::{RDKafkaApiKey, RDKafkaRespErr};

use super::mock::Mock;
use crate::support::{metrics, next, read_all, sequence};

/// Publishes until it is acknowledged, as a server does.
async fn publish_surely(bus: &KafkaBus, name: &str, sequences: std::ops::Range<u64>) {
    for _ in 0..1000 {
        let records = sequences.clone().map(|sequence| metrics(name, sequence)).collect();
        match bus.publish(records).await {
            Ok(()) => return,
            Err(PublishError::Unavailable(_)) => {}
            Err(error) => panic!("{error:?}"),
        }
    }
    panic!("never acknowledged");
}

/// What is there: the first occurrence of each sequence comes in order, and none is missing.
async fn check_books(bus: &KafkaBus, sequences: std::ops::Range<u64>) {
    let mut seen = BTreeSet::new();
    let mut first = read_all(bus).await.sequences();
    first.retain(|sequence| seen.insert(*sequence));
    assert_eq!(first, sequences.collect::<Vec<_>>());
}

async fn check_errors(errors: &'static [RDKafkaRespErr]) {
    let mock = Mock::new();
    let bus = mock.bus();
    publish_surely(&bus, "a", 1..2).await;
    mock.order(move |cluster| cluster.request_errors(RDKafkaApiKey::Produce, errors));
    // One at a time: the mock cluster does not check the sequences of an idempotent producer, so that with two
    // requests on their way the second could pass the first there.
    for sequence in 2..102 {
        publish_surely(&bus, "a", sequence..sequence + 1).await;
    }
    check_books(&bus, 1..102).await;
    bus.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn passing_errors_are_lived_through() {
    use RDKafkaRespErr::*;
    check_errors(&[
        RD_KAFKA_RESP_ERR_NOT_LEADER_FOR_PARTITION,
        RD_KAFKA_RESP_ERR_NOT_ENOUGH_REPLICAS,
        RD_KAFKA_RESP_ERR_REQUEST_TIMED_OUT,
        RD_KAFKA_RESP_ERR_NOT_ENOUGH_REPLICAS_AFTER_APPEND,
        RD_KAFKA_RESP_ERR__TRANSPORT,
        RD_KAFKA_RESP_ERR_LEADER_NOT_AVAILABLE,
    ])
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refusal_ends_the_producer_and_a_new_one_goes_on() {
    use RDKafkaRespErr::*;
    let mock = Mock::new();
    let bus = mock.bus();
    publish_surely(&bus, "a", 1..2).await;
    let errors = [RD_KAFKA_RESP_ERR_TOPIC_AUTHORIZATION_FAILED];
    mock.order(move |cluster| cluster.request_errors(RDKafkaApiKey::Produce, &errors));
    let published = bus.publish(vec![metrics("a", 2)]).await;
    assert!(matches!(published, Err(PublishError::Unavailable(_))), "{published:?}");
    assert_eq!(bus.health().producers_replaced, 1);
    for sequence in 2..25 {
        publish_surely(&bus, "a", sequence..sequence + 1).await;
    }
    check_books(&bus, 1..25).await;
    bus.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_on_its_way_with_a_refused_record_is_answered() {
    let mock = Mock::new();
    let bus = mock.bus();
    publish_surely(&bus, "a", 1..2).await;
    let errors = [RDKafkaRespErr::RD_KAFKA_RESP_ERR_TOPIC_AUTHORIZATION_FAILED];
    mock.order(move |cluster| cluster.request_errors(RDKafkaApiKey::Produce, &errors));
    let publishers = (0..20).map(|n| {
        let bus = Arc::clone(&bus);
        tokio::spawn(async move { bus.publish(vec![metrics(&format!("agent-{n}"), n)]).await })
    });
    let publishers: Vec<_> = publishers.collect();
    let mut refused = Vec::new();
    for (n, publisher) in (0..).zip(publishers) {
        match publisher.await.unwrap() {
            Ok(()) => {}
            Err(PublishError::Unavailable(_)) => refused.push(n),
            Err(error) => panic!("{error:?}"),
        }
    }
    assert_ne!(refused, [0_u64; 0]);
    for n in refused {
        publish_surely(&bus, &format!("agent-{n}"), n..n + 1).await;
    }
    let mut found = read_all(&*bus).await.sequences();
    found.sort_unstable();
    found.dedup();
    assert_eq!(found, (0..20).collect::<Vec<_>>());
    assert_eq!(bus.health().publishes_waiting, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_record_that_brokers_find_too_large_is_not_tried_again() {
    let mock = Mock::new();
    let bus = mock.bus();
    publish_surely(&bus, "a", 1..2).await;
    let error = RDKafkaRespErr::RD_KAFKA_RESP_ERR_MSG_SIZE_TOO_LARGE;
    // First in a batch, then alone.
    mock.order(move |cluster| cluster.request_errors(RDKafkaApiKey::Produce, &[error; 2]));
    let published = bus.publish(vec![metrics("a", 2)]).await;
    assert!(matches!(published, Err(PublishError::TooLarge { .. })), "{published:?}");
    publish_surely(&bus, "a", 3..5).await;
    assert_eq!(read_all(&*bus).await.sequences(), [1, 3, 4]);
    mock.order(move |cluster| cluster.request_errors(RDKafkaApiKey::Produce, &[error]));
    // Only the batch was too large.
    bus.publish(vec![metrics("a", 5)]).await.unwrap();
    assert_eq!(read_all(&*bus).await.sequences(), [1, 3, 4, 5]);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_outage_loses_nothing_and_readers_go_on() {
    let mock = Mock::new();
    let bus = mock.bus();
    publish_surely(&bus, "a", 0..1).await;
    let start = Start::Tail;
    let mut reader = bus.subscribe(Topic::MonitoringData, start, Selection::All).await.unwrap();
    assert_eq!(next(&mut *reader).await, Delivery::CaughtUp);
    let publisher = tokio::spawn({
        let bus = Arc::clone(&bus);
        async move {
            for sequence in 1..201 {
                publish_surely(&bus, "a", sequence..sequence + 1).await;
            }
        }
    });
    for _ in 0..3 {
        tokio::time::sleep(Duration::from_millis(100)).await;
        mock.all_brokers_down();
        tokio::time::sleep(Duration::from_millis(200)).await;
        mock.all_brokers_up();
    }
    publisher.await.unwrap();
    let mut read = BTreeSet::new();
    while read.len() < 200 {
        let Delivery::Entries(entries) = next(&mut *reader).await else {
            panic!("nothing is gone");
        };
        read.extend(entries.iter().map(sequence));
    }
    check_books(&bus, 0..201).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reader_outlives_errors_of_its_fetches() {
    use RDKafkaRespErr::*;
    let mock = Mock::new();
    let bus = mock.bus();
    publish_surely(&bus, "a", 1..100).await;
    let start = Start::Tail;
    let mut reader = bus.subscribe(Topic::MonitoringData, start, Selection::All).await.unwrap();
    assert_eq!(next(&mut *reader).await, Delivery::CaughtUp);
    let errors = [
        RD_KAFKA_RESP_ERR_NOT_LEADER_FOR_PARTITION,
        RD_KAFKA_RESP_ERR__TRANSPORT,
        RD_KAFKA_RESP_ERR_UNKNOWN_LEADER_EPOCH,
        RD_KAFKA_RESP_ERR_OFFSET_OUT_OF_RANGE,
        RD_KAFKA_RESP_ERR_UNKNOWN,
    ];
    mock.order(move |cluster| cluster.request_errors(RDKafkaApiKey::Fetch, &errors));
    publish_surely(&bus, "a", 100..200).await;
    assert_eq!(patiently(&mut *reader, 100).await.0, (100..200).collect::<Vec<_>>());
}

/// The next `count` sequences, and how often the reader could not go on in between.
async fn patiently(reader: &mut dyn Subscription, count: usize) -> (Vec<u64>, u32) {
    let (mut sequences, mut failures) = (Vec::new(), 0);
    while sequences.len() < count {
        let delivery = tokio::time::timeout(Duration::from_secs(120), reader.next());
        match delivery.await.unwrap() {
            Ok(Delivery::Entries(entries)) => sequences.extend(entries.iter().map(sequence)),
            Ok(other) => panic!("{other:?} instead of entries"),
            Err(BusError::Unavailable(_)) => failures += 1,
            Err(error) => panic!("{error:?}"),
        }
    }
    (sequences, failures)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reader_that_may_not_read_says_so_and_spares_the_brokers() {
    let mock = Mock::new();
    let bus = mock.bus();
    publish_surely(&bus, "a", 1..10).await;
    let error = RDKafkaRespErr::RD_KAFKA_RESP_ERR_TOPIC_AUTHORIZATION_FAILED;
    mock.order(move |cluster| cluster.request_errors(RDKafkaApiKey::Fetch, &[error; 1000]));
    let start = Start::Oldest;
    let mut reader = bus.subscribe(Topic::MonitoringData, start, Selection::All).await.unwrap();
    let begun_at = Instant::now();
    for _ in 0..3 {
        let said = tokio::time::timeout(Duration::from_secs(60), reader.next()).await.unwrap();
        assert!(matches!(said, Err(BusError::Unavailable(_))), "{said:?}");
    }
    assert!(Duration::from_secs(2) <= begun_at.elapsed(), "a second between the attempts");
    mock.order(move |cluster| cluster.clear_request_errors(RDKafkaApiKey::Fetch));
    assert_eq!(patiently(&mut *reader, 9).await.0, (1..10).collect::<Vec<_>>());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reader_ends_with_the_bus_also_while_brokers_are_away() {
    let mock = Mock::new();
    let bus = mock.bus();
    publish_surely(&bus, "a", 1..2).await;
    let start = Start::Tail;
    let mut reader = bus.subscribe(Topic::MonitoringData, start, Selection::All).await.unwrap();
    assert_eq!(next(&mut *reader).await, Delivery::CaughtUp);
    mock.all_brokers_down();
    let waiting = tokio::spawn(async move { reader.next().await });
    bus.close().await.unwrap();
    assert!(matches!(waiting.await.unwrap(), Err(BusError::Closed)));
}
