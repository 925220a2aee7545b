//! Tells connected agents of a change, and hears what they make of it.

use std::time::Duration;

use agent_core::id::AgentId;
use bus::Revision;
use proto::ConfigReport;
use tracing::warn;

use crate::config::layers::LayerKey;
use crate::ingest::{Directive, SessionHandle};
use crate::limits::CONFIG_REPORT_WAIT;
use crate::shared::Shared;

/// Sends what holds now to each connected agent that the change of `key` at `revision` concerns. Answers with
/// how many there are.
///
/// The caller holds the right to change, so that what is sent later is newer.
pub(crate) fn announce(shared: &Shared, key: &LayerKey, revision: Revision) -> u32 {
    let concerned = match key {
        LayerKey::Agent(agent) => {
            shared.registry().config_wanted(agent, revision);
            let holder = shared.claims().holder(agent);
            holder.map(|handle| (agent.clone(), handle)).into_iter().collect()
        }
        LayerKey::Default => {
            shared.registry().config_wanted_of_all(revision);
            shared.claims().holders()
        }
    };
    send(shared, concerned)
}

/// Sends what holds now to each connected agent; those that have it are left alone by their sessions.
pub(crate) fn announce_all(shared: &Shared) {
    let known = shared.registry().ids();
    for agent in known {
        if let Ok(effective) = shared.config.effective(&agent) {
            shared.registry().config_wanted(&agent, effective.revision);
        }
    }
    let connected = shared.claims().holders();
    send(shared, connected);
}

fn send(shared: &Shared, agents: Vec<(AgentId, SessionHandle)>) -> u32 {
    let mut pushed = 0;
    for (agent, handle) in agents {
        // Of an agent whose layers are not known, nothing is known to be better than what it has.
        let Ok(effective) = shared.config.effective(&agent) else {
            continue;
        };
        match handle.direct(Directive::Config(effective.push())) {
            Ok(()) => pushed += 1,
            // It gets the configuration when it connects again, which a stuck session must.
            Err(error) => warn!(%agent, "cannot push the configuration: {error}"),
        }
    }
    pushed
}

/// What an agent of another server says to the configuration of `revision`, which that one pushes; none when it does
/// not say in time.
pub(crate) async fn report_elsewhere(
    shared: &Shared,
    agent: &AgentId,
    revision: Revision,
) -> Option<ConfigReport> {
    /// Reports come by the bus, and nobody is told; whoever waits has a person behind it.
    const LOOK_AGAIN: Duration = Duration::from_millis(50);

    let reported = async {
        loop {
            if let Some(report) = shared.registry().config_reported(agent, revision) {
                return report;
            }
            tokio::time::sleep(LOOK_AGAIN).await;
        }
    };
    tokio::time::timeout(CONFIG_REPORT_WAIT, reported).await.ok()
}

/// What the agent says to the configuration of `revision`; none when it is away or does not say in time.
pub(crate) async fn report_of(
    shared: &Shared,
    agent: &AgentId,
    revision: Revision,
) -> Option<ConfigReport> {
    let handle = shared.claims().holder(agent)?;
    let report = handle.config_report(revision);
    tokio::time::timeout(CONFIG_REPORT_WAIT, report).await.ok()?
}
