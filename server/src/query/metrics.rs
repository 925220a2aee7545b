//! Reading metrics back.

use bus::{Entry, Offset, Payload, Start, Topic};
use prost::Message as _;
use proto::subscribe_metrics_request::Start as RequestStart;
use proto::{MetricsBatch, StoredMetrics, SubscribeMetricsRequest};

use crate::query::{Form, Query, selection};
use crate::rejection::{Reason, Rejection};

/// All metrics of the agents that were asked for.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Metrics;

impl TryFrom<SubscribeMetricsRequest> for Query<Metrics> {
    type Error = Rejection;

    fn try_from(request: SubscribeMetricsRequest) -> Result<Self, Rejection> {
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
            selection: selection(&request.agents)?,
            start,
            follow: request.follow,
            limit: (request.limit > 0).then_some(request.limit),
            until_ms,
            form: Metrics,
        })
    }
}

impl Form for Metrics {
    type Stored = StoredMetrics;
    type Batch = MetricsBatch;

    const TOPIC: Topic = Topic::MonitoringData;

    fn select(&self, entry: Entry) -> Option<(StoredMetrics, usize)> {
        let Payload::Metrics(metrics) = entry.payload else {
            return None;
        };
        let bytes = metrics.encoded_len();
        let (offset, stored_ms) = (entry.offset.0, entry.stored_ms);
        Some((StoredMetrics { offset, stored_ms, metrics: Some(metrics) }, bytes))
    }

    fn filled(entries: Vec<StoredMetrics>) -> MetricsBatch {
        MetricsBatch { entries, ..MetricsBatch::default() }
    }

    fn caught_up() -> MetricsBatch {
        MetricsBatch { caught_up: true, ..MetricsBatch::default() }
    }

    fn skipped(first: Offset, last: Offset) -> MetricsBatch {
        MetricsBatch { skipped_first: first.0, skipped_last: last.0, ..MetricsBatch::default() }
    }
}
