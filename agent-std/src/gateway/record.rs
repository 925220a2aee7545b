//! A record of a device as the gateway holds it.

use agent_core::codec::{CodecError, pack, unpack};
use agent_core::id::Sequence;
use agent_core::metric::{MetricSet, Values};
use agent_core::record::{Sample, Snapshot};
use agent_core::time::Instant;

use super::backlog::Held;

/// Bytes of one packed record: at most 64 metrics with value, least, greatest and limit, of at most 9 bytes each.
const PACKED_BYTES_MAX: usize = 4096;

/// One record. It stays packed, in about 60 bytes instead of 350, until it is sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Record {
    taken_at: Instant,
    /// What it has values of.
    pub(crate) metrics: MetricSet,
    packed: Box<[u8]>,
}

impl Record {
    /// Packs `sample`.
    ///
    /// # Errors
    ///
    /// Those of [`pack`].
    pub(crate) fn new(sample: &Sample) -> Result<Self, CodecError> {
        let mut buffer = [0; PACKED_BYTES_MAX];
        let length = pack(Sequence::FIRST, std::iter::once(sample), &mut buffer)?;
        let packed = buffer.get(..length).ok_or(CodecError::BufferFull)?.into();
        let Snapshot { taken_at, values, .. } = sample.snapshot;
        Ok(Self { taken_at, metrics: values.present(), packed })
    }
}

impl Held for Record {
    type Content = Sample;

    fn content(&self) -> Sample {
        let mut row = [empty()];
        unpack(&self.packed, &mut row).expect("it was packed here");
        let [sample] = row;
        sample
    }

    fn taken_at(&self) -> Instant {
        self.taken_at
    }
}

/// A sample that says nothing, to be overwritten.
pub(crate) fn empty() -> Sample {
    let taken_at = Instant::from_ms(0);
    Sample::from(Snapshot { taken_at, wall_ms: 0, values: Values::EMPTY })
}

#[cfg(test)]
pub(super) mod tests {
    use agent_core::metric::Metric;
    use agent_core::record::{Completeness, Marks, Window};

    use super::*;

    /// Record `number`, taken so many seconds after the device's start.
    pub(in crate::gateway) fn record(number: u64) -> Record {
        Record::new(&sample(number)).unwrap()
    }

    pub(in crate::gateway) fn sample(number: u64) -> Sample {
        let value = i64::try_from(number).unwrap();
        Sample::from(Snapshot {
            taken_at: Instant::from_ms(number * 1000),
            wall_ms: 1_700_000_000_000 + value * 1000,
            values: Values::from_iter([(Metric::CpuPercent, value)]),
        })
    }

    #[test]
    fn a_record_comes_back_whole() {
        let values = Metric::ALL.into_iter().map(|metric| (metric, i64::MIN)).collect();
        let largest = Sample {
            window: Some(Window {
                count: u32::MAX,
                first_taken_at: Instant::from_ms(7),
                completeness: Completeness::Partial,
                min: values,
                max: values,
                last: values,
                counts: values,
            }),
            marks: Marks { limits: values, below: MetricSet::ALL },
            repeats: u32::MAX,
            ..Sample::from(Snapshot { taken_at: Instant::from_ms(9), wall_ms: i64::MAX, values })
        };
        for sample in [sample(5), largest] {
            let record = Record::new(&sample).unwrap();
            assert_eq!(record.content(), sample);
            assert_eq!(record.metrics, sample.snapshot.values.present());
        }
    }
}
