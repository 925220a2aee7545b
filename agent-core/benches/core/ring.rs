//! One record into the ring and out of it.

use std::hint::black_box;

use agent_core::limits::RING_BYTES;
use agent_core::record::Sample;
use agent_core::ring::Ring;
use criterion::Criterion;

use crate::processor_time::ProcessorTime;
use crate::widths;

pub(crate) fn benchmark(criterion: &mut Criterion<ProcessorTime>) {
    for (width, rows) in widths() {
        let mut group = criterion.benchmark_group(format!("ring, {width}"));
        group.bench_function("push, read, release", |bencher| {
            let mut ring = Box::new(Ring::<Sample, RING_BYTES>::new());
            let mut rows = rows.iter().cycle();
            bencher.iter(|| {
                ring.push(black_box(rows.next().unwrap()));
                let first = ring.first();
                black_box(ring.range(first, first.next()).next());
                ring.release(first);
            });
        });
        group.bench_function("push into a full ring", |bencher| {
            let mut ring = Box::new(Ring::<Sample, RING_BYTES>::new());
            let mut rows = rows.iter().cycle();
            while ring.push(rows.next().unwrap()) == 0 {}
            bencher.iter(|| ring.push(black_box(rows.next().unwrap())));
        });
        group.finish();
    }
}
