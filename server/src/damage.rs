//! Makes known what damage to the bus took: a LOSS for every boot whose records are gone, as the books demand.

use std::sync::Arc;
use std::time::Duration;

use bus::{Bus, Damage, LostRecords, Payload, Record};
use proto::{Loss, LossReason, StatusEvent, StatusRecord};
use tracing::{error, warn};

use crate::shared::Shared;

/// How often the bus is asked. It finds damage when it opens, and when a read meets it.
const ASK_INTERVAL: Duration = Duration::from_secs(30);

/// Losses in one record of the bus, which has a largest size.
const RECORD_LOSSES_MAX: usize = 256;

/// Records published at once.
const PUBLISH_RECORDS_MAX: usize = 256;

/// Runs until it is aborted. What could not be published is tried again at the next round, so a LOSS may come twice.
pub(crate) async fn tell(shared: Arc<Shared>) {
    loop {
        if let Err(failure) =
            tell_once(&*shared.bus, &shared.server_id, shared.clock.now().unix_ms).await
        {
            warn!(
                error = failure.as_ref() as &dyn std::error::Error,
                "losses by damage cannot be told now"
            );
        }
        tokio::time::sleep(ASK_INTERVAL).await;
    }
}

async fn tell_once(bus: &dyn Bus, server_id: &str, now_ms: i64) -> anyhow::Result<()> {
    for damage in bus.damage().await? {
        error!(
            topic = %damage.topic,
            offsets = ?damage.offsets.iter().map(|(first, last)| (first.0, last.0)).collect::<Vec<_>>(),
            unnamed = damage.unnamed,
            "damage to the stored bus took records"
        );
        for records in losses(&damage, server_id, now_ms).chunks(PUBLISH_RECORDS_MAX) {
            bus.publish(records.to_vec()).await?;
        }
        bus.damage_told(damage.number).await?;
    }
    Ok(())
}

/// The LOSS records of the boots that `damage` names, in their order.
fn losses(damage: &Damage, server_id: &str, now_ms: i64) -> Vec<Record> {
    let of_one_boot = |a: &LostRecords, b: &LostRecords| a.agent == b.agent && a.boot == b.boot;
    let parts = damage.records.chunk_by(of_one_boot);
    parts
        .flat_map(|boot| boot.chunks(RECORD_LOSSES_MAX))
        .filter_map(|lost| {
            let LostRecords { agent, boot, .. } = lost.first()?;
            let losses = lost.iter().map(|lost| Loss {
                first: lost.first,
                last: lost.last,
                reason: LossReason::StoreDamaged.into(),
                // They had arrived, and were acknowledged.
                never_sent: 0,
                unacknowledged: 0,
            });
            let status = StatusRecord {
                agent_id: agent.as_str().to_owned(),
                event: StatusEvent::Loss.into(),
                timestamp_ms: now_ms,
                server_id: server_id.to_owned(),
                boot: Some(*boot),
                detail: "damage to the stored bus took these records".to_owned(),
                losses: losses.collect(),
                ..StatusRecord::default()
            };
            Some(Record { key: agent.clone(), payload: Payload::Status(Box::new(status)) })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use bus::{Offset, Partition, Topic};
    use proto::Boot;

    use super::*;

    fn lost(agent: &str, counter: u64, first: u64) -> LostRecords {
        let boot = Boot { counter, nonce: 1 };
        LostRecords { agent: agent.parse().unwrap(), boot, first, last: first + 2 }
    }

    #[test]
    fn each_boot_gets_its_losses() {
        let mut records = vec![lost("a", 1, 5), lost("a", 1, 50), lost("a", 2, 1)];
        records.extend((0..300).map(|n| lost("b", 1, 10 * n + 1)));
        let damage = Damage {
            number: 0,
            topic: Topic::MonitoringData,
            partition: Partition(0),
            offsets: vec![(Offset(7), Offset(9))],
            records,
            unnamed: 0,
        };
        let told: Vec<_> = losses(&damage, "s", 5)
            .into_iter()
            .map(|record| {
                let Payload::Status(status) = record.payload else { panic!("a status") };
                assert_eq!(status.event(), StatusEvent::Loss);
                assert!(status.losses.iter().all(|l| l.reason() == LossReason::StoreDamaged));
                (status.agent_id, status.boot.map_or(0, |boot| boot.counter), status.losses.len())
            })
            .collect();
        let expected = [("a", 1, 2), ("a", 2, 1), ("b", 1, 256), ("b", 1, 44)];
        assert_eq!(told, expected.map(|(agent, boot, count)| (agent.to_owned(), boot, count)));
    }
}
