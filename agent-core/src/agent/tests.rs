//! The agent against a scripted server and a model of its books.

use std::vec;
use std::vec::Vec;

use proptest::prelude::*;

use super::*;
use crate::config::{Settings, WindowEnd};
use crate::ledger::LossReason;
use crate::limits::{BATCH_RECORDS_MAX, RING_BYTES};
use crate::metric::{Metric, Values};
use crate::plugin::PluginKind;

const BOOT: BootId = BootId { counter: 1, nonce: 7 };
const SECOND: u64 = 1000;
/// A ring that overflows within some dozen records.
const SMALL: usize = 2048;

/// An agent with a clock, as a shell would drive it.
struct Shell<const RING: usize = RING_BYTES> {
    agent: Agent<RING>,
    now_ms: u64,
}

impl Shell {
    fn new(config: Config) -> Self {
        Self::with_ring(config)
    }
}

impl<const RING: usize> Shell<RING> {
    fn with_ring(config: Config) -> Self {
        Self { agent: Agent::new(Instant::from_ms(0), BOOT, 1, config, None), now_ms: 0 }
    }

    fn now(&self) -> Instant {
        Instant::from_ms(self.now_ms)
    }

    fn handle(&mut self, input: Input) -> Vec<Output> {
        self.agent.handle(self.now(), input);
        self.drain()
    }

    /// All outputs up to the wait, the wait left out. The bound is far above what one input can cause.
    fn drain(&mut self) -> Vec<Output> {
        let mut outputs = Vec::new();
        for _ in 0..1000 {
            match self.agent.poll(self.now()) {
                Output::Wait(_) => return outputs,
                Output::Remember => self.agent.handle(self.now(), Input::Remembered(Ok(()))),
                output => outputs.push(output),
            }
        }
        panic!("the agent does not come to rest: {outputs:?}");
    }

    /// Time goes by, and the process runs all the while.
    fn run_for(&mut self, ms: u64) {
        let step_ms = 3 * SECOND;
        for _ in 0..ms / step_ms {
            self.advance(step_ms);
        }
        self.advance(ms % step_ms);
    }

    fn advance(&mut self, ms: u64) -> Vec<Output> {
        self.now_ms += ms;
        self.handle(Input::Tick)
    }

    fn snapshot(&mut self, cpu: i64) -> Vec<Output> {
        let values = Values::from_iter([(Metric::CpuPercent, cpu)]);
        let taken_at = self.now();
        self.handle(Input::Snapshot(Snapshot { taken_at, wall_ms: 0, values }))
    }

    /// Opens a full stream; everything the transport is given it takes at once.
    fn connect(&mut self) -> Vec<Output> {
        if let LinkState::Down { retry_at } = self.agent.link() {
            self.now_ms = self.now_ms.max(retry_at.as_ms());
        }
        self.drain();
        assert_eq!(self.agent.link(), LinkState::Dialling);
        self.handle(Input::LinkOpened);
        let welcomed =
            Input::LinkWelcomed { acknowledged: None, heartbeat: None, credit: Credit::Unlimited };
        let outputs = self.handle(welcomed);
        self.take(outputs)
    }

    /// Acts as a transport that takes every message at once.
    fn take(&mut self, outputs: Vec<Output>) -> Vec<Output> {
        let mut all = Vec::new();
        let mut queue = std::collections::VecDeque::from(outputs);
        while let Some(output) = queue.pop_front() {
            all.push(output);
            if let Output::Transmit(transmit) = output {
                queue.extend(self.handle(Input::Transmitted(transmit)));
            }
        }
        all
    }

    fn command(&mut self, id: &str, action: Action) -> Vec<Output> {
        let id = Some(id.parse().unwrap());
        let command = Command { id, action, time_to_live: Duration::from_secs(30) };
        let outputs = self.handle(Input::Command(command));
        self.take(outputs)
    }

    fn answers(&self, outputs: &[Output]) -> Vec<Answer> {
        let slots = outputs.iter().filter_map(|output| match output {
            Output::Transmit(Transmit::Answer(slot)) => self.agent.answer(*slot),
            _ => None,
        });
        slots.map(|(_, answer)| answer.clone()).collect()
    }
}

fn batches(outputs: &[Output]) -> Vec<(u64, u64)> {
    let batch = |output: &Output| match output {
        Output::Transmit(Transmit::Batch(batch)) => {
            Some((batch.first.number(), batch.end.number()))
        }
        _ => None,
    };
    outputs.iter().filter_map(batch).collect()
}

fn sequence(number: u64) -> Sequence {
    Sequence::new(number).unwrap()
}

fn acknowledged(through: u64) -> Input {
    Input::Acknowledged { boot: BOOT, through: sequence(through) }
}

fn config(change: impl FnOnce(&mut Settings)) -> Config {
    let mut settings = Settings { interval: Duration::from_secs(1), ..Settings::default() };
    change(&mut settings);
    Config::new(settings).unwrap()
}

#[test]
fn it_dials_and_collects_at_once_and_then_on_the_raster() {
    let mut shell = Shell::new(config(|_| ()));
    assert_eq!(shell.drain(), [Output::Dial, Output::Collect(MetricSet::FIXED)]);
    shell.snapshot(1);
    assert_eq!(shell.advance(999), []);
    assert_eq!(shell.advance(1), [Output::Collect(MetricSet::FIXED)]);
}

#[test]
fn what_is_collected_without_a_link_is_delivered_afterwards() {
    let mut shell = Shell::new(config(|_| ()));
    for cpu in 0..100 {
        shell.snapshot(cpu);
    }
    let outputs = shell.connect();
    assert_eq!(batches(&outputs), [(1, 65), (65, 101)]);
    shell.handle(acknowledged(100));
    let ledger = shell.agent.ledger();
    assert_eq!((ledger.delivered, ledger.held), (100, 0));
}

#[test]
fn a_new_stream_begins_with_the_lowest_unacknowledged_record() {
    let mut shell = Shell::new(config(|_| ()));
    for cpu in 0..10 {
        shell.snapshot(cpu);
    }
    shell.connect();
    shell.handle(acknowledged(4));
    shell.handle(Input::LinkClosed);
    assert_eq!(batches(&shell.connect()), [(5, 11)]);
}

#[test]
fn a_plain_server_gets_single_records_that_count_when_the_link_outlives_them() {
    let mut shell = Shell::new(config(|_| ()));
    shell.drain();
    shell.snapshot(1);
    shell.snapshot(2);
    assert_eq!(shell.handle(Input::LinkOpened), []);
    let outputs = shell.advance(SECOND);
    let plain = |number| {
        let (first, end) = (sequence(number), sequence(number + 1));
        Output::Transmit(Transmit::Plain(Batch { first, end, loss: None, deferred: None }))
    };
    assert_eq!(outputs[..2], [plain(1), plain(2)]);
    assert_eq!(shell.agent.ledger().delivered, 0);
    shell.take(outputs);
    assert_eq!(shell.agent.ledger().delivered, 0);
    shell.run_for(19_999);
    assert_eq!(shell.agent.ledger().delivered, 0);
    shell.advance(1);
    // The second was handed over while the first one's time ran; its own time begins now.
    assert_eq!(shell.agent.ledger().delivered, 1);
    shell.run_for(20_000);
    assert_eq!(shell.agent.ledger().delivered, 2);
}

#[test]
fn time_in_which_the_process_stood_still_proves_nothing_of_a_plain_server() {
    let mut shell = Shell::new(config(|_| ()));
    shell.drain();
    shell.snapshot(1);
    shell.handle(Input::LinkOpened);
    let outputs = shell.advance(SECOND);
    shell.take(outputs);
    shell.run_for(18 * SECOND);
    // The transport did not run either, and hears only after this that the peer is gone.
    shell.advance(300 * SECOND);
    assert_eq!(shell.agent.ledger().delivered, 0);
    shell.run_for(19_999);
    assert_eq!(shell.agent.ledger().delivered, 0);
    shell.advance(1);
    assert_eq!(shell.agent.ledger().delivered, 1);
}

#[test]
fn a_peer_that_took_records_and_then_proved_dead_costs_none() {
    let mut shell = Shell::new(config(|_| ()));
    shell.drain();
    shell.snapshot(1);
    shell.snapshot(2);
    shell.handle(Input::LinkOpened);
    let outputs = shell.advance(SECOND);
    shell.take(outputs.clone());
    // The keep-alive finds it out before the records count.
    shell.advance(15 * SECOND);
    shell.handle(Input::LinkClosed);
    shell.handle(Input::LinkOpened);
    let again = shell.handle(Input::LinkPlain);
    assert_eq!(again[..2], outputs[..2], "a plain server gets them again");
    shell.handle(Input::LinkClosed);
    assert_eq!(batches(&shell.connect()), [(1, 3)]);
}

#[test]
fn what_the_plain_form_carried_before_a_late_welcome_is_sent_again() {
    let mut shell = Shell::new(config(|_| ()));
    shell.drain();
    shell.snapshot(1);
    shell.handle(Input::LinkOpened);
    let outputs = shell.advance(SECOND);
    shell.take(outputs);
    let welcomed =
        Input::LinkWelcomed { acknowledged: None, heartbeat: None, credit: Credit::Unlimited };
    assert_eq!(batches(&shell.handle(welcomed)), [(1, 2)]);
    shell.handle(acknowledged(1));
    assert_eq!(shell.agent.ledger().delivered, 1);
}

#[test]
fn on_a_one_way_link_a_record_counts_when_it_is_handed_over() {
    let mut shell = Shell::new(config(|_| ()));
    shell.snapshot(1);
    let outputs = shell.handle(Input::LinkOneWay);
    shell.take(outputs);
    assert_eq!(shell.agent.ledger().delivered, 1);
}

/// An agent that a plain server has taken a record from, and that is asked to end: it asks the server to hear it out.
fn ending_at_a_plain_server() -> Shell {
    let mut shell = Shell::new(config(|_| ()));
    shell.drain();
    shell.snapshot(1);
    shell.handle(Input::LinkOpened);
    let outputs = shell.handle(Input::LinkPlain);
    shell.take(outputs);
    shell.command("answered-to-nobody", Action::Status);
    assert_eq!(shell.handle(Input::Shutdown), [Output::Finish]);
    assert_eq!(shell.agent.ledger().delivered, 0);
    shell
}

#[test]
fn a_plain_server_that_hears_the_agent_out_has_all_of_it() {
    let mut shell = ending_at_a_plain_server();
    assert_eq!(shell.handle(Input::LinkFinished), [Output::Exit]);
    let ledger = shell.agent.ledger();
    assert_eq!((ledger.delivered, ledger.lost.total()), (1, 0));
}

#[test]
fn a_plain_server_that_is_silent_at_the_end_has_proved_nothing() {
    let mut shell = ending_at_a_plain_server();
    assert!(shell.advance(4900).is_empty());
    assert_eq!(shell.advance(100), [Output::Exit]);
    let ledger = shell.agent.ledger();
    assert_eq!((ledger.delivered, ledger.lost.by(LossReason::Shutdown)), (0, 1));
}

#[test]
fn what_a_silent_plain_server_was_handed_goes_into_the_spool_at_the_end() {
    let mut shell = ending_at_a_plain_server();
    shell.handle(Input::SpoolChanged { is_writable: true, has_batch: false });
    assert_eq!(shell.advance(5000)[0], Output::Spool);
}

#[test]
fn a_stream_that_breaks_while_a_plain_server_hears_the_agent_out_proves_nothing() {
    let mut shell = ending_at_a_plain_server();
    shell.handle(Input::LinkClosed);
    assert_eq!(shell.agent.ledger().delivered, 0);
    // Nor does the end of another stream, on which nothing was asked.
    shell.handle(Input::LinkFinished);
    assert_eq!(shell.agent.ledger().delivered, 0);
}

#[test]
fn the_last_word_is_the_closed_books() {
    let mut shell = Shell::new(config(|_| ()));
    shell.connect();
    shell.snapshot(1);
    let outputs = shell.handle(Input::Shutdown);
    assert!(!outputs.contains(&Output::Exit));
    shell.agent.handle(shell.now(), acknowledged(1));
    assert_eq!(shell.agent.poll(shell.now()), Output::Transmit(Transmit::Status));
    let ledger = shell.agent.ledger();
    assert_eq!((ledger.delivered, ledger.held), (1, 0));
    assert_eq!(shell.agent.poll(shell.now()), Output::Exit);
}

#[test]
fn status_can_be_asked_for_ever_and_other_commands_are_refused_aloud() {
    let mut shell = Shell::new(config(|_| ()));
    shell.connect();
    for number in 0..200 {
        let id = std::format!("s{number}");
        let outputs = shell.command(&id, Action::Status);
        assert_eq!(shell.answers(&outputs), [Answer::Status]);
        shell.handle(Input::AnswerAcknowledged(id.parse().unwrap()));
    }
    let mut answers = Vec::new();
    for number in 0..=COMMANDS_MAX {
        let id = std::format!("c{number}");
        let outputs = shell.command(&id, Action::Start);
        answers.extend(shell.answers(&outputs));
        shell.handle(Input::AnswerAcknowledged(id.parse().unwrap()));
    }
    let (last, others) = answers.split_last().unwrap();
    assert_eq!(*last, Answer::Busy);
    assert!(others.iter().all(|answer| *answer == Answer::Started(Change::AlreadySo)));
}

#[test]
fn stop_ends_collecting_and_delivers_the_open_window_and_start_begins_again() {
    let mut shell = Shell::new(config(|s| {
        s.plugins = [PluginKind::Aggregation].into_iter().collect();
    }));
    shell.connect();
    shell.snapshot(1);
    let outputs = shell.command("stop", Action::Stop);
    assert_eq!(shell.answers(&outputs), [Answer::Stopped(Change::Done)]);
    assert_eq!(batches(&outputs), [(1, 2)]);
    assert!(!shell.advance(5 * SECOND).contains(&Output::Collect(MetricSet::FIXED)));
    // The collector was busy when the command came: its snapshot is late and does not count.
    shell.snapshot(2);
    assert_eq!(shell.agent.ledger().produced, 1);
    let outputs = shell.command("again", Action::Stop);
    assert_eq!(shell.answers(&outputs), [Answer::Stopped(Change::AlreadySo)]);
    let outputs = shell.command("start", Action::Start);
    assert_eq!(shell.answers(&outputs), [Answer::Started(Change::Done)]);
    assert!(outputs.contains(&Output::Collect(MetricSet::FIXED)));
}

#[test]
fn a_command_runs_once_however_often_it_comes() {
    let mut shell = Shell::new(config(|_| ()));
    shell.connect();
    shell.command("stop", Action::Stop);
    shell.handle(Input::AnswerAcknowledged("stop".parse().unwrap()));
    shell.command("start", Action::Start);
    let outputs = shell.command("stop", Action::Stop);
    assert_eq!(shell.answers(&outputs), [Answer::Stopped(Change::Done)]);
    assert_eq!(shell.agent.status(shell.now()).state, RunState::Running, "it ran again");
    let outputs = shell.command("start", Action::Start);
    assert_eq!(shell.answers(&outputs), [], "the first answer is still on its way");
    assert_eq!(shell.agent.status(shell.now()).state, RunState::Running);
}

#[test]
fn a_command_without_time_left_does_not_start() {
    let mut shell = Shell::new(config(|_| ()));
    shell.connect();
    let id = Some("late".parse().unwrap());
    let late = Command { id, action: Action::Stop, time_to_live: Duration::ZERO };
    let outputs = shell.handle(Input::Command(late));
    assert_eq!(shell.answers(&outputs), [Answer::Expired]);
    assert_eq!(shell.agent.status(shell.now()).state, RunState::Running);
}

#[test]
fn a_restart_drains_first_and_the_new_boot_answers() {
    let mut shell = Shell::new(config(|_| ()));
    shell.snapshot(1);
    shell.connect();
    let outputs = shell.command("r", Action::Restart);
    assert!(!outputs.contains(&Output::Restart), "a record is still unacknowledged");
    let last = [Output::Transmit(Transmit::Status), Output::Restart];
    assert_eq!(shell.handle(acknowledged(1)), last);
    let command = shell.agent.restart_command().unwrap().clone();
    assert_eq!(command.as_str(), "r");

    let next = BootId { counter: 2, nonce: 8 };
    let restarted = Some(Restarted { command, previous: BOOT });
    let agent: Agent = Agent::new(shell.now(), next, 1, Config::default(), restarted);
    let mut shell = Shell { agent, now_ms: shell.now_ms };
    let outputs = shell.connect();
    assert_eq!(shell.answers(&outputs), [Answer::Restarted { previous: BOOT }]);
}

#[test]
fn a_restart_that_fails_is_answered_and_collecting_goes_on() {
    let mut shell = Shell::new(config(|_| ()));
    shell.connect();
    shell.snapshot(1);
    shell.handle(acknowledged(1));
    assert!(shell.command("r", Action::Restart).contains(&Output::Restart));
    let outputs = shell.handle(Input::RestartFailed(Reason::from("no such file")));
    assert_eq!(shell.answers(&outputs), [Answer::RestartFailed(Reason::from("no such file"))]);
    assert!(outputs.contains(&Output::Collect(MetricSet::FIXED)));
}

#[test]
fn a_shutdown_waits_for_acknowledgements_but_not_for_ever() {
    let mut shell = Shell::new(config(|_| ()));
    shell.snapshot(1);
    assert_eq!(shell.handle(Input::Shutdown), []);
    assert_eq!(shell.advance(4999).last(), None);
    assert_eq!(shell.advance(1), [Output::Exit]);
    assert_eq!(shell.agent.ledger().lost.by(LossReason::Shutdown), 1);
    assert_eq!(shell.advance(SECOND), []);
}

#[test]
fn a_second_shutdown_ends_at_once() {
    let mut shell = Shell::new(config(|_| ()));
    shell.snapshot(1);
    shell.handle(Input::Shutdown);
    assert_eq!(shell.handle(Input::Shutdown), [Output::Exit]);
}

#[test]
fn a_pushed_configuration_is_reported_and_an_older_one_ignored() {
    let mut shell = Shell::new(config(|_| ()));
    shell.connect();
    let push = |revision, config| Input::Configure { revision: ConfigRevision(revision), config };
    let outputs = shell.handle(push(2, Ok(config(|s| s.metrics.remove(Metric::NetIn)))));
    assert_eq!(outputs, [Output::Transmit(Transmit::ConfigReport)]);
    assert_eq!(shell.handle(push(1, Ok(config(|_| ())))), []);
    shell.handle(push(3, Err(Reason::from("interval: no"))));
    let report = shell.agent.config_report().unwrap();
    assert_eq!(report.outcome, ConfigOutcome::Rejected(Reason::from("interval: no")));
    assert_eq!((report.revision, report.running), (ConfigRevision(3), ConfigRevision(2)));
    let status = shell.agent.status(shell.now());
    assert_eq!(status.config_revision, ConfigRevision(2));
    assert!(!shell.agent.config().settings().metrics.contains(Metric::NetIn));

    // A server whose store was set up anew counts from 1.
    shell.handle(Input::LinkClosed);
    shell.connect();
    shell.handle(push(1, Ok(config(|_| ()))));
    assert_eq!(shell.agent.status(shell.now()).config_revision, ConfigRevision(1));
}

#[test]
fn a_configuration_taken_back_is_reported_with_what_runs_instead() {
    let mut shell = Shell::new(config(|_| ()));
    let slow = config(|s| s.interval *= 2);
    shell.handle(Input::Restore { revision: ConfigRevision(4), config: slow.clone() });
    assert_eq!(shell.agent.config_report(), None);
    assert_eq!(shell.agent.status(shell.now()).config_revision, ConfigRevision(4));
    assert_eq!(*shell.agent.config(), slow);

    let fast = config(|s| s.interval /= 2);
    shell.handle(Input::Configure { revision: ConfigRevision(5), config: Ok(fast) });
    shell.handle(Input::Restore { revision: ConfigRevision(4), config: slow.clone() });
    let reason = Reason::from("no server");
    shell.handle(Input::RolledBack { revision: ConfigRevision(5), reason: reason.clone() });
    assert_eq!(*shell.agent.config(), slow);
    let expected = ConfigReport {
        revision: ConfigRevision(5),
        outcome: ConfigOutcome::RolledBack(reason),
        running: ConfigRevision(4),
    };
    assert_eq!(shell.agent.config_report(), Some(&expected));
    assert!(shell.connect().contains(&Output::Transmit(Transmit::ConfigReport)));
}

#[test]
fn revisions_of_another_store_start_afresh() {
    let mut shell = Shell::new(config(|_| ()));
    let push = |revision| Input::Configure {
        revision: ConfigRevision(revision),
        config: Ok(config(|_| ())),
    };
    shell.handle(push(7));
    shell.handle(push(2));
    assert_eq!(shell.agent.status(shell.now()).config_revision, ConfigRevision(7));
    shell.handle(Input::StoreChanged);
    shell.handle(push(2));
    assert_eq!(shell.agent.status(shell.now()).config_revision, ConfigRevision(2));
}

#[test]
fn a_new_interval_holds_from_the_next_tick() {
    let mut shell = Shell::new(config(|_| ()));
    shell.drain();
    shell.snapshot(1);
    shell.command("c", Action::UpdateConfig(Ok(config(|s| s.interval *= 10))));
    assert!(shell.advance(9999).iter().all(|o| *o != Output::Collect(MetricSet::FIXED)));
    assert!(shell.advance(1).contains(&Output::Collect(MetricSet::FIXED)));
}

#[test]
fn a_full_link_says_that_it_lives() {
    let mut shell = Shell::new(config(|s| s.interval = Duration::from_secs(3600)));
    let outputs = shell.connect();
    assert!(outputs.contains(&Output::Transmit(Transmit::Status)));
    assert_eq!(shell.advance(9999), []);
    assert_eq!(shell.advance(1), [Output::Transmit(Transmit::Status)]);
    assert_eq!(shell.handle(Input::Ping), [Output::Transmit(Transmit::Status)]);
}

#[test]
fn a_transport_that_takes_nothing_gets_no_more_than_its_slots() {
    let mut shell = Shell::new(config(|_| ()));
    shell.drain();
    shell.handle(Input::LinkOpened);
    shell.handle(Input::LinkWelcomed {
        acknowledged: None,
        heartbeat: None,
        credit: Credit::Unlimited,
    });
    let mut given = 1;
    for cpu in 0..100 {
        given += shell.snapshot(cpu).iter().filter(|o| matches!(o, Output::Transmit(_))).count();
    }
    assert_eq!(given, usize::from(crate::limits::TRANSMIT_SLOTS));
}

/// What can happen, for long random runs.
#[derive(Clone, Debug)]
enum Step {
    Advance(u64),
    Snapshots(u16, i64),
    Open,
    Plain,
    Welcome,
    Close,
    TakeAll,
    AcknowledgeSent,
    AcknowledgeAny(u64),
    Command(u8, u8),
    Configure(u8),
    Shutdown,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        6 => (0..20_000u64).prop_map(Step::Advance),
        6 => (1..400u16, any::<i64>()).prop_map(|(n, cpu)| Step::Snapshots(n, cpu)),
        3 => Just(Step::Open),
        1 => Just(Step::Plain),
        4 => Just(Step::Welcome),
        2 => Just(Step::Close),
        6 => Just(Step::TakeAll),
        6 => Just(Step::AcknowledgeSent),
        1 => any::<u64>().prop_map(Step::AcknowledgeAny),
        3 => (0..6u8, 0..100u8).prop_map(|(action, id)| Step::Command(action, id)),
        2 => any::<u8>().prop_map(Step::Configure),
        1 => Just(Step::Shutdown),
    ];
    prop::collection::vec(step, 1..300)
}

/// A configuration with any chain of distinct plugins, picked by `bits`.
fn any_config(bits: u8) -> Config {
    config(|s| {
        let kinds = PluginKind::BUILT_IN.into_iter().enumerate();
        s.plugins = kinds.filter(|(index, _)| bits & (1 << index) != 0).map(|(_, k)| k).collect();
        if bits & 16 != 0 {
            s.plugins.reverse();
        }
        s.window = if bits & 32 == 0 {
            WindowEnd::Snapshots(u16::from(bits >> 6) + 1)
        } else {
            WindowEnd::Duration(Duration::from_secs(u64::from(bits >> 6) * 10 + 1))
        };
        s.filter.min_cpu = 100;
        if bits & 64 != 0 {
            s.metrics.remove(Metric::CpuPercent);
        }
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 100, ..ProptestConfig::default() })]

    #[test]
    fn the_books_balance_whatever_happens(steps in steps()) {
        let mut shell = Shell::new(any_config(0));
        let mut in_transport = Vec::new();
        let mut sent_through = 0;
        for step in steps {
            let outputs = match step {
                Step::Advance(ms) => shell.advance(ms),
                Step::Snapshots(count, cpu) => {
                    (0..count).flat_map(|n| shell.snapshot(cpu.wrapping_add(i64::from(n)))).collect()
                }
                Step::Open => shell.handle(Input::LinkOpened),
                Step::Plain => shell.handle(Input::LinkPlain),
                Step::Welcome => {
                    let acknowledged = Sequence::new(sent_through);
                    shell.handle(Input::LinkWelcomed { acknowledged, heartbeat: None, credit: Credit::Unlimited })
                }
                Step::Close => {
                    in_transport.clear();
                    shell.handle(Input::LinkClosed)
                }
                Step::TakeAll => {
                    let taken = core::mem::take(&mut in_transport);
                    taken.into_iter().flat_map(|t| shell.handle(Input::Transmitted(t))).collect()
                }
                Step::AcknowledgeSent => match Sequence::new(sent_through) {
                    Some(through) => shell.handle(Input::Acknowledged { boot: BOOT, through }),
                    None => Vec::new(),
                },
                Step::AcknowledgeAny(through) => match Sequence::new(through) {
                    Some(through) => shell.handle(Input::Acknowledged { boot: BOOT, through }),
                    None => Vec::new(),
                },
                Step::Command(action, id) => {
                    let action = match action {
                        0 => Action::Status,
                        1 => Action::Stop,
                        2 => Action::Start,
                        3 => Action::UpdateConfig(Ok(any_config(id))),
                        4 => Action::UpdateConfig(Err(Reason::default())),
                        _ => Action::Unknown,
                    };
                    let id = Some(std::format!("c{id}").parse().unwrap());
                    let time_to_live = Duration::from_secs(5);
                    shell.handle(Input::Command(Command { id, action, time_to_live }))
                }
                Step::Configure(bits) => shell.handle(Input::Configure {
                    revision: ConfigRevision(u64::from(bits)),
                    config: Ok(any_config(bits)),
                }),
                Step::Shutdown => shell.handle(Input::Shutdown),
            };
            for output in outputs {
                let Output::Transmit(transmit) = output else { continue };
                if let Transmit::Batch(batch) | Transmit::Plain(batch) = transmit {
                    prop_assert!(batch.first.count_until(batch.end) <= BATCH_RECORDS_MAX);
                    sent_through = sent_through.max(batch.end.number() - 1);
                }
                in_transport.push(transmit);
            }
            let ledger = shell.agent.ledger();
            prop_assert!(ledger.balances(), "{:?}", ledger);
        }
    }

}

proptest! {
    #![proptest_config(ProptestConfig { cases: 32, ..ProptestConfig::default() })]

    #[test]
    fn every_record_and_alert_arrives_or_is_declared_lost(
        steps in prop::collection::vec(exchange(), 500..3000),
    ) {
        let mut shell = Shell::<SMALL>::with_ring(any_config(0b10));
        let mut server = Server::default();
        for step in steps {
            let outputs = match step {
                Exchange::Snapshots(count, cpu) => {
                    (0..count).flat_map(|n| shell.snapshot(cpu + i64::from(n % 3) * 4000)).collect()
                }
                Exchange::Advance(ms) => shell.advance(ms),
                Exchange::Connect => {
                    shell.handle(Input::LinkOpened);
                    let acknowledged = Sequence::new(server.samples.durable);
                    shell.handle(Input::LinkWelcomed { acknowledged, heartbeat: None, credit: Credit::Unlimited })
                }
                Exchange::Close => {
                    server.forget_what_is_on_its_way();
                    shell.handle(Input::LinkClosed)
                }
                Exchange::Receive(count) => server.receive(&mut shell, usize::from(count)),
                Exchange::Acknowledge => server.acknowledge(&mut shell),
                Exchange::Defer(count) => {
                    let ends = |number: u64| Sequence::new(number + u64::from(count));
                    let records = shell.agent.held_records().next();
                    let alerts = shell.agent.held_alerts().next();
                    shell.handle(Input::Deferred {
                        records: records.and_then(|(number, _)| ends(number.number() - 1)),
                        alerts: alerts.and_then(|(number, _)| ends(number.number() - 1)),
                    })
                }
                Exchange::Bring => {
                    let ledger = shell.agent.ledger();
                    for (lane, count) in
                        [(Lane::Records, ledger.spooled), (Lane::Alerts, ledger.alerts.spooled)]
                    {
                        let lost = count / 3;
                        let reason = LossReason::SpoolFull;
                        shell.handle(Input::SpoolLost { lane, reason, count: lost });
                        let count = count - lost;
                        shell.handle(Input::SpoolDelivered { lane, count });
                        match lane {
                            Lane::Records => server.samples.brought += count,
                            Lane::Alerts => server.alerts.brought += count,
                        }
                    }
                    Vec::new()
                }
                Exchange::Configure(bits) => {
                    shell.command("c", Action::UpdateConfig(Ok(any_config(bits | 0b10))))
                }
            };
            server.take(&outputs);
            let ledger = shell.agent.ledger();
            prop_assert!(ledger.balances(), "{:?}", ledger);
            server.check(&shell.agent);
        }
    }
}

/// What can happen between an agent and a server that speaks the full form.
#[derive(Clone, Debug)]
enum Exchange {
    Snapshots(u8, i64),
    Advance(u64),
    Connect,
    Close,
    Receive(u8),
    Acknowledge,
    Defer(u8),
    Bring,
    Configure(u8),
}

fn exchange() -> impl Strategy<Value = Exchange> {
    prop_oneof![
        6 => (1..30_u8, 0..9_000_i64).prop_map(|(n, cpu)| Exchange::Snapshots(n, cpu)),
        2 => (0..40_000_u64).prop_map(Exchange::Advance),
        2 => Just(Exchange::Connect),
        1 => Just(Exchange::Close),
        6 => (1..9_u8).prop_map(Exchange::Receive),
        5 => Just(Exchange::Acknowledge),
        2 => (1..9_u8).prop_map(Exchange::Defer),
        1 => Just(Exchange::Bring),
        1 => any::<u8>().prop_map(Exchange::Configure),
    ]
}

/// What a server knows of one numbered kind of record.
#[derive(Debug, Default)]
struct Received {
    // Every number up to this one was received, or declared lost.
    durable: u64,
    records: u64,
    declared: u64,
    deferred: u64,
    // By the spool.
    brought: u64,
}

impl Received {
    /// Takes a batch in; as on a real stream they come in order, and what came before may come again.
    fn take(&mut self, batch: &Batch) {
        let loss = batch.loss.map(|loss| {
            let count = loss.first.count_until(loss.last.next());
            assert_eq!(count, loss.never_sent + loss.unacknowledged);
            (loss.first.number(), loss.last.number(), true)
        });
        let deferred = batch.deferred.map(|d| (d.first.number(), d.last.number(), false));
        let mut gaps: Vec<_> = loss.into_iter().chain(deferred).collect();
        gaps.sort_unstable();
        for (first, last, is_loss) in gaps {
            assert!(first <= self.durable + 1, "a gap before {first} to {last}");
            let news = last.saturating_sub(self.durable.max(first - 1));
            *(if is_loss { &mut self.declared } else { &mut self.deferred }) += news;
            self.durable = self.durable.max(last);
        }
        if batch.first == batch.end {
            return;
        }
        let (first, end) = (batch.first.number(), batch.end.number());
        assert!(first <= self.durable + 1, "a gap of {} before {first}", first - self.durable - 1);
        self.records += (end - 1).saturating_sub(self.durable);
        self.durable = self.durable.max(end - 1);
    }

    fn check(&self, recorded: u64, delivered: u64, lost: u64) {
        assert_eq!(self.durable, self.records + self.declared + self.deferred);
        assert!(self.durable <= recorded);
        // The agent never believes that more arrived than did.
        let arrived = self.records + self.brought;
        assert!(delivered <= arrived, "{delivered} delivered of {arrived}");
        assert!(lost <= recorded - delivered);
    }
}

#[derive(Debug, Default)]
struct Server {
    on_its_way: std::collections::VecDeque<Transmit>,
    samples: Received,
    alerts: Received,
    brought_in_turn: u64,
}

impl Server {
    fn take(&mut self, outputs: &[Output]) {
        for output in outputs {
            if let Output::Transmit(transmit) = output {
                self.on_its_way.push_back(*transmit);
            }
        }
    }

    fn forget_what_is_on_its_way(&mut self) {
        self.on_its_way.clear();
    }

    fn receive(&mut self, shell: &mut Shell<SMALL>, count: usize) -> Vec<Output> {
        let mut outputs = Vec::new();
        for _ in 0..count {
            let Some(transmit) = self.on_its_way.pop_front() else { break };
            match transmit {
                Transmit::Batch(batch) => self.samples.take(&batch),
                Transmit::Alerts(batch) => self.alerts.take(&batch),
                Transmit::Plain(_) => panic!("the server speaks the full form"),
                Transmit::Replay => self.brought_in_turn += 1,
                Transmit::Answer(_)
                | Transmit::Begun(_)
                | Transmit::ConfigReport
                | Transmit::Status => {}
            }
            outputs.extend(shell.handle(Input::Transmitted(transmit)));
        }
        outputs
    }

    fn acknowledge(&self, shell: &mut Shell<SMALL>) -> Vec<Output> {
        let mut outputs = Vec::new();
        if let Some(through) = Sequence::new(self.samples.durable) {
            outputs.extend(shell.handle(Input::Acknowledged { boot: BOOT, through }));
        }
        if let Some(through) = Sequence::new(self.alerts.durable) {
            outputs.extend(shell.handle(Input::AlertsAcknowledged { boot: BOOT, through }));
        }
        outputs
    }

    fn check(&self, agent: &Agent<SMALL>) {
        let ledger = agent.ledger();
        self.samples.check(ledger.recorded, ledger.delivered, ledger.lost.total());
        let alerts = ledger.alerts;
        self.alerts.check(alerts.recorded, alerts.delivered, alerts.lost.total());
    }
}

#[test]
fn samples_never_displace_an_alert() {
    let mut shell = Shell::<SMALL>::with_ring(config(|_| ()));
    shell.snapshot(9000);
    for _ in 0..1000 {
        shell.snapshot(9000);
    }
    let ledger = shell.agent.ledger();
    assert!(ledger.lost.by(LossReason::Overwritten) > 800);
    assert_eq!((ledger.alerts.recorded, ledger.alerts.held), (1, 1));
    let outputs = shell.connect();
    let mut alerts = outputs.iter().filter_map(|output| match output {
        Output::Transmit(Transmit::Alerts(batch)) => Some(*batch),
        _ => None,
    });
    let batch = alerts.next_back().unwrap();
    let (number, alert) = shell.agent.alerts(&batch).next().unwrap();
    assert_eq!((number, alert.metric, alert.value), (sequence(1), Metric::CpuPercent, 9000));
    shell.handle(Input::AlertsAcknowledged { boot: BOOT, through: sequence(1) });
    assert_eq!(shell.agent.ledger().alerts.delivered, 1);
}

#[test]
fn an_alert_waits_for_a_server_that_knows_alerts() {
    let mut shell = Shell::new(config(|_| ()));
    shell.drain();
    shell.snapshot(9000);
    shell.handle(Input::LinkOpened);
    let outputs = shell.advance(SECOND);
    assert!(!outputs.iter().any(|o| matches!(o, Output::Transmit(Transmit::Alerts(_)))));
    shell.handle(Input::LinkClosed);
    let outputs = shell.connect();
    assert!(outputs.iter().any(|o| matches!(o, Output::Transmit(Transmit::Alerts(_)))));
}

#[test]
fn on_a_one_way_link_alerts_go_first() {
    let mut shell = Shell::new(config(|_| ()));
    shell.snapshot(9000);
    let outputs = shell.handle(Input::LinkOneWay);
    assert!(matches!(outputs[0], Output::Transmit(Transmit::Alerts(_))));
    shell.take(outputs);
    let ledger = shell.agent.ledger();
    assert_eq!((ledger.delivered, ledger.alerts.delivered), (1, 1));
}

#[test]
fn alerts_that_a_one_way_link_was_handed_are_not_lost_at_the_end() {
    let mut shell = Shell::new(config(|_| ()));
    shell.snapshot(9000);
    shell.handle(Input::LinkOneWay);
    let outputs = shell.handle(Input::Shutdown);
    assert!(outputs.contains(&Output::Exit), "{outputs:?}");
    let ledger = shell.agent.ledger();
    assert_eq!((ledger.delivered, ledger.lost.total()), (1, 0));
    assert_eq!((ledger.alerts.delivered, ledger.alerts.lost.total()), (1, 0));
}

#[test]
fn the_fill_of_its_buffer_is_a_metric() {
    let mut shell = Shell::new(config(|s| s.metrics.insert(Metric::AgentBuffer)));
    for _ in 0..100 {
        shell.snapshot(1);
    }
    let all = Batch { first: sequence(1), end: sequence(101), loss: None, deferred: None };
    let fills = shell.agent.records(&all).map(|(_, s)| s.snapshot.values.get(Metric::AgentBuffer));
    let fills = fills.collect::<Vec<_>>();
    assert_eq!(fills[0], Some(0));
    assert!(fills[99] > Some(0), "{fills:?}");
}

#[test]
fn a_plugin_that_was_not_built_in_is_refused() {
    let mut shell = Shell::new(config(|_| ()));
    shell.connect();
    let own = PluginKind::Own(crate::plugin::OwnIndex::FIRST);
    let config = config(|s| s.plugins.push(own).unwrap());
    let outputs = shell.command("c", Action::UpdateConfig(Ok(config)));
    assert!(matches!(shell.answers(&outputs)[0], Answer::ConfigRejected(_)));
}

#[test]
fn a_command_begins_once_it_is_durable_that_it_does() {
    let mut shell = Shell::new(config(|_| ()));
    shell.connect();
    let send = |shell: &mut Shell, id: &str, action| {
        let id = Some(id.parse().unwrap());
        let command = Command { id, action, time_to_live: Duration::from_secs(30) };
        shell.agent.handle(shell.now(), Input::Command(command));
    };
    send(&mut shell, "s", Action::Stop);
    assert_eq!(shell.agent.poll(shell.now()), Output::Remember);
    assert_eq!(shell.agent.status(shell.now()).state, RunState::Running);
    assert!(shell.agent.is_to_stay_stopped());
    let intents = shell.agent.intents(shell.now()).map(|intent| intent.kind).collect::<Vec<_>>();
    assert_eq!(intents, [Kind::Stop]);
    // Another one that must not run twice has to wait for its turn; the same one waits already.
    send(&mut shell, "t", Action::Start);
    send(&mut shell, "s", Action::Stop);
    shell.agent.handle(shell.now(), Input::Remembered(Ok(())));
    let outputs = shell.drain();
    assert_eq!(shell.agent.status(shell.now()).state, RunState::Stopped);
    assert_eq!(shell.answers(&outputs).len(), 2);
    assert!(shell.answers(&outputs).contains(&Answer::Stopped(Change::Done)));
    assert!(shell.answers(&outputs).contains(&Answer::Busy));

    send(&mut shell, "r", Action::Restart);
    assert_eq!(shell.agent.poll(shell.now()), Output::Remember);
    let reason = Reason::from("no space left on device");
    let outputs = shell.handle(Input::Remembered(Err(reason.clone())));
    assert_eq!(shell.answers(&outputs), [Answer::NotRecorded(reason)]);
    assert!(!outputs.contains(&Output::Restart));
    assert!(shell.agent.intents(shell.now()).all(|intent| intent.kind != Kind::Restart));
}

#[test]
fn a_command_that_the_shell_refuses_does_nothing_and_may_come_again() {
    let mut shell = Shell::new(config(|_| ()));
    shell.connect();
    let reason = Reason::from("agent.toml:1: it must be a number");
    let outputs = shell.command("r", Action::Refused(reason.clone()));
    assert_eq!(shell.answers(&outputs), [Answer::Refused(reason.clone())]);
    assert!(!outputs.contains(&Output::Remember) && !outputs.contains(&Output::Restart));
    assert!(shell.agent.intents(shell.now()).next().is_none());
    assert_eq!(shell.agent.status(shell.now()).state, RunState::Running);
    // One that has begun is not refused afterwards: what comes again is told what became of it.
    shell.command("s", Action::Restart);
    assert_eq!(shell.agent.restart_command().unwrap().as_str(), "s");
    let outputs = shell.command("s", Action::Refused(reason));
    assert!(shell.answers(&outputs).is_empty(), "{outputs:?}");
}

#[test]
fn the_server_hears_that_a_restart_has_begun_before_it_does() {
    let mut shell = Shell::new(config(|_| ()));
    shell.connect();
    let outputs = shell.command("r", Action::Restart);
    let begun = outputs.iter().position(|o| matches!(o, Output::Transmit(Transmit::Begun(_))));
    let restart = outputs.iter().position(|output| *output == Output::Restart);
    assert!(begun.is_some() && begun < restart, "{outputs:?}");
}

#[test]
fn status_is_answered_while_the_collector_is_stuck() {
    let mut shell = Shell::new(config(|_| ()));
    shell.connect();
    // The snapshot that was asked for at the start never comes.
    for _ in 0..10 {
        let outputs = shell.advance(5 * SECOND);
        assert!(!outputs.iter().any(|output| matches!(output, Output::Collect(_))));
    }
    let outputs = shell.command("s", Action::Status);
    assert_eq!(shell.answers(&outputs), [Answer::Status], "at the time at which it came");
    let outputs = shell.command("p", Action::Stop);
    assert_eq!(shell.answers(&outputs), [Answer::Stopped(Change::Done)]);
}

#[test]
fn live_records_and_the_spool_take_turns() {
    let mut shell = Shell::new(config(|_| ()));
    let transmits = |outputs: Vec<Output>| -> Vec<Transmit> {
        let transmits = outputs.into_iter().filter_map(|output| match output {
            Output::Transmit(transmit @ (Transmit::Batch(_) | Transmit::Replay)) => Some(transmit),
            _ => None,
        });
        transmits.collect()
    };
    for _ in 0..200 {
        shell.snapshot(1);
    }
    shell.handle(Input::SpoolChanged { is_writable: true, has_batch: true });
    let first = transmits(shell.connect());
    let is_replay = |transmit: &Transmit| *transmit == Transmit::Replay;
    let turns = first.iter().map(is_replay).collect::<Vec<_>>();
    assert!(turns.starts_with(&[false, true, false, true]), "{turns:?}");
    assert_eq!(turns.iter().filter(|replay| **replay).count(), 2, "at most two are on their way");
    // One more for each that is acknowledged, also when nothing else is to be sent.
    for transmit in first {
        shell.handle(Input::Transmitted(transmit));
    }
    shell.handle(Input::Acknowledged { boot: BOOT, through: sequence(200) });
    assert_eq!(transmits(shell.handle(Input::Replayed)), [Transmit::Replay]);
}

#[test]
fn what_is_held_at_the_end_goes_into_the_spool() {
    for is_connected in [false, true] {
        let mut shell = Shell::new(config(|_| ()));
        shell.snapshot(9000);
        shell.handle(Input::SpoolChanged { is_writable: true, has_batch: false });
        if is_connected {
            shell.connect();
        } else {
            shell.handle(Input::LinkClosed);
        }
        shell.agent.handle(shell.now(), Input::Shutdown);
        if is_connected {
            assert!(!shell.drain().contains(&Output::Spool), "the server may yet answer");
            shell.now_ms += u64::try_from(DRAIN_MAX.as_millis()).unwrap();
        }
        while shell.agent.poll(shell.now()) != Output::Spool {}
        assert_eq!(shell.agent.held_records().count(), 1);
        let through = Some(sequence(1));
        let outputs = shell.handle(Input::Deferred { records: through, alerts: through });
        assert!(outputs.contains(&Output::Exit), "{outputs:?}");
        let ledger = shell.agent.ledger();
        assert_eq!((ledger.spooled, ledger.alerts.spooled, ledger.lost.total()), (1, 1, 0));
    }
}

#[test]
fn what_a_shutdown_gives_up_is_declared_while_somebody_hears_it() {
    let mut shell = Shell::new(config(|_| ()));
    shell.snapshot(1);
    shell.connect();
    shell.handle(Input::Shutdown);
    let outputs = shell.advance(u64::try_from(DRAIN_MAX.as_millis()).unwrap());
    let declared = outputs.iter().find_map(|output| match output {
        Output::Transmit(Transmit::Batch(batch)) => batch.loss,
        _ => None,
    });
    let declared = declared.unwrap();
    assert_eq!((declared.reason, declared.unacknowledged), (LossReason::Shutdown, 1));
    assert!(outputs.contains(&Output::Exit));
    assert_eq!(shell.agent.unsettled_records().collect::<Vec<_>>(), [declared]);
}
