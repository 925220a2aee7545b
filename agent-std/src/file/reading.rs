//! A file that is being read: what is wrong in it, all of it and where, and where each key stands.

use std::collections::BTreeMap;
use std::fmt;
use std::ops::Range;

use toml::Spanned;
use toml::de::DeValue;

/// What is wrong in a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Problem {
    /// Counted from 1.
    pub(crate) line: usize,
    /// The key, such as `config.plugins[1]`, with its value; empty where the text cannot be read as far as a key.
    subject: String,
    reason: String,
}

impl fmt::Display for Problem {
    /// Without the name of the file: `LINE: KEY = VALUE: REASON`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { line, subject, reason } = self;
        if subject.is_empty() {
            write!(f, "{line}: {reason}")
        } else {
            write!(f, "{line}: {subject}: {reason}")
        }
    }
}

/// Where the keys of a file stand.
#[derive(Clone, Debug, Default)]
pub(crate) struct Places(BTreeMap<String, Place>);

/// Where a key stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    /// Counted from 1.
    pub(crate) line: usize,
    /// Its value as it is written there, shortened.
    pub(crate) value: String,
}

impl Places {
    /// Where `key` stands, such as `baud` or `config.thresholds.cpu_percent`.
    pub(crate) fn get(&self, key: &str) -> Option<&Place> {
        self.0.get(key)
    }
}

#[derive(Debug)]
pub(super) struct Reading<'t> {
    text: &'t str,
    // Offsets at which lines end, in their order.
    ends: Vec<usize>,
    problems: Vec<Problem>,
    places: Places,
}

impl<'t> Reading<'t> {
    pub(super) fn new(text: &'t str) -> Self {
        let ends = text.match_indices('\n').map(|(at, _)| at).collect();
        Self { text, ends, problems: Vec::new(), places: Places::default() }
    }

    /// What is wrong, in the order of the file, and where the keys stand. Of a file that is no configuration at all the first
    /// hundred problems are enough.
    pub(super) fn end(self) -> (Vec<Problem>, Places) {
        let Self { mut problems, places, .. } = self;
        problems.sort_by_key(|problem| problem.line);
        if let Some(first) = problems.get(PROBLEMS_MAX) {
            let reason = format!("and {} more from here on", problems.len() - PROBLEMS_MAX);
            let rest = Problem { line: first.line, subject: String::new(), reason };
            problems.truncate(PROBLEMS_MAX);
            problems.push(rest);
        }
        (problems, places)
    }

    fn line(&self, offset: usize) -> usize {
        1 + self.ends.partition_point(|end| *end < offset)
    }

    /// The text that stands at `span`, shortened to a part of a line.
    fn excerpt(&self, span: Range<usize>) -> String {
        let text = self.text.get(span).unwrap_or_default().trim();
        let first = text.lines().next().unwrap_or_default();
        match first.char_indices().nth(EXCERPT_CHARACTERS_MAX) {
            Some((end, _)) => format!("{}...", &first[..end]),
            None if first.len() < text.len() => format!("{first} ..."),
            None => first.to_owned(),
        }
    }

    /// The text cannot be read at `span`.
    pub(super) fn refuse_syntax(&mut self, span: Option<Range<usize>>, reason: &str) {
        let line = self.line(span.as_ref().map_or(self.text.len(), |span| span.start));
        let reason = reason.lines().collect::<Vec<_>>().join(" ");
        // The one reason whose span is a key.
        let key = span.filter(|_| reason == "duplicate key");
        let subject = key.map(|span| self.excerpt(span)).unwrap_or_default();
        self.problems.push(Problem { line, subject, reason });
    }

    /// The key whose name stands at `span` must not be there.
    pub(super) fn refuse_key(&mut self, key: &str, span: Range<usize>, reason: String) {
        let line = self.line(span.start);
        self.problems.push(Problem { line, subject: key.to_owned(), reason });
    }

    /// The value of `key` at `span` cannot be used.
    pub(super) fn refuse_value(&mut self, key: &str, span: Range<usize>, reason: String) {
        let subject = format!("{key} = {}", self.excerpt(span.clone()));
        self.problems.push(Problem { line: self.line(span.start), subject, reason });
    }

    /// The value of the key `path`, whose place is known, cannot be used; a part of it that is missing is named by what it
    /// is missing from.
    pub(super) fn refuse_path(&mut self, path: &str, reason: String) {
        let mut known = path;
        loop {
            if let Some(Place { line, value }) = self.places.get(known) {
                let value = if known == path { format!(" = {value}") } else { String::new() };
                let (line, subject) = (*line, format!("{path}{value}"));
                return self.problems.push(Problem { line, subject, reason });
            }
            let Some((parent, _)) = known.rsplit_once(['.', '[']) else {
                return self.problems.push(Problem { line: 1, subject: path.to_owned(), reason });
            };
            known = parent;
        }
    }

    /// `key` has the value at `span`.
    pub(super) fn found(&mut self, key: &str, span: Range<usize>) {
        let place = Place { line: self.line(span.start), value: self.excerpt(span) };
        self.places.0.insert(key.to_owned(), place);
    }

    /// What `parse` makes of the `value` of `key`; none when it cannot be used, which is noted.
    pub(super) fn value<T>(
        &mut self,
        key: &str,
        value: &Spanned<DeValue<'_>>,
        parse: impl FnOnce(&DeValue<'_>) -> Result<T, String>,
    ) -> Option<T> {
        self.found(key, value.span());
        let parsed = parse(value.get_ref());
        parsed.map_err(|reason| self.refuse_value(key, value.span(), reason)).ok()
    }
}

/// More than anybody mends before looking again.
const PROBLEMS_MAX: usize = 100;

/// No key is as long by far.
const SUGGESTION_CHARACTERS_MAX: usize = 64;

/// Enough to recognise a value by.
const EXCERPT_CHARACTERS_MAX: usize = 60;

/// ` (did you mean `x`?)` where one of `known` is like `word` and not the same, else nothing.
pub(super) fn suggestion<'a>(word: &str, known: impl IntoIterator<Item = &'a str>) -> String {
    let count = word.chars().count();
    if SUGGESTION_CHARACTERS_MAX < count {
        return String::new();
    }
    let limit = (count / 3).max(1);
    let nearest = known
        .into_iter()
        .map(|known| (strsim::damerau_levenshtein(word, known), known))
        .min()
        .filter(|(distance, _)| (1..=limit).contains(distance));
    nearest.map(|(_, known)| format!(" (did you mean `{known}`?)")).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_like_a_word_is_suggested_and_nothing_else() {
        let check = |word: &str, expected: &str| {
            let known = ["interval", "metrics", "plugins", "min_cpu"];
            let said = suggestion(word, known);
            let expected = match expected {
                "" => String::new(),
                expected => format!(" (did you mean `{expected}`?)"),
            };
            assert_eq!(said, expected, "{word}");
        };
        check("intervall", "interval");
        check("intreval", "interval");
        check("mincpu", "min_cpu");
        check("metric", "metrics");
        check("metrics", "");
        check("frequency", "");
        check("", "");
    }

    #[test]
    fn lines_are_counted_from_one_and_values_shortened() {
        let mut reading = Reading::new("a = 1\n\nb = [\n  2]\n");
        reading.found("a", 4..5);
        reading.found("b", 11..18);
        assert_eq!(reading.places.get("a"), Some(&Place { line: 1, value: "1".to_owned() }));
        assert_eq!(reading.places.get("b"), Some(&Place { line: 3, value: "[ ...".to_owned() }));
        reading.refuse_path("b[1].c", "no".to_owned());
        reading.refuse_path("b", "bad".to_owned());
        let said = reading.problems.iter().map(ToString::to_string).collect::<Vec<_>>();
        assert_eq!(said, ["3: b[1].c: no", "3: b = [ ...: bad"]);
        let long = "\u{e4}".repeat(200);
        assert_eq!(Reading::new(&long).excerpt(0..400).chars().count(), 63);
    }
}
