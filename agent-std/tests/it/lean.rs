//! What a running agent takes of its host: no more memory than it says, no more open files than at first, no exact timers.

use std::fs;
use std::time::{Duration, Instant};

use proto::agent_message::Body;
use serde_json::{Map, Value, json};

use crate::device::{BOOT, Socket, hello, records};
use crate::full_server::send;
use crate::kept_configuration::{push, report};
use crate::process::{Agent, PATIENCE, output};
use crate::scripted::{Headers, ScriptedServer, message_where, welcome};

/// How many files the agent has open now.
fn open_files(agent: &Agent) -> usize {
    fs::read_dir(format!("/proc/{}/fd", agent.id())).unwrap().count()
}

#[tokio::test(flavor = "multi_thread")]
async fn samples_and_reconnects_leave_no_file_open() {
    let mut server = ScriptedServer::start(Headers::Welcome(welcome())).await;
    let state = tempfile::tempdir().unwrap();
    let address = server.address();
    let arguments = ["--agent-id", "flat-1", "--server", &address, "--interval", "0.1"];
    let state_dir = ["--state-dir", state.path().to_str().unwrap(), "--spool-max-bytes", "1M"];
    let agent = Agent::start(&[&arguments[..], &state_dir[..]].concat());
    let mut counts = Vec::new();
    for _ in 0..5 {
        let mut stream = server.stream().await;
        for _ in 0..10 {
            let is_records = |body: &Body| matches!(body, Body::Records(_));
            message_where(&mut stream, |message| {
                message.message.as_ref().and_then(|m| m.body.as_ref()).is_some_and(is_records)
            })
            .await;
        }
        counts.push(open_files(&agent));
        // The server is gone for the agent, which comes back after its back-off.
        drop(stream);
    }
    // The thread that asks for addresses and the file of the spool come and go, one each.
    let (least, most) = (counts.iter().min().unwrap(), counts.iter().max().unwrap());
    assert!(most - least <= 2, "{counts:?}");
    assert!(counts.last() <= counts.first().map(|first| first + 1).as_ref(), "{counts:?}");
}

/// Bytes of memory that no file is behind: heap and stacks. What of the program was written to, as the system's loader does, counts
/// as the program.
fn anonymous_bytes(agent: &Agent) -> u64 {
    let smaps = fs::read_to_string(format!("/proc/{}/smaps", agent.id())).unwrap();
    let mut has_file = false;
    let mut kib = 0;
    for line in smaps.lines() {
        let mut words = line.split_ascii_whitespace();
        let first = words.next().unwrap();
        if first == "Anonymous:" && !has_file {
            kib += words.next().unwrap().parse::<u64>().unwrap();
        } else if first.contains('-') {
            has_file = words.nth(4).is_some_and(|name| name.starts_with('/'));
        }
    }
    kib * 1024
}

/// The printed budget for `arguments` with as many devices as are there, without the program.
fn budget_bytes(arguments: &[&str], devices: u64) -> u64 {
    let printed = output(&[&["budget", "--json"], arguments].concat());
    assert!(printed.status.success(), "{}", String::from_utf8_lossy(&printed.stderr));
    let budget = serde_json::from_slice::<Value>(&printed.stdout).unwrap();
    let anonymous = budget["anonymous_bytes"].as_u64().unwrap();
    let part = |name: &str| {
        let parts = budget["parts"].as_array().unwrap();
        let part = parts.iter().find(|part| part["part"] == name).unwrap();
        part["bytes"].as_u64().unwrap()
    };
    // 32 of them are possible, and the allocator's share of what they need goes with them.
    let absent = part("devices") / 32 * (32 - devices);
    anonymous - absent - absent / 4
}

/// A document that is nearly as large, and has nearly as many values, as one can be.
fn large_document() -> String {
    let entry = |number: usize| (format!("unknown-{number}"), json!("x".repeat(40)));
    let mut document = Map::from_iter((0..980).map(entry));
    document.insert("interval".to_owned(), json!(0.1));
    document.insert("metrics".to_owned(), json!(["standard"]));
    Value::Object(document).to_string()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_worst_case_takes_no_more_memory_than_the_budget_says() {
    let mut server = ScriptedServer::start(Headers::Welcome(welcome())).await;
    let socket = Socket::open().await;
    let (state, address, link) =
        (tempfile::tempdir().unwrap(), server.address(), socket.argument());
    let arguments = [
        "--agent-id",
        "worst-1",
        "--server",
        &address,
        "--state-dir",
        state.path().to_str().unwrap(),
        "--spool-max-bytes",
        "1M",
        "--spool-after",
        "1s",
        "--serial",
        &link,
    ];
    let agent = Agent::start(&arguments);
    let mut stream = server.stream().await;
    send(&stream, push(7, &large_document())).await;
    assert_eq!(report(&mut stream).await.revision, 7);
    // From now on there is no server.
    drop(stream);
    drop(server);
    let mut device = socket.link().await;
    device.send(&hello("device-1", BOOT)).await;
    let mut most = 0;
    // More than is held for a device.
    for frame in 0..40 {
        let first = frame * 64 + 1;
        device.send(&records(first..=first + 63)).await;
        most = most.max(anonymous_bytes(&agent));
    }
    // Until records have gone to the disk.
    let deadline = Instant::now() + PATIENCE;
    let spool = state.path().join("spool");
    let segments = || fs::read_dir(&spool).unwrap().count();
    while segments() < 4 {
        assert!(Instant::now() < deadline, "nothing went to the spool");
        most = most.max(anonymous_bytes(&agent));
        std::thread::sleep(Duration::from_millis(20));
    }
    most = most.max(anonymous_bytes(&agent));
    let budget = budget_bytes(&arguments, 1);
    // The ring takes minutes to fill; all of it is counted as if nothing were in it yet.
    let ring = u64::try_from(agent_core::limits::RING_BYTES).unwrap();
    assert!(most + ring <= budget, "{most} bytes and a ring of {ring} are more than {budget}");
    assert!(budget < 64 * most, "{budget} says nothing where {most} bytes are used");
}

#[test]
fn the_budget_is_that_of_the_settings() {
    let total = |arguments: &[&str]| {
        let printed = output(&[&["budget", "--json"], arguments].concat());
        let budget = serde_json::from_slice::<Value>(&printed.stdout).unwrap();
        budget["total_bytes"].as_u64().unwrap()
    };
    let one = total(&["--serial", "tcp:h:1"]);
    assert!(total(&[]) < one);
    assert!(one < total(&["--serial", "tcp:h:1", "--serial", "tcp:h:2"]));
    let text = output(&["budget"]);
    let text = String::from_utf8(text.stdout).unwrap();
    assert!(text.lines().last().unwrap().ends_with("of them without the program"), "{text}");
    let refused = output(&["budget", "--server", "h:1", "--spool-max-bytes", "1M"]);
    assert_eq!(refused.status.code(), Some(2));
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(said.contains("a spool needs a state directory"), "{said}");
}

#[test]
fn the_version_has_a_short_and_a_long_form() {
    let said = |flag: &str| String::from_utf8(output(&[flag]).stdout).unwrap();
    let short = format!("picket-agent {}\n", env!("CARGO_PKG_VERSION"));
    assert_eq!(said("-V"), short);
    let long = said("--version");
    assert!(long.starts_with(&short), "{long}");
    for key in ["\ntarget: ", "\nfeatures: ", "\ncommit: "] {
        assert!(long.contains(key), "{long}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn all_threads_let_the_system_choose_when_to_wake_them() {
    let mut server = ScriptedServer::start(Headers::Welcome(welcome())).await;
    let agent = Agent::start(&["--agent-id", "slack-1", "--server", &server.address()]);
    let _stream = server.stream().await;
    let threads = fs::read_dir(format!("/proc/{}/task", agent.id())).unwrap();
    let threads = threads.map(|thread| thread.unwrap().file_name()).collect::<Vec<_>>();
    assert!(3 <= threads.len(), "{threads:?}");
    for thread in threads {
        let path = format!("/proc/{}/timerslack_ns", thread.to_str().unwrap());
        match fs::read_to_string(path) {
            Ok(slack) => assert_eq!(slack.trim(), "20000000"),
            // A thread that has ended, or a user who may not look.
            Err(error) => {
                let kind = error.kind();
                assert!(
                    matches!(
                        kind,
                        std::io::ErrorKind::NotFound | std::io::ErrorKind::PermissionDenied
                    ),
                    "{error}"
                );
            }
        }
    }
}
