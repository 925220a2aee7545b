//! What the bus says of the records of one boot, or of its alerts.

use std::collections::BTreeMap;

use proto::{Loss, LossReason};

use super::SET_INTERVALS_MAX;
use super::intervals::Intervals;

/// Sequences of one kind of one boot: those that came, and those that will never come.
#[derive(Clone, Debug)]
pub(super) struct Lane {
    delivered: Intervals,
    /// Declared lost, by the number of the reason.
    declared: BTreeMap<i32, Intervals>,
    /// Lowest and highest that came by themselves, not from a spool.
    live: Option<(u64, u64)>,
    /// Highest live one that was stored before the history that is audited begins; 0: none.
    before: u64,
    pub(super) repeats: u64,
    pub(super) replayed: u64,
    pub(super) disordered: u64,
}

/// Whether a record came when it was made, or later from the agent's spool.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Arrival {
    Live,
    Replayed,
}

/// On which side of the beginning of the audited history a record was stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Era {
    Before,
    Within,
}

/// The reasons of an agent and of a server, the most telling first: where two were declared for one record, the first
/// counts. That of a crash is an upper bound, so it comes last.
const REASONS: [(LossReason, &str); 8] = [
    (LossReason::Overwritten, "overwritten"),
    (LossReason::Shutdown, "shutdown"),
    (LossReason::Link, "link"),
    (LossReason::SpoolFull, "spool_full"),
    (LossReason::SpoolExpired, "spool_expired"),
    (LossReason::SpoolDamaged, "spool_damaged"),
    (LossReason::StoreDamaged, "store_damaged"),
    (LossReason::Crash, "crash"),
];

/// The key of all reasons that this version does not know: there is no end of them.
const OTHER: i32 = -1;
const OTHER_NAME: &str = "other";

impl Lane {
    pub(super) const fn new() -> Self {
        Self {
            delivered: Intervals::new(SET_INTERVALS_MAX),
            declared: BTreeMap::new(),
            live: None,
            before: 0,
            repeats: 0,
            replayed: 0,
            disordered: 0,
        }
    }

    pub(super) fn deliver(&mut self, sequence: u64, arrival: Arrival, era: Era) {
        let is_new = self.delivered.insert(sequence);
        if !is_new {
            self.repeats = self.repeats.saturating_add(1);
        }
        match arrival {
            Arrival::Replayed => self.replayed = self.replayed.saturating_add(u64::from(is_new)),
            Arrival::Live => {
                let (first, last) = self.live.unwrap_or((sequence, sequence));
                if is_new && sequence < last {
                    self.disordered = self.disordered.saturating_add(1);
                }
                self.live = Some((first.min(sequence), last.max(sequence)));
                if era == Era::Before {
                    self.before = self.before.max(sequence);
                }
            }
        }
    }

    /// Takes a declared loss. One without a reason is not a declaration: a server has noticed a gap that the agent says
    /// nothing about, so it stays one.
    pub(super) fn declare(&mut self, loss: &Loss) {
        let reason = match LossReason::try_from(loss.reason) {
            Ok(LossReason::Unspecified) => return,
            Ok(reason) => reason.into(),
            Err(_) => OTHER,
        };
        let declared =
            self.declared.entry(reason).or_insert_with(|| Intervals::new(SET_INTERVALS_MAX));
        declared.insert_range(loss.first.max(1)..=loss.last);
    }

    /// All that came or was declared lost.
    pub(super) fn accounted(&self) -> Intervals {
        let mut accounted = self.delivered.clone();
        self.declared.values().for_each(|declared| accounted.insert_all(declared));
        accounted
    }

    /// How many were declared lost and have not come, by reason; only above `after`.
    pub(super) fn lost(&self, after: u64) -> BTreeMap<&'static str, u64> {
        let above = after.saturating_add(1)..=u64::MAX;
        let mut seen = self.delivered.clone();
        let mut lost = BTreeMap::new();
        let known = REASONS.iter().map(|(reason, name)| (i32::from(*reason), *name));
        for (reason, name) in known.chain([(OTHER, OTHER_NAME)]) {
            let Some(declared) = self.declared.get(&reason) else {
                continue;
            };
            let known = seen.count_within(above.clone());
            seen.insert_all(declared);
            let count = seen.count_within(above.clone()) - known;
            if count > 0 {
                lost.insert(name, count);
            }
        }
        lost
    }

    /// Those that came, up to `last`.
    pub(super) fn delivered_to(&self, last: u64) -> u64 {
        self.delivered.count_within(1..=last)
    }

    /// Those that came, above `after`.
    pub(super) fn delivered_after(&self, after: u64) -> u64 {
        self.delivered.count_within(after.saturating_add(1)..=u64::MAX)
    }

    pub(super) fn live_first(&self) -> Option<u64> {
        self.live.map(|(first, _)| first)
    }

    pub(super) fn live_last(&self) -> u64 {
        self.live.map_or(0, |(_, last)| last)
    }

    pub(super) const fn before(&self) -> u64 {
        self.before
    }
}

/// Whether an agent counts records as lost for the reason with this name.
pub(super) fn is_declared_by_agent(name: &str) -> bool {
    name != "crash" && name != "store_damaged"
}

#[cfg(test)]
mod tests {
    use super::*;

    fn loss(reason: LossReason, first: u64, last: u64) -> Loss {
        Loss { first, last, reason: reason.into(), ..Loss::default() }
    }

    fn lane(sequences: &[u64]) -> Lane {
        let mut lane = Lane::new();
        sequences.iter().for_each(|number| lane.deliver(*number, Arrival::Live, Era::Within));
        lane
    }

    #[test]
    fn repeats_and_disorder_are_told_apart() {
        let mut lane = lane(&[1, 2, 2, 5, 4, 6]);
        lane.deliver(3, Arrival::Replayed, Era::Within);
        lane.deliver(3, Arrival::Replayed, Era::Within);
        assert_eq!((lane.repeats, lane.disordered, lane.replayed), (2, 1, 1));
        assert_eq!(lane.delivered_after(0), 6);
    }

    #[test]
    fn what_came_after_all_is_not_lost_and_each_is_lost_for_one_reason() {
        let mut lane = lane(&[1, 2, 6]);
        lane.declare(&loss(LossReason::Crash, 3, 4000));
        lane.declare(&loss(LossReason::Overwritten, 2, 4));
        lane.declare(&loss(LossReason::Unspecified, 1, 9000));
        let expected = [("crash", 3995), ("overwritten", 2)];
        assert_eq!(lane.lost(0), BTreeMap::from(expected));
        assert_eq!(lane.lost(4), BTreeMap::from([("crash", 3995)]));
        lane.declare(&Loss { reason: 77, first: 5000, last: 5001, ..Loss::default() });
        assert_eq!(lane.lost(0)[OTHER_NAME], 2);
        assert_eq!(lane.accounted().count(), 4002);
    }

    #[test]
    fn every_reason_that_is_declared_has_a_name() {
        let numbers = (1..).map_while(|number| LossReason::try_from(number).ok());
        for reason in numbers {
            assert!(REASONS.iter().any(|(known, _)| *known == reason), "{reason:?}");
        }
    }
}
