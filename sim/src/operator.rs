//! What people do in a world: commands, some of them more than once, and configurations, some of them bad.

use std::collections::BTreeMap;
use std::time::Duration;

use agent_core::agent::RunState;
use agent_core::id::BootId;
use agent_core::time::Instant;
use bus::{Payload, Record, Topic};
use prost::Message as _;
use proto::command::CommandType;
use proto::{Command, ConfigPush};
use server::simulated::Reply;

use crate::tally::Fault;
use crate::trace::Who;
use crate::world::{Broken, Event, Outcome, World};

/// Longest time that a command is on its way without anybody's clock running: in a connection that is silent, and in the
/// session of a server that the agent takes nothing from.
const TRANSIT_MS: u64 = 50_000;

/// What takes longer to the bus than this, and a clock that is further off, leaves servers in doubt about a command's age.
const HELD_UP_MS: u64 = 1000;

/// Something that somebody does.
#[derive(Debug)]
pub(crate) enum Task {
    /// Think of a command.
    Command,
    /// Send this one, again.
    Submit(Command),
    /// Think of a configuration.
    Configure,
    /// A server learns what the store has for an agent.
    Announce { server: usize, run: u64, agent: usize },
}

/// A command and what is known of it.
#[derive(Clone, Debug)]
pub(crate) struct Issued {
    pub(crate) agent: usize,
    ttl_ms: u64,
    last_sent_at: u64,
    /// What it did, as seen at the agent.
    pub(crate) effects: Vec<Effect>,
    /// Times that callers heard of it.
    pub(crate) replies: u64,
    /// It was on its way to the bus for so long that it may begin late: servers count its time from when the bus took it.
    pub(crate) is_held_up: bool,
}

/// A change that a command made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Effect {
    pub(crate) at: u64,
    pub(crate) boot: BootId,
}

/// A command as it reaches an agent.
#[derive(Clone, Debug)]
pub(crate) struct Recognised {
    id: String,
    kind: CommandType,
    interval: Option<Duration>,
}

/// What of an agent commands change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct State {
    boot: BootId,
    run: RunState,
    interval: Duration,
}

/// The people.
#[derive(Debug, Default)]
pub(crate) struct Operator {
    /// By command id.
    pub(crate) commands: BTreeMap<String, Issued>,
    next_command: u64,
    revision: u64,
    /// What the store has, by agent; and whether it can be used.
    configs: BTreeMap<usize, (ConfigPush, bool)>,
}

impl Operator {
    pub(crate) fn configs(&self) -> impl Iterator<Item = (usize, ConfigPush)> + '_ {
        self.configs.iter().map(|(agent, (push, _))| (*agent, push.clone()))
    }

    /// The revision that an agent must have in the end; none if that cannot be said.
    pub(crate) fn wanted_revision(&self, agent: usize) -> Option<u64> {
        let (push, is_good) = self.configs.get(&agent)?;
        is_good.then_some(push.revision)
    }

    /// The bus has the command, which was under way for so long.
    pub(crate) fn is_stored(&mut self, id: &str, held_up_ms: u64) {
        if let Some(issued) = self.commands.get_mut(id) {
            issued.is_held_up |= HELD_UP_MS < held_up_ms;
        }
    }

    /// A caller heard of its command.
    pub(crate) fn hear(&mut self, id: &str, _reply: &Reply) {
        if let Some(issued) = self.commands.get_mut(id) {
            issued.replies += 1;
        }
    }

    /// The command in a message, if it is one.
    pub(crate) fn recognise(&self, bytes: &[u8]) -> Option<Recognised> {
        let command = Command::decode(bytes).ok()?;
        if command.message.is_some() || command.command_id.is_empty() {
            return None;
        }
        let interval = command.params.get("interval").and_then(|text| text.parse::<f64>().ok());
        Some(Recognised {
            kind: command.r#type(),
            id: command.command_id,
            interval: interval.map(Duration::from_secs_f64),
        })
    }
}

/// The number of a command, for the trace.
pub(crate) fn number_of(id: &str) -> u64 {
    id.rsplit('-').next().and_then(|number| number.parse().ok()).unwrap_or(u64::MAX)
}

impl<const RING: usize> World<RING> {
    pub(crate) fn begin_operating(&mut self) {
        for (mean, task) in
            [(self.plan.command_ms, Task::Command), (self.plan.config_ms, Task::Configure)]
        {
            if 0 < mean {
                let pause = self.random.pause(mean);
                self.after(pause, Event::Operate(Box::new(task)));
            }
        }
    }

    pub(crate) fn operate(&mut self, task: Task) -> Outcome {
        match task {
            Task::Command if self.is_hostile => {
                let pause = self.random.pause(self.plan.command_ms);
                self.after(pause, Event::Operate(Box::new(Task::Command)));
                self.invent_command()
            }
            Task::Configure if self.is_hostile => {
                let pause = self.random.pause(self.plan.config_ms);
                self.after(pause, Event::Operate(Box::new(Task::Configure)));
                self.invent_configuration();
                Ok(())
            }
            Task::Command | Task::Configure => Ok(()),
            Task::Submit(command) => self.submit(command),
            Task::Announce { server, run, agent } => {
                if self.nodes[server].run != run {
                    return Ok(());
                }
                if self.now < self.nodes[server].frozen_until {
                    let at = self.nodes[server].frozen_until;
                    let task = Task::Announce { server, run, agent };
                    self.at(at, Event::Operate(Box::new(task)));
                    return Ok(());
                }
                // What is announced is what the store has by then.
                let id = self.hosts[agent].id.clone();
                let Some((push, _)) = self.operator.configs.get(&agent).cloned() else {
                    return Ok(());
                };
                self.call(server, |server, cx| server.handle_config(cx, &id, push))
            }
        }
    }

    fn invent_command(&mut self) -> Outcome {
        let agent = self.random.index(self.hosts.len());
        let number = self.operator.next_command;
        self.operator.next_command += 1;
        let kind = match self.random.between(0, 9) {
            0 | 1 => CommandType::Stop,
            2..=5 => CommandType::Start,
            6 => CommandType::Restart,
            7 | 8 => CommandType::UpdateConfig,
            _ => CommandType::Status,
        };
        let ttl_ms = *self.random.pick(&[500, 5000, 20_000, 60_000, 60_000]);
        let mut command = Command {
            command_id: format!("command-{number}"),
            agent_id: self.hosts[agent].id.to_string(),
            r#type: kind.into(),
            ttl_ms,
            ..Command::default()
        };
        if kind == CommandType::UpdateConfig {
            // An interval that no other command and no document has, so that its effect can be told from others.
            let interval_ms = self.plan.interval_ms + 1 + number % 900;
            let text = format!("{}.{:03}", interval_ms / 1000, interval_ms % 1000);
            command.params.insert("interval".to_owned(), text);
        }
        let issued = Issued {
            agent,
            ttl_ms,
            last_sent_at: self.now,
            effects: Vec::new(),
            replies: 0,
            is_held_up: false,
        };
        self.operator.commands.insert(command.command_id.clone(), issued);
        for _ in 0..2 {
            if self.random.happens(400_000) {
                let later = self.random.between(0, 10_000);
                self.tally.met(Fault::CommandRepeated, 1);
                self.after(later, Event::Operate(Box::new(Task::Submit(command.clone()))));
            }
        }
        self.submit(command)
    }

    fn submit(&mut self, command: Command) -> Outcome {
        let now = self.now;
        let Some(issued) = self.operator.commands.get_mut(&command.command_id) else {
            return Ok(());
        };
        issued.last_sent_at = now;
        let agent = issued.agent;
        let number = number_of(&command.command_id);
        self.note(Who::Operator, "sends command {a} to agent {b}", number, agent as u64);
        // Whoever has a producer of its own needs no server.
        if self.plan.is_shared && self.random.happens(200_000) && self.bus.full_until <= now {
            let key = self.hosts[agent].id.clone();
            let record = Record { key, payload: Payload::Command(command) };
            self.store_directly(vec![record]);
            return Ok(());
        }
        let server = self.random.index(self.nodes.len());
        if now < self.nodes[server].frozen_until {
            return Ok(());
        }
        self.call(server, |server, cx| server.submit(cx, command))
    }

    fn invent_configuration(&mut self) {
        const PLUGINS: [&str; 6] = [
            "[]",
            r#"["deduplication"]"#,
            r#"["threshold_alert"]"#,
            r#"["threshold_alert", "aggregation"]"#,
            r#"["filter", "deduplication", "threshold_alert"]"#,
            r#"["aggregation"]"#,
        ];
        const BAD: [&str; 5] = [
            "{",
            r#"{"interval": 0}"#,
            r#"{"interval": 1e400}"#,
            r#"{"plugins": ["no such plugin"]}"#,
            r#"{"thresholds": {"cpu_percent": "high"}}"#,
        ];
        let agent = self.random.index(self.hosts.len());
        self.operator.revision += 1;
        let revision = self.operator.revision;
        let is_good = !self.random.happens(250_000);
        let document = if is_good {
            let plugins = *self.random.pick(&PLUGINS);
            let threshold = self.random.between(1, 20);
            let interval_ms = self.plan.interval_ms;
            format!(
                r#"{{"interval": {}.{:03}, "plugins": {plugins}, "thresholds": {{"cpu_percent": {threshold}}}, "window_size": 3}}"#,
                interval_ms / 1000,
                interval_ms % 1000
            )
        } else {
            self.tally.met(Fault::BadConfiguration, 1);
            (*self.random.pick(&BAD)).to_owned()
        };
        let push = ConfigPush { revision, document };
        self.note(Who::Operator, "configures agent {a} with revision {b}", agent as u64, revision);
        self.operator.configs.insert(agent, (push, is_good));
        for server in 0..self.nodes.len() {
            let delay = self.random.between(0, 1000);
            let run = self.nodes[server].run;
            if self.nodes[server].server.is_some() {
                let task = Task::Announce { server, run, agent };
                self.after(delay, Event::Operate(Box::new(task)));
            }
        }
    }

    pub(crate) fn state_of(&self, agent: usize) -> Option<State> {
        let process = self.hosts[agent].process.as_ref()?;
        Some(State {
            boot: process.shell.boot(),
            run: process.shell.status(Instant::from_ms(0)).state,
            interval: process.shell.interval(),
        })
    }

    /// Writes down what a command has changed, and checks that it might.
    pub(crate) fn notice_effect(
        &mut self,
        agent: usize,
        command: &Recognised,
        before: Option<State>,
        after: Option<State>,
    ) -> Outcome {
        let Some(before) = before else { return Ok(()) };
        let is_done = match command.kind {
            CommandType::Status => false,
            // A process that is gone has drained: only a restart does that here.
            CommandType::Restart => {
                before.run != RunState::Draining
                    && after.is_none_or(|after| after.run == RunState::Draining)
            }
            CommandType::Stop | CommandType::Start => {
                after.is_some_and(|after| after.run != before.run)
            }
            CommandType::UpdateConfig => after.is_some_and(|after| {
                after.interval != before.interval && Some(after.interval) == command.interval
            }),
        };
        let now = self.now;
        let Some(issued) = self.operator.commands.get_mut(&command.id) else {
            return Err(Broken(format!("command {} was never sent", command.id)));
        };
        if issued.agent != agent {
            return Err(Broken(format!("command {} reached another agent", command.id)));
        }
        if !is_done {
            return Ok(());
        }
        let boot = before.boot;
        let is_second = issued.effects.iter().any(|effect| effect.boot == boot);
        let is_again = !is_second && !issued.effects.is_empty();
        self.tally.begun_again += u64::from(is_again);
        let is_remembered = self.hosts[agent].disk.is_some();
        issued.effects.push(Effect { at: now, boot });
        let latest = issued.last_sent_at + issued.ttl_ms + TRANSIT_MS;
        // A command's age on the bus is read from the wall clock.
        let is_clock_wrong = self
            .nodes
            .iter()
            .any(|node| HELD_UP_MS < (node.wall_offset_ms - crate::world::EPOCH_MS).unsigned_abs());
        self.trace.note(
            now,
            Who::Agent(agent),
            "command {a} takes effect",
            number_of(&command.id),
            0,
        );
        if is_second {
            return Err(Broken(format!("C1: boot {boot} started {} twice", command.id)));
        }
        if is_again && is_remembered {
            return Err(Broken(format!("C1: boot {boot} began {} again", command.id)));
        }
        if latest < now && (issued.is_held_up || is_clock_wrong) {
            self.tally.outlived += 1;
        } else if latest < now {
            let late = now - latest;
            return Err(Broken(format!("C3: {} started {late} ms after its time", command.id)));
        }
        Ok(())
    }

    /// Puts records on the bus that no server has seen.
    fn store_directly(&mut self, records: Vec<Record>) {
        let wall_ms = crate::world::EPOCH_MS.saturating_add_unsigned(self.now);
        self.bus.store(wall_ms, records);
        for server in 0..self.nodes.len() {
            self.feed_later(server);
        }
        debug_assert!(0 < self.bus.len(Topic::Commands));
    }
}
