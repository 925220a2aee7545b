//! One connection: HTTP/2 with bounds on everything that its peer can make us keep.

use std::convert::Infallible;
use std::future::Future;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use http_body::{Frame, SizeHint};
use hyper::body::Incoming;
use hyper::server::conn::http2;
use hyper::service::Service;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::net::TcpStream;
use tokio::sync::{Notify, watch};
use tonic::body::Body;
use tonic::codegen::http::{Request, Response};
use tonic::codegen::{Bytes, Service as _};
use tonic::service::Routes;
use tonic::transport::server::{Connected as _, TcpConnectInfo};
use tracing::debug;

use crate::counters::{Counter, Counters};
use crate::limits::{
    CONNECTION_STREAMS_MAX, ERROR_STREAMS_MAX, FIRST_REQUEST_MAX, HEADERS_BYTES_MAX, IDLE_MAX,
    KEEPALIVE_INTERVAL, KEEPALIVE_TIMEOUT, LEFTOVERS_MAX, RESET_STREAMS_MAX, SEND_BUFFER_BYTES,
    WINDOW_BYTES,
};
use crate::net::line::{Line, Unanswered};
use crate::rpc::retell_decoding_errors;
use crate::shutdown::Stopping;

/// HTTP/2 as this server speaks it.
pub(super) fn protocol() -> http2::Builder<TokioExecutor> {
    let mut protocol = http2::Builder::new(TokioExecutor::new());
    protocol
        .timer(TokioTimer::new())
        .keep_alive_interval(KEEPALIVE_INTERVAL)
        .keep_alive_timeout(KEEPALIVE_TIMEOUT)
        .adaptive_window(false)
        .initial_stream_window_size(WINDOW_BYTES)
        .initial_connection_window_size(WINDOW_BYTES)
        .max_concurrent_streams(CONNECTION_STREAMS_MAX)
        .max_send_buf_size(SEND_BUFFER_BYTES)
        .max_header_list_size(HEADERS_BYTES_MAX)
        .max_pending_accept_reset_streams(RESET_STREAMS_MAX)
        .max_local_error_reset_streams(ERROR_STREAMS_MAX);
    protocol
}

/// Serves `socket` until its peer goes, breaks a rule or a bound, or the server ends.
pub(super) async fn run(
    protocol: http2::Builder<TokioExecutor>,
    socket: TcpStream,
    routes: Routes,
    counters: Arc<Counters>,
    mut stopping: Stopping,
) {
    let hang_up = Arc::new(Notify::new());
    let (open, mut streams) = watch::channel(Streams::default());
    let service = Door {
        peer: socket.connect_info(),
        routes,
        open: Arc::new(open),
        hang_up: Arc::clone(&hang_up),
        counters: Arc::clone(&counters),
    };
    let connection = protocol.serve_connection(TokioIo::new(socket), service);
    let mut connection = pin!(connection);
    let mut ending = false;
    loop {
        tokio::select! {
            result = connection.as_mut() => {
                if let Err(error) = result {
                    debug!("connection ended: {error}");
                    counters.add(kind_of(&error), 1);
                }
                return;
            }
            () = hang_up.notified() => {
                counters.add(Counter::ConnectionsStuck, 1);
                return;
            }
            () = stopping.wait(), if !ending => {}
            () = overdue(&mut streams, ending) => {
                let served = streams.borrow().served;
                if served == 0 {
                    counters.add(Counter::ConnectionsSilent, 1);
                }
                if ending || served == 0 {
                    return;
                }
            }
        }
        connection.as_mut().graceful_shutdown();
        ending = true;
    }
}

/// Which counter an error of a connection belongs to.
fn kind_of(error: &hyper::Error) -> Counter {
    let by_system = std::error::Error::source(error)
        .is_some_and(|cause| cause.downcast_ref::<std::io::Error>().is_some());
    if error.is_timeout() {
        Counter::ConnectionsVanished
    } else if by_system {
        Counter::ConnectionsBroken
    } else {
        Counter::ConnectionsRefusedByProtocol
    }
}

/// Returns once the connection has had no stream for too long. One that is `ending` gets little more time.
async fn overdue(streams: &mut watch::Receiver<Streams>, ending: bool) {
    loop {
        let Streams { open, served } = *streams.borrow_and_update();
        let limit = match (open, served) {
            (0, _) if ending => LEFTOVERS_MAX,
            (0, 0) => FIRST_REQUEST_MAX,
            (0, _) => IDLE_MAX,
            _ => Duration::MAX,
        };
        // A change starts the time anew. Its sender is in the service, which lives as long as the connection.
        match tokio::time::timeout(limit, streams.changed()).await {
            Ok(Ok(())) => {}
            Ok(Err(_)) | Err(_) => return,
        }
    }
}

/// The streams of a connection.
#[derive(Clone, Copy, Debug, Default)]
struct Streams {
    open: u32,
    served: u64,
}

/// What the requests of one connection go through.
#[derive(Debug)]
struct Door {
    peer: TcpConnectInfo,
    routes: Routes,
    open: Arc<watch::Sender<Streams>>,
    hang_up: Arc<Notify>,
    counters: Arc<Counters>,
}

impl Service<Request<Incoming>> for Door {
    type Response = Response<Answer>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Infallible>> + Send>>;

    fn call(&self, mut request: Request<Incoming>) -> Self::Future {
        let open = Open::new(&self.open);
        let (line, unanswered) = Line::new(&self.hang_up);
        request.extensions_mut().insert(self.peer.clone());
        request.extensions_mut().insert(line);
        let answer = self.routes.clone().call(request);
        let counters = Arc::clone(&self.counters);
        Box::pin(async move {
            let answer = retell_decoding_errors(&counters, answer.await?);
            Ok(answer.map(|body| Answer { body, _unanswered: unanswered, _open: open }))
        })
    }
}

/// Counts a stream as open until it is dropped.
#[derive(Debug)]
struct Open(Arc<watch::Sender<Streams>>);

impl Open {
    fn new(streams: &Arc<watch::Sender<Streams>>) -> Self {
        streams.send_modify(|streams| {
            streams.open += 1;
            streams.served += 1;
        });
        Self(Arc::clone(streams))
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.0.send_modify(|streams| streams.open -= 1);
    }
}

/// The answer to a request, which is over when this is dropped.
#[derive(Debug)]
struct Answer {
    body: Body,
    _unanswered: Unanswered,
    _open: Open,
}

impl http_body::Body for Answer {
    type Data = Bytes;
    type Error = tonic::Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, tonic::Status>>> {
        Pin::new(&mut self.body).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
