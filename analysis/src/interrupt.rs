//! Ctrl-C, told to whoever waits for it.

use std::io;
use std::process;

use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;

/// Turns SIGINT, SIGTERM and SIGHUP into something to wait for.
///
/// A second signal ends the process at once, should the first be waiting for a pipe that nobody reads.
#[derive(Debug)]
pub(crate) struct Interrupt {
    // Never sent on but closed: the task that holds the sender drops it at the first signal.
    first: watch::Receiver<()>,
}

impl Interrupt {
    /// From here on the signals no longer end the process by themselves. Needs a runtime.
    pub(crate) fn install() -> io::Result<Self> {
        let mut interrupt = signal(SignalKind::interrupt())?;
        let mut terminate = signal(SignalKind::terminate())?;
        let mut hangup = signal(SignalKind::hangup())?;
        let (sender, first) = watch::channel(());
        tokio::spawn(async move {
            let mut any = async || {
                tokio::select! {
                    _ = interrupt.recv() => {}
                    _ = terminate.recv() => {}
                    _ = hangup.recv() => {}
                }
            };
            any().await;
            drop(sender);
            any().await;
            process::exit(0);
        });
        Ok(Self { first })
    }

    /// Returns once a signal has come, also when it came before. Safe to cancel.
    pub(crate) async fn wait(&mut self) {
        while self.first.changed().await.is_ok() {}
    }
}
