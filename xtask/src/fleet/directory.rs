//! The directory of a run that a person may look into afterwards.

use std::fs::{self, File, TryLockError};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};

/// A directory for one run, emptied at its start, kept at its end, and never shared by two.
#[derive(Debug)]
pub(crate) struct Directory {
    path: PathBuf,
    lock: File,
}

impl Drop for Directory {
    fn drop(&mut self) {
        // Closing would not do: a process that another thread is just starting has a copy of the handle.
        self.lock.unlock().ok();
    }
}

impl Directory {
    /// The directory `run` of `parent`, for a `task` of which there is one at a time.
    ///
    /// # Errors
    ///
    /// When another one runs, or a file cannot be made or removed.
    pub(crate) fn claim(parent: &Path, task: &str) -> anyhow::Result<Self> {
        let claimed = Self::lock(parent, task)?;
        claimed.empty()?;
        Ok(claimed)
    }

    /// The same with what the latest run has left in it, for who has to look at that before [`Directory::empty`].
    ///
    /// # Errors
    ///
    /// When another one runs, or a file cannot be made.
    pub(crate) fn lock(parent: &Path, task: &str) -> anyhow::Result<Self> {
        fs::create_dir_all(parent)
            .with_context(|| format!("cannot create {}", parent.display()))?;
        let lock_path = parent.join("lock");
        let lock = File::create(&lock_path)
            .with_context(|| format!("cannot create {}", lock_path.display()))?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                bail!("another {task} is running in {}; stop it first", parent.display())
            }
            Err(TryLockError::Error(error)) => {
                return Err(error).with_context(|| format!("cannot lock {}", lock_path.display()));
            }
        }
        Ok(Self { path: parent.join("run"), lock })
    }

    /// Removes it with all that is in it.
    ///
    /// # Errors
    ///
    /// When something cannot be removed.
    pub(crate) fn empty(&self) -> anyhow::Result<()> {
        if self.path.exists() {
            fs::remove_dir_all(&self.path)
                .with_context(|| format!("cannot empty {}", self.path.display()))?;
        }
        Ok(())
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_is_claimed_once_and_starts_empty() {
        let parent = tempfile::tempdir().unwrap();
        let first = Directory::claim(parent.path(), "demo").unwrap();
        fs::create_dir_all(first.path().join("data")).unwrap();
        assert!(Directory::claim(parent.path(), "demo").is_err());
        drop(first);
        let second = Directory::claim(parent.path(), "demo").unwrap();
        assert!(!second.path().exists());
    }
}
