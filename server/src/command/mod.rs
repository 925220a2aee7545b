//! Commands: from a caller, over the bus, to the session that holds the agent, and the answer back.
//!
//! [`pending`] has the rules and knows no clock, bus or stream; [`router`] drives it; [`recovery`] reads what
//! an earlier run of the server left on the bus; [`answered`] knows which commands have an answer, and [`rate`] how many
//! an issuer may send.

mod answered;
mod pending;
mod rate;
mod recovery;
mod request;
mod router;

use std::net::IpAddr;
use std::time::Duration;

use agent_core::id::{AgentId, CommandId};
use proto::CommandResponse;
use tokio::sync::{mpsc, oneshot};

use crate::ingest::SessionKey;
use crate::registry::Dialect;

pub(crate) use answered::{Answered, Standing};
pub(crate) use pending::{Holder, Mark, Order, answer};
pub(crate) use rate::Rates;
pub(crate) use request::order;
pub(crate) use router::Router;

#[cfg(feature = "simulation")]
pub(crate) use {
    pending::{Limits, Output, Pending, Submission},
    recovery::{id_of_place, left as time_left, read_from},
    router::doubtful,
};

/// What others tell the router. Bounded: sessions and callers wait for it, and it never waits for them.
const INBOX: usize = 1024;

/// What the router hears.
#[derive(Debug)]
enum Event {
    /// A caller has a command.
    Submit { order: Order, issuer: Option<IpAddr>, reply: oneshot::Sender<Reply> },
    /// A submitted command could not be published.
    Withdrawn(CommandId),
    /// An agent has a session.
    Connected { agent: AgentId, key: SessionKey, dialect: Dialect },
    /// A session has ended.
    Disconnected { agent: AgentId, key: SessionKey },
    /// Commands that the bus had at the start and nobody has answered, with what is left of their time.
    Recovered(Vec<(Order, Duration)>),
    /// A command was read from the bus, with what is left of its time.
    Published { order: Order, left: Duration },
    /// A command was read from the bus that cannot be one.
    Refused(Order, String),
    /// An answer was read from the bus.
    Answer(Box<CommandResponse>),
    /// What a server says of a command was read from the bus.
    Marked { id: CommandId, mark: Mark, is_ours: bool },
    /// The bus had a closing of the command before this server began.
    Barred(CommandId),
}

/// What the router says to a caller.
#[derive(Debug)]
pub(crate) enum Reply {
    /// Publish the command, then wait.
    Publish(oneshot::Receiver<CommandResponse>),
    /// It is published already: wait.
    Wait(oneshot::Receiver<CommandResponse>),
    /// This is the answer.
    Answered(Box<CommandResponse>),
    /// It is not sent, for this reason.
    Rejected(String),
    /// The id names another command.
    Taken,
}

/// The router has ended, as the server does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("server is shutting down")]
pub(crate) struct RouterGone;

/// Reaches the router.
#[derive(Clone, Debug)]
pub(crate) struct Commands {
    inbox: mpsc::Sender<Event>,
}

impl Commands {
    /// A way to reach a router, the router's own end of it, and what tells that the router knows what the bus has.
    pub(crate) fn new() -> (Self, Inbox, oneshot::Receiver<()>) {
        let (inbox, events) = mpsc::channel(INBOX);
        let (caught_up, known) = oneshot::channel();
        (Self { inbox }, Inbox { events, caught_up }, known)
    }

    /// Submits a command. An `issuer` may send so many a second, see [`Rates`].
    pub(crate) async fn submit(
        &self,
        order: Order,
        issuer: Option<IpAddr>,
    ) -> Result<Reply, RouterGone> {
        let (reply, answer) = oneshot::channel();
        self.tell(Event::Submit { order, issuer, reply }).await?;
        answer.await.map_err(|_| RouterGone)
    }

    pub(crate) async fn withdrawn(&self, id: CommandId) {
        // Without a router nobody waits for the command.
        self.tell(Event::Withdrawn(id)).await.ok();
    }

    pub(crate) async fn connected(&self, agent: &AgentId, key: SessionKey, dialect: Dialect) {
        let agent = agent.clone();
        let event = Event::Connected { agent, key, dialect };
        // Without a router there is nothing to deliver.
        self.tell(event).await.ok();
    }

    pub(crate) async fn disconnected(&self, agent: &AgentId, key: SessionKey) {
        let agent = agent.clone();
        // Without a router there is nothing to deliver.
        self.tell(Event::Disconnected { agent, key }).await.ok();
    }

    /// A server, perhaps this one, has put the mark on a bus that servers share.
    pub(crate) async fn marked(&self, id: CommandId, mark: Mark, is_ours: bool) {
        // Without a router there is nothing to conclude.
        self.tell(Event::Marked { id, mark, is_ours }).await.ok();
    }

    /// The bus had a mark [`Mark::Closed`] of the command before this server began.
    pub(crate) async fn barred(&self, id: CommandId) {
        // Without a router there is nothing to conclude.
        self.tell(Event::Barred(id)).await.ok();
    }

    async fn tell(&self, event: Event) -> Result<(), RouterGone> {
        self.inbox.send(event).await.map_err(|_| RouterGone)
    }
}

/// The router's end of [`Commands`].
#[derive(Debug)]
pub(crate) struct Inbox {
    events: mpsc::Receiver<Event>,
    caught_up: oneshot::Sender<()>,
}
