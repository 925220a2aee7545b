//! The rules by which it shows that an id is used by more than one host, or that a host's state is not its own.
//!
//! Fed with the records of agent-status in the order of the bus, which is the same for all servers, so that all of them
//! come to the same conclusions, and a server that begins anew to those of the one before it. It knows no clock: times are
//! those of the bus.
//!
//! A host counts its boots. On the bus a counter must rise with each new boot; one that stands still or falls under another
//! nonce comes from a copy of the host's state, or from an earlier state of it. An agent without a place to count has
//! counter 0 and is told apart by its host alone: when it goes back to a host that it had left, both are alive.

use agent_core::id::BootId;
use proto::StatusRecord;

/// Boots of one agent that are remembered, the newest last: as many as may come back.
const LIVES_MAX: usize = 4;

/// How long a trouble stands after its last sign: as long as servers read back what is on a bus that they share.
pub(super) const STANDS_MS: i64 = 24 * 60 * 60 * 1000;

/// How long it stands that two agents were alive at once: both keep trying, and that is told once a minute.
pub(super) const DUPLICATE_STANDS_MS: i64 = 10 * 60 * 1000;

/// How far the clocks of servers may be apart, and how long one may take to say what it saw: within it the order in which
/// two servers say something proves nothing.
const APART_MS: i64 = 2_000;

/// A process lifetime of an agent, as it introduced itself to a server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Life {
    pub(crate) boot: BootId,
    /// What tells hosts apart; empty: not known.
    pub(crate) host: String,
    /// The server that has its stream.
    pub(crate) server_id: String,
    /// When that began, by the server's clock: Unix milliseconds.
    pub(crate) began_ms: i64,
}

impl Life {
    /// The one that a record tells of; none when it tells of none, or of a plain client.
    pub(crate) fn of(record: &StatusRecord) -> Option<Self> {
        let hello = record.hello.as_ref()?;
        Some(Self {
            boot: hello.boot?.into(),
            host: hello.host.clone(),
            server_id: record.server_id.clone(),
            began_ms: record.timestamp_ms,
        })
    }

    /// Whether it is certain that its stream began after that of `other`: what one server says is in order.
    fn is_after(&self, other: &Self) -> bool {
        self.server_id == other.server_id || other.began_ms + APART_MS <= self.began_ms
    }
}

/// What is wrong with an identity.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Trouble {
    /// Two live agents use the id.
    Duplicate,
    /// The boot counter does not rise as one host's does. Commands need to be forced.
    Clone,
}

/// A trouble, in words for people.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Finding {
    pub(crate) trouble: Trouble,
    pub(crate) detail: String,
}

/// A trouble and its last sign.
#[derive(Clone, Debug)]
struct Sign {
    at_ms: i64,
    detail: String,
}

/// What is known of who uses one id.
#[derive(Debug, Default)]
pub(super) struct Identity {
    /// The one that counts last, at most [`LIVES_MAX`].
    lives: Vec<Life>,
    duplicate: Option<Sign>,
    clone: Option<Sign>,
}

impl Identity {
    /// A stream of `life` began, which the bus took at `stored_ms`. Answers what is wrong with that.
    pub(super) fn introduce(&mut self, life: Life, stored_ms: i64) -> Option<Finding> {
        let finding = self.judge(&life);
        if let Some(finding) = &finding {
            self.note(finding.trouble, stored_ms, finding.detail.clone());
        }
        if let Some(index) = self.lives.iter().position(|known| known.boot == life.boot) {
            self.lives.remove(index);
        } else if self.lives.len() == LIVES_MAX {
            self.lives.remove(0);
        }
        self.lives.push(life);
        finding
    }

    /// What would be wrong if `life` had the id now.
    pub(super) fn judge(&self, life: &Life) -> Option<Finding> {
        let latest = self.lives.last()?;
        let (new, old) = (life.boot, latest.boot);
        if new == old || !life.is_after(latest) {
            return None;
        }
        if self.lives.iter().any(|known| known.boot == new) {
            let detail = format!("boot {new} is back after boot {old}: both are alive");
            return Some(Finding { trouble: Trouble::Duplicate, detail });
        }
        if new.counter == 0 || old.counter == 0 {
            return self.judge_host(life, latest);
        }
        // The latest and not the highest: a host whose state was emptied counts on from there, and is in order.
        // And two that begin to count are two hosts with one name, but no copies of each other.
        if old.counter < new.counter || (old.counter == 1 && new.counter == 1) {
            return None;
        }
        let what = if old.counter == new.counter {
            format!("boot {new} has the counter of boot {old}")
        } else {
            format!("boot {new} comes after boot {old}")
        };
        let whence = match (latest.host.as_str(), life.host.as_str()) {
            ("", _) | (_, "") => "its state was copied, or brought back to an earlier one",
            (one, other) if one == other => {
                "on what looks like the same host: its state was copied, emptied or brought back to an earlier one"
            }
            _ => "on another host: its disk was copied, or another host was given its id",
        };
        Some(Finding { trouble: Trouble::Clone, detail: format!("{what}, {whence}") })
    }

    fn judge_host(&self, life: &Life, latest: &Life) -> Option<Finding> {
        let is_elsewhere = |known: &&Life| {
            known.host != life.host && !known.host.is_empty() && !life.host.is_empty()
        };
        let had_left = self.lives.iter().any(|known| known.host == life.host);
        (had_left && is_elsewhere(&latest)).then(|| {
            let (new, old) = (life.boot, latest.boot);
            let detail = format!(
                "boot {new} is on the host that the agent had before boot {old}, which is on another: both are alive"
            );
            Finding { trouble: Trouble::Duplicate, detail }
        })
    }

    /// A server has said that something is wrong.
    pub(super) fn note(&mut self, trouble: Trouble, at_ms: i64, detail: String) {
        let place = match trouble {
            Trouble::Duplicate => &mut self.duplicate,
            Trouble::Clone => &mut self.clone,
        };
        // A bus with several partitions does not fall back in one of them; a step of its clock may.
        let at_ms = place.as_ref().map_or(at_ms, |known| known.at_ms.max(at_ms));
        *place = Some(Sign { at_ms, detail });
    }

    /// Why commands must be forced at `now_ms`; none when they need not be.
    pub(super) fn doubt(&self, now_ms: i64) -> Option<&str> {
        standing(self.clone.as_ref(), now_ms, STANDS_MS)
    }

    /// What is wrong at `now_ms`, for people.
    pub(super) fn troubles(&self, now_ms: i64) -> Vec<String> {
        let duplicate = standing(self.duplicate.as_ref(), now_ms, DUPLICATE_STANDS_MS);
        let duplicate = duplicate.map(|detail| format!("duplicate id: {detail}"));
        let clone = self.doubt(now_ms).map(|detail| format!("clone suspected: {detail}"));
        duplicate.into_iter().chain(clone).collect()
    }
}

fn standing(sign: Option<&Sign>, now_ms: i64, stands_ms: i64) -> Option<&str> {
    sign.filter(|sign| now_ms - sign.at_ms < stands_ms).map(|sign| sign.detail.as_str())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn life(counter: u64, nonce: u64, host: &str) -> Life {
        let (server_id, began_ms) = ("s1".to_owned(), 0);
        Life { boot: BootId { counter, nonce }, host: host.into(), server_id, began_ms }
    }

    /// What is found of the last of these lives, the others having come before it.
    fn check(lives: &[Life], expected: Option<(Trouble, &str)>) {
        let mut identity = Identity::default();
        let mut found = None;
        for life in lives {
            found = identity.introduce(life.clone(), 0);
        }
        let told = found.as_ref().map(|finding| (finding.trouble, finding.detail.as_str()));
        match (told, expected) {
            (None, None) => {}
            (Some((trouble, detail)), Some((wanted, part))) => {
                assert_eq!(trouble, wanted, "{detail}");
                assert!(detail.contains(part), "{detail}");
            }
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_host_that_restarts_and_reconnects_is_in_order() {
        let (one, two, nine) = (life(1, 7, "h"), life(2, 8, "h"), life(9, 9, "h"));
        check(std::slice::from_ref(&one), None);
        check(&[one.clone(), one.clone()], None);
        check(&[one.clone(), two.clone(), two.clone()], None);
        // Boots that no server saw.
        check(&[one.clone(), two, nine], None);
        // The same disk in another host.
        check(&[one, life(2, 8, "other")], None);
    }

    #[test]
    fn a_counter_that_does_not_rise_is_a_copy_or_an_earlier_state() {
        let five = life(5, 7, "h");
        check(
            &[five.clone(), life(5, 8, "h")],
            Some((Trouble::Clone, "has the counter of boot 5-")),
        );
        check(&[five.clone(), life(5, 8, "other")], Some((Trouble::Clone, "on another host")));
        check(&[five.clone(), life(3, 8, "h")], Some((Trouble::Clone, "looks like the same host")));
        check(&[five.clone(), life(3, 8, "")], Some((Trouble::Clone, "comes after boot 5-")));
        // The original has gone on, and the copy after it.
        let original = life(6, 9, "h");
        check(&[five, original, life(6, 8, "h")], Some((Trouble::Clone, "boot 6-")));
    }

    #[test]
    fn two_new_hosts_are_no_copies_of_each_other() {
        check(&[life(1, 7, "h"), life(1, 8, "other")], None);
    }

    #[test]
    fn a_boot_that_is_back_was_never_gone() {
        let (one, two) = (life(1, 7, "h"), life(2, 8, "h"));
        check(
            &[one.clone(), two.clone(), one.clone()],
            Some((Trouble::Duplicate, "is back after")),
        );
        check(&[one.clone(), two.clone(), one, two], Some((Trouble::Duplicate, "is back after")));
    }

    #[test]
    fn without_a_counter_the_host_tells() {
        let (here, there) = (life(0, 1, "h"), life(0, 2, "other"));
        check(&[here.clone(), life(0, 3, "h")], None);
        check(&[here.clone(), there.clone()], None);
        let back = life(0, 4, "h");
        check(&[here, there.clone(), back], Some((Trouble::Duplicate, "both are alive")));
        check(&[life(0, 1, ""), there, life(0, 4, "")], None);
    }

    #[test]
    fn what_two_servers_say_at_about_the_same_time_is_in_no_order() {
        let elsewhere = |counter, began_ms| Life {
            server_id: "s2".into(),
            began_ms,
            ..life(counter, counter, "h")
        };
        check(&[life(2, 8, "h"), elsewhere(1, APART_MS - 1)], None);
        check(&[life(2, 8, "h"), elsewhere(1, -60_000)], None);
        check(&[life(2, 8, "h"), elsewhere(1, APART_MS)], Some((Trouble::Clone, "comes after")));
    }

    #[test]
    fn a_host_whose_state_was_emptied_is_in_order_from_its_next_boot_on() {
        let lives = [life(7, 7, "h"), life(1, 8, "h")];
        check(&lives, Some((Trouble::Clone, "emptied")));
        check(&[&lives[..], &[life(2, 9, "h")]].concat(), None);
    }

    #[test]
    fn troubles_end_some_time_after_their_last_sign() {
        let mut identity = Identity::default();
        assert!(identity.troubles(0).is_empty());
        identity.note(Trouble::Clone, 1000, "one".to_owned());
        identity.note(Trouble::Clone, 2000, "two".to_owned());
        identity.note(Trouble::Duplicate, 2000, "three".to_owned());
        assert_eq!(identity.troubles(2000), ["duplicate id: three", "clone suspected: two"]);
        assert_eq!(identity.doubt(1999 + STANDS_MS), Some("two"));
        assert_eq!(identity.troubles(2000 + DUPLICATE_STANDS_MS), ["clone suspected: two"]);
        assert_eq!(identity.doubt(2000 + STANDS_MS), None);
    }
}
