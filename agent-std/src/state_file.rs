//! Files that survive a loss of power at any moment: after it there is the old content or the new one, whole.

use std::fs::{self, File, FileType, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::path::Path;

/// Puts `content` in place of the file `name` in `directory`, which is made if it is not there.
///
/// # Errors
///
/// When the system refuses one of the steps. The old file is then still there, but for a failure of the last step, after
/// which either of the two may be found when the power goes at that moment.
pub(crate) fn replace(directory: &Path, name: &str, content: &[u8]) -> io::Result<()> {
    fs::create_dir_all(directory)?;
    let temporary = directory.join(format!("{name}.new"));
    // What is in its place may be of another kind, such as a pipe, whose other end would be waited for.
    match fs::remove_file(&temporary) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut file = File::create_new(&temporary)?;
    file.write_all(content)?;
    file.sync_all()?;
    fs::rename(&temporary, directory.join(name))?;
    File::open(directory)?.sync_all()
}

/// Opens the file at `path` to be read, without ever waiting for somebody who writes.
///
/// # Errors
///
/// When it is a pipe, a directory or the like, or the system refuses.
pub(crate) fn open(path: &Path) -> io::Result<File> {
    let mut options = OpenOptions::new();
    #[cfg(unix)]
    {
        use std::os::unix::fs::OpenOptionsExt as _;
        options.custom_flags(rustix::fs::OFlags::NONBLOCK.bits().cast_signed());
    }
    let file = options.read(true).open(path)?;
    // Of the opened file, which is the one that is read.
    let kind = file.metadata()?.file_type();
    if kind.is_file() || is_device(kind) {
        Ok(file)
    } else {
        Err(io::Error::new(io::ErrorKind::InvalidInput, "it is no plain file"))
    }
}

/// Whether it is a device such as /dev/null, which stands for an empty file.
fn is_device(kind: FileType) -> bool {
    #[cfg(unix)]
    {
        use std::os::unix::fs::FileTypeExt as _;
        kind.is_char_device()
    }
    #[cfg(not(unix))]
    {
        let _ = kind;
        false
    }
}

/// The bytes of the file at `path`, at most `max` of them; none when there is no file.
///
/// # Errors
///
/// When it is no plain file, for instance a pipe that would be waited for, or the system refuses.
pub(crate) fn read(path: &Path, max: u64) -> io::Result<Option<Vec<u8>>> {
    let file = match open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    let mut bytes = Vec::new();
    file.take(max).read_to_end(&mut bytes)?;
    Ok(Some(bytes))
}

/// Writes `content` over the file `name` in `directory`, which must be as long: for a disk without room for another file. A
/// loss of power may leave a part of each, unless both are within one sector.
///
/// # Errors
///
/// When there is no such file, or the system refuses to write.
pub(crate) fn overwrite(directory: &Path, name: &str, content: &[u8]) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).open(directory.join(name))?;
    if file.metadata()?.len() != content.len() as u64 {
        return Err(io::ErrorKind::InvalidData.into());
    }
    file.write_all(content)?;
    file.sync_data()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_file_is_replaced_and_nothing_else_is_left() {
        let directory = tempfile::tempdir().unwrap();
        let state = directory.path().join("not/there/yet");
        fs::create_dir_all(&state).unwrap();
        fs::write(state.join("name.new"), "cut").unwrap();
        for content in [b"first".as_slice(), b"", b"the third"] {
            replace(&state, "name", content).unwrap();
            assert_eq!(fs::read(state.join("name")).unwrap(), content);
            assert_eq!(fs::read_dir(&state).unwrap().count(), 1);
        }
    }

    #[test]
    fn the_old_file_stays_when_the_new_one_cannot_be_written() {
        let directory = tempfile::tempdir().unwrap();
        replace(directory.path(), "name", b"old").unwrap();
        // A directory in the place of the temporary file: it cannot be created.
        fs::create_dir(directory.path().join("name.new")).unwrap();
        assert!(replace(directory.path(), "name", b"new").is_err());
        assert_eq!(fs::read(directory.path().join("name")).unwrap(), b"old");
    }

    #[cfg(unix)]
    #[test]
    fn a_pipe_is_never_waited_for() {
        use rustix::fs::{CWD, Mode, mkfifoat};
        let directory = tempfile::tempdir().unwrap();
        let pipe = directory.path().join("name.new");
        mkfifoat(CWD, &pipe, Mode::RUSR | Mode::WUSR).unwrap();
        assert_eq!(open(&pipe).unwrap_err().kind(), io::ErrorKind::InvalidInput);
        assert_eq!(read(&pipe, 10).unwrap_err().kind(), io::ErrorKind::InvalidInput);
        replace(directory.path(), "name", b"new").unwrap();
        assert_eq!(read(&directory.path().join("name"), 10).unwrap().unwrap(), b"new");
        assert_eq!(read(Path::new("/dev/null"), 10).unwrap().unwrap(), b"");
    }
}
