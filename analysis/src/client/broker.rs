//! Kafka without a server on the way: for what is on the bus, no server need be reachable.

use std::collections::BTreeSet;
use std::fmt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use agent_core::id::AgentId;
use bus::kafka::{KafkaBus, OpenError, Options};
use bus::query::{Answer, CommandQuery, commands};
use bus::{
    Bus, BusError, Delivery, Payload, PublishError, Record, Selection, Start, Subscription, Topic,
    Watermarks,
};
use proto::{
    AgentStatus, Command, CommandOutcome, CommandResponse, ListCommandsRequest,
    ListCommandsResponse,
};
use tokio::sync::mpsc;
use tokio::time::{sleep, timeout};

use super::feed::{Backoff, EVENTS_MAX, Event, Feed, Resumption, random_seed};
use super::{Error, Subscribe};

/// For the brokers to take a command, and to say where topics end.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);

/// On top of a command's time to live: the way there and back, and the time that servers give each other to say what
/// became of it.
const COMMAND_SLACK: Duration = Duration::from_secs(10);

/// A connection to brokers.
#[derive(Clone)]
pub(crate) struct Brokers {
    names: Arc<str>,
    bus: Arc<dyn Bus>,
}

impl fmt::Debug for Brokers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Brokers").field(&self.names).finish()
    }
}

impl fmt::Display for Brokers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.names)
    }
}

/// Why there is no connection to brokers to speak of.
#[derive(Debug, thiserror::Error)]
pub(crate) enum BrokersError {
    #[error(transparent)]
    Open(#[from] OpenError),
    #[error(transparent)]
    Properties(#[from] bus::kafka::PropertiesError),
}

impl Brokers {
    /// Takes the addresses, `HOST:PORT` with commas between, and the file with further settings. Reaches for nobody.
    pub(crate) fn new(names: &str, config: Option<&Path>) -> Result<Self, BrokersError> {
        let properties = config.map(bus::kafka::read_properties).transpose()?;
        let options = Options {
            bootstrap_servers: names.to_owned(),
            client_id: "picket-cli".to_owned(),
            properties: properties.unwrap_or_default(),
            publish_timeout: REQUEST_TIMEOUT,
            request_timeout: REQUEST_TIMEOUT,
            ..Options::default()
        };
        Ok(Self { names: names.into(), bus: KafkaBus::open(options)? })
    }

    pub(super) async fn feed<R: Subscribe>(&self, request: R) -> Result<Feed<R::Batch>, Error> {
        let answer = self.answer(&request).await?;
        let (events, receiver) = mpsc::channel(EVENTS_MAX);
        let reader = Reader { brokers: self.clone(), request, events };
        Ok(Feed::new(receiver, tokio::spawn(reader.run(answer))))
    }

    /// Hands over what agents have said of themselves in the answers to STATUS that were stored since, oldest first.
    pub(crate) async fn said(
        &self,
        agents: &[AgentId],
        since_ms: i64,
        mut take: impl FnMut(&CommandResponse, &AgentStatus),
    ) -> Result<(), Error> {
        let selection = if agents.is_empty() {
            Selection::All
        } else {
            Selection::Keys(agents.iter().cloned().collect())
        };
        let start = Start::Time(since_ms);
        let answers = self.bus.subscribe(Topic::CommandResponses, start, selection).await;
        let mut answers = answers.map_err(|error| self.error(&error))?;
        loop {
            match answers.next().await.map_err(|error| self.error(&error))? {
                Delivery::Entries(entries) => {
                    for entry in entries {
                        if let Payload::Response(response) = &entry.payload
                            && let Some(status) = &response.status
                        {
                            take(response, status);
                        }
                    }
                }
                Delivery::Skipped { .. } => {}
                Delivery::CaughtUp => return Ok(()),
            }
        }
    }

    pub(super) async fn watermarks(&self, topic: Topic) -> Result<Vec<Watermarks>, Error> {
        self.bus.watermarks(topic).await.map_err(|error| self.error(&error))
    }

    async fn answer<R: Subscribe>(&self, request: &R) -> Result<Answer<R::Form>, Error> {
        let query = request.clone().query();
        let query = query.map_err(|error| Error::Rejected { message: error.to_string() })?;
        Answer::open(&*self.bus, query).await.map_err(|error| self.error(&error))
    }

    /// Puts a command on the bus and waits for its answer a little longer than its time to live.
    pub(crate) async fn send_command(&self, command: Command) -> Result<CommandResponse, Error> {
        let refused =
            |error: agent_core::id::AgentIdError| Error::Rejected { message: error.to_string() };
        let agent: AgentId = command.agent_id.parse().map_err(refused)?;
        let selection = Selection::Keys(BTreeSet::from([agent.clone()]));
        let answers = self.bus.subscribe(Topic::CommandResponses, Start::Tail, selection);
        let mut answers = answers.await.map_err(|error| self.error(&error))?;

        let id = command.command_id.clone();
        let deadline = Duration::from_millis(command.ttl_ms).saturating_add(COMMAND_SLACK);
        let record = Record { key: agent.clone(), payload: Payload::Command(command) };
        self.bus.publish(vec![record]).await.map_err(|error| self.unpublished(&error))?;
        match timeout(deadline, answer_to(&id, answers.as_mut())).await {
            Ok(Ok(response)) => Ok(response),
            Ok(Err(error)) => Err(self.error(&error)),
            Err(_) => Ok(CommandResponse {
                message: "no server has said what became of it; is a picket-server running on this Kafka?"
                    .to_owned(),
                agent_id: agent.to_string(),
                command_id: id,
                outcome: CommandOutcome::Unknown.into(),
                ..CommandResponse::default()
            }),
        }
    }

    /// What became of commands.
    pub(crate) async fn commands(
        &self,
        request: ListCommandsRequest,
    ) -> Result<ListCommandsResponse, Error> {
        let query = CommandQuery::try_from(request)
            .map_err(|error| Error::Rejected { message: error.to_string() })?;
        commands(&*self.bus, query).await.map_err(|error| self.error(&error))
    }

    fn error(&self, error: &BusError) -> Error {
        Error::Brokers { names: self.names.to_string(), reason: plain(&super::root_cause(error)) }
    }

    fn unpublished(&self, error: &PublishError) -> Error {
        match error {
            PublishError::TooLarge { .. } | PublishError::Malformed { .. } => {
                Error::Rejected { message: error.to_string() }
            }
            other => Error::Brokers {
                names: self.names.to_string(),
                reason: plain(&super::root_cause(other)),
            },
        }
    }
}

/// What librdkafka says, without the name of its constant: `name (Local: words)`.
fn plain(reason: &str) -> String {
    let words = reason.split_once("(Local: ").or_else(|| reason.split_once("(Broker: "));
    words.map_or(reason, |(_, words)| words.trim_end_matches(')')).to_lowercase()
}

/// The first answer to a command: later ones repeat it, or come from servers that did not know of it.
async fn answer_to(id: &str, answers: &mut dyn Subscription) -> Result<CommandResponse, BusError> {
    loop {
        let Delivery::Entries(entries) = answers.next().await? else {
            continue;
        };
        for entry in entries {
            if let Payload::Response(response) = entry.payload
                && response.command_id == id
            {
                return Ok(*response);
            }
        }
    }
}

/// The task behind a feed.
struct Reader<R: Subscribe> {
    brokers: Brokers,
    request: R,
    events: mpsc::Sender<Result<Event<R::Batch>, Error>>,
}

impl<R: Subscribe> Reader<R> {
    async fn run(mut self, mut answer: Answer<R::Form>) {
        loop {
            let error = match self.forward(&mut answer).await {
                Ok(()) => return,
                Err(error) => self.brokers.error(&error),
            };
            if !self.request.follows() {
                self.events.send(Err(error)).await.ok();
                return;
            }
            let reason = error.into_reason();
            if self.events.send(Ok(Event::Away { reason })).await.is_err() {
                return;
            }
            let Some(reopened) = self.reopen().await else {
                return;
            };
            answer = reopened;
            if self.events.send(Ok(Event::Back(Resumption::AfterLast))).await.is_err() {
                return;
            }
        }
    }

    /// Passes on what comes, until the query is over or nobody listens any more.
    async fn forward(&mut self, answer: &mut Answer<R::Form>) -> Result<(), BusError> {
        while let Some(batch) = answer.next().await? {
            if let Some(cursor) = R::cursor(&batch) {
                self.request.start_at(cursor.clone());
            }
            if self.events.send(Ok(Event::Batch(batch))).await.is_err() {
                break;
            }
        }
        Ok(())
    }

    /// Tries until the brokers answer; none when nobody listens any more.
    async fn reopen(&self) -> Option<Answer<R::Form>> {
        let mut backoff = Backoff::new(random_seed());
        loop {
            sleep(backoff.next()).await;
            if self.events.is_closed() {
                return None;
            }
            if let Ok(answer) = self.brokers.answer(&self.request).await {
                return Some(answer);
            }
        }
    }
}
