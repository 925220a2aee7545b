//! A binary range coder with adaptive bits.
//!
//! Source: G. N. N. Martin, "Range encoding", 1979; the binary form is that of LZMA (7-zip, `lzma.txt`), with two
//! changes for small blocks. A carry is added to the bytes already written, which the lent buffer still holds, so
//! no byte is held back. And trailing zero bytes are cut off, because the decoder reads zeros past the end.

use core::num::NonZeroU32;

use super::CodecError;

/// Probabilities are fractions of 2^16.
const PROBABILITY_BITS: u32 = 16;
/// Below this the range is widened by a byte.
const RANGE_MIN: u32 = 1 << 24;
/// A probability never comes closer than this to 0 or 1.
const PROBABILITY_MIN: u16 = 64;
const PROBABILITY_MAX: u16 = u16::MAX.saturating_sub(PROBABILITY_MIN);
/// How many bits a model takes into account at most; more would make it slow to follow a change.
const MEMORY_MAX: u8 = 30;

/// What is known about one kind of bit: how likely it is to be 0, and from how many bits that is known.
///
/// The first bits move the probability by 1/2, 1/3, 1/4, ..., later ones by 1/32: a block has only some hundred
/// bits of each kind, so learning fast is worth more than precision.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bit {
    // Probability of 0 in 2^-16: PROBABILITY_MIN <= zero <= PROBABILITY_MAX.
    zero: u16,
    seen: u8,
}

impl Bit {
    pub(super) const fn new() -> Self {
        Self { zero: 1 << 15, seen: 0 }
    }

    fn learn(&mut self, bit: bool) {
        let divisor = NonZeroU32::MIN.saturating_add(u32::from(self.seen).saturating_add(1));
        let zero = u32::from(self.zero);
        let target = u32::from(if bit { PROBABILITY_MIN } else { PROBABILITY_MAX });
        let step = zero.abs_diff(target) / divisor;
        let moved = if bit { zero.saturating_sub(step) } else { zero.saturating_add(step) };
        self.zero = u16::try_from(moved).unwrap_or(u16::MAX);
        self.seen = self.seen.saturating_add(1).min(MEMORY_MAX);
    }
}

/// Writes bits into a lent buffer.
#[derive(Debug)]
pub(super) struct Encoder<'b> {
    buffer: &'b mut [u8],
    written: usize,
    low: u32,
    range: u32,
}

impl<'b> Encoder<'b> {
    pub(super) const fn new(buffer: &'b mut [u8]) -> Self {
        Self { buffer, written: 0, low: 0, range: u32::MAX }
    }

    pub(super) fn encode(&mut self, model: &mut Bit, bit: bool) -> Result<(), CodecError> {
        let bound = (self.range >> PROBABILITY_BITS).saturating_mul(u32::from(model.zero));
        model.learn(bit);
        self.narrow(bound, bit)
    }

    /// Writes the `count` low bits of `value`, the highest first, each as likely as not.
    pub(super) fn encode_direct(&mut self, value: u64, count: u32) -> Result<(), CodecError> {
        (0..count).rev().try_for_each(|place| {
            let bit = value.checked_shr(place).unwrap_or(0) & 1 == 1;
            self.narrow(self.range >> 1, bit)
        })
    }

    /// Ends the block. Answers how many bytes it has.
    pub(super) fn finish(mut self) -> Result<usize, CodecError> {
        // Of all numbers in [low, low + range) take one that ends in as many zero bits as possible.
        let zeros = (0..32_u32).rev().find_map(|zeros| {
            let mask = 1_u32.checked_shl(zeros)?.wrapping_sub(1);
            let up = mask.wrapping_sub(self.low.wrapping_sub(1) & mask) & mask;
            (up < self.range).then_some(up)
        });
        self.add(zeros.unwrap_or(0))?;
        for _ in 0..4 {
            self.shift_out()?;
        }
        let end = self.buffer.get(..self.written).unwrap_or_default();
        let last = end.iter().rposition(|byte| *byte != 0);
        Ok(last.map_or(0, |last| last.saturating_add(1)))
    }

    fn narrow(&mut self, bound: u32, bit: bool) -> Result<(), CodecError> {
        if bit {
            self.add(bound)?;
            self.range = self.range.saturating_sub(bound);
        } else {
            self.range = bound;
        }
        while self.range < RANGE_MIN {
            self.shift_out()?;
            self.range <<= 8;
        }
        Ok(())
    }

    /// Adds to `low`; a carry goes into the bytes already written.
    fn add(&mut self, amount: u32) -> Result<(), CodecError> {
        let (low, carry) = self.low.overflowing_add(amount);
        self.low = low;
        if carry {
            let written = self.buffer.get_mut(..self.written).ok_or(CodecError::BufferFull)?;
            for byte in written.iter_mut().rev() {
                let (sum, carry) = byte.overflowing_add(1);
                *byte = sum;
                if !carry {
                    break;
                }
            }
        }
        Ok(())
    }

    fn shift_out(&mut self) -> Result<(), CodecError> {
        let place = self.buffer.get_mut(self.written).ok_or(CodecError::BufferFull)?;
        let [highest, ..] = self.low.to_be_bytes();
        *place = highest;
        self.written = self.written.saturating_add(1);
        self.low <<= 8;
        Ok(())
    }
}

/// Reads bits from a block.
#[derive(Clone, Debug)]
pub(super) struct Decoder<'b> {
    rest: &'b [u8],
    // The distance of the block's number from the low end of the range: offset < range in a sound block.
    offset: u32,
    range: u32,
    zeros_read: u32,
}

/// Zero bytes that a sound block can ask for past its end without having been cut short by more than its
/// trailing zeros: what is cut is never more than the encoder wrote since the last byte that is not zero.
const ZEROS_MAX: u32 = 1 << 16;

impl<'b> Decoder<'b> {
    pub(super) fn new(block: &'b [u8]) -> Self {
        let mut decoder = Self { rest: block, offset: 0, range: u32::MAX, zeros_read: 0 };
        for _ in 0..4 {
            decoder.shift_in();
        }
        decoder
    }

    pub(super) fn decode(&mut self, model: &mut Bit) -> Result<bool, CodecError> {
        let bound = (self.range >> PROBABILITY_BITS).saturating_mul(u32::from(model.zero));
        let bit = self.narrow(bound)?;
        model.learn(bit);
        Ok(bit)
    }

    pub(super) fn decode_direct(&mut self, count: u32) -> Result<u64, CodecError> {
        (0..count).try_fold(0_u64, |value, _| {
            let bit = self.narrow(self.range >> 1)?;
            Ok(value << 1 | u64::from(bit))
        })
    }

    fn narrow(&mut self, bound: u32) -> Result<bool, CodecError> {
        let bit = bound <= self.offset;
        if bit {
            self.offset = self.offset.saturating_sub(bound);
            self.range = self.range.saturating_sub(bound);
        } else {
            self.range = bound;
        }
        while self.range < RANGE_MIN {
            self.shift_in();
            self.range <<= 8;
        }
        if ZEROS_MAX < self.zeros_read {
            return Err(CodecError::Truncated);
        }
        Ok(bit)
    }

    fn shift_in(&mut self) {
        let byte = if let Some((first, rest)) = self.rest.split_first() {
            self.rest = rest;
            *first
        } else {
            self.zeros_read = self.zeros_read.saturating_add(1);
            0
        };
        self.offset = self.offset << 8 | u32::from(byte);
    }
}

#[cfg(test)]
mod tests {
    use std::vec;
    use std::vec::Vec;

    use proptest::prelude::*;

    use super::*;

    fn round_trip(bits: &[(bool, bool)]) -> usize {
        let mut buffer = vec![0xaa; bits.len() + 16];
        let mut encoder = Encoder::new(&mut buffer);
        let mut model = Bit::new();
        for (adaptive, bit) in bits {
            match adaptive {
                true => encoder.encode(&mut model, *bit).unwrap(),
                false => encoder.encode_direct(u64::from(*bit), 1).unwrap(),
            }
        }
        let length = encoder.finish().unwrap();
        let mut decoder = Decoder::new(&buffer[..length]);
        let mut model = Bit::new();
        for (index, (adaptive, bit)) in bits.iter().enumerate() {
            let read = match adaptive {
                true => decoder.decode(&mut model).unwrap(),
                false => decoder.decode_direct(1).unwrap() == 1,
            };
            assert_eq!(read, *bit, "bit {index}");
        }
        length
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(bits in prop::collection::vec(any::<(bool, bool)>(), 0..2000)) {
            round_trip(&bits);
        }

        #[test]
        fn skewed_bits_are_read_and_take_little_room(
            ones in prop::collection::vec(0..1000_usize, 0..10),
        ) {
            let mut bits = vec![(true, false); 1000];
            for one in ones {
                bits[one] = (true, true);
            }
            prop_assert!(round_trip(&bits) < 40);
        }

        #[test]
        fn any_bytes_can_be_read(block in prop::collection::vec(any::<u8>(), 0..40)) {
            let mut decoder = Decoder::new(&block);
            let mut models = [Bit::new(); 8];
            for step in 0..2000 {
                if decoder.decode(&mut models[step % 8]).is_err() {
                    break;
                }
            }
        }
    }

    #[test]
    fn nothing_takes_no_room_and_a_full_buffer_is_an_error() {
        assert_eq!(round_trip(&[]), 0);
        assert_eq!(round_trip(&[(true, false); 100]), 0);
        let mut buffer = [0; 4];
        let mut encoder = Encoder::new(&mut buffer);
        let full = (0..100).find_map(|n| encoder.encode_direct(n, 8).err());
        assert_eq!(full, Some(CodecError::BufferFull));
    }

    #[test]
    fn direct_bits_keep_their_order() {
        let mut buffer = [0; 32];
        let mut encoder = Encoder::new(&mut buffer);
        encoder.encode_direct(u64::MAX, 64).unwrap();
        encoder.encode_direct(0x1234_5678_9abc_def0, 61).unwrap();
        let length = encoder.finish().unwrap();
        let mut decoder = Decoder::new(&buffer[..length]);
        assert_eq!(decoder.decode_direct(64), Ok(u64::MAX));
        assert_eq!(decoder.decode_direct(61), Ok(0x1234_5678_9abc_def0));
        let values = Vec::from(buffer);
        assert_eq!(values.len(), 32);
    }
}
