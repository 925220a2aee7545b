//! Reading metrics back.

use prost::Message as _;
use proto::subscribe_metrics_request::Start as RequestStart;
use proto::{MetricsBatch, StoredMetrics, SubscribeMetricsRequest};

use super::{Form, Part, Query, QueryError, selection, start_at};
use crate::contract::{Entry, Start};
use crate::record::Payload;
use crate::topic::Topic;

/// All metrics of the agents that were asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Metrics;

impl TryFrom<SubscribeMetricsRequest> for Query<Metrics> {
    type Error = QueryError;

    fn try_from(request: SubscribeMetricsRequest) -> Result<Self, QueryError> {
        let start = match &request.start {
            None => Start::Tail,
            Some(RequestStart::SinceMs(ms)) => Start::Time(*ms),
            Some(RequestStart::Last(count)) => Start::Last(*count),
            Some(RequestStart::Cursor(cursor)) => start_at(cursor)?,
        };
        let until_ms = match request.until_ms {
            0 => None,
            ms if ms < 0 => return Err(QueryError::Until(ms)),
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
        let Entry { partition, offset, stored_ms, key: _, payload } = entry;
        let Payload::Metrics(metrics) = payload else {
            return None;
        };
        let bytes = metrics.encoded_len();
        let stored = StoredMetrics {
            offset: offset.0,
            stored_ms,
            metrics: Some(metrics),
            partition: partition.0,
        };
        Some((stored, bytes))
    }

    fn batch(part: Part<StoredMetrics>, cursor: Option<proto::Cursor>) -> MetricsBatch {
        let said = MetricsBatch { cursor, ..MetricsBatch::default() };
        match part {
            Part::Entries(entries) => MetricsBatch { entries, ..said },
            Part::CaughtUp => MetricsBatch { caught_up: true, ..said },
            Part::Skipped(gone) => MetricsBatch {
                skipped_first: gone.first.0,
                skipped_last: gone.last.0,
                skipped_partition: gone.partition.0,
                ..said
            },
        }
    }
}
