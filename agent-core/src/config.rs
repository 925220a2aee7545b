//! What an agent can be told to do. A [`Config`] is always valid: only [`Config::new`] makes one.

use core::time::Duration;

use heapless::Vec;

use crate::limits::{
    INTERVAL_MAX, INTERVAL_MIN, MAX_SILENCE_MAX, PLUGINS_MAX, WINDOW_SNAPSHOTS_MAX,
};
use crate::metric::{Metric, MetricSet, Values};
use crate::plugin::PluginKind;

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
    /// For the threshold_alert plugin: an alert is raised above these counts. None is negative.
    pub thresholds: Values,
    /// For the aggregation plugin: snapshots in a window, 1 to [`WINDOW_SNAPSHOTS_MAX`].
    pub window_size: u16,
    /// For the filter plugin.
    pub filter: Filter,
}

/// Settings of the deduplication plugin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Deduplication {
    /// How many counts a metric may differ and still count as unchanged; absent means 0. None is negative.
    pub tolerance: Values,
    /// A snapshot goes out when the last one is this old, even if nothing changed, so that "unchanged" never
    /// looks like "dead". More than zero, at most [`MAX_SILENCE_MAX`].
    pub max_silence: Duration,
}

/// Settings of the filter plugin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Filter {
    /// Whether snapshots of an idle host are sent.
    pub send_idle: bool,
    /// Snapshots with less CPU than this are dropped; count of [`Metric::CpuPercent`], 0 to 10,000.
    pub min_cpu: i64,
    /// Snapshots with less memory than this are dropped; count of [`Metric::MemoryPercent`], 0 to 10,000.
    pub min_memory: i64,
}

/// What a metric of 100 % counts.
const PERCENT_COUNT_MAX: i64 = 10_000;

impl Default for Settings {
    /// The defaults of the existing system, so that an empty document means the same to both.
    ///
    /// The chain holds threshold_alert alone: it marks and drops nothing, so by default all data arrives.
    fn default() -> Self {
        const MB: i64 = Metric::DiskRead.counts_per_unit();
        Self {
            interval: Duration::from_secs(5),
            metrics: MetricSet::ALL,
            plugins: [PluginKind::ThresholdAlert].into_iter().collect(),
            deduplication: Deduplication {
                tolerance: Values::EMPTY,
                max_silence: Duration::from_secs(300),
            },
            thresholds: Values::from_iter([
                (Metric::CpuPercent, 8_000),
                (Metric::MemoryPercent, 8_500),
                (Metric::DiskRead, 100 * MB),
                (Metric::DiskWrite, 100 * MB),
                (Metric::NetIn, 50 * MB),
                (Metric::NetOut, 50 * MB),
            ]),
            window_size: 5,
            filter: Filter { send_idle: true, min_cpu: 0, min_memory: 0 },
        }
    }
}

/// Why settings make no configuration.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    /// See [`Settings::interval`].
    #[error("interval is {ms} ms, it must be {} to {} ms", INTERVAL_MIN.as_millis(), INTERVAL_MAX.as_millis())]
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
    /// See [`Settings::window_size`].
    #[error("window_size is {0}, it must be 1 to {WINDOW_SNAPSHOTS_MAX}")]
    WindowSize(u16),
    /// A threshold below zero.
    #[error("threshold of {0} is negative")]
    Threshold(Metric),
    /// A tolerance below zero.
    #[error("tolerance of {0} is negative")]
    Tolerance(Metric),
    /// See [`Deduplication::max_silence`].
    #[error("max_silence is {ms} ms, it must be 1 to {} ms", MAX_SILENCE_MAX.as_millis())]
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
        let Settings { interval, metrics, plugins, deduplication, thresholds, window_size, filter } =
            &settings;
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
        if !(1..=WINDOW_SNAPSHOTS_MAX).contains(window_size) {
            return Err(ConfigError::WindowSize(*window_size));
        }
        if let Some((metric, _)) = thresholds.iter().find(|(_, count)| *count < 0) {
            return Err(ConfigError::Threshold(metric));
        }
        if let Some((metric, _)) = deduplication.tolerance.iter().find(|(_, count)| *count < 0) {
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
        check(|s| s.window_size = 0, Err(ConfigError::WindowSize(0)));
        check(|s| s.window_size = 3601, Err(ConfigError::WindowSize(3601)));
        check(|s| s.thresholds.set(Metric::NetIn, -1), Err(ConfigError::Threshold(Metric::NetIn)));
        check(
            |s| s.deduplication.tolerance.set(Metric::NetIn, i64::MIN),
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
    fn a_plugin_stands_once() {
        check(
            |s| s.plugins.push(PluginKind::ThresholdAlert).unwrap(),
            Err(ConfigError::DuplicatePlugin(PluginKind::ThresholdAlert)),
        );
    }
}
