//! What the server holds at the moment of everything that is bounded, and the most it ever held.
//!
//! Each queue and table that grows with what peers do has a name here, a bound, and a word in docs/server.md on what
//! happens when it is full.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use proto::NamedCount;

/// Something of which there is only so much.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Level {
    /// Connections that are open. Full: a new one is closed at once.
    Connections,
    /// Streams of agents on them.
    Streams,
    /// Bytes of messages that are decoded and not on the bus yet. Full: the next message waits, undecoded.
    InFlightBytes,
    /// Messages that wait for room in it: at most one for each stream.
    InFlightWaiting,
    /// What others asked of one session and it has not looked at. Full: whoever asks is told so.
    Directives,
    /// Commands, and answers to acknowledge, that wait for one stream. Full: nothing more is taken for it.
    Outbox,
    /// Subscriptions of readers. Each reads the bus at its own pace.
    Readers,
}

impl Level {
    pub(crate) const ALL: [Self; 7] = [
        Self::Connections,
        Self::Streams,
        Self::InFlightBytes,
        Self::InFlightWaiting,
        Self::Directives,
        Self::Outbox,
        Self::Readers,
    ];

    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Connections => "connections",
            Self::Streams => "streams",
            Self::InFlightBytes => "in_flight.bytes",
            Self::InFlightWaiting => "in_flight.waiting",
            Self::Directives => "session.directives",
            Self::Outbox => "session.outbox",
            Self::Readers => "readers",
        }
    }
}

#[derive(Debug, Default)]
struct Mark {
    now: AtomicU64,
    peak: AtomicU64,
}

/// All levels. Those of single sessions have no sum: of them only the peak is known.
#[derive(Debug, Default)]
pub(crate) struct Levels {
    marks: [Mark; Level::ALL.len()],
}

impl Levels {
    /// `amount` more, until what is answered is dropped.
    pub(crate) fn hold(self: &Arc<Self>, level: Level, amount: u64) -> Held {
        let now = self.marks[level as usize].now.fetch_add(amount, Ordering::Relaxed) + amount;
        self.marks[level as usize].peak.fetch_max(now, Ordering::Relaxed);
        Held { levels: Arc::clone(self), level, amount }
    }

    /// One session stands at `amount`.
    pub(crate) fn peak(&self, level: Level, amount: usize) {
        let amount = u64::try_from(amount).unwrap_or(u64::MAX);
        self.marks[level as usize].peak.fetch_max(amount, Ordering::Relaxed);
    }

    pub(crate) fn now(&self, level: Level) -> u64 {
        self.marks[level as usize].now.load(Ordering::Relaxed)
    }

    /// For each level NAME, what it is at, and `NAME.peak`, the most since the server started. Not sorted.
    pub(crate) fn snapshot(&self) -> Vec<NamedCount> {
        let entries = Level::ALL.into_iter().zip(&self.marks).flat_map(|(level, mark)| {
            let name = level.name();
            let now = NamedCount { name: name.to_owned(), count: mark.now.load(Ordering::Relaxed) };
            let count = mark.peak.load(Ordering::Relaxed);
            let peak = NamedCount { name: format!("{name}.peak"), count };
            // A sum over sessions would say nothing.
            let has_sum = !matches!(level, Level::Directives | Level::Outbox);
            has_sum.then_some(now).into_iter().chain([peak])
        });
        entries.collect()
    }
}

/// An amount of a level. Dropping it gives it back.
#[derive(Debug)]
pub(crate) struct Held {
    levels: Arc<Levels>,
    level: Level,
    amount: u64,
}

impl Drop for Held {
    fn drop(&mut self) {
        self.levels.marks[self.level as usize].now.fetch_sub(self.amount, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_held_is_given_back_and_its_peak_stays() {
        let levels = Arc::new(Levels::default());
        let one = levels.hold(Level::InFlightBytes, 100);
        let other = levels.hold(Level::InFlightBytes, 20);
        assert_eq!(levels.now(Level::InFlightBytes), 120);
        drop(one);
        assert_eq!(levels.now(Level::InFlightBytes), 20);
        drop(other);
        let counts = levels.snapshot();
        let count = |name: &str| counts.iter().find(|c| c.name == name).map(|c| c.count);
        assert_eq!(count("in_flight.bytes"), Some(0));
        assert_eq!(count("in_flight.bytes.peak"), Some(120));
        assert_eq!(count("connections.peak"), Some(0));
        assert_eq!(count("session.outbox"), None);
    }

    #[test]
    fn each_level_has_a_place_and_is_explained_to_operators() {
        let manual = include_str!("../../docs/server.md");
        for (index, level) in Level::ALL.into_iter().enumerate() {
            assert_eq!(level as usize, index);
            let name = format!("`{}`", level.name());
            assert!(manual.contains(&name), "docs/server.md says nothing of {name}");
        }
    }
}
