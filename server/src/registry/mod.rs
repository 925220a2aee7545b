//! What the server knows of each agent: those connected, here or to another server, and those seen before.
//!
//! [`Registry`] knows facts, not streams: it is told what happened and answers questions. It knows no clock and no
//! bus. [`News`] reads the topic agent-status for it.

mod identity;
mod news;

use std::collections::BTreeMap;

use agent_core::id::{AgentId, BootId};
use proto::{
    AgentInfo, AgentStatus, ConfigOutcome, ConfigReport, Hello, StatusEvent, StatusRecord,
};

use identity::Identity;
pub(crate) use identity::{Finding, Life, Trouble};
pub(crate) use news::News;

use crate::command::Holder;
use crate::ingest::SessionKey;
use crate::limits::PRESENCE_MAX_MS;

/// Which form of the wire a peer speaks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Dialect {
    /// Only the fixed fields.
    #[default]
    Plain,
    /// It sent a Hello and got a Welcome.
    Full,
}

impl Dialect {
    const fn name(self) -> &'static str {
        match self {
            Self::Plain => "plain",
            Self::Full => "full",
        }
    }
}

/// A stream that begins.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Connection<'a> {
    pub(crate) key: SessionKey,
    /// This server.
    pub(crate) server_id: &'a str,
    pub(crate) hello: Option<&'a Hello>,
    pub(crate) peer: &'a str,
    /// Unix milliseconds.
    pub(crate) at_ms: i64,
}

/// The registry has no room, because every agent in it is connected.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the server has {max} agents connected and takes no more")]
pub(crate) struct RegistryFull {
    max: usize,
}

#[derive(Debug, Default)]
struct Agent {
    live: Option<Live>,
    elsewhere: Option<Elsewhere>,
    /// The server of the latest stream.
    server_id: String,
    last_seen_ms: i64,
    boot: Option<BootId>,
    version: String,
    host_name: String,
    target: String,
    peer: String,
    dialect: Dialect,
    config_wanted: u64,
    config_applied: u64,
    config_error: String,
    /// What it said last of a configuration.
    config_reported: Option<ConfigReport>,
    status: Option<Box<AgentStatus>>,
    identity: Identity,
    /// Highest sequence of `boot` that is durable; 0 for none.
    acknowledged: u64,
    /// Highest sequence of `boot` that an earlier run of the server recorded as lost; 0 for none.
    recorded_lost: u64,
    /// Highest sequence of the alerts of `boot` that this run of the server has stored, or their loss; 0 for none.
    alerts_stored: u64,
}

#[derive(Clone, Copy, Debug)]
struct Live {
    key: SessionKey,
    since_ms: i64,
    /// The bus has shown that it began: what comes there later is later.
    is_told: bool,
}

/// A stream to another server, as that one says.
#[derive(Clone, Debug)]
struct Elsewhere {
    server_id: String,
    since_ms: i64,
    /// By this server's clock: Unix milliseconds.
    heard_ms: i64,
}

/// All agents by id, at most `max`. When it is full, the agent that was away longest is forgotten.
#[derive(Debug)]
pub(crate) struct Registry {
    agents: BTreeMap<AgentId, Agent>,
    max: usize,
}

impl Registry {
    pub(crate) fn new(max: usize) -> Self {
        assert!(0 < max);
        Self { agents: BTreeMap::new(), max }
    }

    /// Another server has put `record` on the bus at `now_ms`.
    pub(crate) fn hear(&mut self, id: &AgentId, record: StatusRecord, now_ms: i64) {
        let server_id = record.server_id.clone();
        let since_ms = record.timestamp_ms;
        let event = StatusEvent::try_from(record.event).unwrap_or_default();
        if matches!(
            event,
            StatusEvent::CommandDelivered
                | StatusEvent::CommandRunning
                | StatusEvent::CommandClosed
        ) {
            return;
        }
        self.fold(id, record);
        self.with(id, |agent| {
            let known = agent.elsewhere.as_mut().filter(|known| known.server_id == server_id);
            match (event, known) {
                (StatusEvent::Disconnected, Some(_)) => agent.elsewhere = None,
                (StatusEvent::Connected, _) | (StatusEvent::Heartbeat, None) => {
                    agent.server_id.clone_from(&server_id);
                    agent.elsewhere = Some(Elsewhere { server_id, since_ms, heard_ms: now_ms });
                }
                (_, Some(known)) => known.heard_ms = now_ms,
                (_, None) => {}
            }
        });
    }

    /// Takes in what a record of the topic agent-status says of who uses the id; the bus took it at `stored_ms`. For every
    /// record of the topic, of this server too, in the order of the bus. Answers what is wrong, if that is news.
    pub(crate) fn identify(
        &mut self,
        id: &AgentId,
        record: &StatusRecord,
        stored_ms: i64,
    ) -> Option<Finding> {
        let trouble = match record.event() {
            StatusEvent::Connected => {
                let life = Life::of(record)?;
                return self.entry(id).ok()?.identity.introduce(life, stored_ms);
            }
            StatusEvent::DuplicateId => Trouble::Duplicate,
            StatusEvent::CloneSuspected => Trouble::Clone,
            StatusEvent::Unspecified
            | StatusEvent::Disconnected
            | StatusEvent::Heartbeat
            | StatusEvent::ConfigApplied
            | StatusEvent::ConfigRejected
            | StatusEvent::ConfigRolledBack
            | StatusEvent::Loss
            | StatusEvent::Alert
            | StatusEvent::AlertLoss
            | StatusEvent::CommandDelivered
            | StatusEvent::CommandRunning
            | StatusEvent::CommandClosed => return None,
        };
        self.entry(id).ok()?.identity.note(trouble, stored_ms, record.detail.clone());
        None
    }

    /// What would be wrong if `life` had the id now.
    pub(crate) fn judge(&self, id: &AgentId, life: &Life) -> Option<Finding> {
        self.agents.get(id)?.identity.judge(life)
    }

    /// The bus has shown that the stream of `id` to this server began.
    pub(crate) fn told(&mut self, id: &AgentId) {
        self.with(id, |agent| {
            if let Some(live) = &mut agent.live {
                live.is_told = true;
            }
        });
    }

    /// Whether `id` has a stream to this server that began before what the bus shows now.
    pub(crate) fn was_here_before(&self, id: &AgentId) -> bool {
        let live = self.agents.get(id).and_then(|agent| agent.live);
        live.is_some_and(|live| live.is_told)
    }

    /// Why commands to `id` must be forced at `now_ms`, Unix milliseconds; none when they need not be.
    pub(crate) fn doubt(&self, id: &AgentId, now_ms: i64) -> Option<&str> {
        self.agents.get(id)?.identity.doubt(now_ms)
    }

    /// Takes in a record of the topic agent-status. It does not say who is connected now.
    pub(crate) fn fold(&mut self, id: &AgentId, record: StatusRecord) {
        let Ok(agent) = self.entry(id) else { return };
        agent.last_seen_ms = agent.last_seen_ms.max(record.timestamp_ms);
        let event = StatusEvent::try_from(record.event).unwrap_or_default();
        match event {
            StatusEvent::Connected => {
                agent.introduce(record.hello.as_ref(), &record.peer);
                agent.server_id = record.server_id;
            }
            StatusEvent::Heartbeat => agent.status = record.status.map(Box::new),
            StatusEvent::ConfigApplied
            | StatusEvent::ConfigRejected
            | StatusEvent::ConfigRolledBack => {
                if let Some(report) = &record.config {
                    agent.report(report);
                }
            }
            StatusEvent::Loss if record.boot.map(BootId::from) == agent.boot => {
                let last = record.losses.iter().map(|loss| loss.last).max();
                agent.recorded_lost = agent.recorded_lost.max(last.unwrap_or(0));
            }
            StatusEvent::Disconnected
            | StatusEvent::Loss
            | StatusEvent::Alert
            | StatusEvent::AlertLoss
            | StatusEvent::CommandDelivered
            | StatusEvent::CommandRunning
            | StatusEvent::CommandClosed
            | StatusEvent::CloneSuspected
            | StatusEvent::DuplicateId
            | StatusEvent::Unspecified => {}
        }
    }

    /// A stream of `id` begins. It replaces the one before.
    pub(crate) fn connect(
        &mut self,
        id: &AgentId,
        connection: Connection<'_>,
    ) -> Result<(), RegistryFull> {
        let agent = self.entry(id)?;
        agent.live = Some(Live { key: connection.key, since_ms: connection.at_ms, is_told: false });
        agent.elsewhere = None;
        connection.server_id.clone_into(&mut agent.server_id);
        agent.last_seen_ms = connection.at_ms;
        agent.introduce(connection.hello, connection.peer);
        Ok(())
    }

    /// The stream `key` of `id` has ended. Nothing changes when another one has replaced it.
    pub(crate) fn disconnect(&mut self, id: &AgentId, key: SessionKey) {
        if let Some(agent) = self.agents.get_mut(id)
            && agent.live.is_some_and(|live| live.key == key)
        {
            agent.live = None;
        }
    }

    /// Something came from `id`.
    pub(crate) fn heard(&mut self, id: &AgentId, at_ms: i64) {
        self.with(id, |agent| agent.last_seen_ms = at_ms);
    }

    pub(crate) fn status(&mut self, id: &AgentId, status: Box<AgentStatus>) {
        self.with(id, |agent| agent.status = Some(status));
    }

    pub(crate) fn config_report(&mut self, id: &AgentId, report: &ConfigReport) {
        self.with(id, |agent| agent.report(report));
    }

    /// What `id` said last of a configuration, if it is of `revision` or a later one.
    pub(crate) fn config_reported(&self, id: &AgentId, revision: u64) -> Option<ConfigReport> {
        let report = self.agents.get(id)?.config_reported.as_ref();
        report.filter(|report| revision <= report.revision).cloned()
    }

    /// Everything of `boot` up to `sequence` is durable.
    pub(crate) fn acknowledge(&mut self, id: &AgentId, boot: BootId, sequence: u64) {
        self.with(id, |agent| {
            if agent.boot == Some(boot) {
                agent.acknowledged = agent.acknowledged.max(sequence);
            }
        });
    }

    /// Every alert of `boot` up to `sequence` is durable, or its loss is.
    pub(crate) fn alerts_stored(&mut self, id: &AgentId, boot: BootId, sequence: u64) {
        self.with(id, |agent| {
            if agent.boot == Some(boot) {
                agent.alerts_stored = agent.alerts_stored.max(sequence);
            }
        });
    }

    /// The store holds `revision` for `id`.
    pub(crate) fn config_wanted(&mut self, id: &AgentId, revision: u64) {
        self.with(id, |agent| agent.want(revision));
    }

    /// The layer below all agents was changed at `revision`.
    pub(crate) fn config_wanted_of_all(&mut self, revision: u64) {
        for agent in self.agents.values_mut() {
            agent.want(revision);
        }
    }

    /// Highest sequence of exactly this boot known to be durable; 0 for none.
    pub(crate) fn acknowledged(&self, id: &AgentId, boot: BootId) -> u64 {
        let agent = self.agents.get(id);
        agent.filter(|agent| agent.boot == Some(boot)).map_or(0, |agent| agent.acknowledged)
    }

    /// Highest sequence of exactly this boot that is known to be durable or recorded as lost; 0 for none.
    ///
    /// Not for an agent to hear: a loss may reach above records that it still holds.
    pub(crate) fn accounted(&self, id: &AgentId, boot: BootId) -> u64 {
        let agent = self.agents.get(id).filter(|agent| agent.boot == Some(boot));
        agent.map_or(0, |agent| agent.acknowledged.max(agent.recorded_lost))
    }

    /// Highest sequence of the alerts of exactly this boot that this run has stored, or their loss; 0 for none.
    pub(crate) fn last_alert(&self, id: &AgentId, boot: BootId) -> u64 {
        let agent = self.agents.get(id);
        agent.filter(|agent| agent.boot == Some(boot)).map_or(0, |agent| agent.alerts_stored)
    }

    /// Unix milliseconds of the last message of `id`; none if it was never seen.
    pub(crate) fn last_seen_ms(&self, id: &AgentId) -> Option<i64> {
        self.agents.get(id).map(|agent| agent.last_seen_ms)
    }

    /// Which server has the stream of `id` at `now_ms`, Unix milliseconds.
    pub(crate) fn holder(&self, id: &AgentId, now_ms: i64) -> Holder {
        let agent = self.agents.get(id).filter(|agent| agent.live.is_none());
        match agent.and_then(|agent| agent.elsewhere(now_ms)) {
            Some(_) => Holder::AnotherServer,
            None => Holder::Nobody,
        }
    }

    pub(crate) fn ids(&self) -> Vec<AgentId> {
        self.agents.keys().cloned().collect()
    }

    /// The agents of `ids` that are known, or all of them when `ids` is empty; sorted by id. `now_ms` in Unix
    /// milliseconds.
    pub(crate) fn list(&self, ids: &[AgentId], now_ms: i64) -> Vec<AgentInfo> {
        self.agents
            .iter()
            .filter(|(id, _)| ids.is_empty() || ids.contains(id))
            .map(|(id, agent)| agent.info(id, now_ms))
            .collect()
    }

    pub(crate) fn known_count(&self) -> usize {
        self.agents.len()
    }

    pub(crate) fn connected_count(&self) -> usize {
        self.agents.values().filter(|a| a.live.is_some()).count()
    }

    fn with(&mut self, id: &AgentId, change: impl FnOnce(&mut Agent)) {
        if let Some(agent) = self.agents.get_mut(id) {
            change(agent);
        }
    }

    fn entry(&mut self, id: &AgentId) -> Result<&mut Agent, RegistryFull> {
        if !self.agents.contains_key(id) && self.agents.len() >= self.max {
            let away = self.agents.iter().filter(|(_, agent)| agent.live.is_none());
            let oldest = away.min_by_key(|(_, agent)| agent.last_seen_ms);
            let oldest = oldest.map(|(id, _)| id.clone());
            let oldest = oldest.ok_or(RegistryFull { max: self.max })?;
            self.agents.remove(&oldest);
        }
        Ok(self.agents.entry(id.clone()).or_default())
    }
}

impl Agent {
    fn introduce(&mut self, hello: Option<&Hello>, peer: &str) {
        peer.clone_into(&mut self.peer);
        let Some(hello) = hello else {
            self.dialect = Dialect::Plain;
            self.boot = None;
            return;
        };
        self.dialect = Dialect::Full;
        let boot = hello.boot.map(BootId::from);
        if self.boot != boot {
            self.boot = boot;
            self.acknowledged = 0;
            self.recorded_lost = 0;
            self.alerts_stored = 0;
            self.status = None;
        }
        self.version.clone_from(&hello.version);
        self.host_name.clone_from(&hello.host_name);
        self.target.clone_from(&hello.target);
        self.config_applied = hello.config_revision;
    }

    fn report(&mut self, report: &ConfigReport) {
        match ConfigOutcome::try_from(report.outcome).unwrap_or_default() {
            ConfigOutcome::Applied => {
                self.config_applied = report.revision;
                self.config_error.clear();
            }
            ConfigOutcome::RolledBack => {
                self.config_applied = report.running;
                self.config_error =
                    format!("revision {} was rolled back: {}", report.revision, report.reason);
            }
            ConfigOutcome::Rejected => {
                self.config_error =
                    format!("revision {} was rejected: {}", report.revision, report.reason);
            }
            ConfigOutcome::Unspecified => return,
        }
        self.config_reported = Some(report.clone());
    }

    fn want(&mut self, revision: u64) {
        self.config_wanted = self.config_wanted.max(revision);
    }

    /// The other server that has its stream. One that was killed does not say that it has none any more, so an agent
    /// that was not heard of there for a while has left it. Of a plain client, which sends no heartbeats, that is said
    /// too early; nothing hangs on it but what is shown.
    fn elsewhere(&self, now_ms: i64) -> Option<&Elsewhere> {
        let heard = |known: &&Elsewhere| now_ms - known.heard_ms <= PRESENCE_MAX_MS;
        self.elsewhere.as_ref().filter(heard)
    }

    fn info(&self, id: &AgentId, now_ms: i64) -> AgentInfo {
        let here = self.live.map(|live| live.since_ms);
        let since_ms = here.or_else(|| Some(self.elsewhere(now_ms)?.since_ms));
        AgentInfo {
            agent_id: id.to_string(),
            connected: since_ms.is_some(),
            connected_since_ms: since_ms.unwrap_or(0),
            last_seen_ms: self.last_seen_ms,
            boot: self.boot.map(Into::into),
            version: self.version.clone(),
            host_name: self.host_name.clone(),
            target: self.target.clone(),
            peer: self.peer.clone(),
            config_wanted: self.config_wanted,
            config_applied: self.config_applied,
            config_error: self.config_error.clone(),
            status: self.status.as_deref().cloned(),
            dialect: self.dialect.name().to_owned(),
            server_id: self.server_id.clone(),
            troubles: self.identity.troubles(now_ms),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BOOT: BootId = BootId { counter: 1, nonce: 7 };

    fn id(text: &str) -> AgentId {
        text.parse().unwrap()
    }

    fn hello(boot: BootId) -> Hello {
        Hello { boot: Some(boot.into()), version: "0.1.0".into(), ..Hello::default() }
    }

    fn record(event: StatusEvent, timestamp_ms: i64) -> StatusRecord {
        StatusRecord {
            agent_id: "a".into(),
            event: event.into(),
            timestamp_ms,
            ..StatusRecord::default()
        }
    }

    fn connection(key: u64, hello: Option<&Hello>) -> Connection<'_> {
        let (key, server_id, peer) = (SessionKey(key), "here", "127.0.0.1:9");
        Connection { key, server_id, hello, peer, at_ms: 1000 }
    }

    #[test]
    fn a_replaced_stream_that_ends_late_changes_nothing() {
        let mut registry = Registry::new(10);
        let hello = hello(BOOT);
        registry.connect(&id("a"), connection(1, Some(&hello))).unwrap();
        registry.connect(&id("a"), connection(2, Some(&hello))).unwrap();
        registry.disconnect(&id("a"), SessionKey(1));
        assert!(registry.list(&[], 0)[0].connected);
        registry.disconnect(&id("a"), SessionKey(2));
        assert!(!registry.list(&[], 0)[0].connected);
    }

    #[test]
    fn acknowledgements_count_for_their_boot_only() {
        let mut registry = Registry::new(10);
        registry.connect(&id("a"), connection(1, Some(&hello(BOOT)))).unwrap();
        registry.acknowledge(&id("a"), BOOT, 64);
        registry.acknowledge(&id("a"), BOOT, 32);
        assert_eq!(registry.acknowledged(&id("a"), BOOT), 64);
        let next = BootId { counter: 2, nonce: 8 };
        assert_eq!(registry.acknowledged(&id("a"), next), 0);
        registry.connect(&id("a"), connection(2, Some(&hello(next)))).unwrap();
        registry.acknowledge(&id("a"), BOOT, 128);
        assert_eq!(registry.acknowledged(&id("a"), BOOT), 0);
        assert_eq!(registry.acknowledged(&id("a"), next), 0);
    }

    #[test]
    fn alerts_are_remembered_for_their_boot_only() {
        let mut registry = Registry::new(10);
        registry.connect(&id("a"), connection(1, Some(&hello(BOOT)))).unwrap();
        registry.alerts_stored(&id("a"), BOOT, 5);
        registry.alerts_stored(&id("a"), BOOT, 3);
        assert_eq!(registry.last_alert(&id("a"), BOOT), 5);
        let next = BootId { counter: 2, nonce: 8 };
        registry.connect(&id("a"), connection(2, Some(&hello(next)))).unwrap();
        assert_eq!(registry.last_alert(&id("a"), BOOT), 0);
        assert_eq!(registry.last_alert(&id("a"), next), 0);
    }

    #[test]
    fn full_registry_forgets_who_was_away_longest() {
        let mut registry = Registry::new(2);
        registry.connect(&id("a"), connection(1, None)).unwrap();
        registry.connect(&id("b"), connection(2, None)).unwrap();
        assert!(registry.connect(&id("c"), connection(3, None)).is_err());
        registry.heard(&id("a"), 3000);
        registry.disconnect(&id("a"), SessionKey(1));
        registry.disconnect(&id("b"), SessionKey(2));
        registry.connect(&id("c"), connection(3, None)).unwrap();
        assert_eq!(registry.last_seen_ms(&id("b")), None);
        assert_eq!(registry.ids(), [id("a"), id("c")]);
    }

    #[test]
    fn history_makes_agents_known_and_away() {
        let mut registry = Registry::new(2);
        registry.fold(
            &id("a"),
            StatusRecord {
                hello: Some(hello(BOOT)),
                peer: "127.0.0.1:5".into(),
                ..record(StatusEvent::Connected, 10)
            },
        );
        registry.fold(
            &id("a"),
            StatusRecord {
                config: Some(ConfigReport {
                    revision: 4,
                    outcome: ConfigOutcome::Rejected.into(),
                    reason: "interval: 0 is below 0.1".into(),
                    overridden: Vec::new(),
                    running: 3,
                }),
                ..record(StatusEvent::ConfigRejected, 20)
            },
        );
        registry.fold(&id("a"), record(StatusEvent::Disconnected, 15));
        let info = &registry.list(&[id("a")], 0)[0];
        assert!(!info.connected);
        assert_eq!(info.last_seen_ms, 20);
        assert_eq!(info.dialect, "full");
        assert_eq!(info.version, "0.1.0");
        assert_eq!(info.config_error, "revision 4 was rejected: interval: 0 is below 0.1");
        assert_eq!(registry.connected_count(), 0);
        assert!(registry.list(&[id("b")], 0).is_empty());
    }

    #[test]
    fn losses_of_an_earlier_run_are_accounted_for_and_not_acknowledged() {
        let mut registry = Registry::new(2);
        let record = |event: StatusEvent| StatusRecord {
            event: event.into(),
            boot: Some(BOOT.into()),
            hello: Some(hello(BOOT)),
            losses: vec![proto::Loss { first: 5, last: 9, ..proto::Loss::default() }],
            ..StatusRecord::default()
        };
        registry.fold(&id("a"), record(StatusEvent::Connected));
        registry.fold(&id("a"), record(StatusEvent::Loss));
        assert_eq!(registry.accounted(&id("a"), BOOT), 9);
        assert_eq!(registry.acknowledged(&id("a"), BOOT), 0);
        assert_eq!(registry.accounted(&id("a"), BootId { counter: 2, nonce: 8 }), 0);
    }

    #[test]
    fn wanted_revision_only_rises() {
        let mut registry = Registry::new(2);
        registry.connect(&id("a"), connection(1, None)).unwrap();
        registry.config_wanted(&id("a"), 5);
        registry.config_wanted_of_all(3);
        assert_eq!(registry.list(&[], 0)[0].config_wanted, 5);
        registry.config_wanted_of_all(9);
        assert_eq!(registry.list(&[], 0)[0].config_wanted, 9);
    }

    fn elsewhere(event: StatusEvent, server_id: &str) -> StatusRecord {
        let hello = (event == StatusEvent::Connected).then(|| hello(BOOT));
        StatusRecord { server_id: server_id.into(), hello, ..record(event, 500) }
    }

    #[test]
    fn an_agent_of_another_server_is_connected_until_that_one_falls_silent() {
        let mut registry = Registry::new(10);
        registry.fold(&id("a"), elsewhere(StatusEvent::Connected, "s2"));
        assert_eq!(registry.holder(&id("a"), 0), Holder::Nobody, "that was before");
        registry.hear(&id("a"), elsewhere(StatusEvent::Heartbeat, "s2"), 1000);
        assert_eq!(registry.holder(&id("a"), 1000), Holder::AnotherServer);
        let info = &registry.list(&[], 1000)[0];
        assert_eq!((info.connected, info.connected_since_ms), (true, 500));
        assert_eq!(info.server_id, "s2");

        registry.hear(&id("a"), elsewhere(StatusEvent::Connected, "s3"), 2000);
        registry.hear(&id("a"), elsewhere(StatusEvent::Disconnected, "s2"), 2001);
        assert_eq!(registry.holder(&id("a"), 3000), Holder::AnotherServer, "s2 said it late");
        assert_eq!(registry.holder(&id("a"), 2001 + PRESENCE_MAX_MS), Holder::Nobody);
        registry.hear(&id("a"), elsewhere(StatusEvent::Heartbeat, "s3"), 400_000);
        assert_eq!(registry.holder(&id("a"), 400_000), Holder::AnotherServer);
        registry.hear(&id("a"), elsewhere(StatusEvent::Disconnected, "s3"), 400_001);
        assert_eq!(registry.holder(&id("a"), 400_001), Holder::Nobody);
        assert!(!registry.list(&[], 400_001)[0].connected);
    }

    #[test]
    fn the_stream_that_this_server_has_counts() {
        let mut registry = Registry::new(10);
        registry.hear(&id("a"), elsewhere(StatusEvent::Connected, "s2"), 1000);
        let hello = hello(BOOT);
        registry.connect(&id("a"), connection(1, Some(&hello))).unwrap();
        assert_eq!(registry.holder(&id("a"), 1000), Holder::Nobody);
        let info = &registry.list(&[], 1000)[0];
        assert_eq!((info.server_id.as_str(), info.connected_since_ms), ("here", 1000));
    }

    #[test]
    fn what_is_wrong_with_an_identity_is_shown_with_the_agent() {
        let mut registry = Registry::new(10);
        let connected = |boot| StatusRecord {
            hello: Some(hello(boot)),
            server_id: "s1".into(),
            ..record(StatusEvent::Connected, 0)
        };
        assert_eq!(registry.identify(&id("a"), &connected(BOOT), 0), None);
        let next = BootId { counter: 2, nonce: 8 };
        assert_eq!(registry.identify(&id("a"), &connected(next), 0), None);
        let copy = BootId { counter: 2, nonce: 9 };
        let finding = registry.identify(&id("a"), &connected(copy), 1000).unwrap();
        assert_eq!(finding.trouble, Trouble::Clone);
        assert_eq!(registry.doubt(&id("a"), 1000), Some(finding.detail.as_str()));
        assert_eq!(registry.doubt(&id("b"), 1000), None);
        let told =
            StatusRecord { detail: "two of them".into(), ..record(StatusEvent::DuplicateId, 0) };
        assert_eq!(registry.identify(&id("a"), &told, 2000), None);
        let troubles = &registry.list(&[id("a")], 2000)[0].troubles;
        let expected = format!("clone suspected: {}", finding.detail);
        assert_eq!(*troubles, ["duplicate id: two of them".to_owned(), expected]);
    }

    #[test]
    fn a_stream_was_here_before_once_the_bus_shows_it() {
        let mut registry = Registry::new(10);
        registry.told(&id("a"));
        assert!(!registry.was_here_before(&id("a")));
        let hello = hello(BOOT);
        registry.connect(&id("a"), connection(1, Some(&hello))).unwrap();
        assert!(!registry.was_here_before(&id("a")));
        registry.told(&id("a"));
        assert!(registry.was_here_before(&id("a")));
        registry.connect(&id("a"), connection(2, Some(&hello))).unwrap();
        assert!(!registry.was_here_before(&id("a")), "that is another stream");
        registry.disconnect(&id("a"), SessionKey(2));
        registry.told(&id("a"));
        assert!(!registry.was_here_before(&id("a")));
    }
}
