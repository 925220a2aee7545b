//! Memory that peers cost a server: how much it grows with some hundred of one kind, for each.
//!
//!     cargo xtask bench memory
//!
//! Each kind has a server of its own, so that none gets what another has left. The peers are by hand, and all in this
//! process, which costs the server nothing.
#![forbid(unsafe_code)]
#![expect(clippy::unwrap_used, reason = "a measurement that cannot go on fails")]

#[path = "../../tests/it/raw.rs"]
#[expect(dead_code, reason = "it is shared with the tests, and each uses a part")]
mod raw;

use std::env;
use std::fs;
use std::io::{self, BufRead as _, BufReader, Write as _};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, ensure};
use clap::Parser;
use proto::agent_message::Body;
use proto::operator_service_client::OperatorServiceClient;
use proto::{
    AgentMessage, Boot, GetServerStatusRequest, Hello, MetricsRequest, Record, RecordBatch,
    ServerStatus, SetConfigRequest,
};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use serde_json::json;
use tempfile::TempDir;
use tokio::task::JoinSet;
use tokio::time::sleep;
use tonic::transport::{Channel, Endpoint};

use self::raw::{PREFACE, Peer};

#[derive(Debug, Parser)]
struct Arguments {
    /// Peers of each kind
    #[arg(long, default_value_t = 500)]
    peers: u32,
    /// One JSON object per line
    #[arg(long)]
    json: bool,
    /// What `cargo bench` adds
    #[arg(long, hide = true)]
    bench: bool,
}

/// A kind of peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// Sends a record a second, and reads what it is told.
    Healthy,
    /// Connects, and says nothing.
    Silent,
    /// Begins a message of the largest size, and leaves out the last byte.
    HalfMessage,
    /// Introduces itself, and lets nothing be sent to it: neither its configuration of 60 KiB nor acknowledgements.
    Deaf,
}

impl Kind {
    const ALL: [Self; 4] = [Self::Healthy, Self::Silent, Self::HalfMessage, Self::Deaf];

    const fn name(self) -> &'static str {
        match self {
            Self::Healthy => "healthy",
            Self::Silent => "silent",
            Self::HalfMessage => "half a message",
            Self::Deaf => "reads nothing",
        }
    }

    /// What one may cost, in KiB.
    const fn goal_kib(self) -> u64 {
        match self {
            Self::Healthy => 64,
            Self::Silent | Self::HalfMessage | Self::Deaf => 256,
        }
    }
}

/// How long the peers of a kind do what they do before the server is measured: less than it takes to cut one off.
const SETTLING: Duration = Duration::from_secs(8);

const BOOT: Boot = Boot { counter: 1, nonce: 7 };

/// A window like that of a decent client.
const OPEN: u32 = 65_535;

/// What the server lets a stream send ahead.
const SERVER_WINDOW: usize = 32 * 1024;

/// Of a message of an agent.
const MESSAGE_BYTES_MAX: u32 = 128 * 1024;

struct Server {
    child: Child,
    address: String,
    _data: TempDir,
}

impl Server {
    fn start() -> anyhow::Result<Self> {
        let binaries = env::var_os("PICKET_BINARIES").map(PathBuf::from);
        let binaries = binaries.context("PICKET_BINARIES must say where picket-server is")?;
        let data = TempDir::new()?;
        let mut child = Command::new(binaries.join("picket-server"))
            .args(["--listen", "127.0.0.1:0", "--log-level", "error", "--data"])
            .arg(data.path())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()?;
        let mut line = String::new();
        let output = child.stdout.take().context("the output is piped")?;
        BufReader::new(output).read_line(&mut line)?;
        let address = line.strip_prefix("listening on ").context("the server does not start")?;
        Ok(Self { address: address.trim_end().to_owned(), child, _data: data })
    }

    fn resident_kib(&self) -> anyhow::Result<u64> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.child.id()))?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        Ok(line.context("no VmRSS")?.trim().trim_end_matches(" kB").parse()?)
    }

    async fn operator(&self) -> anyhow::Result<OperatorServiceClient<Channel>> {
        let endpoint = Endpoint::from_shared(format!("http://{}", self.address))?;
        Ok(OperatorServiceClient::new(endpoint.connect().await?))
    }

    async fn status(&self) -> anyhow::Result<ServerStatus> {
        let status = self.operator().await?.get_server_status(GetServerStatusRequest {}).await?;
        Ok(status.into_inner())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // Fails when it has ended, which is what is wanted.
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

/// What was found of a kind.
struct Finding {
    base_kib: u64,
    grown_kib: u64,
    in_flight_peak: u64,
}

fn batch(sequence: u64) -> MetricsRequest {
    let record = Record {
        sequence,
        timestamp_ms: 1_700_000_000_000,
        present: 0xff,
        values: vec![1250, 2500, 1 << 30, 1 << 34, 4096, 0, 1000, 2000],
        ..Record::default()
    };
    let records = RecordBatch { boot: Some(BOOT), records: vec![record], ..RecordBatch::default() };
    let message = Some(AgentMessage { body: Some(Body::Records(records)) });
    MetricsRequest { message, ..MetricsRequest::default() }
}

fn hello(agent: &str) -> Hello {
    Hello { agent_id: agent.to_owned(), boot: Some(BOOT), session: 1, ..Hello::default() }
}

/// Does what its kind does until it is aborted.
async fn behave(kind: Kind, address: String, agent: String) {
    let mut peer = match kind {
        Kind::Silent => Peer::connect(&address).await,
        Kind::Deaf => Peer::greet(&address, 0).await,
        Kind::Healthy | Kind::HalfMessage => Peer::greet(&address, OPEN).await,
    };
    match kind {
        Kind::Healthy => {
            peer.open(1, Some(&hello(&agent))).await;
            for sequence in 1.. {
                peer.message(1, &batch(sequence)).await;
                if !peer.heard().await {
                    return;
                }
                sleep(Duration::from_secs(1)).await;
            }
        }
        Kind::Silent => {
            peer.write(&PREFACE[..10]).await;
            sleep(Duration::MAX).await;
        }
        Kind::HalfMessage => {
            peer.open(1, Some(&hello(&agent))).await;
            peer.most_of_a_message(1, SERVER_WINDOW, MESSAGE_BYTES_MAX).await;
            peer.closed().await;
        }
        Kind::Deaf => {
            peer.open(1, Some(&hello(&agent))).await;
            for sequence in 1..=20 {
                peer.message(1, &batch(sequence)).await;
            }
            peer.closed().await;
        }
    }
}

async fn measure(kind: Kind, count: u32) -> anyhow::Result<Finding> {
    let server = Server::start()?;
    if kind == Kind::Deaf {
        // Keys that nobody knows are kept and passed on.
        let document = json!({ "interval": 5, "padding": "x".repeat(60_000) });
        let request = SetConfigRequest {
            agent_id: "_default".to_owned(),
            document: document.to_string(),
            expected_revision: None,
        };
        server.operator().await?.set_config(request).await?;
    }
    // The first one makes what all share.
    let mut peers = JoinSet::new();
    peers.spawn(behave(Kind::Healthy, server.address.clone(), "first".to_owned()));
    sleep(Duration::from_secs(3)).await;
    let base_kib = server.resident_kib()?;
    for index in 0..count {
        peers.spawn(behave(kind, server.address.clone(), format!("agent-{index}")));
    }
    sleep(SETTLING).await;
    let grown_kib = server.resident_kib()?.saturating_sub(base_kib);
    let status = server.status().await?;
    let counter = |name: &str| {
        let counter = status.counters.iter().find(|counter| counter.name == name);
        counter.map_or(0, |counter| counter.count)
    };
    // The first one, and who asks.
    let others = 2;
    let there = counter("connections").saturating_sub(others);
    ensure!(there == u64::from(count), "{there} of {count} peers of kind {kind:?} are there");
    Ok(Finding { base_kib, grown_kib, in_flight_peak: counter("in_flight.bytes.peak") })
}

/// Each peer takes a file, here and there.
fn raise_open_files() -> anyhow::Result<()> {
    let limit = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum })?;
    Ok(())
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let Arguments { peers, json, bench: _ } = Arguments::parse();
    raise_open_files()?;
    let mut out = io::stdout().lock();
    if !json {
        writeln!(
            out,
            "peers           each KiB  goal KiB       of all  server without  in flight, peak"
        )?;
    }
    for kind in Kind::ALL {
        let Finding { base_kib, grown_kib, in_flight_peak } = measure(kind, peers).await?;
        let each_kib = grown_kib / u64::from(peers);
        let (name, goal_kib) = (kind.name(), kind.goal_kib());
        if json {
            let row = json!({
                "kind": name,
                "peers": peers,
                "each_kib": each_kib,
                "goal_kib": goal_kib,
                "grown_kib": grown_kib,
                "base_kib": base_kib,
                "in_flight_peak_bytes": in_flight_peak,
            });
            writeln!(out, "{row}")?;
        } else {
            writeln!(
                out,
                "{name:<14} {each_kib:>9} {goal_kib:>9} {grown_kib:>8} KiB {base_kib:>11} KiB {in_flight_peak:>14} B"
            )?;
        }
        out.flush()?;
    }
    Ok(())
}
