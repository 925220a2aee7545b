//! What can be subscribed to, and how a stream of it goes on after a break.

use bus::Topic;
use proto::{
    MetricsBatch, StatusBatch, SubscribeMetricsRequest, SubscribeStatusRequest,
    subscribe_metrics_request as metrics, subscribe_status_request as status,
};
use tonic::Streaming;

use super::{Client, Error};

/// A request for the records of one topic.
pub(crate) trait Subscribe: Clone + Send + Sync + 'static {
    /// What comes: some records in the order of the bus.
    type Batch: Send + 'static;

    /// Where they come from.
    const TOPIC: Topic;

    /// Opens a stream. It ends by itself only when `follow` is not asked for.
    fn open(
        self,
        client: &Client,
    ) -> impl Future<Output = Result<Streaming<Self::Batch>, Error>> + Send;

    /// Whether it goes on with live records after the history.
    fn follows(&self) -> bool;

    /// Whether it says where to begin. If not, it begins with what comes from now on.
    fn has_start(&self) -> bool;

    /// The offset it begins at, if it begins at one.
    fn start_offset(&self) -> Option<u64>;

    /// Lets it begin at this offset.
    fn start_at(&mut self, offset: u64);

    /// Lets it begin at this time: Unix milliseconds.
    fn start_since(&mut self, unix_ms: i64);

    /// The offset of the last record of a batch.
    fn last_offset(batch: &Self::Batch) -> Option<u64>;
}

impl Subscribe for SubscribeMetricsRequest {
    type Batch = MetricsBatch;

    const TOPIC: Topic = Topic::MonitoringData;

    async fn open(self, client: &Client) -> Result<Streaming<MetricsBatch>, Error> {
        client.subscribe_metrics(self).await
    }

    fn follows(&self) -> bool {
        self.follow
    }

    fn has_start(&self) -> bool {
        self.start.is_some()
    }

    fn start_offset(&self) -> Option<u64> {
        match self.start? {
            metrics::Start::Offset(offset) => Some(offset),
            metrics::Start::SinceMs(_) | metrics::Start::Last(_) => None,
        }
    }

    fn start_at(&mut self, offset: u64) {
        self.start = Some(metrics::Start::Offset(offset));
    }

    fn start_since(&mut self, unix_ms: i64) {
        self.start = Some(metrics::Start::SinceMs(unix_ms));
    }

    fn last_offset(batch: &MetricsBatch) -> Option<u64> {
        Some(batch.entries.last()?.offset)
    }
}

impl Subscribe for SubscribeStatusRequest {
    type Batch = StatusBatch;

    const TOPIC: Topic = Topic::AgentStatus;

    async fn open(self, client: &Client) -> Result<Streaming<StatusBatch>, Error> {
        client.subscribe_status(self).await
    }

    fn follows(&self) -> bool {
        self.follow
    }

    fn has_start(&self) -> bool {
        self.start.is_some()
    }

    fn start_offset(&self) -> Option<u64> {
        match self.start? {
            status::Start::Offset(offset) => Some(offset),
            status::Start::SinceMs(_) | status::Start::Last(_) => None,
        }
    }

    fn start_at(&mut self, offset: u64) {
        self.start = Some(status::Start::Offset(offset));
    }

    fn start_since(&mut self, unix_ms: i64) {
        self.start = Some(status::Start::SinceMs(unix_ms));
    }

    fn last_offset(batch: &StatusBatch) -> Option<u64> {
        Some(batch.entries.last()?.offset)
    }
}
