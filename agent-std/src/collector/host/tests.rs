use std::fs;
use std::time::Duration;

use agent_core::metric::MetricKind;

use super::*;
#[cfg(target_os = "linux")]
use crate::collector::procfs::Procfs;
use crate::collector::sysinfo::Sysinfo;

/// Longer than every source wants between two readings of the processors.
const CPU_INTERVAL: Duration = Duration::from_millis(250);

/// Runs `check` for each source of this system.
fn for_each_source(check: impl Fn(HostCollector<Box<dyn Source>>)) {
    #[cfg(target_os = "linux")]
    check(HostCollector::new(Box::new(Procfs::new())));
    check(HostCollector::new(Box::new(Sysinfo::new().unwrap())));
}

impl Source for Box<dyn Source> {
    fn cpu_percent(&mut self, now: Instant) -> Option<i64> {
        (**self).cpu_percent(now)
    }

    fn forget_cpu(&mut self) {
        (**self).forget_cpu();
    }

    fn memory(&mut self) -> Option<Memory> {
        (**self).memory()
    }

    fn load(&mut self) -> Option<[i64; 3]> {
        (**self).load()
    }

    fn disk_counters(&mut self, now: Instant, each: Each<'_>) -> Option<()> {
        (**self).disk_counters(now, each)
    }

    fn net_counters(&mut self, each: Each<'_>) -> Option<()> {
        (**self).net_counters(each)
    }
}

#[test]
fn a_share_has_a_total() {
    let mut values = Values::EMPTY;
    let metrics = [Metric::DiskPercent, Metric::DiskUsed, Metric::DiskTotal];
    set_share(&mut values, metrics, 0, 0);
    assert_eq!(values, Values::EMPTY);
    set_share(&mut values, metrics, 1, 3);
    assert_eq!(metrics.map(|metric| values.get(metric)), [Some(3_333), Some(1), Some(3)]);
}

#[test]
fn the_first_snapshot_has_no_rates_and_later_ones_have() {
    for_each_source(|mut collector| {
        let first = collector.collect(MetricSet::ALL);
        assert!(first.present().contains(Metric::MemoryTotal));
        for metric in Metric::ALL.into_iter().filter(|metric| metric.kind() == MetricKind::Rate) {
            assert_eq!(first.get(metric), None, "{metric}");
        }
        assert_eq!(first.get(Metric::CpuPercent), None);
        std::thread::sleep(CPU_INTERVAL);
        let second = collector.collect(MetricSet::ALL);
        // Not every host has a sensor; and how full the ring is only the core knows.
        let mut expected = MetricSet::ALL;
        expected.remove(Metric::AgentBuffer);
        expected.remove(Metric::Temperature);
        assert_eq!(expected.difference(second.present()), MetricSet::EMPTY);
        assert_eq!(second.get(Metric::AgentBuffer), None);
        for metric in [Metric::CpuPercent, Metric::MemoryPercent, Metric::DiskPercent] {
            let percent = second.get(metric).unwrap();
            assert!((0..=10_000).contains(&percent), "{metric}: {percent}");
        }
    });
}

#[test]
fn only_what_is_wanted_is_measured() {
    for_each_source(|mut collector| {
        let gauges = Metric::ALL.into_iter().filter(|metric| metric.kind() == MetricKind::Gauge);
        for metric in gauges {
            let wanted = MetricSet::from_iter([metric]);
            let present = collector.collect(wanted).present();
            match metric {
                // They need a second measurement, a sensor, the core.
                Metric::CpuPercent | Metric::Temperature | Metric::AgentBuffer => {
                    assert!(present.difference(wanted).is_empty(), "{present:?}");
                }
                _ => assert_eq!(present, wanted),
            }
        }
        assert_eq!(collector.collect(MetricSet::EMPTY), Values::EMPTY);
    });
}

#[test]
fn what_was_not_wanted_starts_afresh() {
    for_each_source(|mut collector| {
        let switches = [MetricSwitch::Agent, MetricSwitch::DiskRead, MetricSwitch::NetOut];
        for switch in switches {
            let wanted = switch.metrics();
            let metric = match switch {
                MetricSwitch::Agent => Metric::AgentCpu,
                MetricSwitch::DiskRead => Metric::DiskRead,
                _ => Metric::NetOut,
            };
            assert_eq!(collector.collect(wanted).get(metric), None);
            assert!(collector.collect(wanted).get(metric).is_some());
            collector.collect(MetricSwitch::Uptime.metrics());
            assert_eq!(collector.collect(wanted).get(metric), None);
        }
    });
}

#[test]
fn load_averages_are_those_of_proc() {
    for_each_source(|mut collector| {
        let of_proc = || {
            let text = fs::read_to_string("/proc/loadavg").unwrap();
            let averages = text.split(' ').take(3).map(|average| {
                let (units, hundredths) = average.split_once('.').unwrap();
                Some(units.parse::<i64>().unwrap() * 100 + hundredths.parse::<i64>().unwrap())
            });
            averages.collect::<Vec<_>>()
        };
        let mut measured = || {
            let values = collector.collect(MetricSwitch::Load.metrics());
            [Metric::Load1, Metric::Load5, Metric::Load15].map(|metric| values.get(metric)).to_vec()
        };
        // They change every 5 s, so of several tries one falls between two changes.
        let mut agrees = || {
            let before = of_proc();
            measured() == before
        };
        assert!((0..1000).any(|_| agrees()), "{:?} is not {:?}", measured(), of_proc());
    });
}

#[test]
fn swap_space_is_that_of_proc_and_0_where_there_is_none() {
    for_each_source(|mut collector| {
        let of_proc = |key: &str| {
            let text = fs::read_to_string("/proc/meminfo").unwrap();
            let line = text.lines().find_map(|line| line.strip_prefix(key)).unwrap();
            line.trim_end_matches("kB").trim().parse::<i64>().unwrap() * 1024
        };
        let values = collector.collect(MetricSwitch::Swap.metrics());
        let total = of_proc("SwapTotal:");
        assert_eq!(values.get(Metric::SwapTotal), Some(total));
        let used = values.get(Metric::SwapUsed).unwrap();
        assert!((0..=total).contains(&used), "{used} of {total}");
    });
}

/// Both sources on this host, asked in turn: what one says must lie between two answers of the other, or close to it.
#[cfg(target_os = "linux")]
mod side_by_side {
    use std::collections::BTreeMap;
    use std::ffi::OsStr;
    use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
    use std::path::PathBuf;

    use super::*;

    /// Whatever else the host does between two questions, of so many tries one must hold.
    const TRIES: usize = 20;

    fn sources() -> (Procfs, Sysinfo) {
        (Procfs::new(), Sysinfo::new().unwrap())
    }

    fn check_some_try(mut attempt: impl FnMut() -> Result<(), String>) {
        let mut errors = Vec::new();
        for _ in 0..TRIES {
            match attempt() {
                Ok(()) => return,
                Err(error) => errors.push(error),
            }
        }
        panic!("no try of {TRIES} held: {errors:#?}");
    }

    #[test]
    fn memory_is_the_same() {
        let (mut proc, mut sysinfo) = sources();
        let (ours, theirs) = (proc.memory().unwrap(), sysinfo.memory().unwrap());
        assert_eq!((ours.total, ours.swap_total), (theirs.total, theirs.swap_total));
        check_some_try(|| {
            let (before, theirs, after) =
                (proc.memory().unwrap(), sysinfo.memory().unwrap(), proc.memory().unwrap());
            // What comes and goes between three readings is a small part, even on a busy host.
            let slack = before.total.unwrap() / 50;
            let is_between = |part: fn(&Memory) -> Option<u64>| {
                let [before, theirs, after] =
                    [&before, &theirs, &after].map(|memory| part(memory).unwrap());
                let (low, high) = (before.min(after), before.max(after));
                (low.saturating_sub(slack)..=high + slack).contains(&theirs)
            };
            let agrees =
                is_between(|memory| memory.available) && is_between(|memory| memory.swap_free);
            if agrees { Ok(()) } else { Err(format!("{before:?} {theirs:?} {after:?}")) }
        });
    }

    #[test]
    fn the_load_is_the_same() {
        let (mut proc, mut sysinfo) = sources();
        check_some_try(|| {
            let (ours, theirs) = (proc.load(), sysinfo.load());
            if ours == theirs { Ok(()) } else { Err(format!("{ours:?} {theirs:?}")) }
        });
    }

    #[test]
    fn the_share_of_the_processors_is_the_same() {
        check_some_try(|| {
            let (mut proc, mut sysinfo) = sources();
            let (ours, theirs) =
                (proc.cpu_percent(Instant::now()), sysinfo.cpu_percent(Instant::now()));
            assert_eq!((ours, theirs), (None, None));
            std::thread::sleep(CPU_INTERVAL);
            let (ours, theirs) =
                (proc.cpu_percent(Instant::now()), sysinfo.cpu_percent(Instant::now()));
            // A tick on one processor of two is 2 points of 250 ms, and their intervals are not quite the same.
            match (ours, theirs) {
                (Some(ours), Some(theirs)) if ours.abs_diff(theirs) <= 500 => Ok(()),
                _ => Err(format!("{ours:?} {theirs:?}")),
            }
        });
    }

    type Counters = BTreeMap<Vec<u8>, Counts>;

    fn counters(read: impl FnOnce(Each<'_>) -> Option<()>) -> Counters {
        let mut counters = Counters::new();
        read(&mut |name, counts| {
            counters.insert(name.to_owned(), counts);
        })
        .unwrap();
        counters
    }

    /// Whether `theirs` lies between the others, which were read before and after it.
    fn is_in_order(before: Counts, theirs: Counts, after: Counts) -> bool {
        (0..2).all(|way| before[way] <= theirs[way] && theirs[way] <= after[way])
    }

    #[test]
    fn interfaces_and_their_counters_are_the_same() {
        let (mut proc, mut sysinfo) = sources();
        check_some_try(|| {
            let before = counters(|each| proc.net_counters(each));
            let theirs = counters(|each| sysinfo.net_counters(each));
            let after = counters(|each| proc.net_counters(each));
            // A bond has a file among the interfaces in /sys, which sysinfo takes for one.
            let theirs = theirs.iter().filter(|(name, _)| *name != b"bonding_masters");
            let agrees = before.keys().eq(after.keys())
                && theirs.clone().map(|(name, _)| name).eq(before.keys())
                && theirs
                    .clone()
                    .all(|(name, counts)| is_in_order(before[name], *counts, after[name]));
            if agrees { Ok(()) } else { Err(format!("{before:?} {theirs:?} {after:?}")) }
        });
    }

    #[test]
    fn disks_together_are_the_same() {
        let (mut proc, mut sysinfo) = sources();
        let sum = |counters: Counters| {
            counters.values().fold([0, 0], |sum, counts| [sum[0] + counts[0], sum[1] + counts[1]])
        };
        // sysinfo calls a device what it was mounted as, which may be several names of one.
        let merged = |counters: Counters| {
            let resolved = counters.into_iter().map(|(name, counts)| {
                let path = PathBuf::from(OsStr::from_bytes(&name));
                (fs::canonicalize(&path).unwrap_or(path).into_os_string().into_vec(), counts)
            });
            resolved.collect::<Counters>()
        };
        check_some_try(|| {
            let now = Instant::now();
            let before = sum(counters(|each| proc.disk_counters(now, each)));
            let theirs = sum(merged(counters(|each| sysinfo.disk_counters(now, each))));
            let after = sum(counters(|each| proc.disk_counters(now, each)));
            // sysinfo finds devices by their nodes, which a container does not have.
            let agrees = theirs == [0, 0] || is_in_order(before, theirs, after);
            if agrees { Ok(()) } else { Err(format!("{before:?} {theirs:?} {after:?}")) }
        });
    }

    #[test]
    fn all_metrics_are_there_from_both_or_from_none() {
        let (proc, sysinfo) = sources();
        let (mut proc, mut sysinfo) = (HostCollector::new(proc), HostCollector::new(sysinfo));
        proc.collect(MetricSet::ALL);
        sysinfo.collect(MetricSet::ALL);
        std::thread::sleep(CPU_INTERVAL);
        let (ours, theirs) = (proc.collect(MetricSet::ALL), sysinfo.collect(MetricSet::ALL));
        assert_eq!(ours.present(), theirs.present());
        for metric in [Metric::MemoryTotal, Metric::SwapTotal, Metric::DiskTotal] {
            assert_eq!(ours.get(metric), theirs.get(metric), "{metric}");
        }
    }
}

#[cfg(target_os = "linux")]
#[test]
fn a_measurement_allocates_nothing() {
    // Sensors are looked for once a minute, and found by their paths.
    let mut wanted = MetricSet::ALL;
    wanted.remove(Metric::Temperature);
    let mut collector = HostCollector::new(Procfs::new());
    // Other tests, and other programs, may mount and make interfaces; so of several tries one must hold.
    let mut counts = (0..20).map(|_| {
        collector.collect(wanted);
        let measured = allocation_counter::measure(|| {
            for _ in 0..10 {
                std::hint::black_box(collector.collect(wanted));
            }
        });
        measured.count_total
    });
    assert!(counts.any(|count| count == 0), "each try allocates");
}
