//! The spool in the life of the agent: when what is held goes to the disk, and how what is there goes out.
//!
//! Records are written to the disk only while no server takes them for a while, or when the ring runs full: a disk that
//! wears by writing is spared. They go in groups, so a loss of power costs at most what came since the group before.

use std::collections::VecDeque;
use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use agent_core::agent::{Input, Lane, LinkState};
use agent_core::id::{BootId, Sequence};
use agent_core::ledger::LossReason;
use agent_core::limits::RING_BYTES;
use agent_core::plugin::own::OwnPlugins;
use agent_core::time::Instant;
use proto::agent_message::Body;
use proto::{AlertBatch, RecordBatch, SpoolStatus, convert};

use crate::HostAgent;
use crate::net::message::{self, Packing};
use crate::spool::{Content, Item, Loss, Moment, Options, Spool, SpoolError, StdDisk, Token};

/// At most so much time passes in an outage until what came since the group before goes to the disk.
const GROUP_AGE_MAX: Duration = Duration::from_secs(300);

/// As soon as so many bytes of the ring are held in an outage, they go to the disk.
const GROUP_BYTES: usize = 16 * 1024;

/// The ring runs full: the older half of it goes to the disk.
const FULL_BYTES: usize = RING_BYTES / 4 * 3;

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

/// The spool of a running agent.
#[derive(Debug)]
pub(crate) struct Spooling {
    spool: Spool<StdDisk>,
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
    expire_at: Instant,
    told: Option<(bool, bool)>,
}

impl Spooling {
    /// Opens the spool in `directory`. What is wrong with its content is logged and declared, never an error.
    ///
    /// # Errors
    ///
    /// When the directory cannot be used, or another process uses it.
    pub(crate) fn open(
        directory: &Path,
        options: Options,
        after: Duration,
        boot: BootId,
        now: Instant,
    ) -> std::io::Result<Self> {
        let disk = StdDisk::open(directory)?;
        let takes_records = options.bytes_max > 0;
        let (spool, report) = Spool::open(disk, options, moment(now));
        for trouble in &report.troubles {
            tracing::warn!(trouble, "the spool is damaged; what is gone is declared lost");
        }
        let counts = spool.counts();
        if counts.records + counts.alerts + counts.losses > 0 {
            let (records, alerts) = (counts.records, counts.alerts);
            tracing::info!(records, alerts, "the spool has records of earlier boots");
        }
        Ok(Self {
            spool,
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
            expire_at: now,
            told: None,
        })
    }

    /// The last sequence of `boot` that waits in the spool.
    pub(crate) fn last_of(&self, boot: BootId, lane: Lane) -> Option<Sequence> {
        let waiting = self.spool.waiting().into_iter();
        waiting.filter(|range| range.boot == boot && range.lane == lane).map(|range| range.last).max()
    }

    /// Keeps `losses` until a server has them.
    ///
    /// # Errors
    ///
    /// When the disk refuses.
    pub(crate) fn declare(&mut self, losses: &[Loss]) -> Result<(), SpoolError> {
        if losses.is_empty() { Ok(()) } else { self.spool.declare(losses) }
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
        while let Some(out) = self.out.pop_front_if(|out| out.number <= number) {
            self.spool.delivered(out.token);
            inputs.push(Input::Replayed);
            if let Some((lane, count)) = out.brings {
                inputs.push(Input::SpoolDelivered { lane, count });
            }
        }
        inputs
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

    /// Puts on the disk what has to go there at `now`, and tells the agent what the spool can do. To be called again at the
    /// time that it answers, and after each input of the agent.
    pub(crate) fn poll(
        &mut self,
        now: Instant,
        agent: &mut HostAgent<impl OwnPlugins>,
    ) -> Option<Instant> {
        let is_away = !matches!(agent.link(), LinkState::Full { .. } | LinkState::Plain);
        match (is_away, self.away_since) {
            (true, None) => self.away_since = Some(now),
            (false, Some(_)) => self.away_since = None,
            (true, Some(_)) | (false, None) => {}
        }
        if self.expire_at <= now {
            self.expire_at = now + EXPIRE_INTERVAL;
            if let Err(error) = self.spool.expire(moment(now)) {
                self.refused(now, &error);
            }
            self.reconcile(now, agent);
        }
        let due = self.due(agent);
        if let Some(due) = due
            && due <= now
        {
            let share = if is_away { Share::All } else { Share::Half };
            self.store(now, agent, share);
        }
        self.tell(now, agent);
        let counts = self.spool.counts();
        let holds_any = counts.records + counts.alerts > 0;
        let expire_at = holds_any.then_some(self.expire_at);
        self.due(agent).filter(|due| now < *due).into_iter().chain(expire_at).min()
    }

    /// When what is held has to go to the disk; none while that is not foreseen.
    fn due(&self, agent: &HostAgent<impl OwnPlugins>) -> Option<Instant> {
        let ledger = agent.ledger();
        if !self.takes_records || ledger.held + ledger.alerts.held == 0 || !agent.can_defer() {
            return None;
        }
        let full = (FULL_BYTES <= agent.held_bytes()).then_some(self.written_at);
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
    pub(crate) fn store_all(&mut self, now: Instant, agent: &mut HostAgent<impl OwnPlugins>) {
        if self.takes_records {
            self.store(now, agent, Share::All);
        }
    }

    fn store(&mut self, now: Instant, agent: &mut HostAgent<impl OwnPlugins>, share: Share) {
        let mut left = match share {
            Share::All => agent.ledger().held,
            Share::Half => agent.ledger().held.div_ceil(2),
        };
        self.retry_at = None;
        if let Err(error) = self.store_alerts(now, agent) {
            return self.refused(now, &error);
        }
        while left > 0 {
            let most = usize::try_from(left).map_or(GROUP_RECORDS_MAX, |l| l.min(GROUP_RECORDS_MAX));
            let rows = agent.held_records().take(most).collect::<Vec<_>>();
            let (Some((first, _)), Some((last, _))) = (rows.first(), rows.last()) else { break };
            let (first, last) = (*first, *last);
            let samples = rows.iter().map(|(_, sample)| *sample).collect::<Vec<_>>();
            if let Err(error) = self.spool.append_records(self.boot, first, &samples, moment(now)) {
                return self.refused(now, &error);
            }
            agent.handle(now, Input::Deferred { records: Some(last), alerts: None });
            left = left.saturating_sub(u64::try_from(samples.len()).unwrap_or(u64::MAX));
        }
        self.written_at = now;
        self.reconcile(now, agent);
    }

    fn store_alerts(
        &mut self,
        now: Instant,
        agent: &mut HostAgent<impl OwnPlugins>,
    ) -> Result<(), SpoolError> {
        let rows = agent.held_alerts().take(GROUP_RECORDS_MAX).collect::<Vec<_>>();
        let (Some((first, _)), Some((last, _))) = (rows.first(), rows.last()) else {
            return Ok(());
        };
        let (first, last) = (*first, *last);
        let alerts = rows.iter().map(|(_, alert)| *alert).collect::<Vec<_>>();
        self.spool.append_alerts(self.boot, first, &alerts, moment(now))?;
        agent.handle(now, Input::Deferred { records: None, alerts: Some(last) });
        Ok(())
    }

    fn refused(&mut self, now: Instant, error: &SpoolError) {
        let retry_s = RETRY.as_secs();
        let error = anyhow::format_err!("{error}");
        tracing::warn!(%error, retry_s, "the spool takes nothing; records stay in memory");
        self.retry_at = Some(now + RETRY);
    }

    /// Tells the agent what the spool has given up of this boot.
    fn reconcile(&self, now: Instant, agent: &mut HostAgent<impl OwnPlugins>) {
        let ledger = agent.ledger();
        for (lane, spooled) in
            [(Lane::Records, ledger.spooled), (Lane::Alerts, ledger.alerts.spooled)]
        {
            let waiting = self.spool.waiting().into_iter();
            let waiting = waiting.filter(|range| range.boot == self.boot && range.lane == lane);
            let waiting: u64 = waiting.map(|range| range.first.count_until(range.last.next())).sum();
            let count = spooled.saturating_sub(waiting);
            if count > 0 {
                let losses = self.spool.losses();
                let of_boot = losses.iter().rev().find(|l| l.boot == self.boot && l.lane == lane);
                let reason = of_boot.map_or(LossReason::SpoolFull, |loss| loss.reason);
                agent.handle(now, Input::SpoolLost { lane, reason, count });
            }
        }
    }

    fn tell(&mut self, now: Instant, agent: &mut HostAgent<impl OwnPlugins>) {
        if self.is_wanted && self.next.is_none() {
            self.next = self.spool.next();
        }
        let is_writable = self.takes_records && self.retry_at.is_none() && agent.can_defer();
        let has_batch = self.is_wanted && self.next.is_some();
        if self.told.replace((is_writable, has_batch)) != Some((is_writable, has_batch)) {
            agent.handle(now, Input::SpoolChanged { is_writable, has_batch });
        }
    }

    /// Its figures, for the agent's status.
    pub(crate) fn status(&self) -> SpoolStatus {
        let counts = self.spool.counts();
        SpoolStatus {
            bytes: counts.bytes,
            bytes_max: counts.bytes_max,
            records: counts.records,
            alerts: counts.alerts,
            written_bytes: counts.written_bytes,
            oldest_ms: counts.oldest_ms.and_then(|ms| u64::try_from(ms).ok()).unwrap_or(0),
            problem: counts.problem.unwrap_or_default(),
        }
    }

    /// Writes what was put off: the process is about to end.
    pub(crate) fn close(&mut self) {
        self.spool.close();
    }
}

/// How much of what is held goes to the disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Share {
    All,
    /// The older half of the records, and all alerts.
    Half,
}

fn moment(now: Instant) -> Moment {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Moment { uptime: now, wall_ms: i64::try_from(since.as_millis()).unwrap_or(i64::MAX) }
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
            let losses = ranges.iter().map(message::spool_loss).collect();
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
