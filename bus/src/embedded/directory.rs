//! The directory of a database: who holds it, and in which format it was written.
//!
//! ```text
//! LOCK      held for as long as the database is open
//! FORMAT    "picket-bus 1\n"
//! db/       what the storage library keeps
//! ```

use std::fs::{self, File, TryLockError};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

const LOCK: &str = "LOCK";
const FORMAT: &str = "FORMAT";
const DATABASE: &str = "db";

const FORMAT_NAME: &str = "picket-bus";
const FORMAT_VERSION: u32 = 1;

/// Why a database could not be opened. Nothing in the directory was changed, but for the lock file.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OpenError {
    /// The directory is not there and cannot be made, or may not be written.
    #[error("cannot use directory {}", dir.display())]
    Directory {
        /// Which.
        dir: PathBuf,
        /// What the system says.
        #[source]
        source: io::Error,
    },
    /// A process, maybe this one, has it open.
    #[error("{} is in use by another process", dir.display())]
    InUse {
        /// Which directory.
        dir: PathBuf,
    },
    /// A newer picket wrote it.
    #[error("{} has format {found}, this version reads up to {supported}", dir.display())]
    NewerFormat {
        /// Which directory.
        dir: PathBuf,
        /// The format found, as its file says.
        found: String,
        /// The newest that this version reads.
        supported: u32,
    },
    /// Something else wrote it.
    #[error("{} holds files, but no database of picket", dir.display())]
    Foreign {
        /// Which directory.
        dir: PathBuf,
    },
    /// What is stored contradicts its checksums or itself.
    #[error("the database in {} is damaged", dir.display())]
    Damaged {
        /// Which directory.
        dir: PathBuf,
        /// What was found.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// Reading or writing failed, for instance because the disk is full.
    #[error("cannot open the database in {}", dir.display())]
    Storage {
        /// Which directory.
        dir: PathBuf,
        /// What failed.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

/// A directory that no other process can open while this value lives.
#[derive(Debug)]
pub(super) struct Directory {
    dir: PathBuf,
    lock: File,
}

impl Drop for Directory {
    fn drop(&mut self) {
        // Closing would not do: a process that another thread is just starting has a copy of the handle.
        self.lock.unlock().ok();
    }
}

impl Directory {
    /// Takes `dir`, which is made if it is not there.
    pub(super) fn claim(dir: &Path) -> Result<Self, OpenError> {
        let unusable = |source| OpenError::Directory { dir: dir.to_owned(), source };
        fs::create_dir_all(dir).map_err(unusable)?;
        let lock = File::options()
            .create(true)
            .truncate(false)
            .write(true)
            .open(dir.join(LOCK))
            .map_err(unusable)?;
        lock.try_lock().map_err(|error| match error {
            TryLockError::WouldBlock => OpenError::InUse { dir: dir.to_owned() },
            TryLockError::Error(source) => unusable(source),
        })?;
        let directory = Self { dir: dir.to_owned(), lock };
        directory.check_format()?;
        Ok(directory)
    }

    pub(super) fn path(&self) -> &Path {
        &self.dir
    }

    /// Where the storage library works.
    pub(super) fn database(&self) -> PathBuf {
        self.dir.join(DATABASE)
    }

    fn check_format(&self) -> Result<(), OpenError> {
        match fs::read(self.dir.join(FORMAT)) {
            Ok(text) => self.parse_format(&String::from_utf8_lossy(&text)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => self.write_format(),
            Err(source) => Err(self.unusable(source)),
        }
    }

    fn parse_format(&self, text: &str) -> Result<(), OpenError> {
        let Some((FORMAT_NAME, version)) = text.trim_end().split_once(' ') else {
            return Err(self.foreign());
        };
        match version.parse::<u32>() {
            Ok(FORMAT_VERSION) => Ok(()),
            Ok(0) => Err(self.foreign()),
            // A version that is no number can only come from the future.
            Ok(_) | Err(_) => Err(OpenError::NewerFormat {
                dir: self.dir.clone(),
                found: version.to_owned(),
                supported: FORMAT_VERSION,
            }),
        }
    }

    /// Marks a new database. The mark stands before anything else does, and it stands whole or not at all.
    fn write_format(&self) -> Result<(), OpenError> {
        if self.database().try_exists().map_err(|e| self.unusable(e))? {
            return Err(self.foreign());
        }
        let write = || -> io::Result<()> {
            let draft = self.dir.join("FORMAT.new");
            let mut file = File::create(&draft)?;
            writeln!(file, "{FORMAT_NAME} {FORMAT_VERSION}")?;
            file.sync_all()?;
            fs::rename(&draft, self.dir.join(FORMAT))?;
            sync_directory(&self.dir)
        };
        write().map_err(|source| self.unusable(source))
    }

    /// Whether the file system takes `bytes` more, made durable. They are given back at once.
    pub(super) fn probe_space(&self, bytes: usize) -> io::Result<()> {
        let path = self.dir.join("PROBE");
        let probe = || -> io::Result<()> {
            let mut file = File::create(&path)?;
            // Not zeros, which some file systems store without taking space.
            file.write_all(&vec![0xa5; bytes])?;
            file.sync_all()
        };
        let result = probe();
        fs::remove_file(&path)?;
        result
    }

    fn unusable(&self, source: io::Error) -> OpenError {
        OpenError::Directory { dir: self.dir.clone(), source }
    }

    fn foreign(&self) -> OpenError {
        OpenError::Foreign { dir: self.dir.clone() }
    }
}

#[cfg(unix)]
fn sync_directory(dir: &Path) -> io::Result<()> {
    File::open(dir)?.sync_all()
}

#[cfg(not(unix))]
fn sync_directory(_dir: &Path) -> io::Result<()> {
    Ok(())
}
