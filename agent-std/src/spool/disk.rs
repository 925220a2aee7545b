//! The few operations that the spool asks of a disk, and the real one.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

/// One directory of files, used by one owner.
///
/// What is written is there for reading at once, and after a loss of power only when [`sync`](Self::sync) of the file
/// came back without error since, and, for a file that is new, [`sync_directory`](Self::sync_directory) too. Without them any
/// part of it may be there. An error says nothing of what was done.
pub trait Disk {
    /// The names and lengths of all files.
    ///
    /// # Errors
    ///
    /// Whatever the disk says.
    fn list(&mut self) -> io::Result<Vec<(String, u64)>>;

    /// Reads from byte `offset` on until `buffer` is full or the file ends. Answers how many bytes were read.
    ///
    /// # Errors
    ///
    /// Whatever the disk says; `NotFound` when there is no such file.
    fn read(&mut self, name: &str, offset: u64, buffer: &mut [u8]) -> io::Result<usize>;

    /// Makes an empty file.
    ///
    /// # Errors
    ///
    /// Whatever the disk says; `AlreadyExists` when there is one.
    fn create(&mut self, name: &str) -> io::Result<()>;

    /// Writes all of `bytes` at `offset`, which is at most the length of the file.
    ///
    /// # Errors
    ///
    /// Whatever the disk says; a part may have been written.
    fn write_at(&mut self, name: &str, offset: u64, bytes: &[u8]) -> io::Result<()>;

    /// Makes durable what was written to the file, and its length.
    ///
    /// # Errors
    ///
    /// Whatever the disk says. What was not durable before may then never be, whatever a later call answers.
    fn sync(&mut self, name: &str) -> io::Result<()>;

    /// Makes durable which files there are.
    ///
    /// # Errors
    ///
    /// As [`sync`](Self::sync).
    fn sync_directory(&mut self) -> io::Result<()>;

    /// Removes a file. It may be back after a loss of power, whole, until the directory is synced.
    ///
    /// # Errors
    ///
    /// Whatever the disk says; `NotFound` when there is no such file.
    fn remove(&mut self, name: &str) -> io::Result<()>;
}

/// A directory of the system's own, locked for one process.
#[derive(Debug)]
pub struct StdDisk {
    directory: PathBuf,
    _lock: File,
}

impl StdDisk {
    /// Opens the directory, and makes it if it is not there.
    ///
    /// # Errors
    ///
    /// When another process uses it, or it is not a directory of one's own.
    pub fn open(directory: &Path) -> io::Result<Self> {
        fs::create_dir_all(directory)?;
        let lock = File::create(directory.join("lock"))?;
        Ok(Self { directory: directory.to_owned(), _lock: lock })
    }
}

impl Disk for StdDisk {
    fn list(&mut self) -> io::Result<Vec<(String, u64)>> {
        let _ = &self.directory;
        todo!()
    }
    fn read(&mut self, _: &str, _: u64, _: &mut [u8]) -> io::Result<usize> {
        todo!()
    }
    fn create(&mut self, _: &str) -> io::Result<()> {
        todo!()
    }
    fn write_at(&mut self, _: &str, _: u64, _: &[u8]) -> io::Result<()> {
        todo!()
    }
    fn sync(&mut self, _: &str) -> io::Result<()> {
        todo!()
    }
    fn sync_directory(&mut self) -> io::Result<()> {
        todo!()
    }
    fn remove(&mut self, _: &str) -> io::Result<()> {
        todo!()
    }
}
