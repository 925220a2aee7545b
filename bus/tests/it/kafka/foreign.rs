//! Records of others: what is understood, what is skipped and counted.

use bus::kafka::{Reason, RejectedCount};
use bus::{Bus, Payload, Selection, Start, Topic};
use rdkafka::ClientConfig;
use rdkafka::producer::{BaseRecord, DefaultProducerContext, Producer as _, ThreadedProducer};

use super::mock::Mock;
use crate::support::{history, keys, metrics, read, read_all, sequence};

type Producer = ThreadedProducer<DefaultProducerContext>;

/// A producer that knows nothing of ours.
fn producer(mock: &Mock, partitioner: &str) -> Producer {
    let mut config = ClientConfig::new();
    config.set("bootstrap.servers", &mock.bootstrap_servers);
    config.set("partitioner", partitioner);
    config.create().unwrap()
}

fn send(producer: &Producer, topic: Topic, key: Option<&str>, value: Option<&[u8]>) {
    let record = BaseRecord { key, payload: value, ..BaseRecord::to(topic.name()) };
    producer.send(record).map_err(|(error, _)| error).unwrap();
}

fn flush(producer: &Producer) {
    producer.flush(std::time::Duration::from_secs(60)).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_record_is_skipped_and_counted() {
    let mock = Mock::new();
    let bus = mock.bus();
    let other = producer(&mock, "random");
    let huge = format!(r#"{{"agent_id":"a","type":"STOP","fill":"{}"}}"#, "x".repeat(600_000));
    let bad: [(Option<&str>, Option<&[u8]>); 9] = [
        (Some("a"), Some(b"{")),
        (Some("a"), Some(b"\x00\xff")),
        (Some("a"), Some(b"[1,2]")),
        (Some("a"), Some(br#"{"agent_id":"a","type":"EXPLODE"}"#)),
        (Some("a"), Some(br#"{"agent_id":"b","type":"STOP"}"#)),
        (None, Some(br#"{"agent_id":"../../etc","type":"STOP"}"#)),
        (Some("a"), None),
        (Some("a"), Some(b"")),
        (Some("a"), Some(huge.as_bytes())),
    ];
    for (key, value) in bad {
        send(&other, Topic::Commands, key, value);
    }
    send(&other, Topic::Commands, Some("a"), Some(br#"{"agent_id":"a","type":"STOP"}"#));
    // A producer without keys is understood too.
    send(&other, Topic::Commands, None, Some(br#"{"agent_id":"b","type":"status"}"#));
    flush(&other);

    let start = Start::Oldest;
    let mut reader = bus.subscribe(Topic::Commands, start, Selection::All).await.unwrap();
    let read = history(&mut *reader).await;
    assert_eq!(read.skipped, []);
    let mut names: Vec<String> = read.entries.iter().map(|entry| entry.key.to_string()).collect();
    names.sort_unstable();
    assert_eq!(names, ["a", "b"]);
    let topic = Topic::Commands;
    let count = |reason, count| RejectedCount { topic, reason, count };
    assert_eq!(
        bus.rejected(),
        [
            count(Reason::Empty, 2),
            count(Reason::TooLarge, 1),
            count(Reason::NotJson, 2),
            count(Reason::Form, 2),
            count(Reason::Key, 2),
        ]
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn the_newest_are_counted_without_what_is_no_record() {
    let mock = Mock::new();
    let bus = mock.bus();
    bus.publish((1..=5).map(|n| metrics("a", n)).collect()).await.unwrap();
    let other = producer(&mock, "murmur2");
    (0..100).for_each(|_| send(&other, Topic::MonitoringData, Some("a"), Some(b"garbage")));
    flush(&other);
    for selection in [Selection::All, keys(&["a"])] {
        assert_eq!(read(&*bus, Start::Last(2), selection).await.sequences(), [4, 5]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_are_found_wherever_common_clients_put_them() {
    let mock = Mock::new();
    let bus = mock.bus();
    let names: Vec<String> = (0..20).map(|n| format!("agent-{n}")).collect();
    let form = |name: &str, n: u32| {
        format!(
            r#"{{"agent_id":"{name}","timestamp":"2026-01-01T00:00:00","metrics":{{"cpu_percent":1}},"sequence":{n}}}"#
        )
    };
    // The rule of the Java client, and that of librdkafka's own default, which Python has.
    for (partitioner, n) in [("murmur2_random", 1), ("consistent_random", 2)] {
        let other = producer(&mock, partitioner);
        for name in &names {
            let value = form(name, n);
            send(&other, Topic::MonitoringData, Some(name), Some(value.as_bytes()));
        }
        flush(&other);
    }
    for name in &names {
        let found = read(&*bus, Start::Oldest, keys(&[name])).await.entries;
        let mut sequences: Vec<u64> = found.iter().map(sequence).collect();
        sequences.sort_unstable();
        assert_eq!(sequences, [1, 2], "{name}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_plain_consumer_finds_key_value_and_headers() {
    use rdkafka::Message as _;
    use rdkafka::consumer::{BaseConsumer, Consumer as _};
    use rdkafka::message::Headers as _;

    let mock = Mock::new();
    let bus = mock.bus();
    let mut record = metrics("a", 7);
    if let Payload::Metrics(metrics) = &mut record.payload {
        metrics.boot = Some(proto::Boot { counter: 3, nonce: 255 });
    }
    bus.publish(vec![record]).await.unwrap();
    let partition = read_all(&*bus).await.entries[0].partition.0;

    let mut config = ClientConfig::new();
    config.set("bootstrap.servers", &mock.bootstrap_servers).set("group.id", "other");
    let consumer: BaseConsumer = config.create().unwrap();
    let mut all = rdkafka::TopicPartitionList::new();
    let partition = partition.try_into().unwrap();
    all.add_partition_offset(Topic::MonitoringData.name(), partition, rdkafka::Offset::Beginning)
        .unwrap();
    consumer.assign(&all).unwrap();
    let message = consumer.poll(std::time::Duration::from_secs(60)).unwrap().unwrap();
    assert_eq!(message.key(), Some(b"a".as_slice()));
    let value: serde_json::Value = serde_json::from_slice(message.payload().unwrap()).unwrap();
    assert_eq!(value["agent_id"], "a");
    assert_eq!(value["metrics"]["cpu_percent"], 0.01);
    let headers = message.headers().unwrap().iter();
    let headers: Vec<_> = headers.map(|header| (header.key, header.value.unwrap())).collect();
    let boot: &[u8] = b"3-00000000000000ff";
    assert_eq!(headers, [("boot", boot), ("sequence", b"7")]);
}
