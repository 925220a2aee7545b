//! The programs, and how each is built for others.

/// One of the three.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Program {
    pub(crate) name: &'static str,
    /// The cargo package that it is in.
    pub(crate) package: &'static str,
    /// The cargo profile, which is also the name of cargo's directory for it. The root `Cargo.toml` says what they are for.
    pub(crate) profile: &'static str,
}

/// All of them. The server has no Kafka there: its client is C and needs libraries of the target.
pub(crate) const PROGRAMS: [Program; 3] = [
    Program { name: "picket-agent", package: "agent-std", profile: "dist" },
    Program { name: "picket", package: "analysis", profile: "dist" },
    Program { name: "picket-server", package: "server", profile: "dist-server" },
];

impl Program {
    /// The one of this name.
    pub(super) fn named(name: &str) -> Option<&'static Self> {
        PROGRAMS.iter().find(|program| program.name == name)
    }
}
