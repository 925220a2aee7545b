//! What the agent measures with, seen from the files that it keeps open.

use std::fs;
use std::path::Path;

use crate::process::{Agent, run};
use crate::scripted::{Headers, ScriptedServer};

/// What is kept open in `/proc` for the six default switches, in order; a number in it is that of the process.
const KEPT: [&str; 5] =
    ["/proc/#/mountinfo", "/proc/#/net/dev", "/proc/diskstats", "/proc/meminfo", "/proc/stat"];

/// The files in `/proc` that `agent` has open now.
fn open_files(agent: &Agent) -> Vec<String> {
    let links = fs::read_dir(format!("/proc/{}/fd", agent.id())).unwrap();
    // A file may be closed while this looks.
    let files = links.flatten().filter_map(|link| fs::read_link(link.path()).ok());
    let own = format!("/proc/{}/", agent.id());
    let mut files = files
        .filter(|file| file.starts_with("/proc"))
        .map(|file| file.to_str().unwrap().replacen(&own, "/proc/#/", 1))
        .collect::<Vec<_>>();
    files.sort_unstable();
    files
}

async fn check(more: &[&str], expected: &[&str]) {
    let mut server = ScriptedServer::start(Headers::WithFirstCommand).await;
    let address = server.address();
    let mut arguments = vec!["--agent-id", "kept-1", "--server", &address, "--interval", "0.1"];
    arguments.extend(more);
    let agent = Agent::start(&arguments);
    let mut stream = server.stream().await;
    let mut seen = Vec::new();
    for _ in 0..20 {
        let metrics = stream.message().await.unwrap().metrics.unwrap();
        assert!(metrics.memory_total_mb > 1.0);
        seen.push(open_files(&agent));
    }
    if expected.is_empty() {
        // Others open what they read, and close it again.
        assert!(seen.iter().any(Vec::is_empty), "{seen:?}");
    } else {
        assert!(seen.iter().all(|files| files == expected), "{seen:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_files_of_proc_are_opened_once() {
    check(&[], &KEPT).await;
    check(&["--collector", "proc"], &KEPT).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn sysinfo_is_used_where_it_is_asked_for() {
    check(&["--collector", "sysinfo"], &[]).await;
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("agent.toml");
    fs::write(&path, "collector = \"sysinfo\"\n").unwrap();
    let file = path.to_str().unwrap();
    check(&["--config", file], &[]).await;
    check(&["--config", file, "--collector", "proc"], &KEPT).await;
}

#[test]
fn a_host_is_recorded_with_either() {
    let directory = tempfile::tempdir().unwrap();
    for kind in ["proc", "sysinfo"] {
        let trace = directory.path().join(kind);
        let file = Path::to_str(&trace).unwrap();
        let arguments =
            ["record", file, "--collector", kind, "--snapshots", "2", "--interval", "0.1"];
        assert_eq!(run(&arguments), (Some(0), String::new()));
        let rows = fs::read_to_string(&trace).unwrap();
        assert!(rows.contains("memory_percent"), "{rows}");
    }
}
