//! One link: which of its bytes are frames, and whose records and alerts the frames carry. No I/O.

use agent_core::codec::{BLOCK_ROWS_MAX, Deframer, Frame, FrameError, unpack, unpack_alerts};
use agent_core::id::{AgentId, BootId, Sequence};
use agent_core::limits::RECORD_BYTES_MAX;
use agent_core::record::{Alert, Sample};
use agent_core::time::Instant;

use super::backlog::Held;
use super::record::{Record, empty};

/// Bytes of a frame, encoded. A block of 64 records with windows and alerts that nothing compresses takes 20 KiB.
const FRAME_BYTES_MAX: usize = 32 * 1024;

/// Bytes that one link takes: the frame in hand, and what is in it.
pub(super) const BYTES_MAX: usize =
    size_of::<Deframer<FRAME_BYTES_MAX>>() + BLOCK_ROWS_MAX * size_of::<Sample>();

/// Bytes that one frame says: each of its records is packed by itself.
pub(super) const HEARD_BYTES_MAX: usize =
    BLOCK_ROWS_MAX * (size_of::<(Sequence, Record)>() + RECORD_BYTES_MAX);

/// Last millisecond of the year 9999, the last that a server takes.
const WALL_MS_MAX: i64 = 253_402_300_799_999;

/// What a device said.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Heard {
    /// Who it is. Its records and alerts follow.
    Hello { agent: AgentId, boot: BootId },
    /// Records in rising sequence order, at least one.
    Records { agent: AgentId, boot: BootId, records: Vec<(Sequence, Record)> },
    /// Alerts in rising order of their own sequence, at least one.
    Alerts { agent: AgentId, boot: BootId, alerts: Vec<(Sequence, Alert)> },
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
    /// Records and alerts dropped because it was not known whose they were. Their device's sequence numbers tell of them
    /// later.
    pub(crate) unnamed: u64,
}

/// The device whose frames a link carries now.
#[derive(Clone, Debug)]
struct Named {
    agent: AgentId,
    boot: BootId,
    // What it has sent on this link.
    records: Progress,
    alerts: Progress,
}

/// How far the records of a device have come, or its alerts.
#[derive(Clone, Copy, Debug, Default)]
struct Progress {
    newest: Option<(Sequence, Instant)>,
}

impl Progress {
    /// Whether `entries`, which have rising sequences, can be of the same boot.
    ///
    /// Numbers that rise while the device's clock has fallen are of another boot, or of another device, whose Hello was
    /// damaged.
    fn can_go_on_with<T: Held>(self, entries: &[(Sequence, T)]) -> bool {
        let (Some((sequence, taken_at)), Some((first, entry))) = (self.newest, entries.first())
        else {
            return true;
        };
        *first <= sequence || taken_at <= entry.taken_at()
    }

    fn go_on_with<T: Held>(&mut self, entries: &[(Sequence, T)]) {
        if let Some((last, entry)) = entries.last()
            && self.newest.is_none_or(|(sequence, _)| sequence < *last)
        {
            self.newest = Some((*last, entry.taken_at()));
        }
    }
}

/// A link with one device after the other.
///
/// A frame with records or alerts names no device: the last Hello counts. What comes before the first Hello is dropped:
/// the link may be shared, so nobody can say whose it is.
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

    /// Takes the next byte. `wall_ms` is the time now, for what a device says that does not know it.
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
            Frame::Records(block) => {
                let records = read_records(block, &mut self.rows, wall_ms);
                let records = self.understood(records)?;
                let (agent, boot) = self.attribute(&records, |named| &mut named.records)?;
                Some(Heard::Records { agent, boot, records })
            }
            Frame::Alerts(packed) => {
                let alerts = read_alerts(packed, wall_ms);
                let alerts = self.understood(alerts)?;
                let (agent, boot) = self.attribute(&alerts, |named| &mut named.alerts)?;
                Some(Heard::Alerts { agent, boot, alerts })
            }
        }
    }

    /// Counts the frame that said `content`.
    const fn understood<C>(&mut self, content: Option<C>) -> Option<C> {
        match content {
            Some(_) => self.counts.frames += 1,
            None => self.counts.unknown += 1,
        }
        content
    }

    /// Says whose `entries` are; nothing when nobody knows.
    fn attribute<T: Held>(
        &mut self,
        entries: &[(Sequence, T)],
        progress: impl Fn(&mut Named) -> &mut Progress,
    ) -> Option<(AgentId, BootId)> {
        // The next Hello will tell.
        self.named.take_if(|named| !progress(named).can_go_on_with(entries));
        let Some(named) = &mut self.named else {
            self.counts.unnamed += u64::try_from(entries.len()).unwrap_or(u64::MAX);
            return None;
        };
        progress(named).go_on_with(entries);
        Some((named.agent.clone(), named.boot))
    }
}

fn name(named: &mut Option<Named>, agent: AgentId, boot: BootId) -> Heard {
    match named {
        Some(known) if known.agent == agent && known.boot == boot => {}
        _ => {
            let (records, alerts) = (Progress::default(), Progress::default());
            *named = Some(Named { agent: agent.clone(), boot, records, alerts });
        }
    }
    Heard::Hello { agent, boot }
}

/// The records of a block; none when it is not of a form known here.
fn read_records(
    block: &[u8],
    rows: &mut [Sample],
    wall_ms: i64,
) -> Option<Vec<(Sequence, Record)>> {
    let (first, count) = unpack(block, rows).ok()?;
    let rows = rows.get_mut(..count)?;
    let records = numbers(first, count)?.zip(rows).map(|(number, sample)| {
        stamp(&mut sample.snapshot.wall_ms, wall_ms);
        Some((number, Record::new(sample).ok()?))
    });
    records.collect()
}

/// The alerts of a frame; none when they are not of a form known here.
fn read_alerts(packed: &[u8], wall_ms: i64) -> Option<Vec<(Sequence, Alert)>> {
    let (first, mut alerts) = unpack_alerts(packed).ok()?;
    for alert in &mut alerts {
        stamp(&mut alert.wall_ms, wall_ms);
    }
    Some(numbers(first, alerts.len())?.zip(alerts).collect())
}

/// The sequences of `count` entries from `first` on; none when there are no entries, or when the last sequence of all
/// is among them: it has none after it, and no server takes it.
fn numbers(first: Sequence, count: usize) -> Option<impl Iterator<Item = Sequence>> {
    let end = first.number().checked_add(u64::try_from(count).ok()?)?;
    let is_usable = 0 < count && end < u64::MAX;
    is_usable.then(|| (first.number()..end).filter_map(Sequence::new))
}

/// A device without a clock says 1970 or worse: then the time of arrival is the best there is.
fn stamp(wall_ms: &mut i64, arrived_ms: i64) {
    if !(1..=WALL_MS_MAX).contains(wall_ms) {
        *wall_ms = arrived_ms;
    }
}

#[cfg(test)]
mod tests {
    use agent_core::codec::{encode_frame, pack, pack_alerts};
    use proptest::prelude::*;

    use super::super::backlog::tests::alert;
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

    fn alerts(first: u64, alerts: &[Alert]) -> Vec<u8> {
        let mut packed = vec![0; FRAME_BYTES_MAX];
        let first = Sequence::new(first).unwrap();
        let length = pack_alerts(first, alerts.iter().copied(), &mut packed).unwrap();
        encoded(&Frame::Alerts(&packed[..length]))
    }

    fn hear(line: &mut Line, bytes: &[u8]) -> Vec<Heard> {
        bytes.iter().filter_map(|byte| line.push(*byte, NOW_MS)).collect()
    }

    fn heard(agent: &str, numbers: std::ops::RangeInclusive<u64>) -> Heard {
        let agent = agent.parse().unwrap();
        let records = numbers.map(|number| (Sequence::new(number).unwrap(), record(number)));
        Heard::Records { agent, boot: BOOT, records: records.collect() }
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
    fn alerts_belong_to_the_last_hello_and_have_numbers_of_their_own() {
        let mut line = Line::new();
        let all = hear(
            &mut line,
            &[
                alerts(1, &[alert(1)]),
                hello("a", BOOT),
                records(7..=9),
                alerts(1, &[alert(2), alert(3)]),
                records(10..=10),
            ]
            .concat(),
        );
        let alerts = [1, 2].map(|number| (Sequence::new(number).unwrap(), alert(number + 1)));
        let agent = "a".parse().unwrap();
        assert_eq!(all[2], Heard::Alerts { agent, boot: BOOT, alerts: alerts.into() });
        assert_eq!(all[3], heard("a", 10..=10));
        assert_eq!((line.counts().unnamed, line.counts().frames), (1, 5));
    }

    #[test]
    fn alerts_too_tell_of_a_reboot_whose_hello_was_damaged() {
        let mut line = Line::new();
        hear(&mut line, &[hello("a", BOOT), alerts(1, &[alert(5)])].concat());
        assert_eq!(hear(&mut line, &alerts(2, &[alert(4)])), []);
        assert_eq!(hear(&mut line, &records(1..=3)), [], "until the next hello");
        assert_eq!(line.counts().unnamed, 4);
    }

    #[test]
    fn alerts_of_a_form_that_cannot_be_are_counted() {
        let mut line = Line::new();
        hear(&mut line, &hello("a", BOOT));
        for frame in [
            alerts(1, &[]),
            alerts(u64::MAX - 1, &[alert(1)]),
            alerts(u64::MAX, &[alert(1)]),
            encoded(&Frame::Alerts(&[0xff; 9])),
        ] {
            assert_eq!(hear(&mut line, &frame), []);
        }
        assert_eq!((line.counts().frames, line.counts().unknown), (1, 4));
    }

    #[test]
    fn an_alert_of_a_device_without_a_clock_gets_the_time_of_arrival() {
        for wrong in [0, -1, i64::MIN, i64::MAX] {
            let mut line = Line::new();
            let unset = Alert { wall_ms: wrong, ..alert(1) };
            let bytes = [hello("a", BOOT), alerts(1, &[unset])].concat();
            let Some(Heard::Alerts { alerts, .. }) = hear(&mut line, &bytes).pop() else {
                panic!("no alerts")
            };
            assert_eq!(alerts[0].1, Alert { wall_ms: NOW_MS, ..unset });
        }
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
            assert_eq!(records[0].1.content().snapshot.wall_ms, NOW_MS);
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
            hear(&mut line, &encoded(&Frame::Alerts(&bytes)));
        }
    }
}
