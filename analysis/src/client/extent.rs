//! Where the history of a topic begins.

use bus::{Partition, Topic};
use proto::ServerStatus;

use super::{Client, Error, Source};

/// A partition, and the oldest offset kept of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Extent {
    pub(crate) topic: Topic,
    pub(crate) partition: Partition,
    pub(crate) first_offset: u64,
    /// The offset of the first record ever.
    origin: u64,
}

impl Extent {
    /// Whether records before the oldest one are gone.
    pub(crate) const fn is_cut(&self) -> bool {
        self.origin < self.first_offset
    }
}

/// The extents of what metrics and what happens to agents is in.
pub(crate) async fn extents(source: &Source) -> Result<Vec<Extent>, Error> {
    match source {
        Source::Server(server) => {
            let client = Client::connect(server.clone()).await?;
            Ok(of_server(&client.server_status().await?))
        }
        #[cfg(feature = "kafka")]
        Source::Kafka(brokers) => {
            let mut extents = Vec::new();
            for topic in TOPICS {
                let of_topic = brokers.watermarks(topic).await?.into_iter();
                extents.extend(of_topic.map(|extent| Extent {
                    topic,
                    partition: extent.partition,
                    first_offset: extent.first.0,
                    origin: KAFKA_ORIGIN,
                }));
            }
            Ok(extents)
        }
    }
}

const TOPICS: [Topic; 2] = [Topic::MonitoringData, Topic::AgentStatus];

/// A broker counts from 0, the embedded bus from 1.
const KAFKA_ORIGIN: u64 = 0;
const EMBEDDED_ORIGIN: u64 = 1;

fn of_server(status: &ServerStatus) -> Vec<Extent> {
    let origin = if status.bus == "kafka" { KAFKA_ORIGIN } else { EMBEDDED_ORIGIN };
    let extents = status.topics.iter().filter_map(|extent| {
        let topic = TOPICS.into_iter().find(|topic| topic.name() == extent.name)?;
        let partition = Partition(extent.partition);
        Some(Extent { topic, partition, first_offset: extent.first_offset, origin })
    });
    extents.collect()
}

#[cfg(test)]
mod tests {
    use proto::TopicStatus;

    use super::*;

    #[test]
    fn each_bus_has_its_first_offset() {
        let check = |bus: &str, first_offset: u64, expected: bool| {
            let name = Topic::AgentStatus.name().to_owned();
            let topics = vec![
                TopicStatus { name, first_offset, ..TopicStatus::default() },
                TopicStatus { name: "commands".into(), ..TopicStatus::default() },
            ];
            let status = ServerStatus { bus: bus.into(), topics, ..ServerStatus::default() };
            let extents = of_server(&status);
            assert_eq!((extents.len(), extents[0].topic), (1, Topic::AgentStatus));
            assert_eq!(extents[0].is_cut(), expected, "{bus} from {first_offset}");
        };
        check("embedded", 1, false);
        check("embedded", 2, true);
        check("kafka", 0, false);
        check("kafka", 1, true);
    }
}
