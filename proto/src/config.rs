//! The JSON form of an agent's configuration.
//!
//! A [`Document`] is one layer: the store's `_default`, the store's own for an agent, or the agent's local file
//! and flags. Layers are merged by RFC 7386 (JSON Merge Patch): a key above replaces the one below, objects merge
//! key by key, `null` above takes the key below away. What no layer says has the default of
//! [`agent_core::config::Settings`]. Unknown keys are kept and have no effect; unknown names inside known keys are
//! errors, because a misspelt plugin or metric would otherwise be silence.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::marker::PhantomData;
use std::str::FromStr;
use std::time::Duration;

use agent_core::config::{AlertRule, Config, ConfigError, Settings, Tolerance, WindowEnd};
use agent_core::limits::{PLUGINS_MAX, WINDOW_SNAPSHOTS_MAX};
use agent_core::metric::{Metric, MetricSet, MetricSwitch};
use agent_core::plugin::PluginKind;
use serde::de::{Deserialize, Deserializer, Error as _, MapAccess, Visitor};
use serde_json::{Map, Value};

use crate::convert::count_from_units;

/// Bytes of a document.
pub const DOCUMENT_BYTES_MAX: usize = 65_536;

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

/// The keys that have an effect, with their JSON types. `None` is a key that is absent or null.
#[derive(serde::Deserialize)]
struct Fields {
    interval: Option<f64>,
    metrics: Option<Vec<String>>,
    plugins: Option<Vec<String>>,
    thresholds: Option<UniqueMap<Option<f64>>>,
    window_size: Option<u64>,
    min_cpu: Option<f64>,
    min_memory: Option<f64>,
    send_idle: Option<bool>,
    deduplication: Option<DeduplicationFields>,
}

#[derive(serde::Deserialize)]
struct DeduplicationFields {
    tolerance: Option<UniqueMap<Option<f64>>>,
    max_silence: Option<f64>,
}

/// The names of [`Fields`], in the order of the documentation.
pub const KEYS: [&str; 9] = [
    "interval",
    "metrics",
    "plugins",
    "thresholds",
    "window_size",
    "min_cpu",
    "min_memory",
    "send_idle",
    "deduplication",
];

impl Document {
    /// Reads a layer from JSON and checks everything that can be checked without the other layers.
    ///
    /// # Errors
    ///
    /// The text is too long, is not JSON or no object, nests too deep, repeats a key, or a known key has a wrong
    /// type or a value out of range.
    pub fn parse(text: &str) -> Result<Self, DocumentError> {
        if DOCUMENT_BYTES_MAX < text.len() {
            let reason = format!(
                "document has {} bytes, at most {DOCUMENT_BYTES_MAX} are allowed",
                text.len()
            );
            return Err(DocumentError::new(".", reason));
        }
        // Read twice: into the types for errors with a path and for repeated keys, then as a whole for merging.
        parse_fields(text)?;
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
    /// A key is one of [`KEYS`] or a path into one (`thresholds.cpu_percent`). A value is JSON; what is no JSON is
    /// taken as a string, and as a comma-separated list for `metrics` and `plugins`.
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
        let mut object = Map::new();
        // In order, so that the same params always give the same document and the same error.
        for (path, text) in params.iter().collect::<BTreeMap<_, _>>() {
            let key = path.split('.').next().unwrap_or_default();
            if !KEYS.contains(&key) {
                let reason = format!("unknown key; known are {}", KEYS.join(", "));
                return Err(DocumentError::new(path.as_str(), reason));
            }
            let value = match serde_json::from_str(text) {
                Ok(value) => value,
                Err(_) if matches!(path.as_str(), "metrics" | "plugins") => {
                    text.split(',').map(|item| Value::from(item.trim())).collect()
                }
                Err(_) => Value::from(text.as_str()),
            };
            let nested = path.rsplit('.').fold(value, |inner, part| {
                Value::Object(Map::from_iter([(part.to_owned(), inner)]))
            });
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

    /// The configuration that this layer makes of the defaults.
    ///
    /// # Errors
    ///
    /// The first key whose value cannot be used. A merge of valid layers can still have one.
    pub fn config(&self) -> Result<Config, DocumentError> {
        let text = self.to_json();
        let fields = parse_fields(&text)?;
        Config::new(fields.settings()?).map_err(|error| DocumentError::new(path_of(error), error))
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

fn parse_fields(text: &str) -> Result<Fields, DocumentError> {
    let mut deserializer = serde_json::Deserializer::from_str(text);
    let fields = serde_path_to_error::deserialize(&mut deserializer).map_err(|error| {
        // The library's word for text that cannot be read as far as a key.
        let path = match error.path().to_string() {
            path if path == "?" => ".".to_owned(),
            path => path,
        };
        DocumentError::new(path, error.into_inner())
    })?;
    deserializer.end().map_err(|error| DocumentError::new(".", error))?;
    Ok(fields)
}

impl Fields {
    fn settings(self) -> Result<Settings, DocumentError> {
        let mut settings = Settings::default();
        if let Some(interval) = self.interval {
            settings.interval = duration("interval", interval)?;
        }
        if let Some(names) = self.metrics {
            settings.metrics = MetricSet::EMPTY;
            for (index, name) in names.iter().enumerate() {
                let switch = name.parse::<MetricSwitch>().map_err(|_| {
                    let known = MetricSwitch::SINGLE.map(MetricSwitch::name).join(", ");
                    let reason = format!("unknown metric {name:?}; known are {known}");
                    DocumentError::new(format!("metrics[{index}]"), reason)
                })?;
                settings.metrics = settings.metrics.union(switch.metrics());
            }
        }
        if let Some(names) = self.plugins {
            settings.plugins.clear();
            for (index, name) in names.iter().enumerate() {
                let path = || format!("plugins[{index}]");
                let kind = name.parse::<PluginKind>().map_err(|_| {
                    let known = PluginKind::BUILT_IN.map(|kind| kind.name(&[])).join(", ");
                    DocumentError::new(
                        path(),
                        format!("unknown plugin {name:?}; known are {known}"),
                    )
                })?;
                settings.plugins.push(kind).map_err(|_| {
                    DocumentError::new(path(), format!("at most {PLUGINS_MAX} plugins are allowed"))
                })?;
            }
        }
        if let Some(UniqueMap(limits)) = self.thresholds {
            set_counts("thresholds", limits, |metric, limit| {
                settings.thresholds.set(metric, AlertRule::above(limit));
            })?;
        }
        if let Some(size) = self.window_size {
            let size = u16::try_from(size).map_err(|_| {
                let reason =
                    format!("window_size is {size}, it must be 1 to {WINDOW_SNAPSHOTS_MAX}");
                DocumentError::new("window_size", reason)
            })?;
            settings.window = WindowEnd::Snapshots(size);
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
        if let Some(deduplication) = self.deduplication {
            if let Some(UniqueMap(tolerances)) = deduplication.tolerance {
                let tolerance = &mut settings.deduplication.tolerance;
                set_counts("deduplication.tolerance", tolerances, |metric, count| {
                    tolerance.set(metric, Tolerance::Absolute(count));
                })?;
            }
            if let Some(silence) = deduplication.max_silence {
                settings.deduplication.max_silence =
                    duration("deduplication.max_silence", silence)?;
            }
        }
        Ok(settings)
    }
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

fn set_counts(
    path: &str,
    pairs: BTreeMap<String, Option<f64>>,
    mut set: impl FnMut(Metric, i64),
) -> Result<(), DocumentError> {
    for (name, value) in pairs {
        let path = format!("{path}.{name}");
        let metric = name.parse::<Metric>().map_err(|_| {
            let known = Metric::ALL.map(Metric::name).join(", ");
            DocumentError::new(path.as_str(), format!("unknown metric; known are {known}"))
        })?;
        if let Some(value) = value {
            set(metric, count(&path, metric, value)?);
        }
    }
    Ok(())
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
        ConfigError::Hysteresis(metric) => format!("thresholds.{metric}.hysteresis"),
        ConfigError::AlertFor { metric, .. } => format!("thresholds.{metric}.for"),
        ConfigError::Tolerance(metric) => format!("deduplication.tolerance.{metric}"),
        ConfigError::MaxSilence { .. } => "deduplication.max_silence".to_owned(),
        ConfigError::MinCpu => "min_cpu".to_owned(),
        ConfigError::MinMemory => "min_memory".to_owned(),
    }
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

/// A JSON object whose keys must differ; serde's own maps let the last one win.
struct UniqueMap<V>(BTreeMap<String, V>);

impl<'de, V: Deserialize<'de>> Deserialize<'de> for UniqueMap<V> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct UniqueMapVisitor<V>(PhantomData<V>);

        impl<'de, V: Deserialize<'de>> Visitor<'de> for UniqueMapVisitor<V> {
            type Value = UniqueMap<V>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut access: A) -> Result<Self::Value, A::Error> {
                let mut map = BTreeMap::new();
                while let Some((key, value)) = access.next_entry::<String, V>()? {
                    if map.contains_key(&key) {
                        return Err(A::Error::custom(format_args!("key {key:?} stands twice")));
                    }
                    map.insert(key, value);
                }
                Ok(UniqueMap(map))
            }
        }

        deserializer.deserialize_map(UniqueMapVisitor(PhantomData))
    }
}

#[cfg(test)]
mod tests {
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
        assert_eq!(settings.thresholds.get(Metric::CpuPercent), Some(9000));
        assert_eq!(settings.thresholds.get(Metric::NetIn), Some(1_572_864));
        assert_eq!(settings.thresholds.get(Metric::NetOut), Some(50 * 1_048_576));
        assert_eq!((settings.window_size, settings.filter.min_cpu), (10, 150));
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
    fn what_is_wrong_is_named_with_its_path() {
        check_refused("", ".", "EOF");
        check_refused("{", ".", "EOF");
        check_refused(r#"{"interval": 1,"#, ".", "EOF");
        check_refused("\u{feff}{}", ".", "expected value");
        check_refused("[]", ".", "");
        check_refused("{} {}", ".", "trailing");
        check_refused(r#"{"interval": 0}"#, "interval", "0 ms");
        check_refused(r#"{"interval": -1}"#, "interval", "-1");
        check_refused(r#"{"interval": 1e-9}"#, "interval", "is 0 ms");
        check_refused(r#"{"interval": 1e300}"#, "interval", "seconds");
        check_refused(r#"{"interval": 1e400}"#, "interval", "out of range");
        check_refused(r#"{"interval": "5"}"#, "interval", "invalid type");
        check_refused(r#"{"interval": 1, "interval": 2}"#, ".", "duplicate");
        check_refused(r#"{"metrics": []}"#, "metrics", "empty");
        check_refused(r#"{"metrics": ["cpu", "gpu"]}"#, "metrics[1]", "gpu");
        check_refused(r#"{"plugins": ["filter", "x.y"]}"#, "plugins[1]", "x.y");
        check_refused(r#"{"plugins": ["filter", "filter"]}"#, "plugins", "twice");
        check_refused(r#"{"thresholds": {"cpu": 1}}"#, "thresholds.cpu", "cpu_percent");
        check_refused(r#"{"thresholds": {"net_in_mb": -1}}"#, "thresholds.net_in_mb", "negative");
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
        check_refused(r#"{"window_size": 1.5}"#, "window_size", "invalid type");
        check_refused(r#"{"min_cpu": 101}"#, "min_cpu", "0 to 100");
        check_refused(
            r#"{"deduplication": {"max_silence": 0}}"#,
            "deduplication.max_silence",
            "it must be",
        );
        check_refused(&format!(r#"{{"x": {}1{}}}"#, "[".repeat(9), "]".repeat(9)), ".", "deeper");
        check_refused(&format!(r#"{{"x": {}}}"#, "[".repeat(10_000)), "x", "");
        check_refused(&format!(r#"{{"x": "{}"}}"#, "x".repeat(65_536)), ".", "65536");
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
        let error = Document::from_params(&params(&[("shell", "rm")])).unwrap_err();
        assert_eq!(error.path, "shell");
        let error = Document::from_params(&params(&[("interval", "soon")])).unwrap_err();
        assert_eq!(error.path, "interval");
    }

    proptest! {
        #[test]
        fn no_text_panics(text in ".*") {
            Document::parse(&text).ok();
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
