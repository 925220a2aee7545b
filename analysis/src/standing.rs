//! Which alerts stand, by what agents said in the order in which they said it.

use std::collections::BTreeMap;

use agent_core::id::BootId;
use proto::{AlertRecord, AlertTransition, Boot, StatusEvent, StatusRecord};

/// Alerts of one agent that are remembered: one for each metric that an agent can have on the wire.
const AGENT_ALERTS_MAX: usize = 64;

/// The alerts that stand, by agent and metric.
///
/// An alert stands from where it was raised until it was cleared or withdrawn, or until its agent has a new boot,
/// whose plugins start afresh. An agent that is away may have alerts that stand: nobody knows better.
#[derive(Debug, Default)]
pub(crate) struct Standing {
    agents: BTreeMap<String, Latest>,
}

/// The latest boot of an agent.
#[derive(Debug)]
struct Latest {
    boot: BootId,
    // By the id of the metric, of which this version need not know. At most AGENT_ALERTS_MAX.
    alerts: BTreeMap<u32, AlertRecord>,
    is_uncertain: bool,
}

impl Standing {
    /// Takes in a record of `agent-status`. To be of use, connects, alerts and losses of alerts must all come.
    pub(crate) fn take(&mut self, record: &StatusRecord) {
        match record.event() {
            StatusEvent::Connected => self.handle_connect(record),
            StatusEvent::Alert => {
                if let Some(latest) = self.latest(record) {
                    record.alerts.iter().for_each(|alert| latest.handle_alert(*alert));
                }
            }
            StatusEvent::AlertLoss => {
                if let Some(latest) = self.latest(record) {
                    latest.is_uncertain = true;
                }
            }
            StatusEvent::Unspecified
            | StatusEvent::Disconnected
            | StatusEvent::Heartbeat
            | StatusEvent::ConfigApplied
            | StatusEvent::ConfigRejected
            | StatusEvent::ConfigRolledBack
            | StatusEvent::CommandDelivered
            | StatusEvent::CommandRunning
            | StatusEvent::CommandClosed
            | StatusEvent::CloneSuspected
            | StatusEvent::Loss
            | StatusEvent::DuplicateId => {}
        }
    }

    /// The alerts that stand, with agent and boot, by agent and metric.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (&str, Boot, &AlertRecord)> {
        self.agents.iter().flat_map(|(agent_id, latest)| {
            latest.alerts.values().map(|alert| (agent_id.as_str(), latest.boot.into(), alert))
        })
    }

    /// Agents some of whose alerts are not known, because they were lost: more may stand, or fewer.
    pub(crate) fn uncertain(&self) -> impl Iterator<Item = &str> {
        let uncertain = self.agents.iter().filter(|(_, latest)| latest.is_uncertain);
        uncertain.map(|(agent_id, _)| agent_id.as_str())
    }

    /// Whoever connects runs now: what stood in another boot no longer does.
    fn handle_connect(&mut self, record: &StatusRecord) {
        match boot(record) {
            Some(boot) => {
                let latest = self.agents.entry(record.agent_id.clone());
                latest.or_insert_with(|| Latest::new(boot)).enter(boot);
            }
            // A plain client, which sends no alerts.
            None => drop(self.agents.remove(&record.agent_id)),
        }
    }

    /// The boot that the record is of; none when it is one of an earlier boot that came late.
    fn latest(&mut self, record: &StatusRecord) -> Option<&mut Latest> {
        let boot = boot(record)?;
        let entry = self.agents.entry(record.agent_id.clone());
        let latest = entry.or_insert_with(|| Latest::new(boot));
        if latest.is_before(boot) {
            latest.enter(boot);
        }
        (latest.boot == boot).then_some(latest)
    }
}

impl Latest {
    const fn new(boot: BootId) -> Self {
        Self { boot, alerts: BTreeMap::new(), is_uncertain: false }
    }

    fn enter(&mut self, boot: BootId) {
        if self.boot != boot {
            *self = Self::new(boot);
        }
    }

    /// Whether `boot` is a later one. Boots are counted by agents that have somewhere to keep the count; one that has
    /// not keeps no alerts either, so that none of an earlier boot can come late.
    const fn is_before(&self, boot: BootId) -> bool {
        match (self.boot.counter, boot.counter) {
            (0, 0) => true,
            (ours, theirs) => ours < theirs,
        }
    }

    fn handle_alert(&mut self, alert: AlertRecord) {
        match alert.transition() {
            AlertTransition::Raised => {
                let is_known = self.alerts.contains_key(&alert.metric);
                if is_known || self.alerts.len() < AGENT_ALERTS_MAX {
                    self.alerts.insert(alert.metric, alert);
                } else {
                    self.is_uncertain = true;
                }
            }
            AlertTransition::Cleared | AlertTransition::Withdrawn => {
                self.alerts.remove(&alert.metric);
            }
            AlertTransition::Unspecified => {}
        }
    }
}

fn boot(record: &StatusRecord) -> Option<BootId> {
    let introduced = record.hello.as_ref().and_then(|hello| hello.boot);
    record.boot.or(introduced).map(BootId::from)
}

#[cfg(test)]
mod tests {
    use AlertTransition::{Cleared, Raised, Withdrawn};

    use super::*;

    const CPU: u32 = 0;
    const MEMORY: u32 = 1;

    /// Boots with a counter of 0 are told apart by their nonce.
    fn boot(counter: u64, nonce: u64) -> Boot {
        Boot { counter, nonce }
    }

    fn event(event: StatusEvent, boot: Boot) -> StatusRecord {
        StatusRecord {
            agent_id: "a".into(),
            event: event.into(),
            boot: Some(boot),
            ..StatusRecord::default()
        }
    }

    fn connect(boot: Boot) -> StatusRecord {
        event(StatusEvent::Connected, boot)
    }

    fn alert(boot: Boot, metric: u32, transition: AlertTransition) -> StatusRecord {
        let alert = AlertRecord { metric, transition: transition.into(), ..AlertRecord::default() };
        StatusRecord { alerts: vec![alert], ..event(StatusEvent::Alert, boot) }
    }

    fn check(records: &[StatusRecord], expected: &[u32]) -> Standing {
        let mut standing = Standing::default();
        records.iter().for_each(|record| standing.take(record));
        let metrics: Vec<u32> = standing.iter().map(|(_, _, alert)| alert.metric).collect();
        assert_eq!(metrics, expected);
        standing
    }

    #[test]
    fn an_alert_stands_until_it_ends() {
        let boot = boot(3, 0);
        let raised = [alert(boot, MEMORY, Raised), alert(boot, CPU, Raised)];
        check(&raised, &[CPU, MEMORY]);
        let [memory, cpu] = raised;
        check(&[memory.clone(), cpu.clone(), alert(boot, CPU, Cleared)], &[MEMORY]);
        check(&[memory.clone(), cpu, alert(boot, MEMORY, Withdrawn)], &[CPU]);
        check(&[alert(boot, MEMORY, Cleared), memory], &[MEMORY]);
        check(&[alert(boot, CPU, AlertTransition::Unspecified)], &[]);
        check(&[alert(boot, 40, Raised)], &[40]);
    }

    #[test]
    fn a_new_boot_starts_without_alerts() {
        let raised = alert(boot(3, 0), CPU, Raised);
        check(&[connect(boot(3, 0)), raised.clone(), connect(boot(3, 0))], &[CPU]);
        check(&[raised.clone(), connect(boot(4, 0))], &[]);
        check(&[raised.clone(), alert(boot(4, 0), MEMORY, Raised)], &[MEMORY]);
        // The state directory was lost, and the count with it.
        check(&[raised.clone(), connect(boot(1, 9))], &[]);
        check(&[raised.clone(), connect(boot(1, 9)), alert(boot(1, 9), MEMORY, Raised)], &[MEMORY]);
        // A plain client took the name over.
        check(&[raised, StatusRecord { boot: None, ..connect(boot(0, 0)) }], &[]);
    }

    #[test]
    fn an_alert_of_an_earlier_boot_that_comes_late_is_past() {
        let late = alert(boot(3, 0), CPU, Raised);
        check(&[connect(boot(4, 0)), late.clone()], &[]);
        check(&[alert(boot(4, 0), CPU, Raised), alert(boot(3, 0), CPU, Cleared)], &[CPU]);
        let loss = event(StatusEvent::AlertLoss, boot(3, 0));
        let standing = check(&[connect(boot(4, 0)), loss, late], &[]);
        assert_eq!(standing.uncertain().count(), 0);
    }

    #[test]
    fn boots_without_a_count_follow_each_other_as_they_come() {
        let first = alert(boot(0, 7), CPU, Raised);
        check(&[first.clone(), alert(boot(0, 5), MEMORY, Raised)], &[MEMORY]);
        check(&[first, connect(boot(0, 5))], &[]);
    }

    #[test]
    fn losses_make_an_agent_uncertain_until_its_next_boot() {
        let loss = event(StatusEvent::AlertLoss, boot(3, 0));
        let raised = alert(boot(3, 0), CPU, Raised);
        let standing = check(&[raised.clone(), loss.clone()], &[CPU]);
        assert_eq!(standing.uncertain().collect::<Vec<_>>(), ["a"]);
        let standing = check(&[raised, loss, connect(boot(4, 0))], &[]);
        assert_eq!(standing.uncertain().count(), 0);
    }

    #[test]
    fn what_is_remembered_of_an_agent_is_bounded() {
        let records: Vec<_> = (0..100).map(|metric| alert(boot(1, 0), metric, Raised)).collect();
        let standing = check(&records, &(0..64).collect::<Vec<_>>());
        assert_eq!(standing.uncertain().collect::<Vec<_>>(), ["a"]);
    }

    #[test]
    fn agents_are_apart_and_a_hello_names_the_boot_as_well() {
        let other = StatusRecord { agent_id: "b".into(), ..alert(boot(1, 0), CPU, Raised) };
        let hello = proto::Hello { boot: Some(boot(2, 0)), ..proto::Hello::default() };
        let connect = StatusRecord {
            boot: None,
            hello: Some(hello),
            ..event(StatusEvent::Connected, boot(0, 0))
        };
        let standing = check(&[alert(boot(1, 0), MEMORY, Raised), other, connect], &[CPU]);
        let (agent_id, boot, _) = standing.iter().next().unwrap();
        assert_eq!((agent_id, boot.counter), ("b", 1));
    }
}
