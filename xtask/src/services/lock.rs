//! One at a time, across processes.

use std::fs::{self, File, TryLockError};
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, bail};

use crate::fleet::poll;

/// A locked file, unlocked when this is dropped or the process ends.
#[derive(Debug)]
pub(crate) struct Lock(File);

impl Lock {
    /// Waits for the lock at `path` for at most `limit`, and says on stderr that it waits, for `whom`.
    ///
    /// # Errors
    ///
    /// When it is not free in time or cannot be created.
    pub(crate) fn wait(path: &Path, limit: Duration, whom: &str) -> anyhow::Result<Self> {
        if let Some(parent) = path.parent() {
            fs::create_dir_all(parent)
                .with_context(|| format!("cannot create {}", parent.display()))?;
        }
        let file =
            File::create(path).with_context(|| format!("cannot create {}", path.display()))?;
        let mut waits = false;
        let locked = poll(limit, || match file.try_lock() {
            Ok(()) => Ok(Some(())),
            Err(TryLockError::WouldBlock) => {
                if !waits {
                    super::command::progress(&format!("waiting for {whom} ..."));
                    waits = true;
                }
                Ok(None)
            }
            Err(TryLockError::Error(error)) => Err(error),
        });
        match locked.with_context(|| format!("cannot lock {}", path.display()))? {
            Some(()) => Ok(Self(file)),
            None => bail!(
                "{whom} still holds {} after {limit:?}: end it, then try again",
                path.display()
            ),
        }
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        // Closing would not do: a process that another thread is just starting has a copy of the handle.
        self.0.unlock().ok();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_second_waits_and_then_refuses() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("made/lock");
        let first = Lock::wait(&path, Duration::ZERO, "another test").unwrap();
        let error = Lock::wait(&path, Duration::ZERO, "another test").unwrap_err();
        assert!(error.to_string().contains("another test still holds"), "{error}");
        drop(first);
        Lock::wait(&path, Duration::ZERO, "another test").unwrap();
    }
}
