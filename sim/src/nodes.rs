//! The servers of a world, and what they store.

use std::time::Duration;

use agent_core::time::Instant;
use bus::{Payload, Topic};
use proto::StatusEvent;
use server::simulated::{Context, Effect, Ending, Moment, Publish, Server, StreamId};

use crate::bus::Group;
use crate::network::{Direction, Parcel, WINDOW_BYTES};
use crate::operator::number_of;
use crate::tally::Fault;
use crate::trace::Who;
use crate::world::{EPOCH_MS, Event, Outcome, World};

/// What servers read of the bus, all but the records themselves.
const FEEDS: [Topic; 3] = [Topic::Commands, Topic::CommandResponses, Topic::AgentStatus];

/// How long a publisher waits for brokers.
const PUBLISH_TIMEOUT_MS: u64 = 30_000;

/// A server's host.
#[derive(Debug)]
pub(crate) struct Node {
    /// None while it is down.
    pub(crate) server: Option<Server>,
    /// Counts its runs.
    pub(crate) run: u64,
    pub(crate) started_at: u64,
    pub(crate) wall_offset_ms: i64,
    pub(crate) frozen_until: u64,
    pub(crate) is_stopping: bool,
    cursors: [usize; 3],
    is_feed_due: bool,
    wake_at: Option<u64>,
    /// Groups whose time came while it stood still, and whether they were stored then.
    pub(crate) held_back: Vec<(u64, bool)>,
    /// It is to stand still until then, from the moment when it next stores records.
    pub(crate) freezes_storing: Option<u64>,
}

impl Node {
    pub(crate) const fn new(wall_ms: i64) -> Self {
        Self {
            server: None,
            run: 0,
            started_at: 0,
            wall_offset_ms: wall_ms,
            frozen_until: 0,
            is_stopping: false,
            cursors: [0; 3],
            is_feed_due: false,
            wake_at: None,
            held_back: Vec::new(),
            freezes_storing: None,
        }
    }

    /// Its timer is to be set anew.
    pub(crate) const fn wake_again(&mut self) {
        self.wake_at = None;
    }

    pub(crate) const fn wall_ms(&self, now: u64) -> i64 {
        self.wall_offset_ms.saturating_add_unsigned(now)
    }

    const fn moment(&self, now: u64) -> Moment {
        let monotonic = Instant::from_ms(now - self.started_at);
        Moment { monotonic, unix_ms: self.wall_ms(now) }
    }
}

impl<const RING: usize> World<RING> {
    /// Calls a server that is up, then does what it wants.
    pub(crate) fn call(
        &mut self,
        index: usize,
        call: impl FnOnce(&mut Server, Context<'_>),
    ) -> Outcome {
        let node = &mut self.nodes[index];
        let cx = Context { now: node.moment(self.now), history: &self.bus };
        let Some(server) = &mut node.server else { return Ok(()) };
        call(server, cx);
        self.serve(index)
    }

    pub(crate) fn start_server(&mut self, index: usize) -> Outcome {
        if self.nodes[index].server.is_some() && self.nodes[index].is_stopping {
            // It was given its time.
            self.end_server(index);
        }
        if self.nodes[index].server.is_some() || self.is_over {
            return Ok(());
        }
        let grace = Duration::from_millis(self.random.between(5000, 7500));
        let node = &mut self.nodes[index];
        node.run += 1;
        node.started_at = self.now;
        node.is_stopping = false;
        node.is_feed_due = false;
        node.frozen_until = 0;
        node.wake_at = None;
        let name = format!("server-{index}-run-{}", node.run);
        node.server = Some(Server::new(&name, self.plan.is_shared, grace));
        node.cursors = FEEDS.map(|topic| self.bus.len(topic));
        let run = node.run;
        self.note(Who::Server(index), "starts, run {a}", run, 0);
        let configs: Vec<_> = self.operator.configs().collect();
        let entries: Vec<_> =
            FEEDS.into_iter().rev().flat_map(|topic| self.bus.read(topic, 0)).collect();
        let node = &mut self.nodes[index];
        let cx = Context { now: node.moment(self.now), history: &self.bus };
        if let Some(server) = &mut node.server {
            server.recover(cx, &entries);
            for (agent, push) in configs {
                server.handle_config(cx, &self.hosts[agent].id, push);
            }
        }
        self.serve(index)
    }

    pub(crate) fn wake_server(&mut self, index: usize) -> Outcome {
        let now = self.now;
        let node = &mut self.nodes[index];
        if node.wake_at != Some(now) || now < node.frozen_until {
            return Ok(());
        }
        node.wake_at = None;
        self.call(index, Server::handle_timeout)
    }

    /// Does what a server wants until it wants nothing more.
    pub(crate) fn serve(&mut self, index: usize) -> Outcome {
        loop {
            let Some(server) = &mut self.nodes[index].server else { return Ok(()) };
            if let Some(effect) = server.poll_effect() {
                self.effect(index, effect)?;
                continue;
            }
            let Some(StreamId(stream)) = server.poll_ready() else { break };
            self.send_down(index, stream);
            if self.flush_up(stream)
                && let Some(connection) = self.connections.get(&stream)
            {
                let agent = connection.agent;
                self.drive(agent)?;
            }
        }
        let now = self.now;
        let node = &mut self.nodes[index];
        let due = node.server.as_ref().and_then(Server::poll_timeout);
        let due = due.map(|due| due.as_ms().saturating_add(node.started_at).max(now + 1));
        if let Some(due) = due
            && node.wake_at.is_none_or(|known| known <= now || due < known)
        {
            node.wake_at = Some(due);
            self.at(due, Event::WakeServer(index));
        }
        let is_done = self.nodes[index].is_stopping
            && self.nodes[index].server.as_ref().is_some_and(Server::is_idle);
        if is_done {
            self.note(Who::Server(index), "has ended", 0, 0);
            self.end_server(index);
        }
        Ok(())
    }

    /// A server's process is gone, and with it its side of each connection.
    pub(crate) fn end_server(&mut self, index: usize) {
        let node = &mut self.nodes[index];
        node.server = None;
        let run = node.run;
        node.held_back.clear();
        let broken: Vec<u64> = self
            .connections
            .iter()
            .filter(|(_, c)| c.server == index && c.run == run && c.is_server_there)
            .map(|(id, _)| *id)
            .collect();
        for id in broken {
            if let Some(connection) = self.connections.get_mut(&id) {
                connection.is_server_there = false;
            }
            self.push(id, Direction::Down, Parcel::Reset);
        }
    }

    fn effect(&mut self, index: usize, effect: Effect) -> Outcome {
        match effect {
            Effect::Welcome(StreamId(id), bytes) => {
                self.push(id, Direction::Down, Parcel::Headers(bytes));
            }
            Effect::Send(StreamId(id), bytes) => {
                self.push(id, Direction::Down, Parcel::Message(bytes));
            }
            Effect::Close(StreamId(id), ending, why) => {
                let is_refusal = ending == Ending::Refused;
                self.note(Who::Server(index), "ends connection {a}", id, 0);
                if let Some(connection) = self.connections.get_mut(&id) {
                    connection.is_server_there = false;
                    self.hosts[connection.agent].last_end = why;
                }
                self.push(id, Direction::Down, Parcel::End { is_refusal });
            }
            Effect::Publish(publish, records) => self.publish(index, publish, records),
            Effect::Reply(id, reply) => self.operator.hear(&id, &reply),
        }
        Ok(())
    }

    fn send_down(&mut self, index: usize, id: u64) {
        loop {
            let has_room = |c: &crate::network::Connection| {
                c.is_server_there && c.server == index && c.down.bytes < WINDOW_BYTES
            };
            if !self.connections.get(&id).is_some_and(has_room) {
                return;
            }
            let node = &mut self.nodes[index];
            let cx = Context { now: node.moment(self.now), history: &self.bus };
            let message = node.server.as_mut().and_then(|s| s.poll_send(cx, StreamId(id)));
            match message {
                Some(bytes) => self.push(id, Direction::Down, Parcel::Message(bytes)),
                None => return,
            }
        }
    }

    /// The agent has read something: there may be room for more.
    pub(crate) fn flush_down(&mut self, id: u64) -> Outcome {
        let Some(connection) = self.connections.get(&id) else { return Ok(()) };
        let server = connection.server;
        if connection.run != self.nodes[server].run || self.now < self.nodes[server].frozen_until {
            return Ok(());
        }
        self.send_down(server, id);
        self.serve(server)
    }

    pub(crate) fn give_server(&mut self, id: u64, parcel: Parcel) -> Outcome {
        let Some(connection) = self.connections.get(&id) else { return Ok(()) };
        let (agent, server, session) = (connection.agent, connection.server, connection.session);
        let is_there = connection.is_server_there && connection.run == self.nodes[server].run;
        if !is_there || self.nodes[server].server.is_none() {
            self.tally.met(Fault::MessageLost, u64::from(matches!(parcel, Parcel::Message(_))));
            return Ok(());
        }
        let stream = StreamId(id);
        let is_late = !connection.is_agent_there
            && self.hosts[agent].process.as_ref().is_some_and(|p| p.connection.is_some());
        match parcel {
            Parcel::Headers(hello) => {
                let peer = format!("agent-{agent}:{session}");
                self.call(server, |server, cx| server.open(cx, stream, &peer, &hello))
            }
            Parcel::Message(bytes) => {
                self.tally.met(Fault::LateBytes, u64::from(is_late));
                self.call(server, |server, cx| server.handle_message(cx, stream, bytes))
            }
            Parcel::End { .. } => {
                self.note(Who::Server(server), "hears the end of connection {a}", id, 0);
                self.call(server, |server, cx| server.handle_finished(cx, stream))
            }
            Parcel::Reset => {
                self.note(Who::Server(server), "loses connection {a}", id, 0);
                self.lose(server, id)
            }
        }
    }

    /// A server finds a connection broken.
    pub(crate) fn lose(&mut self, server: usize, id: u64) -> Outcome {
        if let Some(connection) = self.connections.get_mut(&id) {
            connection.is_server_there = false;
        }
        self.call(server, |server, cx| server.handle_lost(cx, StreamId(id)))
    }

    fn publish(&mut self, index: usize, publish: Publish, records: Vec<bus::Record>) {
        let word = self.random.next();
        let run = self.nodes[index].run;
        let is_metrics = |record: &bus::Record| matches!(record.payload, Payload::Metrics(_));
        let has_metrics = records.iter().any(is_metrics);
        let published_at = self.now;
        let group =
            Group { server: index, run, publish, records, published_at, is_disowned: false };
        let id = self.bus.enqueue(group);
        let mut delay = if self.plan.is_shared { 2 + word % 30 } else { 1 + word % 8 };
        if self.now < self.bus.slow_until {
            delay += word / 64 % 6000;
            self.tally.met(Fault::StoreSlow, 1);
        }
        let due = (self.now + delay).max(self.bus.last_due[index]);
        self.bus.last_due[index] = due;
        self.at(due, Event::Commit(id));
        if has_metrics && let Some(until) = self.nodes[index].freezes_storing.take() {
            self.freeze_server(index, until);
        }
    }

    /// The time of a group has come.
    pub(crate) fn commit(&mut self, id: u64) -> Outcome {
        let now = self.now;
        let Some(group) = self.bus.groups.get(&id) else { return Ok(()) };
        let server = group.server;
        let is_frozen =
            now < self.nodes[server].frozen_until && group.run == self.nodes[server].run;
        let is_disowned = group.is_disowned;
        if is_frozen && !is_disowned {
            // What has left for the brokers is stored while the server stands still; the rest is when it wakes.
            let has_left = self.plan.is_shared && self.random.happens(500_000);
            self.nodes[server].held_back.push((id, has_left));
            if has_left {
                self.store(id, usize::MAX);
            }
            return Ok(());
        }
        if now < self.bus.full_until && !is_disowned {
            return self.commit_while_full(id);
        }
        self.store(id, usize::MAX);
        if is_disowned {
            self.bus.groups.remove(&id);
            return Ok(());
        }
        self.report(id, true)
    }

    fn commit_while_full(&mut self, id: u64) -> Outcome {
        self.tally.met(Fault::StoreFull, 1);
        let (now, full_until) = (self.now, self.bus.full_until);
        if !self.plan.is_shared {
            return self.report(id, false);
        }
        let Some(group) = self.bus.groups.get_mut(&id) else { return Ok(()) };
        // Its turn comes when the brokers are back, unless the publisher has given up by then, which does not take it
        // back: it is stored all the same.
        let (server, run, publish) = (group.server, group.run, group.publish);
        let gives_up_at = group.published_at + PUBLISH_TIMEOUT_MS;
        if gives_up_at <= now {
            group.is_disowned = true;
            self.tally.met(Fault::StoredAfterAll, 1);
            self.commit_later(id, server, full_until + 1);
            return self.tell_published(server, run, publish, false);
        }
        self.commit_later(id, server, gives_up_at.min(full_until + 1));
        Ok(())
    }

    fn commit_later(&mut self, id: u64, server: usize, at: u64) {
        let at = at.max(self.now + 1);
        self.at(at, Event::Commit(id));
        // Groups of one server keep their order.
        self.bus.last_due[server] = self.bus.last_due[server].max(at);
    }

    fn note_stored(&mut self, server: usize, record: &bus::Record) {
        let who = Who::Server(server);
        match &record.payload {
            Payload::Command(command) => {
                let number = number_of(&command.command_id);
                let kind = command.r#type.unsigned_abs().into();
                self.note(who, "command {a} of type {b} is on the bus", number, kind);
            }
            Payload::Response(response) => {
                let number = number_of(&response.command_id);
                let outcome = response.outcome.unsigned_abs().into();
                self.note(who, "the answer to command {a} is on the bus: {b}", number, outcome);
            }
            Payload::Status(status) if status.event() == StatusEvent::CommandDelivered => {
                let number = number_of(&status.command_id);
                self.note(who, "it is on the bus that command {a} is delivered", number, 0);
            }
            Payload::Status(status) if status.event() == StatusEvent::CommandClosed => {
                let number = number_of(&status.command_id);
                self.note(who, "it is on the bus that command {a} is closed", number, 0);
            }
            Payload::Status(_) | Payload::Metrics(_) => {}
        }
    }

    /// Makes the first `count` records of a group durable.
    pub(crate) fn store(&mut self, id: u64, count: usize) {
        let Some(group) = self.bus.groups.get_mut(&id) else { return };
        let mut records = std::mem::take(&mut group.records);
        let server = group.server;
        // Records of the router wait for each other, too: while the bus is slow, and a while after.
        let was_slow = self.now < self.bus.slow_until.max(self.bus.full_until) + 10_000;
        let held_up = if was_slow { u64::MAX } else { self.now - group.published_at };
        records.truncate(count);
        let (mut first, mut last) = (0, 0);
        for record in &records {
            if let Payload::Metrics(metrics) = &record.payload
                && let Some(record) = &metrics.record
            {
                first = if first == 0 { record.sequence } else { first };
                last = record.sequence;
            }
        }
        if 0 < first {
            self.note(Who::Bus, "stores records {a} to {b}", first, last);
        }
        for record in &records {
            if let Payload::Command(command) = &record.payload {
                self.operator.is_stored(&command.command_id, held_up);
            }
            self.note_stored(server, record);
        }
        // Brokers have a clock of their own, which nobody sets.
        let wall_ms = match self.plan.is_shared {
            true => EPOCH_MS.saturating_add_unsigned(self.now),
            false => self.nodes[server].wall_ms(self.now),
        };
        self.bus.store(wall_ms, records);
        for index in 0..self.nodes.len() {
            self.feed_later(index);
        }
    }

    pub(crate) fn feed_later(&mut self, index: usize) {
        let node = &mut self.nodes[index];
        if node.server.is_none() || node.is_feed_due {
            return;
        }
        let has_news =
            FEEDS.into_iter().zip(node.cursors).any(|(topic, at)| at < self.bus.len(topic));
        if has_news {
            node.is_feed_due = true;
            let run = node.run;
            let delay = self.random.between(1, 50);
            self.after(delay, Event::Feed(index, run));
        }
    }

    /// Tells the server what became of a group, which is gone then.
    pub(crate) fn report(&mut self, id: u64, is_durable: bool) -> Outcome {
        let Some(group) = self.bus.groups.remove(&id) else { return Ok(()) };
        self.tell_published(group.server, group.run, group.publish, is_durable)
    }

    fn tell_published(
        &mut self,
        server: usize,
        run: u64,
        publish: Publish,
        is_durable: bool,
    ) -> Outcome {
        if self.nodes[server].run != run {
            return Ok(());
        }
        self.call(server, |server, cx| server.handle_published(cx, publish, is_durable))
    }

    /// A server reads what is new, the topics in any order.
    pub(crate) fn feed(&mut self, index: usize, run: u64) -> Outcome {
        let now = self.now;
        let start = self.random.index(FEEDS.len());
        let node = &mut self.nodes[index];
        if node.run != run || node.server.is_none() {
            return Ok(());
        }
        node.is_feed_due = false;
        if now < node.frozen_until {
            node.is_feed_due = true;
            let at = node.frozen_until;
            self.at(at, Event::Feed(index, run));
            return Ok(());
        }
        for step in 0..FEEDS.len() {
            let which = (start + step) % FEEDS.len();
            let node = &mut self.nodes[index];
            let entries = self.bus.read(FEEDS[which], node.cursors[which]);
            node.cursors[which] += entries.len();
            let cx = Context { now: node.moment(now), history: &self.bus };
            if let Some(server) = &mut node.server {
                for entry in entries {
                    server.handle_entry(cx, entry);
                }
            }
        }
        self.serve(index)
    }
}
