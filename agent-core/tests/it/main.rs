//! What the core promises as a whole: it allocates nothing, its plugins do what a naive reference does, and its bytes
//! are fixed.
#![expect(clippy::unwrap_used, reason = "a test helper may fail loudly")]

mod allocation;
mod golden;
mod recorded;
mod reference;
