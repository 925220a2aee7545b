//! Which records were lost: collected as ranges of sequences by boot, within bounds.

use std::collections::HashMap;

use agent_core::id::AgentId;
use proto::Boot;

use crate::contract::LostRecords;
use crate::embedded::damage::RECORDS_MAX;
use crate::embedded::layout::{self, Identity};
use crate::embedded::ranges::RangeSet;
use crate::embedded::storage::{Failure, TopicStore, log_range};
use crate::topic::Topic;

/// Boots that are followed through a log. Those that appear later are not, and losses between their records stay
/// without a name.
const BOOTS_MAX: usize = 262_144;

type Boots = (AgentId, u64, u64);

#[derive(Debug, Default)]
pub(super) struct Names {
    by_boot: HashMap<Boots, RangeSet>,
    /// Offsets that the index named.
    offsets: RangeSet,
}

impl Names {
    /// How many missing records the index names.
    pub(super) fn certain_count(&self) -> u64 {
        self.offsets.count()
    }

    pub(super) fn add(&mut self, offset: u64, agent: &AgentId, identity: &Identity) {
        self.offsets.insert(offset..offset + 1);
        self.insert(agent, identity, identity.sequence, identity.sequence.saturating_add(1));
    }

    fn insert(&mut self, agent: &AgentId, identity: &Identity, first: u64, end: u64) {
        let boot = (agent.clone(), identity.boot_counter, identity.boot_nonce);
        if self.by_boot.len() < RECORDS_MAX || self.by_boot.contains_key(&boot) {
            self.by_boot.entry(boot).or_default().insert(first..end);
        }
    }

    /// Goes through the log and names the sequences that a boot left out where records are missing. The first records of
    /// a boot come in the order of their sequences, so a gap between two of them is made of records lost between
    /// them, or of such as another loss has announced.
    pub(super) fn infer(
        &mut self,
        store: &TopicStore,
        topic: Topic,
        missing: &RangeSet,
    ) -> Result<(), Failure> {
        let mut last: HashMap<Boots, (u64, u64)> = HashMap::new();
        for record in store.log.range(log_range(0..u64::MAX)) {
            let (key, value) = record.into_inner()?;
            let offset = layout::offset_of(&key)?;
            let Ok(entry) = layout::read_entry(topic, offset, &value) else {
                continue;
            };
            let Some(identity) = Identity::of(&entry.payload) else {
                continue;
            };
            let boot = (entry.key.clone(), identity.boot_counter, identity.boot_nonce);
            let before = last.get(&boot).copied();
            if let Some((sequence, before_offset)) = before
                && sequence.saturating_add(1) < identity.sequence
                && missing.missing(before_offset..offset).count() < offset - before_offset
            {
                let gap = sequence + 1..identity.sequence;
                let named = self.by_boot.get(&boot).cloned().unwrap_or_default();
                let unnamed = named.missing(gap);
                for range in unnamed.iter() {
                    self.insert(&entry.key, &identity, range.start, range.end);
                }
            }
            if before.is_none_or(|(sequence, _)| sequence < identity.sequence)
                && (before.is_some() || last.len() < BOOTS_MAX)
            {
                last.insert(boot, (identity.sequence, offset));
            }
        }
        Ok(())
    }

    /// As ranges; when there are too many, those of a boot are joined, so that they name more than was lost.
    pub(super) fn into_records(mut self) -> Vec<LostRecords> {
        let share = (RECORDS_MAX / self.by_boot.len().max(1)).max(1);
        let mut records: Vec<LostRecords> = Vec::new();
        for ((agent, counter, nonce), ranges) in &mut self.by_boot {
            ranges.coarsen(share);
            records.extend(ranges.iter().map(|range| LostRecords {
                agent: agent.clone(),
                boot: Boot { counter: *counter, nonce: *nonce },
                first: range.start,
                last: range.end - 1,
            }));
        }
        let order = |lost: &LostRecords| {
            (lost.agent.clone(), lost.boot.counter, lost.boot.nonce, lost.first)
        };
        records.sort_by_key(order);
        records
    }
}
