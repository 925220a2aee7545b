//! The load averages, from `/proc/loadavg`.

use crate::collector::procfs::text::{number, words};

/// The three averages of the line, in hundredths.
pub(super) fn parse(line: &[u8]) -> Option<[i64; 3]> {
    let mut averages = words(line).map(hundredths);
    Some([averages.next()??, averages.next()??, averages.next()??])
}

/// The kernel prints two decimals.
fn hundredths(word: &[u8]) -> Option<i64> {
    let point = word.iter().position(|byte| *byte == b'.')?;
    let (units, decimals) = (&word[..point], &word[point + 1..]);
    let decimals = number(decimals).filter(|_| decimals.len() == 2)?;
    i64::try_from(number(units)?.checked_mul(100)?.checked_add(decimals)?).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn averages_are_in_hundredths() {
        assert_eq!(parse(b"0.05 1.20 123.45 2/345 12345"), Some([5, 120, 12_345]));
        for garbage in
            ["", "1.00 2.00", "1.0 2.00 3.00", "1 2.00 3.00", "x.00 1.00 1.00", ".00 1.00 1.00"]
        {
            assert_eq!(parse(garbage.as_bytes()), None, "{garbage}");
        }
        assert_eq!(parse(format!("{}.00 0.00 0.00", u64::MAX).as_bytes()), None);
    }
}
