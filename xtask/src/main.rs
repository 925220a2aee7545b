//! The project's tasks, run as `cargo xtask TASK`.
#![forbid(unsafe_code)]

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand};
use xtask::bench::{AgentOptions, Bench, Output};
use xtask::chaos::{self, Bus, Fault};
use xtask::cross::Choice;
use xtask::dist::Options;
use xtask::services::{self, Data, Service};

/// The project's tasks.
#[derive(Debug, Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask", max_term_width = 100)]
struct Arguments {
    #[command(subcommand)]
    task: Task,
}

#[derive(Debug, Subcommand)]
enum Task {
    /// Show this host's metrics live: builds everything (release), starts a server and an agent on free
    /// loopback ports, and prints what arrives, until Ctrl-C
    ///
    /// Data and logs of the latest demo stay in target/demo/run. The exit code is not 0 when a part failed
    /// or, with --for, when no metric arrived.
    Demo {
        /// End after so many seconds instead of at Ctrl-C; needs no terminal
        #[arg(long = "for", value_name = "SECONDS", value_parser = clap::value_parser!(u32).range(1..))]
        seconds: Option<u32>,
    },
    /// Build the binaries and run every test there is, the firmware's in QEMU included
    ///
    /// Starts an etcd and a Kafka, as `services up` does, unless they are up or PICKET_TEST_ETCD and PICKET_TEST_KAFKA name
    /// others, and stops what it has started. What needs tools or services that are not to be had is skipped and counted;
    /// with PICKET_REQUIRE_ARM=1 and PICKET_REQUIRE_SERVICES=1 it fails instead.
    Test {
        /// Given to the test programs, for instance a part of a test's name
        #[arg(last = true, value_name = "ARGS")]
        arguments: Vec<String>,
    },
    /// Build the programs for ARM hosts and others, print how large they are, and fail when one passes its size in
    /// cross/budgets.toml
    ///
    /// Each target needs its Rust library and a linker: `rustup target add TARGET` and Debian's gcc for it, or
    /// `cross/setup.sh TARGET` where rustup cannot download. The programs are in target/cross/TARGET/dist, the server in
    /// dist-server beside it.
    Cross {
        /// Build for this target; may be repeated [default: aarch64-unknown-linux-musl, armv7-unknown-linux-musleabihf]
        #[arg(long = "target", value_name = "TARGET")]
        targets: Vec<String>,
        /// Build for all targets that Debian's packages have a toolchain for
        #[arg(long, conflicts_with = "targets")]
        all: bool,
        /// Build this program; may be repeated [default: picket-agent, picket, picket-server]
        #[arg(long = "program", value_name = "PROGRAM")]
        programs: Vec<String>,
        /// Run agent-core's tests, and the end-to-end tests with the agent that was built, on an emulator of each target
        #[arg(long)]
        test: bool,
    },
    /// Pack the programs: for each target and program a .deb, a tar.gz and a bill of materials, and SHA256SUMS, in target/dist
    ///
    /// Builds what `cross` builds, and installs cargo-deb and cargo-cyclonedx into target/tools the first time. The same commit
    /// makes the same packages, byte for byte. What they hold is told in docs/packages.md.
    Dist {
        /// Pack for this target; may be repeated [default: those of `cross`, and x86_64-unknown-linux-musl where it can be built]
        #[arg(long = "target", value_name = "TARGET")]
        targets: Vec<String>,
        /// Pack this program; may be repeated [default: picket-agent, picket, picket-server]
        #[arg(long = "program", value_name = "PROGRAM")]
        programs: Vec<String>,
        /// Pack what `cross` has built, and build nothing
        #[arg(long)]
        skip_build: bool,
        /// Then pack again and compare, install in a directory, run, remove and purge, and look at all that was packed
        ///
        /// Needs Debian's dpkg, root or fakeroot, bash, groff, and QEMU for targets of other processors.
        #[arg(long)]
        check: bool,
    },
    /// Run the agent and the server as services of a real systemd, and see that they are ready, obey, reload, are watched and come back
    ///
    /// Boots a system of its own on top of this host's files, whose writes are in memory only, with the units of
    /// packaging/systemd. Needs root, Debian's systemd and util-linux, and overlayfs; on a failure the journal is printed.
    Units,
    /// Keep a real etcd and a real Kafka on free loopback ports, for tests and for trying things out
    ///
    /// They are downloaded once, without root and without containers, and stand in target/services.
    Services(Services),
    /// Run each fuzz target for a while, and print how many inputs it has run
    ///
    /// Fails when an input makes a target fail, and says where that input is. Needs cargo-fuzz.
    Fuzz {
        /// How long each target runs
        #[arg(long, value_name = "SECONDS", default_value = "20", value_parser = clap::value_parser!(u32).range(1..))]
        seconds: u32,
        /// Start the random inputs from this number, so that two runs try the same ones [default: another each time]
        #[arg(long, value_name = "NUMBER", value_parser = clap::value_parser!(u32).range(1..))]
        seed: Option<u32>,
        /// Install cargo-fuzz if it is missing
        #[arg(long)]
        install: bool,
        /// The targets to run, by the names in fuzz/README.md [default: all]
        #[arg(value_name = "TARGET")]
        targets: Vec<String>,
    },
    /// Play simulated worlds through, and check every promise in them
    ///
    /// The real core of the agent and the real rules of the server, over a simulated network, bus and clocks; see
    /// docs/simulation.md. Builds `sim` (release) and gives it the arguments; --help says which there are. The exit code is
    /// not 0 when a promise was broken, which a seed shows again, or when a kind of fault was never met.
    #[command(disable_help_flag = true)]
    Sim {
        /// Such as --seeds 100, or --seed 7 --trace
        #[arg(trailing_var_arg = true, allow_hyphen_values = true, value_name = "ARGS")]
        arguments: Vec<String>,
    },
    /// Run agents and servers under faults, and check that nothing is lost without a word
    ///
    /// A seed decides which fault strikes what and when; the same seed strikes the same again. The exit code is not 0 when
    /// anything is not as it must be. What each fault is, and what the parts do then, is told in docs/reliability.md. Data and logs of
    /// the latest run stay in target/chaos/run.
    Chaos(Chaos),
    /// Measure: what the core costs, what plugins and the packed form save on the recorded hosts, what peers cost a server,
    /// what an agent costs its host
    ///
    /// What was found is explained in docs/benchmarks.md.
    #[command(subcommand)]
    Bench(Subject),
    /// Write the code generated from proto/proto/monitoring.proto anew
    Codegen,
}

#[derive(Args, Debug)]
struct Chaos {
    /// How long faults strike, such as 60s or 3m; starting and settling take a minute or two more
    #[arg(long = "for", value_name = "TIME", default_value = "3m", value_parser = time)]
    duration: Duration,
    /// Decides the faults [default: another one each time]
    #[arg(long, value_name = "NUMBER")]
    seed: Option<u64>,
    /// How long the fleet may take after that until nothing is to come any more
    #[arg(long, value_name = "TIME", default_value = "4m", value_parser = time)]
    settle: Duration,
    /// How many agents
    #[arg(long, value_name = "COUNT", default_value = "5", value_parser = clap::value_parser!(u8).range(2..=50))]
    agents: u8,
    /// Only these faults, with commas between [default: all]
    #[arg(long, value_name = "LIST", value_delimiter = ',')]
    faults: Vec<Fault>,
    /// embedded: one server; kafka: two servers on a Kafka and an etcd of the run's own
    #[arg(long, value_name = "BUS", default_value = "embedded", value_parser = bus)]
    bus: Bus,
    /// End with one JSON object in place of tables
    #[arg(long)]
    json: bool,
    /// Use the binaries that are there, and build none
    #[arg(long, value_name = "DIRECTORY")]
    binaries: Option<PathBuf>,
    /// Keep data and logs there, below `run` [default: target/chaos]
    #[arg(long, value_name = "DIRECTORY")]
    directory: Option<PathBuf>,
}

impl From<Chaos> for chaos::Options {
    fn from(chaos: Chaos) -> Self {
        let Chaos { duration, seed, settle, agents, faults, bus, json, binaries, directory } =
            chaos;
        Self {
            duration,
            seed,
            settle,
            agents: agents.into(),
            faults,
            bus,
            json,
            binaries,
            directory,
        }
    }
}

fn bus(name: &str) -> Result<Bus, String> {
    let named = Bus::ALL.into_iter().find(|bus| bus.name() == name);
    named.ok_or_else(|| format!("the buses are {}", Bus::ALL.map(Bus::name).join(", ")))
}

/// Seconds or minutes.
fn time(text: &str) -> Result<Duration, String> {
    let (number, unit) = match text.strip_suffix('m') {
        Some(minutes) => (minutes, 60),
        None => (text.strip_suffix('s').unwrap_or(text), 1),
    };
    let number: u64 = number.parse().map_err(|error| format!("{error}: 60s or 3m"))?;
    match number.checked_mul(unit) {
        Some(seconds @ 1..=86_400) => Ok(Duration::from_secs(seconds)),
        Some(_) | None => Err("it must be 1s to 1440m".to_owned()),
    }
}

#[derive(Args, Debug)]
struct Services {
    #[command(subcommand)]
    action: Action,
    /// Keep data, logs and what is known of the processes there, for a pair of one's own [default: target/services/run]
    #[arg(long, value_name = "DIRECTORY", global = true)]
    directory: Option<PathBuf>,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Start what is down, wait until it serves, and print addresses and what to type to watch them
    ///
    /// etcd is the one on PATH, else Debian's package, downloaded by apt-get and unpacked. Kafka comes from Maven's central
    /// repository by mvn, and needs Java 17 or newer.
    Up {
        /// The services to start [default: all]
        #[arg(value_name = "SERVICE", value_parser = service)]
        services: Vec<Service>,
    },
    /// Stop what runs, and remove its data
    Down {
        /// Leave the data, so that the next `up` goes on with them
        #[arg(long)]
        keep_data: bool,
    },
    /// Print health, addresses, process ids and ports; the exit code is 0 when both are healthy
    Status {
        /// Print one JSON object
        #[arg(long)]
        json: bool,
    },
}

fn service(name: &str) -> Result<Service, String> {
    let named = Service::ALL.into_iter().find(|service| service.name() == name);
    named.ok_or_else(|| format!("the services are {}", Service::ALL.map(Service::name).join(", ")))
}

impl Services {
    fn run(self) -> anyhow::Result<()> {
        let directory = self.directory.as_deref();
        match self.action {
            Action::Up { services } if services.is_empty() => {
                services::up(&Service::ALL, directory)
            }
            Action::Up { services } => services::up(&services, directory),
            Action::Down { keep_data } => {
                services::down(if keep_data { Data::Keep } else { Data::Remove }, directory)
            }
            Action::Status { json } => {
                let form = if json { services::Form::Json } else { services::Form::Text };
                services::status(form, directory)
            }
        }
    }
}

#[derive(Clone, Debug, Subcommand)]
enum Subject {
    /// Nanoseconds for a snapshot or a record, with criterion
    Core,
    /// Snapshots that plugins do not send, beside what the existing system claims
    Reduction(Form),
    /// Bytes of the packed form, beside protobuf, zstd and JSON
    Codec(Form),
    /// Memory that each of some hundred peers costs a server, healthy and hostile ones; takes two minutes
    Memory(Form),
    /// Processor, memory, wake-ups, descriptors and bytes on the wire of a real agent that streams six metrics once a second
    ///
    /// Builds the agent as it is given to others (profile dist) and a server (release). Needs Linux.
    Agent(AgentBench),
}

#[derive(Args, Clone, Debug)]
struct AgentBench {
    /// How long it is measured, such as 60s or 3m
    #[arg(long = "for", value_name = "TIME", default_value = "60s", value_parser = time)]
    duration: Duration,
    /// What the agent measures with: proc or sysinfo [default: its default]
    #[arg(long, value_name = "KIND")]
    collector: Option<String>,
    /// With a spool on the disk
    #[arg(long)]
    spool: bool,
    /// With the agent's own watch of the etcd there, for instance that of `services up etcd`
    #[arg(long, value_name = "HOST:PORT")]
    etcd: Option<String>,
    /// Use the picket-agent and picket-server that are there, and build none
    #[arg(long, value_name = "DIRECTORY")]
    binaries: Option<PathBuf>,
    /// More flags of the agent
    #[arg(last = true, value_name = "ARGS")]
    arguments: Vec<String>,
    #[command(flatten)]
    form: Form,
}

impl From<AgentBench> for AgentOptions {
    fn from(bench: AgentBench) -> Self {
        let AgentBench { duration, collector, spool, etcd, binaries, arguments, form } = bench;
        let output = form.into();
        Self { duration, collector, with_spool: spool, etcd, binaries, arguments, output }
    }
}

#[derive(Args, Clone, Copy, Debug)]
struct Form {
    /// Print a JSON object per line in place of a table
    #[arg(long)]
    json: bool,
}

impl From<Form> for Output {
    fn from(form: Form) -> Self {
        if form.json { Self::Json } else { Self::Table }
    }
}

impl From<Subject> for Bench {
    fn from(subject: Subject) -> Self {
        match subject {
            Subject::Core => Self::Core,
            Subject::Reduction(form) => Self::Reduction(form.into()),
            Subject::Codec(form) => Self::Codec(form.into()),
            Subject::Memory(form) => Self::Memory(form.into()),
            Subject::Agent(bench) => Self::Agent(bench.into()),
        }
    }
}

fn main() -> anyhow::Result<()> {
    match Arguments::parse().task {
        Task::Demo { seconds } => {
            xtask::demo::run(seconds.map(|seconds| Duration::from_secs(seconds.into())))
        }
        Task::Test { arguments } => xtask::tasks::test(&arguments),
        Task::Cross { targets, all, programs, test } => {
            let choice = if all { Choice::All } else { Choice::Named(targets) };
            xtask::cross::run(choice, &programs, test)
        }
        Task::Dist { targets, programs, skip_build, check } => xtask::dist::run(&Options {
            targets,
            programs,
            is_built: skip_build,
            is_checked: check,
        }),
        Task::Units => xtask::units::run(),
        Task::Services(services) => services.run(),
        Task::Fuzz { seconds, seed, install, targets } => {
            let duration = Duration::from_secs(seconds.into());
            xtask::fuzz::run(&xtask::fuzz::Options { duration, seed, install, targets })
        }
        Task::Sim { arguments } => xtask::tasks::simulate(&arguments),
        Task::Chaos(chaos) => chaos::run(&chaos.into()),
        Task::Bench(subject) => xtask::bench::run(subject.into()),
        Task::Codegen => xtask::tasks::codegen(),
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn arguments_are_consistent() {
        Arguments::command().debug_assert();
    }

    #[test]
    fn times_are_seconds_or_minutes() {
        assert_eq!(time("90s"), Ok(Duration::from_secs(90)));
        assert_eq!(time("90"), Ok(Duration::from_secs(90)));
        assert_eq!(time("3m"), Ok(Duration::from_secs(180)));
        for bad in ["", "0s", "m", "-1s", "3h", "1.5m", "99999999999999999999s", "1441m"] {
            assert!(time(bad).is_err(), "{bad}");
        }
    }
}
