//! The keys of a document that have an effect, and the settings that they make.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use agent_core::config::{
    AlertRule, AlertRules, Config, ConfigError, Settings, Tolerance, Tolerances, WindowEnd,
};
use agent_core::limits::{OWN_PARAMETERS_MAX, OWN_PLUGINS_MAX, PLUGINS_MAX, WINDOW_SNAPSHOTS_MAX};
use agent_core::metric::{Metric, MetricSet, MetricSwitch};
use agent_core::plugin::{OwnIndex, PluginKind, own};
use agent_core::record::{Direction, Severity};
use serde::de::value::MapAccessDeserializer;
use serde::de::{Deserialize, Deserializer, MapAccess, Unexpected, Visitor};

use super::DocumentError;
use super::condition;
use super::decimal::{Decimal, Product};
use super::unique::UniqueMap;
use crate::convert::count_from_units;

/// The keys that have an effect, with their JSON types. `None` is a key that is absent or null.
#[derive(serde::Deserialize)]
pub(super) struct Fields {
    interval: Option<f64>,
    metrics: Option<Vec<String>>,
    plugins: Option<Vec<String>>,
    thresholds: Option<UniqueMap<Option<Threshold>>>,
    window_size: Option<u64>,
    window_seconds: Option<f64>,
    min_cpu: Option<f64>,
    min_memory: Option<f64>,
    send_idle: Option<bool>,
    condition: Option<String>,
    deduplication: Option<DeduplicationFields>,
    own: Option<UniqueMap<Option<Vec<i64>>>>,
}

/// Those of [`DeduplicationFields`].
pub(super) const DEDUPLICATION_KEYS: [&str; 2] = ["tolerance", "max_silence"];

#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct DeduplicationFields {
    tolerance: Option<UniqueMap<Option<ToleranceField>>>,
    max_silence: Option<f64>,
}

/// A threshold: a number of units, `false`, or an object.
enum Threshold {
    /// An alert above it, as soon as it is passed.
    Above(f64),
    /// No alert.
    Off,
    /// All parts of a rule.
    Rule(RuleFields),
}

/// Those of [`RuleFields`].
pub(super) const RULE_KEYS: [&str; 5] = ["above", "below", "hysteresis", "for", "severity"];

#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct RuleFields {
    above: Option<f64>,
    below: Option<f64>,
    hysteresis: Option<f64>,
    #[serde(rename = "for")]
    hold: Option<f64>,
    severity: Option<String>,
}

/// A tolerance: a number of units, or a text such as `0.5%`.
enum ToleranceField {
    Absolute(f64),
    Relative(String),
}

/// Which plugins of the user's own there are.
pub(super) enum OwnNames<'a> {
    /// Any. They are numbered as they appear; these have.
    Any(Vec<String>),
    /// Exactly these, numbered by their position.
    These(&'a [&'a str]),
}

/// Reads the fields of a document.
pub(super) fn parse(text: &str) -> Result<Fields, DocumentError> {
    let mut deserializer = serde_json::Deserializer::from_str(text);
    let fields = serde_path_to_error::deserialize(&mut deserializer).map_err(|error| {
        // The library's word for text that cannot be read as far as a key.
        let path = match error.path().to_string() {
            path if path == "?" => ".".to_owned(),
            path => path,
        };
        DocumentError::new(path, words(&error.into_inner()))
    })?;
    deserializer.end().map_err(|error| DocumentError::new(".", error))?;
    Ok(fields)
}

/// What is wrong, in words for people. A value has a path, which tells more than a place in a text that nobody may have
/// written; where there is no value the place stays.
fn words(error: &serde_json::Error) -> String {
    let text = error.to_string();
    if error.classify() != serde_json::error::Category::Data {
        return text;
    }
    let place = format!(" at line {} column {}", error.line(), error.column());
    let text = text.strip_suffix(&place).unwrap_or(&text);
    let is_of_wrong_type =
        text.starts_with("invalid type: ") || text.starts_with("invalid value: ");
    let expected = text.rsplit_once(", expected ").filter(|_| is_of_wrong_type);
    expected.map_or_else(|| text.to_owned(), |(_, expected)| must_be(expected))
}

/// What a value must be, by the library's own word for the type.
fn must_be(expected: &str) -> String {
    let words = match expected {
        "f64" => "a number, without quotes",
        "u64" | "u16" => "a whole number from 0 up, without quotes",
        "i64" => "a whole number, without quotes",
        "a boolean" => "true or false, without quotes",
        "a string" => "text in quotes",
        "a sequence" => "a list",
        expected if expected.starts_with("struct ") => "an object",
        expected => expected,
    };
    format!("it must be {words}")
}

impl Fields {
    /// The configuration that they make of the defaults.
    pub(super) fn config(self, own: OwnNames<'_>) -> Result<Config, DocumentError> {
        let settings = self.settings(own)?;
        Config::new(settings).map_err(|error| DocumentError::new(path_of(error), error))
    }

    fn settings(self, mut own: OwnNames<'_>) -> Result<Settings, DocumentError> {
        let mut settings = Settings::default();
        if let Some(interval) = self.interval {
            settings.interval = duration("interval", interval)?;
        }
        if let Some(names) = self.metrics {
            settings.metrics = metrics(&names)?;
        }
        if let Some(names) = self.plugins {
            settings.plugins.clear();
            for (index, name) in names.iter().enumerate() {
                let refuse = |reason| DocumentError::new(format!("plugins[{index}]"), reason);
                let kind = own.plugin(name).map_err(refuse)?;
                if settings.plugins.contains(&kind) {
                    return Err(refuse(format!("plugin {name} is listed twice")));
                }
                settings
                    .plugins
                    .push(kind)
                    .map_err(|_| refuse(format!("at most {PLUGINS_MAX} plugins are allowed")))?;
            }
        }
        if let Some(UniqueMap(thresholds)) = self.thresholds {
            set_thresholds(&mut settings.thresholds, thresholds)?;
        }
        if let Some(size) = self.window_size {
            let fitting =
                u16::try_from(size).ok().filter(|s| (1..=WINDOW_SNAPSHOTS_MAX).contains(s));
            let fitting = fitting.ok_or_else(|| {
                let reason =
                    format!("window_size is {size}, it must be 1 to {WINDOW_SNAPSHOTS_MAX}");
                DocumentError::new("window_size", reason)
            })?;
            settings.window = WindowEnd::Snapshots(fitting);
        }
        if let Some(seconds) = self.window_seconds {
            settings.window = WindowEnd::Duration(duration("window_seconds", seconds)?);
        }
        if let Some(percent) = self.min_cpu {
            settings.filter.min_cpu = count("min_cpu", Metric::CpuPercent, percent)?;
        }
        if let Some(percent) = self.min_memory {
            settings.filter.min_memory = count("min_memory", Metric::MemoryPercent, percent)?;
        }
        if let Some(send_idle) = self.send_idle {
            settings.filter.send_idle = send_idle;
        }
        if let Some(text) = self.condition {
            settings.filter.condition =
                condition::parse(&text).map_err(|error| DocumentError::new("condition", error))?;
        }
        if let Some(deduplication) = self.deduplication {
            if let Some(UniqueMap(tolerances)) = deduplication.tolerance {
                set_tolerances(&mut settings.deduplication.tolerance, tolerances)?;
            }
            if let Some(silence) = deduplication.max_silence {
                settings.deduplication.max_silence =
                    duration("deduplication.max_silence", silence)?;
            }
        }
        if let Some(UniqueMap(parameters)) = self.own {
            set_parameters(&mut settings.own, &own, parameters)?;
        }
        Ok(settings)
    }
}

fn metrics(names: &[String]) -> Result<MetricSet, DocumentError> {
    let mut metrics = MetricSet::EMPTY;
    for (index, name) in names.iter().enumerate() {
        let switch = name.parse::<MetricSwitch>().map_err(|_| {
            let known = MetricSwitch::SINGLE.map(MetricSwitch::name).join(", ");
            let profile = MetricSwitch::Standard.name();
            let reason =
                format!("unknown metric {name:?}; known are {known}, and {profile} for all");
            DocumentError::new(format!("metrics[{index}]"), reason)
        })?;
        metrics = metrics.union(switch.metrics());
    }
    Ok(metrics)
}

impl OwnNames<'_> {
    /// The plugin with this name in the chain.
    fn plugin(&mut self, name: &str) -> Result<PluginKind, String> {
        if let Ok(kind) = name.parse::<PluginKind>() {
            return Ok(kind);
        }
        if let Self::Any(names) = self
            && own::is_sound(name.as_bytes())
            && !names.iter().any(|known| known == name)
        {
            if names.len() == OWN_PLUGINS_MAX {
                return Err(format!("at most {OWN_PLUGINS_MAX} own plugins are allowed"));
            }
            names.push(name.to_owned());
        }
        let kind = self.index_of(name).map(PluginKind::Own);
        kind.ok_or_else(|| format!("unknown plugin {name:?}; known are {}", self.known()))
    }

    fn index_of(&self, name: &str) -> Option<OwnIndex> {
        let index = match self {
            Self::Any(names) => names.iter().position(|known| known == name),
            Self::These(names) => names.iter().position(|known| *known == name),
        };
        index.and_then(OwnIndex::new)
    }

    /// The names that a plugin in the chain may have.
    fn known(&self) -> String {
        let built_in = PluginKind::BUILT_IN.map(|kind| kind.name(&[])).join(", ");
        match self {
            Self::Any(_) => format!("{built_in}, and own.NAME for the agent's own"),
            Self::These([]) => built_in,
            Self::These(names) => format!("{built_in}, {}", names.join(", ")),
        }
    }
}

fn set_thresholds(
    rules: &mut AlertRules,
    thresholds: BTreeMap<String, Option<Threshold>>,
) -> Result<(), DocumentError> {
    for (name, threshold) in thresholds {
        let path = format!("thresholds.{name}");
        let metric = metric(&path, &name)?;
        match threshold {
            None => {}
            Some(Threshold::Off) => rules.remove(metric),
            Some(Threshold::Above(limit)) => {
                rules.set(metric, AlertRule::above(count(&path, metric, limit)?));
            }
            Some(Threshold::Rule(fields)) => rules.set(metric, fields.rule(&path, metric)?),
        }
    }
    Ok(())
}

impl RuleFields {
    fn rule(self, path: &str, metric: Metric) -> Result<AlertRule, DocumentError> {
        let (key, limit, direction) = match (self.above, self.below) {
            (Some(limit), None) => ("above", limit, Direction::Above),
            (None, Some(limit)) => ("below", limit, Direction::Below),
            (None, None) => return Err(DocumentError::new(path, "must have above or below")),
            (Some(_), Some(_)) => {
                return Err(DocumentError::new(path, "has both above and below, one is allowed"));
            }
        };
        let at = |key: &str| format!("{path}.{key}");
        let limit = count(&at(key), metric, limit)?;
        if limit < metric.least() {
            return Err(DocumentError::new(at(key), ConfigError::Threshold(metric)));
        }
        let mut rule = AlertRule { direction, ..AlertRule::above(limit) };
        if let Some(hysteresis) = self.hysteresis {
            rule.hysteresis = count(&at("hysteresis"), metric, hysteresis)?;
        }
        if let Some(seconds) = self.hold {
            rule.hold = duration(&at("for"), seconds)?;
        }
        if let Some(name) = self.severity {
            let known = Severity::ALL
                .into_iter()
                .find(|severity| severity.name().eq_ignore_ascii_case(&name));
            rule.severity = known.ok_or_else(|| {
                let known = Severity::ALL.map(Severity::name).join(", ");
                let reason = format!("unknown severity {name:?}; known are {known}");
                DocumentError::new(at("severity"), reason)
            })?;
        }
        Ok(rule)
    }
}

fn set_tolerances(
    tolerances: &mut Tolerances,
    fields: BTreeMap<String, Option<ToleranceField>>,
) -> Result<(), DocumentError> {
    for (name, field) in fields {
        let path = format!("deduplication.tolerance.{name}");
        let metric = metric(&path, &name)?;
        let tolerance = match field {
            None => continue,
            Some(ToleranceField::Absolute(units)) => {
                Tolerance::Absolute(count(&path, metric, units)?)
            }
            Some(ToleranceField::Relative(text)) => {
                let hundredths = hundredths_of_a_percent(&text).ok_or_else(|| {
                    let reason = format!(
                        "{text:?} is neither a number nor a text such as \"0.5%\", from 0% to 100% \
                         with at most two decimals"
                    );
                    DocumentError::new(path, reason)
                })?;
                Tolerance::Relative { hundredths }
            }
        };
        tolerances.set(metric, tolerance);
    }
    Ok(())
}

/// Reads `0.5%` as 50.
fn hundredths_of_a_percent(text: &str) -> Option<u32> {
    let percent: Decimal = text.strip_suffix('%')?.trim_end().parse().ok()?;
    match percent.times(100) {
        Product::Whole(hundredths) if hundredths <= 10_000 => u32::try_from(hundredths).ok(),
        Product::Whole(_) | Product::Above(_) => None,
    }
}

fn set_parameters(
    parameters: &mut [own::Parameters; OWN_PLUGINS_MAX],
    names: &OwnNames<'_>,
    fields: BTreeMap<String, Option<Vec<i64>>>,
) -> Result<(), DocumentError> {
    for (name, numbers) in fields {
        let refuse = |reason| Err(DocumentError::new(format!("own.{name}"), reason));
        if !own::is_sound(name.as_bytes()) {
            return refuse(format!("{name:?} is not own.NAME, with a name of a-z, 0-9 and _"));
        }
        let numbers = numbers.unwrap_or_default();
        if OWN_PARAMETERS_MAX < numbers.len() {
            let count = numbers.len();
            return refuse(format!(
                "has {count} numbers, at most {OWN_PARAMETERS_MAX} are allowed"
            ));
        }
        let index = names.index_of(&name);
        if index.is_none() && matches!(names, OwnNames::These(_)) {
            return refuse(format!("unknown plugin {name:?}; known are {}", names.known()));
        }
        // Without an index it is not in the chain.
        let given = index.and_then(|index| parameters.get_mut(index.get()));
        for (parameter, number) in given.into_iter().flatten().zip(numbers) {
            *parameter = number;
        }
    }
    Ok(())
}

fn duration(path: &str, seconds: f64) -> Result<Duration, DocumentError> {
    let duration = Duration::try_from_secs_f64(seconds).map_err(|_| {
        DocumentError::new(path, format!("{seconds} is not a number of seconds from 0 up"))
    })?;
    // The core counts whole milliseconds.
    let ms = duration.as_micros().div_ceil(1000);
    Ok(Duration::from_millis(u64::try_from(ms).unwrap_or(u64::MAX)))
}

fn count(path: &str, metric: Metric, value: f64) -> Result<i64, DocumentError> {
    count_from_units(metric, value).map_err(|error| DocumentError::new(path, error))
}

fn metric(path: &str, name: &str) -> Result<Metric, DocumentError> {
    name.parse().map_err(|_| {
        let known = Metric::ALL.map(Metric::name).join(", ");
        DocumentError::new(path, format!("unknown metric; known are {known}"))
    })
}

/// The key of the document that an error of the core is about.
fn path_of(error: ConfigError) -> String {
    match error {
        ConfigError::Interval { .. } => "interval".to_owned(),
        ConfigError::NoMetrics => "metrics".to_owned(),
        ConfigError::DuplicatePlugin(_) => "plugins".to_owned(),
        ConfigError::WindowSize(_) => "window_size".to_owned(),
        ConfigError::WindowDuration { .. } => "window_seconds".to_owned(),
        ConfigError::Threshold(metric) => format!("thresholds.{metric}"),
        ConfigError::Hysteresis(metric) | ConfigError::EndlessAlert(metric) => {
            format!("thresholds.{metric}.hysteresis")
        }
        ConfigError::AlertFor { metric, .. } => format!("thresholds.{metric}.for"),
        ConfigError::Tolerance(metric) => format!("deduplication.tolerance.{metric}"),
        ConfigError::MaxSilence { .. } => "deduplication.max_silence".to_owned(),
        ConfigError::MinCpu => "min_cpu".to_owned(),
        ConfigError::MinMemory => "min_memory".to_owned(),
    }
}

impl<'de> Deserialize<'de> for Threshold {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct ThresholdVisitor;

        impl<'de> Visitor<'de> for ThresholdVisitor {
            type Value = Threshold;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a number without quotes, false, or an object with above or below")
            }

            fn visit_bool<E: serde::de::Error>(self, on: bool) -> Result<Threshold, E> {
                if on {
                    return Err(E::invalid_value(Unexpected::Bool(on), &self));
                }
                Ok(Threshold::Off)
            }

            fn visit_f64<E>(self, limit: f64) -> Result<Threshold, E> {
                Ok(Threshold::Above(limit))
            }

            fn visit_i64<E>(self, limit: i64) -> Result<Threshold, E> {
                Ok(Threshold::Above(rounded(limit.into())))
            }

            fn visit_u64<E>(self, limit: u64) -> Result<Threshold, E> {
                Ok(Threshold::Above(rounded(limit.into())))
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Threshold, A::Error> {
                RuleFields::deserialize(MapAccessDeserializer::new(map)).map(Threshold::Rule)
            }
        }

        deserializer.deserialize_any(ThresholdVisitor)
    }
}

impl<'de> Deserialize<'de> for ToleranceField {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct ToleranceVisitor;

        impl Visitor<'_> for ToleranceVisitor {
            type Value = ToleranceField;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a number without quotes, or a text such as \"0.5%\"")
            }

            fn visit_f64<E>(self, units: f64) -> Result<ToleranceField, E> {
                Ok(ToleranceField::Absolute(units))
            }

            fn visit_i64<E>(self, units: i64) -> Result<ToleranceField, E> {
                Ok(ToleranceField::Absolute(rounded(units.into())))
            }

            fn visit_u64<E>(self, units: u64) -> Result<ToleranceField, E> {
                Ok(ToleranceField::Absolute(rounded(units.into())))
            }

            fn visit_str<E>(self, text: &str) -> Result<ToleranceField, E> {
                Ok(ToleranceField::Relative(text.to_owned()))
            }
        }

        deserializer.deserialize_any(ToleranceVisitor)
    }
}

/// A JSON number without a fraction, as serde makes a double of it.
#[expect(clippy::cast_precision_loss, reason = "beyond 2^53 it is out of range of any metric")]
const fn rounded(number: i128) -> f64 {
    number as f64
}
