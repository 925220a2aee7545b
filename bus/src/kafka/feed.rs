//! Messages of some partitions of a topic, each from a given offset on, as librdkafka fetches them.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use rdkafka::config::FromClientConfigAndContext;
use rdkafka::consumer::stream_consumer::StreamPartitionQueue;
use rdkafka::consumer::{Consumer, MessageStream, StreamConsumer};
use rdkafka::error::{KafkaError, KafkaResult, RDKafkaErrorCode};
use rdkafka::message::{BorrowedMessage, Message};
use rdkafka::{Offset as KafkaOffset, TopicPartitionList};
use tokio_stream::Stream;

use super::client::{Log, discard};
use super::form::Raw;
use super::lookup::kafka_partition;
use super::options::Options;
use crate::contract::{Offset, Partition};

/// A client that fetches. It must be made, and is best dropped, within a tokio runtime.
pub(super) struct Feed {
    /// In the order of the partitions given. Taken out by the drop.
    queues: Vec<StreamPartitionQueue<Log>>,
    consumer: Option<Arc<StreamConsumer<Log>>>,
}

/// Something other than a message.
#[derive(Debug)]
pub(super) enum Interruption {
    /// There is nothing more in this partition now.
    End,
    /// Records cannot be decoded. The feed passes over them and goes on.
    Damage,
    /// The feed is at an end; a new one has to be made from where the reader is.
    Broken(KafkaError),
}

impl Feed {
    pub(super) fn new(
        options: &Options,
        topic: &str,
        positions: impl ExactSizeIterator<Item = (Partition, u64)>,
    ) -> KafkaResult<Self> {
        let config = options.reader(u32::try_from(positions.len()).unwrap_or(u32::MAX));
        let consumer = StreamConsumer::from_config_and_context(&config, Log::default())?;
        let consumer = Arc::new(consumer);
        let mut feed = Self { queues: Vec::new(), consumer: Some(Arc::clone(&consumer)) };
        let mut assignment = TopicPartitionList::with_capacity(positions.len());
        for (partition, position) in positions {
            let partition = kafka_partition(partition);
            let offset = KafkaOffset::Offset(i64::try_from(position).unwrap_or(i64::MAX));
            assignment.add_partition_offset(topic, partition, offset)?;
            // Before the assignment, so that nothing goes to the queue that all have in common. librdkafka leaves a
            // queue alone that the application has taken (`RD_KAFKA_Q_F_FWD_APP`).
            let queue = consumer.split_partition_queue(topic, partition);
            let missing = KafkaError::OffsetFetch(RDKafkaErrorCode::UnknownPartition);
            feed.queues.push(queue.ok_or(missing)?);
        }
        consumer.assign(&assignment)?;
        Ok(feed)
    }

    pub(super) fn streams(&self) -> Streams<'_> {
        Streams {
            common: self.consumer.as_ref().map(|consumer| consumer.stream()),
            partitions: self.queues.iter().map(StreamPartitionQueue::stream).collect(),
        }
    }
}

impl Drop for Feed {
    fn drop(&mut self) {
        // The queues hold the consumer too.
        let parts = (std::mem::take(&mut self.queues), self.consumer.take());
        discard(move || drop(parts));
    }
}

/// What is polled for messages while one future waits.
pub(super) struct Streams<'a> {
    common: Option<MessageStream<'a, Log>>,
    partitions: Vec<MessageStream<'a, Log>>,
}

impl Streams<'_> {
    /// The next message of the partition at `index`, through `take`.
    pub(super) fn poll_partition<T>(
        &mut self,
        index: usize,
        cx: &mut Context<'_>,
        take: impl FnOnce(Raw<'_>) -> T,
    ) -> Poll<Result<T, Interruption>> {
        poll(&mut self.partitions[index], cx).map(|message| match message {
            Ok(message) => Ok(take(raw(&message))),
            Err(KafkaError::PartitionEOF(_)) => Err(Interruption::End),
            Err(error) if is_damage(&error) => Err(Interruption::Damage),
            Err(error) => Err(Interruption::Broken(error)),
        })
    }

    /// Serves what concerns no partition. Ready when the feed is broken.
    pub(super) fn poll_common(&mut self, cx: &mut Context<'_>) -> Poll<KafkaError> {
        /// Events that are looked at in one go.
        const EVENTS_MAX: usize = 100;
        let Some(common) = &mut self.common else {
            return Poll::Pending;
        };
        for _ in 0..EVENTS_MAX {
            match poll(common, cx) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(Err(error @ KafkaError::MessageConsumptionFatal(_))) => {
                    return Poll::Ready(error);
                }
                // A broker that is away, say: librdkafka tries again, and `Log` has told of it.
                Poll::Ready(Err(_)) => {}
                // A message here would be missing from its partition: read it there, by a new feed.
                Poll::Ready(Ok(_)) => return Poll::Ready(KafkaError::NoMessageReceived),
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }
}

fn poll<'a>(
    stream: &mut MessageStream<'a, Log>,
    cx: &mut Context<'_>,
) -> Poll<KafkaResult<BorrowedMessage<'a>>> {
    Pin::new(stream).poll_next(cx).map(|message| {
        // The stream of a consumer has no end.
        message.unwrap_or(Err(KafkaError::Canceled))
    })
}

fn is_damage(error: &KafkaError) -> bool {
    matches!(
        error.rdkafka_error_code(),
        Some(
            RDKafkaErrorCode::BadMessage
                | RDKafkaErrorCode::BadCompression
                | RDKafkaErrorCode::InvalidMessage
        )
    )
}

/// A message as the form knows it.
pub(super) fn raw<'a>(message: &'a BorrowedMessage<'_>) -> Raw<'a> {
    Raw {
        // Brokers number from 0 up.
        partition: Partition(u32::try_from(message.partition()).unwrap_or(0)),
        offset: Offset(u64::try_from(message.offset()).unwrap_or(0)),
        stored_ms: message.timestamp().to_millis().unwrap_or(0),
        key: message.key(),
        value: message.payload(),
    }
}
