//! Times and durations for people.

use jiff::Timestamp;
use jiff::tz::TimeZone;

/// Unix milliseconds as date and time of day of the zone, to the second; always 19 characters from year 0.
///
/// What lies beyond the calendar is shown as its last moment, as in JSON: the calendar ends a day before the
/// year 9999 does, so that every zone has a date for each time.
pub(crate) fn local(unix_ms: i64, zone: &TimeZone) -> String {
    let bound = if unix_ms < 0 { Timestamp::MIN } else { Timestamp::MAX };
    let time = Timestamp::from_millisecond(unix_ms).unwrap_or(bound);
    time.to_zoned(zone.clone()).strftime("%Y-%m-%d %H:%M:%S").to_string()
}

/// A duration in its two largest units, such as `3h 20m`. Below a second it is `0s`, below nothing too.
pub(crate) fn span(duration_ms: i64) -> String {
    let seconds = duration_ms.max(0) / 1000;
    let units = [
        (seconds / 86_400, "d"),
        (seconds / 3600 % 24, "h"),
        (seconds / 60 % 60, "m"),
        (seconds % 60, "s"),
    ];
    let first = units.iter().position(|(amount, _)| *amount > 0).unwrap_or(units.len() - 1);
    let parts = units.iter().skip(first).take(2);
    let shown = parts.enumerate().filter(|(index, (amount, _))| *index == 0 || *amount > 0);
    shown.map(|(_, (amount, unit))| format!("{amount}{unit}")).collect::<Vec<_>>().join(" ")
}

/// The same for milliseconds on the wire, precise below ten seconds, such as `0.5s`.
pub(crate) fn fine_span(duration_ms: u64) -> String {
    if duration_ms < 10_000 && !duration_ms.is_multiple_of(1000) {
        let (seconds, thousandths) = (duration_ms / 1000, duration_ms % 1000);
        let fraction = format!("{thousandths:03}");
        return format!("{seconds}.{}s", fraction.trim_end_matches('0'));
    }
    span(i64::try_from(duration_ms).unwrap_or(i64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_have_two_units() {
        let check = |duration_ms, expected: &str| assert_eq!(span(duration_ms), expected);
        check(-5, "0s");
        check(999, "0s");
        check(59_999, "59s");
        check(60_000, "1m");
        check(61_000, "1m 1s");
        check(7_200_000, "2h");
        check(7_259_000, "2h");
        check(90_061_000, "1d 1h");
        check(i64::MAX, "106751991167d 7h");
    }

    #[test]
    fn fine_spans_keep_the_fraction_of_short_ones() {
        let check = |duration_ms, expected: &str| assert_eq!(fine_span(duration_ms), expected);
        check(0, "0s");
        check(100, "0.1s");
        check(1_250, "1.25s");
        check(5_000, "5s");
        check(45_500, "45s");
        check(u64::MAX, "106751991167d 7h");
    }

    #[test]
    fn times_are_of_the_zone() {
        let zone = TimeZone::fixed(jiff::tz::offset(2));
        assert_eq!(local(1_700_000_000_123, &zone), "2023-11-15 00:13:20");
        assert_eq!(local(253_402_300_799_999, &zone), "9999-12-31 00:00:00");
        assert_eq!(local(i64::MAX, &TimeZone::UTC), "9999-12-30 22:00:00");
    }
}
