//! librdkafka's mock cluster: real connections on loopback, brokers that fail on command.
//!
//! It keeps no times, at most some 5 MB for each partition, and knows no requests of administrators.

use std::sync::{Arc, mpsc};
use std::thread::JoinHandle;

use bus::kafka::{KafkaBus, Options};
use bus::{Bus, Topic};
use rdkafka::mocking::MockCluster;
use rdkafka::producer::DefaultProducerContext;

use crate::contract::{Place, contract_suite};

type Cluster = MockCluster<'static, DefaultProducerContext>;
type Order = Box<dyn FnOnce(&Cluster) + Send>;

/// A cluster of three brokers with the topics, which ends with this.
pub(super) struct Mock {
    pub(super) bootstrap_servers: String,
    orders: Option<mpsc::SyncSender<Order>>,
    thread: Option<JoinHandle<()>>,
}

pub(super) const PARTITIONS: u32 = 5;

impl Mock {
    pub(super) fn new() -> Self {
        let mock = Self::without_topics();
        mock.order(|cluster| {
            for topic in Topic::ALL {
                cluster.create_topic(topic.name(), PARTITIONS.try_into().unwrap(), 3).unwrap();
            }
        });
        mock
    }

    pub(super) fn without_topics() -> Self {
        let (orders, queue) = mpsc::sync_channel::<Order>(1);
        let (started, address) = mpsc::sync_channel(1);
        // A cluster cannot leave its thread.
        let thread = std::thread::spawn(move || {
            let cluster = MockCluster::new(3).unwrap();
            started.send(cluster.bootstrap_servers()).unwrap();
            queue.into_iter().for_each(|order| order(&cluster));
        });
        let bootstrap_servers = address.recv().unwrap();
        Self { bootstrap_servers, orders: Some(orders), thread: Some(thread) }
    }

    /// Does something to the cluster, and waits until it is done.
    pub(super) fn order<T: Send + 'static>(
        &self,
        order: impl FnOnce(&Cluster) -> T + Send + 'static,
    ) -> T {
        let (done, answer) = mpsc::sync_channel(1);
        let order = Box::new(move |cluster: &Cluster| done.send(order(cluster)).unwrap());
        self.orders.as_ref().unwrap().send(order).unwrap();
        answer.recv().unwrap()
    }

    pub(super) fn all_brokers_down(&self) {
        self.order(|cluster| (1..=3).for_each(|broker| cluster.broker_down(broker).unwrap()));
    }

    pub(super) fn all_brokers_up(&self) {
        self.order(|cluster| (1..=3).for_each(|broker| cluster.broker_up(broker).unwrap()));
    }

    pub(super) fn options(&self) -> Options {
        Options {
            bootstrap_servers: self.bootstrap_servers.clone(),
            partitions: PARTITIONS,
            // A machine under load may stall for long.
            request_timeout: std::time::Duration::from_secs(60),
            publish_timeout: std::time::Duration::from_secs(120),
            ..Options::default()
        }
    }

    pub(super) fn bus(&self) -> Arc<KafkaBus> {
        KafkaBus::open(self.options()).unwrap()
    }
}

impl Drop for Mock {
    fn drop(&mut self) {
        self.orders = None;
        if let Some(thread) = self.thread.take() {
            thread.join().unwrap();
        }
    }
}

impl Place for Mock {
    async fn open(&self) -> Arc<dyn Bus> {
        self.bus()
    }

    fn finds_times(&self) -> bool {
        false
    }
}

contract_suite!(Some(Mock::new()));
