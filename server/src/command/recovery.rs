//! What the bus has of commands and answers: at the start what an earlier run left, then what comes.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use agent_core::id::CommandId;
use agent_core::limits::COMMAND_TTL_MAX;
use bus::{
    Bus, BusError, Delivery, Entry, Offset, Partition, Payload, Selection, Start, Subscription,
    Topic,
};
use tokio::sync::mpsc;
use tracing::warn;

use crate::clock::{Clock, Now};
use crate::command::pending::{Order, Pending};
use crate::command::{Event, request};
use crate::counters::Counters;
use crate::limits::COMMANDS_MAX;

/// Pause before a topic that could not be read is read again.
const RETRY: Duration = Duration::from_secs(1);

/// Why the commands of an earlier run could not be read.
#[derive(Debug, thiserror::Error)]
#[error("cannot read the topic {topic}")]
pub(crate) struct RecoveryError {
    topic: Topic,
    #[source]
    source: BusError,
}

/// Readers of both topics, at the point where the history ends.
pub(crate) struct Feeds {
    commands: Reader,
    answers: Reader,
}

impl std::fmt::Debug for Feeds {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Feeds").finish_non_exhaustive()
    }
}

/// A subscription that is opened again when it fails.
struct Reader {
    bus: Arc<dyn Bus>,
    topic: Topic,
    /// Where to go on.
    next: Start,
    subscription: Option<Box<dyn Subscription>>,
}

impl Reader {
    async fn open(bus: &Arc<dyn Bus>, topic: Topic, start: Start) -> Result<Self, BusError> {
        let subscription = bus.subscribe(topic, start.clone(), Selection::All).await?;
        Ok(Self { bus: Arc::clone(bus), topic, next: start, subscription: Some(subscription) })
    }

    async fn next(&mut self) -> Result<Delivery, BusError> {
        let subscription = match &mut self.subscription {
            Some(subscription) => subscription,
            None => {
                let opened = self.bus.subscribe(self.topic, self.next.clone(), Selection::All);
                self.subscription.insert(opened.await?)
            }
        };
        let delivery = subscription.next().await;
        self.next = Start::At(subscription.cursor());
        if delivery.is_err() {
            self.subscription = None;
        }
        delivery
    }
}

/// Reads the commands of the last 24 hours, the longest time to live, that nobody has answered.
///
/// Of them at most [`COMMANDS_MAX`], the newest, are kept; of their answers as many as `pending` remembers.
pub(crate) async fn recover(
    bus: &Arc<dyn Bus>,
    clock: &Clock,
    counters: &Counters,
    pending: &mut Pending,
) -> Result<Feeds, RecoveryError> {
    let day_ms = i64::try_from(COMMAND_TTL_MAX.as_millis()).unwrap_or(i64::MAX);
    let start = Start::Time(clock.now().unix_ms.saturating_sub(day_ms));
    let failed = |topic: Topic| move |source: BusError| RecoveryError { topic, source };

    let mut open = Unanswered::default();
    let topic = Topic::Commands;
    let mut commands = Reader::open(bus, topic, start.clone()).await.map_err(failed(topic))?;
    history(&mut commands, |entry| {
        if let Some((order, stored_ms)) = read_command(clock.now(), counters, entry) {
            open.insert(order, stored_ms);
        }
    })
    .await
    .map_err(failed(topic))?;

    let topic = Topic::CommandResponses;
    let mut answers = Reader::open(bus, topic, start).await.map_err(failed(topic))?;
    history(&mut answers, |entry| {
        if let Payload::Response(response) = entry.payload {
            open.remove(&response.command_id);
            pending.handle_answer(response);
        }
    })
    .await
    .map_err(failed(topic))?;

    let now = clock.now();
    for (order, stored_ms) in open.by_arrival.into_values() {
        // The wall clock is all that a restart leaves; a step of it shortens or lengthens the wait, at most to
        // the whole time to live.
        let age_ms = u64::try_from(now.unix_ms.saturating_sub(stored_ms)).unwrap_or(0);
        let left = order.ttl().saturating_sub(Duration::from_millis(age_ms));
        pending.handle_recovered(now, order, left);
    }
    Ok(Feeds { commands, answers })
}

/// Reads until everything that was there is read.
async fn history(reader: &mut Reader, mut take: impl FnMut(Entry)) -> Result<(), BusError> {
    loop {
        match reader.next().await? {
            Delivery::Entries(entries) => entries.into_iter().for_each(&mut take),
            Delivery::Skipped { .. } => {}
            Delivery::CaughtUp => return Ok(()),
        }
    }
}

/// Commands without an answer so far, in the order of arrival.
#[derive(Debug, Default)]
struct Unanswered {
    by_arrival: BTreeMap<u64, (Order, i64)>,
    arrivals: HashMap<CommandId, u64>,
    next: u64,
}

impl Unanswered {
    fn insert(&mut self, order: Order, stored_ms: i64) {
        if self.arrivals.contains_key(&order.id) {
            return;
        }
        self.arrivals.insert(order.id.clone(), self.next);
        self.by_arrival.insert(self.next, (order, stored_ms));
        self.next += 1;
        if COMMANDS_MAX < self.by_arrival.len()
            && let Some((_, (oldest, _))) = self.by_arrival.pop_first()
        {
            self.arrivals.remove(&oldest.id);
        }
    }

    fn remove(&mut self, id: &str) {
        let id = id.parse::<CommandId>();
        if let Some(arrival) = id.ok().and_then(|id| self.arrivals.remove(&id)) {
            self.by_arrival.remove(&arrival);
        }
    }
}

/// Reads a command off the bus, where anybody may have put it. One without an id gets that of its place, so
/// that every server names it alike.
fn read_command(now: Now, counters: &Counters, entry: Entry) -> Option<(Order, i64)> {
    let Payload::Command(command) = entry.payload else {
        return None;
    };
    let fresh_id = || id_of_place(entry.partition, entry.offset);
    match request::order(now, command, fresh_id) {
        Ok(order) if order.agent == entry.key => Some((order, entry.stored_ms)),
        Ok(order) => {
            warn!(offset = %entry.offset, "command to {} has the key {}", order.agent, entry.key);
            None
        }
        Err(rejection) => {
            counters.reject(rejection.reason);
            warn!(offset = %entry.offset, "command on the bus is refused: {rejection}");
            None
        }
    }
}

fn id_of_place(partition: Partition, offset: Offset) -> CommandId {
    format!("commands-{partition}-{offset}").parse().expect("a word and a number are a command id")
}

impl Feeds {
    /// Passes on what comes, until `inbox` is closed.
    pub(super) fn spawn(
        self,
        inbox: &mpsc::Sender<Event>,
        clock: &Clock,
        counters: &Arc<Counters>,
    ) -> [tokio::task::JoinHandle<()>; 2] {
        let (clock, counters) = (clock.clone(), Arc::clone(counters));
        let read_order = move |entry| {
            let (order, _) = read_command(clock.now(), &counters, entry)?;
            Some(Event::Published(order))
        };
        let read_answer = |entry: Entry| match entry.payload {
            Payload::Response(response) => Some(Event::Answer(response)),
            Payload::Metrics(_) | Payload::Command(_) | Payload::Status(_) => None,
        };
        [
            tokio::spawn(pass_on(self.commands, inbox.clone(), read_order)),
            tokio::spawn(pass_on(self.answers, inbox.clone(), read_answer)),
        ]
    }
}

async fn pass_on(
    mut reader: Reader,
    inbox: mpsc::Sender<Event>,
    read: impl Fn(Entry) -> Option<Event>,
) {
    loop {
        match reader.next().await {
            Ok(Delivery::Entries(entries)) => {
                for event in entries.into_iter().filter_map(&read) {
                    if inbox.send(event).await.is_err() {
                        return;
                    }
                }
            }
            Ok(Delivery::CaughtUp) => {}
            Ok(Delivery::Skipped { partition, first, last }) => {
                warn!(topic = %reader.topic, %partition, "retention removed {first} to {last} before they were read");
            }
            Err(BusError::Closed) => return,
            Err(error) => {
                warn!(topic = %reader.topic, "{error}; trying again");
                tokio::time::sleep(RETRY).await;
            }
        }
    }
}
