//! What plugins save: a trace through a chain, counted before it and after each plugin.

use std::io::{self, Write};

use agent_core::codec::{self, BLOCK_ROWS_MAX};
use agent_core::config::{Config, Settings};
use agent_core::id::Sequence;
use agent_core::ledger::PluginBooks;
use agent_core::plugin::own::OwnPlugins;
use agent_core::plugin::{Chain, Outlet, PluginKind};
use agent_core::record::{Alert, Sample, Snapshot};
use prost::Message as _;
use serde::Serialize;

use crate::net::message;

/// Records in one block, as in a batch of a minute at one record a second.
const BLOCK_RECORDS: usize = 60;

const _: () = assert!(BLOCK_RECORDS <= BLOCK_ROWS_MAX);

/// Bytes that a block of records with windows and alerts can never pass.
const BLOCK_BYTES_MAX: usize = 64 * 1024;

/// What is left of a trace behind a plugin.
#[derive(Debug, Serialize)]
pub(crate) struct Stage {
    /// The plugin, or "trace" before the first.
    pub(crate) after: &'static str,
    /// Snapshots or windows.
    pub(crate) records: usize,
    /// Alerts that began or ended.
    pub(crate) alerts: usize,
    /// Values in them; least, greatest, last and count of a window's metric count as values.
    pub(crate) values: usize,
    /// In the packed form, in blocks of 60 records.
    pub(crate) packed_bytes: usize,
    /// In the plain form, a protobuf message of doubles per record.
    pub(crate) plain_bytes: usize,
}

/// Counts `trace` before the chain that `config` asks for, and after each of its plugins.
pub(crate) fn stages<O: OwnPlugins>(trace: &[Snapshot], config: &Config) -> Vec<Stage> {
    let plugins = &config.settings().plugins;
    let prefixes = (0..=plugins.len()).map(|length| &plugins[..length]);
    prefixes.map(|prefix| stage::<O>(trace, config.settings(), prefix)).collect()
}

/// What comes out of a chain.
#[derive(Default)]
struct Collected {
    samples: Vec<Sample>,
    alerts: usize,
}

impl Outlet for Collected {
    fn sample(&mut self, sample: Sample) {
        self.samples.push(sample);
    }

    fn alert(&mut self, _: Alert) {
        self.alerts += 1;
    }
}

fn stage<O: OwnPlugins>(trace: &[Snapshot], settings: &Settings, prefix: &[PluginKind]) -> Stage {
    let plugins = prefix.iter().copied().collect();
    let config = Config::new(Settings { plugins, ..settings.clone() }).unwrap_or_default();
    let mut chain = Chain::<O>::new(&config);
    let mut books = PluginBooks::default();
    let mut out = Collected::default();
    for snapshot in trace {
        chain.process(Sample::from(*snapshot), &mut books, &mut out);
    }
    chain.flush(&mut books, &mut out);
    let Collected { samples, alerts } = out;
    let values = |sample: &Sample| {
        let present = sample.snapshot.values.present().len() as usize;
        if sample.window.is_some() { 5 * present } else { present }
    };
    let mut buffer = vec![0; BLOCK_BYTES_MAX];
    let mut packed = |block: &[Sample]| {
        codec::pack(Sequence::FIRST, block.iter(), &mut buffer).unwrap_or(BLOCK_BYTES_MAX)
    };
    Stage {
        after: prefix.last().map_or("trace", |kind| kind.name(O::NAMES)),
        alerts,
        records: samples.len(),
        values: samples.iter().map(values).sum(),
        packed_bytes: samples.chunks(BLOCK_RECORDS).map(&mut packed).sum(),
        plain_bytes: samples.iter().map(|sample| message::plain_form(sample).encoded_len()).sum(),
    }
}

/// Prints `stages` as a table.
pub(crate) fn write_table(out: &mut impl Write, stages: &[Stage]) -> io::Result<()> {
    let columns = ["after", "records", "alerts", "values", "packed bytes", "plain bytes", "kept"];
    let [after, records, alerts, values, packed, plain, kept] = columns;
    writeln!(
        out,
        "{after:<16} {records:>9} {alerts:>7} {values:>9} {packed:>13} {plain:>12} {kept:>7}"
    )?;
    let whole = stages.first().map_or(0, |stage| stage.records);
    for Stage { after, records, alerts, values, packed_bytes, plain_bytes } in stages {
        let kept = (records * 1000).checked_div(whole).unwrap_or(0);
        let kept = format!("{}.{} %", kept / 10, kept % 10);
        writeln!(
            out,
            "{after:<16} {records:>9} {alerts:>7} {values:>9} {packed_bytes:>13} {plain_bytes:>12} {kept:>7}"
        )?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use agent_core::config::WindowEnd;
    use agent_core::metric::{Metric, Values};
    use agent_core::plugin::own::NoPlugins;
    use agent_core::time::Instant;

    use super::*;

    #[test]
    fn each_plugin_is_counted_behind_those_before_it() {
        let snapshot = |n: u64| Snapshot {
            taken_at: Instant::from_ms(n * 1000),
            wall_ms: 0,
            values: Values::from_iter([(Metric::CpuPercent, i64::try_from(n / 10).unwrap())]),
        };
        let trace = (0..100).map(snapshot).collect::<Vec<_>>();
        let plugins = [PluginKind::Deduplication, PluginKind::Aggregation].into_iter().collect();
        let settings = Settings { plugins, window: WindowEnd::Snapshots(4), ..Settings::default() };
        let stages = stages::<NoPlugins>(&trace, &Config::new(settings).unwrap());
        let counts = stages.iter().map(|stage| (stage.after, stage.records, stage.values));
        assert_eq!(
            counts.collect::<Vec<_>>(),
            [("trace", 100, 100), ("deduplication", 10, 10), ("aggregation", 3, 15)]
        );
        assert!(stages[0].packed_bytes < stages[0].plain_bytes);
    }
}
