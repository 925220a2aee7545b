//! The disk of a host: a directory that belongs to one process at a time.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use super::Disk;

/// The file whose lock says that a process uses the directory.
const LOCK_NAME: &str = "lock";

/// How often a lock is tried, and how long between: another's look into the spool takes no longer.
const LOCK_ATTEMPTS: u32 = 20;
const LOCK_PAUSE: Duration = Duration::from_millis(50);

/// A directory for the spool alone, mode 0700, its files mode 0600, locked for one process.
///
/// Links and whatever else is no plain file are not followed and not listed.
#[derive(Debug)]
pub struct StdDisk {
    directory: PathBuf,
    /// The file of the latest write. A sync must be of the handle that wrote, so that it sees the errors of that.
    open: Option<(String, File)>,
    /// Held until it is dropped; none: for reading only.
    lock: Option<File>,
}

/// Why a directory cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum StdDiskError {
    /// The system refused.
    #[error("cannot use {}", path.display())]
    Io {
        /// What was asked for.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// It is a link, or no directory.
    #[error("{} is no directory of its own", path.display())]
    NoDirectory {
        /// What was asked for.
        path: PathBuf,
    },
    /// Another process has it.
    #[error("{} is in use by another process", path.display())]
    InUse {
        /// What was asked for.
        path: PathBuf,
    },
}

impl StdDisk {
    /// Takes the directory for this process, and makes it if it is not there.
    ///
    /// # Errors
    ///
    /// [`StdDiskError`].
    pub fn open(directory: &Path) -> Result<Self, StdDiskError> {
        let failed = |source| StdDiskError::Io { path: directory.to_owned(), source };
        make_directory(directory).map_err(failed)?;
        check_directory(directory)?;
        let mut options = options();
        options.write(true).create(true).truncate(false);
        let lock = open_plain(&options, &directory.join(LOCK_NAME)).map_err(failed)?;
        for attempt in 0..LOCK_ATTEMPTS {
            match lock.try_lock() {
                Ok(()) => {
                    let directory = directory.to_owned();
                    return Ok(Self { directory, open: None, lock: Some(lock) });
                }
                Err(TryLockError::Error(source)) => return Err(failed(source)),
                Err(TryLockError::WouldBlock) if attempt + 1 < LOCK_ATTEMPTS => {
                    thread::sleep(LOCK_PAUSE);
                }
                Err(TryLockError::WouldBlock) => {}
            }
        }
        Err(StdDiskError::InUse { path: directory.to_owned() })
    }

    /// Looks into the directory without taking it, and without writing anything. See [`is_in_use`](Self::is_in_use).
    ///
    /// # Errors
    ///
    /// [`StdDiskError`].
    pub fn look(directory: &Path) -> Result<Self, StdDiskError> {
        check_directory(directory)?;
        let mut disk = Self { directory: directory.to_owned(), open: None, lock: None };
        if disk.is_in_use() {
            return Err(StdDiskError::InUse { path: directory.to_owned() });
        }
        disk.list().map_err(|source| StdDiskError::Io { path: directory.to_owned(), source })?;
        Ok(disk)
    }

    /// Whether another process has the directory now. A look is worth something only when it was not so after it.
    pub fn is_in_use(&self) -> bool {
        let mut options = options();
        options.read(true);
        let lock = open_plain(&options, &self.directory.join(LOCK_NAME));
        let busy =
            lock.is_ok_and(|lock| matches!(lock.try_lock_shared(), Err(TryLockError::WouldBlock)));
        self.lock.is_none() && busy
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.join(name)
    }

    fn opened(&mut self, name: &str) -> io::Result<&mut File> {
        let kept = self.open.take().filter(|(open, _)| open == name);
        let (name, file) = match kept {
            Some(kept) => kept,
            None => {
                let mut options = options();
                options.write(true);
                (name.to_owned(), open_plain(&options, &self.path(name))?)
            }
        };
        Ok(&mut self.open.insert((name, file)).1)
    }
}

impl Disk for StdDisk {
    fn list(&mut self) -> io::Result<Vec<(String, u64)>> {
        let mut files = Vec::new();
        for entry in fs::read_dir(&self.directory)? {
            let entry = entry?;
            let metadata = match entry.metadata() {
                Ok(metadata) => metadata,
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                Err(error) => return Err(error),
            };
            // A name that is not UTF-8 is not one of the spool's.
            if let (true, Ok(name)) = (metadata.is_file(), entry.file_name().into_string())
                && name != LOCK_NAME
            {
                files.push((name, metadata.len()));
            }
        }
        Ok(files)
    }

    fn read(&mut self, name: &str, offset: u64, buffer: &mut [u8]) -> io::Result<usize> {
        use io::{Read as _, Seek as _};

        let mut options = options();
        options.read(true);
        let mut file = open_plain(&options, &self.path(name))?;
        file.seek(io::SeekFrom::Start(offset))?;
        let mut count = 0;
        while count < buffer.len() {
            match file.read(&mut buffer[count..]) {
                Ok(0) => break,
                Ok(more) => count += more,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(count)
    }

    fn create(&mut self, name: &str) -> io::Result<()> {
        let mut options = options();
        options.write(true).create_new(true);
        let file = open_plain(&options, &self.path(name))?;
        self.open = Some((name.to_owned(), file));
        Ok(())
    }

    fn write_at(&mut self, name: &str, offset: u64, bytes: &[u8]) -> io::Result<()> {
        use io::{Seek as _, Write as _};

        let file = self.opened(name)?;
        file.seek(io::SeekFrom::Start(offset))?;
        file.write_all(bytes)
    }

    fn sync(&mut self, name: &str) -> io::Result<()> {
        self.opened(name)?.sync_data()
    }

    fn sync_directory(&mut self) -> io::Result<()> {
        if cfg!(unix) {
            return File::open(&self.directory)?.sync_all();
        }
        // Other systems have no such call; theirs make a new file durable with its content.
        Ok(())
    }

    fn remove(&mut self, name: &str) -> io::Result<()> {
        self.open.take_if(|(open, _)| open == name);
        fs::remove_file(self.path(name))
    }
}

fn check_directory(directory: &Path) -> Result<(), StdDiskError> {
    match fs::symlink_metadata(directory) {
        Ok(metadata) if metadata.is_dir() => Ok(()),
        Ok(_) => Err(StdDiskError::NoDirectory { path: directory.to_owned() }),
        Err(source) => Err(StdDiskError::Io { path: directory.to_owned(), source }),
    }
}

/// Makes the directory, and those above it, if it is not there.
fn make_directory(directory: &Path) -> io::Result<()> {
    if fs::symlink_metadata(directory).is_ok() {
        return Ok(());
    }
    if let Some(parent) = directory.parent() {
        fs::create_dir_all(parent)?;
    }
    let mut builder = fs::DirBuilder::new();
    #[cfg(unix)]
    {
        use std::os::unix::fs::DirBuilderExt as _;
        builder.mode(0o700);
    }
    builder.create(directory)?;
    if let (true, Some(parent)) = (cfg!(unix), directory.parent()) {
        File::open(parent)?.sync_all()?;
    }
    Ok(())
}

/// Options that follow no link, wait for no pipe, and make files for their owner only.
fn options() -> OpenOptions {
    let mut options = OpenOptions::new();
    #[cfg(unix)]
    {
        use rustix::fs::OFlags;
        use std::os::unix::fs::OpenOptionsExt as _;

        let flags = OFlags::NOFOLLOW | OFlags::NONBLOCK;
        options.mode(0o600).custom_flags(flags.bits().cast_signed());
    }
    options
}

fn open_plain(options: &OpenOptions, path: &Path) -> io::Result<File> {
    let file = options.open(path)?;
    if file.metadata()?.is_file() {
        Ok(file)
    } else {
        Err(io::Error::new(io::ErrorKind::InvalidInput, "it is no plain file"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn contents(disk: &mut StdDisk) -> Vec<(String, u64)> {
        let mut files = disk.list().unwrap();
        files.sort();
        files
    }

    #[test]
    fn files_are_written_read_and_removed() {
        let directory = tempfile::tempdir().unwrap();
        let mut disk = StdDisk::open(&directory.path().join("a/spool")).unwrap();
        for name in ["one", "two"] {
            disk.create(name).unwrap();
            disk.write_at(name, 0, b"0123456789").unwrap();
            disk.sync(name).unwrap();
        }
        disk.write_at("one", 8, b"abcd").unwrap();
        disk.sync("one").unwrap();
        disk.sync_directory().unwrap();
        assert_eq!(contents(&mut disk), [("one".to_owned(), 12), ("two".to_owned(), 10)]);
        let mut buffer = [0; 16];
        assert_eq!(disk.read("one", 4, &mut buffer).unwrap(), 8);
        assert_eq!(&buffer[..8], b"4567abcd");
        let again = disk.create("one").unwrap_err();
        assert_eq!(again.kind(), io::ErrorKind::AlreadyExists);
        disk.remove("one").unwrap();
        let gone = disk.read("one", 0, &mut buffer).unwrap_err();
        assert_eq!(gone.kind(), io::ErrorKind::NotFound);
        assert_eq!(contents(&mut disk), [("two".to_owned(), 10)]);
    }

    #[test]
    fn it_belongs_to_one_process_at_a_time() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("spool");
        let first = StdDisk::open(&path).unwrap();
        assert!(matches!(StdDisk::open(&path), Err(StdDiskError::InUse { .. })));
        assert!(matches!(StdDisk::look(&path), Err(StdDiskError::InUse { .. })));
        drop(first);
        let looking = StdDisk::look(&path).unwrap();
        assert!(!looking.is_in_use());
        let _second = StdDisk::open(&path).unwrap();
        assert!(looking.is_in_use());
    }

    #[cfg(unix)]
    #[test]
    fn links_and_open_doors_are_refused() {
        use std::os::unix::fs::{PermissionsExt as _, symlink};

        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("spool");
        let mut disk = StdDisk::open(&path).unwrap();
        disk.create("one").unwrap();
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!((mode(&path), mode(&path.join("one"))), (0o700, 0o600));

        let elsewhere = directory.path().join("elsewhere");
        fs::write(&elsewhere, "of somebody else").unwrap();
        symlink(&elsewhere, path.join("link")).unwrap();
        assert_eq!(contents(&mut disk), [("one".to_owned(), 0)]);
        assert!(disk.read("link", 0, &mut [0; 8]).is_err());
        assert!(disk.write_at("link", 0, b"x").is_err());
        assert!(disk.create("link").is_err());

        let link = directory.path().join("linked");
        symlink(&path, &link).unwrap();
        assert!(matches!(StdDisk::open(&link), Err(StdDiskError::NoDirectory { .. })));
    }
}
