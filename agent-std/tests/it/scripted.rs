//! A gRPC server for tests: hands each stream of an agent to the test, which says what it answers.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use prost::Message as _;
use proto::monitoring_service_server::{MonitoringService, MonitoringServiceServer};
use proto::{Command, CommandResponse, Hello, MetricsRequest, WELCOME_HEADER, Welcome};
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio_stream::wrappers::ReceiverStream;
use tonic::metadata::BinaryMetadataValue;
use tonic::transport::Server;
use tonic::transport::server::TcpIncoming;
use tonic::{Request, Response, Status, Streaming};

use crate::process::PATIENCE;

/// When a server sends its response headers.
#[derive(Clone, Debug)]
pub(crate) enum Headers {
    /// At once, with this welcome.
    Welcome(Welcome),
    /// Only with the first command, as a server made with another library may.
    WithFirstCommand,
    /// At once, followed by this and the end of the stream, which the test does not get to see.
    LastWord(Welcome, Box<Command>),
    /// Never: the stream is refused, and the test does not get to see it.
    Refused,
}

/// One stream, as the test sees it.
#[derive(Debug)]
pub(crate) struct Stream {
    pub(crate) hello: Option<Hello>,
    requests: Streaming<MetricsRequest>,
    pub(crate) commands: mpsc::Sender<Result<Command, Status>>,
}

impl Stream {
    /// The next message; none when the agent has ended the stream.
    pub(crate) async fn message(&mut self) -> Option<MetricsRequest> {
        let message = tokio::time::timeout(PATIENCE, self.requests.message());
        message.await.expect("no message came").unwrap()
    }

    /// Reads until the stream is over, in whatever way. Answers the last message.
    pub(crate) async fn last_message(mut self) -> Option<MetricsRequest> {
        let mut last = None;
        let reading = async {
            while let Ok(Some(message)) = self.requests.message().await {
                last = Some(message);
            }
        };
        tokio::time::timeout(PATIENCE, reading).await.expect("the agent did not end the stream");
        last
    }

    pub(crate) async fn send(&self, command: Command) {
        self.commands.send(Ok(command)).await.unwrap();
    }
}

#[derive(Debug)]
pub(crate) struct ScriptedServer {
    pub(crate) address: SocketAddr,
    script: Script,
    streams: mpsc::Receiver<Stream>,
    task: JoinHandle<()>,
}

impl ScriptedServer {
    pub(crate) async fn start(headers: Headers) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (sender, streams) = mpsc::channel(4);
        let script = Script::new(Mutex::new(VecDeque::from([headers])));
        let service = Service { script: Arc::clone(&script), streams: sender };
        let service = MonitoringServiceServer::new(service);
        let incoming = TcpIncoming::from(listener).with_nodelay(Some(true));
        let serve = Server::builder().add_service(service).serve_with_incoming(incoming);
        let task = tokio::spawn(async { serve.await.unwrap() });
        Self { address, script, streams, task }
    }

    /// Answers the next streams so, one after the other, and all later ones as the last of these.
    pub(crate) fn answer(&self, next: impl IntoIterator<Item = Headers>) {
        *self.script.lock().unwrap() = next.into_iter().collect();
    }

    /// The next stream that an agent opens.
    pub(crate) async fn stream(&mut self) -> Stream {
        let stream = tokio::time::timeout(PATIENCE, self.streams.recv());
        stream.await.expect("no agent came").unwrap()
    }

    pub(crate) fn address(&self) -> String {
        self.address.to_string()
    }
}

impl Drop for ScriptedServer {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// How the next streams are answered; the last one stays.
type Script = Arc<Mutex<VecDeque<Headers>>>;

struct Service {
    script: Script,
    streams: mpsc::Sender<Stream>,
}

#[tonic::async_trait]
impl MonitoringService for Service {
    type StreamMetricsStream = ReceiverStream<Result<Command, Status>>;

    async fn stream_metrics(
        &self,
        request: Request<Streaming<MetricsRequest>>,
    ) -> Result<Response<Self::StreamMetricsStream>, Status> {
        let headers = {
            let mut script = self.script.lock().unwrap();
            let is_last = script.len() == 1;
            if is_last { script[0].clone() } else { script.pop_front().unwrap() }
        };
        let hello = request
            .metadata()
            .get_bin(proto::HELLO_HEADER)
            .map(|value| Hello::decode(value.to_bytes().unwrap()).unwrap());
        let (commands, mut queue) = mpsc::channel(16);
        let mut requests = request.into_inner();
        match headers {
            Headers::Welcome(welcome) => {
                self.streams.send(Stream { hello, requests, commands }).await.unwrap();
                Ok(welcomed(&welcome, queue))
            }
            Headers::WithFirstCommand => {
                self.streams.send(Stream { hello, requests, commands }).await.unwrap();
                let (late, late_queue) = mpsc::channel(16);
                let first = queue.recv().await.ok_or_else(|| Status::unavailable("gone"))?;
                late.send(first).await.unwrap();
                tokio::spawn(async move {
                    while let Some(command) = queue.recv().await {
                        late.send(command).await.ok();
                    }
                });
                Ok(Response::new(ReceiverStream::new(late_queue)))
            }
            Headers::LastWord(welcome, word) => {
                commands.send(Ok(*word)).await.unwrap();
                // Dropped unread, the agent's half would take with it what was said on this one.
                tokio::spawn(async move { while let Ok(Some(_)) = requests.message().await {} });
                Ok(welcomed(&welcome, queue))
            }
            Headers::Refused => Err(Status::unavailable("refused by the test")),
        }
    }

    async fn send_command(&self, _: Request<Command>) -> Result<Response<CommandResponse>, Status> {
        Err(Status::unimplemented("not part of these tests"))
    }
}

fn welcomed(
    welcome: &Welcome,
    queue: mpsc::Receiver<Result<Command, Status>>,
) -> Response<ReceiverStream<Result<Command, Status>>> {
    let mut response = Response::new(ReceiverStream::new(queue));
    let value = BinaryMetadataValue::from_bytes(&welcome.encode_to_vec());
    response.metadata_mut().insert_bin(WELCOME_HEADER, value);
    response
}

/// A welcome with the usual limits.
pub(crate) fn welcome() -> Welcome {
    Welcome {
        server_id: "scripted".to_owned(),
        batch_records_max: 64,
        message_bytes_max: 262_144,
        heartbeat_ms: 10_000,
        ..Welcome::default()
    }
}

/// Waits until `condition` holds of the next messages of `stream`; answers the one for which it did.
pub(crate) async fn message_where(
    stream: &mut Stream,
    mut condition: impl FnMut(&MetricsRequest) -> bool,
) -> MetricsRequest {
    let search = async {
        loop {
            let message = stream.message().await.expect("the agent ended the stream");
            if condition(&message) {
                return message;
            }
        }
    };
    tokio::time::timeout(PATIENCE + Duration::from_secs(1), search).await.expect("no such message")
}
