//! Counts records that are none of ours, and logs each source of them once.

use std::collections::HashSet;
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use crate::topic::Topic;

/// Why a record on a topic was skipped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Reason {
    /// It has no value (a tombstone).
    Empty,
    /// Its value is larger than [`Options::record_bytes_max`](super::Options::record_bytes_max).
    TooLarge,
    /// Its value is no JSON.
    NotJson,
    /// Its value lacks what its topic asks for, or has a wrong type.
    Form,
    /// Its key or its `agent_id` is no agent id, or they differ.
    Key,
}

impl Reason {
    /// All reasons.
    pub const ALL: [Self; 5] = [Self::Empty, Self::TooLarge, Self::NotJson, Self::Form, Self::Key];

    /// The name in counters.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Empty => "empty",
            Self::TooLarge => "too_large",
            Self::NotJson => "not_json",
            Self::Form => "form",
            Self::Key => "key",
        }
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// How many records of a topic were skipped for a reason, since the bus was opened. A record counts once for each
/// subscription that came across it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RejectedCount {
    /// Where.
    pub topic: Topic,
    /// Why.
    pub reason: Reason,
    /// How often.
    pub count: u64,
}

/// Sources that are remembered, so that each is logged once. Those beyond are only counted.
const SOURCES_MAX: usize = 1024;

/// Bytes of a key that go into a log line.
const SOURCE_BYTES_MAX: usize = 64;

type Source = (Topic, Reason, Vec<u8>);

#[derive(Debug, Default)]
pub(super) struct Rejections {
    counts: [[AtomicU64; Reason::ALL.len()]; Topic::ALL.len()],
    sources: Mutex<HashSet<Source>>,
}

impl Rejections {
    /// Counts a record with `key`. Answers whether its source is to be logged.
    pub(super) fn count(&self, topic: Topic, reason: Reason, key: Option<&[u8]>) -> bool {
        self.counts[topic as usize][reason as usize].fetch_add(1, Ordering::Relaxed);
        let key = key.unwrap_or_default();
        let key = key[..key.len().min(SOURCE_BYTES_MAX)].to_vec();
        let mut sources = self.sources.lock().unwrap_or_else(PoisonError::into_inner);
        sources.len() < SOURCES_MAX && sources.insert((topic, reason, key))
    }

    /// The counts that are not 0.
    pub(super) fn counts(&self) -> Vec<RejectedCount> {
        let count = |topic: Topic, reason: Reason| RejectedCount {
            topic,
            reason,
            count: self.counts[topic as usize][reason as usize].load(Ordering::Relaxed),
        };
        let topics = Topic::ALL.into_iter();
        topics
            .flat_map(|topic| Reason::ALL.map(|reason| count(topic, reason)))
            .filter(|rejected| rejected.count != 0)
            .collect()
    }
}

const _: () = {
    let mut index = 0;
    while index < Reason::ALL.len() {
        assert!(Reason::ALL[index] as usize == index, "reasons index arrays");
        index += 1;
    }
};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_source_is_logged_once_and_counted_always() {
        let rejections = Rejections::default();
        let (topic, reason) = (Topic::Commands, Reason::NotJson);
        assert!(rejections.count(topic, reason, Some(b"a")));
        assert!(!rejections.count(topic, reason, Some(b"a")));
        assert!(rejections.count(topic, reason, None));
        assert!(rejections.count(topic, Reason::Form, Some(b"a")));
        assert_eq!(
            rejections.counts(),
            [
                RejectedCount { topic, reason, count: 3 },
                RejectedCount { topic, reason: Reason::Form, count: 1 }
            ]
        );
    }

    #[test]
    fn sources_are_bounded() {
        let rejections = Rejections::default();
        let logged = (0..2 * SOURCES_MAX)
            .filter(|n| rejections.count(Topic::Commands, Reason::Key, Some(&n.to_le_bytes())))
            .count();
        assert_eq!(logged, SOURCES_MAX);
        assert_eq!(rejections.counts()[0].count, 2 * SOURCES_MAX as u64);
    }
}
