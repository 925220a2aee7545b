//! A server that says what the test tells it to.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};

use proto::monitoring_service_server::{MonitoringService, MonitoringServiceServer};
use proto::operator_service_server::{OperatorService, OperatorServiceServer};
use proto::{
    Boot, Command, CommandResponse, Cursor, DeleteConfigRequest, GetConfigHistoryRequest,
    GetConfigHistoryResponse, GetConfigRequest, GetConfigResponse, GetServerStatusRequest,
    ListAgentsRequest, ListAgentsResponse, ListCommandsRequest, ListCommandsResponse, MetricsBatch,
    MetricsRecord, MetricsRequest, Position, Record, ServerStatus, SetConfigRequest,
    SetConfigResponse, StatusBatch, StatusEvent, StatusRecord, StoredMetrics, StoredStatus,
    SubscribeMetricsRequest, SubscribeStatusRequest,
};
use tokio::net::TcpListener;
use tokio::sync::{mpsc, oneshot};
use tokio_stream::wrappers::{ReceiverStream, TcpListenerStream};
use tonic::{Request, Response, Status, Streaming};

/// What the server answers, and what it was asked.
#[derive(Debug, Default)]
pub(crate) struct Script {
    /// One for each subscription to metrics; when they run out, a subscription stays silent.
    pub(crate) feeds: VecDeque<Feed<MetricsBatch>>,
    /// Likewise for what happens to agents.
    pub(crate) status_feeds: VecDeque<Feed<StatusBatch>>,
    pub(crate) agents: ListAgentsResponse,
    pub(crate) command: Option<Result<CommandResponse, Status>>,
    pub(crate) config: Option<Result<GetConfigResponse, Status>>,
    pub(crate) history: Option<Result<GetConfigHistoryResponse, Status>>,
    pub(crate) change: Option<Result<SetConfigResponse, Status>>,
    pub(crate) status: ServerStatus,
    pub(crate) commands: ListCommandsResponse,

    pub(crate) subscribed: Vec<SubscribeMetricsRequest>,
    pub(crate) status_subscribed: Vec<SubscribeStatusRequest>,
    pub(crate) commanded: Vec<Command>,
    pub(crate) set: Vec<SetConfigRequest>,
    pub(crate) listed: Vec<ListCommandsRequest>,
}

/// What one subscription brings.
#[derive(Clone, Debug)]
pub(crate) struct Feed<B> {
    pub(crate) batches: Vec<B>,
    pub(crate) ending: Ending,
}

/// What comes after the batches of a feed.
#[derive(Clone, Debug)]
pub(crate) enum Ending {
    End,
    Fail(Status),
    Silence,
    /// The last batch again and again.
    Repeat,
}

/// A server on a port of its own. Dropping it cuts all connections.
#[derive(Debug)]
pub(crate) struct Server {
    pub(crate) script: Arc<Mutex<Script>>,
    address: SocketAddr,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Server {
    pub(crate) fn start(script: Script) -> Self {
        Self::start_at("127.0.0.1:0".parse().unwrap(), script)
    }

    pub(crate) fn start_at(address: SocketAddr, script: Script) -> Self {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let listener = runtime.block_on(TcpListener::bind(address)).unwrap();
        let address = listener.local_addr().unwrap();
        let script = Arc::new(Mutex::new(script));
        let fake = Fake(Arc::clone(&script));
        let (stop, stopped) = oneshot::channel();
        let serve = async move {
            let serving = tonic::transport::Server::builder()
                .add_service(OperatorServiceServer::new(fake.clone()))
                .add_service(MonitoringServiceServer::new(fake))
                .serve_with_incoming(TcpListenerStream::new(listener));
            tokio::select! {
                served = serving => served.unwrap(),
                _ = stopped => {}
            }
        };
        // The runtime ends with the thread, and all connections with it.
        let thread = thread::spawn(move || runtime.block_on(serve));
        Self { script, address, stop: Some(stop), thread: Some(thread) }
    }

    pub(crate) fn name(&self) -> String {
        self.address.to_string()
    }

    /// Cuts all connections, and gives the address for another to take over.
    pub(crate) fn kill(self) -> SocketAddr {
        self.address
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        drop(self.stop.take());
        self.thread.take().unwrap().join().unwrap();
    }
}

#[derive(Clone, Debug)]
struct Fake(Arc<Mutex<Script>>);

impl Fake {
    fn answer<T: Clone>(
        &self,
        part: impl Fn(&Script) -> &Option<Result<T, Status>>,
    ) -> Result<Response<T>, Status> {
        let script = self.0.lock().unwrap();
        let answer = part(&script).clone();
        answer.unwrap_or_else(|| Err(Status::unimplemented("not scripted"))).map(Response::new)
    }
}

#[tonic::async_trait]
impl OperatorService for Fake {
    type SubscribeMetricsStream = ReceiverStream<Result<MetricsBatch, Status>>;
    type SubscribeStatusStream = ReceiverStream<Result<StatusBatch, Status>>;

    async fn list_agents(
        &self,
        request: Request<ListAgentsRequest>,
    ) -> Result<Response<ListAgentsResponse>, Status> {
        let wanted = request.into_inner().agents;
        let mut answer = self.0.lock().unwrap().agents.clone();
        answer.agents.retain(|agent| wanted.is_empty() || wanted.contains(&agent.agent_id));
        Ok(Response::new(answer))
    }

    async fn subscribe_metrics(
        &self,
        request: Request<SubscribeMetricsRequest>,
    ) -> Result<Response<Self::SubscribeMetricsStream>, Status> {
        let mut script = self.0.lock().unwrap();
        script.subscribed.push(request.into_inner());
        Ok(Response::new(play(script.feeds.pop_front())))
    }

    async fn subscribe_status(
        &self,
        request: Request<SubscribeStatusRequest>,
    ) -> Result<Response<Self::SubscribeStatusStream>, Status> {
        let mut script = self.0.lock().unwrap();
        script.status_subscribed.push(request.into_inner());
        Ok(Response::new(play(script.status_feeds.pop_front())))
    }

    async fn get_config(
        &self,
        _: Request<GetConfigRequest>,
    ) -> Result<Response<GetConfigResponse>, Status> {
        self.answer(|script| &script.config)
    }

    async fn set_config(
        &self,
        request: Request<SetConfigRequest>,
    ) -> Result<Response<SetConfigResponse>, Status> {
        self.0.lock().unwrap().set.push(request.into_inner());
        self.answer(|script| &script.change)
    }

    async fn delete_config(
        &self,
        _: Request<DeleteConfigRequest>,
    ) -> Result<Response<SetConfigResponse>, Status> {
        self.answer(|script| &script.change)
    }

    async fn get_config_history(
        &self,
        _: Request<GetConfigHistoryRequest>,
    ) -> Result<Response<GetConfigHistoryResponse>, Status> {
        self.answer(|script| &script.history)
    }

    async fn list_commands(
        &self,
        request: Request<ListCommandsRequest>,
    ) -> Result<Response<ListCommandsResponse>, Status> {
        let mut script = self.0.lock().unwrap();
        script.listed.push(request.into_inner());
        Ok(Response::new(script.commands.clone()))
    }

    async fn get_server_status(
        &self,
        _: Request<GetServerStatusRequest>,
    ) -> Result<Response<ServerStatus>, Status> {
        Ok(Response::new(self.0.lock().unwrap().status.clone()))
    }
}

#[tonic::async_trait]
impl MonitoringService for Fake {
    type StreamMetricsStream = ReceiverStream<Result<Command, Status>>;

    async fn stream_metrics(
        &self,
        _: Request<Streaming<MetricsRequest>>,
    ) -> Result<Response<Self::StreamMetricsStream>, Status> {
        Err(Status::unimplemented("not for agents"))
    }

    async fn send_command(
        &self,
        request: Request<Command>,
    ) -> Result<Response<CommandResponse>, Status> {
        self.0.lock().unwrap().commanded.push(request.into_inner());
        self.answer(|script| &script.command)
    }
}

fn play<B: Clone + Send + 'static>(feed: Option<Feed<B>>) -> ReceiverStream<Result<B, Status>> {
    let feed = feed.unwrap_or_else(|| feed_of(vec![], Ending::Silence));
    let (sender, receiver) = mpsc::channel(1);
    tokio::spawn(feed.send(sender));
    ReceiverStream::new(receiver)
}

impl<B: Clone> Feed<B> {
    async fn send(self, sender: mpsc::Sender<Result<B, Status>>) {
        let last = self.batches.last().cloned();
        for batch in self.batches {
            if sender.send(Ok(batch)).await.is_err() {
                return;
            }
        }
        match self.ending {
            Ending::End => {}
            Ending::Fail(status) => drop(sender.send(Err(status)).await),
            Ending::Silence => sender.closed().await,
            Ending::Repeat => {
                let batch = last.unwrap();
                while sender.send(Ok(batch.clone())).await.is_ok() {}
            }
        }
    }
}

pub(crate) fn feed_of<B>(batches: Vec<B>, ending: Ending) -> Feed<B> {
    Feed { batches, ending }
}

/// A script whose subscriptions to metrics bring these feeds.
pub(crate) fn script_of(feeds: impl IntoIterator<Item = Feed<MetricsBatch>>) -> Script {
    Script { feeds: feeds.into_iter().collect(), ..Script::default() }
}

/// A script whose subscriptions to what happens to agents bring these feeds.
pub(crate) fn status_script_of(feeds: impl IntoIterator<Item = Feed<StatusBatch>>) -> Script {
    Script { status_feeds: feeds.into_iter().collect(), ..Script::default() }
}

/// A batch with these entries.
pub(crate) fn batch(entries: Vec<StoredMetrics>) -> MetricsBatch {
    let cursor = entries.last().map(|last| cursor(last.offset + 1));
    MetricsBatch { entries, cursor, ..MetricsBatch::default() }
}

/// Where a reader of the only partition goes on.
pub(crate) fn cursor(next_offset: u64) -> Cursor {
    Cursor { positions: vec![Position { partition: 0, next_offset }] }
}

/// A record with cpu = `sequence` % and 1 MB/s read; its offset is ten times its sequence.
pub(crate) fn entry(agent_id: &str, sequence: u64) -> StoredMetrics {
    let count = i64::try_from(sequence).unwrap();
    StoredMetrics {
        offset: 10 * sequence,
        partition: 0,
        stored_ms: 0,
        metrics: Some(MetricsRecord {
            agent_id: agent_id.into(),
            boot: Some(Boot { counter: 1, nonce: 0xabc }),
            record: Some(Record {
                sequence,
                timestamp_ms: 1_700_000_000_000 + 1000 * count,
                present: 0b1_0001,
                values: vec![100 * count, 1_048_576],
                ..Record::default()
            }),
            metadata: [("rack".to_owned(), "7".to_owned())].into(),
            session: 1,
            replayed: false,
        }),
    }
}

/// A batch with these records; the offset of the first is 10, of the second 20, and so on.
pub(crate) fn status_batch(records: Vec<StatusRecord>) -> StatusBatch {
    let entries = records.into_iter().zip(1..).map(|(record, number)| StoredStatus {
        offset: 10 * number,
        partition: 0,
        stored_ms: 0,
        status: Some(record),
    });
    let entries: Vec<_> = entries.collect();
    let cursor = entries.last().map(|last| cursor(last.offset + 1));
    StatusBatch { entries, cursor, ..StatusBatch::default() }
}

/// An event of an agent in its boot with this counter.
pub(crate) fn event(agent_id: &str, boot: u64, event: StatusEvent) -> StatusRecord {
    StatusRecord {
        agent_id: agent_id.into(),
        event: event.into(),
        timestamp_ms: 1_700_000_000_000,
        server_id: "s1".into(),
        boot: Some(Boot { counter: boot, nonce: 0xabc }),
        ..StatusRecord::default()
    }
}
