//! Tells every task that the server ends, and knows when the last one has gone.

use tokio::sync::{mpsc, watch};

/// Held by `run`: says when to stop, and waits for the guards.
#[derive(Debug)]
pub(crate) struct Shutdown {
    stop: watch::Sender<bool>,
    // Nothing is ever sent: the channel is closed once every guard is dropped.
    alive: mpsc::Sender<()>,
    gone: mpsc::Receiver<()>,
}

/// Held by each task that must end in order. Dropping it says that the task has ended.
#[derive(Clone, Debug)]
pub(crate) struct Guard {
    stopping: watch::Receiver<bool>,
    _alive: mpsc::Sender<()>,
}

/// Hears of the end without being waited for.
#[derive(Clone, Debug)]
pub(crate) struct Stopping {
    stopping: watch::Receiver<bool>,
    alive: mpsc::WeakSender<()>,
}

impl Shutdown {
    pub(crate) fn new() -> Self {
        let (stop, _) = watch::channel(false);
        let (alive, gone) = mpsc::channel(1);
        Self { stop, alive, gone }
    }

    pub(crate) fn stopping(&self) -> Stopping {
        Stopping { stopping: self.stop.subscribe(), alive: self.alive.downgrade() }
    }

    /// Tells every task.
    pub(crate) fn begin(&self) {
        self.stop.send_replace(true);
    }

    /// Returns once every guard is dropped. New guards cannot be had any more.
    pub(crate) async fn finished(self) {
        let Self { stop, alive, mut gone } = self;
        drop(alive);
        // Nothing is sent, so this waits for the last sender.
        gone.recv().await;
        drop(stop);
    }
}

impl Stopping {
    /// A guard, unless the server has begun to end.
    pub(crate) fn guard(&self) -> Option<Guard> {
        if *self.stopping.borrow() {
            return None;
        }
        Some(Guard { stopping: self.stopping.clone(), _alive: self.alive.upgrade()? })
    }

    /// Returns when the server begins to end.
    pub(crate) async fn wait(&mut self) {
        wait(&mut self.stopping).await;
    }
}

impl Guard {
    /// Returns when the server begins to end.
    pub(crate) async fn wait(&mut self) {
        wait(&mut self.stopping).await;
    }
}

async fn wait(stopping: &mut watch::Receiver<bool>) {
    // An error means that the sender is gone, which is the end as well.
    stopping.wait_for(|stop| *stop).await.ok();
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn finishes_after_the_last_guard() {
        let shutdown = Shutdown::new();
        let stopping = shutdown.stopping();
        let mut guard = stopping.guard().unwrap();
        let task = tokio::spawn(async move {
            guard.wait().await;
            "told"
        });
        shutdown.begin();
        assert!(stopping.guard().is_none());
        shutdown.finished().await;
        assert_eq!(task.await.unwrap(), "told");
    }
}
