//! One stream of the simulated server. Mirrors `ingest::task`: who claims, who waits, and in which order things end.

use std::collections::VecDeque;

use agent_core::id::AgentId;
use agent_core::time::Instant;
use prost::Message as _;
use proto::{Command, ConfigPush, MetricsRequest, StatusEvent, StatusRecord};

use super::{Context, DIALECT, Effect, Ending, Publish, Publisher, Server, StreamId, last_stored};
use crate::clock::Now;
use crate::ingest::{
    CLAIM_ATTEMPTS, Claimant, FAREWELL_MAX, Fact, Introduction, LAST_STORE_MAX, Opening, Session,
    SessionKey, Verdict,
};
use crate::limits::{CONTEST, MESSAGE_BYTES_MAX, STUCK_AFTER};
use crate::registry::Connection;
use crate::rejection::Reason;

/// As `ingest::handle::Directive`.
#[derive(Debug)]
pub(super) enum Directive {
    Command(Command),
    Config(ConfigPush),
    Ping,
    Superseded,
}

/// What a stream has to read.
#[derive(Debug)]
pub(super) enum Inbound {
    Message(Vec<u8>),
    End,
}

/// How far a stream has come.
#[derive(Debug)]
pub(super) enum Stage {
    /// It waits for the holder of its id to show that it lives, or not.
    Contest { incumbent: StreamId, heard: u64, until: Instant, attempt: u32 },
    /// It waits for the one before to end.
    Succession { incumbent: StreamId, until: Instant },
    /// It is served.
    Open { session: Box<Session>, publishing: Option<Publish>, stuck_at: Option<Instant> },
    /// It waits for what is being stored, because the server ends.
    Stopping { session: Box<Session>, publishing: Publish, until: Instant },
    /// It waits for the record of its end.
    Farewell { publishing: Publish, until: Instant, ending: Ending, why: String },
    /// It is about to be removed.
    Ended,
}

#[derive(Debug)]
pub(super) struct Stream {
    key: SessionKey,
    peer: String,
    introduction: Introduction,
    pub(super) stage: Stage,
    pub(super) inbound: VecDeque<Inbound>,
    pub(super) directives: VecDeque<Directive>,
    /// Messages that came from the agent.
    heard: u64,
}

impl Stream {
    pub(super) fn new(key: SessionKey, peer: &str, introduction: Introduction) -> Self {
        Self {
            key,
            peer: peer.to_owned(),
            introduction,
            stage: Stage::Ended,
            inbound: VecDeque::new(),
            directives: VecDeque::new(),
            heard: 0,
        }
    }

    fn agent(&self) -> AgentId {
        self.introduction.agent.clone()
    }

    const fn claimant(&self) -> Claimant {
        let Introduction { boot, hello, .. } = &self.introduction;
        Claimant::Full { boot: *boot, session: hello.session }
    }

    pub(super) fn unread_bytes(&self) -> usize {
        let bytes = |inbound: &Inbound| match inbound {
            Inbound::Message(bytes) => bytes.len(),
            Inbound::End => 0,
        };
        self.inbound.iter().map(bytes).sum()
    }

    pub(super) fn deadline(&self) -> Option<Instant> {
        match &self.stage {
            Stage::Contest { until, .. }
            | Stage::Succession { until, .. }
            | Stage::Stopping { until, .. }
            | Stage::Farewell { until, .. } => Some(*until),
            Stage::Open { stuck_at, .. } => *stuck_at,
            Stage::Ended => None,
        }
    }

    /// The transport takes a message.
    pub(super) fn poll_send(&mut self, now: Instant) -> Option<Command> {
        let Stage::Open { session, stuck_at, .. } = &mut self.stage else { return None };
        let message = session.poll_transmit()?;
        *stuck_at = session.has_transmit().then(|| now + STUCK_AFTER);
        Some(message)
    }
}

impl Server {
    /// Mirrors `ingest::task::claim`.
    pub(super) fn claim(&mut self, cx: Context<'_>, id: StreamId) {
        self.claim_again(cx, id, 1);
    }

    fn claim_again(&mut self, cx: Context<'_>, id: StreamId, attempt: u32) {
        let Some(stream) = self.streams.get(&id) else { return };
        let (agent, key, claimant) = (stream.agent(), stream.key, stream.claimant());
        match self.claims.claim(&agent, key, claimant, id) {
            Verdict::Granted => self.begin(cx, id),
            Verdict::Succeeded(incumbent) => self.succeed(cx, id, incumbent),
            Verdict::Outdated(_) => self.refuse(id, "a newer stream of this agent is open"),
            Verdict::Contested(_) if CLAIM_ATTEMPTS < attempt => {
                self.refuse(id, "too many streams claim the id");
            }
            Verdict::Contested(incumbent) => {
                let heard = self.streams.get(&incumbent).map_or(0, |stream| stream.heard);
                self.direct(incumbent, Directive::Ping).ok();
                let until = cx.now.monotonic + CONTEST;
                self.set_stage(id, Stage::Contest { incumbent, heard, until, attempt });
                self.pump(cx, incumbent);
            }
        }
    }

    fn refuse(&mut self, id: StreamId, why: &str) {
        self.streams.remove(&id);
        self.effects.push_back(Effect::Close(id, Ending::Refused, why.to_owned()));
    }

    /// Mirrors `ingest::task::succeed`.
    fn succeed(&mut self, cx: Context<'_>, id: StreamId, incumbent: StreamId) {
        let until = cx.now.monotonic + CONTEST;
        self.set_stage(id, Stage::Succession { incumbent, until });
        self.direct(incumbent, Directive::Superseded).ok();
        self.pump(cx, incumbent);
        if !self.streams.contains_key(&incumbent) {
            self.begin_if_waiting(cx, id);
        }
    }

    fn begin_if_waiting(&mut self, cx: Context<'_>, id: StreamId) {
        let waits = |stream: &Stream| matches!(stream.stage, Stage::Succession { .. });
        if self.streams.get(&id).is_some_and(waits) {
            self.begin(cx, id);
        }
    }

    fn set_stage(&mut self, id: StreamId, stage: Stage) {
        if let Some(stream) = self.streams.get_mut(&id) {
            stream.stage = stage;
        }
    }

    /// Mirrors `ingest::task::serve` from where the id is held.
    fn begin(&mut self, cx: Context<'_>, id: StreamId) {
        let now = Now::from(cx.now);
        let Some(stream) = self.streams.get_mut(&id) else { return };
        let Introduction { agent, boot, hello } = stream.introduction.clone();
        let connection = Connection {
            key: stream.key,
            server_id: &self.id,
            hello: Some(&hello),
            peer: &stream.peer,
            at_ms: now.unix_ms,
        };
        if self.registry.connect(&agent, connection).is_err() {
            self.claims.release(&agent, stream.key);
            self.streams.remove(&id);
            let why = "the server has too many agents".to_owned();
            return self.effects.push_back(Effect::Close(id, Ending::Failed, why));
        }
        let opening = Opening::Full(stream.introduction.clone());
        let mut session = Session::open(now, opening, &self.id, &stream.peer);
        self.registry.acknowledge(&agent, boot, hello.acknowledged);
        self.registry.alerts_stored(&agent, boot, hello.alerts_acknowledged);
        self.registry.acknowledge(&agent, boot, last_stored(cx, &agent, boot));
        session.handle_resumed(self.registry.accounted(&agent, boot));
        session.handle_alerts_stored(self.registry.last_alert(&agent, boot));
        let key = stream.key;
        let config = self.configs.get(&agent).cloned();
        if let Some(push) = config {
            self.registry.config_wanted(&agent, push.revision);
            session.handle_config(push);
        }
        stream.stage = Stage::Open { session: Box::new(session), publishing: None, stuck_at: None };
        self.pending.handle_connected(&agent, key, DIALECT);
        self.act(now);
        self.pump(cx, id);
    }

    /// Does what a stream can do without waiting. Mirrors `ingest::task::drive`.
    pub(super) fn pump(&mut self, cx: Context<'_>, id: StreamId) {
        let now = Now::from(cx.now);
        self.ready.insert(id);
        loop {
            self.learn(id);
            let Some(stream) = self.streams.get_mut(&id) else { return };
            let Stage::Open { session, publishing, stuck_at } = &mut stream.stage else { return };
            if publishing.is_none()
                && let Some(records) = session.poll_publish()
            {
                let publish = self.publish(Publisher::Stream(id), records);
                if let Some(Stream { stage: Stage::Open { publishing, .. }, .. }) =
                    self.streams.get_mut(&id)
                {
                    *publishing = Some(publish);
                }
                continue;
            }
            *stuck_at = match *stuck_at {
                _ if !session.has_transmit() => None,
                None => Some(now.monotonic + STUCK_AFTER),
                since => since,
            };
            if session.wants_command()
                && let Some(directive) = stream.directives.pop_front()
            {
                if matches!(directive, Directive::Superseded) {
                    return self.end(cx, id, Ending::Failed, "replaced by a newer stream");
                }
                self.follow(id, directive);
                continue;
            }
            if !session.wants_message() || publishing.is_some() {
                return;
            }
            match stream.inbound.pop_front() {
                None => return,
                Some(Inbound::End) => {
                    return self.end(cx, id, Ending::Finished, "closed by the client");
                }
                Some(Inbound::Message(bytes)) => {
                    if !self.take(cx, id, &bytes) {
                        return;
                    }
                }
            }
        }
    }

    /// Mirrors `ingest::task::take`. Answers whether the stream goes on.
    fn take(&mut self, cx: Context<'_>, id: StreamId, bytes: &[u8]) -> bool {
        let now = Now::from(cx.now);
        let Some(stream) = self.streams.get_mut(&id) else { return false };
        let Stage::Open { session, .. } = &mut stream.stage else { return false };
        let message = match MetricsRequest::decode(bytes) {
            Ok(message) if bytes.len() <= MESSAGE_BYTES_MAX => message,
            Ok(_) => {
                self.end(cx, id, Ending::Failed, "refused: oversized");
                return false;
            }
            Err(error) => {
                self.end(cx, id, Ending::Failed, &format!("refused: {error}"));
                return false;
            }
        };
        stream.heard += 1;
        self.registry.heard(&stream.introduction.agent, now.unix_ms);
        let handled = session.handle_message(now, message);
        self.settle_contests(cx, id);
        if let Err(rejection) = handled {
            let ending = match rejection.reason {
                Reason::DuplicateId => Ending::Refused,
                _ => Ending::Failed,
            };
            self.end(cx, id, ending, &format!("refused: {rejection}"));
            return false;
        }
        true
    }

    /// Mirrors `ingest::task::follow`.
    fn follow(&mut self, id: StreamId, directive: Directive) {
        let Some(stream) = self.streams.get_mut(&id) else { return };
        let Stage::Open { session, .. } = &mut stream.stage else { return };
        match directive {
            Directive::Command(command) => {
                if super::rereads(&command)
                    && let Some(push) = self.configs.get(&stream.introduction.agent)
                {
                    session.handle_config_again(push.clone());
                }
                session.handle_command(command);
            }
            Directive::Config(push) => {
                session.handle_config(push);
            }
            Directive::Ping => session.handle_ping(),
            Directive::Superseded => debug_assert!(false, "ends the loop before"),
        }
    }

    /// Mirrors `ingest::task::learn`.
    fn learn(&mut self, id: StreamId) {
        let Some(stream) = self.streams.get_mut(&id) else { return };
        let (Stage::Open { session, .. } | Stage::Stopping { session, .. }) = &mut stream.stage
        else {
            return;
        };
        let agent = &stream.introduction.agent;
        while let Some(fact) = session.poll_fact() {
            match fact {
                Fact::Acknowledged { boot, sequence } => {
                    self.registry.acknowledge(agent, boot, sequence);
                }
                Fact::Alerts { boot, sequence, .. } => {
                    self.registry.alerts_stored(agent, boot, sequence);
                }
                Fact::Status(status) => self.registry.status(agent, status),
                Fact::Config(report) => self.registry.config_report(agent, &report),
                // Counted only.
                Fact::Stored { .. }
                | Fact::Lost { .. }
                | Fact::Unexplained { .. }
                | Fact::ReplayedAlerts { .. }
                | Fact::Answered => {}
            }
        }
    }

    pub(super) fn handle_stream_published(
        &mut self,
        cx: Context<'_>,
        id: StreamId,
        publish: Publish,
        is_durable: bool,
    ) {
        let Some(stream) = self.streams.get_mut(&id) else { return };
        match &mut stream.stage {
            Stage::Open { session, publishing, .. } if *publishing == Some(publish) => {
                *publishing = None;
                if is_durable {
                    session.handle_stored();
                    self.pump(cx, id);
                } else {
                    self.end(cx, id, Ending::Failed, "the bus cannot store now");
                }
            }
            Stage::Stopping { session, publishing, .. } if *publishing == publish => {
                if is_durable {
                    session.handle_stored();
                }
                self.end(cx, id, Ending::Failed, "server is shutting down");
            }
            Stage::Farewell { publishing, .. } if *publishing == publish => self.leave(cx, id),
            Stage::Contest { .. }
            | Stage::Succession { .. }
            | Stage::Open { .. }
            | Stage::Stopping { .. }
            | Stage::Farewell { .. }
            | Stage::Ended => {}
        }
    }

    pub(super) fn handle_stream_timeout(&mut self, cx: Context<'_>, id: StreamId) {
        let Some(stream) = self.streams.get_mut(&id) else { return };
        match &stream.stage {
            Stage::Contest { incumbent, attempt, .. } => {
                let (incumbent, attempt) = (*incumbent, *attempt);
                self.seize(cx, id, incumbent, attempt);
            }
            Stage::Succession { .. } => self.begin(cx, id),
            Stage::Open { .. } => self.end(cx, id, Ending::Failed, "took nothing for too long"),
            Stage::Stopping { .. } => self.end(cx, id, Ending::Failed, "server is shutting down"),
            Stage::Farewell { .. } => self.leave(cx, id),
            Stage::Ended => {}
        }
    }

    fn seize(&mut self, cx: Context<'_>, id: StreamId, incumbent: StreamId, attempt: u32) {
        let Some(stream) = self.streams.get(&id) else { return };
        let (agent, key, claimant) = (stream.agent(), stream.key, stream.claimant());
        let holder_key = self.streams.get(&incumbent).map(|holder| holder.key);
        let seized =
            holder_key.and_then(|holder| self.claims.seize(&agent, key, claimant, id, holder));
        match seized {
            Some(incumbent) => self.succeed(cx, id, incumbent),
            None => self.claim_again(cx, id, attempt + 1),
        }
    }

    /// The server ends. Mirrors the end of `ingest::task::drive` on `Event::Stopping`.
    pub(super) fn stop(&mut self, cx: Context<'_>, id: StreamId) {
        let Some(stream) = self.streams.get_mut(&id) else { return };
        match std::mem::replace(&mut stream.stage, Stage::Ended) {
            Stage::Open { session, publishing: Some(publishing), .. } => {
                let until = cx.now.monotonic + LAST_STORE_MAX;
                stream.stage = Stage::Stopping { session, publishing, until };
            }
            stage => {
                stream.stage = stage;
                self.end(cx, id, Ending::Failed, "server is shutting down");
            }
        }
    }

    /// Mirrors `ingest::task::settle`, the end of `serve` and of `run`.
    pub(super) fn end(&mut self, cx: Context<'_>, id: StreamId, ending: Ending, why: &str) {
        self.learn(id);
        let Some(stream) = self.streams.get_mut(&id) else { return };
        let mut session = match std::mem::replace(&mut stream.stage, Stage::Ended) {
            Stage::Open { session, .. } | Stage::Stopping { session, .. } => session,
            farewell @ Stage::Farewell { .. } => return stream.stage = farewell,
            Stage::Contest { .. } | Stage::Succession { .. } | Stage::Ended => {
                self.effects.push_back(Effect::Close(id, ending, why.to_owned()));
                return self.leave(cx, id);
            }
        };
        stream.inbound.clear();
        stream.directives.clear();
        let listens = !matches!(why, "connection lost" | "replaced by a newer stream");
        while listens && let Some(message) = session.poll_transmit() {
            self.effects.push_back(Effect::Send(id, message.encode_to_vec()));
        }
        let (agent, key) = (stream.agent(), stream.key);
        self.registry.disconnect(&agent, key);
        self.pending.handle_disconnected(&agent, key);
        let record = session.disconnected(cx.now.into(), why.to_owned());
        let publishing = self.publish(Publisher::Stream(id), vec![record]);
        let until = cx.now.monotonic + FAREWELL_MAX;
        let why = why.to_owned();
        self.set_stage(id, Stage::Farewell { publishing, until, ending, why });
    }

    /// The stream is gone: its seat is free, and whoever waits for that goes on.
    fn leave(&mut self, cx: Context<'_>, id: StreamId) {
        let Some(stream) = self.streams.remove(&id) else { return };
        let agent = stream.agent();
        self.registry.disconnect(&agent, stream.key);
        self.claims.release(&agent, stream.key);
        if let Stage::Farewell { ending, why, .. } = stream.stage {
            self.effects.push_back(Effect::Close(id, ending, why));
        }
        let of_it = |(other, stream): (&StreamId, &Stream)| match stream.stage {
            Stage::Succession { incumbent, .. } if incumbent == id => Some((*other, None)),
            Stage::Contest { incumbent, attempt, .. } if incumbent == id => {
                Some((*other, Some(attempt)))
            }
            _ => None,
        };
        let waiting: Vec<_> = self.streams.iter().filter_map(of_it).collect();
        for (other, attempt) in waiting {
            match attempt {
                None => self.begin(cx, other),
                Some(attempt) => self.claim_again(cx, other, attempt + 1),
            }
        }
    }

    /// The holder of an id was heard of while another stream contests it: that one is refused. Mirrors the rest of
    /// `ingest::task::claim`.
    fn settle_contests(&mut self, cx: Context<'_>, incumbent: StreamId) {
        let Some(holder) = self.streams.get(&incumbent) else { return };
        let (heard_now, agent, peer) = (holder.heard, holder.agent(), holder.peer.clone());
        let lost: Vec<StreamId> = self
            .streams
            .iter()
            .filter(|(_, other)| {
                matches!(&other.stage, Stage::Contest { incumbent: of, heard, .. }
                    if *of == incumbent && *heard < heard_now)
            })
            .map(|(other, _)| *other)
            .collect();
        for id in lost {
            self.refuse(id, "another live agent holds the id");
            if self.claims.duplicate_is_news(&agent, cx.now.monotonic) {
                let record = StatusRecord {
                    agent_id: agent.to_string(),
                    event: StatusEvent::DuplicateId.into(),
                    timestamp_ms: cx.now.unix_ms,
                    server_id: self.id.clone(),
                    detail: format!("{peer} holds the id"),
                    ..StatusRecord::default()
                };
                self.store(agent.clone(), bus::Payload::Status(Box::new(record)));
            }
        }
    }
}
