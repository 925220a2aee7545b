//! A topic as the server reads it: a subscription that outlives failures of the bus.

use std::sync::Arc;
use std::time::Duration;

use bus::{Bus, BusError, Delivery, Entry, Selection, Start, Subscription, Topic};
use tracing::warn;

use crate::troubles::{Trouble, Troubles};

/// Pause before a topic that could not be read is read again.
const RETRY: Duration = Duration::from_secs(1);

/// What a feed yields.
#[derive(Debug)]
pub(crate) enum News {
    /// Records, in the order of the bus.
    Entries(Vec<Entry>),
    /// What was there when the feed began has been read. Comes once.
    CaughtUp,
}

/// Reads a topic for as long as the server runs.
pub(crate) struct Feed {
    bus: Arc<dyn Bus>,
    troubles: Arc<Troubles>,
    topic: Topic,
    /// Where to go on.
    next: Start,
    subscription: Option<Box<dyn Subscription>>,
    is_caught_up: bool,
}

impl Feed {
    pub(crate) fn new(
        bus: &Arc<dyn Bus>,
        troubles: &Arc<Troubles>,
        topic: Topic,
        start: Start,
    ) -> Self {
        Self {
            bus: Arc::clone(bus),
            troubles: Arc::clone(troubles),
            topic,
            next: start,
            subscription: None,
            is_caught_up: false,
        }
    }

    /// The next news; none once the bus is closed. Waits for as long as the bus cannot be read. Safe to cancel.
    pub(crate) async fn next(&mut self) -> Option<News> {
        loop {
            match self.read().await {
                Ok(Delivery::Entries(entries)) => return Some(News::Entries(entries)),
                // A subscription that was opened again catches up again.
                Ok(Delivery::CaughtUp) if self.is_caught_up => {}
                Ok(Delivery::CaughtUp) => {
                    self.is_caught_up = true;
                    return Some(News::CaughtUp);
                }
                Ok(Delivery::Skipped { partition, first, last }) => {
                    let topic = self.topic;
                    warn!(%topic, %partition, "retention removed {first} to {last} before they were read");
                }
                Err(BusError::Closed) => return None,
                Err(error) => {
                    let text = format!("topic {} cannot be read: {error:#}", self.topic);
                    self.troubles.raise(Trouble::Topic(self.topic), &text);
                    tokio::time::sleep(RETRY).await;
                }
            }
        }
    }

    /// When the newest record was stored of those that were there when the feed began; the outer none once the bus is closed.
    pub(crate) async fn newest_ms(&mut self) -> Option<Option<i64>> {
        let mut newest_ms = None;
        while let News::Entries(entries) = self.next().await? {
            newest_ms = entries
                .iter()
                .map(|entry| Some(entry.stored_ms))
                .chain([newest_ms])
                .max()
                .flatten();
        }
        Some(newest_ms)
    }

    async fn read(&mut self) -> Result<Delivery, BusError> {
        let subscription = match &mut self.subscription {
            Some(subscription) => subscription,
            None => {
                let opened = self.bus.subscribe(self.topic, self.next.clone(), Selection::All);
                self.subscription.insert(opened.await?)
            }
        };
        match subscription.next().await {
            Ok(delivery) => {
                self.next = Start::At(subscription.cursor());
                self.troubles.clear(Trouble::Topic(self.topic));
                Ok(delivery)
            }
            Err(error) => {
                self.subscription = None;
                Err(error)
            }
        }
    }
}
