//! What the server's end of a stream knows of the connection that carries it.

use std::sync::Arc;

use tokio::sync::{Notify, watch};

use crate::limits::LEFTOVERS_MAX;

/// Put among the extensions of each request.
#[derive(Clone, Debug)]
pub(crate) struct Line {
    hang_up: Arc<Notify>,
    /// Closed once the peer has taken the whole answer, or is gone.
    answered: watch::Receiver<()>,
}

/// Held by the answer for as long as there is something left of it to send.
pub(super) type Unanswered = watch::Sender<()>;

impl Line {
    pub(super) fn new(hang_up: &Arc<Notify>) -> (Self, Unanswered) {
        let (unanswered, answered) = watch::channel(());
        (Self { hang_up: Arc::clone(hang_up), answered }, unanswered)
    }

    /// Waits a while for the peer to take what is left of the answer, which has ended. One that does not loses its
    /// connection: HTTP/2 would keep the rest for as long as that stands. Answers whether it was cut.
    pub(crate) async fn end(mut self) -> bool {
        // An error is what is waited for: the answer is gone. Nothing is ever sent.
        let taken = async { while self.answered.changed().await.is_ok() {} };
        let late = tokio::time::timeout(LEFTOVERS_MAX, taken).await.is_err();
        if late {
            self.hang_up.notify_one();
        }
        late
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn who_does_not_take_the_rest_is_cut_off() {
        let hang_up = Arc::new(Notify::new());
        let (line, unanswered) = Line::new(&hang_up);
        assert!(line.end().await);
        // Remembered for a connection that was busy.
        let told = tokio::time::timeout(LEFTOVERS_MAX, hang_up.notified()).await;
        assert!(told.is_ok());
        drop(unanswered);
    }

    #[tokio::test(start_paused = true)]
    async fn who_takes_it_is_left_alone() {
        let hang_up = Arc::new(Notify::new());
        let (line, unanswered) = Line::new(&hang_up);
        drop(unanswered);
        assert!(!line.end().await);
    }
}
