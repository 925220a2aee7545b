//! The JSON form of records of `commands` and `command-responses`.

use proto::command::CommandType;
use proto::{Command, CommandOutcome, CommandResponse};
use serde_json::Value;

use super::{Object, agent_status, boot, name, nonempty, nonzero, texts};

/// The form of a record of `commands`.
///
/// Shape: `agent_id`, `type` (`STATUS`, ...), `params`, `timestamp` (Unix seconds), and, where they are set,
/// `command_id` and `ttl_ms`.
pub fn command(command: &Command) -> Value {
    let mut object = Object::new();
    object.put("agent_id", command.agent_id.as_str());
    object.put("type", name::<CommandType>(command.r#type, CommandType::as_str_name, ""));
    object.put("params", texts(&command.params));
    object.put("timestamp", command.timestamp);
    object.put_some("command_id", nonempty(&command.command_id));
    object.put_some("ttl_ms", nonzero(command.ttl_ms));
    object.into_value()
}

/// The form of a record of `command-responses`.
///
/// Shape: `agent_id`, `success`, `outcome`, `message`, `timestamp` (Unix seconds), and, where they are set,
/// `command_id`, `boot` and `status` (see [`agent_status`]).
pub fn command_response(response: &CommandResponse) -> Value {
    let mut object = Object::new();
    object.put("agent_id", response.agent_id.as_str());
    object.put("success", response.success);
    object.put(
        "outcome",
        name::<CommandOutcome>(response.outcome, CommandOutcome::as_str_name, "COMMAND_OUTCOME_"),
    );
    object.put("message", response.message.as_str());
    object.put("timestamp", response.timestamp);
    object.put_some("command_id", nonempty(&response.command_id));
    object.put_some("boot", response.boot.map(boot));
    object.put_some("status", response.status.as_ref().map(agent_status));
    object.into_value()
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use proto::{AgentStatus, Boot, Ledger, NamedCount, RunState};
    use serde_json::json;

    use super::*;

    const BOOT: Boot = Boot { counter: 3, nonce: 0x00c0_ffee };

    #[test]
    fn a_command_keeps_the_fixed_keys() {
        let mut given = Command {
            agent_id: "web-1".into(),
            r#type: CommandType::UpdateConfig.into(),
            timestamp: 7,
            params: HashMap::from([("interval".into(), "1".into())]),
            ..Command::default()
        };
        assert_eq!(
            command(&given).to_string(),
            r#"{"agent_id":"web-1","type":"UPDATE_CONFIG","params":{"interval":"1"},"timestamp":7}"#
        );
        given.r#type = 99;
        given.command_id = "c1".into();
        given.ttl_ms = 500;
        assert_eq!(
            command(&given).to_string(),
            r#"{"agent_id":"web-1","type":99,"params":{"interval":"1"},"timestamp":7,"command_id":"c1","ttl_ms":500}"#
        );
    }

    #[test]
    fn a_response_carries_status_and_books() {
        let response = CommandResponse {
            success: true,
            message: "running".into(),
            agent_id: "web-1".into(),
            timestamp: 7,
            command_id: "c1".into(),
            outcome: CommandOutcome::Succeeded.into(),
            boot: Some(BOOT),
            status: Some(AgentStatus {
                state: RunState::Running.into(),
                ledger: Some(Ledger {
                    produced: 9,
                    suppressed: vec![NamedCount { name: "filter".into(), count: 2 }],
                    recorded: 7,
                    delivered: 7,
                    ..Ledger::default()
                }),
                ..AgentStatus::default()
            }),
        };
        assert_eq!(
            command_response(&response),
            json!({
                "agent_id": "web-1", "success": true, "outcome": "SUCCEEDED", "message": "running",
                "timestamp": 7, "command_id": "c1", "boot": "3-0000000000c0ffee",
                "status": {
                    "state": "RUNNING", "uptime_ms": 0, "interval_ms": 0, "metrics": [],
                    "plugins": [], "samples_late": 0, "sessions": 0, "config_revision": 0,
                    "ledger": {
                        "produced": 9, "suppressed": {"filter": 2}, "in_plugins": 0,
                        "recorded": 7, "delivered": 7, "lost": {}, "held": 0,
                    },
                },
            })
        );
    }
}
