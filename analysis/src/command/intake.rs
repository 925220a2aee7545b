//! What happens to a batch before it is shown: gaps are told, repeats dropped, records decoded.

use agent_core::metric::MetricSet;
use proto::MetricsBatch;

use crate::command::skipped;
use crate::decode::{self, Sample};
use crate::dedup::{Dedup, Judgement};

/// Turns batches into samples, and counts what it leaves out.
#[derive(Debug)]
pub(super) struct Intake {
    wanted: MetricSet,
    dedup: Dedup,
    unreadable_count: u64,
}

/// What a batch comes to.
#[derive(Debug)]
pub(super) struct Taken {
    /// In the order of the bus.
    pub(super) samples: Vec<Sample>,
    /// What the operator must know beside them.
    pub(super) remark: Option<String>,
}

impl Intake {
    pub(super) fn new(wanted: MetricSet) -> Self {
        Self { wanted, dedup: Dedup::default(), unreadable_count: 0 }
    }

    pub(super) fn take(&mut self, batch: MetricsBatch) -> Taken {
        let remark = skipped(batch.skipped_first, batch.skipped_last);
        let records = batch.entries.into_iter().filter_map(|entry| entry.metrics);
        let mut samples = Vec::with_capacity(records.size_hint().0);
        for record in records {
            if !self.is_fresh(&record) {
                continue;
            }
            match Sample::decode(record, self.wanted) {
                Ok(sample) => samples.push(sample),
                Err(_) => self.unreadable_count = self.unreadable_count.saturating_add(1),
            }
        }
        Taken { samples, remark }
    }

    /// What was left out in all, when there was anything but repeats.
    pub(super) fn left_out(&self) -> Option<String> {
        let late = match self.dedup.late_count() {
            0 => None,
            count => Some(format!("{count} that came too late to be told from repeats")),
        };
        let unreadable = match self.unreadable_count {
            0 => None,
            count => Some(format!("{count} that could not be read")),
        };
        let parts: Vec<String> = late.into_iter().chain(unreadable).collect();
        (!parts.is_empty()).then(|| format!("left out records: {}", parts.join(", ")))
    }

    fn is_fresh(&mut self, record: &proto::MetricsRecord) -> bool {
        let Some((boot, sequence)) = decode::identity(record) else {
            return true;
        };
        match self.dedup.judge(&record.agent_id, boot, sequence) {
            Judgement::Fresh => true,
            Judgement::Repeat | Judgement::Late => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use proto::{Boot, MetricsRecord, Record, StoredMetrics};

    use super::*;

    fn entry(sequence: u64, values: Vec<i64>) -> StoredMetrics {
        StoredMetrics {
            metrics: Some(MetricsRecord {
                agent_id: "a".into(),
                boot: Some(Boot::default()),
                record: Some(Record { sequence, present: 1, values, ..Record::default() }),
                ..MetricsRecord::default()
            }),
            ..StoredMetrics::default()
        }
    }

    #[test]
    fn repeats_go_and_nameless_records_stay() {
        let mut intake = Intake::new(MetricSet::ALL);
        let sequences = [1, 2, 2, 1, 0, 0];
        let taken = intake.take(MetricsBatch {
            entries: sequences.map(|sequence| entry(sequence, vec![1])).to_vec(),
            ..MetricsBatch::default()
        });
        assert_eq!(taken.samples.len(), 4);
        assert_eq!((taken.remark, intake.left_out()), (None, None));
    }

    #[test]
    fn gaps_and_faults_are_told() {
        let mut intake = Intake::new(MetricSet::ALL);
        // More gaps than are remembered, and one record that falls into the lowest of them.
        let lossy = (1..=200).map(|step| entry(2 * step, vec![1]));
        let taken = intake.take(MetricsBatch {
            entries: lossy.chain([entry(3, vec![1]), entry(2001, vec![])]).collect(),
            skipped_first: 0,
            skipped_last: 9,
            ..MetricsBatch::default()
        });
        assert_eq!(taken.samples.len(), 200);
        assert_eq!(taken.remark.unwrap(), "retention removed offsets 0..9");
        assert_eq!(
            intake.left_out().unwrap(),
            "left out records: 1 that came too late to be told from repeats, \
             1 that could not be read"
        );
    }
}
