//! Ctrl-C, as a flag that is looked at: what was started is to be stopped first.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use anyhow::Context as _;

/// Set when one of `signals` comes, which then does not end this program.
///
/// # Errors
///
/// When the operating system refuses.
pub(crate) fn flag<const N: usize>(signals: [i32; N]) -> anyhow::Result<Arc<AtomicBool>> {
    let flag = Arc::new(AtomicBool::new(false));
    for signal in signals {
        signal_hook::flag::register(signal, Arc::clone(&flag))
            .context("cannot listen for Ctrl-C")?;
    }
    Ok(flag)
}
