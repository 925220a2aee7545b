//! Tells connected agents of a change, and hears what they make of it.

use agent_core::id::AgentId;
use bus::Revision;
use proto::ConfigReport;
use tracing::warn;

use crate::config::layers::LayerKey;
use crate::config::store::ConfigError;
use crate::ingest::{Directive, SessionHandle};
use crate::limits::CONFIG_REPORT_WAIT;
use crate::shared::Shared;

/// Sends what holds now to each connected agent that the change of `key` at `revision` concerns. Answers with
/// how many there are.
pub(crate) async fn announce(
    shared: &Shared,
    key: &LayerKey,
    revision: Revision,
) -> Result<u32, ConfigError> {
    let concerned: Vec<(AgentId, SessionHandle)> = match key {
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
    let below = shared.config.layer(&LayerKey::Default).await?;
    let mut pushed = 0;
    for (agent, handle) in concerned {
        let effective = match shared.config.effective_above(&below, &agent).await {
            Ok(effective) => effective,
            // The change is stored; one agent whose own layer cannot be read does not undo it.
            Err(error) => {
                warn!(%agent, "cannot read the configuration: {error}");
                continue;
            }
        };
        match handle.direct(Directive::Config(effective.push())) {
            Ok(()) => pushed += 1,
            // It gets the configuration when it connects again, which a stuck session must.
            Err(error) => warn!(%agent, "cannot push the configuration: {error}"),
        }
    }
    Ok(pushed)
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
