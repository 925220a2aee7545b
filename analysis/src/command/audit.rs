//! `picket audit`.

use std::io::Write;
use std::time::Duration;

use agent_core::id::AgentId;
use bus::audit::{Audit, History, Place, Report};
use bus::{Partition, Topic};
use proto::{
    Cursor, SubscribeMetricsRequest, SubscribeStatusRequest, subscribe_metrics_request as metrics,
    subscribe_status_request as status,
};
use tokio::time::{Instant, sleep};

use crate::cli;
use crate::client::{self, Client, Event, Feed, Source, Subscribe, extents};
use crate::command::{Error, Session, now_ms};
use crate::exit::Exit;
use crate::view::audit::Detail;
use crate::{request, view};

/// Between two checks of `--wait`, when a check takes no longer: agents report every 10 s.
const PAUSE: Duration = Duration::from_secs(2);

/// How often the reading begins again because retention has removed what was to be read next.
const READINGS_MAX: usize = 3;

pub(super) async fn run(
    session: &Session,
    args: &cli::Audit,
    out: &mut dyn Write,
) -> Result<Exit, Error> {
    let since_ms = args.since.map(|since| since.resolve(now_ms()));
    let scope = Scope { agents: args.agents.clone(), since_ms };
    let report = match args.wait {
        None => audit(session, &scope).await?,
        Some(patience) => audit_until_settled(session, &scope, patience).await?,
    };
    let missing: Vec<&str> = scope
        .agents
        .iter()
        .map(AgentId::as_str)
        .filter(|wanted| report.agents.iter().all(|agent| agent.agent_id != *wanted))
        .collect();
    if report.agents.is_empty() && missing.is_empty() {
        return Err(Error::NotFound("nothing is stored of any agent".to_owned()));
    }
    let detail = if args.boots { Detail::Boots } else { Detail::Agents };
    view::audit::write(&report, detail, session.output, out)?;
    out.flush()?;
    if report.unaudited > 0 {
        let count = report.unaudited;
        view::notice(&format!(
            "{count} records or alerts are of too many boots to look at; name agents"
        ));
    }
    if !missing.is_empty() && report.difference() == 0 {
        return Err(Error::NotFound(format!("nothing is stored of {}", missing.join(", "))));
    }
    Ok(exit(&report, args.wait))
}

fn exit(report: &Report, wait: Option<Duration>) -> Exit {
    if report.difference() > 0 {
        Exit::Missing
    } else if report.unaudited > 0 {
        Exit::Failed
    } else if wait.is_some() && report.pending() > 0 {
        Exit::TimedOut
    } else {
        Exit::Ok
    }
}

/// What is looked at.
#[derive(Debug)]
struct Scope {
    /// Empty: all.
    agents: Vec<AgentId>,
    /// Unix milliseconds; none: all that is stored.
    since_ms: Option<i64>,
}

/// The latest report once nothing is missing or to come any more, or once the time is over.
async fn audit_until_settled(
    session: &Session,
    scope: &Scope,
    patience: Duration,
) -> Result<Report, Error> {
    let begin = Instant::now();
    loop {
        let outcome = audit(session, scope).await;
        let is_last = patience <= begin.elapsed();
        match outcome {
            Ok(report) if is_last || is_settled(&report, scope) => return Ok(report),
            Err(Error::Client(error)) if !is_last && error.is_transient() => {}
            Ok(_) => {}
            Err(error) => return Err(error),
        }
        sleep(PAUSE.min(patience.saturating_sub(begin.elapsed()))).await;
    }
}

fn is_settled(report: &Report, scope: &Scope) -> bool {
    let there =
        |wanted: &AgentId| report.agents.iter().any(|agent| agent.agent_id == wanted.as_str());
    report.difference() == 0 && report.pending() == 0 && scope.agents.iter().all(there)
}

/// Reads all there is, again when retention was faster.
async fn audit(session: &Session, scope: &Scope) -> Result<Report, Error> {
    for _ in 1..READINGS_MAX {
        if let Read::Whole(audit) = read(session, scope).await? {
            return Ok(audit.report());
        }
    }
    match read(session, scope).await? {
        Read::Whole(audit) => Ok(audit.report()),
        Read::Overtaken => Err(Error::Usage(
            "retention removes records faster than they are read; name agents, or set --since"
                .to_owned(),
        )),
    }
}

/// How a reading ended.
enum Read {
    Whole(Audit),
    /// Retention removed records that were to be read next.
    Overtaken,
}

/// What one topic gave.
enum Pass {
    Whole(Option<Cursor>),
    Overtaken,
}

/// Reads in the order that [`bus::audit`] asks for.
async fn read(session: &Session, scope: &Scope) -> Result<Read, Error> {
    let history = if scope.since_ms.is_some() { History::Recent } else { History::Whole };
    let mut audit = Audit::new(history);
    for extent in extents(&session.source).await?.iter().filter(|extent| extent.is_cut()) {
        audit.handle_cut(extent.topic, extent.partition);
    }
    hear(&session.source, scope, &mut audit).await?;

    let since_ms = scope.since_ms.unwrap_or(0);
    let request = SubscribeStatusRequest {
        agents: request::names(&scope.agents),
        start: Some(status::Start::SinceMs(since_ms)),
        ..SubscribeStatusRequest::default()
    };
    let Pass::Whole(end) =
        statuses(session, request.clone(), |place, record| audit.handle_status(place, record))
            .await?
    else {
        return Ok(Read::Overtaken);
    };
    let Pass::Whole(_) = records(session, scope, since_ms, &mut audit).await? else {
        return Ok(Read::Overtaken);
    };
    // An end that is not told is the beginning: what is given twice is a repeat, and of statuses those are not shown.
    let start = end.map_or(status::Start::SinceMs(since_ms), status::Start::Cursor);
    let later = SubscribeStatusRequest { start: Some(start), ..request };
    match statuses(session, later, |place, record| audit.handle_later_status(place, record)).await?
    {
        Pass::Whole(_) => Ok(Read::Whole(audit)),
        Pass::Overtaken => Ok(Read::Overtaken),
    }
}

/// Takes what agents last said of themselves, beside what they say in `agent-status` once a minute.
async fn hear(source: &Source, scope: &Scope, audit: &mut Audit) -> Result<(), Error> {
    match source {
        Source::Server(server) => {
            let client = Client::connect(server.clone()).await?;
            for agent in client.agents(request::names(&scope.agents)).await? {
                if let Some(status) = &agent.status
                    && let Some(boot) = status.boot.or(agent.boot)
                {
                    audit.handle_word(&agent.agent_id, boot.into(), status);
                }
            }
        }
        #[cfg(feature = "kafka")]
        Source::Kafka(brokers) => {
            let since_ms = scope.since_ms.unwrap_or(0);
            let take = |response: &proto::CommandResponse, status: &proto::AgentStatus| {
                if let Some(boot) = status.boot.or(response.boot) {
                    audit.handle_word(&response.agent_id, boot.into(), status);
                }
            };
            brokers.said(&scope.agents, since_ms, take).await?;
        }
    }
    Ok(())
}

async fn statuses(
    session: &Session,
    request: SubscribeStatusRequest,
    mut take: impl FnMut(Place, &proto::StatusRecord),
) -> Result<Pass, Error> {
    pass(session, request, |batch| {
        for entry in &batch.entries {
            if let Some(record) = &entry.status {
                let partition = Partition(entry.partition);
                take(Place { partition, stored_ms: entry.stored_ms }, record);
            }
        }
        [batch.skipped_first, batch.skipped_last]
    })
    .await
}

async fn records(
    session: &Session,
    scope: &Scope,
    since_ms: i64,
    audit: &mut Audit,
) -> Result<Pass, Error> {
    let request = SubscribeMetricsRequest {
        agents: request::names(&scope.agents),
        start: Some(metrics::Start::SinceMs(since_ms)),
        ..SubscribeMetricsRequest::default()
    };
    pass(session, request, |batch| {
        for entry in &batch.entries {
            if let Some(record) = &entry.metrics {
                let partition = Partition(entry.partition);
                audit.handle_metrics(Place { partition, stored_ms: entry.stored_ms }, record);
            }
        }
        [batch.skipped_first, batch.skipped_last]
    })
    .await
}

/// Reads one topic to its end. `take` says which offsets were skipped; both are 0 when none were.
async fn pass<R: Subscribe>(
    session: &Session,
    request: R,
    mut take: impl FnMut(&R::Batch) -> [u64; 2],
) -> Result<Pass, Error> {
    let mut feed = Feed::open(&session.source, request, now_ms()).await?;
    let mut cursor = None;
    while let Some(event) = feed.next().await? {
        // A request without `follow` is not reconnected.
        let Event::Batch(batch) = event else { continue };
        if let Some(after) = R::cursor(&batch) {
            cursor = Some(after.clone());
        }
        let [first, last] = take(&batch);
        if last > 0 && is_retention(&session.source, R::TOPIC, last).await? {
            return Ok(Pass::Overtaken);
        }
        if last > 0 {
            // What was in them is missing, unless the server declares it lost.
            view::notice(&format!("{}: offsets {first}..{last} cannot be read", R::TOPIC));
        }
    }
    Ok(Pass::Whole(cursor))
}

/// Whether offsets up to `last` are gone because they were old. Else they are damaged.
async fn is_retention(source: &Source, topic: Topic, last: u64) -> Result<bool, client::Error> {
    let extents = extents(source).await?;
    Ok(extents.iter().any(|extent| extent.topic == topic && last < extent.first_offset))
}

#[cfg(test)]
mod tests {
    use bus::audit::{AgentReport, BootReport, BootState, LaneReport, Missing, Pending};

    use super::*;

    fn report(missing: u64, held: u64, unaudited: u64) -> Report {
        let records = LaneReport {
            missing: Missing { count: missing, ..Missing::default() },
            pending: Pending { held, ..Pending::default() },
            ..LaneReport::default()
        };
        let boot = BootReport {
            boot: agent_core::id::BootId { counter: 1, nonce: 1 },
            state: BootState::Live,
            records,
            alerts: LaneReport::default(),
            snapshots: None,
        };
        let agent = AgentReport { agent_id: "a".into(), plain: 0, boots: vec![boot] };
        Report { agents: vec![agent], unaudited }
    }

    #[test]
    fn the_exit_code_says_the_worst() {
        let wait = Some(Duration::from_secs(1));
        assert_eq!(exit(&report(0, 0, 0), wait), Exit::Ok);
        assert_eq!(exit(&report(0, 3, 0), None), Exit::Ok);
        assert_eq!(exit(&report(0, 3, 0), wait), Exit::TimedOut);
        assert_eq!(exit(&report(0, 3, 1), wait), Exit::Failed);
        assert_eq!(exit(&report(1, 3, 1), None), Exit::Missing);
    }

    #[test]
    fn it_waits_for_what_is_held_and_for_who_is_not_there() {
        let scope = |agent: &str| Scope { agents: vec![agent.parse().unwrap()], since_ms: None };
        assert!(is_settled(&report(0, 0, 0), &scope("a")));
        assert!(!is_settled(&report(0, 0, 0), &scope("b")));
        assert!(!is_settled(&report(0, 1, 0), &scope("a")));
        assert!(!is_settled(&report(1, 0, 0), &scope("a")));
    }
}
