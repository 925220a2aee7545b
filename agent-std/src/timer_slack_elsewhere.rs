//! A system other than Linux decides for itself when it wakes a process.

use std::io;

#[expect(clippy::unnecessary_wraps, reason = "Linux may refuse")]
pub(crate) fn widen() -> io::Result<()> {
    Ok(())
}
