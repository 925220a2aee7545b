//! The store itself: opening, appending, and making room.

use std::collections::VecDeque;
use std::io;

use agent_core::codec::{BLOCK_ROWS_MAX, CodecError, pack, pack_alerts};
use agent_core::id::{BootId, Sequence};
use agent_core::limits::BATCH_ALERTS_MAX;
use agent_core::record::{Alert, Sample};
use agent_core::time::Instant;

use super::disk::Disk;
use super::frame::{self, PAYLOAD_BYTES_MAX};
use super::loss::{Losses, LossesFull};
use super::replay::Out;
use super::runs::{Run, Runs};
use super::segment::Segment;
use super::state::{Known, RUNS_MAX, STATE_BYTES_MAX, STATE_NAMES, State, capacity, is_damage};
use super::survey::{Listing, SegmentFile, Survey, segment_name, to_u64};
use super::{BYTES_MAX_RANGE, Counts, Lane, Loss, LossReason, Options, Order, Report, SpoolError};

/// Records and alerts on a disk, see the [module](super).
#[derive(Debug)]
pub struct Spool<D> {
    pub(super) disk: D,
    pub(super) limits: Limits,
    pub(super) order: Order,
    /// Those with something that waits, in the order of their numbers.
    pub(super) segments: Vec<Segment>,
    pub(super) losses: Losses,
    next_number: u64,
    clock: Clock,
    /// Something was appended since the state was written.
    has_unmarked: bool,
    copies: StateFiles,
    /// Out of the index, and unlinked once a state without them is durable.
    pub(super) doomed: Vec<SegmentFile>,
    /// Handed out and not delivered, in the order of tokens.
    pub(super) out: VecDeque<Out>,
    pub(super) next_token: u64,
    /// Of frames delivered since the state was written.
    pub(super) delivered_bytes: u64,
    /// What the disk does not have yet of what must be known after a restart.
    is_stale: bool,
    written_bytes: u64,
    pub(super) problem: Option<String>,
    /// It could not be read, so it is left alone.
    pub(super) is_out_of_service: bool,
}

/// What the options come to.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    bytes_max: u64,
    age_max_ms: Option<u64>,
    records: LaneLimits,
    alerts: LaneLimits,
    segments_per_lane_max: usize,
    losses_max: usize,
}

#[derive(Clone, Copy, Debug)]
pub(super) struct LaneLimits {
    /// Bytes of all segments.
    room: u64,
    /// Bytes of one segment, unless one append brings more.
    pub(super) segment: u64,
}

impl Limits {
    fn new(options: &Options) -> Self {
        let bytes_max = options.bytes_max.clamp(*BYTES_MAX_RANGE.start(), *BYTES_MAX_RANGE.end());
        let state_max = (bytes_max / 16).min(to_u64(STATE_BYTES_MAX));
        let (segments, losses_max) = capacity(usize::try_from(state_max).unwrap_or(0));
        let segments_per_lane_max = segments / 2;
        let lane = |room: u64| {
            let least = room / to_u64(segments_per_lane_max - 2);
            LaneLimits { room, segment: options.segment_bytes.clamp(least, room / 4) }
        };
        let alerts_room = bytes_max / 8;
        Self {
            bytes_max,
            age_max_ms: options
                .age_max
                .map(|age| u64::try_from(age.as_millis()).unwrap_or(u64::MAX)),
            records: lane(bytes_max - alerts_room - 2 * state_max),
            alerts: lane(alerts_room),
            segments_per_lane_max,
            losses_max,
        }
    }

    pub(super) const fn of(&self, lane: Lane) -> &LaneLimits {
        match lane {
            Lane::Records => &self.records,
            Lane::Alerts => &self.alerts,
        }
    }
}

/// The clock that ages are counted on: it stands still while nobody has the spool open.
#[derive(Clone, Copy, Debug)]
struct Clock {
    opened_at: Instant,
    at_open_ms: u64,
    latest_ms: u64,
}

impl Clock {
    fn ms(&mut self, now: Instant) -> u64 {
        let open_ms = now.as_ms().saturating_sub(self.opened_at.as_ms());
        self.latest_ms = self.latest_ms.max(self.at_open_ms.saturating_add(open_ms));
        self.latest_ms
    }

    /// It has shown `ms` before this process.
    fn has_shown(&mut self, ms: u64) {
        self.at_open_ms = self.at_open_ms.max(ms);
        self.latest_ms = self.latest_ms.max(ms);
    }
}

/// The two files of the state.
#[derive(Clone, Copy, Debug, Default)]
struct StateFiles {
    generation: u64,
    /// The one that has the newest state for sure; the other is written next.
    good: Option<usize>,
    /// 0: it is not there.
    bytes: [u64; 2],
}

/// How many copies of the state are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Save {
    /// One: should it be damaged, the other has less far deliveries.
    Cursor,
    /// Both: no damage of one costs what was declared, or makes a segment seem missing.
    Index,
}

impl<D: Disk> Spool<D> {
    /// Opens the spool on `disk`. It always opens: what is damaged is skipped and declared as lost, and when the disk cannot
    /// be read at all, the spool is out of service: it says so in [`Counts::problem`], and leaves everything as it is.
    ///
    /// Everything is read once, a segment at a time. Nothing is written unless something was not as it must be.
    pub fn open(disk: D, options: Options, now: Instant) -> (Self, Report) {
        let limits = Limits::new(&options);
        let mut spool = Self {
            disk,
            limits,
            order: options.order,
            segments: Vec::new(),
            losses: Losses::new(limits.losses_max),
            next_number: 1,
            clock: Clock { opened_at: now, at_open_ms: 0, latest_ms: 0 },
            has_unmarked: false,
            copies: StateFiles::default(),
            doomed: Vec::new(),
            out: VecDeque::new(),
            next_token: 1,
            delivered_bytes: 0,
            is_stale: false,
            written_bytes: 0,
            problem: None,
            is_out_of_service: false,
        };
        let mut report = Report::default();
        if let Err(error) = spool.recover(&mut report) {
            let problem = format!("cannot read it: {error}");
            report.troubles.push(problem.clone());
            spool.problem = Some(problem);
            spool.is_out_of_service = true;
            spool.segments.clear();
            spool.doomed.clear();
        }
        (spool, report)
    }

    fn recover(&mut self, report: &mut Report) -> io::Result<()> {
        let listing = Listing::read(&mut self.disk)?;
        let expected = listing.expected();
        let mut found = Runs::default();
        let mut gone = Runs::default();
        for file in &listing.segments {
            let known = listing.known(file);
            let survey = match Survey::read(&mut self.disk, file, known, &expected) {
                Ok(survey) => survey,
                Err(error) if is_damage(&error) => {
                    report.troubles.push(format!("{} cannot be read: {error}", file.name()));
                    Survey::default()
                }
                Err(error) => return Err(error),
            };
            if !survey.damaged.is_empty() {
                report.troubles.push(format!("{} is damaged", file.name()));
            }
            found.extend(survey.found.iter().copied());
            gone.extend(survey.gone.iter().copied());
            self.adopt(file, known, survey, report);
        }
        for known in listing.state().iter().flat_map(|state| &state.segments) {
            let is_there =
                |file: &&SegmentFile| (file.number, file.lane) == (known.number, known.lane);
            if !listing.segments.iter().any(|file| is_there(&file)) {
                let name = segment_name(known.lane, known.number);
                report.troubles.push(format!("{name} is missing"));
                self.is_stale = true;
            }
        }
        if listing.copies.are_damaged {
            report.troubles.push("both copies of the state are damaged".to_owned());
        }
        let numbers = listing.segments.iter().chain(&listing.finished).map(|file| file.number);
        self.next_number = numbers.max().map_or(1, |number| number.saturating_add(1));
        self.copies.bytes = listing.copy_bytes;
        gone.extend(expected.iter().copied());
        let gone = gone.without(&found);
        for file in listing.finished {
            // It comes to this again should it fail now.
            self.disk.remove(&file.name()).ok();
        }
        if let Some((good, state)) = listing.copies.newest {
            self.next_number = self.next_number.max(state.next_number);
            self.clock.has_shown(state.clock_ms);
            self.copies.generation = state.generation;
            self.copies.good = Some(good);
            for loss in state.losses {
                // There is room for what there was room for, unless the options have become smaller.
                if let Err(LossesFull) = self.losses.add(loss) {
                    report.troubles.push(SpoolError::LossesFull.to_string());
                }
            }
        }
        for run in gone.iter() {
            let loss = Loss::of(*run, LossReason::SpoolDamaged, run.count());
            report.damaged.push(loss);
            self.add_loss(loss);
        }
        if !report.damaged.is_empty() || self.is_stale || !self.doomed.is_empty() {
            // It is found again at the next start should it fail now.
            self.save(Save::Index).ok();
        }
        Ok(())
    }

    /// Takes a segment that was found into the index, or has it removed when nothing in it waits.
    fn adopt(
        &mut self,
        file: &SegmentFile,
        known: Option<&Known>,
        survey: Survey,
        report: &mut Report,
    ) {
        let newest_clock_ms = survey.frames.iter().map(|(_, header)| header.clock_ms).max();
        self.clock.has_shown(newest_clock_ms.unwrap_or(0));
        let first_waiting = survey.frames.iter().find(|(at, _)| *at == survey.delivered_to);
        let Some((_, first_waiting)) = first_waiting else {
            self.doomed.push(*file);
            return;
        };
        let mut is_sealed = !survey.is_clean() || known.is_some_and(|known| known.is_sealed);
        if known.is_none_or(|known| known.end < survey.end)
            && let Err(error) = self.make_sure(&file.name(), known)
        {
            report.troubles.push(format!("{} cannot be synced: {error}", file.name()));
            is_sealed = true;
        }
        self.segments.push(Segment {
            number: file.number,
            lane: file.lane,
            bytes: file.bytes,
            end: survey.end,
            read_to: survey.delivered_to,
            delivered_to: survey.delivered_to,
            is_sealed,
            newest_clock_ms: newest_clock_ms.unwrap_or(0),
            oldest_wall_ms: first_waiting.wall_ms,
            waiting: survey.waiting,
        });
    }

    /// The process before this one may have been killed between a write and its sync: what can be read is not yet durable.
    fn make_sure(&mut self, name: &str, known: Option<&Known>) -> io::Result<()> {
        self.disk.sync(name)?;
        if known.is_none() {
            self.disk.sync_directory()?;
        }
        Ok(())
    }

    /// Stores `rows`, which have consecutive sequences from `first` on, with one write and one sync (a few more at the
    /// start of a segment). After `Ok` they survive a loss of power.
    ///
    /// # Errors
    ///
    /// [`SpoolError`]. `rows` do not count as stored then, and are not handed out by this process; a later one may find
    /// them all the same.
    pub fn append_records(
        &mut self,
        boot: BootId,
        first: Sequence,
        rows: &[Sample],
        now: Instant,
    ) -> Result<(), SpoolError> {
        let mut frames = Frames::new(Lane::Records, boot, first, self.clock.ms(now));
        for rows in rows.chunks(BLOCK_ROWS_MAX) {
            frames.add_records(rows)?;
        }
        self.append(frames, now)
    }

    /// As [`append_records`](Self::append_records).
    ///
    /// # Errors
    ///
    /// As there.
    pub fn append_alerts(
        &mut self,
        boot: BootId,
        first: Sequence,
        rows: &[Alert],
        now: Instant,
    ) -> Result<(), SpoolError> {
        let mut frames = Frames::new(Lane::Alerts, boot, first, self.clock.ms(now));
        for rows in rows.chunks(BATCH_ALERTS_MAX) {
            frames.add_alerts(rows)?;
        }
        self.append(frames, now)
    }

    fn append(&mut self, frames: Frames, now: Instant) -> Result<(), SpoolError> {
        let Some(run) = frames.run() else { return Ok(()) };
        self.check_service()?;
        let bytes = to_u64(frames.bytes.len());
        let max = self.limits.of(run.lane).room / 2;
        if max < bytes {
            return Err(SpoolError::TooLarge { bytes, max });
        }
        if let Err(error) = self.expire(now).and_then(|()| self.make_room(&run, bytes)) {
            return Err(self.note(error));
        }
        let result = match self.active(&run, bytes) {
            Some(index) => self.add_to(index, &frames, run),
            None => self.add_to_new(&frames, run),
        };
        if self.is_stale {
            // What was stored is so whether this succeeds or not.
            self.save(Save::Index).ok();
        }
        match result {
            Ok(()) => {
                self.problem = None;
                self.has_unmarked = true;
                Ok(())
            }
            Err(error) => Err(self.note(error.into())),
        }
    }

    /// The segment that `run` goes into; none: a new one.
    fn active(&self, run: &Run, bytes: u64) -> Option<usize> {
        let index = self.segments.iter().rposition(|segment| segment.lane == run.lane)?;
        let segment = &self.segments[index];
        let fits = segment.end + bytes <= self.limits.of(run.lane).segment
            && (segment.waiting.len() < RUNS_MAX || segment.waiting.extends(run));
        (fits && !segment.is_sealed).then_some(index)
    }

    fn add_to(&mut self, index: usize, frames: &Frames, run: Run) -> io::Result<()> {
        let (name, offset) = (self.segments[index].name(), self.segments[index].end);
        let result = self.write_through(&name, offset, &frames.bytes);
        let segment = &mut self.segments[index];
        let end = offset + to_u64(frames.bytes.len());
        segment.bytes = segment.bytes.max(end);
        match result {
            Ok(()) => {
                segment.end = end;
                segment.waiting.add(run);
                segment.newest_clock_ms = frames.clock_ms;
            }
            Err(_) => {
                segment.is_sealed = true;
                // So that the next process does not take for durable what the failed write has left.
                self.is_stale = true;
            }
        }
        result
    }

    fn add_to_new(&mut self, frames: &Frames, run: Run) -> io::Result<()> {
        let (number, lane) = (self.next_number, run.lane);
        self.next_number += 1;
        let file = SegmentFile { number, lane, bytes: to_u64(frames.bytes.len()) };
        let name = file.name();
        let written = self.disk.create(&name).and_then(|()| {
            self.write_through(&name, 0, &frames.bytes)?;
            self.disk.sync_directory()
        });
        if let Err(error) = written {
            let removed = self.disk.remove(&name);
            if removed.is_err_and(|error| error.kind() != io::ErrorKind::NotFound) {
                self.doomed.push(file);
            }
            return Err(error);
        }
        let mut waiting = Runs::default();
        waiting.add(run);
        self.segments.push(Segment {
            number,
            lane,
            bytes: file.bytes,
            end: file.bytes,
            read_to: 0,
            delivered_to: 0,
            is_sealed: false,
            newest_clock_ms: frames.clock_ms,
            oldest_wall_ms: frames.oldest_wall_ms,
            waiting,
        });
        // So that it is missed should it vanish.
        self.is_stale = true;
        Ok(())
    }

    fn write_through(&mut self, name: &str, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.written_bytes += to_u64(bytes.len());
        self.disk.write_at(name, offset, bytes)?;
        self.disk.sync(name)
    }

    /// Lets the oldest segments of the lane give way until `bytes` more fit.
    fn make_room(&mut self, run: &Run, bytes: u64) -> Result<(), SpoolError> {
        while !self.has_room(run, bytes) {
            if !self.doomed.is_empty() {
                // Only what is unlinked makes room.
                self.save(Save::Index)?;
                if !self.doomed.is_empty() {
                    return Err(SpoolError::Full);
                }
                continue;
            }
            let oldest = self.segments.iter().position(|segment| segment.lane == run.lane);
            self.give_up(oldest.ok_or(SpoolError::Full)?, LossReason::SpoolFull)?;
        }
        Ok(())
    }

    fn has_room(&self, run: &Run, bytes: u64) -> bool {
        let segments = self.segments.iter().filter(|segment| segment.lane == run.lane);
        let has_slot = segments.clone().count() < self.limits.segments_per_lane_max
            || self.active(run, bytes).is_some();
        let doomed = self.doomed.iter().filter(|file| file.lane == run.lane);
        let used = segments.map(|segment| segment.bytes).sum::<u64>()
            + doomed.map(|file| file.bytes).sum::<u64>();
        has_slot && used + bytes <= self.limits.of(run.lane).room
    }

    /// Gives up what is too old, by whole segments. To be called now and then; an append does so too.
    ///
    /// # Errors
    ///
    /// [`SpoolError`]; it is tried again at the next call.
    pub fn expire(&mut self, now: Instant) -> Result<(), SpoolError> {
        let Some(age_max_ms) = self.limits.age_max_ms else { return Ok(()) };
        let now_ms = self.clock.ms(now);
        let is_old =
            |segment: &Segment| age_max_ms < now_ms.saturating_sub(segment.newest_clock_ms);
        if !self.segments.iter().any(is_old) {
            return Ok(());
        }
        while let Some(index) = self.segments.iter().position(is_old) {
            self.give_up(index, LossReason::SpoolExpired)?;
        }
        self.save(Save::Index)?;
        Ok(())
    }

    /// Takes a segment out of the index, and what waits in it into the losses.
    fn give_up(&mut self, index: usize, reason: LossReason) -> Result<(), SpoolError> {
        let segment = &self.segments[index];
        let before = self.losses.clone();
        for run in segment.waiting.iter() {
            let out = self.out.iter().map(|out| out.rows_of(segment.number, run)).sum();
            if let Err(LossesFull) = self.losses.add(Loss::of(*run, reason, out)) {
                self.losses = before;
                return Err(SpoolError::LossesFull);
            }
        }
        self.doom(index);
        Ok(())
    }

    /// Takes a segment out of the index; its file goes when that is durable.
    pub(super) fn doom(&mut self, index: usize) {
        let Segment { number, lane, bytes, .. } = self.segments.remove(index);
        self.doomed.push(SegmentFile { number, lane, bytes });
        self.is_stale = true;
    }

    /// Keeps `losses` until the server has them: those that the owner knows of.
    ///
    /// # Errors
    ///
    /// [`SpoolError`]; none of them is kept then.
    pub fn declare(&mut self, losses: &[Loss]) -> Result<(), SpoolError> {
        if losses.is_empty() {
            return Ok(());
        }
        self.check_service()?;
        let before = self.losses.clone();
        let added = losses.iter().try_for_each(|loss| self.losses.add(*loss));
        let added = added.map_err(|LossesFull| SpoolError::LossesFull);
        let saved = added.and_then(|()| Ok(self.save(Save::Index)?));
        if let Err(error) = saved {
            self.losses = before;
            return Err(self.note(error));
        }
        Ok(())
    }

    /// Adds a loss that cannot be refused.
    pub(super) fn add_loss(&mut self, loss: Loss) {
        if let Err(LossesFull) = self.losses.add(loss) {
            self.problem = Some(SpoolError::LossesFull.to_string());
        }
        self.is_stale = true;
    }

    fn check_service(&self) -> Result<(), SpoolError> {
        match &self.problem {
            Some(problem) if self.is_out_of_service => {
                Err(SpoolError::OutOfService(problem.clone()))
            }
            _ => Ok(()),
        }
    }

    fn note(&mut self, error: SpoolError) -> SpoolError {
        self.problem = Some(match &error {
            SpoolError::Io(cause) => format!("{error}: {cause}"),
            _ => error.to_string(),
        });
        error
    }

    /// Writes the state, and unlinks what it no longer has.
    pub(super) fn save(&mut self, save: Save) -> io::Result<()> {
        self.copies.generation += 1;
        let state = State {
            generation: self.copies.generation,
            next_number: self.next_number,
            clock_ms: self.clock.latest_ms,
            segments: self.segments.iter().map(Segment::known).collect(),
            losses: self.losses.iter().copied().collect(),
        };
        let bytes = state.encode();
        let target = self.copies.good.map_or(0, |good| 1 - good);
        if let Err(error) = self.write_copy(target, &bytes) {
            self.is_stale = true;
            self.problem = Some(format!("cannot write {}: {error}", STATE_NAMES[target]));
            return Err(error);
        }
        self.copies.good = Some(target);
        if save == Save::Index {
            // The one that stands is enough to go on.
            self.write_copy(1 - target, &bytes).ok();
        }
        self.is_stale = false;
        self.has_unmarked = false;
        self.delivered_bytes = 0;
        let disk = &mut self.disk;
        self.doomed.retain(|file| {
            let removed = disk.remove(&file.name());
            removed.is_err_and(|error| error.kind() != io::ErrorKind::NotFound)
        });
        Ok(())
    }

    fn write_copy(&mut self, copy: usize, bytes: &[u8]) -> io::Result<()> {
        let name = STATE_NAMES[copy];
        let is_new = self.copies.bytes[copy] == 0;
        if is_new {
            match self.disk.create(name) {
                Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
                _ => {}
            }
        }
        self.copies.bytes[copy] = self.copies.bytes[copy].max(to_u64(bytes.len()));
        self.write_through(name, 0, bytes)?;
        if is_new { self.disk.sync_directory() } else { Ok(()) }
    }

    /// Writes what was put off. A spool that is dropped without this loses nothing, but repeats more when it is opened
    /// again, and knows less of what should be there.
    pub fn close(&mut self) {
        let is_behind = self.is_stale || self.has_unmarked || 0 < self.delivered_bytes;
        if is_behind && !self.is_out_of_service {
            // Should it fail, it is as if this had not been called.
            self.save(Save::Index).ok();
        }
    }

    /// Figures of now.
    pub fn counts(&self) -> Counts {
        let rows = |lane| self.segments.iter().map(|segment| segment.waiting.count(lane)).sum();
        Counts {
            bytes: self.segments.iter().map(|segment| segment.bytes).sum::<u64>()
                + self.doomed.iter().map(|file| file.bytes).sum::<u64>()
                + self.copies.bytes.iter().sum::<u64>(),
            bytes_max: self.limits.bytes_max,
            records: rows(Lane::Records),
            alerts: rows(Lane::Alerts),
            losses: to_u64(self.losses.iter().len()),
            written_bytes: self.written_bytes,
            oldest_ms: self.segments.iter().map(|segment| segment.oldest_wall_ms).min(),
            problem: self.problem.clone(),
        }
    }

    /// What waits, in ranges, in the order of the disk.
    pub fn waiting(&self) -> impl Iterator<Item = Run> + '_ {
        self.segments.iter().flat_map(|segment| segment.waiting.iter().copied())
    }

    /// Losses that were declared and are not delivered.
    pub fn losses(&self) -> impl Iterator<Item = Loss> + '_ {
        self.losses.iter().copied()
    }
}

/// The frames of one append.
struct Frames {
    lane: Lane,
    boot: BootId,
    first: Sequence,
    next: Sequence,
    clock_ms: u64,
    oldest_wall_ms: i64,
    bytes: Vec<u8>,
}

impl Frames {
    const fn new(lane: Lane, boot: BootId, first: Sequence, clock_ms: u64) -> Self {
        let oldest_wall_ms = i64::MAX;
        Self { lane, boot, first, next: first, clock_ms, oldest_wall_ms, bytes: Vec::new() }
    }

    /// All that is in them; none: nothing is.
    fn run(&self) -> Option<Run> {
        let last = Sequence::new(self.next.number() - 1).filter(|last| self.first <= *last)?;
        Some(Run { lane: self.lane, boot: self.boot, first: self.first, last })
    }

    fn add_records(&mut self, rows: &[Sample]) -> Result<(), SpoolError> {
        let [oldest, ..] = rows else { return Ok(()) };
        let mut payload = vec![0; PAYLOAD_BYTES_MAX];
        match pack(self.next, rows.iter(), &mut payload) {
            Ok(length) => {
                self.add(rows.len(), oldest.snapshot.wall_ms, &payload[..length]);
                Ok(())
            }
            // Windows of every metric, each at an end of its range: a single one always fits.
            Err(CodecError::BufferFull) if 1 < rows.len() => {
                let (older, newer) = rows.split_at(rows.len() / 2);
                self.add_records(older)?;
                self.add_records(newer)
            }
            Err(error) => Err(io::Error::other(error).into()),
        }
    }

    fn add_alerts(&mut self, rows: &[Alert]) -> Result<(), SpoolError> {
        let [oldest, ..] = rows else { return Ok(()) };
        let mut payload = vec![0; PAYLOAD_BYTES_MAX];
        let length = pack_alerts(self.next, rows.iter().copied(), &mut payload);
        let length = length.map_err(io::Error::other)?;
        self.add(rows.len(), oldest.wall_ms, &payload[..length]);
        Ok(())
    }

    fn add(&mut self, count: usize, wall_ms: i64, payload: &[u8]) {
        let end = self.next.number().checked_add(to_u64(count)).and_then(Sequence::new);
        let end = end.expect("sequences end after millions of years");
        let last = Sequence::new(end.number() - 1).expect("there is a row, so it is not 0");
        let run = Run { lane: self.lane, boot: self.boot, first: self.next, last };
        frame::encode(run, wall_ms, self.clock_ms, payload, &mut self.bytes);
        self.oldest_wall_ms = self.oldest_wall_ms.min(wall_ms);
        self.next = end;
    }
}
