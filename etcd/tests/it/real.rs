//! A real etcd for tests: the one that is there for everybody, or one of their own, which they may kill.
//!
//! The shared one is named by `PICKET_TEST_ETCD` (`http://HOST:PORT`). For their own, the program is named by
//! `PICKET_ETCD_BIN`, or is where `cargo xtask services` puts it below the target directory, or is `etcd` on the path.
//! Where there is none the test is skipped loudly; with `PICKET_REQUIRE_SERVICES=1` it fails.
//!
//! Writes go through etcd's JSON gateway, so they are what any other program does. The tests of other crates include
//! this very file; it needs nothing but `tempfile`.

use std::fs::{File, OpenOptions};
use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// Far more than anything here takes, on a machine that is busy with other things.
pub(crate) const DEADLINE: Duration = Duration::from_secs(60);

/// An etcd that a test may use.
#[derive(Debug)]
pub(crate) enum Etcd {
    /// Others use it too: keys must be the test's own.
    Shared(String),
    /// Nobody else's.
    Private(Private),
}

impl Etcd {
    /// The shared one if there is, else one of the test's own; none when the test is to be skipped.
    pub(crate) fn any(test: &str) -> Option<Self> {
        match std::env::var("PICKET_TEST_ETCD") {
            Ok(address) if !address.is_empty() => Some(Self::Shared(address)),
            _ => Private::start(test).map(Self::Private),
        }
    }

    /// `HOST:PORT`.
    pub(crate) fn address(&self) -> String {
        match self {
            Self::Shared(address) => {
                address.trim_start_matches("http://").trim_end_matches('/').to_owned()
            }
            Self::Private(private) => private.address(),
        }
    }

    /// Changes made by another program.
    pub(crate) fn outsider(&self) -> Outsider {
        Outsider { address: self.address() }
    }
}

/// An etcd process of the test's own, ended with it.
#[derive(Debug)]
pub(crate) struct Private {
    program: PathBuf,
    dir: tempfile::TempDir,
    ports: (u16, u16),
    more: Vec<String>,
    child: Option<Child>,
}

impl Private {
    /// Starts one and waits until it answers; none when the test is to be skipped.
    pub(crate) fn start(test: &str) -> Option<Self> {
        Self::start_with(test, &[])
    }

    /// As [`Private::start`], with more arguments.
    pub(crate) fn start_with(test: &str, more: &[&str]) -> Option<Self> {
        let mut etcd = Self::prepare(test)?;
        etcd.more = more.iter().map(|&more| more.to_owned()).collect();
        for _ in 0..5 {
            etcd.spawn();
            if etcd.answers() {
                return Some(etcd);
            }
            // Somebody else took a port in between.
            etcd.kill();
            etcd.ports = (free_port(), free_port());
        }
        panic!("{:?} does not start", etcd.program);
    }

    /// One that does not run yet; [`Private::restart`] starts it.
    pub(crate) fn prepare(test: &str) -> Option<Self> {
        let Some(program) = program() else {
            skip(test);
            return None;
        };
        let dir = tempfile::tempdir().unwrap();
        let ports = (free_port(), free_port());
        Some(Self { program, dir, ports, more: Vec::new(), child: None })
    }

    /// `HOST:PORT`.
    pub(crate) fn address(&self) -> String {
        format!("127.0.0.1:{}", self.ports.0)
    }

    /// Changes made by another program.
    pub(crate) fn outsider(&self) -> Outsider {
        Outsider { address: self.address() }
    }

    /// SIGKILL.
    pub(crate) fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill().unwrap();
            child.wait().unwrap();
        }
    }

    /// Starts it, again or for the first time, on the same ports and data.
    pub(crate) fn restart(&mut self) {
        for _ in 0..20 {
            self.spawn();
            if self.answers() {
                return;
            }
            self.kill();
            // A port that somebody took for a moment becomes free again.
            std::thread::sleep(Duration::from_millis(250));
        }
        panic!("etcd does not start again on {}", self.address());
    }

    /// Throws away all data while it does not run, as a restore from nothing does: another cluster.
    pub(crate) fn lose_everything(&mut self) {
        assert!(self.child.is_none());
        std::fs::remove_dir_all(self.data()).unwrap();
        self.more.push("--initial-cluster-token=another".to_owned());
    }

    fn data(&self) -> PathBuf {
        self.dir.path().join("data")
    }

    fn spawn(&mut self) {
        assert!(self.child.is_none());
        let client = format!("http://{}", self.address());
        let peer = format!("http://127.0.0.1:{}", self.ports.1);
        let log = self.dir.path().join("log");
        let log = OpenOptions::new().create(true).append(true).open(log).unwrap();
        let child = Command::new(&self.program)
            .arg("--data-dir")
            .arg(self.data())
            .args(["--listen-client-urls", &client, "--advertise-client-urls", &client])
            .args(["--listen-peer-urls", &peer, "--initial-advertise-peer-urls", &peer])
            .args(["--initial-cluster", &format!("default={peer}")])
            .args(["--logger", "zap", "--log-level", "error"])
            .args(&self.more)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn();
        self.child = Some(child.unwrap());
    }

    /// Whether it has a leader and answers; gives up when it ends or takes for ever.
    fn answers(&mut self) -> bool {
        let until = Instant::now() + DEADLINE;
        while Instant::now() < until {
            if self.child.as_mut().is_none_or(|child| child.try_wait().unwrap().is_some()) {
                return false;
            }
            let health = request(&self.address(), "GET /health", "");
            if health.is_ok_and(|health| health.contains(r#""health":"true""#)) {
                return true;
            }
            std::thread::sleep(Duration::from_millis(30));
        }
        false
    }
}

impl Drop for Private {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Another program that uses the same etcd.
#[derive(Clone, Debug)]
pub(crate) struct Outsider {
    address: String,
}

impl Outsider {
    /// Puts any bytes under a key. Answers with the revision that this made.
    pub(crate) fn put(&self, key: &str, value: impl AsRef<[u8]>) -> u64 {
        let (key, value) = (base64(key.as_bytes()), base64(value.as_ref()));
        self.call("kv/put", &format!(r#"{{"key":"{key}","value":"{value}"}}"#))
    }

    /// Deletes a key. Answers with the revision that this made.
    pub(crate) fn delete(&self, key: &str) -> u64 {
        self.call("kv/deleterange", &format!(r#"{{"key":"{}"}}"#, base64(key.as_bytes())))
    }

    /// Forgets what was before this revision.
    pub(crate) fn compact(&self, revision: u64) {
        self.call("kv/compaction", &format!(r#"{{"revision":"{revision}"}}"#));
    }

    fn call(&self, method: &str, body: &str) -> u64 {
        let answer = request(&self.address, &format!("POST /v3/{method}"), body).unwrap();
        assert!(answer.starts_with("HTTP/1.1 200"), "{method}: {answer}");
        let (_, rest) = answer.split_once(r#""revision":""#).expect("the header has a revision");
        rest.split('"').next().unwrap().parse().unwrap()
    }
}

fn request(address: &str, head: &str, body: &str) -> std::io::Result<String> {
    let mut stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(DEADLINE))?;
    let length = body.len();
    write!(
        stream,
        "{head} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\nContent-Length: {length}\r\n\r\n{body}"
    )?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    Ok(answer)
}

fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::new();
    for group in bytes.chunks(3) {
        let bits = group.iter().fold(0, |bits, &byte| bits << 8 | usize::from(byte));
        let bits = bits << (8 * (3 - group.len()));
        for index in 0..4 {
            let digit = DIGITS[bits >> (18 - 6 * index) & 63];
            text.push(if index <= group.len() { char::from(digit) } else { '=' });
        }
    }
    text
}

fn program() -> Option<PathBuf> {
    if let Some(named) = std::env::var_os("PICKET_ETCD_BIN") {
        return Some(named.into());
    }
    // The tests are in TARGET/PROFILE/deps.
    let tests = std::env::current_exe().ok()?;
    let unpacked = tests.ancestors().map(|dir| dir.join("services/etcd/usr/bin/etcd"));
    let path = std::env::var_os("PATH").unwrap_or_default();
    let installed = std::env::split_paths(&path).map(|dir| dir.join("etcd"));
    unpacked.chain(installed).find(|program| program.is_file())
}

fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

/// Notes that a test could not run; where services are required that is a failure.
fn skip(test: &str) {
    const REMEDY: &str =
        "`cargo xtask services up` fetches it, `cargo xtask test` does all of that";
    let required = std::env::var_os("PICKET_REQUIRE_SERVICES").is_some_and(|value| value == "1");
    assert!(!required, "{test}: there is no etcd and PICKET_REQUIRE_SERVICES=1: {REMEDY}");
    let line = format!("{test}: etcd is missing; {REMEDY}\n");
    // The handle itself, past the capture of the test harness. A closed stderr is no reason to fail a test.
    std::io::stderr().write_all(format!("\nSKIPPED {line}").as_bytes()).ok();
    if let Some(list) = std::env::var_os("PICKET_SKIPPED") {
        let list = OpenOptions::new().create(true).append(true).open(list);
        list.and_then(|mut list: File| list.write_all(line.as_bytes())).unwrap();
    }
}
