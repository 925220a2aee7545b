//! The refreshing view of `monitor`: the latest values of each agent, on a terminal.

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::time::Duration;

use agent_core::metric::{Metric, Values};
use ratatui::crossterm::event::{self, Event, KeyCode, KeyEventKind, KeyModifiers};
use ratatui::layout::{Constraint, Layout};
use ratatui::style::{Color, Modifier, Style};
use ratatui::text::Line;
use ratatui::widgets::{Cell, Row, Table};
use ratatui::{DefaultTerminal, Frame};

use crate::decode::Sample;
use crate::stats::AGENTS_MAX;
use crate::view::{text, time, value};

/// Samples of cpu that the little curve shows.
const CURVE_SAMPLES: usize = 30;

/// Eighths of a character cell.
const CURVE_LEVELS: [char; 8] = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];

const COLUMNS: [(&str, Metric); 6] = [
    ("CPU%", Metric::CpuPercent),
    ("MEM%", Metric::MemoryPercent),
    ("READ MB/s", Metric::DiskRead),
    ("WRITE MB/s", Metric::DiskWrite),
    ("IN MB/s", Metric::NetIn),
    ("OUT MB/s", Metric::NetOut),
];

/// What the view shows.
#[derive(Debug)]
pub(crate) struct Board {
    server: String,
    agents: BTreeMap<String, Latest>,
    remark: Option<String>,
}

#[derive(Debug)]
struct Latest {
    values: Values,
    alerts: Vec<Metric>,
    received_ms: i64,
    // At most CURVE_SAMPLES, the newest last.
    cpu_counts: VecDeque<i64>,
}

impl Board {
    pub(crate) const fn new(server: String) -> Self {
        Self { server, agents: BTreeMap::new(), remark: None }
    }

    /// Takes in a sample. Agents beyond [`AGENTS_MAX`] are left out.
    pub(crate) fn add(&mut self, sample: &Sample, now_ms: i64) {
        if self.agents.len() >= AGENTS_MAX && !self.agents.contains_key(sample.agent_id()) {
            return;
        }
        let latest = self.agents.entry(sample.agent_id().to_owned()).or_insert_with(|| Latest {
            values: *sample.values(),
            alerts: Vec::new(),
            received_ms: now_ms,
            cpu_counts: VecDeque::with_capacity(CURVE_SAMPLES),
        });
        latest.values = *sample.values();
        latest.alerts = sample.marks().map(|mark| mark.metric).collect();
        latest.received_ms = now_ms;
        if let Some(count) = sample.values().get(Metric::CpuPercent) {
            if latest.cpu_counts.len() == CURVE_SAMPLES {
                latest.cpu_counts.pop_front();
            }
            latest.cpu_counts.push_back(count);
        }
    }

    /// Shows a remark until another one, or none, is set.
    pub(crate) fn set_remark(&mut self, remark: Option<String>) {
        self.remark = remark;
    }

    fn draw(&self, frame: &mut Frame<'_>, remaining: Option<Duration>, now_ms: i64) {
        let [head, body, foot] =
            Layout::vertical([Constraint::Length(1), Constraint::Fill(1), Constraint::Length(1)])
                .areas(frame.area());
        let bold = Style::new().add_modifier(Modifier::BOLD);

        let agents = match self.agents.len() {
            1 => "1 agent".to_owned(),
            count => format!("{count} agents"),
        };
        let remaining = remaining.map_or_else(String::new, |remaining| {
            let remaining_ms = i64::try_from(remaining.as_millis()).unwrap_or(i64::MAX);
            format!(" · {} left", time::span(remaining_ms))
        });
        let title = format!("picket · {} · {agents}{remaining}", self.server);
        frame.render_widget(Line::styled(title, bold), head);

        // One line of the body is the header.
        let room = usize::from(body.height).saturating_sub(1);
        let rows =
            self.agents.iter().take(room).map(|(agent_id, latest)| latest.row(agent_id, now_ms));
        let names = COLUMNS.map(|(name, _)| Cell::from(Line::from(name).right_aligned()));
        let header = [Cell::from("AGENT")]
            .into_iter()
            .chain(names)
            .chain([Cell::from("CPU"), Cell::from("SEEN")]);
        let table = Table::new(rows, widths()).header(Row::new(header).style(bold));
        frame.render_widget(table, body);

        let hidden = self.agents.len().saturating_sub(room);
        let foot_text = match (&self.remark, hidden) {
            (Some(remark), _) => text::escape(remark).into_owned(),
            (None, 0) => "q ends".to_owned(),
            (None, hidden) => format!("{hidden} more; choose with --agent · q ends"),
        };
        frame.render_widget(Line::from(foot_text), foot);
    }
}

impl Latest {
    fn row(&self, agent_id: &str, now_ms: i64) -> Row<'static> {
        let values = COLUMNS.map(|(_, metric)| {
            let shown = self.values.get(metric);
            let shown = shown.map_or_else(|| "-".to_owned(), |count| value(metric, count));
            let style = if self.alerts.contains(&metric) {
                Style::new().fg(Color::Red).add_modifier(Modifier::BOLD)
            } else {
                Style::new()
            };
            Cell::from(Line::styled(shown, style).right_aligned())
        });
        let seen = time::span(now_ms.saturating_sub(self.received_ms));
        let cells = [Cell::from(text::escape(agent_id).into_owned())]
            .into_iter()
            .chain(values)
            .chain([Cell::from(self.curve()), Cell::from(seen)]);
        Row::new(cells)
    }

    /// The last samples of cpu, from 0 to 100 %.
    fn curve(&self) -> String {
        self.cpu_counts
            .iter()
            .map(|count| {
                let percent = count / Metric::CpuPercent.counts_per_unit();
                let level = usize::try_from(percent.clamp(0, 99)).unwrap_or(0);
                CURVE_LEVELS[level * CURVE_LEVELS.len() / 100]
            })
            .collect()
    }
}

fn widths() -> [Constraint; 9] {
    [
        Constraint::Fill(1),
        Constraint::Length(6),
        Constraint::Length(6),
        Constraint::Length(10),
        Constraint::Length(10),
        Constraint::Length(9),
        Constraint::Length(9),
        Constraint::Max(30),
        Constraint::Length(8),
    ]
}

/// The terminal, taken over until this is dropped. A panic gives it back too.
#[derive(Debug)]
pub(crate) struct Screen {
    terminal: DefaultTerminal,
}

impl Screen {
    pub(crate) fn open() -> io::Result<Self> {
        let terminal = ratatui::try_init()?;
        Ok(Self { terminal })
    }

    pub(crate) fn draw(
        &mut self,
        board: &Board,
        remaining: Option<Duration>,
        now_ms: i64,
    ) -> io::Result<()> {
        self.terminal.draw(|frame| board.draw(frame, remaining, now_ms)).map(|_| ())
    }

    /// Whether a key that ends the view was pressed since the last call. Does not wait.
    #[expect(clippy::unused_self, reason = "there are keys only while the screen is open")]
    pub(crate) fn end_was_asked(&self) -> io::Result<bool> {
        while event::poll(Duration::ZERO)? {
            if let Event::Key(key) = event::read()?
                && key.kind == KeyEventKind::Press
            {
                let control = key.modifiers.contains(KeyModifiers::CONTROL);
                match key.code {
                    KeyCode::Char('q') | KeyCode::Esc => return Ok(true),
                    KeyCode::Char('c') if control => return Ok(true),
                    _ => {}
                }
            }
        }
        Ok(false)
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        ratatui::restore();
    }
}

#[cfg(test)]
mod tests {
    use agent_core::metric::MetricSet;
    use proto::{Alert, MetricsRecord, Record};
    use ratatui::Terminal;
    use ratatui::backend::TestBackend;

    use super::*;

    const NOW_MS: i64 = 1_700_000_000_000;

    fn sample(agent_id: &str, cpu: i64) -> Sample {
        let record = MetricsRecord {
            agent_id: agent_id.into(),
            record: Some(Record {
                present: 0b1,
                values: vec![cpu],
                alerts: vec![Alert { metric: 0, limit: 1, below: false }],
                ..Record::default()
            }),
            ..MetricsRecord::default()
        };
        Sample::decode(record, MetricSet::ALL).unwrap()
    }

    fn drawn(board: &Board, height: u16) -> Vec<String> {
        let mut terminal = Terminal::new(TestBackend::new(110, height)).unwrap();
        let remaining = Some(Duration::from_secs(12));
        terminal.draw(|frame| board.draw(frame, remaining, NOW_MS + 3_000)).unwrap();
        let buffer = terminal.backend().buffer();
        let lines = buffer.content().chunks(110);
        lines
            .map(|cells| cells.iter().map(|cell| cell.symbol()).collect::<String>())
            .map(|line| line.trim_end().to_owned())
            .collect()
    }

    #[test]
    fn the_latest_values_stand_in_the_table() {
        let mut board = Board::new("localhost:50051".into());
        for cpu in [0, 5_000, 10_000] {
            board.add(&sample("web-1", cpu), NOW_MS);
        }
        let lines = drawn(&board, 5);
        assert_eq!(lines[0], "picket · localhost:50051 · 1 agent · 12s left");
        assert!(lines[1].starts_with("AGENT "), "{lines:?}");
        assert!(lines[2].starts_with("web-1 "), "{lines:?}");
        assert!(lines[2].contains(" 100.00 "), "{lines:?}");
        assert!(lines[2].contains("▁▅█"), "{lines:?}");
        assert!(lines[2].ends_with(" 3s"), "{lines:?}");
        assert_eq!(lines[4], "q ends");
    }

    #[test]
    fn what_does_not_fit_is_told() {
        let mut board = Board::new("s:1".into());
        for agent in 0..10 {
            board.add(&sample(&format!("agent-{agent}"), 1), NOW_MS);
        }
        let lines = drawn(&board, 5);
        assert_eq!(lines[4], "8 more; choose with --agent · q ends");
        board.set_remark(Some("gone\u{1b}".into()));
        assert_eq!(drawn(&board, 5)[4], "gone\\u{1b}");
        assert_eq!(drawn(&board, 1).len(), 1, "a tiny terminal is no panic");
    }

    #[test]
    fn the_curve_keeps_the_newest() {
        let mut board = Board::new("s:1".into());
        for cpu in 0..100 {
            board.add(&sample("a", cpu * 100), NOW_MS);
        }
        let curve = board.agents["a"].curve();
        assert_eq!(curve.chars().count(), CURVE_SAMPLES);
        assert!(curve.ends_with('█'));
    }
}
