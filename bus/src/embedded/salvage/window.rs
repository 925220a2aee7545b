//! Reading a file front to back through a small buffer, also where the disk cannot read parts of it.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::path::Path;

/// Read at a time.
const CHUNK_BYTES: usize = 64 * 1024;

/// What a disk reads whole or not at all.
const SECTOR_BYTES: usize = 4096;

/// A view of a file that moves forward. It holds a chunk, or as much as was asked for at once.
#[derive(Debug)]
pub(super) struct Window {
    file: File,
    /// Where in the file the buffer begins.
    position: u64,
    buffer: Vec<u8>,
    /// Where in the buffer the view begins. `start <= buffer.len()`.
    start: usize,
    /// Whether parts could not be read. They look like zeros.
    is_unreadable: bool,
}

impl Window {
    pub(super) fn open(path: &Path) -> io::Result<Self> {
        let file = File::open(path)?;
        Ok(Self { file, position: 0, buffer: Vec::new(), start: 0, is_unreadable: false })
    }

    /// Where in the file the view begins.
    pub(super) fn position(&self) -> u64 {
        self.position + self.start as u64
    }

    pub(super) fn is_unreadable(&self) -> bool {
        self.is_unreadable
    }

    /// The next `bytes`; fewer only at the end of the file.
    pub(super) fn peek(&mut self, bytes: usize) -> io::Result<&[u8]> {
        if self.buffer.len() - self.start < bytes {
            self.fill(bytes)?;
        }
        let end = self.buffer.len().min(self.start.saturating_add(bytes));
        Ok(&self.buffer[self.start..end])
    }

    /// Moves on by `bytes`, at most to the end of what was peeked.
    pub(super) fn skip(&mut self, bytes: usize) {
        self.start = self.buffer.len().min(self.start + bytes);
    }

    fn fill(&mut self, bytes: usize) -> io::Result<()> {
        self.buffer.drain(..self.start);
        self.position += self.start as u64;
        self.start = 0;
        while self.buffer.len() < bytes {
            let at = self.position + self.buffer.len() as u64;
            let wanted = CHUNK_BYTES.max(bytes - self.buffer.len());
            if self.read(at, wanted)? == 0 {
                break;
            }
        }
        Ok(())
    }

    /// Appends up to `bytes` from `at` on, and says how many.
    fn read(&mut self, at: u64, bytes: usize) -> io::Result<usize> {
        let before = self.buffer.len();
        match read_chunk(&mut self.file, at, bytes, &mut self.buffer) {
            Ok(()) => return Ok(self.buffer.len() - before),
            Err(error) if is_unreadable(&error) => self.buffer.truncate(before),
            Err(error) => return Err(error),
        }
        // Some of it cannot be read: the rest may be.
        self.is_unreadable = true;
        let end = self.file.metadata()?.len().min(at + bytes as u64);
        let mut next = at;
        while next < end {
            let sector_end = (next / SECTOR_BYTES as u64 + 1) * SECTOR_BYTES as u64;
            let length = usize::try_from(end.min(sector_end) - next).unwrap_or(SECTOR_BYTES);
            let have = self.buffer.len();
            match read_chunk(&mut self.file, next, length, &mut self.buffer) {
                Ok(()) => {}
                Err(error) if is_unreadable(&error) => self.buffer.truncate(have),
                Err(error) => return Err(error),
            }
            self.buffer.resize(have + length, 0);
            next += length as u64;
        }
        Ok(self.buffer.len() - before)
    }
}

fn read_chunk(file: &mut File, at: u64, bytes: usize, to: &mut Vec<u8>) -> io::Result<()> {
    file.seek(SeekFrom::Start(at))?;
    file.take(bytes as u64).read_to_end(to).map(drop)
}

/// Whether the disk itself could not read: the "input/output error" of every Unix.
pub(in crate::embedded) fn is_unreadable(error: &io::Error) -> bool {
    const EIO: i32 = 5;
    cfg!(unix) && error.raw_os_error() == Some(EIO)
}
