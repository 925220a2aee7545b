//! Reads a document that the operator names: a file, or standard input as `-`.

use std::error::Error as StdError;
use std::fs::File;
use std::io::{self, IsTerminal, Read};
use std::path::Path;

use crate::command::Error;
use crate::view;

/// The server takes no larger document.
const DOCUMENT_BYTES_MAX: u64 = 64 * 1024;

/// The whole text.
pub(super) fn read(path: &Path) -> Result<String, Error> {
    let failed =
        |source: Box<dyn StdError + Send + Sync>| Error::Input { name: path.to_owned(), source };
    let mut text = String::new();
    let source: &mut dyn Read = if path.as_os_str() == "-" {
        if io::stdin().is_terminal() {
            view::notice("reading JSON from the terminal; Ctrl-D ends it");
        }
        &mut io::stdin().lock()
    } else {
        &mut File::open(path).map_err(|error| failed(error.into()))?
    };
    source
        .take(DOCUMENT_BYTES_MAX + 1)
        .read_to_string(&mut text)
        .map_err(|error| failed(error.into()))?;
    if text.len() as u64 > DOCUMENT_BYTES_MAX {
        return Err(failed(format!("it has more than {DOCUMENT_BYTES_MAX} bytes").into()));
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    #[test]
    fn large_documents_and_missing_files_are_refused() {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        let full = vec![b' '; 64 * 1024];
        file.write_all(&full).unwrap();
        assert_eq!(read(file.path()).unwrap().len(), full.len());
        file.write_all(b" ").unwrap();
        assert!(matches!(read(file.path()), Err(Error::Input { .. })));
        assert!(matches!(read(Path::new("/nonexistent/x")), Err(Error::Input { .. })));
    }
}
