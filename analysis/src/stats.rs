//! Sums up what was seen of each metric, in bounded memory.

use std::collections::BTreeMap;

use agent_core::metric::{Metric, Values};
use hdrhistogram::Histogram;

/// Agents summed up at once. Their histograms take about 80 kB each for the usual eight metrics, and 210 kB for all.
pub(crate) const AGENTS_MAX: usize = 1000;

/// Of the p95: 1 %.
const SIGNIFICANT_DIGITS: u8 = 2;

/// The figures of every agent, by name.
#[derive(Debug, Default)]
pub(crate) struct Summary {
    agents: BTreeMap<String, BTreeMap<Metric, Series>>,
}

/// An agent beyond [`AGENTS_MAX`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("more than {AGENTS_MAX} agents; choose some with --agent")]
pub(crate) struct TooManyAgents;

impl Summary {
    /// Adds a sample of an agent.
    pub(crate) fn add(&mut self, agent_id: &str, values: &Values) -> Result<(), TooManyAgents> {
        if !self.agents.contains_key(agent_id) {
            if self.agents.len() >= AGENTS_MAX {
                return Err(TooManyAgents);
            }
            self.agents.insert(agent_id.to_owned(), BTreeMap::new());
        }
        let Some(series) = self.agents.get_mut(agent_id) else {
            return Ok(());
        };
        for (metric, count) in values.iter() {
            series.entry(metric).or_insert_with(Series::new).add(count);
        }
        Ok(())
    }

    /// The figures, by agent and metric.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (&str, Metric, Figures)> {
        self.agents.iter().flat_map(|(agent_id, series)| {
            series.iter().filter_map(|(metric, series)| {
                Some((agent_id.as_str(), *metric, series.figures()?))
            })
        })
    }
}

/// The figures of one metric of one agent. All but the count are counts of the metric's resolution.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Figures {
    pub(crate) count: u64,
    pub(crate) min: i64,
    /// Rounded to the nearest.
    pub(crate) mean: i64,
    pub(crate) max: i64,
    /// The smallest value that at least 95 % of the samples do not exceed, exact to 1 %.
    pub(crate) p95: i64,
}

/// What is remembered of one metric.
#[derive(Debug)]
struct Series {
    count: u64,
    // Invariant: min <= max when count > 0.
    min: i64,
    max: i64,
    // 2^63 samples of 2^63 do not overflow it.
    sum: i128,
    // Counts from zero up.
    histogram: Histogram<u32>,
    // Magnitudes of counts below zero, which few metrics but a temperature have.
    below_zero: Option<Histogram<u32>>,
}

impl Series {
    fn new() -> Self {
        Self {
            count: 0,
            min: i64::MAX,
            max: i64::MIN,
            sum: 0,
            histogram: empty_histogram(),
            below_zero: None,
        }
    }

    fn add(&mut self, count: i64) {
        self.count = self.count.saturating_add(1);
        self.min = self.min.min(count);
        self.max = self.max.max(count);
        self.sum += i128::from(count);
        let histogram = match count {
            0.. => &mut self.histogram,
            _ => self.below_zero.get_or_insert_with(empty_histogram),
        };
        if histogram.record(count.unsigned_abs()).is_err() {
            // It cannot grow that far where a usize is small: the largest it can hold is near enough.
            histogram.saturating_record(count.unsigned_abs());
        }
    }

    fn figures(&self) -> Option<Figures> {
        if self.count == 0 {
            return None;
        }
        let count = i128::from(self.count);
        let half = count / 2;
        let mean = (self.sum + half).div_euclid(count);
        let p95 = self.at_rank(self.count.saturating_mul(95).div_ceil(100));
        Some(Figures {
            count: self.count,
            min: self.min,
            mean: i64::try_from(mean).unwrap_or(self.max),
            max: self.max,
            p95: p95.clamp(self.min, self.max),
        })
    }

    /// The count that has this rank among all, from 1, when they are sorted.
    fn at_rank(&self, rank: u64) -> i64 {
        match &self.below_zero {
            // The greatest magnitude comes first.
            Some(below_zero) if rank <= below_zero.len() => {
                let from_zero = below_zero.len() - rank + 1;
                0_i64.saturating_sub_unsigned(at_rank(below_zero, from_zero))
            }
            below_zero => {
                let passed = below_zero.as_ref().map_or(0, Histogram::len);
                i64::try_from(at_rank(&self.histogram, rank - passed)).unwrap_or(i64::MAX)
            }
        }
    }
}

fn empty_histogram() -> Histogram<u32> {
    Histogram::new(SIGNIFICANT_DIGITS).expect("2 significant digits are within 0 to 5")
}

/// The value that has this rank, from 1; 0 when there is none.
fn at_rank(histogram: &Histogram<u32>, rank: u64) -> u64 {
    let mut seen = 0_u64;
    for bin in histogram.iter_recorded() {
        seen = seen.saturating_add(bin.count_since_last_iteration());
        if rank <= seen {
            return bin.value_iterated_to();
        }
    }
    0
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn figures(counts: &[i64]) -> Figures {
        let mut summary = Summary::default();
        for count in counts {
            let values = [(Metric::DiskRead, *count)].into_iter().collect();
            summary.add("a", &values).unwrap();
        }
        let all: Vec<_> = summary.iter().collect();
        assert_eq!(all.len(), 1);
        assert_eq!((all[0].0, all[0].1), ("a", Metric::DiskRead));
        all[0].2
    }

    #[test]
    fn one_sample_is_all_of_its_figures() {
        let expected = Figures { count: 1, min: 7777, mean: 7777, max: 7777, p95: 7777 };
        assert_eq!(figures(&[7777]), expected);
    }

    #[test]
    fn small_counts_are_exact() {
        let counts: Vec<i64> = (1..=100).collect();
        let expected = Figures { count: 100, min: 1, mean: 51, max: 100, p95: 95 };
        assert_eq!(figures(&counts), expected);
    }

    #[test]
    fn extremes_do_no_harm() {
        let figures = figures(&[i64::MIN, i64::MAX, i64::MAX, i64::MIN, -5]);
        assert_eq!((figures.min, figures.max), (i64::MIN, i64::MAX));
        assert_eq!(figures.mean, -1);
    }

    #[test]
    fn the_number_of_agents_is_bounded() {
        let mut summary = Summary::default();
        let values = [(Metric::CpuPercent, 1)].into_iter().collect();
        for agent in 0..AGENTS_MAX {
            assert_eq!(summary.add(&agent.to_string(), &values), Ok(()));
        }
        assert_eq!(summary.add("one-more", &values), Err(TooManyAgents));
        assert_eq!(summary.add("0", &values), Ok(()));
        assert_eq!(summary.iter().count(), AGENTS_MAX);
    }

    proptest! {
        #[test]
        fn agrees_with_sorting(
            mut counts in prop::collection::vec(-(1_i64 << 20)..1 << 40, 1..300),
            below in 0_usize..300,
        ) {
            for count in counts.iter_mut().take(below) {
                *count = -(*count % 1_000_000);
            }
            let figures = figures(&counts);
            counts.sort_unstable();
            let rank = (counts.len() * 95).div_ceil(100);
            let p95 = counts[rank - 1];
            prop_assert_eq!(figures.min, counts[0]);
            prop_assert_eq!(figures.max, counts[counts.len() - 1]);
            prop_assert!((figures.p95 - p95).abs() <= p95.abs() / 100, "{} {}", figures.p95, p95);
        }
    }
}
