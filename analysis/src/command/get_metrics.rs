//! `picket get-metrics`.

use std::io::Write;
use std::time::Duration;

use agent_core::metric::MetricSet;
use tokio::time::{Instant, sleep_until};

use crate::cli;
use crate::client::{Event, Feed};
use crate::command::intake::Intake;
use crate::command::{Error, Session, away, back, now_ms, page};
use crate::exit::Exit;
use crate::interrupt::Interrupt;
use crate::request::{self, MetricName};
use crate::view::rows::Rows;
use crate::view::{self};

/// Without an end: longer than any terminal stays open.
const FOREVER: Duration = Duration::from_secs(100 * 365 * 86_400);

pub(super) async fn run(
    session: &Session,
    args: &cli::GetMetrics,
    out: &mut dyn Write,
) -> Result<Exit, Error> {
    let now_ms = now_ms();
    let request =
        request::metrics(args, now_ms).map_err(|error| Error::Usage(error.to_string()))?;
    let follow = request.follow;
    let end = match request.until_ms {
        until_ms if until_ms != 0 && follow => {
            // The server ends at the first record after it; without one, the clock does.
            Duration::from_millis(u64::try_from(until_ms.saturating_sub(now_ms)).unwrap_or(0))
        }
        _ => FOREVER,
    };
    let end = Instant::now() + end.min(FOREVER);

    let mut interrupt = Interrupt::install().map_err(Error::Runtime)?;
    let mut feed = tokio::select! {
        feed = Feed::open(&session.source, request, now_ms) => feed?,
        () = interrupt.wait() => return Ok(Exit::Ok),
    };
    let asked = MetricName::union(&args.metrics);
    let mut intake = Intake::new(asked.unwrap_or(MetricSet::ALL));
    let mut rows = Rows::new(out, session.output, asked, session.zone.clone(), page(session));
    let mut left = args.limit.unwrap_or(u64::MAX);
    let mut nothing_found = true;
    while left > 0 {
        let event = tokio::select! {
            event = feed.next() => event?,
            () = interrupt.wait() => break,
            () = sleep_until(end) => break,
        };
        match event {
            Some(Event::Batch(batch)) => {
                let taken = intake.take(batch);
                if let Some(remark) = taken.remark {
                    view::notice(&remark);
                }
                let amount = usize::try_from(left).unwrap_or(usize::MAX);
                let samples = &taken.samples[..taken.samples.len().min(amount)];
                if let Some(remark) = rows.make_room(samples) {
                    view::notice(&remark);
                }
                for sample in samples {
                    rows.write(sample)?;
                    left -= 1;
                    nothing_found = false;
                }
                rows.flush()?;
            }
            Some(Event::Away { reason }) => view::notice(&away(session, &reason)),
            Some(Event::Back(resumption)) => view::notice(back(resumption)),
            None => break,
        }
    }
    if let Some(text) = intake.left_out() {
        view::notice(&text);
    }
    if nothing_found && !follow {
        return Err(Error::NotFound(
            "no records; begin earlier with --since, or leave out --agent".to_owned(),
        ));
    }
    Ok(Exit::Ok)
}
