//! The simulated bus: a durable log that several servers may share, with commits that take time, fail and tear.

use std::collections::{BTreeMap, HashMap};

use agent_core::id::{AgentId, BootId};
use bus::{Entry, Offset, Partition, Payload, Record, Topic};
use proto::StatusEvent;
use server::simulated::{History, Publish};

use crate::intervals::Intervals;

/// Records on their way to the log.
#[derive(Debug)]
pub(crate) struct Group {
    pub(crate) server: usize,
    /// Which run of the server.
    pub(crate) run: u64,
    pub(crate) publish: Publish,
    pub(crate) records: Vec<Record>,
    pub(crate) published_at: u64,
    /// It was reported as failed and is stored all the same.
    pub(crate) is_disowned: bool,
}

/// What became of one boot, as the log knows it.
#[derive(Clone, Debug, Default)]
pub(crate) struct Known {
    /// Sequences delivered or declared lost.
    pub(crate) records: Intervals,
    /// The same of alerts.
    pub(crate) alerts: Intervals,
}

/// The log.
#[derive(Debug)]
pub(crate) struct SimBus {
    is_shared: bool,
    topics: BTreeMap<Topic, Vec<Entry>>,
    /// In the order in which they were published.
    pub(crate) groups: BTreeMap<u64, Group>,
    next_group: u64,
    /// Until then nothing is taken.
    pub(crate) full_until: u64,
    /// Until then everything takes seconds.
    pub(crate) slow_until: u64,
    /// When the newest group of each server is due, so that none overtakes another.
    pub(crate) last_due: [u64; 2],
    last: HashMap<AgentId, (BootId, u64)>,
    pub(crate) known: HashMap<(AgentId, BootId), Known>,
    last_stored_ms: i64,
}

impl SimBus {
    pub(crate) fn new(is_shared: bool) -> Self {
        Self {
            is_shared,
            topics: BTreeMap::new(),
            groups: BTreeMap::new(),
            next_group: 0,
            full_until: 0,
            slow_until: 0,
            last_due: [0; 2],
            last: HashMap::new(),
            known: HashMap::new(),
            last_stored_ms: 0,
        }
    }

    /// Takes a group in; nothing of it is durable yet.
    pub(crate) fn enqueue(&mut self, group: Group) -> u64 {
        let id = self.next_group;
        self.next_group += 1;
        self.groups.insert(id, group);
        id
    }

    /// Makes records durable. `wall_ms` is the clock that stamps them.
    pub(crate) fn store(&mut self, wall_ms: i64, records: Vec<Record>) {
        // The embedded log never lets it fall; a broker says what its clock says, and that is not set here.
        self.last_stored_ms = self.last_stored_ms.max(wall_ms);
        for Record { key, payload } in records {
            self.learn(&key, &payload);
            let entries = self.topics.entry(payload.topic()).or_default();
            let offset = Offset(entries.len() as u64);
            let stored_ms = self.last_stored_ms;
            entries.push(Entry { partition: Partition(0), offset, stored_ms, key, payload });
        }
    }

    fn learn(&mut self, key: &AgentId, payload: &Payload) {
        match payload {
            Payload::Metrics(metrics) => {
                let Some((boot, record)) = metrics.boot.zip(metrics.record.as_ref()) else {
                    return;
                };
                let boot = BootId::from(boot);
                // One from a spool says nothing of those before it.
                let last = if metrics.replayed { 0 } else { record.sequence };
                self.last.insert(key.clone(), (boot, last));
                let known = self.known.entry((key.clone(), boot)).or_default();
                known.records.insert(record.sequence, record.sequence);
            }
            Payload::Status(status) => {
                let Some(boot) = status.boot.map(BootId::from) else { return };
                let event = status.event();
                if !matches!(event, StatusEvent::Alert | StatusEvent::AlertLoss | StatusEvent::Loss)
                {
                    return;
                }
                let known = self.known.entry((key.clone(), boot)).or_default();
                let lost = status.losses.iter().map(|loss| (loss.first, loss.last));
                match event {
                    StatusEvent::Loss => lost.for_each(|(a, b)| known.records.insert(a, b)),
                    _ => lost.for_each(|(a, b)| known.alerts.insert(a, b)),
                }
                for alert in &status.alerts {
                    known.alerts.insert(alert.sequence, alert.sequence);
                }
            }
            Payload::Command(_) | Payload::Response(_) => {}
        }
    }

    /// The entries of a topic from an offset on.
    pub(crate) fn read(&self, topic: Topic, from: usize) -> &[Entry] {
        self.topics.get(&topic).and_then(|entries| entries.get(from..)).unwrap_or_default()
    }

    pub(crate) fn len(&self, topic: Topic) -> usize {
        self.topics.get(&topic).map_or(0, Vec::len)
    }
}

impl History for SimBus {
    fn last(&self, agent: &AgentId) -> Option<(BootId, u64)> {
        // Kafka would have to read all agents' records to know.
        if self.is_shared { None } else { self.last.get(agent).copied() }
    }
}
