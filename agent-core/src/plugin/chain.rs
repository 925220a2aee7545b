//! The chain: the configured plugins in their order, and what it does to the books.

use heapless::Vec;

use crate::config::{Config, Settings};
use crate::ledger::Suppressed;
use crate::limits::PLUGINS_MAX;
use crate::plugin::{
    Aggregation, Deduplication, Filter, Plugin, PluginKind, ThresholdAlert, Verdict,
};
use crate::record::Sample;

/// One plugin in the chain.
#[derive(Clone, Debug)]
#[expect(clippy::large_enum_variant, reason = "the core does not allocate")]
enum Stage {
    Deduplication(Deduplication),
    ThresholdAlert(ThresholdAlert),
    Aggregation(Aggregation),
    Filter(Filter),
}

impl Stage {
    fn new(kind: PluginKind, settings: &Settings) -> Self {
        match kind {
            PluginKind::Deduplication => {
                Self::Deduplication(Deduplication::new(settings.deduplication))
            }
            PluginKind::ThresholdAlert => {
                Self::ThresholdAlert(ThresholdAlert::new(settings.thresholds))
            }
            PluginKind::Aggregation => Self::Aggregation(Aggregation::new(settings.window_size)),
            PluginKind::Filter => Self::Filter(Filter::new(settings.filter)),
        }
    }

    const fn kind(&self) -> PluginKind {
        match self {
            Self::Deduplication(_) => PluginKind::Deduplication,
            Self::ThresholdAlert(_) => PluginKind::ThresholdAlert,
            Self::Aggregation(_) => PluginKind::Aggregation,
            Self::Filter(_) => PluginKind::Filter,
        }
    }

    fn plugin(&self) -> &dyn Plugin {
        match self {
            Self::Deduplication(plugin) => plugin,
            Self::ThresholdAlert(plugin) => plugin,
            Self::Aggregation(plugin) => plugin,
            Self::Filter(plugin) => plugin,
        }
    }

    fn plugin_mut(&mut self) -> &mut dyn Plugin {
        match self {
            Self::Deduplication(plugin) => plugin,
            Self::ThresholdAlert(plugin) => plugin,
            Self::Aggregation(plugin) => plugin,
            Self::Filter(plugin) => plugin,
        }
    }

    /// Whether both are of one kind and have the same settings, whatever state they are in.
    fn is_configured_as(&self, other: &Self) -> bool {
        match self {
            Self::Deduplication(a) => {
                matches!(other, Self::Deduplication(b) if a.settings() == b.settings())
            }
            Self::ThresholdAlert(a) => {
                matches!(other, Self::ThresholdAlert(b) if a.limits() == b.limits())
            }
            Self::Aggregation(a) => {
                matches!(other, Self::Aggregation(b) if a.window_size() == b.window_size())
            }
            Self::Filter(a) => matches!(other, Self::Filter(b) if a.settings() == b.settings()),
        }
    }
}

/// The plugins in their order.
///
/// Each snapshot that enters is forwarded, suppressed by a named plugin, or held by one: never anything else,
/// and never two of them. [`Suppressed`] is where the second case is counted.
#[derive(Clone, Debug)]
pub struct Chain {
    stages: Vec<Stage, PLUGINS_MAX>,
}

impl Chain {
    /// The chain that `config` asks for.
    pub fn new(config: &Config) -> Self {
        let settings = config.settings();
        Self { stages: settings.plugins.iter().map(|kind| Stage::new(*kind, settings)).collect() }
    }

    /// Passes `sample` through the chain. Returns what comes out at the end.
    pub fn process(&mut self, sample: Sample, suppressed: &mut Suppressed) -> Option<Sample> {
        self.process_from(0, sample, suppressed)
    }

    /// How many snapshots the plugins hold.
    pub fn held(&self) -> u64 {
        self.stages.iter().map(|stage| stage.plugin().held()).sum()
    }

    /// Makes every plugin give out what it holds; calls `emit` with what comes out at the end.
    pub fn flush(&mut self, suppressed: &mut Suppressed, mut emit: impl FnMut(Sample)) {
        for index in 0..self.stages.len() {
            self.flush_stage(index, suppressed).into_iter().for_each(&mut emit);
        }
    }

    /// Becomes the chain that `config` asks for. A plugin whose settings do not change keeps its state; any
    /// other is flushed through the old chain first, so no snapshot is lost or counted twice.
    pub fn reconfigure(
        &mut self,
        config: &Config,
        suppressed: &mut Suppressed,
        mut emit: impl FnMut(Sample),
    ) {
        let fresh = Self::new(config);
        for index in 0..self.stages.len() {
            let stage = &self.stages[index];
            if !fresh.stages.iter().any(|new| new.is_configured_as(stage)) {
                self.flush_stage(index, suppressed).into_iter().for_each(&mut emit);
            }
        }
        let kept_or_new = |new: Stage| {
            self.stages.iter().find(|old| old.is_configured_as(&new)).cloned().unwrap_or(new)
        };
        self.stages = fresh.stages.into_iter().map(kept_or_new).collect();
    }

    fn flush_stage(&mut self, index: usize, suppressed: &mut Suppressed) -> Option<Sample> {
        let stage = &mut self.stages[index];
        let held = stage.plugin().held();
        let sample = stage.plugin_mut().flush()?;
        // The sample stands for itself and for all the others that were held.
        suppressed.add(stage.kind(), held.saturating_sub(1));
        self.process_from(index + 1, sample, suppressed)
    }

    fn process_from(
        &mut self,
        first: usize,
        mut sample: Sample,
        suppressed: &mut Suppressed,
    ) -> Option<Sample> {
        for stage in self.stages.iter_mut().skip(first) {
            match stage.plugin_mut().process(&mut sample) {
                Verdict::Forward => {}
                Verdict::ForwardMerged { merged } => suppressed.add(stage.kind(), merged),
                Verdict::Hold => return None,
                Verdict::Drop => {
                    suppressed.add(stage.kind(), 1);
                    return None;
                }
            }
        }
        Some(sample)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metric::{Metric, Values};
    use crate::record::{Completeness, Snapshot};
    use crate::time::Instant;

    fn config(plugins: &[PluginKind], change: impl FnOnce(&mut Settings)) -> Config {
        let mut settings =
            Settings { plugins: plugins.iter().copied().collect(), ..Settings::default() };
        change(&mut settings);
        Config::new(settings).unwrap()
    }

    fn sample(at_ms: u64, cpu: i64) -> Sample {
        let values = Values::from_iter([(Metric::CpuPercent, cpu)]);
        Sample::from(Snapshot { taken_at: Instant::from_ms(at_ms), wall_ms: 0, values })
    }

    #[test]
    fn order_is_list_order() {
        let filter_first = [PluginKind::Filter, PluginKind::Aggregation];
        let settings = |s: &mut Settings| {
            s.filter.min_cpu = 10;
            s.window_size = 2;
        };
        let mut suppressed = Suppressed::default();
        let mut chain = Chain::new(&config(&filter_first, settings));
        assert_eq!(chain.process(sample(0, 0), &mut suppressed), None);
        assert_eq!((chain.held(), suppressed.by(PluginKind::Filter)), (0, 1));

        let aggregation_first = [PluginKind::Aggregation, PluginKind::Filter];
        let mut chain = Chain::new(&config(&aggregation_first, settings));
        assert_eq!(chain.process(sample(0, 0), &mut suppressed), None);
        assert_eq!(chain.held(), 1);
        assert!(chain.process(sample(1, 40), &mut suppressed).is_some());
        assert_eq!(suppressed.by(PluginKind::Aggregation), 1);
    }

    #[test]
    fn an_unchanged_plugin_keeps_its_state_and_a_changed_one_is_flushed() {
        let both = [PluginKind::Aggregation, PluginKind::Deduplication];
        let mut suppressed = Suppressed::default();
        let mut chain = Chain::new(&config(&both, |_| ()));
        assert_eq!(chain.process(sample(0, 1), &mut suppressed), None);
        assert_eq!(chain.process(sample(1, 3), &mut suppressed), None);

        let mut emitted = std::vec::Vec::new();
        let same_window = config(&both, |s| s.interval *= 2);
        chain.reconfigure(&same_window, &mut suppressed, |sample| emitted.push(sample));
        assert_eq!((chain.held(), emitted.len()), (2, 0));

        let other_window = config(&both, |s| s.window_size = 7);
        chain.reconfigure(&other_window, &mut suppressed, |sample| emitted.push(sample));
        assert_eq!((chain.held(), emitted.len()), (0, 1));
        assert_eq!(emitted[0].window.unwrap().completeness, Completeness::Partial);
        assert_eq!(suppressed.total(), 1);
    }
}
