//! Identifiers, each a type of its own that only a valid value can become.

use core::fmt;
use core::str::FromStr;

use heapless::String;

use crate::limits::{AGENT_ID_BYTES_MAX, COMMAND_ID_BYTES_MAX};

/// The name of an agent: 1 to 63 bytes of `[A-Za-z0-9._-]`, the first and last alphanumeric, without `..`.
///
/// Such a name is safe in a path, a key, a header and a terminal.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct AgentId(String<AGENT_ID_BYTES_MAX>);

impl AgentId {
    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for AgentId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Why a text is no agent id.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AgentIdError {
    /// Nothing there.
    #[error("agent id is empty")]
    Empty,
    /// More than [`AGENT_ID_BYTES_MAX`] bytes.
    #[error("agent id has {bytes} bytes, at most {AGENT_ID_BYTES_MAX} are allowed")]
    TooLong {
        /// Length of the text.
        bytes: usize,
    },
    /// A byte outside `[A-Za-z0-9._-]`.
    #[error("agent id has a character that is not one of A-Z a-z 0-9 . _ - at byte {index}")]
    Character {
        /// Where it stands, from 0.
        index: usize,
    },
    /// First or last character is not alphanumeric.
    #[error("agent id must begin and end with a letter or a digit")]
    Edge,
    /// Two dots in a row.
    #[error("agent id must not contain \"..\"")]
    DoubleDot,
}

impl FromStr for AgentId {
    type Err = AgentIdError;

    fn from_str(text: &str) -> Result<Self, AgentIdError> {
        let bytes = text.as_bytes();
        let (Some(first), Some(last)) = (bytes.first(), bytes.last()) else {
            return Err(AgentIdError::Empty);
        };
        let id =
            String::try_from(text).map_err(|_| AgentIdError::TooLong { bytes: bytes.len() })?;
        let allowed = |byte: &u8| byte.is_ascii_alphanumeric() || b"._-".contains(byte);
        if let Some(index) = bytes.iter().position(|byte| !allowed(byte)) {
            return Err(AgentIdError::Character { index });
        }
        if !first.is_ascii_alphanumeric() || !last.is_ascii_alphanumeric() {
            return Err(AgentIdError::Edge);
        }
        if text.contains("..") {
            return Err(AgentIdError::DoubleDot);
        }
        Ok(Self(id))
    }
}

/// One process lifetime of an agent. Written `COUNTER-NONCE`, the nonce in 16 hexadecimal digits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct BootId {
    /// Rises by one per start when the agent can remember it, else 0.
    pub counter: u64,
    /// Random, drawn at process start.
    pub nonce: u64,
}

impl fmt::Display for BootId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{:016x}", self.counter, self.nonce)
    }
}

/// The text is not of the form `COUNTER-NONCE`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("boot id is not of the form COUNTER-NONCE")]
pub struct BootIdError;

impl FromStr for BootId {
    type Err = BootIdError;

    fn from_str(text: &str) -> Result<Self, BootIdError> {
        let (counter, nonce) = text.split_once('-').ok_or(BootIdError)?;
        Ok(Self {
            counter: counter.parse().map_err(|_| BootIdError)?,
            nonce: u64::from_str_radix(nonce, 16).map_err(|_| BootIdError)?,
        })
    }
}

/// The place of a record within a boot, from 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Sequence(u64);

impl Sequence {
    /// The first record of a boot.
    pub const FIRST: Self = Self(1);

    /// The sequence with this number; none for 0.
    pub const fn new(number: u64) -> Option<Self> {
        if number == 0 { None } else { Some(Self(number)) }
    }

    /// The number, from 1.
    pub const fn number(self) -> u64 {
        self.0
    }

    /// The one after this. At a thousand records a second it takes 584 million years to reach the end, where
    /// it stays.
    #[must_use]
    pub const fn next(self) -> Self {
        Self(self.0.saturating_add(1))
    }

    /// How many records stand from this one (inclusive) to `end` (exclusive); 0 if `end` is not after it.
    pub const fn count_until(self, end: Self) -> u64 {
        end.0.saturating_sub(self.0)
    }
}

/// The name of a command, chosen by who issues it: 1 to 64 bytes of printable ASCII without blanks.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct CommandId(String<COMMAND_ID_BYTES_MAX>);

impl CommandId {
    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for CommandId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Why a text is no command id.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CommandIdError {
    /// Nothing there.
    #[error("command id is empty")]
    Empty,
    /// More than [`COMMAND_ID_BYTES_MAX`] bytes.
    #[error("command id has {bytes} bytes, at most {COMMAND_ID_BYTES_MAX} are allowed")]
    TooLong {
        /// Length of the text.
        bytes: usize,
    },
    /// A byte that is not printable ASCII, or a blank.
    #[error("command id has a character that is not printable ascii at byte {index}")]
    Character {
        /// Where it stands, from 0.
        index: usize,
    },
}

impl FromStr for CommandId {
    type Err = CommandIdError;

    fn from_str(text: &str) -> Result<Self, CommandIdError> {
        if text.is_empty() {
            return Err(CommandIdError::Empty);
        }
        let id =
            String::try_from(text).map_err(|_| CommandIdError::TooLong { bytes: text.len() })?;
        if let Some(index) = text.bytes().position(|byte| !byte.is_ascii_graphic()) {
            return Err(CommandIdError::Character { index });
        }
        Ok(Self(id))
    }
}

/// The revision of a configuration in the server's store; it only rises. 0 means none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct ConfigRevision(pub u64);

impl fmt::Display for ConfigRevision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::string::ToString;

    fn check_agent(text: &str, expected: Result<(), AgentIdError>) {
        assert_eq!(text.parse::<AgentId>().map(|_| ()), expected, "{text:?}");
    }

    #[test]
    fn agent_ids_follow_the_grammar() {
        let longest = "a".repeat(63);
        for good in ["a", "edge-01", "A.b_c-9", "0", longest.as_str()] {
            check_agent(good, Ok(()));
        }
    }

    #[test]
    fn agent_ids_that_could_harm_a_path_or_key_are_refused() {
        check_agent("", Err(AgentIdError::Empty));
        check_agent(&"a".repeat(64), Err(AgentIdError::TooLong { bytes: 64 }));
        check_agent("../x", Err(AgentIdError::Character { index: 2 }));
        check_agent("a/b", Err(AgentIdError::Character { index: 1 }));
        check_agent("a%2fb", Err(AgentIdError::Character { index: 1 }));
        check_agent("a\0", Err(AgentIdError::Character { index: 1 }));
        check_agent("a\n", Err(AgentIdError::Character { index: 1 }));
        check_agent("a\u{202e}b", Err(AgentIdError::Character { index: 1 }));
        check_agent(".", Err(AgentIdError::Edge));
        check_agent("..", Err(AgentIdError::Edge));
        check_agent("_default", Err(AgentIdError::Edge));
        check_agent("a.", Err(AgentIdError::Edge));
        check_agent("-a", Err(AgentIdError::Edge));
        check_agent("a..b", Err(AgentIdError::DoubleDot));
    }

    #[test]
    fn boot_ids_read_back_what_they_print() {
        for boot in [
            BootId { counter: 0, nonce: 0 },
            BootId { counter: 12, nonce: 0x9f3a },
            BootId { counter: u64::MAX, nonce: u64::MAX },
        ] {
            assert_eq!(boot.to_string().parse(), Ok(boot));
        }
        for bad in ["", "-", "1", "1-", "-1", "1-g", "1-2-3"] {
            assert_eq!(bad.parse::<BootId>(), Err(BootIdError), "{bad:?}");
        }
    }

    #[test]
    fn command_ids_are_short_printable_words() {
        assert!("cmd-1".parse::<CommandId>().is_ok());
        assert_eq!("".parse::<CommandId>(), Err(CommandIdError::Empty));
        assert_eq!("a b".parse::<CommandId>(), Err(CommandIdError::Character { index: 1 }));
        assert_eq!("x".repeat(65).parse::<CommandId>(), Err(CommandIdError::TooLong { bytes: 65 }));
    }
}
