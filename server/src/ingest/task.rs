//! Drives one agent stream: moves messages between gRPC, the session's rules, the bus and the rest.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use agent_core::id::{AgentId, BootId};
use bus::{PublishError, Record};
use prost::Message as _;
use proto::agent_message::Body;
use proto::command::CommandType;
use proto::{Command, CommandResponse, ConfigPush, MetricsRequest};
use tokio::sync::mpsc;
use tonic::codegen::Bytes;
use tonic::{Status, Streaming};
use tracing::{debug, info, warn};

use crate::budget::Charge;
use crate::command::Standing;
use crate::counters::Counter;
use crate::ingest::claims::{Claimant, SessionKey, Verdict};
use crate::ingest::credit::Load;
use crate::ingest::handle::{Directive, SessionHandle, SessionPort, session_handle};
use crate::ingest::history::last_stored;
use crate::ingest::intake::{self, Introduction};
use crate::ingest::rivals::{self, Newcomer};
use crate::ingest::session::{Fact, Opening, Session};
use crate::ingest::weight::weigh;
use crate::levels::Level;
use crate::limits::{CONTEST, SINK_SLOW, STUCK_AFTER};
use crate::net::Line;
use crate::registry::{Connection, Dialect, Life};
use crate::rejection::{Reason, Rejection};
use crate::shared::Shared;
use crate::shutdown::Guard;

/// How often an id is asked for while its holders change under our hands.
pub(crate) const CLAIM_ATTEMPTS: u32 = 4;

/// How long the bus may take to say where the agent's records end.
const HISTORY_READ_MAX: Duration = Duration::from_secs(2);

/// How long the last messages of a stream, and the record of its end, may take.
pub(crate) const FAREWELL_MAX: Duration = Duration::from_secs(2);

/// How long the two halves of a broken stream may take to be found broken, one after the other.
const VANISHING_MAX: Duration = Duration::from_millis(100);

/// How long records under way at a shutdown may take to become durable.
pub(crate) const LAST_STORE_MAX: Duration = Duration::from_secs(4);

/// What gRPC gives for one call of `StreamMetrics`.
#[derive(Debug)]
pub(crate) struct Stream {
    pub(crate) inbound: Streaming<Bytes>,
    /// A few messages; a full one means that the peer takes nothing.
    pub(crate) outbound: mpsc::Sender<Result<Command, Status>>,
    /// The remote address.
    pub(crate) peer: String,
    /// The checked Hello; none from a client that knows only the fixed fields.
    pub(crate) introduction: Option<Introduction>,
    /// The credit in the Welcome.
    pub(crate) granted: u64,
    /// The connection, where it is known.
    pub(crate) line: Option<Line>,
    pub(crate) guard: Guard,
}

/// Why a stream ended.
#[derive(Debug)]
enum End {
    /// The client closed it.
    Finished,
    /// The client is gone.
    Lost(String),
    /// The client sent something that is refused.
    Rejected(Rejection),
    /// A newer stream has the id.
    Superseded,
    /// The client took nothing for too long.
    Stuck,
    /// The bus could not store.
    Unstored(PublishError),
    /// The server ends.
    Stopping,
}

impl End {
    /// For the bus and the log.
    fn detail(&self) -> String {
        match self {
            Self::Finished => "closed by the client".to_owned(),
            Self::Lost(detail) => format!("connection lost: {detail}"),
            Self::Rejected(rejection) => format!("refused: {rejection}"),
            Self::Superseded => "replaced by a newer stream".to_owned(),
            Self::Stuck => format!("took nothing for {} s", STUCK_AFTER.as_secs()),
            Self::Unstored(error) => error.to_string(),
            Self::Stopping => "server is shutting down".to_owned(),
        }
    }

    /// For the client; none when it closed the stream itself.
    fn status(self) -> Option<Status> {
        match self {
            Self::Finished | Self::Lost(_) => None,
            Self::Rejected(rejection) => Some(rejection.into()),
            Self::Superseded => Some(Status::aborted("replaced by a newer stream of this agent")),
            Self::Stuck => Some(Status::deadline_exceeded("stream took nothing for too long")),
            Self::Unstored(error) => Some(Status::unavailable(error.to_string())),
            Self::Stopping => Some(Status::unavailable("server is shutting down")),
        }
    }
}

/// Serves one stream until it ends.
pub(crate) async fn run(shared: Arc<Shared>, mut stream: Stream) {
    let held = shared.levels.hold(Level::Streams, 1);
    let end = match identify(&shared, &mut stream).await {
        Ok((opening, first)) => serve(&shared, &mut stream, opening, first).await,
        Err(end) => end,
    };
    if let End::Rejected(rejection) = &end {
        shared.counters.reject(rejection.reason);
        info!(peer = stream.peer, "stream refused: {rejection}");
    }
    if let Some(status) = end.status() {
        // Fails when the client is gone or takes nothing; then nobody wants to know.
        let farewell = stream.outbound.send(Err(status));
        tokio::time::timeout(FAREWELL_MAX, farewell).await.ok();
    }
    let Stream { inbound, outbound, line, guard, .. } = stream;
    // Everything of the stream is gone before its leftovers are waited for.
    drop((inbound, outbound, guard, held));
    if let Some(line) = line
        && line.end().await
    {
        info!(peer = stream.peer, "connection closed: its peer does not read");
    }
}

/// A message, and its part of the budget.
type Admitted = (MetricsRequest, Charge);

/// A message that waits for its part of the budget.
struct Admission {
    bytes: Bytes,
    charge: Pin<Box<dyn Future<Output = Charge> + Send>>,
}

impl Admission {
    /// Weighs a message, and joins the line for the room that it needs.
    fn of(shared: &Shared, bytes: Bytes) -> Result<Self, End> {
        let weight = weigh(&bytes).map_err(End::Rejected)?;
        Ok(Self { bytes, charge: Box::pin(shared.budget.charge(weight)) })
    }

    /// The message, once there is room for it. Safe to cancel: the place in the line stays.
    async fn granted(&mut self) -> Result<Admitted, End> {
        let charge = self.charge.as_mut().await;
        let decoded = MetricsRequest::decode(std::mem::take(&mut self.bytes));
        let request = decoded
            .map_err(|error| End::Rejected(Rejection::new(Reason::Malformed, error.to_string())))?;
        Ok((request, charge))
    }
}

/// Learns who opened the stream: from the Hello, or from the first message.
async fn identify(
    shared: &Shared,
    stream: &mut Stream,
) -> Result<(Opening, Option<Admitted>), End> {
    if let Some(introduction) = stream.introduction.take() {
        return Ok((Opening::Full(introduction), None));
    }
    let Stream { inbound, outbound, guard, .. } = stream;
    let admitted = async {
        let bytes = received(inbound.message().await)?;
        Admission::of(shared, bytes)?.granted().await
    };
    let (first, charge) = tokio::select! {
        () = guard.wait() => return Err(End::Stopping),
        () = outbound.closed() => return Err(End::Lost("before its first message".to_owned())),
        admitted = admitted => admitted?,
    };
    let agent = first.agent_id.parse::<AgentId>().map_err(|error| End::Rejected(error.into()))?;
    intake::check_opening(&first).map_err(End::Rejected)?;
    Ok((Opening::Plain(agent), Some((first, charge))))
}

/// Holds the agent's id for as long as it lives.
struct Seat<'a> {
    shared: &'a Shared,
    agent: AgentId,
    key: SessionKey,
}

impl Drop for Seat<'_> {
    fn drop(&mut self) {
        self.shared.registry().disconnect(&self.agent, self.key);
        self.shared.claims().release(&self.agent, self.key);
    }
}

async fn serve(
    shared: &Shared,
    stream: &mut Stream,
    opening: Opening,
    first: Option<Admitted>,
) -> End {
    let (agent, claimant, life) = match &opening {
        Opening::Plain(agent) => (agent.clone(), Claimant::Plain, None),
        Opening::Full(introduction) => (
            introduction.agent.clone(),
            Claimant::Full { boot: introduction.boot, session: introduction.hello.session },
            Some(Life {
                boot: introduction.boot,
                host: introduction.hello.host.clone(),
                server_id: shared.server_id.clone(),
                began_ms: shared.clock.now().unix_ms,
            }),
        ),
    };
    let key = shared.claims().next_key();
    let (handle, mut port) = session_handle(key, &stream.peer);
    if let Err(rejection) = claim(shared, &agent, claimant, &handle, life).await {
        return End::Rejected(rejection);
    }
    let seat = Seat { shared, agent, key };
    // The port must outlive every sender here, so that `ended` is told at the end and not before.
    drop(handle);

    let now = shared.clock.now();
    let hello = match &opening {
        Opening::Plain(_) => None,
        Opening::Full(introduction) => Some(introduction.hello.clone()),
    };
    let connection = Connection {
        key,
        server_id: &shared.server_id,
        hello: hello.as_ref(),
        peer: &stream.peer,
        at_ms: now.unix_ms,
    };
    let connected = shared.registry().connect(&seat.agent, connection);
    if let Err(error) = connected {
        return End::Rejected(Rejection::new(Reason::Busy, error.to_string()));
    }
    let mut session = Session::open(now, opening, &shared.server_id, &stream.peer);
    session.handle_granted(stream.granted);
    shared.counters.add(Counter::SessionsOpened, 1);
    info!(agent = %seat.agent, peer = stream.peer, "agent connected");

    if let (Some(boot), Some(hello)) = (session.boot(), &hello) {
        // What another server has acknowledged is known only to the agent, until this one has read the bus that far.
        shared.registry().acknowledge(&seat.agent, boot, hello.acknowledged);
        shared.registry().alerts_stored(&seat.agent, boot, hello.alerts_acknowledged);
        session.handle_resumed(resume(shared, &seat.agent, boot).await);
        session.handle_alerts_stored(shared.registry().last_alert(&seat.agent, boot));
    }

    let dialect = session.dialect();
    shared.commands.connected(&seat.agent, key, dialect).await;
    if let Some(push) = effective_config(shared, &seat.agent) {
        shared.registry().config_wanted(&seat.agent, push.revision);
        pushed(shared, session.handle_config(push));
    }

    let end = drive(&seat, stream, &mut session, &mut port, first).await;
    let end = settle(&seat, stream, &mut session, &port, end).await;

    let detail = end.detail();
    info!(agent = %seat.agent, peer = stream.peer, "agent disconnected: {detail}");
    shared.counters.add(Counter::SessionsClosed, 1);
    shared.registry().disconnect(&seat.agent, key);
    shared.commands.disconnected(&seat.agent, key).await;
    let record = session.disconnected(shared.clock.now(), detail);
    let farewell = shared.bus.publish(vec![record]);
    match tokio::time::timeout(FAREWELL_MAX, farewell).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => warn!(agent = %seat.agent, "cannot record the disconnect: {error}"),
        Err(_) => warn!(agent = %seat.agent, "cannot record the disconnect: the bus is slow"),
    }
    end
}

/// Up to where the boot is accounted for. To be asked once the stream before has ended, which may have been
/// storing still when this one was welcomed.
async fn resume(shared: &Shared, agent: &AgentId, boot: BootId) -> u64 {
    let stored = last_stored(&*shared.bus, agent, boot, HISTORY_READ_MAX).await;
    let mut registry = shared.registry();
    registry.acknowledge(agent, boot, stored);
    registry.accounted(agent, boot)
}

/// Makes the stream the holder of its agent's id.
///
/// # Errors
///
/// When another agent with the id lives, or a newer stream of this one.
async fn claim(
    shared: &Shared,
    agent: &AgentId,
    claimant: Claimant,
    handle: &SessionHandle,
    life: Option<Life>,
) -> Result<(), Rejection> {
    for _ in 0..CLAIM_ATTEMPTS {
        let verdict = shared.claims().claim(agent, handle.key, claimant, handle.clone());
        let incumbent = match verdict {
            Verdict::Granted => return Ok(()),
            Verdict::Succeeded(incumbent) => {
                succeed(shared, &incumbent).await;
                if claimant == Claimant::Plain {
                    notice_rivals(shared, agent, &incumbent, &handle.peer).await;
                }
                return Ok(());
            }
            Verdict::Outdated(incumbent) => {
                let peer = &incumbent.peer;
                let text = format!("a newer stream of agent {agent} is open from {peer}");
                return Err(Rejection::new(Reason::DuplicateId, text));
            }
            Verdict::Contested(incumbent) => incumbent,
        };
        if incumbent.is_alive().await {
            let peer = &incumbent.peer;
            let detail = format!("{peer} holds the id, {} was refused", handle.peer);
            let newcomer = Newcomer { peer: &handle.peer, life };
            rivals::report(shared, agent, newcomer, detail).await;
            let text = format!("another live agent holds the id {agent}, connected from {peer}");
            return Err(Rejection::new(Reason::DuplicateId, text));
        }
        let seized =
            shared.claims().seize(agent, handle.key, claimant, handle.clone(), incumbent.key);
        if let Some(incumbent) = seized {
            succeed(shared, &incumbent).await;
            return Ok(());
        }
    }
    let text = format!("too many streams claim the id {agent}");
    Err(Rejection::new(Reason::DuplicateId, text))
}

/// Ends the stream that held the id, and lets it say so on the bus before this one says that it is there.
async fn succeed(shared: &Shared, incumbent: &SessionHandle) {
    shared.counters.add(Counter::SessionsSuperseded, 1);
    // A session with no room for this is stuck; it ends by itself, and the wait below is bounded.
    incumbent.direct(Directive::Superseded).ok();
    tokio::time::timeout(CONTEST, incumbent.ended()).await.ok();
}

/// Tells of plain clients that take an id from each other in turn: neither can be refused, for a plain client
/// that reconnects looks the same.
async fn notice_rivals(
    shared: &Shared,
    agent: &AgentId,
    incumbent: &SessionHandle,
    newcomer: &str,
) {
    let now = shared.clock.now();
    if !shared.claims().plain_replaced(agent, now.monotonic) {
        return;
    }
    shared.counters.add(Counter::SessionsPlainReplaced, 1);
    let detail =
        format!("plain clients replace each other: {newcomer} took the id from {}", incumbent.peer);
    rivals::report(shared, agent, Newcomer { peer: newcomer, life: None }, detail).await;
}

/// Records on their way to the bus.
type Publishing = Pin<Box<dyn Future<Output = Result<(), PublishError>> + Send>>;

/// One turn of the session's loop.
#[expect(
    clippy::large_enum_variant,
    reason = "one value, for one turn, in a task that has room for it"
)]
enum Event {
    Stopping,
    Gone,
    Stuck,
    Slow,
    Stored(Result<(), PublishError>),
    MayTransmit,
    Directive(Directive),
    Message(Result<Option<Bytes>, Status>),
    Admitted(Result<Admitted, End>),
}

async fn drive(
    seat: &Seat<'_>,
    stream: &mut Stream,
    session: &mut Session,
    port: &mut SessionPort,
    mut first: Option<Admitted>,
) -> End {
    let shared = seat.shared;
    let mut publishing: Option<Publishing> = None;
    // When the bus begins to be slow with what is being published.
    let mut slow_at = None;
    let mut stuck_at = None;
    let mut admission: Option<Admission> = None;
    // Of the message that was handled last.
    let mut charge: Option<Charge> = None;
    loop {
        learn(seat, session, port);
        if publishing.is_none() {
            // A message that leaves nothing to be stored gives its part of the budget back at once.
            let charge = charge.take();
            publishing = session.poll_publish().map(|records| publish(shared, records, charge));
            slow_at = publishing.as_ref().map(|_| shared.clock.now().monotonic + SINK_SLOW);
        }
        shared.levels.peak(Level::Outbox, session.waiting_count());
        shared.levels.peak(Level::Directives, port.directives.len());
        let transmits = session.has_transmit();
        stuck_at = match stuck_at {
            _ if !transmits => None,
            None => Some(shared.clock.now().monotonic + STUCK_AFTER),
            since => since,
        };
        // The first message of a plain stream was read already: it goes in as soon as it may.
        let event = if session.wants_message()
            && publishing.is_none()
            && let Some(admitted) = first.take()
        {
            Event::Admitted(Ok(admitted))
        } else {
            tokio::select! {
                () = stream.guard.wait() => Event::Stopping,
                () = stream.outbound.closed() => Event::Gone,
                () = shared.clock.sleep_until(stuck_at) => Event::Stuck,
                () = shared.clock.sleep_until(slow_at) => Event::Slow,
                result = stored(&mut publishing) => Event::Stored(result),
                Ok(permit) = stream.outbound.reserve(), if transmits => {
                    if let Some(command) = session.poll_transmit(shared.clock.now().monotonic) {
                        permit.send(Ok(command));
                    }
                    Event::MayTransmit
                }
                Some(directive) = port.directives.recv(), if session.wants_command() => {
                    Event::Directive(directive)
                }
                admitted = granted(&mut admission), if session.wants_message() => {
                    Event::Admitted(admitted)
                }
                message = stream.inbound.message(),
                    if session.wants_message() && admission.is_none() =>
                {
                    Event::Message(message)
                }
            }
        };
        match event {
            Event::Stopping => {
                return finish_storing(session, publishing).await.unwrap_or(End::Stopping);
            }
            Event::Gone => return End::Lost("the client went away".to_owned()),
            Event::Stuck => return End::Stuck,
            Event::Slow => {
                slow_at = None;
                share(shared, session, Load { sink: SINK_SLOW, ..shared.load() });
            }
            Event::Stored(result) => {
                publishing = None;
                match result {
                    Ok(()) => {
                        session.handle_stored();
                        share(shared, session, shared.load());
                    }
                    Err(error) => {
                        shared.counters.add(Counter::PublishFailed, 1);
                        return End::Unstored(error);
                    }
                }
            }
            Event::MayTransmit => stuck_at = None,
            Event::Directive(Directive::Superseded) => return End::Superseded,
            Event::Directive(Directive::Refused(detail)) => {
                return End::Rejected(Rejection::new(Reason::DuplicateId, detail));
            }
            Event::Directive(directive) => follow(seat, session, directive).await,
            Event::Message(message) => {
                let heard = received(message).and_then(|bytes| {
                    port.heard();
                    Admission::of(shared, bytes)
                });
                match heard {
                    Ok(heard) => admission = Some(heard),
                    Err(end) => return tell_apart(stream, end).await,
                }
            }
            Event::Admitted(admitted) => {
                admission = None;
                let (message, its_charge) = match admitted {
                    Ok(admitted) => admitted,
                    Err(end) => return end,
                };
                charge = Some(its_charge);
                if let Err(rejection) = take(seat, session, message) {
                    return End::Rejected(rejection);
                }
            }
        }
    }
}

fn take(seat: &Seat<'_>, session: &mut Session, message: MetricsRequest) -> Result<(), Rejection> {
    let now = seat.shared.clock.now();
    seat.shared.registry().heard(&seat.agent, now.unix_ms);
    let Some((response, standing)) = standing(seat.shared, &message) else {
        return session.handle_message(now, message);
    };
    match standing {
        Standing::First => session.handle_message(now, message),
        Standing::Repeat => {
            seat.shared.counters.add(Counter::CommandsAnsweredAgain, 1);
            session.handle_repeated_answer(response.command_id.clone());
            Ok(())
        }
        Standing::Amends(first) => {
            seat.shared.counters.add(Counter::CommandsAmended, 1);
            session.handle_amendment(now, response.clone(), first)
        }
    }
}

/// What an answer is in view of those before it; none when `message` is no answer.
fn standing<'a>(
    shared: &Shared,
    message: &'a MetricsRequest,
) -> Option<(&'a CommandResponse, Standing)> {
    match message.message.as_ref()?.body.as_ref()? {
        Body::Response(response) => Some((response, shared.answered().judge(response))),
        _ => None,
    }
}

/// The message that waits for its part of the budget, once it has it.
async fn granted(admission: &mut Option<Admission>) -> Result<Admitted, End> {
    match admission {
        Some(admission) => admission.granted().await,
        None => std::future::pending().await,
    }
}

/// Tells the agent how much it may send, when that has changed.
fn share(shared: &Shared, session: &mut Session, load: Load) {
    if session.handle_share(shared.clock.now(), load.share()) {
        shared.counters.add(Counter::CreditsSent, 1);
    }
}

fn received(message: Result<Option<Bytes>, Status>) -> Result<Bytes, End> {
    match message {
        Ok(Some(message)) => Ok(message),
        Ok(None) => Err(End::Finished),
        Err(status) => match Rejection::from_decoder(status.code(), status.message()) {
            Some(rejection) => Err(End::Rejected(rejection)),
            None => Err(End::Lost(status.message().to_owned())),
        },
    }
}

/// tonic shows a client that vanished as one that said all it had to. The difference is that nobody listens any
/// more, which the transport finds out at about the same time.
async fn tell_apart(stream: &Stream, end: End) -> End {
    if !matches!(end, End::Finished) {
        return end;
    }
    match tokio::time::timeout(VANISHING_MAX, stream.outbound.closed()).await {
        Ok(()) => End::Lost("the client went away".to_owned()),
        Err(_) => End::Finished,
    }
}

/// Hands `records` to the bus, and holds `charge` until it has them.
fn publish(shared: &Shared, records: Vec<Record>, charge: Option<Charge>) -> Publishing {
    let (bus, clock) = (Arc::clone(&shared.bus), shared.clock.clone());
    let sink = Arc::clone(&shared.sink);
    Box::pin(async move {
        let began = clock.now().monotonic;
        let published = bus.publish(records).await;
        match &published {
            Ok(()) => sink.stored(clock.now().monotonic - began),
            Err(_) => sink.failed(),
        }
        drop(charge);
        published
    })
}

async fn stored(publishing: &mut Option<Publishing>) -> Result<(), PublishError> {
    match publishing {
        Some(publishing) => publishing.await,
        None => std::future::pending().await,
    }
}

/// Waits for what is under way, so that the agent hears of it before the stream ends.
async fn finish_storing(session: &mut Session, mut publishing: Option<Publishing>) -> Option<End> {
    publishing.as_ref()?;
    match tokio::time::timeout(LAST_STORE_MAX, stored(&mut publishing)).await {
        Ok(Ok(())) => {
            session.handle_stored();
            None
        }
        Ok(Err(error)) => Some(End::Unstored(error)),
        // The agent sends it again to the next server.
        Err(_) => None,
    }
}

/// Sends what is left to say, if the client may still take it.
async fn settle(
    seat: &Seat<'_>,
    stream: &Stream,
    session: &mut Session,
    port: &SessionPort,
    end: End,
) -> End {
    learn(seat, session, port);
    let listens = match end {
        End::Finished | End::Rejected(_) | End::Stopping => true,
        End::Lost(_) | End::Superseded | End::Stuck | End::Unstored(_) => false,
    };
    let send_rest = async {
        let clock = &seat.shared.clock;
        while let Some(command) = session.poll_transmit(clock.now().monotonic) {
            if stream.outbound.send(Ok(command)).await.is_err() {
                return;
            }
        }
    };
    if listens && tokio::time::timeout(FAREWELL_MAX, send_rest).await.is_err() {
        debug!(agent = %seat.agent, "the client did not take the last messages");
    }
    end
}

/// Tells the rest of the server what the session found out.
fn learn(seat: &Seat<'_>, session: &mut Session, port: &SessionPort) {
    let shared = seat.shared;
    while let Some(fact) = session.poll_fact() {
        match fact {
            Fact::Stored { count } => shared.counters.add(Counter::RecordsStored, count),
            Fact::Lost { count } => shared.counters.add(Counter::RecordsLost, count),
            Fact::Unexplained { count } => {
                warn!(agent = %seat.agent, "{count} records never arrived here and were not declared lost");
                shared.counters.add(Counter::RecordsLost, count);
                shared.counters.add(Counter::RecordsUnexplained, count);
            }
            Fact::Acknowledged { boot, sequence } => {
                shared.registry().acknowledge(&seat.agent, boot, sequence);
            }
            Fact::Alerts { stored, lost, boot, sequence } => {
                shared.counters.add(Counter::AlertsStored, stored);
                shared.counters.add(Counter::AlertsLost, lost);
                shared.registry().alerts_stored(&seat.agent, boot, sequence);
            }
            Fact::ReplayedAlerts { stored } => {
                shared.counters.add(Counter::AlertsStored, stored);
            }
            Fact::Status(status) => shared.registry().status(&seat.agent, status),
            Fact::Config(report) => {
                shared.registry().config_report(&seat.agent, &report);
                port.reported(report);
            }
            Fact::Answered { command_id, outcome, timestamp } => {
                shared.counters.add(Counter::CommandsAnswered, 1);
                // The agent may give it again before it has come back from the bus.
                let response = CommandResponse {
                    command_id,
                    outcome,
                    timestamp,
                    ..CommandResponse::default()
                };
                shared.answered().note(&response);
            }
        }
    }
}

async fn follow(seat: &Seat<'_>, session: &mut Session, directive: Directive) {
    let shared = seat.shared;
    match directive {
        Directive::Command { command, expires_at } => {
            let rereads =
                command.r#type == CommandType::UpdateConfig as i32 && command.params.is_empty();
            if rereads && session.dialect() == Dialect::Full {
                let push = effective_config(shared, &seat.agent);
                pushed(shared, push.is_some_and(|push| session.handle_config_again(push)));
            }
            session.handle_command(command, expires_at);
        }
        Directive::Config(push) => pushed(shared, session.handle_config(push)),
        Directive::Ping => session.handle_ping(),
        Directive::Superseded | Directive::Refused(_) => {
            debug_assert!(false, "ends the loop before");
        }
    }
}

fn pushed(shared: &Shared, sent: bool) {
    if sent {
        shared.counters.add(Counter::ConfigsPushed, 1);
    }
}

/// The configuration that holds for the agent; none when that is not known, which must not end the stream.
fn effective_config(shared: &Shared, agent: &AgentId) -> Option<ConfigPush> {
    match shared.config.effective(agent) {
        Ok(effective) => Some(effective.push()),
        Err(error) => {
            debug!(%agent, "no configuration is pushed: {error}");
            None
        }
    }
}
