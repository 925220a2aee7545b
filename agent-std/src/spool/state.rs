//! What the spool knows beside its segments: which there are and how far they were delivered, and the losses.
//!
//! It is kept twice, in the files `state-0` and `state-1`; the one with the higher generation counts. A copy is written
//! over in place, so a torn write costs the copy that it is of, never the other.
//!
//! ```text
//! state   = "PKT1" | generation u64 | bytes of all u32 | next segment number u64 | clock of the spool u64
//!           | count u16 | { segment } | count u16 | { loss } | CRC-32C of all before it
//! segment = number u64 | lane | sealed | end u32 | delivered to u32 | newest clock u64 | oldest wall clock i64
//!           | count u8 | { run }
//! run     = lane | boot counter u64 | nonce u64 | first u64 | last u64
//! loss    = run | reason | never sent u64 | unacknowledged u64
//! ```

use std::io;

use super::Lane;
use super::disk::Disk;
use super::frame::{CRC, Fields, lane_code};
use super::loss::{self, Loss};
use super::reading::{is_device_error, read_from};
use super::runs::{Run, Runs};

/// The names of the two copies.
pub(super) const STATE_NAMES: [&str; 2] = ["state-0", "state-1"];

/// Bytes of one copy that is never passed, whatever the options are.
pub(super) const STATE_BYTES_MAX: usize = 64 * 1024;

/// Ranges kept for one segment. One that would need more is followed by another segment.
pub(super) const RUNS_MAX: usize = 4;

const MAGIC: [u8; 4] = *b"PKT1";
const HEAD_BYTES: usize = 4 + 8 + 4 + 8 + 8 + 2 + 2 + 4;
const RUN_BYTES: usize = 1 + 16 + 8 + 8;
const SEGMENT_BYTES: usize = 8 + 1 + 1 + 4 + 4 + 8 + 8 + 1 + RUNS_MAX * RUN_BYTES;
const LOSS_BYTES: usize = RUN_BYTES + 1 + 8 + 8;

/// Segments of both lanes together and losses that one copy of `bytes` has room for.
pub(super) const fn capacity(bytes: usize) -> (usize, usize) {
    // A segment of both lanes for each 680 bytes: about half of the room for segments, half for losses.
    let segments = 2 * (bytes / 680);
    let losses = (bytes - HEAD_BYTES - segments * SEGMENT_BYTES) / LOSS_BYTES;
    (segments, losses)
}

/// A segment as the state knows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Known {
    pub(super) number: u64,
    pub(super) lane: Lane,
    /// Nothing is written to it any more.
    pub(super) is_sealed: bool,
    /// Up to here its bytes were durable.
    pub(super) end: u64,
    /// Up to here its frames were delivered: at most `end`.
    pub(super) delivered_to: u64,
    /// When its newest frame was appended, on the spool's clock.
    pub(super) newest_clock_ms: u64,
    /// When its oldest frame that waits was appended: Unix milliseconds.
    pub(super) oldest_wall_ms: i64,
    /// What waits in it.
    pub(super) waiting: Runs,
}

/// What one copy says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct State {
    pub(super) generation: u64,
    /// Segments made from now on have this number or a higher one.
    pub(super) next_number: u64,
    pub(super) clock_ms: u64,
    pub(super) segments: Vec<Known>,
    pub(super) losses: Vec<Loss>,
}

impl State {
    pub(super) fn encode(&self) -> Vec<u8> {
        let mut out = Vec::new();
        out.extend_from_slice(&MAGIC);
        out.extend_from_slice(&self.generation.to_le_bytes());
        let length_at = out.len();
        out.extend_from_slice(&[0; 4]);
        out.extend_from_slice(&self.next_number.to_le_bytes());
        out.extend_from_slice(&self.clock_ms.to_le_bytes());
        out.extend_from_slice(&count_u16(self.segments.len()));
        for segment in &self.segments {
            out.extend_from_slice(&segment.number.to_le_bytes());
            out.extend_from_slice(&[lane_code(segment.lane), u8::from(segment.is_sealed)]);
            out.extend_from_slice(&offset_u32(segment.end));
            out.extend_from_slice(&offset_u32(segment.delivered_to));
            out.extend_from_slice(&segment.newest_clock_ms.to_le_bytes());
            out.extend_from_slice(&segment.oldest_wall_ms.to_le_bytes());
            let runs = segment.waiting.at_most(RUNS_MAX);
            out.push(u8::try_from(runs.len()).expect("there are at most RUNS_MAX"));
            for run in runs.iter() {
                encode_run(run, &mut out);
            }
        }
        out.extend_from_slice(&count_u16(self.losses.len()));
        for loss in &self.losses {
            encode_run(&loss.run(), &mut out);
            out.push(loss::code(loss.reason));
            out.extend_from_slice(&loss.never_sent.to_le_bytes());
            out.extend_from_slice(&loss.unacknowledged.to_le_bytes());
        }
        let length = offset_u32(u64::try_from(out.len() + 4).unwrap_or(u64::MAX));
        out[length_at..length_at + 4].copy_from_slice(&length);
        out.extend_from_slice(&CRC.checksum(&out).to_le_bytes());
        debug_assert!(out.len() <= STATE_BYTES_MAX, "the tables are bounded");
        out
    }

    /// Reads a copy; what is behind it, of a longer one before, does not count.
    pub(super) fn decode(bytes: &[u8]) -> Option<Self> {
        let mut fields = Fields(bytes.strip_prefix(MAGIC.as_slice())?);
        let generation = fields.u64()?;
        let length = usize::try_from(fields.u32()?).ok()?;
        let (content, crc) = bytes.get(..length)?.split_last_chunk::<4>()?;
        if CRC.checksum(content) != u32::from_le_bytes(*crc) {
            return None;
        }
        let (next_number, clock_ms) = (fields.u64()?, fields.u64()?);
        let segments = (0..fields.u16()?).map(|_| decode_segment(&mut fields));
        let segments = segments.collect::<Option<Vec<_>>>()?;
        let losses = (0..fields.u16()?).map(|_| decode_loss(&mut fields));
        let losses = losses.collect::<Option<Vec<_>>>()?;
        Some(Self { generation, next_number, clock_ms, segments, losses })
    }
}

fn count_u16(count: usize) -> [u8; 2] {
    u16::try_from(count).expect("the tables are bounded").to_le_bytes()
}

fn offset_u32(offset: u64) -> [u8; 4] {
    u32::try_from(offset).expect("a file has some MiB").to_le_bytes()
}

fn encode_run(run: &Run, out: &mut Vec<u8>) {
    out.push(lane_code(run.lane));
    for number in [run.boot.counter, run.boot.nonce, run.first.number(), run.last.number()] {
        out.extend_from_slice(&number.to_le_bytes());
    }
}

fn decode_run(fields: &mut Fields<'_>) -> Option<Run> {
    let (lane, boot) = (fields.lane()?, fields.boot()?);
    let (first, last) = (fields.sequence()?, fields.sequence()?);
    (first <= last).then_some(Run { lane, boot, first, last })
}

fn decode_segment(fields: &mut Fields<'_>) -> Option<Known> {
    let number = fields.u64()?;
    let (lane, is_sealed) = (fields.lane()?, fields.u8()? != 0);
    let (end, delivered_to) = (u64::from(fields.u32()?), u64::from(fields.u32()?));
    let (newest_clock_ms, oldest_wall_ms) = (fields.u64()?, fields.u64()?.cast_signed());
    let mut waiting = Runs::default();
    for _ in 0..fields.u8()? {
        waiting.add(decode_run(fields)?);
    }
    Some(Known {
        number,
        lane,
        is_sealed,
        end,
        delivered_to,
        newest_clock_ms,
        oldest_wall_ms,
        waiting,
    })
}

fn decode_loss(fields: &mut Fields<'_>) -> Option<Loss> {
    let Run { lane, boot, first, last } = decode_run(fields)?;
    let reason = loss::from_code(fields.u8()?)?;
    let (never_sent, unacknowledged) = (fields.u64()?, fields.u64()?);
    Some(Loss { lane, boot, first, last, reason, never_sent, unacknowledged })
}

/// The two copies as they were found.
#[derive(Debug, Default)]
pub(super) struct Copies {
    /// The state with the higher generation, and which copy it is; none: there is no sound one.
    pub(super) newest: Option<(usize, State)>,
    /// Neither is sound. One alone may be a write that a loss of power cut short, which is no damage.
    pub(super) are_damaged: bool,
}

impl Copies {
    pub(super) fn read<D: Disk>(disk: &mut D) -> io::Result<Self> {
        let mut copies = Self::default();
        let mut unreadable_count = 0;
        for (index, name) in STATE_NAMES.into_iter().enumerate() {
            let bytes = match read_from(disk, name, 0, STATE_BYTES_MAX) {
                Ok(bytes) => bytes,
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                Err(error) if is_damage(&error) => Vec::new(),
                Err(error) => return Err(error),
            };
            let Some(state) = State::decode(&bytes) else {
                unreadable_count += 1;
                continue;
            };
            let newest = copies.newest.as_ref().map(|(_, state)| state.generation);
            if newest.is_none_or(|newest| newest < state.generation) {
                copies.newest = Some((index, state));
            }
        }
        copies.are_damaged = unreadable_count == STATE_NAMES.len();
        Ok(copies)
    }
}

/// Whether `error` says that the bytes are gone, not that they cannot be read just now.
pub(super) fn is_damage(error: &io::Error) -> bool {
    is_device_error(error) || error.kind() == io::ErrorKind::NotFound
}

#[cfg(test)]
mod tests {
    use agent_core::id::{BootId, Sequence};

    use super::*;

    fn state() -> State {
        let run = |first| Run {
            lane: Lane::Alerts,
            boot: BootId { counter: 7, nonce: u64::MAX },
            first: Sequence::new(first).unwrap(),
            last: Sequence::new(first + 2).unwrap(),
        };
        let mut waiting = Runs::default();
        waiting.extend([run(1), run(10)]);
        let segment = Known {
            number: 9,
            lane: Lane::Alerts,
            is_sealed: true,
            end: 700,
            delivered_to: 100,
            newest_clock_ms: 5,
            oldest_wall_ms: -5,
            waiting,
        };
        State {
            generation: 3,
            next_number: 10,
            clock_ms: 77,
            segments: vec![segment.clone(), Known { lane: Lane::Records, ..segment }],
            losses: vec![Loss::of(run(20), crate::spool::LossReason::SpoolExpired, 1)],
        }
    }

    #[test]
    fn it_reads_back_and_no_flipped_or_missing_byte_goes_unseen() {
        let state = state();
        let bytes = state.encode();
        assert_eq!(State::decode(&bytes), Some(state.clone()));
        let longer = [bytes.as_slice(), b"of a longer one"].concat();
        assert_eq!(State::decode(&longer), Some(state));
        for index in 0..bytes.len() {
            let mut flipped = bytes.clone();
            flipped[index] ^= 0x10;
            assert_eq!(State::decode(&flipped), None, "byte {index}");
            assert_eq!(State::decode(&bytes[..index]), None, "cut at {index}");
        }
    }

    #[test]
    fn the_largest_state_has_room() {
        for room in [4096, STATE_BYTES_MAX] {
            let (segments, losses) = capacity(room);
            let one = &state().segments[0];
            let mut known = one.clone();
            for place in 1..=9 {
                let boot = BootId { counter: place, nonce: 0 };
                known.waiting.extend(one.waiting.iter().map(|run| Run { boot, ..*run }));
            }
            let largest = State {
                segments: vec![known; segments],
                losses: vec![state().losses[0]; losses],
                ..state()
            };
            assert!(largest.encode().len() <= room);
            assert!(12 <= segments && 32 <= losses, "{segments} {losses}");
        }
    }
}
