//! The command line and the environment.

use std::ffi::OsString;
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use anyhow::Context as _;
use clap::builder::{OsStr, Resettable};
use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::{
    Arg, ArgMatches, Args, Command, CommandFactory as _, FromArgMatches as _, Parser, Subcommand,
    ValueEnum,
};
use proto::address::{ServerAddress, ServerAddresses};
use serde_json::{Map, Value};
use tracing::level_filters::LevelFilter;

use crate::collector::CollectorKind;
use crate::gateway::PortAddress;
use crate::settings::Problems;
use crate::{spool, spooling, version};

/// Collects the metrics of this host and streams them to a picket server.
///
/// Settings are taken, highest first, from flags, environment variables, the configuration file, the server's
/// configuration store, and defaults; `check-config --origin` shows where each is from. The server address may also be
/// given as GRPC_SERVER_HOST and GRPC_SERVER_PORT.
#[derive(Debug, Parser)]
#[command(
    name = "picket-agent",
    version,
    long_version = version::long(),
    args_conflicts_with_subcommands = true
)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) tool: Option<Tool>,

    #[command(flatten)]
    pub(crate) agent: Arguments,
}

impl Cli {
    /// What this process was called with, by its command line and its variables.
    ///
    /// # Errors
    ///
    /// What is wrong with them, or the help that was asked for.
    pub(crate) fn of_this_process() -> Result<(Self, ArgMatches), clap::Error> {
        let matches = matches(&std::env::args_os().collect::<Vec<_>>())?;
        Ok((Self::from_arg_matches(&matches)?, matches))
    }
}

/// What `arguments` and the variables say. A variable that is set and empty is as good as not set.
fn matches(arguments: &[OsString]) -> Result<ArgMatches, clap::Error> {
    // The help names variables, the empty ones too.
    if let Err(error) = Cli::command().try_get_matches_from(arguments)
        && matches!(error.kind(), ErrorKind::DisplayHelp | ErrorKind::DisplayVersion)
    {
        return Err(error);
    }
    let is_empty = |arg: &Arg| is_set(arg, |value| value.is_empty());
    let result = without_variables(Cli::command(), is_empty).try_get_matches_from(arguments);
    result.or_else(|error| {
        // Without any of them there is nothing wrong: then it was one of them, and not a flag.
        without_variables(Cli::command(), |_| true).try_get_matches_from(arguments)?;
        Err(blame_variable(error))
    })
}

fn is_set(arg: &Arg, predicate: impl Fn(&std::ffi::OsStr) -> bool) -> bool {
    arg.get_env().and_then(std::env::var_os).is_some_and(|value| predicate(&value))
}

/// `command` without the variables of those arguments, of its subcommands as well.
fn without_variables(command: Command, is_without: impl Fn(&Arg) -> bool + Copy) -> Command {
    command
        .mut_args(|arg| if is_without(&arg) { arg.env(Resettable::<OsStr>::Reset) } else { arg })
        .mut_subcommands(|sub| without_variables(sub, is_without))
}

/// `error` with the name of the variable in place of that of its flag.
fn blame_variable(mut error: clap::Error) -> clap::Error {
    let mut command = Cli::command();
    command.build();
    if let Some(ContextValue::String(flag)) = error.get(ContextKind::InvalidArg)
        && let Some(variable) = variable_of(&command, flag)
    {
        error.insert(ContextKind::InvalidArg, ContextValue::String(variable));
    }
    error
}

/// The variable of the argument that is shown as `flag`.
fn variable_of(command: &Command, flag: &str) -> Option<String> {
    let argument = command
        .get_arguments()
        .find(|arg| arg.to_string() == flag && is_set(arg, |value| !value.is_empty()));
    let own = argument.and_then(Arg::get_env).map(|name| name.to_string_lossy().into_owned());
    own.or_else(|| command.get_subcommands().find_map(|sub| variable_of(sub, flag)))
}

/// What the program does beside being an agent.
#[derive(Debug, Subcommand)]
pub(crate) enum Tool {
    /// Record snapshots of this host into a file, for `replay`.
    Record(Record),
    /// Show what plugins and the packed form make of a recorded file.
    Replay(Replay),
    /// Look into the records that wait on this host's disk
    #[command(subcommand)]
    Spool(SpoolTool),
    /// Check the settings as a start would, and print those in force: the exit code is 0 when they are valid, else 2.
    ///
    /// Nothing is started and nothing is written. What the agent has kept of its remote configuration is read.
    CheckConfig(Box<CheckConfig>),
    /// Measure this host once and print it. Rates need two looks, so it takes a second.
    ///
    /// No server, state directory or configuration file is used. The exit code is 1 when nothing could be measured.
    Once(Once),
    /// Say what a run with these settings takes of this host's memory at most, by part, and end
    Budget(BudgetArguments),
}

#[derive(Args, Debug)]
pub(crate) struct CheckConfig {
    /// Say where each setting is from, and what it is set in favour of
    #[arg(long)]
    pub(crate) origin: bool,

    /// One JSON object in place of text, with the origins
    #[arg(long)]
    pub(crate) json: bool,

    #[command(flatten)]
    pub(crate) agent: Arguments,
}

#[derive(Args, Debug)]
pub(crate) struct Once {
    /// One JSON object in place of a table
    #[arg(long)]
    pub(crate) json: bool,

    /// What to measure: the switches of the agent's own --metrics
    #[arg(
        long,
        env = "PICKET_METRICS",
        value_name = "LIST",
        value_delimiter = ',',
        default_value = "standard"
    )]
    pub(crate) metrics: Vec<String>,

    /// What the host is measured with: proc or sysinfo [default: proc on Linux, else sysinfo]
    #[arg(long, env = "PICKET_COLLECTOR", value_name = "KIND", hide_possible_values = true)]
    pub(crate) collector: Option<CollectorKind>,
}

#[derive(Args, Debug)]
pub(crate) struct BudgetArguments {
    #[command(flatten)]
    pub(crate) agent: Box<Arguments>,

    /// One JSON object in place of text
    #[arg(long)]
    pub(crate) json: bool,
}

/// What can be seen of the spool. It is left as it is, and no agent may be using it.
#[derive(Debug, Subcommand)]
pub(crate) enum SpoolTool {
    /// Say what is in it, and whether all of it is sound: the exit code is 1 when something is damaged, 2 when
    /// it cannot be looked at: there is none, an agent uses it, or it may not be read.
    Check {
        #[command(flatten)]
        place: SpoolPlace,

        /// One JSON object in place of text
        #[arg(long)]
        json: bool,
    },
    /// Print the records and alerts that wait, oldest first, as one JSON object per line.
    Dump {
        #[command(flatten)]
        place: SpoolPlace,
    },
}

#[derive(Args, Debug)]
pub(crate) struct SpoolPlace {
    /// The agent's directory that survives restarts [default: $STATE_DIRECTORY]
    #[arg(long, env = "PICKET_STATE_DIR", value_name = "DIR")]
    state_dir: Option<PathBuf>,

    #[arg(long, env = "STATE_DIRECTORY", hide = true)]
    systemd_state_directory: Option<PathBuf>,
}

const NO_STATE_DIR: &str = "name the agent's state directory with --state-dir";

impl SpoolPlace {
    /// The state directory that was asked for.
    pub(crate) fn state_dir(self) -> anyhow::Result<PathBuf> {
        let state_dir =
            self.state_dir.or_else(|| first_directory(self.systemd_state_directory.as_ref()));
        let missing = || anyhow::Error::from(Problems(vec![NO_STATE_DIR.to_owned()]));
        state_dir.ok_or_else(missing)
    }
}

#[derive(Args, Debug)]
pub(crate) struct Record {
    /// File to write; one that exists is not overwritten
    pub(crate) file: PathBuf,

    /// How many snapshots
    #[arg(long, default_value_t = 600, value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) snapshots: u32,

    /// Seconds between two snapshots, fractions allowed
    #[arg(long, default_value_t = 1.0, value_parser = finite)]
    pub(crate) interval: f64,

    /// What the host is measured with: proc or sysinfo [default: proc on Linux, else sysinfo]
    #[arg(long, env = "PICKET_COLLECTOR", value_name = "KIND", hide_possible_values = true)]
    pub(crate) collector: Option<CollectorKind>,

    /// What the file says about where it comes from
    #[arg(long, default_value = "recorded by picket-agent")]
    pub(crate) source: String,
}

#[derive(Args, Debug)]
pub(crate) struct Replay {
    /// File that `record` wrote
    pub(crate) trace: PathBuf,

    /// Plugins in order: deduplication, threshold_alert, aggregation, filter, own.NAME
    #[arg(long, value_name = "LIST", default_value = "")]
    pub(crate) plugins: String,

    /// A key of the configuration, such as window_size=10 or deduplication.tolerance.cpu_percent=0.5; may be repeated
    #[arg(long, value_name = "KEY=VALUE")]
    pub(crate) set: Vec<Setting>,

    /// Form of the output; json is one object per line
    #[arg(long, value_name = "FORM", default_value = "table")]
    pub(crate) output: OutputForm,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum OutputForm {
    Table,
    Json,
}

/// A key of the configuration with its value.
#[derive(Clone, Debug)]
pub(crate) struct Setting {
    pub(crate) key: String,
    pub(crate) value: String,
}

impl FromStr for Setting {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, &'static str> {
        let (key, value) = text.split_once('=').ok_or("it must be KEY=VALUE")?;
        Ok(Self { key: key.to_owned(), value: value.to_owned() })
    }
}

#[derive(Args, Debug)]
pub(crate) struct Arguments {
    /// Name of this agent: 1 to 63 of A-Z a-z 0-9 . _ - [default: the host name]
    #[arg(long, env = "PICKET_AGENT_ID", value_name = "ID")]
    pub(crate) agent_id: Option<String>,

    /// Address of the server [default: localhost:50051]; of several that share a bus, with commas between: they are
    /// tried in turn
    #[arg(long, env = "PICKET_SERVER", value_name = "HOST:PORT")]
    pub(crate) server: Option<ServerAddresses>,

    /// Configuration file in TOML; /dev/null for none [default: /etc/picket/agent.toml, if it is there]
    #[arg(long, env = "PICKET_CONFIG", value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,

    /// Take the configuration from etcd itself, not from the server [default: $ETCD_HOST:$ETCD_PORT if ETCD_HOST is
    /// set, else the server's]
    #[arg(long, env = "PICKET_ETCD", value_name = "HOST:PORT[,...]")]
    pub(crate) etcd: Option<String>,

    /// User of etcd, where it has authentication on
    #[arg(long, env = "PICKET_ETCD_USER", value_name = "NAME")]
    pub(crate) etcd_user: Option<String>,

    /// File with the password of that user, in its first line
    #[arg(long, env = "PICKET_ETCD_PASSWORD_FILE", value_name = "FILE")]
    pub(crate) etcd_password_file: Option<PathBuf>,

    /// How long this agent may take to reach its server with a new configuration in force before it goes back to the one
    /// before; at most 1 day; 0: it never goes back [default: 120s]
    #[arg(long, env = "PICKET_CONFIG_CONFIRM", value_name = "DURATION", value_parser = confirm)]
    pub(crate) config_confirm: Option<Duration>,

    /// Directory that survives restarts; the agent counts its boots there and keeps its configuration
    /// [default: $STATE_DIRECTORY, else none]
    #[arg(long, env = "PICKET_STATE_DIR", value_name = "DIR")]
    pub(crate) state_dir: Option<PathBuf>,

    #[command(flatten)]
    pub(crate) spool: SpoolArguments,

    #[arg(long, env = "STATE_DIRECTORY", hide = true)]
    systemd_state_directory: Option<PathBuf>,

    /// Seconds between two snapshots, fractions allowed [default: 5]
    #[arg(
        long,
        env = "PICKET_INTERVAL",
        value_name = "SECONDS",
        allow_negative_numbers = true,
        value_parser = finite
    )]
    pub(crate) interval: Option<f64>,

    /// What to collect: cpu, memory, disk_read, disk_write, net_in, net_out (the default), load, swap, disk_usage,
    /// temperature, uptime, agent (what the agent itself costs), or standard: all of these
    #[arg(long, env = "PICKET_METRICS", value_name = "LIST", value_delimiter = ',')]
    pub(crate) metrics: Option<Vec<String>>,

    /// What the host is measured with: proc, the kernel's own files, or sysinfo; they report the same [default: proc on
    /// Linux, else sysinfo]
    #[arg(long, env = "PICKET_COLLECTOR", value_name = "KIND", hide_possible_values = true)]
    pub(crate) collector: Option<CollectorKind>,

    /// Plugins in order: deduplication, threshold_alert, aggregation, filter, own.NAME [default: threshold_alert]
    #[arg(long, env = "PICKET_PLUGINS", value_name = "LIST", value_delimiter = ',')]
    pub(crate) plugins: Option<Vec<String>>,

    /// Forward the records of devices that send frames over this serial port, or over TCP from a host that exposes
    /// one; may be repeated. Devices keep their own agent ids
    #[arg(long, env = "PICKET_SERIAL", value_name = "PATH|tcp:HOST:PORT", value_delimiter = ',')]
    pub(crate) serial: Option<Vec<PortAddress>>,

    /// Bits per second of the serial ports; 8 data bits, no parity, 1 stop bit, no flow control [default: 115200]
    #[arg(long, env = "PICKET_BAUD", value_name = "RATE", value_parser = clap::value_parser!(u32).range(BAUD_RANGE))]
    pub(crate) baud: Option<u32>,

    /// Whether snapshots after the first are taken at this agent's own place in the interval, which its name decides, so that a
    /// fleet that starts at one moment does not sample in step: true or false [default: true]
    #[arg(long, env = "PICKET_START_JITTER", value_name = "BOOL", value_parser = truth)]
    pub(crate) start_jitter: Option<bool>,

    /// Nice value that all threads run with, 19 the most polite; below 0 needs privileges. Priority for disks follows it
    /// [default: that of whoever starts the agent]
    #[arg(
        long,
        env = "PICKET_NICE",
        value_name = "N",
        allow_negative_numbers = true,
        value_parser = clap::value_parser!(i32).range(NICE_RANGE)
    )]
    pub(crate) nice: Option<i32>,

    /// Least severe level that is logged to stderr [default: info]
    #[arg(long, env = "PICKET_LOG", value_name = "LEVEL")]
    pub(crate) log_level: Option<LogLevel>,
}

/// Bits per second of a serial port.
pub(crate) const BAUD_RANGE: RangeInclusive<i64> = 1..=u32::MAX as i64;

/// Nice values; setpriority(2).
pub(crate) const NICE_RANGE: RangeInclusive<i64> = -20..=19;

/// What happens to records when no server takes them for longer than the memory lasts.
#[derive(Args, Debug, Default)]
pub(crate) struct SpoolArguments {
    /// Keep records in the state directory while no server takes them: so many bytes at most, the oldest go first; suffixes
    /// K and M count in 1024; 64K to 512M, 0: none [default: 0]
    #[arg(long, env = "PICKET_SPOOL_MAX_BYTES", value_name = "BYTES", value_parser = spool_bytes)]
    pub(crate) spool_max_bytes: Option<u64>,

    /// How long a record is kept there [default: 7d]
    #[arg(long, env = "PICKET_SPOOL_MAX_AGE", value_name = "DURATION", value_parser = duration)]
    pub(crate) spool_max_age: Option<Duration>,

    /// How long no server must take records before they go to the disk; also when the memory for them runs full
    /// [default: 30s]
    #[arg(long, env = "PICKET_SPOOL_AFTER", value_name = "DURATION", value_parser = duration)]
    pub(crate) spool_after: Option<Duration>,

    /// Which of them are sent first when a server is back, beside new ones [default: oldest-first]
    #[arg(long, env = "PICKET_SPOOL_ORDER", value_name = "ORDER")]
    pub(crate) spool_order: Option<SpoolOrder>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum SpoolOrder {
    OldestFirst,
    NewestFirst,
}

impl From<SpoolOrder> for spool::Order {
    fn from(order: SpoolOrder) -> Self {
        match order {
            SpoolOrder::OldestFirst => Self::OldestFirst,
            SpoolOrder::NewestFirst => Self::NewestFirst,
        }
    }
}

const SPOOL_BYTES_FORM: &str =
    "it must be 0, or 64K to 512M; the suffixes are K and M, which count in 1024";

/// Bytes of a spool: 0, or as many as one can have.
pub(crate) fn spool_bytes(text: &str) -> Result<u64, String> {
    // The reader of numbers knows units that are of no use here.
    let bytes = proto::bytes::parse(text).map_err(|_| SPOOL_BYTES_FORM)?;
    spooling::check_bytes(bytes)?;
    Ok(bytes)
}

#[derive(Clone, Copy, Debug, ValueEnum)]
pub(crate) enum LogLevel {
    Off,
    Error,
    Warn,
    Info,
    Debug,
    Trace,
}

impl From<LogLevel> for LevelFilter {
    fn from(level: LogLevel) -> Self {
        match level {
            LogLevel::Off => Self::OFF,
            LogLevel::Error => Self::ERROR,
            LogLevel::Warn => Self::WARN,
            LogLevel::Info => Self::INFO,
            LogLevel::Debug => Self::DEBUG,
            LogLevel::Trace => Self::TRACE,
        }
    }
}

fn finite(text: &str) -> Result<f64, String> {
    let seconds = text.parse::<f64>().map_err(|_| "it must be a number".to_owned())?;
    if seconds.is_finite() { Ok(seconds) } else { Err("it must be a finite number".to_owned()) }
}

/// A word for yes or no, of those that are usual in variables.
fn truth(text: &str) -> Result<bool, &'static str> {
    match text.to_ascii_lowercase().as_str() {
        "true" | "t" | "yes" | "y" | "on" | "1" => Ok(true),
        "false" | "f" | "no" | "n" | "off" | "0" => Ok(false),
        _ => Err("it must be true or false"),
    }
}

/// A time with its unit.
pub(crate) fn duration(text: &str) -> Result<Duration, String> {
    humantime::parse_duration(text)
        .map_err(|error| format!("it must be a duration such as 90s or 2h 30m: {error}"))
}

/// How long a configuration may be on trial: 0, or up to a day.
pub(crate) fn confirm(text: &str) -> Result<Duration, String> {
    // A number alone is not taken, but for the one that has the same meaning in every unit.
    let duration = match text {
        "0" => Duration::ZERO,
        _ => duration(text)?,
    };
    if CONFIRM_MAX < duration {
        return Err("it must be at most 1 day".to_owned());
    }
    Ok(duration)
}

/// Longer would keep a host from its last good configuration for no use.
const CONFIRM_MAX: Duration = Duration::from_secs(86_400);

impl Arguments {
    /// The keys of the configuration that flags or variables decide.
    pub(crate) fn document(&self) -> Value {
        let mut object = Map::new();
        if let Some(interval) = self.interval {
            object.insert("interval".to_owned(), interval.into());
        }
        let mut insert_list = |key: &str, list: &Option<Vec<String>>| {
            if let Some(list) = list {
                // "" is how a variable or flag says: none.
                let items = list.iter().map(|item| item.trim()).filter(|item| !item.is_empty());
                object.insert(key.to_owned(), items.collect());
            }
        };
        insert_list("metrics", &self.metrics);
        insert_list("plugins", &self.plugins);
        Value::Object(object)
    }

    /// The state directory that systemd names.
    pub(crate) fn systemd_state_directory(&self) -> Option<PathBuf> {
        first_directory(self.systemd_state_directory.as_ref())
    }

    /// Where flags or variables say that etcd is; none when they say nothing.
    pub(crate) fn etcd(&self) -> Option<String> {
        self.etcd.clone().or_else(etcd_variables)
    }

    /// The server that flags or variables name; none when they say nothing.
    pub(crate) fn server(&self) -> anyhow::Result<Option<ServerAddresses>> {
        if self.server.is_some() {
            return Ok(self.server.clone());
        }
        let (host, port) = (variable("GRPC_SERVER_HOST"), variable("GRPC_SERVER_PORT"));
        if host.is_none() && port.is_none() {
            return Ok(None);
        }
        let address = ServerAddress::choose(None, host.as_deref(), port.as_deref());
        address
            .map(|address| Some(address.into()))
            .context("GRPC_SERVER_HOST and GRPC_SERVER_PORT name no server")
    }
}

/// The first of what systemd names: a list with colons between, when the unit has several in `StateDirectory=` (systemd.exec(5)).
fn first_directory(list: Option<&PathBuf>) -> Option<PathBuf> {
    std::env::split_paths(list?).find(|directory| !directory.as_os_str().is_empty())
}

/// Where etcd listens unless told otherwise.
const ETCD_PORT_DEFAULT: &str = "2379";

/// Where the variables of the existing system say that etcd is.
pub(crate) fn etcd_variables() -> Option<String> {
    let host = variable("ETCD_HOST")?;
    // An IPv6 address has colons of its own.
    let host = if host.contains(':') { format!("[{host}]") } else { host };
    let port = variable("ETCD_PORT").unwrap_or_else(|| ETCD_PORT_DEFAULT.to_owned());
    Some(format!("{host}:{port}"))
}

/// An environment variable; empty is as good as not set.
pub(crate) fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_sound() {
        use clap::CommandFactory;
        Cli::command().debug_assert();
    }

    #[test]
    fn the_help_of_a_value_says_what_a_mistake_in_it_says() {
        assert_eq!(spool_bytes("16MB").unwrap_err(), SPOOL_BYTES_FORM);
        assert!(spool_bytes("1T").unwrap_err().contains("64K to 512M"));
        assert_eq!(spool_bytes("16M"), Ok(16 << 20));
    }

    #[cfg(unix)]
    #[test]
    fn of_several_state_directories_the_first_is_taken() {
        let first = |list: &str| first_directory(Some(&list.into()));
        assert_eq!(first("/a"), Some("/a".into()));
        assert_eq!(first("/a:/b"), Some("/a".into()));
        assert_eq!(first(":/b"), Some("/b".into()));
        assert_eq!(first(":"), None);
        assert_eq!(first_directory(None), None);
    }

    #[test]
    fn flags_become_a_layer() {
        let cli = Cli::parse_from([
            "picket-agent",
            "--interval=0.5",
            "--metrics=cpu, disk read",
            "--plugins=",
        ]);
        let expected = r#"{"interval":0.5,"metrics":["cpu","disk read"],"plugins":[]}"#;
        assert_eq!(cli.agent.document().to_string(), expected);
    }
}
