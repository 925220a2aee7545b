//! A spool on a simulated disk beside a book of what it must know.

use std::collections::BTreeSet;
use std::time::Duration;

use agent_core::id::{BootId, Sequence};
use agent_core::metric::Metric;
use agent_core::random::SplitMix64;
use agent_core::record::{Alert, Direction, Sample, Severity, Snapshot, Transition};
use agent_core::time::Instant;

use crate::spool::sim::SimDisk;
use crate::spool::{
    Content, Item, Lane, Loss, LossReason, Options, Order, Report, Spool, SpoolError, Token,
};

/// A record or alert: lane, counter of its boot, sequence.
pub(super) type Name = (Lane, u64, u64);

pub(super) const SMALL: Options = Options {
    bytes_max: 64 * 1024,
    age_max: None,
    segment_bytes: 4 * 1024,
    order: Order::OldestFirst,
};

pub(super) fn boot(counter: u64) -> BootId {
    BootId { counter, nonce: !counter }
}

/// The record with this name, whose values are next to impossible to compress.
pub(super) fn sample(boot: u64, sequence: u64) -> Sample {
    let mut random = SplitMix64::new(boot << 32 | sequence);
    let values = Metric::ALL.into_iter().take(8);
    Sample::from(Snapshot {
        taken_at: Instant::from_ms(sequence * 1000),
        wall_ms: 1_700_000_000_000 + i64::try_from(sequence).unwrap(),
        values: values.map(|metric| (metric, random.next_u64().cast_signed())).collect(),
    })
}

pub(super) fn alert(boot: u64, sequence: u64) -> Alert {
    Alert {
        metric: Metric::CpuPercent,
        transition: Transition::Raised,
        severity: Severity::Critical,
        direction: Direction::Above,
        limit: i64::try_from(boot).unwrap(),
        value: i64::try_from(sequence).unwrap(),
        taken_at: Instant::from_ms(sequence),
        wall_ms: 0,
        lasted: Duration::ZERO,
    }
}

pub(super) fn names(loss: &Loss) -> impl Iterator<Item = Name> + use<> {
    let (lane, boot) = (loss.lane, loss.boot.counter);
    (loss.first.number()..=loss.last.number()).map(move |sequence| (lane, boot, sequence))
}

/// The records of an item, each compared with what it must be.
pub(super) fn rows(item: &Item) -> Vec<Name> {
    let counter = item.boot.counter;
    assert_eq!(item.boot, boot(counter));
    let from = |first: Sequence| (first.number()..).map(move |sequence| (counter, sequence));
    match &item.content {
        Content::Records { first, rows, .. } => {
            let names = rows.iter().zip(from(*first)).map(|(row, (boot, sequence))| {
                assert_eq!(*row, sample(boot, sequence));
                (Lane::Records, boot, sequence)
            });
            names.collect()
        }
        Content::Alerts { first, rows } => {
            let names = rows.iter().zip(from(*first)).map(|(row, (boot, sequence))| {
                assert_eq!(*row, alert(boot, sequence));
                (Lane::Alerts, boot, sequence)
            });
            names.collect()
        }
        Content::Losses { .. } => Vec::new(),
    }
}

pub(super) fn losses(item: &Item) -> &[Loss] {
    match &item.content {
        Content::Losses { ranges, .. } => ranges,
        Content::Records { .. } | Content::Alerts { .. } => &[],
    }
}

/// What is known of the records, whatever the spool thinks.
#[derive(Clone, Debug, Default)]
pub(super) struct Book {
    /// Given to an append.
    pub(super) attempted: BTreeSet<Name>,
    /// Given to one that was `Ok`.
    pub(super) stored: BTreeSet<Name>,
    /// Confirmed to the spool.
    pub(super) delivered: BTreeSet<Name>,
    /// Declared by the owner with `Ok`.
    pub(super) declared: BTreeSet<Name>,
    /// Losses confirmed to the spool.
    pub(super) told: Vec<Loss>,
}

#[derive(Debug)]
pub(super) struct World {
    pub(super) disk: SimDisk,
    pub(super) spool: Spool<SimDisk>,
    pub(super) book: Book,
    pub(super) report: Report,
    options: Options,
    boot: u64,
    next: [u64; 2],
    out: Vec<(Token, Item)>,
    now_ms: u64,
}

impl World {
    pub(super) fn new(disk: SimDisk, options: Options) -> Self {
        let (spool, report) = Spool::open(disk.clone(), options, Instant::from_ms(0));
        let (book, out) = (Book::default(), Vec::new());
        Self { disk, spool, book, report, options, boot: 1, next: [1; 2], out, now_ms: 0 }
    }

    /// Another world that is as this one, with a process of its own that has just opened the spool.
    pub(super) fn fork(&self) -> Self {
        let mut world = Self::new(self.disk.fork(), self.options);
        world.book = self.book.clone();
        world.boot = self.boot + 1;
        world
    }

    /// The process is gone, and another opens the spool.
    pub(super) fn reopen(&mut self) {
        let (spool, report) = Spool::open(self.disk.clone(), self.options, Instant::from_ms(0));
        (self.spool, self.report) = (spool, report);
        self.boot += 1;
        self.next = [1; 2];
        self.out.clear();
    }

    fn now(&mut self) -> Instant {
        self.now_ms += 1;
        Instant::from_ms(self.now_ms)
    }

    pub(super) fn append(&mut self, lane: Lane, count: u64) -> Result<(), SpoolError> {
        let first = self.next[usize::from(lane == Lane::Alerts)];
        let (boot, end) = (self.boot, first + count);
        let names = (first..end).map(|sequence| (lane, boot, sequence));
        self.book.attempted.extend(names.clone());
        let sequence = Sequence::new(first).unwrap();
        let now = self.now();
        let result = match lane {
            Lane::Records => {
                let rows = (first..end).map(|sequence| sample(boot, sequence)).collect::<Vec<_>>();
                self.spool.append_records(super::world::boot(boot), sequence, &rows, now)
            }
            Lane::Alerts => {
                let rows = (first..end).map(|sequence| alert(boot, sequence)).collect::<Vec<_>>();
                self.spool.append_alerts(super::world::boot(boot), sequence, &rows, now)
            }
        };
        if result.is_ok() {
            self.book.stored.extend(names);
            self.next[usize::from(lane == Lane::Alerts)] = end;
        }
        result
    }

    /// Records that the ring has delivered itself.
    pub(super) fn skip(&mut self, lane: Lane, count: u64) {
        self.next[usize::from(lane == Lane::Alerts)] += count;
    }

    /// Takes the next item out.
    pub(super) fn take(&mut self) -> Option<Item> {
        let item = self.spool.next()?;
        for name in rows(&item) {
            assert!(self.book.attempted.contains(&name), "{name:?} was invented");
        }
        self.out.push((item.token, item.clone()));
        Some(item)
    }

    /// Confirms the first `count` that are out.
    pub(super) fn confirm(&mut self, count: usize) {
        let out = self.out.drain(..count.min(self.out.len())).collect::<Vec<_>>();
        let Some((token, _)) = out.last() else { return };
        self.spool.delivered(*token);
        for (_, item) in &out {
            self.book.delivered.extend(rows(item));
            self.book.told.extend(losses(item));
        }
    }

    pub(super) fn rewind(&mut self) {
        self.spool.rewind();
        self.out.clear();
    }

    pub(super) fn declare(&mut self, first: u64, last: u64) -> Result<(), SpoolError> {
        let loss = Loss {
            lane: Lane::Records,
            boot: boot(1000 + self.boot),
            first: Sequence::new(first).unwrap(),
            last: Sequence::new(last).unwrap(),
            reason: LossReason::Crash,
            never_sent: 0,
            unacknowledged: last - first + 1,
        };
        let result = self.spool.declare(&[loss]);
        self.book.attempted.extend(names(&loss));
        if result.is_ok() {
            self.book.declared.extend(names(&loss));
        }
        result
    }

    /// One step of a random life. Errors are for the caller's faults to decide.
    pub(super) fn step(&mut self, random: &mut SplitMix64) {
        match random.up_to(15) {
            0..=5 => drop(self.append(Lane::Records, 1 + random.up_to(129))),
            6 | 7 => drop(self.append(Lane::Alerts, 1 + random.up_to(70))),
            8 => self.skip(Lane::Records, 1 + random.up_to(3)),
            9..=11 => {
                for _ in 0..random.up_to(6) {
                    self.take();
                }
                self.confirm(usize::try_from(random.up_to(6)).unwrap());
            }
            12 => self.rewind(),
            13 => {
                let first = 1 + random.up_to(50);
                drop(self.declare(first, first + random.up_to(5)));
            }
            14 => {
                self.spool.close();
                self.reopen();
            }
            _ => self.reopen(),
        }
        let used = self.disk.bytes();
        assert!(used <= self.options.bytes_max, "{used} bytes");
    }

    /// Drains what is left. Answers the items, in order.
    pub(super) fn drain(&mut self) -> Vec<Item> {
        self.rewind();
        let mut items = Vec::new();
        while let Some(item) = self.take() {
            items.push(item);
            self.confirm(usize::MAX);
            assert!(items.len() < 100_000, "it has no end");
        }
        items
    }

    /// What waits comes, or was declared as lost; then nothing is left.
    pub(super) fn check_all_comes(&mut self) {
        let before = self.book.delivered.clone();
        let items = self.drain();
        let lost = self.book.told.iter().flat_map(names).collect::<BTreeSet<_>>();
        for name in &self.book.stored {
            let is_known = self.book.delivered.contains(name) || lost.contains(name);
            assert!(is_known, "{name:?} is missing without a word");
        }
        for name in &self.book.declared {
            assert!(lost.contains(name), "{name:?} was declared and is not told");
        }
        for name in &lost {
            assert!(self.book.attempted.contains(name), "the loss of {name:?} was invented");
        }
        self.check_order(&items, &before);
        let counts = self.spool.counts();
        assert_eq!((counts.records, counts.alerts, counts.losses), (0, 0, 0));
        assert_eq!(counts.oldest_ms, None);
        assert_eq!(self.spool.waiting().next(), None);
    }

    /// First occurrences in one lane and boot rise.
    fn check_order(&self, items: &[Item], before: &BTreeSet<Name>) {
        if self.options.order == Order::NewestFirst {
            return;
        }
        let mut seen = BTreeSet::new();
        for (lane, boot, sequence) in items.iter().flat_map(rows) {
            let later = seen.range((lane, boot, sequence + 1)..=(lane, boot, u64::MAX));
            let is_new = !seen.contains(&(lane, boot, sequence))
                && !before.contains(&(lane, boot, sequence));
            assert!(!is_new || later.count() == 0, "{lane:?} {boot} {sequence} is too late");
            seen.insert((lane, boot, sequence));
        }
    }

    /// Nothing that was stored came to be declared as damaged, unless it was delivered before.
    pub(super) fn check_nothing_damaged(&self) {
        let damaged = self.book.told.iter().filter(|loss| loss.reason == LossReason::SpoolDamaged);
        for name in damaged.flat_map(names) {
            let is_kept = self.book.stored.contains(&name);
            assert!(!is_kept || self.book.delivered.contains(&name), "{name:?} was damaged");
        }
    }
}
