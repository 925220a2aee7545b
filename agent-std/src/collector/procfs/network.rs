//! The counters of network interfaces, from `/proc/net/dev`.

use crate::collector::procfs::text::{number, words};
use crate::collector::rate::Counts;

/// The name, and the bytes received and sent. None of the two lines of headings, and of what is no line of this file.
pub(super) fn parse(line: &[u8]) -> Option<(&[u8], Counts)> {
    // Counters have no colon; of a name nobody knows.
    let colon = line.iter().rposition(|byte| *byte == b':')?;
    let name = line[..colon].trim_ascii();
    // Eight counters of what comes in are before those of what goes out.
    let mut words = words(&line[colon + 1..]);
    let received = number(words.next()?)?;
    let sent = number(words.nth(7)?)?;
    (!name.is_empty()).then_some((name, [received, sent]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_the_first_and_the_ninth_number() {
        let line = b"  eth0: 1630660246   58624    1    2    3     4          5         6  4024703   34611    0    0";
        assert_eq!(parse(line), Some((&b"eth0"[..], [1_630_660_246, 4_024_703])));
        // Old kernels leave no blank where the number is long.
        assert_eq!(parse(b"wlan0:77 1 0 0 0 0 0 0 88 1"), Some((&b"wlan0"[..], [77, 88])));
        assert_eq!(parse(b"a:b: 7 1 0 0 0 0 0 0 8"), Some((&b"a:b"[..], [7, 8])));
    }

    #[test]
    fn other_lines_are_none() {
        let lines = [
            "",
            "Inter-|   Receive                            |  Transmit",
            " face |bytes    packets errs drop fifo frame compressed multicast|bytes",
            "eth0: 1 2 3 4 5 6 7 8",
            "eth0: x 2 3 4 5 6 7 8 9",
            "eth0: 1 2 3 4 5 6 7 8 -9",
            ": 1 2 3 4 5 6 7 8 9",
        ];
        for line in lines {
            assert_eq!(parse(line.as_bytes()), None, "{line}");
        }
    }
}
