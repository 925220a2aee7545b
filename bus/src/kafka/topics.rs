//! Creates the topics where they are absent, and says what is unlike what was asked for.

use std::sync::Arc;
use std::time::{Duration, Instant};

use rdkafka::admin::{
    AdminClient, AdminOptions, ConfigResource, NewTopic, ResourceSpecifier, TopicReplication,
};
use rdkafka::config::FromClientConfigAndContext;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};

use super::client::{Log, discard};
use super::lookup::{Lookup, LookupError, TopicShape};
use super::options::Options;
use crate::topic::Topic;

/// What became of one topic.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TopicState {
    /// Which one.
    pub topic: Topic,
    /// What it is called on the brokers.
    pub name: String,
    /// Whether it was created just now.
    pub created: bool,
    /// How many it has.
    pub partitions: u32,
    /// The least number of replicas that a partition has.
    pub replicas: u32,
    /// What the operator may want to look at.
    pub warnings: Vec<TopicWarning>,
}

/// Something about a topic that works, and may not be what is wanted.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TopicWarning {
    /// It was created with another number, or some were added later. Readers of single agents read all of it.
    #[error("it has {found} partitions, not {wanted}")]
    Partitions {
        /// What it has.
        found: u32,
        /// What [`Options::partitions`] says.
        wanted: u32,
    },
    /// An acknowledged record may be on a single broker, and lost with it.
    #[error("min.insync.replicas is 1: a record counts as durable when one broker has it")]
    MinInsyncReplicas,
    /// A setting is unlike what the topic would be created with. It is left as it is.
    #[error("{name} is {found}, not {wanted}")]
    Setting {
        /// Its name on the brokers.
        name: &'static str,
        /// Its value.
        found: String,
        /// What it would be.
        wanted: String,
    },
    /// It keeps the newest record of each key only, so that history is lost.
    #[error("cleanup.policy is {found}: records are removed that should be history")]
    Compacted {
        /// Its value.
        found: String,
    },
    /// Records that we publish may be refused.
    #[error("max.message.bytes is {found}, less than the {wanted} that a record may have")]
    MessageBytes {
        /// Its value.
        found: u64,
        /// What [`Options::record_bytes_max`] says.
        wanted: u64,
    },
    /// The brokers did not say how it is set, for want of rights perhaps.
    #[error("its settings cannot be read: {reason}")]
    Unknown {
        /// Why.
        reason: String,
    },
}

/// Why the topics cannot be made sure of.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TopicsError {
    /// The bus was closed.
    #[error("the bus is closed")]
    Closed,
    /// No broker can be reached, or none answers in time.
    #[error("the brokers do not answer")]
    Unavailable(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// The brokers refuse to create a topic.
    #[error("topic {name} cannot be created: {reason}")]
    Refused {
        /// Which one.
        name: String,
        /// What they say.
        reason: RDKafkaErrorCode,
    },
    /// A topic was created and is still not there.
    #[error("topic {name} was created and is not there after {seconds} s")]
    NotThere {
        /// Which one.
        name: String,
        /// How long it was waited for.
        seconds: u64,
    },
}

impl From<LookupError> for TopicsError {
    fn from(error: LookupError) -> Self {
        Self::Unavailable(Box::new(error))
    }
}

impl From<KafkaError> for TopicsError {
    fn from(error: KafkaError) -> Self {
        Self::Unavailable(Box::new(error))
    }
}

/// A topic and what it is like; with no shape when it is absent.
type Found = (Topic, String, Option<TopicShape>);

/// What is there. Blocks for at most one request for each topic.
pub(super) fn look(lookup: &Lookup, options: &Options) -> Result<Vec<Found>, TopicsError> {
    let look = |topic| {
        let name = options.topic_name(topic);
        let shape = lookup.shape(&name)?;
        Ok((topic, name, shape))
    };
    Topic::ALL.into_iter().map(look).collect()
}

/// Creates the topics that are absent. Answers which.
pub(super) async fn create_absent(
    lookup: &Arc<Lookup>,
    options: &Arc<Options>,
) -> Result<Vec<Topic>, TopicsError> {
    let found = look_aside(lookup, options).await?;
    let absent: Vec<&Found> = found.iter().filter(|(_, _, shape)| shape.is_none()).collect();
    if absent.is_empty() {
        return Ok(Vec::new());
    }
    let admin = Admin::new(options)?;
    let settings: Vec<_> = absent.iter().map(|(topic, _, _)| settings(options, *topic)).collect();
    let topics: Vec<NewTopic<'_>> = absent
        .iter()
        .zip(&settings)
        .map(|((_, name, _), settings)| {
            let partitions = i32::try_from(options.partitions).unwrap_or(i32::MAX);
            let replication = TopicReplication::Fixed(options.replication.into());
            let topic = NewTopic::new(name, partitions, replication);
            settings.iter().fold(topic, |topic, (key, value)| topic.set(key, value))
        })
        .collect();
    for outcome in admin.client().create_topics(&topics, &admin.options).await? {
        match outcome {
            // Another server was faster.
            Ok(_) | Err((_, RDKafkaErrorCode::TopicAlreadyExists)) => {}
            Err((name, reason)) => return Err(TopicsError::Refused { name, reason }),
        }
    }
    wait_for_all(lookup, options).await?;
    Ok(absent.iter().map(|(topic, _, _)| *topic).collect())
}

/// What the topics are like now.
pub(super) async fn report(
    lookup: &Arc<Lookup>,
    options: &Arc<Options>,
    created: &[Topic],
) -> Result<Vec<TopicState>, TopicsError> {
    let found = look_aside(lookup, options).await?;
    let admin = Admin::new(options)?;
    let names = found.iter().map(|(_, name, _)| ResourceSpecifier::Topic(name));
    let names: Vec<_> = names.collect();
    let described = admin.client().describe_configs(&names, &admin.options).await;
    let resources = match &described {
        Ok(resources) => {
            resources.iter().map(|r| r.as_ref().map_err(ToString::to_string)).collect()
        }
        Err(error) => vec![Err(error.to_string()); found.len()],
    };
    let states = found.into_iter().zip(resources).map(|((topic, name, shape), resource)| {
        let Some(TopicShape { partitions, replicas }) = shape else {
            return Err(LookupError::NoTopic { topic: name }.into());
        };
        let wanted = options.partitions;
        let differs = TopicWarning::Partitions { found: partitions, wanted };
        let mut warnings: Vec<_> = (partitions != wanted).then_some(differs).into_iter().collect();
        match resource {
            Ok(resource) => warnings.extend(settings_warnings(options, topic, resource)),
            Err(reason) => warnings.push(TopicWarning::Unknown { reason }),
        }
        let created = created.contains(&topic);
        Ok(TopicState { topic, name, created, partitions, replicas, warnings })
    });
    states.collect()
}

async fn look_aside(
    lookup: &Arc<Lookup>,
    options: &Arc<Options>,
) -> Result<Vec<Found>, TopicsError> {
    let (lookup, options) = (Arc::clone(lookup), Arc::clone(options));
    let found = super::aside(move || look(&lookup, &options));
    found.await.map_err(|error| TopicsError::Unavailable(Box::new(error)))?
}

/// Brokers learn of a new topic one after the other.
async fn wait_for_all(lookup: &Arc<Lookup>, options: &Arc<Options>) -> Result<(), TopicsError> {
    const PAUSE: Duration = Duration::from_millis(100);
    let begun_at = Instant::now();
    loop {
        let found = look_aside(lookup, options).await?;
        let Some((_, name, _)) = found.into_iter().find(|(_, _, shape)| shape.is_none()) else {
            return Ok(());
        };
        if options.request_timeout < begun_at.elapsed() {
            let seconds = options.request_timeout.as_secs();
            return Err(TopicsError::NotThere { name, seconds });
        }
        tokio::time::sleep(PAUSE).await;
    }
}

/// What a topic is created with. Kafka counts bytes for each partition, and removes whole segments.
fn settings(options: &Options, topic: Topic) -> [(&'static str, String); 5] {
    /// A segment that is smaller than a few batches would make many files.
    const SEGMENT_BYTES_MIN: u64 = 4 * 1024 * 1024;
    const SEGMENT_BYTES_MAX: u64 = 1024 * 1024 * 1024;
    let retention = options.retention(topic);
    let partition_bytes = retention.bytes / u64::from(options.partitions.max(1));
    let segment_bytes = (partition_bytes / 4).clamp(SEGMENT_BYTES_MIN, SEGMENT_BYTES_MAX);
    let age_ms = i64::try_from(retention.age.as_millis()).unwrap_or(i64::MAX);
    [
        ("cleanup.policy", "delete".to_owned()),
        // The time of a record is when the brokers took it: a producer whose clock is wrong neither hides its records from
        // readers by time nor lives longer than retention allows.
        ("message.timestamp.type", "LogAppendTime".to_owned()),
        ("retention.ms", age_ms.to_string()),
        ("retention.bytes", partition_bytes.to_string()),
        ("segment.bytes", segment_bytes.to_string()),
    ]
}

fn settings_warnings(
    options: &Options,
    topic: Topic,
    resource: &ConfigResource,
) -> Vec<TopicWarning> {
    let value = |name: &str| resource.get(name).and_then(|entry| entry.value.as_deref());
    let mut warnings = Vec::new();
    if value("min.insync.replicas") == Some("1") {
        warnings.push(TopicWarning::MinInsyncReplicas);
    }
    if let Some(found) = value("cleanup.policy")
        && found.contains("compact")
    {
        warnings.push(TopicWarning::Compacted { found: found.to_owned() });
    }
    let found = value("max.message.bytes").and_then(|bytes| bytes.parse().ok());
    let wanted = u64::try_from(options.record_bytes_max).unwrap_or(u64::MAX);
    if let Some(found) = found
        && found < wanted
    {
        warnings.push(TopicWarning::MessageBytes { found, wanted });
    }
    for (name, wanted) in settings(options, topic) {
        let is_retention = name.starts_with("retention.");
        if let Some(found) = value(name)
            && is_retention
            && found != wanted
        {
            warnings.push(TopicWarning::Setting { name, found: found.to_owned(), wanted });
        }
    }
    warnings
}

/// A client for such requests, ended on another thread.
struct Admin {
    client: Option<AdminClient<Log>>,
    options: AdminOptions,
}

impl Admin {
    fn new(options: &Options) -> Result<Self, KafkaError> {
        let client = AdminClient::from_config_and_context(&options.client(), Log::default())?;
        let timeout = options.request_timeout;
        let options =
            AdminOptions::new().request_timeout(Some(timeout)).operation_timeout(Some(timeout));
        Ok(Self { client: Some(client), options })
    }

    fn client(&self) -> &AdminClient<Log> {
        self.client.as_ref().expect("only the drop takes it")
    }
}

impl Drop for Admin {
    fn drop(&mut self) {
        let client = self.client.take();
        discard(move || drop(client));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::embedded::Retention;

    #[test]
    fn retention_is_shared_out_to_the_partitions() {
        let age = Duration::from_secs(60);
        let retention = Retention { bytes: 120 * 1024 * 1024, age };
        let options = Options { monitoring_data: retention, partitions: 12, ..Options::default() };
        let settings = settings(&options, Topic::MonitoringData);
        let value = |name| settings.iter().find(|(n, _)| *n == name).unwrap().1.as_str();
        assert_eq!(value("retention.ms"), "60000");
        assert_eq!(value("retention.bytes"), "10485760");
        assert_eq!(value("segment.bytes"), "4194304");
    }
}
