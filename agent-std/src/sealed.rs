//! Small files that say whether they are whole: a line with what they are and a checksum, then JSON.
//!
//! ```text
//! picket-agent <kind> <format> <SHA-256 of all that follows the line, 64 hexadecimal digits>
//! {"agent":"edge-01",...}
//! ```

use std::io;
use std::path::Path;

use sha2::{Digest as _, Sha256};

use crate::state_file;

/// Why such a file is not used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SealError {
    #[error("it cannot be read")]
    Read(#[source] io::Error),
    #[error("it is no file of an agent")]
    Foreign,
    #[error("it has the format {found:.20}, this agent reads {format}")]
    Format { found: String, format: &'static str },
    #[error("it is damaged")]
    Damaged,
}

/// The whole file.
pub(crate) fn seal(kind: &str, format: &str, body: &str) -> Vec<u8> {
    format!("{}{format} {}\n{body}", magic(kind), digest(body)).into_bytes()
}

/// The body of a whole file of this `kind` and `format`.
pub(crate) fn unseal<'a>(
    bytes: &'a [u8],
    kind: &str,
    format: &'static str,
) -> Result<&'a str, SealError> {
    let rest = bytes.strip_prefix(magic(kind).as_bytes()).ok_or(SealError::Foreign)?;
    let rest = str::from_utf8(rest).map_err(|_| SealError::Damaged)?;
    let (header, body) = rest.split_once('\n').ok_or(SealError::Damaged)?;
    let (found, sum) = header.split_once(' ').ok_or(SealError::Damaged)?;
    if found != format {
        return Err(SealError::Format { found: found.to_owned(), format });
    }
    if sum != digest(body) {
        return Err(SealError::Damaged);
    }
    Ok(body)
}

/// The bytes of the file at `path`, at most `max` of them; none when there is no file.
pub(crate) fn read(path: &Path, max: u64) -> Result<Option<Vec<u8>>, SealError> {
    state_file::read(path, max).map_err(SealError::Read)
}

/// SHA-256 of `text` in hexadecimal.
pub(crate) fn digest(text: &str) -> String {
    let digest = Sha256::digest(text.as_bytes());
    digest.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn magic(kind: &str) -> String {
    format!("picket-agent {kind} ")
}
