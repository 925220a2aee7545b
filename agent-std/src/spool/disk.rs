//! The few operations that the spool asks of a disk.

use std::io;

/// One directory of files, used by one owner.
///
/// What is written can be read at once. After a loss of power it is there when a [`sync`](Self::sync) of the file came back
/// without error since, and, for a file that was new, a [`sync_directory`](Self::sync_directory); of the rest any part may be
/// there. An error says nothing of how much was done.
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
