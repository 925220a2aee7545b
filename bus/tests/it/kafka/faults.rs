//! Brokers that fail: nothing acknowledged is lost, nothing overtakes, the bus goes on.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use bus::kafka::KafkaBus;
use bus::{Bus, Delivery, PublishError, Selection, Start, Topic};
use rdkafka::types::{RDKafkaApiKey, RDKafkaRespErr};

use super::mock::Mock;
use crate::support::{live, metrics, next, read_all, sequence};

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
    for first in (2..102).step_by(5) {
        publish_surely(&bus, "a", first..first + 5).await;
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
    // Several on their way at once: those after the refused one must not arrive before it.
    let mut waiting = Vec::new();
    for first in (2..22).step_by(5) {
        let records = (first..first + 5).map(|sequence| metrics("a", sequence)).collect();
        let bus = Arc::clone(&bus);
        let mut publish = Box::pin(async move { bus.publish(records).await });
        // Polled once, so that they are sent in this order.
        let sent = tokio::time::timeout(Duration::ZERO, &mut publish).await;
        waiting.push((first, sent.ok(), publish));
    }
    let mut again = Vec::new();
    for (first, outcome, publish) in waiting {
        let outcome = match outcome {
            Some(outcome) => outcome,
            None => publish.await,
        };
        match outcome {
            Ok(()) => assert_eq!(again, [0_u64; 0], "{first} has overtaken"),
            Err(PublishError::Unavailable(_)) => again.push(first),
            Err(error) => panic!("{error:?}"),
        }
    }
    assert_ne!(again, [0_u64; 0], "one was refused");
    for first in again {
        publish_surely(&bus, "a", first..first + 5).await;
    }
    publish_surely(&bus, "a", 22..25).await;
    check_books(&bus, 1..25).await;
    assert!(1 <= bus.health().producers_replaced);
    bus.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_record_that_brokers_find_too_large_is_not_tried_again() {
    let mock = Mock::new();
    let bus = mock.bus();
    publish_surely(&bus, "a", 1..2).await;
    let errors = [RDKafkaRespErr::RD_KAFKA_RESP_ERR_MSG_SIZE_TOO_LARGE];
    mock.order(move |cluster| cluster.request_errors(RDKafkaApiKey::Produce, &errors));
    let published = bus.publish(vec![metrics("a", 2)]).await;
    assert!(matches!(published, Err(PublishError::TooLarge { .. })), "{published:?}");
    publish_surely(&bus, "a", 3..5).await;
    assert_eq!(read_all(&*bus).await.sequences(), [1, 3, 4]);
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
            for first in (1..201).step_by(2) {
                publish_surely(&bus, "a", first..first + 2).await;
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
    assert_eq!(live(&mut *reader, 100).await, (100..200).collect::<Vec<_>>());
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
    assert!(matches!(waiting.await.unwrap(), Err(bus::BusError::Closed)));
}
