//! Kafka as the bus: topics are there and brokers in reach, or it is told.

use std::collections::BTreeMap;
use std::sync::{Arc, Weak};
use std::time::Duration;

use anyhow::Context as _;
use bus::kafka::{KafkaBus, OpenError, Options, TopicState};
use bus::{Bus, BusError, Topic};
use tokio::sync::oneshot;
use tracing::{info, warn};

use crate::cli::Args;
use crate::limits::HISTORY_WAIT;
use crate::refusal::Refusal;
use crate::troubles::{Trouble, Troubles};

/// How often the brokers are asked whether they are there. librdkafka's own word for it is not to be relied on.
const CHECK_INTERVAL: Duration = Duration::from_secs(10);

/// How soon topics that could not be created are tried again.
const RETRY: Duration = Duration::from_secs(2);

/// Of a topic that is created, unless told otherwise.
const PARTITIONS: u32 = 12;

/// Opens the bus. Its topics are created as soon as brokers answer: now, or in the background.
pub(super) async fn open(
    args: &Args,
    brokers: &str,
    troubles: &Arc<Troubles>,
) -> anyhow::Result<Arc<dyn Bus>> {
    let mut options = Options {
        bootstrap_servers: brokers.to_owned(),
        client_id: "picket-server".to_owned(),
        partitions: args.kafka_partitions.unwrap_or(PARTITIONS),
        ..Options::default()
    };
    if let Some(replicas) = args.kafka_replication {
        options.replication = i16::try_from(replicas)?;
    }
    if let Some(bytes) = args.retention_bytes {
        options.monitoring_data.bytes = bytes;
    }
    if let Some(age) = args.retention_age {
        options.monitoring_data.age = age;
    }
    if let Some(path) = &args.kafka_config {
        options.properties = bus::kafka::read_properties(path).with_context(|| {
            Refusal::Unusable("cannot use the file of --kafka-config".to_owned())
        })?;
    }
    let bus = KafkaBus::open(options).map_err(|error| {
        let is_of_the_system = matches!(error, OpenError::Client(_));
        let error = anyhow::Error::new(error);
        if is_of_the_system {
            return error;
        }
        error.context(Refusal::Unusable("cannot use Kafka with these settings".to_owned()))
    })?;
    let (ready, is_ready) = oneshot::channel();
    let watching = watch(Arc::downgrade(&bus), brokers.to_owned(), Arc::clone(troubles), ready);
    tokio::spawn(watching);
    // Who reads topics that are not there yet would only complain.
    tokio::time::timeout(HISTORY_WAIT, is_ready).await.ok();
    Ok(bus)
}

/// Creates topics, then sees whether the brokers answer, for as long as somebody holds the bus.
async fn watch(
    bus: Weak<KafkaBus>,
    brokers: String,
    troubles: Arc<Troubles>,
    ready: oneshot::Sender<()>,
) {
    while let Some(bus) = bus.upgrade() {
        match bus.ensure_topics().await {
            Ok(topics) => {
                tell(&topics);
                break;
            }
            Err(error) => {
                let text = format!("the topics on Kafka at {brokers} are not there: {error}");
                troubles.raise(Trouble::Bus, &text);
            }
        }
        drop(bus);
        tokio::time::sleep(RETRY).await;
    }
    // Nobody may wait for it any more.
    ready.send(()).ok();
    while let Some(bus) = bus.upgrade() {
        match bus.watermarks(Topic::Commands).await {
            Ok(_) => troubles.clear(Trouble::Bus),
            Err(BusError::Closed) => return,
            Err(error) => {
                let text = format!("Kafka at {brokers} cannot be reached: {error}");
                troubles.raise(Trouble::Bus, &text);
            }
        }
        drop(bus);
        tokio::time::sleep(CHECK_INTERVAL).await;
    }
}

/// Logs what was created, and each warning once with the topics it is about.
fn tell(topics: &[TopicState]) {
    let mut warnings: BTreeMap<String, Vec<&str>> = BTreeMap::new();
    for topic in topics {
        if topic.created {
            info!(topic = topic.name, partitions = topic.partitions, "topic created");
        }
        for warning in &topic.warnings {
            warnings.entry(warning.to_string()).or_default().push(&topic.name);
        }
    }
    for (warning, topics) in warnings {
        warn!(topics = topics.join(", "), "{warning}");
    }
}
