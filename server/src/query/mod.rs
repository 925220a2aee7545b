//! Reading records back: a subscription of the bus as a stream of bounded messages.
//!
//! What is the same for every topic is here; [`metrics`] and [`status`] say what their own are.

mod metrics;
mod status;

use std::collections::BTreeSet;

use agent_core::id::AgentId;
use bus::{Bus, BusError, Delivery, Entry, Offset, Selection, Start, Subscription, Topic};
use tokio::sync::mpsc;
use tonic::Status;

pub(crate) use metrics::Metrics;
pub(crate) use status::Statuses;

use crate::limits::{QUERY_AGENTS_MAX, QUERY_BATCH_BYTES_MAX, QUERY_BATCH_ENTRIES_MAX};
use crate::rejection::{Reason, Rejection};
use crate::shutdown::Guard;

/// What is read, and how readers get it.
pub(crate) trait Form: Send + 'static {
    /// A record with its place.
    type Stored: Send;
    /// A message of the subscription.
    type Batch: Send;

    /// Where such records are.
    const TOPIC: Topic;

    /// The record of `entry` and its encoded size; none when it was not asked for.
    fn select(&self, entry: Entry) -> Option<(Self::Stored, usize)>;

    /// A message with these records.
    fn filled(entries: Vec<Self::Stored>) -> Self::Batch;

    /// The message that history is over.
    fn caught_up() -> Self::Batch;

    /// The message that these records are gone.
    fn skipped(first: Offset, last: Offset) -> Self::Batch;
}

/// What a reader asks for, checked.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Query<F> {
    selection: Selection,
    start: Start,
    follow: bool,
    limit: Option<u64>,
    until_ms: Option<i64>,
    form: F,
}

/// Reads the agents that a request names.
pub(crate) fn agent_ids(texts: &[String]) -> Result<Vec<AgentId>, Rejection> {
    if QUERY_AGENTS_MAX < texts.len() {
        let text =
            format!("request names {} agents, at most {QUERY_AGENTS_MAX} are allowed", texts.len());
        return Err(Rejection::new(Reason::Request, text));
    }
    texts.iter().map(|text| Ok(text.parse()?)).collect()
}

/// The records of the agents that a request names; of all when it names none.
fn selection(agents: &[String]) -> Result<Selection, Rejection> {
    let agents = agent_ids(agents)?;
    Ok(if agents.is_empty() {
        Selection::All
    } else {
        Selection::Keys(BTreeSet::from_iter(agents))
    })
}

/// Whether a query goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Progress {
    More,
    Done,
}

/// Turns deliveries into messages. Knows when the query is over.
#[derive(Debug)]
struct Answering<F> {
    follow: bool,
    left: Option<u64>,
    until_ms: Option<i64>,
    form: F,
}

impl<F> From<Query<F>> for Answering<F> {
    fn from(query: Query<F>) -> Self {
        let Query { selection: _, start: _, follow, limit, until_ms, form } = query;
        Self { follow, left: limit, until_ms, form }
    }
}

impl<F: Form> Answering<F> {
    fn take(&mut self, delivery: Delivery) -> (Vec<F::Batch>, Progress) {
        match delivery {
            Delivery::Entries(entries) => self.take_entries(entries),
            Delivery::CaughtUp => {
                let progress = if self.follow { Progress::More } else { Progress::Done };
                (vec![F::caught_up()], progress)
            }
            Delivery::Skipped { first, last } => (vec![F::skipped(first, last)], Progress::More),
        }
    }

    fn take_entries(&mut self, entries: Vec<Entry>) -> (Vec<F::Batch>, Progress) {
        let mut batches = Vec::new();
        let mut batch = Vec::new();
        let mut bytes = 0;
        let mut progress = Progress::More;
        for entry in entries {
            if self.left == Some(0) || self.until_ms.is_some_and(|until| until < entry.stored_ms) {
                progress = Progress::Done;
                break;
            }
            let Some((stored, size)) = self.form.select(entry) else {
                continue;
            };
            self.left = self.left.map(|left| left - 1);
            bytes += size;
            batch.push(stored);
            if QUERY_BATCH_ENTRIES_MAX <= batch.len() || QUERY_BATCH_BYTES_MAX <= bytes {
                batches.push(F::filled(std::mem::take(&mut batch)));
                bytes = 0;
            }
        }
        if !batch.is_empty() {
            batches.push(F::filled(batch));
        }
        if self.left == Some(0) {
            progress = Progress::Done;
        }
        (batches, progress)
    }
}

/// Opens the reader that `query` needs: what is published from now on is seen.
pub(crate) async fn subscribe<F: Form>(
    bus: &dyn Bus,
    query: &Query<F>,
) -> Result<Box<dyn Subscription>, BusError> {
    bus.subscribe(F::TOPIC, query.start, query.selection.clone()).await
}

/// Sends what `subscription` delivers until the query is over, the reader goes away or the server ends.
///
/// `answers` holds a few messages; while it is full the subscription is not read, which costs the bus nothing.
pub(crate) async fn answer<F: Form>(
    query: Query<F>,
    mut subscription: Box<dyn Subscription>,
    answers: mpsc::Sender<Result<F::Batch, Status>>,
    mut guard: Guard,
) {
    let mut answering = Answering::from(query);
    let status = tokio::select! {
        () = answers.closed() => return,
        () = guard.wait() => Status::unavailable("server is shutting down"),
        end = pass_on(&mut answering, subscription.as_mut(), &answers) => match end {
            Ok(()) => return,
            Err(error) => Status::unavailable(error.to_string()),
        },
    };
    // A reader that takes nothing learns it from the end of the connection. The guard must not wait for it.
    drop(guard);
    answers.send(Err(status)).await.ok();
}

async fn pass_on<F: Form>(
    answering: &mut Answering<F>,
    subscription: &mut dyn Subscription,
    answers: &mpsc::Sender<Result<F::Batch, Status>>,
) -> Result<(), BusError> {
    loop {
        let (batches, progress) = answering.take(subscription.next().await?);
        for batch in batches {
            if answers.send(Ok(batch)).await.is_err() {
                return Ok(());
            }
        }
        if progress == Progress::Done {
            return Ok(());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    use bus::Payload;
    use proto::{MetricsRecord, SubscribeMetricsRequest};

    fn entry(offset: u64) -> Entry {
        Entry {
            offset: Offset(offset),
            stored_ms: i64::try_from(offset).unwrap() * 10,
            key: "a".parse().unwrap(),
            payload: Payload::Metrics(MetricsRecord::default()),
        }
    }

    /// The offsets of the messages that come of entries 1 to `count`, and whether the query goes on.
    fn check(answering: &mut Answering<Metrics>, count: u64) -> (Vec<usize>, Progress) {
        let entries = (1..=count).map(entry).collect();
        let (batches, progress) = answering.take(Delivery::Entries(entries));
        let sizes = batches.iter().map(|batch| batch.entries.len()).collect();
        (sizes, progress)
    }

    fn query(request: SubscribeMetricsRequest) -> Answering<Metrics> {
        Query::try_from(request).unwrap().into()
    }

    #[test]
    fn limit_ends_the_query_at_once() {
        let mut answering =
            query(SubscribeMetricsRequest { limit: 3, ..SubscribeMetricsRequest::default() });
        assert_eq!(check(&mut answering, 2), (vec![2], Progress::More));
        assert_eq!(check(&mut answering, 2), (vec![1], Progress::Done));
    }

    #[test]
    fn until_ends_the_query_with_the_first_record_after_it() {
        let mut answering = query(SubscribeMetricsRequest {
            until_ms: 20,
            follow: true,
            ..SubscribeMetricsRequest::default()
        });
        assert_eq!(check(&mut answering, 5), (vec![2], Progress::Done));
    }

    #[test]
    fn history_ends_a_query_that_does_not_follow() {
        for (follow, expected) in [(false, Progress::Done), (true, Progress::More)] {
            let mut answering =
                query(SubscribeMetricsRequest { follow, ..SubscribeMetricsRequest::default() });
            let (batches, progress) = answering.take(Delivery::CaughtUp);
            assert!(batches[0].caught_up);
            assert_eq!(progress, expected);
        }
    }

    #[test]
    fn messages_are_bounded_by_entries_and_bytes() {
        let mut answering = query(SubscribeMetricsRequest::default());
        assert_eq!(check(&mut answering, 300), (vec![256, 44], Progress::More));
        let large = (1..=9).map(|offset| {
            let mut large = entry(offset);
            large.payload = Payload::Metrics(MetricsRecord {
                metadata: [("k".to_owned(), "v".repeat(32 * 1024))].into(),
                ..MetricsRecord::default()
            });
            large
        });
        let (batches, _) = answering.take(Delivery::Entries(large.collect()));
        assert_eq!(batches.len(), 3);
        let largest = batches.iter().map(prost::Message::encoded_len).max();
        assert!(largest < Some(crate::limits::MESSAGE_BYTES_MAX));
    }

    #[test]
    fn bad_requests_are_refused() {
        let reason =
            |request: SubscribeMetricsRequest| Query::try_from(request).unwrap_err().reason;
        let agents = |agents: Vec<String>| SubscribeMetricsRequest {
            agents,
            ..SubscribeMetricsRequest::default()
        };
        assert_eq!(reason(agents(vec!["../x".into()])), Reason::AgentId);
        assert_eq!(reason(agents(vec!["a".into(); 1025])), Reason::Request);
        let negative =
            SubscribeMetricsRequest { until_ms: -1, ..SubscribeMetricsRequest::default() };
        assert_eq!(reason(negative), Reason::Request);
    }
}
