//! What does not work at the moment, for the log and for whoever asks how the server is.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use bus::Topic;
use tracing::{info, warn};

/// What can be in trouble. The texts beside it say how.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Trouble {
    /// The brokers cannot be reached.
    #[cfg(feature = "kafka")]
    Bus,
    /// The data directory takes no records.
    Store,
    /// A topic cannot be read.
    Topic(Topic),
    /// What the bus has of agents and commands was not read yet.
    History,
    /// The store of configurations cannot be reached.
    ConfigStore,
}

/// The troubles that stand, at most one of each kind.
#[derive(Debug, Default)]
pub(crate) struct Troubles(Mutex<BTreeMap<Trouble, String>>);

impl Troubles {
    /// `trouble` stands from now on. It is logged once, however often it is raised.
    pub(crate) fn raise(&self, trouble: Trouble, text: &str) {
        if self.lock().insert(trouble, text.to_owned()).is_none() {
            warn!("degraded: {text}");
        }
    }

    /// `trouble` is over.
    pub(crate) fn clear(&self, trouble: Trouble) {
        if let Some(text) = self.lock().remove(&trouble) {
            info!("no longer degraded: {text}");
        }
    }

    /// Those that stand, in a fixed order.
    pub(crate) fn texts(&self) -> Vec<String> {
        self.lock().values().cloned().collect()
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<Trouble, String>> {
        // Each change is a single step: what a panic left is whole.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_trouble_stands_until_it_is_over() {
        let troubles = Troubles::default();
        troubles.raise(Trouble::ConfigStore, "store");
        troubles.raise(Trouble::Topic(Topic::Commands), "first");
        troubles.raise(Trouble::Topic(Topic::Commands), "second");
        assert_eq!(troubles.texts(), ["second", "store"]);
        troubles.clear(Trouble::Topic(Topic::Commands));
        troubles.clear(Trouble::History);
        assert_eq!(troubles.texts(), ["store"]);
    }
}
