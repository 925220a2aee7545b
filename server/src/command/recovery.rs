//! What the bus has of commands and answers: at the start what earlier runs and other servers left, then what comes.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use agent_core::id::{AgentId, CommandId};
use agent_core::limits::COMMAND_TTL_MAX;
use bus::{Bus, Entry, Offset, Partition, Payload, Start, Topic};
use tokio::sync::mpsc;
use tracing::warn;

use crate::clock::{Clock, Now};
use crate::command::pending::Order;
use crate::command::{Event, request};
use crate::counters::Counters;
use crate::feed::{Feed, News};
use crate::limits::{COMMANDS_MAX, SOURCES_MAX};
use crate::troubles::Troubles;

/// Reads both topics, and tells the router.
pub(super) struct Feeds {
    bus: Arc<dyn Bus>,
    troubles: Arc<Troubles>,
    /// They begin at the newest record, until it is known from where on they are to be read.
    commands: Feed,
    answers: Feed,
    inbox: mpsc::Sender<Event>,
    intake: Intake,
}

impl Feeds {
    pub(super) fn new(
        bus: &Arc<dyn Bus>,
        clock: &Clock,
        counters: &Arc<Counters>,
        troubles: &Arc<Troubles>,
        inbox: mpsc::Sender<Event>,
    ) -> Self {
        Self {
            bus: Arc::clone(bus),
            troubles: Arc::clone(troubles),
            commands: Feed::new(bus, troubles, Topic::Commands, Start::Last(1)),
            answers: Feed::new(bus, troubles, Topic::CommandResponses, Start::Last(1)),
            inbox,
            intake: Intake {
                clock: clock.clone(),
                counters: Arc::clone(counters),
                refused: HashSet::new(),
            },
        }
    }

    /// Runs until the router or the bus ends.
    pub(super) async fn run(mut self) {
        if self.recover().await.is_some() {
            self.pass_on().await;
        }
    }

    /// Has both topics read from a day before their newest record or, if that is earlier, before now: the longest time to
    /// live, what is older is over. The clock alone will not do: with one that is a day ahead nothing would be found.
    async fn rewind(&mut self) -> Option<()> {
        let newest_ms = self.commands.newest_ms().await?.max(self.answers.newest_ms().await?);
        let now_ms = self.intake.clock.now().unix_ms;
        let start = Start::Time(read_from(now_ms, newest_ms));
        self.commands = Feed::new(&self.bus, &self.troubles, Topic::Commands, start.clone());
        self.answers = Feed::new(&self.bus, &self.troubles, Topic::CommandResponses, start);
        Some(())
    }

    /// Finds the commands of the last 24 hours that nobody has answered; at most [`COMMANDS_MAX`], the newest.
    async fn recover(&mut self) -> Option<()> {
        self.rewind().await?;
        let mut open = Unanswered::default();
        let mut now_ms = i64::MIN;
        while let News::Entries(entries) = self.commands.next().await? {
            for entry in entries {
                now_ms = now_ms.max(entry.stored_ms);
                if let Some((order, stored_ms)) = self.intake.order(entry) {
                    open.insert(order, stored_ms);
                }
            }
        }
        while let News::Entries(entries) = self.answers.next().await? {
            for entry in entries {
                now_ms = now_ms.max(entry.stored_ms);
                if let Payload::Response(response) = entry.payload {
                    open.remove(&response.command_id);
                    self.inbox.send(Event::Answer(response)).await.ok()?;
                }
            }
        }
        let now = self.intake.clock.now();
        // A clock that was set back does not make commands younger than what came after them.
        let now = Now { unix_ms: now.unix_ms.max(now_ms), ..now };
        let orders = open.by_arrival.into_values();
        let orders = orders.map(|(order, stored_ms)| {
            let left = left(now, &order, stored_ms);
            (order, left)
        });
        self.inbox.send(Event::Recovered(orders.collect())).await.ok()
    }

    async fn pass_on(&mut self) -> Option<()> {
        loop {
            let events: Vec<Event> = tokio::select! {
                news = self.commands.next() => match news? {
                    News::Entries(entries) => self.intake.published(entries),
                    News::CaughtUp => Vec::new(),
                },
                news = self.answers.next() => match news? {
                    News::Entries(entries) => answers(entries),
                    News::CaughtUp => Vec::new(),
                },
            };
            for event in events {
                self.inbox.send(event).await.ok()?;
            }
        }
    }
}

fn answers(entries: Vec<Entry>) -> Vec<Event> {
    let answer = |entry: Entry| match entry.payload {
        Payload::Response(response) => Some(Event::Answer(response)),
        Payload::Metrics(_) | Payload::Command(_) | Payload::Status(_) => None,
    };
    entries.into_iter().filter_map(answer).collect()
}

/// Where to begin to read at `now_ms`, when the newest record was stored at `newest_ms`, if there is one.
pub(crate) fn read_from(now_ms: i64, newest_ms: Option<i64>) -> i64 {
    let day_ms = i64::try_from(COMMAND_TTL_MAX.as_millis()).unwrap_or(i64::MAX);
    newest_ms.map_or(now_ms, |newest_ms| newest_ms.min(now_ms)).saturating_sub(day_ms)
}

/// What is left of the time to live of a command that the bus took at `stored_ms`. The wall clock is all that is
/// common to servers; a step of it shortens or lengthens the wait, at most to the whole time to live.
pub(crate) fn left(now: Now, order: &Order, stored_ms: i64) -> Duration {
    let age_ms = u64::try_from(now.unix_ms.saturating_sub(stored_ms)).unwrap_or(0);
    order.ttl().saturating_sub(Duration::from_millis(age_ms))
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

/// Checks what comes off the bus, where anybody may have put it.
#[derive(Debug)]
struct Intake {
    clock: Clock,
    counters: Arc<Counters>,
    /// The agents to which a command was refused and logged, so that one bad producer does not fill the log.
    refused: HashSet<AgentId>,
}

impl Intake {
    fn published(&mut self, entries: Vec<Entry>) -> Vec<Event> {
        let event = |entry: Entry| {
            let stored_ms = entry.stored_ms;
            match self.read(entry)? {
                Ok(order) => {
                    let left = left(self.clock.now(), &order, stored_ms);
                    Some(Event::Published { order, left })
                }
                Err((order, reason)) => Some(Event::Refused(order?, reason)),
            }
        };
        entries.into_iter().filter_map(event).collect()
    }

    /// Reads a command that was there before; also says when the bus took it.
    fn order(&mut self, entry: Entry) -> Option<(Order, i64)> {
        let stored_ms = entry.stored_ms;
        let order = self.read(entry)?.ok()?;
        Some((order, stored_ms))
    }

    /// Reads a command. One without an id gets that of its place, so that every server names it alike. Of one that is
    /// refused: what can be answered, and why.
    fn read(&mut self, entry: Entry) -> Option<Result<Order, (Option<Order>, String)>> {
        let Entry { partition, offset, stored_ms: _, key, payload } = entry;
        let Payload::Command(command) = payload else {
            return None;
        };
        let fresh_id = || id_of_place(partition, offset);
        let id = match command.command_id.as_str() {
            "" => Some(fresh_id()),
            id => id.parse().ok(),
        };
        let to_key = command.agent_id == key.as_str();
        let (order, reason) = match request::order(self.clock.now(), command.clone(), fresh_id) {
            Ok(order) if to_key => return Some(Ok(order)),
            Ok(order) => (None, format!("it is to {} and has the key {key}", order.agent)),
            Err(rejection) => {
                self.counters.reject(rejection.reason);
                let order = id.map(|id| Order { id, agent: key.clone(), command });
                (order.filter(|_| to_key), rejection.to_string())
            }
        };
        if SOURCES_MAX <= self.refused.len() {
            self.refused.clear();
        }
        if self.refused.insert(key.clone()) {
            warn!(
                agent = %key, %partition, %offset,
                "a command on the bus is refused, further ones to this agent are only counted: {reason}"
            );
        }
        Some(Err((order, reason)))
    }
}

pub(crate) fn id_of_place(partition: Partition, offset: Offset) -> CommandId {
    bus::query::id_of_place(partition, offset)
        .parse()
        .expect("a word and two numbers are a command id")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_that_is_ahead_hides_nothing_of_the_last_day() {
        let day_ms = 86_400_000;
        assert_eq!(read_from(10 * day_ms, None), 9 * day_ms);
        assert_eq!(read_from(10 * day_ms, Some(2 * day_ms)), day_ms);
        assert_eq!(read_from(2 * day_ms, Some(10 * day_ms)), day_ms);
        assert_eq!(read_from(i64::MIN, Some(0)), i64::MIN);
    }
}
