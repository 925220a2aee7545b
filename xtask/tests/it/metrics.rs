//! What arrives is what the host says of itself.

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::thread;

use crate::deployment::{Deployment, FAST, wait_for};
use crate::record::{Record, assert_complete};

const MB: f64 = 1_048_576.0;
const PERCENT_METRICS: [&str; 2] = ["cpu_percent", "memory_percent"];
const RATE_METRICS: [&str; 4] = ["disk_read_mb", "disk_write_mb", "net_in_mb", "net_out_mb"];

/// Total and used memory of this host in MB, as /proc/meminfo has it.
fn memory_mb() -> (f64, f64) {
    let text = fs::read_to_string("/proc/meminfo").unwrap();
    let kib = |name: &str| -> f64 {
        let line = text.lines().find(|line| line.starts_with(name)).unwrap();
        line.split_whitespace().nth(1).unwrap().parse().unwrap()
    };
    let total = kib("MemTotal:") / 1024.0;
    (total, total - kib("MemAvailable:") / 1024.0)
}

#[test]
fn values_are_sane() {
    let deployment = Deployment::start();
    let _agent = deployment.agent("edge-1", FAST);
    let records =
        deployment.wait_for_records("ten records", "edge-1", |records| 10 <= records.len());

    assert_complete(&records);
    for name in RATE_METRICS {
        assert_eq!(records[0].metric(name), None, "the first sample cannot have a rate");
        assert!(0.0 <= records[9].metric(name).unwrap(), "{name}");
    }
    for record in &records {
        for name in PERCENT_METRICS {
            let percent = record.metric(name);
            assert!(percent.is_none_or(|percent| (0.0..=100.0).contains(&percent)), "{record:?}");
        }
    }
    assert!(records[9].metric("cpu_percent").is_some());
}

#[test]
fn memory_is_what_proc_meminfo_says() {
    let deployment = Deployment::start();
    let _agent = deployment.agent("edge-1", FAST);

    // Other programs come and go: one sample between two readings that frame it is enough.
    wait_for("a sample within 5 % of /proc/meminfo", || {
        let (total, before) = memory_mb();
        let records = deployment.wait_for_fresh_record("edge-1");
        let (_, after) = memory_mb();
        let record = records.last().unwrap();
        assert!((record.metric("memory_total_mb").unwrap() - total).abs() < 0.01);
        let used = record.metric("memory_used_mb").unwrap();
        let percent = record.metric("memory_percent").unwrap();
        assert!(
            (used / total * 100.0 - percent).abs() < 0.02,
            "{used} of {total} is not {percent} %"
        );
        let framed = before.min(after) * 0.95 <= used && used <= before.max(after) * 1.05;
        framed.then_some(())
    });
}

#[test]
fn a_synced_file_shows_as_disk_write() {
    let deployment = Deployment::start();
    let _agent = deployment.agent("edge-1", FAST);
    deployment.wait_for_records("rates", "edge-1", |records| 2 <= records.len());

    if !is_on_a_counted_disk(deployment.path()) {
        println!(
            "this directory is on no disk of /proc/diskstats: only the presence of the metric is checked"
        );
        let records = deployment.wait_for_fresh_record("edge-1");
        assert!(records.last().unwrap().metric("disk_write_mb").is_some());
        return;
    }
    let path = deployment.path().join("written");
    wait_for("a disk write rate of more than 1 MB/s", || {
        let mut file = File::create(&path).unwrap();
        file.write_all(&vec![7; 16 << 20]).unwrap();
        file.sync_all().unwrap();
        let records = deployment.records("edge-1");
        let wrote = |record: &Record| record.metric("disk_write_mb").is_some_and(|rate| 1.0 < rate);
        records.iter().any(wrote).then_some(())
    });
}

/// Whether the kernel counts the transfers of the disk that `path` is on. It does not for overlays and memory.
fn is_on_a_counted_disk(path: &Path) -> bool {
    let device = fs::metadata(path).unwrap().dev();
    let (major, minor) = (rustix::fs::major(device), rustix::fs::minor(device));
    let counters = fs::read_to_string("/proc/diskstats").unwrap();
    counters.lines().any(|line| {
        let mut fields = line.split_whitespace();
        fields.next() == Some(&major.to_string()) && fields.next() == Some(&minor.to_string())
    })
}

/// Bytes received by all interfaces but loopback, since they exist.
fn received_beyond_loopback() -> f64 {
    let text = fs::read_to_string("/proc/net/dev").unwrap();
    let interfaces = text.lines().skip(2).filter_map(|line| line.trim().split_once(':'));
    interfaces
        .filter(|(name, _)| *name != "lo")
        .map(|(_, counters)| -> f64 {
            counters.split_whitespace().next().unwrap().parse().unwrap()
        })
        .sum()
}

#[test]
fn traffic_over_loopback_is_not_counted() {
    const CHUNK_BYTES: usize = 16 << 20;
    const CHUNKS: usize = 16;
    const SENT_BYTES: usize = CHUNKS * CHUNK_BYTES;
    let deployment = Deployment::start();
    let before = received_beyond_loopback();
    let _agent = deployment.agent("edge-1", FAST);
    deployment.wait_for_records("rates", "edge-1", |records| 2 <= records.len());

    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let reader = thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        io::copy(&mut stream, &mut io::sink()).unwrap()
    });
    let mut writer = TcpStream::connect(address).unwrap();
    let chunk = vec![7; CHUNK_BYTES];
    for _ in 0..CHUNKS {
        writer.write_all(&chunk).unwrap();
    }
    drop(writer);
    assert_eq!(reader.join().unwrap(), SENT_BYTES as u64);

    let records = deployment.wait_for_fresh_record("edge-1");
    let received = records.windows(2).map(|pair| {
        #[expect(clippy::cast_precision_loss, reason = "milliseconds of one test")]
        let seconds = (pair[1].timestamp_ms() - pair[0].timestamp_ms()) as f64 / 1000.0;
        pair[1].metric("net_in_mb").unwrap() * MB * seconds
    });
    // What came over real interfaces meanwhile, with room for the jitter of the time stamps.
    let bound = (received_beyond_loopback() - before) * 2.0 + SENT_BYTES as f64 / 4.0;
    let received: f64 = received.sum();
    assert!(received < bound, "{received} bytes shown, at most {bound} expected");
}

#[test]
fn the_standard_profile_says_more_of_the_host_and_of_the_agent() {
    let deployment = Deployment::start();
    let _agent = deployment.agent("edge-1", ["--interval=0.2", "--metrics=standard"]);
    let records =
        deployment.wait_for_records("three records", "edge-1", |records| 3 <= records.len());
    assert_complete(&records);
    let record = &records[2];
    let uptime = fs::read_to_string("/proc/uptime").unwrap();
    let uptime = uptime.split_whitespace().next().unwrap().parse::<f64>().unwrap();
    assert!(record.metric("uptime_seconds").unwrap() <= uptime);
    assert_eq!(record.metric("memory_total_mb"), records[0].metric("memory_total_mb"));
    for name in
        ["load1", "load5", "load15", "disk_total_mb", "agent_memory_mb", "agent_buffer_percent"]
    {
        assert!(record.metric(name).is_some_and(|value| 0.0 <= value), "{name}: {record:?}");
    }
    assert_eq!(records[0].metric("agent_cpu_percent"), None, "it is a rate");
    let (used, total) =
        (record.metric("disk_used_mb").unwrap(), record.metric("disk_total_mb").unwrap());
    let percent = record.metric("disk_percent").unwrap();
    assert!((used / total * 100.0 - percent).abs() < 0.02, "{used} of {total} is not {percent} %");
}

#[test]
fn agents_tell_what_they_run_on() {
    // The agent may be one of another processor, on an emulator; then the variable says which it must be.
    let native = || format!("{}-{}", std::env::consts::ARCH, std::env::consts::OS);
    let target = std::env::var("PICKET_AGENT_TARGET").unwrap_or_else(|_| native());
    let deployment = Deployment::start();
    let _agent = deployment.agent("edge-1", FAST);
    deployment.wait_until_connected("edge-1");
    assert_eq!(deployment.agent_info("edge-1")["target"], target.as_str());
}
