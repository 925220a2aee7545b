//! Reading records back: a subscription as a stream of bounded messages, as the requests of the operator's tool ask.
//!
//! What is the same for every topic is here; [`Metrics`] and [`Statuses`] say what their own are. The server answers
//! its rpcs with it, and the operator's tool reads a broker with it when it goes past the servers.

mod commands;
mod metrics;
mod status;

use std::collections::{BTreeSet, VecDeque};

use agent_core::id::{AgentId, AgentIdError};
use proto::Position;

pub use commands::{
    COMMANDS, COMMANDS_BYTES_MAX, COMMANDS_MAX, CommandQuery, commands, id_of_place,
};
pub use metrics::Metrics;
pub use status::Statuses;

use crate::contract::{
    Bus, BusError, Cursor, Delivery, Entry, Offset, Partition, Selection, Start, Subscription,
};
use crate::topic::Topic;

/// Entries in one message.
pub const BATCH_ENTRIES_MAX: usize = 256;

/// Their encoded size. The largest single record has below 48 KiB.
pub const BATCH_BYTES_MAX: usize = 128 * 1024;

/// Agents that one request may name.
pub const AGENTS_MAX: usize = 1024;

/// Events that one request may name. There are fewer kinds of them.
pub const EVENTS_MAX: usize = 64;

/// Positions of one cursor. Topics have fewer partitions.
pub const POSITIONS_MAX: usize = 4096;

/// What is read, and how readers get it.
pub trait Form: Send + 'static {
    /// A record with its place.
    type Stored: Send;
    /// A message of the subscription.
    type Batch: Send;

    /// Where such records are.
    const TOPIC: Topic;

    /// The record of `entry` and its encoded size; none when it was not asked for.
    fn select(&self, entry: Entry) -> Option<(Self::Stored, usize)>;

    /// A message that says this.
    fn batch(part: Part<Self::Stored>, cursor: Option<proto::Cursor>) -> Self::Batch;
}

/// What one message says.
#[derive(Debug)]
pub enum Part<S> {
    /// These records.
    Entries(Vec<S>),
    /// History is over.
    CaughtUp,
    /// These offsets are gone.
    Skipped(Skipped),
}

/// Offsets that are gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Skipped {
    partition: Partition,
    first: Offset,
    last: Offset,
}

/// Why a request cannot be answered.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum QueryError {
    /// It names an agent that cannot be one.
    #[error(transparent)]
    AgentId(#[from] AgentIdError),
    /// It names too much.
    #[error("request names {count} {what}, at most {max} are allowed")]
    TooMany {
        /// How many.
        count: usize,
        /// Of what.
        what: &'static str,
        /// The limit.
        max: usize,
    },
    /// It ends before time began.
    #[error("until_ms is {0}, it must not be negative")]
    Until(i64),
}

/// What a reader asks for, checked.
#[derive(Clone, Debug, PartialEq)]
pub struct Query<F> {
    selection: Selection,
    start: Start,
    follow: bool,
    limit: Option<u64>,
    until_ms: Option<i64>,
    form: F,
}

/// Reads the agents that a request names.
///
/// # Errors
///
/// When there are more than [`AGENTS_MAX`], or one is no agent id.
pub fn agent_ids(texts: &[String]) -> Result<Vec<AgentId>, QueryError> {
    check_count(texts.len(), "agents", AGENTS_MAX)?;
    texts.iter().map(|text| Ok(text.parse()?)).collect()
}

fn check_count(count: usize, what: &'static str, max: usize) -> Result<(), QueryError> {
    if max < count {
        return Err(QueryError::TooMany { count, what, max });
    }
    Ok(())
}

/// The records of the agents that a request names; of all when it names none.
fn selection(agents: &[String]) -> Result<Selection, QueryError> {
    let agents = agent_ids(agents)?;
    Ok(if agents.is_empty() {
        Selection::All
    } else {
        Selection::Keys(BTreeSet::from_iter(agents))
    })
}

/// The start at a cursor that a request names.
fn start_at(cursor: &proto::Cursor) -> Result<Start, QueryError> {
    check_count(cursor.positions.len(), "positions", POSITIONS_MAX)?;
    let positions = cursor.positions.iter();
    let position =
        |position: &Position| (Partition(position.partition), Offset(position.next_offset));
    Ok(Start::At(positions.map(position).collect()))
}

/// The cursor for the reader of a message.
fn told(cursor: &Cursor) -> proto::Cursor {
    let positions = cursor
        .iter()
        .map(|(partition, next)| Position { partition: partition.0, next_offset: next.0 });
    proto::Cursor { positions: positions.collect() }
}

/// The answer to a query, message by message.
pub struct Answer<F: Form> {
    subscription: Box<dyn Subscription>,
    answering: Answering<F>,
    /// Messages that one delivery made, without those that were given out.
    ready: VecDeque<F::Batch>,
}

impl<F: Form + std::fmt::Debug> std::fmt::Debug for Answer<F> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Answer").field("answering", &self.answering).finish_non_exhaustive()
    }
}

impl<F: Form> Answer<F> {
    /// Opens the reader that `query` needs: what is published from now on is seen.
    ///
    /// # Errors
    ///
    /// When the bus cannot be read.
    pub async fn open(bus: &dyn Bus, query: Query<F>) -> Result<Self, BusError> {
        let Query { selection, start, follow, limit, until_ms, form } = query;
        let subscription = bus.subscribe(F::TOPIC, start, selection).await?;
        let open = subscription.cursor().iter().map(|(partition, _)| partition).collect();
        let until = until_ms.map(|unix_ms| Until { unix_ms, open });
        let answering = Answering { follow, left: limit, until, form, is_done: false };
        Ok(Self { subscription, answering, ready: VecDeque::new() })
    }

    /// The next message; none when the query is over. Safe to cancel.
    ///
    /// # Errors
    ///
    /// When the bus cannot be read any more.
    pub async fn next(&mut self) -> Result<Option<F::Batch>, BusError> {
        loop {
            if let Some(batch) = self.ready.pop_front() {
                return Ok(Some(batch));
            }
            if self.answering.is_done {
                return Ok(None);
            }
            let delivery = self.subscription.next().await?;
            self.ready.extend(self.answering.take(delivery, &self.subscription.cursor()));
        }
    }
}

/// Until when records are wanted.
#[derive(Debug)]
struct Until {
    unix_ms: i64,
    /// The partitions that have had none after it.
    open: BTreeSet<Partition>,
}

/// Turns deliveries into messages. Knows when the query is over.
#[derive(Debug)]
struct Answering<F> {
    follow: bool,
    left: Option<u64>,
    until: Option<Until>,
    form: F,
    is_done: bool,
}

impl<F: Form> Answering<F> {
    /// The messages of a delivery; `cursor` is where a reader goes on after it.
    fn take(&mut self, delivery: Delivery, cursor: &Cursor) -> Vec<F::Batch> {
        let mut parts = match delivery {
            Delivery::Entries(entries) => self.take_entries(entries),
            Delivery::CaughtUp => {
                self.is_done = !self.follow;
                vec![Part::CaughtUp]
            }
            Delivery::Skipped { partition, first, last } => {
                vec![Part::Skipped(Skipped { partition, first, last })]
            }
        };
        let last = parts.pop();
        let mut batches: Vec<_> = parts.into_iter().map(|part| F::batch(part, None)).collect();
        batches.extend(last.map(|part| F::batch(part, Some(told(cursor)))));
        batches
    }

    fn take_entries(&mut self, entries: Vec<Entry>) -> Vec<Part<F::Stored>> {
        let mut parts = Vec::new();
        let mut part = Vec::new();
        let mut bytes = 0;
        for entry in entries {
            if !self.is_before_end(&entry) {
                continue;
            }
            let Some((stored, size)) = self.form.select(entry) else {
                continue;
            };
            self.left = self.left.map(|left| left - 1);
            bytes += size;
            part.push(stored);
            if BATCH_ENTRIES_MAX <= part.len() || BATCH_BYTES_MAX <= bytes {
                parts.push(Part::Entries(std::mem::take(&mut part)));
                bytes = 0;
            }
        }
        if !part.is_empty() {
            parts.push(Part::Entries(part));
        }
        self.is_done =
            self.left == Some(0) || self.until.as_ref().is_some_and(|until| until.open.is_empty());
        parts
    }

    /// Whether `entry` comes before the query is over, and its partition's part of it.
    fn is_before_end(&mut self, entry: &Entry) -> bool {
        if let Some(until) = &mut self.until {
            if until.unix_ms < entry.stored_ms {
                until.open.remove(&entry.partition);
            }
            if !until.open.contains(&entry.partition) {
                return false;
            }
        }
        self.left != Some(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    use proto::{MetricsBatch, MetricsRecord, SubscribeMetricsRequest};

    use crate::record::Payload;

    fn entry(partition: u32, offset: u64) -> Entry {
        Entry {
            partition: Partition(partition),
            offset: Offset(offset),
            stored_ms: i64::try_from(offset).unwrap() * 10,
            key: "a".parse().unwrap(),
            payload: Payload::Metrics(MetricsRecord::default()),
        }
    }

    fn entries(partition: u32, offsets: impl IntoIterator<Item = u64>) -> Delivery {
        Delivery::Entries(offsets.into_iter().map(|offset| entry(partition, offset)).collect())
    }

    /// The answer to a request of a topic with two partitions.
    fn answering(request: SubscribeMetricsRequest) -> Answering<Metrics> {
        let Query { follow, limit, until_ms, form, .. } = Query::try_from(request).unwrap();
        let open = BTreeSet::from([Partition(0), Partition(1)]);
        let until = until_ms.map(|unix_ms| Until { unix_ms, open });
        Answering { follow, left: limit, until, form, is_done: false }
    }

    fn take(answering: &mut Answering<Metrics>, delivery: Delivery) -> Vec<MetricsBatch> {
        answering.take(delivery, &Cursor::from_iter([(Partition(1), Offset(7))]))
    }

    /// The number of entries in each message, and whether the query is over.
    fn sizes(answering: &mut Answering<Metrics>, delivery: Delivery) -> (Vec<usize>, bool) {
        let batches = take(answering, delivery);
        (batches.iter().map(|batch| batch.entries.len()).collect(), answering.is_done)
    }

    #[test]
    fn limit_ends_the_query_at_once() {
        let mut answering =
            answering(SubscribeMetricsRequest { limit: 3, ..SubscribeMetricsRequest::default() });
        assert_eq!(sizes(&mut answering, entries(0, 1..=2)), (vec![2], false));
        assert_eq!(sizes(&mut answering, entries(0, 3..=4)), (vec![1], true));
    }

    #[test]
    fn until_ends_the_query_when_each_partition_is_past_it() {
        let mut answering = answering(SubscribeMetricsRequest {
            until_ms: 20,
            follow: true,
            ..SubscribeMetricsRequest::default()
        });
        assert_eq!(sizes(&mut answering, entries(0, 1..=5)), (vec![2], false));
        assert_eq!(sizes(&mut answering, entries(1, 1..=1)), (vec![1], false));
        assert_eq!(sizes(&mut answering, entries(0, [6])), (vec![], false));
        assert_eq!(sizes(&mut answering, entries(1, 2..=5)), (vec![1], true));
    }

    #[test]
    fn history_ends_a_query_that_does_not_follow() {
        for follow in [false, true] {
            let mut answering =
                answering(SubscribeMetricsRequest { follow, ..SubscribeMetricsRequest::default() });
            let batches = take(&mut answering, Delivery::CaughtUp);
            assert!(batches[0].caught_up);
            assert_eq!(answering.is_done, !follow);
        }
    }

    #[test]
    fn messages_are_bounded_by_entries_and_bytes() {
        let mut answering = answering(SubscribeMetricsRequest::default());
        assert_eq!(sizes(&mut answering, entries(0, 1..=300)), (vec![256, 44], false));
        let large = (1..=9).map(|offset| {
            let mut large = entry(0, offset);
            large.payload = Payload::Metrics(MetricsRecord {
                metadata: [("k".to_owned(), "v".repeat(32 * 1024))].into(),
                ..MetricsRecord::default()
            });
            large
        });
        let batches = take(&mut answering, Delivery::Entries(large.collect()));
        assert_eq!(batches.len(), 3);
        let largest = batches.iter().map(prost::Message::encoded_len).max();
        assert!(largest < Some(BATCH_BYTES_MAX + 48 * 1024));
    }

    #[test]
    fn only_the_last_message_of_a_delivery_says_where_to_go_on() {
        let mut answering = answering(SubscribeMetricsRequest::default());
        let batches = take(&mut answering, entries(1, 1..=600));
        let cursors: Vec<_> = batches.into_iter().map(|batch| batch.cursor).collect();
        let positions = vec![Position { partition: 1, next_offset: 7 }];
        assert_eq!(cursors, [None, None, Some(proto::Cursor { positions })]);
    }

    #[test]
    fn a_cursor_is_read_as_it_is_told() {
        let cursor = Cursor::from_iter([(Partition(0), Offset(3)), (Partition(5), Offset(0))]);
        assert_eq!(start_at(&told(&cursor)), Ok(Start::At(cursor)));
    }

    #[test]
    fn bad_requests_are_refused() {
        let refusal = |request: SubscribeMetricsRequest| {
            Query::<Metrics>::try_from(request).unwrap_err().to_string()
        };
        let agents = |agents: Vec<String>| SubscribeMetricsRequest {
            agents,
            ..SubscribeMetricsRequest::default()
        };
        assert!(refusal(agents(vec!["../x".into()])).contains("agent id"));
        let text = refusal(agents(vec!["a".into(); 1025]));
        assert_eq!(text, "request names 1025 agents, at most 1024 are allowed");
        let negative =
            SubscribeMetricsRequest { until_ms: -1, ..SubscribeMetricsRequest::default() };
        assert_eq!(refusal(negative), "until_ms is -1, it must not be negative");
    }
}
