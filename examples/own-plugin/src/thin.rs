//! Thin: forwards one sample of so many, and all of them while an alert stands.

use agent_core::config::Settings;
use agent_core::plugin::own::{OwnPlugin, Parameters};
use agent_core::plugin::{DropReason, Plugin, Verdict};
use agent_core::record::{Alert, Sample};

/// Forwards the first of every `n` samples, and each one on which an earlier plugin has marked an alert. So a long-term
/// trend costs little, and what led up to a problem is there in full.
///
/// Parameter: `n`, at least 1; 1 forwards everything.
#[derive(Clone, Debug)]
pub(crate) struct Thin {
    n: u32,
    // passed < n: samples since the last one of the raster.
    passed: u32,
}

impl Plugin for Thin {
    fn process(&mut self, sample: &mut Sample, _: &mut dyn FnMut(Alert)) -> Verdict {
        let is_due = self.passed == 0;
        self.passed = (self.passed + 1) % self.n;
        if is_due || !sample.marks.is_empty() {
            Verdict::Forward
        } else {
            Verdict::Drop(DropReason::Own)
        }
    }

    /// Nothing in the rest of the configuration concerns it; new parameters make a new plugin.
    fn reconfigure(&mut self, _: &Settings, _: &mut dyn FnMut(Alert)) {}
}

impl OwnPlugin for Thin {
    const NAME: &'static str = "own.thin";

    fn new(parameters: &Parameters) -> Self {
        let [n, ..] = *parameters;
        Self { n: u32::try_from(n).unwrap_or(1).max(1), passed: 0 }
    }
}

#[cfg(test)]
mod tests {
    use agent_core::metric::{Metric, Values};
    use agent_core::record::{Direction, Snapshot};
    use agent_core::time::Instant;

    use super::*;

    fn run(n: i64, with_alert: &[bool]) -> Vec<bool> {
        let mut plugin = Thin::new(&[n, 0, 0, 0]);
        let forwarded = |alert: &bool| {
            let taken_at = Instant::from_ms(0);
            let values = Values::EMPTY;
            let mut sample = Sample::from(Snapshot { taken_at, wall_ms: 0, values });
            if *alert {
                sample.marks.set(Metric::CpuPercent, 8000, Direction::Above);
            }
            plugin.process(&mut sample, &mut |_| ()) == Verdict::Forward
        };
        with_alert.iter().map(forwarded).collect()
    }

    #[test]
    fn one_of_so_many_goes_on() {
        assert_eq!(run(3, &[false; 7]), [true, false, false, true, false, false, true]);
        assert_eq!(run(1, &[false; 3]), [true; 3]);
    }

    #[test]
    fn a_sample_with_an_alert_goes_on_and_does_not_move_the_raster() {
        let alerts = [false, true, false, false, true, false, false];
        assert_eq!(run(3, &alerts), [true, true, false, true, true, false, true]);
    }

    #[test]
    fn what_is_no_number_of_samples_forwards_all() {
        for n in [0, -1, i64::MIN] {
            assert_eq!(run(n, &[false; 2]), [true; 2], "{n}");
        }
    }
}
