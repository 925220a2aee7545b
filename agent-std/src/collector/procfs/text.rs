//! The words and numbers of a line.

/// The words of `line`, which blanks divide.
pub(super) fn words(line: &[u8]) -> impl Iterator<Item = &[u8]> {
    line.split(u8::is_ascii_whitespace).filter(|word| !word.is_empty())
}

/// The number that `word` is; none when it is something else, or more than fits.
pub(super) fn number(word: &[u8]) -> Option<u64> {
    if word.is_empty() {
        return None;
    }
    word.iter().try_fold(0_u64, |number, byte| {
        let digit = byte.is_ascii_digit().then(|| u64::from(byte - b'0'))?;
        number.checked_mul(10)?.checked_add(digit)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_divided_by_any_blanks() {
        assert_eq!(words(b"  a\tbc  d ").collect::<Vec<_>>(), [&b"a"[..], b"bc", b"d"]);
        assert_eq!(words(b" \t").count(), 0);
    }

    #[test]
    fn a_number_is_of_digits_and_fits() {
        assert_eq!(number(b"0"), Some(0));
        assert_eq!(number(b"18446744073709551615"), Some(u64::MAX));
        for no_number in [&b""[..], b"18446744073709551616", b"-1", b"+1", b"1.5", b"1x", b"\xff"] {
            assert_eq!(number(no_number), None, "{no_number:?}");
        }
    }
}
