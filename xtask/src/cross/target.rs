//! The systems that the programs are built for.

/// A system and how it is built for.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Target {
    /// Rust's name of it.
    pub(super) name: &'static str,
    /// What runs on it, for people.
    pub(super) hosts: &'static str,
    /// The C compiler that links, where no other one is there for musl.
    pub(super) gcc: &'static str,
    /// Debian's package with that compiler.
    pub(super) package: &'static str,
    /// Names the compiler with musl's headers that `cross/setup.sh` makes; none where the C library is glibc.
    pub(super) musl_prefix: Option<&'static str>,
    /// The command that runs its programs on this host; none where they run by themselves.
    pub(super) emulator: Option<&'static str>,
}

/// All that are known to build. ARMv6 is not among them: no toolchain for it was to be had without rustup's downloads.
pub(super) const TARGETS: [Target; 5] = [
    Target {
        name: "aarch64-unknown-linux-musl",
        hosts: "64-bit ARM, any distribution",
        gcc: "aarch64-linux-gnu-gcc",
        package: "gcc-aarch64-linux-gnu",
        musl_prefix: Some("aarch64-linux-musl"),
        emulator: Some("qemu-aarch64-static"),
    },
    Target {
        name: "armv7-unknown-linux-musleabihf",
        hosts: "32-bit ARMv7, any distribution",
        gcc: "arm-linux-gnueabihf-gcc",
        package: "gcc-arm-linux-gnueabihf",
        musl_prefix: Some("arm-linux-musleabihf"),
        emulator: Some("qemu-arm-static"),
    },
    Target {
        name: "x86_64-unknown-linux-musl",
        hosts: "64-bit x86, any distribution",
        gcc: "x86_64-linux-gnu-gcc",
        package: "gcc",
        musl_prefix: Some("x86_64-linux-musl"),
        emulator: None,
    },
    Target {
        name: "aarch64-unknown-linux-gnu",
        hosts: "64-bit ARM, glibc 2.34 or newer",
        gcc: "aarch64-linux-gnu-gcc",
        package: "gcc-aarch64-linux-gnu",
        musl_prefix: None,
        emulator: Some("qemu-aarch64-static -L /usr/aarch64-linux-gnu"),
    },
    Target {
        name: "armv7-unknown-linux-gnueabihf",
        hosts: "32-bit ARMv7, glibc 2.34 or newer",
        gcc: "arm-linux-gnueabihf-gcc",
        package: "gcc-arm-linux-gnueabihf",
        musl_prefix: None,
        emulator: Some("qemu-arm-static -L /usr/arm-linux-gnueabihf"),
    },
];

impl Target {
    /// The one of this name.
    pub(super) fn named(name: &str) -> Option<&'static Self> {
        TARGETS.iter().find(|target| target.name == name)
    }
}
