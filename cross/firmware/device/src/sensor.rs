//! A synthetic sensor: what a small controller could count of itself. Integers only, the same on every machine.

use agent_core::metric::{Metric, MetricSet, Values};
use agent_core::random::SplitMix64;

/// Readings from full to idle and back.
const PERIOD: u32 = 60;
/// Readings from one burst of traffic to the next, one of which is the burst.
const BURST_EVERY: u32 = 16;

/// Gives a load that rises and falls with a little noise, traffic that comes in bursts, and a steady answer to it.
#[derive(Clone, Debug)]
pub(crate) struct Sensor {
    random: SplitMix64,
    reading: u32,
}

impl Sensor {
    /// What it measures.
    pub(crate) fn metrics() -> MetricSet {
        [Metric::CpuPercent, Metric::NetIn, Metric::NetOut].into_iter().collect()
    }

    pub(crate) const fn new(seed: u64) -> Self {
        Self { random: SplitMix64::new(seed), reading: 0 }
    }

    pub(crate) fn read(&mut self) -> Values {
        let place = self.reading % PERIOD;
        let height = place.abs_diff(PERIOD / 2);
        let cpu = i64::from(height * 300) + self.noise(99);
        let burst = self.reading.is_multiple_of(BURST_EVERY);
        let net_in = if burst { 1_000_000 + self.noise(65_535) } else { 0 };
        self.reading = self.reading.wrapping_add(1);
        Values::from_iter([
            (Metric::CpuPercent, cpu),
            (Metric::NetIn, net_in),
            (Metric::NetOut, 1200),
        ])
    }

    fn noise(&mut self, max: u32) -> i64 {
        self.random.up_to(u64::from(max)).cast_signed()
    }
}
