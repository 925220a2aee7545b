//! What an audit has found.

use std::fmt;
use std::io::{self, Write};
use std::ops::RangeInclusive;

use bus::audit::{
    AgentReport, BootReport, BootState, Count, LaneReport, Missing, Pending, Report, Snapshots,
};
use serde_json::{Value, json};

use crate::cli::Output;
use crate::view::grid::{Align, Column, Grid};
use crate::view::{json, text};

/// What a row stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Detail {
    Agents,
    Boots,
}

/// A table and below it what is wrong, in words; or one JSON object or row of CSV for each boot.
pub(crate) fn write(
    report: &Report,
    detail: Detail,
    output: Output,
    out: &mut dyn Write,
) -> io::Result<()> {
    match output {
        Output::Table => {
            table(report, detail).write_table(out)?;
            let findings: Vec<String> = report.agents.iter().flat_map(findings).collect();
            if !findings.is_empty() {
                writeln!(out)?;
            }
            findings.iter().try_for_each(|finding| writeln!(out, "{}", text::escape(finding)))
        }
        Output::Csv => csv(report).write_csv(out),
        Output::Json => {
            let objects = report.agents.iter().flat_map(objects);
            objects.into_iter().try_for_each(|object| json::write_line(out, &object))
        }
    }
}

const COUNTS: [Column; 9] = [
    ("delivered", Align::Right),
    ("replayed", Align::Right),
    ("repeats", Align::Right),
    ("disordered", Align::Right),
    ("lost", Align::Right),
    ("to come", Align::Right),
    ("alerts", Align::Right),
    ("alerts lost", Align::Right),
    ("difference", Align::Right),
];

fn table(report: &Report, detail: Detail) -> Grid {
    let heading: &[Column] = match detail {
        Detail::Agents => &[("agent", Align::Left), ("boots", Align::Right)],
        Detail::Boots => &[("agent", Align::Left), ("boot", Align::Left), ("state", Align::Left)],
    };
    let columns: Vec<Column> = heading.iter().chain(&COUNTS).copied().collect();
    let mut grid = Grid::new(&columns);
    for agent in &report.agents {
        match detail {
            Detail::Agents => {
                let mut sums = Sums { delivered: agent.plain, ..Sums::default() };
                agent.boots.iter().for_each(|boot| sums.add(boot));
                let heading = [agent.agent_id.clone(), agent.boots.len().to_string()];
                grid.push(heading.into_iter().chain(sums.cells()).collect());
            }
            Detail::Boots => {
                for boot in &agent.boots {
                    let mut sums = Sums::default();
                    sums.add(boot);
                    let state = state_name(boot.state).to_owned();
                    let heading = [agent.agent_id.clone(), boot.boot.to_string(), state];
                    grid.push(heading.into_iter().chain(sums.cells()).collect());
                }
                if agent.plain > 0 {
                    let sums = Sums { delivered: agent.plain, ..Sums::default() };
                    let heading = [agent.agent_id.clone(), "-".to_owned(), "plain".to_owned()];
                    grid.push(heading.into_iter().chain(sums.cells()).collect());
                }
            }
        }
    }
    grid
}

/// The counts of a row.
#[derive(Clone, Copy, Debug, Default)]
struct Sums {
    delivered: u64,
    replayed: u64,
    repeats: u64,
    disordered: u64,
    lost: Lost,
    pending: u64,
    alerts: u64,
    alerts_lost: Lost,
    difference: u64,
}

/// How many were lost; an upper bound where a crash is among the reasons.
#[derive(Clone, Copy, Debug, Default)]
struct Lost {
    count: u64,
    is_bound: bool,
}

impl Lost {
    fn add(&mut self, lane: &LaneReport) {
        self.count = self.count.saturating_add(lane.lost_count());
        self.is_bound |= lane.lost.contains_key(CRASH);
    }
}

impl fmt::Display for Lost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let prefix = if self.is_bound { "<=" } else { "" };
        write!(f, "{prefix}{}", self.count)
    }
}

/// The name of the reason whose count is an upper bound.
const CRASH: &str = "crash";

impl Sums {
    fn add(&mut self, boot: &BootReport) {
        let BootReport { records, alerts, .. } = boot;
        self.delivered = self.delivered.saturating_add(records.delivered);
        self.replayed = self.replayed.saturating_add(records.replayed);
        self.repeats = self.repeats.saturating_add(records.repeats);
        self.disordered = self.disordered.saturating_add(records.disordered);
        self.lost.add(records);
        self.pending = self.pending.saturating_add(boot.pending());
        self.alerts = self.alerts.saturating_add(alerts.delivered);
        self.alerts_lost.add(alerts);
        self.difference = self.difference.saturating_add(boot.difference());
    }

    fn cells(self) -> [String; COUNTS.len()] {
        [
            self.delivered.to_string(),
            self.replayed.to_string(),
            self.repeats.to_string(),
            self.disordered.to_string(),
            self.lost.to_string(),
            self.pending.to_string(),
            self.alerts.to_string(),
            self.alerts_lost.to_string(),
            self.difference.to_string(),
        ]
    }
}

/// What an operator must know, each in a line: what is missing, then what limits the finding.
fn findings(agent: &AgentReport) -> Vec<String> {
    let mut findings = Vec::new();
    for boot in &agent.boots {
        let name = format!("{} boot {}", agent.agent_id, boot.boot);
        for (what, lane) in [("records", &boot.records), ("alerts", &boot.alerts)] {
            findings.extend(lane_findings(what, lane).map(|finding| format!("{name}: {finding}")));
        }
        let off = boot.snapshots.as_ref().map_or(0, Snapshots::imbalance);
        if off > 0 {
            findings.push(format!("{name}: its books of snapshots are off by {off}"));
        }
        if boot.state == BootState::Open {
            findings.push(format!("{name}: open, nothing says what its last record was"));
        }
    }
    findings
}

fn lane_findings(what: &str, lane: &LaneReport) -> impl Iterator<Item = String> {
    let Missing { count, acknowledged, ranges } = &lane.missing;
    let missing = (*count > 0).then(|| {
        let gone = match acknowledged {
            0 => String::new(),
            gone => format!(", {gone} of them acknowledged: they were durable and are gone"),
        };
        let among = if bus::audit::intervals::count(ranges.iter().cloned()) > *count {
            ", and the agent has some of these in its spool"
        } else {
            ""
        };
        format!("{count} {what} are missing, {}{gone}{among}", list(ranges))
    });
    let off = lane.word.as_ref().map_or(0, Count::imbalance);
    let books = (off > 0).then(|| format!("its books of {what} are off by {off}"));
    let lost = (!lane.lost.is_empty()).then(|| {
        let reasons: Vec<String> =
            lane.lost.iter().map(|(name, count)| reason(name, *count)).collect();
        format!("{what} declared lost: {}", reasons.join(", "))
    });
    let blurred = (lane.blurred_to > 0)
        .then(|| format!("too many gaps to judge its {what} up to {}", lane.blurred_to));
    let before = (lane.before > 0)
        .then(|| format!("its {what} up to {} are before the history, not judged", lane.before));
    [missing, books, lost, blurred, before].into_iter().flatten()
}

fn reason(name: &str, count: u64) -> String {
    if name == CRASH { format!("{name} at most {count}") } else { format!("{name} {count}") }
}

fn list(ranges: &[RangeInclusive<u64>]) -> String {
    let range = |range: &RangeInclusive<u64>| match (range.start(), range.end()) {
        (first, last) if first == last => first.to_string(),
        (first, last) => format!("{first} to {last}"),
    };
    let listed: Vec<String> = ranges.iter().map(range).collect();
    let more = if listed.len() == bus::audit::RANGES_MAX { " and perhaps more" } else { "" };
    format!("{}{more}", listed.join(", "))
}

/// A state in one word.
const fn state_name(state: BootState) -> &'static str {
    match state {
        BootState::Live => "live",
        BootState::Away => "away",
        BootState::Ended => "ended",
        BootState::Open => "open",
    }
}

fn csv(report: &Report) -> Grid {
    let mut grid = Grid::new(&[
        ("agent_id", Align::Left),
        ("boot", Align::Left),
        ("state", Align::Left),
        ("kind", Align::Left),
        ("last", Align::Right),
        ("before", Align::Right),
        ("delivered", Align::Right),
        ("replayed", Align::Right),
        ("repeats", Align::Right),
        ("disordered", Align::Right),
        ("lost", Align::Right),
        ("held", Align::Right),
        ("spooled", Align::Right),
        ("unjudged", Align::Right),
        ("open", Align::Right),
        ("missing", Align::Right),
        ("off_by", Align::Right),
        ("snapshots_off_by", Align::Right),
        ("difference", Align::Right),
    ]);
    for agent in &report.agents {
        for boot in &agent.boots {
            // Of the boot as a whole, and told once, so that differences can be summed up.
            let mut snapshots_off = boot.snapshots.as_ref().map_or(0, Snapshots::imbalance);
            for (kind, lane) in [("records", &boot.records), ("alerts", &boot.alerts)] {
                let snapshots_off = std::mem::take(&mut snapshots_off);
                let Pending { held, spooled, unjudged, open } = lane.pending;
                let names = [&agent.agent_id, &boot.boot.to_string(), state_name(boot.state), kind]
                    .map(str::to_owned);
                let counts = [
                    lane.last,
                    lane.before,
                    lane.delivered,
                    lane.replayed,
                    lane.repeats,
                    lane.disordered,
                    lane.lost_count(),
                    held,
                    spooled,
                    unjudged,
                    open,
                    lane.missing.count,
                    lane.word.as_ref().map_or(0, Count::imbalance),
                    snapshots_off,
                    lane.difference().saturating_add(snapshots_off),
                ];
                grid.push(names.into_iter().chain(counts.map(|count| count.to_string())).collect());
            }
        }
    }
    grid
}

/// One for each boot, and one more for records without a name.
fn objects(agent: &AgentReport) -> Vec<Value> {
    let plain = (agent.plain > 0).then(
        || json!({"agent_id": agent.agent_id, "plain": agent.plain, "difference": 0, "pending": 0}),
    );
    let boots = agent.boots.iter().map(|boot| {
        let mut object = json!({
            "agent_id": agent.agent_id,
            "boot": boot.boot.to_string(),
            "state": state_name(boot.state),
            "difference": boot.difference(),
            "pending": boot.pending(),
            "records": lane(&boot.records),
            "alerts": lane(&boot.alerts),
        });
        if let Some(books) = &boot.snapshots {
            object["snapshots"] = json!({
                "produced": books.produced,
                "suppressed": books.suppressed,
                "in_plugins": books.in_plugins,
                "recorded": books.recorded,
                "off_by": books.imbalance(),
            });
        }
        object
    });
    boots.chain(plain).collect()
}

fn lane(lane: &LaneReport) -> Value {
    let Pending { held, spooled, unjudged, open } = lane.pending;
    let ranges = lane.missing.ranges.iter().map(|range| json!([range.start(), range.end()]));
    let mut object = json!({
        "last": lane.last,
        "before": lane.before,
        "delivered": lane.delivered,
        "replayed": lane.replayed,
        "repeats": lane.repeats,
        "disordered": lane.disordered,
        "lost": lane.lost,
        "pending": {"held": held, "spooled": spooled, "unjudged": unjudged, "open": open},
        "missing": {
            "count": lane.missing.count,
            "acknowledged": lane.missing.acknowledged,
            "ranges": ranges.collect::<Vec<_>>(),
        },
    });
    if lane.blurred_to > 0 {
        object["blurred_to"] = lane.blurred_to.into();
    }
    if let Some(word) = &lane.word {
        object["word"] = json!({
            "recorded": word.recorded,
            "delivered": word.delivered,
            "lost": word.lost,
            "held": word.held,
            "spooled": word.spooled,
            "off_by": word.imbalance(),
        });
    }
    object
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use agent_core::id::BootId;

    use super::*;

    fn report() -> Report {
        let ended = BootReport {
            boot: BootId { counter: 1, nonce: 2 },
            state: BootState::Open,
            records: LaneReport {
                before: 7,
                last: 4096,
                delivered: 90,
                lost: BTreeMap::from([("crash", 3996), ("overwritten", 3)]),
                ..LaneReport::default()
            },
            alerts: LaneReport::default(),
            snapshots: None,
        };
        let live = BootReport {
            boot: BootId { counter: 2, nonce: 3 },
            state: BootState::Live,
            records: LaneReport {
                last: 30,
                delivered: 20,
                repeats: 1,
                pending: Pending { held: 2, ..Pending::default() },
                missing: Missing { count: 5, acknowledged: 4, ranges: vec![4..=4, 6..=9] },
                word: Some(Count { recorded: 30, delivered: 27, lost: 0, held: 2, spooled: 0 }),
                ..LaneReport::default()
            },
            alerts: LaneReport { delivered: 3, last: 3, ..LaneReport::default() },
            snapshots: Some(Snapshots {
                produced: 40,
                suppressed: BTreeMap::from([("filter".to_owned(), 8)]),
                in_plugins: 0,
                recorded: 30,
            }),
        };
        let web = AgentReport { agent_id: "web-1\u{7}".into(), plain: 0, boots: vec![ended, live] };
        let plain = AgentReport { agent_id: "py".into(), plain: 12, boots: vec![] };
        Report { agents: vec![web, plain], unaudited: 0 }
    }

    fn written(detail: Detail, output: Output) -> String {
        let mut bytes = Vec::new();
        write(&report(), detail, output, &mut bytes).unwrap();
        String::from_utf8(bytes).unwrap()
    }

    const FINDINGS: &str = "
web-1\\u{7} boot 1-0000000000000002: records declared lost: crash at most 3996, overwritten 3
web-1\\u{7} boot 1-0000000000000002: its records up to 7 are before the history, not judged
web-1\\u{7} boot 1-0000000000000002: open, nothing says what its last record was
web-1\\u{7} boot 2-0000000000000003: 5 records are missing, 4, 6 to 9, 4 of them acknowledged: they were durable and are gone
web-1\\u{7} boot 2-0000000000000003: its books of records are off by 1
web-1\\u{7} boot 2-0000000000000003: its books of snapshots are off by 2
";

    #[test]
    fn the_table_has_a_line_for_each_agent_and_the_findings() {
        let table = "\
AGENT       BOOTS  DELIVERED  REPLAYED  REPEATS  DISORDERED    LOST  TO COME  ALERTS  ALERTS LOST  DIFFERENCE
web-1\\u{7}      2        110         0        1           0  <=3999        2       3            0           8
py              0         12         0        0           0       0        0       0            0           0
";
        assert_eq!(written(Detail::Agents, Output::Table), format!("{table}{FINDINGS}"));
    }

    #[test]
    fn or_for_each_boot() {
        let text = written(Detail::Boots, Output::Table);
        assert!(text.contains("2-0000000000000003  live          20"), "{text}");
        assert!(text.contains("py          -                   plain         12"), "{text}");
        assert!(text.ends_with(FINDINGS), "{text}");
    }

    #[test]
    fn json_has_everything_by_name() {
        let text = written(Detail::Agents, Output::Json);
        let values: Vec<Value> =
            text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        assert_eq!(values.len(), 3);
        assert_eq!(values[0]["records"]["lost"]["crash"], 3996);
        assert_eq!(values[1]["records"]["missing"]["ranges"], json!([[4, 4], [6, 9]]));
        assert_eq!(values[1]["records"]["word"]["off_by"], 1);
        assert_eq!(values[1]["snapshots"]["suppressed"]["filter"], 8);
        assert_eq!((&values[1]["difference"], &values[1]["pending"]), (&json!(8), &json!(2)));
        assert_eq!(
            values[2],
            json!({"agent_id": "py", "plain": 12, "difference": 0, "pending": 0})
        );
    }

    #[test]
    fn csv_has_a_line_for_each_boot_and_kind() {
        let text = written(Detail::Agents, Output::Csv);
        assert_eq!(text.lines().count(), 1 + 4, "{text}");
        let line = "web-1\\u{7},2-0000000000000003,live,records,30,0,20,0,1,0,0,2,0,0,0,5,1,2,8";
        assert!(text.lines().any(|written| written == line), "{text}");
        let differences = text.lines().skip(1).map(|line| line.rsplit(',').next().unwrap());
        let sum: u64 = differences.map(|difference| difference.parse::<u64>().unwrap()).sum();
        assert_eq!(sum, report().difference());
    }
}
