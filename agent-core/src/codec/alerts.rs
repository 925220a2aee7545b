//! Alerts on a byte link: few and small, so postcard's form of one behind the other will do.
//!
//! ```text
//! alerts = first sequence (varint) | { alert }
//! ```

use heapless::Vec;

use super::CodecError;
use crate::id::Sequence;
use crate::limits::BATCH_ALERTS_MAX;
use crate::record::Alert;

/// Alerts in one frame.
const ALERTS_MAX: usize = BATCH_ALERTS_MAX;

/// Writes `alerts`, which have consecutive sequences from `first` on, into `buffer`. Answers the bytes it took.
///
/// # Errors
///
/// [`CodecError::BufferFull`], [`CodecError::TooLong`] for more than [`BATCH_ALERTS_MAX`].
pub fn pack_alerts(
    first: Sequence,
    alerts: impl Iterator<Item = Alert>,
    buffer: &mut [u8],
) -> Result<usize, CodecError> {
    let room = buffer.len();
    let mut rest = write(&first.number(), buffer)?;
    for (index, alert) in alerts.enumerate() {
        if ALERTS_MAX <= index {
            return Err(CodecError::TooLong);
        }
        rest = write(&alert, rest)?;
    }
    Ok(room.saturating_sub(rest.len()))
}

fn write<'b>(
    value: &impl serde::Serialize,
    buffer: &'b mut [u8],
) -> Result<&'b mut [u8], CodecError> {
    let written = postcard::to_slice(value, buffer).map_err(|_| CodecError::BufferFull)?.len();
    buffer.get_mut(written..).ok_or(CodecError::BufferFull)
}

/// Reads what [`pack_alerts`] wrote: the sequence of the first, and all of them.
///
/// # Errors
///
/// [`CodecError::TooLong`] for more than [`BATCH_ALERTS_MAX`], [`CodecError::Malformed`].
pub fn unpack_alerts(bytes: &[u8]) -> Result<(Sequence, Vec<Alert, ALERTS_MAX>), CodecError> {
    let malformed = |_| CodecError::Malformed;
    let (first, mut rest) = postcard::take_from_bytes::<u64>(bytes).map_err(malformed)?;
    let first = Sequence::new(first).ok_or(CodecError::Malformed)?;
    let mut alerts = Vec::new();
    while !rest.is_empty() {
        let (alert, behind) = postcard::take_from_bytes(rest).map_err(malformed)?;
        alerts.push(alert).map_err(|_| CodecError::TooLong)?;
        rest = behind;
    }
    Ok((first, alerts))
}

#[cfg(test)]
mod tests {
    use core::time::Duration;
    use std::vec;
    use std::vec::Vec;

    use proptest::prelude::*;

    use super::*;
    use crate::metric::Metric;
    use crate::record::{Direction, Severity, Transition};
    use crate::time::Instant;

    fn alert(value: i64) -> Alert {
        Alert {
            metric: Metric::Temperature,
            transition: Transition::Raised,
            severity: Severity::Critical,
            direction: Direction::Above,
            limit: 80_000,
            value,
            taken_at: Instant::from_ms(u64::MAX),
            wall_ms: i64::MIN,
            lasted: Duration::from_secs(3),
        }
    }

    #[test]
    fn the_form_is_fixed() {
        let mut buffer = [0; 64];
        let one = Alert { taken_at: Instant::from_ms(300), wall_ms: -1, ..alert(81_000) };
        let length = pack_alerts(Sequence::FIRST, [one].into_iter(), &mut buffer).unwrap();
        // Sequence 1; metric 16; raised, critical, above; 80,000 and 81,000 in zigzag; 300 ms; -1 ms; 3 s and 0 ns.
        let golden =
            [1, 16, 0, 2, 0, 0x80, 0xe2, 0x09, 0xd0, 0xf1, 0x09, 0xac, 0x02, 0x01, 0x03, 0x00];
        assert_eq!(buffer[..length], golden);
    }

    proptest! {
        #[test]
        fn every_alert_comes_back(values in prop::collection::vec(any::<i64>(), 0..=ALERTS_MAX)) {
            let alerts = values.iter().map(|value| alert(*value)).collect::<Vec<_>>();
            let mut buffer = vec![0; 4096];
            let first = Sequence::new(7).unwrap();
            let length = pack_alerts(first, alerts.iter().copied(), &mut buffer).unwrap();
            let (read_first, read) = unpack_alerts(&buffer[..length]).unwrap();
            prop_assert_eq!((read_first, read.as_slice()), (first, alerts.as_slice()));
        }

        #[test]
        fn no_bytes_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            unpack_alerts(&bytes).ok();
        }
    }

    #[test]
    fn what_does_not_fit_is_an_error() {
        let many = core::iter::repeat_n(alert(1), ALERTS_MAX + 1);
        let full = pack_alerts(Sequence::FIRST, many.clone(), &mut vec![0; 4096]);
        assert_eq!(full, Err(CodecError::TooLong));
        assert_eq!(pack_alerts(Sequence::FIRST, many, &mut [0; 9]), Err(CodecError::BufferFull));
    }
}
