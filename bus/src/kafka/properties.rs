//! A file of settings in the form that Kafka's own tools read.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, BufReader};
use std::path::{Path, PathBuf};

use java_properties::PropertiesError as FormError;

/// Why a file of settings cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PropertiesError {
    /// It cannot be read.
    #[error("cannot read {}", path.display())]
    Read {
        /// Which file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// It is not of the form.
    #[error("{} is no file of KEY=VALUE lines", path.display())]
    Form {
        /// Which file.
        path: PathBuf,
        /// Where and why.
        #[source]
        source: FormError,
    },
}

/// Reads a file of `KEY=VALUE` lines, with `#` before comments, as Java's `Properties` has them: the form of the files
/// that `kafka-console-consumer.sh --command-config` takes. The keys are librdkafka's.
///
/// # Errors
///
/// When the file cannot be read or a line is malformed.
pub fn read_properties(path: &Path) -> Result<BTreeMap<String, String>, PropertiesError> {
    let unreadable = |source| PropertiesError::Read { path: path.to_owned(), source };
    let file = File::open(path).map_err(unreadable)?;
    let properties = java_properties::read(BufReader::new(file));
    let malformed = |source| PropertiesError::Form { path: path.to_owned(), source };
    Ok(properties.map_err(malformed)?.into_iter().collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_of_settings_is_read() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("client.properties");
        let text =
            "# who\nsasl.username = picket\nsasl.password=a=b#c\n\nsecurity.protocol: SASL_SSL\n";
        std::fs::write(&path, text).unwrap();
        let read = read_properties(&path).unwrap();
        let pairs: Vec<_> =
            read.iter().map(|(key, value)| (key.as_str(), value.as_str())).collect();
        assert_eq!(
            pairs,
            [
                ("sasl.password", "a=b#c"),
                ("sasl.username", "picket"),
                ("security.protocol", "SASL_SSL")
            ]
        );
        let missing = read_properties(&directory.path().join("none")).unwrap_err();
        assert!(missing.to_string().starts_with("cannot read "), "{missing}");
    }
}
