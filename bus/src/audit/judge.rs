//! The rules: which sequences must be on the bus by now, and which need not be.

use std::ops::RangeInclusive;

use super::RANGES_MAX;
use super::intervals::count;
use super::lane::{Lane, is_declared_by_agent};
use super::report::{Count, LaneReport, Missing, Pending};

/// What is known of a boot beside its records.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stage {
    /// It is the latest of its agent.
    Current,
    /// Another one followed, which has not said a word yet.
    Followed,
    /// Another one followed and has said what there is on the agent's disk.
    Succeeded,
}

/// What is judged, and by what.
#[derive(Clone, Copy, Debug)]
pub(super) struct Case<'a> {
    pub(super) lane: &'a Lane,
    /// Sequences up to here are not judged: the history does not reach back that far.
    pub(super) before: u64,
    pub(super) stage: Stage,
    /// What the agent counted last. All that it counts as delivered then was on the bus before the lane was read.
    pub(super) word: Option<Count>,
}

/// Judges a lane. `spooled_earlier` is how many of all boots that are over the agent has on its disk; what this one
/// takes of them is taken away.
pub(super) fn judge(case: Case<'_>, spooled_earlier: &mut u64) -> LaneReport {
    let Case { lane, before, stage, word } = case;
    let accounted = lane.accounted();
    let blurred_to = accounted.blurred_to();
    let recorded = word.map_or(0, |word| word.recorded);
    let last = accounted.highest().unwrap_or(0).max(recorded);
    let lost = lane.lost(before);
    let first = before.max(blurred_to).saturating_add(1);

    // The agent's ring is the end of what it has recorded; what it gave up before it could say so lies right below.
    let settled = word.map(|word| {
        let declared = lost.iter().filter(|(name, _)| is_declared_by_agent(name));
        let declared: u64 = declared.map(|(_, count)| *count).sum();
        let undeclared = word.lost.saturating_sub(declared);
        recorded.saturating_sub(word.held).saturating_sub(undeclared)
    });
    let judged_to = match stage {
        Stage::Current | Stage::Followed => settled.unwrap_or(0),
        Stage::Succeeded => settled.unwrap_or(0).max(lane.live_last()),
    };
    let gaps = accounted.gaps_within(first..=judged_to);
    let gap_count = count(gaps.iter().cloned());
    let beyond = |from: u64, to: u64| {
        let from = from.max(judged_to).saturating_add(1).max(first);
        count(accounted.gaps_within(from..=to))
    };

    let mut pending = Pending::default();
    match stage {
        Stage::Current | Stage::Followed => {
            pending.spooled = gap_count.min(word.map_or(0, |word| word.spooled));
            pending.held = beyond(0, recorded);
            pending.unjudged = beyond(recorded, last);
        }
        Stage::Succeeded => {
            let tail = beyond(0, last);
            let in_spool = gap_count.saturating_add(tail).min(*spooled_earlier);
            *spooled_earlier -= in_spool;
            pending.spooled = in_spool;
            // The gaps below what came later are the first that the spool explains.
            pending.open = tail - in_spool.saturating_sub(gap_count);
        }
    }
    let missing_count = gap_count - gap_count.min(pending.spooled);
    let missing = if missing_count == 0 {
        Missing::default()
    } else {
        Missing {
            count: missing_count,
            acknowledged: word
                .filter(|_| before == 0 && blurred_to == 0)
                .map_or(0, |word| {
                    acknowledged_and_gone(lane, &word, lost.get("store_damaged").copied())
                })
                .min(missing_count),
            ranges: gaps.into_iter().take(RANGES_MAX).collect::<Vec<RangeInclusive<u64>>>(),
        }
    };
    LaneReport {
        before: before.min(last),
        blurred_to: if blurred_to > before { blurred_to } else { 0 },
        last,
        delivered: lane.delivered_after(before),
        replayed: lane.replayed,
        repeats: lane.repeats,
        disordered: lane.disordered,
        lost,
        pending,
        missing,
        word,
    }
}

/// How many the agent counts as delivered that are not on the bus. What a server could not read back is declared.
fn acknowledged_and_gone(lane: &Lane, word: &Count, store_damaged: Option<u64>) -> u64 {
    let there = lane.delivered_to(word.recorded).saturating_add(store_damaged.unwrap_or(0));
    word.delivered.saturating_sub(there)
}

#[cfg(test)]
mod tests {
    use proto::{Loss, LossReason};

    use super::super::lane::{Arrival, Era};
    use super::*;

    fn lane(delivered: &[RangeInclusive<u64>], lost: &[(LossReason, u64, u64)]) -> Lane {
        let mut lane = Lane::new();
        for sequence in delivered.iter().cloned().flatten() {
            lane.deliver(sequence, Arrival::Live, Era::Within);
        }
        for (reason, first, last) in lost {
            let (first, last, reason) = (*first, *last, (*reason).into());
            lane.declare(&Loss { first, last, reason, ..Loss::default() });
        }
        lane
    }

    fn word(recorded: u64, delivered: u64, lost: u64, held: u64, spooled: u64) -> Option<Count> {
        let count = Count { recorded, delivered, lost, held, spooled };
        assert_eq!(count.imbalance(), 0);
        Some(count)
    }

    fn check(lane: &Lane, stage: Stage, word: Option<Count>, spooled_earlier: u64) -> LaneReport {
        judge(Case { lane, before: 0, stage, word }, &mut { spooled_earlier })
    }

    #[test]
    fn what_is_held_is_still_to_come_and_what_was_acknowledged_must_be_there() {
        let there = lane(&[1..=90], &[]);
        let report = check(&there, Stage::Current, word(100, 90, 0, 10, 0), 0);
        assert_eq!((report.missing.count, report.pending.held, report.last), (0, 10, 100));
        let report = check(&there, Stage::Current, word(100, 94, 0, 6, 0), 0);
        assert_eq!((report.missing.count, report.missing.acknowledged), (4, 4));
        assert_eq!(report.missing.ranges, [91..=94]);
        assert_eq!(report.pending.held, 6);
    }

    #[test]
    fn a_gap_is_missing_though_as_many_were_held_when_the_agent_spoke() {
        let gap = lane(&[1..=70, 75..=120], &[]);
        let report = check(&gap, Stage::Current, word(100, 90, 0, 10, 0), 0);
        assert_eq!((report.missing.count, report.missing.acknowledged), (4, 0));
        let report = check(&gap, Stage::Current, word(120, 120, 0, 0, 0), 0);
        assert_eq!((report.missing.count, report.missing.acknowledged), (4, 4));
        assert_eq!(report.missing.ranges, [71..=74]);
        // Declared, it is a loss, and what arrived of it is none.
        let declared = lane(&[1..=70, 75..=120], &[(LossReason::Overwritten, 61, 74)]);
        let report = check(&declared, Stage::Current, word(120, 116, 4, 0, 0), 0);
        assert_eq!((report.missing.count, report.lost["overwritten"]), (0, 4));
        // A server that has noticed it explains nothing.
        let noticed = lane(&[1..=70, 75..=120], &[(LossReason::Unspecified, 71, 74)]);
        assert_eq!(check(&noticed, Stage::Current, word(120, 120, 0, 0, 0), 0).missing.count, 4);
    }

    #[test]
    fn what_the_agent_gave_up_and_could_not_say_yet_is_still_to_come() {
        let there = lane(&[1..=90], &[]);
        let report = check(&there, Stage::Current, word(400, 90, 54, 256, 0), 0);
        assert_eq!((report.missing.count, report.pending.held), (0, 310));
    }

    #[test]
    fn the_spool_explains_as_many_gaps_as_are_in_it() {
        let deferred = lane(&[1..=99, 300..=310], &[]);
        let report = check(&deferred, Stage::Current, word(310, 110, 0, 0, 200), 0);
        assert_eq!((report.missing.count, report.pending.spooled), (0, 200));
        let report = check(&deferred, Stage::Current, word(310, 115, 0, 0, 195), 0);
        assert_eq!((report.missing.count, report.missing.acknowledged), (5, 5));
    }

    #[test]
    fn above_the_last_word_nothing_is_judged_until_the_agent_speaks() {
        let gap = lane(&[1..=70, 75..=120], &[]);
        for stage in [Stage::Current, Stage::Followed] {
            let report = check(&gap, stage, word(60, 60, 0, 0, 0), 0);
            assert_eq!((report.missing.count, report.pending.unjudged), (0, 4));
            let report = check(&gap, stage, None, 0);
            assert_eq!((report.missing.count, report.pending.unjudged), (0, 4));
        }
        let report = check(&gap, Stage::Succeeded, word(60, 60, 0, 0, 0), 0);
        assert_eq!((report.missing.count, report.pending.total()), (4, 0));
        let report = check(&gap, Stage::Succeeded, None, 3);
        assert_eq!((report.missing.count, report.pending.spooled), (1, 3));
    }

    #[test]
    fn the_end_of_a_boot_is_open_until_it_is_declared() {
        let ended = lane(&[1..=90], &[]);
        let said = word(100, 90, 0, 10, 0);
        let report = check(&ended, Stage::Succeeded, said, 0);
        assert_eq!((report.missing.count, report.pending.open), (0, 10));
        let mut spooled_earlier = 12;
        let case = Case { lane: &ended, before: 0, stage: Stage::Succeeded, word: said };
        let report = judge(case, &mut spooled_earlier);
        assert_eq!((report.pending.spooled, report.pending.open, spooled_earlier), (10, 0, 2));
        let declared = lane(&[1..=90], &[(LossReason::Crash, 91, 4096)]);
        let report = check(&declared, Stage::Succeeded, said, 0);
        assert_eq!((report.pending.total(), report.lost["crash"], report.last), (0, 4006, 4096));
    }

    #[test]
    fn what_the_store_could_not_read_back_is_declared_and_not_missing() {
        let lane = lane(&[1..=70, 75..=100], &[(LossReason::StoreDamaged, 71, 74)]);
        let report = check(&lane, Stage::Current, word(102, 102, 0, 0, 0), 0);
        assert_eq!((report.missing.count, report.missing.acknowledged), (2, 2));
        assert_eq!(report.lost["store_damaged"], 4);
    }

    #[test]
    fn nothing_is_missing_before_the_history() {
        let lane = lane(&[51..=90], &[]);
        let case =
            Case { lane: &lane, before: 50, stage: Stage::Current, word: word(90, 90, 0, 0, 0) };
        let report = judge(case, &mut 0);
        assert_eq!((report.missing.count, report.before, report.delivered), (0, 50, 40));
    }
}
