//! The name of this host as an agent id.

/// Bytes of an agent id.
const ID_BYTES_MAX: usize = 63;

/// The id for an agent of this host.
pub(super) fn agent_id() -> String {
    id_from_name(&rustix::system::uname().nodename().to_string_lossy())
}

/// The nearest agent id: 1 to 63 of `[A-Za-z0-9._-]`, the first and last alphanumeric, without `..`.
fn id_from_name(name: &str) -> String {
    let mut id = String::with_capacity(name.len());
    for character in name.chars() {
        let character = match character {
            'a'..='z' | 'A'..='Z' | '0'..='9' | '.' | '_' | '-' => character,
            _ => '-',
        };
        if !(character == '.' && id.ends_with('.')) {
            id.push(character);
        }
    }
    let edge = |character: char| !character.is_ascii_alphanumeric();
    let id = id.trim_start_matches(edge);
    let id = id[..id.len().min(ID_BYTES_MAX)].trim_end_matches(edge);
    if id.is_empty() { "this-host".to_owned() } else { id.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(name: &str, expected: &str) {
        assert_eq!(id_from_name(name), expected, "{name:?}");
    }

    #[test]
    fn host_names_become_agent_ids() {
        check("edge-01.example.org", "edge-01.example.org");
        check("grüner kasten", "gr-ner-kasten");
        check("a..b...c", "a.b.c");
        check("-_.x.", "x");
        check("", "this-host");
        check("äöü", "this-host");
        check(&"a".repeat(80), &"a".repeat(63));
        check(&format!("{}-b", "a".repeat(62)), &"a".repeat(62));
    }
}
