//! The server's own figures.

use std::io::{self, Write};

use jiff::tz::TimeZone;
use proto::ServerStatus;
use serde_json::{Value, json};

use crate::cli::Output;
use crate::view::grid::{Align, Grid};
use crate::view::{json, text, time};

pub(crate) fn write(
    status: &ServerStatus,
    output: Output,
    zone: &TimeZone,
    now_ms: i64,
    out: &mut dyn Write,
) -> io::Result<()> {
    match output {
        Output::Json => json::write_line(out, &object(status)),
        Output::Table | Output::Csv => write_text(status, zone, now_ms, out),
    }
}

fn write_text(
    status: &ServerStatus,
    zone: &TimeZone,
    now_ms: i64,
    out: &mut dyn Write,
) -> io::Result<()> {
    let started = time::local(status.started_ms, zone);
    let up = time::span(now_ms.saturating_sub(status.started_ms));
    writeln!(out, "server    {}", text::escape(&status.server_id))?;
    writeln!(out, "version   {}", text::escape(&status.version))?;
    writeln!(out, "started   {started}, up for {up}")?;
    let (connected, known) = (status.agents_connected, status.agents_known);
    writeln!(out, "agents    {connected} connected of {known} known")?;
    writeln!(out, "bus       {}", text::escape(&status.bus))?;
    if status.insecure {
        writeln!(out, "insecure  reachable from other hosts without TLS")?;
    }
    writeln!(out)?;

    let mut topics = Grid::new(&[
        ("topic", Align::Left),
        ("oldest", Align::Right),
        ("next", Align::Right),
        ("bytes", Align::Right),
    ]);
    for topic in &status.topics {
        topics.push(vec![
            topic.name.clone(),
            topic.first_offset.to_string(),
            topic.next_offset.to_string(),
            topic.bytes.to_string(),
        ]);
    }
    topics.write_table(out)?;

    if status.counters.is_empty() {
        return Ok(());
    }
    writeln!(out)?;
    let mut counters = Grid::new(&[("counter", Align::Left), ("count", Align::Right)]);
    for counter in &status.counters {
        counters.push(vec![counter.name.clone(), counter.count.to_string()]);
    }
    counters.write_table(out)
}

fn object(status: &ServerStatus) -> Value {
    let topics: Vec<Value> = status
        .topics
        .iter()
        .map(|topic| {
            json!({
                "name": topic.name,
                "first_offset": topic.first_offset,
                "next_offset": topic.next_offset,
                "bytes": topic.bytes,
            })
        })
        .collect();
    json!({
        "server_id": status.server_id,
        "version": status.version,
        "started": bus::json::iso_8601(status.started_ms),
        "agents_connected": status.agents_connected,
        "agents_known": status.agents_known,
        "bus": status.bus,
        "insecure": status.insecure,
        "topics": topics,
        "counters": bus::json::named_counts(&status.counters),
    })
}

#[cfg(test)]
mod tests {
    use proto::{NamedCount, TopicStatus};

    use super::*;

    fn status() -> ServerStatus {
        ServerStatus {
            server_id: "s1".into(),
            version: "0.1.0".into(),
            started_ms: 1_700_000_000_000,
            agents_connected: 2,
            agents_known: 3,
            topics: vec![TopicStatus {
                name: "monitoring-data".into(),
                first_offset: 0,
                next_offset: 12,
                bytes: 2048,
            }],
            counters: vec![NamedCount { name: "rejected.agent_id".into(), count: 1 }],
            bus: "embedded".into(),
            insecure: true,
        }
    }

    #[test]
    fn the_text_has_topics_and_counters() {
        let mut bytes = Vec::new();
        let now_ms = 1_700_000_060_000;
        write(&status(), Output::Table, &TimeZone::UTC, now_ms, &mut bytes).unwrap();
        assert_eq!(
            String::from_utf8(bytes).unwrap(),
            "\
server    s1
version   0.1.0
started   2023-11-14 22:13:20, up for 1m
agents    2 connected of 3 known
bus       embedded
insecure  reachable from other hosts without TLS

TOPIC            OLDEST  NEXT  BYTES
monitoring-data       0    12   2048

COUNTER            COUNT
rejected.agent_id      1
"
        );
    }

    #[test]
    fn json_has_the_counters_by_name() {
        let object = object(&status());
        assert_eq!(object["counters"]["rejected.agent_id"], 1);
        assert_eq!(object["topics"][0]["next_offset"], 12);
    }
}
