//! The directory of a database: who holds it, and in which format it was written.
//!
//! ```text
//! LOCK      held for as long as the database is open
//! FORMAT    "picket-bus 1\n"
//! MARK      how far each topic is durable, see `mark`
//! db/       what the storage library keeps
//! db.new/   a database being rebuilt, see `salvage`
//! db.ready/ one that is rebuilt and about to take its place
//! TORN.n    what was cut off journal n at this start
//! damaged/  files in which the last repair found damage; may be deleted at any time
//! ```

use std::fs::{self, File, TryLockError};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use super::mark;
use super::salvage;

const LOCK: &str = "LOCK";
const FORMAT: &str = "FORMAT";
const DATABASE: &str = "db";

const FORMAT_NAME: &str = "picket-bus";
pub(super) const FORMAT_VERSION: u32 = 1;

/// A database that is being rebuilt.
pub(super) const NEW: &str = "db.new";

/// A rebuilt database that is whole.
pub(super) const READY: &str = "db.ready";

/// What is kept of damage for people to look at.
pub(super) const DAMAGED: &str = "damaged";

const TORN: &str = "TORN.";

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
        let checked = match fs::read(self.dir.join(FORMAT)) {
            Ok(text) => self.parse_format(&String::from_utf8_lossy(&text)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => self.begin(),
            Err(error) if salvage::is_unreadable(&error) => Err(self.foreign()),
            Err(source) => Err(self.unusable(source)),
        };
        let Err(refusal @ (OpenError::Foreign { .. } | OpenError::NewerFormat { .. })) = checked
        else {
            return checked;
        };
        // A whole mark says the same and has a checksum: then it is the file that is damaged.
        match mark::read(&self.dir).map_err(|e| self.unusable(e))? {
            mark::Found::Marked(marked) if marked.format == FORMAT_VERSION => {
                tracing::warn!(dir = %self.dir.display(), "the format file is damaged and is written again");
                self.write_format()
            }
            _ => Err(refusal),
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
    fn begin(&self) -> Result<(), OpenError> {
        if self.database().try_exists().map_err(|e| self.unusable(e))? {
            return Err(self.foreign());
        }
        self.write_format()
    }

    fn write_format(&self) -> Result<(), OpenError> {
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

    /// Finishes a repair that was cut short, or forgets it when it had nothing to show yet.
    pub(super) fn settle(&self) -> io::Result<()> {
        salvage::remove_dir(&self.dir.join(NEW))?;
        let ready = self.dir.join(READY);
        if ready.try_exists()? {
            salvage::remove_dir(&self.database())?;
            fs::rename(ready, self.database())?;
            sync_directory(&self.dir)?;
            self.forget_torn()?;
        }
        Ok(())
    }

    /// Cuts a journal to its whole batches. What is cut off is put aside durably first.
    pub(super) fn cut_tail(
        &self,
        journal: u64,
        path: &Path,
        whole_bytes: u64,
        used_bytes: u64,
    ) -> io::Result<()> {
        let mut file = File::options().read(true).write(true).open(path)?;
        // One cut off earlier may hold what is missed: it stays, and this one is put beside it.
        let mut aside = self.dir.join(format!("{TORN}{journal}"));
        while aside.try_exists()? {
            aside.as_mut_os_string().push("+");
        }
        let mut torn = File::create_new(&aside)?;
        file.seek(SeekFrom::Start(whole_bytes))?;
        let tail = io::copy(&mut (&file).take(used_bytes - whole_bytes), &mut torn);
        if let Err(error) = tail
            && !salvage::is_unreadable(&error)
        {
            return Err(error);
        }
        torn.sync_all()?;
        sync_directory(&self.dir)?;
        file.set_len(whole_bytes)?;
        file.sync_all()
    }

    /// Puts an empty journal behind those there are: the storage library takes the newest to write in.
    pub(super) fn begin_journal(&self) -> io::Result<()> {
        let Some((number, newest)) = salvage::journals(&self.database())?.pop() else {
            return Ok(());
        };
        if fs::metadata(newest)?.len() == 0 {
            return Ok(());
        }
        let next = self.database().join(format!("{}.jnl", number + 1));
        File::create_new(next)?.sync_all()?;
        sync_directory(&self.database())
    }

    /// What was cut off journals.
    pub(super) fn torn(&self) -> io::Result<Vec<PathBuf>> {
        let mut torn = salvage::files(&self.dir)?;
        torn.retain(|path| {
            path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(TORN))
        });
        Ok(torn)
    }

    /// Nothing durable was in it.
    pub(super) fn forget_torn(&self) -> io::Result<()> {
        self.torn()?.iter().try_for_each(fs::remove_file)
    }

    fn unusable(&self, source: io::Error) -> OpenError {
        OpenError::Directory { dir: self.dir.clone(), source }
    }

    fn foreign(&self) -> OpenError {
        OpenError::Foreign { dir: self.dir.clone() }
    }
}

#[cfg(unix)]
pub(super) fn sync_directory(dir: &Path) -> io::Result<()> {
    File::open(dir)?.sync_all()
}

#[cfg(not(unix))]
pub(super) fn sync_directory(_dir: &Path) -> io::Result<()> {
    Ok(())
}
