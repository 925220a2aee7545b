//! Reads what happened to agents, for `alerts` and `events`.

use std::io;

use agent_core::id::Sequence;
use proto::{StatusBatch, StatusRecord, SubscribeStatusRequest};

use crate::client::{Event, Feed};
use crate::command::{Error, Session, away, back, skipped};
use crate::dedup::{Dedup, Judgement};
use crate::interrupt::Interrupt;
use crate::view;

/// How the reading ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ending {
    /// With what is stored.
    CaughtUp,
    /// On Ctrl-C.
    Interrupted,
}

/// Hands over what the server sends, batch by batch, until it ends or is interrupted.
pub(super) async fn read(
    session: &Session,
    request: SubscribeStatusRequest,
    now_ms: i64,
    mut take: impl FnMut(Vec<StatusRecord>) -> io::Result<()>,
) -> Result<Ending, Error> {
    let mut interrupt = Interrupt::install().map_err(Error::Runtime)?;
    let mut feed = tokio::select! {
        feed = Feed::open(&session.source, request, now_ms) => feed?,
        () = interrupt.wait() => return Ok(Ending::Interrupted),
    };
    let mut intake = Intake::default();
    let ending = loop {
        let event = tokio::select! {
            event = feed.next() => event?,
            () = interrupt.wait() => break Ending::Interrupted,
        };
        match event {
            Some(Event::Batch(batch)) => {
                if let Some(remark) = skipped(batch.skipped_first, batch.skipped_last) {
                    view::notice(&remark);
                }
                take(intake.take(batch))?;
            }
            Some(Event::Away { reason }) => view::notice(&away(session, &reason)),
            Some(Event::Back(resumption)) => view::notice(back(resumption)),
            None => break Ending::CaughtUp,
        }
    };
    if let Some(remark) = intake.left_out() {
        view::notice(&remark);
    }
    Ok(ending)
}

/// Drops the alerts that were seen before, and the records that told of nothing else.
#[derive(Debug, Default)]
struct Intake {
    dedup: Dedup,
}

impl Intake {
    fn take(&mut self, batch: StatusBatch) -> Vec<StatusRecord> {
        let records = batch.entries.into_iter().filter_map(|entry| entry.status);
        records.filter_map(|record| self.fresh(record)).collect()
    }

    fn fresh(&mut self, mut record: StatusRecord) -> Option<StatusRecord> {
        if record.alerts.is_empty() {
            return Some(record);
        }
        let (agent_id, boot) = (&record.agent_id, record.boot);
        record.alerts.retain(|alert| {
            let Some((boot, sequence)) = boot.zip(Sequence::new(alert.sequence)) else {
                return true;
            };
            match self.dedup.judge(agent_id, boot.into(), sequence) {
                Judgement::Fresh => true,
                Judgement::Repeat | Judgement::Late => false,
            }
        });
        (!record.alerts.is_empty()).then_some(record)
    }

    /// What was left out in all, when there was anything but repeats.
    fn left_out(&self) -> Option<String> {
        match self.dedup.late_count() {
            0 => None,
            count => {
                Some(format!("left out alerts: {count} that came too late to be told from repeats"))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proto::{AlertRecord, Boot, StoredStatus};

    use super::*;

    fn entry(boot: Option<Boot>, sequences: &[u64]) -> StoredStatus {
        let alert = |sequence: &u64| AlertRecord { sequence: *sequence, ..AlertRecord::default() };
        StoredStatus {
            status: Some(StatusRecord {
                agent_id: "a".into(),
                boot,
                alerts: sequences.iter().map(alert).collect(),
                ..StatusRecord::default()
            }),
            ..StoredStatus::default()
        }
    }

    fn check(entries: Vec<StoredStatus>, expected: &[&[u64]]) -> Intake {
        let mut intake = Intake::default();
        let taken = intake.take(StatusBatch { entries, ..StatusBatch::default() });
        let sequences = |record: &StatusRecord| {
            record.alerts.iter().map(|alert| alert.sequence).collect::<Vec<_>>()
        };
        assert_eq!(taken.iter().map(sequences).collect::<Vec<_>>(), expected);
        intake
    }

    #[test]
    fn an_alert_comes_once() {
        let (first, second) =
            (Some(Boot { counter: 1, nonce: 1 }), Some(Boot { counter: 2, nonce: 1 }));
        check(
            vec![entry(first, &[1, 2]), entry(first, &[1, 2]), entry(first, &[2, 3])],
            &[&[1, 2], &[3]],
        );
        check(vec![entry(first, &[1]), entry(second, &[1])], &[&[1], &[1]]);
    }

    #[test]
    fn what_has_no_name_always_comes() {
        let boot = Some(Boot::default());
        check(vec![entry(None, &[1]), entry(None, &[1])], &[&[1], &[1]]);
        check(vec![entry(boot, &[0]), entry(boot, &[0])], &[&[0], &[0]]);
        check(vec![entry(boot, &[]), entry(boot, &[])], &[&[], &[]]);
    }

    #[test]
    fn what_came_too_late_is_told() {
        let boot = Some(Boot::default());
        let lossy: Vec<u64> = (1..=200).map(|step| 2 * step).collect();
        let intake = check(vec![entry(boot, &lossy), entry(boot, &[3])], &[&lossy]);
        assert_eq!(
            intake.left_out().unwrap(),
            "left out alerts: 1 that came too late to be told from repeats"
        );
        assert_eq!(check(vec![entry(boot, &[1])], &[&[1]]).left_out(), None);
    }
}
