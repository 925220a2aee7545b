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

/// Reads the file from `offset` on, at most `max` bytes of it.
///
/// # Errors
///
/// Those of [`Disk::read`].
pub(super) fn read_from<D: Disk>(
    disk: &mut D,
    name: &str,
    offset: u64,
    max: usize,
) -> io::Result<Vec<u8>> {
    const STEP_BYTES: usize = 256 * 1024;
    let mut bytes = Vec::new();
    while bytes.len() < max {
        let before = bytes.len();
        bytes.resize(max.min(before + STEP_BYTES), 0);
        let at = offset + u64::try_from(before).unwrap_or(u64::MAX);
        let count = disk.read(name, at, &mut bytes[before..])?;
        bytes.truncate(before + count);
        if count == 0 {
            break;
        }
    }
    Ok(bytes)
}

/// Reads `length` bytes from `offset` on, or up to the end of the file. What the device cannot read is zeros, a page at a
/// time.
///
/// # Errors
///
/// Those of [`Disk::read`] that say nothing of the bytes.
pub(super) fn salvage<D: Disk>(
    disk: &mut D,
    name: &str,
    offset: u64,
    length: usize,
) -> io::Result<Vec<u8>> {
    const PAGE_BYTES: usize = 4096;
    match read_from(disk, name, offset, length) {
        Err(error) if is_device_error(&error) => {}
        result => return result,
    }
    let mut bytes = vec![0; length];
    let mut start = 0;
    for page in bytes.chunks_mut(PAGE_BYTES) {
        let at = offset + u64::try_from(start).unwrap_or(u64::MAX);
        match disk.read(name, at, page) {
            Ok(count) if count < page.len() => {
                let end = start + count;
                bytes.truncate(end);
                break;
            }
            Ok(_) => {}
            Err(error) if is_device_error(&error) => page.fill(0),
            Err(error) => return Err(error),
        }
        start += PAGE_BYTES;
    }
    Ok(bytes)
}

/// EIO, the same number on all systems.
pub(super) fn is_device_error(error: &io::Error) -> bool {
    error.raw_os_error() == Some(5)
}
