//! What the tests share: records to publish, and reading until there is no more history.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use agent_core::id::AgentId;
use bus::embedded::{Clock, Database, Options};
use bus::{
    Bus, Cursor, Delivery, Entry, Offset, Partition, Payload, Record, Selection, Start,
    Subscription, Topic, Watermarks,
};
use proto::{Command, CommandResponse, MetricsRecord, StatusRecord};

/// Longer than anything here takes, and short enough to fail.
const PATIENCE: Duration = Duration::from_secs(60);

pub(crate) fn key(name: &str) -> AgentId {
    name.parse().unwrap()
}

pub(crate) fn keys(names: &[&str]) -> Selection {
    Selection::Keys(names.iter().map(|name| key(name)).collect())
}

/// A record of monitoring-data that carries `sequence`.
pub(crate) fn metrics(name: &str, sequence: u64) -> Record {
    let (present, values) = (0b111, vec![1, 2, 3]);
    let record = proto::Record { sequence, present, values, ..proto::Record::default() };
    let metrics = MetricsRecord {
        agent_id: name.to_owned(),
        record: Some(record),
        ..MetricsRecord::default()
    };
    Record { key: key(name), payload: Payload::Metrics(metrics) }
}

/// A record of monitoring-data whose payload has at least `bytes`.
pub(crate) fn large(name: &str, sequence: u64, bytes: usize) -> Record {
    let Record { key, mut payload } = metrics(name, sequence);
    if let Payload::Metrics(metrics) = &mut payload {
        metrics.metadata.insert("fill".to_owned(), "x".repeat(bytes));
    }
    Record { key, payload }
}

/// As `large`, of text that does not compress well.
#[cfg(feature = "kafka")]
pub(crate) fn noise(name: &str, sequence: u64, bytes: usize) -> Record {
    let Record { key, mut payload } = metrics(name, sequence);
    if let Payload::Metrics(metrics) = &mut payload {
        let mut state = sequence | 1;
        let fill = (0..bytes).map(|_| {
            // Knuth's generator; its upper bits are random enough for a compressor.
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            char::from(b' ' + u8::try_from(state >> 58).unwrap())
        });
        metrics.metadata.insert("fill".to_owned(), fill.collect());
    }
    Record { key, payload }
}

/// A record for `topic`.
pub(crate) fn any(topic: Topic, name: &str) -> Record {
    let agent_id = name.to_owned();
    let payload = match topic {
        Topic::MonitoringData => return metrics(name, 1),
        Topic::Commands => Payload::Command(Command { agent_id, ..Command::default() }),
        Topic::CommandResponses => {
            Payload::Response(Box::new(CommandResponse { agent_id, ..CommandResponse::default() }))
        }
        Topic::AgentStatus => {
            Payload::Status(Box::new(StatusRecord { agent_id, ..StatusRecord::default() }))
        }
    };
    Record { key: key(name), payload }
}

pub(crate) fn sequence(entry: &Entry) -> u64 {
    match &entry.payload {
        Payload::Metrics(metrics) => metrics.record.as_ref().unwrap().sequence,
        other => panic!("{other:?} is no metrics record"),
    }
}

pub(crate) async fn next(reader: &mut dyn Subscription) -> Delivery {
    tokio::time::timeout(PATIENCE, reader.next()).await.unwrap().unwrap()
}

/// What came before `CaughtUp`.
#[derive(Debug, Default)]
pub(crate) struct History {
    pub(crate) entries: Vec<Entry>,
    pub(crate) skipped: Vec<(u64, u64)>,
}

impl History {
    pub(crate) fn sequences(&self) -> Vec<u64> {
        self.entries.iter().map(sequence).collect()
    }
}

pub(crate) async fn history(reader: &mut dyn Subscription) -> History {
    let mut history = History::default();
    loop {
        match next(reader).await {
            Delivery::Entries(entries) => {
                assert!(!entries.is_empty());
                history.entries.extend(entries);
            }
            Delivery::Skipped { partition: _, first, last } => {
                history.skipped.push((first.0, last.0))
            }
            Delivery::CaughtUp => break,
        }
    }
    let mut read = Cursor::default();
    for entry in &history.entries {
        assert!(read.next_in(entry.partition).is_none_or(|next| next <= entry.offset));
        read.advance(entry);
    }
    history
}

/// At this offset of the only partition of an embedded topic.
pub(crate) fn at(offset: u64) -> Start {
    Start::At(Cursor::from_iter([(Partition(0), Offset(offset))]))
}

/// Where a reader of `entries` goes on.
pub(crate) fn after(entries: &[Entry]) -> Start {
    let mut cursor = Cursor::default();
    entries.iter().for_each(|entry| cursor.advance(entry));
    Start::At(cursor)
}

/// The history of monitoring-data from `start`.
pub(crate) async fn read(bus: &dyn Bus, start: Start, selection: Selection) -> History {
    let mut reader = bus.subscribe(Topic::MonitoringData, start, selection).await.unwrap();
    history(&mut *reader).await
}

pub(crate) async fn read_all(bus: &dyn Bus) -> History {
    read(bus, Start::Oldest, Selection::All).await
}

/// The extent of a topic of one partition.
pub(crate) async fn watermarks(bus: &dyn Bus, topic: Topic) -> Watermarks {
    let [marks] = bus.watermarks(topic).await.unwrap()[..] else {
        panic!("one partition");
    };
    marks
}

/// The next `count` sequences; nothing else may come.
pub(crate) async fn live(reader: &mut dyn Subscription, count: usize) -> Vec<u64> {
    let mut sequences = Vec::new();
    while sequences.len() < count {
        match next(reader).await {
            Delivery::Entries(entries) => sequences.extend(entries.iter().map(sequence)),
            other => panic!("{other:?} instead of entries"),
        }
    }
    sequences
}

/// A clock that a test turns; time runs as it is turned.
#[derive(Clone, Debug, Default)]
pub(crate) struct TestClock(Arc<AtomicI64>);

impl TestClock {
    pub(crate) fn at(unix_ms: i64) -> Self {
        Self(Arc::new(AtomicI64::new(unix_ms)))
    }

    pub(crate) fn set(&self, unix_ms: i64) {
        self.0.store(unix_ms, Ordering::SeqCst);
    }

    pub(crate) fn clock(&self) -> Clock {
        let (now, running) = (Arc::clone(&self.0), Arc::clone(&self.0));
        Clock::new(
            move || now.load(Ordering::SeqCst),
            move || running.load(Ordering::SeqCst).max(0).unsigned_abs(),
        )
    }

    /// A clock that steps where this one is turned to, while time itself stands still.
    pub(crate) fn stepping(&self) -> Clock {
        let now = Arc::clone(&self.0);
        Clock::new(move || now.load(Ordering::SeqCst), || 0)
    }
}

pub(crate) fn open(dir: &Path, options: Options) -> Database {
    Database::open(dir, options).unwrap()
}
