//! A number of bytes, as people write it on a command line.

/// Reads a number with an optional suffix K, M, G or T, which count in 1024; `KiB` and the like are the same.
///
/// # Errors
///
/// For people: what is wrong with `text`.
pub fn parse(text: &str) -> Result<u64, String> {
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let unit: u64 = match text[digits.len()..].to_ascii_uppercase().as_str() {
        "" | "B" => 1,
        "K" | "KIB" => 1 << 10,
        "M" | "MIB" => 1 << 20,
        "G" | "GIB" => 1 << 30,
        "T" | "TIB" => 1 << 40,
        other => return Err(format!("unknown unit {other:?}, use K, M, G or T")),
    };
    let number: u64 = digits.parse().map_err(|_| "expected a number, such as 512M".to_owned())?;
    number.checked_mul(unit).ok_or_else(|| "number is too large".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn suffixes_count_in_1024() {
        let read = |text| parse(text).ok();
        assert_eq!((read("7"), read("2k"), read("3MiB")), (Some(7), Some(2048), Some(3 << 20)));
        assert_eq!((read("1G"), read("1T")), (Some(1 << 30), Some(1 << 40)));
        for bad in ["", "M", "1.5M", "-1", "1X", "99999999999T"] {
            assert!(parse(bad).is_err(), "{bad}");
        }
    }
}
