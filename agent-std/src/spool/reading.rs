//! Reading more than one call of a disk gives, and past what a device cannot read.

use std::io;

use super::disk::Disk;

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
