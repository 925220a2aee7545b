//! What `--version` says: the version, and in its long form what the program was built from and with.

use std::fmt::Write as _;
use std::sync::LazyLock;

/// The parts that can be left out of a build, and whether this one has them.
const FEATURES: [(&str, bool); 4] = [
    ("etcd", cfg!(feature = "etcd")),
    ("serial", cfg!(feature = "serial")),
    ("spool", cfg!(feature = "spool")),
    ("sysinfo", cfg!(any(feature = "sysinfo", not(target_os = "linux")))),
];

/// The text behind the program's name.
pub(crate) fn long() -> &'static str {
    static LONG: LazyLock<String> = LazyLock::new(text);
    &LONG
}

fn text() -> String {
    let mut text = env!("CARGO_PKG_VERSION").to_owned();
    let features = FEATURES.iter().filter(|(_, is_built)| *is_built).map(|(name, _)| *name);
    let features = features.collect::<Vec<_>>().join(" ");
    let features = if features.is_empty() { "none" } else { &features };
    let lines = [
        ("target", env!("PICKET_TARGET")),
        ("features", features),
        ("commit", option_env!("PICKET_COMMIT").unwrap_or("unknown")),
    ];
    for (name, value) in lines {
        // A string takes everything.
        write!(text, "\n{name}: {value}").ok();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_long_form_starts_with_the_version_and_names_target_features_and_commit() {
        let lines = long().lines().collect::<Vec<_>>();
        assert_eq!(lines[0], env!("CARGO_PKG_VERSION"));
        let keys = lines[1..].iter().map(|line| line.split_once(": ").unwrap());
        let (keys, values): (Vec<_>, Vec<_>) = keys.unzip();
        assert_eq!(keys, ["target", "features", "commit"]);
        assert!(values[0].starts_with(std::env::consts::ARCH), "{values:?}");
        assert_eq!(values[1].contains("etcd"), cfg!(feature = "etcd"));
        assert!(values.iter().all(|value| !value.is_empty()), "{values:?}");
    }
}
