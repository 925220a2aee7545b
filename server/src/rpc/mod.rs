//! The gRPC doors: they read requests, call the rooms, and write answers.

mod decoding;
mod frame;
mod monitoring;
mod operator;
mod pace;

use tonic::Status;
use tracing::warn;

use crate::config::ConfigError;
use crate::rejection::{Rejection, status_text};
use crate::shared::Shared;

pub(crate) use decoding::retell_decoding_errors;
pub(crate) use monitoring::Monitoring;
#[cfg(feature = "simulation")]
pub(crate) use monitoring::welcome;
pub(crate) use operator::Operator;

/// Counts a rejection and makes it a status.
fn refuse(shared: &Shared, rejection: Rejection) -> Status {
    shared.counters.reject(rejection.reason);
    rejection.into()
}

/// A bus or store that cannot be used now.
fn unavailable(error: &(dyn std::error::Error + 'static)) -> Status {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    warn!("{text}");
    Status::unavailable(status_text(&text))
}

fn config_status(shared: &Shared, error: ConfigError) -> Status {
    match error {
        ConfigError::Rejected(rejection) => refuse(shared, rejection),
        ConfigError::Unknown(_) => Status::unavailable(status_text(&error.to_string())),
        ConfigError::Store { .. } => unavailable(&error),
    }
}

fn stopping() -> Status {
    Status::unavailable("server is shutting down")
}
