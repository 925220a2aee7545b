//! What goes wrong in a world, and when it is right again.

use agent_core::time::Instant;
use agent_std::simulated::Event as ShellEvent;
use bus::Payload;

use crate::host::End;
use crate::network::{Direction, KEEPALIVE_MS, Parcel};
use crate::tally::Fault;
use crate::trace::Who;
use crate::world::{EPOCH_MS, Event, Outcome, World};

/// A kind of trouble that comes again and again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Reset,
    Block,
    Isolation,
    AgentKill,
    AgentStop,
    AgentFreeze,
    ServerKill,
    ServerStop,
    ServerFreeze,
    StoreFull,
    StoreSlow,
    ClockStep,
}

impl Kind {
    const ALL: [Self; 12] = [
        Self::Reset,
        Self::Block,
        Self::Isolation,
        Self::AgentKill,
        Self::AgentStop,
        Self::AgentFreeze,
        Self::ServerKill,
        Self::ServerStop,
        Self::ServerFreeze,
        Self::StoreFull,
        Self::StoreSlow,
        Self::ClockStep,
    ];
}

/// Why a side of a connection hears nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Silence {
    /// The path has been closed since then.
    Path(u64),
    /// The other side stands still until then.
    Frozen(u64),
    /// The other side has no power.
    Gone,
}

/// An event of trouble.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Trouble {
    /// It is time for another one of these.
    Comes(Kind),
    /// A path may be open again.
    Unblock(usize, usize),
    ThawAgent(usize),
    ThawServer(usize),
    /// The keep-alive of a connection runs out on the side that receives in this direction.
    KeepAlive(u64, Direction, Silence),
}

impl<const RING: usize> World<RING> {
    const fn mean(&self, kind: Kind) -> u64 {
        let faults = &self.plan.faults;
        match kind {
            Kind::Reset => faults.reset,
            Kind::Block => faults.block,
            Kind::Isolation => faults.isolation,
            Kind::AgentKill => faults.agent_kill,
            Kind::AgentStop => faults.agent_stop,
            Kind::AgentFreeze => faults.agent_freeze,
            Kind::ServerKill => faults.server_kill,
            Kind::ServerStop => faults.server_stop,
            Kind::ServerFreeze => faults.server_freeze,
            Kind::StoreFull => faults.store_full,
            Kind::StoreSlow => faults.store_slow,
            Kind::ClockStep => faults.clock_step,
        }
    }

    pub(crate) fn begin_trouble(&mut self) {
        for kind in Kind::ALL {
            self.come_again(kind);
        }
    }

    fn come_again(&mut self, kind: Kind) {
        let mean = self.mean(kind);
        if 0 < mean {
            let pause = self.random.pause(mean);
            self.after(pause, Event::Trouble(Trouble::Comes(kind)));
        }
    }

    /// When a trouble that begins now ends: no later than the faults as a whole.
    fn end_of_trouble(&mut self) -> u64 {
        let lasts = self.random.between(200, self.plan.trouble_ms);
        (self.now + lasts).min(self.plan.duration_ms)
    }

    pub(crate) fn fails_to_restart(&mut self) -> bool {
        self.is_hostile && self.random.happens(50_000)
    }

    pub(crate) fn suffer(&mut self, trouble: Trouble) -> Outcome {
        match trouble {
            Trouble::Comes(kind) if self.is_hostile => {
                self.come_again(kind);
                self.strike(kind)
            }
            Trouble::Comes(_) => Ok(()),
            Trouble::Unblock(agent, server) => self.unblock(agent, server),
            Trouble::ThawAgent(agent) => self.thaw_agent(agent),
            Trouble::ThawServer(server) => self.thaw_server(server),
            Trouble::KeepAlive(id, side, silence) => self.keep_alive(id, side, silence),
        }
    }

    fn strike(&mut self, kind: Kind) -> Outcome {
        let agent = self.random.index(self.hosts.len());
        let server = self.random.index(self.nodes.len());
        match kind {
            Kind::Reset => self.reset(agent),
            Kind::Block => {
                let until = self.end_of_trouble();
                let ways = [[until, 0], [0, until], [until, until]];
                let ways = *self.random.pick(&ways);
                self.block(agent, server, ways);
                Ok(())
            }
            Kind::Isolation => {
                let until = self.end_of_trouble();
                for agent in 0..self.hosts.len() {
                    self.block(agent, server, [until, until]);
                }
                Ok(())
            }
            Kind::AgentKill => self.kill_agent(agent),
            Kind::AgentStop => {
                self.tally.met(Fault::AgentStopped, u64::from(self.hosts[agent].process.is_some()));
                self.note(Who::Agent(agent), "is asked to end", 0, 0);
                self.tell(agent, ShellEvent::Shutdown)
            }
            Kind::AgentFreeze => {
                let until = self.end_of_trouble();
                self.freeze_agent(agent, until);
                Ok(())
            }
            Kind::ServerKill => self.kill_server(server),
            Kind::ServerStop => self.stop_server(server),
            Kind::ServerFreeze => {
                let until = self.end_of_trouble();
                if self.random.happens(500_000) {
                    self.nodes[server].freezes_storing = Some(until);
                } else {
                    self.freeze_server(server, until);
                }
                Ok(())
            }
            Kind::StoreFull => {
                self.bus.full_until = self.end_of_trouble();
                self.note(Who::Bus, "takes nothing until {a}", self.bus.full_until, 0);
                Ok(())
            }
            Kind::StoreSlow => {
                self.bus.slow_until = self.end_of_trouble();
                self.note(Who::Bus, "is slow until {a}", self.bus.slow_until, 0);
                Ok(())
            }
            Kind::ClockStep => {
                self.step_clock(agent, server);
                Ok(())
            }
        }
    }

    fn reset(&mut self, agent: usize) -> Outcome {
        let connection = self.hosts[agent].process.as_ref().and_then(|p| p.connection);
        let Some(id) = connection else { return Ok(()) };
        let now = self.now;
        let Some(connection) = self.connections.get_mut(&id) else { return Ok(()) };
        let server = connection.server;
        if self.blocked[agent][server].iter().any(|until| now < *until) {
            return Ok(());
        }
        let (up, down) = (connection.up.clear(), connection.down.clear());
        self.tally.met(Fault::StreamBroken, u64::from(0 < up));
        self.tally.met(Fault::MessageLost, up);
        self.tally.met(Fault::AcknowledgementLost, down);
        self.note(Who::World, "resets connection {a}, with {b} messages in flight", id, up + down);
        self.push(id, Direction::Up, Parcel::Reset);
        self.push(id, Direction::Down, Parcel::Reset);
        Ok(())
    }

    fn block(&mut self, agent: usize, server: usize, until: [u64; 2]) {
        let now = self.now;
        let path = &mut self.blocked[agent][server];
        if path.iter().all(|until| *until <= now) {
            self.blocked_from[agent][server] = now;
        }
        for (known, until) in path.iter_mut().zip(until) {
            *known = (*known).max(until);
        }
        for until in until {
            if now < until {
                self.at(until, Event::Trouble(Trouble::Unblock(agent, server)));
            }
        }
        let [up, down] = until;
        self.note(Who::Agent(agent), "path closed, up until {a}, down until {b}", up, down);
        let open: Vec<u64> = self
            .connections
            .iter()
            .filter(|(_, c)| c.agent == agent && c.server == server && c.is_agent_there)
            .map(|(id, _)| *id)
            .collect();
        for id in open {
            let is_half = now < up && up != down || now < down && up != down;
            self.tally.met(if is_half { Fault::HalfOpen } else { Fault::Partition }, 1);
            for side in [Direction::Up, Direction::Down] {
                self.watch(id, side, Silence::Path(now));
            }
        }
    }

    fn watch(&mut self, id: u64, side: Direction, silence: Silence) {
        let patience = self.random.between(KEEPALIVE_MS.0, KEEPALIVE_MS.1);
        self.after(patience, Event::Trouble(Trouble::KeepAlive(id, side, silence)));
    }

    /// A stream opened to a server that stands still, whose system accepts it all the same.
    pub(crate) fn watch_frozen_server(&mut self, id: u64, server: usize) {
        let until = self.nodes[server].frozen_until;
        if self.now < until {
            self.watch(id, Direction::Down, Silence::Frozen(until));
        }
    }

    fn unblock(&mut self, agent: usize, server: usize) -> Outcome {
        let ids: Vec<u64> = self
            .connections
            .iter()
            .filter(|(_, c)| c.agent == agent && c.server == server)
            .map(|(id, _)| *id)
            .collect();
        for id in ids {
            self.deliver(id, Direction::Up)?;
            self.deliver(id, Direction::Down)?;
        }
        Ok(())
    }

    fn keep_alive(&mut self, id: u64, side: Direction, silence: Silence) -> Outcome {
        let now = self.now;
        let Some(connection) = self.connections.get(&id) else { return Ok(()) };
        let (agent, server) = (connection.agent, connection.server);
        let (is_agent_there, is_server_there) =
            (connection.is_agent_there, connection.is_server_there);
        let is_silent = match (silence, side) {
            (Silence::Path(since), _) => {
                self.blocked[agent][server].iter().any(|until| now < *until)
                    && self.blocked_from[agent][server] <= since
            }
            (Silence::Frozen(until), Direction::Up) => {
                now < until && self.hosts[agent].frozen_until == until
            }
            (Silence::Frozen(until), Direction::Down) => {
                now < until && self.nodes[server].frozen_until == until
            }
            (Silence::Gone, _) => true,
        };
        if !is_silent {
            return Ok(());
        }
        let frozen_until = match side {
            Direction::Up => self.nodes[server].frozen_until,
            Direction::Down => self.hosts[agent].frozen_until,
        };
        if now < frozen_until {
            // Whoever stands still finds out when it wakes.
            let again = Trouble::KeepAlive(id, side, silence);
            self.at(frozen_until + 1, Event::Trouble(again));
            return Ok(());
        }
        match side {
            Direction::Up if is_server_there => {
                self.note(Who::Server(server), "gives up silent connection {a}", id, 0);
                let lost = self.connections.get_mut(&id).map_or(0, |c| c.down.clear());
                self.tally.met(Fault::AcknowledgementLost, lost);
                self.push(id, Direction::Down, Parcel::Reset);
                self.lose(server, id)
            }
            Direction::Down if is_agent_there => {
                self.note(Who::Agent(agent), "gives up silent connection {a}", id, 0);
                self.hang_up(agent, true, true)?;
                self.drive(agent)
            }
            Direction::Up | Direction::Down => Ok(()),
        }
    }

    fn kill_agent(&mut self, agent: usize) -> Outcome {
        let has_power = self.random.happens(600_000);
        let host = &mut self.hosts[agent];
        let Some(process) = host.process.take() else { return Ok(()) };
        host.journals[process.journal].end = End::Killed;
        host.frozen_until = 0;
        let held = process.shell.ledger().held;
        self.tally.met(Fault::AgentKilled, u64::from(0 < held));
        self.tally.met(Fault::PowerLost, u64::from(!has_power));
        self.note(Who::Agent(agent), "is killed with {a} records held", held, 0);
        if let Some(id) = process.connection
            && let Some(connection) = self.connections.get_mut(&id)
        {
            connection.is_agent_there = false;
            connection.outbox.clear();
            if has_power {
                self.push(id, Direction::Up, Parcel::Reset);
            } else {
                self.watch(id, Direction::Up, Silence::Gone);
            }
        }
        self.start_later(agent, 100, 30_000);
        Ok(())
    }

    fn freeze_agent(&mut self, agent: usize, until: u64) {
        let host = &mut self.hosts[agent];
        let Some(process) = &host.process else { return };
        if self.now < host.frozen_until {
            return;
        }
        host.frozen_until = until;
        let connection = process.connection;
        self.tally.met(Fault::AgentFrozen, 1);
        self.note(Who::Agent(agent), "stands still until {a}", until, 0);
        self.at(until, Event::Trouble(Trouble::ThawAgent(agent)));
        if let Some(id) = connection {
            self.watch(id, Direction::Up, Silence::Frozen(until));
        }
    }

    fn thaw_agent(&mut self, agent: usize) -> Outcome {
        let now = self.now;
        if let Some(process) = self.hosts[agent].awake(now) {
            process.shell.tick(Instant::from_ms(now - process.started_at));
            process.wake_at = None;
        }
        let ids: Vec<u64> =
            self.connections.iter().filter(|(_, c)| c.agent == agent).map(|(id, _)| *id).collect();
        for id in ids {
            self.deliver(id, Direction::Down)?;
        }
        self.drive(agent)
    }

    fn kill_server(&mut self, server: usize) -> Outcome {
        let node = &mut self.nodes[server];
        if node.server.is_none() {
            return Ok(());
        }
        node.frozen_until = 0;
        let run = node.run;
        let held_back = std::mem::take(&mut node.held_back);
        self.note(Who::Server(server), "is killed", 0, 0);
        let groups: Vec<u64> = self
            .bus
            .groups
            .iter()
            .filter(|(_, group)| group.server == server && group.run == run)
            .map(|(id, _)| *id)
            .collect();
        self.tally.met(Fault::ServerKilled, u64::from(!groups.is_empty()));
        // Of what was being stored, a beginning is there: whole groups, and on brokers a part of the next one.
        let mut survive = self.random.index(groups.len() + 1);
        for id in groups {
            let is_stored = held_back.iter().any(|(held, stored)| *held == id && *stored);
            let count = self.bus.groups.get(&id).map_or(0, |group| group.records.len());
            if !is_stored && 0 < survive {
                survive -= 1;
                let whole = !self.plan.is_shared || 0 < survive;
                let count = if whole { count } else { self.random.index(count + 1) };
                self.tally.met(Fault::GroupTorn, 1);
                self.store(id, count);
            }
            self.bus.groups.remove(&id);
        }
        self.end_server(server);
        self.start_server_later(server);
        Ok(())
    }

    fn start_server_later(&mut self, server: usize) {
        let absence = self.end_of_trouble() - self.now;
        self.after(absence.clamp(500, 120_000), Event::StartServer(server));
    }

    fn stop_server(&mut self, server: usize) -> Outcome {
        let node = &mut self.nodes[server];
        if node.server.is_none() || node.is_stopping || self.now < node.frozen_until {
            return Ok(());
        }
        node.is_stopping = true;
        self.tally.met(Fault::ServerStopped, 1);
        self.note(Who::Server(server), "is asked to end", 0, 0);
        // What hangs longer than this is killed.
        self.after(12_000, Event::StartServer(server));
        self.call(server, server::simulated::Server::shutdown)
    }

    pub(crate) fn freeze_server(&mut self, server: usize, until: u64) {
        let node = &mut self.nodes[server];
        if node.server.is_none() || self.now < node.frozen_until || until <= self.now {
            return;
        }
        node.frozen_until = until;
        let run = node.run;
        self.note(Who::Server(server), "stands still until {a}", until, 0);
        self.at(until, Event::Trouble(Trouble::ThawServer(server)));
        let open: Vec<u64> = self
            .connections
            .iter()
            .filter(|(_, c)| c.server == server && c.run == run && c.is_agent_there)
            .map(|(id, _)| *id)
            .collect();
        self.tally.met(Fault::ServerFrozen, u64::from(!open.is_empty()));
        for id in open {
            self.watch(id, Direction::Down, Silence::Frozen(until));
        }
    }

    fn thaw_server(&mut self, server: usize) -> Outcome {
        if self.now < self.nodes[server].frozen_until {
            return Ok(());
        }
        self.note(Who::Server(server), "goes on", 0, 0);
        // What it was storing goes on where it was.
        for (id, is_stored) in std::mem::take(&mut self.nodes[server].held_back) {
            if is_stored {
                self.report(id, true)?;
                continue;
            }
            let is_record = |record: &bus::Record| matches!(record.payload, Payload::Metrics(_));
            let zombie = self.bus.groups.get(&id).is_some_and(|g| g.records.iter().any(is_record));
            self.tally.met(Fault::ZombieWrite, u64::from(zombie));
            self.commit(id)?;
        }
        self.nodes[server].wake_again();
        self.call(server, server::simulated::Server::handle_timeout)?;
        let ids: Vec<u64> = self
            .connections
            .iter()
            .filter(|(_, c)| c.server == server)
            .map(|(id, _)| *id)
            .collect();
        for id in ids {
            self.deliver(id, Direction::Up)?;
        }
        Ok(())
    }

    fn step_clock(&mut self, agent: usize, server: usize) {
        const HOUR_MS: i64 = 3_600_000;
        const YEARS_MS: i64 = 10 * 365 * 24 * HOUR_MS;
        let steps = [HOUR_MS, -HOUR_MS, YEARS_MS, -YEARS_MS];
        let step = *self.random.pick(&steps);
        let on_agent = self.random.happens(700_000);
        let now = self.now;
        let clock = if on_agent {
            &mut self.hosts[agent].wall_offset_ms
        } else {
            &mut self.nodes[server].wall_offset_ms
        };
        // A second step brings the clock back, so that it stays between 1970 and 9999.
        let is_away = (*clock - EPOCH_MS).abs() >= HOUR_MS;
        *clock = if is_away { EPOCH_MS } else { *clock + step };
        let who = if on_agent { Who::Agent(agent) } else { Who::Server(server) };
        self.tally.met(Fault::ClockStep, 1);
        self.trace.note(
            now,
            who,
            "clock set to {a} s",
            (self.plan_wall(who) / 1000).cast_unsigned(),
            0,
        );
    }

    fn plan_wall(&self, who: Who) -> i64 {
        match who {
            Who::Agent(agent) => self.hosts[agent].wall_ms(self.now),
            Who::Server(server) => self.nodes[server].wall_ms(self.now),
            Who::Bus | Who::Operator | Who::World => 0,
        }
    }

    /// Faults end: everything that stands still, is closed or is full is not any more.
    pub(crate) fn make_peace(&mut self) -> Outcome {
        self.is_hostile = false;
        let now = self.now;
        self.bus.full_until = self.bus.full_until.min(now);
        self.bus.slow_until = self.bus.slow_until.min(now);
        for path in self.blocked.iter_mut().flatten() {
            *path = path.map(|until| until.min(now));
        }
        for agent in 0..self.hosts.len() {
            self.hosts[agent].frozen_until = self.hosts[agent].frozen_until.min(now);
            self.thaw_agent(agent)?;
            for server in 0..self.nodes.len() {
                self.unblock(agent, server)?;
            }
        }
        for server in 0..self.nodes.len() {
            self.nodes[server].frozen_until = self.nodes[server].frozen_until.min(now);
            self.thaw_server(server)?;
            self.after(1000, Event::StartServer(server));
        }
        self.note(Who::World, "faults end", 0, 0);
        Ok(())
    }
}
