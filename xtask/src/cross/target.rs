//! The systems that the programs are built for.

use std::collections::BTreeMap;
use std::fs;

use anyhow::Context as _;
use serde::Deserialize;

use crate::workspace;

/// A system, and where its toolchain comes from. What cargo is told of it is in `cross/config.toml`.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Target {
    /// Rust's name of it.
    pub(crate) name: &'static str,
    /// What runs on it, for people.
    pub(super) hosts: &'static str,
    /// Debian's package with its linker.
    pub(super) package: &'static str,
    /// Names the compiler with musl's headers that `cross/setup.sh` makes; none where the C library is glibc.
    pub(super) musl_prefix: Option<&'static str>,
    /// Whether Debian's packages can make a toolchain for it; else only rustup has one.
    pub(super) is_in_debian: bool,
}

/// All that the programs are built for.
pub(super) const TARGETS: [Target; 6] = [
    Target {
        name: "aarch64-unknown-linux-musl",
        hosts: "64-bit ARM, any distribution",
        package: "gcc-aarch64-linux-gnu",
        musl_prefix: Some("aarch64-linux-musl"),
        is_in_debian: true,
    },
    Target {
        name: "armv7-unknown-linux-musleabihf",
        hosts: "32-bit ARMv7, any distribution",
        package: "gcc-arm-linux-gnueabihf",
        musl_prefix: Some("arm-linux-musleabihf"),
        is_in_debian: true,
    },
    Target {
        name: "x86_64-unknown-linux-musl",
        hosts: "64-bit x86, any distribution",
        package: "gcc",
        musl_prefix: Some("x86_64-linux-musl"),
        is_in_debian: true,
    },
    Target {
        name: "aarch64-unknown-linux-gnu",
        hosts: "64-bit ARM, glibc 2.34 or newer",
        package: "gcc-aarch64-linux-gnu",
        musl_prefix: None,
        is_in_debian: true,
    },
    Target {
        name: "armv7-unknown-linux-gnueabihf",
        hosts: "32-bit ARMv7, glibc 2.34 or newer",
        package: "gcc-arm-linux-gnueabihf",
        musl_prefix: None,
        is_in_debian: true,
    },
    // Debian's C library and compiler for 32-bit ARM are of ARMv7, so what they link does not run on ARMv6.
    Target {
        name: "arm-unknown-linux-musleabihf",
        hosts: "32-bit ARMv6 (Raspberry Pi Zero and 1), any distribution",
        package: "gcc-arm-linux-gnueabihf",
        musl_prefix: None,
        is_in_debian: false,
    },
];

impl Target {
    /// The one of this name.
    pub(super) fn named(name: &str) -> Option<&'static Self> {
        TARGETS.iter().find(|target| target.name == name)
    }

    /// Whether its programs need no file of the host.
    pub(crate) fn is_static(&self) -> bool {
        self.name.contains("-musl")
    }

    /// What a program of it tells of where it runs: processor and system.
    pub(super) fn told(&self) -> String {
        let processor = match self.name.split_once('-') {
            Some(("armv7" | "arm", _)) => "arm",
            Some((processor, _)) => processor,
            None => self.name,
        };
        format!("{processor}-linux")
    }

    /// What cargo is told to run for it.
    ///
    /// # Errors
    ///
    /// When cargo's configuration cannot be read, or does not have the target.
    pub(crate) fn tools(&self) -> anyhow::Result<Tools> {
        let text = fs::read_to_string(workspace::root().join(CONFIGURATION));
        let text = text.context(CONFIGURATION)?;
        let mut found = toml::from_str::<Configuration>(&text).context(CONFIGURATION)?;
        let tools = found.target.remove(self.name);
        tools.with_context(|| format!("{CONFIGURATION} has no table target.{}", self.name))
    }
}

/// Where cargo's configuration for the targets is, relative to the workspace.
pub(super) const CONFIGURATION: &str = "cross/config.toml";

/// What is in it, as far as it is of use here.
#[derive(Debug, Deserialize)]
struct Configuration {
    target: BTreeMap<String, Tools>,
}

/// What cargo runs for a target.
#[derive(Debug, Deserialize)]
pub(crate) struct Tools {
    /// The C compiler that links, where no other one is there for musl.
    pub(super) linker: String,
    /// The command that runs its programs on this host, with blanks between its words; none where they run by
    /// themselves.
    pub(crate) runner: Option<String>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cargo_is_told_of_every_target() {
        for target in &TARGETS {
            assert!(!target.tools().unwrap().linker.is_empty(), "{}", target.name);
        }
        let arm = Target::named("armv7-unknown-linux-musleabihf").unwrap();
        assert_eq!(arm.tools().unwrap().runner.as_deref(), Some("qemu-arm-static"));
        assert_eq!(arm.told(), "arm-linux");
    }
}
