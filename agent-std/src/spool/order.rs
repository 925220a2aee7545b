//! The order in which what waits is sent.

/// Which of the records that wait are sent first. Alerts before records in either.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Order {
    /// As they were appended.
    #[default]
    OldestFirst,
    /// The newest segment first, and in it the oldest record first.
    NewestFirst,
}
