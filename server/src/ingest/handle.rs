//! How others reach a live session.

use std::sync::Arc;

use agent_core::time::Instant;
use proto::{Command, ConfigPush, ConfigReport};
use tokio::sync::{mpsc, watch};

use crate::ingest::claims::SessionKey;
use crate::limits::{CONTEST, DIRECTIVES_MAX};

/// What others ask of a session.
#[derive(Debug)]
pub(crate) enum Directive {
    /// Hand this to the agent before `expires_at`.
    Command { command: Command, expires_at: Instant },
    /// This holds for the agent now.
    Config(ConfigPush),
    /// See whether the agent lives.
    Ping,
    /// End: another stream has the id.
    Superseded,
    /// End: another live agent had the id first, as is said here.
    Refused(String),
}

/// The session has no room for more at the moment, or is gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the session takes nothing more at the moment")]
pub(crate) struct SessionBusy;

/// What a session shows of itself.
#[derive(Debug, Default)]
struct View {
    /// Messages that came from the agent.
    heard: u64,
    /// The last report on a configuration.
    report: Option<ConfigReport>,
}

/// Reaches a session. Cheap to clone; does not keep the session alive.
#[derive(Clone, Debug)]
pub(crate) struct SessionHandle {
    pub(crate) key: SessionKey,
    pub(crate) peer: Arc<str>,
    directives: mpsc::Sender<Directive>,
    view: watch::Receiver<View>,
}

/// The session's own end of a [`SessionHandle`].
#[derive(Debug)]
pub(crate) struct SessionPort {
    /// At most [`DIRECTIVES_MAX`]; whoever finds it full is told so.
    pub(crate) directives: mpsc::Receiver<Directive>,
    view: watch::Sender<View>,
}

pub(crate) fn session_handle(key: SessionKey, peer: &str) -> (SessionHandle, SessionPort) {
    let (sender, directives) = mpsc::channel(DIRECTIVES_MAX);
    let (view, watched) = watch::channel(View::default());
    let handle = SessionHandle { key, peer: peer.into(), directives: sender, view: watched };
    (handle, SessionPort { directives, view })
}

impl SessionHandle {
    /// # Errors
    ///
    /// When the session has no room or is gone; nothing was done then.
    pub(crate) fn direct(&self, directive: Directive) -> Result<(), SessionBusy> {
        self.directives.try_send(directive).map_err(|_| SessionBusy)
    }

    /// Asks the agent for a sign of life; false when none came in time.
    pub(crate) async fn is_alive(&self) -> bool {
        let mut view = self.view.clone();
        view.mark_unchanged();
        // A session too busy to ask is judged by what it hears anyway.
        self.direct(Directive::Ping).ok();
        let heard = tokio::time::timeout(CONTEST, view.changed()).await;
        matches!(heard, Ok(Ok(())))
    }

    /// Returns when the session has ended.
    pub(crate) async fn ended(&self) {
        self.directives.closed().await;
    }

    /// The agent's report on the configuration of `revision` or a later one; none if the session ends first.
    pub(crate) async fn config_report(&self, revision: u64) -> Option<ConfigReport> {
        let mut view = self.view.clone();
        let reported = |view: &View| view.report.as_ref().is_some_and(|r| revision <= r.revision);
        let view = view.wait_for(reported).await.ok()?;
        view.report.clone()
    }
}

impl SessionPort {
    /// A message came from the agent.
    pub(crate) fn heard(&self) {
        self.view.send_modify(|view| view.heard += 1);
    }

    /// The agent reported on a configuration.
    pub(crate) fn reported(&self, report: ConfigReport) {
        self.view.send_modify(|view| view.report = Some(report));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn an_agent_that_says_anything_is_alive() {
        let (handle, mut port) = session_handle(SessionKey(1), "peer");
        let asked = tokio::spawn({
            let handle = handle.clone();
            async move { handle.is_alive().await }
        });
        assert!(matches!(port.directives.recv().await, Some(Directive::Ping)));
        port.heard();
        assert!(asked.await.unwrap());
        assert!(!handle.is_alive().await, "silence for two seconds");
        drop(port);
        assert!(!handle.is_alive().await);
        handle.ended().await;
    }

    #[tokio::test]
    async fn a_full_session_hands_directives_back() {
        let (handle, _port) = session_handle(SessionKey(1), "peer");
        for _ in 0..DIRECTIVES_MAX {
            assert_eq!(handle.direct(Directive::Ping), Ok(()));
        }
        assert_eq!(handle.direct(Directive::Ping), Err(SessionBusy));
    }

    #[tokio::test]
    async fn reports_of_older_revisions_do_not_count() {
        let (handle, port) = session_handle(SessionKey(1), "peer");
        let report = |revision| ConfigReport { revision, ..ConfigReport::default() };
        port.reported(report(4));
        let waiting = tokio::spawn(async move { handle.config_report(5).await });
        port.reported(report(5));
        assert_eq!(waiting.await.unwrap(), Some(report(5)));
    }
}
