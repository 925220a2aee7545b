//! The JSON form of records of `commands` and `command-responses`.

use std::collections::HashMap;

use proto::command::CommandType;
use proto::{Amendment, Command, CommandOutcome, CommandResponse};
use serde_json::Value;

use super::agent_status::agent_status_from;
use super::part::Part;
use super::{JsonError, Object, agent_status, boot, expected, name, nonempty, nonzero, texts};

/// The form of a record of `commands`.
///
/// Shape: `agent_id`, `type` (`STATUS`, ...), `params`, `timestamp` (Unix seconds), and, where they are set,
/// `command_id`, `ttl_ms` and `force`.
pub fn command(command: &Command) -> Value {
    let mut object = Object::new();
    object.put("agent_id", command.agent_id.as_str());
    object.put("type", name::<CommandType>(command.r#type, CommandType::as_str_name, ""));
    object.put("params", texts(&command.params));
    object.put("timestamp", command.timestamp);
    object.put_some("command_id", nonempty(&command.command_id));
    object.put_some("ttl_ms", nonzero(command.ttl_ms));
    object.put_some("force", command.force.then_some(true));
    object.into_value()
}

/// The form of a record of `command-responses`.
///
/// Shape: `agent_id`, `success`, `outcome`, `message`, `timestamp` (Unix seconds), and, where they are set,
/// `command_id`, `boot`, `previous_boot`, `server_id`, `amends` (`outcome`, `server_id`, `timestamp`) and `status` (see
/// [`agent_status`]).
pub fn command_response(response: &CommandResponse) -> Value {
    let mut object = Object::new();
    object.put("agent_id", response.agent_id.as_str());
    object.put("success", response.success);
    object.put(
        "outcome",
        name::<CommandOutcome>(response.outcome, CommandOutcome::as_str_name, OUTCOME_PREFIX),
    );
    object.put("message", response.message.as_str());
    object.put("timestamp", response.timestamp);
    object.put_some("command_id", nonempty(&response.command_id));
    object.put_some("boot", response.boot.map(boot));
    object.put_some("previous_boot", response.previous_boot.map(boot));
    object.put_some("server_id", nonempty(&response.server_id));
    object.put_some("amends", response.amends.as_ref().map(amendment));
    object.put_some("status", response.status.as_ref().map(agent_status));
    object.into_value()
}

fn amendment(amendment: &Amendment) -> Value {
    let mut object = Object::new();
    object.put(
        "outcome",
        name::<CommandOutcome>(amendment.outcome, CommandOutcome::as_str_name, OUTCOME_PREFIX),
    );
    object.put_some("server_id", nonempty(&amendment.server_id));
    object.put("timestamp", amendment.timestamp);
    object.into_value()
}

const OUTCOME_PREFIX: &str = "COMMAND_OUTCOME_";

/// Reads a record of `commands`, also one that only has the fixed keys. Unknown keys are tolerated.
///
/// Other producers are met half-way: `type` may be in small letters or the number of the type; `params` may be absent
/// or null, and a value in it that is no string stands for its JSON text; `timestamp` may be absent (0: whoever
/// reads it first stamps it) or have a fraction, which is cut off.
///
/// # Errors
///
/// When `agent_id` or `type` is missing, `type` is a name that nobody knows, or a known key has a value of the
/// wrong type or range.
pub fn command_from(value: &Value) -> Result<Command, JsonError> {
    let record = Part::record(value);
    Ok(Command {
        command_id: record.text("command_id")?,
        agent_id: agent_id(value)?,
        r#type: command_type(value)?,
        timestamp: record.seconds("timestamp")?,
        params: params(value)?,
        ttl_ms: record.whole("ttl_ms")?,
        force: record.flag("force")?,
        ..Command::default()
    })
}

/// Reads a record of `command-responses`. Unknown keys are tolerated, and an outcome that this version does not know
/// is unspecified; then `success` tells.
///
/// # Errors
///
/// When `agent_id` is missing, or a known key has a value of the wrong type or range.
pub fn command_response_from(value: &Value) -> Result<CommandResponse, JsonError> {
    let record = Part::record(value);
    let outcome = record.number("outcome", CommandOutcome::from_str_name, OUTCOME_PREFIX)?;
    let success = match &value["success"] {
        Value::Null => outcome == i32::from(CommandOutcome::Succeeded),
        success => success.as_bool().ok_or_else(|| expected("success", "true or false"))?,
    };
    Ok(CommandResponse {
        success,
        message: record.text("message")?,
        agent_id: agent_id(value)?,
        timestamp: record.seconds("timestamp")?,
        command_id: record.text("command_id")?,
        outcome,
        boot: record.boot()?,
        status: record.part("status")?.map(agent_status_from).transpose()?,
        server_id: record.text("server_id")?,
        previous_boot: record.boot_at("previous_boot")?,
        amends: record.part("amends")?.map(amendment_from).transpose()?,
    })
}

fn amendment_from(amendment: Part<'_>) -> Result<Amendment, JsonError> {
    Ok(Amendment {
        outcome: amendment.number("outcome", CommandOutcome::from_str_name, OUTCOME_PREFIX)?,
        server_id: amendment.text("server_id")?,
        timestamp: amendment.seconds("timestamp")?,
    })
}

fn agent_id(value: &Value) -> Result<String, JsonError> {
    let text = value["agent_id"].as_str().ok_or_else(|| expected("agent_id", "a string"))?;
    Ok(text.to_owned())
}

/// Unlike elsewhere, a name that nobody knows is an error: it must not be taken for `STATUS`, which is 0.
fn command_type(value: &Value) -> Result<i32, JsonError> {
    let number = match &value["type"] {
        Value::String(name) => {
            CommandType::from_str_name(&name.to_ascii_uppercase()).map(i32::from)
        }
        number => number.as_i64().and_then(|number| i32::try_from(number).ok()),
    };
    number.ok_or_else(|| expected("type", "the name or the number of a command"))
}

fn params(value: &Value) -> Result<HashMap<String, String>, JsonError> {
    match &value["params"] {
        Value::Null => Ok(HashMap::new()),
        Value::Object(entries) => {
            let text = |value: &Value| match value {
                Value::String(text) => text.clone(),
                other => other.to_string(),
            };
            Ok(entries.iter().map(|(key, value)| (key.clone(), text(value))).collect())
        }
        _ => Err(expected("params", "an object")),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
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
            ..CommandResponse::default()
        };
        let form = command_response(&response);
        assert_eq!(command_response_from(&form), Ok(response));
        assert_eq!(
            form,
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

    #[test]
    fn a_command_of_the_python_system_is_read() {
        let given = json!({
            "agent_id": "web-1", "type": "UPDATE_CONFIG", "params": {"interval": "1"},
            "timestamp": 1_700_000_000, "of_tomorrow": [],
        });
        let expected = Command {
            agent_id: "web-1".into(),
            r#type: CommandType::UpdateConfig.into(),
            timestamp: 1_700_000_000,
            params: HashMap::from([("interval".into(), "1".into())]),
            ..Command::default()
        };
        assert_eq!(command_from(&given), Ok(expected));
    }

    #[test]
    fn other_producers_are_met_half_way() {
        let check = |more: Value, expected: Command| {
            let mut given = json!({"agent_id": "a", "type": "stop"});
            given.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
            let stop = CommandType::Stop.into();
            let expected = Command { agent_id: "a".into(), r#type: stop, ..expected };
            assert_eq!(command_from(&given), Ok(expected), "{given}");
        };
        check(json!({}), Command::default());
        check(json!({"type": 1}), Command::default());
        check(json!({"params": null, "timestamp": null}), Command::default());
        check(json!({"timestamp": 7.9}), Command { timestamp: 7, ..Command::default() });
        check(json!({"timestamp": -7.9}), Command { timestamp: -7, ..Command::default() });
        let params = [("n", "1.5"), ("b", "true"), ("o", r#"{"x":[1]}"#), ("none", "null")];
        let params = params.map(|(key, text)| (key.to_owned(), text.to_owned()));
        check(
            json!({"params": {"n": 1.5, "b": true, "o": {"x": [1]}, "none": null}}),
            Command { params: HashMap::from(params), ..Command::default() },
        );
    }

    #[test]
    fn what_is_no_command_is_refused_with_its_path() {
        let check = |value: Value, message: &str| {
            let error = command_from(&value).unwrap_err();
            assert_eq!(error.to_string(), message, "{value}");
        };
        let of_type = "type must be the name or the number of a command";
        check(json!([]), "agent_id must be a string");
        check(json!({"agent_id": "a"}), of_type);
        check(json!({"agent_id": "a", "type": "SELF_DESTRUCT"}), of_type);
        check(json!({"agent_id": "a", "type": 1_u64 << 40}), of_type);
        check(json!({"agent_id": "a", "type": "STOP", "params": []}), "params must be an object");
        let seconds = "timestamp must be a number of seconds";
        check(json!({"agent_id": "a", "type": "STOP", "timestamp": "noon"}), seconds);
        check(json!({"agent_id": "a", "type": "STOP", "timestamp": 1e300}), seconds);
        check(
            json!({"agent_id": "a", "type": "STOP", "command_id": 7}),
            "command_id must be a string",
        );
    }

    #[test]
    fn an_answer_without_an_outcome_has_its_success() {
        let read = |value: Value| command_response_from(&value).map(|r| (r.success, r.outcome));
        assert_eq!(read(json!({"agent_id": "a", "success": true})), Ok((true, 0)));
        let succeeded = CommandOutcome::Succeeded.into();
        assert_eq!(read(json!({"agent_id": "a", "outcome": "SUCCEEDED"})), Ok((true, succeeded)));
        assert!(read(json!({"agent_id": "a", "success": "yes"})).is_err());
        assert!(read(json!({"agent_id": "a", "status": 1})).is_err());
    }

    proptest! {
        #[test]
        fn every_command_is_read_back(
            given_type: i32,
            timestamp: i64,
            ttl_ms: u64,
            texts: [String; 3],
            params in prop::collection::hash_map(any::<String>(), any::<String>(), 0..4),
        ) {
            let [agent_id, command_id, _] = texts;
            let given = Command {
                command_id, agent_id, r#type: given_type, timestamp, params, ttl_ms,
                force: ttl_ms % 2 == 1, ..Command::default()
            };
            let text = command(&given).to_string();
            prop_assert_eq!(command_from(&text.parse().unwrap()), Ok(given));
        }

        #[test]
        fn every_response_is_read_back(
            success: bool,
            outcome in 0..=9_i32,
            timestamp: i64,
            texts: [String; 3],
            counters: Option<(u64, u64)>,
        ) {
            let [agent_id, command_id, message] = texts;
            let boot = counters.map(|(counter, nonce)| Boot { counter, nonce });
            let status = counters.map(|(uptime_ms, sessions)| AgentStatus {
                state: RunState::Stopped.into(), uptime_ms, sessions, boot,
                ledger: Some(Ledger { produced: uptime_ms, ..Ledger::default() }),
                ..AgentStatus::default()
            });
            let given = CommandResponse {
                success, agent_id, timestamp, command_id, outcome, boot, status,
                previous_boot: boot,
                amends: success.then(|| Amendment { outcome, server_id: message.clone(), timestamp }),
                server_id: message.clone(),
                message,
            };
            let text = command_response(&given).to_string();
            prop_assert_eq!(command_response_from(&text.parse().unwrap()), Ok(given));
        }
    }
}
