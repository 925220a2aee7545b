//! The systems that the programs are built for.

/// A system and how it is built for.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Target {
    /// Rust's name of it.
    pub(crate) name: &'static str,
    /// What runs on it, for people.
    pub(super) hosts: &'static str,
    /// The C compiler that links, where no other one is there for musl.
    pub(super) gcc: &'static str,
    /// Debian's package with that compiler.
    pub(super) package: &'static str,
    /// Names the compiler with musl's headers that `cross/setup.sh` makes; none where the C library is glibc.
    pub(super) musl_prefix: Option<&'static str>,
    /// The command that runs its programs on this host; none where they run by themselves.
    pub(crate) emulator: Option<&'static str>,
    /// Whether Debian's packages can make a toolchain for it; else only rustup has one.
    pub(super) is_in_debian: bool,
}

/// All that the programs are built for.
pub(super) const TARGETS: [Target; 6] = [
    Target {
        name: "aarch64-unknown-linux-musl",
        hosts: "64-bit ARM, any distribution",
        gcc: "aarch64-linux-gnu-gcc",
        package: "gcc-aarch64-linux-gnu",
        musl_prefix: Some("aarch64-linux-musl"),
        emulator: Some("qemu-aarch64-static"),
        is_in_debian: true,
    },
    Target {
        name: "armv7-unknown-linux-musleabihf",
        hosts: "32-bit ARMv7, any distribution",
        gcc: "arm-linux-gnueabihf-gcc",
        package: "gcc-arm-linux-gnueabihf",
        musl_prefix: Some("arm-linux-musleabihf"),
        emulator: Some("qemu-arm-static"),
        is_in_debian: true,
    },
    Target {
        name: "x86_64-unknown-linux-musl",
        hosts: "64-bit x86, any distribution",
        gcc: "x86_64-linux-gnu-gcc",
        package: "gcc",
        musl_prefix: Some("x86_64-linux-musl"),
        emulator: None,
        is_in_debian: true,
    },
    Target {
        name: "aarch64-unknown-linux-gnu",
        hosts: "64-bit ARM, glibc 2.34 or newer",
        gcc: "aarch64-linux-gnu-gcc",
        package: "gcc-aarch64-linux-gnu",
        musl_prefix: None,
        emulator: Some("qemu-aarch64-static -L /usr/aarch64-linux-gnu"),
        is_in_debian: true,
    },
    Target {
        name: "armv7-unknown-linux-gnueabihf",
        hosts: "32-bit ARMv7, glibc 2.34 or newer",
        gcc: "arm-linux-gnueabihf-gcc",
        package: "gcc-arm-linux-gnueabihf",
        musl_prefix: None,
        emulator: Some("qemu-arm-static -L /usr/arm-linux-gnueabihf"),
        is_in_debian: true,
    },
    // Debian's C library and compiler for 32-bit ARM are of ARMv7, so what they link does not run on ARMv6.
    Target {
        name: "arm-unknown-linux-musleabihf",
        hosts: "32-bit ARMv6 (Raspberry Pi Zero and 1), any distribution",
        gcc: "arm-linux-gnueabihf-gcc",
        package: "gcc-arm-linux-gnueabihf",
        musl_prefix: None,
        emulator: Some("qemu-arm-static -cpu arm1176"),
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
}
