//! Kills a process that publishes, and looks for what it had acknowledged.

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;

use bus::Bus;
use bus::embedded::{Database, OpenError, Options};

use crate::support::{large, read_all, sequence};

/// Where the child works. Without it the child's test does nothing.
const DIR_VARIABLE: &str = "BUS_CRASH_DIR";

/// The first sequence that the child publishes.
const FIRST_VARIABLE: &str = "BUS_CRASH_FIRST";

/// How often the child is killed; by hand a thousand times.
const ROUNDS_VARIABLE: &str = "BUS_CRASH_ROUNDS";

/// Small buffers, so that they are sealed, written out and compacted all the time.
fn options() -> Options {
    Options { memory_bytes: 8 * 1024 * 1024, ..Options::default() }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_acknowledged_survives_a_kill() {
    let dir = tempfile::tempdir().unwrap();
    let mut stored = Vec::new();
    for round in 0..rounds() {
        let acknowledged = publish_and_kill(dir.path(), round * 1_000_000, 5 + 150 * (round % 6));
        let bus = reopen(dir.path()).await;
        let found = read_all(&*bus).await;
        assert_eq!(found.skipped, []);
        let sequences = found.sequences();
        assert!(sequences.starts_with(&stored), "what was read before is still there");
        assert!(sequences.is_sorted_by(|a, b| a < b), "in order, and once");
        for sequence in acknowledged {
            assert!(sequences.binary_search(&sequence).is_ok(), "{sequence} is lost");
        }
        for entry in &found.entries {
            assert_eq!(entry.payload, large("a", sequence(entry), 2000).payload);
        }
        stored = sequences;
        bus.close().await.unwrap();
    }
}

/// How often it is killed.
fn rounds() -> u64 {
    std::env::var(ROUNDS_VARIABLE).ok().and_then(|rounds| rounds.parse().ok()).unwrap_or(6)
}

/// Opens the database that a killed process held: the system may free the lock a moment later.
async fn reopen(dir: &Path) -> Arc<dyn Bus> {
    for _ in 0..500 {
        match Database::open(dir, options()) {
            Ok(database) => return database.bus(),
            Err(OpenError::InUse { .. }) => {
                tokio::time::sleep(std::time::Duration::from_millis(10)).await;
            }
            Err(error) => panic!("{error:?}"),
        }
    }
    panic!("the lock of a killed process is not freed");
}

/// The sequences that a child said were acknowledged, before it was killed in the middle of its work.
fn publish_and_kill(dir: &Path, first: u64, count: u64) -> Vec<u64> {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "crash::child_publishes_until_it_is_killed", "--nocapture"])
        .env(DIR_VARIABLE, dir)
        .env(FIRST_VARIABLE, first.to_string())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let output = BufReader::new(child.stdout.take().unwrap());
    let mut acknowledged = Vec::new();
    for line in output.lines() {
        let line = line.unwrap();
        let Some(sequence) = line.strip_prefix("acknowledged ") else {
            continue;
        };
        acknowledged.push(sequence.parse().unwrap());
        if acknowledged.len() as u64 == count {
            child.kill().unwrap();
        }
    }
    child.wait().unwrap();
    assert!(count <= acknowledged.len() as u64, "the child ended on its own");
    acknowledged
}

#[tokio::test]
async fn child_publishes_until_it_is_killed() {
    let Some(dir) = std::env::var_os(DIR_VARIABLE) else {
        return;
    };
    let first: u64 = std::env::var(FIRST_VARIABLE).unwrap().parse().unwrap();
    let bus = reopen(Path::new(&dir)).await;
    for group in (first..).step_by(3) {
        let sequences = group..group + 3;
        let records = sequences.clone().map(|sequence| large("a", sequence, 2000)).collect();
        bus.publish(records).await.unwrap();
        let mut output = std::io::stdout().lock();
        for sequence in sequences {
            writeln!(output, "acknowledged {sequence}").unwrap();
        }
        output.flush().unwrap();
    }
}
