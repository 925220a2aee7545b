//! The JSON form of bus records: what Kafka carries, and what `picket --output json` prints.
