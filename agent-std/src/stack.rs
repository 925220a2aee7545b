//! How large the stacks of threads are: as large as they need to be, with room to spare, because all of it counts in the budget.

/// Bytes of a stack that needs `kib` KiB in an optimised build. What is not optimised keeps far more on it.
pub(crate) const fn bytes(kib: usize) -> usize {
    let factor = if cfg!(debug_assertions) { 8 } else { 1 };
    kib * 1024 * factor
}
