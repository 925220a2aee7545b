//! Bytes: the packed form of records, and the frames that carry it over byte links.
//!
//! Everything here reads untrusted input: no index is taken on trust, and arithmetic is wrapping or saturating by
//! name. Memory is what the caller lends, and some KiB of models on the stack.
#![deny(clippy::indexing_slicing, clippy::arithmetic_side_effects)]
#![cfg_attr(
    test,
    allow(clippy::indexing_slicing, clippy::arithmetic_side_effects, reason = "tests")
)]

mod alerts;
mod block;
mod frame;
mod range;
mod series;

pub use alerts::{pack_alerts, unpack_alerts};
pub use block::{BLOCK_ROWS_MAX, pack, unpack};
pub use frame::{Deframer, Frame, FrameError, encode_frame};
pub use series::{SERIES_VALUES_MAX, SeriesDecoder, SeriesEncoder};

/// Why bytes could not be written or read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CodecError {
    /// The lent buffer has no room for the rest.
    #[error("the buffer is full")]
    BufferFull,
    /// More values than one series can have.
    #[error("a series has at most {SERIES_VALUES_MAX} values")]
    TooLong,
    /// The bytes end before what they announce.
    #[error("the bytes end too soon")]
    Truncated,
    /// The bytes say something that cannot be.
    #[error("the bytes are not of this form")]
    Malformed,
}
