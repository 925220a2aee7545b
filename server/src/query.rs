//! Reading metrics back: a subscription of the bus as a stream of bounded messages.

use std::collections::BTreeSet;

use agent_core::id::AgentId;
use bus::{BusError, Delivery, Entry, Offset, Payload, Selection, Start, Subscription};
use prost::Message as _;
use proto::subscribe_metrics_request::Start as RequestStart;
use proto::{MetricsBatch, StoredMetrics, SubscribeMetricsRequest};
use tokio::sync::mpsc;
use tonic::Status;

use crate::limits::{QUERY_AGENTS_MAX, QUERY_BATCH_BYTES_MAX, QUERY_BATCH_ENTRIES_MAX};
use crate::rejection::{Reason, Rejection};
use crate::shutdown::Guard;

/// What a reader asks for, checked.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Query {
    pub(crate) selection: Selection,
    pub(crate) start: Start,
    follow: bool,
    limit: Option<u64>,
    until_ms: Option<i64>,
}

impl TryFrom<SubscribeMetricsRequest> for Query {
    type Error = Rejection;

    fn try_from(request: SubscribeMetricsRequest) -> Result<Self, Rejection> {
        let agents = agent_ids(&request.agents)?;
        let selection = if agents.is_empty() {
            Selection::All
        } else {
            Selection::Keys(BTreeSet::from_iter(agents))
        };
        let start = match request.start {
            None => Start::Tail,
            Some(RequestStart::SinceMs(ms)) => Start::Time(ms),
            Some(RequestStart::Offset(offset)) => Start::Offset(Offset(offset)),
            Some(RequestStart::Last(count)) => Start::Last(count),
        };
        let until_ms = match request.until_ms {
            0 => None,
            ms if ms < 0 => {
                let text = format!("until_ms is {ms}, it must not be negative");
                return Err(Rejection::new(Reason::Request, text));
            }
            ms => Some(ms),
        };
        Ok(Self {
            selection,
            start,
            follow: request.follow,
            limit: (request.limit > 0).then_some(request.limit),
            until_ms,
        })
    }
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

/// Whether a query goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Progress {
    More,
    Done,
}

/// Turns deliveries into messages. Knows when the query is over.
#[derive(Debug)]
struct Answering {
    follow: bool,
    left: Option<u64>,
    until_ms: Option<i64>,
}

impl Answering {
    fn take(&mut self, delivery: Delivery) -> (Vec<MetricsBatch>, Progress) {
        match delivery {
            Delivery::Entries(entries) => self.take_entries(entries),
            Delivery::CaughtUp => {
                let batch = MetricsBatch { caught_up: true, ..MetricsBatch::default() };
                let progress = if self.follow { Progress::More } else { Progress::Done };
                (vec![batch], progress)
            }
            Delivery::Skipped { first, last } => {
                let batch = MetricsBatch {
                    skipped_first: first.0,
                    skipped_last: last.0,
                    ..MetricsBatch::default()
                };
                (vec![batch], Progress::More)
            }
        }
    }

    fn take_entries(&mut self, entries: Vec<Entry>) -> (Vec<MetricsBatch>, Progress) {
        let mut batches = Vec::new();
        let mut batch = Vec::new();
        let mut bytes = 0;
        let mut progress = Progress::More;
        for entry in entries {
            if self.left == Some(0) || self.until_ms.is_some_and(|until| until < entry.stored_ms) {
                progress = Progress::Done;
                break;
            }
            let Payload::Metrics(metrics) = entry.payload else {
                continue;
            };
            self.left = self.left.map(|left| left - 1);
            bytes += metrics.encoded_len();
            batch.push(StoredMetrics {
                offset: entry.offset.0,
                stored_ms: entry.stored_ms,
                metrics: Some(metrics),
            });
            if QUERY_BATCH_ENTRIES_MAX <= batch.len() || QUERY_BATCH_BYTES_MAX <= bytes {
                batches.push(filled(std::mem::take(&mut batch)));
                bytes = 0;
            }
        }
        if !batch.is_empty() {
            batches.push(filled(batch));
        }
        if self.left == Some(0) {
            progress = Progress::Done;
        }
        (batches, progress)
    }
}

fn filled(entries: Vec<StoredMetrics>) -> MetricsBatch {
    MetricsBatch { entries, ..MetricsBatch::default() }
}

/// Sends what `subscription` delivers until the query is over, the reader goes away or the server ends.
///
/// `answers` holds a few messages; while it is full the subscription is not read, which costs the bus nothing.
pub(crate) async fn answer(
    query: Query,
    mut subscription: Box<dyn Subscription>,
    answers: mpsc::Sender<Result<MetricsBatch, Status>>,
    mut guard: Guard,
) {
    let mut answering =
        Answering { follow: query.follow, left: query.limit, until_ms: query.until_ms };
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

async fn pass_on(
    answering: &mut Answering,
    subscription: &mut dyn Subscription,
    answers: &mpsc::Sender<Result<MetricsBatch, Status>>,
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

    use proto::MetricsRecord;

    fn entry(offset: u64) -> Entry {
        Entry {
            offset: Offset(offset),
            stored_ms: i64::try_from(offset).unwrap() * 10,
            key: "a".parse().unwrap(),
            payload: Payload::Metrics(MetricsRecord::default()),
        }
    }

    /// The offsets of the messages that come of entries 1 to `count`, and whether the query goes on.
    fn check(answering: &mut Answering, count: u64) -> (Vec<usize>, Progress) {
        let entries = (1..=count).map(entry).collect();
        let (batches, progress) = answering.take(Delivery::Entries(entries));
        let sizes = batches.iter().map(|batch| batch.entries.len()).collect();
        (sizes, progress)
    }

    fn query(request: SubscribeMetricsRequest) -> Answering {
        let query = Query::try_from(request).unwrap();
        Answering { follow: query.follow, left: query.limit, until_ms: query.until_ms }
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
