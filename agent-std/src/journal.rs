//! The file in the state directory that says which commands were begun, so that none runs twice, and whether the agent was
//! stopped.
//!
//! ```text
//! picket-agent commands 1 <checksum>
//! {"agent":"edge-01","stopped":false,"begun":[{"id":"c1","kind":"RESTART","boot":"3-00c0ffee00c0ffee","owed":true,"left_ms":90000}]}
//! ```
//!
//! It is replaced as a whole before such a command begins ([`state_file`]). Times are what is left, counted from the start
//! of the next process: the clock of the host may have been set meanwhile, and remembering a command longer harms nothing.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use agent_core::agent::{Input, Intent, Kind};
use agent_core::id::AgentId;
use agent_core::plugin::own::OwnPlugins;
use agent_core::time::Instant;
use serde::{Deserialize, Serialize};

use crate::HostAgent;
use crate::net::message;
use crate::sealed::{self, SealError};
use crate::state_file;

const FILE_NAME: &str = "commands";
const FORMAT: &str = "1";

/// As many commands as the agent remembers take about 16 KiB.
const FILE_BYTES_MAX: u64 = 64 * 1024;

/// By how much the clock of whoever issues a command may be behind that of this host.
const CLOCKS_APART_MAX: i64 = 60;

/// Why the journal is not used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum JournalError {
    #[error(transparent)]
    Seal(#[from] SealError),
    #[error("it has a content that this agent does not know")]
    Content(#[source] serde_json::Error),
    #[error("it is of the agent {agent:.63}")]
    OtherAgent { agent: String },
}

#[derive(Debug, Serialize, Deserialize)]
struct Form {
    agent: String,
    stopped: bool,
    begun: Vec<Begun>,
}

#[derive(Debug, Serialize, Deserialize)]
struct Begun {
    id: String,
    kind: String,
    boot: String,
    owed: bool,
    left_ms: u64,
}

/// Where one agent keeps what it has begun.
#[derive(Debug)]
pub(crate) struct Journal {
    /// None when there is no state directory: then nothing outlives the process.
    directory: Option<PathBuf>,
    agent: AgentId,
    /// What earlier boots began is not known: commands issued before this Unix time are refused.
    refuses_before: Option<i64>,
}

impl Journal {
    /// Opens the journal, and tells what the core has to know of it before all else. `unix_seconds` is now.
    ///
    /// One that cannot be used is told in the log. Then no command that was issued before now, or up to a minute after it,
    /// runs unless running it twice is harmless.
    pub(crate) fn open(
        directory: Option<&Path>,
        agent: AgentId,
        unix_seconds: i64,
    ) -> (Self, Vec<Input>) {
        let mut this =
            Self { directory: directory.map(Path::to_owned), agent, refuses_before: None };
        let Some(directory) = directory else {
            tracing::info!(
                "there is no state directory: a command that is under way when this process is killed may run again, and \
                 STOP ends with the process"
            );
            return (this, Vec::new());
        };
        let found = match this.read(directory) {
            Ok(found) => found,
            Err(error) => {
                let path = directory.join(FILE_NAME);
                let error = anyhow::Error::from(error);
                tracing::error!(
                    path = %path.display(),
                    "it is not known which commands were begun, nor whether a STOP holds: {error:#}; commands issued before now are \
                     refused, and metrics are collected"
                );
                this.refuses_before = Some(unix_seconds.saturating_add(CLOCKS_APART_MAX));
                None
            }
        };
        let mut inputs = Vec::new();
        if let Some(Form { stopped, begun, .. }) = found {
            inputs.extend(begun.into_iter().filter_map(Begun::intent).map(Input::Recall));
            if stopped {
                tracing::warn!(
                    "stopped by a command to an earlier boot: nothing is collected until START"
                );
                inputs.push(Input::RecallStopped);
            }
        }
        (this, inputs)
    }

    /// Whether a command that was issued at this Unix time may be one that an earlier boot began, and is not known for it.
    /// 0: it does not say when.
    pub(crate) fn is_doubtful(&self, issued: i64) -> bool {
        self.refuses_before.is_some_and(|before| issued < before)
    }

    /// Writes down what the core wants to be durable at `now`.
    ///
    /// # Errors
    ///
    /// When the system refuses. What was written before is still there, or, if only the last step failed, perhaps this.
    pub(crate) fn remember(
        &self,
        agent: &HostAgent<impl OwnPlugins>,
        now: Instant,
    ) -> io::Result<()> {
        let Some(directory) = &self.directory else {
            return Ok(());
        };
        let form = Form {
            agent: self.agent.to_string(),
            stopped: agent.is_to_stay_stopped(),
            begun: agent.intents(now).map(Begun::from).collect(),
        };
        write(directory, &form)
    }

    fn read(&self, directory: &Path) -> Result<Option<Form>, JournalError> {
        let Some(bytes) = sealed::read(&directory.join(FILE_NAME), FILE_BYTES_MAX)? else {
            return Ok(None);
        };
        let body = sealed::unseal(&bytes, FILE_NAME, FORMAT)?;
        let form = serde_json::from_str::<Form>(body).map_err(JournalError::Content)?;
        if form.agent != self.agent.as_str() {
            return Err(JournalError::OtherAgent { agent: form.agent });
        }
        Ok(Some(form))
    }
}

fn write(directory: &Path, form: &Form) -> io::Result<()> {
    let body = serde_json::to_string(form)?;
    state_file::replace(directory, FILE_NAME, &sealed::seal(FILE_NAME, FORMAT, &body))
}

impl From<Intent> for Begun {
    fn from(intent: Intent) -> Self {
        let Intent { id, kind, boot, is_owed, left } = intent;
        Self {
            id: id.to_string(),
            kind: kind.name().to_owned(),
            boot: boot.to_string(),
            owed: is_owed,
            left_ms: message::millis(left),
        }
    }
}

impl Begun {
    /// None for a kind that only a later version knows, and that this one refuses anyway.
    fn intent(self) -> Option<Intent> {
        Some(Intent {
            id: self.id.parse().ok()?,
            kind: Kind::ALL.into_iter().find(|kind| kind.name() == self.kind)?,
            boot: self.boot.parse().ok()?,
            is_owed: self.owed,
            left: Duration::from_millis(self.left_ms),
        })
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use agent_core::agent::{Action, Command, Output, Reason, RunState};
    use agent_core::config::Config;
    use agent_core::id::BootId;
    use agent_core::plugin::own::NoPlugins;

    use super::*;

    type TestAgent = HostAgent<NoPlugins>;

    const BOOT: BootId = BootId { counter: 1, nonce: 7 };

    fn id() -> AgentId {
        "edge-01".parse().unwrap()
    }

    /// An agent that has read the journal in `directory`.
    fn open(directory: &Path) -> (Journal, Box<TestAgent>, usize) {
        let (journal, inputs) = Journal::open(Some(directory), id(), 1000);
        let mut agent =
            Box::new(TestAgent::with_memory(Instant::default(), BOOT, 1, Config::default(), None));
        let count = inputs.len();
        inputs.into_iter().for_each(|input| agent.handle(Instant::default(), input));
        (journal, agent, count)
    }

    fn command(journal: &Journal, agent: &mut TestAgent, id: &str, action: Action) {
        let id = Some(id.parse().unwrap());
        let time_to_live = Duration::from_secs(30);
        let now = Instant::default();
        agent.handle(now, Input::Command(Command { id, action, time_to_live }));
        assert_eq!(agent.poll(now), Output::Remember);
        let outcome = journal.remember(agent, now).map_err(|_| Reason::from("refused"));
        agent.handle(now, Input::Remembered(outcome));
    }

    fn state(agent: &TestAgent) -> RunState {
        agent.status(Instant::default()).state
    }

    #[test]
    fn what_was_begun_and_that_it_was_stopped_outlive_the_process() {
        let directory = tempfile::tempdir().unwrap();
        let (journal, mut agent, count) = open(directory.path());
        assert_eq!(count, 0);
        command(&journal, &mut agent, "c1", Action::Stop);
        let (journal, mut next, count) = open(directory.path());
        assert_eq!((count, state(&next)), (2, RunState::Stopped));
        let intents = |agent: &TestAgent| agent.intents(Instant::default()).collect::<Vec<_>>();
        assert_eq!(intents(&next), intents(&agent));
        command(&journal, &mut next, "c2", Action::Start);
        let (_, last, count) = open(directory.path());
        assert_eq!((count, state(&last)), (2, RunState::Running));
    }

    #[test]
    fn what_cannot_be_written_does_not_begin() {
        let directory = tempfile::tempdir().unwrap();
        let (journal, mut agent, _) = open(directory.path());
        let obstacle = directory.path().join("commands.new");
        fs::create_dir(&obstacle).unwrap();
        command(&journal, &mut agent, "c1", Action::Stop);
        assert_eq!(state(&agent), RunState::Running);
        assert_eq!(agent.intents(Instant::default()).count(), 0);
        fs::remove_dir(&obstacle).unwrap();
        command(&journal, &mut agent, "c2", Action::Stop);
        assert_eq!(state(&agent), RunState::Stopped);
    }

    #[test]
    fn a_damaged_journal_makes_doubtful_what_was_issued_before() {
        let directory = tempfile::tempdir().unwrap();
        let (journal, mut agent, _) = open(directory.path());
        assert!(!journal.is_doubtful(0));
        command(&journal, &mut agent, "c1", Action::Stop);
        let path = directory.path().join(FILE_NAME);
        let whole = fs::read(&path).unwrap();
        for index in 0..whole.len() {
            let mut damaged = whole.clone();
            damaged[index] ^= 0x20;
            fs::write(&path, damaged).unwrap();
            let (journal, agent, count) = open(directory.path());
            assert_eq!((count, state(&agent)), (0, RunState::Running), "byte {index}");
            assert!(journal.is_doubtful(0) && journal.is_doubtful(1059));
            assert!(!journal.is_doubtful(1060));
        }
        fs::write(&path, &whole).unwrap();
        assert!(!open(directory.path()).0.is_doubtful(0));
        let (other, _) = Journal::open(Some(directory.path()), "edge-02".parse().unwrap(), 1000);
        assert!(other.is_doubtful(0), "it is another agent's");
    }

    #[test]
    fn a_full_journal_fits_its_file() {
        let directory = tempfile::tempdir().unwrap();
        let longest = |number: usize| format!("{number:064}");
        let (journal, mut agent, _) = open(directory.path());
        for number in 0..agent_core::limits::COMMANDS_MAX {
            command(&journal, &mut agent, &longest(number), Action::Start);
        }
        let (_, next, count) = open(directory.path());
        assert_eq!(count, agent_core::limits::COMMANDS_MAX);
        assert_eq!(next.intents(Instant::default()).count(), count);
    }
}
