//! One link: which of its bytes are frames, and whose records the frames carry. No I/O.

use agent_core::codec::{BLOCK_ROWS_MAX, Deframer, Frame, FrameError, unpack};
use agent_core::id::{AgentId, BootId, Sequence};
use agent_core::record::Sample;
use agent_core::time::Instant;

use super::record::{Record, empty};

/// Bytes of a frame, encoded. A block of 64 records with windows and alerts that nothing compresses takes 20 KiB.
const FRAME_BYTES_MAX: usize = 32 * 1024;

/// Last millisecond of the year 9999, the last that a server takes.
const WALL_MS_MAX: i64 = 253_402_300_799_999;

/// What a device said.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Heard {
    /// Who it is. Its records follow.
    Hello { agent: AgentId, boot: BootId },
    /// Records in rising sequence order, at least one.
    Records { agent: AgentId, boot: BootId, records: Vec<Record> },
}

/// What came over a link since the process started.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Counts {
    /// Bytes of any kind.
    pub(crate) bytes: u64,
    /// Frames that were sound and understood.
    pub(crate) frames: u64,
    /// Stretches between two zero bytes that are no frame: garbage, or a frame that was damaged.
    pub(crate) damaged: u64,
    /// Sound frames of a version or form that is not known here.
    pub(crate) unknown: u64,
    /// Times that a sound frame was found behind damaged ones.
    pub(crate) resyncs: u64,
    /// Records dropped because it was not known whose they were. Their device's sequence numbers tell of them later.
    pub(crate) unnamed: u64,
}

/// The device whose records a link carries now.
#[derive(Clone, Debug)]
struct Named {
    agent: AgentId,
    boot: BootId,
    // The newest of its records on this link.
    newest: Option<(Sequence, Instant)>,
}

/// A link with one device after the other.
///
/// A frame with records names no device: the last Hello counts. Records before the first Hello are dropped: the link
/// may be shared, so nobody can say whose they are.
#[derive(Debug)]
pub(crate) struct Line {
    deframer: Box<Deframer<FRAME_BYTES_MAX>>,
    rows: Box<[Sample]>,
    named: Option<Named>,
    // Whether the last thing read was a sound frame, or nothing was read yet.
    in_step: bool,
    counts: Counts,
}

impl Line {
    pub(crate) fn new() -> Self {
        Self {
            deframer: Box::new(Deframer::new()),
            rows: vec![empty(); BLOCK_ROWS_MAX].into(),
            named: None,
            in_step: true,
            counts: Counts::default(),
        }
    }

    pub(crate) const fn counts(&self) -> Counts {
        self.counts
    }

    /// The link was opened again: another device may be at its end.
    pub(crate) fn restart(&mut self) {
        *self.deframer = Deframer::new();
        self.named = None;
    }

    /// Takes the next byte. `wall_ms` is the time now, for records of a device that does not know it.
    pub(crate) fn push(&mut self, byte: u8, wall_ms: i64) -> Option<Heard> {
        self.counts.bytes += 1;
        let frame = match self.deframer.push(byte)? {
            Ok(frame) => frame,
            Err(FrameError::TooLong | FrameError::Damaged) => {
                self.counts.damaged += 1;
                self.in_step = false;
                return None;
            }
            Err(FrameError::Version(_) | FrameError::Malformed) => {
                self.counts.unknown += 1;
                return None;
            }
        };
        if !std::mem::replace(&mut self.in_step, true) {
            self.counts.resyncs += 1;
        }
        match frame {
            Frame::Hello { agent, boot } => {
                self.counts.frames += 1;
                Some(name(&mut self.named, agent, boot))
            }
            Frame::Alerts(_) => {
                self.counts.unknown += 1;
                None
            }
            Frame::Records(block) => {
                let Some(records) = read(block, &mut self.rows, wall_ms) else {
                    self.counts.unknown += 1;
                    return None;
                };
                self.counts.frames += 1;
                let count = records.len();
                let heard = attribute(&mut self.named, records);
                if heard.is_none() {
                    self.counts.unnamed += u64::try_from(count).unwrap_or(u64::MAX);
                }
                heard
            }
        }
    }
}

fn name(named: &mut Option<Named>, agent: AgentId, boot: BootId) -> Heard {
    match named {
        Some(known) if known.agent == agent && known.boot == boot => {}
        _ => *named = Some(Named { agent: agent.clone(), boot, newest: None }),
    }
    Heard::Hello { agent, boot }
}

/// Says whose `records` are; nothing when nobody knows.
fn attribute(named: &mut Option<Named>, records: Vec<Record>) -> Option<Heard> {
    let (first, last) = (records.first()?, records.last()?);
    let known = named.as_mut()?;
    // Numbers that rise while the device's clock has fallen are of another boot, or of another device, whose Hello was
    // damaged. The next one will tell.
    if let Some((sequence, taken_at)) = known.newest
        && sequence < first.sequence
        && first.taken_at < taken_at
    {
        *named = None;
        return None;
    }
    let newest = (last.sequence, last.taken_at);
    if known.newest.is_none_or(|(sequence, _)| sequence < newest.0) {
        known.newest = Some(newest);
    }
    Some(Heard::Records { agent: known.agent.clone(), boot: known.boot, records })
}

/// The records of a block; none when it is not of a form known here.
fn read(block: &[u8], rows: &mut [Sample], wall_ms: i64) -> Option<Vec<Record>> {
    let (first, count) = unpack(block, rows).ok()?;
    let rows = rows.get_mut(..count)?;
    // The last sequence of all has none after it, and no server takes it.
    let end = first.number().checked_add(u64::try_from(count).ok()?)?;
    if end == u64::MAX {
        return None;
    }
    let numbered = (first.number()..end).zip(rows);
    let records = numbered.map(|(number, sample)| {
        // A device without a clock says 1970 or worse: then the time of arrival is the best there is.
        if !(1..=WALL_MS_MAX).contains(&sample.snapshot.wall_ms) {
            sample.snapshot.wall_ms = wall_ms;
        }
        Record::new(Sequence::new(number)?, sample).ok()
    });
    records.collect()
}

#[cfg(test)]
mod tests {
    use agent_core::codec::{encode_frame, pack};
    use proptest::prelude::*;

    use super::super::record::tests::{record, sample};
    use super::*;

    const BOOT: BootId = BootId { counter: 1, nonce: 7 };
    const NOW_MS: i64 = 1_800_000_000_000;

    fn encoded(frame: &Frame<'_>) -> Vec<u8> {
        let mut buffer = vec![0; FRAME_BYTES_MAX];
        let length = encode_frame(frame, &mut buffer).unwrap();
        buffer.truncate(length);
        buffer
    }

    fn hello(agent: &str, boot: BootId) -> Vec<u8> {
        encoded(&Frame::Hello { agent: agent.parse().unwrap(), boot })
    }

    fn frame_of(first: u64, samples: &[Sample]) -> Vec<u8> {
        let mut block = vec![0; FRAME_BYTES_MAX];
        let length = pack(Sequence::new(first).unwrap(), samples.iter(), &mut block).unwrap();
        encoded(&Frame::Records(&block[..length]))
    }

    fn records(numbers: std::ops::RangeInclusive<u64>) -> Vec<u8> {
        let samples = numbers.clone().map(sample).collect::<Vec<_>>();
        frame_of(*numbers.start(), &samples)
    }

    fn hear(line: &mut Line, bytes: &[u8]) -> Vec<Heard> {
        bytes.iter().filter_map(|byte| line.push(*byte, NOW_MS)).collect()
    }

    fn heard(agent: &str, numbers: std::ops::RangeInclusive<u64>) -> Heard {
        let agent = agent.parse().unwrap();
        Heard::Records { agent, boot: BOOT, records: numbers.map(record).collect() }
    }

    #[test]
    fn records_belong_to_the_last_hello() {
        let mut line = Line::new();
        let bytes = [hello("a", BOOT), records(1..=3), hello("b", BOOT), records(8..=8)].concat();
        let all = hear(&mut line, &bytes);
        assert_eq!(all[1], heard("a", 1..=3));
        assert_eq!(all[3], heard("b", 8..=8));
        assert_eq!(line.counts().frames, 4);
    }

    #[test]
    fn records_of_nobody_are_dropped_and_counted() {
        let mut line = Line::new();
        assert_eq!(hear(&mut line, &records(1..=3)), []);
        hear(&mut line, &hello("a", BOOT));
        line.restart();
        assert_eq!(hear(&mut line, &records(4..=5)), []);
        assert_eq!((line.counts().unnamed, line.counts().frames), (5, 3));
    }

    #[test]
    fn a_reboot_whose_hello_was_damaged_is_not_taken_for_the_boot_before() {
        let mut line = Line::new();
        hear(&mut line, &[hello("a", BOOT), records(1..=3)].concat());
        // Number 4 was taken before number 3, says the clock.
        assert_eq!(hear(&mut line, &frame_of(4, &[sample(2)])), []);
        assert_eq!(hear(&mut line, &frame_of(5, &[sample(9)])), [], "until the next hello");
        assert_eq!(line.counts().unnamed, 2);
        assert_eq!(hear(&mut line, &[hello("a", BOOT), records(6..=6)].concat()).len(), 2);
    }

    #[test]
    fn a_device_without_a_clock_gets_the_time_of_arrival() {
        for wrong in [0, -1, i64::MIN, i64::MAX] {
            let mut unset = sample(1);
            unset.snapshot.wall_ms = wrong;
            let mut line = Line::new();
            let bytes = [hello("a", BOOT), frame_of(1, &[unset])].concat();
            let Some(Heard::Records { records, .. }) = hear(&mut line, &bytes).pop() else {
                panic!("no records")
            };
            assert_eq!(records[0].sample().snapshot.wall_ms, NOW_MS);
        }
    }

    #[test]
    fn the_end_of_all_sequences_is_refused() {
        let mut line = Line::new();
        hear(&mut line, &hello("a", BOOT));
        assert_eq!(hear(&mut line, &frame_of(u64::MAX - 1, &[sample(1)])), []);
        assert_eq!(hear(&mut line, &frame_of(u64::MAX, &[sample(1)])), []);
        assert_eq!(line.counts().unknown, 2);
        assert_eq!(hear(&mut line, &frame_of(u64::MAX - 2, &[sample(1)])).len(), 1);
    }

    #[test]
    fn a_block_that_is_none_is_counted() {
        let mut line = Line::new();
        hear(&mut line, &[hello("a", BOOT), encoded(&Frame::Records(&[0xff; 9]))].concat());
        assert_eq!((line.counts().frames, line.counts().unknown), (1, 1));
    }

    #[test]
    fn garbage_is_passed_over_and_counted() {
        let mut line = Line::new();
        let mut bytes = vec![0x55; 3 * FRAME_BYTES_MAX];
        bytes.push(0);
        bytes.extend([9, 9, 9, 0]);
        bytes.extend(hello("a", BOOT));
        bytes.extend([1, 2, 3, 0, 0, 0]);
        bytes.extend(records(1..=2));
        assert_eq!(hear(&mut line, &bytes)[1], heard("a", 1..=2));
        let Counts { bytes: count, damaged, resyncs, frames, .. } = line.counts();
        assert_eq!(count, bytes.len() as u64);
        assert_eq!((damaged, resyncs, frames), (3, 2, 2));
    }

    proptest! {
        #[test]
        fn no_bytes_panic(bytes in prop::collection::vec(any::<u8>(), 0..600)) {
            let mut line = Line::new();
            hear(&mut line, &hello("a", BOOT));
            hear(&mut line, &bytes);
            hear(&mut line, &encoded(&Frame::Records(&bytes)));
        }
    }
}
