//! What a running process has used so far and holds now, as Linux tells of it in `/proc`.

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context as _;

/// What a process has used since it started, all of its threads together. Those that have ended are not counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Usage {
    /// On a processor, in the program and in the kernel.
    pub(super) cpu: Duration,
    /// How often a thread went to sleep, and so was woken later.
    pub(super) voluntary_switches: u64,
    /// How often a thread had to make room for another.
    pub(super) involuntary_switches: u64,
}

/// What a process holds, in bytes but for the last.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Holdings {
    pub(super) rss: u64,
    /// Its share of what it has in common with others.
    pub(super) pss: u64,
    /// What no file is behind: heap, stacks, data that was written to.
    pub(super) anonymous: u64,
    /// The most that `rss` has been.
    pub(super) peak_rss: u64,
    pub(super) descriptors: u64,
}

/// A process in `/proc`.
#[derive(Clone, Debug)]
pub(super) struct Observed {
    directory: PathBuf,
}

impl Observed {
    pub(super) fn new(process: u32) -> Self {
        Self { directory: Path::new("/proc").join(process.to_string()) }
    }

    /// # Errors
    ///
    /// When the process is gone, or the system has no such files.
    pub(super) fn usage(&self) -> anyhow::Result<Usage> {
        let mut usage = Usage::default();
        let mut threads = 0_usize;
        let tasks = self.directory.join("task");
        let entries = fs::read_dir(&tasks).with_context(|| tasks.display().to_string())?;
        for entry in entries {
            let task = entry?.path();
            // It may have ended since the directory was read.
            let (Some(schedstat), Some(status)) =
                (read_of_thread(&task.join("schedstat"))?, read_of_thread(&task.join("status"))?)
            else {
                continue;
            };
            threads += 1;
            let nanoseconds = schedstat.split_ascii_whitespace().next();
            let nanoseconds = nanoseconds.and_then(|number| number.parse().ok());
            let nanoseconds = nanoseconds.context("schedstat does not start with a number")?;
            usage.cpu += Duration::from_nanos(nanoseconds);
            usage.voluntary_switches += number(&status, "voluntary_ctxt_switches:")?;
            usage.involuntary_switches += number(&status, "nonvoluntary_ctxt_switches:")?;
        }
        anyhow::ensure!(0 < threads, "{} has no threads: it has ended", self.directory.display());
        Ok(usage)
    }

    /// # Errors
    ///
    /// As [`Observed::usage`].
    pub(super) fn holdings(&self) -> anyhow::Result<Holdings> {
        let rollup = read(&self.directory.join("smaps_rollup"))?;
        let status = read(&self.directory.join("status"))?;
        let open = self.directory.join("fd");
        let open = fs::read_dir(&open).with_context(|| open.display().to_string())?;
        // The kernel writes kB and means 1024 bytes.
        Ok(Holdings {
            rss: 1024 * number(&rollup, "Rss:")?,
            pss: 1024 * number(&rollup, "Pss:")?,
            anonymous: 1024 * number(&rollup, "Anonymous:")?,
            peak_rss: 1024 * number(&status, "VmHWM:")?,
            descriptors: u64::try_from(open.count())?,
        })
    }
}

fn read(path: &Path) -> anyhow::Result<String> {
    fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))
}

/// A file of a thread; none when the thread has ended, which Linux says in one of two ways.
fn read_of_thread(path: &Path) -> anyhow::Result<Option<String>> {
    const ESRCH: i32 = 3;
    match fs::read_to_string(path) {
        Ok(text) => Ok(Some(text)),
        Err(error)
            if error.kind() == ErrorKind::NotFound || error.raw_os_error() == Some(ESRCH) =>
        {
            Ok(None)
        }
        Err(error) => Err(error).with_context(|| format!("cannot read {}", path.display())),
    }
}

/// The number of the line that begins with `key`.
fn number(text: &str, key: &str) -> anyhow::Result<u64> {
    let rest = text.lines().find_map(|line| line.strip_prefix(key));
    let number = rest.and_then(|rest| rest.split_ascii_whitespace().next()?.parse().ok());
    number.with_context(|| format!("there is no number after {key:?}"))
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};
    use std::thread;

    use super::*;

    #[test]
    fn a_number_stands_after_its_key_at_the_start_of_a_line() {
        let text =
            "nonvoluntary_ctxt_switches:\t7\nvoluntary_ctxt_switches:\t 5\nRss:   12 kB\nPss: x\n";
        assert_eq!(number(text, "voluntary_ctxt_switches:").unwrap(), 5);
        assert_eq!(number(text, "Rss:").unwrap(), 12);
        assert!(number(text, "Pss:").is_err());
        assert!(number(text, "Anonymous:").is_err());
    }

    #[test]
    fn this_process_is_seen_to_work_and_to_hold() {
        let process = Observed::new(std::process::id());
        let before = process.usage().unwrap();
        let memory = vec![1_u8; 4 << 20];
        let held = process.holdings().unwrap();
        assert!(4 << 20 <= held.anonymous, "{held:?}");
        assert!(held.anonymous <= held.rss, "{held:?}");
        assert!(held.rss <= held.peak_rss, "{held:?}");
        assert!(3 <= held.descriptors, "{held:?}");
        // Other tests of this process may end threads; this one goes on.
        let sum: u64 = memory.iter().map(|byte| u64::from(*byte)).sum();
        assert_eq!(sum, 4 << 20);
        assert!(0 < before.cpu.as_nanos(), "{before:?}");
    }

    #[test]
    fn threads_that_end_meanwhile_do_no_harm() {
        let process = Observed::new(std::process::id());
        let ended = AtomicBool::new(false);
        thread::scope(|scope| {
            scope.spawn(|| {
                while !ended.load(Ordering::Relaxed) {
                    thread::scope(|short| {
                        short.spawn(|| {});
                    });
                }
            });
            let outcomes: Vec<_> = (0..200).map(|_| process.usage()).collect();
            ended.store(true, Ordering::Relaxed);
            for outcome in outcomes {
                outcome.unwrap();
            }
        });
    }

    #[test]
    fn a_process_that_is_gone_is_an_error() {
        // Above the highest number that Linux gives out.
        let process = Observed::new(u32::MAX);
        assert!(process.usage().is_err());
        assert!(process.holdings().is_err());
    }
}
