//! Frames: how a device without a network stack sends records over a byte link, such as a UART.
//!
//! ```text
//! link  = { COBS(frame) | 00 }
//! frame = version (1 byte) | body (postcard) | CRC-32 of all before (4 bytes, little-endian)
//! ```
//!
//! Sources: Cheshire and Baker, "Consistent Overhead Byte Stuffing", 1997, for the delimiting: after any garbage the
//! next zero byte is a place to start again. The postcard wire specification for the body. CRC-32/ISO-HDLC for the
//! checksum.

use cobs::decode_in_place;
use crc::{CRC_32_ISO_HDLC, Crc};
use postcard::ser_flavors::crc::CrcModifier;
use postcard::ser_flavors::{Cobs, Slice};
use serde::{Deserialize, Serialize};

use super::CodecError;
use crate::id::{AgentId, BootId};

/// The version of frames; a reader refuses one that it does not know.
const VERSION: u8 = 1;

/// Bytes of the checksum.
const CHECKSUM_BYTES: usize = 4;

const CHECKSUM: Crc<u32> = Crc::<u32>::new(&CRC_32_ISO_HDLC);

/// What a device says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Frame<'b> {
    /// Who it is. Sent at the start and from time to time, because a reader may come late.
    Hello {
        /// Its name.
        agent: AgentId,
        /// Its boot.
        boot: BootId,
    },
    /// A block of records, see [`super::pack`].
    Records(&'b [u8]),
    /// Some alerts, see [`super::pack_alerts`].
    Alerts(&'b [u8]),
}

/// The body as postcard writes it. New variants go to the end.
#[derive(Serialize, Deserialize)]
enum Body<'b> {
    Hello { agent: &'b str, counter: u64, nonce: u64 },
    Records(&'b [u8]),
    Alerts(&'b [u8]),
}

/// Why a frame was dropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// It is longer than the reader's buffer.
    #[error("the frame is longer than the buffer")]
    TooLong,
    /// It is no frame, or was damaged on the way.
    #[error("the frame is damaged")]
    Damaged,
    /// It has a version that this reader does not know.
    #[error("the frame has version {0}, known is {VERSION}")]
    Version(u8),
    /// It is sound, but what it says cannot be.
    #[error("the frame is not of a known form")]
    Malformed,
}

/// Writes `frame` with its delimiter into `buffer`. Answers the bytes it took.
///
/// # Errors
///
/// [`CodecError::BufferFull`].
pub fn encode_frame(frame: &Frame<'_>, buffer: &mut [u8]) -> Result<usize, CodecError> {
    let body = match frame {
        Frame::Hello { agent, boot } => {
            Body::Hello { agent: agent.as_str(), counter: boot.counter, nonce: boot.nonce }
        }
        Frame::Records(block) => Body::Records(block),
        Frame::Alerts(alerts) => Body::Alerts(alerts),
    };
    let link = Cobs::try_new(Slice::new(buffer)).map_err(|_| CodecError::BufferFull)?;
    let checked = CrcModifier::new(link, CHECKSUM.digest());
    let written = postcard::serialize_with_flavor(&(VERSION, body), checked);
    written.map(|written| written.len()).map_err(|_| CodecError::BufferFull)
}

/// Finds frames in a stream of bytes. `N` is the longest frame it takes, encoded.
///
/// Policy: what is too long, damaged or unknown is dropped and reported once; reading goes on behind the next zero
/// byte.
#[derive(Clone, Debug)]
pub struct Deframer<const N: usize> {
    buffer: [u8; N],
    // filled <= N: the bytes since the last delimiter.
    filled: usize,
    overflowed: bool,
}

impl<const N: usize> Deframer<N> {
    /// A deframer that has seen nothing.
    pub const fn new() -> Self {
        Self { buffer: [0; N], filled: 0, overflowed: false }
    }

    /// Takes the next byte. Answers a frame, or why there is none, when `byte` ends one.
    pub fn push(&mut self, byte: u8) -> Option<Result<Frame<'_>, FrameError>> {
        if byte != 0 {
            match self.buffer.get_mut(self.filled) {
                Some(place) => {
                    *place = byte;
                    self.filled = self.filled.saturating_add(1);
                }
                None => self.overflowed = true,
            }
            return None;
        }
        let overflowed = core::mem::take(&mut self.overflowed);
        let filled = core::mem::take(&mut self.filled);
        if overflowed {
            return Some(Err(FrameError::TooLong));
        }
        // Delimiters in a row are a way to make sure that the reader is in step.
        let encoded = self.buffer.get_mut(..filled).filter(|encoded| !encoded.is_empty())?;
        Some(decode(encoded))
    }
}

impl<const N: usize> Default for Deframer<N> {
    fn default() -> Self {
        Self::new()
    }
}

fn decode(encoded: &mut [u8]) -> Result<Frame<'_>, FrameError> {
    let length = decode_in_place(encoded).map_err(|_| FrameError::Damaged)?;
    let frame = encoded.get(..length).ok_or(FrameError::Damaged)?;
    let split = length.checked_sub(CHECKSUM_BYTES).ok_or(FrameError::Damaged)?;
    let (content, checksum) = frame.split_at_checked(split).ok_or(FrameError::Damaged)?;
    if CHECKSUM.checksum(content).to_le_bytes() != *checksum {
        return Err(FrameError::Damaged);
    }
    let (version, body) = content.split_first().ok_or(FrameError::Damaged)?;
    if *version != VERSION {
        return Err(FrameError::Version(*version));
    }
    match postcard::take_from_bytes(body) {
        Ok((Body::Hello { agent, counter, nonce }, [])) => {
            let agent = agent.parse().map_err(|_| FrameError::Malformed)?;
            Ok(Frame::Hello { agent, boot: BootId { counter, nonce } })
        }
        Ok((Body::Records(block), [])) => Ok(Frame::Records(block)),
        Ok((Body::Alerts(alerts), [])) => Ok(Frame::Alerts(alerts)),
        Ok(_) | Err(_) => Err(FrameError::Malformed),
    }
}

#[cfg(test)]
mod tests {
    use std::vec;
    use std::vec::Vec;

    use proptest::prelude::*;

    use super::*;

    const LINK_BYTES: usize = 256;

    fn encoded(frame: &Frame<'_>) -> Vec<u8> {
        let mut buffer = vec![0; LINK_BYTES];
        let length = encode_frame(frame, &mut buffer).unwrap();
        buffer.truncate(length);
        buffer
    }

    fn hello() -> Frame<'static> {
        let boot = BootId { counter: 3, nonce: 0x1234 };
        Frame::Hello { agent: "mcu-1".parse().unwrap(), boot }
    }

    /// What comes out of `bytes`: for a frame its own encoding, so that results can be compared.
    fn read(bytes: &[u8]) -> Vec<Result<Vec<u8>, FrameError>> {
        let mut deframer = Deframer::<LINK_BYTES>::new();
        let mut results = Vec::new();
        for byte in bytes {
            if let Some(result) = deframer.push(*byte) {
                results.push(result.map(|frame| encoded(&frame)));
            }
        }
        results
    }

    #[test]
    fn the_form_is_fixed() {
        // Stuffing replaces the one zero byte, the number of the variant Hello.
        let golden = [
            &[0x02, 0x01, 0x0e, 0x05][..],
            b"mcu-1",
            &[0x03, 0xb4, 0x24],
            // zlib.crc32 of 01 00 05 "mcu-1" 03 b4 24.
            &[0x46, 0x11, 0xeb, 0x85],
            &[0x00],
        ];
        assert_eq!(encoded(&hello()), golden.concat());
    }

    #[test]
    fn frames_come_back_and_an_idle_link_says_nothing() {
        let records = Frame::Records(&[0, 1, 0, 0, 2]);
        let alerts = Frame::Alerts(&[1, 0]);
        let mut link = vec![0, 0];
        link.extend(encoded(&hello()));
        link.push(0);
        link.extend(encoded(&records));
        link.extend(encoded(&alerts));
        let expected = [hello(), records, alerts].map(|frame| Ok(encoded(&frame)));
        assert_eq!(read(&link), expected);
    }

    #[test]
    fn garbage_costs_one_frame_and_is_reported() {
        let mut link = vec![0x55; 1000];
        link.push(0);
        link.extend(encoded(&hello()));
        link.extend([1, 2, 3, 0]);
        link.extend(encoded(&hello()));
        assert_eq!(
            read(&link),
            [
                Err(FrameError::TooLong),
                Ok(encoded(&hello())),
                Err(FrameError::Damaged),
                Ok(encoded(&hello())),
            ]
        );
    }

    #[test]
    fn a_later_version_is_named() {
        let mut buffer = [0; 64];
        let link = Cobs::try_new(Slice::new(&mut buffer)).unwrap();
        let checked = CrcModifier::new(link, CHECKSUM.digest());
        let written = postcard::serialize_with_flavor(&(2_u8, 77_u8), checked).unwrap();
        assert_eq!(read(written), [Err(FrameError::Version(2))]);
    }

    #[test]
    fn a_buffer_that_is_too_small_is_an_error() {
        for length in 0..encoded(&hello()).len() {
            let full = encode_frame(&hello(), &mut vec![0; length]);
            assert_eq!(full, Err(CodecError::BufferFull), "{length}");
        }
    }

    proptest! {
        #[test]
        fn every_block_comes_back(block in prop::collection::vec(any::<u8>(), 0..200)) {
            let frame = Frame::Records(&block);
            prop_assert_eq!(read(&encoded(&frame)), vec![Ok(encoded(&frame))]);
        }

        #[test]
        fn a_flipped_bit_never_passes(
            block in prop::collection::vec(any::<u8>(), 0..100),
            at in any::<prop::sample::Index>(),
            bit in 0..8_u32,
        ) {
            let mut link = encoded(&Frame::Records(&block));
            let at = at.index(link.len() - 1);
            link[at] ^= 1 << bit;
            for result in read(&link) {
                prop_assert!(result.is_err());
            }
        }

        #[test]
        fn no_bytes_panic(bytes in prop::collection::vec(any::<u8>(), 0..600)) {
            read(&bytes);
        }
    }
}
