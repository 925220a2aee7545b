//! What an agent can be told to do. A [`Config`] is always valid: only [`Config::new`] makes one.

use core::fmt;
use core::time::Duration;

use heapless::Vec;

use crate::limits::{
    ALERT_FOR_MAX, CONDITION_TERMS_MAX, INTERVAL_MAX, INTERVAL_MIN, MAX_SILENCE_MAX,
    OWN_PARAMETERS_MAX, OWN_PLUGINS_MAX, PLUGINS_MAX, WINDOW_DURATION_MAX, WINDOW_SNAPSHOTS_MAX,
};
use crate::metric::{Metric, MetricSet};
use crate::plugin::PluginKind;
use crate::record::{Direction, Severity};

/// The settings of an agent, before they are checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Time between two snapshots, [`INTERVAL_MIN`] to [`INTERVAL_MAX`].
    pub interval: Duration,
    /// What to collect; at least one metric.
    pub metrics: MetricSet,
    /// The chain, in order, each kind at most once.
    pub plugins: Vec<PluginKind, PLUGINS_MAX>,
    /// For the deduplication plugin.
    pub deduplication: Deduplication,
    /// For the threshold_alert plugin.
    pub thresholds: AlertRules,
    /// For the aggregation plugin.
    pub window: WindowEnd,
    /// For the filter plugin.
    pub filter: Filter,
    /// For the user's own plugins, by their index.
    pub own: [[i64; OWN_PARAMETERS_MAX]; OWN_PLUGINS_MAX],
}

/// Settings of the deduplication plugin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Deduplication {
    /// How much a metric may differ and still count as unchanged.
    pub tolerance: Tolerances,
    /// A snapshot goes out when the last one is this old, even if nothing changed, so that "unchanged" never
    /// looks like "dead". More than zero, at most [`MAX_SILENCE_MAX`].
    pub max_silence: Duration,
}

/// How much a value may differ from the last one sent and still count as unchanged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tolerance {
    /// By so many counts, not negative.
    Absolute(i64),
    /// By a share of the last one sent, in hundredths of a percent.
    Relative {
        /// The share.
        hundredths: u32,
    },
}

impl Tolerance {
    /// Not at all.
    pub const EXACT: Self = Self::Absolute(0);
}

/// The tolerance of each metric.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tolerances([Tolerance; Metric::COUNT]);

impl Tolerances {
    /// None for any metric.
    pub const EXACT: Self = Self([Tolerance::EXACT; Metric::COUNT]);

    /// The tolerance of `metric`.
    pub const fn of(&self, metric: Metric) -> Tolerance {
        self.0[metric.index()]
    }

    /// Gives `metric` a tolerance.
    pub const fn set(&mut self, metric: Metric, tolerance: Tolerance) {
        self.0[metric.index()] = tolerance;
    }
}

/// When a metric raises an alert.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AlertRule {
    /// The limit, a count of the metric, at least [`Metric::least`]. A value equal to it raises no alert.
    pub limit: i64,
    /// On which side of it a value is wrong.
    pub direction: Direction,
    /// By how many counts a value must be back within the limit to end the alert, not negative. The metric must be able
    /// to be back by so much.
    pub hysteresis: i64,
    /// How long a value must be wrong, without a break, until the alert is raised; at most [`ALERT_FOR_MAX`].
    pub hold: Duration,
    /// How bad it is.
    pub severity: Severity,
}

impl AlertRule {
    /// An alert of a value above `limit`, at once, ended as soon as it is back; a warning.
    pub const fn above(limit: i64) -> Self {
        Self {
            limit,
            direction: Direction::Above,
            hysteresis: 0,
            hold: Duration::ZERO,
            severity: Severity::Warning,
        }
    }
}

/// The rules for alerts, at most one for a metric.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AlertRules([Option<AlertRule>; Metric::COUNT]);

impl AlertRules {
    /// No rule.
    pub const NONE: Self = Self([None; Metric::COUNT]);

    /// The rule of `metric`.
    pub const fn get(&self, metric: Metric) -> Option<AlertRule> {
        self.0[metric.index()]
    }

    /// Gives `metric` a rule, in place of one that it has.
    pub const fn set(&mut self, metric: Metric, rule: AlertRule) {
        self.0[metric.index()] = Some(rule);
    }

    /// Takes the rule of `metric` away.
    pub const fn remove(&mut self, metric: Metric) {
        self.0[metric.index()] = None;
    }

    /// The metrics that have a rule, with it, in the order of their ids.
    pub fn iter(&self) -> impl Iterator<Item = (Metric, AlertRule)> + '_ {
        Metric::ALL.into_iter().filter_map(|metric| Some((metric, self.get(metric)?)))
    }
}

/// When a window of the aggregation plugin ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WindowEnd {
    /// After so many snapshots, 1 to [`WINDOW_SNAPSHOTS_MAX`].
    Snapshots(u16),
    /// After this time on the monotonic clock: more than zero, at most [`WINDOW_DURATION_MAX`].
    Duration(Duration),
}

/// Settings of the filter plugin.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Filter {
    /// Whether snapshots of an idle host are sent.
    pub send_idle: bool,
    /// Snapshots with less CPU than this are dropped; count of [`Metric::CpuPercent`], 0 to 10,000.
    pub min_cpu: i64,
    /// Snapshots with less memory than this are dropped; count of [`Metric::MemoryPercent`], 0 to 10,000.
    pub min_memory: i64,
    /// Snapshots that do not meet it are dropped.
    pub condition: Condition,
}

impl Default for Filter {
    /// Drops nothing.
    fn default() -> Self {
        Self { send_idle: true, min_cpu: 0, min_memory: 0, condition: Condition::default() }
    }
}

/// A condition on the values of a snapshot: comparisons joined by `and` and `or`, of which `and` binds closer. Without a
/// term it is always met.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Condition(Vec<Term, CONDITION_TERMS_MAX>);

/// More terms than [`CONDITION_TERMS_MAX`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a condition has more than {CONDITION_TERMS_MAX} comparisons")]
pub struct ConditionTooLong;

impl Condition {
    /// The condition of these terms.
    ///
    /// # Errors
    ///
    /// When there are too many.
    pub fn new(terms: &[Term]) -> Result<Self, ConditionTooLong> {
        Vec::from_slice(terms).map(Self).map_err(|_| ConditionTooLong)
    }

    /// Its terms in order.
    pub fn terms(&self) -> &[Term] {
        &self.0
    }
}

/// One comparison of a condition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Term {
    /// How it is joined to the term before; of no meaning for the first.
    pub joint: Joint,
    /// The metric on the left.
    pub metric: Metric,
    /// How it is compared.
    pub comparison: Comparison,
    /// The count on the right.
    pub count: i64,
}

/// What stands between two comparisons.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Joint {
    /// Both must hold.
    And,
    /// One must hold.
    Or,
}

/// How two counts are compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Comparison {
    /// `<`
    Less,
    /// `<=`
    LessOrEqual,
    /// `>`
    Greater,
    /// `>=`
    GreaterOrEqual,
    /// `==`
    Equal,
    /// `!=`
    NotEqual,
}

impl Comparison {
    /// All of them.
    pub const ALL: [Self; 6] = [
        Self::Less,
        Self::LessOrEqual,
        Self::Greater,
        Self::GreaterOrEqual,
        Self::Equal,
        Self::NotEqual,
    ];

    /// How it is written.
    pub const fn symbol(self) -> &'static str {
        match self {
            Self::Less => "<",
            Self::LessOrEqual => "<=",
            Self::Greater => ">",
            Self::GreaterOrEqual => ">=",
            Self::Equal => "==",
            Self::NotEqual => "!=",
        }
    }
}

/// What a metric of 100 % counts.
const PERCENT_COUNT_MAX: i64 = 10_000;

impl Default for Settings {
    /// The defaults of the existing system, so that an empty document means the same to both.
    ///
    /// The chain holds threshold_alert alone: it marks and drops nothing, so by default all data arrives.
    fn default() -> Self {
        const MB: i64 = Metric::DiskRead.counts_per_unit();
        let mut thresholds = AlertRules::NONE;
        for (metric, limit) in [
            (Metric::CpuPercent, 8_000),
            (Metric::MemoryPercent, 8_500),
            (Metric::DiskRead, 100 * MB),
            (Metric::DiskWrite, 100 * MB),
            (Metric::NetIn, 50 * MB),
            (Metric::NetOut, 50 * MB),
        ] {
            thresholds.set(metric, AlertRule::above(limit));
        }
        Self {
            interval: Duration::from_secs(5),
            metrics: MetricSet::FIXED,
            plugins: [PluginKind::ThresholdAlert].into_iter().collect(),
            deduplication: Deduplication {
                tolerance: Tolerances::EXACT,
                max_silence: Duration::from_secs(300),
            },
            thresholds,
            window: WindowEnd::Snapshots(5),
            filter: Filter::default(),
            own: [[0; OWN_PARAMETERS_MAX]; OWN_PLUGINS_MAX],
        }
    }
}

/// Why settings make no configuration.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    /// See [`Settings::interval`].
    #[error("interval is {} s, it must be {} to {} s", Seconds(*.ms), Seconds::of(INTERVAL_MIN), Seconds::of(INTERVAL_MAX))]
    Interval {
        /// What was asked for.
        ms: u64,
    },
    /// Nothing to collect.
    #[error("metrics is empty, there must be at least one")]
    NoMetrics,
    /// A plugin stands twice in the chain.
    #[error("plugin {0} is listed twice")]
    DuplicatePlugin(PluginKind),
    /// See [`WindowEnd::Snapshots`].
    #[error("window_size is {0}, it must be 1 to {WINDOW_SNAPSHOTS_MAX}")]
    WindowSize(u16),
    /// See [`WindowEnd::Duration`].
    #[error("window_seconds is {} s, it must be 0.001 to {} s", Seconds(*.ms), Seconds::of(WINDOW_DURATION_MAX))]
    WindowDuration {
        /// What was asked for.
        ms: u64,
    },
    /// A threshold that no value can be below.
    #[error("threshold of {0} is below all that it can be")]
    Threshold(Metric),
    /// A hysteresis below zero.
    #[error("hysteresis of {0} is negative")]
    Hysteresis(Metric),
    /// A limit and a hysteresis that no value of the metric can end an alert by.
    #[error("no value of {0} would ever end the alert")]
    EndlessAlert(Metric),
    /// See [`AlertRule::hold`].
    #[error("alert of {metric} waits {} s, it may wait {} s", Seconds(*.ms), Seconds::of(ALERT_FOR_MAX))]
    AlertFor {
        /// Whose rule.
        metric: Metric,
        /// What was asked for.
        ms: u64,
    },
    /// A tolerance below zero.
    #[error("tolerance of {0} is negative")]
    Tolerance(Metric),
    /// See [`Deduplication::max_silence`].
    #[error("max_silence is {} s, it must be 0.001 to {} s", Seconds(*.ms), Seconds::of(MAX_SILENCE_MAX))]
    MaxSilence {
        /// What was asked for.
        ms: u64,
    },
    /// min_cpu beyond 0 to 100 %.
    #[error("min_cpu must be 0 to 100 percent")]
    MinCpu,
    /// min_memory beyond 0 to 100 %.
    #[error("min_memory must be 0 to 100 percent")]
    MinMemory,
}

/// Milliseconds, shown in seconds, as the keys have them.
struct Seconds(u64);

impl Seconds {
    fn of(duration: Duration) -> Self {
        Self(millis(duration))
    }
}

impl fmt::Display for Seconds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (whole, ms) = (self.0 / 1000, self.0 % 1000);
        match ms {
            0 => write!(f, "{whole}"),
            _ if ms % 100 == 0 => write!(f, "{whole}.{}", ms / 100),
            _ if ms % 10 == 0 => write!(f, "{whole}.{:02}", ms / 10),
            _ => write!(f, "{whole}.{ms:03}"),
        }
    }
}

/// A valid configuration.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Config(Settings);

impl Config {
    /// Checks `settings`.
    ///
    /// # Errors
    ///
    /// The first setting that is out of its range.
    pub fn new(settings: Settings) -> Result<Self, ConfigError> {
        let Settings {
            interval,
            metrics,
            plugins,
            deduplication,
            thresholds,
            window,
            filter,
            // Any numbers are valid, their plugin clamps them.
            own: _,
        } = &settings;
        if !(INTERVAL_MIN..=INTERVAL_MAX).contains(interval) {
            return Err(ConfigError::Interval { ms: millis(*interval) });
        }
        if metrics.is_empty() {
            return Err(ConfigError::NoMetrics);
        }
        let twice =
            |(index, kind): &(usize, &PluginKind)| plugins.iter().take(*index).any(|k| k == *kind);
        if let Some((_, kind)) = plugins.iter().enumerate().find(twice) {
            return Err(ConfigError::DuplicatePlugin(*kind));
        }
        check_window(*window)?;
        thresholds.iter().try_for_each(|(metric, rule)| check_rule(metric, rule))?;
        let negative = |metric: &Metric| matches!(deduplication.tolerance.of(*metric), Tolerance::Absolute(count) if count < 0);
        if let Some(metric) = Metric::ALL.into_iter().find(negative) {
            return Err(ConfigError::Tolerance(metric));
        }
        let silence = deduplication.max_silence;
        if silence.is_zero() || MAX_SILENCE_MAX < silence {
            return Err(ConfigError::MaxSilence { ms: millis(silence) });
        }
        if !(0..=PERCENT_COUNT_MAX).contains(&filter.min_cpu) {
            return Err(ConfigError::MinCpu);
        }
        if !(0..=PERCENT_COUNT_MAX).contains(&filter.min_memory) {
            return Err(ConfigError::MinMemory);
        }
        Ok(Self(settings))
    }

    /// The checked settings.
    pub const fn settings(&self) -> &Settings {
        &self.0
    }
}

fn check_window(window: WindowEnd) -> Result<(), ConfigError> {
    match window {
        WindowEnd::Snapshots(size) if !(1..=WINDOW_SNAPSHOTS_MAX).contains(&size) => {
            Err(ConfigError::WindowSize(size))
        }
        WindowEnd::Duration(length) if length.as_millis() == 0 || WINDOW_DURATION_MAX < length => {
            Err(ConfigError::WindowDuration { ms: millis(length) })
        }
        WindowEnd::Snapshots(_) | WindowEnd::Duration(_) => Ok(()),
    }
}

fn check_rule(metric: Metric, rule: AlertRule) -> Result<(), ConfigError> {
    let AlertRule { limit, hysteresis, hold, direction, severity: _ } = rule;
    let ends = match direction {
        Direction::Above => metric.least() <= limit.saturating_sub(hysteresis),
        Direction::Below => limit.saturating_add(hysteresis) <= metric.greatest(),
    };
    if limit < metric.least() {
        Err(ConfigError::Threshold(metric))
    } else if hysteresis < 0 {
        Err(ConfigError::Hysteresis(metric))
    } else if !ends {
        Err(ConfigError::EndlessAlert(metric))
    } else if ALERT_FOR_MAX < hold {
        Err(ConfigError::AlertFor { metric, ms: millis(hold) })
    } else {
        Ok(())
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(change: impl FnOnce(&mut Settings), expected: Result<(), ConfigError>) {
        let mut settings = Settings::default();
        change(&mut settings);
        assert_eq!(Config::new(settings).map(|_| ()), expected);
    }

    #[test]
    fn the_defaults_are_valid() {
        check(|_| (), Ok(()));
    }

    #[test]
    fn each_setting_is_checked_at_both_ends() {
        check(|s| s.interval = INTERVAL_MIN, Ok(()));
        check(|s| s.interval = INTERVAL_MAX, Ok(()));
        check(|s| s.interval = Duration::ZERO, Err(ConfigError::Interval { ms: 0 }));
        check(|s| s.interval = Duration::MAX, Err(ConfigError::Interval { ms: u64::MAX }));
        check(|s| s.metrics = MetricSet::EMPTY, Err(ConfigError::NoMetrics));
        check(|s| s.window = WindowEnd::Snapshots(0), Err(ConfigError::WindowSize(0)));
        check(|s| s.window = WindowEnd::Snapshots(3601), Err(ConfigError::WindowSize(3601)));
        check(
            |s| s.window = WindowEnd::Duration(Duration::from_nanos(1)),
            Err(ConfigError::WindowDuration { ms: 0 }),
        );
        let rule = AlertRule::above(5);
        let set = |rule| move |s: &mut Settings| s.thresholds.set(Metric::NetIn, rule);
        check(set(rule), Ok(()));
        let negative = AlertRule { limit: -1, ..rule };
        check(set(negative), Err(ConfigError::Threshold(Metric::NetIn)));
        let negative = AlertRule { hysteresis: -1, ..rule };
        check(set(negative), Err(ConfigError::Hysteresis(Metric::NetIn)));
        let long = AlertRule { hold: Duration::MAX, ..rule };
        let error = ConfigError::AlertFor { metric: Metric::NetIn, ms: u64::MAX };
        check(set(long), Err(error));
        check(
            |s| s.deduplication.tolerance.set(Metric::NetIn, Tolerance::Absolute(i64::MIN)),
            Err(ConfigError::Tolerance(Metric::NetIn)),
        );
        check(
            |s| s.deduplication.max_silence = Duration::ZERO,
            Err(ConfigError::MaxSilence { ms: 0 }),
        );
        check(|s| s.filter.min_cpu = 10_001, Err(ConfigError::MinCpu));
        check(|s| s.filter.min_memory = -1, Err(ConfigError::MinMemory));
    }

    #[test]
    fn times_are_said_in_the_unit_of_their_keys() {
        let check = |ms, expected: &str| {
            let said = std::string::ToString::to_string(&ConfigError::Interval { ms });
            assert_eq!(said, std::format!("interval is {expected} s, it must be 0.1 to 86400 s"));
        };
        check(0, "0");
        check(10, "0.01");
        check(99, "0.099");
        check(86_400_500, "86400.5");
    }

    #[test]
    fn an_alert_can_end() {
        let check_rule = |metric, direction, limit, hysteresis, ends: bool| {
            let rule = AlertRule { direction, hysteresis, ..AlertRule::above(limit) };
            let expected = if ends { Ok(()) } else { Err(ConfigError::EndlessAlert(metric)) };
            check(|s| s.thresholds.set(metric, rule), expected);
        };
        check_rule(Metric::NetIn, Direction::Above, 500, 500, true);
        check_rule(Metric::NetIn, Direction::Above, 500, 501, false);
        check_rule(Metric::NetIn, Direction::Below, 500, i64::MAX - 500, true);
        check_rule(Metric::CpuPercent, Direction::Above, 0, 0, true);
        check_rule(Metric::CpuPercent, Direction::Below, 9500, 500, true);
        check_rule(Metric::CpuPercent, Direction::Below, 9500, 501, false);
        check_rule(Metric::CpuPercent, Direction::Below, 10_001, 0, false);
        check_rule(Metric::Temperature, Direction::Above, 0, 273_150, true);
        check_rule(Metric::Temperature, Direction::Above, 0, i64::MAX, false);
    }

    #[test]
    fn a_plugin_stands_once() {
        check(
            |s| s.plugins.push(PluginKind::ThresholdAlert).unwrap(),
            Err(ConfigError::DuplicatePlugin(PluginKind::ThresholdAlert)),
        );
    }
}
