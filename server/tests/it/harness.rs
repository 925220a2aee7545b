//! A server process, and agents made by hand.

use std::io::{BufRead as _, BufReader, Read as _};
use std::path::Path;
use std::process::{Child, Command as Process, ExitStatus, Output, Stdio};
use std::time::{Duration, Instant};

use prost::Message as _;
use proto::agent_message::Body;
use proto::monitoring_service_client::MonitoringServiceClient;
use proto::operator_service_client::OperatorServiceClient;
use proto::{
    AgentInfo, AgentMessage, Boot, Command, GetServerStatusRequest, HELLO_HEADER, Hello,
    ListAgentsRequest, MetricsBatch, MetricsRequest, Record, RecordBatch, ServerStatus,
    StoredMetrics, SubscribeMetricsRequest, SystemMetrics, WELCOME_HEADER, Welcome, server_message,
};
use tempfile::TempDir;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::metadata::MetadataValue;
use tonic::transport::{Channel, Endpoint};
use tonic::{Request, Status, Streaming};

/// Longer than anything here takes on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);

/// How often a condition is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// Fails the test when `future` takes too long.
pub(crate) async fn soon<F: Future>(what: &str, future: F) -> F::Output {
    match tokio::time::timeout(PATIENCE, future).await {
        Ok(output) => output,
        Err(_) => panic!("{what} takes too long"),
    }
}

pub(crate) fn server_command(data: &Path) -> Process {
    let mut process = Process::new(env!("CARGO_BIN_EXE_picket-server"));
    process
        .args(["--listen", "127.0.0.1:0", "--log-level", "debug", "--data"])
        .arg(data)
        .env_remove("STATE_DIRECTORY")
        .env_remove("PICKET_LOG")
        .env_remove("ETCD_HOST")
        .env_remove("KAFKA_BOOTSTRAP_SERVERS")
        .env_remove("NOTIFY_SOCKET")
        .env_remove("WATCHDOG_USEC")
        .stdin(Stdio::null());
    process
}

/// Runs to the end; for servers that do not start.
pub(crate) fn run_to_end(mut process: Process) -> Output {
    process.output().unwrap()
}

/// A running server. Killed when dropped.
#[derive(Debug)]
pub(crate) struct Server {
    child: Child,
    pub(crate) address: String,
    data: TempDir,
}

impl Server {
    pub(crate) fn start() -> Self {
        Self::start_in(TempDir::new().unwrap())
    }

    pub(crate) fn start_in(data: TempDir) -> Self {
        Self::start_with(data, &[])
    }

    pub(crate) fn start_with(data: TempDir, arguments: &[&str]) -> Self {
        let mut process = server_command(data.path());
        process.args(arguments);
        Self::start_process(process, data)
    }

    pub(crate) fn start_with_variables(data: TempDir, variables: &[(&str, &str)]) -> Self {
        let mut process = server_command(data.path());
        process.envs(variables.iter().copied());
        Self::start_process(process, data)
    }

    /// A server that may open so many files and no more.
    #[cfg(target_os = "linux")]
    pub(crate) fn start_with_files(data: TempDir, files: u32, arguments: &[&str]) -> Self {
        let server = server_command(data.path());
        let mut process = Process::new("sh");
        process.args(["-c", "ulimit -n \"$0\" && exec \"$@\"", &files.to_string()]);
        process.arg(server.get_program()).args(server.get_args()).args(arguments);
        for variable in
            server.get_envs().filter_map(|(name, value)| value.is_none().then_some(name))
        {
            process.env_remove(variable);
        }
        process.stdin(Stdio::null());
        Self::start_process(process, data)
    }

    fn start_process(mut process: Process, data: TempDir) -> Self {
        let mut child = process.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let Some(address) = line.strip_prefix("listening on ") else {
            let mut log = String::new();
            child.stderr.take().unwrap().read_to_string(&mut log).unwrap();
            panic!("the server says {line:?}, and logs {log}");
        };
        let address = address.trim_end().to_owned();
        // The log must be read, or the server would wait for room in the pipe. It shows when a test fails.
        let log = BufReader::new(child.stderr.take().unwrap());
        std::thread::spawn(move || {
            for line in log.lines().map_while(Result::ok) {
                eprintln!("{line}");
            }
        });
        Self { child, address, data }
    }

    /// What the process has in memory, in bytes.
    #[cfg(target_os = "linux")]
    pub(crate) fn resident_bytes(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
        1024 * line.trim().trim_end_matches(" kB").parse::<u64>().unwrap()
    }

    pub(crate) fn data(&self) -> &Path {
        self.data.path()
    }

    /// Ends it at once, as a crash would.
    pub(crate) fn kill(mut self) -> TempDir {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
        std::mem::replace(&mut self.data, TempDir::new().unwrap())
    }

    /// Ends it with SIGTERM.
    pub(crate) fn terminate(mut self) -> (ExitStatus, TempDir) {
        self.send_sigterm();
        let status = self.child.wait().unwrap();
        (status, std::mem::replace(&mut self.data, TempDir::new().unwrap()))
    }

    pub(crate) fn send_sigterm(&self) {
        let sent = Process::new("kill").arg(self.child.id().to_string()).status().unwrap();
        assert!(sent.success());
    }

    pub(crate) async fn wait(&mut self) -> ExitStatus {
        let ending = async {
            loop {
                if let Some(status) = self.child.try_wait().unwrap() {
                    return status;
                }
                tokio::time::sleep(LOOK_EVERY).await;
            }
        };
        soon("the end of the server", ending).await
    }

    pub(crate) async fn channel(&self) -> Channel {
        let endpoint = Endpoint::from_shared(format!("http://{}", self.address)).unwrap();
        soon("connecting", endpoint.connect()).await.unwrap()
    }

    pub(crate) async fn monitoring(&self) -> MonitoringServiceClient<Channel> {
        MonitoringServiceClient::new(self.channel().await)
    }

    pub(crate) async fn operator(&self) -> OperatorServiceClient<Channel> {
        OperatorServiceClient::new(self.channel().await)
    }

    pub(crate) async fn status(&self) -> ServerStatus {
        let mut operator = self.operator().await;
        let status = soon("status", operator.get_server_status(GetServerStatusRequest {})).await;
        status.unwrap().into_inner()
    }

    pub(crate) async fn counter(&self, name: &str) -> u64 {
        let counters = self.status().await.counters;
        let counter = counters.iter().find(|counter| counter.name == name);
        counter.unwrap_or_else(|| panic!("no counter {name}")).count
    }

    /// The offset that the next record of `topic` will get.
    pub(crate) async fn stored(&self, topic: &str) -> u64 {
        let topics = self.status().await.topics;
        let topic = topics.iter().find(|status| status.name == topic);
        topic.unwrap().next_offset
    }

    pub(crate) async fn agents(&self) -> Vec<AgentInfo> {
        let mut operator = self.operator().await;
        let agents = soon("agents", operator.list_agents(ListAgentsRequest::default())).await;
        agents.unwrap().into_inner().agents
    }

    /// Waits until what the server says of `agent` is as wanted.
    pub(crate) async fn until(
        &self,
        agent: &str,
        wanted: impl Fn(&AgentInfo) -> bool,
    ) -> AgentInfo {
        let deadline = Instant::now() + PATIENCE;
        while Instant::now() < deadline {
            let agents = self.agents().await;
            let found = agents.into_iter().find(|info| info.agent_id == agent);
            if let Some(info) = found.filter(&wanted) {
                return info;
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
        panic!("{agent} does not come to the state that is waited for: {:?}", self.agents().await);
    }

    /// Everything that a subscription gives until it ends, or, with `follow`, until there are `count`.
    pub(crate) async fn read(
        &self,
        request: SubscribeMetricsRequest,
        count: usize,
    ) -> Vec<StoredMetrics> {
        let mut stream = self.subscribe(request).await;
        let mut entries = Vec::new();
        while entries.len() < count {
            match soon("a batch", stream.message()).await.unwrap() {
                Some(batch) => entries.extend(batch.entries),
                None => break,
            }
        }
        entries
    }

    pub(crate) async fn history(&self) -> Vec<StoredMetrics> {
        self.read(since_the_start(), usize::MAX).await
    }

    pub(crate) async fn subscribe(
        &self,
        request: SubscribeMetricsRequest,
    ) -> Streaming<MetricsBatch> {
        let mut operator = self.operator().await;
        let stream = soon("subscribing", operator.subscribe_metrics(request)).await;
        stream.unwrap().into_inner()
    }

    /// Opens a stream; the headers come before any message is sent.
    pub(crate) async fn open(&self, hello: Option<Hello>) -> Result<Stream, Status> {
        let mut request = Request::new(());
        if let Some(hello) = hello {
            let value = MetadataValue::from_bytes(&hello.encode_to_vec());
            request.metadata_mut().insert_bin(HELLO_HEADER, value);
        }
        self.open_with(request).await
    }

    pub(crate) async fn open_with(&self, headers: Request<()>) -> Result<Stream, Status> {
        let (sender, messages) = mpsc::channel(16);
        let request = headers.map(|()| ReceiverStream::new(messages));
        let mut client = self.monitoring().await;
        let response = soon("opening a stream", client.stream_metrics(request)).await?;
        let welcome = response.metadata().get_bin(WELCOME_HEADER);
        let welcome = welcome.map(|value| Welcome::decode(value.to_bytes().unwrap()).unwrap());
        Ok(Stream { sender: Some(sender), commands: response.into_inner(), welcome })
    }

    /// An agent that speaks the full dialect.
    pub(crate) async fn agent(&self, name: &str) -> Stream {
        self.open(Some(hello(name, BOOT, 1))).await.unwrap()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // Fails when it has ended, which is what is wanted.
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

/// One stream of an agent.
#[derive(Debug)]
pub(crate) struct Stream {
    sender: Option<mpsc::Sender<MetricsRequest>>,
    commands: Streaming<Command>,
    pub(crate) welcome: Option<Welcome>,
}

impl Stream {
    pub(crate) async fn send(&self, request: MetricsRequest) {
        let sender = self.sender.as_ref().unwrap();
        soon("sending", sender.send(request)).await.unwrap();
    }

    pub(crate) async fn say(&self, body: Body) {
        self.send(MetricsRequest {
            message: Some(AgentMessage { body: Some(body) }),
            ..MetricsRequest::default()
        })
        .await;
    }

    pub(crate) async fn send_records(&self, sequences: impl IntoIterator<Item = u64>) {
        let batch = RecordBatch {
            boot: Some(BOOT),
            records: sequences.into_iter().map(record).collect(),
            ..RecordBatch::default()
        };
        self.say(Body::Records(batch)).await;
    }

    /// No more messages; the stream stays open the other way.
    pub(crate) fn finish(&mut self) {
        self.sender = None;
    }

    /// The next thing the server sends; none at a clean end. Credits are passed over: they come when the machine is slow.
    pub(crate) async fn next(&mut self) -> Result<Option<Command>, Status> {
        loop {
            let command = soon("a command", self.commands.message()).await?;
            let message = command.as_ref().and_then(|command| command.message.as_ref());
            let body = message.and_then(|message| message.body.as_ref());
            if !matches!(body, Some(server_message::Body::Credit(_))) {
                return Ok(command);
            }
        }
    }

    /// The next thing the server sends, which is a message of ours.
    pub(crate) async fn hear(&mut self) -> server_message::Body {
        let command = self.next().await.unwrap().expect("the stream goes on");
        let message = command.message.expect("a message of ours, not a command");
        message.body.unwrap()
    }

    /// Reads until everything up to `sequence` is acknowledged.
    pub(crate) async fn acknowledged(&mut self, sequence: u64) {
        loop {
            if let server_message::Body::Ack(ack) = self.hear().await {
                assert_eq!(ack.boot, Some(BOOT));
                assert!(ack.sequence <= sequence, "{} was not sent", ack.sequence);
                if ack.sequence == sequence {
                    return;
                }
            }
        }
    }

    /// How the server ends the stream.
    pub(crate) async fn ended(&mut self) -> Status {
        loop {
            match self.next().await {
                Ok(Some(_)) => {}
                Ok(None) => return Status::ok(""),
                Err(status) => return status,
            }
        }
    }
}

pub(crate) const BOOT: Boot = Boot { counter: 3, nonce: 0x9f3a };

pub(crate) fn hello(name: &str, boot: Boot, session: u64) -> Hello {
    Hello {
        agent_id: name.to_owned(),
        boot: Some(boot),
        session,
        version: "0.1.0".to_owned(),
        host_name: "test-host".to_owned(),
        target: "x86_64-linux".to_owned(),
        ..Hello::default()
    }
}

pub(crate) fn record(sequence: u64) -> Record {
    Record {
        sequence,
        timestamp_ms: 1_700_000_000_000,
        present: 0b11,
        values: vec![1250, 2500],
        ..Record::default()
    }
}

/// A message with nothing but the fixed fields.
pub(crate) fn plain(name: &str, cpu_percent: f64) -> MetricsRequest {
    MetricsRequest {
        agent_id: name.to_owned(),
        timestamp: 1_700_000_000,
        metrics: Some(SystemMetrics { cpu_percent, ..SystemMetrics::default() }),
        ..MetricsRequest::default()
    }
}

pub(crate) fn since_the_start() -> SubscribeMetricsRequest {
    SubscribeMetricsRequest {
        start: Some(proto::subscribe_metrics_request::Start::Cursor(proto::Cursor::default())),
        ..SubscribeMetricsRequest::default()
    }
}

/// The sequences of some stored records.
pub(crate) fn sequences(entries: &[StoredMetrics]) -> Vec<u64> {
    let records = entries.iter().map(|entry| entry.metrics.as_ref().unwrap());
    records.map(|metrics| metrics.record.as_ref().unwrap().sequence).collect()
}
