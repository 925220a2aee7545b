//! A lossless compressor for short integer series: some dozens of values of one metric.
//!
//! Each series is predicted in the way that suits it best, and only what the prediction missed is written:
//!
//! ```text
//! series  = predictor (3 bits) | shift (6 bits) | residual of each value
//! residual: whether zigzag((value - prediction) >> shift) is zero, an adaptive bit;
//!           if it is not, the number of its significant bits less one, as a tree of 6 adaptive bits;
//!           then the bits below the highest, the first of them adaptive, the others as they are
//!           (the models of the first two depend on the magnitude of the residual before)
//! ```
//!
//! `shift` is the number of zero bits that all values of the series end in: memory comes in pages. Differences are
//! taken modulo 2^64, so the ends of `i64` need no special case and nothing can overflow.
//!
//! Zigzag: Protocol Buffers encoding, "Signed Integers". Choosing the predictor per series follows Blalock, Madden,
//! Guttag, "Sprintz: Time Series Compression for the Internet of Things", 2018; in place of its bit-packing the
//! residuals go through an adaptive range coder, which needs no runs of their own: a residual of zero costs some
//! hundredths of a bit once zeros are what is expected.

use super::CodecError;
use super::range::{Bit, Decoder, Encoder};

/// Values in one series.
pub const SERIES_VALUES_MAX: usize = 256;

/// How a value is predicted from the values before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Predictor {
    /// As zero: for what is mostly zero with bursts.
    Zero,
    /// As the value before: for what stays, or drifts.
    Last,
    /// On the line through the two values before: for what grows evenly.
    Linear,
    /// As a moving average with a weight of 1/4 for the newest: for noise around a level.
    Average,
    /// As the caller says, from another series.
    Given,
}

impl Predictor {
    const ALL: [Self; 5] = [Self::Zero, Self::Last, Self::Linear, Self::Average, Self::Given];

    const fn id(self) -> u64 {
        self as u64
    }

    fn from_id(id: u64) -> Option<Self> {
        Self::ALL.into_iter().find(|predictor| predictor.id() == id)
    }
}

/// The values before the one to predict.
#[derive(Clone, Copy, Debug)]
struct Past {
    last: i64,
    before_last: i64,
    average: i64,
    seen: u32,
}

impl Past {
    const fn new() -> Self {
        Self { last: 0, before_last: 0, average: 0, seen: 0 }
    }

    fn predict(&self, predictor: Predictor, given: i64) -> i64 {
        match predictor {
            Predictor::Zero => 0,
            Predictor::Last => self.last,
            Predictor::Linear if self.seen < 2 => self.last,
            Predictor::Linear => self.last.wrapping_add(self.last.wrapping_sub(self.before_last)),
            Predictor::Average => self.average,
            Predictor::Given => given,
        }
    }

    fn add(&mut self, value: i64) {
        self.average = if self.seen == 0 {
            value
        } else {
            // Halving both first keeps the distance in range; the average need only be the same on both sides.
            let distance = (value >> 1).wrapping_sub(self.average >> 1);
            self.average.wrapping_add(distance >> 1)
        };
        self.before_last = self.last;
        self.last = value;
        self.seen = self.seen.saturating_add(1);
    }
}

const fn zigzag(value: i64) -> u64 {
    (value.wrapping_shl(1) ^ (value >> 63)).cast_unsigned()
}

const fn unzigzag(value: u64) -> i64 {
    (value >> 1).cast_signed() ^ (value & 1).cast_signed().wrapping_neg()
}

/// How many significant bits there are: 0 for 0, at most 64.
const fn width(value: u64) -> u32 {
    u64::BITS.saturating_sub(value.leading_zeros())
}

/// The residual of `value`, without the zero bits that it must end in.
const fn residual(value: i64, prediction: i64, shift: u32) -> u64 {
    // Shifting each apart, not their difference, because a prediction need not end in zeros.
    zigzag((value >> shift).wrapping_sub(prediction >> shift))
}

const fn restore(residual: u64, prediction: i64, shift: u32) -> i64 {
    (prediction >> shift).wrapping_add(unzigzag(residual)).wrapping_shl(shift)
}

/// Nodes of the tree that a width of 1 to 64 is written with, less one; node 0 is not used.
const WIDTH_NODES: usize = 64;
const WIDTH_BITS: u32 = 6;
/// Contexts for a width: the residual before was zero, below 2^8, or larger.
const CONTEXTS: usize = 3;

/// The models of a series. All of them start afresh with each series, so that every block stands alone.
#[derive(Clone, Debug)]
struct Models {
    zero: [Bit; CONTEXTS],
    widths: [[Bit; WIDTH_NODES]; CONTEXTS],
    // The bit below the highest, by width.
    second: [Bit; 65],
    context: usize,
}

impl Models {
    const fn new() -> Self {
        Self {
            zero: [Bit::new(); CONTEXTS],
            widths: [[Bit::new(); WIDTH_NODES]; CONTEXTS],
            second: [Bit::new(); 65],
            context: 0,
        }
    }

    fn zero_model(&mut self) -> Result<&mut Bit, CodecError> {
        self.zero.get_mut(self.context).ok_or(CodecError::Malformed)
    }

    fn width_model(&mut self, node: usize) -> Result<&mut Bit, CodecError> {
        let context = self.widths.get_mut(self.context).ok_or(CodecError::Malformed)?;
        context.get_mut(node).ok_or(CodecError::Malformed)
    }

    fn second_model(&mut self, width: u32) -> Result<&mut Bit, CodecError> {
        let index = usize::try_from(width).map_err(|_| CodecError::Malformed)?;
        self.second.get_mut(index).ok_or(CodecError::Malformed)
    }

    const fn set_context(&mut self, width: u32) {
        self.context = match width {
            0 => 0,
            1..=8 => 1,
            _ => 2,
        };
    }

    fn encode(&mut self, encoder: &mut Encoder<'_>, residual: u64) -> Result<(), CodecError> {
        let width = width(residual);
        encoder.encode(self.zero_model()?, width != 0)?;
        let Some(below_width) = width.checked_sub(1) else {
            self.set_context(0);
            return Ok(());
        };
        let mut node = 1_usize;
        for place in (0..WIDTH_BITS).rev() {
            let bit = below_width.wrapping_shr(place) & 1 == 1;
            encoder.encode(self.width_model(node)?, bit)?;
            node = node << 1 | usize::from(bit);
        }
        if 1 < width {
            let below = width.saturating_sub(2);
            let second = residual.wrapping_shr(below) & 1 == 1;
            encoder.encode(self.second_model(width)?, second)?;
            encoder.encode_direct(residual, below)?;
        }
        self.set_context(width);
        Ok(())
    }

    fn decode(&mut self, decoder: &mut Decoder<'_>) -> Result<u64, CodecError> {
        if !decoder.decode(self.zero_model()?)? {
            self.set_context(0);
            return Ok(0);
        }
        let mut node = 1_usize;
        for _ in 0..WIDTH_BITS {
            let bit = decoder.decode(self.width_model(node)?)?;
            node = node << 1 | usize::from(bit);
        }
        let below_width = u32::try_from(node & (WIDTH_NODES - 1));
        let width = below_width.map_err(|_| CodecError::Malformed)?.saturating_add(1);
        let residual = match width {
            1 => 1,
            2..=64 => {
                let below = width.saturating_sub(2);
                let second = decoder.decode(self.second_model(width)?)?;
                let high = 2 | u64::from(second);
                high.wrapping_shl(below) | decoder.decode_direct(below)?
            }
            _ => return Err(CodecError::Malformed),
        };
        self.set_context(width);
        Ok(residual)
    }
}

/// Bytes that writing or reading a series takes beside what the caller lends: 4 KiB at most, so that a task of a
/// microcontroller has room for it on its stack.
const _: () = {
    const STATE_BYTES_MAX: usize = 4096;
    let beside = size_of::<Models>() + size_of::<Past>();
    assert!(beside + size_of::<SeriesEncoder<'_>>() <= STATE_BYTES_MAX);
    assert!(beside + size_of::<SeriesDecoder<'_>>() <= STATE_BYTES_MAX);
};

/// Writes series after series into a lent buffer.
#[derive(Debug)]
pub struct SeriesEncoder<'b> {
    encoder: Encoder<'b>,
}

impl<'b> SeriesEncoder<'b> {
    /// An encoder that writes at the beginning of `buffer`.
    pub const fn new(buffer: &'b mut [u8]) -> Self {
        Self { encoder: Encoder::new(buffer) }
    }

    /// Writes `value` in `bits` bits, for what stands beside the series.
    ///
    /// # Errors
    ///
    /// [`CodecError::BufferFull`].
    pub fn number(&mut self, value: u64, bits: u32) -> Result<(), CodecError> {
        self.encoder.encode_direct(value, bits)
    }

    /// Writes a series of at most [`SERIES_VALUES_MAX`] values. With `given`, a prediction for each value, the
    /// values may be written as their differences from it.
    ///
    /// # Errors
    ///
    /// [`CodecError::BufferFull`]; [`CodecError::TooLong`] for more values than allowed, or for `given` of another
    /// length.
    pub fn series(&mut self, values: &[i64], given: Option<&[i64]>) -> Result<(), CodecError> {
        let fits = values.len() <= SERIES_VALUES_MAX
            && given.is_none_or(|given| given.len() == values.len());
        if !fits {
            return Err(CodecError::TooLong);
        }
        let union = values.iter().fold(0, |union, value| union | value);
        let shift = if union == 0 { 0 } else { union.trailing_zeros() };
        let predictor = cheapest(values, given, shift);
        self.encoder.encode_direct(predictor.id(), 3)?;
        self.encoder.encode_direct(u64::from(shift), 6)?;
        let mut models = Models::new();
        for residual in residuals(values, given, predictor, shift) {
            models.encode(&mut self.encoder, residual)?;
        }
        Ok(())
    }

    /// Ends the block. Answers how many bytes of the buffer it takes.
    ///
    /// # Errors
    ///
    /// [`CodecError::BufferFull`].
    pub fn finish(self) -> Result<usize, CodecError> {
        self.encoder.finish()
    }
}

fn residuals(
    values: &[i64],
    given: Option<&[i64]>,
    predictor: Predictor,
    shift: u32,
) -> impl Iterator<Item = u64> {
    let given = given.unwrap_or_default().iter().copied().chain(core::iter::repeat(0));
    values.iter().zip(given).scan(Past::new(), move |past, (value, given)| {
        let prediction = past.predict(predictor, given);
        past.add(*value);
        Some(residual(*value, prediction, shift))
    })
}

/// The predictor with the fewest significant bits in its residuals; of equal ones the first.
fn cheapest(values: &[i64], given: Option<&[i64]>, shift: u32) -> Predictor {
    let cost = |predictor: &Predictor| {
        residuals(values, given, *predictor, shift)
            .fold(0_u32, |sum, residual| sum.saturating_add(width(residual)))
    };
    let candidates = Predictor::ALL.into_iter();
    candidates
        .filter(|predictor| *predictor != Predictor::Given || given.is_some())
        .min_by_key(cost)
        .unwrap_or(Predictor::Zero)
}

/// Reads series after series from a block.
#[derive(Clone, Debug)]
pub struct SeriesDecoder<'b> {
    decoder: Decoder<'b>,
}

impl<'b> SeriesDecoder<'b> {
    /// A decoder for `block`.
    pub fn new(block: &'b [u8]) -> Self {
        Self { decoder: Decoder::new(block) }
    }

    /// Reads a number that was written in `bits` bits.
    ///
    /// # Errors
    ///
    /// [`CodecError::Truncated`].
    pub fn number(&mut self, bits: u32) -> Result<u64, CodecError> {
        self.decoder.decode_direct(bits)
    }

    /// Reads a series into `values`, as many as it has room for. `given` predicts each value by its index if the
    /// series was written with predictions.
    ///
    /// # Errors
    ///
    /// [`CodecError::Truncated`] or [`CodecError::Malformed`]. Bytes that were not written by a [`SeriesEncoder`]
    /// may also be read without an error, as other values: a checksum around the block tells.
    pub fn series(
        &mut self,
        values: &mut [i64],
        mut given: impl FnMut(usize) -> i64,
    ) -> Result<(), CodecError> {
        let predictor =
            Predictor::from_id(self.decoder.decode_direct(3)?).ok_or(CodecError::Malformed)?;
        let shift =
            u32::try_from(self.decoder.decode_direct(6)?).map_err(|_| CodecError::Malformed)?;
        let mut models = Models::new();
        let mut past = Past::new();
        for (index, value) in values.iter_mut().enumerate() {
            let given = if predictor == Predictor::Given { given(index) } else { 0 };
            let prediction = past.predict(predictor, given);
            *value = restore(models.decode(&mut self.decoder)?, prediction, shift);
            past.add(*value);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::vec;
    use std::vec::Vec;

    use proptest::prelude::*;

    use super::*;

    /// Writes and reads `values`; answers the bytes it took.
    fn check(values: &[i64], given: Option<&[i64]>) -> usize {
        let mut buffer = vec![0; values.len() * 12 + 32];
        let mut encoder = SeriesEncoder::new(&mut buffer);
        encoder.series(values, given).unwrap();
        encoder.number(0b101, 3).unwrap();
        let length = encoder.finish().unwrap();
        let mut decoder = SeriesDecoder::new(&buffer[..length]);
        let mut read = vec![0; values.len()];
        decoder.series(&mut read, |index| given.map_or(0, |given| given[index])).unwrap();
        assert_eq!(read, values);
        assert_eq!(decoder.number(3), Ok(0b101));
        length
    }

    #[test]
    fn the_ends_of_i64_come_back() {
        check(&[], None);
        check(&[i64::MIN], None);
        check(&[i64::MIN, i64::MAX, i64::MIN, 0, -1, 1, i64::MAX], None);
        check(&[i64::MAX; 256], None);
        check(&[i64::MIN; 256], None);
        check(&[i64::MIN, i64::MAX], Some(&[i64::MAX, i64::MIN]));
    }

    #[test]
    fn regular_series_take_little_room() {
        assert!(check(&[0; 60], None) <= 3);
        assert!(check(&[25_276_846_080; 60], None) <= 10);
        let even = (0..60).map(|n| 1_795_387_018_000 + n * 1000).collect::<Vec<_>>();
        assert!(check(&even, None) <= 20, "{}", check(&even, None));
        let pages = (0..60).map(|n| (4096 * (n * 7919 % 16)) + (1 << 30)).collect::<Vec<_>>();
        assert!(check(&pages, None) <= 60);
    }

    #[test]
    fn a_prediction_that_holds_costs_next_to_nothing() {
        let values = (0..60_i64).map(|n| n.wrapping_mul(0x9e37_79b9_7f4a_7c15_u64.cast_signed()));
        let values = values.collect::<Vec<_>>();
        assert!(check(&values, Some(&values)) <= 3);
    }

    #[test]
    fn too_many_values_and_a_full_buffer_are_errors() {
        let mut buffer = [0; 16];
        let mut encoder = SeriesEncoder::new(&mut buffer);
        assert_eq!(encoder.series(&[0; 257], None), Err(CodecError::TooLong));
        assert_eq!(encoder.series(&[0; 2], Some(&[0; 3])), Err(CodecError::TooLong));
        let noise = [i64::MAX, 1, i64::MIN, 77, -1 << 60];
        assert_eq!(encoder.series(&noise, None), Err(CodecError::BufferFull));
    }

    fn any_series() -> impl Strategy<Value = Vec<i64>> {
        let small = prop::collection::vec(-300..300_i64, 0..120);
        let pages = prop::collection::vec(0..1_000_000_i64, 0..120)
            .prop_map(|values| values.into_iter().map(|value| value * 4096).collect());
        let any = prop::collection::vec(any::<i64>(), 0..120);
        prop_oneof![small, pages, any]
    }

    proptest! {
        #[test]
        fn every_series_comes_back(values in any_series(), given in any_series()) {
            check(&values, None);
            let given = values.iter().enumerate().map(|(i, v)| *given.get(i).unwrap_or(v));
            check(&values, Some(&given.collect::<Vec<_>>()));
        }

        #[test]
        fn no_bytes_panic(block in prop::collection::vec(any::<u8>(), 0..200)) {
            let mut decoder = SeriesDecoder::new(&block);
            let mut values = [0; 64];
            while decoder.series(&mut values, |_| 7).is_ok() && values[0] != 7 {
                values[0] = 7;
            }
        }
    }
}
