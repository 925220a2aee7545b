//! The recorded trace, read from the table that `build.rs` made of it.

use agent_core::metric::{Metric, MetricSet, Values};
use agent_core::record::Snapshot;
use agent_core::time::Instant;

/// The form is in `build.rs`.
const TABLE: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/trace.bin"));

/// Snapshots of a host at one a second, in the order in which they were taken.
#[derive(Clone, Debug)]
pub struct Trace {
    rest: &'static [u8],
    uptime_ms: i64,
    wall_ms: i64,
    // The last value of each metric, by its index.
    counts: [i64; Metric::COUNT],
}

impl Trace {
    /// The trace from its beginning.
    pub const fn new() -> Self {
        Self { rest: TABLE, uptime_ms: 0, wall_ms: 0, counts: [0; Metric::COUNT] }
    }

    /// The wall clock less the uptime, as the last snapshot had it.
    pub(crate) const fn wall_offset_ms(&self) -> i64 {
        self.wall_ms.wrapping_sub(self.uptime_ms)
    }

    fn byte(&mut self) -> Option<u8> {
        let (byte, rest) = self.rest.split_first()?;
        self.rest = rest;
        Some(*byte)
    }

    fn number(&mut self) -> Option<i64> {
        let mut zigzag = 0_u64;
        for shift in (0..u64::BITS).step_by(7) {
            let byte = self.byte()?;
            zigzag |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                break;
            }
        }
        Some((zigzag >> 1).cast_signed() ^ (zigzag & 1).cast_signed().wrapping_neg())
    }
}

impl Default for Trace {
    fn default() -> Self {
        Self::new()
    }
}

impl Iterator for Trace {
    type Item = Snapshot;

    fn next(&mut self) -> Option<Snapshot> {
        let present = self.byte()?;
        self.uptime_ms = self.uptime_ms.wrapping_add(self.number()?);
        self.wall_ms = self.wall_ms.wrapping_add(self.number()?);
        let mut values = Values::EMPTY;
        // The table has the eight fixed metrics, whose ids are the bits of one byte.
        for metric in MetricSet::from_bits_truncate(u64::from(present)).iter() {
            let difference = self.number()?;
            let count = self.counts.get_mut(metric.index())?;
            *count = count.wrapping_add(difference);
            values.set(metric, *count);
        }
        let taken_at = Instant::from_ms(self.uptime_ms.cast_unsigned());
        Some(Snapshot { taken_at, wall_ms: self.wall_ms, values })
    }
}
