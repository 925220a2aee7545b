//! The bytes of one frame: up to 64 consecutive records of one boot, and what names them, twice.
//!
//! ```text
//! frame   = header | payload | trailer                                                 all numbers little endian
//! header  = "PKS1" | version 1 | lane | count u16 | payload bytes u32 | CRC of payload u32 | boot counter u64 | nonce u64
//!           | first sequence u64 | wall clock i64 | clock of the spool u64 | CRC of the header u32
//! trailer = "PKE1" | version 1 | lane | count u16 | payload bytes u32 | boot counter u64 | nonce u64
//!           | first sequence u64 | CRC of the trailer u32
//! ```
//!
//! The payload is a packed block of records, or alerts as `agent_core::codec` packs them. The CRC is CRC-32C. The trailer
//! says again what is lost when the header cannot be read; and where it is missing, the write was never finished.

use agent_core::codec::BLOCK_ROWS_MAX;
use agent_core::id::{BootId, Sequence};
use crc::{CRC_32_ISCSI, Crc, Table};

use super::Lane;
use super::runs::Run;

pub(super) const CRC: Crc<u32, Table<16>> = Crc::<u32, Table<16>>::new(&CRC_32_ISCSI);

pub(super) const HEADER_BYTES: usize = 60;
pub(super) const TRAILER_BYTES: usize = 40;
/// More than any payload: a block of records is at most 64 KiB.
pub(super) const PAYLOAD_BYTES_MAX: usize = 64 * 1024;

const HEADER_MAGIC: [u8; 4] = *b"PKS1";
const TRAILER_MAGIC: [u8; 4] = *b"PKE1";
const VERSION: u8 = 1;

/// What a header says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Header {
    /// Whose records, 1 to 64 of them.
    pub(super) run: Run,
    pub(super) payload_bytes: usize,
    payload_crc: u32,
    /// When it was appended: Unix milliseconds.
    pub(super) wall_ms: i64,
    /// When it was appended: milliseconds on the spool's own clock.
    pub(super) clock_ms: u64,
}

impl Header {
    /// Bytes of the whole frame.
    pub(super) const fn frame_bytes(&self) -> usize {
        HEADER_BYTES + self.payload_bytes + TRAILER_BYTES
    }

    pub(super) fn holds(&self, payload: &[u8]) -> bool {
        payload.len() == self.payload_bytes && CRC.checksum(payload) == self.payload_crc
    }
}

/// Adds the frame of `payload` to `out`.
pub(super) fn encode(run: Run, wall_ms: i64, clock_ms: u64, payload: &[u8], out: &mut Vec<u8>) {
    let lane = lane_code(run.lane);
    let count = u16::try_from(run.count()).expect("a frame has at most 64 records");
    let payload_bytes = u32::try_from(payload.len()).expect("a payload is bounded");
    let start = out.len();
    out.extend_from_slice(&HEADER_MAGIC);
    out.extend_from_slice(&[VERSION, lane]);
    out.extend_from_slice(&count.to_le_bytes());
    out.extend_from_slice(&payload_bytes.to_le_bytes());
    out.extend_from_slice(&CRC.checksum(payload).to_le_bytes());
    encode_name(run, out);
    out.extend_from_slice(&wall_ms.to_le_bytes());
    out.extend_from_slice(&clock_ms.to_le_bytes());
    out.extend_from_slice(&CRC.checksum(&out[start..]).to_le_bytes());
    debug_assert_eq!(out.len() - start, HEADER_BYTES, "the header has a fixed size");
    out.extend_from_slice(payload);
    let start = out.len();
    out.extend_from_slice(&TRAILER_MAGIC);
    out.extend_from_slice(&[VERSION, lane]);
    out.extend_from_slice(&count.to_le_bytes());
    out.extend_from_slice(&payload_bytes.to_le_bytes());
    encode_name(run, out);
    out.extend_from_slice(&CRC.checksum(&out[start..]).to_le_bytes());
    debug_assert_eq!(out.len() - start, TRAILER_BYTES, "the trailer has a fixed size");
}

fn encode_name(run: Run, out: &mut Vec<u8>) {
    out.extend_from_slice(&run.boot.counter.to_le_bytes());
    out.extend_from_slice(&run.boot.nonce.to_le_bytes());
    out.extend_from_slice(&run.first.number().to_le_bytes());
}

/// The header at the start of `bytes`, if it is whole.
pub(super) fn header(bytes: &[u8]) -> Option<Header> {
    let mut fields = sealed::<HEADER_BYTES>(bytes, HEADER_MAGIC)?;
    let (lane, count, payload_bytes) = fields.form()?;
    let payload_crc = fields.u32()?;
    let run = fields.run(lane, count)?;
    let (wall_ms, clock_ms) = (fields.u64()?.cast_signed(), fields.u64()?);
    Some(Header { run, payload_bytes, payload_crc, wall_ms, clock_ms })
}

/// What the trailer at the start of `bytes` names, if it is whole.
fn trailer(bytes: &[u8]) -> Option<Run> {
    let mut fields = sealed::<TRAILER_BYTES>(bytes, TRAILER_MAGIC)?;
    let (lane, count, _) = fields.form()?;
    fields.run(lane, count)
}

/// What is between the magic and the checksum of the first `N` bytes, if both are right.
fn sealed<const N: usize>(bytes: &[u8], magic: [u8; 4]) -> Option<Fields<'_>> {
    let (whole, _) = bytes.split_first_chunk::<N>()?;
    let (content, crc) = whole.split_last_chunk::<4>()?;
    let fields = content.strip_prefix(magic.as_slice())?;
    (CRC.checksum(content) == u32::from_le_bytes(*crc)).then_some(Fields(fields))
}

/// Numbers one after the other; none at the end.
pub(super) struct Fields<'b>(pub(super) &'b [u8]);

impl Fields<'_> {
    fn take<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (taken, rest) = self.0.split_first_chunk::<N>()?;
        self.0 = rest;
        Some(*taken)
    }

    pub(super) fn u8(&mut self) -> Option<u8> {
        self.take::<1>().map(|[byte]| byte)
    }

    pub(super) fn u16(&mut self) -> Option<u16> {
        self.take().map(u16::from_le_bytes)
    }

    pub(super) fn u32(&mut self) -> Option<u32> {
        self.take().map(u32::from_le_bytes)
    }

    pub(super) fn u64(&mut self) -> Option<u64> {
        self.take().map(u64::from_le_bytes)
    }

    pub(super) fn boot(&mut self) -> Option<BootId> {
        Some(BootId { counter: self.u64()?, nonce: self.u64()? })
    }

    pub(super) fn lane(&mut self) -> Option<Lane> {
        match self.u8()? {
            0 => Some(Lane::Records),
            1 => Some(Lane::Alerts),
            _ => None,
        }
    }

    pub(super) fn sequence(&mut self) -> Option<Sequence> {
        Sequence::new(self.u64()?)
    }

    fn form(&mut self) -> Option<(Lane, u64, usize)> {
        if self.u8()? != VERSION {
            return None;
        }
        let (lane, count) = (self.lane()?, u64::from(self.u16()?));
        let payload_bytes = usize::try_from(self.u32()?).ok()?;
        let counts = 1..=u64::try_from(BLOCK_ROWS_MAX).unwrap_or(u64::MAX);
        let is_sound = counts.contains(&count) && payload_bytes <= PAYLOAD_BYTES_MAX;
        is_sound.then_some((lane, count, payload_bytes))
    }

    fn run(&mut self, lane: Lane, count: u64) -> Option<Run> {
        let (boot, first) = (self.boot()?, self.sequence()?);
        let last = Sequence::new(first.number().checked_add(count - 1)?)?;
        Some(Run { lane, boot, first, last })
    }
}

pub(super) const fn lane_code(lane: Lane) -> u8 {
    match lane {
        Lane::Records => 0,
        Lane::Alerts => 1,
    }
}

/// What is in a file, in the order of its bytes.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Part {
    /// A sound frame.
    Frame { offset: usize, header: Header },
    /// Bytes that are no frame.
    Hole(Hole),
}

/// Bytes that are no frame.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Hole {
    pub(super) start: usize,
    pub(super) end: usize,
    /// What headers and trailers in it name.
    pub(super) named: Vec<Run>,
    /// Whether a trailer is in it, so that at least one write to it was finished.
    pub(super) is_finished: bool,
}

/// Takes `bytes` apart.
pub(super) fn scan(bytes: &[u8]) -> Vec<Part> {
    let mut parts = Vec::new();
    let mut offset = 0;
    while offset < bytes.len() {
        if let Some(header) = frame_at(bytes, offset) {
            parts.push(Part::Frame { offset, header });
            offset += header.frame_bytes();
            continue;
        }
        let next = (offset + 1..bytes.len()).find(|next| {
            bytes[*next..].starts_with(&HEADER_MAGIC) && header(&bytes[*next..]).is_some()
        });
        let end = next.unwrap_or(bytes.len());
        parts.push(Part::Hole(hole(bytes, offset, end)));
        offset = end;
    }
    parts
}

fn frame_at(bytes: &[u8], offset: usize) -> Option<Header> {
    let header = header(&bytes[offset..])?;
    let payload = bytes[offset + HEADER_BYTES..].get(..header.payload_bytes)?;
    let is_whole = header.holds(payload) && offset + header.frame_bytes() <= bytes.len();
    is_whole.then_some(header)
}

fn hole(bytes: &[u8], start: usize, end: usize) -> Hole {
    let trailers = (start..end).filter(|at| bytes[*at..].starts_with(&TRAILER_MAGIC));
    let mut named = trailers.filter_map(|at| trailer(&bytes[at..end])).collect::<Vec<_>>();
    let is_finished = !named.is_empty();
    named.extend(header(&bytes[start..]).map(|header| header.run));
    Hole { start, end, named, is_finished }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(first: u64, last: u64) -> Run {
        Run {
            lane: Lane::Records,
            boot: BootId { counter: 3, nonce: 0xfeed },
            first: Sequence::new(first).unwrap(),
            last: Sequence::new(last).unwrap(),
        }
    }

    fn three() -> Vec<u8> {
        let mut bytes = Vec::new();
        encode(run(1, 4), 1_700_000_000_000, 10, b"first", &mut bytes);
        encode(run(5, 5), 1_700_000_000_500, 20, b"", &mut bytes);
        encode(run(9, 10), -1, 30, b"PKS1 third", &mut bytes);
        bytes
    }

    fn runs(parts: &[Part]) -> Vec<Run> {
        let frames = parts.iter().filter_map(|part| match part {
            Part::Frame { header, .. } => Some(header.run),
            Part::Hole(_) => None,
        });
        frames.collect()
    }

    #[test]
    fn the_form_is_fixed() {
        let mut bytes = Vec::new();
        encode(run(2, 3), 5, 7, &[0xaa], &mut bytes);
        let golden = [
            b"PKS1".as_slice(),
            &[1, 0, 2, 0, 1, 0, 0, 0],
            &CRC.checksum(&[0xaa]).to_le_bytes(),
            &[3, 0, 0, 0, 0, 0, 0, 0, 0xed, 0xfe, 0, 0, 0, 0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0],
            &[5, 0, 0, 0, 0, 0, 0, 0, 7, 0, 0, 0, 0, 0, 0, 0],
        ];
        assert_eq!(bytes[..HEADER_BYTES - 4], golden.concat());
        assert_eq!(bytes.len(), HEADER_BYTES + 1 + TRAILER_BYTES);
        // Of the catalogue of CRCs: the checksum of "123456789".
        assert_eq!(CRC.checksum(b"123456789"), 0xe306_9283);
    }

    #[test]
    fn frames_come_back_in_order() {
        let bytes = three();
        let parts = scan(&bytes);
        assert_eq!(runs(&parts), [run(1, 4), run(5, 5), run(9, 10)]);
        let Some(Part::Frame { offset, header }) = parts.last() else { panic!("a frame") };
        assert_eq!((header.wall_ms, header.clock_ms), (-1, 30));
        assert!(header.holds(&bytes[offset + HEADER_BYTES..][..header.payload_bytes]));
    }

    #[test]
    fn a_flipped_byte_costs_one_frame_at_most_and_its_name_is_known() {
        let sound = three();
        for index in 0..sound.len() {
            for bit in [0x01, 0x80] {
                let mut bytes = sound.clone();
                bytes[index] ^= bit;
                let parts = scan(&bytes);
                let mut known = runs(&parts);
                assert!(2 <= known.len(), "byte {index}");
                for part in &parts {
                    if let Part::Hole(hole) = part {
                        assert!(hole.is_finished, "byte {index}");
                        known.extend(&hole.named);
                    }
                }
                for run in [run(1, 4), run(5, 5), run(9, 10)] {
                    assert!(known.contains(&run), "byte {index}: {run:?}");
                }
            }
        }
    }

    #[test]
    fn an_unfinished_frame_is_told_from_a_damaged_one() {
        let sound = three();
        let second = runs(&scan(&sound)).len() - 1;
        assert_eq!(second, 2);
        for length in 0..sound.len() {
            let parts = scan(&sound[..length]);
            if let Some(Part::Hole(hole)) = parts.last() {
                assert!(!hole.is_finished, "cut at {length}");
                assert_eq!(hole.end, length);
            }
        }
    }
}
