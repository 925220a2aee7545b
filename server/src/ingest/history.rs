//! Where the records of an agent end on the bus.

use std::collections::BTreeSet;
use std::time::Duration;

use agent_core::id::{AgentId, BootId};
use bus::{Bus, BusError, Delivery, Payload, Selection, Start, Topic};
use tracing::warn;

/// The sequence of the agent's last record on the bus if it is of exactly `boot` and no replayed one, else 0; also 0, with a
/// warning, when the bus does not say within `patience`, and on a bus that would have to read all agents' records
/// to know: then the agent's own word counts.
pub(crate) async fn last_stored(
    bus: &dyn Bus,
    agent: &AgentId,
    boot: BootId,
    patience: Duration,
) -> u64 {
    if !bus.finds_by_key() {
        return 0;
    }
    match tokio::time::timeout(patience, read(bus, agent, boot)).await {
        Ok(Ok(sequence)) => sequence,
        Ok(Err(error)) => {
            warn!(%agent, "cannot read where its records end: {error}");
            0
        }
        Err(_) => {
            warn!(%agent, "cannot read where its records end: the bus is slow");
            0
        }
    }
}

async fn read(bus: &dyn Bus, agent: &AgentId, boot: BootId) -> Result<u64, BusError> {
    let selection = Selection::Keys(BTreeSet::from([agent.clone()]));
    let mut last = bus.subscribe(Topic::MonitoringData, Start::Last(1), selection).await?;
    let mut sequence = 0;
    loop {
        match last.next().await? {
            Delivery::Entries(entries) => {
                for entry in entries {
                    if let Payload::Metrics(metrics) = entry.payload {
                        // One from the spool says nothing of those before it, which may be there or not.
                        let of_boot = metrics.boot.map(BootId::from) == Some(boot);
                        let is_live = of_boot && !metrics.replayed;
                        let record = metrics.record.filter(|_| is_live);
                        sequence = record.map_or(0, |record| record.sequence);
                    }
                }
            }
            Delivery::Skipped { .. } => {}
            Delivery::CaughtUp => return Ok(sequence),
        }
    }
}
