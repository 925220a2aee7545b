//! What a subscription covers, and the repeated question what is there.

use std::collections::BTreeSet;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::oneshot::error::RecvError;
use tokio::time::{Instant, sleep_until};

use super::form::{Raw, Rejection};
use super::lookup::LookupError;
use super::merge::Extent;
use super::partitioner::partitions_of;
use super::{Shared, aside, unavailable};
use crate::contract::{BusError, Entry, Partition, Selection};
use crate::topic::Topic;

/// What a subscription covers.
#[derive(Debug)]
pub(super) struct Scope {
    pub(super) topic: Topic,
    /// As it is called on the brokers.
    pub(super) topic_name: String,
    pub(super) selection: Selection,
}

impl Scope {
    /// What a message is to this subscription; nothing when another key than the selected ones is on it.
    pub(super) fn read(&self, raw: &Raw<'_>, bytes_max: usize) -> Option<Result<Entry, Rejection>> {
        if let (Selection::Keys(keys), Some(key)) = (&self.selection, raw.key)
            && !key.is_empty()
            && !keys.iter().any(|selected| selected.as_str().as_bytes() == key)
        {
            return None;
        }
        match raw.read(self.topic, bytes_max) {
            Ok(entry) if !self.selection.contains(&entry.key) => None,
            read => Some(read),
        }
    }

    /// The partitions to read. Blocks.
    pub(super) fn partitions(&self, shared: &Shared) -> Result<Vec<Partition>, LookupError> {
        let count = shared.lookup.partitions(&self.topic_name)?;
        Ok(match &self.selection {
            // With another number of partitions than it was made with, a topic has records of a key all over.
            Selection::Keys(keys) if count == shared.options.partitions => {
                let partitions = keys.iter().flat_map(|key| partitions_of(key, count));
                partitions.collect::<BTreeSet<_>>().into_iter().collect()
            }
            Selection::Keys(keys) if keys.is_empty() => Vec::new(),
            Selection::Keys(_) | Selection::All => (0..count).map(Partition).collect(),
        })
    }

    /// What these partitions hold. Blocks.
    pub(super) fn extents(&self, shared: &Shared) -> Result<Vec<Extent>, LookupError> {
        let partitions = self.partitions(shared)?;
        shared.lookup.extents(&self.topic_name, &partitions)
    }
}

/// How often it is looked whether the topic has got more partitions.
const SURVEY_EVERY: Duration = Duration::from_secs(60);
/// After a failure the brokers are left alone for so long.
const RETRY_AFTER: Duration = Duration::from_secs(1);

type Asked = Pin<Box<dyn Future<Output = Result<Answer, RecvError>> + Send>>;
type Answer = Result<Vec<Extent>, LookupError>;

/// Makes surveys of a scope, one after the other.
pub(super) struct Surveyor {
    shared: Arc<Shared>,
    scope: Arc<Scope>,
    /// When to ask.
    at: Instant,
    /// A question that was asked. Kept, so that a cancelled wait does not ask again.
    asked: Option<Asked>,
}

impl Surveyor {
    pub(super) fn new(shared: Arc<Shared>, scope: Arc<Scope>) -> Self {
        Self { shared, scope, at: Instant::now() + SURVEY_EVERY, asked: None }
    }

    /// Waits until it is time, and asks. Safe to cancel.
    pub(super) async fn next(&mut self) -> Result<Vec<Extent>, BusError> {
        if self.asked.is_none() {
            sleep_until(self.at).await;
        }
        let asked = self.asked.get_or_insert_with(|| {
            let (shared, scope) = (Arc::clone(&self.shared), Arc::clone(&self.scope));
            Box::pin(aside(move || scope.extents(&shared)))
        });
        let answer = asked.await;
        self.asked = None;
        self.at = Instant::now() + SURVEY_EVERY;
        answer.map_err(unavailable)?.map_err(unavailable)
    }

    /// The next survey is due at once. One that is under way does not count: it may have been made before what the
    /// hurry is about.
    pub(super) fn hurry(&mut self) {
        self.asked = None;
        self.at = Instant::now();
    }

    /// The next survey is due soon, and not before.
    pub(super) fn wait_a_little(&mut self) {
        self.asked = None;
        self.at = Instant::now() + RETRY_AFTER;
    }
}
