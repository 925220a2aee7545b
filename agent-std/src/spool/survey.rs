//! What is on the disk: which files there are, and what is in a segment. It reads only.

use std::io;
use std::ops::Range;

use agent_core::id::Sequence;

use super::Lane;
use super::disk::Disk;
use super::frame::{Header, Hole, Part, scan};
use super::reading::salvage;
use super::runs::{Run, Runs};
use super::state::{Copies, Known, STATE_NAMES, State};

/// No segment has more bytes. What is behind them in a file is not looked at.
pub(super) const SEGMENT_READ_MAX: usize = 256 * 1024 * 1024;

/// The name of a segment's file.
pub(super) fn segment_name(lane: Lane, number: u64) -> String {
    format!("{}-{number:016x}", lane.name())
}

fn parse_name(name: &str) -> Option<(Lane, u64)> {
    let (lane, number) = name.split_once('-')?;
    let lane = Lane::ALL.into_iter().find(|known| known.name() == lane)?;
    let number = u64::from_str_radix(number, 16).ok()?;
    // One segment has one name.
    (segment_name(lane, number) == name).then_some((lane, number))
}

/// A file of a segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct SegmentFile {
    pub(super) number: u64,
    pub(super) lane: Lane,
    pub(super) bytes: u64,
}

impl SegmentFile {
    pub(super) fn name(&self) -> String {
        segment_name(self.lane, self.number)
    }
}

/// All files of the spool.
#[derive(Debug)]
pub(super) struct Listing {
    pub(super) copies: Copies,
    /// Bytes of each copy; 0: it is not there.
    pub(super) copy_bytes: [u64; 2],
    /// Segments that the state knows, and those made after it, in the order of their numbers.
    pub(super) segments: Vec<SegmentFile>,
    /// Segments that the state says are done with, so that only their removal is missing.
    pub(super) finished: Vec<SegmentFile>,
}

impl Listing {
    pub(super) fn read<D: Disk>(disk: &mut D) -> io::Result<Self> {
        let names = disk.list()?;
        let copies = Copies::read(disk)?;
        let copy_bytes = STATE_NAMES
            .map(|copy| names.iter().find(|(name, _)| name == copy).map_or(0, |(_, bytes)| *bytes));
        let mut segments = names
            .iter()
            .filter_map(|(name, bytes)| {
                let (lane, number) = parse_name(name)?;
                Some(SegmentFile { number, lane, bytes: *bytes })
            })
            .collect::<Vec<_>>();
        segments.sort_by_key(|file| (file.number, file.lane));
        let state = copies.newest.as_ref().map(|(_, state)| state);
        let is_done = |file: &SegmentFile| {
            let is_new = state.is_none_or(|state| state.next_number <= file.number);
            !is_new && known(state, file).is_none()
        };
        let (finished, segments) = segments.into_iter().partition(is_done);
        Ok(Self { copies, copy_bytes, segments, finished })
    }

    pub(super) fn state(&self) -> Option<&State> {
        self.copies.newest.as_ref().map(|(_, state)| state)
    }

    /// Everything that the state says waits, in whatever segment.
    pub(super) fn expected(&self) -> Runs {
        let mut expected = Runs::default();
        for known in self.state().iter().flat_map(|state| &state.segments) {
            expected.extend(known.waiting.iter().copied());
        }
        expected
    }

    /// What the state says of `file`.
    pub(super) fn known(&self, file: &SegmentFile) -> Option<&Known> {
        known(self.state(), file)
    }
}

fn known<'s>(state: Option<&'s State>, file: &SegmentFile) -> Option<&'s Known> {
    let segments = state.map_or(&[][..], |state| &state.segments);
    segments.iter().find(|known| (known.number, known.lane) == (file.number, file.lane))
}

/// What is in one segment.
#[derive(Debug, Default)]
pub(super) struct Survey {
    /// Every sound frame, delivered or not.
    pub(super) frames: Vec<(u64, Header)>,
    /// What they hold.
    pub(super) found: Runs,
    /// What of that waits.
    pub(super) waiting: Runs,
    /// Damaged frames that the state does not know of: what they held, as far as anything says.
    pub(super) gone: Runs,
    /// Where damaged bytes are.
    pub(super) damaged: Vec<Range<u64>>,
    /// Bytes at the end of a write that was never finished.
    pub(super) unfinished_bytes: u64,
    /// Where the first frame that waits begins; the end, when none does.
    pub(super) delivered_to: u64,
    /// Where the last sound frame ends, or damage behind it.
    pub(super) end: u64,
}

impl Survey {
    /// Reads the file and takes it apart, see [`Self::of`].
    pub(super) fn read<D: Disk>(
        disk: &mut D,
        file: &SegmentFile,
        known: Option<&Known>,
        expected: &Runs,
    ) -> io::Result<Self> {
        let length = usize::try_from(file.bytes).unwrap_or(usize::MAX).min(SEGMENT_READ_MAX);
        Ok(Self::of(&salvage(disk, &file.name(), 0, length)?, known, expected))
    }

    /// Takes the content of a segment apart, of which the state says `known`. `expected` is what it says of all of them:
    /// a file may have the name of another.
    fn of(bytes: &[u8], known: Option<&Known>, expected: &Runs) -> Self {
        let marked = known.map_or(0, |known| known.end);
        let delivered = known.map_or(0, |known| known.delivered_to);
        let mut survey = Self::default();
        let parts = scan(bytes);
        let mut first_waiting = None;
        for (index, part) in parts.iter().enumerate() {
            match part {
                Part::Frame { offset, header } => {
                    let offset = to_u64(*offset);
                    let is_forsaken = known.is_some_and(|known| known.is_sealed)
                        && marked <= offset
                        && !expected.overlaps(&header.run);
                    if is_forsaken {
                        // Of a write that failed: it can be read, but may never become durable.
                        survey.unfinished_bytes += to_u64(header.frame_bytes());
                        continue;
                    }
                    survey.found.add(header.run);
                    if delivered <= offset || expected.overlaps(&header.run) {
                        survey.waiting.add(header.run);
                        first_waiting.get_or_insert(offset);
                    }
                    survey.end = offset + to_u64(header.frame_bytes());
                    survey.frames.push((offset, *header));
                }
                Part::Hole(hole) => {
                    let is_tail = index + 1 == parts.len();
                    let (start, end) = (to_u64(hole.start), to_u64(hole.end));
                    if is_tail && !hole.is_finished && marked <= start {
                        survey.unfinished_bytes += end - start;
                        continue;
                    }
                    survey.damaged.push(start..end);
                    // So that what it has cost is declared once, at the end of a file too.
                    survey.end = end;
                    // What was there up to the mark, the state knows better.
                    if marked < end {
                        let before = index.checked_sub(1).map(|index| &parts[index]);
                        survey.gone.extend(named(hole, before, parts.get(index + 1)));
                    }
                }
            }
        }
        survey.delivered_to = first_waiting.unwrap_or(survey.end);
        // It ends before what the state has seen of it.
        if to_u64(bytes.len()) < marked {
            survey.damaged.push(to_u64(bytes.len())..marked);
        }
        survey
    }

    /// Whether another frame may be put behind the last.
    pub(super) fn is_clean(&self) -> bool {
        self.damaged.is_empty() && self.unfinished_bytes == 0
    }
}

/// What a hole held: what it says itself, else what is between its neighbours.
fn named(hole: &Hole, before: Option<&Part>, behind: Option<&Part>) -> Vec<Run> {
    if !hole.named.is_empty() {
        return hole.named.clone();
    }
    let (Some(Part::Frame { header: before, .. }), Some(Part::Frame { header: behind, .. })) =
        (before, behind)
    else {
        return Vec::new();
    };
    let first = before.run.last.next();
    let last = Sequence::new(behind.run.first.number() - 1);
    let last = last.filter(|last| before.run.is_of_same_boot(&behind.run) && first <= *last);
    last.map(|last| Run { first, last, ..before.run }).into_iter().collect()
}

pub(super) fn to_u64(count: usize) -> u64 {
    u64::try_from(count).expect("a count of bytes fits")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_read_back_and_others_are_left_alone() {
        for (lane, number) in [(Lane::Records, 0), (Lane::Alerts, u64::MAX)] {
            assert_eq!(parse_name(&segment_name(lane, number)), Some((lane, number)));
        }
        let others = [
            "records",
            "records-",
            "records-1",
            "losses-0000000000000001",
            "records-000000000000000A",
            "records-+000000000000001",
            "state-0",
        ];
        for other in others {
            assert_eq!(parse_name(other), None, "{other}");
        }
    }
}
