//! Follows what becomes of the documents in their store, whoever changes them, and tells the agents.

use std::sync::Arc;

use agent_core::id::AgentId;
use bus::{DocumentEvent, DocumentWatch, Payload, Record};
use proto::{ConfigOutcome, ConfigReport, StatusEvent, StatusRecord};
use tracing::{info, warn};

use crate::config::layers::LayerKey;
use crate::config::push::{announce, announce_all};
use crate::config::store::ConfigStore;
use crate::config::table::{Lesson, Problem};
use crate::limits::{CONFIG_FIRST_READ, STATUS_PUBLISH_MAX};
use crate::shared::Shared;
use crate::troubles::{Trouble, Troubles};

/// Follows the store of one server.
#[derive(Debug)]
pub(crate) struct Follower {
    watch: Box<dyn DocumentWatch>,
}

impl Follower {
    pub(crate) const fn new(watch: Box<dyn DocumentWatch>) -> Self {
        Self { watch }
    }

    /// Reads what is there before the server takes agents, so that each gets its configuration as it connects. Not for
    /// long: where the store is away agents keep what they have, and get what holds as soon as it is read.
    pub(crate) async fn read_first(&mut self, config: &ConfigStore, troubles: &Troubles) {
        let reading = async {
            while let Some(event) = self.watch.next().await {
                match &event {
                    DocumentEvent::Unavailable(reason) => {
                        troubles.raise(Trouble::ConfigStore, &outage(config, reason));
                        return;
                    }
                    DocumentEvent::Synced => {
                        config.learn(event);
                        return;
                    }
                    _ => {
                        config.learn(event);
                    }
                }
            }
        };
        if tokio::time::timeout(CONFIG_FIRST_READ, reading).await.is_err() {
            troubles.raise(Trouble::ConfigStore, &outage(config, "it does not answer"));
        }
        for (key, problem) in config.problems() {
            complain(&key, &problem);
        }
    }

    /// Goes on until the store is closed.
    pub(crate) async fn run(mut self, shared: Arc<Shared>) {
        // What was learnt before there were agents is told now, should one have been quick.
        converge(&shared).await;
        while let Some(event) = self.watch.next().await {
            follow(&shared, event).await;
        }
    }
}

async fn follow(shared: &Shared, event: DocumentEvent) {
    let config = &shared.config;
    match event {
        DocumentEvent::Unavailable(reason) => {
            shared.troubles.raise(Trouble::ConfigStore, &outage(config, &reason));
        }
        DocumentEvent::Available => shared.troubles.clear(Trouble::ConfigStore),
        DocumentEvent::Synced => {
            config.learn(DocumentEvent::Synced);
            shared.troubles.clear(Trouble::ConfigStore);
            converge(shared).await;
        }
        DocumentEvent::Renumbered => {
            warn!(
                "the configuration store is another one, or was restored: its revisions begin anew"
            );
            config.learn(DocumentEvent::Renumbered);
        }
        DocumentEvent::Changed(_)
        | DocumentEvent::Unreadable { .. }
        | DocumentEvent::Vanished { .. } => {
            // A change through this server is announced before its event is looked at, which is no news then.
            let change = config.begin_change().await;
            match config.learn(event) {
                Lesson::Old => {}
                Lesson::InForce(key, revision) => {
                    info!(key = key.as_str(), revision, "configuration changed in the store");
                    // Before everything was read, nobody knows what holds; converging tells it.
                    if config.is_complete() {
                        announce(shared, &key, revision);
                    }
                }
                Lesson::NotInForce(key, problem) => {
                    complain(&key, &problem);
                    report(shared, &key, &problem, Telling::Everyone).await;
                }
            }
            drop(change);
        }
    }
}

/// Sends what holds to every connected agent that does not have it: what was missed on the way is made good.
async fn converge(shared: &Shared) {
    let change = shared.config.begin_change().await;
    announce_all(shared);
    drop(change);
    for (key, problem) in shared.config.problems() {
        report(shared, &key, &problem, Telling::ThisServer).await;
    }
}

/// Who hears that a layer is not in force.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Telling {
    /// Whoever asks this server about the agent.
    ThisServer,
    /// They, and who reads agent-status.
    Everyone,
}

/// The agent keeps what it has, and does not know that it was to have something else: the server says it in its place.
///
/// Of `_default` only the log and the server's own answers tell: a record for each agent would be a flood.
async fn report(shared: &Shared, key: &LayerKey, problem: &Problem, telling: Telling) {
    let LayerKey::Agent(agent) = key else {
        return;
    };
    let running = shared.config.effective(agent).map_or(0, |effective| effective.revision);
    let report = ConfigReport {
        revision: problem.revision,
        outcome: ConfigOutcome::Rejected.into(),
        reason: problem.reason.clone(),
        running,
        ..ConfigReport::default()
    };
    shared.registry().config_report(agent, &report);
    // Of several servers the one that holds the agent says it.
    if telling == Telling::Everyone && shared.claims().holder(agent).is_some() {
        publish(shared, agent, report).await;
    }
}

async fn publish(shared: &Shared, agent: &AgentId, report: ConfigReport) {
    let status = StatusRecord {
        agent_id: agent.to_string(),
        event: StatusEvent::ConfigRejected.into(),
        timestamp_ms: shared.clock.now().unix_ms,
        server_id: shared.server_id.clone(),
        detail: "refused by the server; the agent keeps what it has".to_owned(),
        config: Some(report),
        ..StatusRecord::default()
    };
    let record = Record { key: agent.clone(), payload: Payload::Status(Box::new(status)) };
    let published = shared.bus.publish(vec![record]);
    match tokio::time::timeout(STATUS_PUBLISH_MAX, published).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => warn!(%agent, "cannot publish that a document is refused: {error}"),
        Err(_) => warn!(%agent, "cannot publish that a document is refused: the bus is slow"),
    }
}

fn complain(key: &LayerKey, problem: &Problem) {
    let Problem { revision, reason } = problem;
    warn!(key = key.as_str(), revision, "the stored document is not in force: {reason}");
}

fn outage(config: &ConfigStore, reason: &str) -> String {
    format!(
        "the configuration store ({}) cannot be used: {reason}; agents keep what they have",
        config.kind()
    )
}
