//! Which commands were answered, so that an answer that comes again is not published again, and a later one that says
//! something else is told for what it is.
//!
//! It knows the newest [`ANSWERS_MAX`](crate::limits::ANSWERS_MAX) commands that the bus has an answer to; of older ones an
//! answer that comes again is published again, and readers leave it out.

use std::collections::{HashMap, VecDeque};

use agent_core::id::CommandId;
use proto::{Amendment, CommandOutcome, CommandResponse};

/// What an answer is, in view of those before it.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Standing {
    /// The first one to its command.
    First,
    /// The agent has said so before.
    Repeat,
    /// It says something else than the first one.
    Amends(Amendment),
}

#[derive(Debug)]
struct Known {
    first: Amendment,
    /// What the agent itself said last.
    said: Option<i32>,
}

/// The answers on the bus by command, at most `max`; the oldest is forgotten first.
#[derive(Debug)]
pub(crate) struct Answered {
    by_id: HashMap<CommandId, Known>,
    order: VecDeque<CommandId>,
    max: usize,
}

impl Answered {
    pub(crate) fn new(max: usize) -> Self {
        Self { by_id: HashMap::new(), order: VecDeque::new(), max }
    }

    /// What `response` of an agent is. One without an id that can be one is for others to refuse.
    pub(crate) fn judge(&self, response: &CommandResponse) -> Standing {
        let id = response.command_id.parse::<CommandId>();
        let Some(known) = id.ok().and_then(|id| self.by_id.get(&id)) else {
            return Standing::First;
        };
        if known.said == Some(outcome(response)) {
            return Standing::Repeat;
        }
        Standing::Amends(known.first.clone())
    }

    /// The bus has `response`.
    pub(crate) fn note(&mut self, response: &CommandResponse) {
        let Ok(id) = response.command_id.parse::<CommandId>() else {
            return;
        };
        let outcome = outcome(response);
        let said = response.server_id.is_empty().then_some(outcome);
        if let Some(known) = self.by_id.get_mut(&id) {
            known.said = said.or(known.said);
            return;
        }
        let (server_id, timestamp) = (response.server_id.clone(), response.timestamp);
        let first = Amendment { outcome, server_id, timestamp };
        self.by_id.insert(id.clone(), Known { first, said });
        self.order.push_back(id);
        if self.max < self.order.len()
            && let Some(oldest) = self.order.pop_front()
        {
            self.by_id.remove(&oldest);
        }
    }
}

/// The outcome, which a peer that does not know it says with its success.
fn outcome(response: &CommandResponse) -> i32 {
    match (response.outcome(), response.success) {
        (CommandOutcome::Unspecified, true) => CommandOutcome::Succeeded.into(),
        (CommandOutcome::Unspecified, false) => CommandOutcome::Failed.into(),
        (known, _) => known.into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn response(id: &str, outcome: CommandOutcome, server_id: &str) -> CommandResponse {
        CommandResponse {
            command_id: id.into(),
            outcome: outcome.into(),
            server_id: server_id.into(),
            timestamp: 7,
            ..CommandResponse::default()
        }
    }

    #[test]
    fn an_answer_that_comes_again_is_a_repeat() {
        let mut answered = Answered::new(2);
        let done = response("1", CommandOutcome::Succeeded, "");
        assert_eq!(answered.judge(&done), Standing::First);
        answered.note(&done);
        assert_eq!(answered.judge(&done), Standing::Repeat);
        let plain = CommandResponse { success: true, outcome: 0, ..done };
        assert_eq!(answered.judge(&plain), Standing::Repeat);
    }

    #[test]
    fn what_the_agent_says_after_a_server_amends_it_once() {
        let mut answered = Answered::new(2);
        answered.note(&response("1", CommandOutcome::Unknown, "s1"));
        let done = response("1", CommandOutcome::Succeeded, "");
        let outcome = CommandOutcome::Unknown.into();
        let first = Amendment { outcome, server_id: "s1".into(), timestamp: 7 };
        assert_eq!(answered.judge(&done), Standing::Amends(first.clone()));
        answered.note(&done);
        assert_eq!(answered.judge(&done), Standing::Repeat);
        let failed = response("1", CommandOutcome::Failed, "");
        assert_eq!(answered.judge(&failed), Standing::Amends(first), "the first one is named");
    }

    #[test]
    fn the_oldest_is_forgotten() {
        let mut answered = Answered::new(2);
        for id in ["1", "2", "3"] {
            answered.note(&response(id, CommandOutcome::Succeeded, ""));
        }
        let again = |id| answered.judge(&response(id, CommandOutcome::Succeeded, ""));
        assert_eq!([again("1"), again("3")], [Standing::First, Standing::Repeat]);
        answered.note(&response("a b", CommandOutcome::Succeeded, ""));
    }
}
