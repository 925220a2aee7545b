//! What the core promises as a whole: it allocates nothing, and its plugins do what a naive reference does.
#![expect(clippy::unwrap_used, reason = "a test helper may fail loudly")]

mod allocation;
mod reference;
