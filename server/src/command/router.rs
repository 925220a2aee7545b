//! Drives the commands on their way: between callers, the bus and the sessions.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use agent_core::id::{AgentId, CommandId};
use bus::{Bus, Payload, PublishError, Record};
use proto::{CommandOutcome, CommandResponse, StatusEvent, StatusRecord};
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;
use tracing::{debug, warn};

use crate::clock::{Clock, Now};
use crate::command::pending::{Limits, Mark, Order, Output, Pending, Submission};
use crate::command::recovery::Feeds;
use crate::command::{Commands, Event, Inbox, Reply};
use crate::counters::{Counter, Counters};
use crate::ingest::Directive;
use crate::limits::{
    AGENT_COMMANDS_MAX, ANSWERS_MAX, COMMAND_GRACE, COMMANDS_MAX, ISSUER_COMMANDS_PER_S,
};
use crate::rejection::Reason;
use crate::shared::Tables;
use crate::troubles::Troubles;

/// Answers of the server's own, and marks, that wait for the bus. When it is full they are dropped with a warning: the
/// caller has heard the answers.
const RECORDS: usize = COMMANDS_MAX;

/// Pause before a record that could not be stored is stored again.
const RETRY: Duration = Duration::from_secs(1);

/// The commands on their way and everything that drives them.
#[derive(Debug)]
pub(crate) struct Router {
    clock: Clock,
    counters: Arc<Counters>,
    tables: Arc<Tables>,
    pending: Pending,
    /// Callers by command. Those who went away are dropped when another one comes, and with the answer.
    waiting: HashMap<CommandId, Vec<oneshot::Sender<CommandResponse>>>,
    events: mpsc::Receiver<Event>,
    records: mpsc::Sender<Record>,
    /// Whether other servers have the bus too.
    is_shared: bool,
    /// Names this run of the server in records.
    server_id: String,
    /// Told once what the bus has is known.
    caught_up: Option<oneshot::Sender<()>>,
    /// Ended with the router.
    tasks: Vec<JoinHandle<()>>,
}

impl Drop for Router {
    fn drop(&mut self) {
        for task in &self.tasks {
            task.abort();
        }
    }
}

impl Router {
    /// A router that begins with what the bus has, and tells when it knows that.
    pub(crate) fn new(
        bus: &Arc<dyn Bus>,
        clock: &Clock,
        counters: &Arc<Counters>,
        tables: &Arc<Tables>,
        troubles: &Arc<Troubles>,
        server_id: &str,
        (commands, inbox): (&Commands, Inbox),
    ) -> Self {
        let (records, to_store) = mpsc::channel(RECORDS);
        let feeds = Feeds::new(bus, clock, counters, troubles, commands.inbox.clone());
        let tasks =
            vec![tokio::spawn(feeds.run()), tokio::spawn(store_records(Arc::clone(bus), to_store))];
        let is_shared = bus.is_shared();
        let grace = if is_shared { grace() } else { Duration::ZERO };
        Self {
            clock: clock.clone(),
            counters: Arc::clone(counters),
            tables: Arc::clone(tables),
            server_id: server_id.to_owned(),
            pending: Pending::new(Limits {
                per_agent: AGENT_COMMANDS_MAX,
                total: COMMANDS_MAX,
                answers: ANSWERS_MAX,
                grace,
            }),
            waiting: HashMap::new(),
            events: inbox.events,
            records,
            is_shared,
            caught_up: Some(inbox.caught_up),
            tasks,
        }
    }

    /// Runs until it is aborted.
    pub(crate) async fn run(mut self) {
        loop {
            self.act();
            tokio::select! {
                event = self.events.recv() => match event {
                    Some(event) => self.handle(event),
                    None => return,
                },
                () = self.clock.sleep_until(self.pending.poll_timeout()) => {
                    let tables = &self.tables;
                    let now = self.clock.now();
                    let seen = |agent: &AgentId| last_seen(tables.registry().last_seen_ms(agent));
                    let holder = |agent: &AgentId| tables.registry().holder(agent, now.unix_ms);
                    self.pending.handle_timeout(now, seen, holder);
                }
            }
        }
    }

    fn handle(&mut self, event: Event) {
        let now = self.clock.now();
        match event {
            Event::Submit { order, issuer, reply } => self.submit(now, &order, issuer, reply),
            Event::Withdrawn(id) => self.pending.handle_withdrawn(&id),
            Event::Connected { agent, key, dialect } => {
                self.pending.handle_connected(&agent, key, dialect)
            }
            Event::Disconnected { agent, key } => self.pending.handle_disconnected(&agent, key),
            Event::Recovered(orders) => {
                for (order, left) in orders {
                    self.pending.handle_recovered(now, order, left);
                }
                if let Some(caught_up) = self.caught_up.take() {
                    // A server that did not wait does not want to know.
                    caught_up.send(()).ok();
                }
            }
            Event::Published { order, left } => {
                let holder = self.tables.registry().holder(&order.agent, now.unix_ms);
                self.pending.handle_published(now, order, left, holder);
            }
            Event::Refused(order, reason) => {
                let holder = self.tables.registry().holder(&order.agent, now.unix_ms);
                self.pending.handle_refused(now, &order, holder, reason);
            }
            Event::Answer(response) => {
                self.tables.answered().note(&response);
                self.pending.handle_answer(*response);
            }
            Event::Marked { id, mark, is_ours } => {
                self.pending.handle_mark(now, &id, mark, is_ours);
            }
            Event::Barred(id) => self.pending.handle_barred(&id),
        }
    }

    fn submit(
        &mut self,
        now: Now,
        order: &Order,
        issuer: Option<IpAddr>,
        reply: oneshot::Sender<Reply>,
    ) {
        // What became of a command is told to whoever asks, however often: to be told that it was not sent would be false.
        let is_known = self.pending.known(order).is_some();
        if !is_known && let Some(objection) = self.objection(now, order, issuer) {
            // Nothing was begun for a caller that went away.
            reply.send(Reply::Rejected(objection)).ok();
            return;
        }
        let reply_with = match self.pending.handle_submit(now, order) {
            Submission::New => {
                self.counters.add(Counter::CommandsAccepted, 1);
                Reply::Publish(self.wait_for(&order.id))
            }
            Submission::Joined => Reply::Wait(self.wait_for(&order.id)),
            Submission::Answered(response) => Reply::Answered(response),
            Submission::Busy => {
                self.counters.reject(Reason::Busy);
                Reply::Rejected(format!(
                    "busy: agent {} has too many commands waiting",
                    order.agent
                ))
            }
            Submission::Taken => Reply::Taken,
        };
        if let Err(Reply::Publish(_)) = reply.send(reply_with) {
            // The caller went away before it could publish.
            self.pending.handle_withdrawn(&order.id);
        }
    }

    /// Why a new command is not sent; none if it may be, which then counts for its issuer.
    fn objection(&self, now: Now, order: &Order, issuer: Option<IpAddr>) -> Option<String> {
        if let Some(issuer) = issuer
            && !self.tables.rates().allow(now.monotonic, issuer)
        {
            self.counters.reject(Reason::Busy);
            self.counters.add(Counter::CommandsThrottled, 1);
            return Some(format!(
                "busy: {issuer} sends more than {ISSUER_COMMANDS_PER_S} commands a second; try again"
            ));
        }
        let registry = self.tables.registry();
        if registry.last_seen_ms(&order.agent).is_none() {
            return Some(format!("no agent {} has ever connected", order.agent));
        }
        let doubt = registry.doubt(&order.agent, now.unix_ms).filter(|_| !order.command.force)?;
        self.counters.add(Counter::CommandsDoubtful, 1);
        Some(doubtful(order, doubt))
    }

    fn wait_for(&mut self, id: &CommandId) -> oneshot::Receiver<CommandResponse> {
        let (answer, waiter) = oneshot::channel();
        let waiting = self.waiting.entry(id.clone()).or_default();
        waiting.retain(|waiter| !waiter.is_closed());
        waiting.push(answer);
        waiter
    }

    /// Does what the rules say, until they say nothing more.
    fn act(&mut self) {
        while let Some(output) = self.pending.poll_output() {
            match output {
                Output::Deliver(order) => self.deliver(*order),
                Output::Mark(order, mark) => self.mark(&order, mark),
                Output::Answered { response, publish } => self.answer(*response, publish),
            }
        }
    }

    fn deliver(&mut self, mut order: Order) {
        let now = self.clock.now();
        let Some(left) = self.pending.left(now, &order.id) else {
            return;
        };
        if self.is_doubted(now, &order) {
            return;
        }
        // What travels is the time left, so that the agent needs no common clock; the session takes off how long it waits
        // there.
        order.command.ttl_ms = u64::try_from(left.as_millis()).unwrap_or(u64::MAX);
        order.command.wants_progress = true;
        let directive =
            Directive::Command { command: order.command, expires_at: now.monotonic + left };
        let holder = self.tables.claims().holder(&order.agent);
        let taken = holder.map(|handle| handle.direct(directive));
        match taken {
            Some(Ok(())) => {
                debug!(agent = %order.agent, command = %order.id, "command delivered");
                self.counters.add(Counter::CommandsDelivered, 1);
                if !self.is_shared {
                    // There it was said before.
                    self.say(now, &order.agent, &order.id, StatusEvent::CommandDelivered);
                }
                self.pending.handle_delivered(now, &order.id);
            }
            Some(Err(_)) | None => self.pending.handle_undelivered(now, &order.id),
        }
    }

    fn mark(&mut self, order: &Order, mark: Mark) {
        let now = self.clock.now();
        let event = match mark {
            Mark::Delivered if self.is_doubted(now, order) => return,
            Mark::Delivered => StatusEvent::CommandDelivered,
            Mark::Closed => StatusEvent::CommandClosed,
        };
        if !self.say(now, &order.agent, &order.id, event) {
            self.pending.handle_unmarked(now, &order.id);
        }
    }

    /// Whether the agent must not have the command, because another host may have its id.
    fn is_doubted(&mut self, now: Now, order: &Order) -> bool {
        if order.command.force {
            return false;
        }
        let doubt = self.tables.registry().doubt(&order.agent, now.unix_ms).map(str::to_owned);
        let Some(doubt) = doubt else {
            return false;
        };
        self.counters.add(Counter::CommandsDoubtful, 1);
        self.pending.handle_doubted(now, &order.id, doubtful(order, &doubt));
        true
    }

    fn answer(&mut self, mut response: CommandResponse, publish: bool) {
        if publish {
            response.server_id.clone_from(&self.server_id);
            self.tables.answered().note(&response);
        }
        match response.outcome() {
            CommandOutcome::Expired => self.counters.add(Counter::CommandsExpired, 1),
            CommandOutcome::Unknown => self.counters.add(Counter::CommandsUnknown, 1),
            CommandOutcome::Unspecified
            | CommandOutcome::Succeeded
            | CommandOutcome::Failed
            | CommandOutcome::Rejected => {}
        }
        let Ok(id) = response.command_id.parse::<CommandId>() else {
            return;
        };
        if publish {
            self.publish(&response, &id);
        }
        for waiter in self.waiting.remove(&id).unwrap_or_default() {
            // A caller that went away does not want it.
            waiter.send(response.clone()).ok();
        }
    }

    /// Lets other servers, and whoever reads the bus, know what becomes of the command. Answers whether the bus is to
    /// have it.
    fn say(&self, now: Now, agent: &AgentId, id: &CommandId, event: StatusEvent) -> bool {
        let record = StatusRecord {
            agent_id: agent.to_string(),
            event: event.into(),
            timestamp_ms: now.unix_ms,
            server_id: self.server_id.clone(),
            command_id: id.to_string(),
            ..StatusRecord::default()
        };
        self.store(agent.clone(), Payload::Status(Box::new(record)), id)
    }

    fn publish(&self, response: &CommandResponse, id: &CommandId) {
        if let Ok(key) = response.agent_id.parse() {
            self.store(key, Payload::Response(Box::new(response.clone())), id);
        }
    }

    fn store(&self, key: AgentId, payload: Payload, id: &CommandId) -> bool {
        let is_taken = self.records.try_send(Record { key, payload }).is_ok();
        if !is_taken {
            warn!(command = %id, "what became of a command is not recorded: the bus is slow");
        }
        is_taken
    }
}

/// Why a command to an agent of doubtful identity is refused.
pub(crate) fn doubtful(order: &Order, doubt: &str) -> String {
    format!(
        "the identity of agent {} is in doubt: {doubt}; a command has to be forced (--force)",
        order.agent
    )
}

/// The grace of this server, so that no two servers have the same.
fn grace() -> Duration {
    let base = COMMAND_GRACE.as_millis();
    let jitter = u128::from(getrandom::u32().unwrap_or_default()) * base / 2 / u128::from(u32::MAX);
    Duration::from_millis(u64::try_from(base + jitter).unwrap_or(u64::MAX))
}

async fn store_records(bus: Arc<dyn Bus>, mut records: mpsc::Receiver<Record>) {
    while let Some(record) = records.recv().await {
        loop {
            match bus.publish(vec![record.clone()]).await {
                Ok(()) => break,
                Err(PublishError::Closed) => return,
                Err(error @ (PublishError::TooLarge { .. } | PublishError::Malformed { .. })) => {
                    warn!("what became of a command is not recorded: {error}");
                    break;
                }
                Err(error) => {
                    warn!("what became of a command is not recorded yet: {error}");
                    tokio::time::sleep(RETRY).await;
                }
            }
        }
    }
}

/// When an agent was heard of, in words.
fn last_seen(unix_ms: Option<i64>) -> String {
    match unix_ms.and_then(|ms| u64::try_from(ms).ok()) {
        Some(ms) => {
            let at: SystemTime = UNIX_EPOCH + Duration::from_millis(ms);
            format!("last seen {}", humantime::format_rfc3339_seconds(at))
        }
        None => "never seen".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn last_seen_is_told_in_utc() {
        assert_eq!(last_seen(Some(1_700_000_000_999)), "last seen 2023-11-14T22:13:20Z");
        assert_eq!(last_seen(None), "never seen");
    }
}
