//! A stored record as `picket get-metrics --output json` prints it.

use serde_json::Value;

#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Record(Value);

impl Record {
    pub(crate) fn new(value: Value) -> Self {
        Self(value)
    }

    pub(crate) fn json(&self) -> &Value {
        &self.0
    }

    #[track_caller]
    pub(crate) fn boot(&self) -> &str {
        self.0["boot"].as_str().unwrap()
    }

    #[track_caller]
    pub(crate) fn sequence(&self) -> u64 {
        self.0["sequence"].as_u64().unwrap()
    }

    #[track_caller]
    pub(crate) fn timestamp_ms(&self) -> i64 {
        self.0["timestamp_ms"].as_i64().unwrap()
    }

    /// The value in its unit; none when it was not measured.
    pub(crate) fn metric(&self, name: &str) -> Option<f64> {
        self.0["metrics"][name].as_f64()
    }

    /// The names of what was measured.
    pub(crate) fn metric_names(&self) -> Vec<&str> {
        self.0["metrics"].as_object().unwrap().keys().map(String::as_str).collect()
    }
}

/// That `records` are of one boot, from its first record on, without a gap and without a repeat.
#[track_caller]
pub(crate) fn assert_complete(records: &[Record]) {
    let boot = records.first().unwrap().boot();
    for (record, expected) in records.iter().zip(1..) {
        assert_eq!(record.boot(), boot, "another boot at {expected}");
        assert_eq!(record.sequence(), expected, "a gap or a repeat");
    }
}

/// That the equations of the ledger in `status` hold.
#[track_caller]
pub(crate) fn assert_books_balance(status: &Value) {
    let ledger = &status["ledger"];
    let count = |name: &str| ledger[name].as_u64().unwrap();
    let sum = |name: &str| -> u64 {
        ledger[name].as_object().unwrap().values().map(|count| count.as_u64().unwrap()).sum()
    };
    assert_eq!(
        count("produced"),
        sum("suppressed") + count("in_plugins") + count("recorded"),
        "{ledger}"
    );
    let spooled = ledger["spooled"].as_u64().unwrap_or(0);
    let right = count("delivered") + sum("lost") + count("held") + spooled;
    assert_eq!(count("recorded"), right, "{ledger}");
}
