//! The chain: the configured plugins in their order, and what it does to the books.

use heapless::Vec;

use crate::config::{Config, Settings};
use crate::ledger::{PluginBooks, PluginCounters};
use crate::limits::PLUGINS_MAX;
use crate::plugin::own::{NoPlugins, OwnPlugins, Parameters};
use crate::plugin::{
    Aggregation, Deduplication, Filter, OwnIndex, Plugin, PluginKind, ThresholdAlert, Verdict,
};
use crate::record::{Alert, Sample};

/// One plugin in the chain.
#[derive(Clone, Debug)]
#[expect(clippy::large_enum_variant, reason = "the core does not allocate")]
enum Stage<O> {
    Deduplication(Deduplication),
    ThresholdAlert(ThresholdAlert),
    Aggregation(Aggregation),
    Filter(Filter),
    Own(OwnIndex, O),
}

impl<O: OwnPlugins> Stage<O> {
    /// None for a plugin that this program does not have.
    fn new(kind: PluginKind, settings: &Settings) -> Option<Self> {
        Some(match kind {
            PluginKind::Deduplication => Self::Deduplication(Deduplication::new(settings)),
            PluginKind::ThresholdAlert => Self::ThresholdAlert(ThresholdAlert::new(settings)),
            PluginKind::Aggregation => Self::Aggregation(Aggregation::new(settings)),
            PluginKind::Filter => Self::Filter(Filter::new(settings)),
            PluginKind::Own(index) => Self::Own(index, O::new(index, parameters(settings, index))?),
        })
    }

    const fn kind(&self) -> PluginKind {
        match self {
            Self::Deduplication(_) => PluginKind::Deduplication,
            Self::ThresholdAlert(_) => PluginKind::ThresholdAlert,
            Self::Aggregation(_) => PluginKind::Aggregation,
            Self::Filter(_) => PluginKind::Filter,
            Self::Own(index, _) => PluginKind::Own(*index),
        }
    }

    fn plugin(&self) -> &dyn Plugin {
        match self {
            Self::Deduplication(plugin) => plugin,
            Self::ThresholdAlert(plugin) => plugin,
            Self::Aggregation(plugin) => plugin,
            Self::Filter(plugin) => plugin,
            Self::Own(_, own) => own.plugin(),
        }
    }

    fn plugin_mut(&mut self) -> &mut dyn Plugin {
        match self {
            Self::Deduplication(plugin) => plugin,
            Self::ThresholdAlert(plugin) => plugin,
            Self::Aggregation(plugin) => plugin,
            Self::Filter(plugin) => plugin,
            Self::Own(_, own) => own.plugin_mut(),
        }
    }
}

const fn parameters(settings: &Settings, index: OwnIndex) -> &Parameters {
    &settings.own[index.get()]
}

/// Whether a plugin of `kind` finds in both what it needs to know.
fn is_same_for(kind: PluginKind, old: &Settings, new: &Settings) -> bool {
    match kind {
        PluginKind::Deduplication => old.deduplication == new.deduplication,
        PluginKind::ThresholdAlert => {
            old.thresholds == new.thresholds && old.metrics == new.metrics
        }
        PluginKind::Aggregation => old.window == new.window,
        PluginKind::Filter => old.filter == new.filter,
        PluginKind::Own(_) => old == new,
    }
}

/// What comes out of a chain: samples at its end, and alerts on the way.
pub trait Outlet {
    /// Takes a sample that went through the whole chain.
    fn sample(&mut self, sample: Sample);
    /// Takes an alert.
    fn alert(&mut self, alert: Alert);
}

/// The plugins in their order.
///
/// Each snapshot that enters is forwarded, suppressed by a named plugin, or held by one: never anything else,
/// and never two of them. [`PluginBooks`] is where this is counted.
#[derive(Clone, Debug)]
pub struct Chain<O = NoPlugins> {
    stages: Vec<Stage<O>, PLUGINS_MAX>,
}

impl<O: OwnPlugins> Chain<O> {
    /// Whether this program has every plugin that `config` names.
    pub fn supports(config: &Config) -> bool {
        config.settings().plugins.iter().all(|kind| match kind {
            PluginKind::Own(index) => index.get() < O::NAMES.len(),
            PluginKind::Deduplication
            | PluginKind::ThresholdAlert
            | PluginKind::Aggregation
            | PluginKind::Filter => true,
        })
    }

    /// The chain that `config` asks for. A plugin that this program does not have is left out, see [`Chain::supports`].
    pub fn new(config: &Config) -> Self {
        let settings = config.settings();
        let stage = |kind: &PluginKind| Stage::new(*kind, settings);
        Self { stages: settings.plugins.iter().filter_map(stage).collect() }
    }

    /// Passes `sample` through the chain. What comes out goes to `outlet`.
    pub fn process(&mut self, sample: Sample, books: &mut PluginBooks, outlet: &mut impl Outlet) {
        self.process_from(0, sample, books, outlet);
    }

    /// How many snapshots the plugins hold.
    pub fn held(&self) -> u64 {
        self.stages.iter().map(|stage| stage.plugin().held()).sum()
    }

    /// Makes every plugin give out what it holds.
    pub fn flush(&mut self, books: &mut PluginBooks, outlet: &mut impl Outlet) {
        for index in 0..self.stages.len() {
            self.flush_stage(index, books, outlet);
        }
    }

    /// From the chain that `old` asked for to the one that `new` asks for. A plugin whose settings do not change keeps
    /// its state, wherever it stands in the chain. Any other that holds snapshots gives them out through the old chain
    /// first, so none is lost or counted twice; then it goes on as its kind says, or retires.
    pub fn reconfigure(
        &mut self,
        old: &Config,
        new: &Config,
        books: &mut PluginBooks,
        outlet: &mut impl Outlet,
    ) {
        let (old, new) = (old.settings(), new.settings());
        for index in 0..self.stages.len() {
            let kind = self.stages[index].kind();
            let stays = new.plugins.contains(&kind) && is_same_for(kind, old, new);
            if !stays && self.stages[index].plugin().held() > 0 {
                self.flush_stage(index, books, outlet);
            }
        }
        for stage in &mut self.stages {
            let kind = stage.kind();
            if !new.plugins.contains(&kind) {
                stage.plugin_mut().retire(&mut |alert| outlet.alert(alert));
            } else if !is_same_for(kind, old, new) {
                reconfigure_stage(stage, old, new, outlet);
            }
        }
        let kept_or_new = |kind: &PluginKind| {
            let kept = self.stages.iter().find(|stage| stage.kind() == *kind).cloned();
            kept.or_else(|| Stage::new(*kind, new))
        };
        self.stages = new.plugins.iter().filter_map(kept_or_new).collect();
    }

    fn flush_stage(&mut self, index: usize, books: &mut PluginBooks, outlet: &mut impl Outlet) {
        let stage = &mut self.stages[index];
        let held = stage.plugin().held();
        let Some(sample) = stage.plugin_mut().flush() else {
            return;
        };
        let counters = books.of_mut(stage.kind());
        counters.forwarded += 1;
        // The sample stands for itself and for all the others that were held.
        counters.merged += held.saturating_sub(1);
        self.process_from(index + 1, sample, books, outlet);
    }

    fn process_from(
        &mut self,
        first: usize,
        mut sample: Sample,
        books: &mut PluginBooks,
        outlet: &mut impl Outlet,
    ) {
        for stage in self.stages.iter_mut().skip(first) {
            let counters = books.of_mut(stage.kind());
            counters.received += 1;
            let verdict = stage.plugin_mut().process(&mut sample, &mut |alert| outlet.alert(alert));
            if !count(counters, verdict) {
                return;
            }
        }
        outlet.sample(sample);
    }
}

fn reconfigure_stage<O: OwnPlugins>(
    stage: &mut Stage<O>,
    old: &Settings,
    new: &Settings,
    outlet: &mut impl Outlet,
) {
    if let Stage::Own(index, own) = stage
        && parameters(old, *index) != parameters(new, *index)
    {
        own.plugin_mut().retire(&mut |alert| outlet.alert(alert));
        if let Some(fresh) = O::new(*index, parameters(new, *index)) {
            *own = fresh;
        }
        return;
    }
    stage.plugin_mut().reconfigure(new, &mut |alert| outlet.alert(alert));
}

/// Enters `verdict` into `counters`. Answers whether a sample goes on.
const fn count(counters: &mut PluginCounters, verdict: Verdict) -> bool {
    match verdict {
        Verdict::Forward => counters.forwarded += 1,
        Verdict::ForwardMerged { merged } => {
            counters.forwarded += 1;
            counters.merged += merged;
        }
        Verdict::Hold => return false,
        Verdict::Drop(reason) => {
            counters.dropped[reason as usize] += 1;
            return false;
        }
    }
    true
}

#[cfg(test)]
mod tests {
    use std::vec::Vec;

    use super::*;
    use crate::config::WindowEnd;
    use crate::metric::{Metric, Values};
    use crate::plugin::DropReason;
    use crate::plugin::own::OwnPlugin;
    use crate::record::{Completeness, Snapshot, Transition};
    use crate::time::Instant;

    #[derive(Clone, Debug)]
    struct EveryNth {
        n: i64,
        seen: i64,
    }

    impl Plugin for EveryNth {
        fn process(&mut self, _: &mut Sample, _: &mut dyn FnMut(Alert)) -> Verdict {
            self.seen += 1;
            if self.seen % self.n == 0 { Verdict::Forward } else { Verdict::Drop(DropReason::Own) }
        }

        fn reconfigure(&mut self, _: &Settings, _: &mut dyn FnMut(Alert)) {}
    }

    impl OwnPlugin for EveryNth {
        const NAME: &'static str = "own.every_nth";

        fn new(parameters: &Parameters) -> Self {
            Self { n: parameters[0].max(1), seen: 0 }
        }
    }

    crate::own_plugins!(
        enum Mine {
            EveryNth,
        }
    );

    #[derive(Default)]
    struct Collected {
        samples: Vec<Sample>,
        alerts: Vec<Alert>,
    }

    impl Outlet for Collected {
        fn sample(&mut self, sample: Sample) {
            self.samples.push(sample);
        }

        fn alert(&mut self, alert: Alert) {
            self.alerts.push(alert);
        }
    }

    /// A chain with its books and all that came out of it.
    struct Bench {
        config: Config,
        chain: Chain<Mine>,
        books: PluginBooks,
        out: Collected,
        entered: u64,
    }

    impl Bench {
        fn new(plugins: &[PluginKind], change: impl FnOnce(&mut Settings)) -> Self {
            let config = config(plugins, change);
            let chain = Chain::new(&config);
            let (books, out) = (PluginBooks::default(), Collected::default());
            Self { config, chain, books, out, entered: 0 }
        }

        fn process(&mut self, at_ms: u64, cpu: i64) {
            let values = Values::from_iter([(Metric::CpuPercent, cpu)]);
            let taken_at = Instant::from_ms(at_ms);
            let sample = Sample::from(Snapshot { taken_at, wall_ms: 0, values });
            self.chain.process(sample, &mut self.books, &mut self.out);
            self.entered += 1;
            self.check();
        }

        fn reconfigure(&mut self, plugins: &[PluginKind], change: impl FnOnce(&mut Settings)) {
            let new = config(plugins, change);
            self.chain.reconfigure(&self.config, &new, &mut self.books, &mut self.out);
            self.config = new;
            self.check();
        }

        fn check(&self) {
            let gone = self.books.suppressed() + self.out.samples.len() as u64;
            assert_eq!(self.entered, gone + self.chain.held(), "{:?}", self.books);
            let handled = |kind| {
                let counters = self.books.of(kind);
                counters.received - counters.forwarded - counters.suppressed()
            };
            let kinds = PluginKind::BUILT_IN.into_iter().chain([OWN]);
            assert_eq!(kinds.map(handled).sum::<u64>(), self.chain.held());
        }
    }

    const OWN: PluginKind = PluginKind::Own(OwnIndex::FIRST);

    fn config(plugins: &[PluginKind], change: impl FnOnce(&mut Settings)) -> Config {
        let mut settings =
            Settings { plugins: plugins.iter().copied().collect(), ..Settings::default() };
        change(&mut settings);
        Config::new(settings).unwrap()
    }

    #[test]
    fn order_is_list_order() {
        let settings = |s: &mut Settings| {
            s.filter.min_cpu = 10;
            s.window = WindowEnd::Snapshots(2);
        };
        let mut bench = Bench::new(&[PluginKind::Filter, PluginKind::Aggregation], settings);
        bench.process(0, 0);
        assert_eq!(bench.chain.held(), 0);
        assert_eq!(bench.books.of(PluginKind::Filter).dropped_for(DropReason::MinCpu), 1);

        let mut bench = Bench::new(&[PluginKind::Aggregation, PluginKind::Filter], settings);
        bench.process(0, 0);
        assert_eq!(bench.chain.held(), 1);
        bench.process(1, 40);
        assert_eq!((bench.out.samples.len(), bench.chain.held()), (1, 0));
        let aggregation = bench.books.of(PluginKind::Aggregation);
        assert_eq!((aggregation.received, aggregation.forwarded, aggregation.merged), (2, 1, 1));
    }

    #[test]
    fn an_unchanged_plugin_keeps_its_state_and_a_changed_one_gives_it_out() {
        let both = [PluginKind::Aggregation, PluginKind::Deduplication];
        let mut bench = Bench::new(&both, |_| ());
        bench.process(0, 1);
        bench.process(1, 3);
        bench.reconfigure(&both, |s| s.interval *= 2);
        assert_eq!((bench.chain.held(), bench.out.samples.len()), (2, 0));
        bench.reconfigure(&both, |s| s.window = WindowEnd::Snapshots(7));
        assert_eq!((bench.chain.held(), bench.out.samples.len()), (0, 1));
        let window = bench.out.samples[0].window.unwrap();
        assert_eq!(window.completeness, Completeness::Partial);
        bench.process(2, 3);
        bench.reconfigure(&[], |_| ());
        assert_eq!((bench.chain.held(), bench.out.samples.len()), (0, 2));
    }

    #[test]
    fn a_plugin_that_only_moves_keeps_its_state() {
        let mut bench = Bench::new(&[PluginKind::Deduplication, PluginKind::Filter], |_| ());
        bench.process(0, 1);
        bench.reconfigure(&[PluginKind::Filter, PluginKind::Deduplication], |_| ());
        bench.process(1, 1);
        assert_eq!(bench.out.samples.len(), 1);
    }

    #[test]
    fn an_alert_ends_when_its_plugin_does() {
        let mut bench = Bench::new(&[PluginKind::ThresholdAlert], |_| ());
        bench.process(0, 9000);
        bench.reconfigure(&[], |_| ());
        let transitions = bench.out.alerts.iter().map(|alert| alert.transition);
        let expected = [Transition::Raised, Transition::Withdrawn];
        assert_eq!(transitions.collect::<Vec<_>>(), expected);
    }

    #[test]
    fn a_plugin_of_ones_own_stands_in_the_chain_like_any_other() {
        let third = |s: &mut Settings| s.own[0] = [3, 0, 0, 0];
        let mut bench = Bench::new(&[OWN], third);
        for at in 0..6 {
            bench.process(at, 0);
        }
        assert_eq!(bench.out.samples.len(), 2);
        assert_eq!(bench.books.of(OWN).dropped_for(DropReason::Own), 4);
        bench.process(6, 0);
        bench.reconfigure(&[OWN, PluginKind::Filter], third);
        bench.process(7, 0);
        bench.process(8, 0);
        assert_eq!(bench.out.samples.len(), 3, "it keeps its state");
        bench.reconfigure(&[OWN], |s| s.own[0] = [1, 0, 0, 0]);
        bench.process(9, 0);
        assert_eq!(bench.out.samples.len(), 4, "it has its new parameters");
    }

    #[test]
    fn a_plugin_that_the_program_does_not_have_is_known_as_such() {
        let second = PluginKind::Own(OwnIndex::new(1).unwrap());
        let config = config(&[second], |_| ());
        assert!(!Chain::<Mine>::supports(&config));
        assert!(!Chain::<NoPlugins>::supports(&config));
    }
}
