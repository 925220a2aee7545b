//! How much later than asked the system may wake this process, so that it wakes once for several timers.

use std::io;
use std::num::NonZeroU64;

/// A fifth of the shortest interval between two samples, and not to be seen in any other. The time of a sample is that of
/// its measurement, however late it is.
const SLACK: NonZeroU64 = NonZeroU64::new(20_000_000).expect("it is not zero"); // nanoseconds

/// Widens the slack of this thread and of those that it will start; Linux's own is 50 us.
///
/// # Errors
///
/// When the system refuses, as a sandbox may; everything else works then as well.
pub(crate) fn widen() -> io::Result<()> {
    Ok(rustix::thread::set_current_timer_slack(Some(SLACK))?)
}

#[cfg(test)]
mod tests {
    use std::thread;

    use super::*;

    #[test]
    fn threads_that_are_started_later_have_it_as_well() {
        let slack = || rustix::thread::current_timer_slack().unwrap();
        // A thread of its own: that of other tests keeps what it has.
        let in_child = thread::spawn(move || {
            widen().unwrap();
            assert_eq!(slack(), SLACK.get());
            thread::spawn(slack).join().unwrap()
        });
        assert_eq!(in_child.join().unwrap(), SLACK.get());
    }
}
