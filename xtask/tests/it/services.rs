//! A real etcd and a real Kafka: they keep what they stored when they are killed, and `cargo xtask services` finds again
//! what it has started.

use std::convert::Infallible;
use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

use rustix::process::{Pid, Signal, getpgid, kill_process};
use serde_json::{Value, json};
use tempfile::TempDir;
use xtask::fleet;
use xtask::services::Service;

use crate::deployment::{LIMIT, directory, wait_for};

/// Kills and restarts a service, and sees each time that it still has what was stored in it.
fn check_restarts(
    service: Service,
    store: fn(SocketAddr, &str),
    has: fn(SocketAddr, &str) -> bool,
) {
    let directory = directory();
    let mut instance = service.start(directory.path()).unwrap();
    let address = instance.address();
    assert!(!has(address, "round-0"));
    for round in 0..2 {
        store(address, &format!("round-{round}"));
        instance.kill().unwrap();
        assert!(TcpStream::connect(address).is_err(), "{service} is down");
        instance.restart().unwrap();
        assert_eq!(instance.address(), address);
        for earlier in 0..=round {
            assert!(has(address, &format!("round-{earlier}")), "{service}, {earlier} of {round}");
        }
    }
    instance.stop().unwrap();
    assert!(TcpStream::connect(address).is_err(), "{service} is down");
    drop(instance);

    // Another owner of the same directory takes the data over.
    let instance = service.start(directory.path()).unwrap();
    assert!(has(instance.address(), "round-1"));
}

#[test]
fn etcd_keeps_address_and_data_across_kills() {
    if Service::Etcd.is_here_for("services::etcd_keeps_address_and_data_across_kills") {
        check_restarts(Service::Etcd, etcd::store, etcd::has);
    }
}

#[test]
fn kafka_keeps_address_and_data_across_kills() {
    if Service::Kafka.is_here_for("services::kafka_keeps_address_and_data_across_kills") {
        check_restarts(Service::Kafka, kafka::store, kafka::has);
    }
}

#[test]
fn up_finds_what_runs_and_starts_what_does_not() {
    if !are_here_for("services::up_finds_what_runs_and_starts_what_does_not") {
        return;
    }
    let pair = Pair::new();
    assert!(!pair.status_is_good());
    pair.run(&["up"]);
    assert!(pair.status_is_good());
    let before = pair.status();

    assert!(pair.run(&["up"]).contains("etcd   was up"));
    assert_eq!(pair.status(), before, "nothing was started anew");

    let etcd = pid(&before["etcd"]);
    assert_eq!(getpgid(Some(etcd)).unwrap(), etcd, "Ctrl-C in the terminal does not reach it");
    kill_process(etcd, Signal::KILL).unwrap();
    wait_for("the end of etcd", || (!pair.status_is_good()).then_some(()));
    assert_eq!(pair.status()["etcd"]["health"], "down");
    assert_eq!(pair.status()["kafka"]["health"], "healthy");
    pair.run(&["up"]);
    let after = pair.status();
    assert_eq!(after["kafka"], before["kafka"]);
    assert_eq!(after["etcd"]["health"], "healthy");
    assert_eq!(after["etcd"]["endpoint"], before["etcd"]["endpoint"]);

    pair.run(&["down"]);
    for service in Service::ALL {
        assert_eq!(pair.status()[service.name()]["health"], "down");
        assert!(!runs(&after[service.name()]));
        assert!(!pair.directory.path().join(service.name()).exists(), "its data are gone");
    }
    assert!(pair.run(&["down"]).contains("kafka  was down"));
}

#[test]
fn kept_data_are_found_at_the_same_address() {
    if !Service::Etcd.is_here_for("services::kept_data_are_found_at_the_same_address") {
        return;
    }
    let pair = Pair::new();
    pair.run(&["up", "etcd"]);
    let before = pair.status();
    etcd::store(address(&before["etcd"]), "kept");
    pair.run(&["down", "--keep-data"]);
    assert!(!runs(&before["etcd"]));
    pair.run(&["up", "etcd"]);
    let after = pair.status();
    assert_eq!(after["etcd"]["endpoint"], before["etcd"]["endpoint"]);
    assert!(etcd::has(address(&after["etcd"]), "kept"));
}

#[test]
fn two_at_the_same_time_start_one() {
    if !Service::Etcd.is_here_for("services::two_at_the_same_time_start_one") {
        return;
    }
    let pair = Pair::new();
    let both = [pair.spawn(&["up", "etcd"]), pair.spawn(&["up", "etcd"])];
    let said = both.map(|child| succeeded(&child.wait_with_output().unwrap()));
    assert_eq!(said.iter().filter(|said| said.contains("etcd   started")).count(), 1, "{said:?}");
    assert_eq!(said.iter().filter(|said| said.contains("etcd   was up")).count(), 1, "{said:?}");
}

#[test]
fn up_that_is_asked_to_end_leaves_nothing_running() {
    if !Service::Kafka.is_here_for("services::up_that_is_asked_to_end_leaves_nothing_running") {
        return;
    }
    let pair = Pair::new();
    let child = pair.spawn(&["up", "kafka"]);
    let started = pair.wait_for_kafka();
    // Kafka takes seconds to serve; were it ready already, both would have ended in good order.
    kill_process(Pid::from_child(&child), Signal::TERM).unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success() || !runs(&started), "{output:?}");
}

#[test]
fn what_a_killed_up_has_started_is_found() {
    if !Service::Kafka.is_here_for("services::what_a_killed_up_has_started_is_found") {
        return;
    }
    let pair = Pair::new();
    let mut child = pair.spawn(&["up", "kafka"]);
    let started = pair.wait_for_kafka();
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(runs(&started));
    // It is waited for, not started twice.
    assert!(pair.run(&["up", "kafka"]).contains("kafka  was up"));
    assert_eq!(pair.status()["kafka"]["pid"], started["pid"]);
    pair.run(&["down"]);
    assert!(!runs(&started));
}

/// Set where the test below is the subject of others.
const SUBJECT: &str = "PICKET_TEST_SUBJECT";

/// Run by the tests below, in a process of its own with another environment. Elsewhere it has nothing to say.
#[test]
fn a_test_that_needs_kafka() {
    if std::env::var_os(SUBJECT).is_none() {
        return;
    }
    let Some(address) = xtask::services::kafka("services::a_test") else { return };
    println!("it uses {address}");
}

/// Runs that test where `variables` say what there is. Answers whether it passed, what it printed, and the tests that
/// were skipped.
fn needs_kafka<const N: usize>(variables: [(&str, &str); N]) -> (bool, String, String) {
    let skipped = tempfile::NamedTempFile::new().unwrap();
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", "--nocapture", "services::a_test_that_needs_kafka"]);
    command.env(SUBJECT, "1");
    for variable in ["PICKET_TEST_KAFKA", "PICKET_REQUIRE_SERVICES"] {
        command.env_remove(variable);
    }
    command.envs(variables).env("PICKET_SKIPPED", skipped.path());
    let output = command.output().unwrap();
    let said = [output.stdout, output.stderr].concat();
    let said = String::from_utf8(said).unwrap();
    assert!(said.contains("running 1 test"), "{said}");
    (output.status.success(), said, fs::read_to_string(skipped.path()).unwrap())
}

#[test]
fn a_test_takes_the_service_that_it_is_given() {
    let (passed, said, skipped) =
        needs_kafka([("PICKET_TEST_KAFKA", "127.0.0.1:1"), ("PICKET_REQUIRE_SERVICES", "1")]);
    assert!(passed, "{said}");
    assert!(said.contains("it uses 127.0.0.1:1"), "{said}");
    assert_eq!(skipped, "");
}

#[test]
fn a_test_without_its_service_is_skipped_loudly_and_counted() {
    for variables in [[("PICKET_TEST_KAFKA", "")], [("PICKET_REQUIRE_SERVICES", "0")]] {
        let (passed, said, skipped) = needs_kafka(variables);
        assert!(passed, "{said}");
        assert!(said.contains("SKIPPED services::a_test: PICKET_TEST_KAFKA is missing"), "{said}");
        assert!(skipped.starts_with("services::a_test: PICKET_TEST_KAFKA is missing"), "{skipped}");
        assert_eq!(skipped.lines().count(), 1, "{skipped}");
    }
}

#[test]
fn a_test_without_its_service_fails_where_nothing_may_be_skipped() {
    let (passed, said, skipped) = needs_kafka([("PICKET_REQUIRE_SERVICES", "1")]);
    assert!(!passed, "{said}");
    assert!(said.contains("cargo xtask services up"), "the remedy is named: {said}");
    assert_eq!(skipped, "");
}

/// `cargo xtask services` in a directory of its own; what runs there is stopped at the end.
#[derive(Debug)]
struct Pair {
    directory: TempDir,
}

impl Pair {
    fn new() -> Self {
        Self { directory: directory() }
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_xtask"));
        command.arg("services").args(arguments).arg("--directory").arg(self.directory.path());
        command.stdin(Stdio::null());
        command
    }

    fn spawn(&self, arguments: &[&str]) -> Child {
        self.command(arguments).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
    }

    /// Runs it to a good end. Answers what it printed.
    #[track_caller]
    fn run(&self, arguments: &[&str]) -> String {
        succeeded(&self.command(arguments).output().unwrap())
    }

    fn status(&self) -> Value {
        let output = self.command(&["status", "--json"]).output().unwrap();
        serde_json::from_slice(&output.stdout).unwrap()
    }

    fn status_is_good(&self) -> bool {
        self.command(&["status"]).output().unwrap().status.success()
    }

    /// Waits until the process of Kafka is recorded, before which Java runs twice.
    #[track_caller]
    fn wait_for_kafka(&self) -> Value {
        let started = fleet::poll(3 * LIMIT, || {
            let status = self.status()["kafka"].take();
            Ok::<_, Infallible>((!status["pid"].is_null()).then_some(status))
        });
        started.unwrap().expect("a process in the state")
    }
}

impl Drop for Pair {
    fn drop(&mut self) {
        self.command(&["down"]).output().unwrap();
    }
}

#[track_caller]
fn succeeded(output: &Output) -> String {
    assert!(output.status.success(), "{output:?}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Whether both services are; see [`Service::is_here_for`].
fn are_here_for(test: &str) -> bool {
    Service::ALL.into_iter().all(|service| service.is_here_for(test))
}

fn address(status: &Value) -> SocketAddr {
    let endpoint = status["endpoint"].as_str().unwrap();
    endpoint.trim_start_matches("http://").parse().unwrap()
}

fn pid(status: &Value) -> Pid {
    Pid::from_raw(i32::try_from(status["pid"].as_i64().unwrap()).unwrap()).unwrap()
}

/// Whether the process of `status` is there, and not merely not yet waited for.
fn runs(status: &Value) -> bool {
    let stat = PathBuf::from(format!("/proc/{}/stat", pid(status).as_raw_nonzero()));
    fs::read_to_string(stat).is_ok_and(|stat| !stat.contains(") Z"))
        && is_in(&status["log"], pid(status))
}

/// Whether the process writes the log of `status`: its number may be another one's by now.
fn is_in(log: &Value, pid: Pid) -> bool {
    let stderr = fs::read_link(format!("/proc/{}/fd/2", pid.as_raw_nonzero()));
    stderr.is_ok_and(|stderr| Path::new(log.as_str().unwrap()) == stderr)
}

/// Keys in etcd, by its JSON gateway.
mod etcd {
    use super::*;

    pub(super) fn store(address: SocketAddr, key: &str) {
        let answer = post(address, "put", &json!({ "key": bytes(key), "value": bytes("x") }));
        assert!(answer["header"]["revision"].is_string(), "{answer}");
    }

    pub(super) fn has(address: SocketAddr, key: &str) -> bool {
        let answer = post(address, "range", &json!({ "key": bytes(key) }));
        assert!(answer["header"]["revision"].is_string(), "{answer}");
        answer["count"] == "1"
    }

    fn post(address: SocketAddr, call: &str, body: &Value) -> Value {
        let mut stream = connect(address);
        let body = body.to_string();
        let length = body.len();
        let head = format!("POST /v3/kv/{call} HTTP/1.0\r\nContent-Length: {length}\r\n\r\n");
        stream.write_all(format!("{head}{body}").as_bytes()).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        let (_, body) = answer.split_once("\r\n\r\n").unwrap();
        serde_json::from_str(body).unwrap()
    }

    /// Base64 of `key`, padded with blanks to a length that needs no padding of its own.
    fn bytes(key: &str) -> String {
        const LETTERS: &[u8; 64] =
            b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
        let padded = format!("{key:<12}");
        let mut text = String::new();
        for three in padded.as_bytes().chunks(3) {
            let number = three.iter().fold(0, |number, byte| number << 8 | u32::from(*byte));
            for shift in [18, 12, 6, 0] {
                text.push(char::from(LETTERS[(number >> shift & 63) as usize]));
            }
        }
        text
    }
}

/// Topics in Kafka. <https://kafka.apache.org/protocol>
mod kafka {
    use super::*;

    /// CreateTopics, version 2: one partition, one replica.
    pub(super) fn store(address: SocketAddr, topic: &str) {
        let body = [
            &1_i32.to_be_bytes()[..],
            &string(topic),
            &1_i32.to_be_bytes(),
            &1_i16.to_be_bytes(),
            // No assignments of replicas and no settings; how long it may take; it is meant.
            &[0; 8],
            &30_000_i32.to_be_bytes(),
            &[0],
        ]
        .concat();
        let answer = call(address, 19, 2, &body);
        // Throttling, a count, the name, then the error of the only topic.
        let error = &answer[4 + 4 + 2 + topic.len()..][..2];
        assert_eq!(error, [0, 0], "{topic}: {answer:?}");
    }

    /// Metadata, version 1, of all topics: their names are in it.
    pub(super) fn has(address: SocketAddr, topic: &str) -> bool {
        let answer = call(address, 3, 1, &(-1_i32).to_be_bytes());
        answer.windows(2 + topic.len()).any(|window| window == string(topic))
    }

    fn call(address: SocketAddr, key: i16, version: i16, body: &[u8]) -> Vec<u8> {
        let correlation = [0, 0, 0, 7];
        let head = [&key.to_be_bytes()[..], &version.to_be_bytes(), &correlation, &string("test")];
        let request = [&head.concat(), body].concat();
        let mut stream = connect(address);
        stream.write_all(&u32::try_from(request.len()).unwrap().to_be_bytes()).unwrap();
        stream.write_all(&request).unwrap();
        let mut length = [0; 4];
        stream.read_exact(&mut length).unwrap();
        let mut answer = vec![0; u32::from_be_bytes(length) as usize];
        stream.read_exact(&mut answer).unwrap();
        assert_eq!(answer[..4], correlation);
        answer.split_off(4)
    }

    fn string(text: &str) -> Vec<u8> {
        [&i16::try_from(text.len()).unwrap().to_be_bytes()[..], text.as_bytes()].concat()
    }
}

fn connect(address: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(LIMIT)).unwrap();
    stream
}
