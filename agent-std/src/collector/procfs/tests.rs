use std::fmt::Write as _;
use std::fs;

use proptest::prelude::*;

use super::*;

/// A host whose files a test writes.
struct Host {
    directory: tempfile::TempDir,
    source: Procfs,
}

impl Host {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let dev_dir = fs::canonicalize(directory.path()).unwrap().join("dev");
        let source = Procfs::below(directory.path(), dev_dir);
        Self { directory, source }
    }

    fn write(&self, file: &str, content: &[u8]) {
        let path = self.directory.path().join(file);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
    }

    fn interfaces(&mut self) -> Option<Vec<(String, u64)>> {
        let mut found = Vec::new();
        let read = self.source.net_counters(&mut |name, [received, _]| {
            found.push((String::from_utf8_lossy(name).into_owned(), received));
        });
        read.map(|()| found)
    }
}

#[test]
fn a_host_without_the_files_has_none_of_it_until_they_are_there() {
    let mut host = Host::new();
    let now = Instant::now();
    assert_eq!(host.source.cpu_percent(now), None);
    assert_eq!(host.source.memory(), None);
    assert_eq!(host.source.load(), None);
    assert_eq!(host.source.disk_counters(now, &mut |_, _| panic!("a disk")), None);
    assert_eq!(host.interfaces(), None);
    host.write("meminfo", b"MemTotal: 8 kB\n");
    host.write("loadavg", b"1.00 2.00 3.00 1/2 3\n");
    host.write("net/dev", b"  lo: 7 1 0 0 0 0 0 0 7 1\n");
    assert_eq!(host.source.memory().unwrap().total, Some(8 << 10));
    assert_eq!(host.source.load(), Some([100, 200, 300]));
    assert_eq!(host.interfaces(), Some(vec![("lo".to_owned(), 7)]));
}

#[test]
fn more_processors_than_the_buffer_holds_change_nothing() {
    let mut host = Host::new();
    let mut stat = "cpu  1 0 0 3\n".to_owned();
    for processor in 0..2000 {
        writeln!(stat, "cpu{processor} 1 0 0 3").unwrap();
    }
    host.write("stat", stat.as_bytes());
    let start = Instant::now();
    assert_eq!(host.source.cpu_percent(start), None);
    host.write("stat", stat.replacen("cpu  1 0 0 3", "cpu  2 0 0 4", 1).as_bytes());
    let later = start + std::time::Duration::from_secs(1);
    assert_eq!(host.source.cpu_percent(later), Some(5_000));
}

#[test]
fn more_interfaces_than_the_buffer_holds_all_count() {
    let mut host = Host::new();
    let expected = (0..1000).map(|number| (format!("veth{number}"), number)).collect::<Vec<_>>();
    let mut dev = "Inter-|   Receive\n face |bytes\n".to_owned();
    for (name, received) in &expected {
        writeln!(dev, "{name}: {received} 0 0 0 0 0 0 0 0 0").unwrap();
    }
    assert!(4 * BUFFER_BYTES < dev.len());
    host.write("net/dev", dev.as_bytes());
    assert_eq!(host.interfaces(), Some(expected));
}

/// What the files may come to hold: their own words in any order, and anything.
fn content() -> impl Strategy<Value = Vec<u8>> {
    const WORDS: &[&str] = &[
        "cpu ",
        "cpu0",
        " ",
        "\n",
        ":",
        ".",
        "-",
        "1",
        "18446744073709551615",
        "MemTotal:",
        "MemAvailable:",
        "SwapFree:",
        "SwapTotal:",
        "kB",
        "eth0:",
        "sda",
        "1 1 8:0 / / rw - ext4 /dev/sda",
        "0:1",
        "1.00",
    ];
    let word = prop_oneof![
        8 => proptest::sample::select(WORDS).prop_map(|word| word.as_bytes().to_vec()),
        1 => proptest::collection::vec(any::<u8>(), 0..8),
    ];
    proptest::collection::vec(word, 0..60).prop_map(|words| words.concat())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]
    #[test]
    fn no_content_is_too_much(contents in proptest::collection::vec(content(), 2)) {
        let mut host = Host::new();
        let mut now = Instant::now();
        for content in contents {
            for file in ["stat", "meminfo", "loadavg", "net/dev", "diskstats", "self/mountinfo"] {
                host.write(file, &content);
            }
            now += std::time::Duration::from_secs(90);
            if let Some(percent) = host.source.cpu_percent(now) {
                prop_assert!((0..=10_000).contains(&percent), "{}", percent);
            }
            host.source.memory();
            host.source.load();
            host.source.disk_counters(now, &mut |_, _| {});
            host.interfaces();
        }
    }
}
