//! What a caller sends as a command, checked.

use agent_core::id::{AgentId, CommandId};
use agent_core::limits::{COMMAND_TTL_DEFAULT, COMMAND_TTL_MAX};
use proto::Command;
use proto::command::CommandType;
use proto::config::Document;

use crate::clock::Now;
use crate::command::pending::Order;
use crate::limits::COMMAND_PARAMS_MAX;
use crate::rejection::{Reason, Rejection};

/// Reads a command. What is left out is filled in: `fresh_id`, the time of `now`, the default time to live.
pub(crate) fn order(
    now: Now,
    command: Command,
    fresh_id: impl FnOnce() -> CommandId,
) -> Result<Order, Rejection> {
    let agent: AgentId = command.agent_id.parse()?;
    let id = match command.command_id.as_str() {
        "" => fresh_id(),
        given => given.parse()?,
    };
    let kind = CommandType::try_from(command.r#type).map_err(|_| {
        let text = format!("command type {} does not exist, 0 to 4 do", command.r#type);
        Rejection::new(Reason::CommandType, text)
    })?;
    check_params(kind, &command)?;
    let ttl_ms = match command.ttl_ms {
        0 => u64::try_from(COMMAND_TTL_DEFAULT.as_millis()).unwrap_or(u64::MAX),
        ms => ms,
    };
    if COMMAND_TTL_MAX.as_millis() < u128::from(ttl_ms) {
        let max = COMMAND_TTL_MAX.as_millis();
        let text = format!("time to live is {ttl_ms} ms, at most {max} are allowed");
        return Err(Rejection::new(Reason::CommandTtl, text));
    }
    let timestamp = match command.timestamp {
        0 => now.unix_seconds(),
        given => given,
    };
    Ok(Order {
        command: Command {
            command_id: id.to_string(),
            agent_id: agent.to_string(),
            r#type: kind.into(),
            timestamp,
            params: command.params,
            ttl_ms,
            force: command.force,
            ..Command::default()
        },
        id,
        agent,
    })
}

fn check_params(kind: CommandType, command: &Command) -> Result<(), Rejection> {
    let params = &command.params;
    let refuse = |text: String| Err(Rejection::new(Reason::CommandParams, text));
    if COMMAND_PARAMS_MAX < params.len() {
        return refuse(format!(
            "command has {} params, at most {COMMAND_PARAMS_MAX} are allowed",
            params.len()
        ));
    }
    match kind {
        CommandType::UpdateConfig => Document::from_params(params)
            .and_then(|document| document.config())
            .map(|_| ())
            .map_err(|error| Rejection::new(Reason::CommandParams, error.to_string())),
        CommandType::Status | CommandType::Stop | CommandType::Start | CommandType::Restart => {
            if params.is_empty() {
                return Ok(());
            }
            refuse(format!("{} takes no params", kind.as_str_name()))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    use agent_core::time::Instant;

    const NOW: Now = Now { monotonic: Instant::from_ms(0), unix_ms: 1_700_000_000_000 };

    fn read(command: Command) -> Result<Order, Reason> {
        let fresh = || "fresh".parse().unwrap();
        order(NOW, command, fresh).map_err(|rejection| rejection.reason)
    }

    fn command(kind: CommandType) -> Command {
        Command { agent_id: "a".into(), r#type: kind.into(), ..Command::default() }
    }

    #[test]
    fn what_is_left_out_is_filled_in() {
        let order = read(command(CommandType::Stop)).unwrap();
        assert_eq!(order.id.as_str(), "fresh");
        assert_eq!(order.command.command_id, "fresh");
        assert_eq!(order.command.timestamp, 1_700_000_000);
        assert_eq!(order.command.ttl_ms, 60_000);
    }

    #[test]
    fn what_is_wrong_is_refused_by_name() {
        let check = |reason: Reason, change: fn(&mut Command)| {
            let mut command = command(CommandType::Status);
            change(&mut command);
            assert_eq!(read(command), Err(reason));
        };
        check(Reason::AgentId, |c| c.agent_id = "_default".into());
        check(Reason::CommandId, |c| c.command_id = "a b".into());
        check(Reason::CommandType, |c| c.r#type = 99);
        check(Reason::CommandType, |c| c.r#type = -1);
        check(Reason::CommandTtl, |c| c.ttl_ms = 86_400_001);
        check(Reason::CommandParams, |c| {
            c.params.insert("interval".into(), "1".into());
        });
    }

    #[test]
    fn params_of_update_config_are_a_valid_document() {
        let with = |key: &str, value: &str| {
            let mut command = command(CommandType::UpdateConfig);
            command.params.insert(key.into(), value.into());
            read(command).map(|_| ())
        };
        assert_eq!(with("interval", "2.5"), Ok(()));
        assert_eq!(with("interval", "-1"), Err(Reason::CommandParams));
        assert_eq!(with("intervall", "1"), Err(Reason::CommandParams));
        assert!(read(command(CommandType::UpdateConfig)).is_ok());
    }
}
