//! The codec of `StreamMetrics`: what agents send stays bytes until there is room for what it becomes.

use prost::Message as _;
use prost::bytes::Buf as _;
use proto::Command;
use tonic::Status;
use tonic::codec::{BufferSettings, Codec, DecodeBuf, Decoder, EncodeBuf, Encoder};
use tonic::codegen::Bytes;

use crate::limits::STREAM_BUFFER_BYTES;

/// Yields the bytes of each [`proto::MetricsRequest`] and takes [`Command`]s.
#[derive(Clone, Copy, Debug)]
pub(super) struct FrameCodec;

/// How much is sent at once when there is much to send.
const SENT_AT_ONCE_BYTES: usize = 8 * 1024;

fn buffers() -> BufferSettings {
    BufferSettings::new(STREAM_BUFFER_BYTES, SENT_AT_ONCE_BYTES)
}

impl Codec for FrameCodec {
    type Encode = Command;
    type Decode = Bytes;
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        *self
    }

    fn decoder(&mut self) -> Self {
        *self
    }
}

impl Encoder for FrameCodec {
    type Item = Command;
    type Error = Status;

    fn encode(&mut self, command: Command, buffer: &mut EncodeBuf<'_>) -> Result<(), Status> {
        command.encode(buffer).map_err(|error| Status::internal(error.to_string()))
    }

    fn buffer_settings(&self) -> BufferSettings {
        buffers()
    }
}

impl Decoder for FrameCodec {
    type Item = Bytes;
    type Error = Status;

    fn decode(&mut self, buffer: &mut DecodeBuf<'_>) -> Result<Option<Bytes>, Status> {
        Ok(Some(buffer.copy_to_bytes(buffer.remaining())))
    }

    fn buffer_settings(&self) -> BufferSettings {
        buffers()
    }
}
