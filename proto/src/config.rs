//! The JSON form of an agent configuration.
