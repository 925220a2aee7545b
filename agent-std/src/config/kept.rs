//! The file in the state directory in which the agent keeps its remote configuration over restarts.
//!
//! ```text
//! picket-agent configuration 1 <checksum>
//! {"agent":"edge-01","confirmed":{...},"trial":null,"quarantine":[]}
//! ```
//!
//! It is replaced as a whole ([`state_file`]), and read only when every byte of it is as it was written. A file that cannot
//! be used is left as it is until there is a document to put in its place.

use std::io;
use std::path::{Path, PathBuf};

use agent_core::id::AgentId;
use serde::{Deserialize, Serialize};

use crate::config::trial::Memory;
use crate::sealed::{self, SealError};
use crate::state_file;

const FILE_NAME: &str = "configuration";
const FORMAT: &str = "1";

/// Two documents with every character escaped and a full quarantine take less than half of it.
const FILE_BYTES_MAX: u64 = 1 << 20;

/// Why the kept configuration is not used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum KeptError {
    #[error(transparent)]
    Seal(#[from] SealError),
    #[error("it has a content that this agent does not know")]
    Content(#[source] serde_json::Error),
    #[error("it is of the agent {agent:.63}")]
    OtherAgent { agent: String },
}

/// Where the configuration of one agent is kept.
#[derive(Debug)]
pub(crate) struct Keeper {
    directory: PathBuf,
    agent: AgentId,
}

#[derive(Serialize)]
struct Written<'a> {
    agent: &'a str,
    #[serde(flatten)]
    memory: &'a Memory,
}

#[derive(Deserialize)]
struct Found {
    agent: String,
    #[serde(flatten)]
    memory: Memory,
}

impl Keeper {
    pub(crate) fn new(directory: &Path, agent: AgentId) -> Self {
        Self { directory: directory.to_owned(), agent }
    }

    pub(crate) fn path(&self) -> PathBuf {
        self.directory.join(FILE_NAME)
    }

    /// What was written last; nothing when there is no file.
    pub(crate) fn read(&self) -> Result<Memory, KeptError> {
        match sealed::read(&self.path(), FILE_BYTES_MAX)? {
            Some(bytes) => decode(&bytes, &self.agent),
            None => Ok(Memory::default()),
        }
    }

    /// # Errors
    ///
    /// When the system refuses; what was written before is still there.
    pub(crate) fn write(&self, memory: &Memory) -> io::Result<()> {
        state_file::replace(&self.directory, FILE_NAME, &encode(memory, &self.agent)?)
    }
}

fn encode(memory: &Memory, agent: &AgentId) -> io::Result<Vec<u8>> {
    let body = serde_json::to_string(&Written { agent: agent.as_str(), memory })?;
    Ok(sealed::seal(FILE_NAME, FORMAT, &body))
}

fn decode(bytes: &[u8], agent: &AgentId) -> Result<Memory, KeptError> {
    let body = sealed::unseal(bytes, FILE_NAME, FORMAT)?;
    let found = serde_json::from_str::<Found>(body).map_err(KeptError::Content)?;
    if found.agent != agent.as_str() {
        return Err(KeptError::OtherAgent { agent: found.agent });
    }
    Ok(found.memory)
}

#[cfg(test)]
mod tests {
    use std::fs::{self, File};
    use std::time::Duration;

    use agent_core::time::Instant;

    use super::*;
    use crate::config::trial::{Source, Trial, Version};

    fn agent() -> AgentId {
        "edge-01".parse().unwrap()
    }

    fn version(revision: u64, text: &str) -> Version {
        Version { source: Source::Etcd { cluster: u64::MAX }, revision, text: text.to_owned() }
    }

    /// A memory with something in each of its parts.
    fn full() -> Memory {
        let window = Duration::from_secs(1);
        let (mut trial, _) = Trial::start(Memory::default(), window, Instant::default());
        trial.handle_applied(Instant::default(), version(1, r#"{"interval": 9}"#));
        trial.poll(Instant::from_ms(1000), true);
        trial.handle_applied(Instant::default(), version(2, "{\"theirs\": \"\u{e4}\n\\\"\"}"));
        trial.poll(Instant::from_ms(1000), false).unwrap();
        trial.handle_applied(Instant::default(), version(u64::MAX, "{}"));
        trial.memory()
    }

    #[test]
    fn what_is_written_reads_back() {
        let directory = tempfile::tempdir().unwrap();
        let keeper = Keeper::new(directory.path(), agent());
        assert_eq!(keeper.read().unwrap(), Memory::default());
        for memory in [full(), Memory::default()] {
            keeper.write(&memory).unwrap();
            assert_eq!(keeper.read().unwrap(), memory);
        }
    }

    #[test]
    fn no_flipped_byte_and_no_cut_goes_unseen() {
        let bytes = encode(&full(), &agent()).unwrap();
        assert_eq!(decode(&bytes, &agent()).unwrap(), full());
        for index in 0..bytes.len() {
            for flip in [0x01, 0x20, 0x80, 0xff] {
                let mut damaged = bytes.clone();
                damaged[index] ^= flip;
                assert!(decode(&damaged, &agent()).is_err(), "byte {index} ^ {flip}");
            }
            assert!(decode(&bytes[..index], &agent()).is_err(), "cut at {index}");
        }
        assert!(decode(&[bytes.as_slice(), b" "].concat(), &agent()).is_err());
    }

    #[test]
    fn what_is_not_ours_is_said() {
        let check = |bytes: &[u8], part: &str| {
            let error = decode(bytes, &agent()).unwrap_err().to_string();
            assert!(error.contains(part), "{error}");
        };
        check(b"", "no file of an agent");
        check(b"\x7fELF", "no file of an agent");
        check(b"picket-agent configuration 2 later\n{}", "format 2, this agent reads 1");
        let other = encode(&full(), &"edge-02".parse().unwrap()).unwrap();
        check(&other, "of the agent edge-02");
        let body = "{}";
        check(&sealed::seal(FILE_NAME, FORMAT, body), "content that this agent does not know");
    }

    #[test]
    fn a_file_without_end_is_not_read_to_its_end() {
        let directory = tempfile::tempdir().unwrap();
        let keeper = Keeper::new(directory.path(), agent());
        let file = File::create(keeper.path()).unwrap();
        file.set_len(1 << 33).unwrap();
        assert!(matches!(keeper.read(), Err(KeptError::Seal(SealError::Foreign))));
        fs::remove_file(keeper.path()).unwrap();
        fs::create_dir(keeper.path()).unwrap();
        assert!(matches!(keeper.read(), Err(KeptError::Seal(SealError::Read(_)))));
    }
}
