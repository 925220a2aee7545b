//! Wrong arguments, wrong addresses, wrong bytes: a clear message, the right exit code, no harm to others.

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::time::Duration;

use crate::deployment::{Deployment, FAST, binaries, directory, wait_for};
use crate::picket::{Answer, Picket, run_program};
use crate::record::assert_complete;

const USAGE: i32 = 2;
const UNREACHABLE: i32 = 3;

/// A loopback address on which nobody listens.
fn nobody() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
}

fn server(arguments: &[&str]) -> Answer {
    run_program(&binaries().server(), arguments)
}

fn agent(arguments: &[&str]) -> Answer {
    run_program(&binaries().agent(), arguments)
}

#[test]
fn picket_refuses_wrong_arguments() {
    let check = |arguments: &[&str], words: &[&str]| {
        Picket::new(binaries(), nobody()).run(arguments).assert_refused(USAGE, words);
    };
    check(&[], &["Usage"]);
    check(&["fly"], &["fly"]);
    check(&["send-command", "edge-1", "EXPLODE"], &["EXPLODE", "STATUS"]);
    check(&["send-command", "../etc", "STATUS"], &["agent id"]);
    check(&["get-metrics", "--metric", "gpu"], &["gpu", "cpu"]);
    check(&["get-metrics", "--since", "yesterday-ish"], &["--since"]);
    check(&["config", "set", "edge-1", "/does/not/exist.json"], &["/does/not/exist.json"]);
    check(&["agents", "--output", "xml"], &["xml", "json"]);
}

#[test]
fn picket_says_that_the_server_is_unreachable() {
    let check = |arguments: &[&str]| {
        let address = nobody();
        let answer = Picket::new(binaries(), address).run(arguments);
        answer.assert_refused(UNREACHABLE, &["cannot reach", &address.to_string(), "--server"]);
        assert_eq!(answer.stderr.lines().count(), 1, "{answer:?}");
    };
    check(&["get-metrics"]);
    check(&["get-metrics", "--since=1h", "--no-follow"]);
    check(&["monitor", "--duration=1s"]);
    check(&["send-command", "edge-1", "STATUS"]);
    check(&["agents"]);
    check(&["config", "get", "edge-1"]);
    check(&["server-status"]);
}

#[test]
fn agent_refuses_wrong_arguments() {
    let server = nobody().to_string();
    let check = |arguments: &[&str], words: &[&str]| {
        let with_server = [&["--server", server.as_str()], arguments].concat();
        agent(&with_server).assert_refused(USAGE, words);
    };
    check(&["--fly"], &["--fly"]);
    check(&["--agent-id", "../etc"], &["agent id"]);
    check(&["--agent-id", ""], &["agent id"]);
    check(&["--agent-id", "a", "--interval", "0"], &["interval"]);
    check(&["--agent-id", "a", "--interval", "soon"], &["interval"]);
    check(&["--agent-id", "a", "--metrics", "cpu,gpu"], &["metrics", "gpu"]);
    check(&["--agent-id", "a", "--plugins", "nonsense"], &["plugins", "nonsense"]);
    agent(&["--agent-id", "a", "--server", "no port"]).assert_refused(USAGE, &["no port"]);
}

#[test]
fn agent_refuses_a_bad_configuration_file() {
    let directory = directory();
    let path = directory.path().join("agent.toml");
    let check = |text: &str, words: &[&str]| {
        fs::write(&path, text).unwrap();
        let answer = agent(&["--agent-id", "a", "--config", path.to_str().unwrap()]);
        answer.assert_refused(USAGE, &[words, &["agent.toml"]].concat());
    };
    check("agent_id = ", &["agent.toml:1:"]);
    check("colour = \"red\"", &["colour"]);
    check("[config]\ninterval = -1", &["config", "interval"]);
    check("[config]\nplugins = [\"nonsense\"]", &["config", "plugins[0]", "nonsense"]);
    agent(&["--agent-id", "a", "--config", "/does/not/exist.toml"])
        .assert_refused(USAGE, &["/does/not/exist.toml"]);
}

#[test]
fn server_refuses_wrong_arguments() {
    let directory = directory();
    let data = directory.path().join("data");
    let data = data.to_str().unwrap();
    server(&["--fly"]).assert_refused(USAGE, &["--fly"]);
    server(&["--listen", "nowhere", "--data", data]).assert_refused(USAGE, &["nowhere"]);
    let open = server(&["--listen", "0.0.0.0:0", "--data", data]);
    open.assert_refused(USAGE, &["0.0.0.0:0", "--insecure"]);
    assert_eq!(open.stdout, "", "it must not have listened");
}

#[test]
fn server_says_what_is_taken() {
    let deployment = Deployment::start();
    let other = directory();
    let (address, data) = (deployment.address().to_string(), deployment.data());

    let same_port = server(&["--listen", &address, "--data", other.path().to_str().unwrap()]);
    assert_ne!(same_port.code, 0);
    assert!(same_port.stderr.contains(&address), "{same_port:?}");

    let data = data.to_str().unwrap();
    let same_data = server(&["--listen", "127.0.0.1:0", "--data", data]);
    assert_ne!(same_data.code, 0);
    assert!(same_data.stderr.contains(data), "{same_data:?}");

    deployment.picket(["server-status"]).assert_code(0);
}

#[test]
fn bytes_that_are_no_grpc_harm_nobody() {
    let mut deployment = Deployment::start();
    let _agent = deployment.agent("edge-1", FAST);
    deployment.wait_for_fresh_record("edge-1");

    let http_2_preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
    let garbage: [&[u8]; 6] = [
        b"",
        b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
        &[0; 65_536],
        &[0xff; 65_536],
        http_2_preface,
        &[http_2_preface, [0xff; 64].as_slice()].concat(),
    ];
    for bytes in garbage {
        let mut stream = TcpStream::connect(deployment.address()).unwrap();
        stream.set_read_timeout(Some(Duration::from_millis(200))).unwrap();
        // The server may hang up in the middle of either; all of that is right.
        stream.write_all(bytes).and_then(|()| stream.read(&mut [0; 1024])).ok();
    }

    assert!(deployment.server_runs());
    let records = deployment.wait_for_fresh_record("edge-1");
    assert_complete(&records);
    assert_eq!(deployment.status("edge-1")["sessions"], 1, "the agent kept its connection");
}

#[test]
fn agent_keeps_trying_and_says_so() {
    let deployment = Deployment::start();
    let address = nobody().to_string();
    let data = deployment.path().join("lonely.toml");
    fs::write(&data, format!("agent_id = \"lonely\"\nserver = {address:?}\n")).unwrap();
    let mut command = std::process::Command::new(binaries().agent());
    command.arg("--config").arg(&data);
    let mut lonely = xtask::fleet::Process::start(
        "lonely",
        command,
        deployment.path(),
        xtask::fleet::Group::Shared,
    )
    .unwrap();
    wait_for("the log names the server", || {
        fs::read_to_string(lonely.log()).unwrap().contains(&address).then_some(())
    });
    assert!(lonely.ended().unwrap().is_none());
}
