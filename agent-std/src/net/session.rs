//! One stream after the other, as the owner of an uplink asks for them.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use agent_core::limits::TRANSMIT_SLOTS;
use prost::Message as _;
use proto::monitoring_service_client::MonitoringServiceClient;
use proto::{Hello, MetricsRequest, WELCOME_HEADER, Welcome};
use tokio::sync::Semaphore;
use tokio::sync::mpsc::{self, error::TrySendError};
use tokio_stream::Stream;
use tonic::metadata::{BinaryMetadataValue, MetadataMap};
use tonic::transport::Channel;
use tonic::{Code, Status};

use crate::net::{LinkEvent, Place, Request, Servers};

/// How large a message from a server may be. A pushed configuration is the largest: 64 KiB of JSON.
pub(super) const MESSAGE_BYTES_MAX: usize = 128 * 1024;

/// Messages of the server that may wait for their receiver. Behind them the stream is not read, and the window closes.
pub(super) const RECEIVED_MAX: usize = 2;

/// How long the end of a stream may take on our side.
const CLOSE_MAX: Duration = Duration::from_millis(500);

/// Serves requests until the owner is gone.
pub(super) async fn run<T: Send + 'static>(
    servers: Servers,
    mut requests: mpsc::Receiver<Request<T>>,
    report: impl Fn(u64, LinkEvent<T>) + Send + Sync + 'static,
) {
    let report: Report<T> = Arc::new(report);
    let mut next = requests.recv().await;
    while let Some(request) = next {
        next = match request {
            Request::Dial(hello) => {
                let report = Arc::clone(&report);
                let reporter = Arc::new(Reporter { session: hello.session, report });
                let end = match servers.connect().await {
                    Ok((choice, channel)) => {
                        match carry(channel, *hello, &mut requests, &reporter).await {
                            End::Lost(reason) => {
                                servers.give_up(choice);
                                End::Lost(format!("{}: {reason}", choice.address))
                            }
                            end => end,
                        }
                    }
                    Err(reason) => End::Lost(reason),
                };
                let (event, redial) = match end {
                    End::Lost(reason) => (LinkEvent::Closed { reason }, None),
                    End::Refused(reason) => (LinkEvent::Refused { reason }, None),
                    End::Finished => (LinkEvent::Finished, None),
                    End::Closed => (closed("closed by the agent"), None),
                    End::Replaced(request) => (closed("replaced"), Some(request)),
                };
                reporter.report(event);
                match redial {
                    Some(request) => Some(request),
                    None => requests.recv().await,
                }
            }
            // Left over from a stream that has ended; the core sends it again on the next one.
            Request::Send(..) | Request::Finish | Request::Close => requests.recv().await,
        };
    }
}

type Report<T> = Arc<dyn Fn(u64, LinkEvent<T>) + Send + Sync>;

/// Reports what happens to one stream.
struct Reporter<T> {
    session: u64,
    report: Report<T>,
}

impl<T> Reporter<T> {
    fn report(&self, event: LinkEvent<T>) {
        (self.report)(self.session, event);
    }
}

fn closed<T>(reason: &str) -> LinkEvent<T> {
    LinkEvent::Closed { reason: reason.to_owned() }
}

/// How a stream ended.
enum End<T> {
    Lost(String),
    Refused(String),
    Finished,
    Closed,
    Replaced(Request<T>),
}

async fn carry<T: Send + 'static>(
    channel: Channel,
    hello: Hello,
    requests: &mut mpsc::Receiver<Request<T>>,
    reporter: &Arc<Reporter<T>>,
) -> End<T> {
    // Room for all the messages that the core lets be under way.
    let (outbound, queue) = mpsc::channel(usize::from(TRANSMIT_SLOTS));
    let mut outbound = Some(outbound);
    let mut request = tonic::Request::new(Outbound { queue, reporter: Arc::clone(reporter) });
    let value = BinaryMetadataValue::from_bytes(&hello.encode_to_vec());
    request.metadata_mut().insert_bin(proto::HELLO_HEADER, value);

    let mut client =
        MonitoringServiceClient::new(channel).max_decoding_message_size(MESSAGE_BYTES_MAX);
    reporter.report(LinkEvent::Opened);
    // A plain server may send its response headers only with its first command, so messages must flow before.
    let call = client.stream_metrics(request);
    tokio::pin!(call);
    let mut inbound = None;
    let places = Arc::new(Semaphore::new(RECEIVED_MAX));
    loop {
        tokio::select! {
            response = &mut call, if inbound.is_none() => match response {
                Ok(response) => {
                    let (metadata, stream, _) = response.into_parts();
                    match welcome(&metadata) {
                        Ok(welcome) => reporter.report(LinkEvent::Answered(welcome)),
                        Err(reason) => return End::Lost(reason),
                    }
                    inbound = Some(stream);
                }
                Err(status) => return End::from(&status),
            },
            (place, message) = receive(&mut inbound, &places) => match message {
                Ok(Some(command)) => {
                    reporter.report(LinkEvent::Received(Box::new(command), place));
                }
                // Our half has ended before: the server has read it to its end.
                Ok(None) if outbound.is_none() => return End::Finished,
                Ok(None) => return End::Lost("the server ended the stream".to_owned()),
                Err(status) => return End::from(&status),
            },
            request = requests.recv() => match request {
                Some(Request::Send(message, name)) => {
                    // One that has ended takes nothing; why it has ended comes the other way.
                    let full = outbound.as_ref().is_some_and(|outbound| {
                        matches!(outbound.try_send((*message, name)), Err(TrySendError::Full(_)))
                    });
                    if full {
                        return End::Lost("more messages than slots".to_owned());
                    }
                }
                Some(request @ Request::Dial(_)) => return End::Replaced(request),
                Some(Request::Finish) => outbound = None,
                Some(Request::Close) | None => {
                    // Ends our half; the server answers by ending its own.
                    outbound = None;
                    if let Some(stream) = &mut inbound {
                        let ended = async { while let Ok(Some(_)) = stream.message().await {} };
                        // A server that does not end its half in time is left alone.
                        tokio::time::timeout(CLOSE_MAX, ended).await.ok();
                    }
                    drop(outbound);
                    return End::Closed;
                }
            },
        }
    }
}

/// The next message of the server, once there is a place for it; waits for ever while there is no response yet.
async fn receive(
    inbound: &mut Option<tonic::Streaming<proto::Command>>,
    places: &Arc<Semaphore>,
) -> (Place, Result<Option<proto::Command>, Status>) {
    let (Some(stream), Ok(place)) = (inbound, Arc::clone(places).acquire_owned().await) else {
        // Places are never closed.
        return std::future::pending().await;
    };
    (Place(place), stream.message().await)
}

fn welcome(metadata: &MetadataMap) -> Result<Option<Welcome>, String> {
    let Some(value) = metadata.get_bin(WELCOME_HEADER) else { return Ok(None) };
    let bytes = value.to_bytes().map_err(|_| "the server's welcome is not base64".to_owned())?;
    let welcome = Welcome::decode(bytes)
        .map_err(|error| format!("the server's welcome cannot be read: {error}"))?;
    Ok(Some(welcome))
}

impl<T> From<&Status> for End<T> {
    fn from(status: &Status) -> Self {
        match status.code() {
            Code::AlreadyExists => Self::Refused(status.message().to_owned()),
            _ => Self::Lost(describe_status(status)),
        }
    }
}

fn describe_status(status: &Status) -> String {
    if std::error::Error::source(status).is_some() {
        // Made here, not by the server: the connection broke, and the cause says how.
        return format!("the connection broke: {}", describe(status));
    }
    match status.code() {
        Code::Unimplemented => {
            "the server does not know StreamMetrics; is it a picket-server?".to_owned()
        }
        code => format!("{} ({code:?})", status.message()),
    }
}

/// The error with its causes, which say what tonic's own text leaves out.
pub(super) fn describe(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(Some(error), |error| error.source());
    causes.last().map_or_else(|| error.to_string(), ToString::to_string)
}

/// The messages of one stream. Says when the transport takes one, which it does only while HTTP/2 lets it.
struct Outbound<T> {
    queue: mpsc::Receiver<(MetricsRequest, T)>,
    reporter: Arc<Reporter<T>>,
}

impl<T> Stream for Outbound<T> {
    type Item = MetricsRequest;

    fn poll_next(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<MetricsRequest>> {
        self.queue.poll_recv(context).map(|item| {
            let (message, name) = item?;
            self.reporter.report(LinkEvent::Transmitted(name));
            Some(message)
        })
    }
}
