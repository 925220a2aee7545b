//! The agent's state machine by operations: whatever happens, in whatever order, it comes to rest after each, its
//! books balance, and it sends nothing that it does not hold.

use std::collections::VecDeque;
use std::time::Duration;

use agent_core::agent::{Action, Agent, Command, Credit, Input, Output, Reason, Transmit};
use agent_core::config::{
    AlertRule, Comparison, Condition, Config, Joint, Settings, Term, Tolerance, WindowEnd,
};
use agent_core::id::{BootId, ConfigRevision, Sequence};
use agent_core::limits::{BATCH_ALERTS_MAX, BATCH_RECORDS_MAX, TRANSMIT_SLOTS};
use agent_core::metric::{Metric, MetricSet, Values};
use agent_core::plugin::{OwnIndex, PluginKind};
use agent_core::record::{Direction, Snapshot};
use agent_core::time::Instant;
use arbitrary::Arbitrary;

const BOOT: BootId = BootId { counter: 1, nonce: 7 };

/// Far above what one input can cause.
const OUTPUTS_MAX: usize = 1000;

#[derive(Arbitrary, Debug)]
pub(crate) enum Operation {
    Wait {
        ms: u32,
    },
    Sample {
        cpu: i16,
        written: i32,
    },
    SampleFails,
    /// Many samples, so that the ring overflows within a short input.
    Burst {
        samples: u8,
    },
    StreamOpens,
    ServerIsPlain,
    ServerWelcomes {
        acknowledged: Option<u16>,
        heartbeat_ms: Option<u16>,
    },
    StreamEnds,
    TransportTakes {
        messages: u8,
    },
    Acknowledge {
        through: u16,
        own_boot: bool,
    },
    AcknowledgeAlerts {
        through: u8,
    },
    AcknowledgeAnswer {
        id: u8,
    },
    Ping,
    Command {
        id: Option<u8>,
        kind: Kind,
        time_to_live_ms: u16,
    },
    Push {
        revision: u8,
        config: Option<Chain>,
    },
    RestartFails,
    Shutdown,
}

#[derive(Arbitrary, Debug)]
pub(crate) enum Kind {
    Status,
    Stop,
    Start,
    Update(Option<Chain>),
    Restart,
    Unknown,
}

#[derive(Arbitrary, Debug)]
pub(crate) struct Chain {
    interval_ms: u16,
    plugins: [Option<u8>; 4],
    window: Window,
    tolerance: u8,
    relative: bool,
    rule: Rule,
    condition: Option<u8>,
    all_metrics: bool,
    min_cpu: u16,
    send_idle: bool,
}

impl Chain {
    /// The configuration, or the reason why it is none: both are inputs.
    fn config(&self) -> Result<Config, Reason> {
        let mut settings = Settings {
            interval: Duration::from_millis(self.interval_ms.into()),
            window: match self.window {
                Window::Snapshots(size) => WindowEnd::Snapshots(size.into()),
                Window::Duration { ms } => WindowEnd::Duration(Duration::from_millis(ms.into())),
            },
            ..Settings::default()
        };
        let kinds = self.plugins.iter().flatten();
        settings.plugins = kinds.map(|index| plugin(*index)).collect();
        let tolerance = if self.relative {
            Tolerance::Relative { hundredths: u32::from(self.tolerance) * 100 }
        } else {
            Tolerance::Absolute(self.tolerance.into())
        };
        settings.deduplication.tolerance.set(Metric::CpuPercent, tolerance);
        settings.thresholds.set(Metric::CpuPercent, self.rule.rule());
        if let Some(limit) = self.condition {
            let term = Term {
                joint: Joint::And,
                metric: Metric::CpuPercent,
                comparison: Comparison::Greater,
                count: limit.into(),
            };
            settings.filter.condition = Condition::new(&[term]).expect("one is not too many");
        }
        if self.all_metrics {
            settings.metrics = MetricSet::ALL;
        }
        settings.filter.min_cpu = self.min_cpu.into();
        settings.filter.send_idle = self.send_idle;
        Config::new(settings).map_err(|error| Reason::from(error.to_string().as_str()))
    }
}

#[derive(Arbitrary, Clone, Copy, Debug)]
enum Window {
    Snapshots(u8),
    Duration { ms: u16 },
}

#[derive(Arbitrary, Clone, Copy, Debug)]
struct Rule {
    limit: u8,
    below: bool,
    hysteresis: u8,
    hold_ms: u16,
}

impl Rule {
    fn rule(self) -> AlertRule {
        AlertRule {
            direction: if self.below { Direction::Below } else { Direction::Above },
            hysteresis: self.hysteresis.into(),
            hold: Duration::from_millis(self.hold_ms.into()),
            ..AlertRule::above(self.limit.into())
        }
    }
}

/// One of the built-in kinds, or one that this agent does not have.
fn plugin(index: u8) -> PluginKind {
    let built_in = PluginKind::BUILT_IN.get(usize::from(index) % (PluginKind::BUILT_IN.len() + 1));
    built_in.copied().unwrap_or(PluginKind::Own(OwnIndex::FIRST))
}

fn config(chain: Option<&Chain>) -> Result<Config, Reason> {
    chain.map_or_else(|| Err(Reason::from("not readable")), Chain::config)
}

fn command(id: Option<u8>, kind: &Kind, time_to_live_ms: u16) -> Command {
    Command {
        id: id.map(|id| format!("command-{id}").parse().expect("it is short and printable")),
        action: match kind {
            Kind::Status => Action::Status,
            Kind::Stop => Action::Stop,
            Kind::Start => Action::Start,
            Kind::Update(chain) => Action::UpdateConfig(config(chain.as_ref())),
            Kind::Restart => Action::Restart,
            Kind::Unknown => Action::Unknown,
        },
        time_to_live: Duration::from_millis(time_to_live_ms.into()),
    }
}

/// The agent with its clock and a transport that takes messages when it is told to.
struct Shell {
    agent: Agent,
    now_ms: u64,
    with_transport: VecDeque<Transmit>,
    /// The agent wants the next end of the stream to be one in good order.
    finishes: bool,
    exited: bool,
}

impl Shell {
    fn now(&self) -> Instant {
        Instant::from_ms(self.now_ms)
    }

    fn handle(&mut self, input: Input) {
        self.agent.handle(self.now(), input);
        for _ in 0..OUTPUTS_MAX {
            match self.agent.poll(self.now()) {
                Output::Wait(_) => return self.check(),
                Output::Exit => self.exited = true,
                Output::Transmit(transmit) => self.transmit(transmit),
                Output::Remember => self.agent.handle(self.now(), Input::Remembered(Ok(()))),
                Output::Finish => self.finishes = true,
                Output::Collect(_) | Output::Dial | Output::Spool | Output::Restart => {}
            }
            if self.exited {
                return self.check();
            }
        }
        panic!("the agent does not come to rest");
    }

    fn transmit(&mut self, transmit: Transmit) {
        match transmit {
            Transmit::Batch(batch) | Transmit::Plain(batch) => {
                let count = batch.first.count_until(batch.end);
                assert!(count <= BATCH_RECORDS_MAX);
                let sequences = self.agent.records(&batch).map(|(sequence, _)| sequence.number());
                assert!(sequences.eq(batch.first.number()..batch.end.number()));
            }
            Transmit::Alerts(batch) => {
                let count = batch.first.count_until(batch.end);
                assert!(count <= BATCH_ALERTS_MAX as u64);
                let sequences = self.agent.alerts(&batch).map(|(sequence, _)| sequence.number());
                assert!(sequences.eq(batch.first.number()..batch.end.number()));
            }
            Transmit::Answer(slot) => assert!(self.agent.answer(slot).is_some()),
            Transmit::Begun(slot) => assert!(self.agent.begun(slot).is_some()),
            Transmit::ConfigReport => assert!(self.agent.config_report().is_some()),
            Transmit::Replay | Transmit::Status => {}
        }
        self.with_transport.push_back(transmit);
    }

    fn check(&self) {
        let ledger = self.agent.ledger();
        assert!(ledger.balances(), "{ledger:?}");
        assert!(self.with_transport.len() <= usize::from(TRANSMIT_SLOTS));
        assert_eq!(self.agent.status(self.now()).ledger, ledger);
    }

    fn sample(&mut self, cpu: i64, written: i64) {
        let values = Values::from_iter([(Metric::CpuPercent, cpu), (Metric::DiskWrite, written)]);
        let wall_ms = i64::try_from(self.now_ms).expect("an input has few operations");
        self.handle(Input::Snapshot(Snapshot { taken_at: self.now(), wall_ms, values }));
    }

    fn perform(&mut self, operation: &Operation) {
        match operation {
            Operation::Wait { ms } => {
                self.now_ms += u64::from(*ms);
                self.handle(Input::Tick);
            }
            Operation::Sample { cpu, written } => self.sample((*cpu).into(), (*written).into()),
            Operation::SampleFails => self.handle(Input::SnapshotFailed),
            Operation::Burst { samples } => {
                for index in 0..i64::from(*samples) {
                    self.sample(index, index);
                }
            }
            Operation::StreamOpens => {
                // A new stream has its own transport, which has nothing yet.
                self.with_transport.clear();
                self.handle(Input::LinkOpened);
            }
            Operation::ServerIsPlain => self.handle(Input::LinkPlain),
            Operation::ServerWelcomes { acknowledged, heartbeat_ms } => {
                self.handle(Input::LinkWelcomed {
                    acknowledged: acknowledged.and_then(|number| Sequence::new(number.into())),
                    heartbeat: heartbeat_ms.map(|ms| Duration::from_millis(ms.into())),
                    credit: Credit::Unlimited,
                });
            }
            Operation::StreamEnds => {
                // What a stream had not taken goes with it.
                self.with_transport.clear();
                let is_heard_out = std::mem::take(&mut self.finishes);
                self.handle(if is_heard_out { Input::LinkFinished } else { Input::LinkClosed });
            }
            Operation::TransportTakes { messages } => {
                for _ in 0..*messages {
                    let Some(transmit) = self.with_transport.pop_front() else {
                        break;
                    };
                    self.handle(Input::Transmitted(transmit));
                }
            }
            Operation::Acknowledge { through, own_boot } => {
                let boot = if *own_boot { BOOT } else { BootId { counter: 0, nonce: 0 } };
                if let Some(through) = Sequence::new((*through).into()) {
                    self.handle(Input::Acknowledged { boot, through });
                }
            }
            Operation::AcknowledgeAlerts { through } => {
                if let Some(through) = Sequence::new((*through).into()) {
                    self.handle(Input::AlertsAcknowledged { boot: BOOT, through });
                }
            }
            Operation::AcknowledgeAnswer { id } => {
                let id = format!("command-{id}").parse().expect("it is short and printable");
                self.handle(Input::AnswerAcknowledged(id));
            }
            Operation::Ping => self.handle(Input::Ping),
            Operation::Command { id, kind, time_to_live_ms } => {
                self.handle(Input::Command(command(*id, kind, *time_to_live_ms)));
            }
            Operation::Push { revision, config: chain } => self.handle(Input::Configure {
                revision: ConfigRevision((*revision).into()),
                config: config(chain.as_ref()),
            }),
            Operation::RestartFails => self.handle(Input::RestartFailed(Reason::from("no memory"))),
            Operation::Shutdown => self.handle(Input::Shutdown),
        }
    }
}

/// Lets all of it happen to a new agent, one after the other, until it exits.
pub(crate) fn run(operations: &[Operation]) {
    let agent = Agent::new(Instant::default(), BOOT, 1, Config::default(), None);
    let mut shell =
        Shell { agent, now_ms: 0, with_transport: VecDeque::new(), finishes: false, exited: false };
    for operation in operations {
        shell.perform(operation);
        if shell.exited {
            return;
        }
    }
}
