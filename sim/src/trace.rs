//! What happened, as a digest of all and a text of the end.

use std::collections::VecDeque;
use std::fmt;

/// Notes that are kept to be printed.
const NOTES_MAX: usize = 100_000;

/// Whom a note is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Who {
    Agent(usize),
    Server(usize),
    Bus,
    Operator,
    World,
}

impl fmt::Display for Who {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = match self {
            Self::Agent(index) => format!("agent-{index}"),
            Self::Server(index) => format!("server-{index}"),
            Self::Bus => "bus".to_owned(),
            Self::Operator => "operator".to_owned(),
            Self::World => "world".to_owned(),
        };
        f.pad(&text)
    }
}

/// One thing that happened. `{a}` and `{b}` in the text stand for the numbers.
#[derive(Clone, Copy, Debug)]
struct Note {
    at_ms: u64,
    who: Who,
    what: &'static str,
    a: u64,
    b: u64,
}

impl fmt::Display for Note {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { at_ms, who, what, a, b } = self;
        let (seconds, ms) = (at_ms / 1000, at_ms % 1000);
        let (hours, minutes, seconds) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
        let text = what.replace("{a}", &a.to_string()).replace("{b}", &b.to_string());
        write!(f, "{hours:02}:{minutes:02}:{seconds:02}.{ms:03}  {who:<9} {text}")
    }
}

/// The notes of a world. Cheap to write: text is made only to be printed.
#[derive(Debug, Default)]
pub(crate) struct Trace {
    /// At most [`NOTES_MAX`], the newest.
    notes: VecDeque<Note>,
    digest: u64,
    count: u64,
}

impl Trace {
    pub(crate) fn note(&mut self, at_ms: u64, who: Who, what: &'static str, a: u64, b: u64) {
        self.count += 1;
        let place = match who {
            Who::Agent(index) => 10 + index as u64,
            Who::Server(index) => 1 + index as u64 % 4,
            Who::Bus => 5,
            Who::Operator => 6,
            Who::World => 7,
        };
        for number in [at_ms, place, what.len() as u64, a, b] {
            self.digest = mix(self.digest, number);
        }
        if self.notes.len() == NOTES_MAX {
            self.notes.pop_front();
        }
        self.notes.push_back(Note { at_ms, who, what, a, b });
    }

    /// A number that two runs share if and, in all likelihood, only if the same things happened in them.
    pub(crate) const fn digest(&self) -> u64 {
        self.digest
    }

    /// The last `lines` notes as text.
    pub(crate) fn end(&self, lines: usize) -> String {
        let skip = self.notes.len().saturating_sub(lines);
        let mut text =
            format!("{} things happened; the last {}:\n", self.count, self.notes.len() - skip);
        for note in self.notes.iter().skip(skip) {
            text.push_str(&note.to_string());
            text.push('\n');
        }
        text
    }
}

/// Folds `number` into `digest`: the finaliser of SplitMix64 over their sum.
pub(crate) const fn mix(digest: u64, number: u64) -> u64 {
    let mut z = digest.wrapping_add(number).wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}
