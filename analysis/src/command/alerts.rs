//! `picket alerts`.

use std::cmp::Reverse;
use std::io::Write;

use proto::{StatusEvent, StatusRecord};

use crate::cli::{self, Severity};
use crate::client::Client;
use crate::command::journal::{self, Ending};
use crate::command::{Error, Session, now_ms, page};
use crate::exit::Exit;
use crate::standing::Standing;
use crate::view::alerts::Change;
use crate::view::log::Log;
use crate::{request, view};

pub(super) async fn run(
    session: &Session,
    args: &cli::Alerts,
    out: &mut dyn Write,
) -> Result<Exit, Error> {
    if args.active { active(session, args, out).await } else { changes(session, args, out).await }
}

/// All that began and ended.
async fn changes(
    session: &Session,
    args: &cli::Alerts,
    out: &mut dyn Write,
) -> Result<Exit, Error> {
    let now_ms = now_ms();
    let request = request::alerts(args, now_ms);
    let mut log = Log::new(out, session.output, session.zone.clone(), page(session));
    let mut nothing_found = true;
    let ending = journal::read(session, request, now_ms, |records| {
        for record in &records {
            if record.event() == StatusEvent::AlertLoss {
                view::notice(&loss(record));
            }
            for alert in &record.alerts {
                if is_wanted(args.severity, alert.severity) {
                    let change = Change { agent_id: &record.agent_id, boot: record.boot, alert };
                    log.write(&change)?;
                    nothing_found = false;
                }
            }
        }
        log.flush()
    })
    .await?;
    if nothing_found && ending == Ending::CaughtUp {
        return Err(Error::NotFound(
            "no alerts; begin earlier with --since, or leave out agents".to_owned(),
        ));
    }
    Ok(Exit::Ok)
}

/// Those that stand now.
async fn active(session: &Session, args: &cli::Alerts, out: &mut dyn Write) -> Result<Exit, Error> {
    let now_ms = now_ms();
    let mut standing = Standing::default();
    let ending = journal::read(session, request::alerts(args, now_ms), now_ms, |records| {
        records.iter().for_each(|record| standing.take(record));
        Ok(())
    })
    .await?;
    if ending == Ending::Interrupted {
        // What was read so far does not tell what stands now.
        return Ok(Exit::Ok);
    }
    let uncertain: Vec<&str> = standing.uncertain().collect();
    if !uncertain.is_empty() {
        let agents = uncertain.join(", ");
        view::notice(&format!("alerts were lost, so that more or fewer may stand: {agents}"));
    }
    let looked = match args.since {
        Some(since) => {
            let since = view::time::local(since.resolve(now_ms), &session.zone);
            format!("looked back to {since}")
        }
        None => "looked at all that the server keeps".to_owned(),
    };
    let mut alerts: Vec<Change<'_>> = standing
        .iter()
        .filter(|(_, _, alert)| is_wanted(args.severity, alert.severity))
        .map(|(agent_id, boot, alert)| Change { agent_id, boot: Some(boot), alert })
        .collect();
    if alerts.is_empty() {
        return Err(Error::NotFound(format!("no alert stands; {looked}")));
    }
    // The worst first, and of these the oldest.
    alerts.sort_by_key(|change| (Reverse(change.alert.severity), change.alert.timestamp_ms));
    view::alerts::write_standing(&alerts, session.output, &session.zone, now_ms, out)?;
    out.flush()?;
    let away = away(session, &alerts).await?;
    if !away.is_empty() {
        view::notice(&format!(
            "away, so that nobody knows what stands there now: {}",
            away.join(", ")
        ));
    }
    view::notice(&looked);
    Ok(Exit::Ok)
}

/// Those of the agents with `alerts` that are not connected.
async fn away(session: &Session, alerts: &[Change<'_>]) -> Result<Vec<String>, Error> {
    let mut names: Vec<String> = alerts.iter().map(|change| change.agent_id.to_owned()).collect();
    names.sort_unstable();
    names.dedup();
    // Who is connected, only a server knows.
    let Ok(server) = session.source.server() else {
        return Ok(Vec::new());
    };
    let client = Client::connect(server).await?;
    let agents = client.agents(names).await?.into_iter();
    Ok(agents.filter(|agent| !agent.connected).map(|agent| agent.agent_id).collect())
}

/// Whether an alert is at least this bad. One whose severity is not known to this version might be.
const fn is_wanted(least: Option<Severity>, severity: i32) -> bool {
    match least {
        Some(least) => severity == 0 || severity >= least.number(),
        None => true,
    }
}

fn loss(record: &StatusRecord) -> String {
    let losses: Vec<String> = record.losses.iter().map(view::events::loss).collect();
    format!("{} lost alerts: {}", record.agent_id, losses.join("; "))
}

#[cfg(test)]
mod tests {
    use proto::AlertSeverity;

    use super::*;

    #[test]
    fn severities_below_the_least_one_are_left_out() {
        let check = |least, severity: i32, expected| {
            assert_eq!(is_wanted(least, severity), expected, "{least:?} {severity}");
        };
        check(None, AlertSeverity::Info.into(), true);
        check(Some(Severity::Info), AlertSeverity::Info.into(), true);
        check(Some(Severity::Warning), AlertSeverity::Info.into(), false);
        check(Some(Severity::Warning), AlertSeverity::Warning.into(), true);
        check(Some(Severity::Warning), AlertSeverity::Critical.into(), true);
        check(Some(Severity::Critical), AlertSeverity::Warning.into(), false);
        check(Some(Severity::Critical), AlertSeverity::Unspecified.into(), true);
        check(Some(Severity::Critical), 9, true);
    }
}
