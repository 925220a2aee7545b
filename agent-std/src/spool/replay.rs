//! Handing out what waits, and forgetting what was delivered.

use std::io;

use agent_core::codec::{BLOCK_ROWS_MAX, unpack, unpack_alerts};
use agent_core::metric::Values;
use agent_core::record::{Sample, Snapshot};
use agent_core::time::Instant;

use super::disk::Disk;
use super::frame::{self, HEADER_BYTES, Header, Part};
use super::reading::{read_from, salvage};
use super::runs::{Run, Runs};
use super::segment::Segment;
use super::state::is_damage;
use super::store::{Save, Spool};
use super::survey::{SEGMENT_READ_MAX, to_u64};
use super::{Content, Item, Lane, Loss, LossReason, Order, Token};

/// Items that may be out at a time. More would only cost memory: the server takes them one after the other.
const OUT_MAX: usize = 64;

/// Ranges in one item of losses.
const ITEM_LOSSES_MAX: usize = 64;

/// Something that was handed out.
#[derive(Debug)]
pub(super) struct Out {
    token: Token,
    what: What,
}

#[derive(Debug)]
enum What {
    Frame { segment: u64, lane: Lane, end: u64, bytes: u64, run: Run, wall_ms: i64 },
    Losses { ids: Vec<u64> },
}

impl Out {
    /// How many of `run` are out, of the segment with this number.
    pub(super) fn rows_of(&self, number: u64, run: &Run) -> u64 {
        match &self.what {
            What::Frame { segment, run: out, .. } if *segment == number => {
                run.count() - Runs::from(*run).without(&Runs::from(*out)).count(run.lane)
            }
            What::Frame { .. } | What::Losses { .. } => 0,
        }
    }

    fn is_of(&self, segment: &Segment) -> bool {
        match &self.what {
            What::Frame { segment: number, lane, .. } => {
                (*number, *lane) == (segment.number, segment.lane)
            }
            What::Losses { .. } => false,
        }
    }
}

/// What a frame was found to be.
enum Read {
    /// Sound, with what it holds.
    Frame(Header, Content),
    /// Its bytes are as they were written, and say nothing that this program knows.
    Unknown(Header),
    /// Its bytes are damaged.
    Damaged,
}

impl<D: Disk> Spool<D> {
    /// The next item to send: alerts, then losses, then records. None when nothing waits that is not out already, when 64
    /// items are out, or when the disk cannot be read now, which [`counts`](Self::counts) says.
    #[expect(
        clippy::should_implement_trait,
        reason = "an iterator would seem to end, and borrows what delivered() changes"
    )]
    pub fn next(&mut self) -> Option<Item> {
        if OUT_MAX <= self.out.len() {
            return None;
        }
        self.next_frame(Lane::Alerts)
            .or_else(|| self.next_losses())
            .or_else(|| self.next_frame(Lane::Records))
            // Damage may have been found on the way.
            .or_else(|| self.next_losses())
    }

    fn next_losses(&mut self) -> Option<Item> {
        let (ranges, ids) = self.losses.take_out(ITEM_LOSSES_MAX)?;
        let Loss { lane, boot, .. } = *ranges.first()?;
        let token = self.hand_out(What::Losses { ids });
        Some(Item { token, boot, content: Content::Losses { lane, ranges } })
    }

    fn hand_out(&mut self, what: What) -> Token {
        let token = Token(self.next_token);
        self.next_token += 1;
        self.out.push_back(Out { token, what });
        token
    }

    fn next_frame(&mut self, lane: Lane) -> Option<Item> {
        // Each turn passes a frame or a hole of a segment, or ends one, so the segments' bytes bound it.
        loop {
            let is_unread =
                |segment: &Segment| segment.lane == lane && segment.read_to < segment.end;
            let index = match self.order {
                Order::OldestFirst => self.segments.iter().position(is_unread),
                Order::NewestFirst => self.segments.iter().rposition(is_unread),
            }?;
            let read = match self.read_frame(index) {
                Ok(read) => read,
                Err(error) if is_damage(&error) => Read::Damaged,
                Err(error) => {
                    self.problem = Some(format!("cannot read it: {error}"));
                    return None;
                }
            };
            let segment = &mut self.segments[index];
            match read {
                Read::Frame(header, content) => {
                    let bytes = to_u64(header.frame_bytes());
                    segment.read_to += bytes;
                    if !segment.waiting.overlaps(&header.run) {
                        // Delivered before, and found behind something that was not.
                        self.settle(index);
                        continue;
                    }
                    let token = self.hand_out(What::Frame {
                        segment: self.segments[index].number,
                        lane,
                        end: self.segments[index].read_to,
                        bytes,
                        run: header.run,
                        wall_ms: header.wall_ms,
                    });
                    return Some(Item { token, boot: header.run.boot, content });
                }
                Read::Unknown(header) => {
                    segment.read_to += to_u64(header.frame_bytes());
                    let known = Runs::from(header.run);
                    let lost = segment.waiting.clone();
                    let others = lost.clone().without(&known);
                    self.lose(index, &lost.without(&others));
                }
                Read::Damaged => self.pass_damage(index),
            }
            self.settle(index);
        }
    }

    fn read_frame(&mut self, index: usize) -> io::Result<Read> {
        let segment = &self.segments[index];
        let (name, at) = (segment.name(), segment.read_to);
        let head = read_from(&mut self.disk, &name, at, HEADER_BYTES)?;
        let Some(header) = frame::header(&head) else { return Ok(Read::Damaged) };
        let payload_at = at + to_u64(HEADER_BYTES);
        let payload = read_from(&mut self.disk, &name, payload_at, header.payload_bytes)?;
        if !header.holds(&payload) {
            return Ok(Read::Damaged);
        }
        Ok(content(&header, payload)
            .map_or(Read::Unknown(header), |content| Read::Frame(header, content)))
    }

    /// Goes on behind damaged bytes, and declares what has come to nothing with them: what should wait from here on, and is
    /// neither out nor found in the rest of the file.
    fn pass_damage(&mut self, index: usize) {
        let segment = &self.segments[index];
        let (name, at) = (segment.name(), segment.read_to);
        let rest = usize::try_from(segment.end - at).unwrap_or(SEGMENT_READ_MAX);
        // What cannot be read is as good as not there.
        let bytes = salvage(&mut self.disk, &name, at, rest).unwrap_or_default();
        let parts = frame::scan(&bytes);
        let frames = parts.iter().filter_map(|part| match part {
            Part::Frame { offset, header } => Some((to_u64(*offset), header.run)),
            Part::Hole(_) => None,
        });
        let mut kept = Runs::default();
        kept.extend(frames.clone().map(|(_, run)| run));
        kept.extend(self.out_of(index));
        let next = frames.clone().map(|(offset, _)| offset).next();
        let segment = &mut self.segments[index];
        segment.read_to = next.map_or(segment.end, |offset| at + offset);
        segment.is_sealed = true;
        let lost = segment.waiting.clone().without(&kept);
        self.lose(index, &lost);
    }

    fn out_of(&self, index: usize) -> Vec<Run> {
        let segment = &self.segments[index];
        let runs = self.out.iter().filter_map(|out| match &out.what {
            What::Frame { run, .. } if out.is_of(segment) => Some(*run),
            What::Frame { .. } | What::Losses { .. } => None,
        });
        runs.collect()
    }

    fn lose(&mut self, index: usize, lost: &Runs) {
        if lost.is_empty() {
            return;
        }
        let waiting = std::mem::take(&mut self.segments[index].waiting);
        self.segments[index].waiting = waiting.without(lost);
        for run in lost.iter() {
            self.add_loss(Loss::of(*run, LossReason::SpoolDamaged, run.count()));
        }
        // It is found again after a restart should it fail now.
        self.save(Save::Index).ok();
    }

    /// Ends the segment when nothing of it waits or is out. Answers whether it did.
    fn settle(&mut self, index: usize) -> bool {
        let segment = &self.segments[index];
        if segment.read_to < segment.end || self.out.iter().any(|out| out.is_of(segment)) {
            return false;
        }
        // Every frame has been handed out and delivered, so what still should wait was in none of them.
        let missing = segment.waiting.clone();
        self.lose(index, &missing);
        self.doom(index);
        true
    }

    /// Everything that was handed out up to and including `token` is durable at the server, and is not handed out again.
    ///
    /// The disk learns of it when a segment is done with, when losses are, and else after each eighth of a segment, so that
    /// a crash costs no more than repeating as much.
    pub fn delivered(&mut self, token: Token) {
        let losses_before = self.losses.iter().len();
        while let Some(out) = self.out.pop_front_if(|out| out.token <= token) {
            match out.what {
                What::Losses { ids } => self.losses.remove(&ids),
                What::Frame { segment: number, lane, end, bytes, run, wall_ms } => {
                    let is_it =
                        |segment: &&mut Segment| (segment.number, segment.lane) == (number, lane);
                    // One that gave way meanwhile is in the losses.
                    let Some(segment) = self.segments.iter_mut().find(is_it) else { continue };
                    segment.waiting.remove(&run);
                    segment.delivered_to = segment.delivered_to.max(end);
                    segment.oldest_wall_ms = wall_ms;
                    self.delivered_bytes += bytes;
                }
            }
        }
        let mut has_ended = false;
        for index in (0..self.segments.len()).rev() {
            has_ended |= self.settle(index);
        }
        let step = self.limits.of(Lane::Records).segment / 8;
        // Should it fail, it is tried again at the next call, and what is delivered is repeated after a crash.
        if has_ended {
            self.save(Save::Index).ok();
        } else if self.losses.iter().len() < losses_before || step <= self.delivered_bytes {
            self.save(Save::Cursor).ok();
        }
    }

    /// A new stream: everything that was handed out and not delivered is handed out again.
    pub fn rewind(&mut self) {
        self.out.clear();
        self.losses.rewind();
        for segment in &mut self.segments {
            segment.read_to = segment.delivered_to;
        }
    }
}

/// What `payload` says, if it is what `header` names.
pub(super) fn content(header: &Header, payload: Vec<u8>) -> Option<Content> {
    let Run { lane, first, .. } = header.run;
    match lane {
        Lane::Records => {
            let taken_at = Instant::from_ms(0);
            let empty = Snapshot { taken_at, wall_ms: 0, values: Values::EMPTY };
            let mut rows = vec![Sample::from(empty); BLOCK_ROWS_MAX];
            let (packed_first, count) = unpack(&payload, &mut rows).ok()?;
            rows.truncate(count);
            let is_named = packed_first == first && to_u64(count) == header.run.count();
            is_named.then_some(Content::Records { first, rows, block: payload })
        }
        Lane::Alerts => {
            let (packed_first, rows) = unpack_alerts(&payload).ok()?;
            let is_named = packed_first == first && to_u64(rows.len()) == header.run.count();
            is_named.then(|| Content::Alerts { first, rows: rows.to_vec() })
        }
    }
}
