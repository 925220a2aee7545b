//! One snapshot through the chain, with all plugins and with one.

use std::hint::black_box;

use agent_core::config::{Config, Settings, WindowEnd};
use agent_core::ledger::PluginBooks;
use agent_core::plugin::own::NoPlugins;
use agent_core::plugin::{Chain, Outlet, PluginKind};
use agent_core::record::{Alert, Sample};
use criterion::{Bencher, Criterion};

use crate::processor_time::ProcessorTime;
use crate::{endless, widths};

/// All four in the order in which each of them has something to do for nearly every snapshot.
pub(crate) const ALL: &[PluginKind] = &[
    PluginKind::Deduplication,
    PluginKind::ThresholdAlert,
    PluginKind::Filter,
    PluginKind::Aggregation,
];

pub(crate) fn config(plugins: &[PluginKind]) -> Config {
    let mut settings = Settings {
        plugins: plugins.iter().copied().collect(),
        window: WindowEnd::Snapshots(10),
        ..Settings::default()
    };
    settings.filter.send_idle = false;
    Config::new(settings).unwrap()
}

struct Sink;

impl Outlet for Sink {
    fn sample(&mut self, sample: Sample) {
        black_box(sample);
    }

    fn alert(&mut self, alert: Alert) {
        black_box(alert);
    }
}

pub(crate) fn benchmark(criterion: &mut Criterion<ProcessorTime>) {
    for (width, rows) in widths() {
        let mut group = criterion.benchmark_group(format!("chain, {width}"));
        group.bench_function("none", |bencher| process(bencher, &rows, &[]));
        for kind in PluginKind::BUILT_IN {
            group.bench_function(kind.name(&[]), |bencher| process(bencher, &rows, &[kind]));
        }
        group.bench_function("all four", |bencher| process(bencher, &rows, ALL));
        group.finish();
    }
}

fn process(bencher: &mut Bencher<'_, ProcessorTime>, rows: &[Sample], plugins: &[PluginKind]) {
    let mut chain = Chain::<NoPlugins>::new(&config(plugins));
    let mut books = PluginBooks::default();
    let mut snapshots = endless(rows);
    bencher.iter(|| {
        let snapshot = snapshots.next().unwrap();
        chain.process(Sample::from(snapshot), &mut books, &mut Sink);
    });
}
