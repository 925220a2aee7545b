//! Commands by operations: whatever the link does, a command runs at most once, its answer says what became of it, is
//! given once on a stream, and again on the next until the server has acknowledged it.
//!
//! The server sends a command again and again, and over several ways, but not once its life and the time of grace are
//! over. The agent remembers fewer commands than there are, so its table runs full.

use std::collections::VecDeque;
use std::mem;
use std::time::Duration;

use agent_core::agent::{
    Action, Agent, Answer, Change, Command, Credit, Input, Output, Reason, Restarted, RunState,
    Transmit,
};
use agent_core::config::{Config, Settings};
use agent_core::id::{BootId, CommandId};
use agent_core::metric::{Metric, Values};
use agent_core::record::Snapshot;
use agent_core::time::Instant;
use arbitrary::Arbitrary;

/// An agent that remembers few commands.
type SmallAgent = Agent<2048, 6>;

/// Far above what one input can cause.
const OUTPUTS_MAX: usize = 1000;

/// How long after the end of its life a command may still come.
const GRACE_MS: u64 = 60_000;

/// Attempts of the server to get an answer to everything at the end; each command may restart the agent once.
const ATTEMPTS_MAX: usize = 1000;

#[derive(Arbitrary, Debug)]
pub(crate) enum Operation {
    Wait {
        ms: u16,
    },
    StreamOpens,
    ServerWelcomes,
    ServerIsPlain,
    StreamEnds,
    TransportTakes {
        messages: u8,
    },
    /// The server has made the answers that it has durable.
    ServerAcknowledges,
    Issue {
        kind: Kind,
        time_to_live_ms: u16,
    },
    SendAgain {
        which: u8,
    },
    Sample,
}

#[derive(Arbitrary, Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Status,
    Unknown,
    Stop,
    Start,
    Update,
    BadUpdate,
    Restart,
    FailingRestart,
}

impl Kind {
    /// Whether it may run again once its answer has been acknowledged.
    const fn is_harmless(self) -> bool {
        matches!(self, Self::Status | Self::Unknown)
    }

    /// What an answer says the command has done, if it is one to such a command.
    fn effect(self, answer: &Answer) -> Option<Effect> {
        match (self, answer) {
            (_, Answer::Expired | Answer::ShuttingDown | Answer::Busy)
            | (Self::Status, Answer::Status)
            | (Self::Unknown, Answer::Unknown)
            | (Self::Stop, Answer::Stopped(Change::AlreadySo))
            | (Self::Start, Answer::Started(Change::AlreadySo))
            | (Self::BadUpdate, Answer::ConfigRejected(_)) => Some(Effect::Nothing),
            (Self::Stop, Answer::Stopped(Change::Done))
            | (Self::Start, Answer::Started(Change::Done))
            | (Self::Update, Answer::ConfigApplied)
            | (Self::Restart, Answer::Restarted { .. })
            | (Self::FailingRestart, Answer::RestartFailed(_)) => Some(Effect::Ran),
            _ => None,
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Effect {
    Nothing,
    Ran,
}

/// A command as the server knows it.
#[derive(Debug)]
struct Issue {
    id: CommandId,
    kind: Kind,
    expires_ms: u64,
    effect: Effect,
    answer: Option<Answer>,
    /// The server has an answer, be it that the agent was busy.
    answered: bool,
    /// Without an acknowledgement of what became of it.
    open: bool,
    /// The agent may take the next one that comes for a question after an answer that was lost.
    repeatable: bool,
    /// How often it may still be answered on this stream.
    due: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stream {
    Down,
    Dialled,
    Open,
}

/// An agent, and the server with its commands.
struct World {
    agent: SmallAgent,
    boot: BootId,
    now_ms: u64,
    stream: Stream,
    /// What the transport has not taken, answers with the command that they are for.
    with_transport: VecDeque<(Transmit, Option<CommandId>)>,
    /// Answers that have reached the server, without an acknowledgement.
    unacknowledged: VecDeque<CommandId>,
    issues: Vec<Issue>,
    issued: u32,
    sent: u32,
    /// The command that the agent has just been given.
    in_hand: Option<CommandId>,
    restart_due: bool,
}

/// Lets all of it happen to a new agent, one after the other, then has the server ask until all is answered.
pub(crate) fn run(operations: &[Operation]) {
    let boot = BootId { counter: 1, nonce: 7 };
    let mut world = World {
        agent: Agent::new(Instant::default(), boot, 1, Config::default(), None),
        boot,
        now_ms: 0,
        stream: Stream::Down,
        with_transport: VecDeque::new(),
        unacknowledged: VecDeque::new(),
        issues: Vec::new(),
        issued: 0,
        sent: 0,
        in_hand: None,
        restart_due: false,
    };
    for operation in operations {
        world.perform(operation);
    }
    world.settle();
}

impl World {
    fn now(&self) -> Instant {
        Instant::from_ms(self.now_ms)
    }

    fn perform(&mut self, operation: &Operation) {
        match operation {
            Operation::Wait { ms } => self.wait((*ms).into()),
            Operation::StreamOpens => self.open_stream(),
            Operation::ServerWelcomes => self.welcome(),
            Operation::ServerIsPlain if self.stream == Stream::Open => {
                self.handle(Input::LinkPlain);
            }
            Operation::ServerIsPlain => {}
            Operation::StreamEnds => self.end_stream(),
            Operation::TransportTakes { messages } => self.take((*messages).into()),
            Operation::ServerAcknowledges => self.acknowledge(),
            Operation::Issue { kind, time_to_live_ms } => {
                self.issue(*kind, (*time_to_live_ms).into());
            }
            Operation::SendAgain { which } => {
                if let Some(index) = usize::from(*which).checked_rem(self.issues.len()) {
                    self.send(index);
                }
            }
            Operation::Sample => self.sample(),
        }
    }

    /// Hands `input` in, and does all that the agent asks for then.
    fn handle(&mut self, input: Input) {
        self.agent.handle(self.now(), input);
        self.drain();
        while mem::take(&mut self.restart_due) {
            self.restart();
        }
    }

    fn drain(&mut self) {
        for _ in 0..OUTPUTS_MAX {
            match self.agent.poll(self.now()) {
                Output::Wait(_) => return,
                Output::Dial => self.stream = Stream::Dialled,
                Output::Transmit(transmit) => self.transmit(transmit),
                Output::Restart => self.restart_due = true,
                Output::Remember => self.watch(Input::Remembered(Ok(()))),
                Output::Collect(_) | Output::Finish | Output::Spool => {}
                Output::Exit => panic!("nobody asked the agent to exit"),
            }
        }
        panic!("the agent does not come to rest");
    }

    fn wait(&mut self, ms: u64) {
        self.now_ms += ms;
        self.handle(Input::Tick);
    }

    fn open_stream(&mut self) {
        if self.stream == Stream::Dialled {
            self.stream = Stream::Open;
            self.handle(Input::LinkOpened);
        }
    }

    fn welcome(&mut self) {
        if self.stream == Stream::Open {
            self.handle(Input::LinkWelcomed {
                acknowledged: None,
                heartbeat: None,
                credit: Credit::Unlimited,
            });
        }
    }

    fn end_stream(&mut self) {
        if self.stream != Stream::Down {
            self.forget_stream();
            self.handle(Input::LinkClosed);
        }
    }

    /// What a stream has not carried through goes with it.
    fn forget_stream(&mut self) {
        self.stream = Stream::Down;
        self.with_transport.clear();
        self.unacknowledged.clear();
        for issue in &mut self.issues {
            issue.due = u32::from(issue.open);
        }
    }

    fn take(&mut self, messages: usize) {
        for _ in 0..messages {
            let Some((transmit, answers)) = self.with_transport.pop_front() else {
                return;
            };
            if let Some(id) = answers {
                self.find(&id).answered = true;
                self.unacknowledged.push_back(id);
            }
            self.handle(Input::Transmitted(transmit));
        }
    }

    fn acknowledge(&mut self) {
        // A restart on the way ends the stream, and so this.
        while let Some(id) = self.unacknowledged.pop_front() {
            let issue = self.find(&id);
            issue.repeatable = true;
            // Else the agent was busy, and the command may have come again since.
            if issue.answer.is_some() {
                issue.open = false;
            }
            self.handle(Input::AnswerAcknowledged(id));
        }
    }

    fn sample(&mut self) {
        let values = Values::from_iter([(Metric::CpuPercent, 1)]);
        self.handle(Input::Snapshot(Snapshot { taken_at: self.now(), wall_ms: 0, values }));
    }

    fn issue(&mut self, kind: Kind, time_to_live_ms: u64) {
        if self.stream != Stream::Open {
            return;
        }
        self.issued += 1;
        let id = format!("command-{}", self.issued);
        self.issues.push(Issue {
            id: id.parse().expect("it is short and printable"),
            kind,
            expires_ms: self.now_ms + time_to_live_ms,
            effect: Effect::Nothing,
            answer: None,
            answered: false,
            open: true,
            repeatable: true,
            due: 0,
        });
        self.send(self.issues.len() - 1);
    }

    fn send(&mut self, index: usize) {
        let issue = &mut self.issues[index];
        if self.stream != Stream::Open || issue.is_over(self.now_ms) {
            return;
        }
        if mem::take(&mut issue.repeatable) {
            issue.due += 1;
        }
        issue.open = true;
        self.sent += 1;
        let life_ms = issue.expires_ms.saturating_sub(self.now_ms);
        let (id, kind) = (issue.id.clone(), issue.kind);
        let command = Command {
            id: Some(id.clone()),
            action: action(kind, self.sent),
            time_to_live: Duration::from_millis(life_ms),
        };
        self.in_hand = Some(id);
        self.watch(Input::Command(command));
        // It may begin only once that is written down.
        self.handle(Input::Tick);
        self.in_hand = None;
    }

    /// Hands `input` in. What changes by it is the effect of the command in hand.
    fn watch(&mut self, input: Input) {
        let before = self.visible();
        self.agent.handle(self.now(), input);
        if self.visible() == before {
            return;
        }
        let now_ms = self.now_ms;
        let id = self.in_hand.clone().expect("nothing but a command changes anything");
        let issue = self.find(&id);
        assert!(!issue.kind.is_harmless(), "{issue:?}");
        assert!(now_ms < issue.expires_ms, "too late: {issue:?}");
        assert_eq!(issue.effect, Effect::Nothing, "twice: {issue:?}");
        issue.effect = Effect::Ran;
    }

    /// What a command can change.
    fn visible(&self) -> (RunState, Duration) {
        (self.agent.status(self.now()).state, self.agent.config().settings().interval)
    }

    fn transmit(&mut self, transmit: Transmit) {
        let Transmit::Answer(slot) = transmit else {
            return self.with_transport.push_back((transmit, None));
        };
        let (id, answer) = self.agent.answer(slot).expect("the agent has just offered it");
        let (id, answer) = (id.clone(), answer.clone());
        self.with_transport.push_back((transmit, Some(id.clone())));
        let issue = self.find(&id);
        let effect =
            issue.kind.effect(&answer).unwrap_or_else(|| panic!("{answer:?} to {issue:?}"));
        if answer == Answer::Busy {
            return;
        }
        issue.due = issue.due.checked_sub(1).unwrap_or_else(|| panic!("once more: {issue:?}"));
        assert_eq!(effect, issue.effect, "{answer:?} to {issue:?}");
        let first = issue.answer.get_or_insert_with(|| answer.clone());
        assert!(*first == answer || issue.kind.is_harmless(), "{answer:?} to {issue:?}");
    }

    /// The process ends, and the next one starts, or it cannot.
    fn restart(&mut self) {
        let command = self.agent.restart_command().expect("a command asked for it").clone();
        if self.find(&command).kind == Kind::FailingRestart {
            return self.handle(Input::RestartFailed(Reason::from("no memory")));
        }
        let previous = self.boot;
        self.boot.counter += 1;
        self.forget_stream();
        // What else the old process was asked the new one cannot know.
        self.issues.retain(|issue| issue.id == command);
        let restarted = Some(Restarted { command, previous });
        self.agent = Agent::new(self.now(), self.boot, 1, Config::default(), restarted);
        self.drain();
    }

    /// The server sends what it has no answer to until it has one.
    fn settle(&mut self) {
        for _ in 0..ATTEMPTS_MAX {
            let now_ms = self.now_ms;
            let settled = |issue: &Issue| {
                issue.answered || (issue.effect == Effect::Nothing && issue.is_over(now_ms))
            };
            if self.issues.iter().all(settled) {
                return;
            }
            self.open_stream();
            self.welcome();
            let unanswered = |issue: &Issue| (!issue.answered).then(|| issue.id.clone());
            for id in self.issues.iter().filter_map(unanswered).collect::<Vec<_>>() {
                // A restart may have ended its story.
                if let Some(index) = self.issues.iter().position(|issue| issue.id == id) {
                    self.send(index);
                }
            }
            self.take(OUTPUTS_MAX);
            self.acknowledge();
            self.wait(1000);
        }
        panic!("not all is answered: {:?}", self.issues);
    }

    fn find(&mut self, id: &CommandId) -> &mut Issue {
        let issue = self.issues.iter_mut().find(|issue| issue.id == *id);
        issue.expect("the agent speaks of commands that it was sent")
    }
}

impl Issue {
    /// No server sends it any more.
    const fn is_over(&self, now_ms: u64) -> bool {
        self.expires_ms + GRACE_MS < now_ms
    }
}

/// The action with something new in it each time it is sent, so that none can run twice unseen.
fn action(kind: Kind, sent: u32) -> Action {
    match kind {
        Kind::Status => Action::Status,
        Kind::Unknown => Action::Unknown,
        Kind::Stop => Action::Stop,
        Kind::Start => Action::Start,
        Kind::Update => {
            let interval = Duration::from_secs(60) + Duration::from_millis(sent.into());
            let settings = Settings { interval, ..Settings::default() };
            Action::UpdateConfig(Ok(Config::new(settings).expect("the interval is allowed")))
        }
        Kind::BadUpdate => Action::UpdateConfig(Err(Reason::from("not readable"))),
        Kind::Restart | Kind::FailingRestart => Action::Restart,
    }
}
