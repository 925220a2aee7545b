//! The rules of a watch: what to ask of etcd next, and which of its answers are news.
//!
//! A watch of etcd neither resumes by itself nor can be trusted alone, so there is one way that always leads back to
//! the truth: read everything (at revision R), tell of what differs from what is known, follow the stream from R + 1;
//! when the stream ends, is cancelled, falls silent or has run for long, read everything again.
//!
//! ```text
//!   Waiting --delay over--> Reading --everything read--> Watching
//!      ^                       |                            |
//!      +--------failure--------+----------failure-----------+
//! ```
//!
//! Revisions only rise. What is not newer than what is known is ignored, so repeated, reordered and late events do
//! nothing, and a member that lags behind is not believed. Only another cluster id, which a cluster restored from a
//! backup has, starts the count anew.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::{Duration, Instant};

use agent_core::random::SplitMix64;

use crate::document::{Found, Revision, TextError};
use crate::failure::Failure;
use crate::key::Key;
use crate::options::Timing;

/// Documents that are watched. Each takes about 150 bytes here, its text none.
pub(crate) const KEYS_MAX: usize = 131_072;

/// What a watch tells.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// A document is there that is newer than what was told of its key before.
    Changed {
        /// Whose.
        key: Key,
        /// The change that made it.
        revision: Revision,
        /// What it says, or why it can say nothing.
        text: Result<String, TextError>,
    },
    /// A document that was told of is not there any more.
    Deleted {
        /// Whose.
        key: Key,
        /// The change that deleted it, or a later one when the deletion was not seen as it happened.
        revision: Revision,
    },
    /// Everything was read, and told of as far as it is news. First when all that was there at the start is told of; a
    /// key that was not told of until then has no document.
    Synced,
    /// Another cluster answers. Its revisions have nothing to do with those told before: whatever follows is newer.
    ClusterChanged,
    /// The documents cannot be followed now. Told once, and again when the reason becomes one of another kind.
    Unreachable(Failure),
    /// They can be followed again. Comes after what was missed meanwhile.
    Back,
}

/// What the driver does next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// Read everything, in pages, all at one revision. Streams are closed before.
    Read,
    /// Open the streams, from the revision after this one.
    Watch { after: Revision },
    /// Ask each stream for a sign of life.
    Ask,
    /// Nothing until then, unless a stream says something. Late costs only time.
    Wait(Instant),
}

/// How a stream came to its end, or a read to nothing.
#[derive(Clone, Debug)]
pub(crate) enum End {
    /// A read failed, or a connection could not be made.
    Failed(Failure),
    /// A stream ended. That is no outage unless the read that follows fails too; denial is.
    Stream(Failure),
}

#[derive(Debug)]
enum Phase {
    Waiting { until: Instant },
    Reading,
    Watching(Streams),
}

#[derive(Debug)]
struct Streams {
    after: Revision,
    /// None until they are open.
    open: Option<Open>,
    /// When everything is read again.
    reread_at: Instant,
}

#[derive(Debug)]
struct Open {
    since: Instant,
    asked: Instant,
    /// When each stream last said something, and whether it has at all.
    heard: Vec<(Instant, bool)>,
}

#[derive(Clone, Copy, Debug)]
struct Known {
    revision: Revision,
    exists: bool,
}

/// The state of one watch.
#[derive(Debug)]
pub(crate) struct Rules {
    timing: Timing,
    random: SplitMix64,
    stream_count: usize,
    phase: Phase,
    cluster: Option<u64>,
    /// The newest revision that anything has shown.
    /// Invariant: `read <= seen`, and each known revision `<= seen`.
    seen: Revision,
    /// Everything was read at this revision.
    read: Revision,
    known: BTreeMap<Key, Known>,
    /// Which keys the read that goes on has found.
    found: BTreeSet<Key>,
    /// Failures since a stream last held long.
    failure_count: u32,
    /// Denials among them that came one after the other.
    denial_count: u32,
    outage: Option<std::mem::Discriminant<Failure>>,
    events: VecDeque<Event>,
}

impl Rules {
    /// A watch that follows `stream_count` streams and starts at once.
    pub(crate) fn new(now: Instant, timing: Timing, stream_count: usize, seed: u64) -> Self {
        assert!(0 < stream_count);
        Self {
            timing,
            random: SplitMix64::new(seed),
            stream_count,
            phase: Phase::Waiting { until: now },
            cluster: None,
            seen: 0,
            read: 0,
            known: BTreeMap::new(),
            found: BTreeSet::new(),
            failure_count: 0,
            denial_count: 0,
            outage: None,
            events: VecDeque::new(),
        }
    }

    /// What to do now.
    pub(crate) fn poll(&mut self, now: Instant) -> Step {
        match &mut self.phase {
            Phase::Waiting { until } if now < *until => Step::Wait(*until),
            Phase::Waiting { .. } | Phase::Reading => self.begin_read(),
            Phase::Watching(streams) => {
                let Some(open) = &mut streams.open else {
                    return Step::Watch { after: streams.after };
                };
                if open.since + self.timing.healthy <= now {
                    self.failure_count = 0;
                    self.denial_count = 0;
                }
                let quietest = open.heard.iter().map(|(at, _)| *at).min().unwrap_or(now);
                let silent_at = quietest + self.timing.silence;
                if silent_at <= now {
                    let until = now + self.delay();
                    self.phase = Phase::Waiting { until };
                    return Step::Wait(until);
                }
                if streams.reread_at <= now {
                    return self.begin_read();
                }
                let ask_at = open.asked + self.timing.ask;
                if ask_at <= now {
                    open.asked = now;
                    return Step::Ask;
                }
                Step::Wait(silent_at.min(streams.reread_at).min(ask_at))
            }
        }
    }

    /// The next thing to tell.
    pub(crate) fn poll_event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    /// Some of the documents, read at `revision`.
    ///
    /// # Errors
    ///
    /// When the answer is of no use; the caller gives the failure back to [`Rules::handle_end`].
    pub(crate) fn handle_page(
        &mut self,
        endpoint: &str,
        cluster: u64,
        revision: Revision,
        page: impl IntoIterator<Item = Found>,
    ) -> Result<(), Failure> {
        let mixed = !self.found.is_empty() && self.cluster != Some(cluster);
        self.meet_cluster(cluster);
        if mixed {
            return Err(Failure::unreachable(
                endpoint,
                "another cluster answers in the middle of a read",
            ));
        }
        if revision < self.seen {
            let endpoint = endpoint.to_owned();
            return Err(Failure::Behind { endpoint, revision, seen: self.seen });
        }
        for found in page {
            self.found.insert(found.key.clone());
            if KEYS_MAX < self.found.len() {
                let endpoint = endpoint.to_owned();
                return Err(Failure::TooMany { endpoint, max: KEYS_MAX });
            }
            self.learn(found);
        }
        Ok(())
    }

    /// All pages have come.
    pub(crate) fn handle_read(&mut self, now: Instant, revision: Revision) {
        let found = std::mem::take(&mut self.found);
        for (key, known) in &self.known {
            if known.exists && !found.contains(key) {
                self.events.push_back(Event::Deleted { key: key.clone(), revision });
            }
        }
        // Marks of deletions are not needed any more: what they guard against is not newer than this read.
        self.known.retain(|key, _| found.contains(key));
        self.read = revision;
        self.seen = self.seen.max(revision);
        self.events.push_back(Event::Synced);
        let reread_at = now + self.jitter(self.timing.reread, self.timing.reread / 4);
        self.phase = Phase::Watching(Streams { after: revision, open: None, reread_at });
    }

    /// The streams are open.
    pub(crate) fn handle_open(&mut self, now: Instant) {
        if let Phase::Watching(streams) = &mut self.phase {
            let heard = vec![(now, false); self.stream_count];
            streams.open = Some(Open { since: now, asked: now, heard });
        }
    }

    /// A stream said something: changes, or only that it lives, which proves nothing else.
    pub(crate) fn handle_message(
        &mut self,
        now: Instant,
        stream_index: usize,
        cluster: u64,
        changes: impl IntoIterator<Item = Found>,
    ) {
        let Phase::Watching(Streams { open: Some(open), .. }) = &mut self.phase else {
            return;
        };
        if let Some(heard) = open.heard.get_mut(stream_index) {
            *heard = (now, true);
        }
        if open.heard.iter().all(|(_, once)| *once) && self.outage.take().is_some() {
            self.events.push_back(Event::Back);
        }
        if self.cluster != Some(cluster) {
            self.phase = Phase::Waiting { until: now };
            return;
        }
        for change in changes {
            if !self.known.contains_key(&change.key) && KEYS_MAX <= self.known.len() {
                // A read makes room, or finds that there are too many.
                self.phase = Phase::Waiting { until: now };
                return;
            }
            if self.read < change.revision {
                self.learn(change);
            }
        }
    }

    /// A read or a stream came to its end. The connection is not used again, which renews the credentials too.
    pub(crate) fn handle_end(&mut self, now: Instant, end: End) {
        self.found.clear();
        let delay = match end {
            End::Failed(failure @ Failure::Denied { .. })
            | End::Stream(failure @ Failure::Denied { .. }) => self.denied(failure),
            End::Stream(_) | End::Failed(Failure::Compacted { .. }) => self.delay(),
            End::Failed(failure) => {
                self.denial_count = 0;
                self.report(failure);
                self.delay()
            }
        };
        self.phase = Phase::Waiting { until: now + delay };
    }

    /// A token may just have expired, so the first denial is worth one more try and no words.
    fn denied(&mut self, failure: Failure) -> Duration {
        self.denial_count = self.denial_count.saturating_add(1);
        if self.denial_count == 1 {
            return Duration::ZERO;
        }
        self.report(failure);
        // Trying often would only fill the log of etcd.
        self.jitter(self.timing.backoff_max, self.timing.backoff_max / 2)
    }

    fn begin_read(&mut self) -> Step {
        self.found.clear();
        self.phase = Phase::Reading;
        Step::Read
    }

    fn meet_cluster(&mut self, cluster: u64) {
        let before = self.cluster.replace(cluster);
        if before.is_none_or(|before| before == cluster) {
            return;
        }
        // Which documents were told of stays known, so that what the new cluster lacks is told of as deleted.
        for known in self.known.values_mut() {
            known.revision = 0;
        }
        self.seen = 0;
        self.read = 0;
        self.found.clear();
        self.events.push_back(Event::ClusterChanged);
    }

    /// Takes what is newer than what is known, and tells of it.
    fn learn(&mut self, found: Found) {
        let Found { key, revision, text } = found;
        let before = self.known.get(&key).copied();
        if before.is_some_and(|known| revision <= known.revision) {
            return;
        }
        self.seen = self.seen.max(revision);
        self.known.insert(key.clone(), Known { revision, exists: text.is_some() });
        match text {
            Some(text) => self.events.push_back(Event::Changed { key, revision, text }),
            None if before.is_some_and(|known| known.exists) => {
                self.events.push_back(Event::Deleted { key, revision });
            }
            None => {}
        }
    }

    fn report(&mut self, failure: Failure) {
        let kind = std::mem::discriminant(&failure);
        if self.outage.replace(kind) != Some(kind) {
            self.events.push_back(Event::Unreachable(failure));
        }
    }

    /// Full jitter: anything up to a bound that doubles with each failure.
    fn delay(&mut self) -> Duration {
        let factor = 1 << self.failure_count.min(16);
        let longest = self.timing.backoff_first.saturating_mul(factor).min(self.timing.backoff_max);
        self.failure_count = self.failure_count.saturating_add(1);
        self.jitter(longest, longest)
    }

    /// Something between `longest - spread` and `longest`.
    fn jitter(&mut self, longest: Duration, spread: Duration) -> Duration {
        let spread_ms = u64::try_from(spread.as_millis()).unwrap_or(u64::MAX);
        longest.saturating_sub(Duration::from_millis(self.random.up_to(spread_ms)))
    }
}

#[cfg(test)]
mod tests;
