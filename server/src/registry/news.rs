//! Reads the topic agent-status: what earlier runs and other servers saw.

use std::collections::VecDeque;
use std::sync::Arc;

use agent_core::id::{AgentId, BootId};
use bus::{Entry, Payload, Start, Topic};
use proto::{StatusEvent, StatusRecord};
use tokio::sync::oneshot;
use tracing::info;

use crate::command::Mark;
use crate::feed::{self, Feed};
use crate::ingest::{Claimant, Directive, rivals};
use crate::limits::STATUS_HISTORY_MAX;
use crate::shared::Shared;

/// Closed commands that are remembered from before the start, the newest.
const CLOSED_MAX: usize = 512;

/// Keeps the registry true to what the bus says.
pub(crate) struct News {
    shared: Arc<Shared>,
    feed: Feed,
}

impl News {
    pub(crate) fn new(shared: &Arc<Shared>) -> Self {
        // A bus of this server alone is read from its beginning: it is on this disk, and retention bounds it.
        let start = if shared.bus.is_shared() {
            let age_ms = i64::try_from(STATUS_HISTORY_MAX.as_millis()).unwrap_or(i64::MAX);
            Start::Time(shared.clock.now().unix_ms.saturating_sub(age_ms))
        } else {
            Start::Oldest
        };
        let feed = Feed::new(&shared.bus, &shared.troubles, Topic::AgentStatus, start);
        Self { shared: Arc::clone(shared), feed }
    }

    /// Runs until the bus is closed; tells `caught_up` when all that was there at the start is known.
    pub(crate) async fn run(mut self, caught_up: oneshot::Sender<()>) {
        if self.remember().await.is_none() {
            return;
        }
        // Nobody may wait for it any more.
        caught_up.send(()).ok();
        while let Some(news) = self.feed.next().await {
            if let feed::News::Entries(entries) = news {
                for entry in entries {
                    hear(&self.shared, entry).await;
                }
            }
        }
    }

    async fn remember(&mut self) -> Option<()> {
        let is_shared = self.shared.bus.is_shared();
        // What nobody may deliver any more, this run of the server must not deliver either.
        let mut closed = VecDeque::new();
        while let feed::News::Entries(entries) = self.feed.next().await? {
            let mut registry = self.shared.registry();
            for entry in entries {
                if let Payload::Status(record) = &entry.payload {
                    // Whoever saw it has told of it.
                    registry.identify(&entry.key, record, entry.stored_ms);
                    if record.event() == StatusEvent::CommandClosed {
                        closed.push_back(record.command_id.clone());
                        if CLOSED_MAX < closed.len() {
                            closed.pop_front();
                        }
                    }
                }
                match entry.payload {
                    // What was said a moment ago may hold still.
                    Payload::Status(record) if is_shared => {
                        registry.hear(&entry.key, *record, entry.stored_ms);
                    }
                    Payload::Status(record) => registry.fold(&entry.key, *record),
                    Payload::Metrics(_) | Payload::Command(_) | Payload::Response(_) => {}
                }
            }
        }
        for id in closed.iter().filter_map(|id| id.parse().ok()) {
            self.shared.commands.barred(id).await;
        }
        let agents = self.shared.registry().ids();
        for agent in agents {
            // What is not known yet is told when the store is read.
            if let Ok(effective) = self.shared.config.effective(&agent) {
                self.shared.registry().config_wanted(&agent, effective.revision);
            }
        }
        Some(())
    }
}

/// Takes in what a server has just said.
async fn hear(shared: &Arc<Shared>, entry: Entry) {
    let Payload::Status(record) = entry.payload else {
        return;
    };
    let event = record.event();
    let is_ours = record.server_id == shared.server_id;
    let mark = match event {
        StatusEvent::CommandDelivered => Some(Mark::Delivered),
        StatusEvent::CommandClosed => Some(Mark::Closed),
        _ => None,
    };
    if let Some(mark) = mark {
        if let Ok(id) = record.command_id.parse() {
            shared.commands.marked(id, mark, is_ours).await;
        }
        return;
    }
    let found = shared.registry().identify(&entry.key, &record, entry.stored_ms);
    let ours = match shared.claims().claimant(&entry.key) {
        Some(Claimant::Full { boot, .. }) => Some(boot),
        Some(Claimant::Plain) | None => None,
    };
    let theirs = record.boot.map(BootId::from);
    if is_ours {
        if event == StatusEvent::Connected && theirs.is_some() && ours == theirs {
            shared.registry().told(&entry.key);
        }
        if let Some(finding) = found {
            rivals::tell(shared, &entry.key, theirs, &record.peer, finding).await;
        }
        return;
    }
    match (event, ours, theirs) {
        (StatusEvent::Connected, Some(ours), Some(theirs))
            if ours != theirs && shared.registry().was_here_before(&entry.key) =>
        {
            rivals::contest(shared, &entry.key, &record);
        }
        (StatusEvent::DuplicateId, Some(_), Some(refused)) => {
            rivals::give_way(shared, &entry.key, refused, &record.detail);
        }
        _ => {}
    }
    if event == StatusEvent::Connected {
        let_go(shared, &entry.key, &record);
    }
    let now_ms = shared.clock.now().unix_ms;
    shared.registry().hear(&entry.key, *record, now_ms);
}

/// Ends the stream of an agent that has gone on with another server, should it look alive here still.
fn let_go(shared: &Shared, agent: &AgentId, record: &StatusRecord) {
    let Some(hello) = &record.hello else {
        return;
    };
    let Some(boot) = hello.boot.map(BootId::from) else {
        return;
    };
    let newer = Claimant::Full { boot, session: hello.session };
    let Some(outdated) = shared.claims().outdated_by(agent, newer) else {
        return;
    };
    info!(%agent, server = record.server_id, "the agent has gone on with another server");
    // One with no room for this is stuck, and ends by itself.
    outdated.direct(Directive::Superseded).ok();
}
