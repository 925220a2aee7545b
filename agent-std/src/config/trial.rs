//! The rules of a trial: a new configuration must prove itself before the agent trusts it.
//!
//! A document that was applied is *on trial* until it is *confirmed*, and the document confirmed last is what it can be
//! taken back to. It is confirmed when the server was reached with it, and it is taken back, once, when the server could
//! not be reached for the whole window, or when the process ended twice without being asked to. What was taken back is in
//! *quarantine*: it is not applied again, however often it is pushed, until 16 others have been taken back after it. A
//! document that differs in as much as a blank is another one.
//!
//! Reached means: the server answered a stream that was opened after the document was applied, or the stream of that time
//! still stands after [`SETTLED_AFTER`]. A message is no proof, because it may have been under way. Either way a document
//! is confirmed no sooner than that time, so that one that makes the agent crash is not confirmed by the first handshake.
//!
//! Sans-IO: time comes in, and [`Trial::poll`] says what is to be taken back. The shell writes [`Trial::memory`] down
//! whenever [`Trial::poll_save`] asks for it, and starts the next process from it.

use std::time::Duration;

use agent_core::time::Instant;
use serde::{Deserialize, Serialize};

use crate::sealed::digest;

/// By then the keep-alive of a stream (15 s) has found a server that vanished.
const SETTLED_AFTER: Duration = Duration::from_secs(20);

/// Processes that may end without being asked to while a document is on trial.
const RUNS_MAX: u8 = 2;

/// Documents that are remembered as taken back; the oldest gives way.
const QUARANTINED_MAX: usize = 16;

/// One state of the remote document, as its source gave it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Version {
    pub(crate) source: Source,
    /// Counted by the source; 0 when there is no document.
    pub(crate) revision: u64,
    /// JSON; at most [`proto::config::DOCUMENT_BYTES_MAX`].
    pub(crate) text: String,
}

impl Default for Version {
    /// No document: the host's own layers alone.
    fn default() -> Self {
        Self { source: Source::Server, revision: 0, text: "{}".to_owned() }
    }
}

/// Who counts the revisions. Those of different sources do not compare.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Source {
    /// Whatever store the server has.
    Server,
    /// The etcd cluster with this id.
    Etcd { cluster: u64 },
}

/// What must survive the process.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Memory {
    confirmed: Version,
    trial: Option<Attempt>,
    quarantine: Vec<Quarantined>,
}

/// A document on trial.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Attempt {
    version: Version,
    /// Processes that have run it and have not ended because they were asked to; the present one counts. 0 to RUNS_MAX.
    runs: u8,
}

/// A document that was taken back.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Quarantined {
    /// SHA-256 of its text, in hexadecimal.
    digest: String,
    reason: String,
}

/// A document was taken back; [`Trial::in_force`] is what holds instead.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct RolledBack {
    /// What was taken back.
    pub(crate) revision: u64,
    /// Why, for people.
    pub(crate) reason: String,
}

/// See the module's documentation.
#[derive(Debug)]
pub(crate) struct Trial {
    /// None: every document is trusted at once, and none is in quarantine.
    window: Option<Duration>,
    confirmed: Version,
    stage: Stage,
    /// At most [`QUARANTINED_MAX`], the oldest first.
    quarantine: Vec<Quarantined>,
    save_due: bool,
}

#[derive(Debug)]
enum Stage {
    /// The confirmed document is in force.
    Confirmed,
    OnTrial {
        attempt: Attempt,
        since: Instant,
        /// The server answered a stream that was opened since.
        is_reached: bool,
    },
}

impl Trial {
    /// Begins a process at `now` with what the one before left. A document on trial stays so, with a window of its own,
    /// unless processes have ended with it too often. `window` 0 switches trials off.
    pub(crate) fn start(
        memory: Memory,
        window: Duration,
        now: Instant,
    ) -> (Self, Option<RolledBack>) {
        let Memory { confirmed, trial, mut quarantine } = memory;
        // Another version of this program may remember more.
        quarantine.drain(..quarantine.len().saturating_sub(QUARANTINED_MAX));
        let window = (!window.is_zero()).then_some(window);
        let mut this =
            Self { window, confirmed, stage: Stage::Confirmed, quarantine, save_due: false };
        let Some(attempt) = trial else { return (this, None) };
        this.save_due = true;
        if this.window.is_none() {
            this.confirm(attempt.version);
            return (this, None);
        }
        if attempt.runs < RUNS_MAX {
            let attempt = Attempt { runs: attempt.runs + 1, ..attempt };
            this.stage = Stage::OnTrial { attempt, since: now, is_reached: false };
            return (this, None);
        }
        let reason = format!("the agent ended {RUNS_MAX} times while it was on trial, unasked");
        let rolled_back = this.quarantine(&attempt.version, reason);
        (this, Some(rolled_back))
    }

    /// The document in force, be it on trial or confirmed.
    pub(crate) fn in_force(&self) -> &Version {
        match &self.stage {
            Stage::Confirmed => &self.confirmed,
            Stage::OnTrial { attempt, .. } => &attempt.version,
        }
    }

    /// Why a document must not be applied: it was taken back, with this reason.
    pub(crate) fn quarantined(&self, text: &str) -> Option<&str> {
        self.window?;
        if self.quarantine.is_empty() {
            return None;
        }
        let digest = digest(text);
        let found = self.quarantine.iter().find(|quarantined| quarantined.digest == digest);
        found.map(|quarantined| quarantined.reason.as_str())
    }

    /// `version` was applied at `now`. Until it is confirmed it is on trial, unless it says what the confirmed one says. One
    /// that was on trial before it ends there, neither confirmed nor in quarantine.
    pub(crate) fn handle_applied(&mut self, now: Instant, version: Version) {
        if *self.in_force() == version {
            return;
        }
        self.save_due = true;
        if self.window.is_none() || version.text == self.confirmed.text {
            return self.confirm(version);
        }
        match &mut self.stage {
            // The same under a new revision: the trial goes on, so that no repetition prolongs it.
            Stage::OnTrial { attempt, .. } if attempt.version.text == version.text => {
                attempt.version = version;
            }
            Stage::OnTrial { .. } | Stage::Confirmed => {
                let attempt = Attempt { version, runs: 1 };
                self.stage = Stage::OnTrial { attempt, since: now, is_reached: false };
            }
        }
    }

    /// The document in force cannot be used by this process; [`Trial::in_force`] is the one below it. A confirmed one stays
    /// written down until something else has to be.
    pub(crate) fn handle_unusable(&mut self) {
        match std::mem::replace(&mut self.stage, Stage::Confirmed) {
            Stage::OnTrial { .. } => self.save_due = true,
            Stage::Confirmed => self.confirmed = Version::default(),
        }
    }

    /// The server answered a stream that was opened just now.
    pub(crate) fn handle_answered(&mut self) {
        if let Stage::OnTrial { is_reached, .. } = &mut self.stage {
            *is_reached = true;
        }
    }

    /// The process is about to end because it was asked to.
    pub(crate) fn handle_end(&mut self) {
        if let Stage::OnTrial { attempt, .. } = &mut self.stage {
            attempt.runs = attempt.runs.saturating_sub(1);
            self.save_due = true;
        }
    }

    /// The process goes on although it was about to end.
    pub(crate) fn handle_end_failed(&mut self) {
        if let Stage::OnTrial { attempt, .. } = &mut self.stage {
            attempt.runs = RUNS_MAX.min(attempt.runs + 1);
            self.save_due = true;
        }
    }

    /// Ends the trial if its time has come. `is_up` says whether a stream stands that the server has answered. What it
    /// takes back is no longer in force.
    pub(crate) fn poll(&mut self, now: Instant, is_up: bool) -> Option<RolledBack> {
        let window = self.window?;
        let Stage::OnTrial { attempt, since, is_reached } = &self.stage else { return None };
        if (*is_reached || is_up) && *since + settled_after(window) <= now {
            let version = attempt.version.clone();
            self.confirm(version);
            return None;
        }
        if now < *since + window {
            return None;
        }
        let version = attempt.version.clone();
        self.stage = Stage::Confirmed;
        self.save_due = true;
        let seconds = window.as_secs_f64();
        let reason = format!("no server was reached for {seconds} s after it was applied");
        Some(self.quarantine(&version, reason))
    }

    /// When [`Trial::poll`] has something to say without any other event. Late is harmless: the trial lasts so much longer.
    pub(crate) fn deadline(&self, now: Instant) -> Option<Instant> {
        let window = self.window?;
        let Stage::OnTrial { since, .. } = &self.stage else { return None };
        let settled_at = *since + settled_after(window);
        Some(if now < settled_at { settled_at } else { *since + window })
    }

    /// Whether [`Trial::memory`] is to be written down now: it has changed since this was asked last.
    pub(crate) fn poll_save(&mut self) -> bool {
        std::mem::take(&mut self.save_due)
    }

    /// What the next process must know.
    pub(crate) fn memory(&self) -> Memory {
        Memory {
            confirmed: self.confirmed.clone(),
            trial: match &self.stage {
                Stage::Confirmed => None,
                Stage::OnTrial { attempt, .. } => Some(attempt.clone()),
            },
            quarantine: self.quarantine.clone(),
        }
    }

    /// `version` is trusted from now on, whatever became of it before.
    fn confirm(&mut self, version: Version) {
        if !self.quarantine.is_empty() {
            let digest = digest(&version.text);
            self.quarantine.retain(|quarantined| quarantined.digest != digest);
        }
        self.confirmed = version;
        self.stage = Stage::Confirmed;
        self.save_due = true;
    }

    fn quarantine(&mut self, version: &Version, reason: String) -> RolledBack {
        let digest = digest(&version.text);
        self.quarantine.retain(|quarantined| quarantined.digest != digest);
        if self.quarantine.len() == QUARANTINED_MAX {
            self.quarantine.remove(0);
        }
        self.quarantine.push(Quarantined { digest, reason: reason.clone() });
        RolledBack { revision: version.revision, reason }
    }
}

/// A window that is shorter decides; then a server that has vanished without a word may be taken for one that is there.
fn settled_after(window: Duration) -> Duration {
    SETTLED_AFTER.min(window)
}

#[cfg(test)]
mod tests;
