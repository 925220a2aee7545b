//! Each plugin against a reference that is written for clarity alone: over whole series, with vectors, maps and
//! 128-bit numbers.

use std::collections::BTreeMap;
use std::time::Duration;

use agent_core::config;
use agent_core::metric::{Metric, Values};
use agent_core::plugin::{Aggregation, Deduplication, Filter, Plugin, ThresholdAlert, Verdict};
use agent_core::record::{Sample, Snapshot};
use agent_core::time::Instant;
use proptest::prelude::*;

type Reading = BTreeMap<Metric, i64>;

/// Series in which repeats, small steps, gaps and the ends of the range all are likely.
fn series() -> impl Strategy<Value = Vec<(u64, Reading)>> {
    let count = prop_oneof![
        4 => 0..3_i64,
        2 => 900..1100_i64,
        2 => 1_000_000..1_100_000_i64,
        1 => any::<i64>(),
    ];
    let metric = (0..8_u32).prop_map(|id| Metric::from_id(id).unwrap());
    let reading = prop::collection::btree_map(metric, count, 0..4);
    let step = prop_oneof![Just(1_000_u64), 0..100_000_u64];
    prop::collection::vec((step, reading), 0..60).prop_map(|steps| {
        let mut at_ms = 0;
        let place = |(step, reading)| {
            at_ms += step;
            (at_ms, reading)
        };
        steps.into_iter().map(place).collect()
    })
}

fn sample(at_ms: u64, reading: &Reading) -> Sample {
    let values = reading.iter().map(|(metric, count)| (*metric, *count)).collect();
    Sample::from(Snapshot { taken_at: Instant::from_ms(at_ms), wall_ms: 0, values })
}

fn reading(values: &Values) -> Reading {
    values.iter().collect()
}

/// Runs `plugin` over `series`; answers the verdict and the sample behind it for each.
fn run(plugin: &mut impl Plugin, series: &[(u64, Reading)]) -> Vec<(Verdict, Sample)> {
    let process = |(at_ms, reading): &(u64, Reading)| {
        let mut sample = sample(*at_ms, reading);
        (plugin.process(&mut sample, &mut |_| ()), sample)
    };
    series.iter().map(process).collect()
}

proptest! {
    #[test]
    fn deduplication(
        series in series(),
        tolerance in 0..2_000_i64,
        silence_ms in 1..50_000_u64,
    ) {
        let settings = config::Deduplication {
            tolerance: Values::from_iter([(Metric::CpuPercent, tolerance)]),
            max_silence: Duration::from_millis(silence_ms),
        };
        let results = run(&mut Deduplication::new(settings), &series);
        let mut last: Option<&(u64, Reading)> = None;
        let mut dropped = 0;
        for (now, (verdict, sample)) in series.iter().zip(results) {
            let repeats = last.is_some_and(|last| {
                now.0 - last.0 < silence_ms
                    && now.1.keys().eq(last.1.keys())
                    && now.1.iter().all(|(metric, count)| {
                        let allowed = if *metric == Metric::CpuPercent { tolerance } else { 0 };
                        let change = i128::from(*count) - i128::from(last.1[metric]);
                        change.abs() <= i128::from(allowed)
                    })
            });
            if repeats {
                prop_assert_eq!(verdict, Verdict::Drop);
                dropped += 1;
            } else {
                prop_assert_eq!(verdict, Verdict::Forward);
                // The counts let a reader put the dropped ones back.
                prop_assert_eq!(sample.repeats, dropped);
                prop_assert_eq!(reading(&sample.snapshot.values), now.1.clone());
                (last, dropped) = (Some(now), 0);
            }
        }
    }

    #[test]
    fn threshold_alert(series in series(), limit in 0..1_050_000_i64) {
        let limits = Values::from_iter([(Metric::NetIn, limit), (Metric::CpuPercent, 950)]);
        for ((_, now), (verdict, sample)) in
            series.iter().zip(run(&mut ThresholdAlert::new(limits), &series))
        {
            prop_assert_eq!(verdict, Verdict::Forward);
            let above = |(metric, limit): &(Metric, i64)| now.get(metric).is_some_and(|c| c > limit);
            let expected = limits.iter().filter(above).collect::<Reading>();
            prop_assert_eq!(reading(&sample.alerts), expected);
        }
    }

    #[test]
    fn filter(series in series(), send_idle: bool, min_cpu in 0..1100_i64, min_memory in 0..3_i64) {
        let settings = config::Filter { send_idle, min_cpu, min_memory };
        for ((_, now), (verdict, _)) in series.iter().zip(run(&mut Filter::new(settings), &series)) {
            let rates = [Metric::DiskRead, Metric::DiskWrite, Metric::NetIn, Metric::NetOut];
            let quiet_cpu = now.get(&Metric::CpuPercent).map(|count| *count < 1_000);
            let quiet_rates = rates.map(|rate| now.get(&rate).map(|count| *count < 1 << 20));
            let signs = [quiet_cpu].into_iter().chain(quiet_rates).flatten().collect::<Vec<_>>();
            let idle = !signs.is_empty() && signs.iter().all(|quiet| *quiet);
            let below = |metric, floor| now.get(&metric).is_some_and(|count| *count < floor);
            let dropped = (idle && !send_idle)
                || below(Metric::CpuPercent, min_cpu)
                || below(Metric::MemoryPercent, min_memory);
            prop_assert_eq!(verdict == Verdict::Drop, dropped);
        }
    }

    #[test]
    fn aggregation(series in series(), size in 1..7_u16) {
        let mut plugin = Aggregation::new(size);
        let results = run(&mut plugin, &series);
        for (number, snapshots) in series.chunks(usize::from(size)).enumerate() {
            let full = snapshots.len() == usize::from(size);
            let sample = if full {
                let (verdict, sample) = &results[(number + 1) * usize::from(size) - 1];
                prop_assert_eq!(*verdict, Verdict::ForwardMerged { merged: u64::from(size) - 1 });
                sample.clone()
            } else {
                prop_assert_eq!(plugin.held(), snapshots.len() as u64);
                plugin.flush().unwrap()
            };
            let mut columns = BTreeMap::<Metric, Vec<i64>>::new();
            for (metric, count) in snapshots.iter().flat_map(|(_, reading)| reading) {
                columns.entry(*metric).or_default().push(*count);
            }
            let window = sample.window.unwrap();
            prop_assert_eq!(usize::from(window.count), snapshots.len());
            prop_assert_eq!(sample.snapshot.taken_at.as_ms(), snapshots.last().unwrap().0);
            prop_assert_eq!(window.first_taken_at.as_ms(), snapshots[0].0);
            for (metric, counts) in &columns {
                prop_assert_eq!(window.min.get(*metric), counts.iter().min().copied());
                prop_assert_eq!(window.max.get(*metric), counts.iter().max().copied());
                let sum = counts.iter().map(|count| i128::from(*count)).sum::<i128>();
                let distance = i128::from(sample.snapshot.values.get(*metric).unwrap())
                    * counts.len() as i128 - sum;
                prop_assert!(2 * distance.abs() <= counts.len() as i128, "not the nearest");
            }
            prop_assert_eq!(reading(&sample.snapshot.values).len(), columns.len());
        }
    }
}
