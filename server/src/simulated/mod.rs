//! The server without sockets, threads and clocks, for the simulator in `sim/`: the same rules, driven by whoever owns
//! time and the network.
//!
//! Sans-IO. The rules of streams, ids, commands and agents are the real ones. What this module adds is the order of
//! steps that `ingest::task`, `command::router`, `command::recovery` and `registry::news` have in their tasks; each
//! function names what it mirrors, and has no rule of its own. Only agents that introduce themselves are served.

mod stream;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use agent_core::id::{AgentId, BootId, CommandId};
use agent_core::time::Instant;
use bus::{Entry, Payload, Record};
use prost::Message as _;
use proto::command::CommandType;
use proto::{Command, CommandResponse, ConfigPush, Hello, StatusEvent, StatusRecord};

use self::stream::{Directive, Stream};
use crate::clock::Now;
use crate::command::{
    self, Answered, Limits, Mark, Order, Output, Pending, Submission, doubtful, id_of_place,
    read_from, time_left,
};
use crate::ingest::{Claimant, Claims, Introduction};
use crate::limits::{
    AGENT_COMMANDS_MAX, AGENTS_MAX, ANSWERS_MAX, COMMANDS_MAX, CONTEST, DIRECTIVES_MAX,
    MESSAGE_BYTES_MAX,
};
use crate::registry::{Dialect, Finding, Life, Registry, Trouble};
use crate::rpc::welcome;

/// Pause before a record of the router that could not be stored is stored again.
const STORE_AGAIN_AFTER: Duration = Duration::from_secs(1);

/// Records of the router that wait for the bus; further ones are dropped, as the router does.
const RECORDS_MAX: usize = COMMANDS_MAX;

/// A moment on both clocks of the server's host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Moment {
    /// Never falls.
    pub monotonic: Instant,
    /// Unix milliseconds; may jump.
    pub unix_ms: i64,
}

impl From<Moment> for Now {
    fn from(moment: Moment) -> Self {
        Self { monotonic: moment.monotonic, unix_ms: moment.unix_ms }
    }
}

/// Where the records of an agent end on the bus.
pub trait History {
    /// Boot and sequence of the agent's last record; none when it has none, or when this bus is not asked for it.
    fn last(&self, agent: &AgentId) -> Option<(BootId, u64)>;
}

/// What a call may look at.
#[derive(Clone, Copy)]
pub struct Context<'a> {
    /// When it happens.
    pub now: Moment,
    /// The bus.
    pub history: &'a dyn History,
}

impl std::fmt::Debug for Context<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Context").field("now", &self.now).finish_non_exhaustive()
    }
}

/// Names a stream. The simulator chooses it, and never uses one again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct StreamId(pub u64);

/// Names a publish.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Publish(u64);

/// How the server ends a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// As the client wished, or because it is gone.
    Finished,
    /// With a status that the agent takes for another one with its id.
    Refused,
    /// With any other status.
    Failed,
}

/// What a caller that has submitted a command hears.
#[derive(Clone, Debug, PartialEq)]
pub enum Reply {
    /// This is its answer.
    Answered(Box<CommandResponse>),
    /// It was not taken, and nobody will hear of it again; why.
    Refused(&'static str),
}

/// What must be done outside.
#[derive(Clone, Debug, PartialEq)]
pub enum Effect {
    /// Answer the call with these response headers.
    Welcome(StreamId, Vec<u8>),
    /// Put a message on the stream, whatever waits there.
    Send(StreamId, Vec<u8>),
    /// End the stream.
    Close(StreamId, Ending, String),
    /// Store these; answer with [`Server::handle_published`].
    Publish(Publish, Vec<Record>),
    /// Tell all callers that wait for the command.
    Reply(String, Reply),
}

/// Whose publish it is.
#[derive(Clone, Debug)]
enum Publisher {
    Stream(StreamId),
    Router,
    Caller(CommandId),
}

/// The holder of an id is asked for a sign of life, because another boot has turned up at another server.
#[derive(Debug)]
struct Probe {
    agent: AgentId,
    holder: StreamId,
    /// What had come from it before.
    heard: u64,
    until: Instant,
    newcomer: Box<StatusRecord>,
}

/// One run of a server, from its start to its kill.
#[derive(Debug)]
pub struct Server {
    id: String,
    is_shared: bool,
    registry: Registry,
    claims: Claims<StreamId>,
    pending: Pending,
    answered: Answered,
    streams: BTreeMap<StreamId, Stream>,
    configs: BTreeMap<AgentId, ConfigPush>,
    publishers: BTreeMap<Publish, Publisher>,
    next_publish: u64,
    /// At most [`RECORDS_MAX`].
    to_store: VecDeque<Record>,
    storing: Option<Record>,
    store_at: Option<Instant>,
    /// At most one for each stream that an agent opens to another server within [`CONTEST`].
    probes: Vec<Probe>,
    /// Drained by the simulator after each call.
    effects: VecDeque<Effect>,
    /// Streams that may have something to send.
    ready: BTreeSet<StreamId>,
}

impl Server {
    /// A server that begins, on a bus that it has alone or that several share. `grace` is what the router draws at
    /// random for a shared one.
    pub fn new(id: &str, is_shared: bool, grace: Duration) -> Self {
        Self {
            id: id.to_owned(),
            is_shared,
            registry: Registry::new(AGENTS_MAX),
            claims: Claims::new(),
            pending: Pending::new(Limits {
                per_agent: AGENT_COMMANDS_MAX,
                total: COMMANDS_MAX,
                answers: ANSWERS_MAX,
                grace: if is_shared { grace } else { Duration::ZERO },
            }),
            answered: Answered::new(ANSWERS_MAX),
            streams: BTreeMap::new(),
            configs: BTreeMap::new(),
            publishers: BTreeMap::new(),
            next_publish: 1,
            to_store: VecDeque::new(),
            storing: None,
            store_at: None,
            probes: Vec::new(),
            effects: VecDeque::new(),
            ready: BTreeSet::new(),
        }
    }

    /// Takes in what the bus has at the start. Mirrors `registry::news::News::remember` and
    /// `command::recovery::Feeds::recover`.
    pub fn recover(&mut self, cx: Context<'_>, entries: &[&Entry]) {
        let now = Now::from(cx.now);
        let is_read =
            |entry: &&&Entry| matches!(entry.payload, Payload::Command(_) | Payload::Response(_));
        let newest_ms = entries.iter().filter(is_read).map(|entry| entry.stored_ms).max();
        let since_ms = read_from(now.unix_ms, newest_ms);
        let latest = Now { unix_ms: now.unix_ms.max(newest_ms.unwrap_or(i64::MIN)), ..now };
        let mut unanswered: BTreeMap<usize, (Order, Duration)> = BTreeMap::new();
        for (arrival, entry) in entries.iter().enumerate() {
            if let Payload::Status(record) = &entry.payload {
                // Whoever saw it has told of it.
                self.registry.identify(&entry.key, record, entry.stored_ms);
                if record.event() == StatusEvent::CommandClosed
                    && let Ok(id) = record.command_id.parse()
                {
                    self.pending.handle_barred(&id);
                }
            }
            match &entry.payload {
                Payload::Status(record) if self.is_shared => {
                    self.registry.hear(&entry.key, (**record).clone(), entry.stored_ms);
                }
                Payload::Status(record) => self.registry.fold(&entry.key, (**record).clone()),
                Payload::Command(command) if since_ms <= entry.stored_ms => {
                    let Ok(order) = read(now, entry, command) else { continue };
                    let is_known = unanswered.values().any(|(known, _)| known.id == order.id);
                    if !is_known {
                        let left = time_left(latest, &order, entry.stored_ms);
                        unanswered.insert(arrival, (order, left));
                    }
                }
                Payload::Command(_) | Payload::Response(_) | Payload::Metrics(_) => {}
            }
        }
        for entry in entries {
            if let Payload::Response(response) = &entry.payload
                && since_ms <= entry.stored_ms
            {
                unanswered.retain(|_, (order, _)| order.id.as_str() != response.command_id);
                self.answered.note(response);
                self.pending.handle_answer((**response).clone());
            }
        }
        for (order, left) in unanswered.into_values() {
            self.pending.handle_recovered(now, order, left);
        }
        self.act(now);
    }

    /// A call of `StreamMetrics` came with these request headers. Mirrors `rpc::monitoring::stream_metrics` and the
    /// beginning of `ingest::task::serve`.
    pub fn open(&mut self, cx: Context<'_>, id: StreamId, peer: &str, hello: &[u8]) {
        let introduction = Hello::decode(hello)
            .map_err(|error| error.to_string())
            .and_then(|h| Introduction::try_from(h).map_err(|rejection| rejection.to_string()));
        let introduction = match introduction {
            Ok(introduction) => introduction,
            Err(text) => return self.effects.push_back(Effect::Close(id, Ending::Failed, text)),
        };
        let Introduction { agent, boot, .. } = &introduction;
        let acknowledged = match self.registry.acknowledged(agent, *boot) {
            0 => last_stored(cx, agent, *boot),
            known => known,
        };
        // Credits are not simulated: the budget behind them belongs to the process.
        let welcome = welcome(&self.id, acknowledged, 0);
        self.effects.push_back(Effect::Welcome(id, welcome.encode_to_vec()));
        let key = self.claims.next_key();
        self.streams.insert(id, Stream::new(key, peer, introduction));
        self.claim(cx, id);
        self.run(cx);
    }

    /// A message came on a stream, which reads it when it may.
    pub fn handle_message(&mut self, cx: Context<'_>, id: StreamId, bytes: Vec<u8>) {
        if let Some(stream) = self.streams.get_mut(&id) {
            stream.inbound.push_back(stream::Inbound::Message(bytes));
            self.pump(cx, id);
        }
        self.run(cx);
    }

    /// The client has ended its half of the stream, after what it has sent.
    pub fn handle_finished(&mut self, cx: Context<'_>, id: StreamId) {
        if let Some(stream) = self.streams.get_mut(&id) {
            stream.inbound.push_back(stream::Inbound::End);
            self.pump(cx, id);
        }
        self.run(cx);
    }

    /// The connection of a stream broke: nothing more comes, and what was not read is gone.
    pub fn handle_lost(&mut self, cx: Context<'_>, id: StreamId) {
        self.end(cx, id, Ending::Finished, "connection lost");
        self.run(cx);
    }

    /// Bytes of messages that a stream has taken in and not read: what flow control counts.
    pub fn unread_bytes(&self, id: StreamId) -> usize {
        self.streams.get(&id).map_or(0, Stream::unread_bytes)
    }

    /// A publish has ended: durable, or not stored for all that is known.
    pub fn handle_published(&mut self, cx: Context<'_>, publish: Publish, is_durable: bool) {
        let now = Now::from(cx.now);
        match self.publishers.remove(&publish) {
            Some(Publisher::Stream(id)) => {
                self.handle_stream_published(cx, id, publish, is_durable)
            }
            Some(Publisher::Router) => {
                let record = self.storing.take();
                if !is_durable && let Some(record) = record {
                    self.to_store.push_front(record);
                    self.store_at = Some(now.monotonic + STORE_AGAIN_AFTER);
                }
            }
            Some(Publisher::Caller(id)) if !is_durable => {
                self.pending.handle_withdrawn(&id);
                let reply = Reply::Refused("the bus cannot store now");
                self.effects.push_back(Effect::Reply(id.to_string(), reply));
            }
            Some(Publisher::Caller(_)) | None => {}
        }
        self.run(cx);
    }

    /// A record of commands, command-responses or agent-status was read from the bus. Mirrors
    /// `command::recovery::Feeds::pass_on` and `registry::news::hear`.
    pub fn handle_entry(&mut self, cx: Context<'_>, entry: &Entry) {
        let now = Now::from(cx.now);
        match &entry.payload {
            Payload::Metrics(_) => {}
            Payload::Command(command) => match read(now, entry, command) {
                Ok(order) => {
                    let left = time_left(now, &order, entry.stored_ms);
                    let holder = self.registry.holder(&order.agent, now.unix_ms);
                    self.pending.handle_published(now, order, left, holder);
                }
                Err(Some(refused)) => {
                    let (order, reason) = *refused;
                    let holder = self.registry.holder(&order.agent, now.unix_ms);
                    self.pending.handle_refused(now, &order, holder, reason);
                }
                Err(None) => {}
            },
            Payload::Response(response) => {
                self.answered.note(response);
                self.pending.handle_answer((**response).clone());
            }
            Payload::Status(record) => self.hear(cx, entry, record),
        }
        self.run(cx);
    }

    /// Mirrors `registry::news::hear`.
    fn hear(&mut self, cx: Context<'_>, entry: &Entry, record: &StatusRecord) {
        let agent = &entry.key;
        let event = record.event();
        let theirs = record.boot.map(BootId::from);
        let ours = match self.claims.claimant(agent) {
            Some(Claimant::Full { boot, .. }) => Some(boot),
            Some(Claimant::Plain) | None => None,
        };
        let mark = match event {
            StatusEvent::CommandDelivered => Some(Mark::Delivered),
            StatusEvent::CommandClosed => Some(Mark::Closed),
            _ => None,
        };
        if let Some(mark) = mark {
            if let Ok(id) = record.command_id.parse() {
                let is_ours = record.server_id == self.id;
                self.pending.handle_mark(cx.now.into(), &id, mark, is_ours);
            }
            return;
        }
        let found = self.registry.identify(agent, record, entry.stored_ms);
        if record.server_id == self.id {
            if event == StatusEvent::Connected && theirs.is_some() && ours == theirs {
                self.registry.told(agent);
            }
            if let Some(finding) = found {
                self.tell(cx, agent, theirs, &record.peer, finding);
            }
            return;
        }
        match (event, ours, theirs) {
            (StatusEvent::Connected, Some(ours), Some(theirs))
                if ours != theirs && self.registry.was_here_before(agent) =>
            {
                self.contest(cx, agent, record);
            }
            (StatusEvent::DuplicateId, Some(ours), Some(refused)) if ours == refused => {
                if let Some(holder) = self.claims.holder(agent) {
                    self.direct(holder, Directive::Refused(record.detail.clone())).ok();
                    self.pump(cx, holder);
                }
            }
            _ => {}
        }
        if event == StatusEvent::Connected
            && let Some(hello) = &record.hello
            && let Some(boot) = hello.boot.map(BootId::from)
        {
            let newer = Claimant::Full { boot, session: hello.session };
            if let Some(outdated) = self.claims.outdated_by(agent, newer) {
                self.direct(outdated, Directive::Superseded).ok();
                self.pump(cx, outdated);
            }
        }
        self.registry.hear(agent, record.clone(), cx.now.unix_ms);
    }

    /// Mirrors `ingest::rivals::contest`, up to where the holder is asked for a sign of life.
    fn contest(&mut self, cx: Context<'_>, agent: &AgentId, record: &StatusRecord) {
        let Some(holder) = self.claims.holder(agent) else { return };
        let heard = self.streams.get(&holder).map_or(0, Stream::heard);
        self.probes.push(Probe {
            agent: agent.clone(),
            holder,
            heard,
            until: cx.now.monotonic + CONTEST,
            newcomer: Box::new(record.clone()),
        });
        self.direct(holder, Directive::Ping).ok();
        self.pump(cx, holder);
    }

    /// The rest of it, once the holder has shown that it lives, or has not in time.
    fn settle_probes(&mut self, cx: Context<'_>) {
        let streams = &self.streams;
        let is_settled = |probe: &mut Probe| {
            let lives =
                streams.get(&probe.holder).is_some_and(|stream| probe.heard < stream.heard());
            lives || probe.until <= cx.now.monotonic || !streams.contains_key(&probe.holder)
        };
        let settled: Vec<Probe> = self.probes.extract_if(.., is_settled).collect();
        for Probe { agent, holder, heard, newcomer, .. } in settled {
            let Some(stream) = self.streams.get(&holder).filter(|s| heard < s.heard()) else {
                continue;
            };
            let detail = format!(
                "{} holds the id at this server, {} came to the server {} with it and is refused",
                stream.peer(),
                newcomer.peer,
                newcomer.server_id
            );
            self.report(cx, &agent, &newcomer.peer, Life::of(&newcomer), detail);
        }
    }

    /// Mirrors `ingest::rivals::report`.
    fn report(
        &mut self,
        cx: Context<'_>,
        agent: &AgentId,
        peer: &str,
        life: Option<Life>,
        detail: String,
    ) {
        if !self.claims.duplicate_is_news(agent, cx.now.monotonic) {
            return;
        }
        let found = life.as_ref().and_then(|life| self.registry.judge(agent, life));
        let copied = found.filter(|finding| finding.trouble == Trouble::Clone);
        let duplicate = Finding { trouble: Trouble::Duplicate, detail };
        for finding in [Some(duplicate), copied].into_iter().flatten() {
            self.tell(cx, agent, life.as_ref().map(|life| life.boot), peer, finding);
        }
    }

    /// Mirrors `ingest::rivals::tell`.
    fn tell(
        &mut self,
        cx: Context<'_>,
        agent: &AgentId,
        boot: Option<BootId>,
        peer: &str,
        finding: Finding,
    ) {
        let event = match finding.trouble {
            Trouble::Duplicate => StatusEvent::DuplicateId,
            Trouble::Clone => StatusEvent::CloneSuspected,
        };
        let record = StatusRecord {
            agent_id: agent.to_string(),
            event: event.into(),
            timestamp_ms: cx.now.unix_ms,
            server_id: self.id.clone(),
            boot: boot.map(Into::into),
            detail: finding.detail,
            peer: peer.to_owned(),
            ..StatusRecord::default()
        };
        self.store(agent.clone(), Payload::Status(Box::new(record)));
    }

    /// A caller sends a command. Mirrors `rpc::monitoring::Monitoring::command`.
    pub fn submit(&mut self, cx: Context<'_>, command: Command) {
        let now = Now::from(cx.now);
        let id = command.command_id.clone();
        let refuse = |this: &mut Self, why| {
            this.effects.push_back(Effect::Reply(id.clone(), Reply::Refused(why)));
        };
        let fresh = || "unnamed".parse().expect("a word is a command id");
        let Ok(order) = command::order(now, command, fresh) else {
            return refuse(self, "not a valid command");
        };
        let is_known = self.pending.known(&order).is_some();
        if !is_known && self.registry.last_seen_ms(&order.agent).is_none() {
            return refuse(self, "no such agent has ever connected");
        }
        match self.pending.handle_submit(now, &order) {
            Submission::New => {
                let payload = Payload::Command(order.command.clone());
                let record = Record { key: order.agent.clone(), payload };
                self.publish(Publisher::Caller(order.id), vec![record]);
            }
            Submission::Joined => {}
            Submission::Answered(response) => {
                let reply = Reply::Answered(response);
                self.effects.push_back(Effect::Reply(id, reply));
            }
            Submission::Busy => refuse(self, "the agent has too many commands waiting"),
            Submission::Taken => refuse(self, "the id names another command"),
        }
        self.run(cx);
    }

    /// The store holds this for an agent. Mirrors `config::push::announce`.
    pub fn handle_config(&mut self, cx: Context<'_>, agent: &AgentId, push: ConfigPush) {
        self.registry.config_wanted(agent, push.revision);
        self.configs.insert(agent.clone(), push.clone());
        if let Some(holder) = self.claims.holder(agent) {
            self.direct(holder, Directive::Config(push)).ok();
            self.pump(cx, holder);
        }
        self.run(cx);
    }

    /// The process was asked to end: streams end once what is under way is stored.
    pub fn shutdown(&mut self, cx: Context<'_>) {
        let ids: Vec<StreamId> = self.streams.keys().copied().collect();
        for id in ids {
            self.stop(cx, id);
        }
        self.run(cx);
    }

    /// Whether every stream has ended.
    pub fn is_idle(&self) -> bool {
        self.streams.is_empty() && self.publishers.is_empty()
    }

    /// Time has passed.
    pub fn handle_timeout(&mut self, cx: Context<'_>) {
        let now = Now::from(cx.now);
        if self.store_at.is_some_and(|at| at <= now.monotonic) {
            self.store_at = None;
        }
        if self.pending.poll_timeout().is_some_and(|at| at <= now.monotonic) {
            let registry = &self.registry;
            let seen = |_: &AgentId| "earlier".to_owned();
            let holder = |agent: &AgentId| registry.holder(agent, now.unix_ms);
            self.pending.handle_timeout(now, seen, holder);
        }
        let due = |stream: &Stream| stream.deadline().is_some_and(|at| at <= now.monotonic);
        let ids: Vec<StreamId> =
            self.streams.iter().filter(|(_, s)| due(s)).map(|(id, _)| *id).collect();
        for id in ids {
            self.handle_stream_timeout(cx, id);
        }
        self.run(cx);
    }

    /// When [`Server::handle_timeout`] is due.
    pub fn poll_timeout(&self) -> Option<Instant> {
        let streams = self.streams.values().filter_map(Stream::deadline);
        let probes = self.probes.iter().map(|probe| probe.until);
        streams.chain(probes).chain(self.pending.poll_timeout()).chain(self.store_at).min()
    }

    /// What must be done next.
    pub fn poll_effect(&mut self) -> Option<Effect> {
        self.effects.pop_front()
    }

    /// A stream that may have something to send, each once.
    pub fn poll_ready(&mut self) -> Option<StreamId> {
        self.ready.pop_first()
    }

    /// The next message for a stream that has room for one.
    pub fn poll_send(&mut self, cx: Context<'_>, id: StreamId) -> Option<Vec<u8>> {
        let message = self.streams.get_mut(&id)?.poll_send(cx.now.monotonic)?;
        self.pump(cx, id);
        self.run(cx);
        Some(message.encode_to_vec())
    }

    /// The largest message that the server reads, either way, in bytes.
    pub const MESSAGE_BYTES_MAX: usize = MESSAGE_BYTES_MAX;

    fn run(&mut self, cx: Context<'_>) {
        self.settle_probes(cx);
        self.act(cx.now.into());
        self.store_next();
    }

    /// Mirrors `command::router::Router::act`.
    fn act(&mut self, now: Now) {
        while let Some(output) = self.pending.poll_output() {
            match output {
                Output::Deliver(order) => self.deliver(now, *order),
                Output::Mark(order, mark) => self.mark(now, &order, mark),
                Output::Answered { mut response, publish } => {
                    if publish {
                        response.server_id.clone_from(&self.id);
                        self.answered.note(&response);
                    }
                    if publish && let Ok(key) = response.agent_id.parse() {
                        self.store(key, Payload::Response(response.clone()));
                    }
                    let id = response.command_id.clone();
                    self.effects.push_back(Effect::Reply(id, Reply::Answered(response)));
                }
            }
        }
    }

    fn deliver(&mut self, now: Now, mut order: Order) {
        let Some(left) = self.pending.left(now, &order.id) else { return };
        if self.is_doubted(now, &order) {
            return;
        }
        order.command.ttl_ms = u64::try_from(left.as_millis()).unwrap_or(u64::MAX);
        order.command.wants_progress = true;
        let holder = self.claims.holder(&order.agent);
        let expires_at = now.monotonic + left;
        let directive = Directive::Command { command: order.command, expires_at };
        match holder.map(|holder| self.direct(holder, directive)) {
            Some(Ok(())) => {
                if !self.is_shared {
                    self.say(now, &order.agent, &order.id, StatusEvent::CommandDelivered);
                }
                self.pending.handle_delivered(now, &order.id);
            }
            Some(Err(_)) | None => self.pending.handle_undelivered(now, &order.id),
        }
    }

    /// Mirrors `command::router::Router::mark`.
    fn mark(&mut self, now: Now, order: &Order, mark: Mark) {
        let event = match mark {
            Mark::Delivered if self.is_doubted(now, order) => return,
            Mark::Delivered => StatusEvent::CommandDelivered,
            Mark::Closed => StatusEvent::CommandClosed,
        };
        if !self.say(now, &order.agent, &order.id, event) {
            self.pending.handle_unmarked(now, &order.id);
        }
    }

    fn is_doubted(&mut self, now: Now, order: &Order) -> bool {
        let doubt = self.registry.doubt(&order.agent, now.unix_ms);
        let Some(doubt) = doubt.filter(|_| !order.command.force) else { return false };
        let reason = doubtful(order, doubt);
        self.pending.handle_doubted(now, &order.id, reason);
        true
    }

    fn say(&mut self, now: Now, agent: &AgentId, id: &CommandId, event: StatusEvent) -> bool {
        let record = StatusRecord {
            agent_id: agent.to_string(),
            event: event.into(),
            timestamp_ms: now.unix_ms,
            server_id: self.id.clone(),
            command_id: id.to_string(),
            ..StatusRecord::default()
        };
        self.store(agent.clone(), Payload::Status(Box::new(record)))
    }

    /// Mirrors `ingest::handle::SessionHandle::direct`.
    fn direct(&mut self, id: StreamId, directive: Directive) -> Result<(), Full> {
        let stream = self.streams.get_mut(&id).ok_or(Full)?;
        if DIRECTIVES_MAX <= stream.directives.len() {
            return Err(Full);
        }
        stream.directives.push_back(directive);
        self.ready.insert(id);
        Ok(())
    }

    fn store(&mut self, key: AgentId, payload: Payload) -> bool {
        let has_room = self.to_store.len() < RECORDS_MAX;
        if has_room {
            self.to_store.push_back(Record { key, payload });
        }
        has_room
    }

    /// Mirrors `command::router::store_records`.
    fn store_next(&mut self) {
        if self.storing.is_none()
            && self.store_at.is_none()
            && let Some(record) = self.to_store.pop_front()
        {
            self.storing = Some(record.clone());
            self.publish(Publisher::Router, vec![record]);
        }
    }

    fn publish(&mut self, publisher: Publisher, records: Vec<Record>) -> Publish {
        let publish = Publish(self.next_publish);
        self.next_publish += 1;
        self.publishers.insert(publish, publisher);
        self.effects.push_back(Effect::Publish(publish, records));
        publish
    }
}

/// A session takes nothing more at the moment, or is gone.
#[derive(Clone, Copy, Debug)]
struct Full;

/// Mirrors `ingest::history::last_stored`.
fn last_stored(cx: Context<'_>, agent: &AgentId, boot: BootId) -> u64 {
    let last = cx.history.last(agent).filter(|(of, _)| *of == boot);
    last.map_or(0, |(_, sequence)| sequence)
}

/// Mirrors `command::recovery::Intake::read`: the order, or what can be answered of one that is refused, and why.
fn read(now: Now, entry: &Entry, command: &Command) -> Result<Order, Option<Box<(Order, String)>>> {
    let fresh_id = || id_of_place(entry.partition, entry.offset);
    let id = match command.command_id.as_str() {
        "" => Some(fresh_id()),
        id => id.parse().ok(),
    };
    let is_to_key = command.agent_id == entry.key.as_str();
    match command::order(now, command.clone(), fresh_id) {
        Ok(order) if is_to_key => Ok(order),
        Ok(_) => Err(None),
        Err(rejection) => {
            let order =
                id.map(|id| Order { id, agent: entry.key.clone(), command: command.clone() });
            Err(order.filter(|_| is_to_key).map(|order| Box::new((order, rejection.to_string()))))
        }
    }
}

/// Whether an UPDATE_CONFIG asks for what the store has.
fn rereads(command: &Command) -> bool {
    command.r#type == CommandType::UpdateConfig as i32 && command.params.is_empty()
}

/// All agents that introduce themselves speak the full form.
const DIALECT: Dialect = Dialect::Full;
