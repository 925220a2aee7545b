//! Chance, from a seed: the same seed gives the same world.

use agent_core::random::SplitMix64;

/// The one source of chance of a world.
#[derive(Clone, Debug)]
pub(crate) struct Random(SplitMix64);

impl Random {
    pub(crate) const fn new(seed: u64) -> Self {
        Self(SplitMix64::new(seed))
    }

    pub(crate) const fn next(&mut self) -> u64 {
        self.0.next_u64()
    }

    /// From `low` to `high`, both included.
    pub(crate) const fn between(&mut self, low: u64, high: u64) -> u64 {
        low + self.0.up_to(high.saturating_sub(low))
    }

    /// True so many times in a million.
    pub(crate) const fn happens(&mut self, per_million: u64) -> bool {
        self.0.up_to(999_999) < per_million
    }

    /// A position in something that has `len` parts, which is not 0.
    pub(crate) fn index(&mut self, len: usize) -> usize {
        let max = u64::try_from(len - 1).unwrap_or(u64::MAX);
        usize::try_from(self.between(0, max)).unwrap_or(0)
    }

    pub(crate) fn pick<'a, T>(&mut self, of: &'a [T]) -> &'a T {
        &of[self.index(of.len())]
    }

    /// Milliseconds until the next event of those that come once in `mean_ms` on average. Between a tenth and three times
    /// of it, which is enough of an exponential distribution for here, without floating point.
    pub(crate) const fn pause(&mut self, mean_ms: u64) -> u64 {
        let first = self.between(mean_ms / 10, mean_ms * 19 / 10);
        match self.between(0, 9) {
            0 => first + mean_ms,
            _ => first,
        }
    }
}
