//! The list of agents.

use std::io::{self, Write};

use jiff::tz::TimeZone;
use proto::{AgentInfo, NamedCount, RunState, SpoolStatus};
use serde_json::{Map, Value};

use crate::cli::Output;
use crate::view::grid::{Align, Grid};
use crate::view::{json, time};

pub(crate) fn write(
    agents: &[AgentInfo],
    output: Output,
    zone: &TimeZone,
    now_ms: i64,
    out: &mut dyn Write,
) -> io::Result<()> {
    match output {
        Output::Table => table(agents, zone, now_ms).write_table(out),
        Output::Csv => csv(agents).write_csv(out),
        Output::Json => agents.iter().try_for_each(|agent| json::write_line(out, &object(agent))),
    }
}

fn table(agents: &[AgentInfo], zone: &TimeZone, now_ms: i64) -> Grid {
    // With one server it says nothing.
    let shows_server = agents.windows(2).any(|pair| match pair {
        [one, next] => one.server_id != next.server_id,
        _ => false,
    });
    let mut columns = vec![
        ("agent", Align::Left),
        ("state", Align::Left),
        ("connected since", Align::Left),
        ("seen", Align::Left),
        ("version", Align::Left),
        ("boot", Align::Left),
        ("config", Align::Left),
        ("dialect", Align::Left),
        ("delivered", Align::Right),
        ("lost", Align::Right),
        ("held", Align::Right),
    ];
    // Without a spool, and while nothing is wrong, these say nothing.
    let shows_spool = agents.iter().any(|agent| spool(agent).is_some());
    if shows_spool {
        columns.push(("spooled", Align::Right));
    }
    if shows_server {
        columns.push(("server", Align::Left));
    }
    let shows_troubles = agents.iter().any(|agent| !agent.troubles.is_empty());
    if shows_troubles {
        columns.push(("troubles", Align::Left));
    }
    let mut grid = Grid::new(&columns);
    for agent in agents {
        let since = if agent.connected {
            time::local(agent.connected_since_ms, zone)
        } else {
            "-".to_owned()
        };
        let age = time::span(now_ms.saturating_sub(agent.last_seen_ms));
        let [delivered, lost, held] = books(agent).map(|count| dash(count.map(|c| c.to_string())));
        let mut row = vec![
            agent.agent_id.clone(),
            state(agent).to_owned(),
            since,
            format!("{age} ago"),
            dash(nonempty(&agent.version)),
            dash(agent.boot.map(bus::json::boot)),
            config(agent),
            dash(nonempty(&agent.dialect)),
            delivered,
            lost,
            held,
        ];
        if shows_spool {
            row.push(dash(spool(agent).map(|spool| spool.records.to_string())));
        }
        if shows_server {
            row.push(dash(nonempty(&agent.server_id)));
        }
        if shows_troubles {
            row.push(dash(nonempty(&agent.troubles.join("; "))));
        }
        grid.push(row);
    }
    grid
}

fn csv(agents: &[AgentInfo]) -> Grid {
    let mut grid = Grid::new(&[
        ("agent_id", Align::Left),
        ("connected", Align::Left),
        ("connected_since", Align::Left),
        ("last_seen", Align::Left),
        ("version", Align::Left),
        ("boot", Align::Left),
        ("host_name", Align::Left),
        ("config_wanted", Align::Right),
        ("config_applied", Align::Right),
        ("dialect", Align::Left),
        ("delivered", Align::Right),
        ("lost", Align::Right),
        ("held", Align::Right),
        ("server_id", Align::Left),
        ("spooled", Align::Right),
        ("troubles", Align::Left),
    ]);
    for agent in agents {
        let time = |unix_ms| match unix_ms {
            0 => String::new(),
            unix_ms => bus::json::iso_8601(unix_ms),
        };
        let [delivered, lost, held] =
            books(agent).map(|count| count.map_or_else(String::new, |count| count.to_string()));
        grid.push(vec![
            agent.agent_id.clone(),
            agent.connected.to_string(),
            time(agent.connected_since_ms),
            time(agent.last_seen_ms),
            agent.version.clone(),
            agent.boot.map_or_else(String::new, bus::json::boot),
            agent.host_name.clone(),
            agent.config_wanted.to_string(),
            agent.config_applied.to_string(),
            agent.dialect.clone(),
            delivered,
            lost,
            held,
            agent.server_id.clone(),
            spool(agent).map_or_else(String::new, |spool| spool.records.to_string()),
            agent.troubles.join("; "),
        ]);
    }
    grid
}

fn object(agent: &AgentInfo) -> Value {
    let mut object = Map::new();
    let mut put = |key: &str, value: Value| {
        if !value.is_null() {
            object.insert(key.to_owned(), value);
        }
    };
    let text = |text: &str| nonempty(text).map_or(Value::Null, Value::from);
    let time = |unix_ms: i64| match unix_ms {
        0 => Value::Null,
        unix_ms => bus::json::iso_8601(unix_ms).into(),
    };
    put("agent_id", agent.agent_id.as_str().into());
    put("connected", agent.connected.into());
    put("connected_since", time(agent.connected_since_ms));
    put("last_seen", time(agent.last_seen_ms));
    put("boot", agent.boot.map(bus::json::boot).into());
    put("version", text(&agent.version));
    put("host_name", text(&agent.host_name));
    put("target", text(&agent.target));
    put("peer", text(&agent.peer));
    put("dialect", text(&agent.dialect));
    put("config_wanted", agent.config_wanted.into());
    put("config_applied", agent.config_applied.into());
    put("config_error", text(&agent.config_error));
    put("server_id", text(&agent.server_id));
    put("troubles", (!agent.troubles.is_empty()).then(|| agent.troubles.clone()).into());
    put("status", agent.status.as_ref().map(bus::json::agent_status).into());
    Value::Object(object)
}

/// The records on its disk, of all its boots.
fn spool(agent: &AgentInfo) -> Option<&SpoolStatus> {
    agent.status.as_ref()?.spool.as_ref()
}

/// One word: away, or what the agent last said of itself, or connected when it has not said anything.
fn state(agent: &AgentInfo) -> &'static str {
    if !agent.connected {
        return "away";
    }
    let state = agent.status.as_ref().map(proto::AgentStatus::state);
    match state.unwrap_or(RunState::Unspecified) {
        RunState::Unspecified => "connected",
        RunState::Running => "running",
        RunState::Stopped => "stopped",
        RunState::Draining => "draining",
    }
}

fn config(agent: &AgentInfo) -> String {
    let (applied, wanted) = (agent.config_applied, agent.config_wanted);
    if !agent.config_error.is_empty() {
        return format!("{applied}; {}", agent.config_error);
    }
    match (applied, wanted) {
        (0, 0) => "-".to_owned(),
        (applied, wanted) if applied == wanted => applied.to_string(),
        (applied, wanted) => format!("{applied}, wanted {wanted}"),
    }
}

/// Delivered, lost, held.
fn books(agent: &AgentInfo) -> [Option<u64>; 3] {
    let ledger = agent.status.as_ref().and_then(|status| status.ledger.as_ref());
    ledger.map_or([None; 3], |ledger| {
        [Some(ledger.delivered), Some(total(&ledger.lost)), Some(ledger.held)]
    })
}

/// The sum of counts by name.
pub(crate) fn total(counts: &[NamedCount]) -> u64 {
    counts.iter().fold(0, |sum, entry| sum.saturating_add(entry.count))
}

fn nonempty(text: &str) -> Option<String> {
    (!text.is_empty()).then(|| text.to_owned())
}

fn dash(text: Option<String>) -> String {
    text.unwrap_or_else(|| "-".to_owned())
}

#[cfg(test)]
mod tests {
    use proto::{AgentStatus, Boot, Ledger};

    use super::*;

    const NOW_MS: i64 = 1_700_000_000_000;

    fn agents() -> [AgentInfo; 2] {
        let full = AgentInfo {
            agent_id: "web-1".into(),
            connected: true,
            connected_since_ms: NOW_MS - 60_000,
            last_seen_ms: NOW_MS - 2_000,
            boot: Some(Boot { counter: 1, nonce: 2 }),
            version: "0.1.0".into(),
            host_name: "web\u{1b}".into(),
            config_wanted: 5,
            config_applied: 4,
            config_error: "revision 5 was rejected: interval: too short".into(),
            status: Some(AgentStatus {
                state: RunState::Stopped.into(),
                ledger: Some(Ledger {
                    delivered: 90,
                    lost: vec![NamedCount { name: "overwritten".into(), count: 3 }],
                    held: 7,
                    ..Ledger::default()
                }),
                ..AgentStatus::default()
            }),
            dialect: "full".into(),
            ..AgentInfo::default()
        };
        let plain = AgentInfo {
            agent_id: "py".into(),
            last_seen_ms: NOW_MS - 3_600_000,
            dialect: "plain".into(),
            ..AgentInfo::default()
        };
        [full, plain]
    }

    fn check(output: Output, expected: &str) {
        let mut bytes = Vec::new();
        write(&agents(), output, &TimeZone::UTC, NOW_MS, &mut bytes).unwrap();
        assert_eq!(String::from_utf8(bytes).unwrap(), expected);
    }

    #[test]
    fn the_table_says_what_is_wrong() {
        check(
            Output::Table,
            "\
AGENT  STATE    CONNECTED SINCE      SEEN    VERSION  BOOT                CONFIG                                           DIALECT  DELIVERED  LOST  HELD
web-1  stopped  2023-11-14 22:12:20  2s ago  0.1.0    1-0000000000000002  4; revision 5 was rejected: interval: too short  full            90     3     7
py     away     -                    1h ago  -        -                   -                                                plain            -     -     -
",
        );
    }

    #[test]
    fn spool_and_troubles_have_columns_where_there_are_any() {
        let [mut full, plain] = agents();
        full.troubles = vec!["another host has its id".into(), "its disk was copied".into()];
        let status = full.status.as_mut().unwrap();
        status.spool = Some(SpoolStatus { records: 12, ..SpoolStatus::default() });
        let mut bytes = Vec::new();
        write(&[full.clone(), plain], Output::Table, &TimeZone::UTC, NOW_MS, &mut bytes).unwrap();
        let text = String::from_utf8(bytes).unwrap();
        let ends =
            ["SPOOLED  TROUBLES", "12  another host has its id; its disk was copied", "-  -"];
        assert_eq!(text.lines().count(), ends.len());
        for (line, end) in text.lines().zip(ends) {
            assert!(line.ends_with(end), "{line:?} does not end with {end:?}");
        }
        assert_eq!(object(&full)["troubles"][1], "its disk was copied");
        assert_eq!(object(&full)["status"]["spool"]["records"], 12);
    }

    #[test]
    fn csv_has_a_cell_for_everything() {
        check(
            Output::Csv,
            "\
agent_id,connected,connected_since,last_seen,version,boot,host_name,config_wanted,config_applied,dialect,delivered,lost,held,server_id,spooled,troubles
web-1,true,2023-11-14T22:12:20.000Z,2023-11-14T22:13:18.000Z,0.1.0,1-0000000000000002,web\\u{1b},5,4,full,90,3,7,,,
py,false,,2023-11-14T21:13:20.000Z,,,,0,0,plain,,,,,,
",
        );
    }

    #[test]
    fn json_leaves_out_what_is_absent() {
        let text = object(&agents()[1]).to_string();
        assert_eq!(
            text,
            concat!(
                r#"{"agent_id":"py","connected":false,"last_seen":"2023-11-14T21:13:20.000Z","#,
                r#""dialect":"plain","config_wanted":0,"config_applied":0}"#
            )
        );
        let full = object(&agents()[0]);
        assert_eq!(full["status"]["ledger"]["lost"]["overwritten"], 3);
    }
}
