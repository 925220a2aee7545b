//! How many commands one issuer may send.
//!
//! An issuer is an address until issuers have names of their own: tools connect anew for each command, so a connection says
//! nothing. Sans-IO: it is told the time.

use std::collections::HashMap;
use std::net::IpAddr;

use agent_core::time::Instant;

use crate::limits::{ISSUER_COMMANDS_PER_S, ISSUERS_MAX};

/// Time after which one more command is allowed.
const STEP_MS: u64 = 1000 / ISSUER_COMMANDS_PER_S;

/// The allowance of each issuer: [`ISSUER_COMMANDS_PER_S`], all of which may come at once. At most [`ISSUERS_MAX`] are
/// remembered; when there are more, those that have their whole allowance are forgotten, which changes nothing for them,
/// and if all are busy the new one waits.
#[derive(Debug, Default)]
pub(crate) struct Rates {
    /// When each issuer has its whole allowance again.
    whole_at: HashMap<IpAddr, Instant>,
}

impl Rates {
    /// Whether `issuer` may send a command at `now`, which then counts.
    pub(crate) fn allow(&mut self, now: Instant, issuer: IpAddr) -> bool {
        if !self.whole_at.contains_key(&issuer) && ISSUERS_MAX <= self.whole_at.len() {
            self.whole_at.retain(|_, whole_at| now < *whole_at);
            if ISSUERS_MAX <= self.whole_at.len() {
                return false;
            }
        }
        let whole_at = self.whole_at.entry(issuer).or_insert(now);
        let used_until = (*whole_at).max(now);
        if (ISSUER_COMMANDS_PER_S - 1) * STEP_MS < used_until.as_ms() - now.as_ms() {
            return false;
        }
        *whole_at = Instant::from_ms(used_until.as_ms() + STEP_MS);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn issuer(number: u32) -> IpAddr {
        IpAddr::from(number.to_be_bytes())
    }

    fn at(ms: u64) -> Instant {
        Instant::from_ms(ms)
    }

    #[test]
    fn an_issuer_has_so_many_at_once_and_then_so_many_a_second() {
        let mut rates = Rates::default();
        let mut allowed =
            |ms, from| (0..100).take_while(|_| rates.allow(at(ms), issuer(from))).count() as u64;
        assert_eq!(allowed(5000, 1), ISSUER_COMMANDS_PER_S);
        assert_eq!(allowed(5000, 1), 0);
        assert_eq!(allowed(5000, 2), ISSUER_COMMANDS_PER_S, "another one has its own");
        assert_eq!(allowed(5000 + 4 * STEP_MS, 1), 4);
        assert_eq!(allowed(60_000, 1), ISSUER_COMMANDS_PER_S, "no more for having waited");
    }

    #[test]
    fn the_table_of_issuers_is_bounded() {
        let mut rates = Rates::default();
        for number in 0..u32::try_from(ISSUERS_MAX).unwrap() {
            assert!(rates.allow(at(0), issuer(number)));
        }
        assert!(!rates.allow(at(0), issuer(u32::MAX)));
        assert!(rates.allow(at(STEP_MS), issuer(u32::MAX)), "the others have theirs again");
        assert!(rates.whole_at.len() <= ISSUERS_MAX);
    }
}
