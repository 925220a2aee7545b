//! Two servers on one Kafka, with agents that know both, as real processes.
//!
//! Most tests share the Kafka that all tests share, so servers of other tests hear of their commands too; agents have
//! names that no other test has. Tests that kill Kafka, or want nobody else on it, start one of their own.

mod commands;
mod identity;
mod outages;
mod topic;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::net::SocketAddr;
use std::thread;

use serde_json::Value;
use tempfile::TempDir;
use xtask::fleet::{self, Group, Process, Server, Site};
use xtask::services::{self, Claim, Instance, Service};

use self::topic::Reader;
use crate::deployment::{FAST, STOP_LIMIT, binaries, directory, now_ms, wait_for};
use crate::picket::{Answer, Console, Picket};
use crate::record::assert_books_balance;

/// Two servers and where their agents stand. When the test fails it shows all logs.
#[derive(Debug)]
struct Cluster {
    a: Node,
    b: Node,
    agents: Site,
    /// Of this test alone; none when it shares one.
    kafka: Option<Instance>,
    brokers: String,
    directory: TempDir,
}

/// A server that can be killed and comes back where it was.
#[derive(Debug)]
struct Node {
    site: Site,
    claim: Claim,
    server: Option<Server>,
}

impl Cluster {
    /// Both servers on the Kafka that tests share; none when `test` is to return, as skipped.
    fn start(test: &str) -> Option<Self> {
        let brokers = services::kafka(test)?;
        let mut cluster = Self::new(brokers, None, directory());
        cluster.start_both();
        Some(cluster)
    }

    /// A new Kafka, and no server yet; none when `test` is to return, as skipped.
    fn with_own_kafka(test: &str) -> Option<Self> {
        if !Service::Kafka.is_here_for(test) {
            return None;
        }
        let directory = directory();
        let kafka = Service::Kafka.start(&directory.path().join("kafka")).unwrap();
        Some(Self::new(kafka.endpoint(), Some(kafka), directory))
    }

    fn new(brokers: String, kafka: Option<Instance>, directory: TempDir) -> Self {
        let site = |name: &str| {
            Site::new(binaries().clone(), &directory.path().join(name), Group::Shared).unwrap()
        };
        let node = |name| Node {
            site: site(name).with_server_arguments(["--kafka", &brokers]),
            claim: Claim::any().unwrap(),
            server: None,
        };
        let (a, b, agents) = (node("a"), node("b"), site("agents"));
        Self { a, b, agents, kafka, brokers, directory }
    }

    fn start_both(&mut self) {
        // A server that finds no Kafka waits for it a while before it listens.
        thread::scope(|scope| {
            scope.spawn(|| self.a.start());
            self.b.start();
        });
    }

    fn nodes(&self) -> [&Node; 2] {
        [&self.a, &self.b]
    }

    /// The Kafka of this test alone.
    fn kafka(&mut self) -> &mut Instance {
        self.kafka.as_mut().expect("this test has one")
    }

    /// A name for an agent that no other test has.
    fn id(&self, name: &str) -> String {
        let unique = self.directory.path().file_name().unwrap().to_str().unwrap();
        format!("{name}-{}", unique.trim_start_matches('.'))
    }

    /// An agent that turns to `servers`, to the first one first.
    fn agent(&self, id: &str, servers: [&Node; 2]) -> Process {
        let [first, second] = servers.map(Node::address);
        self.agents.agent(id, format!("{first},{second}"), FAST).unwrap()
    }

    /// An agent that both servers have seen, and that is away.
    #[track_caller]
    fn agent_that_has_left(&self) -> String {
        let id = self.id("away");
        let mut agent = self.agent(&id, [&self.a, &self.b]);
        self.wait_until_at(&id, &self.a);
        assert!(agent.terminate(STOP_LIMIT).unwrap().success());
        for node in self.nodes() {
            wait_for("both servers know that the agent has left", || {
                (node.console().agent_info(&id)["connected"] == false).then_some(())
            });
        }
        id
    }

    /// One that reads `topic` from now on.
    fn reader(&self, topic: &'static str) -> Reader {
        Reader::from_now(&self.brokers, topic)
    }

    fn put(&self, topic: &str, key: &str, value: &Value) {
        topic::put(&self.brokers, topic, key, value);
    }

    /// The operator's tool on Kafka itself.
    fn picket_on_kafka<const N: usize>(&self, arguments: [&str; N]) -> Answer {
        Picket::on_kafka(binaries(), &self.brokers).run(arguments)
    }

    /// Waits until either server says that `agent` is at `holder`.
    #[track_caller]
    fn wait_until_at(&self, agent: &str, holder: &Node) {
        let holder = holder.id();
        for node in self.nodes() {
            wait_for("both servers know where the agent is", || {
                let info = node.console().agent_info(agent);
                (info["connected"] == true && info["server_id"] == holder).then_some(())
            });
        }
    }
}

impl Node {
    fn address(&self) -> SocketAddr {
        self.claim.address()
    }

    fn console(&self) -> Console {
        Console { server: self.address() }
    }

    fn start(&mut self) {
        assert!(self.server.is_none(), "it runs");
        self.server = Some(self.site.server_at(self.address()).unwrap());
    }

    /// Ends it as a power cut would.
    fn kill(&mut self) {
        self.server.take().unwrap().process().kill().unwrap();
    }

    fn process(&mut self) -> &mut Process {
        self.server.as_mut().expect("it runs").process()
    }

    /// The name of this run of it.
    #[track_caller]
    fn id(&self) -> Value {
        self.console().server_status()["server_id"].clone()
    }

    fn is_degraded(&self) -> bool {
        self.console().server_status()["degraded"] != Value::Array(Vec::new())
    }

    #[track_caller]
    fn wait_until_degraded(&self) {
        wait_for("the server is degraded", || self.is_degraded().then_some(()));
    }

    #[track_caller]
    fn wait_until_well(&self) {
        wait_for("the server is not degraded", || (!self.is_degraded()).then_some(()));
    }
}

impl Drop for Cluster {
    #[expect(clippy::print_stdout, reason = "the test harness shows it when the test fails")]
    fn drop(&mut self) {
        if !thread::panicking() {
            return;
        }
        for site in [&self.a.site, &self.b.site, &self.agents] {
            for log in site.logs().unwrap_or_default() {
                if fs::metadata(&log).is_ok_and(|metadata| 0 < metadata.len()) {
                    println!("{}", fleet::tail(&log));
                }
            }
        }
    }
}

/// Waits until a record of `agent` is on the topic that was made after now.
#[track_caller]
fn wait_for_fresh_record(metrics: &mut Reader, agent: &str) {
    let now_ms = now_ms();
    metrics.wait_for("a fresh record", agent, |record| {
        record["timestamp_ms"].as_i64().is_some_and(|at_ms| now_ms < at_ms)
    });
}

/// That each record that was acknowledged to `agent` is on the topic, as it says itself at `console`, that nothing is
/// missing in between, and that the first occurrences of each boot are in order.
#[track_caller]
fn assert_all_arrived(console: Console, metrics: &mut Reader, agent: &str) {
    let status = console.status(agent);
    assert_books_balance(&status);
    let lost = status["ledger"]["lost"].as_object().unwrap();
    assert!(lost.values().all(|count| count == 0), "{status}");

    // After the agent has said what was acknowledged.
    let mut boots: BTreeMap<String, Vec<u64>> = BTreeMap::new();
    let mut seen = BTreeSet::new();
    for record in metrics.read_of(agent) {
        let boot = record["boot"].as_str().unwrap().to_owned();
        let sequence = record["sequence"].as_u64().unwrap();
        if seen.insert((boot.clone(), sequence)) {
            boots.entry(boot).or_default().push(sequence);
        }
    }
    for (boot, sequences) in &boots {
        let complete: Vec<u64> = (1..).take(sequences.len()).collect();
        assert_eq!(*sequences, complete, "a gap, or not in order, in boot {boot} of {agent}");
    }
    let arrived = boots[status["boot"].as_str().unwrap()].len();
    let delivered = status["ledger"]["delivered"].as_u64().unwrap();
    assert!(delivered <= arrived.try_into().unwrap(), "{arrived} arrived, but {status}");
}

/// The answers to the command `id`.
fn answers_to(answers: &mut Reader, agent: &str, id: &str) -> Vec<Value> {
    let mut answers = answers.read_of(agent);
    answers.retain(|answer| answer["command_id"] == id);
    answers
}
