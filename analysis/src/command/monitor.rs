//! `picket monitor`.

use std::io::{self, Write};
use std::time::Duration;

use agent_core::metric::MetricSet;
use proto::MetricsBatch;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep_until};

use crate::cli::{self, Output};
use crate::client::{Event, Feed};
use crate::command::intake::Intake;
use crate::command::{Error, Session, away, back, now_ms};
use crate::exit::Exit;
use crate::interrupt::Interrupt;
use crate::stats::Summary;
use crate::view::live::{Board, Screen};
use crate::{request, view};

/// Between two looks at the keyboard, each followed by a new picture. Nobody reads faster.
const REFRESH: Duration = Duration::from_millis(200);

pub(super) async fn run(
    session: &Session,
    args: &cli::Monitor,
    out: &mut dyn Write,
) -> Result<Exit, Error> {
    let mut interrupt = Interrupt::install().map_err(Error::Runtime)?;
    let mut feed = tokio::select! {
        feed = Feed::open(&session.source, request::live(&args.agents), now_ms()) => feed?,
        () = interrupt.wait() => return Ok(Exit::Ok),
    };
    let mut watch = Watch::new(session);
    let end = args.duration.and_then(|duration| Instant::now().checked_add(duration));
    let mut refresh = interval(REFRESH);
    refresh.set_missed_tick_behavior(MissedTickBehavior::Skip);
    loop {
        tokio::select! {
            event = feed.next() => match event? {
                Some(event) => watch.handle(session, event),
                None => break,
            },
            () = interrupt.wait() => break,
            () = sleep_until(end.unwrap_or_else(Instant::now)), if end.is_some() => break,
            _ = refresh.tick(), if watch.screen.is_some() => {
                if watch.refresh(end)? == Wish::End {
                    break;
                }
            }
        }
    }
    // The screen goes before the summary comes.
    let (summary, remarks) = watch.end();
    for remark in remarks {
        view::notice(&remark);
    }
    if summary.iter().next().is_none() {
        return Err(Error::NotFound(
            "no metrics came; picket agents shows who is connected".to_owned(),
        ));
    }
    view::summary::write(&summary, session.output, out)?;
    Ok(Exit::Ok)
}

/// What whoever sits at the keyboard wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Wish {
    GoOn,
    End,
}

/// What is seen and shown while watching.
#[derive(Debug)]
struct Watch {
    screen: Option<Screen>,
    board: Board,
    intake: Intake,
    summary: Summary,
    too_many: Option<String>,
    // Gaps told at the end when there is a screen that they would disturb; the first few say enough.
    gaps: Vec<String>,
}

impl Watch {
    const GAPS_MAX: usize = 10;

    fn new(session: &Session) -> Self {
        let screen = (session.terminal && session.output == Output::Table)
            .then(Screen::open)
            .and_then(|opened| match opened {
                Ok(screen) => Some(screen),
                Err(error) => {
                    view::notice(&format!("no live view: {error}"));
                    None
                }
            });
        Self {
            screen,
            board: Board::new(session.source.name()),
            intake: Intake::new(MetricSet::ALL),
            summary: Summary::default(),
            too_many: None,
            gaps: Vec::new(),
        }
    }

    fn handle(&mut self, session: &Session, event: Event<MetricsBatch>) {
        match event {
            Event::Batch(batch) => {
                let taken = self.intake.take(batch);
                if let Some(gap) = taken.remark
                    && self.gaps.len() < Self::GAPS_MAX
                {
                    self.gaps.push(gap);
                }
                let now_ms = now_ms();
                for sample in taken.samples {
                    if let Err(error) = self.summary.add(sample.agent_id(), sample.values()) {
                        self.too_many = Some(error.to_string());
                    }
                    self.board.add(&sample, now_ms);
                }
            }
            Event::Away { reason } => self.remark(away(session, &reason)),
            Event::Back(resumption) => {
                if self.screen.is_some() {
                    self.board.set_remark(None);
                } else {
                    view::notice(back(resumption));
                }
            }
        }
    }

    fn remark(&mut self, text: String) {
        if self.screen.is_some() {
            self.board.set_remark(Some(text));
        } else {
            view::notice(&text);
        }
    }

    fn refresh(&mut self, end: Option<Instant>) -> io::Result<Wish> {
        let Some(screen) = &mut self.screen else {
            return Ok(Wish::GoOn);
        };
        if screen.end_was_asked()? {
            return Ok(Wish::End);
        }
        let remaining = end.map(|end| end.saturating_duration_since(Instant::now()));
        screen.draw(&self.board, remaining, now_ms())?;
        Ok(Wish::GoOn)
    }

    /// Gives the terminal back, and what is to be told.
    fn end(self) -> (Summary, impl Iterator<Item = String>) {
        drop(self.screen);
        let left_out = self.intake.left_out();
        let remarks = self.gaps.into_iter().chain(self.too_many).chain(left_out);
        (self.summary, remarks)
    }
}
