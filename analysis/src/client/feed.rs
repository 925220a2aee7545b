//! A stream of metrics that outlives the server it comes from.

use std::time::Duration;

use agent_core::random::SplitMix64;
use bus::Topic;
use proto::subscribe_metrics_request::Start;
use proto::{MetricsBatch, SubscribeMetricsRequest};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::sleep;
use tonic::Streaming;

use super::{Client, Error, ServerAddress};

/// Events that wait while the output is slow. A full queue stops the reading, and so the server's sending: a
/// batch is at most a few hundred records, so this is a few MB.
const EVENTS_MAX: usize = 16;

/// First and last step of the back-off between attempts to reconnect. Somebody is watching, so it stays short.
const BACKOFF_MIN: Duration = Duration::from_millis(500);
const BACKOFF_MAX: Duration = Duration::from_secs(8);

/// What a feed yields.
#[derive(Debug)]
pub(crate) enum Event {
    /// Some records. After a reconnect they may repeat some from before.
    Batch(MetricsBatch),
    /// The server is away; the feed tries to reach it again until it is dropped.
    Away { reason: String },
    /// The server is back, and the feed goes on.
    Back(Resumption),
}

/// Where a feed goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Resumption {
    /// After the last record.
    AfterLast,
    /// At the oldest record: the server has fewer than it had, so they are others.
    Oldest,
}

/// Metrics as they come, over as many connections as it takes.
///
/// Only a request with `follow` is reconnected: a history that breaks off is an error.
#[derive(Debug)]
pub(crate) struct Feed {
    events: mpsc::Receiver<Result<Event, Error>>,
    reader: JoinHandle<()>,
}

impl Feed {
    /// Connects and asks. Fails when the server cannot be reached now.
    pub(crate) async fn open(
        server: ServerAddress,
        request: SubscribeMetricsRequest,
        now_ms: i64,
    ) -> Result<Self, Error> {
        let client = Client::connect(server).await?;
        let stream = client.subscribe(request.clone()).await?;
        let (sender, events) = mpsc::channel(EVENTS_MAX);
        let reader = Reader { client, request, opened_ms: now_ms, events: sender };
        Ok(Self { events, reader: tokio::spawn(reader.run(stream)) })
    }

    /// The next event; none at the end. Safe to cancel.
    pub(crate) async fn next(&mut self) -> Result<Option<Event>, Error> {
        self.events.recv().await.transpose()
    }
}

impl Drop for Feed {
    fn drop(&mut self) {
        self.reader.abort();
    }
}

/// The task behind a feed.
struct Reader {
    client: Client,
    request: SubscribeMetricsRequest,
    opened_ms: i64,
    events: mpsc::Sender<Result<Event, Error>>,
}

/// How a stream ended.
enum Ending {
    /// It is over, or nobody listens any more.
    Done,
    /// It may go on over another connection.
    Away(Error),
    /// It cannot go on.
    Failed(Error),
}

impl Reader {
    async fn run(mut self, mut stream: Streaming<MetricsBatch>) {
        loop {
            let error = match self.forward(stream).await {
                Ending::Done => return,
                Ending::Failed(error) => return self.fail(error).await,
                Ending::Away(error) => error,
            };
            let reason = error.into_reason();
            if self.events.send(Ok(Event::Away { reason })).await.is_err() {
                return;
            }
            let resumption;
            (stream, resumption) = match self.reopen().await {
                Ok(reopened) => reopened,
                Err(error) => return self.fail(error).await,
            };
            if self.events.send(Ok(Event::Back(resumption))).await.is_err() {
                return;
            }
        }
    }

    async fn forward(&mut self, mut stream: Streaming<MetricsBatch>) -> Ending {
        loop {
            let batch = match stream.message().await {
                Ok(Some(batch)) => batch,
                Ok(None) if self.request.follow => {
                    return Ending::Away(Error::Lost {
                        server: self.client.server.clone(),
                        reason: "it closed the stream".to_owned(),
                    });
                }
                Ok(None) => return Ending::Done,
                Err(status) => {
                    let error = self.client.error(&status);
                    if self.request.follow && error.is_transient() {
                        return Ending::Away(error);
                    }
                    return Ending::Failed(error);
                }
            };
            self.advance(&batch);
            if self.events.send(Ok(Event::Batch(batch))).await.is_err() {
                return Ending::Done;
            }
        }
    }

    /// Lets the next stream begin after what this one has brought.
    fn advance(&mut self, batch: &MetricsBatch) {
        if let Some(last) = batch.entries.last() {
            self.request.start = Some(Start::Offset(last.offset.saturating_add(1)));
        }
    }

    /// Tries until the server answers. Fails only when it answers that it will not serve the request.
    async fn reopen(&mut self) -> Result<(Streaming<MetricsBatch>, Resumption), Error> {
        if self.request.start.is_none() {
            // Nothing came yet, so there is no offset to go on from. What was stored since the first
            // connection is missing; by the server's clock that is more or less since then.
            self.request.start = Some(Start::SinceMs(self.opened_ms));
        }
        let mut backoff = Backoff::new(random_seed());
        loop {
            sleep(backoff.next()).await;
            let attempt = async {
                self.client = Client::connect(self.client.server.clone()).await?;
                let resumption = self.resume().await?;
                let stream = self.client.subscribe(self.request.clone()).await;
                stream.map(|stream| (stream, resumption))
            };
            match attempt.await {
                Err(error) if error.is_transient() && !self.events.is_closed() => {}
                outcome => return outcome,
            }
        }
    }

    /// Begins at the oldest record when the server's records end before the last one that was read, which is
    /// so once its data directory was replaced: the wait for our offset would pass over all that comes before.
    async fn resume(&mut self) -> Result<Resumption, Error> {
        let Some(Start::Offset(offset)) = self.request.start else {
            return Ok(Resumption::AfterLast);
        };
        let status = match self.client.server_status().await {
            Ok(status) => status,
            Err(error) if error.is_transient() => return Err(error),
            // A server that does not tell can still serve the records.
            Err(_) => return Ok(Resumption::AfterLast),
        };
        let topic = Topic::MonitoringData.name();
        let extent = status.topics.iter().find(|extent| extent.name == topic);
        if extent.is_none_or(|extent| offset <= extent.next_offset) {
            return Ok(Resumption::AfterLast);
        }
        self.request.start = Some(Start::Offset(0));
        Ok(Resumption::Oldest)
    }

    async fn fail(&self, error: Error) {
        // Whoever dropped the feed does not want to know.
        drop(self.events.send(Err(error)).await);
    }
}

/// Full jitter: each wait is random between nothing and a step that doubles (AWS Architecture Blog,
/// "Exponential Backoff And Jitter", 2015).
struct Backoff {
    step: Duration,
    random: SplitMix64,
}

impl Backoff {
    const fn new(seed: u64) -> Self {
        Self { step: BACKOFF_MIN, random: SplitMix64::new(seed) }
    }

    fn next(&mut self) -> Duration {
        let step_ms = u64::try_from(self.step.as_millis()).unwrap_or(u64::MAX);
        self.step = self.step.saturating_mul(2).min(BACKOFF_MAX);
        Duration::from_millis(self.random.up_to(step_ms))
    }
}

/// Without randomness from the system all tools share one jitter, which is no reason to fail.
fn random_seed() -> u64 {
    getrandom::u64().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_are_jittered_and_bounded() {
        let mut backoff = Backoff::new(7);
        let waits: Vec<Duration> = (0..100).map(|_| backoff.next()).collect();
        assert!(waits[0] <= BACKOFF_MIN);
        assert!(waits[1] <= 2 * BACKOFF_MIN);
        assert!(waits.iter().all(|wait| *wait <= BACKOFF_MAX));
        assert!(waits.iter().any(|wait| *wait > BACKOFF_MAX / 2));
        assert_ne!(waits[98], waits[99]);
    }
}
