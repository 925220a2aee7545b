//! What every client of librdkafka here has in common: where its log goes.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use rdkafka::ClientContext;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::consumer::ConsumerContext;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};

/// An error that stays the same is logged this often. A broker that is down is an error with each attempt.
const REPEAT_AFTER: Duration = Duration::from_secs(60);

/// Sends what librdkafka says to `tracing`.
#[derive(Debug, Default)]
pub(super) struct Log {
    last: Mutex<Option<(String, Instant)>>,
}

impl Log {
    fn is_news(&self, text: &str) -> bool {
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        let old = last.as_ref().is_some_and(|(t, at)| t == text && at.elapsed() < REPEAT_AFTER);
        if !old {
            *last = Some((text.to_owned(), Instant::now()));
        }
        !old
    }
}

impl ClientContext for Log {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        match level {
            RDKafkaLogLevel::Emerg | RDKafkaLogLevel::Alert | RDKafkaLogLevel::Critical => {
                tracing::error!(facility, "kafka: {message}");
            }
            // Failing connections are here, once per attempt; `error` tells of them too.
            RDKafkaLogLevel::Error
            | RDKafkaLogLevel::Warning
            | RDKafkaLogLevel::Notice
            | RDKafkaLogLevel::Info
            | RDKafkaLogLevel::Debug => tracing::debug!(facility, "kafka: {message}"),
        }
    }

    fn error(&self, error: KafkaError, reason: &str) {
        // The end of a partition comes this way too.
        if matches!(error.rdkafka_error_code(), Some(RDKafkaErrorCode::PartitionEOF)) {
            return;
        }
        let text = error.to_string();
        if self.is_news(&text) {
            tracing::warn!(reason, "kafka: {text}");
        }
    }
}

impl ConsumerContext for Log {}

/// Runs `work`, which ends a client, on a thread of its own: librdkafka waits for its threads to end.
pub(super) fn discard(work: impl FnOnce() + Send + 'static) {
    let spawned = std::thread::Builder::new().name("kafka-discard".to_owned()).spawn(work);
    if let Err(error) = spawned {
        // What the work holds was dropped here instead.
        tracing::warn!(%error, "no thread to end a Kafka client");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_error_is_news_once() {
        let log = Log::default();
        assert!(log.is_news("down"));
        assert!(!log.is_news("down"));
        assert!(log.is_news("up"));
        assert!(log.is_news("down"));
    }
}
