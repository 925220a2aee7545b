//! A file of `/proc` that stays open, and reading it line by line through a buffer of fixed size.

use std::fs::File;
use std::io;
use std::ops::ControlFlow;
use std::os::unix::fs::FileExt as _;
use std::path::PathBuf;

use rustix::event::{PollFd, PollFlags, Timespec, poll};

/// A page, which is what the kernel gives at once of most files. Longer files are read in pieces.
pub(super) const BUFFER_BYTES: usize = 4096;

/// What files are read through.
pub(super) type Buffer = [u8; BUFFER_BYTES];

/// 64 MiB in the least: more than any of these files has, so a file that does not end is damaged.
const READS_MAX: u32 = 1 << 14;

/// Where each line is shorter, a read that leaves this much of a page free has come to the end: the kernel ends one earlier
/// only when the next line does not fit in the page. To hear of the end otherwise it is asked once more, and then makes the
/// whole file anew to find nothing behind it.
const SHORT_LINE_BYTES: usize = 512;

/// A file of `/proc` that is opened once and read from its beginning at each measurement, as it is then.
#[derive(Debug)]
pub(super) struct ProcFile {
    path: PathBuf,
    file: Option<File>,
    /// Whether no line has [`SHORT_LINE_BYTES`].
    has_short_lines: bool,
    /// It could not be read the last time, or had nothing in it, which was logged.
    is_missed: bool,
}

impl ProcFile {
    /// The file at `path`, which is opened when it is first read.
    pub(super) fn new(path: PathBuf) -> Self {
        Self { path, file: None, has_short_lines: false, is_missed: false }
    }

    /// The same of a file that has lines of less than [`SHORT_LINE_BYTES`] only, one for each of what it lists.
    pub(super) fn with_short_lines(path: PathBuf) -> Self {
        Self { has_short_lines: true, ..Self::new(path) }
    }

    /// Gives the lines of the file to `each`, without their ends, until it breaks. A line that is longer than `buffer` is
    /// cut to that. None when the file cannot be read; `each` may have had a part of it then. It is tried anew the next
    /// time. Whether the lines mean anything the caller says, with [`ProcFile::understood`].
    pub(super) fn read_lines(
        &mut self,
        buffer: &mut [u8],
        each: impl FnMut(&[u8]) -> ControlFlow<()>,
    ) -> Option<()> {
        match self.try_read_lines(buffer, each) {
            Ok(()) => Some(()),
            Err(error) => {
                self.file = None;
                if !self.is_missed {
                    let file = self.path.display();
                    tracing::warn!(%error, "cannot read {file}: what it says is left out");
                }
                self.is_missed = true;
                None
            }
        }
    }

    /// What was `found` in the lines that were read; none when they have nothing of what the file is read for.
    pub(super) fn understood<T>(&mut self, found: Option<T>) -> Option<T> {
        if found.is_none() && !self.is_missed {
            let file = self.path.display();
            tracing::warn!(
                "{file} is empty, or nothing in it is understood: what it says is left out"
            );
        }
        self.is_missed = found.is_none();
        found
    }

    fn try_read_lines(
        &mut self,
        buffer: &mut [u8],
        each: impl FnMut(&[u8]) -> ControlFlow<()>,
    ) -> io::Result<()> {
        let file = match &mut self.file {
            Some(file) => file,
            none => none.insert(File::open(&self.path)?),
        };
        let rest_at_end = if self.has_short_lines { SHORT_LINE_BYTES } else { usize::MAX };
        lines(|part, offset| file.read_at(part, offset), rest_at_end, buffer, each)
    }

    /// Whether the kernel says that the file changed since this was last asked, as it does of a mount table
    /// (proc_pid_mounts(5)). A file that was not read yet has.
    pub(super) fn has_changed(&self) -> bool {
        let Some(file) = &self.file else { return true };
        let mut files = [PollFd::new(file, PollFlags::PRI)];
        // A file that cannot be asked is better read once too often.
        poll(&mut files, Some(&Timespec::default())) != Ok(0)
    }
}

/// A read that leaves `rest_at_end` bytes of its part free was the last, as was one that reads nothing.
fn lines(
    mut read_at: impl FnMut(&mut [u8], u64) -> io::Result<usize>,
    rest_at_end: usize,
    buffer: &mut [u8],
    mut each: impl FnMut(&[u8]) -> ControlFlow<()>,
) -> io::Result<()> {
    let mut offset = 0;
    // buffer[..filled] has no line end.
    let mut filled = 0;
    // The beginning of the line was too long and has been given.
    let mut is_rest = false;
    let mut is_at_end = false;
    for _ in 0..READS_MAX {
        let room = buffer.len() - filled;
        let read = if is_at_end { Ok(0) } else { read_at(&mut buffer[filled..], offset) };
        let count = match read {
            Ok(0) => {
                if filled != 0 && !is_rest {
                    // Nothing is left to break off.
                    let (ControlFlow::Continue(()) | ControlFlow::Break(())) =
                        each(&buffer[..filled]);
                }
                return Ok(());
            }
            Ok(count) => count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(error),
        };
        offset += count as u64;
        is_at_end = rest_at_end <= room - count;
        let end = filled + count;
        let mut start = 0;
        let mut searched = filled;
        while let Some(length) = buffer[searched..end].iter().position(|byte| *byte == b'\n') {
            let line = &buffer[start..searched + length];
            (start, searched) = (searched + length + 1, searched + length + 1);
            if std::mem::take(&mut is_rest) {
                continue;
            }
            if each(line).is_break() {
                return Ok(());
            }
        }
        if start == 0 && end == buffer.len() {
            if !is_rest && each(buffer).is_break() {
                return Ok(());
            }
            is_rest = true;
            filled = 0;
        } else {
            buffer.copy_within(start..end, 0);
            filled = end - start;
        }
    }
    Err(io::Error::other("it does not end"))
}

#[cfg(test)]
mod tests {
    use std::fs;

    use proptest::prelude::*;

    use super::*;

    /// The lines of `content`, of which a read gives at most `piece` bytes.
    fn read(content: &[u8], piece: usize, buffer_bytes: usize) -> Vec<Vec<u8>> {
        let mut found = Vec::new();
        let read_at = |part: &mut [u8], offset: u64| {
            let rest = &content[usize::try_from(offset).unwrap()..];
            let count = rest.len().min(part.len()).min(piece);
            part[..count].copy_from_slice(&rest[..count]);
            Ok(count)
        };
        let each = |line: &[u8]| {
            found.push(line.to_owned());
            ControlFlow::Continue(())
        };
        lines(read_at, usize::MAX, &mut vec![0; buffer_bytes], each).unwrap();
        found
    }

    #[test]
    fn the_last_line_needs_no_end() {
        assert_eq!(read(b"", 9, 8), Vec::<Vec<u8>>::new());
        assert_eq!(read(b"ab\n\nc\n", 9, 8), [b"ab".to_vec(), b"".to_vec(), b"c".to_vec()]);
        assert_eq!(read(b"ab\nc", 9, 8), [b"ab", &b"c"[..]]);
    }

    #[test]
    fn a_line_that_is_too_long_is_cut() {
        assert_eq!(read(b"a\n123456789012345678\nb\n", 99, 8), [&b"a"[..], b"12345678", b"b"]);
        assert_eq!(read(b"12345678", 99, 8), [b"12345678"]);
        assert_eq!(read(b"12345678\nb", 3, 8), [&b"12345678"[..], b"b"]);
    }

    #[test]
    fn reading_stops_when_enough_was_seen() {
        let mut reads = 0;
        let read_at = |part: &mut [u8], _| {
            reads += 1;
            part[..2].copy_from_slice(b"a\n");
            Ok(2)
        };
        lines(read_at, usize::MAX, &mut [0; 8], |_| ControlFlow::Break(())).unwrap();
        assert_eq!(reads, 1);
    }

    #[test]
    fn a_read_that_leaves_enough_free_was_the_last() {
        // Read from a buffer of 8 bytes, with lines of less than 3: the kernel has ended the first piece because the next
        // line did not fit.
        let pieces: [&[u8]; 3] = [b"a\nb\nc\n", b"d\ne\n", b"never read"];
        let mut pieces = pieces.into_iter();
        let read_at = |part: &mut [u8], _| {
            let piece = pieces.next().unwrap();
            part[..piece.len()].copy_from_slice(piece);
            Ok(piece.len())
        };
        let mut found = Vec::new();
        let each = |line: &[u8]| {
            found.extend_from_slice(line);
            ControlFlow::Continue(())
        };
        lines(read_at, 3, &mut [0; 8], each).unwrap();
        assert_eq!(found, b"abcde");
        assert_eq!(pieces.next(), Some(&b"never read"[..]));
    }

    #[test]
    fn a_file_without_end_is_an_error() {
        let mut count = 0_u32;
        let each = |_: &[u8]| {
            count += 1;
            ControlFlow::Continue(())
        };
        let read_at = |part: &mut [u8], _| {
            part.fill(b'x');
            Ok(part.len())
        };
        lines(read_at, usize::MAX, &mut [0; 8], each).unwrap_err();
        assert_eq!(count, 1);
    }

    #[test]
    fn an_interrupted_read_is_tried_again_and_a_failed_one_is_an_error() {
        let mut kinds = [io::ErrorKind::Interrupted, io::ErrorKind::NotFound].into_iter();
        let read_at = |_: &mut [u8], _| Err(kinds.next().unwrap().into());
        let error =
            lines(read_at, usize::MAX, &mut [0; 8], |_| ControlFlow::Continue(())).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::NotFound);
    }

    #[test]
    fn a_file_that_comes_is_read_and_stays_open() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("stat");
        let mut file = ProcFile::new(path.clone());
        let mut first_line = || {
            let mut first = None;
            let read = file.read_lines(&mut [0; 16], |line| {
                first = Some(line.to_owned());
                ControlFlow::Break(())
            });
            read.and(first)
        };
        assert_eq!(first_line(), None);
        fs::write(&path, "one\n").unwrap();
        assert_eq!(first_line().as_deref(), Some(&b"one"[..]));
        // The same file with another content, as those of /proc are.
        fs::write(&path, "two\n").unwrap();
        assert_eq!(first_line().as_deref(), Some(&b"two"[..]));
        fs::remove_file(&path).unwrap();
        assert_eq!(first_line().as_deref(), Some(&b"two"[..]), "it was opened anew");
    }

    proptest! {
        #[test]
        fn lines_are_those_of_the_file_however_it_is_cut(
            content in proptest::collection::vec(prop_oneof![Just(b'\n'), any::<u8>()], 0..200),
            piece in 1..40_usize,
            buffer_bytes in 1..40_usize,
        ) {
            let mut expected = content.split(|byte| *byte == b'\n').map(|line| {
                line[..line.len().min(buffer_bytes)].to_vec()
            }).collect::<Vec<_>>();
            // Behind the last line end is no line.
            if expected.last().is_some_and(Vec::is_empty) {
                expected.pop();
            }
            prop_assert_eq!(read(&content, piece, buffer_bytes), expected);
        }
    }
}
