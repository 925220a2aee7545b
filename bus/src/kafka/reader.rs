//! The cursor of a subscriber: a feed, the rules of reading it, and surveys of what the topic holds.

use std::future::poll_fn;
use std::sync::Arc;
use std::task::{Context, Poll};

use async_trait::async_trait;
use rdkafka::error::KafkaError;
use tokio::sync::watch;

use super::feed::{Feed, Interruption, Streams};
use super::form::Raw;
use super::merge::{Extent, Merge};
use super::start::find_starts;
use super::survey::{Scope, Surveyor};
use super::{Shared, is_true, unavailable};
use crate::contract::{BusError, Cursor, Delivery, Entry, Start, Subscription};

/// Messages that are looked at before others on the runtime get their turn: most of them may be of other keys.
const MESSAGES_PER_POLL: usize = 4096;

pub(super) struct Reader {
    taker: Taker,
    /// None when it broke, until there is a survey for a new one.
    feed: Option<Feed>,
    surveyor: Surveyor,
    /// Nothing was delivered since a feed broke.
    is_fruitless: bool,
    closed: watch::Receiver<bool>,
}

impl Reader {
    pub(super) async fn open(
        shared: Arc<Shared>,
        scope: Scope,
        start: Start,
    ) -> Result<Self, BusError> {
        let mut closed = shared.closed.subscribe();
        let scope = Arc::new(scope);
        let starts = tokio::select! {
            biased;
            () = is_true(&mut closed) => return Err(BusError::Closed),
            starts = find_starts(&shared, &scope, start) => starts?,
        };
        let merge = Merge::new(starts);
        let feed = Feed::new(&shared.options, &scope.topic_name, merge.positions());
        let feed = Some(feed.map_err(unavailable)?);
        let surveyor = Surveyor::new(Arc::clone(&shared), Arc::clone(&scope));
        Ok(Self {
            taker: Taker { shared, scope, merge },
            feed,
            surveyor,
            is_fruitless: false,
            closed,
        })
    }

    /// Goes on with what the topic holds now; with the same feed where that is possible.
    fn handle_survey(&mut self, extents: &[Extent]) -> Result<(), BusError> {
        let Taker { shared, scope, merge } = &mut self.taker;
        let is_known =
            |extent: &Extent| merge.positions().any(|(partition, _)| partition == extent.partition);
        if self.feed.is_some() && extents.iter().all(is_known) {
            return Ok(());
        }
        merge.survey(extents);
        self.feed = None;
        let feed = Feed::new(&shared.options, &scope.topic_name, merge.positions());
        self.feed = Some(feed.map_err(unavailable)?);
        Ok(())
    }

    /// Reads anew from the same place: at once, for most of the time retention has removed what was to be read. When
    /// that does not help, the caller learns why, and the brokers are spared.
    fn handle_broken(&mut self, error: KafkaError) -> Result<(), BusError> {
        tracing::info!(topic = %self.taker.scope.topic, %error, "reading anew from the same place");
        self.feed = None;
        if std::mem::replace(&mut self.is_fruitless, true) {
            self.surveyor.wait_a_little();
            return Err(unavailable(error));
        }
        self.surveyor.hurry();
        Ok(())
    }
}

#[async_trait]
impl Subscription for Reader {
    async fn next(&mut self) -> Result<Delivery, BusError> {
        loop {
            let Self { taker, feed, surveyor, closed, .. } = self;
            let Some(feed) = feed else {
                if let Some(delivery) = taker.merge.poll_idle() {
                    return Ok(delivery);
                }
                let surveyed = tokio::select! {
                    biased;
                    () = is_true(closed) => return Err(BusError::Closed),
                    surveyed = surveyor.next() => surveyed,
                };
                let extents = surveyed.inspect_err(|_| surveyor.wait_a_little())?;
                self.handle_survey(&extents)?;
                continue;
            };
            let mut streams = feed.streams();
            let step = tokio::select! {
                biased;
                () = is_true(closed) => return Err(BusError::Closed),
                taken = poll_fn(|cx| taker.poll(&mut streams, cx)) => Step::Taken(taken),
                surveyed = surveyor.next() => Step::Surveyed(surveyed),
            };
            drop(streams);
            match step {
                Step::Taken(Ok(delivery)) => {
                    self.is_fruitless = false;
                    return Ok(delivery);
                }
                Step::Taken(Err(error)) => self.handle_broken(error)?,
                Step::Surveyed(Ok(extents)) => self.handle_survey(&extents)?,
                // The feed goes on as it is, and the next survey may tell more.
                Step::Surveyed(Err(_)) => {}
            }
        }
    }

    fn cursor(&self) -> Cursor {
        self.taker.merge.cursor()
    }
}

enum Step {
    Taken(Result<Delivery, KafkaError>),
    Surveyed(Result<Vec<Extent>, BusError>),
}

/// Takes messages in, as the merge wants them.
struct Taker {
    shared: Arc<Shared>,
    scope: Arc<Scope>,
    merge: Merge,
}

impl Taker {
    fn poll(
        &mut self,
        streams: &mut Streams<'_>,
        cx: &mut Context<'_>,
    ) -> Poll<Result<Delivery, KafkaError>> {
        if let Some(delivery) = self.merge.poll() {
            return Poll::Ready(Ok(delivery));
        }
        if let Poll::Ready(error) = streams.poll_common(cx) {
            return Poll::Ready(Err(error));
        }
        let lanes = self.merge.positions().len();
        let mut seen = 0;
        while seen < MESSAGES_PER_POLL {
            let seen_before = seen;
            for lane in 0..lanes {
                if !self.merge.wants(lane) {
                    continue;
                }
                let take = |raw: Raw<'_>| (raw.offset.0, self.accept(&raw));
                match streams.poll_partition(lane, cx, take) {
                    Poll::Pending => continue,
                    Poll::Ready(Ok((offset, entry))) => {
                        self.merge.handle_record(lane, offset, entry);
                    }
                    Poll::Ready(Err(Interruption::End)) => self.merge.handle_end(lane),
                    Poll::Ready(Err(Interruption::Damage)) => {
                        tracing::error!(topic = %self.scope.topic, "records cannot be decoded");
                        self.merge.handle_damage(lane);
                    }
                    Poll::Ready(Err(Interruption::Broken(error))) => {
                        return Poll::Ready(Err(error));
                    }
                }
                seen += 1;
                if let Some(delivery) = self.merge.poll() {
                    return Poll::Ready(Ok(delivery));
                }
            }
            if seen == seen_before {
                // Each lane that is wanted wakes us when there is more.
                return self.merge.poll_idle().map_or(Poll::Pending, |d| Poll::Ready(Ok(d)));
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    /// The entry that a message is, for this reader, with its size.
    fn accept(&self, raw: &Raw<'_>) -> Option<(Entry, usize)> {
        let rejection = match self.scope.read(raw, self.shared.options.record_bytes_max)? {
            Ok(entry) => return Some((entry, raw.bytes())),
            Err(rejection) => rejection,
        };
        let topic = self.scope.topic;
        let Raw { partition, offset, key, .. } = *raw;
        if self.shared.rejections.count(topic, rejection.reason, key) {
            let key = key.map(|key| key.escape_ascii().to_string());
            let (reason, detail) = (rejection.reason, rejection.detail);
            tracing::warn!(
                %topic, %partition, %offset, key, %reason, detail,
                "a record is none of ours and is skipped; more of this source are only counted"
            );
        }
        None
    }
}
