//! What became of commands.

use std::io::{self, Write};

use jiff::tz::TimeZone;
use proto::command::CommandType;
use proto::{CommandHistory, CommandState, CommandStep};
use serde_json::{Map, Value};

use crate::cli::Output;
use crate::view::grid::{Align, Grid};
use crate::view::{json, text, time};

/// A line for each command, in the order in which they were queued.
pub(crate) fn write_list(
    commands: &[CommandHistory],
    output: Output,
    zone: &TimeZone,
    out: &mut dyn Write,
) -> io::Result<()> {
    match output {
        Output::Table => table(commands, zone).write_table(out),
        Output::Csv => csv(commands).write_csv(out),
        Output::Json => write_json(commands, out),
    }
}

/// One command with all its steps.
pub(crate) fn write_one(
    command: &CommandHistory,
    output: Output,
    zone: &TimeZone,
    out: &mut dyn Write,
) -> io::Result<()> {
    if output == Output::Json {
        return write_json(std::slice::from_ref(command), out);
    }
    let mut lines = vec![
        ("command", command.command_id.clone()),
        ("agent", command.agent_id.clone()),
        ("type", kind(command)),
        ("state", standing(command)),
    ];
    if let Some(given) = &command.command {
        let mut params: Vec<_> = given.params.iter().collect();
        params.sort_unstable();
        lines.extend(params.into_iter().map(|(key, value)| ("param", format!("{key}={value}"))));
        lines.push(("ttl", time::fine_span(given.ttl_ms)));
        if given.force {
            lines.push(("forced", "yes".to_owned()));
        }
    }
    for (name, value) in lines {
        writeln!(out, "{name:<9} {}", text::escape(&value))?;
    }
    for step in &command.steps {
        let (at, state) = (time::local(step.at_ms, zone), state_name(step.state()));
        writeln!(out, "{at}  {state:<9}  {}", text::escape(&step_detail(step)))?;
    }
    Ok(())
}

fn write_json(commands: &[CommandHistory], out: &mut dyn Write) -> io::Result<()> {
    commands.iter().try_for_each(|command| json::write_line(out, &object(command)))
}

fn table(commands: &[CommandHistory], zone: &TimeZone) -> Grid {
    let mut grid = Grid::new(&[
        ("queued", Align::Left),
        ("command", Align::Left),
        ("agent", Align::Left),
        ("type", Align::Left),
        ("state", Align::Left),
        ("took", Align::Left),
        ("message", Align::Left),
    ]);
    for command in commands {
        let took = took_ms(command).map(time::fine_span);
        let last_word = amendment(command).or_else(|| end(command));
        grid.push(vec![
            queued_ms(command).map_or_else(dash, |at_ms| time::local(at_ms, zone)),
            command.command_id.clone(),
            command.agent_id.clone(),
            kind(command),
            standing(command),
            took.unwrap_or_else(dash),
            last_word.map_or_else(String::new, |step| step.message.clone()),
        ]);
    }
    grid
}

fn csv(commands: &[CommandHistory]) -> Grid {
    let mut grid = Grid::new(&[
        ("queued", Align::Left),
        ("command_id", Align::Left),
        ("agent_id", Align::Left),
        ("type", Align::Left),
        ("state", Align::Left),
        ("ended", Align::Left),
        ("server_id", Align::Left),
        ("boot", Align::Left),
        ("message", Align::Left),
        ("amended_by", Align::Left),
        ("amended", Align::Left),
        ("amendment", Align::Left),
    ]);
    for command in commands {
        let (end, amendment) = (end(command), amendment(command));
        let of_end = |part: fn(&CommandStep) -> String| end.map_or_else(String::new, part);
        let of_amendment =
            |part: fn(&CommandStep) -> String| amendment.map_or_else(String::new, part);
        grid.push(vec![
            queued_ms(command).map_or_else(String::new, bus::json::iso_8601),
            command.command_id.clone(),
            command.agent_id.clone(),
            kind(command),
            state_word(command.state()).to_owned(),
            of_end(|end| bus::json::iso_8601(end.at_ms)),
            of_end(|end| end.server_id.clone()),
            of_end(|end| end.boot.map_or_else(String::new, bus::json::boot)),
            of_end(|end| end.message.clone()),
            of_amendment(|step| state_word(step.state()).to_owned()),
            of_amendment(|step| bus::json::iso_8601(step.at_ms)),
            of_amendment(|step| step.message.clone()),
        ]);
    }
    grid
}

fn object(command: &CommandHistory) -> Value {
    let mut object = Map::new();
    // What is of the command itself has the form that it has on the bus.
    if let Some(given) = &command.command
        && let Value::Object(given) = bus::json::command(given)
    {
        object = given;
    }
    object.insert("command_id".to_owned(), command.command_id.as_str().into());
    object.insert("agent_id".to_owned(), command.agent_id.as_str().into());
    object.insert("state".to_owned(), state_word(command.state()).into());
    if let Some(amendment) = amendment(command) {
        object.insert("amended_by".to_owned(), state_word(amendment.state()).into());
    }
    object.insert("steps".to_owned(), command.steps.iter().map(step_object).collect());
    Value::Object(object)
}

fn step_object(step: &CommandStep) -> Value {
    let mut object = Map::new();
    let mut put = |key: &str, value: Option<Value>| {
        if let Some(value) = value {
            object.insert(key.to_owned(), value);
        }
    };
    let text = |text: &str| (!text.is_empty()).then(|| Value::from(text));
    put("state", Some(state_word(step.state()).into()));
    put("at", Some(bus::json::iso_8601(step.at_ms).into()));
    put("at_ms", Some(step.at_ms.into()));
    put("server_id", text(&step.server_id));
    put("boot", step.boot.map(|boot| bus::json::boot(boot).into()));
    put("previous_boot", step.previous_boot.map(|boot| bus::json::boot(boot).into()));
    put("message", text(&step.message));
    put("amendment", step.amendment.then_some(Value::Bool(true)));
    Value::Object(object)
}

/// What there is to say of a step beside its name.
fn step_detail(step: &CommandStep) -> String {
    let by = match (step.server_id.as_str(), step.boot) {
        ("", Some(boot)) => Some(format!("by boot {}", bus::json::boot(boot))),
        ("", None) => None,
        (server, _) => Some(format!("by server {server}")),
    };
    let previous = step.previous_boot.map(|boot| format!("after boot {}", bus::json::boot(boot)));
    let amends = step.amendment.then(|| "after all".to_owned());
    let message = (!step.message.is_empty()).then(|| step.message.clone());
    let parts = amends.into_iter().chain(by).chain(previous).chain(message);
    parts.collect::<Vec<_>>().join("; ")
}

fn kind(command: &CommandHistory) -> String {
    let Some(given) = &command.command else {
        return dash();
    };
    let kind = CommandType::try_from(given.r#type);
    kind.map_or_else(|_| given.r#type.to_string(), |kind| kind.as_str_name().to_owned())
}

/// As in JSON, `SUCCEEDED`.
fn state_word(state: CommandState) -> &'static str {
    let name = state.as_str_name();
    name.strip_prefix("COMMAND_STATE_").unwrap_or(name)
}

fn state_name(state: CommandState) -> String {
    state_word(state).to_ascii_lowercase()
}

/// Where it stands, in words: its end, and what amends it.
fn standing(command: &CommandHistory) -> String {
    let state = state_name(command.state());
    match amendment(command) {
        Some(amendment) => format!("{state}, then {}", state_name(amendment.state())),
        None => state,
    }
}

fn queued_ms(command: &CommandHistory) -> Option<i64> {
    let queued = |step: &&CommandStep| step.state() == CommandState::Queued;
    command.steps.iter().find(queued).map(|step| step.at_ms)
}

/// The step that ended it: the first of its state.
fn end(command: &CommandHistory) -> Option<&CommandStep> {
    match command.state() {
        CommandState::Unspecified
        | CommandState::Queued
        | CommandState::Delivered
        | CommandState::Running => None,
        CommandState::Succeeded
        | CommandState::Failed
        | CommandState::Rejected
        | CommandState::Expired
        | CommandState::Unknown => {
            command.steps.iter().find(|step| step.state == command.state && !step.amendment)
        }
    }
}

/// What was said last after its end, and otherwise.
fn amendment(command: &CommandHistory) -> Option<&CommandStep> {
    command.steps.iter().rfind(|step| step.amendment)
}

/// From being queued to its end.
fn took_ms(command: &CommandHistory) -> Option<u64> {
    let took_ms = end(command)?.at_ms.saturating_sub(queued_ms(command)?);
    u64::try_from(took_ms).ok()
}

fn dash() -> String {
    "-".to_owned()
}

#[cfg(test)]
mod tests {
    use proto::{Boot, Command};

    use super::*;

    const NOW_MS: i64 = 1_700_000_000_000;

    fn step(state: CommandState, after_ms: i64) -> CommandStep {
        CommandStep { state: state.into(), at_ms: NOW_MS + after_ms, ..CommandStep::default() }
    }

    fn restarted() -> CommandHistory {
        let boot = |counter| Some(Boot { counter, nonce: 2 });
        CommandHistory {
            command_id: "c1".into(),
            agent_id: "web-1".into(),
            command: Some(Command {
                command_id: "c1".into(),
                agent_id: "web-1".into(),
                r#type: CommandType::Restart.into(),
                ttl_ms: 30_000,
                force: true,
                ..Command::default()
            }),
            state: CommandState::Unknown.into(),
            steps: vec![
                step(CommandState::Queued, 0),
                CommandStep { server_id: "s1".into(), ..step(CommandState::Delivered, 20) },
                CommandStep {
                    server_id: "s1".into(),
                    message: "handed to it".into(),
                    ..step(CommandState::Unknown, 30_000)
                },
                CommandStep {
                    boot: boot(2),
                    previous_boot: boot(1),
                    message: "started anew".into(),
                    amendment: true,
                    ..step(CommandState::Succeeded, 31_000)
                },
            ],
        }
    }

    fn written(write: impl FnOnce(&mut dyn Write) -> io::Result<()>) -> String {
        let mut bytes = Vec::new();
        write(&mut bytes).unwrap();
        String::from_utf8(bytes).unwrap()
    }

    #[test]
    fn the_list_has_a_line_for_each_command() {
        let commands = [
            restarted(),
            CommandHistory { command_id: "c2".into(), agent_id: "a".into(), ..Default::default() },
        ];
        let list = |output| written(|out| write_list(&commands, output, &TimeZone::UTC, out));
        assert_eq!(
            list(Output::Table),
            "\
QUEUED               COMMAND  AGENT  TYPE     STATE                    TOOK  MESSAGE
2023-11-14 22:13:20  c1       web-1  RESTART  unknown, then succeeded  30s   started anew
-                    c2       a      -        unspecified              -
"
        );
        let csv = list(Output::Csv);
        let line = "c1,web-1,RESTART,UNKNOWN,2023-11-14T22:13:50.000Z,s1,,handed to it,\
            SUCCEEDED,2023-11-14T22:13:51.000Z,started anew";
        assert!(csv.contains(line), "{csv}");
        let first: Value = list(Output::Json).lines().next().unwrap().parse().unwrap();
        assert_eq!(
            (&first["state"], &first["amended_by"]),
            (&"UNKNOWN".into(), &"SUCCEEDED".into())
        );
        assert_eq!(first["steps"][3]["previous_boot"], "1-0000000000000002");
        assert_eq!(first["steps"][3]["amendment"], true);
    }

    #[test]
    fn one_command_is_shown_with_its_steps() {
        let shown = written(|out| write_one(&restarted(), Output::Table, &TimeZone::UTC, out));
        assert_eq!(
            shown,
            "\
command   c1
agent     web-1
type      RESTART
state     unknown, then succeeded
ttl       30s
forced    yes
2023-11-14 22:13:20  queued     \n\
2023-11-14 22:13:20  delivered  by server s1
2023-11-14 22:13:50  unknown    by server s1; handed to it
2023-11-14 22:13:51  succeeded  after all; by boot 2-0000000000000002; after boot 1-0000000000000002; started anew
"
        );
    }
}
