//! Each plugin against a reference that is written for clarity alone: over whole series, with vectors, maps and
//! 128-bit numbers.

use std::collections::BTreeMap;
use std::time::Duration;

use agent_core::config::{
    self, AlertRule, AlertRules, Comparison, Condition, Joint, Settings, Term, Tolerance,
    Tolerances, WindowEnd,
};
use agent_core::metric::{Metric, Values};
use agent_core::plugin::{
    Aggregation, Deduplication, DropReason, Filter, Plugin, ThresholdAlert, Verdict,
};
use agent_core::record::{Direction, Sample, Snapshot, Transition};
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
        hundredths in 0..20_000_u32,
        silence_ms in 1..50_000_u64,
    ) {
        let mut tolerances = Tolerances::EXACT;
        tolerances.set(Metric::CpuPercent, Tolerance::Absolute(tolerance));
        tolerances.set(Metric::MemoryPercent, Tolerance::Relative { hundredths });
        let max_silence = Duration::from_millis(silence_ms);
        let deduplication = config::Deduplication { tolerance: tolerances, max_silence };
        let settings = Settings { deduplication, ..Settings::default() };
        let results = run(&mut Deduplication::new(&settings), &series);
        let mut last: Option<&(u64, Reading)> = None;
        let mut dropped = 0;
        for (now, (verdict, sample)) in series.iter().zip(results) {
            let repeats = last.is_some_and(|last| {
                now.0 - last.0 < silence_ms
                    && now.1.keys().eq(last.1.keys())
                    && now.1.iter().all(|(metric, count)| {
                        let change = (i128::from(*count) - i128::from(last.1[metric])).abs();
                        match metric {
                            Metric::CpuPercent => change <= i128::from(tolerance),
                            Metric::MemoryPercent => {
                                let allowed = i128::from(last.1[metric]).abs() * i128::from(hundredths);
                                change * 10_000 <= allowed
                            }
                            _ => change == 0,
                        }
                    })
            });
            if repeats {
                prop_assert_eq!(verdict, Verdict::Drop(DropReason::Unchanged));
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
    fn threshold_alert(
        series in series(),
        limit in 0..1_050_000_i64,
        hysteresis in 0..1_000_i64,
        hold_ms in prop_oneof![Just(0), 0..100_000_u64],
        below: bool,
    ) {
        let direction = if below { Direction::Below } else { Direction::Above };
        let hold = Duration::from_millis(hold_ms);
        let rule = AlertRule { direction, hysteresis, hold, ..AlertRule::above(limit) };
        let mut thresholds = AlertRules::NONE;
        thresholds.set(Metric::NetIn, rule);
        let interval = Duration::from_secs(1);
        let settings = Settings { thresholds, interval, ..Settings::default() };
        let mut plugin = ThresholdAlert::new(&settings);
        // The values that the metric had so far, with their times: what stands follows from them alone.
        let mut past = Vec::<(u64, i64)>::new();
        let mut stands = false;
        for (at_ms, now) in &series {
            let mut sample = sample(*at_ms, now);
            let mut alerts = Vec::new();
            let verdict = plugin.process(&mut sample, &mut |alert| alerts.push(alert));
            prop_assert_eq!(verdict, Verdict::Forward);
            let before = stands;
            if let Some(value) = now.get(&Metric::NetIn) {
                past.push((*at_ms, *value));
                let beyond = |value: i64| if below { value < limit } else { limit < value };
                let back = if below { limit + hysteresis <= *value } else { *value <= limit - hysteresis };
                let run = past.iter().rev().take_while(|(_, value)| beyond(*value));
                let held_ms = run.last().map(|(since, _)| at_ms - since);
                stands = if stands { !back } else { held_ms.is_some_and(|held| hold_ms <= held + 100) };
                if before != stands {
                    // An alert that ends begins the next one's wait from nothing.
                    past.clear();
                }
            }
            let marked = !sample.marks.is_empty();
            prop_assert_eq!(marked, stands && now.contains_key(&Metric::NetIn));
            let transitions = alerts.iter().map(|alert| alert.transition).collect::<Vec<_>>();
            let expected = match (before, stands) {
                (false, true) => vec![Transition::Raised],
                (true, false) => vec![Transition::Cleared],
                (false, false) | (true, true) => vec![],
            };
            prop_assert_eq!(transitions, expected);
        }
    }

    #[test]
    fn filter(
        series in series(),
        send_idle: bool,
        min_cpu in 0..1100_i64,
        min_memory in 0..3_i64,
        terms in prop::collection::vec(term(), 0..8),
    ) {
        let condition = Condition::new(&terms).unwrap();
        let filter = config::Filter { send_idle, min_cpu, min_memory, condition };
        let settings = Settings { filter, ..Settings::default() };
        for ((_, now), (verdict, _)) in series.iter().zip(run(&mut Filter::new(&settings), &series)) {
            let rates = [Metric::DiskRead, Metric::DiskWrite, Metric::NetIn, Metric::NetOut];
            let quiet_cpu = now.get(&Metric::CpuPercent).map(|count| *count < 1_000);
            let quiet_rates = rates.map(|rate| now.get(&rate).map(|count| *count < 1 << 20));
            let signs = [quiet_cpu].into_iter().chain(quiet_rates).flatten().collect::<Vec<_>>();
            let idle = !signs.is_empty() && signs.iter().all(|quiet| *quiet);
            let below = |metric, floor| now.get(&metric).is_some_and(|count| *count < floor);
            let expected = if idle && !send_idle {
                Verdict::Drop(DropReason::Idle)
            } else if below(Metric::CpuPercent, min_cpu) {
                Verdict::Drop(DropReason::MinCpu)
            } else if below(Metric::MemoryPercent, min_memory) {
                Verdict::Drop(DropReason::MinMemory)
            } else if !holds(&terms, now) {
                Verdict::Drop(DropReason::Condition)
            } else {
                Verdict::Forward
            };
            prop_assert_eq!(verdict, expected);
        }
    }

    #[test]
    fn aggregation(series in series(), size in 1..7_u16) {
        let window = WindowEnd::Snapshots(size);
        let mut plugin = Aggregation::new(&Settings { window, ..Settings::default() });
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
            prop_assert_eq!(window.count as usize, snapshots.len());
            prop_assert_eq!(sample.snapshot.taken_at.as_ms(), snapshots.last().unwrap().0);
            prop_assert_eq!(window.first_taken_at.as_ms(), snapshots[0].0);
            for (metric, counts) in &columns {
                prop_assert_eq!(window.min.get(*metric), counts.iter().min().copied());
                prop_assert_eq!(window.max.get(*metric), counts.iter().max().copied());
                prop_assert_eq!(window.last.get(*metric), counts.last().copied());
                prop_assert_eq!(window.counts.get(*metric), i64::try_from(counts.len()).ok());
                let sum = counts.iter().map(|count| i128::from(*count)).sum::<i128>();
                let distance = i128::from(sample.snapshot.values.get(*metric).unwrap())
                    * counts.len() as i128 - sum;
                prop_assert!(2 * distance.abs() <= counts.len() as i128, "not the nearest");
            }
            prop_assert_eq!(reading(&sample.snapshot.values).len(), columns.len());
        }
    }

    #[test]
    fn aggregation_by_time(series in series(), length_ms in 1..200_000_u64) {
        let window = WindowEnd::Duration(Duration::from_millis(length_ms));
        let interval = Duration::from_secs(1);
        let mut plugin = Aggregation::new(&Settings { window, interval, ..Settings::default() });
        let mut windows = run(&mut plugin, &series)
            .into_iter()
            .filter_map(|(verdict, sample)| {
                matches!(verdict, Verdict::ForwardMerged { .. }).then_some(sample)
            })
            .chain(plugin.flush())
            .map(|sample| {
                let window = sample.window.unwrap();
                (window.first_taken_at.as_ms(), sample.snapshot.taken_at.as_ms(), window.count)
            });
        // Each snapshot belongs to the cell of the raster that it lies in.
        let mut cells = BTreeMap::<u64, Vec<u64>>::new();
        for (at_ms, _) in &series {
            cells.entry((at_ms - series[0].0 + 500) / length_ms).or_default().push(*at_ms);
        }
        for times in cells.values() {
            let expected = (times[0], times[times.len() - 1], u32::try_from(times.len()).unwrap());
            prop_assert_eq!(windows.next(), Some(expected));
        }
        prop_assert_eq!(windows.next(), None);
    }

    #[test]
    fn a_reader_can_rebuild_what_deduplication_dropped(series in series()) {
        let mut plugin = Deduplication::new(&Settings::default());
        let mut rebuilt = Vec::<Reading>::new();
        let mut held_back = 0_u32;
        for (verdict, sample) in run(&mut plugin, &series) {
            if verdict == Verdict::Forward {
                let before = rebuilt.last().cloned().unwrap_or_default();
                rebuilt.extend(std::iter::repeat_n(before, sample.repeats as usize));
                rebuilt.push(reading(&sample.snapshot.values));
                held_back = 0;
            } else {
                held_back += 1;
            }
        }
        // Those behind the last one sent are still to be told.
        let known = series.len() - held_back as usize;
        let original = series[..known].iter().map(|(_, now)| now.clone()).collect::<Vec<_>>();
        prop_assert_eq!(rebuilt, original);
    }
}

fn term() -> impl Strategy<Value = Term> {
    let joint = prop_oneof![Just(Joint::And), Just(Joint::Or)];
    let metric = (0..8_u32).prop_map(|id| Metric::from_id(id).unwrap());
    let comparison = prop::sample::select(&Comparison::ALL[..]);
    let count = prop_oneof![0..3_i64, 900..1100_i64];
    (joint, metric, comparison, count).prop_map(|(joint, metric, comparison, count)| Term {
        joint,
        metric,
        comparison,
        count,
    })
}

/// A condition as a sum of products, written out.
fn holds(terms: &[Term], now: &Reading) -> bool {
    let mut products = Vec::<Vec<bool>>::new();
    for term in terms {
        if products.is_empty() || term.joint == Joint::Or {
            products.push(Vec::new());
        }
        let met = now.get(&term.metric).is_some_and(|count| match term.comparison {
            Comparison::Less => *count < term.count,
            Comparison::LessOrEqual => *count <= term.count,
            Comparison::Greater => *count > term.count,
            Comparison::GreaterOrEqual => *count >= term.count,
            Comparison::Equal => *count == term.count,
            Comparison::NotEqual => *count != term.count,
        });
        products.last_mut().unwrap().push(met);
    }
    products.is_empty() || products.iter().any(|product| product.iter().all(|met| *met))
}
