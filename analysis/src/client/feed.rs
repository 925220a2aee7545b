//! A stream of records that outlives the server it comes from.

use std::time::Duration;

use agent_core::random::SplitMix64;
use proto::{Cursor, Position};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::sleep;
use tonic::Streaming;

use super::{Client, Error, ServerAddress, Subscribe};

/// Events that wait while the output is slow. A full queue stops the reading, and so the server's sending: a
/// batch is at most a few hundred records, so this is a few MB.
const EVENTS_MAX: usize = 16;

/// First and last step of the back-off between attempts to reconnect. Somebody is watching, so it stays short.
const BACKOFF_MIN: Duration = Duration::from_millis(500);
const BACKOFF_MAX: Duration = Duration::from_secs(8);

/// What a feed yields.
#[derive(Debug)]
pub(crate) enum Event<B> {
    /// Some records. After a reconnect they may repeat some from before.
    Batch(B),
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

/// Records as they come, over as many connections as it takes.
///
/// Only a request with `follow` is reconnected: a history that breaks off is an error.
#[derive(Debug)]
pub(crate) struct Feed<B> {
    events: mpsc::Receiver<Result<Event<B>, Error>>,
    reader: JoinHandle<()>,
}

impl<B: Send + 'static> Feed<B> {
    /// Connects and asks. Fails when the server cannot be reached now.
    pub(crate) async fn open(
        server: ServerAddress,
        request: impl Subscribe<Batch = B>,
        now_ms: i64,
    ) -> Result<Self, Error> {
        let client = Client::connect(server).await?;
        let stream = request.clone().open(&client).await?;
        let (sender, events) = mpsc::channel(EVENTS_MAX);
        let reader = Reader { client, request, opened_ms: now_ms, events: sender };
        Ok(Self { events, reader: tokio::spawn(reader.run(stream)) })
    }

    /// The next event; none at the end. Safe to cancel.
    pub(crate) async fn next(&mut self) -> Result<Option<Event<B>>, Error> {
        self.events.recv().await.transpose()
    }
}

impl<B> Drop for Feed<B> {
    fn drop(&mut self) {
        self.reader.abort();
    }
}

/// The task behind a feed.
struct Reader<R: Subscribe> {
    client: Client,
    request: R,
    opened_ms: i64,
    events: mpsc::Sender<Result<Event<R::Batch>, Error>>,
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

impl<R: Subscribe> Reader<R> {
    async fn run(mut self, mut stream: Streaming<R::Batch>) {
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

    async fn forward(&mut self, mut stream: Streaming<R::Batch>) -> Ending {
        loop {
            let batch = match stream.message().await {
                Ok(Some(batch)) => batch,
                Ok(None) if self.request.follows() => {
                    return Ending::Away(Error::Lost {
                        server: self.client.server.clone(),
                        reason: "it closed the stream".to_owned(),
                    });
                }
                Ok(None) => return Ending::Done,
                Err(status) => {
                    let error = self.client.error(&status);
                    if self.request.follows() && error.is_transient() {
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
    fn advance(&mut self, batch: &R::Batch) {
        if let Some(cursor) = R::cursor(batch) {
            self.request.start_at(cursor.clone());
        }
    }

    /// Tries until the server answers. Fails only when it answers that it will not serve the request.
    async fn reopen(&mut self) -> Result<(Streaming<R::Batch>, Resumption), Error> {
        if !self.request.has_start() {
            // Nothing came yet, so there is no place to go on from. What was stored since the first
            // connection is missing; by the server's clock that is more or less since then.
            self.request.start_since(self.opened_ms);
        }
        let mut backoff = Backoff::new(random_seed());
        loop {
            sleep(backoff.next()).await;
            let attempt = async {
                self.client = Client::connect(self.client.server.clone()).await?;
                let resumption = self.resume().await?;
                let stream = self.request.clone().open(&self.client).await;
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
        let Some(cursor) = self.request.start_cursor().cloned() else {
            return Ok(Resumption::AfterLast);
        };
        let status = match self.client.server_status().await {
            Ok(status) => status,
            Err(error) if error.is_transient() => return Err(error),
            // A server that does not tell can still serve the records.
            Err(_) => return Ok(Resumption::AfterLast),
        };
        let topic = R::TOPIC.name();
        let extents: Vec<_> = status.topics.iter().filter(|extent| extent.name == topic).collect();
        let is_beyond = |position: &Position| {
            let extent = extents.iter().find(|extent| extent.partition == position.partition);
            extent.is_some_and(|extent| extent.next_offset < position.next_offset)
        };
        if !cursor.positions.iter().any(is_beyond) {
            return Ok(Resumption::AfterLast);
        }
        self.request.start_at(Cursor::default());
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
