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
    /// The command is to another agent.
    Misdirected,
    /// What earlier boots began is not known any more, and this command may be among it.
    Unremembered,
    /// The shell has found this reason why it must not begin.
    Refused(Reason),
}

/// A command that must not run twice, by what it asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// [`Action::Stop`].
    Stop,
    /// [`Action::Start`].
    Start,
    /// [`Action::UpdateConfig`].
    UpdateConfig,
    /// [`Action::Restart`].
    Restart,
}

impl Kind {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Stop, Self::Start, Self::UpdateConfig, Self::Restart];

    /// The name of the command.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Stop => "STOP",
            Self::Start => "START",
            Self::UpdateConfig => "UPDATE_CONFIG",
            Self::Restart => "RESTART",
        }
    }
}

/// A command that was begun, or is about to be, as it must outlive the process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Intent {
    /// Its name.
    pub id: CommandId,
    /// What it asks for.
    pub kind: Kind,
    /// The boot that took it.
    pub boot: BootId,
    /// The next boot has to answer it unasked: it was to end this one.
    pub is_owed: bool,
    /// How long it may still come again.
    pub left: Duration,
}

impl Action {
    /// Whether running it twice does the same as running it once.
    pub(crate) const fn repetition(&self) -> Repetition {
        match self {
            Self::Status
            | Self::Unknown
            | Self::Misdirected
            | Self::Unremembered
            | Self::Refused(_) => Repetition::Harmless,
            Self::Stop => Repetition::Harmful(Kind::Stop),
            Self::Start => Repetition::Harmful(Kind::Start),
            Self::UpdateConfig(_) => Repetition::Harmful(Kind::UpdateConfig),
            Self::Restart => Repetition::Harmful(Kind::Restart),
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
            Self::Misdirected => "misdirected",
            Self::Unremembered => "unremembered",
            Self::Refused(_) => "refused",
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
    /// An earlier boot began it, and ended before its answer was known to be durable.
    BegunBefore {
        /// What it was.
        kind: Kind,
        /// The boot that took it.
        previous: BootId,
    },
    /// Not started: it came too late.
    Expired,
    /// Not started: too many commands are remembered.
    Busy,
    /// Not started: that it begins could not be made durable.
    NotRecorded(Reason),
    /// Not started: the process is shutting down.
    ShuttingDown,
    /// Not started: it is to another agent.
    Misdirected,
    /// Not started: an earlier boot may have begun it, and what those began is not known any more.
    Unremembered,
    /// Not started: the shell found this reason.
    Refused(Reason),
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
    /// It does not: before it begins it must be durable that it does.
    Harmful(Kind),
}

#[derive(Clone, Debug)]
struct Entry {
    id: CommandId,
    progress: Progress,
    repetition: Repetition,
    // The boot that took it.
    boot: BootId,
    // After this no server sends the command again.
    forget_after: Instant,
}

#[derive(Clone, Debug)]
#[expect(clippy::large_enum_variant, reason = "the core does not allocate")]
enum Progress {
    /// It waits until it is durable that it begins, or it runs; `notice` is whether the server is to hear of it.
    Running {
        notice: Notice,
    },
    Answered {
        answer: Answer,
        delivery: Delivery,
    },
}

/// Whether the server is told that a command has begun.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Notice {
    /// It takes no while.
    Needless,
    Due,
    /// It was, on this stream or one before it. It is not acknowledged: the answer says more.
    Given,
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
    /// A command comes to the boot `boot`.
    pub(crate) fn admit(
        &mut self,
        now: Instant,
        boot: BootId,
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
        let progress = Progress::Running { notice: Notice::Needless };
        let entry = Entry { id: id.clone(), progress, repetition, boot, forget_after };
        if self.entries.is_full() {
            let Some(index) = self.entries.iter().position(|entry| entry.is_forgettable(now))
            else {
                self.refuse(id);
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

    /// Answers [`Answer::Busy`] to a command that is not remembered.
    pub(crate) fn refuse(&mut self, id: &CommandId) {
        if !self.refusals.iter().any(|refusal| refusal.id == *id) {
            // When there is no room for it, the server answers once the time of the command is up.
            self.refusals.push(Refusal { id: id.clone(), is_sent: false }).ok();
        }
    }

    /// Whether it came before and is remembered.
    pub(crate) fn knows(&self, id: &CommandId) -> bool {
        self.entries.iter().any(|entry| entry.id == *id)
    }

    pub(crate) fn answer(&mut self, slot: CommandSlot, answer: Answer) {
        if let Place::Entry(index) = slot.0
            && let Some(entry) = self.entries.get_mut(index)
        {
            entry.progress = Progress::Answered { answer, delivery: Delivery::Due };
        }
    }

    /// Where the one command stands that runs longer than one input, if there is one.
    pub(crate) fn running_slot(&self) -> Option<CommandSlot> {
        let index = self.entries.iter().position(Entry::is_running)?;
        Some(CommandSlot(Place::Entry(index)))
    }

    pub(crate) fn running(&self) -> Option<&CommandId> {
        self.entries.iter().find(|entry| entry.is_running()).map(|entry| &entry.id)
    }

    /// The command in `slot` takes a while from now on.
    pub(crate) fn begin(&mut self, slot: CommandSlot) {
        if let Place::Entry(index) = slot.0
            && let Some(Entry { progress: Progress::Running { notice }, .. }) =
                self.entries.get_mut(index)
        {
            *notice = Notice::Due;
        }
    }

    /// The next command to tell the server of that it has begun; it then counts as told.
    pub(crate) fn poll_begun(&mut self) -> Option<CommandSlot> {
        let (index, notice) = self.entries.iter_mut().enumerate().find_map(|(index, entry)| {
            match &mut entry.progress {
                Progress::Running { notice: notice @ Notice::Due } => Some((index, notice)),
                Progress::Running { .. } | Progress::Answered { .. } => None,
            }
        })?;
        *notice = Notice::Given;
        Some(CommandSlot(Place::Entry(index)))
    }

    /// The command in `slot`, if it has begun and has no answer yet.
    pub(crate) fn begun(&self, slot: CommandSlot) -> Option<&CommandId> {
        let Place::Entry(index) = slot.0 else { return None };
        self.entries.get(index).filter(|entry| entry.is_running()).map(|entry| &entry.id)
    }

    /// What an earlier boot began: it does not run again. It is answered when it comes again, and unasked if it is owed.
    /// Commands that are known already, and more than there is room for, are left out; answers whether it was taken in.
    pub(crate) fn recall(&mut self, now: Instant, intent: Intent) -> bool {
        let Intent { id, kind, boot, is_owed, left } = intent;
        if self.entries.iter().any(|entry| entry.id == id) {
            return true;
        }
        let answer = match kind {
            Kind::Restart => Answer::Restarted { previous: boot },
            Kind::Stop | Kind::Start | Kind::UpdateConfig => {
                Answer::BegunBefore { kind, previous: boot }
            }
        };
        let delivery = if is_owed { Delivery::Due } else { Delivery::Acknowledged };
        let progress = Progress::Answered { answer, delivery };
        let repetition = Repetition::Harmful(kind);
        let entry = Entry { id, progress, repetition, boot, forget_after: now + left };
        self.entries.push(entry).is_ok()
    }

    /// What must outlive the process at `now`: every command that must not run twice and may still come.
    pub(crate) fn intents(&self, now: Instant) -> impl Iterator<Item = Intent> + '_ {
        self.entries.iter().filter_map(move |entry| {
            let Repetition::Harmful(kind) = entry.repetition else { return None };
            let left = entry.forget_after - now;
            if entry.was_refused() || left.is_zero() {
                return None;
            }
            let is_owed = entry.is_running() && kind == Kind::Restart;
            Some(Intent { id: entry.id.clone(), kind, boot: entry.boot, is_owed, left })
        })
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
                    Progress::Running { .. } => None,
                })
            }
        }
    }

    /// The server has an answer to `id`. On one stream it acknowledges answers in the order in which they were sent, so
    /// what is meant is a refusal if one is on its way. Answers whether it ends what the next boot would owe.
    pub(crate) fn acknowledge(&mut self, id: &CommandId) -> bool {
        let refusal = self.refusals.iter().position(|refusal| refusal.is_sent && refusal.id == *id);
        if let Some(index) = refusal {
            self.refusals.remove(index);
            return false;
        }
        let named = self.entries.iter_mut().find(|entry| entry.id == *id);
        let Some(Entry { progress: Progress::Answered { answer, delivery }, .. }) = named else {
            return false;
        };
        let is_first =
            core::mem::replace(delivery, Delivery::Acknowledged) != Delivery::Acknowledged;
        is_first && matches!(answer, Answer::Restarted { .. })
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

    /// Whether the server is still to hear that a command has begun.
    pub(crate) fn has_notice(&self) -> bool {
        let is_due =
            |entry: &Entry| matches!(entry.progress, Progress::Running { notice: Notice::Due });
        self.entries.iter().any(is_due)
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
            Progress::Running { .. } => None,
        }
    }

    const fn is_running(&self) -> bool {
        matches!(self.progress, Progress::Running { .. })
    }

    /// Whether it was answered without having been begun, so that another boot may take it.
    const fn was_refused(&self) -> bool {
        match &self.progress {
            Progress::Running { .. } => false,
            Progress::Answered { answer, .. } => matches!(
                answer,
                Answer::Expired
                    | Answer::Busy
                    | Answer::NotRecorded(_)
                    | Answer::ShuttingDown
                    | Answer::Unknown
                    | Answer::Misdirected
                    | Answer::Unremembered
                    | Answer::Refused(_)
            ),
        }
    }

    fn is_forgettable(&self, now: Instant) -> bool {
        let acknowledged =
            matches!(self.progress, Progress::Answered { delivery: Delivery::Acknowledged, .. });
        acknowledged && (self.repetition == Repetition::Harmless || self.forget_after < now)
    }
}

#[cfg(test)]
mod model;
#[cfg(test)]
mod tests;
