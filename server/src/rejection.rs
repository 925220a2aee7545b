//! What a peer is told when something it sent is refused.

use tonic::{Code, Status};

/// The kind of a rejection: it decides the status code and the counter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reason {
    /// Bytes that are not the message they should be, or a message without a part that it must have.
    Malformed,
    /// A message beyond the size limit.
    Oversized,
    /// Not an agent id, or not the one of the stream.
    AgentId,
    /// A metric value that is no finite number, or counts that do not fit their bits.
    Value,
    /// A time outside the years 1970 to 9999.
    Timestamp,
    /// Too many or too long metadata entries.
    Metadata,
    /// Records of a batch out of order, or a jump that no loss explains.
    Sequence,
    /// Packed records that are not of the form.
    Packed,
    /// Two live agents with one id.
    DuplicateId,
    /// Not a command id, or one that names another command.
    CommandId,
    /// A command type that does not exist.
    CommandType,
    /// Parameters that the command does not take.
    CommandParams,
    /// A time to live beyond the limit.
    CommandTtl,
    /// A configuration document that is not valid.
    Config,
    /// A configuration that somebody else changed in between.
    ConfigConflict,
    /// A request with values out of range.
    Request,
    /// A bound of the server is reached.
    Busy,
    /// A message that was begun and did not come to its end in time.
    Slow,
}

impl Reason {
    pub(crate) const ALL: [Self; 18] = [
        Self::Malformed,
        Self::Oversized,
        Self::AgentId,
        Self::Value,
        Self::Timestamp,
        Self::Metadata,
        Self::Sequence,
        Self::Packed,
        Self::DuplicateId,
        Self::CommandId,
        Self::CommandType,
        Self::CommandParams,
        Self::CommandTtl,
        Self::Config,
        Self::ConfigConflict,
        Self::Request,
        Self::Busy,
        Self::Slow,
    ];

    /// The word after `rejected.` in the counters.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Malformed => "malformed",
            Self::Oversized => "oversized",
            Self::AgentId => "agent_id",
            Self::Value => "value",
            Self::Timestamp => "timestamp",
            Self::Metadata => "metadata",
            Self::Sequence => "sequence",
            Self::Packed => "packed",
            Self::DuplicateId => "duplicate_id",
            Self::CommandId => "command_id",
            Self::CommandType => "command_type",
            Self::CommandParams => "command_params",
            Self::CommandTtl => "command_ttl",
            Self::Config => "config",
            Self::ConfigConflict => "config_conflict",
            Self::Request => "request",
            Self::Busy => "busy",
            Self::Slow => "slow",
        }
    }

    const fn code(self) -> Code {
        match self {
            Self::Oversized => Code::OutOfRange,
            Self::DuplicateId => Code::AlreadyExists,
            Self::ConfigConflict => Code::FailedPrecondition,
            Self::Busy => Code::ResourceExhausted,
            Self::Slow => Code::DeadlineExceeded,
            Self::Malformed
            | Self::AgentId
            | Self::Value
            | Self::Timestamp
            | Self::Metadata
            | Self::Sequence
            | Self::Packed
            | Self::CommandId
            | Self::CommandType
            | Self::CommandParams
            | Self::CommandTtl
            | Self::Config
            | Self::Request => Code::InvalidArgument,
        }
    }
}

/// Why something that a peer sent was refused. The peer is at fault, or a bound is reached; it is never ours.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub(crate) struct Rejection {
    pub(crate) reason: Reason,
    message: String,
}

impl Rejection {
    pub(crate) fn new(reason: Reason, message: impl Into<String>) -> Self {
        Self { reason, message: message.into() }
    }

    /// What the text field `what` is when it is longer than `max` bytes.
    pub(crate) fn check_text(what: &str, text: &str, max: usize) -> Result<(), Self> {
        if text.len() <= max {
            return Ok(());
        }
        let message = format!("{what} has {} bytes, at most {max} are allowed", text.len());
        Err(Self::new(Reason::Malformed, message))
    }

    /// Reads a refusal of tonic's decoder; none when the status says something else, such as a lost peer.
    ///
    /// tonic calls undecodable bytes an internal error. They are the peer's fault, so they become
    /// INVALID_ARGUMENT. The texts are those of tonic 0.14 and prost 0.14; the integration tests pin them.
    pub(crate) fn from_decoder(code: Code, message: &str) -> Option<Self> {
        const MALFORMED: [&str; 3] = [
            "failed to decode Protobuf message",
            "protocol error: received message with",
            "Unexpected EOF decoding stream",
        ];
        match code {
            Code::OutOfRange => Some(Self::new(Reason::Oversized, message)),
            // Said by our own watch over a stream's pace.
            Code::DeadlineExceeded if message.starts_with("a message was begun") => {
                Some(Self::new(Reason::Slow, message))
            }
            Code::Internal if MALFORMED.iter().any(|start| message.starts_with(start)) => {
                Some(Self::new(Reason::Malformed, message))
            }
            _ => None,
        }
    }
}

impl From<Rejection> for Status {
    fn from(rejection: Rejection) -> Self {
        Self::new(rejection.reason.code(), status_text(&rejection.message))
    }
}

/// Bytes of the text of a status. It travels in a header, and clients take a header that is too long for a broken
/// connection; what is not ASCII takes three times its bytes there.
const STATUS_TEXT_BYTES_MAX: usize = 1024;

/// A text that may quote what a peer sent, as the text of a status: without control characters, and cut where it is too
/// long.
pub(crate) fn status_text(text: &str) -> String {
    const CUT: char = '…';
    let mut told = String::with_capacity(text.len().min(STATUS_TEXT_BYTES_MAX));
    for character in text.chars() {
        let before = told.len();
        if character.is_control() {
            told.extend(character.escape_default());
        } else {
            told.push(character);
        }
        if STATUS_TEXT_BYTES_MAX < told.len() {
            told.truncate(before);
            let fits = STATUS_TEXT_BYTES_MAX - CUT.len_utf8();
            told.truncate(told.floor_char_boundary(fits));
            told.push(CUT);
            break;
        }
    }
    told
}

impl From<agent_core::id::AgentIdError> for Rejection {
    fn from(error: agent_core::id::AgentIdError) -> Self {
        Self::new(Reason::AgentId, error.to_string())
    }
}

impl From<bus::query::QueryError> for Rejection {
    fn from(error: bus::query::QueryError) -> Self {
        match error {
            bus::query::QueryError::AgentId(error) => error.into(),
            other => Self::new(Reason::Request, other.to_string()),
        }
    }
}

impl From<agent_core::id::CommandIdError> for Rejection {
    fn from(error: agent_core::id::CommandIdError) -> Self {
        Self::new(Reason::CommandId, error.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn decoder_errors_are_told_from_lost_peers() {
        let reason = |code, text| Rejection::from_decoder(code, text).map(|r| r.reason);
        let undecodable = "failed to decode Protobuf message: invalid varint";
        assert_eq!(reason(Code::Internal, undecodable), Some(Reason::Malformed));
        let large = "Error, decoded message length too large: found 9 bytes";
        assert_eq!(reason(Code::OutOfRange, large), Some(Reason::Oversized));
        assert_eq!(reason(Code::Internal, "h2 protocol error"), None);
        assert_eq!(reason(Code::Unknown, undecodable), None);
    }

    #[test]
    fn the_text_of_a_status_is_short_and_plain() {
        assert_eq!(status_text("no key \"a\u{1b}[2J\nb\""), "no key \"a\\u{1b}[2J\\nb\"");
        let fits = "x".repeat(STATUS_TEXT_BYTES_MAX);
        assert_eq!(status_text(&fits), fits);
        for part in ["x", "é", "東", "🌍", "\n", "x🌍\u{7f}"] {
            let told = status_text(&part.repeat(10_000));
            assert!(told.len() <= STATUS_TEXT_BYTES_MAX, "{part:?}: {}", told.len());
            assert!(STATUS_TEXT_BYTES_MAX - 16 < told.len(), "{part:?}: {}", told.len());
            assert!(told.ends_with('…') && !told.contains('\n'), "{told}");
        }
        let rejection = Rejection::new(Reason::CommandParams, "é".repeat(10_000));
        assert!(Status::from(rejection).message().len() <= STATUS_TEXT_BYTES_MAX);
    }

    #[test]
    fn only_the_bounds_and_conflicts_are_not_invalid_arguments() {
        let others: Vec<Reason> = Reason::ALL
            .into_iter()
            .filter(|reason| reason.code() != Code::InvalidArgument)
            .collect();
        let expected = [
            Reason::Oversized,
            Reason::DuplicateId,
            Reason::ConfigConflict,
            Reason::Busy,
            Reason::Slow,
        ];
        assert_eq!(others, expected);
    }
}
