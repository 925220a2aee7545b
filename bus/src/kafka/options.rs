//! What can be set on the Kafka bus, and what librdkafka is told.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use rdkafka::config::{ClientConfig, RDKafkaLogLevel};
use rdkafka::error::KafkaError;

use crate::embedded::Retention;
use crate::topic::Topic;

const KIB: usize = 1024;
const MIB: u64 = 1024 * 1024;
const DAY: Duration = Duration::from_secs(86_400);

/// How a Kafka bus behaves.
#[derive(Clone)]
pub struct Options {
    /// Brokers to begin with, `HOST:PORT` with commas between. Default: `localhost:9092`.
    pub bootstrap_servers: String,
    /// What this client is called in the brokers' logs and quotas. Default: `picket`.
    pub client_id: String,
    /// Stands before the name of each topic, so that several fleets, or tests, share a cluster. Default: nothing.
    pub topic_prefix: String,

    /// Partitions of a topic that is created. Default: 12.
    ///
    /// Also says how topics were created: a reader that selects keys reads only their partitions where a topic
    /// has this number, and all where it has another. So leave it when partitions are added later.
    pub partitions: u32,
    /// Replicas of a topic that is created; -1: as the broker is set. Default: -1.
    pub replication: i16,
    /// What is kept of `monitoring-data`. Default: 1 GiB, 7 days.
    ///
    /// Kafka removes whole segments by partition, so these are what is set when a topic is created, divided by its
    /// partitions; a topic that exists is left as it is.
    pub monitoring_data: Retention,
    /// What is kept of `commands`. Default: 64 MiB, 30 days.
    pub commands: Retention,
    /// What is kept of `command-responses`. Default: 64 MiB, 30 days.
    pub command_responses: Retention,
    /// What is kept of `agent-status`. Default: 64 MiB, 30 days.
    pub agent_status: Retention,

    /// Bytes of records that wait for their acknowledgement. When they are reached, `publish` waits. Default: 8 MiB;
    /// at most 16 MiB count, half of librdkafka's own queue, which is therefore never full.
    pub queue_bytes: u32,
    /// Largest JSON form of a record, published or read. Default: 512 KiB. Brokers take 1 MiB unless told otherwise.
    pub record_bytes_max: usize,
    /// How long `publish` waits before it answers [`Unavailable`](crate::PublishError::Unavailable). Default: 30 s.
    pub publish_timeout: Duration,
    /// How long a question to the brokers may take: extents, topics. Default: 10 s.
    pub request_timeout: Duration,

    /// Settings for librdkafka as they are, such as `security.protocol`, `sasl.*` and `ssl.*`. TLS and SCRAM need
    /// the cargo feature `kafka-ssl`. Settings that the promises of the bus rest on are refused.
    pub properties: BTreeMap<String, String>,
}

impl Default for Options {
    fn default() -> Self {
        let small = Retention { bytes: 64 * MIB, age: 30 * DAY };
        Self {
            bootstrap_servers: "localhost:9092".to_owned(),
            client_id: "picket".to_owned(),
            topic_prefix: String::new(),
            partitions: 12,
            replication: -1,
            monitoring_data: Retention { bytes: 1024 * MIB, age: 7 * DAY },
            commands: small,
            command_responses: small,
            agent_status: small,
            queue_bytes: 8 * 1024 * 1024,
            record_bytes_max: 512 * KIB,
            publish_timeout: Duration::from_secs(30),
            request_timeout: Duration::from_secs(10),
            properties: BTreeMap::new(),
        }
    }
}

impl fmt::Debug for Options {
    /// Without the values of properties, among which are passwords.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Options")
            .field("bootstrap_servers", &self.bootstrap_servers)
            .field("client_id", &self.client_id)
            .field("topic_prefix", &self.topic_prefix)
            .field("properties", &self.properties.keys())
            .finish_non_exhaustive()
    }
}

/// Why a Kafka bus cannot be opened. That no broker answers is no reason.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OpenError {
    /// A property that the bus sets itself.
    #[error("property {name} cannot be set: the bus relies on its own value")]
    Fixed {
        /// Which one.
        name: String,
    },
    /// librdkafka does not take a property. It knows `ssl.*` and SCRAM only with the cargo feature `kafka-ssl`.
    #[error("property {name} is refused: {reason}")]
    Property {
        /// Which one. Its value may be a password, and is not told.
        name: String,
        /// What librdkafka says.
        reason: String,
    },
    /// The topic prefix has a character that no topic may have, or is too long.
    #[error("topic prefix {prefix:?} is not of at most 200 of A-Z a-z 0-9 . _ -")]
    Prefix {
        /// What was given.
        prefix: String,
    },
    /// librdkafka cannot start.
    #[error("the Kafka client cannot be started")]
    Client(#[source] KafkaError),
}

/// What every client has.
const COMMON: [(&str, &str); 4] = [
    ("socket.keepalive.enable", "true"),
    // A connection that is dead but does not say so is given up after this.
    ("socket.timeout.ms", "15000"),
    ("reconnect.backoff.ms", "100"),
    ("reconnect.backoff.max.ms", "2000"),
];

/// `message.timeout.ms` = 0: a message never times out while later ones go through, which would let them overtake.
/// `enable.gapless.guarantee`: after a message that a broker refused, none may follow; the producer ends instead.
const PRODUCER: [(&str, &str); 12] = [
    ("enable.idempotence", "true"),
    ("enable.gapless.guarantee", "true"),
    ("acks", "all"),
    ("message.timeout.ms", "0"),
    ("request.timeout.ms", "10000"),
    ("partitioner", "murmur2_random"),
    ("queue.buffering.max.kbytes", "32768"),
    ("queue.buffering.max.messages", "100000"),
    // Below the 1 MiB that brokers take; also the largest batch.
    ("message.max.bytes", "1000000"),
    // Long enough for the records of one publish to travel together, and hardly felt by one that is alone.
    ("linger.ms", "2"),
    // JSON of one form over and over: zstd makes it smaller than lz4, and its lowest level is fast enough.
    ("compression.type", "zstd"),
    ("compression.level", "1"),
];

/// How many messages may be in a batch. Set for [`Batching::Single`].
const BATCH: &str = "batch.num.messages";

/// Which messages travel together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Batching {
    /// Those of one partition that come within a short time.
    Shared,
    /// None. So what becomes of a batch is about one message.
    Single,
}

/// A reader is no member of a group, in which it would share records with others: it assigns partitions to
/// itself. The name of a group is there because librdkafka wants one, and nothing is ever committed for it.
const READER: [(&str, &str); 11] = [
    ("group.id", "picket-reader"),
    ("enable.auto.commit", "false"),
    ("enable.auto.offset.store", "false"),
    ("enable.partition.eof", "true"),
    // An offset that is gone is told to us, and by us to the subscriber.
    ("auto.offset.reset", "error"),
    // Nobody's unfinished transaction holds up readers.
    ("isolation.level", "read_uncommitted"),
    ("allow.auto.create.topics", "false"),
    ("check.crcs", "true"),
    // Only a partition whose queue is full pauses, and it must go on soon after.
    ("fetch.queue.backoff.ms", "10"),
    ("fetch.error.backoff.ms", "200"),
    ("fetch.max.bytes", "4194304"),
];

/// Records that librdkafka holds ready for one reader, over all partitions.
const READER_QUEUE_BYTES: usize = 4 * 1024 * KIB;

/// What one fetch may bring for all partitions together. It comes on top of the queue, and it counts as it travels:
/// our JSON is some five to ten times as large when it is decompressed.
const READER_FETCH_BYTES: usize = 1024 * KIB;

/// Settings of a reader that depend on the number of partitions.
const READER_QUEUE: &str = "queued.max.messages.kbytes";
const READER_FETCH: &str = "fetch.message.max.bytes";

/// What would break a promise besides what we set: other brokers, another identity, followers that lag.
const REFUSED: [&str; 8] = [
    "bootstrap.servers",
    "metadata.broker.list",
    "client.id",
    "client.rack",
    "transactional.id",
    "group.instance.id",
    "test.mock.num.brokers",
    "delivery.timeout.ms",
];

impl Options {
    pub(super) fn retention(&self, topic: Topic) -> Retention {
        match topic {
            Topic::MonitoringData => self.monitoring_data,
            Topic::Commands => self.commands,
            Topic::CommandResponses => self.command_responses,
            Topic::AgentStatus => self.agent_status,
        }
    }

    pub(super) fn topic_name(&self, topic: Topic) -> String {
        format!("{}{topic}", self.topic_prefix)
    }

    /// Bytes of records in flight, below what librdkafka's queue holds.
    pub(super) fn in_flight_bytes(&self) -> u32 {
        self.queue_bytes.clamp(1024 * 1024, 16 * 1024 * 1024)
    }

    pub(super) fn check(&self) -> Result<(), OpenError> {
        let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
        if 200 < self.topic_prefix.len() || !self.topic_prefix.bytes().all(allowed) {
            return Err(OpenError::Prefix { prefix: self.topic_prefix.clone() });
        }
        let ours = COMMON.iter().chain(&PRODUCER).chain(&READER).map(|(name, _)| *name);
        let ours: Vec<&str> =
            ours.chain(REFUSED).chain([READER_QUEUE, READER_FETCH, BATCH]).collect();
        // `request.required.acks` and the like are other names of what we set.
        let aliases = [
            "request.required.acks",
            "queue.buffering.max.ms",
            "compression.codec",
            "delivery.timeout.ms",
            "max.partition.fetch.bytes",
        ];
        let taken =
            |name: &&String| ours.contains(&name.as_str()) || aliases.contains(&name.as_str());
        if let Some(name) = self.properties.keys().find(taken) {
            return Err(OpenError::Fixed { name: name.clone() });
        }
        let refused = |error| match error {
            KafkaError::ClientConfig(_, reason, name, _) => OpenError::Property { name, reason },
            error => OpenError::Client(error),
        };
        for config in [self.producer(Batching::Shared), self.reader(self.partitions)] {
            config.create_native_config().map_err(refused)?;
        }
        Ok(())
    }

    /// For questions to the brokers.
    pub(super) fn client(&self) -> ClientConfig {
        let mut config = ClientConfig::new();
        config.set_log_level(RDKafkaLogLevel::Info);
        config.set("bootstrap.servers", &self.bootstrap_servers);
        config.set("client.id", &self.client_id);
        for (name, value) in COMMON {
            config.set(name, value);
        }
        for (name, value) in &self.properties {
            config.set(name, value);
        }
        config
    }

    pub(super) fn producer(&self, batching: Batching) -> ClientConfig {
        let mut config = self.client();
        for (name, value) in PRODUCER {
            config.set(name, value);
        }
        if batching == Batching::Single {
            config.set(BATCH, "1");
        }
        config
    }

    /// For a reader of `partitions` partitions.
    pub(super) fn reader(&self, partitions: u32) -> ClientConfig {
        let mut config = self.client();
        for (name, value) in READER {
            config.set(name, value);
        }
        // Each partition has a queue of its own, and the limit holds for each.
        let share = |bytes: usize| bytes / (partitions.max(1) as usize);
        let queue_kib = (share(READER_QUEUE_BYTES) / KIB).clamp(32, 512);
        let fetch_bytes = share(READER_FETCH_BYTES).clamp(16 * KIB, 256 * KIB);
        config.set(READER_QUEUE, queue_kib.to_string());
        config.set(READER_FETCH, fetch_bytes.to_string());
        config
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(name: &str, value: &str) -> Result<(), OpenError> {
        let properties = BTreeMap::from([(name.to_owned(), value.to_owned())]);
        Options { properties, ..Options::default() }.check()
    }

    #[test]
    fn settings_that_promises_rest_on_are_refused() {
        for name in ["acks", "enable.idempotence", "group.id", "client.rack", "compression.codec"] {
            assert!(matches!(check(name, "1"), Err(OpenError::Fixed { .. })), "{name}");
        }
    }

    #[test]
    fn what_librdkafka_refuses_is_named() {
        let error = check("no.such.thing", "1").unwrap_err();
        assert!(matches!(error, OpenError::Property { name, .. } if name == "no.such.thing"));
        let error = check("security.protocol", "carrier_pigeon").unwrap_err();
        assert!(matches!(error, OpenError::Property { .. }));
    }

    #[test]
    fn what_librdkafka_knows_passes_through() {
        check("sasl.username", "x").unwrap();
        check("statistics.interval.ms", "0").unwrap();
    }

    #[test]
    fn passwords_are_not_told() {
        let properties = BTreeMap::from([("sasl.password".to_owned(), "secret".to_owned())]);
        let options = Options { properties, ..Options::default() };
        let text = format!("{options:?}");
        assert!(text.contains("sasl.password") && !text.contains("secret"), "{text}");
        let error = check("no.such.thing", "secret").unwrap_err();
        assert!(!format!("{error} {error:?}").contains("secret"));
    }

    #[test]
    fn a_prefix_is_part_of_a_topic_name() {
        let check = |prefix: &str| {
            let options = Options { topic_prefix: prefix.to_owned(), ..Options::default() };
            options.check().is_ok()
        };
        assert!(check("") && check("fleet-1.") && check("a_b"));
        assert!(!check("a/b") && !check("\u{e4}") && !check(&"x".repeat(201)));
    }
}
