//! A third party on Kafka: reads topics to their end and puts records on them. It knows their names and JSON, and
//! nothing of the bus.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use rdkafka::config::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::error::KafkaError;
use rdkafka::message::Message as _;
use rdkafka::producer::{BaseProducer, BaseRecord, Producer as _};
use rdkafka::{Offset, TopicPartitionList};
use serde_json::Value;

use crate::deployment::{LIMIT, wait_for};

/// How long one question to the brokers may take before it is asked again.
const QUESTION: Duration = Duration::from_secs(10);

/// A record as it stands on a topic.
#[derive(Clone, Debug)]
pub(crate) struct Message {
    pub(crate) key: String,
    pub(crate) value: Value,
}

/// Reads one topic again and again, each time up to what is there.
pub(crate) struct Reader {
    consumer: BaseConsumer,
    topic: &'static str,
    /// The next offset by partition.
    next: BTreeMap<i32, i64>,
    messages: Vec<Message>,
}

impl Reader {
    /// One that sees what is put on `topic` from now on. The topic need not be there yet.
    pub(crate) fn from_now(brokers: &str, topic: &'static str) -> Self {
        let consumer: BaseConsumer = ClientConfig::new()
            .set("bootstrap.servers", brokers)
            // It is no member of a group; librdkafka wants a name all the same.
            .set("group.id", "independent-reader")
            .set("enable.auto.commit", "false")
            .set("auto.offset.reset", "error")
            .create()
            .unwrap();
        let mut reader = Self { consumer, topic, next: BTreeMap::new(), messages: Vec::new() };
        reader.next = reader.ends();
        reader
    }

    /// Everything since, in the order of each partition.
    #[track_caller]
    pub(crate) fn read(&mut self) -> &[Message] {
        let ends = self.ends();
        let mut assignment = TopicPartitionList::new();
        for (partition, end) in &ends {
            let next = *self.next.entry(*partition).or_insert(0);
            if next < *end {
                let offset = Offset::Offset(next);
                assignment.add_partition_offset(self.topic, *partition, offset).unwrap();
            }
        }
        self.consumer.assign(&assignment).unwrap();
        let deadline = Instant::now() + LIMIT;
        while ends.iter().any(|(partition, end)| self.next[partition] < *end) {
            assert!(Instant::now() < deadline, "{} cannot be read to {ends:?}", self.topic);
            match self.consumer.poll(QUESTION) {
                Some(Ok(message)) => {
                    let key = message.key().unwrap_or_default();
                    let value = message.payload().unwrap_or_default();
                    // What others put there may be no JSON.
                    let value = serde_json::from_slice(value).unwrap_or_default();
                    let key = String::from_utf8_lossy(key).into_owned();
                    self.next.insert(message.partition(), message.offset() + 1);
                    self.messages.push(Message { key, value });
                }
                Some(Err(KafkaError::MessageConsumptionFatal(code))) => panic!("{code}"),
                // A broker that was away for a moment: librdkafka tries again.
                Some(Err(_)) | None => {}
            }
        }
        self.consumer.unassign().unwrap();
        &self.messages
    }

    /// What was put there for `agent` since.
    #[track_caller]
    pub(crate) fn read_of(&mut self, agent: &str) -> Vec<Value> {
        let messages = self.read().iter().filter(|message| message.key == agent);
        messages.map(|message| message.value.clone()).collect()
    }

    /// Waits for something of `agent` for which `condition` holds.
    #[track_caller]
    pub(crate) fn wait_for(
        &mut self,
        what: &str,
        agent: &str,
        condition: impl Fn(&Value) -> bool,
    ) -> Value {
        wait_for(what, || self.read_of(agent).into_iter().find(&condition))
    }

    /// Where each partition ends; none while there is no topic.
    #[track_caller]
    fn ends(&self) -> BTreeMap<i32, i64> {
        wait_for("the ends of a topic", || {
            let metadata = self.consumer.fetch_metadata(Some(self.topic), QUESTION).ok()?;
            let topic = metadata.topics().iter().find(|topic| topic.name() == self.topic)?;
            let end = |partition: i32| {
                let watermarks = self.consumer.fetch_watermarks(self.topic, partition, QUESTION);
                watermarks.ok().map(|(_, end)| (partition, end))
            };
            topic.partitions().iter().map(|partition| end(partition.id())).collect()
        })
    }
}

/// Puts `value` on `topic`, with the settings that a producer has who sets nothing.
pub(crate) fn put(brokers: &str, topic: &str, key: &str, value: &Value) {
    let mut config = ClientConfig::new();
    let producer: BaseProducer = config.set("bootstrap.servers", brokers).create().unwrap();
    let value = value.to_string();
    let sent = producer.send(BaseRecord::to(topic).key(key).payload(&value));
    sent.map_err(|(error, _)| error).unwrap();
    producer.flush(LIMIT).unwrap();
}
