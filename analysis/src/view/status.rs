//! The answer to a command, with the agent's status and books where it gave them.

use std::io::{self, Write};

use proto::{
    AgentStatus, CommandOutcome, CommandResponse, ConfigOutcome, ConfigReport, Ledger, NamedCount,
    RunState,
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

fn status_lines(status: &AgentStatus) -> Vec<(&'static str, String)> {
    let state = match status.state() {
        RunState::Unspecified => "unknown",
        RunState::Running => "running",
        RunState::Stopped => "stopped",
        RunState::Draining => "draining",
    };
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
    }
    lines
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
        "recorded {} = delivered {} + lost {} + held {}{}",
        ledger.recorded,
        ledger.delivered,
        itemised(lost, &ledger.lost),
        ledger.held,
        difference(ledger.recorded, &[ledger.delivered, lost, ledger.held]),
    );
    [("books", sampled), ("", sent)]
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
                }),
                ledger: Some(Ledger {
                    produced: 100,
                    suppressed: vec![named("filter", 15), named("deduplication", 5)],
                    in_plugins: 0,
                    recorded: 80,
                    delivered: 77,
                    lost: vec![],
                    held: 2,
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
"
        );
    }

    #[test]
    fn an_answer_without_an_outcome_is_told_by_its_success() {
        let name = |success| outcome_name(CommandOutcome::Unspecified, success);
        assert_eq!((name(true), name(false)), ("succeeded", "failed"));
    }
}
