//! HTTP/2 by hand, for what no decent client does.

use std::time::Duration;

use prost::Message as _;
use proto::{HELLO_HEADER, Hello, MetricsRequest};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

/// Longer than the server waits for anybody, on a machine that stalls now and then.
const PATIENCE: Duration = Duration::from_secs(180);

/// What a client says first.
pub(crate) const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const GOAWAY: u8 = 7;
const WINDOW_UPDATE: u8 = 8;

const ACK: u8 = 1;
const END_HEADERS: u8 = 4;
const END_STREAM: u8 = 1;

/// That the standard lets everybody send.
const FRAME_BYTES_MAX: usize = 16 * 1024;

/// A connection on which nothing happens by itself.
#[derive(Debug)]
pub(crate) struct Peer {
    socket: TcpStream,
}

/// A frame of the server.
#[derive(Debug)]
pub(crate) struct Frame {
    kind: u8,
    flags: u8,
    stream: u32,
    payload: Vec<u8>,
}

impl Peer {
    pub(crate) async fn connect(address: &str) -> Self {
        Self { socket: TcpStream::connect(address).await.unwrap() }
    }

    /// A connection with its settings exchanged. The server may send `window` bytes on each stream.
    pub(crate) async fn greet(address: &str, window: u32) -> Self {
        let mut peer = Self::connect(address).await;
        let mut settings = vec![0, 4];
        settings.extend(window.to_be_bytes());
        peer.write(PREFACE).await;
        peer.send(SETTINGS, 0, 0, &settings).await;
        peer
    }

    /// Fails silently on a connection that the server has closed: who is told so reads it.
    pub(crate) async fn write(&mut self, bytes: &[u8]) {
        self.socket.write_all(bytes).await.ok();
    }

    async fn send(&mut self, kind: u8, flags: u8, stream: u32, payload: &[u8]) {
        self.write(&frame(kind, flags, stream, payload)).await;
    }

    /// Opens `StreamMetrics`.
    pub(crate) async fn open(&mut self, stream: u32, hello: Option<&Hello>) {
        self.send(HEADERS, END_HEADERS, stream, &stream_metrics(hello)).await;
    }

    /// Bytes of the body, whatever they are.
    pub(crate) async fn body(&mut self, stream: u32, bytes: &[u8]) {
        self.send(DATA, 0, stream, bytes).await;
    }

    /// A message of `length` bytes without the last one, as the server's windows of `window` bytes for the stream let it
    /// through. To be sent first on a connection.
    pub(crate) async fn most_of_a_message(&mut self, stream: u32, window: usize, length: u32) {
        let mut body = vec![0];
        body.extend(length.to_be_bytes());
        body.resize(body.len() + usize::try_from(length).unwrap() - 1, 0);
        let mut body = body.as_slice();
        // Of the stream and of the connection, which begins with what the standard says.
        let mut windows = [window, 65_535];
        while !body.is_empty() {
            let part = windows.into_iter().fold(body.len().min(FRAME_BYTES_MAX), usize::min);
            self.body(stream, &body[..part]).await;
            body = &body[part..];
            windows = windows.map(|window| window - part);
            while windows.contains(&0) {
                let Some(frame) = self.next().await else { return };
                if let (WINDOW_UPDATE, Ok(more)) = (frame.kind, frame.payload.try_into()) {
                    let more = usize::try_from(u32::from_be_bytes(more)).unwrap();
                    windows[usize::from(frame.stream == 0)] += more;
                }
            }
        }
    }

    pub(crate) async fn message(&mut self, stream: u32, request: &MetricsRequest) {
        let bytes = request.encode_to_vec();
        let mut framed = vec![0];
        framed.extend(u32::try_from(bytes.len()).unwrap().to_be_bytes());
        framed.extend(bytes);
        self.body(stream, &framed).await;
    }

    pub(crate) async fn open_and_reset(&mut self, stream: u32) {
        let mut both = frame(HEADERS, END_HEADERS, stream, &stream_metrics(None));
        both.extend(frame(RST_STREAM, 0, stream, &8_u32.to_be_bytes()));
        self.write(&both).await;
    }

    /// The next frame that matters; none when the server has closed the connection. Settings and pings are answered.
    pub(crate) async fn next(&mut self) -> Option<Frame> {
        loop {
            let mut header = [0; 9];
            self.read(&mut header).await?;
            let [high, middle, low, kind, flags, stream @ ..] = header;
            let length = u32::from_be_bytes([0, high, middle, low]);
            let mut payload = vec![0; usize::try_from(length).unwrap()];
            self.read(&mut payload).await?;
            match kind {
                SETTINGS if flags & ACK == 0 => self.send(SETTINGS, ACK, 0, &[]).await,
                PING if flags & ACK == 0 => self.send(PING, ACK, 0, &payload).await,
                DATA | HEADERS | RST_STREAM | GOAWAY | WINDOW_UPDATE => {
                    let stream = u32::from_be_bytes(stream);
                    return Some(Frame { kind, flags, stream, payload });
                }
                _ => {}
            }
        }
    }

    async fn read(&mut self, buffer: &mut [u8]) -> Option<()> {
        let read = tokio::time::timeout(PATIENCE, self.socket.read_exact(buffer));
        read.await.expect("the server does something at last").ok().map(|_| ())
    }

    /// As [`Peer::closed`], without an answer to anything.
    pub(crate) async fn closed_in_silence(&mut self) {
        while self.read(&mut [0]).await.is_some() {}
    }

    /// Reads on until something of an answer has come; false when the connection is closed before.
    pub(crate) async fn heard(&mut self) -> bool {
        while let Some(frame) = self.next().await {
            if frame.kind == DATA {
                return true;
            }
        }
        false
    }

    /// Reads on until a stream has ended, or the connection.
    pub(crate) async fn stream_ended(&mut self) {
        while let Some(frame) = self.next().await {
            if frame.kind == RST_STREAM || frame.flags & END_STREAM != 0 {
                return;
            }
        }
    }

    /// Reads on until the server has closed the connection. Answers whether it said why.
    pub(crate) async fn closed(&mut self) -> bool {
        let mut said = false;
        while let Some(frame) = self.next().await {
            said |= frame.kind == GOAWAY && frame.payload[4..8] != [0; 4];
        }
        said
    }
}

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    let mut frame = length[1..].to_vec();
    frame.extend([kind, flags]);
    frame.extend(stream.to_be_bytes());
    frame.extend(payload);
    frame
}

/// The headers of a call, as HPACK without compression.
fn stream_metrics(hello: Option<&Hello>) -> Vec<u8> {
    // POST and http, of the static table; then names of the table, with values that are given.
    let mut block = vec![0x83, 0x86];
    text(&mut block, &[0x04], b"/monitoring.MonitoringService/StreamMetrics");
    text(&mut block, &[0x01], b"localhost");
    text(&mut block, &[0x0f, 31 - 15], b"application/grpc");
    if let Some(hello) = hello {
        block.push(0);
        text(&mut block, &[], HELLO_HEADER.as_bytes());
        let value = tonic::metadata::MetadataValue::from_bytes(&hello.encode_to_vec());
        text(&mut block, &[], value.as_encoded_bytes());
    }
    block
}

fn text(block: &mut Vec<u8>, name: &[u8], value: &[u8]) {
    block.extend(name);
    assert!(value.len() < 127, "longer ones take another form");
    block.push(value.len().try_into().unwrap());
    block.extend(value);
}
