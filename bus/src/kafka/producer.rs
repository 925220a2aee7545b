//! Sends messages and learns what became of each.
//!
//! A *line* is one producer of librdkafka with what is on its way through it. A line that is broken, because a message
//! was refused for good, is replaced by a new one: what is still on it fails, so that nothing overtakes what
//! was refused, and the publishers publish again.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use agent_core::id::AgentId;
use rdkafka::ClientContext;
use rdkafka::config::{FromClientConfigAndContext, RDKafkaLogLevel};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{Header, Message as _, OwnedHeaders};
use rdkafka::producer::{
    BaseRecord, DeliveryResult, Producer, ProducerContext, PurgeConfig, ThreadedProducer,
};
use tokio::sync::{OwnedSemaphorePermit, oneshot, watch};

use super::client::{Log, discard};
use super::form::Message;
use super::options::{Batching, Options};

/// Why messages of a publish were not delivered.
#[derive(Debug)]
pub(super) enum Failure {
    /// A broker does not take the batch that this message was in.
    TooLarge { key: AgentId, bytes: usize },
    /// Anything else.
    Kafka(KafkaError),
}

impl Failure {
    /// Whether it says more than `other`: size is the one thing that another try alone does not help against.
    const fn outranks(&self, other: &Self) -> bool {
        matches!((self, other), (Self::TooLarge { .. }, Self::Kafka(_)))
    }
}

/// The messages of one publish on their way. Each of them holds it until its report has come.
#[derive(Debug)]
pub(super) struct Flight {
    id: u64,
    state: Mutex<FlightState>,
    traffic: Arc<Traffic>,
}

#[derive(Debug)]
struct FlightState {
    left: usize,
    failure: Option<Failure>,
    reply: Option<oneshot::Sender<Result<(), Failure>>>,
    /// Given back when all reports are there, also when the publisher has long given up.
    permit: Option<OwnedSemaphorePermit>,
}

impl Flight {
    /// What became of one of the messages.
    fn handle_report(&self, report: Result<(), Failure>) {
        let mut state = lock(&self.state);
        if let Err(failure) = report
            && state.failure.as_ref().is_none_or(|known| failure.outranks(known))
        {
            state.failure = Some(failure);
        }
        state.left -= 1;
        if 0 < state.left {
            return;
        }
        state.permit = None;
        let outcome = state.failure.take().map_or(Ok(()), Err);
        let reply = state.reply.take();
        drop(state);
        self.traffic.handle_landing(self.id, outcome.is_ok());
        if let Some(reply) = reply {
            // Nobody waits any more: the publish was cancelled, or took too long.
            reply.send(outcome).ok();
        }
    }
}

/// Receives the reports of a line.
struct LineContext {
    log: Log,
    broken: watch::Sender<bool>,
}

impl LineContext {
    fn handle_error(&self, error: &KafkaError) {
        let is_fatal = matches!(
            error.rdkafka_error_code(),
            Some(RDKafkaErrorCode::Fatal | RDKafkaErrorCode::GaplessGuarantee)
        );
        if is_fatal {
            self.broken.send_replace(true);
        }
    }
}

impl ClientContext for LineContext {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        self.log.log(level, facility, message);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        self.handle_error(&error);
        self.log.error(error, reason);
    }
}

impl ProducerContext for LineContext {
    type DeliveryOpaque = Arc<Flight>;

    fn delivery(&self, result: &DeliveryResult<'_>, flight: Arc<Flight>) {
        let report = match result {
            Ok(_) => Ok(()),
            Err((error, message)) => {
                self.handle_error(error);
                let key = message.key().and_then(|key| std::str::from_utf8(key).ok());
                let key = key.and_then(|key| key.parse().ok());
                Err(match (error.rdkafka_error_code(), key) {
                    (Some(RDKafkaErrorCode::MessageSizeTooLarge), Some(key)) => {
                        Failure::TooLarge { key, bytes: message.payload_len() }
                    }
                    _ => Failure::Kafka(error.clone()),
                })
            }
        };
        flight.handle_report(report);
    }
}

/// A producer of librdkafka.
struct Line {
    number: u64,
    /// Taken out by the drop.
    producer: Option<ThreadedProducer<LineContext>>,
    broken: watch::Receiver<bool>,
}

impl Line {
    fn new(options: &Options, batching: Batching, number: u64) -> Result<Self, KafkaError> {
        let (sender, broken) = watch::channel(false);
        let context = LineContext { log: Log::default(), broken: sender };
        let config = options.producer(batching);
        let producer = ThreadedProducer::from_config_and_context(&config, context)?;
        Ok(Self { number, producer: Some(producer), broken })
    }

    fn producer(&self) -> &ThreadedProducer<LineContext> {
        self.producer.as_ref().expect("only the drop takes it")
    }

    fn send(&self, message: &Message, topic: &str, flight: &Arc<Flight>) {
        let mut record = BaseRecord::with_opaque_to(topic, Arc::clone(flight))
            .key(message.key.as_str())
            .payload(&message.value);
        if !message.headers.is_empty() {
            let headers = OwnedHeaders::new_with_capacity(message.headers.len());
            let add = |headers: OwnedHeaders, (key, value): &(&'static str, String)| {
                headers.insert(Header { key, value: Some(value) })
            };
            record = record.headers(message.headers.iter().fold(headers, add));
        }
        if let Err((error, record)) = self.producer().send(record) {
            if error.rdkafka_error_code() == Some(RDKafkaErrorCode::QueueFull) {
                tracing::error!("librdkafka's queue is full, which our own bound should prevent");
            }
            self.producer().client().context().handle_error(&error);
            record.delivery_opaque.handle_report(Err(Failure::Kafka(error)));
        }
    }
}

impl Drop for Line {
    /// Makes everything that is still on the line fail, and sees to it that each publisher learns it.
    fn drop(&mut self) {
        /// Reports of purged messages come at once. A machine may stall, though.
        const REPORTS_WAIT_MAX: Duration = Duration::from_secs(30);
        let producer = self.producer.take();
        discard(move || {
            if let Some(producer) = producer {
                producer.purge(PurgeConfig::default().queue().inflight());
                if let Err(error) = producer.flush(REPORTS_WAIT_MAX) {
                    tracing::error!(%error, "messages were purged and not reported");
                }
            }
        });
    }
}

/// How publishing goes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Health {
    /// Publishes that wait for brokers to acknowledge, those that were given up by their callers included.
    pub publishes_waiting: usize,
    /// For how long nothing was acknowledged although something waited; zero when nothing waits. When it grows, no
    /// broker can be reached, or none has enough replicas.
    pub stalled: Duration,
    /// How often the producer was replaced after a fatal error.
    pub producers_replaced: u64,
}

impl Health {
    /// Of both together.
    pub(super) fn and(self, other: Self) -> Self {
        Self {
            publishes_waiting: self.publishes_waiting + other.publishes_waiting,
            stalled: self.stalled.max(other.stalled),
            producers_replaced: self.producers_replaced + other.producers_replaced,
        }
    }
}

/// What is on its way, on all lines.
#[derive(Debug, Default)]
struct Traffic(Mutex<TrafficState>);

#[derive(Debug, Default)]
struct TrafficState {
    next_id: u64,
    /// When each flight began. As many as the budget of bytes lets through.
    flights: BTreeMap<u64, Instant>,
    landed_at: Option<Instant>,
    lines_replaced: u64,
}

impl Traffic {
    fn begin(&self) -> u64 {
        let mut state = lock(&self.0);
        let id = state.next_id;
        state.next_id += 1;
        state.flights.insert(id, Instant::now());
        id
    }

    fn handle_landing(&self, id: u64, delivered: bool) {
        let mut state = lock(&self.0);
        state.flights.remove(&id);
        if delivered {
            state.landed_at = Some(Instant::now());
        }
    }

    fn health(&self) -> Health {
        let state = lock(&self.0);
        let oldest = state.flights.values().next();
        let since = oldest.map(|oldest| state.landed_at.map_or(*oldest, |at| at.max(*oldest)));
        Health {
            publishes_waiting: state.flights.len(),
            stalled: since.map_or(Duration::ZERO, |since| since.elapsed()),
            producers_replaced: state.lines_replaced,
        }
    }
}

/// The line in use.
pub(super) struct Lines {
    options: Arc<Options>,
    batching: Batching,
    traffic: Arc<Traffic>,
    state: Mutex<LinesState>,
}

#[derive(Default)]
struct LinesState {
    /// None until the first publish, and after a line broke.
    line: Option<Arc<Line>>,
    next_number: u64,
    closed: bool,
}

impl fmt::Debug for Lines {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Lines")
    }
}

/// What the publisher of a flight waits for.
pub(super) struct Ticket {
    pub(super) outcome: oneshot::Receiver<Result<(), Failure>>,
    broken: watch::Receiver<bool>,
    line: u64,
}

impl Lines {
    pub(super) fn new(options: Arc<Options>, batching: Batching) -> Self {
        Self { options, batching, traffic: Arc::default(), state: Mutex::default() }
    }

    /// Sends the messages, at least one, in their order. None when closed. `permit` is given back when all have their
    /// reports.
    pub(super) fn send(
        &self,
        messages: &[Message],
        permit: OwnedSemaphorePermit,
    ) -> Result<Option<Ticket>, KafkaError> {
        let Some(line) = self.line()? else {
            return Ok(None);
        };
        let (reply, outcome) = oneshot::channel();
        let state = FlightState {
            left: messages.len(),
            failure: None,
            reply: Some(reply),
            permit: Some(permit),
        };
        let traffic = Arc::clone(&self.traffic);
        let flight = Flight { id: traffic.begin(), state: Mutex::new(state), traffic };
        let flight = Arc::new(flight);
        for message in messages {
            line.send(message, &self.options.topic_name(message.topic), &flight);
        }
        Ok(Some(Ticket { outcome, broken: line.broken.clone(), line: line.number }))
    }

    /// What became of the flight. Replaces its line when that breaks in between. Safe to cancel.
    pub(super) async fn outcome(&self, ticket: Ticket) -> Result<(), Failure> {
        let Ticket { mut outcome, mut broken, line } = ticket;
        let early = tokio::select! {
            biased;
            outcome = &mut outcome => Some(outcome),
            () = super::is_true(&mut broken) => None,
        };
        // Also when the report was ahead in saying it.
        if *broken.borrow() {
            self.replace(line);
        }
        let outcome = match early {
            Some(outcome) => outcome,
            None => outcome.await,
        };
        outcome.unwrap_or(Err(Failure::Kafka(KafkaError::Canceled)))
    }

    /// The line in use, or a new one; none when closed.
    fn line(&self) -> Result<Option<Arc<Line>>, KafkaError> {
        let mut state = lock(&self.state);
        if state.closed {
            return Ok(None);
        }
        if let Some(line) = &state.line
            && !*line.broken.borrow()
        {
            return Ok(Some(Arc::clone(line)));
        }
        let line = Arc::new(Line::new(&self.options, self.batching, state.next_number)?);
        state.next_number += 1;
        if state.line.replace(Arc::clone(&line)).is_some() {
            self.count_replaced();
        }
        Ok(Some(line))
    }

    /// Ends line `number`, if it is still in use.
    fn replace(&self, number: u64) {
        let mut state = lock(&self.state);
        if state.line.as_ref().is_some_and(|line| line.number == number) {
            state.line = None;
            self.count_replaced();
        }
    }

    fn count_replaced(&self) {
        lock(&self.traffic.0).lines_replaced += 1;
        tracing::error!("the Kafka producer has ended with a fatal error and is replaced");
    }

    pub(super) fn health(&self) -> Health {
        self.traffic.health()
    }

    /// Lets what is on its way arrive, for at most `patience`, and takes no more. Blocks.
    pub(super) fn close(&self, patience: Duration) {
        let line = {
            let mut state = lock(&self.state);
            state.closed = true;
            state.line.take()
        };
        if let Some(line) = line
            && let Err(error) = line.producer().flush(patience)
        {
            tracing::warn!(%error, "records were on their way when the bus was closed");
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Each section leaves its state whole, so a panic elsewhere cannot have left it half done.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
