//! What became of commands, put together from three topics: `commands`, `command-responses` and `agent-status`.
//!
//! [`History`] has the rules and knows no bus. The first answer on the bus is the end of a command. What comes after it is
//! left out when it says the same, or when a server says it, which did not know better; what the agent says otherwise is an
//! amendment.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use agent_core::id::AgentId;
use prost::Message as _;
use proto::{
    CommandHistory, CommandOutcome, CommandResponse, CommandState, CommandStep,
    ListCommandsRequest, ListCommandsResponse, StatusEvent, StatusRecord,
};

use super::{QueryError, check_count, selection};
use crate::contract::{
    Bus, BusError, Delivery, Entry, Offset, Partition, Selection, Start, Subscription,
};
use crate::record::Payload;
use crate::topic::Topic;

/// Commands in one answer, when the request does not say how many, and at most.
pub const COMMANDS: usize = 100;
/// See [`COMMANDS`].
pub const COMMANDS_MAX: usize = 1000;

/// Encoded size of one answer. The largest command takes about half of it.
pub const COMMANDS_BYTES_MAX: usize = 160 * 1024;

/// Records of each topic that are read for one answer.
const RECORDS_MAX: usize = 200_000;

/// Commands that are held while they are read; the oldest give way.
const HELD_MAX: usize = 10_000;

/// Steps of one command; a delivery beyond it is left out, an end never is.
const STEPS_MAX: usize = 32;

/// The name of a command that has none: that of its place in its topic, so that everybody names it alike.
pub fn id_of_place(partition: Partition, offset: Offset) -> String {
    format!("commands-{partition}-{offset}")
}

/// Which commands are asked for, checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CommandQuery {
    selection: Selection,
    since_ms: i64,
    /// Empty: all.
    command_id: String,
    /// Empty: all. Numbers that this version does not know match nothing.
    states: BTreeSet<i32>,
    limit: usize,
}

impl TryFrom<ListCommandsRequest> for CommandQuery {
    type Error = QueryError;

    fn try_from(request: ListCommandsRequest) -> Result<Self, QueryError> {
        let ListCommandsRequest { agents, since_ms, command_id, states, limit } = request;
        check_count(states.len(), "states", super::EVENTS_MAX)?;
        let limit = match limit {
            0 => COMMANDS,
            limit => usize::try_from(limit).unwrap_or(COMMANDS_MAX).min(COMMANDS_MAX),
        };
        let states = states.into_iter().collect();
        Ok(Self { selection: selection(&agents)?, since_ms, command_id, states, limit })
    }
}

/// Reads what became of the commands that `query` asks for.
///
/// # Errors
///
/// When the bus cannot be read.
pub async fn commands(
    bus: &dyn Bus,
    query: CommandQuery,
) -> Result<ListCommandsResponse, BusError> {
    let CommandQuery { selection, since_ms, command_id, states, limit } = query;
    let mut history = History::new(command_id);
    let start = Start::Time(since_ms);
    for topic in [Topic::Commands, Topic::CommandResponses] {
        let mut topic = bus.subscribe(topic, start.clone(), selection.clone()).await?;
        read(topic.as_mut(), &mut history).await?;
    }
    let agents = history.agents();
    if !agents.is_empty() {
        // Of all that happens to agents only what happened to those.
        let selection = Selection::Keys(agents);
        let mut topic = bus.subscribe(Topic::AgentStatus, start, selection).await?;
        read(topic.as_mut(), &mut history).await?;
    }
    Ok(history.finish(&states, limit))
}

async fn read(topic: &mut dyn Subscription, history: &mut History) -> Result<(), BusError> {
    let mut count = 0;
    loop {
        match topic.next().await? {
            Delivery::CaughtUp => return Ok(()),
            Delivery::Skipped { .. } => {}
            Delivery::Entries(entries) => {
                count += entries.len();
                entries.into_iter().for_each(|entry| history.take(entry));
                if RECORDS_MAX < count {
                    history.is_truncated = true;
                    return Ok(());
                }
            }
        }
    }
}

/// What is known of commands so far. To be given the records of `commands` first, then the answers, then the rest.
#[derive(Debug, Default)]
struct History {
    /// Empty: all.
    command_id: String,
    by_arrival: BTreeMap<u64, CommandHistory>,
    arrivals: HashMap<String, u64>,
    next: u64,
    is_truncated: bool,
}

impl History {
    fn new(command_id: String) -> Self {
        Self { command_id, ..Self::default() }
    }

    fn take(&mut self, entry: Entry) {
        let Entry { partition, offset, stored_ms, key, payload } = entry;
        match payload {
            Payload::Command(mut command) => {
                if command.command_id.is_empty() {
                    command.command_id = id_of_place(partition, offset);
                }
                let Some(known) = self.entry(&command.command_id, &key) else { return };
                // The same once more: the first counts.
                if known.command.is_none() {
                    known.steps.push(CommandStep {
                        state: CommandState::Queued.into(),
                        at_ms: stored_ms,
                        ..CommandStep::default()
                    });
                    known.command = Some(command);
                }
            }
            Payload::Response(response) => {
                if let Some(known) = self.entry(&response.command_id, &key) {
                    end(known, *response, stored_ms);
                }
            }
            Payload::Status(status) => self.take_status(&status, stored_ms),
            Payload::Metrics(_) => {}
        }
    }

    fn take_status(&mut self, status: &StatusRecord, stored_ms: i64) {
        let state = match status.event() {
            StatusEvent::CommandDelivered => CommandState::Delivered,
            StatusEvent::CommandRunning => CommandState::Running,
            _ => return,
        };
        let Some(arrival) = self.arrivals.get(&status.command_id) else { return };
        let Some(known) = self.by_arrival.get_mut(arrival) else { return };
        if known.agent_id == status.agent_id && known.steps.len() < STEPS_MAX {
            known.steps.push(CommandStep {
                state: state.into(),
                at_ms: stored_ms,
                server_id: status.server_id.clone(),
                boot: status.boot,
                ..CommandStep::default()
            });
        }
    }

    /// The command of this name to this agent; none when it is not asked for, or is to another agent.
    fn entry(&mut self, id: &str, agent: &AgentId) -> Option<&mut CommandHistory> {
        if id.is_empty() || (!self.command_id.is_empty() && self.command_id != id) {
            return None;
        }
        let arrival = match self.arrivals.get(id) {
            Some(arrival) => *arrival,
            None => self.insert(id, agent),
        };
        self.by_arrival.get_mut(&arrival).filter(|known| known.agent_id == agent.as_str())
    }

    fn insert(&mut self, id: &str, agent: &AgentId) -> u64 {
        let arrival = self.next;
        self.next += 1;
        self.arrivals.insert(id.to_owned(), arrival);
        let history = CommandHistory {
            command_id: id.to_owned(),
            agent_id: agent.to_string(),
            ..CommandHistory::default()
        };
        self.by_arrival.insert(arrival, history);
        if HELD_MAX < self.by_arrival.len()
            && let Some((_, oldest)) = self.by_arrival.pop_first()
        {
            self.arrivals.remove(&oldest.command_id);
            self.is_truncated = true;
        }
        arrival
    }

    fn agents(&self) -> BTreeSet<AgentId> {
        let known = self.by_arrival.values();
        known.filter_map(|known| known.agent_id.parse().ok()).collect()
    }

    /// The newest `limit` commands that are in one of `states` by the last word on them, as many as fit.
    fn finish(self, states: &BTreeSet<i32>, limit: usize) -> ListCommandsResponse {
        let mut commands: Vec<_> = self.by_arrival.into_values().map(settled).collect();
        commands.retain(|known| states.is_empty() || states.contains(&last_word(known)));
        commands.sort_by_key(|known| known.steps.first().map(|step| step.at_ms));
        let mut room = COMMANDS_BYTES_MAX;
        let mut kept = 0;
        for known in commands.iter().rev().take(limit) {
            let Some(left) = room.checked_sub(known.encoded_len() + ENVELOPE_BYTES) else {
                break;
            };
            room = left;
            kept += 1;
        }
        let truncated = self.is_truncated || kept < commands.len();
        let commands = commands.split_off(commands.len() - kept);
        ListCommandsResponse { commands, truncated }
    }
}

/// What a command takes in the answer beside its own bytes.
const ENVELOPE_BYTES: usize = 8;

/// Takes in an answer.
fn end(known: &mut CommandHistory, response: CommandResponse, stored_ms: i64) {
    let state = state_of(&response);
    let is_first = !known.steps.iter().any(is_end);
    let is_known = known.steps.iter().any(|step| step.state == i32::from(state));
    let is_of_agent = response.server_id.is_empty();
    if is_first || (is_of_agent && !is_known) {
        known.steps.push(CommandStep {
            state: state.into(),
            at_ms: stored_ms,
            server_id: response.server_id,
            boot: response.boot,
            previous_boot: response.previous_boot,
            message: response.message,
            amendment: !is_first,
        });
    }
}

/// What an amendment says, if there is one: who looks for commands of an unknown end does not look for those.
fn last_word(known: &CommandHistory) -> i32 {
    known.steps.last().filter(|step| step.amendment).map_or(known.state, |step| step.state)
}

fn is_end(step: &CommandStep) -> bool {
    match step.state() {
        CommandState::Unspecified
        | CommandState::Queued
        | CommandState::Delivered
        | CommandState::Running => false,
        CommandState::Succeeded
        | CommandState::Failed
        | CommandState::Rejected
        | CommandState::Expired
        | CommandState::Unknown => true,
    }
}

fn state_of(response: &CommandResponse) -> CommandState {
    match response.outcome() {
        CommandOutcome::Unspecified if response.success => CommandState::Succeeded,
        CommandOutcome::Succeeded => CommandState::Succeeded,
        CommandOutcome::Unspecified | CommandOutcome::Failed => CommandState::Failed,
        CommandOutcome::Rejected => CommandState::Rejected,
        CommandOutcome::Expired => CommandState::Expired,
        CommandOutcome::Unknown => CommandState::Unknown,
    }
}

/// With its steps in order, and where it stands.
fn settled(mut known: CommandHistory) -> CommandHistory {
    // The clocks of brokers may differ by a little: nothing comes before it was queued, and an amendment is the last.
    known.steps.sort_by_key(|step| match step.state() {
        CommandState::Queued => (i64::MIN, 0),
        // As they came.
        _ if step.amendment => (i64::MAX, 0),
        _ => (step.at_ms, step.state),
    });
    let first_end = known.steps.iter().find(|step| is_end(step)).map(|step| step.state);
    let furthest = known.steps.iter().map(|step| step.state).max();
    known.state = first_end.or(furthest).unwrap_or_default();
    known
}

#[cfg(test)]
mod tests {
    use proto::{Boot, Command};

    use super::*;

    fn entry(at: i64, payload: Payload) -> Entry {
        Entry {
            partition: Partition(0),
            offset: Offset(u64::try_from(at).unwrap()),
            stored_ms: at,
            key: "a".parse().unwrap(),
            payload,
        }
    }

    fn queued(at: i64, id: &str) -> Entry {
        let command = Command { command_id: id.into(), agent_id: "a".into(), ..Command::default() };
        entry(at, Payload::Command(command))
    }

    fn answered(at: i64, id: &str, outcome: CommandOutcome, server_id: &str) -> Entry {
        let response = CommandResponse {
            command_id: id.into(),
            agent_id: "a".into(),
            outcome: outcome.into(),
            server_id: server_id.into(),
            boot: server_id.is_empty().then_some(Boot { counter: 2, nonce: 7 }),
            ..CommandResponse::default()
        };
        entry(at, Payload::Response(Box::new(response)))
    }

    fn happened(at: i64, id: &str, event: StatusEvent) -> Entry {
        let status = StatusRecord {
            command_id: id.into(),
            agent_id: "a".into(),
            event: event.into(),
            server_id: "s1".into(),
            ..StatusRecord::default()
        };
        entry(at, Payload::Status(Box::new(status)))
    }

    fn list(entries: Vec<Entry>, states: &[CommandState], limit: usize) -> ListCommandsResponse {
        let mut history = History::new(String::new());
        entries.into_iter().for_each(|entry| history.take(entry));
        history.finish(&states.iter().map(|state| i32::from(*state)).collect(), limit)
    }

    /// "ID STATE: STATE at, ..." of each command.
    fn told(response: &ListCommandsResponse) -> Vec<String> {
        let name = |state: CommandState| state.as_str_name().trim_start_matches("COMMAND_STATE_");
        let step = |step: &CommandStep| {
            let amends = if step.amendment { " after all" } else { "" };
            format!("{} {}{amends}", name(step.state()), step.at_ms)
        };
        let told = |known: &CommandHistory| {
            let steps = known.steps.iter().map(step).collect::<Vec<_>>().join(", ");
            format!("{} {}: {steps}", known.command_id, name(known.state()))
        };
        response.commands.iter().map(told).collect()
    }

    #[test]
    fn a_command_goes_through_its_life() {
        use CommandOutcome::Succeeded;
        let listed = list(
            vec![
                queued(1, "c1"),
                queued(2, "c2"),
                queued(3, "c3"),
                answered(9, "c1", Succeeded, ""),
                happened(4, "c1", StatusEvent::CommandDelivered),
                happened(6, "c1", StatusEvent::CommandRunning),
                happened(7, "c1", StatusEvent::CommandDelivered),
                happened(5, "c2", StatusEvent::CommandDelivered),
                happened(8, "c9", StatusEvent::CommandDelivered),
            ],
            &[],
            9,
        );
        let expected = [
            "c1 SUCCEEDED: QUEUED 1, DELIVERED 4, RUNNING 6, DELIVERED 7, SUCCEEDED 9",
            "c2 DELIVERED: QUEUED 2, DELIVERED 5",
            "c3 QUEUED: QUEUED 3",
        ];
        assert_eq!(told(&listed), expected);
        assert!(!listed.truncated);
    }

    #[test]
    fn a_command_has_one_end_and_what_the_agent_says_later_amends_it() {
        use CommandOutcome::{Succeeded, Unknown};
        let listed = list(
            vec![
                queued(1, "c1"),
                queued(2, "c2"),
                answered(3, "c1", Unknown, "s1"),
                answered(4, "c1", Unknown, "s2"),
                answered(5, "c1", Succeeded, ""),
                answered(6, "c1", Succeeded, ""),
                answered(7, "c2", Succeeded, ""),
                answered(8, "c2", Succeeded, ""),
                answered(9, "c2", Unknown, "s2"),
                answered(9, "c3", Succeeded, ""),
            ],
            &[],
            9,
        );
        let expected = [
            "c1 UNKNOWN: QUEUED 1, UNKNOWN 3, SUCCEEDED 5 after all",
            "c2 SUCCEEDED: QUEUED 2, SUCCEEDED 7",
            "c3 SUCCEEDED: SUCCEEDED 9",
        ];
        assert_eq!(told(&listed), expected);
    }

    #[test]
    fn commands_are_found_by_the_last_word_on_them() {
        use CommandOutcome::{Failed, Succeeded, Unknown};
        let found = |state| {
            let entries = vec![
                queued(1, "c1"),
                queued(2, "c2"),
                queued(3, "c3"),
                queued(4, "c4"),
                answered(5, "c1", Unknown, "s1"),
                answered(6, "c2", Unknown, "s1"),
                answered(7, "c2", Succeeded, ""),
                answered(8, "c3", Unknown, "s1"),
                answered(9, "c3", Failed, ""),
                answered(10, "c3", Succeeded, ""),
                answered(11, "c4", Failed, ""),
            ];
            let listed = list(entries, &[state], 9);
            listed.commands.into_iter().map(|known| known.command_id).collect::<Vec<_>>()
        };
        assert_eq!(found(CommandState::Unknown), ["c1"]);
        assert_eq!(found(CommandState::Succeeded), ["c2", "c3"]);
        assert_eq!(found(CommandState::Failed), ["c4"]);
    }

    #[test]
    fn the_newest_that_match_and_fit_are_listed() {
        let entries = || vec![queued(1, "c1"), queued(2, "c2"), queued(3, "c3")];
        let listed = list(entries(), &[], 2);
        assert_eq!(told(&listed), ["c2 QUEUED: QUEUED 2", "c3 QUEUED: QUEUED 3"]);
        assert!(listed.truncated);
        assert!(list(entries(), &[CommandState::Failed], 2).commands.is_empty());
        let large = (1..9).map(|at| {
            let mut large = queued(at, &format!("c{at}"));
            if let Payload::Command(command) = &mut large.payload {
                command.params.insert("k".into(), "v".repeat(60 * 1024));
            }
            large
        });
        let listed = list(large.collect(), &[], 9);
        assert!(listed.truncated);
        assert_eq!(listed.commands.len(), 2);
        assert!(listed.encoded_len() <= COMMANDS_BYTES_MAX);
    }

    #[test]
    fn a_command_without_a_name_has_that_of_its_place() {
        let listed = list(vec![queued(7, "")], &[], 9);
        assert_eq!(told(&listed), ["commands-0-7 QUEUED: QUEUED 7"]);
    }

    #[test]
    fn one_that_is_delivered_again_and_again_has_an_end_still() {
        let mut entries = vec![queued(1, "c1")];
        entries.extend((2..100).map(|at| happened(at, "c1", StatusEvent::CommandDelivered)));
        entries.push(answered(100, "c1", CommandOutcome::Succeeded, ""));
        let listed = list(entries, &[], 9);
        assert_eq!(listed.commands[0].steps.len(), STEPS_MAX + 1);
        assert_eq!(listed.commands[0].state(), CommandState::Succeeded);
    }

    #[test]
    fn bad_requests_are_refused() {
        let query = |request: ListCommandsRequest| CommandQuery::try_from(request);
        let bad = ListCommandsRequest { agents: vec!["../x".into()], ..Default::default() };
        assert!(query(bad).is_err());
        let many = ListCommandsRequest { states: vec![1; 65], ..Default::default() };
        assert!(query(many).is_err());
        let query = query(ListCommandsRequest { limit: u32::MAX, ..Default::default() });
        assert_eq!(query.unwrap().limit, COMMANDS_MAX);
    }
}
