//! The bus of the data directory, of which it is told when it cannot store.

use std::sync::Arc;

use bus::{
    Bus, BusError, Damage, PublishError, Record, Rejected, Selection, Start, Subscription, Topic,
    Watermarks,
};

use crate::troubles::{Trouble, Troubles};

/// A bus whose trouble stands from a publish that it could not store until one that it has stored: nothing else tells
/// whether a disk is full.
#[derive(Debug)]
pub(super) struct Watched {
    bus: Arc<dyn Bus>,
    troubles: Arc<Troubles>,
}

impl Watched {
    pub(super) const fn new(bus: Arc<dyn Bus>, troubles: Arc<Troubles>) -> Self {
        Self { bus, troubles }
    }

    fn notice(&self, published: &Result<(), PublishError>) {
        match published {
            Ok(()) => self.troubles.clear(Trouble::Store),
            Err(PublishError::Unavailable(cause)) => {
                let text = format!("the data directory takes no records: {}", chain(&**cause));
                self.troubles.raise(Trouble::Store, &text);
            }
            // The record is at fault, or the server ends.
            Err(_) => {}
        }
    }
}

#[tonic::async_trait]
impl Bus for Watched {
    async fn publish(&self, records: Vec<Record>) -> Result<(), PublishError> {
        if records.is_empty() {
            return Ok(());
        }
        let published = self.bus.publish(records).await;
        self.notice(&published);
        published
    }

    async fn subscribe(
        &self,
        topic: Topic,
        start: Start,
        selection: Selection,
    ) -> Result<Box<dyn Subscription>, BusError> {
        self.bus.subscribe(topic, start, selection).await
    }

    async fn watermarks(&self, topic: Topic) -> Result<Vec<Watermarks>, BusError> {
        self.bus.watermarks(topic).await
    }

    fn kind(&self) -> &'static str {
        self.bus.kind()
    }

    fn is_shared(&self) -> bool {
        self.bus.is_shared()
    }

    fn finds_by_key(&self) -> bool {
        self.bus.finds_by_key()
    }

    fn rejected(&self) -> Vec<Rejected> {
        self.bus.rejected()
    }

    async fn damage(&self) -> Result<Vec<Damage>, BusError> {
        self.bus.damage().await
    }

    async fn damage_told(&self, number: u64) -> Result<(), BusError> {
        self.bus.damage_told(number).await
    }

    async fn alive(&self) -> Result<(), BusError> {
        self.bus.alive().await
    }

    async fn close(&self) -> Result<(), BusError> {
        self.bus.close().await
    }
}

/// The error and what caused it, in one line.
fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    let causes = std::iter::successors(Some(error), |error| error.source());
    causes.map(ToString::to_string).collect::<Vec<_>>().join(": ")
}

#[cfg(test)]
mod tests {
    use std::io;

    use bus::Payload;
    use bus::embedded::{Database, Options};
    use proto::Command;

    use super::*;

    fn record() -> Record {
        let command = Command { agent_id: "a".into(), ..Command::default() };
        Record { key: "a".parse().unwrap(), payload: Payload::Command(command) }
    }

    #[tokio::test]
    async fn a_directory_that_takes_nothing_is_a_trouble_until_it_takes_something() {
        let directory = tempfile::tempdir().unwrap();
        let database = Database::open(directory.path(), Options::default()).unwrap();
        let troubles = Arc::new(Troubles::default());
        let bus = Watched::new(database.bus(), Arc::clone(&troubles));
        bus.publish(vec![record()]).await.unwrap();
        assert!(troubles.texts().is_empty());

        let full = io::Error::from(io::ErrorKind::StorageFull);
        bus.notice(&Err(PublishError::Unavailable(Box::new(full))));
        let texts = troubles.texts();
        assert!(texts[0].starts_with("the data directory takes no records: "), "{texts:?}");
        bus.notice(&Err(PublishError::Closed));
        bus.publish(vec![]).await.unwrap();
        assert_eq!(troubles.texts(), texts, "nothing was stored since");

        bus.publish(vec![record()]).await.unwrap();
        assert!(troubles.texts().is_empty());
        bus.close().await.unwrap();
    }
}
