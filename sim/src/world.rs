//! One world: its clock, its queue of events, and the agents in it.
//!
//! Everything happens in one thread, in the order of the queue: by time, and at one time by a number drawn from the seed.
//! Servers and their bus are in `nodes`, what goes wrong is in `trouble`, what people do is in `operator`.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap, VecDeque};
use std::mem;

use agent_core::agent::{Batch, LinkState, RunState, Transmit};
use agent_core::id::{BootId, Sequence};
use agent_core::ledger::LossReason;
use agent_core::metric::MetricSet;
use agent_core::time::Instant;
use agent_std::simulated::{
    Event as ShellEvent, LinkEvent, Next, Request, Shell, Start, State, StateDisk,
};
use agent_std::spool::Order;

use crate::bus::{Known, SimBus};
use crate::host::{End, Host, Journal, Process, millis};
use crate::intervals::Intervals;
use crate::network::{CONNECT_MS, Connection, Direction, Parcel, Pipe, WINDOW_BYTES};
use crate::nodes::Node;
use crate::operator::Operator;
use crate::plan::{Keeping, Plan};
use crate::random::Random;
use crate::tally::{Fault, Tally};
use crate::trace::{Trace, Who};
use crate::trouble::Trouble;

/// 2026-01-01, what all clocks show at the beginning.
pub(crate) const EPOCH_MS: i64 = 1_767_225_600_000;

/// Something to happen.
#[derive(Debug)]
pub(crate) enum Event {
    /// The timer of an agent.
    Wake(usize),
    /// The collector of a process has measured.
    Measured {
        agent: usize,
        process: u64,
        wanted: MetricSet,
        is_failure: bool,
    },
    /// A process starts.
    StartAgent(usize),
    /// A process dials, having found so many servers away.
    Dial {
        agent: usize,
        process: u64,
        session: u64,
        hello: Vec<u8>,
        tried: usize,
    },
    /// A parcel arrives.
    Arrive(u64, Direction),
    /// The timer of a server.
    WakeServer(usize),
    StartServer(usize),
    /// A group of records is about to be durable.
    Commit(u64),
    /// A server reads what is new on the bus.
    Feed(usize, u64),
    /// Something goes wrong, or is right again.
    Trouble(Trouble),
    /// Somebody does something.
    Operate(Box<crate::operator::Task>),
}

#[derive(Debug)]
struct Scheduled {
    key: (u64, u64, u64),
    event: Event,
}

impl PartialEq for Scheduled {
    fn eq(&self, other: &Self) -> bool {
        self.key == other.key
    }
}

impl Eq for Scheduled {}

impl PartialOrd for Scheduled {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Scheduled {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.key.cmp(&other.key)
    }
}

/// The promise that was broken, in words.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Broken(pub(crate) String);

pub(crate) type Outcome = Result<(), Broken>;

/// Everything there is.
#[derive(Debug)]
pub(crate) struct World<const RING: usize> {
    pub(crate) plan: Plan,
    pub(crate) random: Random,
    pub(crate) trace: Trace,
    pub(crate) tally: Tally,
    pub(crate) now: u64,
    queue: BinaryHeap<Reverse<Scheduled>>,
    serial: u64,
    pub(crate) hosts: Vec<Host<RING>>,
    pub(crate) nodes: Vec<Node>,
    pub(crate) bus: SimBus,
    pub(crate) connections: BTreeMap<u64, Connection>,
    pub(crate) next_connection: u64,
    /// Until when each path is closed, by agent, server and direction.
    pub(crate) blocked: Vec<Vec<[u64; 2]>>,
    /// Since when each path is closed in some direction.
    pub(crate) blocked_from: Vec<Vec<u64>>,
    pub(crate) operator: Operator,
    /// Faults come.
    pub(crate) is_hostile: bool,
    /// Agents that stopped for good are not started again.
    pub(crate) is_over: bool,
}

/// Records that an agent takes out of a full spool each time that it is given a while, at least: one batch of small
/// groups for each journey to the bus and back.
const DRAINED_MIN: u64 = 1000;

/// What an agent holds.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Held {
    process_number: u64,
    /// What the process has recorded.
    records: u64,
    alerts: u64,
    /// Records in the spool.
    spooled: u64,
}

impl<const RING: usize> World<RING> {
    pub(crate) fn new(plan: Plan, random: Random) -> Self {
        let mut world = Self {
            hosts: (0..plan.agents).map(|index| Host::new(index, EPOCH_MS)).collect(),
            nodes: (0..plan.servers).map(|_| Node::new(EPOCH_MS)).collect(),
            bus: SimBus::new(plan.is_shared),
            blocked: vec![vec![[0; 2]; plan.servers]; plan.agents],
            blocked_from: vec![vec![0; plan.servers]; plan.agents],
            connections: BTreeMap::new(),
            next_connection: 1,
            operator: Operator::default(),
            trace: Trace::default(),
            tally: Tally::default(),
            now: 0,
            queue: BinaryHeap::new(),
            serial: 0,
            is_hostile: true,
            is_over: false,
            plan,
            random,
        };
        if world.plan.keeping != Keeping::Nothing {
            for host in &mut world.hosts {
                host.disk = Some(StateDisk::default());
            }
        }
        // Any order of starts is a good one.
        for server in 0..world.nodes.len() {
            let delay = world.random.between(0, 20_000);
            world.after(delay, Event::StartServer(server));
        }
        for agent in 0..world.hosts.len() {
            let delay = world.random.between(0, 20_000);
            world.hosts[agent].is_starting = true;
            world.after(delay, Event::StartAgent(agent));
        }
        world.begin_trouble();
        world.begin_operating();
        world
    }

    pub(crate) fn at(&mut self, at: u64, event: Event) {
        self.serial += 1;
        let key = (at.max(self.now), self.random.next(), self.serial);
        self.queue.push(Reverse(Scheduled { key, event }));
    }

    pub(crate) fn after(&mut self, delay: u64, event: Event) {
        self.at(self.now.saturating_add(delay), event);
    }

    pub(crate) fn note(&mut self, who: Who, what: &'static str, a: u64, b: u64) {
        self.trace.note(self.now, who, what, a, b);
    }

    /// Lets time pass until `end`.
    pub(crate) fn run_until(&mut self, end: u64) -> Outcome {
        while let Some(Reverse(next)) = self.queue.peek()
            && next.key.0 <= end
        {
            let Some(Reverse(Scheduled { key, event })) = self.queue.pop() else { break };
            self.now = key.0;
            self.tally.events += 1;
            self.handle(event)?;
        }
        self.now = end;
        Ok(())
    }

    fn handle(&mut self, event: Event) -> Outcome {
        match event {
            Event::Wake(agent) => self.wake(agent),
            Event::Measured { agent, process, wanted, is_failure } => {
                self.measured(agent, process, wanted, is_failure)
            }
            Event::StartAgent(agent) => self.start_agent(agent),
            Event::Dial { agent, process, session, hello, tried } => {
                self.dial(agent, process, session, hello, tried)
            }
            Event::Arrive(connection, direction) => {
                if let Some(found) = self.connections.get_mut(&connection) {
                    let pipe = found.pipe(direction);
                    pipe.due = (pipe.due + 1).min(pipe.parcels.len());
                }
                self.deliver(connection, direction)
            }
            Event::WakeServer(server) => self.wake_server(server),
            Event::StartServer(server) => self.start_server(server),
            Event::Commit(group) => self.commit(group),
            Event::Feed(server, run) => self.feed(server, run),
            Event::Trouble(trouble) => self.suffer(trouble),
            Event::Operate(task) => self.operate(*task),
        }
    }

    fn start_agent(&mut self, agent: usize) -> Outcome {
        let is_torn = self.is_hostile && self.random.happens(20_000);
        let nonce = self.random.next();
        let seed = self.random.next();
        let config_confirm = millis(if self.plan.has_trials { 120_000 } else { 0 });
        let interval = self.plan.interval_ms;
        let host = &mut self.hosts[agent];
        host.is_starting = false;
        if host.process.is_some() || self.is_over {
            return Ok(());
        }
        if is_torn {
            host.boot_counter = 0;
            self.tally.met(Fault::StateTorn, 1);
        }
        host.boot_counter += 1;
        host.process_number += 1;
        let boot = BootId { counter: host.boot_counter, nonce };
        let restarted = host.restarted.take();
        let (spool_bytes, after_ms, order) = match self.plan.keeping {
            Keeping::Nothing | Keeping::Books => (0, 0, Order::OldestFirst),
            Keeping::Spool { bytes, after_ms, order } => (bytes, after_ms, order),
        };
        let spool_after = millis(after_ms);
        let disk = host.disk.clone();
        let state = disk.map(|disk| State { disk, spool_bytes, spool_after, order });
        let is_unsure = self.now < host.disk_full_until;
        if is_unsure {
            host.journals.iter_mut().for_each(|journal| journal.is_unsure = true);
        }
        let start = Start {
            id: host.id.clone(),
            boot,
            seed,
            restarted,
            document: format!(r#"{{"interval": {}.{:03}}}"#, interval / 1000, interval % 1000),
            config_confirm,
            state,
        };
        let shell = Shell::start(Instant::from_ms(0), start)
            .map_err(|error| Broken(format!("a host's own configuration was refused: {error}")))?;
        let journal = host.journals.len();
        host.journals.push(Journal {
            boot,
            records: Vec::new(),
            alerts: Vec::new(),
            acknowledged: (0, 0),
            deferred: <(Intervals, Intervals)>::default(),
            is_unsure,
            given_up: 0,
            end: End::Running,
        });
        host.process = Some(Process {
            shell,
            started_at: self.now,
            journal,
            connection: None,
            transmitted: VecDeque::new(),
            wake_at: None,
            overwritten: 0,
            spool_lost: 0,
            replays: 0,
        });
        let counter = host.boot_counter;
        self.tally.boots += 1;
        self.note(Who::Agent(agent), "starts, boot {a}", counter, nonce);
        self.drive(agent)
    }

    fn wake(&mut self, agent: usize) -> Outcome {
        let now = self.now;
        let Some(process) = self.hosts[agent].awake(now) else { return Ok(()) };
        if process.wake_at != Some(now) {
            return Ok(());
        }
        process.wake_at = None;
        let at = Instant::from_ms(now - process.started_at);
        process.shell.tick(at);
        self.observe(agent)?;
        self.drive(agent)
    }

    fn measured(
        &mut self,
        agent: usize,
        number: u64,
        wanted: MetricSet,
        is_failure: bool,
    ) -> Outcome {
        let now = self.now;
        let host = &mut self.hosts[agent];
        if host.process_number != number {
            return Ok(());
        }
        if now < host.frozen_until {
            let at = host.frozen_until;
            self.at(at, Event::Measured { agent, process: number, wanted, is_failure });
            return Ok(());
        }
        let Some(process) = &host.process else { return Ok(()) };
        let at = Instant::from_ms(now - process.started_at);
        let event = if is_failure {
            ShellEvent::SnapshotFailed
        } else {
            ShellEvent::Snapshot(host.measure(at, now, wanted, &mut self.random))
        };
        self.tell(agent, event)
    }

    /// Tells an agent what happened, and does what it asks for then.
    pub(crate) fn tell(&mut self, agent: usize, event: ShellEvent) -> Outcome {
        let now = self.now;
        let Some(process) = self.hosts[agent].awake(now) else { return Ok(()) };
        let at = Instant::from_ms(now - process.started_at);
        if process.shell.handle(at, event).is_err() {
            self.note(Who::Agent(agent), "cannot read a message and ends the stream", 0, 0);
            self.hang_up(agent, true, true)?;
        }
        self.observe(agent)?;
        self.drive(agent)
    }

    /// Does what an agent asks for until it wants to wait.
    pub(crate) fn drive(&mut self, agent: usize) -> Outcome {
        loop {
            let now = self.now;
            let unix_s = self.hosts[agent].wall_ms(now).div_euclid(1000);
            let number = self.hosts[agent].process_number;
            let Some(process) = self.hosts[agent].awake(now) else { return Ok(()) };
            let at = Instant::from_ms(now - process.started_at);
            if let Some((session, transmit)) = process.transmitted.pop_front() {
                let event = ShellEvent::Link(session, LinkEvent::Transmitted(transmit));
                process.shell.handle(at, event).ok();
                continue;
            }
            match process.shell.poll(at, unix_s) {
                Next::Request(Request::Collect(wanted)) => {
                    let word = self.random.next();
                    let (delay, is_failure) = match word % 1000 {
                        0 if self.is_hostile => (3000 + word / 1000 % 9000, false),
                        1 if self.is_hostile => (10, true),
                        _ => (1 + word / 1000 % 20, false),
                    };
                    if is_failure || 1000 < delay {
                        self.tally.met(Fault::CollectorStuck, 1);
                    }
                    let process = number;
                    self.after(delay, Event::Measured { agent, process, wanted, is_failure });
                }
                Next::Request(Request::Dial(session, hello)) => {
                    self.hang_up(agent, false, false)?;
                    self.dial(agent, number, session, hello, 0)?;
                }
                Next::Request(Request::Send(bytes, transmit)) => self.send(agent, bytes, transmit),
                Next::Request(Request::Finish) => self.finish(agent),
                Next::Request(Request::Look) => self.observe(agent)?,
                Next::Request(Request::Restart(restarted)) => {
                    if self.fails_to_restart() {
                        self.fail_to_restart(agent, at)?;
                        continue;
                    }
                    self.note(Who::Agent(agent), "restarts", 0, 0);
                    self.observe(agent)?;
                    self.hosts[agent].restarted = restarted;
                    return self.end_process(agent, 100, 2000);
                }
                Next::Request(Request::Exit) => {
                    self.note(Who::Agent(agent), "exits", 0, 0);
                    self.observe(agent)?;
                    return self.end_process(agent, 1000, 20_000);
                }
                Next::Wait(until) => {
                    let until = until.map(|until| until.as_ms().saturating_add(now - at.as_ms()));
                    // A deadline that has passed would have been acted upon.
                    let until = until.map(|until| until.max(now + 1));
                    if let Some(until) = until
                        && process.wake_at.is_none_or(|known| known <= now || until < known)
                    {
                        process.wake_at = Some(until);
                        self.at(until, Event::Wake(agent));
                    }
                    return self.observe(agent);
                }
            }
        }
    }

    /// Writes down what is new, and checks what can be checked at once: books, and that nothing is acknowledged before
    /// it is durable.
    fn observe(&mut self, agent: usize) -> Outcome {
        let observed = self.hosts[agent].observe().map_err(Broken)?;
        self.tally.recorded += observed.recorded;
        self.tally.alerts += observed.alerts;
        self.tally.met(Fault::RingOverflow, observed.overwritten);
        self.tally.met(Fault::SpoolFull, observed.spool_lost);
        let host = &mut self.hosts[agent];
        let Some(process) = &host.process else { return Ok(()) };
        let (records, alerts) = process.shell.accounted();
        let told = (records.map_or(0, Sequence::number), alerts.map_or(0, Sequence::number));
        let journal = &mut host.journals[process.journal];
        if journal.acknowledged == told {
            return Ok(());
        }
        journal.acknowledged = told;
        let boot = journal.boot;
        let known = self.bus.known.get(&(host.id.clone(), boot));
        // Drained for its end, an agent gives up what it holds and says so in its books.
        let state = process.shell.status(Instant::from_ms(0)).state;
        if state == RunState::Draining || told == (0, 0) {
            return Ok(());
        }
        // What the spool will bring is accounted for by that.
        let nothing = Known::default();
        let known_or_nothing = known.unwrap_or(&nothing);
        let is_durable = known_or_nothing.records.covers_to_with(&journal.deferred.0, told.0)
            && known_or_nothing.alerts.covers_to_with(&journal.deferred.1, told.1);
        if is_durable {
            return Ok(());
        }
        let gap = known.map_or((1, 1), |k| (k.records.first_gap(), k.alerts.first_gap()));
        Err(Broken(format!(
            "D1, D2: boot {boot} of {} believes records to {} and alerts to {} durable, the bus lacks record {} or alert {}",
            host.id, told.0, told.1, gap.0, gap.1
        )))
    }

    fn dial(
        &mut self,
        agent: usize,
        number: u64,
        session: u64,
        hello: Vec<u8>,
        tried: usize,
    ) -> Outcome {
        let now = self.now;
        if self.hosts[agent].process_number != number {
            return Ok(());
        }
        if now < self.hosts[agent].frozen_until {
            let at = self.hosts[agent].frozen_until;
            self.at(at, Event::Dial { agent, process: number, session, hello, tried });
            return Ok(());
        }
        if tried == self.nodes.len() {
            self.tally.met(Fault::DialFailed, 1);
            self.note(Who::Agent(agent), "found no server for stream {a}", session, 0);
            return self.tell(agent, ShellEvent::Link(session, LinkEvent::Closed));
        }
        let server = self.hosts[agent].turn % self.nodes.len();
        let is_blocked = self.blocked[agent][server].iter().any(|until| now < *until);
        let delay = self.random.between(self.plan.latency_ms.0, self.plan.latency_ms.1);
        if is_blocked || self.nodes[server].server.is_none() || self.nodes[server].is_stopping {
            self.hosts[agent].turn += 1;
            let delay = if is_blocked { CONNECT_MS } else { delay };
            let process = number;
            self.after(delay, Event::Dial { agent, process, session, hello, tried: tried + 1 });
            return Ok(());
        }
        let id = self.next_connection;
        self.next_connection += 1;
        self.tally.streams += 1;
        let before = self.hosts[agent].last_server.replace(server);
        self.tally.met(Fault::Failover, u64::from(before.is_some_and(|before| before != server)));
        // The handshake of TCP.
        let up = Pipe { last_arrival: now + 2 * delay, ..Pipe::default() };
        self.connections.insert(
            id,
            Connection {
                agent,
                process: number,
                session,
                server,
                run: self.nodes[server].run,
                up,
                down: Pipe::default(),
                outbox: VecDeque::new(),
                finishes: false,
                is_agent_there: true,
                is_server_there: true,
            },
        );
        if let Some(process) = &mut self.hosts[agent].process {
            process.connection = Some(id);
        }
        self.note(Who::Agent(agent), "opens stream {a} to server {b}", session, server as u64);
        self.push(id, Direction::Up, Parcel::Headers(hello));
        self.watch_frozen_server(id, server);
        self.tell(agent, ShellEvent::Link(session, LinkEvent::Opened))
    }

    /// Hands a message to the transport.
    fn send(&mut self, agent: usize, bytes: Vec<u8>, transmit: Transmit) {
        if matches!(transmit, Transmit::Plain(_)) {
            self.tally.met(Fault::PlainForm, 1);
        }
        if let Transmit::Batch(batch) = transmit {
            let (first, end) = (batch.first.number(), batch.end.number());
            self.note(Who::Agent(agent), "sends records from {a} to before {b}", first, end);
        }
        let host = &mut self.hosts[agent];
        let Some(process) = &mut host.process else { return };
        let deferred = &mut host.journals[process.journal].deferred;
        match transmit {
            Transmit::Batch(Batch { deferred: Some(range), .. }) => {
                deferred.0.insert(range.first.number(), range.last.number());
            }
            Transmit::Alerts(Batch { deferred: Some(range), .. }) => {
                deferred.1.insert(range.first.number(), range.last.number());
            }
            Transmit::Replay => process.replays += 1,
            _ => {}
        }
        let Some(id) = process.connection else { return };
        if let Some(connection) = self.connections.get_mut(&id) {
            connection.outbox.push_back((bytes, transmit));
        }
        self.flush_up(id);
    }

    /// Ends the agent's half of its stream after what its transport has not taken yet.
    fn finish(&mut self, agent: usize) {
        let id = self.hosts[agent].process.as_ref().and_then(|process| process.connection);
        let Some(id) = id else { return };
        if let Some(connection) = self.connections.get_mut(&id) {
            connection.finishes = true;
        }
        self.flush_up(id);
    }

    /// Lets the transport of an agent take what there is room for. Answers whether it took anything.
    pub(crate) fn flush_up(&mut self, id: u64) -> bool {
        let mut has_taken = false;
        while let Some(connection) = self.connections.get_mut(&id) {
            let unread = match &self.nodes[connection.server].server {
                Some(server) => server.unread_bytes(server::simulated::StreamId(id)),
                None => 0,
            };
            if WINDOW_BYTES <= connection.up.bytes + unread {
                break;
            }
            let (agent, session) = (connection.agent, connection.session);
            let Some((bytes, transmit)) = connection.outbox.pop_front() else { break };
            self.push(id, Direction::Up, Parcel::Message(bytes));
            if let Some(process) = &mut self.hosts[agent].process {
                process.transmitted.push_back((session, transmit));
            }
            has_taken = true;
        }
        let is_at_end = |c: &mut Connection| c.outbox.is_empty() && mem::take(&mut c.finishes);
        if self.connections.get_mut(&id).is_some_and(is_at_end) {
            self.push(id, Direction::Up, Parcel::End { is_refusal: false });
        }
        has_taken
    }

    /// Puts a parcel on its way.
    pub(crate) fn push(&mut self, id: u64, direction: Direction, parcel: Parcel) {
        let (fastest, slowest) = self.plan.latency_ms;
        let word = self.random.next();
        let delay = fastest + word % (slowest - fastest + 1);
        let is_damaged = self.is_hostile
            && matches!(parcel, Parcel::Message(_))
            && self.random.happens(self.plan.faults.damage_per_million);
        let now = self.now;
        let Some(connection) = self.connections.get_mut(&id) else { return };
        let parcel = match parcel {
            // Wire type 7 does not exist: what a damaged frame leads to, which is that the stream ends. Damage that no
            // frame and no decoder notices is not for this protocol to notice either.
            Parcel::Message(mut bytes) if is_damaged && !bytes.is_empty() => {
                bytes[0] |= 7;
                self.tally.met(Fault::Damage, 1);
                Parcel::Message(bytes)
            }
            parcel => parcel,
        };
        let pipe = connection.pipe(direction);
        let arrival = pipe.last_arrival.max(now + delay);
        pipe.last_arrival = arrival;
        pipe.push(parcel);
        self.at(arrival, Event::Arrive(id, direction));
    }

    /// Gives the receiver what has arrived, if the path is open and the receiver does not stand still.
    pub(crate) fn deliver(&mut self, id: u64, direction: Direction) -> Outcome {
        loop {
            let now = self.now;
            let Some(connection) = self.connections.get_mut(&id) else { return Ok(()) };
            let (agent, server) = (connection.agent, connection.server);
            let is_frozen = match direction {
                Direction::Up => now < self.nodes[server].frozen_until,
                Direction::Down => now < self.hosts[agent].frozen_until,
            };
            if is_frozen || now < self.blocked[agent][server][direction as usize] {
                return Ok(());
            }
            let pipe = connection.pipe(direction);
            if pipe.due == 0 {
                return Ok(());
            }
            pipe.due -= 1;
            let Some(parcel) = pipe.pop() else { return Ok(()) };
            match direction {
                Direction::Up => self.give_server(id, parcel)?,
                Direction::Down => self.give_agent(id, parcel)?,
            }
            self.forget_if_done(id);
        }
    }

    fn forget_if_done(&mut self, id: u64) {
        let is_done = |c: &Connection| !c.is_agent_there && !c.is_server_there;
        if self.connections.get(&id).is_some_and(is_done) {
            self.connections.remove(&id);
        }
    }

    fn give_agent(&mut self, id: u64, parcel: Parcel) -> Outcome {
        let Some(connection) = self.connections.get_mut(&id) else { return Ok(()) };
        let Connection { agent, process: number, session, .. } = *connection;
        if !connection.is_agent_there || self.hosts[agent].process_number != number {
            self.tally.met(Fault::AcknowledgementLost, 1);
            return Ok(());
        }
        let event = match parcel {
            Parcel::Headers(welcome) => {
                self.note(Who::Agent(agent), "is welcomed on stream {a}", session, 0);
                LinkEvent::Answered(welcome)
            }
            Parcel::Message(bytes) => {
                return self.receive(agent, session, id, bytes);
            }
            Parcel::End { is_refusal } => {
                self.note(Who::Agent(agent), "stream {a} was ended by the server", session, 0);
                if !is_refusal {
                    self.hosts[agent].turn += 1;
                }
                self.drop_agent_side(id);
                LinkEvent::Closed
            }
            Parcel::Reset => {
                self.note(Who::Agent(agent), "stream {a} broke", session, 0);
                self.hosts[agent].turn += 1;
                self.drop_agent_side(id);
                LinkEvent::Closed
            }
        };
        self.tell(agent, ShellEvent::Link(session, event))
    }

    /// A message of the server came: an effect of a command is noticed here, by what it changes.
    fn receive(&mut self, agent: usize, session: u64, id: u64, bytes: Vec<u8>) -> Outcome {
        let command = self.operator.recognise(&bytes);
        let before = self.state_of(agent);
        self.tell(agent, ShellEvent::Link(session, LinkEvent::Received(bytes)))?;
        if let Some(command) = command {
            let after = self.state_of(agent);
            self.notice_effect(agent, &command, before, after)?;
        }
        // What the agent has read makes room for what the server has to say.
        self.flush_down(id)
    }

    /// The agent's side of a connection is gone.
    fn drop_agent_side(&mut self, id: u64) {
        let Some(connection) = self.connections.get_mut(&id) else { return };
        connection.is_agent_there = false;
        connection.outbox.clear();
        let agent = connection.agent;
        if let Some(process) = &mut self.hosts[agent].process
            && process.connection == Some(id)
        {
            process.connection = None;
            let is_cut = 0 < mem::take(&mut process.replays)
                && process.shell.spooled().is_some_and(|counts| 0 < counts.records);
            self.tally.met(Fault::ReplayCut, u64::from(is_cut));
        }
    }

    /// The agent ends its stream, if it has one. `is_failure`: it says so to its core, and turns to another server.
    pub(crate) fn hang_up(&mut self, agent: usize, is_failure: bool, is_reset: bool) -> Outcome {
        let Some(process) = &mut self.hosts[agent].process else { return Ok(()) };
        let Some(id) = process.connection.take() else { return Ok(()) };
        let Some(connection) = self.connections.get_mut(&id) else { return Ok(()) };
        let (session, server) = (connection.session, connection.server);
        let in_flight = connection.up.parcels.len();
        let was_blocked = self.now < self.blocked[agent][server][Direction::Up as usize];
        // What a closed path holds is sent again by the system for as long as it likes to.
        if is_reset && (!was_blocked || self.random.happens(500_000)) {
            let lost = self.connections.get_mut(&id).map_or(0, |c| c.up.clear());
            self.tally.met(Fault::MessageLost, lost);
        }
        if 0 < in_flight {
            self.tally.met(Fault::StreamBroken, 1);
        }
        self.drop_agent_side(id);
        let parcel = if is_reset { Parcel::Reset } else { Parcel::End { is_refusal: false } };
        self.push(id, Direction::Up, parcel);
        if is_failure {
            self.hosts[agent].turn += 1;
            let at = self.hosts[agent].process.as_ref().map_or(0, |p| self.now - p.started_at);
            let event = ShellEvent::Link(session, LinkEvent::Closed);
            if let Some(process) = &mut self.hosts[agent].process {
                process.shell.handle(Instant::from_ms(at), event).ok();
            }
        }
        Ok(())
    }

    /// A process has ended as it wished; the next one starts after a while.
    fn end_process(&mut self, agent: usize, soonest: u64, latest: u64) -> Outcome {
        self.hang_up(agent, false, false)?;
        let host = &mut self.hosts[agent];
        if let Some(process) = host.process.take() {
            host.journals[process.journal].end = End::Ended(Box::new(process.shell.ledger()));
        }
        self.start_later(agent, soonest, latest);
        Ok(())
    }

    fn fail_to_restart(&mut self, agent: usize, at: Instant) -> Outcome {
        self.note(Who::Agent(agent), "cannot restart and goes on", 0, 0);
        self.hang_up(agent, false, false)?;
        if let Some(process) = &mut self.hosts[agent].process {
            process.shell.handle(at, ShellEvent::RestartFailed).ok();
            let given_up = process.shell.ledger().lost.by(LossReason::Shutdown);
            let journal = process.journal;
            self.hosts[agent].journals[journal].given_up = given_up;
        }
        Ok(())
    }

    pub(crate) fn start_later(&mut self, agent: usize, soonest: u64, latest: u64) {
        self.hosts[agent].process_number += 1;
        if !self.hosts[agent].is_starting && !self.is_over {
            self.hosts[agent].is_starting = true;
            let delay = self.random.between(soonest, latest);
            self.after(delay, Event::StartAgent(agent));
        }
    }

    /// What each agent holds.
    pub(crate) fn recorded(&self) -> Vec<Held> {
        let of = |host: &Host<RING>| {
            let ledger = host.process.as_ref().map(|process| process.shell.ledger());
            let spooled = host.process.as_ref().and_then(|process| process.shell.spooled());
            Held {
                process_number: host.process_number,
                records: ledger.as_ref().map_or(0, |ledger| ledger.recorded),
                alerts: ledger.as_ref().map_or(0, |ledger| ledger.alerts.recorded),
                spooled: spooled.map_or(0, |counts| counts.records),
            }
        };
        self.hosts.iter().map(of).collect()
    }

    /// Liveness: everything that an agent `held` a while ago is accounted for, its spool is empty or well on the way to
    /// that, its stream stands, and it has the configuration that the store has. Answers whether all spools are empty.
    pub(crate) fn check_drained(&self, held: &[Held]) -> Result<bool, Broken> {
        let mut is_drained = true;
        for (agent, (host, held)) in self.hosts.iter().zip(held).enumerate() {
            let stuck = |what: String| {
                let (id, end) = (&host.id, &host.last_end);
                Err(Broken(format!("liveness: {id} {what}; its last stream was ended: {end}")))
            };
            let Some(process) = &host.process else { return stuck("does not run".to_owned()) };
            let link = process.shell.link();
            if !matches!(link, LinkState::Full { .. }) {
                return stuck(format!("has no stream: {link:?}"));
            }
            let (records, alerts) = process.shell.accounted();
            let told = (records.map_or(0, Sequence::number), alerts.map_or(0, Sequence::number));
            // A process that was restarted since has recorded everything since.
            let is_same = held.process_number == host.process_number;
            if is_same && (told.0 < held.records || told.1 < held.alerts) {
                return stuck(format!("is at {told:?} of {held:?}"));
            }
            let spooled = process.shell.spooled().unwrap_or_default();
            let is_draining = spooled.records + DRAINED_MIN <= held.spooled;
            let is_empty = spooled.records + spooled.alerts + spooled.losses == 0;
            is_drained &= is_empty;
            if !is_empty && !is_draining {
                return stuck(format!("has not sent all of its spool: {spooled:?}"));
            }
            let revision = process.shell.status(Instant::from_ms(0)).config_revision.0;
            let wanted = self.operator.wanted_revision(agent).filter(|_| !self.plan.has_trials);
            if wanted.is_some_and(|wanted| wanted != revision) {
                return stuck(format!("has revision {revision} in place of {wanted:?}"));
            }
        }
        Ok(is_drained)
    }

    /// Asks every agent to end for good.
    pub(crate) fn end_agents(&mut self) -> Outcome {
        self.is_over = true;
        for agent in 0..self.hosts.len() {
            self.tell(agent, ShellEvent::Shutdown)?;
        }
        Ok(())
    }

    /// Nobody is left, and nobody had to give anything up at the end.
    pub(crate) fn check_ended(&self) -> Outcome {
        // A drain has five seconds; over a slower path not everything is acknowledged in them.
        if 1500 < self.plan.latency_ms.1 {
            return Ok(());
        }
        for host in &self.hosts {
            let last = host.journals.last();
            let is_in_order = last.is_some_and(|journal| match &journal.end {
                End::Ended(ledger) => ledger.lost.by(LossReason::Shutdown) == journal.given_up,
                End::Running | End::Killed => false,
            });
            if !is_in_order {
                let end = last.map(|journal| &journal.end);
                let text = format!("liveness: {} did not end in good order: {end:?}", host.id);
                return Err(Broken(text));
            }
        }
        Ok(())
    }
}
