//! The bytes that messages may take in this process between the wire and the bus, over all streams together.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::levels::{Held, Level, Levels};
use crate::limits::DECODED_BYTES_MAX;

/// The budget. A message is charged with what it takes once it is decoded ([`crate::ingest`] weighs it), before it is
/// decoded; the charge is dropped when the bus has it. When nothing is left messages wait, in the order in which they
/// came, so no stream starves another; a stream waits with one message and reads no further.
#[derive(Debug)]
pub(crate) struct Budget {
    free: Arc<Semaphore>,
    capacity: u32,
    levels: Arc<Levels>,
}

/// Part of the budget. Dropping it gives it back.
#[derive(Debug)]
pub(crate) struct Charge {
    _permit: OwnedSemaphorePermit,
    _held: Held,
}

impl Budget {
    /// `capacity` is in bytes, and at least what one message may take.
    pub(crate) fn new(capacity: u32, levels: &Arc<Levels>) -> Self {
        assert!(DECODED_BYTES_MAX <= capacity, "the largest message must fit");
        let free = Arc::new(Semaphore::new(usize::try_from(capacity).unwrap_or(usize::MAX)));
        Self { free, capacity, levels: Arc::clone(levels) }
    }

    /// In bytes.
    pub(crate) const fn capacity(&self) -> u32 {
        self.capacity
    }

    /// What nobody has, in bytes.
    pub(crate) fn free(&self) -> u64 {
        u64::try_from(self.free.available_permits()).unwrap_or(u64::MAX)
    }

    /// Waits for `bytes`, at most [`DECODED_BYTES_MAX`]. Dropping the future gives up the place in the line.
    pub(crate) fn charge(&self, bytes: u32) -> impl Future<Output = Charge> + Send + use<> {
        debug_assert!(bytes <= DECODED_BYTES_MAX);
        let bytes = bytes.min(DECODED_BYTES_MAX);
        let (free, levels) = (Arc::clone(&self.free), Arc::clone(&self.levels));
        async move {
            let permit = match Arc::clone(&free).try_acquire_many_owned(bytes) {
                Ok(permit) => permit,
                Err(_) => {
                    let _waiting = levels.hold(Level::InFlightWaiting, 1);
                    free.acquire_many_owned(bytes).await.expect("the semaphore is never closed")
                }
            };
            Charge { _permit: permit, _held: levels.hold(Level::InFlightBytes, bytes.into()) }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    use std::pin::pin;
    use std::task::{Context, Waker};

    fn is_ready<F: Future>(future: std::pin::Pin<&mut F>) -> Option<F::Output> {
        match future.poll(&mut Context::from_waker(Waker::noop())) {
            std::task::Poll::Ready(output) => Some(output),
            std::task::Poll::Pending => None,
        }
    }

    #[test]
    fn no_more_is_held_than_there_is_and_the_first_to_wait_is_the_first_to_go_on() {
        let levels = Arc::new(Levels::default());
        let budget = Budget::new(DECODED_BYTES_MAX, &levels);
        let all = is_ready(pin!(budget.charge(DECODED_BYTES_MAX))).expect("nobody has any");
        assert_eq!(budget.free(), 0);
        let mut large = pin!(budget.charge(DECODED_BYTES_MAX - 1));
        let mut small = pin!(budget.charge(1));
        assert!(is_ready(large.as_mut()).is_none());
        assert!(is_ready(small.as_mut()).is_none());
        assert_eq!(levels.now(Level::InFlightWaiting), 2);
        drop(all);
        assert!(is_ready(small.as_mut()).is_some(), "there is room for both");
        assert!(is_ready(large.as_mut()).is_some());
        assert_eq!(levels.now(Level::InFlightWaiting), 0);
    }

    #[test]
    fn who_gives_up_leaves_the_line() {
        let levels = Arc::new(Levels::default());
        let budget = Budget::new(DECODED_BYTES_MAX, &levels);
        let all = is_ready(pin!(budget.charge(DECODED_BYTES_MAX))).expect("nobody has any");
        {
            let mut gives_up = pin!(budget.charge(DECODED_BYTES_MAX));
            assert!(is_ready(gives_up.as_mut()).is_none());
        }
        let mut next = pin!(budget.charge(1));
        assert!(is_ready(next.as_mut()).is_none());
        drop(all);
        assert!(is_ready(next.as_mut()).is_some());
        assert_eq!(budget.free(), u64::from(DECODED_BYTES_MAX));
        assert_eq!(levels.now(Level::InFlightBytes), 0);
    }
}
