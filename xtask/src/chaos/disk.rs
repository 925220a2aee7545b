//! A small disk of its own for one directory, so that it can be full: a tmpfs, which takes the right to mount.

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, ensure};
use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};

/// What takes the room of others; no program here looks at it.
const BALLAST: &str = "chaos-ballast";

/// Where the kernel says what is mounted.
const MOUNTS: &str = "/proc/self/mounts";

/// A mounted tmpfs. Dropping it unmounts it, with all that is on it.
#[derive(Debug)]
pub(super) struct Disk {
    directory: PathBuf,
}

impl Disk {
    /// Mounts one over `directory`, which is created.
    ///
    /// # Errors
    ///
    /// When this process may not mount.
    pub(super) fn mount(directory: &Path, kibibytes: u32) -> anyhow::Result<Self> {
        fs::create_dir_all(directory)
            .with_context(|| format!("cannot create {}", directory.display()))?;
        let options = std::ffi::CString::new(format!("size={kibibytes}k,mode=0700"))?;
        mount("tmpfs", directory, "tmpfs", MountFlags::NODEV | MountFlags::NOSUID, &*options)
            .with_context(|| format!("cannot mount a tmpfs on {}", directory.display()))?;
        Ok(Self { directory: directory.to_path_buf() })
    }

    /// Leaves no byte for anybody.
    ///
    /// # Errors
    ///
    /// When it does not become full.
    pub(super) fn fill(&self) -> anyhow::Result<()> {
        let mut ballast = File::options()
            .append(true)
            .create(true)
            .open(self.ballast())
            .context("cannot create the ballast")?;
        // Large pieces first; what they leave is taken by small ones.
        for piece in [1 << 16, 1 << 12, 1] {
            let zeros = vec![0; piece];
            loop {
                match ballast.write_all(&zeros) {
                    Ok(()) => {}
                    Err(error) if error.kind() == io::ErrorKind::StorageFull => break,
                    Err(error) => return Err(error).context("cannot fill the disk"),
                }
            }
        }
        ensure!(self.is_full()?, "{} has room still", self.directory.display());
        Ok(())
    }

    /// Gives the room back.
    pub(super) fn free(&self) -> anyhow::Result<()> {
        fs::remove_file(self.ballast()).context("cannot remove the ballast")
    }

    /// Whether there is no room for a block.
    pub(super) fn is_full(&self) -> anyhow::Result<bool> {
        Ok(rustix::fs::statvfs(&self.directory)?.f_bavail == 0)
    }

    fn ballast(&self) -> PathBuf {
        self.directory.join(BALLAST)
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        // Detached: a process that is being killed may have a file open still.
        unmount(&self.directory, UnmountFlags::DETACH).ok();
    }
}

/// Unmounts what a run that was killed has left below `directory`.
pub(super) fn clear(directory: &Path) -> anyhow::Result<()> {
    let mounts = fs::read(MOUNTS).with_context(|| format!("cannot read {MOUNTS}"))?;
    for point in mount_points(&mounts).filter(|point| point.starts_with(directory)) {
        unmount(&point, UnmountFlags::DETACH)
            .with_context(|| format!("cannot unmount {}", point.display()))?;
    }
    Ok(())
}

/// The second word of each line. A name with a space is escaped there; such a one is not found, and is left mounted.
fn mount_points(mounts: &[u8]) -> impl Iterator<Item = PathBuf> {
    let words = |line: &'_ [u8]| -> Option<PathBuf> {
        let point = line.split(|byte| *byte == b' ').nth(1)?;
        Some(PathBuf::from(std::ffi::OsStr::from_bytes(point)))
    };
    mounts.split(|byte| *byte == b'\n').filter_map(words).collect::<Vec<_>>().into_iter()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mount_points_are_the_second_word() {
        let mounts = b"proc /proc proc rw 0 0\ntmpfs /a/b tmpfs rw,size=4k 0 0\n";
        let points: Vec<PathBuf> = mount_points(mounts).collect();
        assert_eq!(points, [Path::new("/proc"), Path::new("/a/b")]);
    }

    #[test]
    fn a_disk_is_filled_and_freed() {
        let directory = tempfile::tempdir().unwrap();
        // Where mounting is not permitted there is nothing to test; a run says so aloud.
        let Ok(disk) = Disk::mount(directory.path(), 256) else { return };
        let file = directory.path().join("file");
        fs::write(&file, "fits").unwrap();
        disk.fill().unwrap();
        let error = fs::write(directory.path().join("more"), vec![1; 10_000]).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::StorageFull);
        disk.free().unwrap();
        assert!(!disk.is_full().unwrap());
        fs::write(&file, vec![1; 10_000]).unwrap();

        // As after a run that could not clean up.
        std::mem::forget(disk);
        clear(directory.path()).unwrap();
        assert!(!file.exists());
    }
}
