//! Two live agents with one id, and copies of a host's state: who tells of them, and who is refused.
//!
//! Within one server [`claims`](crate::ingest::claims) keeps the second out. Servers that share a bus learn of each other's
//! streams from it: the one whose agent was there first asks its agent for a sign of life when another boot turns up
//! elsewhere, and tells when there is one. Then the other server refuses the newcomer.

use std::sync::Arc;

use agent_core::id::{AgentId, BootId};
use bus::{Payload, Record};
use proto::{StatusEvent, StatusRecord};
use tracing::warn;

use crate::ingest::claims::Claimant;
use crate::ingest::handle::Directive;
use crate::registry::{Finding, Life, Trouble};
use crate::shared::Shared;

/// A newcomer that must not have the id.
#[derive(Clone, Debug)]
pub(crate) struct Newcomer<'a> {
    pub(crate) peer: &'a str,
    /// None of a client that knows only the fixed fields.
    pub(crate) life: Option<Life>,
}

/// Puts it on the bus and in the log that two live agents use one id, and that the newcomer's state is a copy if it looks
/// so; once in a while.
pub(crate) async fn report(
    shared: &Shared,
    agent: &AgentId,
    newcomer: Newcomer<'_>,
    detail: String,
) {
    let now = shared.clock.now();
    if !shared.claims().duplicate_is_news(agent, now.monotonic) {
        return;
    }
    let Newcomer { peer, life } = newcomer;
    let found = life.as_ref().and_then(|life| shared.registry().judge(agent, life));
    let copied = found.filter(|finding| finding.trouble == Trouble::Clone);
    let duplicate = Finding { trouble: Trouble::Duplicate, detail };
    for finding in [Some(duplicate), copied].into_iter().flatten() {
        tell(shared, agent, life.as_ref().map(|life| life.boot), peer, finding).await;
    }
}

/// Puts a finding on the bus and in the log. `boot` is the one that must not have the id, or that brought it up.
pub(crate) async fn tell(
    shared: &Shared,
    agent: &AgentId,
    boot: Option<BootId>,
    peer: &str,
    finding: Finding,
) {
    let Finding { trouble, detail } = finding;
    let event = match trouble {
        Trouble::Duplicate => {
            warn!(%agent, "two live agents with one id: {detail}");
            StatusEvent::DuplicateId
        }
        Trouble::Clone => {
            warn!(%agent, "its state may be a copy: {detail}");
            StatusEvent::CloneSuspected
        }
    };
    let record = StatusRecord {
        agent_id: agent.to_string(),
        event: event.into(),
        timestamp_ms: shared.clock.now().unix_ms,
        server_id: shared.server_id.clone(),
        boot: boot.map(Into::into),
        detail,
        peer: peer.to_owned(),
        ..StatusRecord::default()
    };
    let record = Record { key: agent.clone(), payload: Payload::Status(Box::new(record)) };
    if let Err(error) = shared.bus.publish(vec![record]).await {
        warn!(%agent, "cannot record what is wrong with its identity: {error}");
    }
}

/// Another boot of `agent` has a stream to another server, as `record` says, and the one that this server has was there
/// before. Finds out whether that one lives, and tells if it does.
pub(crate) fn contest(shared: &Arc<Shared>, agent: &AgentId, record: &StatusRecord) {
    let newcomer = Life::of(record);
    let Some(holder) = shared.claims().holder(agent) else {
        return;
    };
    let (shared, agent) = (Arc::clone(shared), agent.clone());
    let (server, peer) = (record.server_id.clone(), record.peer.clone());
    // Bounded: once for each stream that an agent opens to another server, and over within seconds.
    tokio::spawn(async move {
        if holder.is_alive().await {
            let detail = format!(
                "{} holds the id at this server, {peer} came to the server {server} with it and is refused",
                holder.peer
            );
            let newcomer = Newcomer { peer: &peer, life: newcomer };
            report(&shared, &agent, newcomer, detail).await;
        }
    });
}

/// Another server says that the agent of the boot `refused` must not have the id: it had it first.
pub(crate) fn give_way(shared: &Shared, agent: &AgentId, refused: BootId, detail: &str) {
    let claims = shared.claims();
    let is_refused = |claimant| matches!(claimant, Claimant::Full { boot, .. } if boot == refused);
    if claims.claimant(agent).is_some_and(is_refused)
        && let Some(holder) = claims.holder(agent)
    {
        // One with no room for this is stuck, and ends by itself.
        holder.direct(Directive::Refused(detail.to_owned())).ok();
    }
}
