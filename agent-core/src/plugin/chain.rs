//! The chain: the configured plugins in their order, and what it does to the books.

use heapless::Vec;

use crate::config::{Config, Settings};
use crate::ledger::{PluginBooks, PluginCounters};
use crate::limits::{OWN_PLUGINS_MAX, PLUGINS_MAX};
use crate::plugin::own::{NoPlugins, OwnPlugins, Parameters};
use crate::plugin::{
    Aggregation, Deduplication, Filter, OwnIndex, Plugin, PluginKind, ThresholdAlert, Verdict,
};
use crate::record::{Alert, Sample};

const fn parameters(settings: &Settings, index: OwnIndex) -> &Parameters {
    &settings.own[index.get()]
}

/// Whether a plugin of `kind` finds in both what it needs to know.
fn is_same_for(kind: PluginKind, old: &Settings, new: &Settings) -> bool {
    match kind {
        PluginKind::Deduplication => old.deduplication == new.deduplication,
        PluginKind::ThresholdAlert => {
            old.thresholds == new.thresholds
                && old.metrics == new.metrics
                && old.interval == new.interval
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
    // Each of these has a plugin below, and no other has.
    order: Vec<PluginKind, PLUGINS_MAX>,
    // A kind stands in the chain at most once, so each has a place of its own.
    deduplication: Option<Deduplication>,
    threshold_alert: Option<ThresholdAlert>,
    aggregation: Option<Aggregation>,
    filter: Option<Filter>,
    own: [Option<O>; OWN_PLUGINS_MAX],
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
        let mut chain = Self {
            order: Vec::new(),
            deduplication: None,
            threshold_alert: None,
            aggregation: None,
            filter: None,
            own: [const { None }; OWN_PLUGINS_MAX],
        };
        chain.arrange(config.settings());
        chain
    }

    /// Passes `sample` through the chain. What comes out goes to `outlet`.
    pub fn process(&mut self, sample: Sample, books: &mut PluginBooks, outlet: &mut impl Outlet) {
        self.process_from(0, sample, books, outlet);
    }

    /// How many snapshots the plugins hold.
    pub fn held(&self) -> u64 {
        self.order.iter().map(|kind| self.held_by(*kind)).sum()
    }

    /// Makes every plugin give out what it holds.
    pub fn flush(&mut self, books: &mut PluginBooks, outlet: &mut impl Outlet) {
        for place in 0..self.order.len() {
            self.flush_plugin(place, books, outlet);
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
        for place in 0..self.order.len() {
            let kind = self.order[place];
            let stays = new.plugins.contains(&kind) && is_same_for(kind, old, new);
            if !stays && self.held_by(kind) > 0 {
                self.flush_plugin(place, books, outlet);
            }
        }
        for place in 0..self.order.len() {
            let kind = self.order[place];
            let Some(plugin) = self.plugin_mut(kind) else { continue };
            let is_remade = matches!(kind, PluginKind::Own(index)
                if parameters(old, index) != parameters(new, index));
            if is_remade || !new.plugins.contains(&kind) {
                plugin.retire(&mut |alert| outlet.alert(alert));
                self.remove(kind);
            } else if !is_same_for(kind, old, new) {
                plugin.reconfigure(new, &mut |alert| outlet.alert(alert));
            }
        }
        self.arrange(new);
    }

    /// Makes the plugins that `settings` name and the chain does not have, and puts all into order.
    fn arrange(&mut self, settings: &Settings) {
        self.order.clear();
        for kind in &settings.plugins {
            if self.plugin_mut(*kind).is_none() {
                self.insert(*kind, settings);
            }
            if self.plugin_mut(*kind).is_some() {
                // Both lists have the same room.
                self.order.push(*kind).ok();
            }
        }
    }

    fn insert(&mut self, kind: PluginKind, settings: &Settings) {
        match kind {
            PluginKind::Deduplication => self.deduplication = Some(Deduplication::new(settings)),
            PluginKind::ThresholdAlert => {
                self.threshold_alert = Some(ThresholdAlert::new(settings));
            }
            PluginKind::Aggregation => self.aggregation = Some(Aggregation::new(settings)),
            PluginKind::Filter => self.filter = Some(Filter::new(settings)),
            PluginKind::Own(index) => {
                self.own[index.get()] = O::new(index, parameters(settings, index));
            }
        }
    }

    fn remove(&mut self, kind: PluginKind) {
        match kind {
            PluginKind::Deduplication => self.deduplication = None,
            PluginKind::ThresholdAlert => self.threshold_alert = None,
            PluginKind::Aggregation => self.aggregation = None,
            PluginKind::Filter => self.filter = None,
            PluginKind::Own(index) => self.own[index.get()] = None,
        }
    }

    fn held_by(&self, kind: PluginKind) -> u64 {
        match kind {
            PluginKind::Deduplication => self.deduplication.as_ref().map_or(0, Plugin::held),
            PluginKind::ThresholdAlert => self.threshold_alert.as_ref().map_or(0, Plugin::held),
            PluginKind::Aggregation => self.aggregation.as_ref().map_or(0, Plugin::held),
            PluginKind::Filter => self.filter.as_ref().map_or(0, Plugin::held),
            PluginKind::Own(index) => {
                self.own[index.get()].as_ref().map_or(0, |own| own.plugin().held())
            }
        }
    }

    fn plugin_mut(&mut self, kind: PluginKind) -> Option<&mut dyn Plugin> {
        match kind {
            PluginKind::Deduplication => self.deduplication.as_mut().map(|p| p as _),
            PluginKind::ThresholdAlert => self.threshold_alert.as_mut().map(|p| p as _),
            PluginKind::Aggregation => self.aggregation.as_mut().map(|p| p as _),
            PluginKind::Filter => self.filter.as_mut().map(|p| p as _),
            PluginKind::Own(index) => self.own[index.get()].as_mut().map(O::plugin_mut),
        }
    }

    fn flush_plugin(&mut self, place: usize, books: &mut PluginBooks, outlet: &mut impl Outlet) {
        let kind = self.order[place];
        let held = self.held_by(kind);
        let Some(sample) = self.plugin_mut(kind).and_then(Plugin::flush) else {
            return;
        };
        let counters = books.of_mut(kind);
        counters.forwarded += 1;
        // The sample stands for itself and for all the others that were held.
        counters.merged += held.saturating_sub(1);
        self.process_from(place + 1, sample, books, outlet);
    }

    fn process_from(
        &mut self,
        first: usize,
        mut sample: Sample,
        books: &mut PluginBooks,
        outlet: &mut impl Outlet,
    ) {
        for place in first..self.order.len() {
            let kind = self.order[place];
            let Some(plugin) = self.plugin_mut(kind) else { continue };
            let counters = books.of_mut(kind);
            counters.received += 1;
            let verdict = plugin.process(&mut sample, &mut |alert| outlet.alert(alert));
            if !count(counters, verdict) {
                return;
            }
        }
        outlet.sample(sample);
    }
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
