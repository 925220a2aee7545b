//! Any text as a configuration document.
#![no_main]

use libfuzzer_sys::fuzz_target;
use proto::config::Document;

fuzz_target!(|text: &str| {
    if let Ok(document) = Document::parse(text) {
        let again = Document::parse(&document.to_json()).expect("its own JSON is a valid document");
        assert_eq!(again, document);
        assert!(document.config().is_ok());
    }
});
