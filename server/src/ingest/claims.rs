//! Who holds which agent id: the rules for two streams with one id.
//!
//! Sans-IO: it decides, and the stream tasks act. `H` is how the task reaches the holder of an id.

use std::collections::HashMap;

use agent_core::id::{AgentId, BootId};
use agent_core::time::Instant;

use crate::limits::{PLAIN_REPLACED_MAX, PLAIN_REPLACED_WINDOW, REPORT_INTERVAL};

/// Names a stream within this run of the server. Never reused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct SessionKey(pub(crate) u64);

/// What a stream says of itself when it claims an id.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Claimant {
    /// It knows only the fixed fields.
    Plain,
    /// It sent a Hello.
    Full {
        /// The process lifetime.
        boot: BootId,
        /// Rises with each stream of one boot.
        session: u64,
    },
}

/// What a claim leads to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Verdict<H> {
    /// Nobody held the id; now this stream does.
    Granted,
    /// This stream holds the id now, in place of the one given, which must be told to end.
    Succeeded(H),
    /// Somebody else holds it and may be alive: see whether it is, then [`Claims::seize`] or give up.
    Contested(H),
    /// A later stream of the same boot holds it.
    Outdated(H),
}

#[derive(Debug)]
struct Holder<H> {
    key: SessionKey,
    claimant: Claimant,
    handle: H,
    rivalry: Rivalry,
}

/// What is remembered of quarrels about one id, for as long as plain streams pass it to each other.
#[derive(Clone, Copy, Debug, Default)]
struct Rivalry {
    duplicate_reported: Option<Instant>,
    /// When plain streams last replaced each other, the oldest first.
    plain_replaced: [Option<Instant>; PLAIN_REPLACED_MAX],
}

/// The holder of each id. One entry per live stream.
#[derive(Debug)]
pub(crate) struct Claims<H> {
    holders: HashMap<AgentId, Holder<H>>,
    next_key: u64,
}

impl<H: Clone> Claims<H> {
    pub(crate) fn new() -> Self {
        Self { holders: HashMap::new(), next_key: 1 }
    }

    pub(crate) fn next_key(&mut self) -> SessionKey {
        let key = SessionKey(self.next_key);
        self.next_key += 1;
        key
    }

    /// The stream `key` asks for `id`.
    ///
    /// The newest stream of one boot wins at once, and so does the newest of two plain clients, which
    /// reconnect without a word. Between different boots, or a plain and a full agent, the holder keeps the
    /// id if it shows that it lives.
    pub(crate) fn claim(
        &mut self,
        id: &AgentId,
        key: SessionKey,
        claimant: Claimant,
        handle: H,
    ) -> Verdict<H> {
        let Some(holder) = self.holders.get(id) else {
            self.hold(id, key, claimant, handle);
            return Verdict::Granted;
        };
        let incumbent = holder.handle.clone();
        match (holder.claimant, claimant) {
            (Claimant::Plain, Claimant::Plain) => {
                let rivalry = holder.rivalry;
                self.holders.insert(id.clone(), Holder { key, claimant, handle, rivalry });
                Verdict::Succeeded(incumbent)
            }
            (
                Claimant::Full { boot, session },
                Claimant::Full { boot: new_boot, session: new_session },
            ) if boot == new_boot => {
                if new_session <= session {
                    return Verdict::Outdated(incumbent);
                }
                self.hold(id, key, claimant, handle);
                Verdict::Succeeded(incumbent)
            }
            (Claimant::Full { .. }, Claimant::Full { .. } | Claimant::Plain)
            | (Claimant::Plain, Claimant::Full { .. }) => Verdict::Contested(incumbent),
        }
    }

    /// The stream `key` takes `id` from `incumbent`, which did not show that it lives. Answers with the handle
    /// of the incumbent, which must be told to end; none, and nothing changes, when it does not hold the id
    /// any more.
    pub(crate) fn seize(
        &mut self,
        id: &AgentId,
        key: SessionKey,
        claimant: Claimant,
        handle: H,
        incumbent: SessionKey,
    ) -> Option<H> {
        self.holders.get(id).filter(|h| h.key == incumbent)?;
        let incumbent = self.hold(id, key, claimant, handle);
        incumbent.map(|holder| holder.handle)
    }

    /// The stream `key` has ended. Nothing changes when it did not hold `id` any more.
    pub(crate) fn release(&mut self, id: &AgentId, key: SessionKey) {
        if self.holders.get(id).is_some_and(|h| h.key == key) {
            self.holders.remove(id);
        }
    }

    pub(crate) fn holder(&self, id: &AgentId) -> Option<H> {
        self.holders.get(id).map(|holder| holder.handle.clone())
    }

    /// What the holder of `id` said of itself.
    pub(crate) fn claimant(&self, id: &AgentId) -> Option<Claimant> {
        self.holders.get(id).map(|holder| holder.claimant)
    }

    /// The holder of `id`, if `newer` is a later stream of the same boot.
    pub(crate) fn outdated_by(&self, id: &AgentId, newer: Claimant) -> Option<H> {
        let holder = self.holders.get(id)?;
        match (holder.claimant, newer) {
            (
                Claimant::Full { boot, session },
                Claimant::Full { boot: newer_boot, session: newer_session },
            ) if boot == newer_boot && session < newer_session => Some(holder.handle.clone()),
            _ => None,
        }
    }

    pub(crate) fn holders(&self) -> Vec<(AgentId, H)> {
        let pairs = self.holders.iter();
        pairs.map(|(id, h)| (id.clone(), h.handle.clone())).collect()
    }

    /// A plain stream has replaced another one. Answers whether that happens too often for one client that
    /// reconnects: more than [`PLAIN_REPLACED_MAX`] times in [`PLAIN_REPLACED_WINDOW`].
    pub(crate) fn plain_replaced(&mut self, id: &AgentId, now: Instant) -> bool {
        let Some(holder) = self.holders.get_mut(id) else {
            return false;
        };
        let times = &mut holder.rivalry.plain_replaced;
        times.rotate_left(1);
        let oldest = times[PLAIN_REPLACED_MAX - 1].replace(now);
        oldest.is_some_and(|at| now - at < PLAIN_REPLACED_WINDOW)
    }

    /// Whether a duplicate of `id` should be reported now: once in [`REPORT_INTERVAL`].
    pub(crate) fn duplicate_is_news(&mut self, id: &AgentId, now: Instant) -> bool {
        let Some(holder) = self.holders.get_mut(id) else {
            return false;
        };
        let recent = |at: Instant| now - at < REPORT_INTERVAL;
        if holder.rivalry.duplicate_reported.is_some_and(recent) {
            return false;
        }
        holder.rivalry.duplicate_reported = Some(now);
        true
    }

    fn hold(
        &mut self,
        id: &AgentId,
        key: SessionKey,
        claimant: Claimant,
        handle: H,
    ) -> Option<Holder<H>> {
        let holder = Holder { key, claimant, handle, rivalry: Rivalry::default() };
        self.holders.insert(id.clone(), holder)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    use std::time::Duration;

    fn full(nonce: u64, session: u64) -> Claimant {
        let boot = BootId { counter: 0, nonce };
        Claimant::Full { boot, session }
    }

    /// What the second of two claims of one id leads to.
    fn check(first: Claimant, second: Claimant, expected: &Verdict<u8>) {
        let id = "a".parse().unwrap();
        let mut claims = Claims::new();
        let key = claims.next_key();
        assert_eq!(claims.claim(&id, key, first, 1), Verdict::Granted);
        let key = claims.next_key();
        assert_eq!(&claims.claim(&id, key, second, 2), expected);
        let holder = match expected {
            Verdict::Granted | Verdict::Succeeded(_) => 2,
            Verdict::Contested(_) | Verdict::Outdated(_) => 1,
        };
        assert_eq!(claims.holder(&id), Some(holder));
    }

    #[test]
    fn newest_stream_of_one_boot_wins() {
        check(full(7, 1), full(7, 2), &Verdict::Succeeded(1));
        check(full(7, 2), full(7, 1), &Verdict::Outdated(1));
        check(full(7, 2), full(7, 2), &Verdict::Outdated(1));
    }

    #[test]
    fn newest_plain_client_wins() {
        check(Claimant::Plain, Claimant::Plain, &Verdict::Succeeded(1));
    }

    #[test]
    fn strangers_must_wait_for_proof() {
        check(full(7, 9), full(8, 1), &Verdict::Contested(1));
        check(full(7, 1), Claimant::Plain, &Verdict::Contested(1));
        check(Claimant::Plain, full(7, 1), &Verdict::Contested(1));
    }

    #[test]
    fn a_stream_that_lost_its_id_cannot_release_it() {
        let id = "a".parse().unwrap();
        let mut claims = Claims::new();
        let (first, second) = (claims.next_key(), claims.next_key());
        claims.claim(&id, first, full(7, 1), 1);
        assert_eq!(claims.seize(&id, second, full(8, 1), 2, first), Some(1));
        let third = claims.next_key();
        assert_eq!(claims.seize(&id, third, full(9, 1), 3, first), None);
        claims.release(&id, first);
        assert_eq!(claims.holder(&id), Some(2));
        claims.release(&id, second);
        assert_eq!(claims.holder(&id), None);
    }

    #[test]
    fn plain_streams_that_keep_replacing_each_other_are_noticed() {
        let id = "a".parse().unwrap();
        let mut claims = Claims::new();
        let mut replaced = |seconds| {
            let key = claims.next_key();
            claims.claim(&id, key, Claimant::Plain, 1);
            let now = Instant::from_ms(0) + Duration::from_secs(seconds);
            (claims.plain_replaced(&id, now), claims.duplicate_is_news(&id, now))
        };
        let often = [0, 10, 20, 29, 59].map(|seconds| replaced(seconds).0);
        assert_eq!(often, [false, false, false, true, false]);
        assert!(!replaced(59).1, "reported 59 s ago");
        assert!(replaced(60).1);
    }

    #[test]
    fn duplicates_are_news_once_in_a_while() {
        let id = "a".parse().unwrap();
        let mut claims = Claims::new();
        let key = claims.next_key();
        claims.claim(&id, key, full(7, 1), 1);
        let start = Instant::from_ms(0);
        assert!(claims.duplicate_is_news(&id, start));
        assert!(!claims.duplicate_is_news(&id, start + Duration::from_secs(59)));
        assert!(claims.duplicate_is_news(&id, start + Duration::from_secs(60)));
    }
}
