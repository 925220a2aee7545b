//! Answers the subscriptions of readers.

use bus::BusError;
use bus::query::{Answer, Form};
use tokio::sync::mpsc;
use tonic::Status;

use crate::shutdown::Guard;

/// Sends what `answer` says until it is over, the reader goes away or the server ends.
///
/// `messages` holds a few; while it is full the bus is not read, which costs it nothing.
pub(crate) async fn send<F: Form>(
    mut answer: Answer<F>,
    messages: mpsc::Sender<Result<F::Batch, Status>>,
    mut guard: Guard,
) {
    let status = tokio::select! {
        () = messages.closed() => return,
        () = guard.wait() => Status::unavailable("server is shutting down"),
        end = pass_on(&mut answer, &messages) => match end {
            Ok(()) => return,
            Err(error) => Status::unavailable(error.to_string()),
        },
    };
    // A reader that takes nothing learns it from the end of the connection. The guard must not wait for it.
    drop(guard);
    messages.send(Err(status)).await.ok();
}

async fn pass_on<F: Form>(
    answer: &mut Answer<F>,
    messages: &mpsc::Sender<Result<F::Batch, Status>>,
) -> Result<(), BusError> {
    while let Some(batch) = answer.next().await? {
        if messages.send(Ok(batch)).await.is_err() {
            return Ok(());
        }
    }
    Ok(())
}
