//! What the next boot must know of this one if it ends without a word: how far its sequences can have come.
//!
//! Sequences are reserved on the disk in blocks, before they are given out. A boot that ends in good order leaves no entry.
//! What one that did not end so had reserved and no server had acknowledged is declared lost, as an upper bound: it may have
//! used fewer, and the server may have some.

use std::io;
use std::path::{Path, PathBuf};

use agent_core::agent::Lane;
use agent_core::id::{AgentId, BootId, Sequence};
use agent_core::ledger::LossReason;
use serde::{Deserialize, Serialize};

use crate::sealed::{self, SealError};
use crate::spool::Loss;
use crate::state_file;

pub(crate) const FILE_NAME: &str = "books";
const FORMAT: &str = "1";
const FILE_BYTES_MAX: u64 = 16 * 1024;

/// Sequences that are reserved at once: at an interval of 5 s a write every 5 h.
const BLOCK: u64 = 4096;

/// The next block is reserved when so few are left. One snapshot makes far fewer records and alerts.
const MARGIN: u64 = 256;

/// Boots whose end could not be declared and that are remembered. The oldest gives way, and is named in the log.
const ENTRIES_MAX: usize = 64;

/// The body is filled up with blanks to a multiple of this, so that a book can be written over where a full disk has no room
/// for another.
const BODY_STEP: usize = 1024;

/// How far one boot can have come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Entry {
    counter: u64,
    nonce: u64,
    records: Span,
    alerts: Span,
}

/// Sequences of one lane; 0 for none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Span {
    /// A server had everything up to this one, when this was written.
    acknowledged: u64,
    /// None above this one was given out.
    reserved: u64,
}

impl Span {
    const fn is_short_of(self, recorded: u64) -> bool {
        self.reserved < recorded.saturating_add(MARGIN)
    }
}

/// How far a lane of the running boot has come.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Progress {
    /// A server has everything up to this one; none: nothing.
    pub(crate) acknowledged: Option<Sequence>,
    /// Sequences given out.
    pub(crate) recorded: u64,
}

impl Progress {
    fn reserve(self) -> Span {
        Span {
            acknowledged: self.acknowledged.map_or(0, Sequence::number),
            reserved: self.recorded.saturating_add(BLOCK),
        }
    }
}

#[derive(Serialize, Deserialize)]
struct Form {
    agent: String,
    /// The newest boot, also when it ended in good order.
    #[serde(default)]
    newest: u64,
    boots: Vec<Entry>,
}

/// The one file of a book.
pub(crate) trait BookFile {
    /// Its content, at most [`FILE_BYTES_MAX`] of it; none when there is no file.
    ///
    /// # Errors
    ///
    /// Whatever the system says.
    fn read(&self) -> Result<Option<Vec<u8>>, SealError>;

    /// Puts `content` in its place, so that after a loss of power there is the old one or the new one, whole.
    ///
    /// # Errors
    ///
    /// Whatever the system says; the old one is then still there, or, if only the last step failed, perhaps the new one.
    fn replace(&mut self, content: &[u8]) -> io::Result<()>;
}

/// The file in the state directory.
#[derive(Debug)]
pub(crate) struct BookInDirectory {
    directory: PathBuf,
}

impl BookInDirectory {
    pub(crate) fn new(directory: &Path) -> Self {
        Self { directory: directory.to_owned() }
    }
}

impl BookFile for BookInDirectory {
    fn read(&self) -> Result<Option<Vec<u8>>, SealError> {
        sealed::read(&self.directory.join(FILE_NAME), FILE_BYTES_MAX)
    }

    fn replace(&mut self, content: &[u8]) -> io::Result<()> {
        state_file::replace(&self.directory, FILE_NAME, content).or_else(|error| {
            state_file::overwrite(&self.directory, FILE_NAME, content).map_err(|_| error)
        })
    }
}

/// The newest boot that the book in `state_dir` tells of; 0 if it tells of none.
pub(crate) fn newest(state_dir: &Path) -> u64 {
    let bytes = BookInDirectory::new(state_dir).read().ok().flatten().unwrap_or_default();
    let body = sealed::unseal(&bytes, FILE_NAME, FORMAT).ok();
    let form = body.and_then(|body| serde_json::from_str::<Form>(body).ok());
    form.map_or(0, |form| form.boots.iter().map(|boot| boot.counter).fold(form.newest, u64::max))
}

/// The file, and the entry of this boot.
#[derive(Debug)]
pub(crate) struct BootBook<F = BookInDirectory> {
    file: F,
    agent: AgentId,
    own: Entry,
    // Boots whose end could not be declared, the oldest first.
    undeclared: Vec<Entry>,
    // The file tells of boots that were declared since.
    is_stale: bool,
}

impl<F: BookFile> BootBook<F> {
    /// Reads what the boots before left. Nothing is written before [`BootBook::reserve`].
    pub(crate) fn open(file: F, agent: AgentId, boot: BootId) -> Self {
        let undeclared = read(&file, &agent).unwrap_or_else(|error| {
            tracing::warn!(file = FILE_NAME, %error, "cannot read how the boot before ended");
            Vec::new()
        });
        let own = Entry {
            counter: boot.counter,
            nonce: boot.nonce,
            records: Span::default(),
            alerts: Span::default(),
        };
        Self { file, agent, own, undeclared, is_stale: false }
    }

    /// What boots that did not end in good order may have lost. `last_kept` knows what of a boot is in the spool, and is
    /// not lost.
    pub(crate) fn crashed(
        &self,
        last_kept: impl Fn(BootId, Lane) -> Option<Sequence>,
    ) -> Vec<Loss> {
        let mut losses = Vec::new();
        for Entry { counter, nonce, records, alerts } in &self.undeclared {
            let boot = BootId { counter: *counter, nonce: *nonce };
            for (lane, span) in [(Lane::Records, records), (Lane::Alerts, alerts)] {
                let kept = last_kept(boot, lane).map_or(0, Sequence::number);
                let first = Sequence::new(span.acknowledged.max(kept).saturating_add(1));
                let (Some(first), Some(last)) = (first, Sequence::new(span.reserved)) else {
                    continue;
                };
                if first <= last {
                    let reason = LossReason::Crash;
                    // Nobody knows which of them were used, and sent.
                    let (never_sent, unacknowledged) = (0, 0);
                    losses.push(Loss {
                        lane,
                        boot,
                        first,
                        last,
                        reason,
                        never_sent,
                        unacknowledged,
                    });
                }
            }
        }
        losses
    }

    /// What [`BootBook::crashed`] gave of `boot` is kept elsewhere now.
    pub(crate) fn handle_declared(&mut self, boot: BootId) {
        self.undeclared.retain(|entry| (entry.counter, entry.nonce) != (boot.counter, boot.nonce));
        self.is_stale = true;
    }

    /// The boots whose end is still to be declared, the oldest first.
    pub(crate) fn undeclared(&self) -> Vec<BootId> {
        let boot = |entry: &Entry| BootId { counter: entry.counter, nonce: entry.nonce };
        self.undeclared.iter().map(boot).collect()
    }

    /// Whether there are boots whose end is still to be declared.
    pub(crate) fn owes(&self) -> bool {
        !self.undeclared.is_empty()
    }

    /// Reserves more sequences if few are left. To be called before a snapshot is taken in.
    ///
    /// # Errors
    ///
    /// When the disk refuses. The boot then goes on: if it crashes, what is declared lost ends too early.
    pub(crate) fn reserve(&mut self, records: Progress, alerts: Progress) -> io::Result<()> {
        let Entry { records: of_records, alerts: of_alerts, .. } = self.own;
        let is_short =
            of_records.is_short_of(records.recorded) || of_alerts.is_short_of(alerts.recorded);
        if !is_short && !self.is_stale {
            return Ok(());
        }
        self.write(Entry { records: records.reserve(), alerts: alerts.reserve(), ..self.own })
    }

    fn write(&mut self, own: Entry) -> io::Result<()> {
        let keep = self.undeclared.len().min(ENTRIES_MAX - 1);
        for Entry { counter, nonce, .. } in self.undeclared.drain(..self.undeclared.len() - keep) {
            let boot = BootId { counter, nonce };
            tracing::error!(
                %boot,
                "too many boots ended without a word: what this one may have lost is not declared any more"
            );
        }
        let ended = own.records == Span::default() && own.alerts == Span::default();
        let boots = self.undeclared.iter().chain((!ended).then_some(&own)).copied().collect();
        let form = Form { agent: self.agent.to_string(), newest: own.counter, boots };
        let mut body = serde_json::to_string(&form)?;
        let blanks = body.len().next_multiple_of(BODY_STEP) - body.len();
        body.extend(std::iter::repeat_n(' ', blanks));
        self.file.replace(&sealed::seal(FILE_NAME, FORMAT, &body))?;
        self.own = own;
        self.is_stale = false;
        Ok(())
    }

    /// The boot ends in good order: what it has lost is declared, and nothing of it is left to be told.
    pub(crate) fn close(&mut self) -> io::Result<()> {
        // Should the process go on after all, it reserves again.
        self.write(Entry { records: Span::default(), alerts: Span::default(), ..self.own })
    }
}

/// The boots of `agent` that did not end in good order. Those of another agent are not for this one to declare.
fn read(file: &impl BookFile, agent: &AgentId) -> anyhow::Result<Vec<Entry>> {
    let Some(bytes) = file.read()? else { return Ok(Vec::new()) };
    let found = serde_json::from_str::<Form>(sealed::unseal(&bytes, FILE_NAME, FORMAT)?)?;
    anyhow::ensure!(found.agent == agent.as_str(), "it is of the agent {:.63}", found.agent);
    Ok(found.boots)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    const BOOT: BootId = BootId { counter: 3, nonce: 7 };

    fn progress(acknowledged: u64, recorded: u64) -> Progress {
        Progress { acknowledged: Sequence::new(acknowledged), recorded }
    }

    fn ranges(losses: &[Loss]) -> Vec<(Lane, u64, u64)> {
        losses.iter().map(|l| (l.lane, l.first.number(), l.last.number())).collect()
    }

    fn open(directory: &Path, boot: BootId) -> BootBook {
        BootBook::open(BookInDirectory::new(directory), "edge-01".parse().unwrap(), boot)
    }

    fn next(directory: &Path) -> BootBook {
        open(directory, BootId { counter: 4, nonce: 8 })
    }

    #[test]
    fn what_a_crashed_boot_can_have_lost_is_what_it_had_reserved_and_no_server_had() {
        let directory = tempfile::tempdir().unwrap();
        let mut book = open(directory.path(), BOOT);
        assert!(book.crashed(|_, _| None).is_empty());
        book.reserve(progress(0, 0), progress(0, 0)).unwrap();
        book.reserve(progress(9, 100), progress(2, 3)).unwrap();
        let found = next(directory.path()).crashed(|_, _| None);
        assert!(found.iter().all(|loss| loss.boot == BOOT && loss.reason == LossReason::Crash));
        assert_eq!(ranges(&found), [(Lane::Records, 1, BLOCK), (Lane::Alerts, 1, BLOCK)]);

        // Few are left: more are reserved, and what was acknowledged meanwhile is remembered.
        let recorded = BLOCK - MARGIN + 1;
        book.reserve(progress(3000, recorded), progress(2, 3)).unwrap();
        let found = next(directory.path()).crashed(|_, _| None);
        assert_eq!(
            ranges(&found),
            [(Lane::Records, 3001, recorded + BLOCK), (Lane::Alerts, 3, 3 + BLOCK)]
        );
        // What the spool has is not lost.
        let kept = |boot, lane| {
            (boot == BOOT && lane == Lane::Records).then(|| Sequence::new(5000).unwrap())
        };
        let found = next(directory.path()).crashed(kept);
        assert_eq!(ranges(&found)[0], (Lane::Records, 5001, recorded + BLOCK));
    }

    #[test]
    fn a_boot_that_ended_in_good_order_leaves_nothing() {
        let directory = tempfile::tempdir().unwrap();
        let mut book = open(directory.path(), BOOT);
        book.reserve(progress(0, 0), progress(0, 0)).unwrap();
        book.close().unwrap();
        assert!(next(directory.path()).crashed(|_, _| None).is_empty());
        assert_eq!(newest(directory.path()), BOOT.counter);
    }

    #[test]
    fn an_end_that_could_not_be_declared_is_remembered() {
        let directory = tempfile::tempdir().unwrap();
        for counter in 1..=70 {
            let mut book = open(directory.path(), BootId { counter, nonce: 7 });
            book.reserve(progress(0, 0), progress(0, 0)).unwrap();
        }
        let mut book = next(directory.path());
        let boots = book.crashed(|_, _| None).iter().map(|loss| loss.boot.counter).max();
        assert_eq!((book.undeclared.len(), boots), (ENTRIES_MAX, Some(70)));
        for counter in 1..=70 {
            book.handle_declared(BootId { counter, nonce: 7 });
        }
        assert!(!book.owes());
        book.reserve(progress(0, 0), progress(0, 0)).unwrap();
        let left = next(directory.path()).crashed(|_, _| None);
        assert!(left.iter().all(|loss| loss.boot.counter == 4), "{left:?}");
    }

    #[test]
    fn a_damaged_book_is_no_reason_not_to_start() {
        let directory = tempfile::tempdir().unwrap();
        fs::write(directory.path().join(FILE_NAME), b"\xff").unwrap();
        let mut book = open(directory.path(), BOOT);
        assert!(book.crashed(|_, _| None).is_empty());
        book.reserve(progress(0, 0), progress(0, 0)).unwrap();
        assert_eq!(next(directory.path()).crashed(|_, _| None).len(), 2);
    }
}
