//! Questions to the brokers: which partitions a topic has, and what they hold.

use std::fmt;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use rdkafka::config::FromClientConfigAndContext;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::{KafkaError, KafkaResult, RDKafkaErrorCode};
use rdkafka::metadata::Metadata;
use rdkafka::{Offset as KafkaOffset, TopicPartitionList};

use super::client::Log;
use super::merge::Extent;
use super::options::{OpenError, Options};
use crate::contract::Partition;

/// Why a question has no answer.
#[derive(Debug, thiserror::Error)]
pub(super) enum LookupError {
    #[error("topic {topic} does not exist")]
    NoTopic { topic: String },
    #[error("no answer about topic {topic}")]
    NoAnswer {
        topic: String,
        #[source]
        source: KafkaError,
    },
}

/// What is known of a topic from its metadata.
#[derive(Clone, Copy, Debug)]
pub(super) struct TopicShape {
    pub(super) partitions: u32,
    /// The least number of replicas that a partition has.
    pub(super) replicas: u32,
}

/// A client that reads no records. All its calls block, for at most `timeout`.
pub(super) struct Lookup {
    consumer: BaseConsumer<Log>,
    timeout: Duration,
}

impl Lookup {
    pub(super) fn new(options: &Options) -> Result<Arc<Self>, OpenError> {
        let config = options.client();
        let consumer = BaseConsumer::from_config_and_context(&config, Log::default())
            .map_err(OpenError::Client)?;
        let lookup = Arc::new(Self { consumer, timeout: options.request_timeout });
        let weak = Arc::downgrade(&lookup);
        // Nobody joins it: it ends soon after the last owner.
        drop(super::spawn("kafka-events", move || serve_events(&weak)));
        Ok(lookup)
    }

    /// What the topic is like; none when it does not exist.
    pub(super) fn shape(&self, topic: &str) -> Result<Option<TopicShape>, LookupError> {
        let no_answer = |source| LookupError::NoAnswer { topic: topic.to_owned(), source };
        let metadata = self.consumer.fetch_metadata(Some(topic), self.timeout);
        shape(&metadata.map_err(no_answer)?, topic).map_err(no_answer)
    }

    /// The partitions of a topic that exists.
    pub(super) fn partitions(&self, topic: &str) -> Result<u32, LookupError> {
        match self.shape(topic)? {
            Some(shape) => Ok(shape.partitions),
            None => Err(LookupError::NoTopic { topic: topic.to_owned() }),
        }
    }

    /// What these partitions hold.
    pub(super) fn extents(
        &self,
        topic: &str,
        partitions: &[Partition],
    ) -> Result<Vec<Extent>, LookupError> {
        // The earliest first: retention moves it only up, to at most an end that was asked for later.
        let firsts = self.offsets(topic, partitions, KafkaOffset::Beginning)?;
        let nexts = self.offsets(topic, partitions, KafkaOffset::End)?;
        let extents = partitions.iter().zip(firsts).zip(nexts);
        let extent = |((partition, first), next): ((&Partition, Option<u64>), Option<u64>)| {
            let next = next.unwrap_or(0);
            Extent { partition: *partition, first: first.unwrap_or(0).min(next), next }
        };
        Ok(extents.map(extent).collect())
    }

    /// The first offset in each of these partitions with a record of `unix_ms` or later; none where there is none.
    pub(super) fn offsets_at(
        &self,
        topic: &str,
        partitions: &[Partition],
        unix_ms: i64,
    ) -> Result<Vec<Option<u64>>, LookupError> {
        self.offsets(topic, partitions, KafkaOffset::Offset(unix_ms.max(0)))
    }

    /// One request to each leader. `time` is a time in place of an offset, or one of the two ends. A leader that has
    /// just changed, or is not there yet, is asked again until the time is up.
    fn offsets(
        &self,
        topic: &str,
        partitions: &[Partition],
        time: KafkaOffset,
    ) -> Result<Vec<Option<u64>>, LookupError> {
        const PAUSE: Duration = Duration::from_millis(50);
        if partitions.is_empty() {
            return Ok(Vec::new());
        }
        let begun_at = Instant::now();
        loop {
            let left = self.timeout.saturating_sub(begun_at.elapsed());
            match self.offsets_once(topic, partitions, time, left) {
                Ok(offsets) => return Ok(offsets),
                Err(error) if is_passing(&error) && PAUSE < left => std::thread::sleep(PAUSE),
                Err(source) => {
                    return Err(LookupError::NoAnswer { topic: topic.to_owned(), source });
                }
            }
        }
    }

    fn offsets_once(
        &self,
        topic: &str,
        partitions: &[Partition],
        time: KafkaOffset,
        timeout: Duration,
    ) -> KafkaResult<Vec<Option<u64>>> {
        let mut times = TopicPartitionList::with_capacity(partitions.len());
        for partition in partitions {
            times.add_partition_offset(topic, kafka_partition(*partition), time)?;
        }
        let answers = self.consumer.offsets_for_times(times, timeout)?;
        let answer = |partition: &Partition| {
            let missing = KafkaError::OffsetFetch(RDKafkaErrorCode::UnknownPartition);
            let found = answers.find_partition(topic, kafka_partition(*partition));
            let element = found.ok_or(missing)?;
            element.error()?;
            Ok(match element.offset() {
                KafkaOffset::Offset(offset) => u64::try_from(offset).ok(),
                _ => None,
            })
        };
        partitions.iter().map(answer).collect()
    }
}

/// Whether asking again soon may help, while brokers elect leaders and tell each other.
fn is_passing(error: &KafkaError) -> bool {
    matches!(
        error.rdkafka_error_code(),
        Some(
            RDKafkaErrorCode::NotLeaderForPartition
                | RDKafkaErrorCode::LeaderNotAvailable
                | RDKafkaErrorCode::ReplicaNotAvailable
                | RDKafkaErrorCode::UnknownTopicOrPartition
                | RDKafkaErrorCode::UnknownPartition
                | RDKafkaErrorCode::FencedLeaderEpoch
                | RDKafkaErrorCode::UnknownLeaderEpoch
                | RDKafkaErrorCode::OffsetNotAvailable
                | RDKafkaErrorCode::BrokerTransportFailure
                | RDKafkaErrorCode::RequestTimedOut
                | RDKafkaErrorCode::KafkaStorageError
        )
    )
}

impl fmt::Debug for Lookup {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Lookup")
    }
}

fn shape(metadata: &Metadata, topic: &str) -> Result<Option<TopicShape>, KafkaError> {
    let Some(found) = metadata.topics().iter().find(|found| found.name() == topic) else {
        return Ok(None);
    };
    match found.error().map(RDKafkaErrorCode::from) {
        None => {}
        Some(RDKafkaErrorCode::UnknownTopicOrPartition | RDKafkaErrorCode::UnknownTopic) => {
            return Ok(None);
        }
        Some(code) => return Err(KafkaError::MetadataFetch(code)),
    }
    let partitions = found.partitions();
    if partitions.is_empty() {
        // It is being made, or has just been removed.
        return Ok(None);
    }
    let replicas = partitions.iter().map(|partition| partition.replicas().len()).min();
    let narrow = |count: usize| u32::try_from(count).unwrap_or(u32::MAX);
    Ok(Some(TopicShape {
        partitions: narrow(partitions.len()),
        replicas: narrow(replicas.unwrap_or(0)),
    }))
}

/// As librdkafka counts. Brokers count in 31 bits, so that no partition is lost.
pub(super) fn kafka_partition(partition: Partition) -> i32 {
    i32::try_from(partition.0).unwrap_or(i32::MAX)
}

/// Takes errors and log lines out of the client's queue, which would otherwise grow while brokers are away.
fn serve_events(lookup: &Weak<Lookup>) {
    const PAUSE: Duration = Duration::from_millis(500);
    while let Some(lookup) = lookup.upgrade() {
        // What is an error was logged on its way here.
        while lookup.consumer.poll(Duration::ZERO).is_some() {}
        drop(lookup);
        std::thread::sleep(PAUSE);
    }
}
