//! Decimal numbers in text, exact: a double would blur whether one falls on a count.

use std::str::FromStr;

/// Digits of a number, before and after the point together. With as many, and any resolution, nothing overflows.
pub(super) const DIGITS_MAX: usize = 18;

/// A number as it was written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Decimal {
    // The value is mantissa / scale. |mantissa| < 10^18, 1 <= scale <= 10^18.
    mantissa: i128,
    scale: i128,
}

/// A number times a factor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Product {
    /// A whole number.
    Whole(i128),
    /// Between this whole number and the next.
    Above(i128),
}

/// Not `[-]digits[.digits]` with at most [`DIGITS_MAX`] digits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum DecimalError {
    #[error("is not a decimal number")]
    Malformed,
    #[error("has more than {DIGITS_MAX} digits")]
    TooLong,
}

impl FromStr for Decimal {
    type Err = DecimalError;

    fn from_str(text: &str) -> Result<Self, DecimalError> {
        let (unsigned, sign) = text.strip_prefix('-').map_or((text, 1), |rest| (rest, -1));
        let (whole, fraction) = unsigned.split_once('.').unwrap_or((unsigned, "0"));
        if whole.is_empty() || fraction.is_empty() {
            return Err(DecimalError::Malformed);
        }
        let mut decimal = Self { mantissa: 0, scale: 1 };
        for (index, digit) in whole.chars().chain(fraction.chars()).enumerate() {
            let digit = digit.to_digit(10).ok_or(DecimalError::Malformed)?;
            if DIGITS_MAX <= index {
                return Err(DecimalError::TooLong);
            }
            decimal.mantissa = decimal.mantissa * 10 + i128::from(digit);
            if whole.len() <= index {
                decimal.scale *= 10;
            }
        }
        decimal.mantissa *= sign;
        Ok(decimal)
    }
}

impl Decimal {
    /// The number times `factor`.
    pub(super) fn times(self, factor: i64) -> Product {
        let scaled = self.mantissa * i128::from(factor);
        let floor = scaled.div_euclid(self.scale);
        if scaled.rem_euclid(self.scale) == 0 {
            Product::Whole(floor)
        } else {
            Product::Above(floor)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_exact() {
        let times = |text: &str, factor| text.parse::<Decimal>().map(|number| number.times(factor));
        assert_eq!(times("20", 100), Ok(Product::Whole(2000)));
        assert_eq!(times("20.01", 100), Ok(Product::Whole(2001)));
        assert_eq!(times("20.005", 100), Ok(Product::Above(2000)));
        assert_eq!(times("-0.005", 100), Ok(Product::Above(-1)));
        assert_eq!(times("0.5", 1_048_576), Ok(Product::Whole(524_288)));
        let largest = "9".repeat(DIGITS_MAX - 1);
        let expected = i128::from(i64::MAX) * 99_999_999_999_999_999;
        assert_eq!(times(&largest, i64::MAX), Ok(Product::Whole(expected)));
    }

    #[test]
    fn what_is_no_number_is_refused() {
        for text in ["", "-", ".", "1.", ".5", "1e3", "+1", "1.2.3", "--1", " 1", "٣"] {
            assert_eq!(text.parse::<Decimal>(), Err(DecimalError::Malformed), "{text:?}");
        }
        assert_eq!("1".repeat(19).parse::<Decimal>(), Err(DecimalError::TooLong));
    }
}
