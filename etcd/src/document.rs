//! A document as etcd holds it: bytes at a revision, text if all is well.

use etcd_client::KeyValue;

use crate::key::Key;

/// Counts the changes of an etcd cluster, from 1. One counter for all keys, so revisions of two keys compare.
pub type Revision = u64;

/// Bytes of a document, the same for who writes and who reads: etcd itself takes 1.5 MiB.
pub const TEXT_BYTES_MAX: usize = 65_536;

/// Why a value is no document, whatever it says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TextError {
    /// Over the limit.
    #[error("document has {bytes} bytes, at most {TEXT_BYTES_MAX} are allowed")]
    TooLarge {
        /// What it has.
        bytes: usize,
    },
    /// Not text.
    #[error("document is not UTF-8 at byte {at}")]
    NotUtf8 {
        /// Where it stops being text, from 0.
        at: usize,
    },
}

/// What a key holds, or that it was deleted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Found {
    pub(crate) key: Key,
    /// The change that made it so.
    pub(crate) revision: Revision,
    /// None when that change deleted it.
    pub(crate) text: Option<Result<String, TextError>>,
}

impl Found {
    /// None for a key that is nobody's.
    pub(crate) fn of(pair: &KeyValue) -> Option<Self> {
        // A deletion is told by the version, which counts from 1 while a key exists.
        let text = (pair.version() != 0).then(|| text(pair.value()));
        Some(Self { key: Key::of_path(pair.key())?, revision: revision(pair.mod_revision()), text })
    }
}

/// Revisions are never negative; etcd counts them in `i64` all the same.
pub(crate) fn revision(of_etcd: i64) -> Revision {
    of_etcd.try_into().unwrap_or(0)
}

pub(crate) fn text(value: &[u8]) -> Result<String, TextError> {
    if TEXT_BYTES_MAX < value.len() {
        return Err(TextError::TooLarge { bytes: value.len() });
    }
    let text = std::str::from_utf8(value);
    text.map(str::to_owned).map_err(|error| TextError::NotUtf8 { at: error.valid_up_to() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_short_text_is_a_document() {
        assert_eq!(text("é".as_bytes()), Ok("é".to_owned()));
        assert_eq!(text(b"a\xff"), Err(TextError::NotUtf8 { at: 1 }));
        assert!(text(&[b'x'; TEXT_BYTES_MAX]).is_ok());
        let bytes = TEXT_BYTES_MAX + 1;
        assert_eq!(text(&vec![b'x'; bytes]), Err(TextError::TooLarge { bytes }));
    }
}
