//! Threshold alert: raises an alert when a metric goes beyond its limit, and ends it when the metric is back.

use core::time::Duration;

use crate::config::{AlertRule, AlertRules, Settings};
use crate::metric::{Metric, MetricSet};
use crate::plugin::{Plugin, Verdict};
use crate::record::{Alert, Direction, Sample, Snapshot, Transition};
use crate::time::Instant;

/// Follows each metric that has a rule. It drops nothing; it writes the alerts that stand on each sample
/// ([`Sample::marks`]), and sends a record when one begins or ends.
///
/// ```text
///            beyond the limit            for as long as the rule says
///   Quiet ---------------------> Pending ---------------------------> Raised
///     ^                             |                                   |
///     +--- within the limit --------+       back by the hysteresis -----+
/// ```
///
/// With a time of zero an alert is raised at once. Snapshots come a little early or late: the time counts as over when no
/// more than a tenth of the interval is missing. A metric that is absent from a sample leaves its state as it is and
/// is not marked.
#[derive(Clone, Debug)]
pub struct ThresholdAlert {
    rules: AlertRules,
    // How much of a rule's time may be missing.
    jitter: Duration,
    states: [State; Metric::COUNT],
    // Of the sample before: a rule that is removed has no sample of its own.
    last_seen: Option<Moment>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Quiet,
    // Beyond the limit since then.
    Pending { since: Instant },
    // The alert stands since then; the last value of the metric.
    Raised { since: Instant, value: i64 },
}

#[derive(Clone, Copy, Debug)]
struct Moment {
    taken_at: Instant,
    wall_ms: i64,
}

impl From<&Snapshot> for Moment {
    fn from(snapshot: &Snapshot) -> Self {
        Self { taken_at: snapshot.taken_at, wall_ms: snapshot.wall_ms }
    }
}

impl ThresholdAlert {
    /// A plugin with the rules of `settings`, in which no alert stands.
    pub fn new(settings: &Settings) -> Self {
        Self {
            rules: rules_in_force(settings),
            jitter: settings.interval / 10,
            states: [State::Quiet; Metric::COUNT],
            last_seen: None,
        }
    }

    fn step(&mut self, metric: Metric, value: i64, at: Moment) -> Option<Alert> {
        let rule = self.rules.get(metric)?;
        let state = &mut self.states[metric.index()];
        let alert = |transition, lasted| Some(alert(metric, rule, transition, value, at, lasted));
        let (next, event) = match *state {
            State::Raised { since, .. } if rule.is_over(value) => {
                (State::Quiet, alert(Transition::Cleared, at.taken_at - since))
            }
            State::Raised { since, .. } => (State::Raised { since, value }, None),
            State::Quiet | State::Pending { .. } if !rule.is_beyond(value) => (State::Quiet, None),
            State::Quiet | State::Pending { .. } => {
                let since = match *state {
                    State::Pending { since } => since,
                    State::Quiet | State::Raised { .. } => at.taken_at,
                };
                let lasted = at.taken_at - since;
                if lasted.saturating_add(self.jitter) < rule.hold {
                    (State::Pending { since }, None)
                } else {
                    let raised = State::Raised { since: at.taken_at, value };
                    (raised, alert(Transition::Raised, lasted))
                }
            }
        };
        *state = next;
        event
    }

    fn withdraw(&mut self, metric: Metric, raise: &mut dyn FnMut(Alert)) {
        let state = core::mem::replace(&mut self.states[metric.index()], State::Quiet);
        if let State::Raised { since, value } = state
            && let Some((rule, at)) = self.rules.get(metric).zip(self.last_seen)
        {
            let lasted = at.taken_at - since;
            raise(alert(metric, rule, Transition::Withdrawn, value, at, lasted));
        }
    }
}

/// The rules of the metrics that are collected: nothing would ever end an alert of another.
fn rules_in_force(settings: &Settings) -> AlertRules {
    let idle = MetricSet::ALL.difference(settings.metrics);
    let mut rules = settings.thresholds;
    idle.iter().for_each(|metric| rules.remove(metric));
    rules
}

const fn alert(
    metric: Metric,
    rule: AlertRule,
    transition: Transition,
    value: i64,
    at: Moment,
    lasted: Duration,
) -> Alert {
    let AlertRule { limit, direction, severity, .. } = rule;
    let Moment { taken_at, wall_ms } = at;
    Alert { metric, transition, severity, direction, limit, value, taken_at, wall_ms, lasted }
}

impl AlertRule {
    /// Whether `value` is on the wrong side of the limit.
    const fn is_beyond(&self, value: i64) -> bool {
        match self.direction {
            Direction::Above => self.limit < value,
            Direction::Below => value < self.limit,
        }
    }

    /// Whether `value` is back by as much as it takes to end an alert. The limit plus or minus the hysteresis saturates
    /// at the ends of the range.
    const fn is_over(&self, value: i64) -> bool {
        match self.direction {
            Direction::Above => value <= self.limit.saturating_sub(self.hysteresis),
            Direction::Below => self.limit.saturating_add(self.hysteresis) <= value,
        }
    }
}

impl Plugin for ThresholdAlert {
    fn process(&mut self, sample: &mut Sample, raise: &mut dyn FnMut(Alert)) -> Verdict {
        let at = Moment::from(&sample.snapshot);
        self.last_seen = Some(at);
        for (metric, value) in sample.snapshot.values.iter() {
            self.step(metric, value, at).into_iter().for_each(&mut *raise);
            if let State::Raised { .. } = self.states[metric.index()]
                && let Some(rule) = self.rules.get(metric)
            {
                sample.marks.set(metric, rule.limit, rule.direction);
            }
        }
        Verdict::Forward
    }

    /// Nothing is measured for a while: what is pending begins anew. Alerts that stand go on standing.
    fn flush(&mut self) -> Option<Sample> {
        for state in &mut self.states {
            if matches!(state, State::Pending { .. }) {
                *state = State::Quiet;
            }
        }
        None
    }

    /// A metric whose rule is the same keeps its state; an alert by another rule is withdrawn.
    fn reconfigure(&mut self, settings: &Settings, raise: &mut dyn FnMut(Alert)) {
        let rules = rules_in_force(settings);
        for metric in Metric::ALL {
            if self.rules.get(metric) != rules.get(metric) {
                self.withdraw(metric, raise);
            }
        }
        self.rules = rules;
        self.jitter = settings.interval / 10;
    }

    fn retire(&mut self, raise: &mut dyn FnMut(Alert)) {
        for metric in Metric::ALL {
            self.withdraw(metric, raise);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::vec::Vec;

    use super::*;
    use crate::metric::Values;
    use crate::record::Severity;

    const RULE: AlertRule = AlertRule::above(8000);

    fn settings(rule: AlertRule) -> Settings {
        let mut thresholds = AlertRules::NONE;
        thresholds.set(Metric::CpuPercent, rule);
        Settings { thresholds, ..Settings::default() }
    }

    fn plugin(rule: AlertRule) -> ThresholdAlert {
        ThresholdAlert::new(&settings(rule))
    }

    /// Hands in one value a second from `from_s` on. Answers when (in seconds) what happened, and at which of them a
    /// mark stood.
    fn run(
        plugin: &mut ThresholdAlert,
        from_s: u64,
        cpu: &[i64],
    ) -> (Vec<(u64, Transition)>, Vec<u64>) {
        let (mut events, mut marked) = (Vec::new(), Vec::new());
        for (second, value) in (from_s..).zip(cpu) {
            let values = Values::from_iter([(Metric::CpuPercent, *value)]);
            let taken_at = Instant::from_ms(second * 1000);
            let mut sample = Sample::from(Snapshot { taken_at, wall_ms: 0, values });
            let verdict =
                plugin.process(&mut sample, &mut |alert| events.push((second, alert.transition)));
            assert_eq!(verdict, Verdict::Forward);
            if !sample.marks.is_empty() {
                marked.push(second);
            }
        }
        (events, marked)
    }

    use Transition::{Cleared, Raised, Withdrawn};

    #[test]
    fn without_more_words_it_follows_the_limit() {
        let (events, marked) = run(&mut plugin(RULE), 0, &[8000, 8001, 9000, 8000, 8001]);
        assert_eq!(events, [(1, Raised), (3, Cleared), (4, Raised)]);
        assert_eq!(marked, [1, 2, 4]);
    }

    #[test]
    fn hysteresis_keeps_it_until_the_value_is_well_back() {
        let rule = AlertRule { hysteresis: 500, ..RULE };
        let (events, marked) = run(&mut plugin(rule), 0, &[8001, 7501, 8001, 7500, 7999]);
        assert_eq!(events, [(0, Raised), (3, Cleared)]);
        assert_eq!(marked, [0, 1, 2]);
    }

    #[test]
    fn a_duration_must_be_held_without_a_break() {
        let rule = AlertRule { hold: Duration::from_secs(2), ..RULE };
        let (events, _) = run(&mut plugin(rule), 0, &[9000, 9000, 0, 9000, 9000, 9000, 9000, 0]);
        assert_eq!(events, [(5, Raised), (7, Cleared)]);
    }

    #[test]
    fn a_snapshot_that_comes_a_little_early_ends_the_wait() {
        let rule = AlertRule { hold: Duration::from_secs(2), ..RULE };
        let interval = Duration::from_secs(1);
        let mut plugin = ThresholdAlert::new(&Settings { interval, ..settings(rule) });
        let mut raised_at = None;
        for at_ms in [3, 1000, 1999] {
            let values = Values::from_iter([(Metric::CpuPercent, 9000)]);
            let taken_at = Instant::from_ms(at_ms);
            let mut sample = Sample::from(Snapshot { taken_at, wall_ms: 0, values });
            plugin.process(&mut sample, &mut |_| raised_at = Some(at_ms));
        }
        assert_eq!(raised_at, Some(1999));
    }

    #[test]
    fn a_floor_is_a_limit_from_the_other_side() {
        let rule = AlertRule { direction: Direction::Below, hysteresis: 10, ..RULE };
        let (events, _) = run(&mut plugin(rule), 0, &[8000, 7999, 8009, 8010]);
        assert_eq!(events, [(1, Raised), (3, Cleared)]);
    }

    #[test]
    fn an_alert_says_what_it_is_about() {
        let rule = AlertRule {
            severity: Severity::Critical,
            hold: Duration::from_secs(3),
            ..AlertRule::above(100)
        };
        let mut plugin = plugin(rule);
        let mut alerts = Vec::new();
        for (second, value) in [(1, 150), (4, 200), (64, 99)] {
            let values = Values::from_iter([(Metric::CpuPercent, value)]);
            let taken_at = Instant::from_ms(second * 1000);
            let snapshot = Snapshot { taken_at, wall_ms: 5, values };
            plugin.process(&mut Sample::from(snapshot), &mut |alert| alerts.push(alert));
        }
        let raised = Alert {
            metric: Metric::CpuPercent,
            transition: Raised,
            severity: Severity::Critical,
            direction: Direction::Above,
            limit: 100,
            value: 200,
            taken_at: Instant::from_ms(4000),
            wall_ms: 5,
            lasted: Duration::from_secs(3),
        };
        let cleared = Alert {
            transition: Cleared,
            value: 99,
            taken_at: Instant::from_ms(64_000),
            lasted: Duration::from_secs(60),
            ..raised
        };
        assert_eq!(alerts, [raised, cleared]);
    }

    #[test]
    fn the_ends_of_the_range_do_not_wrap() {
        let rule = AlertRule { hysteresis: i64::MAX, ..AlertRule::above(i64::MIN + 1) };
        let (events, _) = run(&mut plugin(rule), 0, &[i64::MAX, i64::MIN + 1, i64::MIN]);
        assert_eq!(events, [(0, Raised), (2, Cleared)]);
    }

    #[test]
    fn the_same_rule_keeps_its_alert_and_any_other_withdraws_it() {
        let mut plugin = plugin(RULE);
        run(&mut plugin, 0, &[9000]);
        let mut events = Vec::new();
        let mut note = |alert: Alert| events.push(alert.transition);
        let mut same = settings(RULE);
        same.thresholds.set(Metric::NetIn, AlertRule::above(1));
        plugin.reconfigure(&same, &mut note);
        plugin.reconfigure(&settings(AlertRule::above(8500)), &mut note);
        plugin.retire(&mut note);
        assert_eq!(events, [Withdrawn]);
    }

    #[test]
    fn an_alert_of_a_metric_that_is_no_longer_collected_is_withdrawn() {
        let mut plugin = plugin(RULE);
        run(&mut plugin, 0, &[9000]);
        let mut events = Vec::new();
        let metrics = MetricSet::from_iter([Metric::NetIn]);
        plugin.reconfigure(&Settings { metrics, ..settings(RULE) }, &mut |alert| {
            events.push(alert.transition);
        });
        assert_eq!(events, [Withdrawn]);
    }

    #[test]
    fn a_pause_begins_a_pending_alert_anew() {
        let rule = AlertRule { hold: Duration::from_secs(2), ..RULE };
        let mut plugin = plugin(rule);
        run(&mut plugin, 0, &[9000]);
        plugin.flush();
        assert_eq!(run(&mut plugin, 60, &[9000, 9000, 9000]).0, [(62, Raised)]);
    }
}
