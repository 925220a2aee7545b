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
    mounted: Mounted,
    looked_at: Option<Instant>,
}

/// The devices that file systems lie on.
#[derive(Debug, Default)]
struct Mounted {
    /// Sorted.
    numbers: Vec<DeviceNumber>,
    /// Of those without a number, as `diskstats` calls them; sorted.
    names: Vec<Box<[u8]>>,
}

/// The major and the minor number.
type DeviceNumber = [u64; 2];

impl Disks {
    /// Those of the `/proc` and the `/dev` that are named.
    pub(super) fn new(proc_dir: &Path, dev_dir: PathBuf) -> Self {
        Self {
            stats: ProcFile::with_short_lines(proc_dir.join("diskstats")),
            mounts: ProcFile::new(proc_dir.join("self/mountinfo")),
            dev_dir,
            mounted: Mounted::default(),
            looked_at: None,
        }
    }

    /// Tells `each` of the devices that are mounted.
    pub(super) fn read(&mut self, now: Instant, buffer: &mut Buffer, each: Each<'_>) -> Option<()> {
        self.look_at_mounts(now, buffer)?;
        let mut any = None;
        self.stats.read_lines(buffer, |line| {
            if let Some(device) = Device::parse(line) {
                any = Some(());
                if self.mounted.contains(&device) {
                    each(device.name, device.counts);
                }
            }
            ControlFlow::Continue(())
        })?;
        self.stats.understood(any)
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
        self.mounted = Mounted::default();
        let Self { mounts, mounted, dev_dir, .. } = self;
        // Each host has a root.
        let mut any = None;
        mounts.read_lines(buffer, |line| {
            any = mounted.add(line, dev_dir).or(any);
            ControlFlow::Continue(())
        })?;
        mounts.understood(any)?;
        self.mounted.sort();
        self.looked_at = Some(now);
        Some(())
    }
}

impl Mounted {
    /// Adds the device of a line of the mount table, which is `ID PARENT MAJOR:MINOR ROOT MOUNT_POINT OPTIONS`, any number
    /// of words, and `- FILE_SYSTEM SOURCE` (proc_pid_mountinfo(5)). What is left out is what sysinfo leaves out, as far as
    /// it is on block devices. None when it is no such line.
    fn add(&mut self, line: &[u8], dev_dir: &Path) -> Option<()> {
        let mut words = words(line);
        let (device, mount_point) = (words.nth(2)?, words.nth(1)?);
        let mut parts = device.split(|byte| *byte == b':').map(number);
        let number = [parts.next()??, parts.next()??];
        let mut words = words.skip_while(|word| *word != b"-").skip(1);
        let file_system = words.next().unwrap_or_default();
        // Images that are read only, most of them of packages.
        let is_image = matches!(file_system, b"squashfs" | b"iso9660");
        let is_of_system = [&b"/sys"[..], b"/proc"].iter().any(|it| mount_point.starts_with(it))
            || mount_point.starts_with(b"/run") && !mount_point.starts_with(b"/run/media");
        match number {
            _ if is_image || is_of_system => {}
            // File systems that may lie on several devices, such as btrfs, and those that lie on none.
            [0, _] => {
                self.names.extend(words.next().and_then(|source| name_in_stats(source, dev_dir)));
            }
            number => self.numbers.push(number),
        }
        Some(())
    }

    /// Of each device one place is enough, and in order it is found faster.
    fn sort(&mut self) {
        self.numbers.sort_unstable();
        self.numbers.dedup();
        self.names.sort_unstable();
        self.names.dedup();
    }

    fn contains(&self, device: &Device<'_>) -> bool {
        self.numbers.binary_search(&device.number).is_ok()
            || self.names.binary_search_by(|name| (**name).cmp(device.name)).is_ok()
    }
}

/// A device may be mounted by a link, such as those in `/dev/mapper` and `/dev/disk`.
fn name_in_stats(source: &[u8], dev_dir: &Path) -> Option<Box<[u8]>> {
    let source = Path::new(str::from_utf8(source).ok()?);
    if !source.is_absolute() {
        return None;
    }
    let device = fs::canonicalize(source).ok()?;
    Some(device.strip_prefix(dev_dir).ok()?.as_os_str().as_bytes().into())
}

/// What `diskstats` says of a device.
#[derive(Debug, PartialEq, Eq)]
struct Device<'a> {
    number: DeviceNumber,
    name: &'a [u8],
    /// Bytes read and written.
    counts: Counts,
}

impl<'a> Device<'a> {
    /// Reads the line `MAJOR MINOR NAME` and the numbers that iostats.rst lists.
    fn parse(line: &'a [u8]) -> Option<Self> {
        let mut words = words(line);
        let number_of_device = [number(words.next()?)?, number(words.next()?)?];
        let name = words.next()?;
        let read = number(words.nth(2)?)?;
        let written = number(words.nth(3)?)?;
        let counts = [read, written].map(|sectors| sectors.saturating_mul(SECTOR_BYTES));
        Some(Self { number: number_of_device, name, counts })
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;
    use crate::collector::procfs::file::BUFFER_BYTES;

    #[test]
    fn sectors_are_the_sixth_and_the_tenth_word() {
        let check = |line: &str, expected: Option<(DeviceNumber, &str, Counts)>| {
            let expected = expected.map(|(number, name, counts)| {
                let counts = counts.map(|sectors| sectors.saturating_mul(512));
                Device { number, name: name.as_bytes(), counts }
            });
            assert_eq!(Device::parse(line.as_bytes()), expected, "{line}");
        };
        check(
            " 254       0 vda 6461856 177392 290907586 22505615 7266347 1585635 1310604400 9797595 0",
            Some(([254, 0], "vda", [290_907_586, 1_310_604_400])),
        );
        check("1 2 sda 4 5 6 7 8 9 10", Some(([1, 2], "sda", [6, 10])));
        for garbage in ["", "1 2 sda", "1 2 sda 4 5 6 7 8 9", "1 2 sda 4 5 x 7 8 9 10"] {
            check(garbage, None);
        }
        let most = format!("1 2 sda 4 5 {0} 7 8 9 10", u64::MAX);
        check(&most, Some(([1, 2], "sda", [u64::MAX, 10])));
    }

    #[test]
    fn only_file_systems_on_devices_count() {
        let check = |line: &str, expected: &[DeviceNumber]| {
            let mut mounted = Mounted::default();
            mounted.add(line.as_bytes(), Path::new("/dev"));
            assert_eq!((&*mounted.numbers, mounted.names.len()), (expected, 0), "{line}");
        };
        check("22 1 8:1 / / rw shared:1 - ext4 /dev/sda1 rw", &[[8, 1]]);
        check("22 1 8:1 / / rw - ext4 /dev/not/in/this/container rw", &[[8, 1]]);
        check("22 1 8:17 / /run/media/user/stick rw - vfat /dev/sdb1 rw", &[[8, 17]]);
        check("22 1 8:17 / /run/thing rw - vfat /dev/sdb1 rw", &[]);
        check("22 1 7:3 / /snap/core/1 ro - squashfs /dev/loop3 ro", &[]);
        check("22 1 11:0 / /mnt ro - iso9660 /dev/sr0 ro", &[]);
        check("22 1 8:3 / /sys/odd rw - ext4 /dev/sda3 rw", &[]);
        check("22 1 0:30 / /tmp rw - tmpfs tmpfs rw", &[]);
        check("22 1 0:31 / /home rw - nfs server:/home rw", &[]);
        check("22 1 0:32 / / rw - overlay overlay rw,lowerdir=/dev/x", &[]);
        // A line that was cut.
        check("22 1 8:1 /a /very/long/path", &[[8, 1]]);
        for garbage in ["", "22 1 8:1 /", "22 1 8 / / rw - ext4 /dev/sda1", "22 1 x:y / / rw - a b"]
        {
            check(garbage, &[]);
        }
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
            fs::create_dir(directory.path().join("self")).unwrap();
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
        for device in ["sda", "sda1", "sdb", "dm-0"] {
            host.write(&format!("dev/{device}"), "");
        }
        fs::create_dir(host.disks.dev_dir.join("mapper")).unwrap();
        symlink("../dm-0", host.disks.dev_dir.join("mapper/root")).unwrap();
        host.write(
            "self/mountinfo",
            "1 1 8:1 / /boot rw - ext4 DEV/sda1 rw\n2 1 8:1 / /efi rw - ext4 DEV/sda1 rw\n\
             3 1 0:40 / / rw - btrfs DEV/mapper/root rw\n4 1 0:41 / /home rw - btrfs DEV/dm-0 rw\n\
             5 1 0:42 / /gone rw - btrfs DEV/gone rw\n6 1 0:43 / /tmp rw - tmpfs sdb rw\n",
        );
        let stats = "8 0 sda 1 1 90 1 1 1 1\n8 1 sda1 1 1 30 1 1 1 1\n8 16 sdb 1 1 70 1 1 1 1\n\
                     253 0 dm-0 1 1 60 1 1 1 1\n";
        host.write("diskstats", stats);
        host.check(0, Some(&[("sda1", 30), ("dm-0", 60)]));
    }

    #[test]
    fn hosts_without_the_files_have_no_counters() {
        let mut host = Host::new();
        host.check(0, None);
        host.write("self/mountinfo", "1 1 0:40 / / rw - overlay overlay rw\n");
        host.check(1, None);
        host.write("diskstats", "8 0 sda 1 1 90 1 1 1 1\n");
        host.check(2, Some(&[]));
    }

    #[test]
    fn mounts_are_looked_at_again() {
        let mut host = Host::new();
        host.write("diskstats", "8 0 sda 1 1 1 1 1 1 1\n8 16 sdb 1 1 2 1 1 1 1\n");
        host.write("self/mountinfo", "1 1 8:0 / / rw - ext4 DEV/sda rw\n");
        host.check(0, Some(&[("sda", 1)]));
        // No kernel tells of a change to this one.
        host.write("self/mountinfo", "1 1 8:16 / / rw - ext4 DEV/sdb rw\n");
        host.check(59, Some(&[("sda", 1)]));
        host.check(60, Some(&[("sdb", 2)]));
    }

    #[test]
    fn more_devices_than_the_buffer_holds_all_count() {
        let mut host = Host::new();
        let numbers = 0..500_u64;
        let (mut mounts, mut stats) = (String::new(), String::new());
        for number in numbers.clone() {
            mounts += &format!("1 1 8:{number} / /mnt/{number} rw - ext4 DEV/disk{number} rw\n");
            stats += &format!("8 {number} disk{number} 1 1 {number} 1 1 1 1 0 0 0 0 0 0 0 0\n");
        }
        assert!(4 * BUFFER_BYTES < stats.len());
        host.write("self/mountinfo", &mounts);
        host.write("diskstats", &stats);
        let names = numbers.map(|number| (format!("disk{number}"), number)).collect::<Vec<_>>();
        let expected = names.iter().map(|(name, number)| (name.as_str(), *number));
        host.check(0, Some(&expected.collect::<Vec<_>>()));
    }
}
