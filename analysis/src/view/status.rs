//! The answer to a command, with the agent's status and books where it gave them.

use std::io::{self, Write};
use std::iter;

use proto::{
    AgentStatus, AlertLedger, CommandOutcome, CommandResponse, ConfigOutcome, ConfigReport, Ledger,
    NamedCount, PluginCounters, RunState, SpoolStatus,
};

use crate::cli::Output;
use crate::view::agents::total;
use crate::view::{json, text, time};

pub(crate) fn write(
    response: &CommandResponse,
    output: Output,
    out: &mut dyn Write,
) -> io::Result<()> {
    match output {
        Output::Json => json::write_line(out, &bus::json::command_response(response)),
        Output::Table | Output::Csv => {
            for (name, value) in lines(response) {
                let value = text::escape(&value);
                writeln!(out, "{name:<9} {value}")?;
            }
            Ok(())
        }
    }
}

/// An outcome in words.
pub(crate) const fn outcome_name(outcome: CommandOutcome, success: bool) -> &'static str {
    match outcome {
        CommandOutcome::Unspecified if success => "succeeded",
        CommandOutcome::Succeeded => "succeeded",
        CommandOutcome::Unspecified | CommandOutcome::Failed => "failed",
        CommandOutcome::Rejected => "rejected, nothing changed",
        CommandOutcome::Expired => "expired, certainly not started",
        CommandOutcome::Unknown => "unknown, it may have started",
    }
}

/// What became of a configuration, in words.
pub(crate) fn report_text(report: &ConfigReport) -> String {
    let overridden = if report.overridden.is_empty() {
        String::new()
    } else {
        format!("; decided locally: {}", report.overridden.join(", "))
    };
    match report.outcome() {
        ConfigOutcome::Applied => format!("applied{overridden}"),
        ConfigOutcome::Rejected => format!("rejected: {}", report.reason),
        ConfigOutcome::RolledBack => {
            format!("rolled back to revision {}: {}", report.running, report.reason)
        }
        ConfigOutcome::Unspecified => "without an answer".to_owned(),
    }
}

fn lines(response: &CommandResponse) -> Vec<(&'static str, String)> {
    let outcome = outcome_name(response.outcome(), response.success);
    let mut lines = vec![("agent", response.agent_id.clone()), ("outcome", outcome.to_owned())];
    if !response.message.is_empty() {
        lines.push(("message", response.message.clone()));
    }
    if let Some(boot) = response.boot {
        lines.push(("boot", bus::json::boot(boot)));
    }
    if let Some(status) = &response.status {
        lines.extend(status_lines(status));
    }
    lines
}

/// A state in one word.
pub(crate) const fn state_name(state: RunState) -> &'static str {
    match state {
        RunState::Unspecified => "unknown",
        RunState::Running => "running",
        RunState::Stopped => "stopped",
        RunState::Draining => "draining",
    }
}

fn status_lines(status: &AgentStatus) -> Vec<(&'static str, String)> {
    let state = state_name(status.state());
    let config = match (&status.last_config, status.config_revision) {
        (None, 0) => "none from a server".to_owned(),
        (None, revision) => format!("revision {revision}"),
        (Some(report), revision) => {
            let latest = report_text(report);
            format!("revision {revision}; latest was {}: {latest}", report.revision)
        }
    };
    let mut lines = vec![
        ("state", format!("{state}, up for {}", time::fine_span(status.uptime_ms))),
        (
            "interval",
            format!(
                "{}, {} ticks skipped",
                time::fine_span(status.interval_ms),
                status.samples_late
            ),
        ),
        ("metrics", list(&status.metrics)),
        ("plugins", list(&status.plugins)),
        ("config", config),
        ("sessions", status.sessions.to_string()),
    ];
    if let Some(ledger) = &status.ledger {
        lines.extend(ledger_lines(ledger));
        let names = ["counters"].into_iter().chain(iter::repeat(""));
        lines.extend(names.zip(ledger.plugins.iter().map(counters_text)));
        lines.extend(ledger.alerts.as_ref().map(|alerts| ("alerts", alerts_text(alerts))));
    }
    lines.extend(status.spool.as_ref().map(|spool| ("spool", spool_text(spool))));
    lines
}

/// What waits in the spool, and what is wrong with it.
pub(crate) fn waiting(spool: &SpoolStatus) -> String {
    let problem = match spool.problem.as_str() {
        "" => String::new(),
        problem => format!(", which cannot be written: {problem}"),
    };
    format!("records {} and alerts {} in the spool{problem}", spool.records, spool.alerts)
}

fn spool_text(spool: &SpoolStatus) -> String {
    let SpoolStatus { bytes, bytes_max, written_bytes, oldest_ms, .. } = spool;
    let oldest = match i64::try_from(*oldest_ms) {
        Ok(unix_ms) if 0 < unix_ms => format!(", the oldest of {}", bus::json::iso_8601(unix_ms)),
        Ok(_) | Err(_) => String::new(),
    };
    let waiting = waiting(spool);
    format!("{waiting}{oldest}; {bytes} of {bytes_max} bytes, {written_bytes} written in this boot")
}

/// The two equations of the books.
fn ledger_lines(ledger: &Ledger) -> [(&'static str, String); 2] {
    let (suppressed, lost) = (total(&ledger.suppressed), total(&ledger.lost));
    let sampled = format!(
        "produced {} = suppressed {} + in plugins {} + recorded {}{}",
        ledger.produced,
        itemised(suppressed, &ledger.suppressed),
        ledger.in_plugins,
        ledger.recorded,
        difference(ledger.produced, &[suppressed, ledger.in_plugins, ledger.recorded]),
    );
    let sent = format!(
        "recorded {} = delivered {} + lost {} + held {}{}{}",
        ledger.recorded,
        ledger.delivered,
        itemised(lost, &ledger.lost),
        ledger.held,
        spooled(ledger.spooled),
        difference(ledger.recorded, &[ledger.delivered, lost, ledger.held, ledger.spooled]),
    );
    [("books", sampled), ("", sent)]
}

/// The equation of one plugin. What it holds is what is missing on the right; that cannot be less than nothing.
fn counters_text(counters: &PluginCounters) -> String {
    let PluginCounters { name, received, forwarded, merged, .. } = counters;
    let dropped = total(&counters.dropped);
    let gone = [*forwarded, *merged, dropped];
    let sum = gone.iter().copied().fold(0, u64::saturating_add);
    let dropped = itemised(dropped, &counters.dropped);
    let terms = format!("received {received} = forwarded {forwarded} + merged {merged}");
    match received.checked_sub(sum) {
        Some(held) => format!("{name}: {terms} + dropped {dropped} + held {held}"),
        None => format!("{name}: {terms} + dropped {dropped}{}", difference(*received, &gone)),
    }
}

/// The equation of the alerts, which are counted apart from the records.
fn alerts_text(alerts: &AlertLedger) -> String {
    let lost = total(&alerts.lost);
    format!(
        "recorded {} = delivered {} + lost {} + held {}{}{}",
        alerts.recorded,
        alerts.delivered,
        itemised(lost, &alerts.lost),
        alerts.held,
        spooled(alerts.spooled),
        difference(alerts.recorded, &[alerts.delivered, lost, alerts.held, alerts.spooled]),
    )
}

/// A term of an equation; without anything in a spool it is left out.
fn spooled(count: u64) -> String {
    if count == 0 { String::new() } else { format!(" + spooled {count}") }
}

fn itemised(total: u64, counts: &[NamedCount]) -> String {
    if counts.is_empty() {
        return total.to_string();
    }
    let items: Vec<String> =
        counts.iter().map(|entry| format!("{} {}", entry.name, entry.count)).collect();
    format!("{total} ({})", items.join(", "))
}

/// Says so when the sides of an equation differ, which is a fault of the agent.
fn difference(left: u64, right: &[u64]) -> String {
    let right: i128 = right.iter().copied().map(i128::from).sum();
    match i128::from(left) - right {
        0 => String::new(),
        off => format!("; does not balance, off by {off}"),
    }
}

fn list(names: &[String]) -> String {
    if names.is_empty() { "none".to_owned() } else { names.join(", ") }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn response() -> CommandResponse {
        let named = |name: &str, count| NamedCount { name: name.into(), count };
        CommandResponse {
            success: true,
            message: "running\u{7}".into(),
            agent_id: "web-1".into(),
            outcome: CommandOutcome::Succeeded.into(),
            boot: Some(proto::Boot { counter: 1, nonce: 2 }),
            status: Some(AgentStatus {
                state: RunState::Running.into(),
                uptime_ms: 90_000,
                interval_ms: 500,
                metrics: vec!["cpu".into(), "memory".into()],
                config_revision: 4,
                last_config: Some(ConfigReport {
                    revision: 5,
                    outcome: ConfigOutcome::Rejected.into(),
                    reason: "interval: too short".into(),
                    overridden: vec![],
                    running: 4,
                }),
                ledger: Some(Ledger {
                    produced: 100,
                    suppressed: vec![named("filter", 15), named("deduplication", 5)],
                    in_plugins: 0,
                    recorded: 80,
                    delivered: 77,
                    lost: vec![],
                    held: 2,
                    plugins: vec![
                        PluginCounters {
                            name: "filter".into(),
                            received: 100,
                            forwarded: 85,
                            merged: 0,
                            dropped: vec![named("idle", 10), named("low_cpu", 5)],
                        },
                        PluginCounters {
                            name: "aggregation".into(),
                            received: 85,
                            forwarded: 16,
                            merged: 64,
                            dropped: vec![],
                        },
                        PluginCounters {
                            name: "own.x".into(),
                            received: 1,
                            forwarded: 2,
                            ..PluginCounters::default()
                        },
                    ],
                    alerts: Some(AlertLedger {
                        recorded: 5,
                        delivered: 3,
                        lost: vec![named("overwritten", 1)],
                        held: 1,
                        spooled: 0,
                    }),
                    spooled: 0,
                }),
                ..AgentStatus::default()
            }),
            ..CommandResponse::default()
        }
    }

    #[test]
    fn a_status_is_a_readable_block() {
        let mut bytes = Vec::new();
        write(&response(), Output::Table, &mut bytes).unwrap();
        assert_eq!(
            String::from_utf8(bytes).unwrap(),
            "\
agent     web-1
outcome   succeeded
message   running\\u{7}
boot      1-0000000000000002
state     running, up for 1m 30s
interval  0.5s, 0 ticks skipped
metrics   cpu, memory
plugins   none
config    revision 4; latest was 5: rejected: interval: too short
sessions  0
books     produced 100 = suppressed 20 (filter 15, deduplication 5) + in plugins 0 + recorded 80
          recorded 80 = delivered 77 + lost 0 + held 2; does not balance, off by 1
counters  filter: received 100 = forwarded 85 + merged 0 + dropped 15 (idle 10, low_cpu 5) + held 0
          aggregation: received 85 = forwarded 16 + merged 64 + dropped 0 + held 5
          own.x: received 1 = forwarded 2 + merged 0 + dropped 0; does not balance, off by -1
alerts    recorded 5 = delivered 3 + lost 1 (overwritten 1) + held 1
"
        );
    }

    #[test]
    fn a_spool_is_a_term_of_the_books_and_has_a_line_of_its_own() {
        let mut response = response();
        let status = response.status.as_mut().unwrap();
        let ledger = status.ledger.as_mut().unwrap();
        ledger.spooled = 1;
        ledger.alerts.as_mut().unwrap().spooled = 1;
        status.spool = Some(SpoolStatus {
            bytes: 4096,
            bytes_max: 65_536,
            records: 7,
            alerts: 1,
            written_bytes: 9000,
            oldest_ms: 1_700_000_000_000,
            problem: "no space left".into(),
        });
        let mut bytes = Vec::new();
        write(&response, Output::Table, &mut bytes).unwrap();
        let text = String::from_utf8(bytes).unwrap();
        let lines = [
            "          recorded 80 = delivered 77 + lost 0 + held 2 + spooled 1",
            "alerts    recorded 5 = delivered 3 + lost 1 (overwritten 1) + held 1 + spooled 1; \
             does not balance, off by -1",
            "spool     records 7 and alerts 1 in the spool, which cannot be written: no space left, \
             the oldest of 2023-11-14T22:13:20.000Z; 4096 of 65536 bytes, 9000 written in this boot",
        ];
        for line in lines {
            assert!(text.lines().any(|written| written == line), "{line:?} is not in\n{text}");
        }
    }

    #[test]
    fn an_answer_without_an_outcome_is_told_by_its_success() {
        let name = |success| outcome_name(CommandOutcome::Unspecified, success);
        assert_eq!((name(true), name(false)), ("succeeded", "failed"));
    }
}
