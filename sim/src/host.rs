//! An agent's host: its process, what it has on its disk, and the journal of what its agents recorded.

use std::collections::VecDeque;
use std::time::Duration;

use agent_core::agent::{Restarted, Transmit};
use agent_core::id::{AgentId, BootId, Sequence};
use agent_core::ledger::Ledger;
use agent_core::metric::{Metric, MetricSet, Values, percent_of};
use agent_core::record::{Alert, Sample, Snapshot};
use agent_core::time::Instant;
use agent_std::simulated::{Shell, StateDisk};

use crate::intervals::Intervals;
use crate::random::Random;
use crate::trace::mix;

/// How a boot ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum End {
    /// It has not.
    Running,
    /// Without a word.
    Killed,
    /// As it was asked to; with its books as they were closed.
    Ended(Box<Ledger>),
}

/// What one boot recorded: what the checker compares the bus with.
#[derive(Debug)]
pub(crate) struct Journal {
    pub(crate) boot: BootId,
    /// Digests of each record, from sequence 1 on.
    pub(crate) records: Vec<RecordDigest>,
    /// Digests of each alert, from sequence 1 on.
    pub(crate) alerts: Vec<u64>,
    /// Up to where the agent was told that records and alerts are durable.
    pub(crate) acknowledged: (u64, u64),
    /// What the agent told a server that its spool will bring: records and alerts.
    pub(crate) deferred: (Intervals, Intervals),
    /// The disk took nothing while the boot ran, or when one after it began: what a crash would have to declare may be
    /// unknown.
    pub(crate) is_unsure: bool,
    /// Records that were given up before restarts that then failed.
    pub(crate) given_up: u64,
    pub(crate) end: End,
}

/// What a record says, in the two forms in which it may stand on the bus.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct RecordDigest {
    pub(crate) full: u64,
    /// Of what the plain form carries: time and values.
    pub(crate) plain: u64,
}

impl RecordDigest {
    fn of(sample: &Sample) -> Self {
        let Snapshot { taken_at, wall_ms, values } = &sample.snapshot;
        let plain = digest_values(mix(1, wall_ms.cast_unsigned()), values);
        let mut full = mix(mix(plain, taken_at.as_ms()), u64::from(sample.repeats));
        if let Some(window) = &sample.window {
            full = mix(full, u64::from(window.count));
            for values in [&window.min, &window.max, &window.last] {
                full = values.iter().fold(full, |sum, (_, count)| mix(sum, count.cast_unsigned()));
            }
        }
        for (metric, limit, _) in sample.marks.iter() {
            full = mix(mix(full, u64::from(metric.id())), limit.cast_unsigned());
        }
        Self { full, plain }
    }

    /// The same of a record on the bus.
    pub(crate) fn of_record(record: &proto::Record) -> Self {
        let counts = |sum: u64, counts: &[i64]| {
            counts.iter().fold(sum, |sum, count| mix(sum, count.cast_unsigned()))
        };
        let start = mix(mix(1, record.timestamp_ms.cast_unsigned()), record.present);
        let plain = counts(start, &record.values);
        let mut full = mix(mix(plain, record.uptime_ms), u64::from(record.repeats));
        if let Some(window) = &record.window {
            full = mix(full, u64::from(window.count));
            for values in [&window.min, &window.max, &window.last] {
                full = counts(full, values);
            }
        }
        for alert in &record.alerts {
            full = mix(mix(full, u64::from(alert.metric)), alert.limit.cast_unsigned());
        }
        Self { full, plain }
    }
}

fn digest_values(start: u64, values: &Values) -> u64 {
    let start = mix(start, values.present().bits());
    values.iter().fold(start, |sum, (_, count)| mix(sum, count.cast_unsigned()))
}

fn digest_alert(alert: &Alert) -> u64 {
    let kind = mix(u64::from(alert.metric.id()), alert.limit.cast_unsigned());
    mix(mix(kind, alert.value.cast_unsigned()), alert.wall_ms.cast_unsigned())
}

/// The digest of an alert on the bus.
pub(crate) fn digest_alert_record(alert: &proto::AlertRecord) -> u64 {
    let kind = mix(u64::from(alert.metric), alert.limit.cast_unsigned());
    mix(mix(kind, alert.value.cast_unsigned()), alert.timestamp_ms.cast_unsigned())
}

/// An agent's process.
#[derive(Debug)]
pub(crate) struct Process<const RING: usize> {
    pub(crate) shell: Shell<RING>,
    /// When it started: the origin of its clock.
    pub(crate) started_at: u64,
    /// Index into the host's journals.
    pub(crate) journal: usize,
    /// The connection of its stream.
    pub(crate) connection: Option<u64>,
    /// Messages that the transport took and of which the agent has not heard yet.
    pub(crate) transmitted: VecDeque<(u64, Transmit)>,
    /// When its next timer is due, in simulated time.
    pub(crate) wake_at: Option<u64>,
    /// Losses of its ring that were counted.
    pub(crate) overwritten: u64,
    /// The same of its spool, which was full.
    pub(crate) spool_lost: u64,
    /// Replayed batches that were sent on its stream.
    pub(crate) replays: u64,
}

/// A host.
#[derive(Debug)]
pub(crate) struct Host<const RING: usize> {
    pub(crate) id: AgentId,
    pub(crate) process: Option<Process<RING>>,
    /// Counts the processes, so that what was meant for one does not reach the next.
    pub(crate) process_number: u64,
    /// On its disk.
    pub(crate) boot_counter: u64,
    pub(crate) restarted: Option<Restarted>,
    /// What its agents keep; none: nothing.
    pub(crate) disk: Option<StateDisk>,
    /// Why a server last ended its stream.
    pub(crate) last_end: String,
    /// Its disk takes nothing until then; 0: it does.
    pub(crate) disk_full_until: u64,
    /// What its wall clock shows beyond simulated time.
    pub(crate) wall_offset_ms: i64,
    /// It stands still until then; 0: it does not.
    pub(crate) frozen_until: u64,
    /// A start is on its way.
    pub(crate) is_starting: bool,
    /// Which server its agents turn to; counts on and on.
    pub(crate) turn: usize,
    /// Which one had the latest stream.
    pub(crate) last_server: Option<usize>,
    pub(crate) journals: Vec<Journal>,
    walk: [i64; 6],
}

impl<const RING: usize> Host<RING> {
    pub(crate) fn new(index: usize, wall_ms: i64) -> Self {
        Self {
            id: format!("agent-{index}").parse().expect("a word and a number are an agent id"),
            process: None,
            process_number: 0,
            boot_counter: 0,
            restarted: None,
            disk: None,
            last_end: String::new(),
            disk_full_until: 0,
            wall_offset_ms: wall_ms,
            frozen_until: 0,
            is_starting: false,
            turn: index,
            last_server: None,
            journals: Vec::new(),
            walk: [0; 6],
        }
    }

    pub(crate) fn wall_ms(&self, now: u64) -> i64 {
        self.wall_offset_ms.saturating_add_unsigned(now)
    }

    /// The running process, if it does not stand still.
    pub(crate) fn awake(&mut self, now: u64) -> Option<&mut Process<RING>> {
        if now < self.frozen_until { None } else { self.process.as_mut() }
    }

    /// What a collector finds: mostly small steps, at times nothing new, at times a peak.
    pub(crate) fn measure(
        &mut self,
        taken_at: Instant,
        now: u64,
        wanted: MetricSet,
        random: &mut Random,
    ) -> Snapshot {
        const TOTAL: i64 = 8 << 30;
        let word = random.next();
        let is_idle = word.is_multiple_of(5);
        if !is_idle {
            for (index, value) in self.walk.iter_mut().enumerate() {
                let step = i64::try_from(word >> (8 * index) & 0xff).unwrap_or(0);
                *value = (*value * 7 / 8 + step * 5).max(0);
            }
        }
        let [cpu, memory, read, write, inbound, outbound] = self.walk;
        let used = (memory << 20).min(TOTAL);
        let found = [
            (Metric::CpuPercent, cpu.min(10_000)),
            (Metric::MemoryPercent, percent_of(used, TOTAL).unwrap_or(0)),
            (Metric::MemoryUsed, used),
            (Metric::MemoryTotal, TOTAL),
            (Metric::DiskRead, read << 10),
            (Metric::DiskWrite, write << 10),
            (Metric::NetIn, inbound << 10),
            (Metric::NetOut, outbound << 10),
        ];
        let values = found.into_iter().filter(|(metric, _)| wanted.contains(*metric)).collect();
        Snapshot { taken_at, wall_ms: self.wall_ms(now), values }
    }

    /// Writes down what the agent has recorded since it was last looked at.
    ///
    /// # Errors
    ///
    /// When its books do not balance.
    pub(crate) fn observe(&mut self) -> Result<Observed, String> {
        let Some(process) = &mut self.process else { return Ok(Observed::default()) };
        let journal = &mut self.journals[process.journal];
        let ledger = process.shell.ledger();
        if !ledger.balances() {
            return Err(format!("the books of {} do not balance: {ledger:?}", self.id));
        }
        let sequence = |count: usize| Sequence::new(count as u64 + 1).unwrap_or(Sequence::FIRST);
        let end = Sequence::new(ledger.recorded + 1).unwrap_or(Sequence::FIRST);
        let mut observed = Observed::default();
        for (at, sample) in process.shell.records(sequence(journal.records.len()), end) {
            if at.number() != journal.records.len() as u64 + 1 {
                return Err(format!("{} skipped a sequence before {}", self.id, at.number()));
            }
            journal.records.push(RecordDigest::of(&sample));
            observed.recorded += 1;
        }
        let end = Sequence::new(ledger.alerts.recorded + 1).unwrap_or(Sequence::FIRST);
        for (_, alert) in process.shell.alerts(sequence(journal.alerts.len()), end) {
            journal.alerts.push(digest_alert(&alert));
            observed.alerts += 1;
        }
        if journal.records.len() as u64 != ledger.recorded {
            return Err(format!("{} recorded what its ring does not have", self.id));
        }
        let overwritten = ledger.lost.by(agent_core::ledger::LossReason::Overwritten);
        observed.overwritten = overwritten.saturating_sub(process.overwritten);
        process.overwritten = process.overwritten.max(overwritten);
        let spool_lost = ledger.lost.by(agent_core::ledger::LossReason::SpoolFull);
        observed.spool_lost = spool_lost.saturating_sub(process.spool_lost);
        process.spool_lost = process.spool_lost.max(spool_lost);
        Ok(observed)
    }
}

/// What is new since the last look.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Observed {
    pub(crate) recorded: u64,
    pub(crate) alerts: u64,
    pub(crate) overwritten: u64,
    pub(crate) spool_lost: u64,
}

/// A simulated span as the core has it.
pub(crate) const fn millis(ms: u64) -> Duration {
    Duration::from_millis(ms)
}
