//! The server's own figures.

use std::io::{self, Write};

use jiff::tz::TimeZone;
use proto::{ServerStatus, TopicStatus};
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
    if !status.config_store.is_empty() {
        writeln!(out, "config    {}", text::escape(&status.config_store))?;
    }
    for trouble in &status.degraded {
        writeln!(out, "degraded  {}", text::escape(trouble))?;
    }
    if status.insecure {
        writeln!(out, "insecure  reachable from other hosts without TLS")?;
    }
    writeln!(out)?;

    topics(&status.topics).write_table(out)?;

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

/// A row for each topic.
fn topics(extents: &[TopicStatus]) -> Grid {
    let mut grid = Grid::new(&[
        ("topic", Align::Left),
        ("partitions", Align::Right),
        ("records", Align::Right),
        ("bytes", Align::Right),
    ]);
    // The partitions of a topic stand together.
    for partitions in extents.chunk_by(|one, next| one.name == next.name) {
        let kept = |extent: &TopicStatus| extent.next_offset.saturating_sub(extent.first_offset);
        let records: u64 = partitions.iter().map(kept).sum();
        let bytes: u64 = partitions.iter().map(|extent| extent.bytes).sum();
        let name = partitions.first().map_or("", |extent| extent.name.as_str());
        grid.push(vec![
            name.to_owned(),
            partitions.len().to_string(),
            records.to_string(),
            // A broker does not say.
            if bytes == 0 && 0 < records { "-".to_owned() } else { bytes.to_string() },
        ]);
    }
    grid
}

fn object(status: &ServerStatus) -> Value {
    let topics: Vec<Value> = status
        .topics
        .iter()
        .map(|topic| {
            json!({
                "name": topic.name,
                "partition": topic.partition,
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
        "config_store": status.config_store,
        "degraded": status.degraded,
        "insecure": status.insecure,
        "topics": topics,
        "counters": bus::json::named_counts(&status.counters),
    })
}

#[cfg(test)]
mod tests {
    use proto::NamedCount;

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
                first_offset: 2,
                next_offset: 12,
                bytes: 2048,
                partition: 0,
            }],
            counters: vec![NamedCount { name: "rejected.agent_id".into(), count: 1 }],
            bus: "embedded".into(),
            config_store: "etcd".into(),
            degraded: vec!["etcd cannot be reached".into()],
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
config    etcd
degraded  etcd cannot be reached
insecure  reachable from other hosts without TLS

TOPIC            PARTITIONS  RECORDS  BYTES
monitoring-data           1       10   2048

COUNTER            COUNT
rejected.agent_id      1
"
        );
    }

    #[test]
    fn partitions_are_added_up() {
        let extent = |name: &str, partition, next_offset| TopicStatus {
            name: name.into(),
            next_offset,
            partition,
            ..TopicStatus::default()
        };
        let extents =
            [extent("commands", 0, 0), extent("agent-status", 0, 3), extent("agent-status", 1, 4)];
        let mut bytes = Vec::new();
        topics(&extents).write_table(&mut bytes).unwrap();
        let text = String::from_utf8(bytes).unwrap();
        let rows: Vec<Vec<&str>> =
            text.lines().map(|row| row.split_whitespace().collect()).collect();
        assert_eq!(rows[1..], [["commands", "1", "0", "0"], ["agent-status", "2", "7", "-"]]);
    }

    #[test]
    fn json_has_the_counters_by_name() {
        let object = object(&status());
        assert_eq!(object["counters"]["rejected.agent_id"], 1);
        assert_eq!(object["topics"][0]["next_offset"], 12);
    }
}
