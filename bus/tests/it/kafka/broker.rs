//! A real broker, with topics of its own for each test.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, SystemTime};

use bus::kafka::{KafkaBus, Options, TopicWarning};
use bus::{Bus, PublishError, Selection, Start, Topic};
use rdkafka::ClientConfig;
use rdkafka::admin::{AdminClient, AdminOptions, AlterConfig, ResourceSpecifier};
use rdkafka::client::DefaultClientContext;

use super::wanted;
use crate::contract::{Place, contract_suite};
use crate::support::{keys, metrics, noise, read, read_all};

/// Topics on a broker that nobody else uses.
pub(super) struct Broker {
    options: Options,
}

impl Broker {
    /// None when there is no broker for tests.
    pub(super) fn new() -> Option<Self> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let bootstrap_servers = wanted::kafka()?;
        let now = SystemTime::UNIX_EPOCH.elapsed().unwrap().as_nanos();
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let topic_prefix = format!("bus-test-{}-{now}-{count}.", std::process::id());
        let options = Options {
            bootstrap_servers,
            topic_prefix,
            partitions: 5,
            request_timeout: Duration::from_secs(60),
            publish_timeout: Duration::from_secs(120),
            ..Options::default()
        };
        Some(Self { options })
    }

    pub(super) fn options(&self) -> Options {
        self.options.clone()
    }

    pub(super) fn topic_name(&self, topic: Topic) -> String {
        format!("{}{topic}", self.options.topic_prefix)
    }

    pub(super) async fn bus(&self) -> Arc<KafkaBus> {
        let bus = KafkaBus::open(self.options()).unwrap();
        bus.ensure_topics().await.unwrap();
        bus
    }

    pub(super) fn admin(&self) -> AdminClient<DefaultClientContext> {
        let mut config = ClientConfig::new();
        config.set("bootstrap.servers", &self.options.bootstrap_servers).create().unwrap()
    }
}

impl Place for Broker {
    async fn open(&self) -> Arc<dyn Bus> {
        self.bus().await
    }

    async fn clear(self) {
        let names = Topic::ALL.map(|topic| self.topic_name(topic));
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        // A topic more on a broker for tests is no failure.
        self.admin().delete_topics(&names, &AdminOptions::new()).await.ok();
    }
}

contract_suite!(Broker::new());

/// Asks until the answer is yes.
async fn patiently(mut is_so: impl AsyncFnMut() -> bool) {
    for _ in 0..600 {
        if is_so().await {
            return;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    panic!("it never came to be");
}

#[tokio::test(flavor = "multi_thread")]
async fn absent_topics_are_created_once_and_described() {
    let Some(broker) = Broker::new() else { return };
    let bus = KafkaBus::open(broker.options()).unwrap();
    let first = bus.ensure_topics().await.unwrap();
    assert!(first.iter().all(|state| state.created && state.partitions == 5), "{first:?}");
    let again = bus.ensure_topics().await.unwrap();
    assert!(again.iter().all(|state| !state.created), "{again:?}");
    // What was just created is as it was asked for; only the replicas are the broker's own affair.
    let of_ours = |warning: &&TopicWarning| **warning != TopicWarning::MinInsyncReplicas;
    let warnings: Vec<_> = again.iter().flat_map(|state| state.warnings.iter()).collect();
    assert_eq!(warnings.into_iter().filter(of_ours).count(), 0, "{again:?}");

    let mut other = broker.options();
    other.partitions = 7;
    other.commands.age = Duration::from_secs(3600);
    other.record_bytes_max = 4 * 1024 * 1024;
    let states = KafkaBus::open(other).unwrap().ensure_topics().await.unwrap();
    let commands = states.iter().find(|state| state.topic == Topic::Commands).unwrap();
    let has = |wanted: fn(&TopicWarning) -> bool| commands.warnings.iter().any(wanted);
    assert!(has(|w| matches!(w, TopicWarning::Partitions { found: 5, wanted: 7 })), "{commands:?}");
    assert!(has(|w| matches!(w, TopicWarning::Setting { name: "retention.ms", .. })));
    assert!(has(|w| matches!(w, TopicWarning::MessageBytes { .. })));
    broker.clear().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn publishing_creates_the_topics_with_our_partitions() {
    let Some(broker) = Broker::new() else { return };
    let bus = KafkaBus::open(broker.options()).unwrap();
    bus.publish(vec![metrics("a", 1)]).await.unwrap();
    assert_eq!(bus.watermarks(Topic::Commands).await.unwrap().len(), 5);
    assert_eq!(read_all(&*bus).await.sequences(), [1]);
    broker.clear().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn history_is_in_the_order_of_time_and_found_by_it() {
    let Some(broker) = Broker::new() else { return };
    let bus = broker.bus().await;
    let names: Vec<String> = (0..20).map(|n| format!("agent-{n}")).collect();
    for round in 0..10 {
        let records = names.iter().map(|name| metrics(name, round)).collect();
        bus.publish(records).await.unwrap();
    }
    let all = read_all(&*bus).await.entries;
    assert_eq!(all.len(), 200);
    let times: Vec<i64> = all.iter().map(|entry| entry.stored_ms).collect();
    assert!(times.is_sorted());

    let since = times[times.len() / 2];
    let found = read(&*bus, Start::Time(since), Selection::All).await.entries;
    let expected = all.iter().filter(|entry| since <= entry.stored_ms).count();
    assert_eq!(found.len(), expected);

    let last = read(&*bus, Start::Last(37), Selection::All).await.entries;
    assert_eq!(last.len(), 37);
    let oldest = last.iter().map(|entry| entry.stored_ms).min().unwrap();
    assert!(all.iter().filter(|entry| oldest < entry.stored_ms).count() < 37, "the newest");
    broker.clear().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_retention_removes_under_a_reader_is_said() {
    let Some(broker) = Broker::new() else { return };
    let bus = broker.bus().await;
    // More than a reader holds ready, so that it meets the gap.
    for first in (0..4000).step_by(100) {
        let records = (first..first + 100).map(|n| noise("a", n, 4000)).collect();
        bus.publish(records).await.unwrap();
    }
    let start = Start::Oldest;
    let mut reader = bus.subscribe(Topic::MonitoringData, start, keys(&["a"])).await.unwrap();
    let bus::Delivery::Entries(first) = crate::support::next(&mut *reader).await else {
        panic!("entries come first");
    };
    let partition = first[0].partition;

    let mut gone = rdkafka::TopicPartitionList::new();
    let name = broker.topic_name(Topic::MonitoringData);
    let offset = rdkafka::Offset::Offset(3900);
    gone.add_partition_offset(&name, partition.0.try_into().unwrap(), offset).unwrap();
    broker.admin().delete_records(&gone, &AdminOptions::new()).await.unwrap();

    let rest = crate::support::history(&mut *reader).await;
    let [(skipped_first, 3899)] = rest.skipped[..] else {
        panic!("one gap up to what was kept: {:?}", rest.skipped);
    };
    let read =
        first.len() as u64 + rest.entries.iter().filter(|e| e.offset.0 < 3899).count() as u64;
    assert_eq!(skipped_first, read, "no hole that is not said");
    assert_eq!(rest.entries.last().unwrap().offset.0, 3999);

    let again = self::read(&*bus, crate::support::after(&first), keys(&["a"])).await;
    assert_eq!(again.skipped, [(first.len() as u64, 3899)]);
    assert_eq!(again.entries.len(), 100);
    broker.clear().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_batch_that_is_too_large_is_sent_in_pieces() {
    let Some(broker) = Broker::new() else { return };
    let bus = broker.bus().await;
    let name = broker.topic_name(Topic::MonitoringData);
    let small = AlterConfig::new(ResourceSpecifier::Topic(&name)).set("max.message.bytes", "10000");
    let altered = broker.admin().alter_configs([&small], &AdminOptions::new()).await.unwrap();
    altered.into_iter().for_each(|outcome| drop(outcome.unwrap()));
    // A broker learns of it from the controller, in its own time: one part of it first, then another.
    let small = |w: &TopicWarning| matches!(w, TopicWarning::MessageBytes { found: 10_000, .. });
    patiently(async || {
        let states = bus.ensure_topics().await.unwrap();
        states.iter().any(|state| state.name == name && state.warnings.iter().any(small))
    })
    .await;
    patiently(async || {
        let published = bus.publish(vec![noise("probe", 0, 20_000)]).await;
        matches!(published, Err(PublishError::TooLarge { .. }))
    })
    .await;

    // Together far beyond it, each one below.
    bus.publish((0..100).map(|n| noise("a", n, 2000)).collect()).await.unwrap();
    let published = bus.publish(vec![noise("a", 100, 20_000)]).await;
    assert!(matches!(published, Err(PublishError::TooLarge { .. })), "{published:?}");
    bus.publish(vec![metrics("a", 101)]).await.unwrap();
    let sequences = read(&*bus, Start::Oldest, keys(&["a"])).await.sequences();
    let mut seen = BTreeSet::new();
    let first: Vec<u64> = sequences.into_iter().filter(|sequence| seen.insert(*sequence)).collect();
    assert_eq!(first, (0..100).chain([101]).collect::<Vec<_>>());
    broker.clear().await;
}
