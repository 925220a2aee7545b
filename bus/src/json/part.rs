//! A JSON object that is read key by key, and knows where in the record it stands.

use agent_core::id::BootId;
use proto::{Boot, NamedCount};
use serde_json::{Map, Value};

use super::{JsonError, expected, whole};

/// A key that is absent or null has the value that a message has by default.
pub(super) struct Part<'a> {
    value: &'a Value,
    /// Ends in a dot, or is empty for the record itself.
    path: String,
}

impl<'a> Part<'a> {
    /// The record itself.
    pub(super) const fn record(value: &'a Value) -> Self {
        Self { value, path: String::new() }
    }

    /// The path of `key`.
    pub(super) fn path(&self, key: &str) -> String {
        format!("{}{key}", self.path)
    }

    pub(super) const fn value(&self) -> &'a Value {
        self.value
    }

    pub(super) fn get(&self, key: &str) -> &'a Value {
        &self.value[key]
    }

    pub(super) fn text(&self, key: &str) -> Result<String, JsonError> {
        match self.get(key) {
            Value::Null => Ok(String::new()),
            Value::String(text) => Ok(text.clone()),
            _ => Err(expected(&self.path(key), "a string")),
        }
    }

    pub(super) fn texts(&self, key: &str) -> Result<Vec<String>, JsonError> {
        let texts = self.list(key)?.iter().map(|text| Some(text.as_str()?.to_owned()));
        let texts: Option<Vec<String>> = texts.collect();
        texts.ok_or_else(|| expected(&self.path(key), "a list of strings"))
    }

    /// A whole number from 0 up.
    pub(super) fn whole(&self, key: &str) -> Result<u64, JsonError> {
        whole(self.get(key), &self.path(key))
    }

    pub(super) fn flag(&self, key: &str) -> Result<bool, JsonError> {
        match self.get(key) {
            Value::Null => Ok(false),
            Value::Bool(flag) => Ok(*flag),
            _ => Err(expected(&self.path(key), "true or false")),
        }
    }

    /// Unix seconds. A fraction, as some clocks give, is cut off.
    pub(super) fn seconds(&self, key: &str) -> Result<i64, JsonError> {
        let value = self.get(key);
        if value.is_null() {
            return Ok(0);
        }
        let whole = || value.as_f64().and_then(whole_seconds);
        let seconds = value.as_i64().or_else(whole);
        seconds.ok_or_else(|| expected(&self.path(key), "a number of seconds"))
    }

    pub(super) fn boot(&self) -> Result<Option<Boot>, JsonError> {
        self.boot_at("boot")
    }

    pub(super) fn boot_at(&self, key: &str) -> Result<Option<Boot>, JsonError> {
        let boot = self.get(key).as_str().map(str::parse::<BootId>).transpose()?;
        Ok(boot.map(Boot::from))
    }

    /// The number of an enum value, by its short name or as it stands. A name that this version does not know is 0.
    pub(super) fn number<E: Into<i32>>(
        &self,
        key: &str,
        from_name: fn(&str) -> Option<E>,
        prefix: &str,
    ) -> Result<i32, JsonError> {
        match self.get(key) {
            Value::Null => Ok(0),
            Value::String(name) => Ok(from_name(&format!("{prefix}{name}")).map_or(0, E::into)),
            number => number
                .as_i64()
                .and_then(|number| i32::try_from(number).ok())
                .ok_or_else(|| expected(&self.path(key), "a name or a number of 32 bits")),
        }
    }

    /// An object within this one.
    pub(super) fn part(&self, key: &str) -> Result<Option<Self>, JsonError> {
        match self.get(key) {
            Value::Null => Ok(None),
            value @ Value::Object(_) => Ok(Some(self.within(key, value))),
            _ => Err(expected(&self.path(key), "an object")),
        }
    }

    /// A list of objects.
    pub(super) fn parts(&self, key: &str) -> Result<Vec<Self>, JsonError> {
        let parts = self.list(key)?.iter().enumerate();
        Ok(parts.map(|(index, value)| self.within(&format!("{key}[{index}]"), value)).collect())
    }

    /// Objects by name.
    pub(super) fn named_parts(&self, key: &str) -> Result<Vec<(&'a str, Self)>, JsonError> {
        let parts = self.entries(key)?.into_iter().flatten();
        let part = |(name, value): (&'a String, &'a Value)| {
            (name.as_str(), self.within(&format!("{key}.{name}"), value))
        };
        Ok(parts.map(part).collect())
    }

    /// Counts by name.
    pub(super) fn named_counts(&self, key: &str) -> Result<Vec<NamedCount>, JsonError> {
        let counts = self.entries(key)?.into_iter().flatten();
        let count = |(name, value): (&String, &Value)| {
            let count = whole(value, &self.path(&format!("{key}.{name}")))?;
            Ok(NamedCount { name: name.clone(), count })
        };
        counts.map(count).collect()
    }

    fn entries(&self, key: &str) -> Result<Option<&'a Map<String, Value>>, JsonError> {
        match self.get(key) {
            Value::Null => Ok(None),
            Value::Object(entries) => Ok(Some(entries)),
            _ => Err(expected(&self.path(key), "an object")),
        }
    }

    fn list(&self, key: &str) -> Result<&'a [Value], JsonError> {
        match self.get(key) {
            Value::Null => Ok(&[]),
            Value::Array(items) => Ok(items),
            _ => Err(expected(&self.path(key), "a list")),
        }
    }

    fn within(&self, key: &str, value: &'a Value) -> Self {
        Self { value, path: format!("{}{key}.", self.path) }
    }
}

/// The whole seconds in a number; none where an `i64` or the precision of a double ends.
fn whole_seconds(seconds: f64) -> Option<i64> {
    const EXACT_BELOW: f64 = (1_u64 << 53) as f64;
    #[expect(clippy::cast_possible_truncation, reason = "cutting off the fraction is the purpose")]
    (seconds.abs() < EXACT_BELOW).then_some(seconds as i64)
}
