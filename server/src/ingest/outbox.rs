//! What waits to be sent down one stream, bounded, with everything merged that can be.

use std::collections::VecDeque;

use agent_core::id::BootId;
use agent_core::time::Instant;
use proto::server_message::Body;
use proto::{Ack, Command, ConfigPush, Credit, Ping, ResponseAck, ServerMessage};

use crate::limits::OUTBOX_ENTRIES_MAX;

/// Messages for one agent. Acknowledgements, credits and configurations are replaced by newer ones, so only commands
/// and acknowledged answers take more room the slower the stream is, and both have a bound.
#[derive(Debug, Default)]
pub(crate) struct Outbox {
    ack: Option<Ack>,
    credit: Option<u64>,
    answered: VecDeque<String>,
    config: Option<ConfigPush>,
    /// With the time after which each must not start any more.
    commands: VecDeque<(Command, Instant)>,
    ping: bool,
}

impl Outbox {
    /// Everything of `boot`, the stream's own, up to `sequence` is durable.
    pub(crate) fn acknowledge(&mut self, boot: BootId, sequence: u64) {
        self.ack_of(boot).sequence = sequence;
    }

    /// As [`Outbox::acknowledge`], of alerts.
    pub(crate) fn acknowledge_alerts(&mut self, boot: BootId, sequence: u64) {
        self.ack_of(boot).alert_sequence = sequence;
    }

    /// Every replayed batch of this stream, which is of `boot`, up to `number` is durable.
    pub(crate) fn acknowledge_replayed(&mut self, boot: BootId, number: u64) {
        self.ack_of(boot).replayed = number;
    }

    fn ack_of(&mut self, boot: BootId) -> &mut Ack {
        self.ack.get_or_insert_with(|| Ack { boot: Some(boot.into()), ..Ack::default() })
    }

    /// So many bytes may be under way from now on.
    pub(crate) fn credit(&mut self, bytes: u64) {
        self.credit = Some(bytes);
    }

    pub(crate) fn acknowledge_answer(&mut self, command_id: String) {
        self.answered.push_back(command_id);
    }

    pub(crate) fn push_config(&mut self, push: ConfigPush) {
        self.config = Some(push);
    }

    /// It is not sent once it is `expires_at`.
    pub(crate) fn push_command(&mut self, command: Command, expires_at: Instant) {
        self.commands.push_back((command, expires_at));
    }

    pub(crate) fn ping(&mut self) {
        self.ping = true;
    }

    /// Whether more commands and answers may be put in.
    pub(crate) fn has_room(&self) -> bool {
        self.commands.len() < OUTBOX_ENTRIES_MAX && self.answered.len() < OUTBOX_ENTRIES_MAX
    }

    /// Commands and answers in it.
    pub(crate) fn entry_count(&self) -> usize {
        self.commands.len() + self.answered.len()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.ack.is_none()
            && self.credit.is_none()
            && self.answered.is_empty()
            && self.config.is_none()
            && self.commands.is_empty()
            && !self.ping
    }

    /// The next message at `now`. A credit goes before the acknowledgement that would let the agent send more. Configurations go before commands: UPDATE_CONFIG relies on it. A command travels with
    /// what is left of its time now that it goes; one with nothing left is dropped, and the router says what became of it.
    pub(crate) fn pop(&mut self, now: Instant) -> Option<Command> {
        if let Some(bytes) = self.credit.take() {
            return Some(wrap(Body::Credit(Credit { bytes })));
        }
        if let Some(ack) = self.ack.take() {
            return Some(wrap(Body::Ack(ack)));
        }
        if let Some(command_id) = self.answered.pop_front() {
            return Some(wrap(Body::ResponseAck(ResponseAck { command_id })));
        }
        if let Some(push) = self.config.take() {
            return Some(wrap(Body::Config(push)));
        }
        while let Some((mut command, expires_at)) = self.commands.pop_front() {
            let left_ms = u64::try_from((expires_at - now).as_millis()).unwrap_or(u64::MAX);
            if left_ms > 0 {
                command.ttl_ms = left_ms;
                return Some(command);
            }
        }
        std::mem::take(&mut self.ping).then(|| wrap(Body::Ping(Ping {})))
    }
}

fn wrap(body: Body) -> Command {
    Command { message: Some(ServerMessage { body: Some(body) }), ..Command::default() }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BOOT: BootId = BootId { counter: 1, nonce: 7 };
    const NOW: Instant = Instant::from_ms(1000);
    const LATER: Instant = Instant::from_ms(9000);

    fn body(command: Option<Command>) -> Option<Body> {
        command?.message?.body
    }

    #[test]
    fn newer_acknowledgements_and_configurations_replace_older_ones() {
        let mut outbox = Outbox::default();
        outbox.acknowledge(BOOT, 1);
        outbox.acknowledge_alerts(BOOT, 5);
        outbox.acknowledge(BOOT, 2);
        for revision in [1, 2] {
            let document = "{}".to_owned();
            outbox.push_config(ConfigPush { revision, document });
        }
        let Some(Body::Ack(ack)) = body(outbox.pop(NOW)) else {
            panic!("an acknowledgement comes first");
        };
        assert_eq!((ack.sequence, ack.alert_sequence), (2, 5));
        let Some(Body::Config(push)) = body(outbox.pop(NOW)) else {
            panic!("then the configuration");
        };
        assert_eq!(push.revision, 2);
        assert!(outbox.is_empty());
        assert!(outbox.pop(NOW).is_none());
    }

    #[test]
    fn commands_keep_their_order_and_follow_the_configuration() {
        let mut outbox = Outbox::default();
        outbox.ping();
        for command_id in ["a", "b"] {
            let command = Command { command_id: command_id.into(), ..Command::default() };
            outbox.push_command(command, LATER);
        }
        outbox.push_config(ConfigPush::default());
        assert!(matches!(body(outbox.pop(NOW)), Some(Body::Config(_))));
        assert_eq!(outbox.pop(NOW).unwrap().command_id, "a");
        assert_eq!(outbox.pop(NOW).unwrap().command_id, "b");
        assert!(matches!(body(outbox.pop(NOW)), Some(Body::Ping(_))));
        assert!(outbox.is_empty());
    }

    #[test]
    fn the_latest_credit_is_told_before_the_acknowledgement() {
        let mut outbox = Outbox::default();
        outbox.acknowledge(BOOT, 1);
        outbox.credit(64);
        outbox.credit(16);
        assert!(matches!(body(outbox.pop(NOW)), Some(Body::Credit(Credit { bytes: 16 }))));
        assert!(matches!(body(outbox.pop(NOW)), Some(Body::Ack(_))));
        assert!(outbox.is_empty());
    }

    #[test]
    fn room_is_bounded() {
        let mut outbox = Outbox::default();
        for _ in 0..OUTBOX_ENTRIES_MAX {
            assert!(outbox.has_room());
            outbox.push_command(Command::default(), LATER);
        }
        assert!(!outbox.has_room());
    }

    #[test]
    fn a_command_travels_with_the_time_that_is_left_and_not_without() {
        let mut outbox = Outbox::default();
        for (command_id, expires_ms) in [("late", 1000), ("just", 1001), ("early", 4000)] {
            let command =
                Command { command_id: command_id.into(), ttl_ms: 60_000, ..Command::default() };
            outbox.push_command(command, Instant::from_ms(expires_ms));
        }
        let mut sent = || outbox.pop(NOW).map(|command| (command.command_id, command.ttl_ms));
        assert_eq!(sent(), Some(("just".to_owned(), 1)));
        assert_eq!(sent(), Some(("early".to_owned(), 3000)));
        assert_eq!(sent(), None);
        assert!(outbox.is_empty());
    }
}
