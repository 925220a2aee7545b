//! The JSON form of an agent's configuration.
//!
//! A [`Document`] is one layer: the store's `_default`, the store's own for an agent, or the agent's local file
//! and flags. Layers are merged by RFC 7386 (JSON Merge Patch): a key above replaces the one below, objects merge
//! key by key, `null` above takes the key below away. What no layer says has the default of
//! [`agent_core::config::Settings`]. Unknown keys are kept and have no effect; unknown names inside known keys are
//! errors, because a misspelt plugin or metric would otherwise be silence.
//!
//! ```text
//! interval        seconds between two snapshots
//! metrics         list of switches: [agent_core::metric::MetricSwitch]
//! plugins         list of plugins, the chain in order; those of the user's own are `own.NAME`
//! thresholds      by metric: NUMBER | false
//!                            | {"above" or "below": NUMBER, "hysteresis": NUMBER, "for": SECONDS,
//!                               "severity": "info" | "warning" | "critical"}
//! window_size     snapshots in a window
//! window_seconds  length of a window; decides instead of window_size when it is set
//! send_idle, min_cpu, min_memory
//! condition       text: METRIC < NUMBER { and | or METRIC > NUMBER }
//! deduplication   {"tolerance": by metric: NUMBER | "PERCENT%", "max_silence": SECONDS}
//! own             by plugin of the user's own: list of integers
//! ```
//!
//! A NUMBER is in the metric's unit. docs/agent.md has the ranges and defaults.

mod condition;
mod decimal;
mod fields;
mod unique;

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::str::FromStr;

use agent_core::config::Config;
use agent_core::metric::Metric;
use agent_core::plugin::own;
use serde_json::{Map, Value};

use fields::OwnNames;

/// Bytes of a document.
pub const DOCUMENT_BYTES_MAX: usize = 65_536;

/// Values in one document, those in lists and objects included. In memory the smallest takes forty times its text.
pub const DOCUMENT_VALUES_MAX: usize = 1000;

/// Objects and arrays inside each other.
const DEPTH_MAX: usize = 8;

/// Why a document cannot be used, and where in it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{path}: {reason}")]
pub struct DocumentError {
    /// The key, such as `thresholds.cpu_percent` or `plugins[1]`; `.` for the whole document.
    pub path: String,
    /// What is wrong there, with the value and what is allowed.
    pub reason: String,
}

impl DocumentError {
    fn new(path: impl Into<String>, reason: impl fmt::Display) -> Self {
        Self { path: path.into(), reason: reason.to_string() }
    }
}

/// One valid layer of configuration. `Default` is the layer that says nothing.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Document {
    object: Map<String, Value>,
}

/// The keys that have an effect, in the order of the documentation.
pub const KEYS: [&str; 12] = [
    "interval",
    "metrics",
    "plugins",
    "thresholds",
    "window_size",
    "window_seconds",
    "send_idle",
    "min_cpu",
    "min_memory",
    "condition",
    "deduplication",
    "own",
];

/// Those that say what ends a window, of which the last decides when it is set.
pub const WINDOW_KEYS: [&str; 2] = ["window_size", "window_seconds"];

/// The keys that the object at `path` may have: `""` is the document, others are such as `thresholds` or
/// `thresholds.cpu_percent`. None where there is no object, and where any name may stand.
pub fn keys_of(path: &str) -> Option<Vec<&'static str>> {
    match path {
        "" => Some(KEYS.to_vec()),
        "thresholds" | "deduplication.tolerance" => Some(Metric::ALL.map(Metric::name).to_vec()),
        "deduplication" => Some(fields::DEDUPLICATION_KEYS.to_vec()),
        _ => path.strip_prefix("thresholds.").map(|_| fields::RULE_KEYS.to_vec()),
    }
}

/// The document that says in full what an empty one means. Keys without a value of their own by default, such as
/// `condition`, are not in it.
pub const DEFAULTS: &str = r#"{
    "interval": 5,
    "metrics": ["cpu", "memory", "disk_read", "disk_write", "net_in", "net_out"],
    "plugins": ["threshold_alert"],
    "thresholds": {
        "cpu_percent": 80,
        "memory_percent": 85,
        "disk_read_mb": 100,
        "disk_write_mb": 100,
        "net_in_mb": 50,
        "net_out_mb": 50
    },
    "window_size": 5,
    "send_idle": true,
    "min_cpu": 0,
    "min_memory": 0,
    "deduplication": {"max_silence": 300}
}"#;

impl Document {
    /// Reads a layer from JSON and checks everything that can be checked without the other layers.
    ///
    /// # Errors
    ///
    /// The text is too long, has too many values, is not JSON or no object, nests too deep, repeats a key, or a known key has a wrong
    /// type or a value out of range.
    pub fn parse(text: &str) -> Result<Self, DocumentError> {
        if DOCUMENT_BYTES_MAX < text.len() {
            let reason = format!(
                "document has {} bytes, at most {DOCUMENT_BYTES_MAX} are allowed",
                text.len()
            );
            return Err(DocumentError::new(".", reason));
        }
        check_values([text])?;
        // Read twice: into the types for errors with a path and for repeated keys, then as a whole for merging.
        fields::parse(text)?;
        let value = serde_json::from_str(text).map_err(|error| DocumentError::new(".", error))?;
        Self::from_value(value)
    }

    /// A layer from a JSON value, checked as [`Document::parse`] does.
    ///
    /// # Errors
    ///
    /// As [`Document::parse`].
    pub fn from_value(value: Value) -> Result<Self, DocumentError> {
        if DEPTH_MAX < depth(&value) {
            let reason = format!("objects and lists nest deeper than {DEPTH_MAX}");
            return Err(DocumentError::new(".", reason));
        }
        let Value::Object(object) = value else {
            return Err(DocumentError::new(".", "the document must be a JSON object"));
        };
        let document = Self { object };
        document.config()?;
        Ok(document)
    }

    /// A layer from the params of an UPDATE_CONFIG command.
    ///
    /// A key is one of [`KEYS`] or a path into one (`thresholds.cpu_percent.above`). The name of one of the user's own
    /// plugins, which begins with `own.`, is a path as it stands: `own.every_nth` leads to that key of `own`.
    ///
    /// A value is JSON; what is no JSON is taken as a string, and as a comma-separated list for `metrics`, `plugins` and
    /// the numbers of one's own plugins, of which a single one may also stand alone.
    ///
    /// # Errors
    ///
    /// An unknown key, or what [`Document::parse`] refuses.
    pub fn from_params(params: &HashMap<String, String>) -> Result<Self, DocumentError> {
        let bytes = params.iter().map(|(key, value)| key.len() + value.len()).sum::<usize>();
        if DOCUMENT_BYTES_MAX < bytes {
            let reason =
                format!("params have {bytes} bytes, at most {DOCUMENT_BYTES_MAX} are allowed");
            return Err(DocumentError::new(".", reason));
        }
        check_values(params.values().map(String::as_str))?;
        let mut object = Map::new();
        // In order, so that the same params always give the same document and the same error.
        for (path, text) in params.iter().collect::<BTreeMap<_, _>>() {
            let key = path.split('.').next().unwrap_or_default();
            if !KEYS.contains(&key) {
                let reason = format!("unknown key; known are {}", KEYS.join(", "));
                return Err(DocumentError::new(path.as_str(), reason));
            }
            let wrap =
                |inner, part: &str| Value::Object(Map::from_iter([(part.to_owned(), inner)]));
            let nested = if own::is_sound(path.as_bytes()) {
                wrap(wrap(own_param(text), path), key)
            } else {
                path.rsplit('.').fold(param(path, text), wrap)
            };
            let Value::Object(nested) = nested else {
                continue;
            };
            insert_deep(&mut object, nested);
        }
        Self::from_value(Value::Object(object))
    }

    /// `above` laid over `below` by RFC 7386.
    #[must_use]
    pub fn merge(below: &Self, above: &Self) -> Self {
        let mut object = below.object.clone();
        merge_patch(&mut object, &above.object);
        Self { object }
    }

    /// `host`, what a host decides itself, laid over `below`, what others would have it do: as [`Document::merge`] does, but what
    /// makes sense only together is decided together. Nothing of what `below` says of it is left: of a metric's threshold, and of
    /// the window, which has two keys ([`WINDOW_KEYS`]).
    #[must_use]
    pub fn decide(below: &Self, host: &Self) -> Self {
        let mut object = below.object.clone();
        if host.decides_window() {
            for key in WINDOW_KEYS {
                object.remove(key);
            }
        }
        if let Some(Value::Object(thresholds)) = object.get_mut("thresholds") {
            thresholds.retain(|metric, _| !host.decides_threshold(metric));
        }
        merge_patch(&mut object, &host.object);
        Self { object }
    }

    /// Whether it says what ends a window, with either key.
    pub fn decides_window(&self) -> bool {
        WINDOW_KEYS.iter().any(|key| self.object.get(*key).is_some_and(|value| !value.is_null()))
    }

    /// Whether it says something of the threshold of `metric`.
    pub fn decides_threshold(&self, metric: &str) -> bool {
        let threshold = self.object.get("thresholds").and_then(|thresholds| thresholds.get(metric));
        threshold.is_some_and(|threshold| !threshold.is_null())
    }

    /// The configuration that this layer makes of the defaults, for who does not know the agent: any own plugin is taken
    /// to exist. They are numbered as they appear in the chain, so the result is good for checking only.
    ///
    /// # Errors
    ///
    /// The first key whose value cannot be used. A merge of valid layers can still have one.
    pub fn config(&self) -> Result<Config, DocumentError> {
        fields::parse(&self.to_json())?.config(OwnNames::Any(Vec::new()))
    }

    /// The configuration that this layer makes of the defaults, for an agent that has exactly these plugins of the user's
    /// own: its [`OwnPlugins::NAMES`](agent_core::plugin::own::OwnPlugins::NAMES).
    ///
    /// # Errors
    ///
    /// As [`Document::config`], and a plugin that the agent does not have.
    pub fn config_for(&self, own: &[&str]) -> Result<Config, DocumentError> {
        fields::parse(&self.to_json())?.config(OwnNames::These(own))
    }

    /// The layer as JSON, keys in the order in which they were given.
    pub fn to_json(&self) -> String {
        Value::Object(self.object.clone()).to_string()
    }

    /// Whether it says nothing.
    pub fn is_empty(&self) -> bool {
        self.object.is_empty()
    }

    /// Its top-level keys.
    pub fn keys(&self) -> impl Iterator<Item = &str> {
        self.object.keys().map(String::as_str)
    }

    /// Its top-level keys that have no effect.
    pub fn unknown_keys(&self) -> impl Iterator<Item = &str> {
        self.keys().filter(|key| !KEYS.contains(key))
    }
}

impl FromStr for Document {
    type Err = DocumentError;

    fn from_str(text: &str) -> Result<Self, DocumentError> {
        Self::parse(text)
    }
}

impl fmt::Display for Document {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.to_json())
    }
}

/// The value of a param.
fn param(path: &str, text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_else(|_| match path {
        "metrics" | "plugins" => items(text).map(Value::from).collect(),
        _ => Value::from(text),
    })
}

/// The value of a param that configures one of the user's own plugins.
fn own_param(text: &str) -> Value {
    let json = |text: &str| serde_json::from_str(text).unwrap_or_else(|_| Value::from(text));
    match json(text) {
        number @ Value::Number(_) => Value::from(vec![number]),
        Value::String(_) => items(text).map(json).collect(),
        other => other,
    }
}

fn items(list: &str) -> impl Iterator<Item = &str> {
    list.split(',').map(str::trim)
}

/// Adds `above` to `below`, objects key by key; unlike a merge patch it keeps `null`, which takes a key away later.
fn insert_deep(below: &mut Map<String, Value>, above: Map<String, Value>) {
    for (key, value) in above {
        match (below.get_mut(&key), value) {
            (Some(Value::Object(below)), Value::Object(above)) => insert_deep(below, above),
            (_, value) => {
                below.insert(key, value);
            }
        }
    }
}

/// RFC 7386, section 2, for two objects; its recursion ends because documents have a depth limit.
fn merge_patch(target: &mut Map<String, Value>, patch: &Map<String, Value>) {
    for (key, value) in patch {
        match value {
            Value::Null => {
                target.remove(key);
            }
            Value::Object(inner) => {
                let below = target.entry(key.as_str()).or_insert(Value::Null);
                if !below.is_object() {
                    *below = Value::Object(Map::new());
                }
                if let Value::Object(below) = below {
                    merge_patch(below, inner);
                }
            }
            _ => {
                target.insert(key.clone(), value.clone());
            }
        }
    }
}

/// How deep objects and lists nest; serde_json has refused more than 128 before.
fn depth(value: &Value) -> usize {
    match value {
        Value::Array(items) => 1 + items.iter().map(depth).max().unwrap_or(0),
        Value::Object(object) => 1 + object.values().map(depth).max().unwrap_or(0),
        _ => 0,
    }
}

/// Looks at texts that were not read yet, so a comma in a string counts as well; no document comes near the limit.
fn check_values<'a>(texts: impl IntoIterator<Item = &'a str>) -> Result<(), DocumentError> {
    let bytes = texts.into_iter().flat_map(str::bytes);
    let values = bytes.filter(|byte| matches!(byte, b',' | b'[' | b'{')).count();
    if DOCUMENT_VALUES_MAX < values {
        let reason = format!(
            "document has about {values} values, at most {DOCUMENT_VALUES_MAX} are allowed"
        );
        return Err(DocumentError::new(".", reason));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use agent_core::config::{AlertRule, Settings, Tolerance, WindowEnd};
    use agent_core::metric::{Metric, MetricSet};
    use agent_core::plugin::{OwnIndex, PluginKind};
    use agent_core::record::{Direction, Severity};
    use proptest::prelude::*;

    use super::*;

    const SEED: &str = r#"{"interval": 2.5,
        "metrics": ["cpu", "memory", "disk read", "net_in"],
        "plugins": ["agent.plugins.deduplication.DeduplicationPlugin", "filter"],
        "thresholds": {"cpu_percent": 90.0, "net_in_mb": 1.5},
        "window_size": 10, "min_cpu": 1.5, "min_memory": 0.0, "send_idle": false,
        "theirs": {"kept": [1]}}"#;

    fn check_refused(text: &str, path: &str, part: &str) {
        let error = Document::parse(text).unwrap_err();
        assert_eq!(error.path, path, "{text:.80}: {error}");
        assert!(error.reason.contains(part), "{text:.80}: {error}");
    }

    #[test]
    fn the_fixed_form_becomes_a_configuration() {
        let document = Document::parse(SEED).unwrap();
        let config = document.config().unwrap();
        let settings = config.settings();
        assert_eq!(settings.interval, Duration::from_millis(2500));
        assert_eq!(settings.plugins, [PluginKind::Deduplication, PluginKind::Filter]);
        assert!(settings.metrics.contains(Metric::MemoryTotal));
        assert!(!settings.metrics.contains(Metric::DiskWrite));
        let above = |limit| Some(AlertRule::above(limit));
        assert_eq!(settings.thresholds.get(Metric::CpuPercent), above(9000));
        assert_eq!(settings.thresholds.get(Metric::NetIn), above(1_572_864));
        assert_eq!(settings.thresholds.get(Metric::NetOut), above(50 * 1_048_576));
        assert_eq!(settings.window, WindowEnd::Snapshots(10));
        assert_eq!(settings.filter.min_cpu, 150);
        assert!(!settings.filter.send_idle);
        assert_eq!(document.unknown_keys().collect::<Vec<_>>(), ["theirs"]);
    }

    #[test]
    fn an_empty_document_means_the_defaults() {
        assert_eq!(Document::parse("{}").unwrap().config(), Ok(Config::default()));
        assert_eq!(
            Document::parse(r#"{"interval": null}"#).unwrap().config(),
            Ok(Config::default())
        );
    }

    #[test]
    fn the_full_document_says_what_an_empty_one_means() {
        let defaults = Document::parse(DEFAULTS).unwrap();
        assert_eq!(defaults.config(), Ok(Config::default()));
        assert_eq!(defaults.unknown_keys().count(), 0);
    }

    #[test]
    fn exactly_the_keys_of_an_object_are_taken() {
        let value = |key: &str| match key {
            "tolerance" => "{}".to_owned(),
            "severity" => r#""info""#.to_owned(),
            _ => "1".to_owned(),
        };
        for path in ["thresholds", "thresholds.cpu_percent", "deduplication"] {
            let keys = keys_of(path).unwrap();
            for key in keys.iter().chain([&"no_such_key"]) {
                let limit = if matches!(*key, "above" | "below") { "" } else { r#""above": 1, "# };
                let limit = if path == "thresholds.cpu_percent" { limit } else { "" };
                let inner = format!("{{{limit}\"{key}\": {}}}", value(key));
                let text =
                    path.rsplit('.').fold(inner, |inner, part| format!("{{\"{part}\": {inner}}}"));
                assert_eq!(Document::parse(&text).is_ok(), keys.contains(key), "{text}");
            }
        }
        assert_eq!(keys_of("deduplication.tolerance"), keys_of("thresholds"));
        assert_eq!(keys_of(""), Some(KEYS.to_vec()));
        assert_eq!(keys_of("own"), None);
    }

    #[test]
    fn what_is_wrong_is_named_with_its_path() {
        check_refused("", ".", "EOF");
        check_refused("{", ".", "EOF");
        check_refused(r#"{"interval": 1,"#, ".", "EOF");
        check_refused("\u{feff}{}", ".", "expected value");
        check_refused("[]", ".", "");
        check_refused("{} {}", ".", "trailing");
        check_refused(r#"{"interval": 0}"#, "interval", "is 0 s");
        check_refused(r#"{"interval": -1}"#, "interval", "-1");
        check_refused(r#"{"interval": 1e-9}"#, "interval", "is 0 s");
        check_refused(r#"{"interval": 1e300}"#, "interval", "seconds");
        check_refused(r#"{"interval": 1e400}"#, "interval", "out of range");
        check_refused(r#"{"interval": "5"}"#, "interval", "it must be a number, without quotes");
        check_refused(r#"{"interval": 1, "interval": 2}"#, ".", "duplicate");
        check_refused(r#"{"metrics": []}"#, "metrics", "empty");
        check_refused(r#"{"metrics": ["cpu", "gpu"]}"#, "metrics[1]", "gpu");
        check_refused(r#"{"plugins": ["filter", "x.y"]}"#, "plugins[1]", "x.y");
        check_refused(
            r#"{"plugins": ["filter", "filter"]}"#,
            "plugins[1]",
            "filter is listed twice",
        );
        check_refused(r#"{"thresholds": {"cpu": 1}}"#, "thresholds.cpu", "cpu_percent");
        check_refused(r#"{"thresholds": {"net_in_mb": -1}}"#, "thresholds.net_in_mb", "below all");
        check_refused(
            r#"{"thresholds": {"cpu_percent": 1e300}}"#,
            "thresholds.cpu_percent",
            "range",
        );
        check_refused(
            r#"{"thresholds": {"cpu_percent": 1, "cpu_percent": 2}}"#,
            "thresholds",
            "stands twice",
        );
        check_refused(r#"{"window_size": 0}"#, "window_size", "1 to 3600");
        check_refused(r#"{"window_size": 70000}"#, "window_size", "1 to 3600");
        check_refused(
            r#"{"window_size": 1.5}"#,
            "window_size",
            "it must be a whole number from 0 up",
        );
        check_refused(r#"{"window_seconds": 0}"#, "window_seconds", "0.001 to 86400 s");
        check_refused(r#"{"window_seconds": 1, "window_size": 0}"#, "window_size", "is 0");
        check_refused(r#"{"min_cpu": 101}"#, "min_cpu", "0 to 100");
        check_refused(
            r#"{"deduplication": {"max_silence": 0}}"#,
            "deduplication.max_silence",
            "it must be",
        );
        check_refused(
            r#"{"deduplication": {"max_silense": 9}}"#,
            "deduplication.max_silense",
            "unknown field",
        );
        check_refused(&format!(r#"{{"x": {}1{}}}"#, "[".repeat(9), "]".repeat(9)), ".", "deeper");
        check_refused(&format!(r#"{{"x": {}}}"#, "[".repeat(900)), "x", "");
        check_refused(&format!(r#"{{"x": {}}}"#, "[".repeat(10_000)), ".", "about 10001 values");
        check_refused(&format!(r#"{{"x": "{}"}}"#, "x".repeat(65_536)), ".", "65536");
        check_refused(&format!(r#"{{"x": [{}0]}}"#, "0,".repeat(999)), ".", "about 1001 values");
    }

    fn settings(text: &str) -> Settings {
        Document::parse(text).unwrap().config().unwrap().settings().clone()
    }

    #[test]
    fn standard_switches_every_metric_on() {
        assert_eq!(settings("{}").metrics, MetricSet::FIXED);
        assert_eq!(settings(r#"{"metrics": ["standard"]}"#).metrics, MetricSet::ALL);
        let some = settings(r#"{"metrics": ["temperature", "disk usage"]}"#).metrics;
        let expected = [Metric::DiskPercent, Metric::DiskUsed, Metric::DiskTotal];
        assert_eq!(some, expected.into_iter().chain([Metric::Temperature]).collect());
        check_refused(
            r#"{"metrics": ["all"]}"#,
            "metrics[0]",
            "uptime, agent, and standard for all",
        );
    }

    #[test]
    fn a_threshold_has_a_short_and_a_long_form() {
        let rules = settings(
            r#"{"thresholds": {
                "cpu_percent": {"above": 90, "hysteresis": 5, "for": 30, "severity": "critical"},
                "temperature_celsius": {"below": -2.5},
                "memory_percent": false, "disk_read_mb": null, "load1": 4}}"#,
        )
        .thresholds;
        let expected = AlertRule {
            hysteresis: 500,
            hold: Duration::from_secs(30),
            severity: Severity::Critical,
            ..AlertRule::above(9000)
        };
        assert_eq!(rules.get(Metric::CpuPercent), Some(expected));
        let expected = AlertRule { direction: Direction::Below, ..AlertRule::above(-2500) };
        assert_eq!(rules.get(Metric::Temperature), Some(expected));
        assert_eq!(rules.get(Metric::MemoryPercent), None);
        assert_eq!(rules.get(Metric::DiskRead), settings("{}").thresholds.get(Metric::DiskRead));
        assert_eq!(rules.get(Metric::Load1), Some(AlertRule::above(400)));
    }

    #[test]
    fn a_value_of_a_wrong_type_is_told_what_it_must_be_and_no_place_in_a_text() {
        let check = |text: &str, path: &str, expected: &str| {
            let error = Document::parse(text).unwrap_err();
            assert_eq!((error.path.as_str(), error.reason.as_str()), (path, expected), "{text}");
            let again = Document::from_value(serde_json::from_str(text).unwrap()).unwrap_err();
            assert_eq!(again, error, "{text}");
        };
        let number = "it must be a number, without quotes";
        check(r#"{"interval": "5"}"#, "interval", number);
        check(r#"{"min_cpu": true}"#, "min_cpu", number);
        check(
            r#"{"window_size": -5}"#,
            "window_size",
            "it must be a whole number from 0 up, without quotes",
        );
        check(r#"{"send_idle": "no"}"#, "send_idle", "it must be true or false, without quotes");
        check(r#"{"metrics": "cpu, memory"}"#, "metrics", "it must be a list");
        check(r#"{"plugins": [1]}"#, "plugins[0]", "it must be text in quotes");
        check(r#"{"deduplication": 3}"#, "deduplication", "it must be an object");
        check(r#"{"thresholds": [1]}"#, "thresholds", "it must be an object");
        let tolerance = "it must be a number without quotes, or a text such as \"0.5%\"";
        let path = "deduplication.tolerance.net_in_mb";
        check(r#"{"deduplication": {"tolerance": {"net_in_mb": []}}}"#, path, tolerance);
    }

    #[test]
    fn what_is_wrong_in_a_threshold_is_named_with_its_path() {
        let check = |threshold: &str, path: &str, part: &str| {
            let text = format!(r#"{{"thresholds": {{"cpu_percent": {threshold}}}}}"#);
            check_refused(&text, &format!("thresholds.cpu_percent{path}"), part);
        };
        check("true", "", "it must be a number without quotes, false, or an object");
        check(r#""80""#, "", "it must be a number without quotes, false, or an object");
        check("[80]", "", "it must be a number without quotes, false, or an object");
        check("{}", "", "above or below");
        check(r#"{"hysteresis": 1}"#, "", "above or below");
        check(r#"{"above": 1, "below": 2}"#, "", "both");
        check(r#"{"above": "1"}"#, ".above", "it must be a number");
        check(r#"{"above": -1}"#, ".above", "below all");
        check(r#"{"above": 1e300}"#, ".above", "range");
        check(r#"{"below": -1}"#, ".below", "below all");
        check(r#"{"above": 1, "hysteresis": -1}"#, ".hysteresis", "negative");
        check(r#"{"above": 1, "hysteresis": 1.01}"#, ".hysteresis", "ever end");
        check(r#"{"below": 95, "hysteresis": 10}"#, ".hysteresis", "ever end");
        check(r#"{"above": 1, "for": -1}"#, ".for", "seconds");
        check(r#"{"above": 1, "for": 1e6}"#, ".for", "86400 s");
        check(r#"{"above": 1, "severity": "bad"}"#, ".severity", "info, warning, critical");
        check(r#"{"above": 1, "over": 2}"#, ".over", "unknown field");
    }

    #[test]
    fn seconds_decide_the_window_when_they_are_set() {
        let window = settings(r#"{"window_size": 7, "window_seconds": 1.5}"#).window;
        assert_eq!(window, WindowEnd::Duration(Duration::from_millis(1500)));
        let window = settings(r#"{"window_size": 7, "window_seconds": null}"#).window;
        assert_eq!(window, WindowEnd::Snapshots(7));
    }

    #[test]
    fn a_tolerance_is_absolute_or_relative() {
        let tolerance = settings(
            r#"{"deduplication": {"tolerance":
                {"cpu_percent": 0.5, "load1": 1, "net_in_mb": "0.25%", "net_out_mb": "100 %"}}}"#,
        )
        .deduplication
        .tolerance;
        assert_eq!(tolerance.of(Metric::CpuPercent), Tolerance::Absolute(50));
        assert_eq!(tolerance.of(Metric::Load1), Tolerance::Absolute(100));
        assert_eq!(tolerance.of(Metric::NetIn), Tolerance::Relative { hundredths: 25 });
        assert_eq!(tolerance.of(Metric::NetOut), Tolerance::Relative { hundredths: 10_000 });
        for bad in [r#""1""#, r#""-1%""#, r#""0.001%""#, r#""101%""#, r#""%""#, r#""1%%""#] {
            let text = format!(r#"{{"deduplication": {{"tolerance": {{"load1": {bad}}}}}}}"#);
            check_refused(&text, "deduplication.tolerance.load1", "0% to 100%");
        }
        let text = r#"{"deduplication": {"tolerance": {"load1": true}}}"#;
        check_refused(text, "deduplication.tolerance.load1", "a text such as");
        let text = r#"{"deduplication": {"tolerance": {"load1": -1}}}"#;
        check_refused(text, "deduplication.tolerance.load1", "negative");
    }

    #[test]
    fn a_condition_is_read_and_its_errors_have_a_column() {
        let filter = settings(r#"{"condition": "cpu_percent > 20 or load1 > 1"}"#).filter;
        assert_eq!(filter.condition.terms().len(), 2);
        check_refused(r#"{"condition": "cpu_percent"}"#, "condition", "column 12: expected one of");
        check_refused(r#"{"condition": 20}"#, "condition", "it must be text in quotes");
    }

    const OWN: &str =
        r#"{"plugins": ["own.b", "filter", "own.a"], "own": {"own.a": [3, -1], "own.b": []}}"#;

    #[test]
    fn own_plugins_are_those_of_the_agent() {
        let kinds = |config: &Config| config.settings().plugins.to_vec();
        let own = |index| PluginKind::Own(OwnIndex::new(index).unwrap());
        let document = Document::parse(OWN).unwrap();
        let any = document.config().unwrap();
        assert_eq!(kinds(&any), [own(0), PluginKind::Filter, own(1)]);
        assert_eq!(any.settings().own[1], [3, -1, 0, 0]);
        let config = document.config_for(&["own.a", "own.b"]).unwrap();
        assert_eq!(kinds(&config), [own(1), PluginKind::Filter, own(0)]);
        assert_eq!(config.settings().own[0], [3, -1, 0, 0]);

        let error = document.config_for(&["own.b"]).unwrap_err();
        assert_eq!(error.path, "plugins[2]");
        let text = "unknown plugin \"own.a\"; known are \
                    deduplication, threshold_alert, aggregation, filter, own.b";
        assert_eq!(error.reason, text);
        let misspelt = Document::parse(r#"{"own": {"own.aa": [3]}}"#).unwrap();
        assert_eq!(misspelt.config_for(&["own.a"]).unwrap_err().path, "own.own.aa");
    }

    #[test]
    fn what_is_wrong_with_own_plugins_is_named_with_its_path() {
        check_refused(r#"{"plugins": ["own.A"]}"#, "plugins[0]", "own.NAME for the agent's own");
        check_refused(r#"{"plugins": ["own.a", "own.a"]}"#, "plugins[1]", "own.a is listed twice");
        let many = r#"{"plugins": ["own.a", "own.b", "own.c", "own.d", "own.e"]}"#;
        check_refused(many, "plugins[4]", "at most 4 own plugins");
        check_refused(r#"{"own": {"a": [1]}}"#, "own.a", "own.NAME");
        check_refused(r#"{"own": {"own.a": 1}}"#, "own.own.a", "it must be a list");
        check_refused(
            r#"{"own": {"own.a": [1.5]}}"#,
            "own.own.a[0]",
            "it must be a whole number, without quotes",
        );
        check_refused(r#"{"own": {"own.a": [1, 2, 3, 4, 5]}}"#, "own.own.a", "at most 4");
    }

    #[test]
    fn layers_merge_by_rfc_7386() {
        let below = r#"{"interval": 1, "thresholds": {"cpu_percent": 50, "net_in_mb": 1}}"#;
        let above = r#"{"interval": null, "window_size": 3, "thresholds": {"net_in_mb": 2}}"#;
        let parse = |text| Document::parse(text).unwrap();
        assert_eq!(
            Document::merge(&parse(below), &parse(above)).to_json(),
            r#"{"thresholds":{"cpu_percent":50,"net_in_mb":2},"window_size":3}"#
        );
    }

    #[test]
    fn what_a_host_decides_leaves_nothing_of_it_below() {
        let check = |below: &str, host: &str, expected: &str| {
            let parse = |text| Document::parse(text).unwrap();
            let decided = Document::decide(&parse(below), &parse(host));
            assert_eq!(decided.to_json(), expected, "{host} over {below}");
            decided.config().unwrap();
        };
        let (size, seconds) = (r#"{"window_size":10}"#, r#"{"window_seconds":60}"#);
        check(seconds, size, size);
        check(size, seconds, seconds);
        check(r#"{"window_size":3,"window_seconds":60}"#, size, size);
        check(seconds, r#"{"interval":1}"#, r#"{"window_seconds":60,"interval":1}"#);
        let thresholds = |rules: &str| format!(r#"{{"thresholds":{{{rules}}}}}"#);
        let of_host = thresholds(r#""cpu_percent":{"above":90}"#);
        for rule in
            [r#"{"above":50,"for":86400,"severity":"info"}"#, r#"{"below":5}"#, "50", "false"]
        {
            let below = thresholds(&format!(r#""cpu_percent":{rule}"#));
            check(&below, &of_host, &of_host);
            let scalar = thresholds(r#""cpu_percent":90"#);
            check(&below, &scalar, &scalar);
            let off = thresholds(r#""cpu_percent":false"#);
            check(&below, &off, &off);
        }
        check(
            &thresholds(r#""cpu_percent":{"below":5},"load1":{"above":4,"for":9}"#),
            &of_host,
            &thresholds(r#""load1":{"above":4,"for":9},"cpu_percent":{"above":90}"#),
        );
        check(
            &thresholds(r#""load1":4"#),
            r#"{"interval":1}"#,
            r#"{"thresholds":{"load1":4},"interval":1}"#,
        );
    }

    fn params(pairs: &[(&str, &str)]) -> HashMap<String, String> {
        pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
    }

    #[test]
    fn params_are_json_or_plain_text() {
        let document = Document::from_params(&params(&[
            ("interval", "2"),
            ("metrics", "cpu, disk read"),
            ("plugins", r#"["filter"]"#),
            ("thresholds.cpu_percent", "70"),
            ("thresholds.net_in_mb", "7"),
        ]));
        assert_eq!(
            document.unwrap().to_json(),
            r#"{"interval":2,"metrics":["cpu","disk read"],"plugins":["filter"],"thresholds":{"cpu_percent":70,"net_in_mb":7}}"#
        );
        let document = Document::from_params(&params(&[("interval", "null")])).unwrap();
        let below = Document::parse(r#"{"interval": 1, "window_size": 2}"#).unwrap();
        assert_eq!(Document::merge(&below, &document).to_json(), r#"{"window_size":2}"#);
        let document = Document::from_params(&params(&[
            ("condition", "load1 > 1"),
            ("deduplication.tolerance.load1", "1%"),
            ("own.every_nth", "3"),
            ("own.pick", "1, 2"),
            ("own.reset", "null"),
            ("plugins", "own.every_nth,filter"),
            ("thresholds.cpu_percent.above", "70"),
            ("thresholds.cpu_percent.severity", "info"),
            ("thresholds.load1", "false"),
        ]));
        assert_eq!(
            document.unwrap().to_json(),
            concat!(
                r#"{"condition":"load1 > 1","deduplication":{"tolerance":{"load1":"1%"}},"#,
                r#""own":{"own.every_nth":[3],"own.pick":[1,2],"own.reset":null},"#,
                r#""plugins":["own.every_nth","filter"],"#,
                r#""thresholds":{"cpu_percent":{"above":70,"severity":"info"},"load1":false}}"#,
            )
        );
        let given = params(&[("own", r#"{"own.a": [1]}"#), ("own.b", "[2]")]);
        let document = Document::from_params(&given).unwrap();
        assert_eq!(document.to_json(), r#"{"own":{"own.a":[1],"own.b":[2]}}"#);
        let error = Document::from_params(&params(&[("own.a", "many")])).unwrap_err();
        assert_eq!(error.path, "own.own.a[0]");
        let error = Document::from_params(&params(&[("own.A", "1")])).unwrap_err();
        assert_eq!(error.path, "own.A");
        let error = Document::from_params(&params(&[("shell", "rm")])).unwrap_err();
        assert_eq!(error.path, "shell");
        let error = Document::from_params(&params(&[("interval", "soon")])).unwrap_err();
        assert_eq!(error.path, "interval");
    }

    /// JSON that has much of what a document may have, at places where it may stand and where it may not.
    fn any_json() -> impl Strategy<Value = Value> {
        let words = KEYS.iter().copied().map(str::to_owned);
        let words = words.chain(Metric::ALL.map(|metric| metric.name().to_owned()));
        let more =
            ["above", "below", "hysteresis", "for", "severity", "info", "1%", "own.a", "own.b"];
        let more = more.into_iter().chain(["tolerance", "max_silence", "filter", "load1 > 1"]);
        let words = words.chain(more.map(str::to_owned)).collect::<Vec<_>>();
        let word = prop::sample::select(words);
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            (-10.0..100.0f64).prop_map(Value::from),
            word.clone().prop_map(Value::from),
        ];
        leaf.prop_recursive(4, 40, 6, move |inner| {
            let object = prop::collection::vec((word.clone(), inner.clone()), 0..6);
            prop_oneof![
                prop::collection::vec(inner, 0..6).prop_map(Value::from),
                object.prop_map(|entries| Value::from(Map::from_iter(entries))),
            ]
        })
    }

    proptest! {
        #[test]
        fn no_text_panics(text in ".*") {
            Document::parse(&text).ok();
        }

        #[test]
        fn no_json_panics(value in any_json()) {
            if let Ok(document) = Document::from_value(value) {
                prop_assert!(document.config().is_ok());
                document.config_for(&["own.a"]).ok();
            }
        }

        #[test]
        fn no_params_panic(
            params in prop::collection::hash_map("[a-z_.]{0,20}|own\\.[a-z.]{0,3}", ".{0,20}", 0..5),
        ) {
            Document::from_params(&params).ok();
        }

        #[test]
        fn a_valid_document_reads_back_from_its_own_json(
            interval in 0.1..86_400.0f64,
            window in 1..3600u64,
            cpu in 0.0..100.0f64,
        ) {
            let text = format!(
                r#"{{"interval": {interval}, "window_size": {window}, "min_cpu": {cpu}}}"#
            );
            let document = Document::parse(&text).unwrap();
            prop_assert_eq!(&Document::parse(&document.to_json()).unwrap(), &document);
        }
    }
}
