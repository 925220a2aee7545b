//! Any bytes as series of integers, both where a decoder expects series and as the values of one.
#![no_main]

use agent_core::codec::{SERIES_VALUES_MAX, SeriesDecoder, SeriesEncoder};
use libfuzzer_sys::fuzz_target;

/// Far more than one series takes.
const BUFFER_BYTES: usize = 16 * SERIES_VALUES_MAX;

/// A block has no end of its own: past its bytes a decoder reads zeros.
const SERIES_MAX: usize = 16;

/// Writes `values`, and reads the same again.
fn check(values: &[i64], given: Option<&[i64]>) {
    let mut buffer = [0; BUFFER_BYTES];
    let mut encoder = SeriesEncoder::new(&mut buffer);
    encoder.series(values, given).expect("the buffer is large");
    let length = encoder.finish().expect("the buffer is large");
    let mut read = vec![0; values.len()];
    let mut decoder = SeriesDecoder::new(&buffer[..length]);
    let prediction = |index| given.map_or(0, |given| given[index]);
    assert_eq!(decoder.series(&mut read, prediction), Ok(()));
    assert_eq!(read, values);
}

fuzz_target!(|input: &[u8]| {
    let Some((count, bytes)) = input.split_first() else { return };
    let mut decoder = SeriesDecoder::new(bytes);
    let mut values = vec![0; usize::from(*count)];
    let mut before = values.clone();
    for _ in 0..SERIES_MAX {
        if decoder.series(&mut values, |index| before[index]).is_err() {
            break;
        }
        check(&values, Some(&before));
        before.copy_from_slice(&values);
    }

    let words = bytes.as_chunks().0.iter().map(|word| i64::from_le_bytes(*word));
    let values = words.take(SERIES_VALUES_MAX).collect::<Vec<_>>();
    check(&values, None);
    let (given, values) = values.split_at(values.len() / 2);
    check(&values[..given.len()], Some(given));
});
