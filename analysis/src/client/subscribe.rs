//! What can be subscribed to, and how a stream of it goes on after a break.

use bus::Topic;
use proto::{
    Cursor, MetricsBatch, StatusBatch, SubscribeMetricsRequest, SubscribeStatusRequest,
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

    /// Where it begins, if it begins where another one ended.
    fn start_cursor(&self) -> Option<&Cursor>;

    /// Lets it begin where another one ended.
    fn start_at(&mut self, cursor: Cursor);

    /// Lets it begin at this time: Unix milliseconds.
    fn start_since(&mut self, unix_ms: i64);

    /// Where to go on after a batch, if it says so.
    fn cursor(batch: &Self::Batch) -> Option<&Cursor>;
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

    fn start_cursor(&self) -> Option<&Cursor> {
        match self.start.as_ref()? {
            metrics::Start::Cursor(cursor) => Some(cursor),
            metrics::Start::SinceMs(_) | metrics::Start::Last(_) => None,
        }
    }

    fn start_at(&mut self, cursor: Cursor) {
        self.start = Some(metrics::Start::Cursor(cursor));
    }

    fn start_since(&mut self, unix_ms: i64) {
        self.start = Some(metrics::Start::SinceMs(unix_ms));
    }

    fn cursor(batch: &MetricsBatch) -> Option<&Cursor> {
        batch.cursor.as_ref()
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

    fn start_cursor(&self) -> Option<&Cursor> {
        match self.start.as_ref()? {
            status::Start::Cursor(cursor) => Some(cursor),
            status::Start::SinceMs(_) | status::Start::Last(_) => None,
        }
    }

    fn start_at(&mut self, cursor: Cursor) {
        self.start = Some(status::Start::Cursor(cursor));
    }

    fn start_since(&mut self, unix_ms: i64) {
        self.start = Some(status::Start::SinceMs(unix_ms));
    }

    fn cursor(batch: &StatusBatch) -> Option<&Cursor> {
        batch.cursor.as_ref()
    }
}
