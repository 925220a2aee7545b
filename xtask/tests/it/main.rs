//! Tests that need more than one crate: the real binaries together, and the committed generated code.
#![expect(clippy::unwrap_used, reason = "a test helper may fail loudly")]

mod codegen;
