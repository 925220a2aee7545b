//! What happened to agents.

use proto::{AgentStatus, ConfigReport, Hello, Loss, LossReason, StatusEvent, StatusRecord};
use serde_json::Value;

use crate::view::agents::total;
use crate::view::grid::{Align, Column};
use crate::view::log::Entry;
use crate::view::{alerts, status, time};

impl Entry for StatusRecord {
    const HEADING: &'static str = "EVENT               DETAIL";

    const COLUMNS: &'static [Column] = &[
        ("timestamp", Align::Left),
        ("agent_id", Align::Left),
        ("event", Align::Left),
        ("boot", Align::Left),
        ("server_id", Align::Left),
        ("detail", Align::Left),
    ];

    fn agent_id(&self) -> &str {
        &self.agent_id
    }

    /// By the server's clock.
    fn timestamp_ms(&self) -> i64 {
        self.timestamp_ms
    }

    fn row(&self) -> String {
        format!("{:<18}  {}", event_name(self), detail(self))
    }

    fn cells(&self) -> Vec<String> {
        vec![
            bus::json::iso_8601(self.timestamp_ms),
            self.agent_id.clone(),
            event_name(self),
            self.boot.map_or_else(String::new, bus::json::boot),
            self.server_id.clone(),
            detail(self),
        ]
    }

    fn object(&self) -> Value {
        bus::json::status_record(self)
    }
}

/// The name that `--event` takes; the number of one that this version does not know.
fn event_name(record: &StatusRecord) -> String {
    StatusEvent::try_from(record.event).map_or_else(
        |_| record.event.to_string(),
        |event| {
            let name = event.as_str_name();
            name.strip_prefix("STATUS_EVENT_").unwrap_or(name).to_ascii_lowercase()
        },
    )
}

/// What there is to say beside the name of the event.
fn detail(record: &StatusRecord) -> String {
    let peer = (!record.peer.is_empty()).then(|| format!("from {}", record.peer));
    let hello = record.hello.as_ref().map(hello);
    let status = record.status.as_ref().map(heartbeat);
    let config = record.config.as_ref().map(config);
    let losses = record.losses.iter().map(loss);
    let alerts = record.alerts.iter().map(alerts::describe);
    let command = (!record.command_id.is_empty()).then(|| format!("command {}", record.command_id));
    let words = (!record.detail.is_empty()).then(|| record.detail.clone());
    let parts = peer.into_iter().chain(hello).chain(status).chain(config);
    parts.chain(command).chain(losses).chain(alerts).chain(words).collect::<Vec<_>>().join("; ")
}

fn hello(hello: &Hello) -> String {
    let boot = hello.boot.map_or_else(|| "unknown".to_owned(), bus::json::boot);
    let (version, host) = (&hello.version, &hello.host_name);
    format!("version {version} on {host}, boot {boot}, session {}", hello.session)
}

fn heartbeat(agent: &AgentStatus) -> String {
    let state = status::state_name(agent.state());
    let up = time::fine_span(agent.uptime_ms);
    let books = agent.ledger.as_ref().map_or_else(String::new, |ledger| {
        let lost = total(&ledger.lost);
        format!(", delivered {}, lost {lost}, held {}", ledger.delivered, ledger.held)
    });
    let spool = agent
        .spool
        .as_ref()
        .map_or_else(String::new, |spool| format!(", {}", status::waiting(spool)));
    format!("{state}, up for {up}{books}{spool}")
}

fn config(report: &ConfigReport) -> String {
    format!("revision {}: {}", report.revision, status::report_text(report))
}

/// A loss in a few words.
pub(crate) fn loss(loss: &Loss) -> String {
    let reason = LossReason::try_from(loss.reason)
        .map_or_else(|_| format!("for reason {}", loss.reason), |reason| words(reason).to_owned());
    let (first, last) = (loss.first, loss.last);
    let count = last.saturating_sub(first).saturating_add(1);
    // Sequences were reserved that the process need not have used.
    let bound = if loss.reason() == LossReason::Crash { "at most " } else { "" };
    let arrived = match loss.unacknowledged {
        0 => String::new(),
        count => format!(", of which {count} may have arrived"),
    };
    format!("{bound}{count} {reason}, {first} to {last}{arrived}")
}

/// What became of so many records.
const fn words(reason: LossReason) -> &'static str {
    match reason {
        LossReason::Unspecified => "for an unknown reason",
        LossReason::Overwritten => "overwritten in the full ring",
        LossReason::Shutdown => "given up at a shutdown",
        LossReason::Link => "missing on the link to the gateway",
        LossReason::Crash => "gone with a crash",
        LossReason::SpoolFull => "pushed out of the full spool",
        LossReason::SpoolExpired => "too old for the spool",
        LossReason::SpoolDamaged => "unreadable in the spool",
        LossReason::StoreDamaged => "unreadable in the server's store",
    }
}

#[cfg(test)]
mod tests {
    use proto::{AlertRecord, Boot, ConfigOutcome, Ledger, NamedCount, RunState, SpoolStatus};

    use super::*;

    fn check(record: StatusRecord, event: StatusEvent, expected: &str) {
        let record = StatusRecord { event: event.into(), ..record };
        assert_eq!(record.row(), expected);
    }

    #[test]
    fn each_event_has_its_detail() {
        let connected = StatusRecord {
            peer: "10.0.0.7:4242".into(),
            hello: Some(Hello {
                boot: Some(Boot { counter: 1, nonce: 2 }),
                session: 3,
                version: "0.1.0".into(),
                host_name: "web".into(),
                ..Hello::default()
            }),
            ..StatusRecord::default()
        };
        check(
            connected,
            StatusEvent::Connected,
            "connected           from 10.0.0.7:4242; \
             version 0.1.0 on web, boot 1-0000000000000002, session 3",
        );
        let words = StatusRecord { detail: "it went silent".into(), ..StatusRecord::default() };
        check(words.clone(), StatusEvent::Disconnected, "disconnected        it went silent");
        check(words, StatusEvent::DuplicateId, "duplicate_id        it went silent");
        let status = AgentStatus {
            state: RunState::Running.into(),
            uptime_ms: 90_000,
            ledger: Some(Ledger {
                delivered: 7,
                lost: vec![NamedCount { name: "overwritten".into(), count: 2 }],
                held: 1,
                ..Ledger::default()
            }),
            spool: Some(SpoolStatus { records: 4, ..SpoolStatus::default() }),
            ..AgentStatus::default()
        };
        check(
            StatusRecord { status: Some(status), ..StatusRecord::default() },
            StatusEvent::Heartbeat,
            "heartbeat           running, up for 1m 30s, delivered 7, lost 2, held 1, \
             records 4 and alerts 0 in the spool",
        );
        let report = ConfigReport {
            revision: 5,
            outcome: ConfigOutcome::Rejected.into(),
            reason: "interval: too short".into(),
            overridden: vec![],
            running: 4,
        };
        check(
            StatusRecord { config: Some(report), ..StatusRecord::default() },
            StatusEvent::ConfigRejected,
            "config_rejected     revision 5: rejected: interval: too short",
        );
        let alert = AlertRecord { severity: 2, transition: 1, ..AlertRecord::default() };
        check(
            StatusRecord { alerts: vec![alert, alert], ..StatusRecord::default() },
            StatusEvent::Alert,
            "alert               cpu_percent RAISED at 0.00, limit > 0.00, warning; \
             cpu_percent RAISED at 0.00, limit > 0.00, warning",
        );
        check(StatusRecord::default(), StatusEvent::Connected, "connected           ");
        let later = StatusRecord { event: 99, ..StatusRecord::default() };
        assert_eq!(later.row(), "99                  ");
    }

    #[test]
    fn a_loss_says_how_many_and_which() {
        let check = |reason: i32, unacknowledged, expected: &str| {
            let loss = Loss { first: 3, last: 5, reason, never_sent: 2, unacknowledged };
            assert_eq!(super::loss(&loss), expected);
        };
        check(LossReason::Overwritten.into(), 0, "3 overwritten in the full ring, 3 to 5");
        check(
            LossReason::Shutdown.into(),
            1,
            "3 given up at a shutdown, 3 to 5, of which 1 may have arrived",
        );
        check(LossReason::Crash.into(), 0, "at most 3 gone with a crash, 3 to 5");
        check(LossReason::SpoolFull.into(), 0, "3 pushed out of the full spool, 3 to 5");
        check(99, 0, "3 for reason 99, 3 to 5");
        let all = Loss { last: u64::MAX, ..Loss::default() };
        assert!(loss(&all).starts_with("18446744073709551615 for an unknown reason, 0 to"));
    }

    #[test]
    fn csv_and_json_have_the_event() {
        let record = StatusRecord {
            agent_id: "web-1".into(),
            event: StatusEvent::Disconnected.into(),
            timestamp_ms: 1_700_000_000_000,
            server_id: "s1".into(),
            detail: "gone".into(),
            ..StatusRecord::default()
        };
        let cells = ["2023-11-14T22:13:20.000Z", "web-1", "disconnected", "", "s1", "gone"];
        assert_eq!(record.cells(), cells);
        assert_eq!(record.object(), bus::json::status_record(&record));
    }
}
