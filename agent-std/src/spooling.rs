//! The spool in the life of the agent: when what is held goes to the disk, and how what is there goes out.
//!
//! Records are written to the disk only while no server takes them for a while, or when the ring runs full: a disk that
//! wears by writing is spared. They go in groups, so a loss of power costs at most what came since the group before.

use std::collections::VecDeque;
use std::path::Path;
use std::time::Duration;

use agent_core::agent::{Input, Lane, LinkState};
use agent_core::id::{AgentId, BootId, Sequence};
use agent_core::ledger::LossReason;
use agent_core::limits::{RECORD_BYTES_MAX, REPLAYS_IN_FLIGHT_MAX};
use agent_core::plugin::own::OwnPlugins;
use agent_core::record::Sample;
use agent_core::time::Instant;
use proto::agent_message::Body;
use proto::{AlertBatch, RecordBatch, SpoolStatus, convert};

use crate::boot_book::{BookFile, BookInDirectory, BootBook, Progress};
use crate::net::message::{self, Packing};
use crate::ring_memory::RingAgent;
use crate::spool::{
    BYTES_MAX_RANGE, Content, Disk, Item, Loss, Options, Order, Spool, SpoolError, StdDisk, Token,
};

/// At most so much time passes in an outage until what came since the group before goes to the disk.
const GROUP_AGE_MAX: Duration = Duration::from_secs(300);

/// As soon as so many bytes of the ring are held in an outage, they go to the disk.
const GROUP_BYTES: usize = 16 * 1024;

/// From here on a ring of so many bytes runs full: the older half of it goes to the disk.
const fn full_bytes(ring: usize) -> usize {
    ring / 4 * 3
}

/// Records in one write.
const GROUP_RECORDS_MAX: usize = 256;

/// How soon a disk that refused is tried again.
const RETRY: Duration = Duration::from_secs(30);

/// How often what is too old is looked for.
const EXPIRE_INTERVAL: Duration = Duration::from_secs(600);

/// A batch that was sent and is not acknowledged.
#[derive(Clone, Copy, Debug)]
struct Out {
    number: u64,
    token: Token,
    // What it brings of this boot; a batch of losses and one of an earlier boot bring nothing.
    brings: Option<(Lane, u64)>,
}

/// What an operator decides of the spool.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Settings {
    /// Bytes on the disk; 0: no records, only what became of earlier boots.
    pub(crate) bytes_max: u64,
    /// How long a record is kept.
    pub(crate) age_max: Duration,
    /// How long no server must take records before they go to the disk.
    pub(crate) after: Duration,
    /// What is sent first.
    pub(crate) order: Order,
}

/// Bytes of memory that a spool of `bytes_max` bytes takes at most: what of a group goes to the disk, as it is held and as it is
/// written; what comes back from it; a segment that is looked through at the start; its lists.
pub(crate) fn memory_bytes_max(bytes_max: u64) -> usize {
    const ROWS: usize = agent_core::codec::BLOCK_ROWS_MAX;
    const BLOCK_BYTES: usize = 64 * 1024;
    const LISTS_BYTES: usize = 4 * 64 * 1024;
    let segment = segment_bytes(if bytes_max == 0 { LOSSES_BYTES } else { bytes_max });
    let segment = 2 * usize::try_from(segment).unwrap_or(usize::MAX);
    if bytes_max == 0 {
        return segment + LISTS_BYTES;
    }
    let group = GROUP_RECORDS_MAX * (2 * size_of::<(Sequence, Sample)>() + RECORD_BYTES_MAX);
    let batches = usize::from(REPLAYS_IN_FLIGHT_MAX) + 1;
    let replayed = batches * (ROWS * size_of::<Sample>() + 2 * BLOCK_BYTES);
    group + replayed + segment + LISTS_BYTES
}

/// Whether a spool can have so many bytes: 0, or as many as one can have.
///
/// # Errors
///
/// For people, when it cannot.
pub(crate) fn check_bytes(bytes: u64) -> Result<(), &'static str> {
    if bytes != 0 && !BYTES_MAX_RANGE.contains(&bytes) {
        return Err("it must be 0, or 64K to 512M");
    }
    Ok(())
}

/// Room for losses where there is to be none for records.
const LOSSES_BYTES: u64 = 64 * 1024;

/// Bytes of one file: small beside a small spool, whose oldest file gives way as a whole.
fn segment_bytes(bytes_max: u64) -> u64 {
    (bytes_max / 16).clamp(16 * 1024, 1 << 20)
}

/// The spool of a running agent.
#[derive(Debug)]
pub(crate) struct Spooling<D = StdDisk, F = BookInDirectory> {
    spool: Spool<D>,
    book: BootBook<F>,
    boot: BootId,
    // Whether records may be put in; without room for them there are losses in it alone.
    takes_records: bool,
    // How long no server must take records before they go to the disk.
    after: Duration,
    // Whether the server of the stream in hand takes what is replayed.
    is_wanted: bool,
    next: Option<Item>,
    // At most as many as the core lets be on their way.
    out: VecDeque<Out>,
    sent: u64,
    away_since: Option<Instant>,
    written_at: Instant,
    retry_at: Option<Instant>,
    // When the book, which the disk refused, is tried again.
    reserve_at: Option<Instant>,
    expire_at: Instant,
    // What the log was told of.
    logged: Logged,
    told: Option<(bool, bool)>,
}

/// What of the spool was logged, so that each turn of it is logged once.
#[derive(Clone, Copy, Debug, Default)]
struct Logged {
    fills: bool,
    lost: u64,
    lost_at: Option<Instant>,
}

impl Spooling {
    /// Opens the spool of `disk` in `state_dir`, and declares what earlier boots have lost. What is wrong with its content is logged
    /// and declared, never an error.
    pub(crate) fn open(
        disk: StdDisk,
        state_dir: &Path,
        settings: Settings,
        agent: AgentId,
        boot: BootId,
        now: Instant,
    ) -> Self {
        Self::on(disk, BookInDirectory::new(state_dir), settings, agent, boot, now)
    }
}

impl<D: Disk, F: BookFile> Spooling<D, F> {
    /// Opens the spool on `disk` and the book in `file`, as [`Spooling::open`] does.
    pub(crate) fn on(
        disk: D,
        file: F,
        settings: Settings,
        agent: AgentId,
        boot: BootId,
        now: Instant,
    ) -> Self {
        let Settings { bytes_max, age_max, after, order } = settings;
        let takes_records = bytes_max > 0;
        let bytes_max = if takes_records { bytes_max } else { LOSSES_BYTES };
        let segment_bytes = segment_bytes(bytes_max);
        let options = Options { bytes_max, age_max: Some(age_max), segment_bytes, order };
        let (spool, report) = Spool::open(disk, options, now);
        for trouble in &report.troubles {
            tracing::warn!(trouble, "the spool is damaged; what is gone is declared lost");
        }
        let counts = spool.counts();
        if counts.records + counts.alerts + counts.losses > 0 {
            let (records, alerts) = (counts.records, counts.alerts);
            tracing::info!(records, alerts, "the spool has records of earlier boots");
        }
        let mut this = Self {
            spool,
            book: BootBook::open(file, agent, boot),
            boot,
            takes_records,
            after,
            is_wanted: false,
            next: None,
            out: VecDeque::new(),
            sent: 0,
            away_since: Some(now),
            written_at: now,
            retry_at: None,
            reserve_at: None,
            expire_at: now,
            logged: Logged::default(),
            told: None,
        };
        this.declare_crashes();
        let nothing = Progress { acknowledged: None, recorded: 0 };
        this.reserve(now, nothing, nothing);
        this
    }

    /// Declares what boots that ended without a word may have lost, but for what the spool has of them.
    fn declare_crashes(&mut self) {
        let waiting = self.spool.waiting().collect::<Vec<_>>();
        let losses = self.book.crashed(|boot, lane| {
            let of_boot = waiting.iter().filter(|range| range.boot == boot && range.lane == lane);
            of_boot.map(|range| range.last).max()
        });
        // One boot after the other: there may be room for the losses of some.
        for boot in self.book.undeclared() {
            let of_boot: Vec<Loss> =
                losses.iter().filter(|loss| loss.boot == boot).copied().collect();
            if !of_boot.is_empty()
                && let Err(error) = self.spool.declare(&of_boot)
            {
                let error = anyhow::Error::from(error);
                tracing::warn!(
                    "what boots from {boot} on may have lost is declared when a server has taken some of the losses before: {error:#}"
                );
                return;
            }
            for Loss { first, last, lane, .. } in &of_boot {
                let (first, last) = (first.number(), last.number());
                tracing::warn!(
                    %boot, first, last, ?lane,
                    "a boot ended without a word; what it may have lost is declared"
                );
            }
            self.book.handle_declared(boot);
        }
    }

    fn reserve(&mut self, now: Instant, records: Progress, alerts: Progress) {
        if self.reserve_at.is_some_and(|at| now < at) {
            return;
        }
        self.reserve_at = None;
        if let Err(error) = self.book.reserve(records, alerts) {
            let retry_s = RETRY.as_secs();
            tracing::error!(%error, retry_s, "cannot reserve sequences; if the agent is killed, less is declared lost than is");
            self.reserve_at = Some(now + RETRY);
        }
    }

    /// A server has welcomed the agent; `is_wanted` says whether it takes what is replayed.
    pub(crate) fn handle_welcomed(&mut self, is_wanted: bool) {
        self.is_wanted = is_wanted;
    }

    /// The stream has ended, and with it what was on its way.
    pub(crate) fn handle_closed(&mut self) {
        self.is_wanted = false;
        self.next = None;
        self.out.clear();
        self.sent = 0;
        self.spool.rewind();
    }

    /// The server has made every replayed batch up to `number` durable.
    pub(crate) fn handle_acknowledged(&mut self, number: u64) -> Vec<Input> {
        let mut inputs = Vec::new();
        let had = self.is_filled();
        while let Some(out) = self.out.pop_front_if(|out| out.number <= number) {
            self.spool.delivered(out.token);
            inputs.push(Input::Replayed);
            if let Some((lane, count)) = out.brings {
                inputs.push(Input::SpoolDelivered { lane, count });
            }
        }
        if self.book.owes() && !inputs.is_empty() {
            self.declare_crashes();
        }
        if had && !self.is_filled() {
            self.logged.fills = false;
            tracing::info!("the spool is empty: a server has what was there");
        }
        inputs
    }

    /// Whether records or alerts wait on the disk.
    fn is_filled(&self) -> bool {
        let counts = self.spool.counts();
        counts.records + counts.alerts > 0
    }

    /// The next batch for the stream; none when there is none after all.
    pub(crate) fn transmit(&mut self, packing: Packing) -> Option<Body> {
        let item = self.next.take().or_else(|| self.spool.next())?;
        self.sent += 1;
        let is_own = item.boot == self.boot;
        let brings = match &item.content {
            Content::Records { rows, .. } => Some((Lane::Records, rows.len())),
            Content::Alerts { rows, .. } => Some((Lane::Alerts, rows.len())),
            Content::Losses { .. } => None,
        };
        let brings = brings.filter(|_| is_own);
        let brings = brings.map(|(lane, count)| (lane, u64::try_from(count).unwrap_or(u64::MAX)));
        self.out.push_back(Out { number: self.sent, token: item.token, brings });
        Some(body(item, self.sent, packing))
    }

    /// Puts on the disk what has to go there at `now`, and tells the agent what the spool can do. To be called after each
    /// input of the agent, until it answers [`Spooled::Wait`].
    pub(crate) fn poll<const RING: usize>(
        &mut self,
        now: Instant,
        agent: &mut RingAgent<RING, impl OwnPlugins>,
    ) -> Spooled {
        let mut changed = false;
        let ledger = agent.ledger();
        let (records, alerts) = agent.accounted();
        self.reserve(
            now,
            Progress { acknowledged: records, recorded: ledger.recorded },
            Progress { acknowledged: alerts, recorded: ledger.alerts.recorded },
        );
        let is_away = !matches!(agent.link(), LinkState::Full { .. } | LinkState::Plain);
        match (is_away, self.away_since) {
            (true, None) => self.away_since = Some(now),
            (false, Some(_)) => self.away_since = None,
            (true, Some(_)) | (false, None) => {}
        }
        if self.expire_at <= now {
            self.expire_at = now + EXPIRE_INTERVAL;
            if let Err(error) = self.spool.expire(now) {
                self.refused(now, error);
            }
            self.reconcile(now, agent);
            changed = true;
        }
        let due = self.due(agent);
        if let Some(due) = due
            && due <= now
        {
            let share = if is_away { Share::All } else { Share::Half };
            self.store(now, agent, share);
            changed = true;
        }
        if self.tell(now, agent) || changed {
            return Spooled::Changed;
        }
        let counts = self.spool.counts();
        let holds_any = counts.records + counts.alerts > 0;
        let expire_at = holds_any.then_some(self.expire_at);
        Spooled::Wait(self.due(agent).into_iter().chain(expire_at).min())
    }

    /// When what is held has to go to the disk; none while that is not foreseen.
    fn due<const RING: usize>(&self, agent: &RingAgent<RING, impl OwnPlugins>) -> Option<Instant> {
        let ledger = agent.ledger();
        if !self.takes_records || ledger.held + ledger.alerts.held == 0 || !agent.can_defer() {
            return None;
        }
        let full = (full_bytes(RING) <= agent.held_bytes()).then_some(self.written_at);
        let away = self.away_since.map(|since| {
            let is_first = self.written_at <= since;
            let is_large = GROUP_BYTES <= agent.held_bytes();
            let group = if is_first || is_large { since } else { self.written_at + GROUP_AGE_MAX };
            group.max(since + self.after)
        });
        let due = full.into_iter().chain(away).min()?;
        Some(self.retry_at.map_or(due, |retry_at| due.max(retry_at)))
    }

    /// Puts everything that is held on the disk: the agent is about to end.
    pub(crate) fn store_all<const RING: usize>(
        &mut self,
        now: Instant,
        agent: &mut RingAgent<RING, impl OwnPlugins>,
    ) {
        if self.takes_records {
            self.store(now, agent, Share::All);
        }
    }

    fn store<const RING: usize>(
        &mut self,
        now: Instant,
        agent: &mut RingAgent<RING, impl OwnPlugins>,
        share: Share,
    ) {
        let mut left = match share {
            Share::All => agent.ledger().held,
            Share::Half => agent.ledger().held.div_ceil(2),
        };
        self.retry_at = None;
        if !self.logged.fills {
            self.logged.fills = true;
            let bytes_max = self.spool.counts().bytes_max;
            tracing::info!(bytes_max, "records go to the spool");
        }
        if let Err(error) = self.store_alerts(now, agent) {
            return self.refused(now, error);
        }
        while left > 0 {
            let most =
                usize::try_from(left).map_or(GROUP_RECORDS_MAX, |l| l.min(GROUP_RECORDS_MAX));
            let rows = agent.held_records().take(most).collect::<Vec<_>>();
            let (Some((first, _)), Some((last, _))) = (rows.first(), rows.last()) else { break };
            let (first, last) = (*first, *last);
            let samples = rows.into_iter().map(|(_, sample)| sample).collect::<Vec<_>>();
            if let Err(error) = self.spool.append_records(self.boot, first, &samples, now) {
                return self.refused(now, error);
            }
            agent.handle(now, Input::Deferred { records: Some(last), alerts: None });
            left = left.saturating_sub(u64::try_from(samples.len()).unwrap_or(u64::MAX));
        }
        self.written_at = now;
        self.reconcile(now, agent);
    }

    fn store_alerts<const RING: usize>(
        &mut self,
        now: Instant,
        agent: &mut RingAgent<RING, impl OwnPlugins>,
    ) -> Result<(), SpoolError> {
        let rows = agent.held_alerts().take(GROUP_RECORDS_MAX).collect::<Vec<_>>();
        let (Some((first, _)), Some((last, _))) = (rows.first(), rows.last()) else {
            return Ok(());
        };
        let (first, last) = (*first, *last);
        let alerts = rows.into_iter().map(|(_, alert)| alert).collect::<Vec<_>>();
        self.spool.append_alerts(self.boot, first, &alerts, now)?;
        agent.handle(now, Input::Deferred { records: None, alerts: Some(last) });
        Ok(())
    }

    fn refused(&mut self, now: Instant, error: SpoolError) {
        let retry_s = RETRY.as_secs();
        let error = anyhow::Error::from(error);
        tracing::warn!(retry_s, "the spool takes nothing, records stay in memory: {error:#}");
        self.retry_at = Some(now + RETRY);
    }

    /// Tells the agent what the spool has given up of this boot.
    fn reconcile<const RING: usize>(
        &mut self,
        now: Instant,
        agent: &mut RingAgent<RING, impl OwnPlugins>,
    ) {
        let ledger = agent.ledger();
        for (lane, spooled) in
            [(Lane::Records, ledger.spooled), (Lane::Alerts, ledger.alerts.spooled)]
        {
            let waiting =
                self.spool.waiting().filter(|range| range.boot == self.boot && range.lane == lane);
            let waiting: u64 =
                waiting.map(|range| range.first.count_until(range.last.next())).sum();
            let count = spooled.saturating_sub(waiting);
            if count > 0 {
                let of_boot = |loss: &Loss| loss.boot == self.boot && loss.lane == lane;
                let newest = self.spool.losses().filter(of_boot).last();
                let reason = newest.map_or(LossReason::SpoolFull, |loss| loss.reason);
                agent.handle(now, Input::SpoolLost { lane, reason, count });
                self.logged.lost += count;
            }
        }
        // The first time, and then now and again.
        let is_due = self.logged.lost_at.is_none_or(|at| at + EXPIRE_INTERVAL <= now);
        if self.logged.lost > 0 && is_due {
            let lost = std::mem::take(&mut self.logged.lost);
            tracing::warn!(
                lost,
                "the spool has given up its oldest records; they are declared lost"
            );
            self.logged.lost_at = Some(now);
        }
    }

    /// Answers whether there was news.
    fn tell<const RING: usize>(
        &mut self,
        now: Instant,
        agent: &mut RingAgent<RING, impl OwnPlugins>,
    ) -> bool {
        if self.is_wanted && self.next.is_none() {
            self.next = self.spool.next();
        }
        let is_writable = self.takes_records && self.retry_at.is_none() && agent.can_defer();
        let has_batch = self.is_wanted && self.next.is_some();
        let is_news = self.told.replace((is_writable, has_batch)) != Some((is_writable, has_batch));
        if is_news {
            agent.handle(now, Input::SpoolChanged { is_writable, has_batch });
        }
        is_news
    }

    /// What is on the disk.
    #[cfg(feature = "simulation")]
    pub(crate) fn counts(&self) -> crate::spool::Counts {
        self.spool.counts()
    }

    /// Its figures, for the agent's status; none when there is to be no spool, and nothing is left of one.
    pub(crate) fn status(&self) -> Option<SpoolStatus> {
        if !self.takes_records && !self.is_filled() {
            return None;
        }
        let counts = self.spool.counts();
        Some(SpoolStatus {
            bytes: counts.bytes,
            bytes_max: counts.bytes_max,
            records: counts.records,
            alerts: counts.alerts,
            written_bytes: counts.written_bytes,
            oldest_ms: counts.oldest_ms.and_then(|ms| u64::try_from(ms).ok()).unwrap_or(0),
            problem: counts.problem.unwrap_or_default(),
        })
    }

    /// The process is about to end: what it has lost and no server has confirmed to know of is declared to the next boot.
    pub(crate) fn close<const RING: usize>(&mut self, agent: &RingAgent<RING, impl OwnPlugins>) {
        let records = agent.unsettled_records().map(|loss| self.of_lane(Lane::Records, loss));
        let alerts = agent.unsettled_alerts().map(|loss| self.of_lane(Lane::Alerts, loss));
        let losses = records.chain(alerts).collect::<Vec<_>>();
        let declared = if losses.is_empty() { Ok(()) } else { self.spool.declare(&losses) };
        match declared {
            // Without the entry in the book the next boot has nothing to tell of this one.
            Ok(()) => {
                if let Err(error) = self.book.close() {
                    tracing::warn!(%error, "the next boot takes this end for a crash");
                }
            }
            Err(error) => {
                let error = anyhow::Error::from(error);
                tracing::error!(
                    "what was lost cannot be declared; the next boot takes this end for a crash: {error:#}"
                );
            }
        }
        self.spool.close();
    }

    fn of_lane(&self, lane: Lane, loss: agent_core::agent::Loss) -> Loss {
        let agent_core::agent::Loss { first, last, reason, never_sent, unacknowledged } = loss;
        Loss { lane, boot: self.boot, first, last, reason, never_sent, unacknowledged }
    }
}

/// What [`Spooling::poll`] came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Spooled {
    /// The agent was told something.
    Changed,
    /// Nothing is to be done before the next input of the agent or this time.
    Wait(Option<Instant>),
}

/// How much of what is held goes to the disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Share {
    All,
    /// The older half of the records, and all alerts.
    Half,
}

/// As [`message::loss`], of an earlier time.
fn loss(loss: &Loss) -> proto::Loss {
    let Loss { first, last, reason, never_sent, unacknowledged, .. } = *loss;
    message::loss(&agent_core::agent::Loss { first, last, reason, never_sent, unacknowledged })
}

/// `item` as the batch of an earlier time with the number `replay`.
fn body(item: Item, replay: u64, packing: Packing) -> Body {
    let boot = Some(item.boot.into());
    match item.content {
        Content::Records { first, rows, block } => {
            let is_packed = packing == Packing::Block && !block.is_empty();
            let numbers = std::iter::successors(Some(first), |number| Some(number.next()));
            let records = numbers.zip(&rows).map(|(number, row)| convert::record(number, row));
            Body::Records(RecordBatch {
                boot,
                replay,
                records: if is_packed { Vec::new() } else { records.collect() },
                packed: if is_packed { block } else { Vec::new() },
                ..RecordBatch::default()
            })
        }
        Content::Alerts { first, rows } => {
            let numbers = std::iter::successors(Some(first), |number| Some(number.next()));
            let alerts = numbers.zip(&rows).map(|(number, row)| convert::alert_record(number, row));
            let alerts = alerts.collect();
            Body::Alerts(AlertBatch { boot, replay, alerts, ..AlertBatch::default() })
        }
        Content::Losses { lane, ranges } => {
            let losses = ranges.iter().map(loss).collect();
            match lane {
                Lane::Records => {
                    Body::Records(RecordBatch { boot, replay, losses, ..RecordBatch::default() })
                }
                Lane::Alerts => {
                    Body::Alerts(AlertBatch { boot, replay, losses, ..AlertBatch::default() })
                }
            }
        }
    }
}
