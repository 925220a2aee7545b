//! Records into blocks and frames, and back. Times of blocks of 60 are for one of their records.

use std::hint::black_box;

use agent_core::codec::{BLOCK_ROWS_MAX, Deframer, Frame, encode_frame, pack, unpack};
use agent_core::id::Sequence;
use agent_core::record::Sample;
use criterion::{Bencher, Criterion};

use crate::processor_time::ProcessorTime;
use crate::widths;

/// As in a batch of a minute at one record a second.
const BLOCK_ROWS: usize = 60;

/// Room for any of these blocks, and for a frame around it.
const BLOCK_BYTES_MAX: usize = 8 * 1024;

pub(crate) fn benchmark(criterion: &mut Criterion<ProcessorTime>) {
    for (width, rows) in widths() {
        let mut group = criterion.benchmark_group(format!("codec, {width}"));
        for (name, length) in [("blocks of 60", BLOCK_ROWS), ("blocks of 1", 1)] {
            let blocks = rows.chunks_exact(length).collect::<Vec<_>>();
            let packed = blocks.iter().map(|rows| packed(rows)).collect::<Vec<_>>();
            group.bench_function(format!("pack, {name}"), |bencher| {
                let mut buffer = vec![0; BLOCK_BYTES_MAX];
                for_each(bencher, &blocks, length, |rows| {
                    black_box(pack(Sequence::FIRST, rows.iter(), &mut buffer)).ok();
                });
            });
            group.bench_function(format!("unpack, {name}"), |bencher| {
                let mut rows = vec![rows[0].clone(); BLOCK_ROWS_MAX];
                for_each(bencher, &packed, length, |block| {
                    black_box(unpack(block, &mut rows)).ok();
                });
            });
            group.bench_function(format!("encode_frame, {name}"), |bencher| {
                let mut link = vec![0; BLOCK_BYTES_MAX];
                for_each(bencher, &packed, length, |block| {
                    black_box(encode_frame(&Frame::Records(block), &mut link)).ok();
                });
            });
            let frames = packed.iter().map(|block| framed(block)).collect::<Vec<_>>();
            group.bench_function(format!("deframe, {name}"), |bencher| {
                let mut deframer = Box::new(Deframer::<BLOCK_BYTES_MAX>::new());
                for_each(bencher, &frames, length, |link| {
                    for byte in link {
                        black_box(deframer.push(*byte)).transpose().unwrap();
                    }
                });
            });
        }
        group.finish();
    }
}

fn packed(rows: &[Sample]) -> Vec<u8> {
    let mut buffer = vec![0; BLOCK_BYTES_MAX];
    let length = pack(Sequence::FIRST, rows.iter(), &mut buffer).unwrap();
    buffer.truncate(length);
    buffer
}

fn framed(block: &[u8]) -> Vec<u8> {
    let mut buffer = vec![0; BLOCK_BYTES_MAX];
    let length = encode_frame(&Frame::Records(block), &mut buffer).unwrap();
    buffer.truncate(length);
    buffer
}

/// Times `work` on one block after the other, for each of the `length` records in a block.
#[expect(clippy::cast_precision_loss, reason = "counts of runs are far below 2^52")]
fn for_each<B>(
    bencher: &mut Bencher<'_, ProcessorTime>,
    blocks: &[B],
    length: usize,
    mut work: impl FnMut(&B),
) {
    let mut blocks = blocks.iter().cycle();
    bencher.iter_custom(|records| {
        let length = length as u64;
        let runs = records.div_ceil(length);
        let start = ProcessorTime::now();
        for _ in 0..runs {
            work(blocks.next().unwrap());
        }
        (ProcessorTime::now() - start).mul_f64(records as f64 / (runs * length) as f64)
    });
}
