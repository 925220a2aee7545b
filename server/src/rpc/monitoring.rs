//! The door for agents and for whoever commands them.

use std::convert::Infallible;
use std::future::{Future, ready};
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bus::{Payload, Record};
use prost::Message as _;
use proto::{
    Command, CommandOutcome, CommandResponse, HELLO_HEADER, Hello, WELCOME_HEADER, Welcome,
};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::body::Body;
use tonic::codegen::{Bytes, http};
use tonic::metadata::{MetadataMap, MetadataValue};
use tonic::server::{Grpc, NamedService, StreamingService, UnaryService};
use tonic::{Request, Response, Status, Streaming};
use tonic_prost::ProstCodec;

use crate::command::{self, Order, Reply};
use crate::ids::fresh_command_id;
use crate::ingest::{self, Introduction};
use crate::limits::{
    AGENT_MESSAGE_BYTES_MAX, HEARTBEAT, MESSAGE_BYTES_MAX, OUTBOUND_MESSAGES, WELCOME_HISTORY_MAX,
};
use crate::net::Line;
use crate::rejection::{Reason, Rejection};
use crate::rpc::frame::FrameCodec;
use crate::rpc::pace::Paced;
use crate::rpc::{refuse, stopping, unavailable};
use crate::shared::Shared;

/// The version of `RecordBatch.packed` that the server reads.
const PACKED_VERSION: u32 = 1;

/// `monitoring.MonitoringService`. Made by hand, where others are generated, because a generated service decodes a message
/// before anybody can ask whether there is room for it.
#[derive(Clone, Debug)]
pub(crate) struct Monitoring {
    shared: Arc<Shared>,
}

impl Monitoring {
    pub(crate) const fn new(shared: Arc<Shared>) -> Self {
        Self { shared }
    }

    async fn welcome(&self, introduction: &Introduction) -> Welcome {
        let credit_bytes = self.shared.load().share();
        welcome(&self.shared.server_id, self.acknowledged(introduction).await, credit_bytes)
    }

    /// What the agent need not send again: from memory, or after a restart of the server from the bus.
    async fn acknowledged(&self, introduction: &Introduction) -> u64 {
        let Introduction { agent, boot, .. } = introduction;
        let known = self.shared.registry().acknowledged(agent, *boot);
        if known > 0 {
            return known;
        }
        ingest::last_stored(&*self.shared.bus, agent, *boot, WELCOME_HISTORY_MAX).await
    }

    /// Hands `order` of `issuer` to the router and the bus, and waits for its answer.
    async fn command(
        &self,
        order: Order,
        issuer: Option<IpAddr>,
    ) -> Result<CommandResponse, Status> {
        let shared = &self.shared;
        let rejected = |text| {
            let now = shared.clock.now();
            let server_id = shared.server_id.clone();
            let answer = command::answer(now, &order, CommandOutcome::Rejected, text);
            CommandResponse { server_id, ..answer }
        };
        let reply = shared.commands.submit(order.clone(), issuer).await;
        let answer = match reply.map_err(|_| stopping())? {
            Reply::Publish(answer) => {
                self.publish(&order).await?;
                answer
            }
            Reply::Wait(answer) => answer,
            Reply::Answered(response) => return Ok(*response),
            Reply::Rejected(text) => return Ok(rejected(text)),
            Reply::Taken => {
                let text = format!("command id {} names another command", order.id);
                return Err(refuse(shared, Rejection::new(Reason::CommandId, text)));
            }
        };
        answer.await.map_err(|_| stopping())
    }

    async fn publish(&self, order: &Order) -> Result<(), Status> {
        let record =
            Record { key: order.agent.clone(), payload: Payload::Command(order.command.clone()) };
        // In a task of its own: a caller that goes away now must not leave the router in doubt.
        let (bus, commands) = (Arc::clone(&self.shared.bus), self.shared.commands.clone());
        let id = order.id.clone();
        let publishing = tokio::spawn(async move {
            let published = bus.publish(vec![record]).await;
            if published.is_err() {
                commands.withdrawn(id).await;
            }
            published
        });
        let published = publishing.await.map_err(|error| unavailable(&error))?;
        published.map_err(|error| unavailable(&error))
    }
}

impl NamedService for Monitoring {
    const NAME: &'static str = proto::monitoring_service_server::SERVICE_NAME;
}

type Answering = Pin<Box<dyn Future<Output = Result<http::Response<Body>, Infallible>> + Send>>;

impl tonic::codegen::Service<http::Request<Body>> for Monitoring {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = Answering;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Answering {
        let this = self.clone();
        match request.uri().path() {
            "/monitoring.MonitoringService/StreamMetrics" => Box::pin(async move {
                let request = request.map(|body| Body::new(Paced::new(body)));
                let mut grpc = Grpc::new(FrameCodec)
                    .max_decoding_message_size(AGENT_MESSAGE_BYTES_MAX)
                    .max_encoding_message_size(MESSAGE_BYTES_MAX);
                Ok(grpc.streaming(StreamMetrics(this), request).await)
            }),
            "/monitoring.MonitoringService/SendCommand" => Box::pin(async move {
                let mut grpc = Grpc::new(ProstCodec::default())
                    .max_decoding_message_size(MESSAGE_BYTES_MAX)
                    .max_encoding_message_size(MESSAGE_BYTES_MAX);
                Ok(grpc.unary(SendCommand(this), request).await)
            }),
            _ => Box::pin(ready(Ok(Status::unimplemented("").into_http()))),
        }
    }
}

/// `StreamMetrics`, whose messages are the bytes of [`proto::MetricsRequest`].
struct StreamMetrics(Monitoring);

impl StreamingService<Bytes> for StreamMetrics {
    type Response = Command;
    type ResponseStream = ReceiverStream<Result<Command, Status>>;
    type Future =
        Pin<Box<dyn Future<Output = Result<Response<Self::ResponseStream>, Status>> + Send>>;

    fn call(&mut self, request: Request<Streaming<Bytes>>) -> Self::Future {
        let monitoring = self.0.clone();
        Box::pin(async move { monitoring.stream_metrics(request).await })
    }
}

struct SendCommand(Monitoring);

impl UnaryService<Command> for SendCommand {
    type Response = CommandResponse;
    type Future = Pin<Box<dyn Future<Output = Result<Response<CommandResponse>, Status>> + Send>>;

    fn call(&mut self, request: Request<Command>) -> Self::Future {
        let monitoring = self.0.clone();
        Box::pin(async move { monitoring.send_command(request).await })
    }
}

impl Monitoring {
    async fn stream_metrics(
        &self,
        request: Request<Streaming<Bytes>>,
    ) -> Result<Response<ReceiverStream<Result<Command, Status>>>, Status> {
        let shared = &self.shared;
        let guard = shared.stopping.guard().ok_or_else(stopping)?;
        let introduction =
            introduction(request.metadata()).map_err(|rejection| refuse(shared, rejection))?;
        let welcome = match &introduction {
            Some(known) => Some(self.welcome(known).await),
            None => None,
        };
        let peer = request.remote_addr();
        let line = request.extensions().get::<Line>().cloned();
        let granted = welcome.as_ref().map_or(0, |welcome| welcome.credit_bytes);
        // A few messages, so that the session need not wake for each; a full one means a peer that takes
        // nothing, and the session waits.
        let (outbound, commands) = mpsc::channel(OUTBOUND_MESSAGES);
        let stream = ingest::Stream {
            peer: peer.map_or_else(|| "unknown".to_owned(), |peer| peer.to_string()),
            inbound: request.into_inner(),
            outbound,
            introduction,
            granted,
            line,
            guard,
        };
        tokio::spawn(ingest::run(Arc::clone(shared), stream));

        // The headers go out now, before the first message: an agent waits for the Welcome.
        let mut response = Response::new(ReceiverStream::new(commands));
        if let Some(welcome) = welcome {
            let value = MetadataValue::from_bytes(&welcome.encode_to_vec());
            response.metadata_mut().insert_bin(WELCOME_HEADER, value);
        }
        Ok(response)
    }

    async fn send_command(
        &self,
        request: Request<Command>,
    ) -> Result<Response<CommandResponse>, Status> {
        let shared = &self.shared;
        let issuer = request.remote_addr().map(|address| address.ip());
        let order = command::order(shared.clock.now(), request.into_inner(), fresh_command_id)
            .map_err(|rejection| refuse(shared, rejection))?;
        let mut ending = shared.stopping.clone();
        tokio::select! {
            response = self.command(order, issuer) => response.map(Response::new),
            () = ending.wait() => Err(stopping()),
        }
    }
}

/// What the server offers an agent of whose boot everything up to `acknowledged` is durable, and which may have
/// `credit_bytes` under way.
pub(crate) fn welcome(server_id: &str, acknowledged: u64, credit_bytes: u64) -> Welcome {
    Welcome {
        server_id: server_id.to_owned(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        acknowledged,
        batch_records_max: saturated(agent_core::limits::BATCH_RECORDS_MAX),
        message_bytes_max: saturated(AGENT_MESSAGE_BYTES_MAX),
        heartbeat_ms: saturated(HEARTBEAT.as_millis()),
        packed: PACKED_VERSION,
        credit_bytes,
        replay: true,
    }
}

/// Reads the Hello of the request headers; none from a client that knows only the fixed fields.
fn introduction(metadata: &MetadataMap) -> Result<Option<Introduction>, Rejection> {
    let Some(value) = metadata.get_bin(HELLO_HEADER) else {
        return Ok(None);
    };
    let malformed = |text: String| Rejection::new(Reason::Malformed, text);
    let bytes =
        value.to_bytes().map_err(|error| malformed(format!("header {HELLO_HEADER}: {error}")))?;
    let hello = Hello::decode(bytes)
        .map_err(|error| malformed(format!("header {HELLO_HEADER}: {error}")))?;
    Introduction::try_from(hello).map(Some)
}

fn saturated<N>(number: N) -> u32
where
    u32: TryFrom<N>,
{
    u32::try_from(number).unwrap_or(u32::MAX)
}
