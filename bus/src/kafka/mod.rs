//! The bus on Apache Kafka, for more than one machine.
//!
//! Topics are those of the embedded bus, keys are agent ids, values are the forms of [`json`](crate::json), so that any
//! consumer can read them; `docs/wire-format.md` says what other producers may send.
//!
//! Publishing: `producer` sends and learns what became of each message. Reading: a `reader` has a `feed` of messages,
//! a queue for each partition, and the rules of `merge`; where it begins is found by `start` and `last`. `lookup` asks
//! brokers what they hold, `topics` creates what is absent. What librdkafka is told is in `options`.
//!
//! What is not here: consumer groups, for readers are independent of each other; transactions; followers as sources.

mod client;
mod feed;
mod form;
mod last;
mod lookup;
mod merge;
mod options;
mod partitioner;
mod producer;
mod properties;
mod reader;
mod rejected;
mod start;
mod survey;
mod topics;

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use tokio::sync::{Mutex, Semaphore, oneshot, watch};

pub use crate::embedded::Retention;
pub use options::{OpenError, Options};
pub use producer::Health;
pub use properties::{PropertiesError, read_properties};
pub use rejected::{Reason, RejectedCount};
pub use topics::{TopicState, TopicWarning, TopicsError};

use self::form::Message;
use self::lookup::Lookup;
use self::options::Batching;
use self::producer::{Failure, Lines};
use self::reader::Reader;
use self::rejected::Rejections;
use self::survey::Scope;
use crate::contract::{
    Bus, BusError, Offset, PublishError, Rejected, Selection, Start, Subscription, Watermarks,
};
use crate::record::Record;
use crate::topic::Topic;

/// How long `close` waits for records that are on their way.
const FLUSH_WAIT_MAX: Duration = Duration::from_secs(5);

/// A [`Bus`] on Kafka brokers.
///
/// Opened without any broker there, it works as soon as there is one; until then publishing and subscribing answer
/// [`Unavailable`](PublishError::Unavailable) after their time, and subscriptions that are open wait.
pub struct KafkaBus {
    shared: Arc<Shared>,
    lines: Arc<Lines>,
    /// For messages of a batch that was too large for the brokers.
    single_lines: Arc<Lines>,
    /// A permit for each byte that may be on its way. Closed when the bus is.
    budget: Arc<Semaphore>,
    budget_bytes: u32,
    /// Whether all topics were seen to exist. Publishing to one that does not would have it created by a broker, with
    /// whatever number of partitions that is set to.
    topics_exist: AtomicBool,
    /// Held by who creates topics or closes.
    upkeep: Mutex<()>,
}

/// What readers share with the bus.
#[derive(Debug)]
struct Shared {
    options: Arc<Options>,
    lookup: Arc<Lookup>,
    rejections: Rejections,
    closed: watch::Sender<bool>,
}

impl KafkaBus {
    /// Makes the clients. Reaches for no broker yet.
    ///
    /// # Errors
    ///
    /// When a property is one that the bus relies on, or librdkafka refuses it, or cannot start. See [`OpenError`].
    pub fn open(options: Options) -> Result<Arc<Self>, OpenError> {
        options.check()?;
        let options = Arc::new(options);
        let lookup = Lookup::new(&options)?;
        let budget_bytes = options.in_flight_bytes();
        let shared = Arc::new(Shared {
            options: Arc::clone(&options),
            lookup,
            rejections: Rejections::default(),
            closed: watch::Sender::new(false),
        });
        Ok(Arc::new(Self {
            shared,
            lines: Arc::new(Lines::new(Arc::clone(&options), Batching::Shared)),
            single_lines: Arc::new(Lines::new(options, Batching::Single)),
            budget: Arc::new(Semaphore::new(budget_bytes as usize)),
            budget_bytes,
            topics_exist: AtomicBool::new(false),
            upkeep: Mutex::new(()),
        }))
    }

    /// Creates the topics that are absent, and says what each is like. Takes a few times
    /// [`Options::request_timeout`] at most. `publish` creates them too, without the report.
    ///
    /// # Errors
    ///
    /// When no broker answers, or one refuses. See [`TopicsError`].
    pub async fn ensure_topics(&self) -> Result<Vec<TopicState>, TopicsError> {
        let created = self.create_topics().await?;
        topics::report(&self.shared.lookup, &self.shared.options, &created).await
    }

    /// How many records of others were skipped, by topic and reason; only what is not 0.
    pub fn rejected(&self) -> Vec<RejectedCount> {
        self.shared.rejections.counts()
    }

    /// How publishing goes.
    pub fn health(&self) -> Health {
        self.lines.health().and(self.single_lines.health())
    }

    async fn create_topics(&self) -> Result<Vec<Topic>, TopicsError> {
        let _upkeep = self.upkeep.lock().await;
        if *self.shared.closed.borrow() {
            return Err(TopicsError::Closed);
        }
        let created = topics::create_absent(&self.shared.lookup, &self.shared.options).await?;
        self.topics_exist.store(true, Ordering::Relaxed);
        Ok(created)
    }

    async fn send(&self, messages: &[Message]) -> Result<(), PublishError> {
        if !self.topics_exist.load(Ordering::Relaxed) {
            match self.create_topics().await {
                Ok(_) => {}
                Err(TopicsError::Closed) => return Err(PublishError::Closed),
                Err(error) => return Err(PublishError::Unavailable(Box::new(error))),
            }
        }
        let outcome = match self.send_on(&self.lines, messages).await? {
            // Brokers measure batches: one may be too large although each message in it is small enough.
            Err(Failure::TooLarge { .. }) => self.send_on(&self.single_lines, messages).await?,
            outcome => outcome,
        };
        match outcome {
            Ok(()) => Ok(()),
            Err(Failure::TooLarge { key, bytes }) => {
                // The brokers do not say what theirs is; it is less than this.
                Err(PublishError::TooLarge { key, bytes, max: bytes.saturating_sub(1) })
            }
            Err(Failure::Kafka(error)) => {
                if is_unknown_topic(&error) {
                    self.topics_exist.store(false, Ordering::Relaxed);
                }
                Err(PublishError::Unavailable(Box::new(error)))
            }
        }
    }

    async fn send_on(
        &self,
        lines: &Lines,
        messages: &[Message],
    ) -> Result<Result<(), Failure>, PublishError> {
        let cost = messages.iter().map(Message::cost_bytes).sum::<usize>();
        // What is larger than the whole budget gets it alone.
        let cost = u32::try_from(cost).unwrap_or(u32::MAX).min(self.budget_bytes);
        let permit = Arc::clone(&self.budget).acquire_many_owned(cost).await;
        let permit = permit.map_err(|_| PublishError::Closed)?;
        let ticket = lines.send(messages, permit);
        let ticket = ticket.map_err(|error| PublishError::Unavailable(Box::new(error)))?;
        Ok(lines.outcome(ticket.ok_or(PublishError::Closed)?).await)
    }
}

fn is_unknown_topic(error: &KafkaError) -> bool {
    matches!(
        error.rdkafka_error_code(),
        Some(
            RDKafkaErrorCode::UnknownTopic
                | RDKafkaErrorCode::UnknownPartition
                | RDKafkaErrorCode::UnknownTopicOrPartition
        )
    )
}

impl fmt::Debug for KafkaBus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("KafkaBus")
    }
}

/// No acknowledgement came in time.
#[derive(Debug, thiserror::Error)]
#[error("no broker has acknowledged within {} s", .0.as_secs_f32())]
struct NotAcknowledged(Duration);

#[async_trait]
impl Bus for KafkaBus {
    /// After [`Options::publish_timeout`] without acknowledgement the answer is
    /// [`Unavailable`](PublishError::Unavailable), and the records stay queued: taken out, they would leave a hole that
    /// later ones overtake. They keep their share of [`Options::queue_bytes`] until brokers take them, so that not
    /// more and more copies pile up while brokers are away.
    async fn publish(&self, records: Vec<Record>) -> Result<(), PublishError> {
        let options = &self.shared.options;
        if *self.shared.closed.borrow() {
            return Err(PublishError::Closed);
        }
        let bytes_max = options.record_bytes_max;
        let messages = records.into_iter().map(|record| Message::new(record, bytes_max));
        let messages = messages.collect::<Result<Vec<_>, _>>()?;
        if messages.is_empty() {
            return Ok(());
        }
        let timeout = options.publish_timeout;
        tokio::time::timeout(timeout, self.send(&messages))
            .await
            .unwrap_or_else(|_| Err(PublishError::Unavailable(Box::new(NotAcknowledged(timeout)))))
    }

    async fn subscribe(
        &self,
        topic: Topic,
        start: Start,
        selection: Selection,
    ) -> Result<Box<dyn Subscription>, BusError> {
        let topic_name = self.shared.options.topic_name(topic);
        let scope = Scope { topic, topic_name, selection };
        let reader = Reader::open(Arc::clone(&self.shared), scope, start).await?;
        Ok(Box::new(reader))
    }

    async fn watermarks(&self, topic: Topic) -> Result<Vec<Watermarks>, BusError> {
        let mut closed = self.shared.closed.subscribe();
        let scope = Scope {
            topic,
            topic_name: self.shared.options.topic_name(topic),
            selection: Selection::All,
        };
        let shared = Arc::clone(&self.shared);
        let extents = tokio::select! {
            biased;
            () = is_true(&mut closed) => return Err(BusError::Closed),
            extents = aside(move || scope.extents(&shared)) => extents,
        };
        let extents = extents.map_err(unavailable)?.map_err(unavailable)?.into_iter();
        let watermarks = extents.map(|extent| Watermarks {
            partition: extent.partition,
            first: Offset(extent.first),
            next: Offset(extent.next),
            bytes: None,
        });
        Ok(watermarks.collect())
    }

    fn kind(&self) -> &'static str {
        "kafka"
    }

    fn is_shared(&self) -> bool {
        true
    }

    fn finds_by_key(&self) -> bool {
        false
    }

    fn rejected(&self) -> Vec<Rejected> {
        let counts = self.shared.rejections.counts().into_iter();
        counts
            .map(|RejectedCount { topic, reason, count }| Rejected {
                topic,
                reason: reason.name(),
                count,
            })
            .collect()
    }

    async fn close(&self) -> Result<(), BusError> {
        self.shared.closed.send_replace(true);
        self.budget.close();
        let _upkeep = self.upkeep.lock().await;
        let lines = [Arc::clone(&self.lines), Arc::clone(&self.single_lines)];
        let flush = move || lines.iter().for_each(|lines| lines.close(FLUSH_WAIT_MAX));
        aside(flush).await.map_err(unavailable)
    }
}

/// Waits until the value is true, or nobody is left who could change it.
async fn is_true(value: &mut watch::Receiver<bool>) {
    value.wait_for(|value| *value).await.ok();
}

/// Runs `work`, which may block for long, on a thread of its own. Tokio's threads for that would hold up the end of
/// the runtime. There are as many as callers that wait.
async fn aside<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, oneshot::error::RecvError> {
    let (reply, answer) = oneshot::channel();
    // Nobody joins it, and whoever waits may have gone.
    drop(spawn("kafka-question", move || drop(reply.send(work()))));
    answer.await
}

fn unavailable(error: impl std::error::Error + Send + Sync + 'static) -> BusError {
    BusError::Unavailable(Box::new(error))
}

fn spawn(name: &str, body: impl FnOnce() + Send + 'static) -> std::thread::JoinHandle<()> {
    std::thread::Builder::new()
        .name(name.to_owned())
        .spawn(body)
        .expect("the system can start a thread")
}
