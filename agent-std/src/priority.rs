//! How polite the agent is to its host.

/// Gives the calling thread, and the threads that it starts from now on, the nice value `nice`. A system that refuses is
/// no reason not to measure.
pub(crate) fn set_nice(nice: i32) {
    #[cfg(unix)]
    if let Err(error) = rustix::process::setpriority_process(None, nice) {
        tracing::warn!(nice, %error, "cannot set the nice value; the agent goes on with the one it has");
    }
    #[cfg(not(unix))]
    tracing::warn!(nice, "this system has no nice values");
}
