//! Makes text from peers safe for a terminal and for a spreadsheet.

use std::borrow::Cow;

/// Whether a terminal may act on this character instead of showing it: control characters (C0, DEL, C1), and
/// the marks that reorder or hide text.
pub(crate) fn is_unsafe(character: char) -> bool {
    character.is_control()
        || matches!(
            character,
            '\u{200b}'..='\u{200f}'
                | '\u{2028}'..='\u{202e}'
                | '\u{2060}'..='\u{206f}'
                | '\u{feff}'
        )
}

/// The text with each unsafe character written out, as in `\n` and `\u{1b}`.
pub(crate) fn escape(text: &str) -> Cow<'_, str> {
    if !text.chars().any(is_unsafe) {
        return Cow::Borrowed(text);
    }
    let mut escaped = String::with_capacity(text.len() + 16);
    for character in text.chars() {
        if is_unsafe(character) {
            escaped.extend(character.escape_default());
        } else {
            escaped.push(character);
        }
    }
    Cow::Owned(escaped)
}

/// JSON text with each unsafe character as `\uXXXX`. In valid JSON they stand only inside strings, except for
/// the blanks between values, which are kept; and all of them are in the basic plane.
pub(crate) fn escape_json(json: &str) -> Cow<'_, str> {
    let is_blank = |character| matches!(character, '\n' | '\r' | '\t');
    let is_escaped = |character| is_unsafe(character) && !is_blank(character);
    if !json.chars().any(is_escaped) {
        return Cow::Borrowed(json);
    }
    let mut escaped = String::with_capacity(json.len() + 16);
    for character in json.chars() {
        if is_escaped(character) {
            escaped.push_str(&format!("\\u{:04x}", u32::from(character)));
        } else {
            escaped.push(character);
        }
    }
    Cow::Owned(escaped)
}

/// Text for a cell of a spreadsheet: escaped, and with an apostrophe before what would be taken as a formula
/// (OWASP, "CSV Injection").
pub(crate) fn cell(text: &str) -> Cow<'_, str> {
    let escaped = escape(text);
    if escaped.starts_with(['=', '+', '-', '@']) {
        return Cow::Owned(format!("'{escaped}"));
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn control_characters_are_written_out() {
        let check = |text: &str, expected: &str| assert_eq!(escape(text), expected);
        check("plain, with ümläut and 日本", "plain, with ümläut and 日本");
        check("a\nb\tc\r", "a\\nb\\tc\\r");
        check("\u{1b}[2J\u{7}", "\\u{1b}[2J\\u{7}");
        check("\u{9b}31m\u{7f}", "\\u{9b}31m\\u{7f}");
        check("abc\u{202e}fdp", "abc\\u{202e}fdp");
        check("", "");
    }

    #[test]
    fn json_stays_json() {
        let value = serde_json::json!({"a": "\u{1b}\u{9b}\u{202e}\u{7f}x"});
        let text = value.to_string();
        let escaped = escape_json(&text);
        assert!(escaped.is_ascii(), "{escaped}");
        assert_eq!(escaped.parse::<serde_json::Value>().unwrap(), value);
    }

    #[test]
    fn formulas_become_text() {
        let check = |text: &str, expected: &str| assert_eq!(cell(text), expected);
        check("=1+1", "'=1+1");
        check("+1", "'+1");
        check("-1", "'-1");
        check("@sum", "'@sum");
        check("\t=1", "\\t=1");
        check("a=1", "a=1");
    }
}
