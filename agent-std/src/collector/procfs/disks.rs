//! The counters of block devices that have mounted file systems, from `/proc/diskstats` and the mount table.
//!
//! The kernel counts a transfer at each layer: the partition and its disk, the logical volume and what is below it. A
//! file system lies on one of them, so those that are mounted count each transfer once.

use std::fs;
use std::ops::ControlFlow;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::str;
use std::time::{Duration, Instant};

use crate::collector::host::Each;
use crate::collector::procfs::file::{Buffer, ProcFile};
use crate::collector::procfs::text::{number, words};
use crate::collector::rate::Counts;

/// The unit of the kernel's counters on every device (Documentation/admin-guide/iostats.rst of the kernel).
const SECTOR_BYTES: u64 = 512;

/// The kernel tells of each change to the mount table; where an imitation of it does not, it is read after this.
const LOOK_AFTER: Duration = Duration::from_secs(60);

/// The block devices of a host.
#[derive(Debug)]
pub(super) struct Disks {
    stats: ProcFile,
    mounts: ProcFile,
    dev_dir: PathBuf,
    /// The devices of mounted file systems as `stats` names them, sorted.
    mounted: Vec<Box<[u8]>>,
    looked_at: Option<Instant>,
}

impl Disks {
    /// Those of the `/proc` and the `/dev` that are named.
    pub(super) fn new(proc_dir: &Path, dev_dir: PathBuf) -> Self {
        Self {
            stats: ProcFile::new(proc_dir.join("diskstats")),
            mounts: ProcFile::new(proc_dir.join("mounts")),
            dev_dir,
            mounted: Vec::new(),
            looked_at: None,
        }
    }

    /// Tells `each` of the devices that are mounted.
    pub(super) fn read(&mut self, now: Instant, buffer: &mut Buffer, each: Each<'_>) -> Option<()> {
        self.look_at_mounts(now, buffer)?;
        self.stats.read_lines(buffer, |line| {
            if let Some((name, counts)) = parse(line)
                && self.mounted.binary_search_by(|mounted| (**mounted).cmp(name)).is_ok()
            {
                each(name, counts);
            }
            ControlFlow::Continue(())
        })
    }

    fn look_at_mounts(&mut self, now: Instant, buffer: &mut Buffer) -> Option<()> {
        let is_recent = |at| now.saturating_duration_since(at) < LOOK_AFTER;
        // Asked each time, because the answer is about the time since the last question.
        let has_changed = self.mounts.has_changed();
        if !has_changed && self.looked_at.is_some_and(is_recent) {
            return Some(());
        }
        // Until it is read to its end, it was not looked at.
        self.looked_at = None;
        self.mounted.clear();
        let Self { mounts, mounted, dev_dir, .. } = self;
        mounts.read_lines(buffer, |line| {
            mounted.extend(mounted_device(line).and_then(|device| name_in_stats(device, dev_dir)));
            ControlFlow::Continue(())
        })?;
        self.mounted.sort_unstable();
        self.mounted.dedup();
        self.looked_at = Some(now);
        Some(())
    }
}

/// The device that a line of the mount table is about (proc_pid_mounts(5)); none of what is not counted. That is the
/// choice that sysinfo makes, as far as it is about block devices.
fn mounted_device(line: &[u8]) -> Option<&Path> {
    let mut words = words(line);
    let (device, mount_point, file_system) = (words.next()?, words.next()?, words.next()?);
    // Images that are read only, most of them of packages.
    let is_image = matches!(file_system, b"squashfs" | b"iso9660");
    let is_of_system = [&b"/sys"[..], b"/proc"].iter().any(|it| mount_point.starts_with(it))
        || mount_point.starts_with(b"/run") && !mount_point.starts_with(b"/run/media");
    if is_image || is_of_system {
        return None;
    }
    Some(Path::new(str::from_utf8(device).ok()?)).filter(|device| device.is_absolute())
}

/// A device may be mounted by a link, such as those in `/dev/mapper` and `/dev/disk`.
fn name_in_stats(device: &Path, dev_dir: &Path) -> Option<Box<[u8]>> {
    let device = fs::canonicalize(device).ok()?;
    Some(device.strip_prefix(dev_dir).ok()?.as_os_str().as_bytes().into())
}

/// The name, and the bytes read and written. The line is `MAJOR MINOR NAME`, and the numbers that iostats.rst lists.
fn parse(line: &[u8]) -> Option<(&[u8], Counts)> {
    let mut words = words(line);
    let name = words.nth(2)?;
    let read = number(words.nth(2)?)?;
    let written = number(words.nth(3)?)?;
    Some((name, [read, written].map(|sectors| sectors.saturating_mul(SECTOR_BYTES))))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;
    use crate::collector::procfs::file::BUFFER_BYTES;

    #[test]
    fn sectors_are_the_sixth_and_the_tenth_word() {
        let line = b" 254       0 vda 6461856 177392 290907586 22505615 7266347 1585635 1310604400 9797595 0";
        let expected = [290_907_586 * 512, 1_310_604_400 * 512];
        assert_eq!(parse(line), Some((&b"vda"[..], expected)));
        assert_eq!(parse(b"1 2 sda 4 5 6 7 8 9 10"), Some((&b"sda"[..], [6 * 512, 10 * 512])));
        for garbage in ["", "1 2 sda", "1 2 sda 4 5 6 7 8 9", "1 2 sda 4 5 x 7 8 9 10"] {
            assert_eq!(parse(garbage.as_bytes()), None, "{garbage}");
        }
        let most = format!("1 2 sda 4 5 {0} 7 8 9 10", u64::MAX);
        assert_eq!(parse(most.as_bytes()), Some((&b"sda"[..], [u64::MAX, 5120])));
    }

    #[test]
    fn only_file_systems_on_devices_count() {
        let check = |line: &str, expected: Option<&str>| {
            assert_eq!(mounted_device(line.as_bytes()), expected.map(Path::new), "{line}");
        };
        check("/dev/sda1 / ext4 rw 0 0", Some("/dev/sda1"));
        check("/dev/sdb1 /run/media/user/stick vfat rw 0 0", Some("/dev/sdb1"));
        check("/dev/sdb1 /run/thing vfat rw 0 0", None);
        check("/dev/loop3 /snap/core/1 squashfs ro 0 0", None);
        check("/dev/sr0 /mnt iso9660 ro 0 0", None);
        check("/dev/sda3 /sys/odd ext4 rw 0 0", None);
        check("tmpfs /tmp tmpfs rw 0 0", None);
        check("server:/home /home nfs rw 0 0", None);
        check("overlay / overlay rw,lowerdir=/dev/x 0 0", None);
        check("/dev/sda1 /", None);
        check("", None);
    }

    struct Host {
        directory: tempfile::TempDir,
        disks: Disks,
        start: Instant,
    }

    impl Host {
        fn new() -> Self {
            let directory = tempfile::tempdir().unwrap();
            let dev_dir = fs::canonicalize(directory.path()).unwrap().join("dev");
            fs::create_dir(&dev_dir).unwrap();
            let disks = Disks::new(directory.path(), dev_dir);
            Self { directory, disks, start: Instant::now() }
        }

        fn write(&self, file: &str, text: &str) {
            // DEV is the directory of the devices.
            let text = text.replace("DEV", self.disks.dev_dir.to_str().unwrap());
            fs::write(self.directory.path().join(file), text).unwrap();
        }

        fn check(&mut self, after_s: u64, expected: Option<&[(&str, u64)]>) {
            let mut found = Vec::new();
            let now = self.start + Duration::from_secs(after_s);
            let read = self.disks.read(now, &mut [0; BUFFER_BYTES], &mut |name, [read, _]| {
                found.push((str::from_utf8(name).unwrap().to_owned(), read / 512));
            });
            let found = found.iter().map(|(name, sectors)| (name.as_str(), *sectors));
            assert_eq!(read.map(|()| found.collect::<Vec<_>>()).as_deref(), expected);
        }
    }

    #[test]
    fn a_device_counts_once_whatever_it_is_called_and_however_often_it_is_mounted() {
        let mut host = Host::new();
        for device in ["sda", "sda1", "dm-0"] {
            host.write(&format!("dev/{device}"), "");
        }
        fs::create_dir(host.disks.dev_dir.join("mapper")).unwrap();
        symlink("../dm-0", host.disks.dev_dir.join("mapper/root")).unwrap();
        host.write(
            "mounts",
            "DEV/mapper/root / ext4 rw\nDEV/sda1 /boot ext4 rw\nDEV/dm-0 /mnt ext4 rw\n\
             DEV/sda1 /efi ext4 rw\nDEV/gone /gone ext4 rw\nnone / tmpfs rw\n",
        );
        let stats = "8 0 sda 1 1 90 1 1 1 1\n8 1 sda1 1 1 30 1 1 1 1\n253 0 dm-0 1 1 60 1 1 1 1\n";
        host.write("diskstats", stats);
        host.check(0, Some(&[("sda1", 30), ("dm-0", 60)]));
    }

    #[test]
    fn hosts_without_the_files_have_no_counters() {
        let mut host = Host::new();
        host.check(0, None);
        host.write("mounts", "overlay / overlay rw\n");
        host.check(1, None);
        host.write("diskstats", "8 0 sda 1 1 90 1 1 1 1\n");
        host.check(2, Some(&[]));
    }

    #[test]
    fn mounts_are_looked_at_again() {
        let mut host = Host::new();
        host.write("dev/sda", "");
        host.write("dev/sdb", "");
        host.write("diskstats", "8 0 sda 1 1 1 1 1 1 1\n8 16 sdb 1 1 2 1 1 1 1\n");
        host.write("mounts", "DEV/sda / ext4 rw\n");
        host.check(0, Some(&[("sda", 1)]));
        // No kernel tells of a change to this one.
        host.write("mounts", "DEV/sdb / ext4 rw\n");
        host.check(59, Some(&[("sda", 1)]));
        host.check(60, Some(&[("sdb", 2)]));
    }

    #[test]
    fn more_devices_than_the_buffer_holds_all_count() {
        let mut host = Host::new();
        let numbers = 0..500_u64;
        let (mut mounts, mut stats) = (String::new(), String::new());
        for number in numbers.clone() {
            host.write(&format!("dev/disk{number}"), "");
            mounts += &format!("DEV/disk{number} /mnt/{number} ext4 rw\n");
            stats += &format!("8 {number} disk{number} 1 1 {number} 1 1 1 1 0 0 0 0 0 0 0 0\n");
        }
        assert!(4 * BUFFER_BYTES < stats.len());
        host.write("mounts", &mounts);
        host.write("diskstats", &stats);
        let names = numbers.map(|number| (format!("disk{number}"), number)).collect::<Vec<_>>();
        let expected = names.iter().map(|(name, number)| (name.as_str(), *number));
        host.check(0, Some(&expected.collect::<Vec<_>>()));
    }
}
