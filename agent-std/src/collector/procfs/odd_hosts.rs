//! Tests of hosts that lack what others have: what is missing is absent, never 0, and is said once.

use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use agent_core::metric::{Metric, MetricSet, MetricSwitch, Values};

use super::*;
use crate::collector::Collector as _;
use crate::collector::host::HostCollector;

/// Longer than the share of the processors wants between two readings.
const BETWEEN: Duration = Duration::from_millis(250);

const FILES: [(&str, &str); 6] = [
    ("stat", "cpu  100 0 100 800\n"),
    ("meminfo", "MemTotal: 1000 kB\nMemAvailable: 400 kB\nSwapTotal: 0 kB\nSwapFree: 0 kB\n"),
    ("loadavg", "1.00 2.00 3.00 1/2 3\n"),
    ("net/dev", "  lo: 7 1 0 0 0 0 0 0 7 1\neth0: 9 1 0 0 0 0 0 0 9 1\n"),
    ("diskstats", "   8       0 sda 1 0 8 0 1 0 8 0 0 0 0\n"),
    ("self/mountinfo", "1 1 8:0 / / rw - ext4 /dev/sda rw\n"),
];

/// A host whose files lie in a directory.
struct Host {
    directory: tempfile::TempDir,
    collector: HostCollector<Procfs>,
}

impl Host {
    /// One that lacks `missing`, and has no `/sys`.
    fn without(missing: &[&str]) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let source = Procfs::below(directory.path(), directory.path().join("dev"));
        let collector = HostCollector::below(source, &directory.path().join("sys/class"));
        let host = Self { directory, collector };
        for (name, content) in FILES.iter().filter(|(name, _)| !missing.contains(name)) {
            host.write(name, content);
        }
        host
    }

    fn write(&self, name: &str, content: &str) {
        let path = self.directory.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
    }

    /// The second of two measurements, with time and work between them.
    fn measure(&mut self) -> Values {
        self.collector.collect(MetricSet::ALL);
        std::thread::sleep(BETWEEN);
        if self.directory.path().join("stat").exists() {
            self.write("stat", "cpu  150 0 150 900\n");
        }
        self.collector.collect(MetricSet::ALL)
    }
}

fn metrics(switches: &[MetricSwitch]) -> MetricSet {
    let metrics = switches.iter().map(|switch| switch.metrics());
    metrics.fold(MetricSet::EMPTY, MetricSet::union)
}

/// What comes from the files of `/proc` alone.
const OF_PROC: [MetricSwitch; 8] = [
    MetricSwitch::Cpu,
    MetricSwitch::Memory,
    MetricSwitch::Swap,
    MetricSwitch::Load,
    MetricSwitch::DiskRead,
    MetricSwitch::DiskWrite,
    MetricSwitch::NetIn,
    MetricSwitch::NetOut,
];

#[test]
fn what_a_host_lacks_is_absent_and_all_else_is_there() {
    use MetricSwitch::{Cpu, DiskRead, DiskWrite, Load, Memory, NetIn, NetOut, Swap};
    let check = |missing: &str, absent: &[MetricSwitch]| {
        let found = Host::without(&[missing]).measure().present();
        let expected = metrics(&OF_PROC).difference(metrics(absent));
        assert_eq!(found.intersection(metrics(&OF_PROC)), expected, "without {missing}");
    };
    check("nothing", &[]);
    check("stat", &[Cpu]);
    check("meminfo", &[Memory, Swap]);
    check("loadavg", &[Load]);
    check("net/dev", &[NetIn, NetOut]);
    check("diskstats", &[DiskRead, DiskWrite]);
    check("self/mountinfo", &[DiskRead, DiskWrite]);
}

#[test]
fn a_host_without_sys_has_no_temperature_and_counts_its_interfaces() {
    let values = Host::without(&[]).measure();
    assert_eq!(values.get(Metric::Temperature), None);
    assert_eq!(values.get(Metric::NetIn), Some(0), "eth0 is there, and stands still");
}

#[test]
fn a_host_with_loopback_alone_has_rates_of_zero() {
    let mut host = Host::without(&[]);
    host.write("net/dev", "  lo: 7 1 0 0 0 0 0 0 7 1\n");
    host.collector.collect(MetricSet::ALL);
    std::thread::sleep(BETWEEN);
    host.write("net/dev", "  lo: 70000 1 0 0 0 0 0 0 70000 1\n");
    assert_eq!(host.collector.collect(MetricSet::ALL).get(Metric::NetIn), Some(0));
}

#[test]
fn a_disk_that_disappears_and_comes_back_makes_no_jump() {
    let mut host = Host::without(&[]);
    let stats = |sectors: u64| format!("   8       0 sda 1 0 {sectors} 0 1 0 8 0 0 0 0\n");
    let mut rate = |content: &str| {
        host.write("diskstats", content);
        std::thread::sleep(Duration::from_millis(5));
        host.collector.collect(MetricSet::ALL).get(Metric::DiskRead)
    };
    assert_eq!(rate(&stats(1 << 30)), None, "the first reading");
    assert_eq!(rate(&stats(1 << 30)), Some(0));
    assert!(rate(&stats((1 << 30) + 8)).is_some_and(|rate| 0 < rate));
    assert_eq!(rate("   8      16 sdb 1 0 8 0 1 0 8 0 0 0 0\n"), Some(0), "it was pulled");
    assert_eq!(rate(&stats(1 << 40)), Some(0), "another one, which has counted for long");
    assert_eq!(rate(&stats(4)), Some(0), "its counters were reset");
    assert_eq!(rate(&stats(u64::MAX)), None, "a driver gone mad");
    assert_eq!(rate(&stats(0)), Some(0), "they wrapped");
}

/// What is logged, in lines.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl Write for Log {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn logged(run: impl FnOnce()) -> Vec<String> {
    let log = Log::default();
    let writer = log.clone();
    let subscriber =
        tracing_subscriber::fmt().with_writer(move || writer.clone()).with_ansi(false).finish();
    tracing::subscriber::with_default(subscriber, run);
    let bytes = log.0.lock().unwrap().clone();
    String::from_utf8(bytes).unwrap().lines().map(str::to_owned).collect()
}

#[test]
fn what_is_missing_is_said_once_until_it_has_been_there() {
    let mut host = Host::without(&["diskstats"]);
    let said = logged(|| {
        for _ in 0..3 {
            host.collector.collect(MetricSet::ALL);
        }
    });
    assert_eq!(said.len(), 1, "{said:?}");
    assert!(said[0].contains("diskstats: what it says is left out"), "{said:?}");
    let said = logged(|| {
        host.write("diskstats", FILES[4].1);
        assert!(host.measure().get(Metric::DiskRead).is_some(), "it came later");
    });
    assert_eq!(said, Vec::<String>::new());
}

#[test]
fn a_file_with_nothing_in_it_is_as_one_that_is_missing() {
    use MetricSwitch::{Cpu, DiskRead, DiskWrite, Load, Memory, NetIn, NetOut, Swap};
    let headings = "Inter-|   Receive\n face |bytes    packets\n";
    let garbage = "\0\0\0\0\n?\n";
    let check = |file: &str, contents: &[&str], absent: &[MetricSwitch]| {
        for content in contents {
            let mut host = Host::without(&[file]);
            let said = logged(|| {
                host.write(file, content);
                // Twice more than `measure` does, so that what is said twice is found.
                host.collector.collect(MetricSet::ALL);
                std::thread::sleep(BETWEEN);
                let found = host.collector.collect(MetricSet::ALL);
                std::thread::sleep(BETWEEN);
                host.collector.collect(MetricSet::ALL);
                for metric in metrics(absent).iter() {
                    assert_eq!(found.get(metric), None, "{metric} of {file} {content:?}");
                }
            });
            assert_eq!(said.len(), 1, "{said:?}");
            let expected = format!("{file} is empty, or nothing in it is understood");
            assert!(said[0].contains(&expected), "{said:?}");
            host.write(file, FILES.iter().find(|(name, _)| *name == file).unwrap().1);
            let found = host.measure().present().intersection(metrics(&OF_PROC));
            assert_eq!(found, metrics(&OF_PROC), "{file} has come back");
        }
    };
    check("stat", &["", garbage], &[Cpu]);
    check("meminfo", &["", garbage], &[Memory, Swap]);
    check("loadavg", &["", garbage], &[Load]);
    check("net/dev", &["", garbage, headings], &[NetIn, NetOut]);
    check("diskstats", &["", garbage], &[DiskRead, DiskWrite]);
    check("self/mountinfo", &["", garbage], &[DiskRead, DiskWrite]);
}

#[test]
fn memory_that_is_told_in_part_is_measured_in_part() {
    use Metric::{MemoryPercent, MemoryTotal, MemoryUsed, SwapTotal, SwapUsed};
    let check = |content: &str, expected: [Option<i64>; 5]| {
        let mut host = Host::without(&["meminfo"]);
        host.write("meminfo", content);
        let found = host.collector.collect(MetricSet::ALL);
        let metrics = [MemoryPercent, MemoryUsed, MemoryTotal, SwapUsed, SwapTotal];
        assert_eq!(metrics.map(|metric| found.get(metric)), expected, "{content}");
    };
    check("MemTotal: 1 kB\n", [None, None, Some(1024), None, None]);
    check("MemTotal: 1 kB\nSwapTotal: 0 kB\n", [None, None, Some(1024), None, Some(0)]);
    check(
        "MemTotal: 1 kB\nMemAvailable: 0 kB\n",
        [Some(10_000), Some(1024), Some(1024), None, None],
    );
    check(
        "MemAvailable: 1 kB\nSwapTotal: 2 kB\nSwapFree: 1 kB\n",
        [None, None, None, Some(1024), Some(2048)],
    );
}

/// A process whose files in `/proc` vanish with it, at the latest when it is dropped.
struct Process(Child);

impl Process {
    fn start() -> Self {
        let mut sleep = Command::new("sleep");
        Self(sleep.arg("600").stdin(Stdio::null()).stdout(Stdio::null()).spawn().unwrap())
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.0.kill().ok();
        self.0.wait().ok();
    }
}

#[test]
fn a_file_that_vanishes_while_it_is_open_may_come_back() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("stat");
    let point_to = |process: &Process| {
        fs::remove_file(&path).ok();
        symlink(Path::new("/proc").join(process.0.id().to_string()).join("stat"), &path).unwrap();
    };
    let mut file = ProcFile::new(path.clone());
    let mut buffer = [0; BUFFER_BYTES];
    let mut is_read = || {
        let mut lines = 0;
        let read = file.read_lines(&mut buffer, |_| {
            lines += 1;
            ControlFlow::Continue(())
        });
        file.understood(read).map(|()| lines)
    };
    let first = Process::start();
    point_to(&first);
    let said = logged(|| {
        assert_eq!(is_read(), Some(1));
        drop(first);
        // The kernel answers ESRCH to a read of the open file.
        assert_eq!([is_read(), is_read(), is_read()], [None; 3]);
    });
    assert_eq!(said.len(), 1, "{said:?}");
    let second = Process::start();
    point_to(&second);
    let said = logged(|| {
        assert_eq!(is_read(), Some(1));
        drop(second);
        assert_eq!([is_read(), is_read()], [None; 2]);
    });
    assert_eq!(said.len(), 1, "what is lost again is said again: {said:?}");
}
