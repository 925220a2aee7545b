//! Commands through crashes: whatever is written or not when the process dies, and however often a command comes, each
//! begins at most once, and what was stopped stays so.

use std::collections::HashMap;
use std::format;
use std::vec::Vec;

use proptest::prelude::*;

use super::*;
use crate::agent::{Agent, Credit, Input, LinkState, Output, RunState, Transmit};

/// It remembers fewer commands than there are.
type SmallAgent = Agent<2048, 6>;

/// Far above what one input can cause.
const OUTPUTS_MAX: usize = 1000;

#[derive(Clone, Copy, Debug)]
enum Operation {
    Issue {
        kind: Kind,
        life_s: u64,
    },
    /// A server sends one of the commands that it has again, while it may still do so.
    SendAgain {
        which: usize,
    },
    Wait {
        seconds: u64,
    },
    StreamEnds,
    /// The process dies between two inputs, and the next one begins.
    Crash,
    /// What becomes of the next write.
    NextWrite(Write),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Write {
    Works,
    Fails,
    /// The process dies before anything is written.
    DiesBefore,
    /// The process dies when it is written, before the core hears of it.
    DiesAfter,
}

fn operation() -> impl Strategy<Value = Operation> {
    let kind = prop::sample::select(Kind::ALL.as_slice());
    let write = prop::sample::select(
        [Write::Works, Write::Fails, Write::DiesBefore, Write::DiesAfter].as_slice(),
    );
    prop_oneof![
        3 => (kind, 0_u64..120).prop_map(|(kind, life_s)| Operation::Issue { kind, life_s }),
        4 => (0_usize..64).prop_map(|which| Operation::SendAgain { which }),
        1 => (0_u64..100).prop_map(|seconds| Operation::Wait { seconds }),
        1 => Just(Operation::StreamEnds),
        1 => Just(Operation::Crash),
        1 => write.prop_map(Operation::NextWrite),
    ]
}

#[derive(Debug)]
struct Issued {
    id: CommandId,
    kind: Kind,
    expires_ms: u64,
}

/// What is on the disk.
#[derive(Debug, Default)]
struct Disk {
    intents: Vec<Intent>,
    stopped: bool,
}

struct World {
    agent: SmallAgent,
    boot: BootId,
    now_ms: u64,
    disk: Disk,
    next_write: Write,
    issued: Vec<Issued>,
    starts: HashMap<CommandId, u32>,
}

impl World {
    fn new() -> Self {
        let boot = BootId { counter: 1, nonce: 7 };
        let mut world = Self {
            agent: Agent::new(Instant::default(), boot, 1, Config::default(), None),
            boot,
            now_ms: 0,
            disk: Disk::default(),
            next_write: Write::Works,
            issued: Vec::new(),
            starts: HashMap::new(),
        };
        world.settle();
        world
    }

    fn now(&self) -> Instant {
        Instant::from_ms(self.now_ms)
    }

    fn perform(&mut self, operation: Operation) {
        match operation {
            Operation::Issue { kind, life_s } => {
                let id = format!("c{}", self.issued.len()).parse().unwrap();
                let expires_ms = self.now_ms + life_s * 1000;
                self.issued.push(Issued { id, kind, expires_ms });
                self.send(self.issued.len() - 1);
            }
            Operation::SendAgain { which } => {
                if let Some(index) = which.checked_rem(self.issued.len()) {
                    self.send(index);
                }
            }
            Operation::Wait { seconds } => {
                self.now_ms += seconds * 1000;
                self.handle(Input::Tick);
            }
            Operation::StreamEnds => self.handle(Input::LinkClosed),
            Operation::Crash => self.begin_next_boot(),
            Operation::NextWrite(write) => self.next_write = write,
        }
    }

    /// No server sends a command once its life is over.
    fn send(&mut self, index: usize) {
        let Issued { id, kind, expires_ms } = &self.issued[index];
        let Some(left_ms) = expires_ms.checked_sub(self.now_ms).filter(|left_ms| 0 < *left_ms)
        else {
            return;
        };
        let action = match kind {
            Kind::Stop => Action::Stop,
            Kind::Start => Action::Start,
            Kind::UpdateConfig => Action::UpdateConfig(Ok(Config::default())),
            Kind::Restart => Action::Restart,
        };
        let time_to_live = Duration::from_millis(left_ms);
        self.handle(Input::Command(Command { id: Some(id.clone()), action, time_to_live }));
    }

    fn handle(&mut self, input: Input) {
        self.agent.handle(self.now(), input);
        self.settle();
    }

    /// Does what the agent asks for until it waits. The server answers at once and acknowledges every answer.
    fn settle(&mut self) {
        for _ in 0..OUTPUTS_MAX {
            match self.agent.poll(self.now()) {
                Output::Wait(_) => return,
                Output::Dial => {
                    self.agent.handle(self.now(), Input::LinkOpened);
                    let welcomed = Input::LinkWelcomed {
                        acknowledged: None,
                        heartbeat: None,
                        credit: Credit::Unlimited,
                    };
                    self.agent.handle(self.now(), welcomed);
                }
                Output::Transmit(transmit) => {
                    let answered = match transmit {
                        Transmit::Answer(slot) => self.agent.answer(slot).map(|(id, _)| id.clone()),
                        _ => None,
                    };
                    self.agent.handle(self.now(), Input::Transmitted(transmit));
                    if let Some(id) = answered {
                        self.agent.handle(self.now(), Input::AnswerAcknowledged(id));
                    }
                }
                Output::Remember => self.remember(),
                Output::Restart => self.begin_next_boot(),
                Output::Collect(_) => self.agent.handle(self.now(), Input::SnapshotFailed),
                Output::Spool => panic!("there is no spool"),
                Output::Finish => panic!("every server answers"),
                Output::Exit => panic!("nobody asked the agent to exit"),
            }
        }
        panic!("the agent does not come to rest");
    }

    fn remember(&mut self) {
        let write = core::mem::replace(&mut self.next_write, Write::Works);
        match write {
            Write::Works | Write::DiesAfter => {
                let intents = self.agent.intents(self.now()).collect();
                self.disk = Disk { intents, stopped: self.agent.is_to_stay_stopped() };
            }
            Write::Fails | Write::DiesBefore => {}
        }
        let outcome = match write {
            Write::DiesBefore | Write::DiesAfter => return self.begin_next_boot(),
            Write::Works => Ok(()),
            Write::Fails => Err(Reason::from("disk full")),
        };
        let waits = self.agent.intended.is_some();
        let waiting = self.agent.restart_command().filter(|_| waits).cloned();
        let is_recorded = outcome.is_ok();
        self.agent.handle(self.now(), Input::Remembered(outcome));
        let Some(id) = waiting else { return };
        let entry = self.agent.commands.entries.iter().find(|entry| entry.id == id).unwrap();
        if !entry.was_refused() {
            assert!(is_recorded, "{id} began without a record");
            *self.starts.entry(id).or_default() += 1;
        }
    }

    /// A restart or a crash: what is not on the disk is forgotten. The next process counts its time anew.
    fn begin_next_boot(&mut self) {
        self.boot = BootId { counter: self.boot.counter + 1, nonce: 7 };
        self.agent = Agent::new(self.now(), self.boot, 1, Config::default(), None);
        for intent in self.disk.intents.clone() {
            self.agent.handle(self.now(), Input::Recall(intent));
        }
        if self.disk.stopped {
            self.agent.handle(self.now(), Input::RecallStopped);
        }
        let state = self.agent.status(self.now()).state;
        assert_eq!(state == RunState::Stopped, self.disk.stopped);
        assert!(matches!(self.agent.link(), LinkState::Down { .. }));
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn a_command_begins_at_most_once_through_crashes(
        operations in prop::collection::vec(operation(), 1..80),
    ) {
        let mut world = World::new();
        for operation in operations {
            world.perform(operation);
            world.settle();
        }
        for (id, starts) in &world.starts {
            prop_assert_eq!(*starts, 1, "{} began more than once", id);
        }
    }
}
