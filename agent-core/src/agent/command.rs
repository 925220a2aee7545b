//! Commands: what can be asked of an agent, what it answers, and the table that lets none run twice.

use core::time::Duration;

use heapless::{String, Vec};

use crate::config::Config;
use crate::id::{BootId, CommandId};
use crate::limits::REASON_BYTES_MAX;
use crate::time::Instant;

/// A short text for people that travels through the core; cut at a character when it is too long.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Reason(String<REASON_BYTES_MAX>);

impl Reason {
    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl From<&str> for Reason {
    fn from(text: &str) -> Self {
        let mut reason = String::new();
        // Stops at the first character that does not fit.
        text.chars().try_for_each(|character| reason.push(character)).ok();
        Self(reason)
    }
}

/// A command as the shell hands it in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Command {
    /// Its name; a plain server may send none, then it cannot be answered or told from its own repetition.
    pub id: Option<CommandId>,
    /// What is asked.
    pub action: Action,
    /// How long it may still wait before it starts.
    pub time_to_live: Duration,
}

/// What a command asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(clippy::large_enum_variant, reason = "the core does not allocate, and commands are rare")]
pub enum Action {
    /// Report state, configuration and books.
    Status,
    /// Stop collecting.
    Stop,
    /// Collect again.
    Start,
    /// Use this configuration; or the reason why the shell could not read it.
    UpdateConfig(Result<Config, Reason>),
    /// Restart the process.
    Restart,
    /// The shell does not know this command.
    Unknown,
}

impl Action {
    /// Whether running it twice does the same as running it once.
    pub(crate) const fn repetition(&self) -> Repetition {
        match self {
            Self::Status | Self::Unknown => Repetition::Harmless,
            Self::Stop | Self::Start | Self::UpdateConfig(_) | Self::Restart => Repetition::Harmful,
        }
    }

    /// The name of the command.
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Status => "STATUS",
            Self::Stop => "STOP",
            Self::Start => "START",
            Self::UpdateConfig(_) => "UPDATE_CONFIG",
            Self::Restart => "RESTART",
            Self::Unknown => "unknown",
        }
    }
}

/// What became of a command.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// The status is to be sent along.
    Status,
    /// Collecting has stopped.
    Stopped(Change),
    /// Collecting has started.
    Started(Change),
    /// The configuration is in force.
    ConfigApplied,
    /// The configuration was not valid; nothing changed.
    ConfigRejected(Reason),
    /// This boot is the restart of `previous`.
    Restarted {
        /// The boot that took the command.
        previous: BootId,
    },
    /// The process could not be restarted; it goes on.
    RestartFailed(Reason),
    /// Not started: it came too late.
    Expired,
    /// Not started: too many commands are remembered.
    Busy,
    /// Not started: the process is shutting down.
    ShuttingDown,
    /// Not started: not a command of this agent.
    Unknown,
}

/// Whether a command changed anything.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// It did.
    Done,
    /// It was so before.
    AlreadySo,
}

/// Where an answer stands; good until the next input.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CommandSlot(Place);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    Entry(usize),
    /// The refusal that was given out last.
    Refusal,
}

/// What to do with a command that has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Admission {
    /// Run it and record the answer here.
    Run(CommandSlot),
    /// It is running, or its answer is on its way again: do nothing.
    Repeat,
    /// Nothing can be remembered now, so it must not run; the table answers it.
    Busy,
}

/// Whether running a command twice does the same as running it once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Repetition {
    /// It does: once its answer is acknowledged it need not be remembered.
    Harmless,
    /// It does not.
    Harmful,
}

#[derive(Clone, Debug)]
struct Entry {
    id: CommandId,
    progress: Progress,
    repetition: Repetition,
    // After this no server sends the command again.
    forget_after: Instant,
}

#[derive(Clone, Debug)]
#[expect(clippy::large_enum_variant, reason = "the core does not allocate")]
enum Progress {
    Running,
    Answered { answer: Answer, delivery: Delivery },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Delivery {
    Due,
    Sent,
    Acknowledged,
}

/// How long after the end of its life a command may still come again over another path.
const GRACE: Duration = Duration::from_secs(60);

/// Refusals that can wait for the transport, or for their acknowledgement.
const REFUSALS_MAX: usize = 8;

/// A command that was answered [`Answer::Busy`] and is not remembered. It may come again and be admitted then, so the
/// acknowledgements of the two answers must be told apart: an acknowledgement says no more than the id.
#[derive(Clone, Debug)]
struct Refusal {
    id: CommandId,
    is_sent: bool,
}

/// The commands of this boot that could still come again, and their answers until they are acknowledged.
///
/// Policy when full: an acknowledged answer past its time gives way; if there is none, the new command is refused
/// rather than run unrecorded. `N` is how many commands it remembers; with 0 every command is refused.
#[derive(Clone, Debug, Default)]
pub(crate) struct CommandTable<const N: usize> {
    entries: Vec<Entry, N>,
    // In the order in which they came; at most one for each id.
    refusals: Vec<Refusal, REFUSALS_MAX>,
    refused: Option<CommandId>,
}

impl<const N: usize> CommandTable<N> {
    pub(crate) fn admit(
        &mut self,
        now: Instant,
        id: &CommandId,
        repetition: Repetition,
        life: Duration,
    ) -> Admission {
        if let Some(entry) = self.entries.iter_mut().find(|entry| entry.id == *id) {
            // Whoever asks again has not seen the answer, unless it is on its way up this very stream.
            if let Progress::Answered { delivery: delivery @ Delivery::Acknowledged, .. } =
                &mut entry.progress
            {
                *delivery = Delivery::Due;
            }
            return Admission::Repeat;
        }
        let forget_after = now + life + GRACE;
        let entry = Entry { id: id.clone(), progress: Progress::Running, repetition, forget_after };
        if self.entries.is_full() {
            let Some(index) = self.entries.iter().position(|entry| entry.is_forgettable(now))
            else {
                if !self.refusals.iter().any(|refusal| refusal.id == *id) {
                    // When there is no room for it, the server answers once the time of the command is up.
                    self.refusals.push(Refusal { id: id.clone(), is_sent: false }).ok();
                }
                return Admission::Busy;
            };
            self.entries.swap_remove(index);
        }
        // It runs after all.
        self.refusals.retain(|refusal| refusal.is_sent || refusal.id != *id);
        // There is room: either there was, or one entry has just left.
        self.entries.push(entry).ok();
        Admission::Run(CommandSlot(Place::Entry(self.entries.len() - 1)))
    }

    pub(crate) fn answer(&mut self, slot: CommandSlot, answer: Answer) {
        if let Place::Entry(index) = slot.0
            && let Some(entry) = self.entries.get_mut(index)
        {
            entry.progress = Progress::Answered { answer, delivery: Delivery::Due };
        }
    }

    /// Answers the one command that runs longer than one input, if there is one.
    pub(crate) fn answer_running(&mut self, answer: Answer) {
        let running = |entry: &Entry| matches!(entry.progress, Progress::Running);
        if let Some(index) = self.entries.iter().position(running) {
            self.answer(CommandSlot(Place::Entry(index)), answer);
        }
    }

    pub(crate) fn running(&self) -> Option<&CommandId> {
        let running = |entry: &&Entry| matches!(entry.progress, Progress::Running);
        self.entries.iter().find(running).map(|entry| &entry.id)
    }

    /// The next answer to put on the stream, which then counts as sent.
    pub(crate) fn poll_due(&mut self) -> Option<CommandSlot> {
        if let Some(refusal) = self.refusals.iter_mut().find(|refusal| !refusal.is_sent) {
            refusal.is_sent = true;
            self.refused = Some(refusal.id.clone());
            return Some(CommandSlot(Place::Refusal));
        }
        let (index, delivery) =
            self.entries.iter_mut().enumerate().find_map(|(index, entry)| {
                let delivery = entry.delivery_mut()?;
                (*delivery == Delivery::Due).then_some((index, delivery))
            })?;
        *delivery = Delivery::Sent;
        Some(CommandSlot(Place::Entry(index)))
    }

    pub(crate) fn get(&self, slot: CommandSlot) -> Option<(&CommandId, &Answer)> {
        match slot.0 {
            Place::Refusal => self.refused.as_ref().map(|id| (id, &Answer::Busy)),
            Place::Entry(index) => {
                self.entries.get(index).and_then(|entry| match &entry.progress {
                    Progress::Answered { answer, .. } => Some((&entry.id, answer)),
                    Progress::Running => None,
                })
            }
        }
    }

    /// The server has an answer to `id`. On one stream it acknowledges answers in the order in which they were sent, so
    /// what is meant is a refusal if one is on its way.
    pub(crate) fn acknowledge(&mut self, id: &CommandId) {
        let refusal = self.refusals.iter().position(|refusal| refusal.is_sent && refusal.id == *id);
        if let Some(index) = refusal {
            self.refusals.remove(index);
            return;
        }
        let named = self.entries.iter_mut().find(|entry| entry.id == *id);
        if let Some(Entry { progress: Progress::Answered { delivery, .. }, .. }) = named {
            *delivery = Delivery::Acknowledged;
        }
    }

    /// A new stream: what was sent on the old one without an acknowledgement is due again.
    pub(crate) fn resend(&mut self) {
        // A command that was refused without the server hearing of it comes again.
        self.refusals.retain(|refusal| !refusal.is_sent);
        for entry in &mut self.entries {
            if let Progress::Answered { delivery: delivery @ Delivery::Sent, .. } =
                &mut entry.progress
            {
                *delivery = Delivery::Due;
            }
        }
    }

    /// Whether an answer is still without an acknowledgement.
    pub(crate) fn has_unacknowledged(&self) -> bool {
        self.entries.iter().any(|entry| {
            matches!(&entry.progress, Progress::Answered { delivery, .. }
                if *delivery != Delivery::Acknowledged)
        })
    }
}

impl Entry {
    /// How far its answer has come; none while it runs.
    const fn delivery_mut(&mut self) -> Option<&mut Delivery> {
        match &mut self.progress {
            Progress::Answered { delivery, .. } => Some(delivery),
            Progress::Running => None,
        }
    }

    fn is_forgettable(&self, now: Instant) -> bool {
        let acknowledged =
            matches!(self.progress, Progress::Answered { delivery: Delivery::Acknowledged, .. });
        acknowledged && (self.repetition == Repetition::Harmless || self.forget_after < now)
    }
}

#[cfg(test)]
mod tests {
    use std::format;

    use super::*;
    use crate::limits::COMMANDS_MAX;

    type CommandTable = super::CommandTable<COMMANDS_MAX>;

    const LIFE: Duration = Duration::from_secs(30);

    fn id(number: usize) -> CommandId {
        format!("c{number}").parse().unwrap()
    }

    fn run(table: &mut CommandTable, at_ms: u64, number: usize) -> CommandSlot {
        match table.admit(Instant::from_ms(at_ms), &id(number), Repetition::Harmful, LIFE) {
            Admission::Run(slot) => slot,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_command_runs_once_and_its_answer_is_given_again() {
        let mut table = CommandTable::default();
        let slot = run(&mut table, 0, 1);
        assert_eq!(
            table.admit(Instant::from_ms(1), &id(1), Repetition::Harmful, LIFE),
            Admission::Repeat
        );
        table.answer(slot, Answer::Stopped(Change::Done));
        let slot = table.poll_due().unwrap();
        assert_eq!(table.get(slot), Some((&id(1), &Answer::Stopped(Change::Done))));
        assert_eq!(
            table.admit(Instant::from_ms(2), &id(1), Repetition::Harmful, LIFE),
            Admission::Repeat
        );
        assert_eq!(table.poll_due(), None, "it is on its way");
        table.acknowledge(&id(1));
        assert_eq!(
            table.admit(Instant::from_ms(3), &id(1), Repetition::Harmful, LIFE),
            Admission::Repeat
        );
        assert!(table.poll_due().is_some());
    }

    #[test]
    fn an_answer_is_resent_on_a_new_stream_until_acknowledged() {
        let mut table = CommandTable::default();
        let slot = run(&mut table, 0, 1);
        table.answer(slot, Answer::Status);
        assert!(table.poll_due().is_some());
        table.resend();
        assert!(table.poll_due().is_some());
        assert!(table.has_unacknowledged());
        table.acknowledge(&id(1));
        table.resend();
        assert_eq!(table.poll_due(), None);
        assert!(!table.has_unacknowledged());
    }

    #[test]
    fn a_full_table_refuses_rather_than_forget_what_could_come_again() {
        let mut table = CommandTable::default();
        for number in 0..COMMANDS_MAX {
            let slot = run(&mut table, 0, number);
            table.answer(slot, Answer::Status);
            table.acknowledge(&id(number));
        }
        let soon = Instant::from_ms(90_000);
        assert_eq!(table.admit(soon, &id(999), Repetition::Harmful, LIFE), Admission::Busy);
        let refusal = table.poll_due().unwrap();
        assert_eq!(table.get(refusal), Some((&id(999), &Answer::Busy)));
        assert_eq!(table.poll_due(), None);
        run(&mut table, 90_001, 999);
    }

    /// A full table that has just refused command 999, at the time at which the others may be forgotten.
    fn refusing() -> (CommandTable, Instant) {
        let mut table = CommandTable::default();
        for number in 0..COMMANDS_MAX {
            let slot = run(&mut table, 0, number);
            table.answer(slot, Answer::Status);
            table.poll_due();
            table.acknowledge(&id(number));
        }
        let full = Instant::from_ms(90_000);
        assert_eq!(table.admit(full, &id(999), Repetition::Harmful, LIFE), Admission::Busy);
        (table, Instant::from_ms(90_001))
    }

    #[test]
    fn the_acknowledgement_of_a_refusal_is_not_taken_for_that_of_the_answer() {
        let (mut table, later) = refusing();
        assert!(table.poll_due().is_some(), "the refusal is on its way");
        let slot = run(&mut table, later.as_ms(), 999);
        table.answer(slot, Answer::Stopped(Change::Done));
        table.acknowledge(&id(999));
        let slot = table.poll_due().unwrap();
        assert_eq!(table.get(slot), Some((&id(999), &Answer::Stopped(Change::Done))));
        table.acknowledge(&id(999));
        assert!(!table.has_unacknowledged());
    }

    #[test]
    fn a_command_that_runs_after_all_is_not_refused_any_more() {
        let (mut table, later) = refusing();
        let slot = run(&mut table, later.as_ms(), 999);
        table.answer(slot, Answer::Stopped(Change::Done));
        let slot = table.poll_due().unwrap();
        assert_eq!(table.get(slot), Some((&id(999), &Answer::Stopped(Change::Done))));
        assert_eq!(table.poll_due(), None);
    }

    #[test]
    fn the_acknowledgement_of_a_refusal_does_not_come_on_another_stream() {
        let (mut table, later) = refusing();
        assert!(table.poll_due().is_some());
        table.resend();
        assert_eq!(table.poll_due(), None);
        let slot = run(&mut table, later.as_ms(), 999);
        table.answer(slot, Answer::Status);
        assert!(table.poll_due().is_some());
        table.acknowledge(&id(999));
        assert!(!table.has_unacknowledged());
    }

    #[test]
    fn refusals_that_wait_are_bounded() {
        let (mut table, _) = refusing();
        let full = Instant::from_ms(90_000);
        for number in 999..2000 {
            let admission = table.admit(full, &id(number), Repetition::Harmful, LIFE);
            assert_eq!(admission, Admission::Busy);
        }
        let refused = core::iter::from_fn(|| table.poll_due()).count();
        assert_eq!(refused, REFUSALS_MAX);
    }

    #[test]
    fn harmless_commands_make_room_once_their_answers_are_acknowledged() {
        let mut table = CommandTable::default();
        for number in 0..1000 {
            let life = Duration::from_secs(86_400);
            let at = Instant::from_ms(0);
            let Admission::Run(slot) = table.admit(at, &id(number), Repetition::Harmless, life)
            else {
                panic!("{number}");
            };
            table.answer(slot, Answer::Status);
            table.acknowledge(&id(number));
        }
    }

    #[test]
    fn a_long_reason_is_cut_at_a_character() {
        let reason = Reason::from("\u{e4}".repeat(150).as_str());
        assert_eq!(reason.as_str().chars().count(), 100);
    }
}
