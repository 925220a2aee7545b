//! The rules of commands on their way: who waits for what, and what becomes of it.
//!
//! Sans-IO: [`crate::command::router`] feeds it with what is read from the bus and what sessions do, and does
//! what it says. It knows no clock, no bus and no stream.
//!
//! A command is delivered each time its agent connects until it is answered, because only the agent can tell
//! whether it ran: the agent runs a command_id once and repeats its answer. What was never delivered when its
//! time is over is EXPIRED, what was is UNKNOWN.
//!
//! Servers that share a bus all hold every command, and the one that has the agent's stream delivers it. That one
//! says what became of it when its time is over; so does the one that took the command from its caller when no
//! server has the agent. The others wait [`Limits::grace`] longer, and speak only when nobody else has. So does one
//! that stood still, and reads of a command or comes to its deadline when its time is over.
//!
//! Such servers know of each other what the bus says, perhaps late, and their clocks may be wrong. So that EXPIRED and
//! REJECTED are certain, the bus decides: a server delivers a command only once it has read its own [`Mark::Delivered`]
//! there, and says that it did nothing only once it has read its own [`Mark::Closed`]. Of both the first counts, for all
//! servers alike, because marks of one agent have one order. What was not decided in time is UNKNOWN.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::time::Duration;

use agent_core::id::{AgentId, CommandId};
use agent_core::limits::{COMMAND_TTL_DEFAULT, COMMAND_TTL_MAX};
use agent_core::time::Instant;
use proto::{Command, CommandOutcome, CommandResponse};

use crate::clock::Now;
use crate::ingest::SessionKey;
use crate::registry::Dialect;

/// How soon a command is offered again to a session that had no room for it.
const RETRY: Duration = Duration::from_secs(1);

/// A server that comes to a deadline so late has stood still: what others said meanwhile it has not read yet.
const LATE: Duration = Duration::from_secs(1);

/// Deliveries by other servers that are remembered until their command is read. Both are read within moments of each
/// other, but for a server that stood still, which reads all at once.
const NOTICED_MAX: usize = 1024;

/// A command whose parts were checked.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Order {
    pub(crate) id: CommandId,
    pub(crate) agent: AgentId,
    pub(crate) command: Command,
}

impl Order {
    /// The time to live that the command asks for.
    pub(crate) fn ttl(&self) -> Duration {
        match self.command.ttl_ms {
            0 => COMMAND_TTL_DEFAULT,
            ms => Duration::from_millis(ms).min(COMMAND_TTL_MAX),
        }
    }

    /// Whether both ask the same of the same agent. When they were sent, and how long they live, is of no account.
    fn is_repeat_of(&self, first: &Self) -> bool {
        self.agent == first.agent
            && self.command.r#type == first.command.r#type
            && self.command.params == first.command.params
    }

    /// What it asks of its agent, in little.
    fn digest(&self) -> Digest {
        let params: BTreeMap<_, _> = self.command.params.iter().collect();
        let mut hasher = DefaultHasher::new();
        (self.command.r#type, params).hash(&mut hasher);
        Digest(hasher.finish())
    }
}

/// Stands for the type and the parameters of a command that is answered: all that is kept of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Digest(u64);

/// What becomes of a command that a caller submits.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Submission {
    /// It is new: publish it, then wait.
    New,
    /// Somebody has sent it before: wait for the same answer.
    Joined,
    /// The answer is known already.
    Answered(Box<CommandResponse>),
    /// The agent has too many commands waiting.
    Busy,
    /// The id names another command: to another agent, of another type, or with other parameters.
    Taken,
}

/// What must be done.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Output {
    /// Give it to the agent's session; answer with [`Pending::handle_delivered`], [`Pending::handle_undelivered`] or
    /// [`Pending::handle_doubted`].
    Deliver(Box<Order>),
    /// Put this mark on the bus, which other servers share. It is back by [`Pending::handle_mark`]; one that cannot be
    /// stored is told to [`Pending::handle_unmarked`], and a delivery that must not be to [`Pending::handle_doubted`].
    Mark(Box<Order>, Mark),
    /// Tell whoever waits. With `publish`, the bus does not have it yet.
    Answered { response: Box<CommandResponse>, publish: bool },
}

/// What a server says of a command on a bus that it shares. The first one that the bus has counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mark {
    /// It delivers the command.
    Delivered,
    /// Nobody may deliver the command any more.
    Closed,
}

/// What is known of a command that was not read yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Noticed {
    Delivered,
    Closed,
    /// Closed, and perhaps delivered before.
    Barred,
}

/// Which server has the agent's stream, as far as another one can know.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Holder {
    /// None, or this one.
    Nobody,
    /// Another one.
    AnotherServer,
}

/// Whether the agent may have it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Delivery {
    Never,
    /// By another server, or perhaps by an earlier run of this one.
    Elsewhere,
    /// Through a session that is gone.
    Before,
    /// Through the session that is connected.
    Now,
}

/// What other servers must know before this one delivers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Announcement {
    Due,
    /// The mark is on its way.
    Asked,
    /// The mark was read, and no closing before it.
    Made,
}

#[derive(Debug)]
struct Open {
    order: Order,
    deadline: Instant,
    /// A caller of this server waits for it.
    is_ours: bool,
    /// The bus has it. Before that it is not delivered, so that no command runs which the bus does not show.
    published: bool,
    delivery: Delivery,
    /// The session was given it, and has not said whether it has room.
    is_offered: bool,
    announcement: Announcement,
    /// The bus says that nobody has delivered it, and nobody may.
    is_closed: bool,
    /// What this server says once its closing counts.
    verdict: Option<(CommandOutcome, String)>,
    /// This server does not deliver it any more. What is left of the time is for other servers, or the bus, to say what
    /// became of it.
    in_grace: bool,
}

impl Open {
    /// Whether the agent may have it from this server or another one, as far as this one knows.
    fn may_have_run(&self) -> bool {
        self.delivery != Delivery::Never || self.announcement == Announcement::Made
    }
}

/// All commands that are not answered, and the newest answers.
#[derive(Debug)]
pub(crate) struct Pending {
    /// By order of arrival, which is the order of delivery.
    open: BTreeMap<u64, Open>,
    ids: HashMap<CommandId, u64>,
    agents: HashMap<AgentId, BTreeSet<u64>>,
    deadlines: BTreeSet<(Instant, u64)>,
    connected: HashMap<AgentId, (SessionKey, Dialect)>,
    answers: Answers,
    /// What is known of commands that were not read yet, the first of it: topics have no order between them. At most
    /// [`NOTICED_MAX`]; the oldest gives way.
    noticed: VecDeque<(CommandId, Noticed)>,
    outputs: VecDeque<Output>,
    retry_at: Option<Instant>,
    next: u64,
    limits: Limits,
}

/// The bounds of [`Pending`].
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    /// Commands that wait for one agent.
    pub(crate) per_agent: usize,
    /// Commands that wait.
    pub(crate) total: usize,
    /// Answers that are remembered.
    pub(crate) answers: usize,
    /// How long another server has to say what became of a command once its time is over; zero where there is none.
    pub(crate) grace: Duration,
}

impl Pending {
    pub(crate) fn new(limits: Limits) -> Self {
        Self {
            open: BTreeMap::new(),
            ids: HashMap::new(),
            agents: HashMap::new(),
            deadlines: BTreeSet::new(),
            connected: HashMap::new(),
            answers: Answers::new(limits.answers),
            noticed: VecDeque::new(),
            outputs: VecDeque::new(),
            retry_at: None,
            next: 0,
            limits,
        }
    }

    /// What becomes of a command whose id is known; none if it is new. It changes nothing.
    pub(crate) fn known(&self, order: &Order) -> Option<Submission> {
        if let Some(answer) = self.answers.get(&order.id) {
            return Some(if answer.is_to(order) {
                Submission::Answered(Box::new(answer.response.clone()))
            } else {
                Submission::Taken
            });
        }
        let open = self.find(&order.id)?;
        let is_repeat = order.is_repeat_of(&open.order);
        Some(if is_repeat { Submission::Joined } else { Submission::Taken })
    }

    /// A caller wants a command to be sent. After `New` it is held, but not delivered until it comes back from
    /// the bus through [`Pending::handle_published`].
    pub(crate) fn handle_submit(&mut self, now: Now, order: &Order) -> Submission {
        if let Some(known) = self.known(order) {
            return known;
        }
        if self.is_full(&order.agent) {
            return Submission::Busy;
        }
        let deadline = now.monotonic + order.ttl();
        let serial = self.insert(order.clone(), deadline, false, Delivery::Never);
        if let Some(open) = self.open.get_mut(&serial) {
            open.is_ours = true;
        }
        Submission::New
    }

    /// A submitted command could not be published.
    pub(crate) fn handle_withdrawn(&mut self, id: &CommandId) {
        if self.find(id).is_some_and(|open| !open.published) {
            self.remove(id);
        }
    }

    /// A command was read from the bus, from this server's callers or anybody's, with `left` of its time to live.
    pub(crate) fn handle_published(
        &mut self,
        now: Now,
        order: Order,
        left: Duration,
        holder: Holder,
    ) {
        if self.answers.get(&order.id).is_some() {
            return;
        }
        if self.is_held(&order) {
            return;
        }
        let agent = order.agent.clone();
        let is_busy = self.is_full(&agent);
        let busy = || format!("busy: agent {agent} has too many commands waiting");
        if is_busy && !self.is_shared() {
            return self.conclude(now, &order, CommandOutcome::Rejected, busy());
        }
        if self.limits.total <= self.open.len() {
            // Another server may deliver it.
            return self.conclude(now, &order, CommandOutcome::Unknown, busy());
        }
        let serial = self.insert(order, now.monotonic + left, true, Delivery::Never);
        if is_busy && holder == Holder::Nobody {
            self.close(now, serial, CommandOutcome::Rejected, busy());
        } else if is_busy || (left.is_zero() && self.is_shared()) {
            self.give_grace(now, serial);
        } else {
            self.offer(&agent);
        }
    }

    /// A command was read from the bus that cannot be one, for this reason: whoever sent it is told, by one server if
    /// that can be.
    pub(crate) fn handle_refused(
        &mut self,
        now: Now,
        order: &Order,
        holder: Holder,
        reason: String,
    ) {
        let is_known = self.answers.get(&order.id).is_some() || self.find(&order.id).is_some();
        if holder == Holder::Nobody && !is_known {
            self.conclude(now, order, CommandOutcome::Rejected, reason);
        }
    }

    /// A command was found on the bus at the start, unanswered, with `left` of its time to live. Another server or
    /// an earlier run of this one may have delivered it.
    pub(crate) fn handle_recovered(&mut self, now: Now, order: Order, left: Duration) {
        // A caller of this run may have sent it meanwhile.
        if self.is_held(&order) {
            return;
        }
        if self.is_full(&order.agent) {
            let text = format!("busy: agent {} has too many commands waiting", order.agent);
            return self.conclude(now, &order, CommandOutcome::Unknown, text);
        }
        let agent = order.agent.clone();
        self.insert(order, now.monotonic + left, true, Delivery::Elsewhere);
        self.offer(&agent);
    }

    /// Whether a command that was read from the bus is held already. One that a caller of this server has sent may be
    /// delivered from now on.
    fn is_held(&mut self, order: &Order) -> bool {
        let Some(open) = self.find(&order.id) else {
            return false;
        };
        // The first one counts: another command with its id does nothing, and has no answer.
        if order.is_repeat_of(&open.order) && !open.published {
            self.arrive(&order.id);
            self.offer(&order.agent);
        }
        true
    }

    /// A mark was read from the bus, of this server or another one.
    pub(crate) fn handle_mark(&mut self, now: Now, id: &CommandId, mark: Mark, is_ours: bool) {
        let serial = self.ids.get(id).copied();
        let Some(open) = serial.and_then(|serial| self.open.get_mut(&serial)) else {
            let noticed = match mark {
                Mark::Delivered => Noticed::Delivered,
                Mark::Closed => Noticed::Closed,
            };
            self.notice(id, noticed);
            return;
        };
        if open.is_closed {
            return;
        }
        match mark {
            Mark::Delivered if is_ours => {
                open.announcement = Announcement::Made;
                let agent = open.order.agent.clone();
                self.offer(&agent);
            }
            Mark::Delivered if open.delivery == Delivery::Never => {
                open.delivery = Delivery::Elsewhere
            }
            Mark::Closed if !open.may_have_run() => {
                open.is_closed = true;
                if is_ours && let Some((outcome, text)) = open.verdict.take() {
                    let order = open.order.clone();
                    self.conclude(now, &order, outcome, text);
                }
            }
            Mark::Delivered | Mark::Closed => {}
        }
    }

    /// The bus had a closing of it before this server began, which does not know whether it was delivered before that.
    pub(crate) fn handle_barred(&mut self, id: &CommandId) {
        let serial = self.ids.get(id).copied();
        match serial.and_then(|serial| self.open.get_mut(&serial)) {
            Some(open) => {
                open.delivery = Delivery::Elsewhere;
                open.in_grace = true;
            }
            None => self.notice(id, Noticed::Barred),
        }
    }

    /// A mark could not be stored. It is tried again soon.
    pub(crate) fn handle_unmarked(&mut self, now: Now, id: &CommandId) {
        let serial = self.ids.get(id).copied();
        if let Some(open) = serial.and_then(|serial| self.open.get_mut(&serial))
            && open.announcement == Announcement::Asked
        {
            open.announcement = Announcement::Due;
            self.retry_soon(now);
        }
    }

    /// The agent must not have the command, for this reason.
    pub(crate) fn handle_doubted(&mut self, now: Now, id: &CommandId, reason: String) {
        let Some(serial) = self.ids.get(id).copied() else {
            return;
        };
        let Some(open) = self.open.get_mut(&serial) else {
            return;
        };
        if open.may_have_run() {
            // It had the command before there was a doubt, and need not have it again.
            open.in_grace = true;
        } else {
            self.close(now, serial, CommandOutcome::Rejected, reason);
        }
    }

    /// An answer was read from the bus.
    pub(crate) fn handle_answer(&mut self, response: CommandResponse) {
        let Ok(id) = response.command_id.parse::<CommandId>() else {
            return;
        };
        let foreign = |open: &Open| open.order.agent.as_str() != response.agent_id;
        if self.find(&id).is_some_and(foreign) {
            return;
        }
        let waited = self.remove(&id).map(|open| open.order.digest());
        self.answers.remember(id, waited, response.clone());
        if waited.is_some() {
            self.outputs
                .push_back(Output::Answered { response: Box::new(response), publish: false });
        }
    }

    /// The agent has a session. What waits for it is delivered, in order.
    pub(crate) fn handle_connected(&mut self, agent: &AgentId, key: SessionKey, dialect: Dialect) {
        self.connected.insert(agent.clone(), (key, dialect));
        for serial in self.serials(agent) {
            if let Some(open) = self.open.get_mut(&serial) {
                open.is_offered = false;
                if open.delivery == Delivery::Now {
                    open.delivery = Delivery::Before;
                }
            }
        }
        self.offer(agent);
    }

    /// The session `key` has ended. Nothing changes when another one has replaced it.
    pub(crate) fn handle_disconnected(&mut self, agent: &AgentId, key: SessionKey) {
        if self.connected.get(agent).is_none_or(|(holder, _)| *holder != key) {
            return;
        }
        self.connected.remove(agent);
        for serial in self.serials(agent) {
            if let Some(open) = self.open.get_mut(&serial)
                && open.delivery == Delivery::Now
            {
                open.delivery = Delivery::Before;
            }
        }
    }

    /// The session has taken the command.
    pub(crate) fn handle_delivered(&mut self, now: Now, id: &CommandId) {
        let Some(serial) = self.ids.get(id).copied() else {
            return;
        };
        let Some(open) = self.open.get_mut(&serial) else {
            return;
        };
        open.delivery = Delivery::Now;
        open.is_offered = false;
        let dialect = self.connected.get(&open.order.agent).map(|(_, d)| *d);
        if dialect == Some(Dialect::Plain) {
            let order = open.order.clone();
            let text = "handed to the agent, which speaks the plain form and does not answer";
            self.conclude(now, &order, CommandOutcome::Succeeded, text.to_owned());
        }
    }

    /// The session had no room. It is asked again soon.
    pub(crate) fn handle_undelivered(&mut self, now: Now, id: &CommandId) {
        let serial = self.ids.get(id).copied();
        if let Some(open) = serial.and_then(|serial| self.open.get_mut(&serial)) {
            open.is_offered = false;
        }
        self.retry_soon(now);
    }

    /// Time has passed. `last_seen` says when an agent was heard of, in words, and `holder` who has its stream.
    pub(crate) fn handle_timeout(
        &mut self,
        now: Now,
        last_seen: impl Fn(&AgentId) -> String,
        holder: impl Fn(&AgentId) -> Holder,
    ) {
        if self.retry_at.is_some_and(|at| at <= now.monotonic) {
            self.retry_at = None;
            let agents: Vec<AgentId> = self.agents.keys().cloned().collect();
            for agent in agents {
                self.offer(&agent);
            }
        }
        while let Some((deadline, serial)) = self.deadlines.first().copied() {
            if now.monotonic < deadline {
                break;
            }
            let Some(open) = self.open.get(&serial) else {
                debug_assert!(false, "each deadline is of an open command");
                self.deadlines.pop_first();
                continue;
            };
            let stood_still = self.is_shared() && deadline + LATE < now.monotonic;
            let has_it = holder(&open.order.agent);
            let waits = !open.in_grace && !self.is_responsible(open, has_it);
            if stood_still || waits {
                self.give_grace(now, serial);
                continue;
            }
            let agent = &open.order.agent;
            if open.may_have_run() {
                let text = format!("handed to agent {agent}, which has not answered");
                self.conclude_open(now, serial, CommandOutcome::Unknown, text);
            } else if open.is_closed || open.verdict.is_none() {
                let text = if self.connected.contains_key(agent) {
                    format!("agent {agent} is connected and could not be given it in time")
                } else {
                    format!("agent {agent} is not connected ({})", last_seen(agent))
                };
                self.close(now, serial, CommandOutcome::Expired, text);
            } else {
                let text = "the bus did not say in time whether a server has delivered it";
                self.conclude_open(now, serial, CommandOutcome::Unknown, text.to_owned());
            }
        }
    }

    /// Whether it is for this server to say what became of a command.
    fn is_responsible(&self, open: &Open, holder: Holder) -> bool {
        !self.is_shared()
            || matches!(open.delivery, Delivery::Before | Delivery::Now)
            || self.connected.contains_key(&open.order.agent)
            || (open.is_ours && open.delivery == Delivery::Never && holder == Holder::Nobody)
    }

    /// Says that the command did nothing, once that is certain: at once, if no other server can have delivered it.
    fn close(&mut self, now: Now, serial: u64, outcome: CommandOutcome, text: String) {
        let is_shared = self.is_shared();
        let Some(open) = self.open.get_mut(&serial) else {
            return;
        };
        if open.is_closed || !is_shared {
            return self.conclude_open(now, serial, outcome, text);
        }
        open.verdict = Some((outcome, text));
        let order = Box::new(open.order.clone());
        self.outputs.push_back(Output::Mark(order, Mark::Closed));
        self.give_grace(now, serial);
    }

    /// Lets other servers, or the bus, say what became of a command.
    fn give_grace(&mut self, now: Now, serial: u64) {
        let Some(open) = self.open.get_mut(&serial) else {
            return;
        };
        self.deadlines.remove(&(open.deadline, serial));
        open.in_grace = true;
        open.deadline = now.monotonic + self.limits.grace;
        self.deadlines.insert((open.deadline, serial));
    }

    /// What must be done next.
    pub(crate) fn poll_output(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    /// When [`Pending::handle_timeout`] is due. Late means that a caller waits longer for a bad answer.
    pub(crate) fn poll_timeout(&self) -> Option<Instant> {
        let deadline = self.deadlines.first().map(|(deadline, _)| *deadline);
        deadline.into_iter().chain(self.retry_at).min()
    }

    /// Whether other servers have the bus too.
    const fn is_shared(&self) -> bool {
        !self.limits.grace.is_zero()
    }

    fn retry_soon(&mut self, now: Now) {
        self.retry_at.get_or_insert(now.monotonic + RETRY);
    }

    fn notice(&mut self, id: &CommandId, what: Noticed) {
        let is_known = self.noticed.iter().any(|(noticed, _)| noticed == id);
        if is_known || self.answers.get(id).is_some() {
            return;
        }
        if self.noticed.len() == NOTICED_MAX {
            self.noticed.pop_front();
        }
        self.noticed.push_back((id.clone(), what));
    }

    fn find(&self, id: &CommandId) -> Option<&Open> {
        self.open.get(self.ids.get(id)?)
    }

    fn is_full(&self, agent: &AgentId) -> bool {
        let waiting = self.agents.get(agent).map_or(0, BTreeSet::len);
        self.limits.per_agent <= waiting || self.limits.total <= self.open.len()
    }

    fn serials(&self, agent: &AgentId) -> Vec<u64> {
        let serials = self.agents.get(agent);
        serials.map_or_else(Vec::new, |serials| serials.iter().copied().collect())
    }

    fn insert(
        &mut self,
        order: Order,
        deadline: Instant,
        published: bool,
        delivery: Delivery,
    ) -> u64 {
        let serial = self.next;
        self.next += 1;
        let place = self.noticed.iter().position(|(noticed, _)| *noticed == order.id);
        let noticed = place.and_then(|place| self.noticed.remove(place)).map(|(_, what)| what);
        let delivery = match noticed {
            Some(Noticed::Delivered | Noticed::Barred) => Delivery::Elsewhere,
            // Nobody has, for sure.
            Some(Noticed::Closed) => Delivery::Never,
            None => delivery,
        };
        self.ids.insert(order.id.clone(), serial);
        let waiting = self.agents.entry(order.agent.clone()).or_default();
        waiting.insert(serial);
        self.deadlines.insert((deadline, serial));
        let open = Open {
            order,
            deadline,
            is_ours: false,
            published,
            delivery,
            is_offered: false,
            announcement: Announcement::Due,
            is_closed: noticed == Some(Noticed::Closed),
            verdict: None,
            in_grace: noticed == Some(Noticed::Barred),
        };
        self.open.insert(serial, open);
        serial
    }

    fn remove(&mut self, id: &CommandId) -> Option<Open> {
        let serial = self.ids.remove(id)?;
        let open = self.open.remove(&serial)?;
        self.deadlines.remove(&(open.deadline, serial));
        if let Some(waiting) = self.agents.get_mut(&open.order.agent) {
            waiting.remove(&serial);
            if waiting.is_empty() {
                self.agents.remove(&open.order.agent);
            }
        }
        Some(open)
    }

    /// The bus has a command that this server took from a caller: its place among others is that on the bus.
    fn arrive(&mut self, id: &CommandId) {
        let serial = self.next;
        let Some(before) = self.ids.insert(id.clone(), serial) else {
            return;
        };
        let Some(mut open) = self.open.remove(&before) else {
            return;
        };
        self.next += 1;
        open.published = true;
        if let Some(waiting) = self.agents.get_mut(&open.order.agent) {
            waiting.remove(&before);
            waiting.insert(serial);
        }
        self.deadlines.remove(&(open.deadline, before));
        self.deadlines.insert((open.deadline, serial));
        self.open.insert(serial, open);
    }

    /// Offers the session of an agent, if there is one, the commands that it does not have yet, in order. None
    /// overtakes one that other servers are still to be told of.
    fn offer(&mut self, agent: &AgentId) {
        if !self.connected.contains_key(agent) {
            return;
        }
        let mut overtakes = false;
        for serial in self.serials(agent) {
            let is_shared = self.is_shared();
            let Some(open) = self.open.get_mut(&serial) else {
                continue;
            };
            let is_due = open.published && open.delivery != Delivery::Now && !open.is_offered;
            if !is_due || open.in_grace || open.is_closed {
                continue;
            }
            if is_shared && open.announcement != Announcement::Made {
                overtakes = true;
                if open.announcement == Announcement::Due {
                    open.announcement = Announcement::Asked;
                    let order = Box::new(open.order.clone());
                    self.outputs.push_back(Output::Mark(order, Mark::Delivered));
                }
            } else if !overtakes {
                open.is_offered = true;
                self.outputs.push_back(Output::Deliver(Box::new(open.order.clone())));
            }
        }
    }

    /// Ends a command with an answer of the server's own.
    fn conclude(&mut self, now: Now, order: &Order, outcome: CommandOutcome, message: String) {
        self.remove(&order.id);
        let response = answer(now, order, outcome, message);
        self.answers.remember(order.id.clone(), Some(order.digest()), response.clone());
        self.outputs.push_back(Output::Answered { response: Box::new(response), publish: true });
    }

    fn conclude_open(&mut self, now: Now, serial: u64, outcome: CommandOutcome, text: String) {
        if let Some(open) = self.open.get(&serial) {
            let order = open.order.clone();
            self.conclude(now, &order, outcome, text);
        }
    }

    /// Time left of a command that is to be delivered now; none if it is over, or the command is not open any more.
    pub(crate) fn left(&self, now: Now, id: &CommandId) -> Option<Duration> {
        let open = self.find(id).filter(|open| !open.in_grace)?;
        Some(open.deadline - now.monotonic).filter(|left| !left.is_zero())
    }
}

/// An answer that the server gives itself.
pub(crate) fn answer(
    now: Now,
    order: &Order,
    outcome: CommandOutcome,
    message: String,
) -> CommandResponse {
    CommandResponse {
        success: outcome == CommandOutcome::Succeeded,
        message,
        agent_id: order.agent.to_string(),
        timestamp: now.unix_seconds(),
        command_id: order.id.to_string(),
        outcome: outcome.into(),
        ..CommandResponse::default()
    }
}

/// What is known of a command that is answered.
#[derive(Debug)]
struct Answer {
    response: CommandResponse,
    /// None when the answer was read from the bus and its command was not.
    digest: Option<Digest>,
}

impl Answer {
    /// Whether `order` is the command that it answers, as far as that is known.
    fn is_to(&self, order: &Order) -> bool {
        self.response.agent_id == order.agent.as_str()
            && self.digest.is_none_or(|digest| digest == order.digest())
    }
}

/// The newest answers by command, at most `max`; the oldest is forgotten first.
#[derive(Debug)]
struct Answers {
    by_id: HashMap<CommandId, Answer>,
    order: VecDeque<CommandId>,
    max: usize,
}

impl Answers {
    fn new(max: usize) -> Self {
        Self { by_id: HashMap::new(), order: VecDeque::new(), max }
    }

    fn get(&self, id: &CommandId) -> Option<&Answer> {
        self.by_id.get(id)
    }

    /// A later answer to the same command stands in for the earlier one: an agent may answer after UNKNOWN.
    fn remember(&mut self, id: CommandId, digest: Option<Digest>, response: CommandResponse) {
        if let Some(known) = self.by_id.get_mut(&id) {
            known.response = response;
            known.digest = known.digest.or(digest);
            return;
        }
        self.by_id.insert(id.clone(), Answer { response, digest });
        self.order.push_back(id);
        if self.max < self.order.len()
            && let Some(oldest) = self.order.pop_front()
        {
            self.by_id.remove(&oldest);
        }
    }
}

#[cfg(test)]
mod tests {
    use proto::command::CommandType;

    use super::*;

    const LIMITS: Limits = Limits { per_agent: 2, total: 3, answers: 2, grace: Duration::ZERO };
    const SHARED: Limits = Limits { grace: Duration::from_secs(5), ..LIMITS };
    const TEN: Duration = Duration::from_secs(10);

    fn at(seconds: u64) -> Now {
        Now { monotonic: Instant::from_ms(seconds * 1000), unix_ms: 0 }
    }

    fn agent(text: &str) -> AgentId {
        text.parse().unwrap()
    }

    fn order(id: &str, to: &str) -> Order {
        Order {
            id: id.parse().unwrap(),
            agent: agent(to),
            command: Command {
                command_id: id.into(),
                agent_id: to.into(),
                ttl_ms: 10_000,
                ..Command::default()
            },
        }
    }

    fn response(id: &str, from: &str) -> CommandResponse {
        CommandResponse {
            success: true,
            agent_id: from.into(),
            command_id: id.into(),
            outcome: CommandOutcome::Succeeded.into(),
            ..CommandResponse::default()
        }
    }

    /// Drains the outputs: "deliver ID", "OUTCOME ID" or "publish OUTCOME ID".
    fn outputs(pending: &mut Pending) -> Vec<String> {
        let mut words = Vec::new();
        while let Some(output) = pending.poll_output() {
            words.push(match output {
                Output::Deliver(order) => format!("deliver {}", order.id),
                Output::Mark(order, Mark::Delivered) => format!("say delivered {}", order.id),
                Output::Mark(order, Mark::Closed) => format!("say closed {}", order.id),
                Output::Answered { response, publish } => {
                    let outcome = response.outcome().as_str_name();
                    let outcome = outcome.trim_start_matches("COMMAND_OUTCOME_");
                    let publish = if publish { "publish " } else { "" };
                    format!("{publish}{outcome} {}", response.command_id)
                }
            });
        }
        words
    }

    fn pass(pending: &mut Pending, seconds: u64) -> Vec<String> {
        pass_with(pending, seconds, Holder::Nobody)
    }

    fn pass_with(pending: &mut Pending, seconds: u64, holder: Holder) -> Vec<String> {
        pending.handle_timeout(at(seconds), |_| "never seen".to_owned(), |_| holder);
        outputs(pending)
    }

    fn publish(pending: &mut Pending, now: Now, id: &str, to: &str) {
        pending.handle_published(now, order(id, to), TEN, Holder::Nobody);
    }

    fn submit(pending: &mut Pending, id: &str, to: &str) -> Submission {
        pending.handle_submit(at(0), &order(id, to))
    }

    #[test]
    fn a_command_goes_to_the_connected_agent_and_its_answer_back() {
        let mut pending = Pending::new(LIMITS);
        pending.handle_connected(&agent("a"), SessionKey(1), Dialect::Full);
        assert_eq!(submit(&mut pending, "1", "a"), Submission::New);
        assert!(outputs(&mut pending).is_empty(), "not before the bus has it");
        publish(&mut pending, at(0), "1", "a");
        assert_eq!(outputs(&mut pending), ["deliver 1"]);
        pending.handle_delivered(at(0), &order("1", "a").id);
        pending.handle_answer(response("1", "a"));
        assert_eq!(outputs(&mut pending), ["SUCCEEDED 1"]);
        assert!(pass(&mut pending, 99).is_empty());
        assert_eq!(pending.poll_timeout(), None);
    }

    #[test]
    fn an_agent_that_is_away_is_waited_for() {
        let mut pending = Pending::new(LIMITS);
        for id in ["1", "2"] {
            submit(&mut pending, id, "a");
            publish(&mut pending, at(0), id, "a");
        }
        assert!(outputs(&mut pending).is_empty());
        pending.handle_connected(&agent("a"), SessionKey(1), Dialect::Full);
        assert_eq!(outputs(&mut pending), ["deliver 1", "deliver 2"]);
        assert_eq!(pending.left(at(4), &order("1", "a").id), Some(Duration::from_secs(6)));
    }

    #[test]
    fn a_command_sent_while_the_bus_was_read_at_the_start_is_delivered() {
        for limits in [LIMITS, SHARED] {
            let mut pending = Pending::new(limits);
            pending.handle_connected(&agent("a"), SessionKey(1), Dialect::Full);
            submit(&mut pending, "1", "a");
            pending.handle_recovered(at(0), order("1", "a"), TEN);
            let first = if limits.grace.is_zero() { "deliver 1" } else { "say delivered 1" };
            assert_eq!(outputs(&mut pending), [first]);
        }
    }

    #[test]
    fn what_a_connected_agent_was_not_given_is_not_put_on_its_absence() {
        let mut pending = Pending::new(LIMITS);
        pending.handle_connected(&agent("a"), SessionKey(1), Dialect::Full);
        submit(&mut pending, "1", "a");
        publish(&mut pending, at(0), "1", "a");
        outputs(&mut pending);
        pending.handle_undelivered(at(0), &order("1", "a").id);
        pending.handle_timeout(at(10), |_| String::new(), |_| Holder::Nobody);
        let Some(Output::Answered { response, .. }) = pending.outputs.pop_back() else {
            panic!("there is no answer");
        };
        assert_eq!(response.message, "agent a is connected and could not be given it in time");
    }

    #[test]
    fn never_delivered_is_expired() {
        let mut pending = Pending::new(LIMITS);
        submit(&mut pending, "1", "a");
        publish(&mut pending, at(0), "1", "a");
        assert_eq!(pending.poll_timeout(), Some(Instant::from_ms(10_000)));
        assert!(pass(&mut pending, 9).is_empty());
        assert_eq!(pass(&mut pending, 10), ["publish EXPIRED 1"]);
        pending.handle_connected(&agent("a"), SessionKey(1), Dialect::Full);
        assert!(outputs(&mut pending).is_empty());
    }

    #[test]
    fn delivered_and_not_answered_is_unknown_even_after_a_reconnect() {
        let mut pending = Pending::new(LIMITS);
        pending.handle_connected(&agent("a"), SessionKey(1), Dialect::Full);
        submit(&mut pending, "1", "a");
        publish(&mut pending, at(0), "1", "a");
        outputs(&mut pending);
        pending.handle_delivered(at(0), &order("1", "a").id);
        pending.handle_disconnected(&agent("a"), SessionKey(1));
        assert_eq!(pass(&mut pending, 10), ["publish UNKNOWN 1"]);
    }

    #[test]
    fn a_new_session_gets_the_unanswered_again() {
        let mut pending = Pending::new(LIMITS);
        pending.handle_connected(&agent("a"), SessionKey(1), Dialect::Full);
        submit(&mut pending, "1", "a");
        publish(&mut pending, at(0), "1", "a");
        assert_eq!(outputs(&mut pending), ["deliver 1"]);
        pending.handle_delivered(at(0), &order("1", "a").id);
        // Takeover: the newer stream says that it is there before the older one says that it is gone.
        pending.handle_connected(&agent("a"), SessionKey(2), Dialect::Full);
        assert_eq!(outputs(&mut pending), ["deliver 1"]);
        pending.handle_disconnected(&agent("a"), SessionKey(1));
        publish(&mut pending, at(1), "2", "a");
        assert_eq!(outputs(&mut pending), ["deliver 2"]);
    }

    #[test]
    fn a_session_without_room_is_asked_again() {
        let mut pending = Pending::new(LIMITS);
        pending.handle_connected(&agent("a"), SessionKey(1), Dialect::Full);
        submit(&mut pending, "1", "a");
        publish(&mut pending, at(0), "1", "a");
        outputs(&mut pending);
        pending.handle_undelivered(at(0), &order("1", "a").id);
        assert_eq!(pending.poll_timeout(), Some(Instant::from_ms(1000)));
        assert_eq!(pass(&mut pending, 1), ["deliver 1"]);
        assert_eq!(pass(&mut pending, 10), ["publish EXPIRED 1"]);
    }

    #[test]
    fn a_plain_agent_is_believed_to_have_done_it() {
        let mut pending = Pending::new(LIMITS);
        pending.handle_connected(&agent("a"), SessionKey(1), Dialect::Plain);
        submit(&mut pending, "1", "a");
        publish(&mut pending, at(0), "1", "a");
        assert_eq!(outputs(&mut pending), ["deliver 1"]);
        pending.handle_delivered(at(0), &order("1", "a").id);
        assert_eq!(outputs(&mut pending), ["publish SUCCEEDED 1"]);
    }

    #[test]
    fn the_same_command_twice_has_one_answer() {
        let mut pending = Pending::new(LIMITS);
        pending.handle_connected(&agent("a"), SessionKey(1), Dialect::Full);
        submit(&mut pending, "1", "a");
        assert_eq!(submit(&mut pending, "1", "a"), Submission::Joined);
        assert_eq!(submit(&mut pending, "1", "b"), Submission::Taken);
        publish(&mut pending, at(0), "1", "a");
        pending.handle_answer(response("1", "a"));
        outputs(&mut pending);
        let again = submit(&mut pending, "1", "a");
        assert_eq!(again, Submission::Answered(Box::new(response("1", "a"))));
        assert_eq!(submit(&mut pending, "1", "b"), Submission::Taken);
        publish(&mut pending, at(1), "1", "a");
        assert!(outputs(&mut pending).is_empty(), "answered commands do not run again");
    }

    #[test]
    fn another_command_with_a_known_id_is_none() {
        let mut pending = Pending::new(LIMITS);
        pending.handle_connected(&agent("a"), SessionKey(1), Dialect::Full);
        let with = |kind: CommandType, params: &[(&str, &str)]| {
            let mut with = order("1", "a");
            with.command.r#type = kind.into();
            let params = params.iter().map(|(key, value)| ((*key).into(), (*value).into()));
            with.command.params = params.collect();
            with
        };
        let first = with(CommandType::UpdateConfig, &[("interval", "1"), ("x", "2")]);
        let others = [
            with(CommandType::Restart, &[]),
            with(CommandType::UpdateConfig, &[]),
            with(CommandType::UpdateConfig, &[("interval", "1"), ("x", "3")]),
        ];
        let mut again = first.clone();
        again.command.ttl_ms = 7;
        again.command.timestamp = 7;
        again.command.force = true;
        let submit = |pending: &mut Pending, order: &Order| pending.handle_submit(at(0), order);
        let publish = |pending: &mut Pending, order: &Order| {
            pending.handle_published(at(0), order.clone(), TEN, Holder::Nobody);
            outputs(pending)
        };
        assert_eq!(submit(&mut pending, &first), Submission::New);
        for other in &others {
            assert_eq!(submit(&mut pending, other), Submission::Taken);
            assert!(publish(&mut pending, other).is_empty(), "the first is not on the bus yet");
        }
        assert_eq!(submit(&mut pending, &again), Submission::Joined);
        assert_eq!(publish(&mut pending, &again), ["deliver 1"]);
        for other in &others {
            assert!(publish(&mut pending, other).is_empty());
            let reason = "no such key".to_owned();
            pending.handle_refused(at(0), other, Holder::Nobody, reason);
            assert!(outputs(&mut pending).is_empty(), "the first one goes on");
        }
        pending.handle_answer(response("1", "a"));
        outputs(&mut pending);
        for late in [false, true] {
            if late {
                pending.handle_answer(response("1", "a"));
            }
            for other in &others {
                assert_eq!(submit(&mut pending, other), Submission::Taken);
                assert!(publish(&mut pending, other).is_empty());
            }
            let answered = Submission::Answered(Box::new(response("1", "a")));
            assert_eq!(submit(&mut pending, &again), answered);
        }
    }

    #[test]
    fn an_answer_to_a_command_that_was_not_read_is_told_by_its_agent() {
        let mut pending = Pending::new(LIMITS);
        pending.handle_answer(response("1", "a"));
        let answered = Submission::Answered(Box::new(response("1", "a")));
        assert_eq!(submit(&mut pending, "1", "a"), answered);
        assert_eq!(submit(&mut pending, "1", "b"), Submission::Taken);
    }

    #[test]
    fn an_answer_of_another_agent_is_none() {
        let mut pending = Pending::new(LIMITS);
        submit(&mut pending, "1", "a");
        pending.handle_answer(response("1", "b"));
        assert!(outputs(&mut pending).is_empty());
        pending.handle_answer(response("1", "a"));
        assert_eq!(outputs(&mut pending), ["SUCCEEDED 1"]);
    }

    #[test]
    fn bounds_hold_per_agent_and_in_total() {
        let mut pending = Pending::new(LIMITS);
        assert_eq!(submit(&mut pending, "1", "a"), Submission::New);
        assert_eq!(submit(&mut pending, "2", "a"), Submission::New);
        assert_eq!(submit(&mut pending, "3", "a"), Submission::Busy);
        assert_eq!(submit(&mut pending, "4", "b"), Submission::New);
        assert_eq!(submit(&mut pending, "5", "c"), Submission::Busy);
        publish(&mut pending, at(0), "6", "a");
        assert_eq!(outputs(&mut pending), ["publish REJECTED 6"]);
        pending.handle_withdrawn(&order("1", "a").id);
        assert_eq!(submit(&mut pending, "3", "a"), Submission::New);
    }

    #[test]
    fn old_answers_are_forgotten_and_late_ones_replace() {
        let mut pending = Pending::new(LIMITS);
        for id in ["1", "2", "3"] {
            pending.handle_answer(response(id, "a"));
        }
        assert_eq!(submit(&mut pending, "1", "a"), Submission::New);
        let mut late = response("2", "a");
        late.message = "late".into();
        pending.handle_answer(late.clone());
        assert_eq!(submit(&mut pending, "2", "a"), Submission::Answered(Box::new(late)));
    }

    #[test]
    fn a_command_from_before_a_restart_goes_on() {
        let mut pending = Pending::new(LIMITS);
        pending.handle_recovered(at(0), order("1", "a"), Duration::from_secs(5));
        pending.handle_recovered(at(0), order("2", "a"), Duration::ZERO);
        assert_eq!(pass(&mut pending, 0), ["publish UNKNOWN 2"]);
        pending.handle_connected(&agent("a"), SessionKey(1), Dialect::Full);
        assert_eq!(outputs(&mut pending), ["deliver 1"]);
        assert_eq!(pass(&mut pending, 5), ["publish UNKNOWN 1"]);
    }

    fn mark(pending: &mut Pending, id: &str, mark: Mark, is_ours: bool) -> Vec<String> {
        pending.handle_mark(at(0), &order(id, "a").id, mark, is_ours);
        outputs(pending)
    }

    #[test]
    fn the_server_that_took_a_command_says_that_it_expired_when_no_server_has_the_agent() {
        let mut pending = Pending::new(SHARED);
        submit(&mut pending, "1", "a");
        publish(&mut pending, at(0), "1", "a");
        publish(&mut pending, at(0), "2", "a");
        assert_eq!(pass(&mut pending, 10), ["say closed 1"]);
        assert_eq!(mark(&mut pending, "1", Mark::Closed, true), ["publish EXPIRED 1"]);
        assert_eq!(pending.poll_timeout(), Some(Instant::from_ms(15_000)));
        assert_eq!(pass(&mut pending, 15), ["say closed 2"], "nobody else did");
        assert_eq!(mark(&mut pending, "2", Mark::Closed, true), ["publish EXPIRED 2"]);
    }

    #[test]
    fn servers_that_share_a_bus_deliver_once_it_has_their_mark() {
        let mut pending = Pending::new(SHARED);
        pending.handle_connected(&agent("a"), SessionKey(1), Dialect::Full);
        publish(&mut pending, at(0), "1", "a");
        publish(&mut pending, at(0), "2", "a");
        assert_eq!(outputs(&mut pending), ["say delivered 1", "say delivered 2"]);
        assert!(mark(&mut pending, "2", Mark::Delivered, true).is_empty(), "1 is before it");
        assert_eq!(mark(&mut pending, "1", Mark::Delivered, true), ["deliver 1", "deliver 2"]);
        for id in ["1", "2"] {
            pending.handle_delivered(at(0), &order(id, "a").id);
        }
        pending.handle_connected(&agent("a"), SessionKey(2), Dialect::Full);
        assert_eq!(outputs(&mut pending), ["deliver 1", "deliver 2"], "it was said before");
    }

    #[test]
    fn a_closing_that_comes_first_forbids_the_delivery() {
        let mut pending = Pending::new(SHARED);
        pending.handle_connected(&agent("a"), SessionKey(1), Dialect::Full);
        publish(&mut pending, at(0), "1", "a");
        assert_eq!(outputs(&mut pending), ["say delivered 1"]);
        assert!(mark(&mut pending, "1", Mark::Closed, false).is_empty());
        assert!(mark(&mut pending, "1", Mark::Delivered, true).is_empty(), "it came second");
        assert_eq!(pass(&mut pending, 10), ["publish EXPIRED 1"], "that is certain");
    }

    #[test]
    fn a_delivery_that_comes_first_makes_the_closing_void() {
        let mut pending = Pending::new(SHARED);
        submit(&mut pending, "1", "a");
        publish(&mut pending, at(0), "1", "a");
        assert_eq!(pass(&mut pending, 10), ["say closed 1"]);
        mark(&mut pending, "1", Mark::Delivered, false);
        assert!(mark(&mut pending, "1", Mark::Closed, true).is_empty());
        assert_eq!(pass(&mut pending, 15), ["publish UNKNOWN 1"]);
    }

    #[test]
    fn what_the_bus_does_not_decide_in_time_is_unknown() {
        let mut pending = Pending::new(SHARED);
        submit(&mut pending, "1", "a");
        assert_eq!(pass(&mut pending, 10), ["say closed 1"]);
        assert_eq!(pass(&mut pending, 15), ["publish UNKNOWN 1"]);
        assert!(mark(&mut pending, "1", Mark::Closed, true).is_empty());
    }

    #[test]
    fn what_was_closed_before_this_run_is_not_delivered_and_is_unknown() {
        let mut pending = Pending::new(SHARED);
        pending.handle_connected(&agent("a"), SessionKey(1), Dialect::Full);
        pending.handle_barred(&order("1", "a").id);
        pending.handle_recovered(at(0), order("1", "a"), TEN);
        pending.handle_recovered(at(0), order("2", "a"), TEN);
        assert_eq!(outputs(&mut pending), ["say delivered 2"]);
        pending.handle_barred(&order("2", "a").id);
        assert!(mark(&mut pending, "2", Mark::Delivered, true).is_empty());
        assert_eq!(pass(&mut pending, 10), ["publish UNKNOWN 1", "publish UNKNOWN 2"]);
    }

    #[test]
    fn a_mark_without_room_is_tried_again() {
        let mut pending = Pending::new(SHARED);
        pending.handle_connected(&agent("a"), SessionKey(1), Dialect::Full);
        publish(&mut pending, at(0), "1", "a");
        assert_eq!(outputs(&mut pending), ["say delivered 1"]);
        pending.handle_unmarked(at(0), &order("1", "a").id);
        assert_eq!(pass(&mut pending, 1), ["say delivered 1"]);
    }

    #[test]
    fn a_doubted_agent_gets_nothing_new() {
        let doubt = |pending: &mut Pending| {
            pending.handle_doubted(at(0), &order("1", "a").id, "two hosts".to_owned());
            outputs(pending)
        };
        let mut alone = Pending::new(LIMITS);
        alone.handle_connected(&agent("a"), SessionKey(1), Dialect::Full);
        publish(&mut alone, at(0), "1", "a");
        assert_eq!(outputs(&mut alone), ["deliver 1"]);
        assert_eq!(doubt(&mut alone), ["publish REJECTED 1"]);
        let mut shared = Pending::new(SHARED);
        shared.handle_connected(&agent("a"), SessionKey(1), Dialect::Full);
        publish(&mut shared, at(0), "1", "a");
        assert_eq!(outputs(&mut shared), ["say delivered 1"]);
        assert_eq!(doubt(&mut shared), ["say closed 1"]);
        assert_eq!(mark(&mut shared, "1", Mark::Closed, true), ["publish REJECTED 1"]);
    }

    #[test]
    fn the_order_of_the_bus_is_that_of_delivery() {
        let mut pending = Pending::new(LIMITS);
        submit(&mut pending, "1", "a");
        submit(&mut pending, "2", "a");
        for id in ["2", "1"] {
            publish(&mut pending, at(0), id, "a");
        }
        pending.handle_connected(&agent("a"), SessionKey(1), Dialect::Full);
        assert_eq!(outputs(&mut pending), ["deliver 2", "deliver 1"]);
    }

    #[test]
    fn the_server_that_has_the_agent_speaks_first() {
        let mut pending = Pending::new(SHARED);
        submit(&mut pending, "1", "a");
        publish(&mut pending, at(0), "1", "a");
        assert!(pass_with(&mut pending, 10, Holder::AnotherServer).is_empty());
        pending.handle_answer(response("1", "a"));
        assert_eq!(outputs(&mut pending), ["SUCCEEDED 1"]);
        assert!(pass(&mut pending, 99).is_empty());
    }

    #[test]
    fn what_another_server_delivered_and_left_alone_is_unknown() {
        let mut pending = Pending::new(SHARED);
        submit(&mut pending, "1", "a");
        publish(&mut pending, at(0), "1", "a");
        pending.handle_mark(at(0), &order("1", "a").id, Mark::Delivered, false);
        assert!(pass(&mut pending, 10).is_empty());
        assert_eq!(pass(&mut pending, 15), ["publish UNKNOWN 1"]);
    }

    #[test]
    fn a_delivery_that_is_read_before_its_command_is_not_forgotten() {
        let mut pending = Pending::new(SHARED);
        pending.handle_mark(at(0), &order("1", "a").id, Mark::Delivered, false);
        publish(&mut pending, at(0), "1", "a");
        assert!(pass(&mut pending, 10).is_empty());
        assert_eq!(pass(&mut pending, 15), ["publish UNKNOWN 1"], "it may have run");
        for number in 0..2 * NOTICED_MAX {
            mark(&mut pending, &number.to_string(), Mark::Delivered, false);
        }
        assert!(pending.noticed.len() <= NOTICED_MAX);
    }

    #[test]
    fn a_command_that_cannot_be_one_is_answered_once() {
        let mut pending = Pending::new(SHARED);
        let reason = || "interval: too short".to_owned();
        pending.handle_refused(at(0), &order("1", "a"), Holder::AnotherServer, reason());
        assert!(outputs(&mut pending).is_empty());
        for _ in 0..2 {
            pending.handle_refused(at(0), &order("2", "a"), Holder::Nobody, reason());
        }
        assert_eq!(outputs(&mut pending), ["publish REJECTED 2"]);
    }

    #[test]
    fn a_server_that_stood_still_lets_others_speak_first() {
        let mut pending = Pending::new(SHARED);
        pending.handle_connected(&agent("a"), SessionKey(1), Dialect::Full);
        publish(&mut pending, at(0), "1", "a");
        assert_eq!(outputs(&mut pending), ["say delivered 1"]);
        assert_eq!(mark(&mut pending, "1", Mark::Delivered, true), ["deliver 1"]);
        pending.handle_delivered(at(0), &order("1", "a").id);
        // The agent has gone on with another server meanwhile, which this one does not know yet.
        pending.handle_published(at(60), order("2", "a"), Duration::ZERO, Holder::Nobody);
        assert!(pass(&mut pending, 60).is_empty());
        pending.handle_answer(response("1", "a"));
        assert_eq!(outputs(&mut pending), ["SUCCEEDED 1"]);
        assert_eq!(pass(&mut pending, 65), ["say closed 2"], "nobody else said so");
    }

    #[test]
    fn nothing_is_delivered_once_its_time_is_over() {
        let mut pending = Pending::new(SHARED);
        publish(&mut pending, at(0), "1", "a");
        assert!(pass(&mut pending, 10).is_empty());
        pending.handle_connected(&agent("a"), SessionKey(1), Dialect::Full);
        assert!(outputs(&mut pending).is_empty());
        assert_eq!(pending.left(at(11), &order("1", "a").id), None);
    }

    #[test]
    fn a_command_that_was_read_late_has_less_time() {
        let mut pending = Pending::new(LIMITS);
        let left = Duration::from_secs(3);
        pending.handle_published(at(0), order("1", "a"), left, Holder::Nobody);
        pending.handle_published(at(0), order("2", "a"), Duration::ZERO, Holder::Nobody);
        assert_eq!(pass(&mut pending, 0), ["publish EXPIRED 2"]);
        assert_eq!(pass(&mut pending, 3), ["publish EXPIRED 1"]);
    }

    #[test]
    fn a_table_that_is_full_leaves_the_word_to_the_server_that_has_the_agent() {
        let mut pending = Pending::new(Limits { total: 4, ..SHARED });
        publish(&mut pending, at(0), "1", "a");
        publish(&mut pending, at(0), "2", "a");
        pending.handle_published(at(0), order("3", "a"), TEN, Holder::AnotherServer);
        assert!(outputs(&mut pending).is_empty());
        publish(&mut pending, at(0), "4", "a");
        assert_eq!(outputs(&mut pending), ["say closed 4"]);
        assert_eq!(mark(&mut pending, "4", Mark::Closed, true), ["publish REJECTED 4"]);
        publish(&mut pending, at(0), "5", "a");
        assert_eq!(outputs(&mut pending), ["say closed 5"]);
        publish(&mut pending, at(0), "6", "a");
        assert_eq!(outputs(&mut pending), ["publish UNKNOWN 6"], "another server may deliver it");
    }
}
