//! A plain server in place of ours: our agent speaks the plain form to it, and changes over when ours comes.

use std::net::SocketAddr;
use std::path::Path;
use std::time::{Duration, Instant};

use serde_json::Value;
use xtask::fleet::{self, Group, Process, Site};
use xtask::peers::Python;

use super::{LIMIT, Peer, ask};
use crate::deployment::{FAST, binaries, directory, wait_for};
use crate::picket::Picket;

/// Fields of `MetricsRequest` that stand beside a plain snapshot: boot, sequence, milliseconds. A plain server passes
/// over them; field 16, which only a server with a welcome understands, must not be among them.
const BESIDE: [u64; 3] = [8, 9, 10];

/// An agent that sends nothing for so many of its intervals was stopped; one that is merely slow is waited for longer.
const SILENCE: Duration = Duration::from_secs(3);

fn plain_server(python: &Python, address: SocketAddr, directory: &Path) -> (Peer, SocketAddr) {
    let mut server = Peer::start(python, "server.py", [address.to_string()], directory);
    let address = server.wait_for("listens", "listening", |said| {
        said.first().map(|address| address.as_str().unwrap().parse().unwrap())
    });
    (server, address)
}

fn any_port() -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], 0))
}

/// A plain server with one of our agents, `edge-1`.
struct Plain {
    server: Peer,
    address: SocketAddr,
    _agent: Process,
    directory: tempfile::TempDir,
    site: Site,
}

impl Plain {
    fn start(python: &Python) -> Self {
        let directory = directory();
        let (server, address) = plain_server(python, any_port(), directory.path());
        let site = Site::new(binaries().clone(), directory.path(), Group::Shared).unwrap();
        let agent = site.agent("edge-1", address, FAST).unwrap();
        Self { server, address, _agent: agent, directory, site }
    }

    /// Waits for `count` messages more than there are.
    fn wait_for_more(&mut self, count: usize) -> Vec<Value> {
        let before = self.server.said("message").len();
        self.server.wait_for_count("message", before + count).split_off(before)
    }
}

#[track_caller]
fn assert_is_plain(message: &Value) {
    assert_eq!(message["agent_id"], "edge-1", "{message}");
    assert_eq!(message["has_metrics"], true, "{message}");
    let seconds = message["timestamp"].as_i64().unwrap();
    assert!(crate::deployment::now_ms() / 1000 - seconds < 3600, "{message}");
    let metric = |name: &str| message["metrics"][name].as_f64().unwrap();
    for name in ["cpu_percent", "memory_percent"] {
        assert!((0.0..=100.0).contains(&metric(name)), "{message}");
    }
    assert!(0.0 < metric("memory_used_mb"), "{message}");
    assert!(metric("memory_used_mb") <= metric("memory_total_mb"), "{message}");
    for field in message["unknown"].as_array().unwrap() {
        assert!(BESIDE.contains(&field.as_u64().unwrap()), "field {field} is not plain: {message}");
    }
}

#[test]
fn our_agent_speaks_the_plain_form_to_a_plain_server() {
    let test = "python::server::our_agent_speaks_the_plain_form_to_a_plain_server";
    let Some(python) = Python::for_test(test) else {
        return;
    };
    let mut plain = Plain::start(python);
    for message in plain.server.wait_for_count("message", 10) {
        assert_is_plain(&message);
    }
}

#[test]
fn a_plain_server_commands_our_agent() {
    let Some(python) = Python::for_test("python::server::a_plain_server_commands_our_agent") else {
        return;
    };
    let mut plain = Plain::start(python);
    plain.wait_for_more(1);
    let address = plain.address.to_string();
    let send = |kind: &str| {
        // The plain analyst gives no command_id, so that nothing tells one STOP from another.
        let answer = ask(python, "analysis.py", [address.as_str(), "edge-1", kind]);
        answer.assert_code(0);
        assert_eq!(answer.json()["message"], "passed on", "{answer:?}");
    };
    for _ in 0..2 {
        send("STOP");
        wait_for_silence(&plain.server);
        send("START");
        plain.wait_for_more(3);
    }
    // Our tool works with any server that has the rpc.
    let picket = Picket::new(binaries(), plain.address);
    let answer = picket.run(["send-command", "--output", "json", "edge-1", "RESTART"]);
    answer.assert_code(0);
    assert_eq!(answer.json()["message"], "passed on", "{answer:?}");
    plain.server.wait_for("the restarted agent", "stream", |streams| {
        (2 <= streams.iter().filter(|event| *event == "opened").count()).then_some(())
    });
    for message in plain.wait_for_more(3) {
        assert_is_plain(&message);
    }
}

/// Waits until the agent has been silent for a while.
fn wait_for_silence(server: &Peer) {
    let (mut heard, mut since) = (server.said("message").len(), Instant::now());
    wait_for("silence", || {
        let now = server.said("message").len();
        if now != heard {
            (heard, since) = (now, Instant::now());
        }
        (SILENCE < since.elapsed()).then_some(())
    });
}

#[test]
fn a_fleet_moves_to_our_server_and_back() {
    let Some(python) = Python::for_test("python::server::a_fleet_moves_to_our_server_and_back")
    else {
        return;
    };
    let mut plain = Plain::start(python);
    plain.wait_for_more(5);
    plain.server.kill();

    // At the same address: on the agents nothing is changed.
    let mut ours = plain.site.server_at(plain.address).unwrap();
    let picket = |arguments: &[&str]| {
        let arguments = ["--output", "json"].iter().chain(arguments);
        Picket::new(binaries(), plain.address).run(arguments)
    };
    let status = wait_for_long("an agent that has delivered", || {
        let answer = picket(&["send-command", "edge-1", "STATUS"]);
        let status = (answer.code == 0).then(|| answer.json()["status"].clone())?;
        (0 < status["ledger"]["delivered"].as_u64().unwrap()).then_some(status)
    });
    crate::record::assert_books_balance(&status);
    let info = picket(&["agents", "edge-1"]).json();
    assert_eq!(info["dialect"], "full", "{info}");
    let records = picket(&["get-metrics", "--since=1h", "--no-follow", "--agent", "edge-1"]);
    let sequences: Vec<u64> =
        records.json_lines().iter().map(|record| record["sequence"].as_u64().unwrap()).collect();
    assert!(sequences.is_sorted_by(|one, next| one + 1 == *next), "{sequences:?}");

    ours.process().kill().unwrap();
    let (mut server, address) = plain_server(python, plain.address, plain.directory.path());
    assert_eq!(address, plain.address);
    for message in server.wait_for_count("message", 5) {
        assert_is_plain(&message);
    }
}

/// As [`wait_for`], for what an agent does after its longest back-off.
#[track_caller]
fn wait_for_long<T>(what: &str, mut probe: impl FnMut() -> Option<T>) -> T {
    let answer = fleet::poll(LIMIT, || Ok::<_, std::convert::Infallible>(probe()));
    answer.unwrap().unwrap_or_else(|| panic!("not within {LIMIT:?}: {what}"))
}
